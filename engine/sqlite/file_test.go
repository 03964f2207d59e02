package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/engine/sqlite"
	"github.com/skeinhq/skein/internal/dbtest"
)

func openSession(t *testing.T, e *sqlite.Engine, path string) skein.Session {
	t.Helper()
	session, err := e.Open(t.Context(), target(path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = session.Close() })
	return session
}

func lock(t *testing.T, session skein.Session) {
	t.Helper()
	if _, err := session.Lock(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
}

// look does with a file what looking at a tenant does, and takes its lock.
func look(t *testing.T, path string) (err error) {
	t.Helper()
	session, err := sqlite.New(skein.SessionOptions{}).Open(t.Context(), target(path))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	if _, err := session.History(t.Context()); err != nil {
		return err
	}
	_, err = session.Lock(t.Context(), 0)
	return err
}

// migrate applies a migration to a file.
func migrate(t *testing.T, path string) (err error) {
	t.Helper()
	e := sqlite.New(skein.SessionOptions{})
	session, err := e.Open(t.Context(), target(path))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	if _, err := session.Lock(t.Context(), 0); err != nil {
		return err
	}
	return apply(t, e, session, migration("1.sql", "CREATE TABLE two (id integer)"))
}

// wantAnswer wants an error of a class whose text and hint have some words in
// them, and returns its code.
func wantAnswer(t *testing.T, err error, class skein.Class, words ...string) (code string) {
	t.Helper()
	answer, ok := errors.AsType[*skein.DatabaseError](err)
	if !ok {
		t.Fatalf("the error is %T and not a DatabaseError: %v", err, err)
	}
	if answer.Class != class {
		t.Errorf("the class is %q, not %q: %v", answer.Class, class, err)
	}
	for _, word := range words {
		if !strings.Contains(answer.Message+" "+answer.Hint, word) {
			t.Errorf("%q is not in the error: %v (%s)", word, answer, answer.Hint)
		}
	}
	return answer.Code
}

func TestNotADatabase(t *testing.T) {
	folder := t.TempDir()
	garbage := filepath.Join(folder, "garbage.db")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("this is no database\n", 200)), 0o600); err != nil {
		t.Fatal(err)
	}
	short := filepath.Join(folder, "short.db")
	if err := os.WriteFile(short, []byte("xy"), 0o600); err != nil {
		t.Fatal(err)
	}
	loop := filepath.Join(folder, "loop.db")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	dangling := filepath.Join(folder, "dangling.db")
	if err := os.Symlink(filepath.Join(folder, "none.db"), dangling); err != nil {
		t.Fatal(err)
	}
	before := listing(t, folder)

	wantAnswer(t, look(t, folder), skein.Permanent, folder, "folder")
	wantAnswer(t, look(t, garbage), skein.Permanent, garbage, "not a SQLite database")
	wantAnswer(t, look(t, short), skein.Permanent, short, "not a SQLite database")
	wantAnswer(t, look(t, loop), skein.Permanent, loop)
	wantAnswer(t, look(t, dangling), skein.NoDatabase, dangling, "there is no file")
	wantAnswer(t, look(t, garbage+"/tenant.db"), skein.Permanent, garbage+"/tenant.db")
	for _, path := range []string{filepath.Join(folder, ":memory:"), filepath.Join(folder, "none.db")} {
		wantAnswer(t, look(t, path), skein.NoDatabase, path, "there is no file")
	}
	t.Chdir(folder)
	for _, path := range []string{":memory:", "file::memory:", "none.db", "file:garbage.db?mode=rwc"} {
		wantAnswer(t, look(t, path), skein.NoDatabase, filepath.Join(folder, path))
	}
	if now := listing(t, folder); !slices.Equal(now, before) {
		t.Errorf("the folder holds %q, where it held %q", now, before)
	}
}

func listing(t *testing.T, folder string) []string {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func TestOptions(t *testing.T) {
	odd := newTarget(t)
	odd.Options = map[string]string{"_pragma": "journal_mode(wal)"}
	_, err := sqlite.New(skein.SessionOptions{}).Open(t.Context(), odd)
	wantAnswer(t, err, skein.Permanent, `"_pragma"`)
}

// A tenant that is only looked at stays as it is, to the byte.
func TestReadingChangesNothing(t *testing.T) {
	for _, mode := range []string{"delete", "wal"} {
		t.Run(mode, func(t *testing.T) {
			db := newTarget(t)
			exec(t, db, "PRAGMA journal_mode = "+mode+"; CREATE TABLE one (id integer)")
			content := func() string {
				data, err := os.ReadFile(db.Database)
				if err != nil {
					t.Fatal(err)
				}
				return string(data)
			}
			before := content()
			if err := look(t, db.Database); err != nil {
				t.Fatal(err)
			}
			if content() != before {
				t.Error("the file has changed")
			}
			if names := listing(t, filepath.Dir(db.Database)); !slices.Equal(names, []string{"test.db"}) {
				t.Errorf("the folder holds %q", names)
			}
		})
	}
}

func TestJournalMode(t *testing.T) {
	for _, mode := range []string{"delete", "wal", "persist"} {
		db := newTarget(t)
		exec(t, db, "PRAGMA journal_mode = "+mode+"; CREATE TABLE one (id integer)")
		want := query(t, db, "PRAGMA journal_mode")

		// The application has the file open, and reads from it.
		app := open(t, db)
		app.SetMaxOpenConns(1)
		if _, err := app.ExecContext(t.Context(), "BEGIN; SELECT name FROM sqlite_schema"); err != nil {
			t.Fatal(err)
		}

		e := sqlite.New(skein.SessionOptions{LockTimeout: 200 * time.Millisecond})
		session := openSession(t, e, db.Database)
		lock(t, session)
		m := migration("1.sql", "CREATE TABLE two (id integer)")
		err := apply(t, e, session, m)
		if mode == "wal" {
			if err != nil {
				t.Errorf("%s: with a reader: %v", mode, err)
			}
		} else {
			// Without a write-ahead log a reader that does not end keeps everybody
			// from committing.
			wantAnswer(t, err, skein.Busy, "database is locked")
			if _, err := app.ExecContext(t.Context(), "ROLLBACK"); err != nil {
				t.Fatal(err)
			}
			if err := apply(t, e, session, m); err != nil {
				t.Errorf("%s: without a reader: %v", mode, err)
			}
		}
		if got := query(t, db, "PRAGMA journal_mode"); !cmp.Equal(got, want) {
			t.Errorf("the journal mode is %s, and was %s", got, want)
		}
	}
}

func TestBusy(t *testing.T) {
	db := newTarget(t)
	exec(t, db, "CREATE TABLE one (id integer)")
	other := open(t, db)
	other.SetMaxOpenConns(1)
	if _, err := other.ExecContext(t.Context(), "BEGIN EXCLUSIVE; INSERT INTO one VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	session := openSession(t, sqlite.New(skein.SessionOptions{LockTimeout: 200 * time.Millisecond}), db.Database)
	start := time.Now()
	_, err := session.History(t.Context())
	if took := time.Since(start); took < 150*time.Millisecond || took > 5*time.Second {
		t.Errorf("a lock timeout of 200ms took %s", took)
	}
	wantAnswer(t, err, skein.Busy, "database is locked", "lock_timeout")

	// A wait for the file ends with the context, too.
	session = openSession(t, sqlite.New(skein.SessionOptions{LockTimeout: time.Minute}), db.Database)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start = time.Now()
	if _, err := session.History(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the error is %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("a context of 200ms took %s", took)
	}
}

func TestLockFile(t *testing.T) {
	db := newTarget(t)
	folder := filepath.Dir(db.Database)
	link := filepath.Join(t.TempDir(), "link.db")
	if err := os.Symlink(db.Database, link); err != nil {
		t.Fatal(err)
	}
	linked := filepath.Join(t.TempDir(), "folder")
	if err := os.Symlink(folder, linked); err != nil {
		t.Fatal(err)
	}
	e := sqlite.New(skein.SessionOptions{By: "ops@example", Tool: "skein 1.2.3"})
	a := openSession(t, e, db.Database)
	lock(t, a)
	t.Chdir(folder)
	for _, path := range []string{
		db.Database, "test.db", "./../" + filepath.Base(folder) + "//test.db", link, filepath.Join(linked, "test.db"),
	} {
		_, err := openSession(t, e, path).Lock(t.Context(), 0)
		locked, ok := errors.AsType[*skein.LockedError](err)
		if !ok {
			t.Fatalf("%s: the error is %v", path, err)
		}
		for _, word := range []string{fmt.Sprint(os.Getpid()), "ops@example", "skein 1.2.3", "since "} {
			if !strings.Contains(locked.Holder, word) {
				t.Errorf("%s: %q does not name %q", path, locked.Holder, word)
			}
		}
	}
	if names := listing(t, folder); !slices.Equal(names, []string{"test.db", "test.db.skein-lock"}) {
		t.Errorf("the folder holds %q", names)
	}
	if err := a.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	if names := listing(t, folder); !slices.Equal(names, []string{"test.db"}) {
		t.Errorf("the folder holds %q", names)
	}
	if err := a.Unlock(t.Context()); err == nil {
		t.Error("a lock was given back twice without an error")
	}

	// What a process left that was killed is in nobody's way, and does not stay.
	if err := os.WriteFile(db.Database+".skein-lock", []byte(`{"pid":1,"host":"gone","since":"2024-01-01T00:00:00Z"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if holder, err := a.(skein.LockKeeper).Holder(t.Context()); holder != nil || err != nil {
		t.Errorf("the holder is %v, %v", holder, err)
	}
	lock(t, a)
	holder, err := openSession(t, e, link).(skein.LockKeeper).Holder(t.Context())
	if err != nil || holder == nil || holder.ID != fmt.Sprint(os.Getpid()) || time.Since(holder.Since).Abs() > time.Minute {
		t.Errorf("the holder is %v, %v", holder, err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if names := listing(t, folder); !slices.Equal(names, []string{"test.db"}) {
		t.Errorf("the folder holds %q", names)
	}
}

func TestBreak(t *testing.T) {
	db := newTarget(t)
	e := sqlite.New(skein.SessionOptions{})
	a, b := openSession(t, e, db.Database), openSession(t, e, db.Database)
	lock(t, a)
	keeper := b.(skein.LockKeeper)
	holder, err := keeper.Holder(t.Context())
	if err != nil || holder == nil {
		t.Fatalf("the holder is %v, %v", holder, err)
	}
	wantAnswer(t, keeper.Break(t.Context(), *holder), skein.Permanent, db.Database, "kill "+fmt.Sprint(os.Getpid()))
	gone := *holder
	gone.ID = "1"
	if err := keeper.Break(t.Context(), gone); err != nil {
		t.Errorf("breaking the lock of one who had it before: %v", err)
	}
	if _, err := b.Lock(t.Context(), 0); err == nil {
		t.Error("the lock of a running process was broken")
	}
}

// The file of the lock comes and goes while many want it. Nobody may have the
// lock by a file that is no longer there.
func TestLockContended(t *testing.T) {
	db := newTarget(t)
	e := sqlite.New(skein.SessionOptions{})
	var mu sync.Mutex // of a number that only the lock protects, to be seen
	var running sync.WaitGroup
	total := 0
	for range 8 {
		session := openSession(t, e, db.Database)
		running.Go(func() {
			for range 25 {
				if _, err := session.Lock(t.Context(), time.Minute); err != nil {
					t.Error(err)
					return
				}
				if !mu.TryLock() {
					t.Error("two sessions have the lock")
					return
				}
				total++
				mu.Unlock()
				if _, err := session.(skein.LockKeeper).Holder(t.Context()); err != nil {
					t.Error(err)
				}
				if err := session.Unlock(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	running.Wait()
	if total != 8*25 {
		t.Errorf("the lock was taken %d times", total)
	}
	if names := listing(t, filepath.Dir(db.Database)); !slices.Equal(names, []string{"test.db"}) {
		t.Errorf("the folder holds %q", names)
	}
}

func migration(name, up string) *skein.Migration {
	return &skein.Migration{
		Name: name, Version: name, Path: name, Kind: skein.SQL, Checksum: strings.Repeat("0", 64),
		Up: &skein.Section{SQL: up, Path: name, Line: 1},
	}
}

func noTransaction(m *skein.Migration) *skein.Migration {
	m.Up.NoTransaction = true
	return m
}

func apply(t *testing.T, e *sqlite.Engine, session skein.Session, m *skein.Migration) error {
	t.Helper()
	statements, err := e.Parse(m.Up)
	if err != nil {
		t.Fatal(err)
	}
	_, err = session.Apply(t.Context(), skein.Step{Migration: m, Direction: skein.Up, Statements: statements, Batch: 1})
	return err
}

// locked is a session on an empty file, with its lock.
func locked(t *testing.T) (*sqlite.Engine, skein.Session, skein.Target) {
	t.Helper()
	e := sqlite.New(skein.SessionOptions{})
	db := target(dbtest.SQLite(t))
	session := openSession(t, e, db.Database)
	lock(t, session)
	return e, session, db
}

func history(t *testing.T, session skein.Session) []skein.Record {
	t.Helper()
	h, err := session.History(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return h.Records
}

func TestForeignKeys(t *testing.T) {
	const parents = "CREATE TABLE parent (id integer PRIMARY KEY); CREATE TABLE child (id integer PRIMARY KEY, parent integer REFERENCES parent);"
	e, session, db := locked(t)
	if err := apply(t, e, session, migration("1.sql", parents)); err != nil {
		t.Fatal(err)
	}
	// They are enforced where a migration asks for it, and only there.
	err := apply(t, e, session, noTransaction(migration("2.sql", "PRAGMA foreign_keys = ON; INSERT INTO child VALUES (1, 1)")))
	if code := wantAnswer(t, err, skein.Permanent, "FOREIGN KEY"); code != "SQLITE_CONSTRAINT_FOREIGNKEY" {
		t.Errorf("the code is %s", code)
	}
	if err := session.Record(t.Context(), []skein.Record{{Name: "2.sql", State: skein.Applied, Batch: 1, AppliedAt: time.Now()}}); err != nil {
		t.Fatal(err)
	}
	if err := apply(t, e, session, migration("3.sql", "INSERT INTO child VALUES (2, 2)")); err != nil {
		t.Errorf("a setting of one migration is in force for the next: %v", err)
	}
	if rows := query(t, db, "SELECT id FROM child"); !cmp.Equal(rows, [][]string{{"2"}}) {
		t.Errorf("the rows are %q", rows)
	}
}

func TestCommitFails(t *testing.T) {
	// Foreign keys that are deferred are checked when the transaction ends. They
	// can be in force for a build of SQLite, or else for a migration's own.
	e, session, db := locked(t)
	up := `PRAGMA foreign_keys = ON;
CREATE TABLE parent (id integer PRIMARY KEY);
BEGIN;
CREATE TABLE child (id integer PRIMARY KEY, parent integer REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
INSERT INTO child VALUES (1, 1);
COMMIT;
CREATE TABLE after (id integer)`
	err := apply(t, e, session, noTransaction(migration("1.sql", up)))
	wantAnswer(t, err, skein.Permanent, "FOREIGN KEY")
	broken, ok := errors.AsType[*skein.StatementError](err)
	if !ok || broken.Index != 6 || broken.Line != 6 || broken.Statement != "COMMIT" || !broken.Partial {
		t.Errorf("the error is %+v", broken)
	}
	if got := tables(t, db); !slices.Equal(got, []string{"parent", "skein_migrations"}) {
		t.Errorf("the tables are %q", got)
	}
	// What was rolled back is not recorded as done.
	if r := history(t, session); len(r) != 1 || r[0].State != skein.Applying || r[0].Done != 2 || r[0].Total != 7 {
		t.Errorf("the history is %+v", r)
	}
}

func TestOwnTransaction(t *testing.T) {
	t.Run("Committed", func(t *testing.T) {
		e, session, db := locked(t)
		up := "PRAGMA foreign_keys = OFF; BEGIN; CREATE TABLE one (id integer); INSERT INTO one VALUES (1); COMMIT; VACUUM"
		if err := apply(t, e, session, noTransaction(migration("1.sql", up))); err != nil {
			t.Fatal(err)
		}
		if got := tables(t, db); !slices.Equal(got, []string{"one", "skein_migrations"}) {
			t.Errorf("the tables are %q", got)
		}
	})
	t.Run("Open", func(t *testing.T) {
		e, session, db := locked(t)
		err := apply(t, e, session, noTransaction(migration("1.sql", "CREATE TABLE one (id integer); SAVEPOINT s; CREATE TABLE two (id integer)")))
		wantAnswer(t, err, skein.Permanent, "inside a transaction", "COMMIT")
		if got := tables(t, db); !slices.Equal(got, []string{"one", "skein_migrations"}) {
			t.Errorf("the tables are %q", got)
		}
		if r := history(t, session); len(r) != 1 || r[0].State != skein.Applying || r[0].Done != 1 {
			t.Errorf("the history is %+v", r)
		}
	})
}

func TestTraces(t *testing.T) {
	// What one migration leaves in its session is not there for the next.
	e, session, _ := locked(t)
	other := newTarget(t)
	for i, m := range []*skein.Migration{
		migration("1.sql", "CREATE TEMP TABLE work (id integer)"),
		migration("2.sql", "create temporary table work (id integer); PRAGMA case_sensitive_like = ON"),
		migration("3.sql", "CREATE TABLE one (id integer CHECK ('A' LIKE 'a')); INSERT INTO one VALUES (1)"),
		noTransaction(migration("4.sql", "ATTACH '"+other.Database+"' AS other")),
		noTransaction(migration("5.sql", "ATTACH '"+other.Database+"' AS other; CREATE TABLE other.two (id integer)")),
	} {
		if err := apply(t, e, session, m); err != nil {
			t.Errorf("migration %d: %v", i+1, err)
		}
	}
	if got := tables(t, other); !slices.Equal(got, []string{"two"}) {
		t.Errorf("the tables of the other file are %q", got)
	}
}

func TestRefused(t *testing.T) {
	e := sqlite.New(skein.SessionOptions{})
	for _, test := range []struct {
		up            string
		noTransaction bool
		line          int
		words         string
	}{
		{"SELECT 1;\n.schema\n", false, 2, "sqlite3 program"},
		{"SELECT 1;\n.schema\n", true, 2, "sqlite3 program"},
		{"SELECT 1;\n\nPRAGMA foreign_keys = OFF", false, 3, "transaction:false"},
		{"pragma journal_mode(wal)", false, 1, "transaction:false"},
		{"VACUUM", false, 1, "transaction:false"},
		{"ATTACH 'x' AS x", false, 1, "transaction:false"},
		{"SELECT 1;\nEND;", false, 2, "transaction:false"},
		{"BEGIN;\nSELECT 1;\nBEGIN;\nCOMMIT", true, 3, "COMMIT"},
		{"SELECT 1;\nCOMMIT", true, 2, "BEGIN"},
		{"SELECT 1;\n BEGIN;\nSELECT 2", true, 2, "COMMIT"},
		{"CREATE TRIGGER t AFTER INSERT ON x BEGIN SELECT 1;", false, 1, ""},
	} {
		m := migration("1.sql", test.up)
		m.Up.NoTransaction, m.Up.Line = test.noTransaction, 11
		_, err := e.Parse(m.Up)
		refused, ok := errors.AsType[*skein.FileError](err)
		if !ok {
			t.Errorf("%q: the error is %v", test.up, err)
			continue
		}
		if refused.Line != 10+test.line || refused.Path != "1.sql" || !strings.Contains(refused.Msg, test.words) {
			t.Errorf("%q: %v", test.up, err)
		}
	}
	for _, up := range []string{"PRAGMA user_version = 3", "PRAGMA foreign_keys", "SAVEPOINT a; RELEASE a", "PRAGMA foreign_key_check"} {
		if _, err := e.Parse(migration("1.sql", up).Up); err != nil {
			t.Errorf("%q: %v", up, err)
		}
	}
}

func TestConflictClauses(t *testing.T) {
	e, session, db := locked(t)
	if err := apply(t, e, session, migration("1.sql", "CREATE TABLE one (id integer PRIMARY KEY); INSERT INTO one VALUES (3)")); err != nil {
		t.Fatal(err)
	}
	// ROLLBACK ends the transaction by itself, FAIL keeps rows of a statement.
	err := apply(t, e, session, migration("2.sql", "INSERT INTO one VALUES (1); INSERT OR ROLLBACK INTO one VALUES (2), (3)"))
	if code := wantAnswer(t, err, skein.Permanent, "UNIQUE constraint failed: one.id"); code != "SQLITE_CONSTRAINT_PRIMARYKEY" {
		t.Errorf("the code is %s", code)
	}
	err = apply(t, e, session, migration("2.sql", "INSERT OR FAIL INTO one VALUES (2), (3)"))
	wantAnswer(t, err, skein.Permanent, "UNIQUE")
	if rows := query(t, db, "SELECT id FROM one"); !cmp.Equal(rows, [][]string{{"3"}}) {
		t.Errorf("the rows are %q", rows)
	}
	err = apply(t, e, session, noTransaction(migration("2.sql", "INSERT OR FAIL INTO one VALUES (2), (3)")))
	if broken, ok := errors.AsType[*skein.StatementError](err); !ok || broken.Partial {
		t.Errorf("the error of a first statement is %+v", broken)
	}
	if rows := query(t, db, "SELECT id FROM one ORDER BY id"); !cmp.Equal(rows, [][]string{{"3"}}) {
		t.Errorf("the rows are %q", rows)
	}
}

func TestAnswers(t *testing.T) {
	e, session, _ := locked(t)
	for _, test := range []struct {
		up    string
		code  string
		line  int
		words string
	}{
		{"SELECT 1;\nSELECT\n  missing\n", "SQLITE_ERROR", 2, "no such column: missing"},
		{"CREATE TABLE one (\n  id integer,\n  note varchar(,)\n)", "SQLITE_ERROR", 1, `near ",": syntax error`},
		{"CREATE TABLE one (\n  id integer,\n  note varchar NOT NUL\n)", "SQLITE_ERROR", 3, `near "NUL": syntax error`},
		{"SELECT ?", "SQLITE_RANGE", 1, "has a parameter"},
		{"SELECT :name", "SQLITE_RANGE", 1, "has a parameter"},
		{"SELECT abs(-9223372036854775807 - 1)", "SQLITE_ERROR", 1, "integer overflow"},
	} {
		err := apply(t, e, session, migration("1.sql", test.up))
		if err == nil {
			t.Fatalf("%q: no error", test.up)
		}
		code := wantAnswer(t, err, skein.Permanent, test.words)
		broken, ok := errors.AsType[*skein.StatementError](err)
		if !ok || broken.Line != test.line || code != test.code {
			t.Errorf("%q: code %s, line %d: %v", test.up, code, broken.Line, err)
		}
		if n := strings.Count(err.Error(), test.words); n != 1 {
			t.Errorf("%q: the error says it %d times: %v", test.up, n, err)
		}
	}
}

func TestKnexTimes(t *testing.T) {
	for _, own := range []bool{false, true} {
		db := newTarget(t)
		e := sqlite.New(skein.SessionOptions{})
		session := openSession(t, e, db.Database)
		lock(t, session)
		if own {
			if err := apply(t, e, session, migration("0.sql", "SELECT 1")); err != nil {
				t.Fatal(err)
			}
		}
		exec(t, db, "CREATE TABLE Knex_Migrations (id integer not null primary key autoincrement, name varchar(255), batch integer, migration_time datetime);"+
			"INSERT INTO knex_migrations (name, batch, migration_time) VALUES ('1.js', 1, 1795434304227), ('2.js', 1, '2026-11-23 11:45:04'),"+
			"('3.js', 1, '2026-11-23T11:45:04.227Z'), ('4.js', 1, 1795434304227.5), ('5.js', 1, 'yesterday'), ('6.js', 1, x'00')")
		for _, r := range history(t, session) {
			switch r.Name {
			case "0.sql":
			case "5.js", "6.js":
				if !r.AppliedAt.IsZero() {
					t.Errorf("%s was applied at %s", r.Name, r.AppliedAt)
				}
			default:
				if got := r.AppliedAt.UTC().Format(time.DateTime); got != "2026-11-23 11:45:04" {
					t.Errorf("with own records %t: %s was applied at %s", own, r.Name, got)
				}
			}
		}
	}
}

// What is recorded of a migration without a transaction is exact, whenever it is
// cancelled: each statement and its record are one transaction.
func TestCancelledRecordIsExact(t *testing.T) {
	var up strings.Builder
	for i := range 20 {
		fmt.Fprintf(&up, "CREATE TABLE t%d (id integer);\n", i)
	}
	stopped := 0
	for moment := range 30 {
		e, session, db := locked(t)
		m := noTransaction(migration("1.sql", up.String()))
		statements, err := e.Parse(m.Up)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(moment)*700*time.Microsecond)
		_, err = session.Apply(ctx, skein.Step{Migration: m, Direction: skein.Up, Statements: statements, Batch: 1})
		cancel()
		made := len(tables(t, db)) - 1 // without skein_migrations
		r := history(t, session)
		if err == nil {
			continue
		}
		stopped++
		switch {
		case made <= 0:
			if len(r) != 0 {
				t.Errorf("no table was made, and the history is %+v", r)
			}
		case len(r) != 1 || r[0].State != skein.Applying || r[0].Done != made:
			t.Errorf("%d tables were made, and the history is %+v", made, r)
		}
	}
	if stopped == 0 {
		t.Error("no migration was cancelled before its end")
	}
}

// A table of the history's name that is not what it should be.
func TestForeignTable(t *testing.T) {
	db := newTarget(t)
	exec(t, db, "CREATE TABLE skein_migrations (version integer)")
	_, err := openSession(t, sqlite.New(skein.SessionOptions{}), db.Database).History(t.Context())
	if code := wantAnswer(t, err, skein.Permanent, "no such column"); code != "SQLITE_ERROR" {
		t.Errorf("the code is %s", code)
	}
}
