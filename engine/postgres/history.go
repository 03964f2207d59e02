package postgres

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/skeinhq/skein"
)

// createHistory makes Skein's table. "C" compares names byte by byte.
//
// The ids, by which records are in order, are given by whoever writes, under the
// tenant's lock. A key on them, and a sequence, would be a quarter of what
// looking at a tenant costs the server, and of what making the table does.
func createHistory(table string) string {
	return "CREATE TABLE IF NOT EXISTS " + table + ` (
	id bigint NOT NULL,
	name varchar(255) COLLATE "C" PRIMARY KEY,
	state varchar(16) NOT NULL,
	batch integer NOT NULL,
	checksum char(64),
	done integer NOT NULL DEFAULT 0,
	total integer NOT NULL DEFAULT 0,
	fingerprints text,
	started_at timestamptz NOT NULL,
	applied_at timestamptz,
	duration_ms bigint,
	applied_by varchar(255),
	tool varchar(64)
)`
}

// historyQuery reads the three tables of a tenant, those of them that exist, as
// one row: the oid and the name of the schema, and of each table its rows as
// JSON inside XML, null for a table that there is not. The schema is an
// expression for its oid, null if there is no such schema.
//
// A SELECT that names a missing table is an error, and a line in the server's
// log, for each new tenant. Asking for the tables first is a second round trip.
// What is left is SQL that the server makes into a query only if the table is
// there: query_to_xml does that, and is in every server, with libxml or not. Of
// the server's CPU a new connection pays 2.3 ms for SELECT 1, 0.4 ms more for
// reading the table, and 0.9 ms more for reading it like this; a DO block with
// cursors costs another 0.8 ms, for loading PL/pgSQL. It is JSON inside of XML
// because that is a third of the work of XML with a thousand rows, and its times
// do not depend on the session's settings.
func historyQuery(schema, knexTable string) string {
	rows := func(table, columns, where string) string {
		literal := quoteLiteral(quoteIdent(table))
		return "CASE WHEN pg_catalog.to_regclass(s.name || '.' || " + literal + ") IS NOT NULL THEN pg_catalog.query_to_xml(" +
			quoteLiteral("SELECT pg_catalog.json_agg(t) AS json FROM (SELECT "+columns+" FROM ") + " || s.name || '.' || " + literal +
			" || " + quoteLiteral(where+") t") + ", false, true, '') END"
	}
	return "SELECT s.oid, s.name, " +
		rows(skein.HistoryTable, "id, name, state, batch, checksum, done, total, fingerprints, started_at, applied_at, duration_ms, applied_by, tool", "") + ", " +
		rows(knexTable, "id, name, batch, migration_time", "") + ", " +
		rows(knexLock(knexTable), "is_locked", "") +
		" FROM (SELECT n::oid AS oid, n::text AS name FROM (SELECT " + schema + " AS n) n) s"
}

func knexLock(knexTable string) string { return knexTable + "_lock" }

// schemaExpr is SQL for the schema that a target works in, as a regnamespace:
// null where there is none. Its text form is quoted where it needs to be.
func schemaExpr(target skein.Target) string {
	if target.Schema == "" {
		return "pg_catalog.to_regnamespace(pg_catalog.quote_ident(pg_catalog.current_schema()))"
	}
	return "pg_catalog.to_regnamespace(" + quoteLiteral(quoteIdent(target.Schema)) + ")"
}

// A tenantState is what the history query answers.
type tenantState struct {
	schemaOID string // empty if there is no schema
	schema    string // quoted where it needs to be
	// The rows of the tables, and whether Knex would get its lock. lastID is the
	// highest id of Skein's own.
	own        []skein.Record
	lastID     int64
	knex       []skein.KnexRow
	knexLocked bool
	// hasHistory and hasKnexLock say which tables exist.
	hasHistory, hasKnexLock bool
	// kept is what the database's comment says of the history. It is only read
	// with the lock.
	kept kept
}

func (t tenantState) history() skein.History { return skein.NewHistory(t.own, t.knex, t.knexLocked) }

// with is the state after records were written.
func (t tenantState) with(records ...skein.Record) tenantState {
	t.hasHistory, t.own = true, slices.Clone(t.own)
	t.lastID += int64(len(records))
	for _, r := range records {
		if i := slices.IndexFunc(t.own, func(o skein.Record) bool { return o.Name == r.Name }); i >= 0 {
			t.own[i] = r
		} else {
			t.own = append(t.own, r)
		}
	}
	return t
}

// after is the state after a step was applied as a whole.
func (t tenantState) after(step skein.Step) tenantState {
	if step.Direction == skein.Down {
		return t.without(step.Migration.Name)
	}
	return t.with(skein.Record{Name: step.Migration.Name, State: skein.Applied, Batch: step.Batch, Checksum: step.Migration.Checksum})
}

// without is the state after records were erased.
func (t tenantState) without(names ...string) tenantState {
	t.hasHistory = true
	t.own = slices.DeleteFunc(slices.Clone(t.own), func(r skein.Record) bool { return slices.Contains(names, r.Name) })
	return t
}

func readState(row [][]byte, knexTable string) (tenantState, error) {
	if len(row) != 5 {
		return tenantState{}, fmt.Errorf("the server answered %d columns", len(row))
	}
	t := tenantState{schemaOID: string(row[0]), schema: string(row[1]), hasHistory: row[2] != nil, hasKnexLock: row[4] != nil}
	var own []ownRow
	var knex []knexRow
	var locks []knexLockRow
	for i, into := range []any{&own, &knex, &locks} {
		if err := decodeRows(row[2+i], into); err != nil {
			if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
				tables := []string{skein.HistoryTable, knexTable, knexLock(knexTable)}
				err = foreignTable(tables[i], fmt.Sprintf("a %s in the column %s is not what is kept there", wrong.Value, quoteIdent(wrong.Field)))
			}
			return tenantState{}, err
		}
	}
	t.setOwn(own)
	slices.SortFunc(knex, func(a, b knexRow) int { return cmp.Compare(a.ID, b.ID) })
	for _, r := range knex {
		if r.Name != "" {
			t.knex = append(t.knex, skein.KnexRow{ID: r.ID, Name: r.Name, Batch: r.Batch, Time: time.Time(r.Time)})
		}
	}
	t.knexLocked = knexLocked(locks)
	return t, nil
}

// setOwn sets what the rows of Skein's own table say, in whatever order they are.
func (t *tenantState) setOwn(rows []ownRow) {
	slices.SortFunc(rows, func(a, b ownRow) int { return cmp.Compare(a.ID, b.ID) })
	t.own = make([]skein.Record, len(rows))
	for i, r := range rows {
		t.own[i] = r.record()
		t.lastID = r.ID
	}
}

// decodeRows reads a table as historyQuery returns it: <row ...><json>...</json></row>,
// without the inner element if the table is empty.
func decodeRows(xml []byte, into any) error {
	_, text, ok := strings.Cut(string(xml), "<json>")
	if !ok {
		return nil
	}
	text, _, _ = strings.Cut(text, "</json>")
	return json.Unmarshal([]byte(html.UnescapeString(text)), into)
}

type ownRow struct {
	ID       int64             `json:"id"`
	Name     string            `json:"name"`
	State    skein.RecordState `json:"state"`
	Batch    int               `json:"batch"`
	Checksum string            `json:"checksum"`
	Done     int               `json:"done"`
	Total    int               `json:"total"`
	Prints   string            `json:"fingerprints"`
	Started  instant           `json:"started_at"`
	Applied  instant           `json:"applied_at"`
	Millis   int64             `json:"duration_ms"`
	By       string            `json:"applied_by"`
	Tool     string            `json:"tool"`
}

func (r ownRow) record() skein.Record {
	record := skein.Record{
		Name: r.Name, State: r.State, Batch: r.Batch, Checksum: strings.TrimRight(r.Checksum, " "),
		Done: r.Done, Total: r.Total, Fingerprints: r.Prints,
		AppliedAt: time.Time(r.Applied), Duration: time.Duration(r.Millis) * time.Millisecond, By: r.By, Tool: r.Tool,
	}
	if record.Partial() || record.AppliedAt.IsZero() {
		record.AppliedAt = time.Time(r.Started)
	}
	return record
}

type knexRow struct {
	ID    int64   `json:"id"`
	Name  string  `json:"name"`
	Batch int     `json:"batch"`
	Time  instant `json:"migration_time"`
}

type knexLockRow struct {
	Locked int `json:"is_locked"`
}

// knexLocked says whether a Knex would get its lock: not where it is set, nor
// where there are several rows.
func knexLocked(rows []knexLockRow) bool {
	return len(rows) > 1 || len(rows) == 1 && rows[0].Locked != 0
}

// An instant is a timestamptz in JSON. Knex's may be anything: what is not a
// time is the zero time.
type instant time.Time

func (i *instant) UnmarshalJSON(text []byte) error {
	if t, err := time.Parse(`"`+time.RFC3339Nano+`"`, string(text)); err == nil {
		*i = instant(t.UTC())
	}
	return nil
}

// upsertRecords is SQL that writes records, in place of what there is about
// their migrations. New ones get ids from the one after last.
func upsertRecords(table string, last int64, opts skein.SessionOptions, records []skein.Record) string {
	var b strings.Builder
	b.WriteString("INSERT INTO " + table + " (id, name, state, batch, checksum, done, total, fingerprints, started_at, applied_at, duration_ms, applied_by, tool) VALUES ")
	for i, r := range records {
		if i > 0 {
			b.WriteString(", ")
		}
		started, applied, millis := "pg_catalog.clock_timestamp()", "pg_catalog.clock_timestamp()", strconv.FormatInt(r.Duration.Milliseconds(), 10)
		if !r.AppliedAt.IsZero() {
			applied = quoteLiteral(r.AppliedAt.UTC().Format(time.RFC3339Nano)) + "::timestamptz"
			started = applied
		}
		if r.Partial() {
			applied, millis = "NULL", "NULL"
		}
		fmt.Fprintf(&b, "(%d, %s, %s, %d, %s, %d, %d, %s, %s, %s, %s, %s, %s)",
			last+1+int64(i), quoteLiteral(r.Name), quoteLiteral(string(r.State)), r.Batch, nullable(r.Checksum), r.Done, r.Total, nullable(r.Fingerprints), started, applied, millis,
			nullable(first(255, cmp.Or(r.By, opts.By))), nullable(first(64, cmp.Or(r.Tool, opts.Tool))))
	}
	b.WriteString(replaceRecord)
	return b.String()
}

// replaceRecord is the end of an INSERT that takes the place of what there was
// about its migration.
const replaceRecord = ` ON CONFLICT (name) DO UPDATE SET state = excluded.state, batch = excluded.batch, checksum = excluded.checksum,
	done = excluded.done, total = excluded.total, fingerprints = excluded.fingerprints, started_at = excluded.started_at,
	applied_at = excluded.applied_at, duration_ms = excluded.duration_ms, applied_by = excluded.applied_by, tool = excluded.tool`

// insertApplied is SQL that records a migration at the end of the transaction
// that it ran in, and took the time since began, which is SQL too.
func insertApplied(table string, id int64, opts skein.SessionOptions, step skein.Step, began string) string {
	insert := "INSERT INTO " + table + " (id, name, state, batch, checksum, started_at, applied_at, duration_ms, applied_by, tool) VALUES (" +
		strconv.FormatInt(id, 10) + ", " + quoteLiteral(step.Migration.Name) + ", 'applied', " + strconv.Itoa(step.Batch) + ", " + nullable(step.Migration.Checksum) +
		", " + began + ", pg_catalog.clock_timestamp(), EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - " + began + ") * 1000, " +
		nullable(first(255, opts.By)) + ", " + nullable(first(64, opts.Tool)) + ")"
	if step.Began {
		insert += replaceRecord
	}
	return insert
}

func deleteRecord(table, name string) string {
	return "DELETE FROM " + table + " WHERE name = " + quoteLiteral(name)
}

func nullable(s string) string {
	if s == "" {
		return "NULL"
	}
	return quoteLiteral(s)
}

// first is at most the first n characters of a text.
func first(n int, s string) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n])
}
