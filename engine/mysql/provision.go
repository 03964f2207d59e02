package mysql

import (
	"context"
	"crypto/sha1" //nolint:gosec // it is what the server keeps of a password
	"crypto/sha256"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/secret"
)

var _ skein.Provisioner = (*Engine)(nil)

// An administrator is a session of a server's administrator.
//
// What it makes is known again: a role by the generated password, with which
// nobody else's lets one in; a database on MariaDB 10.5 and later by its comment,
// which is created with it. MySQL has no comments on databases: there, one that
// was not there when its creation was recorded, and that is empty, is taken for
// the one that was to be created.
type administrator struct {
	engine *Engine
	*session
}

var (
	_ skein.Administrator = (*administrator)(nil)
	_ skein.Backuper      = (*administrator)(nil)
	_ skein.Copier        = (*administrator)(nil)
)

// Administer connects as a user that may create databases and users, and has
// what it gives to tenants WITH GRANT OPTION.
func (e *Engine) Administer(ctx context.Context, admin skein.Target) (skein.Administrator, error) {
	admin.Database = ""
	// mariadb-dump is to know the password too.
	admin, err := e.opts.Authenticate(ctx, admin)
	if err != nil {
		return nil, err
	}
	conn, w, err := e.connect(ctx, admin)
	if err != nil {
		return nil, err
	}
	s := &session{engine: e, conn: conn, wire: w, target: admin}
	return &administrator{e, s}, nil
}

// flight is the session's. A right that is missing is one of the administrator's.
func (a *administrator) flight(ctx context.Context, sql string, each answer) error {
	err := a.session.flight(ctx, sql, each)
	if e, ok := errors.AsType[*skein.DatabaseError](err); ok && e.Class == skein.Denied {
		e.Hint = "provisioning takes an administrator with CREATE USER, SELECT on mysql.*, and ALL PRIVILEGES on the tenants' databases WITH GRANT OPTION"
	}
	return err
}

// The numbers of errors that say that something is there already, or is not.
const (
	errOptionPrevents = 1290
	errDatabaseExists = 1007
	errUserFailed     = 1396 // CREATE USER of one that exists, ALTER USER of one that does not
)

func code(err error) int {
	e, ok := errors.AsType[*skein.DatabaseError](err)
	if !ok {
		return 0
	}
	n, _ := strconv.Atoi(e.Code)
	return n
}

// account is the user as CREATE USER takes it, which knows no hexadecimal text.
func (a *administrator) account(site skein.Site) string { return quoteName(site.Target.User) + "@'%'" }

// pattern is a database's name as GRANT takes it: _ and % are wildcards there
// that the backslash makes plain.
func pattern(database string) string {
	return strings.NewReplacer(`\`, `\\`, "_", `\_`, "%", `\%`).Replace(database)
}

// maxDatabase is how many characters a database's name has at most, and also
// how many it has in GRANT.
const maxDatabase = 64

// Check looks at the names.
func (a *administrator) Check(_ context.Context, site skein.Site) error {
	maxUser, product := 32, "MySQL"
	if a.wire.mariaDB {
		maxUser, product = 80, "MariaDB"
	}
	for _, n := range []struct {
		what, name string
		max        int
	}{{"database", site.Target.Database, maxDatabase}, {"user", site.Target.User, maxUser}} {
		problem := ""
		escaped := utf8.RuneCountInString(pattern(n.name))
		switch {
		case n.name == "":
			problem = "is empty"
		case !utf8.ValidString(n.name) || strings.ContainsRune(n.name, 0):
			problem = "is not text in UTF-8"
		case strings.ContainsFunc(n.name, func(r rune) bool { return r > 0xffff }):
			problem = fmt.Sprintf("has a character that %s allows in no name", product)
		case strings.HasSuffix(n.name, " "):
			problem = "ends with a space"
		case utf8.RuneCountInString(n.name) > n.max:
			problem = fmt.Sprintf("has %d characters, and %s allows %d", utf8.RuneCountInString(n.name), product, n.max)
		case n.what == "database" && escaped > maxDatabase:
			problem = fmt.Sprintf(`is too long for its underscores: GRANT takes %d characters, in which each _ and %% counts twice, and this makes %d`, maxDatabase, escaped)
		case n.what == "user" && n.name == a.target.User:
			problem = "is the administrator's own"
		}
		if problem != "" {
			return &skein.NameError{What: n.what, Name: n.name, Msg: problem}
		}
	}
	return nil
}

// holdWait is how many seconds the lock is waited for: the server may take a
// moment to notice that a process which was killed is gone.
const holdWait = 10

// Hold takes the lock of a name that is made from the database's.
func (a *administrator) Hold(ctx context.Context, site skein.Site) (func(context.Context) error, error) {
	sum := sha256.Sum256([]byte(strings.ToLower(site.Target.Database)))
	name := quote("skein+" + hex.EncodeToString(sum[:24]))
	row, err := a.row(ctx, fmt.Sprintf("SELECT GET_LOCK(%s,%d)", name, holdWait))
	if err != nil {
		return nil, fmt.Errorf("take the lock for provisioning: %w", err)
	}
	if row[0] != "1" {
		locked := &skein.LockedError{Waited: holdWait * time.Second}
		if holder, err := a.row(ctx, "SELECT IS_USED_LOCK("+name+")"); err == nil && holder[0] != "" {
			locked.Holder = "session " + holder[0]
		}
		return nil, locked
	}
	return func(ctx context.Context) error {
		return a.flight(ctx, "DO RELEASE_LOCK("+name+")", nil)
	}, nil
}

// rows runs a query and returns its rows as text.
func (a *administrator) rows(ctx context.Context, sql string) ([][]string, error) {
	var rows [][]string
	err := a.flight(ctx, sql, func(_ []string, row []driver.Value) {
		if row == nil {
			return
		}
		values := make([]string, len(row))
		for i, v := range row {
			values[i] = text(v)
		}
		rows = append(rows, values)
	})
	return rows, err
}

func (a *administrator) row(ctx context.Context, sql string) ([]string, error) {
	rows, err := a.rows(ctx, sql)
	if err == nil && len(rows) == 0 {
		err = errors.New("the server answered nothing")
	}
	if err != nil {
		return nil, err
	}
	return rows[0], nil
}

// same is the condition that a column has a name as it is written.
func same(column, name string) string {
	return "CONVERT(" + column + " USING utf8mb4) COLLATE utf8mb4_bin=" + quote(name)
}

// Find looks for the user and the database.
func (a *administrator) Find(ctx context.Context, site skein.Site) ([]skein.Found, error) {
	var found []skein.Found
	for _, find := range []func(context.Context, skein.Site) (*skein.Found, error){a.findUser, a.findDatabase} {
		f, err := find(ctx, site)
		if err != nil {
			return nil, fmt.Errorf("look what there is on %s: %w", site.Target.Server(), err)
		}
		if f != nil {
			found = append(found, *f)
		}
	}
	return found, nil
}

func (a *administrator) findUser(ctx context.Context, site skein.Site) (*skein.Found, error) {
	rows, err := a.rows(ctx, "SELECT Host FROM mysql.user WHERE "+same("User", site.Target.User))
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	f := &skein.Found{What: "user", Name: site.Target.User}
	if site.TenantID == "" || len(rows) > 1 || rows[0][0] != "%" {
		return f, nil
	}
	f.Ours = site.Made
	if !f.Ours {
		as := site.Target
		as.Database = ""
		conn, _, err := a.engine.connect(ctx, as)
		if err == nil {
			_ = conn.Close()
		} else if skein.ErrorClass(err) != skein.Denied {
			return nil, err
		}
		f.Ours = err == nil
	}
	return f, nil
}

func (a *administrator) findDatabase(ctx context.Context, site skein.Site) (*skein.Found, error) {
	name := site.Target.Database
	rows, err := a.rows(ctx, "SELECT SCHEMA_NAME,(SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA=SCHEMA_NAME)"+
		" /*M!100500 ,SCHEMA_COMMENT */ FROM information_schema.SCHEMATA WHERE IF(@@lower_case_table_names=0,"+
		same("SCHEMA_NAME", name)+","+same("LOWER(SCHEMA_NAME)", strings.ToLower(name))+")")
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	f := &skein.Found{What: "database", Name: name}
	switch row := rows[0]; {
	case site.TenantID == "":
	case len(row) == 3: // there are comments
		f.Ours = row[2] == site.Mark()
	default:
		f.Ours = site.Made || row[1] == "0"
	}
	return f, nil
}

// CreateRole creates the user, who may connect from everywhere and do nothing
// yet. MariaDB is told what it would keep of the password; MySQL is told the
// password, which it leaves out of its logs.
func (a *administrator) CreateRole(ctx context.Context, site skein.Site) error {
	create := "CREATE USER " + a.account(site) + " IDENTIFIED BY "
	plain := create + quote(site.Target.Password.Reveal())
	sql := plain
	if a.wire.mariaDB {
		sql = create + "PASSWORD " + quote(nativeHash(site.Target.Password))
	}
	err := a.flight(ctx, sql, nil)
	if code(err) == errOptionPrevents && sql != plain { // strict_password_validation
		err = a.flight(ctx, plain, nil)
	}
	if code(err) == errUserFailed {
		f, findErr := a.findUser(ctx, site)
		switch {
		case findErr != nil:
			return findErr
		case f != nil && f.Ours:
			return nil
		case f != nil:
			return &skein.ExistsError{Found: *f}
		}
	}
	if err != nil {
		return fmt.Errorf("create user %s: %w", quoteName(site.Target.User), scrub(err, site.Target.Password))
	}
	return nil
}

// scrub cleans a server's answer of the password that the statement had.
func scrub(err error, password secret.Secret) error {
	if e, ok := errors.AsType[*skein.DatabaseError](err); ok {
		e.Message, e.Detail = secret.Scrub(e.Message, password), secret.Scrub(e.Detail, password)
	}
	return err
}

// nativeHash is what mysql_native_password keeps:
// https://mariadb.com/kb/en/authentication-plugin-mysql_native_password/
func nativeHash(password secret.Secret) string {
	first := sha1.Sum([]byte(password.Reveal()))
	second := sha1.Sum(first[:])
	return "*" + strings.ToUpper(hex.EncodeToString(second[:]))
}

// CreateDatabase creates the database with the server's own character set.
func (a *administrator) CreateDatabase(ctx context.Context, site skein.Site) error {
	name := quoteName(site.Target.Database)
	create := "CREATE DATABASE " + name + " /*M!100500 COMMENT=" + quote(site.Mark()) + " */"
	err := a.flight(ctx, create, nil)
	if code(err) == errDatabaseExists {
		f, findErr := a.findDatabase(ctx, site)
		switch {
		case findErr != nil:
			return findErr
		case f != nil && !f.Ours:
			return &skein.ExistsError{Found: *f}
		case f != nil && site.Source == nil:
			return nil
		case f != nil: // a copy that was not ended
			if err := a.flight(ctx, "DROP DATABASE "+name, nil); err != nil {
				return fmt.Errorf("drop the half copy %s: %w", name, err)
			}
			err = a.flight(ctx, create, nil)
		}
	}
	if err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	if site.Source != nil {
		if err := a.GrantRights(ctx, site); err != nil {
			return err
		}
		if err := a.copy(ctx, *site.Source, site.Target); err != nil {
			return fmt.Errorf("copy database %s: %w", quoteName(site.Source.Database), err)
		}
	}
	return nil
}

// GrantRights gives the user all rights on the one database, without the right
// to hand them on.
func (a *administrator) GrantRights(ctx context.Context, site skein.Site) error {
	database := pattern(site.Target.Database)
	// With partial_revokes, which MySQL 8 has, there are no wildcards.
	literal, err := a.rows(ctx, "SHOW GLOBAL VARIABLES WHERE Variable_name='partial_revokes' AND Value='ON'")
	if err == nil {
		if len(literal) > 0 {
			database = site.Target.Database
		}
		err = a.flight(ctx, "GRANT ALL PRIVILEGES ON "+quoteName(database)+".* TO "+a.account(site), nil)
	}
	if err == nil {
		// It is locked where a database was dropped to be made anew.
		if err = a.flight(ctx, "ALTER USER "+a.account(site)+" ACCOUNT UNLOCK", nil); code(err) == errSyntax {
			err = nil // a server that cannot lock it
		}
	}
	if err != nil {
		return fmt.Errorf("give the tenant its rights: %w", err)
	}
	return nil
}

// Open connects as the tenant.
func (a *administrator) Open(ctx context.Context, site skein.Site) (skein.Session, error) {
	return a.engine.Open(ctx, site.Target)
}

// DropDatabase keeps the user out, ends the sessions in the database and drops
// it.
func (a *administrator) DropDatabase(ctx context.Context, site skein.Site) error {
	if f, err := a.findDatabase(ctx, site); f == nil || err != nil {
		return err
	} else if !f.Ours {
		return &skein.ExistsError{Found: *f}
	}
	if site.Made {
		err := a.flight(ctx, "ALTER USER "+a.account(site)+" ACCOUNT LOCK", nil)
		if n := code(err); err != nil && n != errUserFailed && n != errSyntax { // servers before 10.4 cannot
			return fmt.Errorf("keep the tenant out: %w", err)
		}
	}
	if err := a.endSessions(ctx, same("DB", site.Target.Database)); err != nil {
		return err
	}
	if err := a.flight(ctx, "DROP DATABASE IF EXISTS "+quoteName(site.Target.Database), nil); err != nil {
		return fmt.Errorf("drop database %s: %w", quoteName(site.Target.Database), err)
	}
	return nil
}

// DropRole ends the user's sessions and drops the user.
func (a *administrator) DropRole(ctx context.Context, site skein.Site) error {
	if f, err := a.findUser(ctx, site); f == nil || err != nil {
		return err
	} else if !f.Ours {
		return &skein.ExistsError{Found: *f}
	}
	if err := a.endSessions(ctx, same("USER", site.Target.User)); err != nil {
		return err
	}
	if err := a.flight(ctx, "DROP USER IF EXISTS "+a.account(site), nil); err != nil {
		return fmt.Errorf("drop user %s: %w", quoteName(site.Target.User), err)
	}
	return a.endSessions(ctx, same("USER", site.Target.User))
}

// endSessions ends sessions and waits until they are gone.
func (a *administrator) endSessions(ctx context.Context, which string) error {
	const doing = "end the tenant's sessions"
	for start := time.Now(); ; {
		rows, err := a.rows(ctx, "SELECT ID FROM information_schema.PROCESSLIST WHERE ID<>CONNECTION_ID() AND "+which)
		if err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
		if len(rows) == 0 {
			return nil
		}
		if time.Since(start) > holdWait*time.Second {
			return &skein.DatabaseError{Class: skein.Busy, Message: fmt.Sprintf("%d sessions of the tenant do not end", len(rows)), Hint: "run the same command again"}
		}
		for _, row := range rows {
			if err := a.flight(ctx, "KILL "+row[0], nil); err != nil && code(err) != errNoThread {
				return fmt.Errorf("%s: %w", doing, err)
			}
		}
		select {
		case <-time.After(firstPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Backup has the server's own program write the database as SQL.
func (a *administrator) Backup(ctx context.Context, site skein.Site, file string) error {
	out, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	from := a.target
	from.Database = site.Target.Database
	err = dump(ctx, from, out)
	if err == nil {
		err = out.Sync()
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return errors.Join(err, os.Remove(file))
	}
	return nil
}
