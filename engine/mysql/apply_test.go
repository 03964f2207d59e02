package mysql

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/dbtest"
)

func TestApplyFlights(t *testing.T) {
	target := newTarget(t)
	var f flights
	e := f.count(New(skein.SessionOptions{LockTimeout: 1500 * time.Millisecond, StatementTimeout: time.Minute}))
	s := open(t, e, target)
	login := f.since()
	if login > 1 {
		t.Errorf("the login took %d flights", login)
	}
	for _, test := range []struct {
		what    string
		flights int
		do      func() error
	}{
		{"History", 1, func() error { _, err := s.History(t.Context()); return err }},
		{"Lock", 1, func() error { _, err := s.Lock(t.Context(), 0); return err }},
		{"a schema change of two statements", 3, func() error {
			return apply(t, e, s, migration("1.sql", "CREATE TABLE a (id int); CREATE TABLE b (id int)", "DROP TABLE b"), skein.Up)
		}},
		{"a data change of one statement", 1, func() error {
			return apply(t, e, s, migration("2.sql", "INSERT INTO a VALUES (1)", ""), skein.Up)
		}},
		{"a data change of three statements", 3, func() error {
			return apply(t, e, s, migration("3.sql", "INSERT INTO a VALUES (1); SELECT * FROM a; DELETE FROM a", ""), skein.Up)
		}},
		{"a down of one statement", 2, func() error {
			return apply(t, e, s, migration("1.sql", "", "DROP TABLE b"), skein.Down)
		}},
		{"recording a migration", 2, func() error {
			return s.Record(t.Context(), []skein.Record{{Name: "4.sql", State: skein.Applied, Batch: 2}})
		}},
		{"Unlock", 1, func() error { return s.Unlock(t.Context()) }},
		{"History once more", 1, func() error { _, err := s.History(t.Context()); return err }},
	} {
		if err := test.do(); err != nil {
			t.Fatalf("%s: %v", test.what, err)
		}
		if n := f.since(); n != test.flights {
			t.Errorf("%s took %d flights, not %d", test.what, n, test.flights)
		}
	}
	if rows := dbtest.MySQL(t).Query(t, "", "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME='"+target.Database+"'"); len(rows) != 1 {
		t.Fatal("the database is gone")
	}
}

// TestApplyCRM runs six migrations as a product has them, up and down.
func TestApplyCRM(t *testing.T) {
	target := newTarget(t)
	e := New(skein.SessionOptions{})
	s := open(t, e, target)
	var all []*skein.Migration
	ups, err := filepath.Glob("testdata/crm/*.up.sql")
	if err != nil || len(ups) != 6 {
		t.Fatalf("%d migrations, %v", len(ups), err)
	}
	for _, up := range ups {
		m := migration(filepath.Base(up), read(t, up), read(t, strings.Replace(up, ".up.", ".down.", 1)))
		all = append(all, m)
	}
	for round := range 2 {
		lock(t, s)
		for _, m := range all {
			if err := apply(t, e, s, m, skein.Up); err != nil {
				t.Fatal(err)
			}
		}
		want := []string{"activities", "contacts", "field_definitions", "object_definitions", "roles", "skein_migrations", "user_roles", "users"}
		if diff := cmp.Diff(want, tables(t, target)); diff != "" {
			t.Errorf("round %d, tables (-want +got):\n%s", round, diff)
		}
		rows := dbtest.MySQL(t).Query(t, target.Database, "SELECT description FROM roles WHERE name='agent'")
		if len(rows) != 1 || rows[0][0] != "Own records only" {
			t.Errorf("round %d, rows %q", round, rows)
		}
		for _, m := range slices.Backward(all) {
			if err := apply(t, e, s, m, skein.Down); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Unlock(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"skein_migrations"}, tables(t, target)); diff != "" {
			t.Errorf("round %d, tables after all downs (-want +got):\n%s", round, diff)
		}
		if got := records(t, e, target); len(got) > 0 {
			t.Errorf("round %d, records %q", round, got)
		}
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestApplyFails tells what stays of migrations that break, and what is said
// and recorded of them: the same, however their statements are sent.
func TestApplyFails(t *testing.T) {
	for how, together := range map[string]bool{"": false, ", in few flights": true} {
		testApplyFails(t, how, together)
	}
}

func testApplyFails(t *testing.T, how string, together bool) {
	for _, test := range []struct {
		name, up string
		noTransaction,
		partial bool
		index, line int
		records     []string
		tables      string // beside old, ancient and the history
		rows        string // of old and ancient
	}{
		{
			name: "data alone", up: "INSERT INTO old VALUES (2);\nINSERT INTO old VALUES (1)",
			index: 2, line: 2, rows: "1 1",
		},
		{
			name: "data alone, without a transaction", up: "INSERT INTO old VALUES (2);\nINSERT INTO old VALUES (1)", noTransaction: true,
			partial: true, index: 2, line: 2, records: []string{"m.sql applying 1/2"}, rows: "2 1",
		},
		{
			name: "data in a table that cannot roll back", up: "INSERT INTO old VALUES (2);\nINSERT INTO ancient VALUES (2);\nINSERT INTO old VALUES (1)",
			partial: true, index: 3, line: 3, records: []string{"m.sql applying 2/3"}, rows: "1 2",
		},
		{
			name: "a second schema change", up: "CREATE TABLE a (id int);\nCREATE TABLE b (id int);\nCREATE TABLE a (id int);\nCREATE TABLE c (id int)",
			partial: true, index: 3, line: 3, records: []string{"m.sql applying 2/4"}, tables: "a b", rows: "1 1",
		},
		{
			name: "a first schema change", up: "CREATE TABLE old (id int);\nCREATE TABLE b (id int)",
			index: 1, line: 1, rows: "1 1",
		},
		{
			name: "a first schema change that looks at rows", up: "INSERT INTO old VALUES (2);ALTER TABLE old DROP PRIMARY KEY, ADD COLUMN x int NOT NULL DEFAULT 7, ADD UNIQUE KEY x (x)",
			partial: true, index: 2, line: 1, records: []string{"m.sql applying 1/2"}, rows: "2 1",
		},
		{
			name: "one statement, two tables", up: "DROP TABLE old, missing",
			partial: true, index: 1, line: 1, records: []string{"m.sql applying 0/1"}, rows: "",
		},
		{
			name: "a call", up: "CREATE PROCEDURE p() BEGIN CREATE TABLE made (id int); SELECT * FROM missing; END;\nCALL p()",
			partial: true, index: 2, line: 2, records: []string{"m.sql applying 1/2"}, tables: "made", rows: "1 1",
		},
		{
			name: "syntax", up: "CREATE TABLE a (id int);\n\nCREATE TABLE b (\n  id int,\n  id2 int nut\n)",
			partial: true, index: 2, line: 6, records: []string{"m.sql applying 1/2"}, tables: "a", rows: "1 1",
		},
		{
			name: "syntax at the end", up: "CREATE TABLE a (\n  id int",
			index: 1, line: 2, rows: "1 1",
		},
		{
			name: "a transaction of its own", up: "START TRANSACTION;\nINSERT INTO old VALUES (2);\nINSERT INTO old VALUES (1);\nCOMMIT", noTransaction: true,
			partial: true, index: 3, line: 3, records: []string{"m.sql applying 0/4"}, rows: "1 1",
		},
		{
			name: "LOCK TABLES", up: "LOCK TABLES old WRITE;\nINSERT INTO old VALUES (2);\nINSERT INTO old VALUES (1);\nUNLOCK TABLES",
			partial: true, index: 3, line: 3, records: []string{"m.sql applying 2/4"}, rows: "2 1",
		},
		{
			name: "the last statement", up: "CREATE TABLE a (id int);\nINSERT INTO missing VALUES (1)",
			partial: true, index: 2, line: 2, records: []string{"m.sql applying 1/2"}, tables: "a", rows: "1 1",
		},
	} {
		t.Run(test.name+how, func(t *testing.T) {
			target := newTarget(t)
			server := dbtest.MySQL(t)
			server.Exec(t, target.Database, "CREATE TABLE old (id int PRIMARY KEY) ENGINE=InnoDB; CREATE TABLE ancient (id int PRIMARY KEY) ENGINE=MyISAM;"+
				"INSERT INTO old VALUES (1); INSERT INTO ancient VALUES (1)")
			e := New(skein.SessionOptions{})
			s := open(t, e, target)
			lock(t, s)
			m := migration("m.sql", test.up, "")
			m.Up.NoTransaction = test.noTransaction
			work := step(t, e, m, skein.Up)
			err := applyStep(t, s, work, together)
			broken, ok := errors.AsType[*skein.StatementError](err)
			if !ok {
				t.Fatalf("the error is %T: %v", err, err)
			}
			if broken.Partial != test.partial || broken.Index != test.index || broken.Line != test.line {
				t.Errorf("partial %t, statement %d, line %d: %v", broken.Partial, broken.Index, broken.Line, err)
			}
			if broken.Statement != work.Statements[broken.Index-1].Text {
				t.Errorf("the statement is said to be %q", broken.Statement)
			}
			if strings.Contains(err.Error(), "skein_ran") || strings.Contains(err.Error(), "UPDATE") {
				t.Errorf("what Skein sends is in the error: %v", err)
			}
			if diff := cmp.Diff(append([]string{}, test.records...), records(t, e, target)); diff != "" {
				t.Errorf("records (-want +got):\n%s", diff)
			}
			var made []string
			for _, table := range tables(t, target) {
				if table != "old" && table != "ancient" && table != skein.HistoryTable {
					made = append(made, table)
				}
			}
			if got := strings.Join(made, " "); got != test.tables {
				t.Errorf("the tables are %q, not %q", got, test.tables)
			}
			if test.rows != "" {
				rows := server.Query(t, target.Database, "SELECT (SELECT count(*) FROM old), (SELECT count(*) FROM ancient)")
				if got := strings.Join(rows[0], " "); got != test.rows {
					t.Errorf("the rows are %q, not %q", got, test.rows)
				}
			}
			if err := s.Unlock(t.Context()); err != nil {
				t.Errorf("the session is of no use after it: %v", err)
			}
		})
	}
}

// applyStep applies a step as in a tenant of any kind, or as in a fresh one.
func applyStep(t *testing.T, s *session, work skein.Step, fresh bool) error {
	t.Helper()
	work.Fresh = fresh
	_, err := s.Apply(t.Context(), work)
	return err
}

// TestApplyDownFails is about a down of which nothing stayed: its record is
// that of the up again.
func TestApplyDownFails(t *testing.T) {
	target := newTarget(t)
	e := New(skein.SessionOptions{By: "me@here"})
	s := open(t, e, target)
	lock(t, s)
	m := migration("m.sql", "CREATE TABLE a (id int);\nCREATE TABLE b (id int)", "DROP TABLE missing;\nDROP TABLE b")
	if err := apply(t, e, s, m, skein.Up); err != nil {
		t.Fatal(err)
	}
	before, err := s.History(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = apply(t, e, s, m, skein.Down)
	if broken, ok := errors.AsType[*skein.StatementError](err); !ok || broken.Partial || broken.Index != 1 {
		t.Fatalf("the error is %+v", err)
	}
	after, err := s.History(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("the history (-before +after):\n%s", diff)
	}
}

// TestApplyOddStatements runs what leaves a session in another state, or looks
// to the server like nothing.
func TestApplyOddStatements(t *testing.T) {
	for name, up := range map[string]string{
		"LOCK TABLES, as mysqldump writes it": "/*!40101 SET @OLD_SQL_MODE=@@SQL_MODE, SQL_MODE='NO_AUTO_VALUE_ON_ZERO' */;\n/*!99999 SET @nothing=1 */;\n" +
			"CREATE TABLE made (id int PRIMARY KEY, note varchar(20));\nLOCK TABLES `made` WRITE;\n/*!40000 ALTER TABLE `made` DISABLE KEYS */;\n" +
			"INSERT INTO `made` VALUES (1,'a;b'),(2,'c');\n/*!40000 ALTER TABLE `made` ENABLE KEYS */;\nUNLOCK TABLES;\n/*!40101 SET SQL_MODE=@OLD_SQL_MODE */;",
		"table locks left over":         "CREATE TABLE made (id int);\nlock /* all */ tables made WRITE, made AS m READ;\nINSERT INTO made VALUES (1)",
		"another sql_mode":              "SET SESSION sql_mode='ANSI,NO_BACKSLASH_ESCAPES,TRADITIONAL';\nCREATE TABLE \"made\" (id int);\nINSERT INTO made VALUES (1)",
		"another character set":         "SET NAMES latin1;\nCREATE TABLE made (id int);\nINSERT INTO made VALUES (1)",
		"data, with another sql_mode":   "SET SESSION sql_mode='ANSI,NO_BACKSLASH_ESCAPES';\nSELECT \"name\" FROM (SELECT 1 AS name) t",
		"a comment and nothing else":    "/*!99999 nothing */;\nSELECT 1;\n/*! SELECT 2 */",
		"a temporary table":             "CREATE TEMPORARY TABLE t (id int);\nINSERT INTO t VALUES (1);\nCREATE TABLE made SELECT * FROM t",
		"a routine that returns rows":   "CREATE PROCEDURE p() BEGIN SELECT 1; SELECT 2, 3; END;\nCALL p()",
		"savepoints":                    "SAVEPOINT a;\nSELECT 1;\nROLLBACK TO a;\nRELEASE SAVEPOINT a",
		"several under one delimiter":   "DELIMITER //\nCREATE TABLE made (id int); INSERT INTO made VALUES (1)//\nDELIMITER ;\n",
		"a local time zone and a clock": "SET time_zone='-11:00';\nCREATE TABLE made (id int)",
	} {
		t.Run(name, func(t *testing.T) {
			target := newTarget(t)
			e := New(skein.SessionOptions{By: `o'brien\ü`})
			s := open(t, e, target)
			lock(t, s)
			name := `m'\ü.sql`
			m := migration(name, up, "SELECT 1; DO 0;\nALTER TABLE skein_migrations COMMENT 'x'")
			if err := apply(t, e, s, m, skein.Up); err != nil {
				t.Fatal(err)
			}
			history, err := open(t, e, target).History(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(history.Records) != 1 {
				t.Fatalf("the history is %+v", history)
			}
			r := history.Records[0]
			if r.Name != name || r.State != skein.Applied || r.By != `o'brien\ü` || time.Since(r.AppliedAt).Abs() > time.Minute {
				t.Errorf("the record is %+v", r)
			}
			if s.Switch(target) {
				t.Error("the session would be used for another target")
			}
			if err := apply(t, e, s, m, skein.Down); err != nil {
				t.Fatal(err)
			}
			if got := records(t, e, target); len(got) > 0 {
				t.Errorf("after the down the records are %q", got)
			}
			if err := s.Unlock(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestApplyFresh sends the statements of a migration in few flights.
func TestApplyFresh(t *testing.T) {
	target := newTarget(t)
	var f flights
	e := f.count(New(skein.SessionOptions{}))
	s := open(t, e, target)
	lock(t, s)
	big := "CREATE TABLE big (id int) COMMENT '" + strings.Repeat("x", 1000) + "'"
	var many []string
	for i := range 100 {
		many = append(many, strings.Replace(big, "big", fmt.Sprintf("big%d", i), 1))
	}
	for _, test := range []struct {
		name, up string
		flights  int
	}{
		{"1.sql", "CREATE TABLE a (id int) -- of a\n; CREATE TABLE b (id int); INSERT INTO a VALUES (1), (2); ALTER TABLE a ADD x int # of x", 1},
		{"2.sql", "CREATE TABLE c (id int); CREATE PROCEDURE p() BEGIN INSERT INTO c VALUES (1); INSERT INTO c VALUES (2); END; DROP TABLE b", 1},
		{"3.sql", "CREATE TABLE d (id int); CALL p(); INSERT INTO d VALUES (1); INSERT INTO d VALUES (2)", 4},
		{"4.sql", "CREATE TABLE e (id int); /*!50000 CREATE TABLE f (id int) */; CREATE TABLE g (id int); DROP TABLE e", 6},
		{"5.sql", strings.Join(many, ";\n"), 2},
		{"5b.sql", "CREATE TABLE huge (t mediumtext); INSERT INTO huge VALUES ('" + strings.Repeat("y", 70000) + "'); DROP TABLE huge", 4},
		{"6.sql", "", 1},
	} {
		f.since()
		work := step(t, e, migration(test.name, test.up, ""), skein.Up)
		if err := applyStep(t, s, work, true); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		if n := f.since(); n != test.flights {
			t.Errorf("%s took %d flights, want %d", test.name, n, test.flights)
		}
	}
	want := []string{"1.sql applied 4/4", "2.sql applied 3/3", "3.sql applied 4/4", "4.sql applied 4/4", "5.sql applied 100/100", "5b.sql applied 3/3", "6.sql applied 0/0"}
	if diff := cmp.Diff(want, records(t, e, target)); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	rows := dbtest.MySQL(t).Query(t, target.Database, "SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM c), (SELECT count(*) FROM d), (SELECT count(*) FROM f)")
	if got := strings.Join(rows[0], " "); got != "2 2 2 0" {
		t.Errorf("the rows are %q", got)
	}
	if got := len(tables(t, target)); got != 6+100 {
		t.Errorf("%d tables: %q", got, tables(t, target))
	}
}

// A record that is refused keeps the first statement from running.
func TestApplyFreshNotBegun(t *testing.T) {
	target := newTarget(t)
	dbtest.MySQL(t).Exec(t, target.Database, "CREATE TABLE skein_migrations (name varchar(255) PRIMARY KEY)")
	e := New(skein.SessionOptions{})
	s := open(t, e, target)
	err := applyStep(t, s, step(t, e, migration("1.sql", "CREATE TABLE a (id int); CREATE TABLE b (id int)", ""), skein.Up), true)
	if _, ok := errors.AsType[*skein.StatementError](err); ok || err == nil || !strings.HasPrefix(err.Error(), "record the migration as begun: ") {
		t.Errorf("the error is %v", err)
	}
	if got := strings.Join(tables(t, target), " "); got != "skein_migrations" {
		t.Errorf("the tables are %q", got)
	}
}

// A refusing connection answers messages that have a text in them with an error,
// as a firewall for queries does, and does not pass them on.
type refusing struct {
	net.Conn
	text   string
	answer []byte
}

func (c *refusing) Write(b []byte) (int, error) {
	if c.text == "" || !bytes.Contains(b, []byte(c.text)) {
		return c.Conn.Write(b)
	}
	const said = "\xff\x98\x04#42000refused"
	c.answer = append([]byte{byte(len(said)), 0, 0, 1}, said...)
	return len(b), nil
}

func (c *refusing) Read(b []byte) (int, error) {
	if len(c.answer) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.answer)
	c.answer = c.answer[n:]
	return n, nil
}

// What is refused as a whole has not run, whatever ran before it.
func TestApplyRefused(t *testing.T) {
	for _, fresh := range []bool{false, true} {
		for text, want := range map[string]struct {
			index   int
			partial bool
			records []string
		}{
			"CREATE TABLE d": {1, false, []string{"1.sql applied 3/3"}},
			"INSERT INTO e":  {3, true, []string{"1.sql applied 3/3", "2.sql applying 2/4"}},
		} {
			t.Run(fmt.Sprint(fresh, " ", text), func(t *testing.T) {
				target := newTarget(t)
				e := New(skein.SessionOptions{})
				var wire *refusing
				dial := e.dial
				e.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
					conn, err := dial(ctx, network, address)
					wire = &refusing{Conn: conn}
					return wire, err
				}
				s := open(t, e, target)
				lock(t, s)
				if err := applyStep(t, s, step(t, e, migration("1.sql", "CREATE TABLE a (id int); CREATE TABLE b (id int); CREATE TABLE c (id int)", ""), skein.Up), fresh); err != nil {
					t.Fatal(err)
				}
				wire.text = text
				err := applyStep(t, s, step(t, e, migration("2.sql", "CREATE TABLE d (id int); CREATE TABLE e (id int); INSERT INTO e VALUES (1); DROP TABLE a", ""), skein.Up), fresh)
				if err == nil || !strings.Contains(err.Error(), "refused") {
					t.Fatalf("the error is %v", err)
				}
				broken, ok := errors.AsType[*skein.StatementError](err)
				switch {
				case fresh: // all of it was one message
					if want.records = want.records[:1]; ok {
						t.Errorf("the error names a statement: %v", err)
					}
				case !ok || broken.Index != want.index || broken.Partial != want.partial:
					t.Errorf("the error is %v, want it to be of statement %d, partial: %t", err, want.index, want.partial)
				}
				wire.text = ""
				if diff := cmp.Diff(want.records, records(t, e, target)); diff != "" {
					t.Errorf("records (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// What is cancelled, or loses its connection, while several statements are
// under way names none of them; the record says how far they came.
func TestApplyFreshCancelled(t *testing.T) {
	target := newTarget(t)
	e := New(skein.SessionOptions{})
	s := open(t, e, target)
	lock(t, s)
	work := step(t, e, migration("1.sql", "CREATE TABLE a (id int); INSERT INTO a SELECT BENCHMARK(1000000000000, SHA2('x', 512)); CREATE TABLE c (id int)", ""), skein.Up)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(300*time.Millisecond, cancel)
	work.Fresh = true
	_, err := s.Apply(ctx, work)
	broken, ok := errors.AsType[*skein.StatementError](err)
	if !ok || !errors.Is(err, context.Canceled) || !broken.Partial || broken.Exact || broken.Index != 0 || broken.Statement != "" {
		t.Errorf("the error is %+v", err)
	}
	noSessions(t, target)
	if diff := cmp.Diff([]string{"1.sql applying 1/3"}, records(t, e, target)); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	if got := strings.Join(tables(t, target), " "); got != "a skein_migrations" {
		t.Errorf("the tables are %q", got)
	}
}

// TestApplyUnrecorded is about a statement that ran and could not be recorded.
func TestApplyUnrecorded(t *testing.T) {
	e := New(skein.SessionOptions{})
	for _, together := range []bool{false, true} {
		s := open(t, e, newTarget(t))
		lock(t, s)
		work := step(t, e, migration("m.sql", "CREATE TABLE b (id int);\nDROP TABLE skein_migrations;\nCREATE TABLE a (id int)", ""), skein.Up)
		err := applyStep(t, s, work, together)
		broken, ok := errors.AsType[*skein.StatementError](err)
		if !ok || !broken.Partial || broken.Index != 2 || !strings.Contains(err.Error(), "the statement has run") {
			t.Fatalf("the error is %v", err)
		}
	}

	target := newTarget(t)
	s := open(t, e, target)
	lock(t, s)
	if err := apply(t, e, s, migration("1.sql", "CREATE TABLE a (id int)", ""), skein.Up); err != nil {
		t.Fatal(err)
	}
	dbtest.MySQL(t).Exec(t, target.Database, "ALTER TABLE skein_migrations DROP COLUMN tool")
	err := apply(t, e, s, migration("2.sql", "INSERT INTO a VALUES (1)", ""), skein.Up)
	if _, ok := errors.AsType[*skein.StatementError](err); ok || err == nil || !strings.Contains(err.Error(), "record the migration") {
		t.Errorf("the error is %v", err)
	}
	if rows := dbtest.MySQL(t).Query(t, target.Database, "SELECT count(*) FROM a"); rows[0][0] != "0" {
		t.Errorf("%s rows stayed", rows[0][0])
	}
}

// noSessions waits until the server has ended what a target's role did there.
func noSessions(t *testing.T, target skein.Target) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		rows := dbtest.MySQL(t).Query(t, "", "SELECT count(*) FROM information_schema.PROCESSLIST WHERE USER=?", target.User)
		if rows[0][0] == "0" {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the statement goes on at the server")
		}
	}
}

// TestApplyCancelled looks at the server: what was cancelled does not go on
// there.
func TestApplyCancelled(t *testing.T) {
	target := newTarget(t)
	e := New(skein.SessionOptions{})
	for name, up := range map[string]string{
		"data":   "SELECT BENCHMARK(1000000000000, SHA2('x', 512))",
		"schema": "CREATE TABLE a SELECT BENCHMARK(1000000000000, SHA2('x', 512))",
	} {
		s := open(t, e, target)
		lock(t, s)
		work := step(t, e, migration(name, up, ""), skein.Up)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(300*time.Millisecond, cancel)
		start := time.Now()
		if _, err := s.Apply(ctx, work); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: the error is %v", name, err)
		}
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("%s: it took %s", name, took)
		}
		noSessions(t, target)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
