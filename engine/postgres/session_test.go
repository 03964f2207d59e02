package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/dbtest"
)

// A wire counts what goes over an engine's connections.
type wire struct {
	dials, trips atomic.Int64
}

func (w *wire) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.dials.Add(1)
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &countedConn{Conn: conn, wire: w}, nil
}

// take returns how many round trips there were since it was called last.
func (w *wire) take() int { return int(w.trips.Swap(0)) }

// A countedConn counts each read that comes after a write as a round trip.
type countedConn struct {
	net.Conn
	wire  *wire
	wrote atomic.Bool
}

func (c *countedConn) Write(b []byte) (int, error) {
	c.wrote.Store(true)
	return c.Conn.Write(b)
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && c.wrote.Swap(false) {
		c.wire.trips.Add(1)
	}
	return n, err
}

func countedEngine() (*Engine, *wire) {
	w := new(wire)
	e := New(skein.SessionOptions{By: "test@host", Tool: "skein test"})
	e.dialer.dial = w.dial
	return e, w
}

func open(t testing.TB, e *Engine, target skein.Target) *session {
	t.Helper()
	s, err := e.Open(t.Context(), target)
	if err != nil {
		t.Fatalf("open %s: %v", target, err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s.(*session)
}

func lock(t testing.TB, s *session) skein.History {
	t.Helper()
	h, err := s.Lock(t.Context(), 10*time.Second)
	if err != nil {
		t.Fatalf("lock: %v", err)
	}
	return h
}

func unlock(t testing.TB, s *session) {
	t.Helper()
	if err := s.Unlock(t.Context()); err != nil {
		t.Fatalf("unlock: %v", err)
	}
}

// step makes a step of SQL whose first line is line 10 of its file.
func step(t testing.TB, name, sql string, noTransaction bool) skein.Step {
	t.Helper()
	section := &skein.Section{SQL: sql, Path: "m/" + name, Line: 10, NoTransaction: noTransaction}
	statements, err := New(skein.SessionOptions{}).Parse(section)
	if err != nil {
		t.Fatal(err)
	}
	return skein.Step{
		Migration:  &skein.Migration{Name: name, Path: section.Path, Kind: skein.SQL, Checksum: strings.Repeat("c", 64), Up: section, Down: section},
		Direction:  skein.Up,
		Statements: statements,
		Batch:      1,
	}
}

func apply(t testing.TB, s *session, step skein.Step) {
	t.Helper()
	if _, err := s.Apply(t.Context(), step); err != nil {
		t.Fatalf("apply %s: %v", step.Migration.Name, err)
	}
}

// failing applies a step that is to fail in its SQL.
func failing(t testing.TB, s *session, step skein.Step) *skein.StatementError {
	t.Helper()
	_, err := s.Apply(t.Context(), step)
	broken, ok := errors.AsType[*skein.StatementError](err)
	if !ok {
		t.Fatalf("the error of %s is %T: %v", step.Migration.Name, err, err)
	}
	return broken
}

func names(h skein.History) []string {
	var names []string
	for _, r := range h.Records {
		names = append(names, r.Name+" "+string(r.State))
	}
	return names
}

func TestRoundTrips(t *testing.T) {
	database := newDatabase(t)
	database.Options = map[string]string{"sslmode": "disable"}
	a, b := addSchema(t, database, "a"), addSchema(t, database, "b")
	const login = 3 // the startup message, and two for SCRAM

	for name, target := range map[string]skein.Target{"database": database, "schema": a} {
		e, w := countedEngine()
		expect := func(what string, want int) {
			t.Helper()
			if got := w.take(); got != want {
				t.Errorf("%s: %s took %d round trips instead of %d", name, what, got, want)
			}
		}
		s := open(t, e, target)
		expect("opening", login)
		history := func() {
			t.Helper()
			if _, err := s.History(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		history()
		expect("the history of an empty tenant", 1)
		lock(t, s)
		expect("locking, with the history", 1)
		apply(t, s, step(t, "1.sql", "CREATE TABLE one (id int); INSERT INTO one VALUES (1), (2); CREATE INDEX ON one (id)", false))
		expect("the first migration, with Skein's table", 1)
		apply(t, s, step(t, "2.sql", "CREATE TABLE two (id int)", false))
		expect("the second migration", 1)
		unlock(t, s)
		expect("unlocking", 1)
		history()
		expect("the history", 1)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, e, target)
		history()
		expect("looking at a tenant that is up to date", login+1)
		if target.Schema == "" {
			continue
		}
		if !s.Switch(b) {
			t.Fatal("the session does not switch")
		}
		expect("switching", 0)
		history()
		expect("the history of the next schema", 1)
		lock(t, s)
		apply(t, s, step(t, "1.sql", "CREATE TABLE one (id int)", false))
		unlock(t, s)
		expect("locking, migrating and unlocking the next schema", 3)
	}
}

func TestLookingLeavesNoTrace(t *testing.T) {
	server, target := dbtest.Postgres(t), newDatabase(t)
	s := open(t, New(skein.SessionOptions{}), target)
	if _, err := s.History(t.Context()); err != nil {
		t.Fatal(err)
	}
	lock(t, s)
	unlock(t, s)
	if _, err := s.ClearKnexLock(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// A statement with an error, which the server would log, is a transaction
	// that was rolled back. The counts arrive some time after a session ended.
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		row := server.Query(t, "", "SELECT xact_commit, xact_rollback FROM pg_stat_database WHERE datname = $1", target.Database)[0]
		if row[1] != "0" {
			t.Fatalf("%s transactions were rolled back", row[1])
		}
		if row[0] >= "4" && len(row[0]) == 1 || len(row[0]) > 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the server counts %s transactions", row[0])
		}
	}
	if rows := queryAs(t, target, "SELECT relname FROM pg_class WHERE relnamespace IN ('public'::regnamespace)"); len(rows) > 0 {
		t.Errorf("looking made %q", rows)
	}
}

func TestCRM(t *testing.T) {
	files, err := filepath.Glob("testdata/crm/*.up.sql")
	if err != nil || len(files) != 6 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	e := New(skein.SessionOptions{})
	read := func(path string) *skein.Section {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return &skein.Section{SQL: string(text), Path: path, Line: 1}
	}
	for kind, target := range map[string]skein.Target{"database": newDatabase(t), "schema": newSchema(t)} {
		s := open(t, e, target)
		lock(t, s)
		tables := func() string {
			return queryAs(t, target, "SELECT coalesce(string_agg(tablename, ' ' ORDER BY tablename), '') FROM pg_tables WHERE schemaname = current_schema()")[0][0]
		}
		var steps []skein.Step
		for _, up := range files {
			m := &skein.Migration{Name: filepath.Base(up), Path: up, Kind: skein.SQL, Up: read(up), Down: read(strings.Replace(up, ".up.", ".down.", 1))}
			statements, err := e.Parse(m.Up)
			if err != nil {
				t.Fatal(err)
			}
			steps = append(steps, skein.Step{Migration: m, Direction: skein.Up, Statements: statements, Batch: 1})
		}
		for range 2 {
			for _, step := range steps {
				apply(t, s, step)
			}
			if want := "activities contacts field_definitions object_definitions roles skein_migrations user_roles users"; tables() != want {
				t.Errorf("%s: after the ups the tables are %q, not %q", kind, tables(), want)
			}
			if got := queryAs(t, target, "SELECT description FROM roles ORDER BY id")[2][0]; got != "Own records only" {
				t.Errorf("%s: the last migration's UPDATE left %q", kind, got)
			}
			for _, up := range slices.Backward(steps) {
				down := skein.Step{Migration: up.Migration, Direction: skein.Down}
				if down.Statements, err = e.Parse(up.Migration.Down); err != nil {
					t.Fatal(err)
				}
				apply(t, s, down)
			}
			if want := "skein_migrations"; tables() != want {
				t.Errorf("%s: after the downs the tables are %q, not %q", kind, tables(), want)
			}
		}
		history, err := s.History(t.Context())
		if err != nil || len(history.Records) > 0 {
			t.Errorf("%s: after the downs the history is %v, %v", kind, history, err)
		}
	}
}

func TestSearchPath(t *testing.T) {
	server, database := dbtest.Postgres(t), newDatabase(t)
	server.Exec(t, database.Database, `CREATE EXTENSION citext SCHEMA public;
		CREATE TABLE public.shared (id int);
		CREATE TABLE public.skein_migrations (name text);
		CREATE SCHEMA extra; CREATE TYPE extra.mood AS ENUM ('fine')`)
	server.Exec(t, database.Database, "GRANT ALL ON ALL TABLES IN SCHEMA public TO "+database.User+"; GRANT USAGE ON SCHEMA extra TO "+database.User)
	target := addSchema(t, database, "Tenant, one")
	e := New(skein.SessionOptions{})

	s := open(t, e, target)
	if history, err := s.History(t.Context()); err != nil || len(history.Records) > 0 {
		t.Fatalf("the history of the schema is %v, %v", history, err)
	}
	lock(t, s)
	apply(t, s, step(t, "1.sql", "CREATE TABLE people (email citext); SELECT * FROM shared", false))
	got := server.Query(t, database.Database, "SELECT tablename FROM pg_tables WHERE schemaname = 'Tenant, one' ORDER BY 1")
	if diff := cmp.Diff([][]string{{"people"}, {"skein_migrations"}}, got); diff != "" {
		t.Errorf("the tables of the schema (-want +got):\n%s", diff)
	}
	unlock(t, s)

	for path, want := range map[string]string{"extra": `"Tenant, one", extra`, "extra, public": `"Tenant, one", extra, public`, " ": `"Tenant, one"`} {
		target.Options = map[string]string{"search_path": path}
		s := open(t, e, target)
		lock(t, s)
		apply(t, s, step(t, "path.sql", "CREATE TABLE path AS SELECT current_setting('search_path') AS path", false))
		if got := server.Query(t, database.Database, `SELECT path FROM "Tenant, one".path`)[0][0]; got != want {
			t.Errorf("with search_path=%s the path is %s, not %s", path, got, want)
		}
		down := step(t, "path.sql", "DROP TABLE path", false)
		down.Direction = skein.Down
		apply(t, s, down)
		unlock(t, s)
	}

	// Without a schema the role's own path counts, and Skein's table is in the
	// first schema of it that exists.
	server.Exec(t, database.Database, "CREATE SCHEMA "+quoteIdent(database.User)+" AUTHORIZATION "+quoteIdent(database.User))
	s = open(t, e, database)
	lock(t, s)
	apply(t, s, step(t, "1.sql", "CREATE TABLE own (id int)", false))
	got = server.Query(t, database.Database, "SELECT tablename FROM pg_tables WHERE schemaname = $1 ORDER BY 1", database.User)
	if diff := cmp.Diff([][]string{{"own"}, {"skein_migrations"}}, got); diff != "" {
		t.Errorf("the tables of the role's schema (-want +got):\n%s", diff)
	}
	server.Exec(t, "", "ALTER ROLE "+quoteIdent(database.User)+" SET search_path TO nowhere")
	_, err := open(t, e, database).History(t.Context())
	if skein.ErrorClass(err) != skein.NoDatabase {
		t.Errorf("without any schema the error is %v", err)
	}
}

// A migration may change its session as it likes: its record is written, and the
// next migration sees nothing of it.
func TestSessionStateOfMigrations(t *testing.T) {
	server, database := dbtest.Postgres(t), newDatabase(t)
	a, b := addSchema(t, database, "a"), addSchema(t, database, "b")
	other := dbtest.UniqueName()
	server.Exec(t, "", "CREATE ROLE "+other+"; GRANT "+other+" TO "+database.User)
	t.Cleanup(func() {
		server.Exec(t, database.Database, "DROP OWNED BY "+other)
		server.Exec(t, "", "DROP ROLE "+other)
	})
	server.Exec(t, database.Database, "GRANT USAGE, CREATE ON SCHEMA a, b TO "+other)
	state := func(table string) string {
		return "CREATE TABLE " + table + ` AS SELECT current_user::text AS who, current_setting('search_path') AS path,
			current_setting('statement_timeout') AS timeout, (SELECT count(*) FROM pg_prepared_statements) AS prepared,
			(SELECT count(*) FROM pg_cursors WHERE name <> '') AS cursors, to_regclass('scratch') IS NOT NULL AS temp`
	}
	changes := `SET statement_timeout = 12345;
		SET ROLE ` + other + `;
		CREATE TEMP TABLE scratch (id int);
		PREPARE p AS SELECT 1;
		DECLARE c CURSOR WITH HOLD FOR SELECT 1;
		LISTEN news;
		SELECT pg_advisory_lock(4711);
		SELECT pg_catalog.set_config('search_path', '', false);
		CREATE TABLE %s.dumped (id int);`
	e := New(skein.SessionOptions{})
	for name, noTransaction := range map[string]bool{"transaction": false, "none": true} {
		s := open(t, e, a)
		for _, target := range []skein.Target{a, b} {
			if target.Schema == "b" && !s.Switch(b) {
				t.Fatal("the session does not switch")
			}
			lock(t, s)
			for _, m := range []skein.Step{
				step(t, "1.sql", state("before"), noTransaction),
				step(t, "2.sql", fmt.Sprintf(changes, target.Schema), noTransaction),
				step(t, "3.sql", state("after"), noTransaction),
				step(t, "4.sql", fmt.Sprintf(strings.ReplaceAll(changes, "dumped", "again"), target.Schema), noTransaction),
			} {
				apply(t, s, m)
			}
			unlock(t, s)
			rows := queryAs(t, target, "SELECT * FROM before UNION ALL SELECT * FROM after")
			want := []string{database.User, target.Schema + ", public", "0", "0", "0", "f"}
			for i, row := range rows {
				row[1] = strings.ReplaceAll(row[1], `"`, "")
				if !slices.Equal(row, want) {
					t.Errorf("%s: migration %d in %s began with %q, not %q", name, i*2+1, target.Schema, row, want)
				}
			}
			history, err := s.History(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if want := []string{"1.sql applied", "2.sql applied", "3.sql applied", "4.sql applied"}; !slices.Equal(names(history), want) {
				t.Errorf("%s: the history of %s is %q", name, target.Schema, names(history))
			}
			locks := server.Query(t, database.Database, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = $1", int64(s.conn.PID()))
			if locks[0][0] != "0" {
				t.Errorf("%s: after %s the session has %s advisory locks", name, target.Schema, locks[0][0])
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		server.Exec(t, database.Database, "DROP TABLE a.before, a.after, a.dumped, a.again, a.skein_migrations, b.before, b.after, b.dumped, b.again, b.skein_migrations")
	}
}

func TestDeferredConstraint(t *testing.T) {
	target := newDatabase(t)
	s := open(t, New(skein.SessionOptions{}), target)
	lock(t, s)
	broken := failing(t, s, step(t, "1.sql", `CREATE TABLE a (id int PRIMARY KEY);
		CREATE TABLE b (a int REFERENCES a DEFERRABLE INITIALLY DEFERRED);
		INSERT INTO b VALUES (1)`, false))
	if broken.Index != 0 || broken.Line != 0 || broken.Partial || broken.Total != 3 {
		t.Errorf("the error is %+v", broken)
	}
	if answer, ok := errors.AsType[*skein.DatabaseError](broken); !ok || answer.Code != "23503" {
		t.Errorf("the cause is %v", broken.Err)
	}
	if rows := queryAs(t, target, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"); len(rows) > 0 {
		t.Errorf("%q stayed", rows)
	}
	apply(t, s, step(t, "1.sql", "CREATE TABLE a (id int PRIMARY KEY)", false))
}

func TestErrorPlaces(t *testing.T) {
	server := dbtest.Postgres(t)
	ascii := newDatabase(t)
	server.Exec(t, "", "DROP DATABASE "+ascii.Database+"; ")
	server.Exec(t, "", "CREATE DATABASE "+ascii.Database+" OWNER "+ascii.User+" TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
	tests := []struct {
		name, sql string
		index     int
		line      int
		code      string
	}{
		{"after wide characters", "SELECT 'üñí 数据 🪿';\nSELECT '🪿🪿🪿',\n  '数据',\n  missing\n  ;\nSELECT 2", 2, 13, "42703"},
		{"syntax, nothing runs", "CREATE TABLE one (id int);\nCREATE TABLE two (\n id int,\n);\nSELECT 1", 2, 13, "42601"},
		{"ends too early", "SELECT 1;\nSELECT 2\nFROM", 2, 12, "42601"},
		{"while it runs", "SELECT 1;\n\nSELECT\n 1/0;\nSELECT 2", 2, 12, "22012"},
		{"in a function", "SELECT 1;\nDO $$\nBEGIN\n  PERFORM missing();\nEND $$;", 2, 11, "42883"},
		{"a comment before", "-- ü\n/* 数\n */ SELECT missing", 1, 12, "42703"},
		{"of a transaction's end in a procedure", "SELECT 1;\nDO $$ BEGIN COMMIT; END $$", 2, 11, "2D000"},
	}
	for _, target := range []skein.Target{newDatabase(t), ascii} {
		for _, noTransaction := range []bool{false, true} {
			for _, test := range tests {
				if noTransaction && test.code == "2D000" {
					continue // it may, there
				}
				t.Run(fmt.Sprintf("%s/%t", test.name, noTransaction), func(t *testing.T) {
					s := open(t, New(skein.SessionOptions{}), target)
					lock(t, s)
					broken := failing(t, s, step(t, "1.sql", test.sql, noTransaction))
					answer, ok := errors.AsType[*skein.DatabaseError](broken)
					if !ok || answer.Code != test.code || broken.Index != test.index || broken.Line != test.line {
						t.Errorf("statement %d, line %d: %v; not statement %d, line %d: %s", broken.Index, broken.Line, broken, test.index, test.line, test.code)
					}
					if test.code == "2D000" && !strings.Contains(skein.Hint(broken), "transaction:false") {
						t.Errorf("the hint is %q", skein.Hint(broken))
					}
					if broken.Partial {
						if err := s.Record(t.Context(), []skein.Record{{Name: "1.sql", State: skein.Applied}}); err != nil {
							t.Fatal(err)
						}
					}
				})
			}
		}
	}
}

func TestConcurrentIndex(t *testing.T) {
	target := newDatabase(t)
	s := open(t, New(skein.SessionOptions{}), target)
	lock(t, s)
	apply(t, s, step(t, "1.sql", "CREATE TABLE one (id int); INSERT INTO one VALUES (1), (1)", false))
	record := func() string {
		rows := queryAs(t, target, "SELECT state, done, total FROM skein_migrations WHERE name = '2.sql'")
		return fmt.Sprint(rows)
	}

	broken := failing(t, s, step(t, "2.sql", "CREATE INDEX CONCURRENTLY missing_id ON missing (id)", true))
	if broken.Partial || record() != "[]" {
		t.Errorf("an index on a missing table: %+v, recorded as %s", broken, record())
	}
	broken = failing(t, s, step(t, "2.sql", "CREATE UNIQUE INDEX CONCURRENTLY one_id ON one (id);\nSELECT 1", true))
	if !broken.Partial || broken.Index != 1 || record() != "[[applying 0 2]]" {
		t.Errorf("an index that is left invalid: %+v, recorded as %s", broken, record())
	}
	if rows := queryAs(t, target, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'one_id'::regclass"); len(rows) != 1 || rows[0][0] != "f" {
		t.Errorf("the index is %q", rows)
	}
	const remove = `DROP INDEX CONCURRENTLY "public"."one_id"`
	if hint := skein.Hint(broken); !strings.Contains(hint, "INVALID") || !strings.HasSuffix(hint, remove) {
		t.Errorf("the hint does not say how to remove the index: %s", hint)
	}
	left, err := s.Leftovers(t.Context())
	if err != nil || len(left) != 1 || left[0].Remove != remove {
		t.Errorf("the leftovers are %+v, %v", left, err)
	}
	execAs(t, target, left[0].Remove)
	if left, err = s.Leftovers(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("the leftovers are %+v, %v", left, err)
	}
	execAs(t, target, "DELETE FROM one; DELETE FROM skein_migrations WHERE name = '2.sql'")
	apply(t, s, step(t, "2.sql", "CREATE UNIQUE INDEX CONCURRENTLY one_id ON one (id);\nVACUUM one;\nSELECT 1", true))
	if record() != "[[applied 3 3]]" {
		t.Errorf("recorded as %s", record())
	}
	down := step(t, "2.sql", "DROP INDEX CONCURRENTLY missing;", true)
	down.Direction = skein.Down
	broken = failing(t, s, down)
	if broken.Partial || record() != "[[applied 3 3]]" {
		t.Errorf("a down that did nothing: %+v, recorded as %s", broken, record())
	}
	down = step(t, "2.sql", "DROP INDEX CONCURRENTLY one_id;", true)
	down.Direction = skein.Down
	apply(t, s, down)
	if record() != "[]" {
		t.Errorf("recorded as %s", record())
	}
}

// An index that somebody is making is INVALID until it is done, and nobody's to
// remove.
func TestLeftoversUnderWay(t *testing.T) {
	target := newDatabase(t)
	execAs(t, target, "CREATE TABLE one (id int)")
	writer, maker := connectAs(t, target), connectAs(t, target)
	if _, err := writer.Exec(t.Context(), "BEGIN; INSERT INTO one VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	made := make(chan error, 1)
	go func() {
		_, err := maker.Exec(t.Context(), "CREATE INDEX CONCURRENTLY one_id ON one (id)")
		made <- err
	}()
	for end := time.Now().Add(10 * time.Second); len(queryAs(t, target, "SELECT FROM pg_index WHERE NOT indisvalid")) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the index is not being made")
		}
	}
	left, err := open(t, New(skein.SessionOptions{}), target).Leftovers(t.Context())
	if err != nil || len(left) > 0 {
		t.Errorf("the leftovers are %+v, %v", left, err)
	}
	if _, err := writer.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := <-made; err != nil {
		t.Error(err)
	}
}

func TestNoTransaction(t *testing.T) {
	target := newDatabase(t)
	s := open(t, New(skein.SessionOptions{}), target)
	lock(t, s)
	state := func(name string) string {
		return fmt.Sprint(queryAs(t, target, "SELECT state, done, total FROM skein_migrations WHERE name = '"+name+"'"))
	}
	apply(t, s, step(t, "1.sql", `CREATE TABLE one (id int);
		CREATE PROCEDURE fill() LANGUAGE plpgsql AS 'BEGIN INSERT INTO one VALUES (1); COMMIT; INSERT INTO one VALUES (2); COMMIT; END';
		CALL fill();
		BEGIN; INSERT INTO one VALUES (3); COMMIT;
		CREATE SEQUENCE attempts;`, true))
	if got := state("1.sql"); got != "[[applied 7 7]]" {
		t.Errorf("with transactions of its own it is recorded as %s", got)
	}

	// The statements of a transaction that is not committed have not run.
	broken := failing(t, s, step(t, "2.sql", "INSERT INTO one VALUES (4);\nBEGIN;\nINSERT INTO one VALUES (5);\nINSERT INTO missing VALUES (6);\nCOMMIT", true))
	if got := state("2.sql"); !broken.Partial || broken.Index != 4 || got != "[[applying 1 5]]" {
		t.Errorf("a transaction of its own that fails: %+v, recorded as %s", broken, got)
	}
	broken = failing(t, s, step(t, "3.sql", "INSERT INTO one VALUES (7);\nBEGIN;\nINSERT INTO one VALUES (8);", true))
	if got := state("3.sql"); !broken.Partial || got != "[[applying 1 3]]" || !strings.Contains(broken.Error(), "COMMIT is missing") {
		t.Errorf("a transaction that is left open: %+v, recorded as %s", broken, got)
	}
	if got := fmt.Sprint(queryAs(t, target, "SELECT id FROM one ORDER BY id")); got != "[[1] [2] [3] [4] [7]]" {
		t.Errorf("the rows are %s", got)
	}

	// What cannot share a transaction says so only when it runs, if an extension
	// brought it. It is run alone then.
	apply(t, s, step(t, "4.sql", `CREATE FUNCTION alone() RETURNS int LANGUAGE plpgsql AS $$
		BEGIN
			IF nextval('attempts') = 1 THEN RAISE 'not in a transaction' USING ERRCODE = '25001'; END IF;
			RETURN 1;
		END $$;
		SELECT alone()`, true))
	if got := state("4.sql"); got != "[[applied 2 2]]" {
		t.Errorf("it is recorded as %s", got)
	}
	broken = failing(t, s, step(t, "5.sql", "DO $$ BEGIN INSERT INTO one VALUES (9); COMMIT; PERFORM missing(); END $$", true))
	if got := state("5.sql"); !broken.Partial || got != "[[applying 0 1]]" {
		t.Errorf("code that committed half of its work: %+v, recorded as %s", broken, got)
	}
}

func TestRights(t *testing.T) {
	server, target := dbtest.Postgres(t), newDatabase(t)
	owner := open(t, New(skein.SessionOptions{}), target)
	lock(t, owner)
	apply(t, owner, step(t, "1.sql", "CREATE TABLE one (id int)", false))
	unlock(t, owner)
	execAs(t, target, "CREATE TABLE knex_migrations (id serial, name text, batch int, migration_time timestamptz); CREATE TABLE knex_migrations_lock (\"index\" serial, is_locked int)")

	guest := newDatabase(t)
	guest.Database = target.Database
	t.Cleanup(func() { server.Exec(t, target.Database, "DROP OWNED BY "+guest.User) })
	wantDenied := func(err error, hint string) {
		t.Helper()
		if skein.ErrorClass(err) != skein.Denied || !strings.Contains(skein.Hint(err), hint) {
			t.Errorf("the error is %v, with the hint %q", err, skein.Hint(err))
		}
	}
	s := open(t, New(skein.SessionOptions{}), guest)
	_, err := s.History(t.Context())
	wantDenied(err, "GRANT SELECT ON ALL TABLES IN SCHEMA \"public\" TO ")
	if _, err = s.Lock(t.Context(), 0); err == nil {
		t.Fatal("a role that cannot read the history has the lock")
	}
	wantDenied(err, "GRANT SELECT")
	lock(t, owner) // which is free
	unlock(t, owner)
	server.Exec(t, target.Database, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO "+guest.User)
	if history, err := s.History(t.Context()); err != nil || len(history.Records) != 1 {
		t.Errorf("with SELECT alone the history is %v, %v", history, err)
	}
	lock(t, s)
	_, err = s.Apply(t.Context(), step(t, "2.sql", "SELECT 1", false))
	wantDenied(err, "GRANT SELECT, INSERT, UPDATE, DELETE ON public.skein_migrations TO ")
	_, err = s.Apply(t.Context(), step(t, "2.sql", "SELECT 1;\nINSERT INTO one VALUES (1)", false))
	wantDenied(err, "")
	if broken, ok := errors.AsType[*skein.StatementError](err); !ok || broken.Index != 2 {
		t.Errorf("a statement without the right to run it: %v", err)
	}
	unlock(t, s)
	server.Exec(t, target.Database, "DROP TABLE skein_migrations; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
	lock(t, s)
	for _, noTransaction := range []bool{false, true} {
		_, err = s.Apply(t.Context(), step(t, "2.sql", "SELECT 1", noTransaction))
		wantDenied(err, "GRANT CREATE, USAGE ON SCHEMA public TO ")
	}
}

func TestLockSeesWhatWasCommitted(t *testing.T) {
	server, target := dbtest.Postgres(t), newDatabase(t)
	server.Exec(t, "", "ALTER ROLE "+target.User+" SET default_transaction_isolation TO 'repeatable read'")
	e := New(skein.SessionOptions{})
	for i := range 20 {
		// One takes the lock while the other commits under it and gives it back.
		a, b := open(t, e, target), open(t, e, target)
		lock(t, a)
		got := make(chan skein.History, 1)
		go func() {
			h, err := b.Lock(t.Context(), 30*time.Second)
			if err != nil {
				t.Error(err)
			}
			got <- h
		}()
		name := fmt.Sprintf("%02d.sql", i)
		apply(t, a, step(t, name, "SELECT 1", false))
		unlock(t, a)
		if h := <-got; len(h.Records) != i+1 {
			t.Fatalf("under the lock the history is %q, without %s", names(h), name)
		}
		unlock(t, b)
		closeAll(t, a, b)
	}
}

func closeAll(t *testing.T, sessions ...*session) {
	t.Helper()
	for _, s := range sessions {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLostLock(t *testing.T) {
	target := newDatabase(t)
	s := open(t, New(skein.SessionOptions{}), target)
	lock(t, s)
	apply(t, s, step(t, "1.sql", "SELECT pg_advisory_unlock_all()", false))
	if err := s.Unlock(t.Context()); err == nil || !strings.Contains(err.Error(), "pg_advisory_unlock_all") {
		t.Errorf("giving back a lock that is gone: %v", err)
	}
	if _, err := s.Apply(t.Context(), step(t, "2.sql", "SELECT 1", false)); !errors.Is(err, errNotLocked) {
		t.Errorf("applying without the lock: %v", err)
	}
	if err := s.Record(t.Context(), []skein.Record{{Name: "2.sql", State: skein.Applied}}); !errors.Is(err, errNotLocked) {
		t.Errorf("recording without the lock: %v", err)
	}
}

func TestConnectionLost(t *testing.T) {
	server, target := dbtest.Postgres(t), newDatabase(t)
	for _, noTransaction := range []bool{false, true} {
		s := open(t, New(skein.SessionOptions{}), target)
		lock(t, s)
		done := make(chan error, 1)
		m := step(t, "1.sql", "CREATE TABLE one (id int);\nSELECT pg_sleep(60)", noTransaction)
		go func() {
			_, err := s.Apply(t.Context(), m)
			done <- err
		}()
		for len(server.Query(t, "", "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'", int64(s.conn.PID()))) == 0 {
			time.Sleep(20 * time.Millisecond)
		}
		server.Exec(t, "", fmt.Sprintf("SELECT pg_terminate_backend(%d)", s.conn.PID()))
		err := <-done
		if skein.ErrorClass(err) != skein.ConnectionLost {
			t.Errorf("the error is %q: %v", skein.ErrorClass(err), err)
		}
		if s.Switch(target) {
			t.Error("a session that ended switches")
		}
	}
}

func TestPasswordsInStatements(t *testing.T) {
	s := open(t, New(skein.SessionOptions{}), newDatabase(t))
	lock(t, s)
	broken := failing(t, s, step(t, "1.sql", "CREATE ROLE nobody LOGIN PASSWORD 'hunter2'", false))
	if text := fmt.Sprintf("%+v %v", *broken, broken); strings.Contains(text, "hunter2") {
		t.Errorf("the error shows a password: %s", text)
	}
}

// A statement that catches being cancelled is ended with its session.
func TestTimeoutEndsTheSession(t *testing.T) {
	target := newDatabase(t)
	m := &skein.Migration{Name: "1.sql", Version: "1", Path: "1.sql", Kind: skein.SQL, Up: &skein.Section{Path: "1.sql", Line: 1, SQL: `
		DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$`}}
	set, err := skein.NewSet([]*skein.Migration{m})
	if err != nil {
		t.Fatal(err)
	}
	e := New(skein.SessionOptions{})
	session := open(t, e, target)
	r := skein.NewMigrator(e, set, 0).WithTimeout(time.Second).
		Migrate(t.Context(), session, skein.Tenant{Target: target}, skein.PlanOptions{}, nil, func(skein.Event) {})
	timeout, ok := errors.AsType[*skein.TimeoutError](r.Err)
	if !ok || timeout.EndErr != nil || !strings.Contains(timeout.Activity, "PgSleep") {
		t.Errorf("the error is %v", r.Err)
	}
	if rows := dbtest.Postgres(t).Query(t, "", "SELECT query FROM pg_stat_activity WHERE datname = $1", target.Database); len(rows) > 0 {
		t.Errorf("still at the server are %q", rows)
	}
}
