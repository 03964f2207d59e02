package postgres

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/secret"
)

var _ skein.Provisioner = (*Engine)(nil)

// An administrator is a session of a server's administrator.
//
// What it makes is known again: a role and a schema are created in one
// transaction with a comment that names the tenant, and a database is created as
// the property of such a role, since CREATE DATABASE cannot be part of a
// transaction.
type administrator struct {
	engine *Engine
	target skein.Target
	*session
	super bool
	// facts are what the databases that are created here depend on.
	facts string
}

var (
	_ skein.Administrator = (*administrator)(nil)
	_ skein.Backuper      = (*administrator)(nil)
)

// Administer connects to the database that the target names, from which others
// are created, and in which schemas are. The role is a superuser, or has
// CREATEDB and CREATEROLE.
func (e *Engine) Administer(ctx context.Context, admin skein.Target) (skein.Administrator, error) {
	admin.Schema = ""
	// pg_dump is to know the password too.
	admin, err := e.opts.Authenticate(ctx, admin)
	if err != nil {
		return nil, err
	}
	conn, err := e.dialer.connect(ctx, admin)
	if err != nil {
		return nil, err
	}
	a := &administrator{engine: e, target: admin, session: &session{engine: e, target: admin, conn: conn}}
	var m script
	// The timeouts in the settings are for migrations.
	m.add(setup, "SET statement_timeout TO 0", "SET lock_timeout TO 0")
	m.add(setup, a.watchClient()...)
	m.add(reading, `SELECT r.rolsuper, r.rolcreaterole, r.rolcreatedb, pg_catalog.current_setting('server_version_num'), d.encoding, d.datcollate, d.datctype
		FROM pg_catalog.pg_roles r, pg_catalog.pg_database d WHERE r.rolname = current_user AND d.datname = 'template1'`)
	results, err := a.run(ctx, &m)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up the administrator's session: %w", a.fail(ctx, err)), a.Close())
	}
	row := results[len(results)-1].row
	if len(row) < 7 {
		return nil, errors.Join(errors.New("set up the administrator's session: the server has no database template1"), a.Close())
	}
	a.facts = fmt.Sprintf("%q", row[3:])
	a.super = string(row[0]) == "t"
	for i, right := range []string{"", "CREATEROLE", "CREATEDB"} {
		if right != "" && !a.super && string(row[i]) != "t" {
			return nil, errors.Join(&skein.DatabaseError{
				Class: skein.Denied, Message: fmt.Sprintf("role %s has not the right %s, which provisioning takes", quoteIdent(admin.User), right),
				Hint: fmt.Sprintf("ALTER ROLE %s CREATEROLE CREATEDB", quoteIdent(admin.User)),
			}, a.Close())
		}
	}
	return a, nil
}

// maxName is how many bytes of a name PostgreSQL keeps. It cuts off the rest
// with no more than a notice.
const maxName = 63

// Check looks at the names.
func (a *administrator) Check(_ context.Context, site skein.Site) error {
	for _, n := range []struct{ what, name string }{
		{"database", site.Target.Database}, {"role", site.Target.User}, {"schema", site.Target.Schema},
	} {
		problem := ""
		switch {
		case n.name == "" && n.what != "schema":
			problem = "is empty"
		case len(n.name) > maxName:
			problem = fmt.Sprintf("has %d bytes, and PostgreSQL's names have at most %d", len(n.name), maxName)
		case !utf8.ValidString(n.name) || strings.ContainsRune(n.name, 0):
			problem = "is not text in UTF-8"
		case n.what != "database" && strings.HasPrefix(n.name, "pg_"),
			n.what == "role" && (n.name == "public" || n.name == "none"):
			problem = "is one that PostgreSQL keeps for itself"
		case n.what == "role" && n.name == a.target.User:
			problem = "is the administrator's own"
		}
		if problem != "" {
			return &skein.NameError{What: n.what, Name: n.name, Msg: problem}
		}
	}
	return nil
}

// provisionClass is the first number of the lock for provisioning, the ASCII
// codes of "SKEP"; the second is a hash of the database's and schema's name.
const provisionClass = 'S'<<24 | 'K'<<16 | 'E'<<8 | 'P'

// holdWait is how long the lock is waited for: the server may take a moment to
// notice that a process which was killed is gone.
const holdWait = 10 * time.Second

// Hold takes an advisory lock in the administrator's database.
func (a *administrator) Hold(ctx context.Context, site skein.Site) (func(context.Context) error, error) {
	return a.advisory(ctx, site.Target.Database+"\x00"+site.Target.Schema, holdWait)
}

// advisory takes the session's lock of a name.
func (a *administrator) advisory(ctx context.Context, name string, wait time.Duration) (func(context.Context) error, error) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // never fails
	key := fmt.Sprintf("%d, %d", provisionClass, int32(h.Sum32()))
	start := time.Now()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		row, err := a.row(ctx, "SELECT pg_catalog.pg_try_advisory_lock("+key+")")
		if err != nil {
			return nil, fmt.Errorf("take the lock for provisioning: %w", err)
		}
		if row[0] == "t" {
			return func(ctx context.Context) error {
				if a.conn.IsClosed() {
					return nil // the lock ended with it
				}
				_, err := a.row(ctx, "SELECT pg_catalog.pg_advisory_unlock("+key+")")
				return err
			}, nil
		}
		if waited := time.Since(start); waited >= wait {
			holder, err := a.row(ctx, `SELECT 'session ' || l.pid || COALESCE(' from ' || pg_catalog.host(s.client_addr), '')
				FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity s ON s.pid = l.pid
				WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND (l.classid, l.objid) = (`+
				fmt.Sprintf("%d, %d", provisionClass, h.Sum32())+") AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())")
			if err != nil {
				return nil, err
			}
			locked := &skein.LockedError{Waited: waited}
			if holder != nil {
				locked.Holder = holder[0]
			}
			return nil, locked
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the lock for provisioning: %w", ctx.Err())
		}
	}
}

// row runs statements as one message, and returns the first row of the last
// result as text, nil if it has none.
func (a *administrator) row(ctx context.Context, statements ...string) ([]string, error) {
	rows, err := a.rows(ctx, statements...)
	if len(rows) == 0 {
		return nil, err
	}
	return rows[0], err
}

// rows runs statements as one message, and returns the rows of the last result.
func (a *administrator) rows(ctx context.Context, statements ...string) ([][]string, error) {
	return queryRows(ctx, a.session, statements...)
}

func queryRows(ctx context.Context, s *session, statements ...string) ([][]string, error) {
	results, err := s.conn.Exec(ctx, strings.Join(statements, ";\n")).ReadAll()
	if err == nil && len(results) > 0 {
		err = results[len(results)-1].Err
	}
	if err != nil {
		answer := err
		s.rollBack(ctx)
		return nil, s.fail(ctx, answer)
	}
	var rows [][]string
	for _, values := range results[len(results)-1].Rows {
		row := make([]string, len(values))
		for i, v := range values {
			row[i] = string(v)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// transaction runs statements as one transaction in one message.
func (a *administrator) transaction(ctx context.Context, doing string, statements ...string) error {
	_, err := a.rows(ctx, append(append([]string{"BEGIN"}, statements...), "COMMIT")...)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

func code(err error) string {
	if e, ok := errors.AsType[*skein.DatabaseError](err); ok {
		return e.Code
	}
	return ""
}

// Find looks for the role, and for the database or the schema.
func (a *administrator) Find(ctx context.Context, site skein.Site) ([]skein.Found, error) {
	t := site.Target
	query := "SELECT 'role', r.rolname, pg_catalog.shobj_description(r.oid, 'pg_authid'), '' FROM pg_catalog.pg_roles r WHERE r.rolname = " +
		quoteLiteral(t.User) + " UNION ALL "
	if t.Schema != "" {
		query += "SELECT 'schema', n.nspname, pg_catalog.obj_description(n.oid, 'pg_namespace'), '' FROM pg_catalog.pg_namespace n WHERE n.nspname = " + quoteLiteral(t.Schema)
	} else {
		query += `SELECT 'database', d.datname, pg_catalog.shobj_description(d.oid, 'pg_database'),
			CASE WHEN r.rolname = ` + quoteLiteral(t.User) + ` THEN pg_catalog.shobj_description(r.oid, 'pg_authid') END
			FROM pg_catalog.pg_database d JOIN pg_catalog.pg_roles r ON r.oid = d.datdba WHERE d.datname = ` + quoteLiteral(t.Database)
	}
	rows, err := a.rows(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("look what there is on %s: %w", t.Server(), err)
	}
	var found []skein.Found
	for _, row := range rows {
		comment, _ := parseTag(row[2])
		found = append(found, skein.Found{
			What: row[0], Name: row[1],
			Ours: site.TenantID != "" && (comment == site.Mark() || row[3] == site.Mark()),
		})
	}
	return found, nil
}

// find is one of what Find finds; the error is an *skein.ExistsError if it is
// not the site's own.
func (a *administrator) find(ctx context.Context, site skein.Site, what string) (bool, error) {
	found, err := a.Find(ctx, site)
	if err != nil {
		return false, err
	}
	for _, f := range found {
		if (f.What == "role") == (what == "role") {
			if !f.Ours {
				return true, &skein.ExistsError{Found: f}
			}
			return true, nil
		}
	}
	return false, nil
}

// own makes sure that what could not be created because it is there is the
// site's.
func (a *administrator) own(ctx context.Context, site skein.Site, what string, err error) error {
	switch code(err) {
	case "42710", "42P04", "42P06", "23505": // duplicate object, database, schema; two at the same moment
		if there, e := a.find(ctx, site, what); there || e != nil {
			return e
		}
	}
	return err
}

// CreateRole creates the role that can log in and nothing else. Its password is
// sent as what the server would keep of it.
func (a *administrator) CreateRole(ctx context.Context, site skein.Site) error {
	return a.own(ctx, site, "role", a.createRole(ctx, site.Target.User, site.Target.Password, site.Mark()))
}

func (a *administrator) createRole(ctx context.Context, name string, password secret.Secret, mark string) error {
	role := quoteIdent(name)
	verifier, err := scramVerifier(password)
	if err != nil {
		return fmt.Errorf("create role %s: %w", role, err)
	}
	statements := []string{
		"CREATE ROLE " + role + " LOGIN PASSWORD " + quoteLiteral(verifier),
		"COMMENT ON ROLE " + role + " IS " + quoteLiteral(mark),
	}
	if !a.super {
		// To create what another role owns, and to drop it, takes being a member.
		statements = append(statements, "GRANT "+role+" TO CURRENT_USER")
	}
	return a.transaction(ctx, "create role "+role, statements...)
}

// scramVerifier is what a server keeps of a password, so that it need not be
// told the password (RFC 5802, section 3; the form is in
// https://www.postgresql.org/docs/current/catalog-pg-authid.html). The password
// is ASCII, which SASLprep leaves as it is.
func scramVerifier(password secret.Secret) (string, error) {
	const iterations = 4096
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	salted, err := pbkdf2.Key(sha256.New, password.Reveal(), salt, iterations, sha256.Size)
	if err != nil {
		return "", err
	}
	mac := func(text string) []byte {
		h := hmac.New(sha256.New, salted)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	stored := sha256.Sum256(mac("Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, b64(salt), b64(stored[:]), b64(mac("Server Key"))), nil
}

// inUse is the code of a database that cannot be copied, or dropped, as someone
// is connected to it.
const inUse = "55006"

// CreateDatabase creates the database, which nobody can connect to before
// GrantRights, or the schema.
func (a *administrator) CreateDatabase(ctx context.Context, site skein.Site) error {
	t := site.Target
	if t.Schema != "" {
		schema := quoteIdent(t.Schema)
		return a.own(ctx, site, "schema", a.transaction(ctx, "create schema "+schema,
			"CREATE SCHEMA "+schema+" AUTHORIZATION "+quoteIdent(t.User),
			"COMMENT ON SCHEMA "+schema+" IS "+quoteLiteral(site.Mark())))
	}
	if site.Source != nil {
		return a.copyDatabase(ctx, site)
	}
	return a.own(ctx, site, "database", a.createDatabase(ctx, t.Database, t.User, site.Template, holdWait))
}

// createDatabase creates a database that takes no connections yet. A database
// that is to be copied may be in use for a moment: it is waited for.
func (a *administrator) createDatabase(ctx context.Context, name, owner, template string, wait time.Duration) error {
	sql := "CREATE DATABASE " + quoteIdent(name) + " OWNER " + quoteIdent(owner) + " ALLOW_CONNECTIONS false"
	if template != "" {
		sql += " TEMPLATE " + quoteIdent(template)
	}
	for start, pause := time.Now(), firstPause; ; pause = min(2*pause, lastPause) {
		_, err := a.rows(ctx, sql)
		if err == nil {
			return nil
		}
		if code(err) != inUse || time.Since(start) > wait {
			return fmt.Errorf("create database %s: %w", quoteIdent(name), err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// GrantRights keeps everyone but the tenant out, and lets the tenant in.
func (a *administrator) GrantRights(ctx context.Context, site skein.Site) error {
	if site.Target.Schema != "" {
		return a.transaction(ctx, "give the tenant its rights", "GRANT CONNECT ON DATABASE "+quoteIdent(site.Target.Database)+" TO "+quoteIdent(site.Target.User))
	}
	return a.openDatabase(ctx, site.Target.Database, site.Mark())
}

// openDatabase lets the owner of a database connect, and nobody else.
func (a *administrator) openDatabase(ctx context.Context, name, mark string) error {
	database := quoteIdent(name)
	return a.transaction(ctx, "give rights on database "+database,
		"REVOKE ALL ON DATABASE "+database+" FROM PUBLIC",
		"COMMENT ON DATABASE "+database+" IS "+quoteLiteral(mark),
		"ALTER DATABASE "+database+" ALLOW_CONNECTIONS true")
}

// Open makes the tenant the owner of what was copied, and connects as the
// tenant.
func (a *administrator) Open(ctx context.Context, site skein.Site) (skein.Session, error) {
	if site.Target.Schema == "" {
		if err := a.settle(ctx, site); err != nil {
			return nil, err
		}
	}
	return a.engine.Open(ctx, site.Target)
}

// settle gives the tenant what in its database belongs to the role of a
// template, or to whoever owned it in the database that it is a copy of.
func (a *administrator) settle(ctx context.Context, site skein.Site) error {
	from := begins("pg_catalog.shobj_description(r.oid, 'pg_authid')", templateMark)
	if site.Source != nil {
		from = "NOT r.rolsuper AND r.rolname <> " + quoteLiteral(site.Target.User)
	}
	// The catalog that says in which database a role owns something can be read
	// from any.
	owners, err := a.rows(ctx, `SELECT DISTINCT pg_catalog.quote_ident(r.rolname) FROM pg_catalog.pg_shdepend s
		JOIN pg_catalog.pg_database d ON d.oid = s.dbid
		JOIN pg_catalog.pg_roles r ON r.oid = s.refobjid
		WHERE d.datname = `+quoteLiteral(site.Target.Database)+` AND s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
		AND s.deptype = 'o' AND `+from)
	if err != nil {
		return fmt.Errorf("look whose the copy is: %w", err)
	}
	if len(owners) == 0 {
		return nil
	}
	statements := []string{"BEGIN", "SET LOCAL statement_timeout TO 0"}
	var names []string
	for _, owner := range owners {
		names = append(names, quoteLiteral(owner[0]))
		statements = append(statements, "REASSIGN OWNED BY "+owner[0]+" TO "+quoteIdent(site.Target.User))
	}
	if site.Source == nil {
		// What a replay would have written, of now and of this process.
		statements = append(statements, touchHistory(a.engine.opts))
	} else {
		// REASSIGN takes the databases that a role owns with it, of which one is
		// the source. The transaction lets nobody see that.
		shared, err := a.rows(ctx, `SELECT CASE s.classid WHEN 'pg_catalog.pg_database'::pg_catalog.regclass THEN 'DATABASE ' || pg_catalog.quote_ident(d.datname)
			ELSE 'TABLESPACE ' || pg_catalog.quote_ident(t.spcname) END || ' OWNER TO ' || pg_catalog.quote_ident(r.rolname)
			FROM pg_catalog.pg_shdepend s JOIN pg_catalog.pg_roles r ON r.oid = s.refobjid
			LEFT JOIN pg_catalog.pg_database d ON d.oid = s.objid LEFT JOIN pg_catalog.pg_tablespace t ON t.oid = s.objid
			WHERE s.dbid = 0 AND s.deptype = 'o' AND s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
			AND s.classid IN ('pg_catalog.pg_database'::pg_catalog.regclass, 'pg_catalog.pg_tablespace'::pg_catalog.regclass)
			AND pg_catalog.quote_ident(r.rolname) IN (`+strings.Join(names, ", ")+")")
		if err != nil {
			return fmt.Errorf("look what else the owners of the copy own: %w", err)
		}
		for _, row := range shared {
			statements = append(statements, "ALTER "+row[0])
		}
	}
	inside := a.target
	inside.Database = site.Target.Database
	s, err := a.engine.inside(ctx, inside)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	if _, err := queryRows(ctx, s, append(statements, "COMMIT")...); err != nil {
		return fmt.Errorf("make the copy the tenant's: %w", err)
	}
	return nil
}

// inside is a session of the administrator in another database.
func (e *Engine) inside(ctx context.Context, target skein.Target) (*session, error) {
	conn, err := e.dialer.connect(ctx, target)
	if err != nil {
		return nil, err
	}
	return &session{engine: e, target: target, conn: conn}, nil
}

// touchHistory is SQL that makes the copied history this tenant's own. Knex's
// times change with Skein's: by them the two tables are told to speak of the same.
func touchHistory(opts skein.SessionOptions) string {
	each := func(table, update string) string {
		return "FOR t IN SELECT c.oid FROM pg_catalog.pg_class c WHERE c.relname = " + quoteLiteral(dollarSafe(table)) +
			" AND c.relkind = 'r' LOOP EXECUTE pg_catalog.format(" + update + "); END LOOP; "
	}
	return "DO $skein$ DECLARE t regclass; BEGIN " +
		each(skein.HistoryTable, quoteLiteral("UPDATE %s SET started_at = pg_catalog.transaction_timestamp(), applied_at = pg_catalog.transaction_timestamp(), applied_by = %L, tool = %L")+
			", t, "+nullable(dollarSafe(first(255, opts.By)))+", "+nullable(dollarSafe(first(64, opts.Tool)))) +
		each(opts.KnexTable, quoteLiteral("UPDATE %s SET migration_time = pg_catalog.transaction_timestamp()")+", t") +
		"END $skein$"
}

// dollarSafe keeps a text from ending the quoting of touchHistory.
func dollarSafe(s string) string { return strings.ReplaceAll(s, "$skein$", "skein") }

// DropDatabase ends the sessions in the database and drops it, or drops the
// schema with all that is in it.
func (a *administrator) DropDatabase(ctx context.Context, site skein.Site) error {
	t := site.Target
	if there, err := a.find(ctx, site, "database"); !there || err != nil {
		return err
	}
	if t.Schema != "" {
		if err := a.endSessions(ctx, "usename = "+quoteLiteral(t.User)); err != nil {
			return err
		}
		if _, err := a.rows(ctx, "DROP SCHEMA "+quoteIdent(t.Schema)+" CASCADE"); err != nil {
			return fmt.Errorf("drop schema %s: %w", quoteIdent(t.Schema), err)
		}
		return nil
	}
	return a.dropDatabase(ctx, t.Database)
}

func (a *administrator) dropDatabase(ctx context.Context, name string) error {
	database := quoteIdent(name)
	if _, err := a.rows(ctx, "ALTER DATABASE "+database+" ALLOW_CONNECTIONS false"); err != nil && code(err) != "3D000" {
		return fmt.Errorf("close database %s: %w", database, err)
	}
	if err := a.endSessions(ctx, "datname = "+quoteLiteral(name)); err != nil {
		return err
	}
	if _, err := a.rows(ctx, "DROP DATABASE IF EXISTS "+database); err != nil {
		return fmt.Errorf("drop database %s: %w", database, err)
	}
	return nil
}

// endSessions ends sessions, and waits until they are gone.
func (a *administrator) endSessions(ctx context.Context, which string) error {
	for start, pause := time.Now(), firstPause; ; pause = min(2*pause, lastPause) {
		row, err := a.row(ctx, "SELECT pg_catalog.count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity WHERE "+which+" AND pid <> pg_catalog.pg_backend_pid() AND backend_type IN ('client backend', 'walsender')")
		if err != nil {
			return fmt.Errorf("end the tenant's sessions: %w", err)
		}
		switch {
		case row[0] == "0":
			return nil
		case time.Since(start) > breakTimeout:
			return &skein.DatabaseError{Class: skein.Busy, Message: fmt.Sprintf("%s sessions of the tenant do not end", row[0]), Hint: "run the same command again"}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// DropRole ends the role's sessions and drops it. A role that still owns
// something, in whatever database, stays, and the error says what.
func (a *administrator) DropRole(ctx context.Context, site skein.Site) error {
	if there, err := a.find(ctx, site, "role"); !there || err != nil {
		return err
	}
	role := quoteIdent(site.Target.User)
	if _, err := a.rows(ctx, "ALTER ROLE "+role+" NOLOGIN"); err != nil {
		return fmt.Errorf("keep role %s out: %w", role, err)
	}
	if err := a.endSessions(ctx, "usename = "+quoteLiteral(site.Target.User)); err != nil {
		return err
	}
	var revoke []string
	if site.Target.Schema != "" {
		revoke = append(revoke, "REVOKE ALL ON DATABASE "+quoteIdent(site.Target.Database)+" FROM "+role)
	}
	return a.transaction(ctx, "drop role "+role, append(revoke, "DROP ROLE "+role)...)
}

// Backup has pg_dump write the database, or the schema, in its custom format,
// which pg_restore reads.
func (a *administrator) Backup(ctx context.Context, site skein.Site, file string) error {
	from := a.target
	from.Database = site.Target.Database
	args := []string{"--format=custom", "--no-password", "--file=" + file}
	if site.Target.Schema != "" {
		args = append(args, "--schema="+quoteIdent(site.Target.Schema))
	}
	dump, err := command(ctx, "pg_dump", from, args...)
	if err != nil {
		return err
	}
	// pg_dump would make a file that everyone may read.
	out, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("the file %s exists already", file)
	}
	if err != nil {
		return err
	}
	if err := errors.Join(out.Close(), dump.run()); err != nil {
		return errors.Join(err, os.RemoveAll(file))
	}
	return nil
}
