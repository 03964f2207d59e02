package postgres

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/skeinhq/skein"
)

var (
	_ skein.Glancer           = (*Engine)(nil)
	_ skein.FingerprintKeeper = (*session)(nil)
)

// The fingerprint of a tenant's history is kept at the end of the comment of its
// database, behind whatever else that says:
//
//	Acme, since 2019 [skein v1 SCOPE FINGERPRINT TABLE]
//
// Comments of databases are in a catalog that all databases of a server share,
// are written in the transaction of the history row, and may be written by
// whoever owns the database. A setting of the database (ALTER DATABASE ... SET)
// is in such a catalog too and is not as good: only superusers, and whom one has
// granted it, may set a parameter that the server does not know.
//
// TABLE is the oid of the history's table. Whether there is a table with that
// oid in the database, the catalog of owners says, which is a shared one too: a
// dump that was restored over the tenant, or a schema that was dropped and made
// again, has brought another.
//
// A tenant in a schema has no comment in a shared catalog. Its history is read
// together with those of other schemas instead.
type tag struct{ scope, print, table string }

// noTable is the TABLE of a history whose table cannot be seen from outside:
// there is none, or it belongs to the role that initdb made, which the catalog of
// owners leaves out.
const noTable = "00000000"

// tagLength is that of all tags.
const tagLength = len("[skein v1 SCOPE--- FINGERPRINT----------- TABLE---]")

var tagged = regexp.MustCompile(`^((?s:.*?)) ?\[skein v1 ([\w-]{8}) ([\w-]{22}) ([0-9a-f]{8})\]$`)

func (t tag) String() string {
	if t == (tag{}) {
		return ""
	}
	return "[skein v1 " + t.scope + " " + t.print + " " + t.table + "]"
}

// parseTag splits a comment into what is somebody else's and the tag.
func parseTag(comment string) (string, tag) {
	if m := tagged.FindStringSubmatch(comment); m != nil {
		return m[1], tag{m[2], m[3], m[4]}
	}
	return comment, tag{}
}

// withoutTag is SQL for a comment without its tag.
func withoutTag(comment string) string {
	return "pg_catalog.regexp_replace(" + comment + `, ' ?\[skein v1 [A-Za-z0-9_-]{8} [A-Za-z0-9_-]{22} [0-9a-f]{8}\]$', '')`
}

// kept is what is known of the comment of the session's database.
type kept struct {
	writable bool   // by the session's role
	database string // by its own name, which a pooler may not use
	comment  string // without the tag
	tag      tag
	// table is the TABLE that the history has, empty while it is not known: the
	// table was made in the transaction that is being put together.
	table string
	// anew says that the comment may be another by now.
	anew bool
}

const commentOfDatabase = ` LEFT JOIN pg_catalog.pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_catalog.pg_database'::pg_catalog.regclass`

// keptQuery reads the comment of the database that the session is in.
func (s *session) keptQuery() string {
	name, comment, plain := "d.datname", "c.description", "true"
	switch s.conn.ParameterStatus("server_encoding") {
	case "UTF8", "SQL_ASCII":
	default:
		// Shared catalogs hold names and comments in the encoding of the database
		// that they were written from. Read from one with another encoding some are
		// an error, and none can be written back as it was.
		plain = `d.datname || COALESCE(c.description, '') !~ '[^\x01-\x7F]'`
		name, comment = "CASE WHEN "+plain+" THEN d.datname END", "CASE WHEN "+plain+" THEN c.description END"
	}
	table := "NULL"
	if s.target.Schema == "" {
		named := func(table string) string {
			return "pg_catalog.to_regclass(n.n::text || '.' || " + quoteLiteral(quoteIdent(table)) + ")"
		}
		table = "(" + tableQuery("d.oid", "COALESCE("+named(skein.HistoryTable)+", "+named(s.engine.opts.KnexTable)+")") + " FROM (SELECT " + schemaExpr(s.target) + ") n (n))"
	}
	return "SELECT " + name + ", " + comment + ", " + plain + ` AND pg_catalog.pg_has_role(session_user, d.datdba, 'USAGE') AND NOT pg_catalog.pg_is_in_recovery(), ` + table + `
	FROM pg_catalog.pg_database d` + commentOfDatabase + " WHERE d.datname = pg_catalog.current_database()"
}

// tableQuery reads the TABLE that a history has: Skein's table, or Knex's where
// there is no other. Both arguments are SQL, for the oid of the database and for
// the table's regclass.
func tableQuery(database, table string) string {
	return "SELECT COALESCE((SELECT pg_catalog.lpad(pg_catalog.to_hex(s.objid::bigint), 8, '0') FROM pg_catalog.pg_shdepend s WHERE s.dbid = " + database +
		" AND s.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND s.objid = " + table + " AND s.objsubid = 0 AND s.deptype = 'o'), '" + noTable + "')"
}

func readKept(row [][]byte) kept {
	if len(row) != 4 {
		return kept{}
	}
	k := kept{database: string(row[0]), writable: string(row[2]) == "t", table: string(row[3])}
	k.comment, k.tag = parseTag(string(row[1]))
	if !utf8.ValidString(k.database + k.comment) {
		k.writable = false
	}
	return k
}

// scope tells apart sessions that would look for the history of one database in
// different places: the first schema of the search path may be another for
// another role.
func (e *Engine) scope(t skein.Target) string {
	where := fmt.Appendf(nil, "%q %q %q %q", t.User, t.Options["search_path"], t.Options["options"], e.opts.KnexTable)
	if role := t.Options["role"]; role != "" {
		where = fmt.Appendf(where, " %q", role)
	}
	sum := sha256.Sum256(where)
	return base64.RawURLEncoding.EncodeToString(sum[:6])
}

// keepFingerprint adds what brings the comment of the database into line with
// what the tenant's history will be when the script has run. It is the last that
// is added before the transaction's end.
//
// A session in a schema takes the fingerprint away: it may be that of sessions
// which come to the same schema by their search path.
func (s *session) keepFingerprint(m *script, after *tenantState) {
	s.writeTag(m, after)
	if m.makes && m.made == 0 && after.kept.writable && s.target.Schema == "" {
		m.made = len(m.spans)
		m.add(reading, tableQuery("(SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())", "pg_catalog.to_regclass("+quoteLiteral(s.table())+")"))
	}
}

func (s *session) writeTag(m *script, after *tenantState) {
	k := &after.kept
	var want tag
	if now := after.history().Fingerprint(); now != "" && k.table != "" && s.target.Schema == "" {
		want = tag{s.engine.scope(s.target), now, k.table}
	}
	if !k.writable || k.tag == want {
		return
	}
	k.tag = want
	m.add(record, asLoginRole...)
	if k.anew {
		m.add(record, commentAnew(want))
		return
	}
	comment := k.comment
	if comment != "" && want != (tag{}) {
		comment += " "
	}
	m.add(record, "COMMENT ON DATABASE "+quoteIdent(k.database)+" IS "+nullable(comment+want.String()))
}

// commentAnew is SQL that gives the comment of the session's database another
// tag, whatever it is by then. It is not what is sent each time, since a session
// pays 0.8 ms for the first block.
func commentAnew(t tag) string {
	return "DO $skein$ BEGIN EXECUTE pg_catalog.format('COMMENT ON DATABASE %I IS %L', pg_catalog.current_database(), NULLIF(pg_catalog.concat_ws(' ', NULLIF((SELECT " +
		withoutTag("c.description") + " FROM pg_catalog.pg_database d" + commentOfDatabase + " WHERE d.datname = pg_catalog.current_database()), ''), " +
		nullable(t.String()) + ")::text, '')); END $skein$"
}

// comments is found in a migration that sets the comment of a database.
var comments = regexp.MustCompile(`(?i)\bcomment\s+on\s+database\b`)

func setsComment(step skein.Step) bool {
	return slices.ContainsFunc(step.Statements, func(s skein.Statement) bool { return comments.MatchString(s.Text) })
}

// Kept reads the fingerprint for sessions with the same role and search path.
func (s *session) Kept(ctx context.Context) (skein.Kept, error) {
	if s.target.Schema != "" {
		return skein.Kept{Needless: true}, nil
	}
	var m script
	m.add(reading, s.keptQuery())
	results, err := s.run(ctx, &m)
	if err != nil {
		return skein.Kept{}, fmt.Errorf("read the fingerprint: %w", s.fail(ctx, err))
	}
	k := readKept(results[0].row)
	answer := skein.Kept{Writable: k.writable}
	if k.tag.scope == s.engine.scope(s.target) && k.tag.table == k.table {
		answer.Fingerprint = k.tag.print
	}
	return answer, nil
}

// Keep writes the fingerprint of the history that was read with the lock.
func (s *session) Keep(ctx context.Context) error {
	if !s.locked {
		return errNotLocked
	}
	if s.target.Schema != "" {
		return nil
	}
	var m script
	m.add(setup, "BEGIN")
	s.prepare(&m)
	before, after := len(m.spans), s.state
	if s.keepFingerprint(&m, &after); len(m.spans) == before {
		return nil
	}
	m.add(commit, "COMMIT")
	if results, err := s.commit(ctx, &m, after); err != nil {
		return s.ownError(ctx, &m, results, err)
	}
	return nil
}

// Vantage is any database of the server for tenants that have a database each:
// the catalog with their fingerprints is the server's. Tenants in schemas are
// looked at from their database, where there is one role for all of them or the
// server's own address.
func (e *Engine) Vantage(target skein.Target, server *skein.Target) (skein.Target, string) {
	if server == nil {
		if target.Schema == "" {
			return target, target.Server()
		}
		return target, e.SessionKey(target)
	}
	from := *server
	if target.Schema == "" {
		return from, target.Server()
	}
	// The schema makes the session one that serves many.
	from.Database, from.Schema = target.Database, target.Schema
	return from, target.Server() + "\x00" + target.Database
}

// Glance reads the fingerprints of databases, or the histories in schemas of the
// session's database.
func (e *Engine) Glance(ctx context.Context, on skein.Session, targets []skein.Target) ([]skein.Glimpse, error) {
	s := on.(*session)
	glimpses := make([]skein.Glimpse, len(targets))
	if len(targets) == 0 {
		return glimpses, nil
	}
	if targets[0].Schema == "" {
		return glimpses, s.glanceDatabases(ctx, targets, glimpses)
	}
	return glimpses, s.glanceSchemas(ctx, targets, glimpses)
}

// glanceDatabases reads the fingerprints of databases. One counts only where the
// tenant's role may write it: otherwise a change of the history might have left
// it as it was.
func (s *session) glanceDatabases(ctx context.Context, targets []skein.Target, glimpses []skein.Glimpse) error {
	var values strings.Builder
	for i, t := range targets {
		if i > 0 {
			values.WriteString(", ")
		}
		fmt.Fprintf(&values, "(%d, %s, %s)", i, quoteLiteral(t.Database), quoteLiteral(t.User))
	}
	// Behind a pooler there may be several servers, each with some of the
	// databases. A pooler gives sessions other numbers than the server does.
	//
	// Of a comment nothing but the tag is read, which is ASCII: the rest may be in
	// any encoding.
	table := "pg_catalog.substr(g.tag, " + strconv.Itoa(tagLength-len(noTable)) + ", " + strconv.Itoa(len(noTable)) + ")"
	rows, err := queryRows(ctx, s, "SELECT t.i, g.tag, pg_catalog.pg_backend_pid(), "+table+" = '"+noTable+`' OR EXISTS (SELECT 1 FROM pg_catalog.pg_shdepend s
			WHERE s.dbid = d.oid AND s.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND s.objid = ('x' || `+table+`)::bit(32)::bigint::oid AND s.objsubid = 0 AND s.deptype = 'o')
		FROM (VALUES `+values.String()+`) t (i, database, role)
		JOIN pg_catalog.pg_database d ON d.datname = t.database AND d.datallowconn
		JOIN pg_catalog.pg_roles r ON r.rolname = t.role AND r.rolcanlogin`+commentOfDatabase+`
		LEFT JOIN LATERAL (SELECT pg_catalog.right(c.description, `+strconv.Itoa(tagLength)+`) AS tag) g ON g.tag ~ '^\[skein v1 [A-Za-z0-9_-]{8} [A-Za-z0-9_-]{22} [0-9a-f]{8}\]$'
		WHERE pg_catalog.pg_has_role(r.oid, d.datdba, 'USAGE') AND NOT pg_catalog.pg_is_in_recovery()`)
	if err != nil {
		return fmt.Errorf("read fingerprints: %w", err)
	}
	for _, row := range rows {
		i, err := strconv.Atoi(row[0])
		if err != nil || i >= len(targets) || row[2] != s.backend {
			clear(glimpses)
			return err
		}
		if _, t := parseTag(row[1]); t.scope == s.engine.scope(targets[i]) && row[3] == "t" {
			glimpses[i].Fingerprint = t.print
		} else {
			glimpses[i].Wanting = true
		}
	}
	return nil
}

// readable are the kinds of relations that can be read as tables.
var readable = []string{"r", "p", "v", "m", "f"}

// glanceSchemas reads the histories in schemas: which tables there are in a
// first flight, and then what is in them.
func (s *session) glanceSchemas(ctx context.Context, targets []skein.Target, glimpses []skein.Glimpse) error {
	knexTable := s.engine.opts.KnexTable
	tables := []string{skein.HistoryTable, knexTable, knexLock(knexTable)}
	columns := []string{"id, name, state, batch, checksum", "id, name, batch, pg_catalog.to_json(migration_time)::text", "is_locked"}
	var schemas, names []string
	at := make(map[string]int, len(targets))
	for _, t := range targets {
		if _, ok := at[t.Schema]; !ok {
			at[t.Schema] = len(schemas)
			schemas = append(schemas, quoteLiteral(t.Schema))
		}
	}
	for _, table := range tables {
		names = append(names, quoteLiteral(table))
	}
	rows, err := queryRows(ctx, s, `SELECT n.nspname, c.relname, c.relkind FROM pg_catalog.pg_namespace n LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid
		AND c.relname IN (`+strings.Join(names, ", ")+") WHERE n.nspname IN ("+strings.Join(schemas, ", ")+")")
	if err != nil {
		return fmt.Errorf("look for histories: %w", err)
	}
	// Nil are those of which whoever connects says what is wrong: there is no such
	// schema, something else has the name of a table, or it holds something else.
	histories := make([]*skein.History, len(schemas))
	odd := make([]bool, len(schemas))
	var present []presence
	knex := make([]bool, len(schemas))
	for _, row := range rows {
		i, ok := at[row[0]]
		if !ok {
			continue
		}
		histories[i] = &skein.History{}
		if kind := slices.Index(tables, row[1]); kind >= 0 && !slices.Contains(readable, row[2]) {
			odd[i] = true
		} else if kind >= 0 {
			present = append(present, presence{i, kind, quoteIdent(row[0]) + "." + quoteIdent(row[1])})
			knex[i] = knex[i] || kind > 0
		}
	}
	found := make([]tenantState, len(schemas))
	// Each table that a message names is locked, with its indexes, and the
	// server's table of locks has room for some thousands.
	const atOnce = 100
	for some := range slices.Chunk(present, atOnce) {
		// A statement each: put together by UNION ALL they take the server twice as
		// long, and fail where a column is of another type in one of the tables.
		var m strings.Builder
		for _, p := range some {
			from := columns[p.kind]
			if p.kind == 0 && knex[p.schema] {
				// Where Knex has been, the times tell whose application is meant.
				from += ", pg_catalog.to_json(applied_at)::text"
			}
			m.WriteString("SELECT " + from + " FROM " + p.table + ";\n")
		}
		results := s.conn.Exec(ctx, m.String())
		for _, p := range some {
			if !results.NextResult() {
				break // Close says why
			}
			if err := readGlance(p.kind, results.ResultReader(), &found[p.schema]); err != nil {
				odd[p.schema] = true
			}
		}
		if err := results.Close(); err != nil {
			return fmt.Errorf("read histories: %w", s.fail(ctx, err))
		}
	}
	for i, h := range histories {
		if odd[i] {
			histories[i] = nil
		} else if h != nil {
			*h = found[i].history()
		}
	}
	for i, t := range targets {
		glimpses[i].History = histories[at[t.Schema]]
	}
	return nil
}

// A presence is one of the tables of a history that there is.
type presence struct {
	schema, kind int
	table        string
}

// readGlance reads one kind of table into what was found of its schema.
func readGlance(kind int, rows *pgconn.ResultReader, found *tenantState) error {
	var err error
	number := func(text []byte) int {
		if text == nil {
			return 0
		}
		n, e := strconv.Atoi(string(text))
		err = cmp.Or(err, e)
		return n
	}
	var own []ownRow
	var locks []knexLockRow
	for rows.NextRow() {
		switch row := rows.Values(); kind {
		case 0:
			r := ownRow{ID: int64(number(row[0])), Name: string(row[1]), State: skein.RecordState(row[2]), Batch: number(row[3]), Checksum: string(row[4])}
			if len(row) > 5 {
				r.Applied = instant(jsonTime(row[5]))
			}
			own = append(own, r)
		case 1:
			if len(row[1]) > 0 {
				found.knex = append(found.knex, skein.KnexRow{ID: int64(number(row[0])), Name: string(row[1]), Batch: number(row[2]), Time: jsonTime(row[3])})
			}
		case 2:
			locks = append(locks, knexLockRow{number(row[0])})
		}
	}
	switch kind {
	case 0:
		found.setOwn(own)
	case 1:
		slices.SortFunc(found.knex, func(a, b skein.KnexRow) int { return cmp.Compare(a.ID, b.ID) })
	case 2:
		found.knexLocked = knexLocked(locks)
	}
	return err
}

// jsonTime is a time in JSON, the zero time for what is none.
func jsonTime(text []byte) time.Time {
	var t instant
	_ = t.UnmarshalJSON(text) // it never fails
	return time.Time(t)
}
