package postgres

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skeinhq/skein"
)

var (
	_ skein.Glancer           = (*Engine)(nil)
	_ skein.FingerprintKeeper = (*session)(nil)
)

// The fingerprint of a tenant's history is kept at the end of the comment of its
// database, behind whatever else that says:
//
//	Acme, since 2019 [skein v1 SCOPE FINGERPRINT]
//
// Comments of databases are in a catalog that all databases of a server share,
// are written in the transaction of the history row, and may be written by
// whoever owns the database. A setting of the database (ALTER DATABASE ... SET)
// is in such a catalog too and is not as good: only superusers, and whom one has
// granted it, may set a parameter that the server does not know.
//
// A tenant in a schema has no comment in a shared catalog. Its history is read
// together with those of other schemas instead.
var keptTag = regexp.MustCompile(`^((?s:.*?))\s?\[skein v1 ([\w-]{8}) ([\w-]{22})\]$`)

// withoutTag is SQL for a comment without the fingerprint.
func withoutTag(comment string) string {
	return "pg_catalog.regexp_replace(" + comment + `, '\s?\[skein v1 [\w-]+ [\w-]+\]$', '')`
}

// kept is what the comment of a database says.
type kept struct {
	writable bool   // by the session's role
	database string // by its own name, which a pooler may not use
	comment  string // without the fingerprint
	scope    string
	print    string
}

// keptQuery reads the comment of the database that the session is in.
const keptQuery = `SELECT d.datname, c.description, pg_catalog.pg_has_role(session_user, d.datdba, 'USAGE') AND NOT pg_catalog.pg_is_in_recovery()
	FROM pg_catalog.pg_database d LEFT JOIN pg_catalog.pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_catalog.pg_database'::pg_catalog.regclass
	WHERE d.datname = pg_catalog.current_database()`

func readKept(row [][]byte) kept {
	if len(row) != 3 {
		return kept{}
	}
	k := parseKept(string(row[1]))
	k.database, k.writable = string(row[0]), string(row[2]) == "t"
	return k
}

func parseKept(comment string) kept {
	if tag := keptTag.FindStringSubmatch(comment); tag != nil {
		return kept{comment: tag[1], scope: tag[2], print: tag[3]}
	}
	return kept{comment: comment}
}

// scope tells apart sessions that would look for the history of one database in
// different places: the first schema of the search path may be another for
// another role.
func (e *Engine) scope(t skein.Target) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q", t.User, t.Options["search_path"], t.Options["options"], e.opts.KnexTable))
	return base64.RawURLEncoding.EncodeToString(sum[:6])
}

// keepFingerprint adds what brings the comment of the tenant's database into
// line with what its history will be when the script has run.
func (s *session) keepFingerprint(m *script, after *tenantState) {
	k := &after.kept
	scope, print := s.engine.scope(s.target), after.history().Fingerprint()
	if !k.writable || k.print == print && (print == "" || k.scope == scope) {
		return
	}
	k.scope, k.print = scope, print
	comment := k.comment
	if print != "" {
		comment = strings.TrimLeft(comment+" [skein v1 "+scope+" "+print+"]", " ")
	}
	m.add(record, "COMMENT ON DATABASE "+quoteIdent(k.database)+" IS "+nullable(comment))
}

// Kept reads the fingerprint for sessions with the same role and search path.
func (s *session) Kept(ctx context.Context) (skein.Kept, error) {
	if s.target.Schema != "" {
		return skein.Kept{Needless: true}, nil
	}
	var m script
	m.add(reading, keptQuery)
	results, err := s.run(ctx, &m)
	if err != nil {
		return skein.Kept{}, fmt.Errorf("read the fingerprint: %w", s.fail(ctx, err))
	}
	k := readKept(results[0].row)
	if k.scope != s.engine.scope(s.target) {
		k.print = ""
	}
	return skein.Kept{Fingerprint: k.print, Writable: k.writable}, nil
}

// Keep writes the fingerprint of the history that was read with the lock.
func (s *session) Keep(ctx context.Context) error {
	if !s.locked {
		return errNotLocked
	}
	var m script
	m.add(setup, "BEGIN")
	s.prepare(&m)
	before, after := len(m.spans), s.state
	if s.keepFingerprint(&m, &after); len(m.spans) == before {
		return nil
	}
	m.add(commit, "COMMIT")
	if results, err := s.transact(ctx, &m); err != nil {
		return s.ownError(ctx, &m, results, err)
	}
	s.state.kept = after.kept
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
	rows, err := queryRows(ctx, s, "SELECT t.i, c.description, pg_catalog.pg_backend_pid() FROM (VALUES "+values.String()+`) t (i, database, role)
		JOIN pg_catalog.pg_database d ON d.datname = t.database AND d.datallowconn
		JOIN pg_catalog.pg_roles r ON r.rolname = t.role AND r.rolcanlogin
		LEFT JOIN pg_catalog.pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_catalog.pg_database'::pg_catalog.regclass
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
		switch k := parseKept(row[1]); {
		case k.print == "":
			glimpses[i].Wanting = true
		case k.scope == s.engine.scope(targets[i]):
			glimpses[i].Fingerprint = k.print
		}
	}
	return nil
}

// glanceSchemas reads the histories in schemas: which tables there are in a
// first flight, and then what is in them.
func (s *session) glanceSchemas(ctx context.Context, targets []skein.Target, glimpses []skein.Glimpse) error {
	knexTable := s.engine.opts.KnexTable
	tables := []string{skein.HistoryTable, knexTable, knexLock(knexTable)}
	columns := []string{"id, name, state, batch, checksum", "id, name, batch, EXTRACT(EPOCH FROM migration_time)", "is_locked"}
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
	rows, err := queryRows(ctx, s, `SELECT n.nspname, c.relname FROM pg_catalog.pg_namespace n LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid
		AND c.relkind IN ('r', 'p', 'v') AND c.relname IN (`+strings.Join(names, ", ")+") WHERE n.nspname IN ("+strings.Join(schemas, ", ")+")")
	if err != nil {
		return fmt.Errorf("look for histories: %w", err)
	}
	histories := make([]*skein.History, len(schemas)) // nil: no such schema, which whoever connects says
	var present []presence
	knex := make([]bool, len(schemas))
	for _, row := range rows {
		i, ok := at[row[0]]
		if !ok {
			continue
		}
		histories[i] = &skein.History{}
		if kind := slices.Index(tables, row[1]); kind >= 0 {
			present = append(present, presence{i, kind, quoteIdent(row[0]) + "." + quoteIdent(row[1])})
			knex[i] = knex[i] || kind > 0
		}
	}
	found := make([]tenantState, len(schemas))
	locks := make([][]knexLockRow, len(schemas))
	// Each table that a message names is locked, with its indexes, and the
	// server's table of locks has room for some thousands.
	const atOnce = 100
	for some := range slices.Chunk(present, atOnce) {
		var branches [3][]string
		for _, p := range some {
			from := columns[p.kind]
			if p.kind == 0 && knex[p.schema] {
				// Where Knex has been, the times tell whose application is meant.
				from += ", EXTRACT(EPOCH FROM applied_at)"
			} else if p.kind == 0 {
				from += ", NULL::numeric"
			}
			branches[p.kind] = append(branches[p.kind], fmt.Sprintf("SELECT %d, %s FROM %s", p.schema, from, p.table))
		}
		var m strings.Builder
		var kinds []int
		for kind, union := range branches {
			if len(union) > 0 {
				m.WriteString(strings.Join(union, " UNION ALL ") + " ORDER BY 1, 2;\n")
				kinds = append(kinds, kind)
			}
		}
		results, err := s.conn.Exec(ctx, m.String()).ReadAll()
		if err != nil {
			return fmt.Errorf("read histories: %w", s.fail(ctx, err))
		}
		for i, kind := range kinds {
			if err := readGlance(kind, results[i].Rows, found, locks); err != nil {
				return fmt.Errorf("read histories: the server's answer cannot be read: %w", err)
			}
		}
	}
	for i, h := range histories {
		if h != nil {
			found[i].knexLocked = knexLocked(locks[i])
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

// readGlance reads rows of one kind of table into what was found of their
// schemas.
func readGlance(kind int, rows [][][]byte, found []tenantState, locks [][]knexLockRow) error {
	var err error
	number := func(text []byte) int {
		if text == nil {
			return 0
		}
		n, e := strconv.Atoi(string(text))
		err = cmp.Or(err, e)
		return n
	}
	for _, row := range rows {
		i := number(row[0])
		switch kind {
		case 0:
			found[i].own = append(found[i].own, skein.Record{
				Name: string(row[2]), State: skein.RecordState(row[3]), Batch: number(row[4]), Checksum: strings.TrimRight(string(row[5]), " "), AppliedAt: epoch(row[6]),
			})
		case 1:
			if len(row[2]) > 0 {
				found[i].knex = append(found[i].knex, skein.KnexRow{ID: int64(number(row[1])), Name: string(row[2]), Batch: number(row[3]), Time: epoch(row[4])})
			}
		case 2:
			locks[i] = append(locks[i], knexLockRow{number(row[1])})
		}
	}
	return err
}

// epoch is a time as EXTRACT(EPOCH ...) gives it, the zero time where there is
// none.
func epoch(text []byte) time.Time {
	seconds, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMicro(int64(math.Round(seconds * 1e6))).UTC()
}
