package faulttest

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/engine/mysql"
	"github.com/skeinhq/skein/engine/postgres"
	"github.com/skeinhq/skein/internal/dbtest"
	"github.com/skeinhq/skein/secret"
)

// A kind is an engine with a server to try it on.
type kind struct {
	name   string
	server *dbtest.Server
	engine func(skein.SessionOptions) skein.Engine
}

func kinds(t testing.TB) []kind {
	return []kind{
		{skein.PostgreSQL, dbtest.Postgres(t), func(o skein.SessionOptions) skein.Engine { return postgres.New(o) }},
		{skein.MySQL, dbtest.MySQL(t), func(o skein.SessionOptions) skein.Engine { return mysql.New(o) }},
	}
}

func (k kind) address() string {
	return net.JoinHostPort(k.server.Host(), strconv.Itoa(k.server.Port()))
}

// newTarget makes an empty database, that is reached over a port of 127.0.0.1.
func (k kind) newTarget(t testing.TB, port int) skein.Target {
	t.Helper()
	database, user, password := k.server.CreateDatabase(t)
	return skein.Target{Engine: k.name, Host: "127.0.0.1", Port: port, Database: database, User: user, Password: secret.New(password)}
}

// An effect is a statement that tells whether it has run: twice fails, or shows.
type effect struct {
	what string // table, column, index, slow index, row
	name string // of a row its number
}

// rows is the table of all effects.
const rows = "notes"

func (e effect) sql(k kind) string {
	switch e.what {
	case "table":
		return "CREATE TABLE " + e.name + " (n integer, note varchar(20))"
	case "column":
		return "ALTER TABLE " + rows + " ADD COLUMN " + e.name + " integer"
	case "index":
		return "CREATE INDEX " + e.name + " ON " + rows + " (n)"
	case "slow index":
		if k.name == skein.PostgreSQL {
			return "CREATE INDEX CONCURRENTLY " + e.name + " ON " + rows + " (n)"
		}
		return "CREATE INDEX " + e.name + " ON " + rows + " (n)"
	}
	return "INSERT INTO " + rows + " (n) VALUES (" + e.name + ")"
}

func (e effect) undo(k kind) string {
	switch e.what {
	case "table":
		return "DROP TABLE " + e.name
	case "column":
		return "ALTER TABLE " + rows + " DROP COLUMN " + e.name
	case "index", "slow index":
		if k.name == skein.PostgreSQL {
			return "DROP INDEX " + e.name
		}
		return "DROP INDEX " + e.name + " ON " + rows
	}
	return "DELETE FROM " + rows + " WHERE n = " + e.name
}

// counts are how many times each of some effects is there.
func counts(t testing.TB, k kind, database string, effects ...effect) []int {
	t.Helper()
	schema := "public"
	if k.name == skein.MySQL {
		schema = database
	}
	// A query cannot name a table that may not be there.
	hasRows := false
	if slices.ContainsFunc(effects, func(e effect) bool { return e.what == "row" }) {
		hasRows = counts(t, k, database, effect{"table", rows})[0] > 0
	}
	selects := make([]string, len(effects))
	for i, e := range effects {
		from := ""
		switch {
		case e.what == "table":
			from = fmt.Sprintf("information_schema.tables WHERE table_schema = '%s' AND table_name = '%s'", schema, e.name)
		case e.what == "column":
			from = fmt.Sprintf("information_schema.columns WHERE table_schema = '%s' AND table_name = '%s' AND column_name = '%s'", schema, rows, e.name)
		case e.what == "row" && hasRows:
			from = rows + " WHERE n = " + e.name
		case e.what == "row":
			from = "(SELECT 1) none WHERE 1 = 0"
		case k.name == skein.MySQL:
			from = fmt.Sprintf("information_schema.statistics WHERE table_schema = '%s' AND index_name = '%s'", schema, e.name)
		default:
			from = fmt.Sprintf("pg_indexes WHERE schemaname = '%s' AND indexname = '%s'", schema, e.name)
		}
		selects[i] = "(SELECT count(*) FROM " + from + ")"
	}
	all := make([]int, len(effects))
	for i, text := range k.server.Query(t, database, "SELECT "+strings.Join(selects, ", "))[0] {
		var err error
		if all[i], err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// A change is a migration made of effects.
type change struct {
	name          string
	noTransaction bool
	effects       []effect
}

// changes are the migrations of the tests that visit each point of a run.
var changes = []change{
	{"0001_notes.sql", false, []effect{{"table", rows}, {"row", "1"}}},
	{"0002_more.sql", false, []effect{{"column", "two"}, {"row", "2"}}},
	{"0003_steps.sql", true, []effect{{"slow index", "notes_n"}, {"row", "3"}, {"column", "three"}}},
	{"0004_data.sql", false, []effect{{"row", "4"}, {"row", "5"}}},
}

// file is the text of a change's file.
func (c change) file(k kind) string {
	return "-- migrate:up" + map[bool]string{true: " transaction:false"}[c.noTransaction] + "\n" + c.sql(k)
}

func (c change) sql(k kind) string {
	statements := make([]string, len(c.effects))
	for i, e := range c.effects {
		statements[i] = e.sql(k) + ";\n"
	}
	return strings.Join(statements, "")
}

// set are changes as migrations.
func set(t testing.TB, k kind, changes []change) *skein.Set {
	t.Helper()
	migrations := make([]*skein.Migration, len(changes))
	for i, c := range changes {
		version, _, _ := strings.Cut(c.name, "_")
		migrations[i] = &skein.Migration{
			Name: c.name, Version: version, Path: c.name, Kind: skein.SQL, Checksum: strings.Repeat("0", 64),
			Up: &skein.Section{SQL: c.sql(k), Path: c.name, Line: 2, NoTransaction: c.noTransaction},
		}
	}
	s, err := skein.NewSet(migrations)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A row of skein_migrations.
type row struct {
	name, state string
	done        int
}

func history(t testing.TB, k kind, database string) []row {
	t.Helper()
	if counts(t, k, database, effect{"table", skein.HistoryTable})[0] == 0 {
		return nil
	}
	var all []row
	for _, r := range k.server.Query(t, database, "SELECT name, state, done FROM "+skein.HistoryTable+" ORDER BY id") {
		done, err := strconv.Atoi(r[2])
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, row{r[0], r[1], done})
	}
	return all
}

// wantWhole wants each change to have run once in a database, its history to say
// so, and its lock to be free.
func wantWhole(t testing.TB, k kind, database string, changes []change) {
	t.Helper()
	got := history(t, k, database)
	var effects []effect
	for _, c := range changes {
		effects = append(effects, c.effects...)
	}
	there := counts(t, k, database, effects...)
	for _, c := range changes {
		for _, e := range c.effects {
			n := there[0]
			if there = there[1:]; n != 1 {
				t.Errorf("%s: %s %s of %s is there %d times", database, e.what, e.name, c.name, n)
			}
		}
		of := slices.DeleteFunc(slices.Clone(got), func(r row) bool { return r.name != c.name })
		if len(of) != 1 || of[0].state != string(skein.Applied) {
			t.Errorf("%s: the history says of %s: %v", database, c.name, of)
		}
	}
	if len(got) != len(changes) {
		t.Errorf("%s: the history has %d migrations, want %d", database, len(got), len(changes))
	}
	wantFree(t, k, database)
}

// wantFree wants nobody to have a tenant's lock.
func wantFree(t testing.TB, k kind, database string) {
	t.Helper()
	query := "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE l.locktype = 'advisory' AND d.datname = $1"
	args := []any{database}
	if k.name == skein.MySQL {
		query, args = "SELECT count(*) FROM (SELECT IS_USED_LOCK(?) AS id) l WHERE id IS NOT NULL", []any{"skein:" + database}
	}
	if n := k.server.Query(t, "", query, args...)[0][0]; n != "0" {
		t.Errorf("%s: the lock is still taken", database)
	}
}

// putRight does what a person does about a migration that stopped: it finds out
// whether the statement that was running has had its effect, and undoes it, so
// that the migration can go on with that statement. It says whether there was
// one.
func putRight(t testing.TB, k kind, database string, changes []change) bool {
	t.Helper()
	for _, r := range history(t, k, database) {
		if r.state == string(skein.Applied) {
			continue
		}
		for _, c := range changes {
			if c.name != r.name || r.done == len(c.effects) {
				continue
			}
			there := counts(t, k, database, c.effects...)
			for i, e := range c.effects {
				n := there[i]
				switch {
				case i < r.done && n != 1:
					t.Errorf("%s: statement %d of %s is recorded as done, and its effect is there %d times", database, i+1, c.name, n)
				case i == r.done && n > 0:
					k.server.Exec(t, database, e.undo(k))
				case i > r.done && n > 0:
					t.Errorf("%s: statement %d of %s has run, and only %d are recorded", database, i+1, c.name, r.done)
				}
			}
		}
		return true
	}
	return false
}
