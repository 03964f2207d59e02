package sqlite_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/engine/sqlite"
)

func stepsOf(t *testing.T, e *sqlite.Engine, migrations ...*skein.Migration) []skein.Step {
	t.Helper()
	var steps []skein.Step
	for _, m := range migrations {
		statements, err := e.Parse(m.Up)
		if err != nil {
			t.Fatal(err)
		}
		steps = append(steps, skein.Step{Migration: m, Direction: skein.Up, Statements: statements, Batch: 1})
	}
	return steps
}

// together applies steps as a fresh tenant takes them. It returns how many went
// at once each time, and the steps that are left when one fails.
func together(ctx context.Context, session skein.Session, steps []skein.Step) (sizes []int, left []skein.Step, err error) {
	for len(steps) > 0 {
		results, err := session.(skein.TogetherApplier).ApplyTogether(ctx, steps)
		if len(results) > 0 {
			sizes = append(sizes, len(results))
		}
		if steps = steps[len(results):]; err != nil {
			return sizes, steps, err
		}
		if len(results) == 0 {
			panic("neither a result nor an error")
		}
	}
	return sizes, nil, nil
}

func applied(t *testing.T, db skein.Target) []string {
	t.Helper()
	var names []string
	for _, r := range history(t, openSession(t, sqlite.New(skein.SessionOptions{}), db.Database)) {
		names = append(names, r.Name+" "+string(r.State))
	}
	return names
}

func TestApplyTogether(t *testing.T) {
	e, session, db := locked(t)
	own := migration("6.sql", "CREATE TABLE six (id integer)")
	own.Up.Timeouts.Lock = new(time.Second)
	steps := stepsOf(t, e,
		migration("1.sql", "CREATE TABLE one (id integer)"),
		migration("2.sql", "INSERT INTO one VALUES (1)"),
		noTransaction(migration("3.sql", "CREATE TABLE three (id integer)")),
		migration("4.sql", "CREATE TEMP TABLE work (id integer)"),
		migration("5.sql", "CREATE TABLE five (id integer CHECK (id > 0))"),
		own,
		migration("7.sql", "ALTER TABLE five RENAME TO seven"),
		migration("8.sql", "DROP TABLE one; INSERT INTO seven VALUES (8)"),
	)
	start := time.Now()
	sizes, _, err := together(t.Context(), session, steps)
	if err != nil {
		t.Fatal(err)
	}
	// On a machine that is slow at the moment they go one by one.
	if want := []int{2, 1, 1, 1, 1, 2}; !slices.Equal(sizes, want) && time.Since(start) < 40*time.Millisecond {
		t.Errorf("together went %v, want %v", sizes, want)
	}
	want := []string{"1.sql applied", "2.sql applied", "3.sql applied", "4.sql applied", "5.sql applied", "6.sql applied", "7.sql applied", "8.sql applied"}
	if diff := cmp.Diff(want, applied(t, db)); diff != "" {
		t.Error(diff)
	}
	if got, want := tables(t, db), []string{"seven", "six", "skein_migrations", "three"}; !slices.Equal(got, want) {
		t.Errorf("the tables are %q, want %q", got, want)
	}
}

// What comes before a step that fails stays, and what comes after it does not
// run: the same as one by one.
func TestApplyTogetherFails(t *testing.T) {
	for name, up := range map[string]string{
		"when it runs":              "CREATE TABLE odd (id integer);\nSELECT * FROM nobody",
		"when it is read":           "CREATE TABLE odd (id integer);\nSELEC 1",
		"and ends the transaction":  "CREATE TABLE odd (id integer UNIQUE);\nINSERT INTO odd VALUES (1);\nINSERT OR ROLLBACK INTO odd VALUES (1)",
		"as a trigger ends it":      "CREATE TABLE odd (id integer);\nCREATE TRIGGER no BEFORE INSERT ON odd BEGIN SELECT RAISE(ROLLBACK, 'never'); END;\nINSERT INTO odd VALUES (1)",
		"as the name is taken":      "CREATE TABLE t1 (id integer)",
		"as it records itself":      "CREATE TABLE odd (id integer);\nINSERT INTO skein_migrations (name, state, batch, started_at) VALUES ('3.sql', 'applied', 1, 'now')",
		"as it takes too long here": "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
	} {
		t.Run(name, func(t *testing.T) {
			opts := skein.SessionOptions{StatementTimeout: time.Second}
			e, db := sqlite.New(opts), newTarget(t)
			session := openSession(t, e, db.Database)
			lock(t, session)
			good := func(i int) *skein.Migration {
				return migration(fmt.Sprintf("%d.sql", i), fmt.Sprintf("CREATE TABLE t%d (id integer)", i))
			}
			_, left, err := together(t.Context(), session, stepsOf(t, e, good(1), good(2), migration("3.sql", up), good(4), good(5)))
			if len(left) != 3 {
				t.Fatalf("%d steps are left, want 3: %v", len(left), err)
			}
			alone, other := openSession(t, e, newTarget(t).Database), stepsOf(t, e, good(1), good(2), migration("3.sql", up))
			lock(t, alone)
			var want error
			for _, step := range other {
				if _, want = alone.Apply(t.Context(), step); want != nil {
					break
				}
			}
			if err == nil || want == nil || err.Error() != want.Error() {
				t.Errorf("it failed:\n%v\nalone it is\n%v", err, want)
			}
			if diff := cmp.Diff([]string{"1.sql applied", "2.sql applied"}, applied(t, db)); diff != "" {
				t.Error(diff)
			}
			if got, want := tables(t, db), []string{"skein_migrations", "t1", "t2"}; !slices.Equal(got, want) {
				t.Errorf("the tables are %q, want %q", got, want)
			}
		})
	}
}

// A file that others write to fails the first step, after one wait for it.
func TestApplyTogetherBusy(t *testing.T) {
	db := newTarget(t)
	e := sqlite.New(skein.SessionOptions{LockTimeout: 200 * time.Millisecond})
	session := openSession(t, e, db.Database)
	lock(t, session)
	other := open(t, db)
	other.SetMaxOpenConns(1)
	if _, err := other.ExecContext(t.Context(), "CREATE TABLE theirs (id integer); BEGIN; INSERT INTO theirs VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	steps := stepsOf(t, e, migration("1.sql", "CREATE TABLE one (id integer)"), migration("2.sql", "CREATE TABLE two (id integer)"))
	_, left, err := together(t.Context(), session, steps)
	wantAnswer(t, err, skein.Busy, "database is locked", "lock_timeout")
	if len(left) != 2 {
		t.Errorf("%d steps are left, want 2", len(left))
	}
	if !strings.Contains(err.Error(), "1.sql") {
		t.Errorf("the error is not that of the first step: %v", err)
	}
	if _, err := other.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if sizes, _, err := together(t.Context(), session, steps); err != nil || len(sizes) == 0 {
		t.Errorf("afterwards together went %v: %v", sizes, err)
	}
}

// Whenever the context ends, all is there or nothing.
func TestApplyTogetherCancelled(t *testing.T) {
	stopped := 0
	for moment := range 30 {
		e, session, db := locked(t)
		var migrations []*skein.Migration
		for i := range 10 {
			migrations = append(migrations, migration(fmt.Sprintf("%02d.sql", i), fmt.Sprintf("CREATE TABLE t%02d (id integer)", i)))
		}
		steps := stepsOf(t, e, migrations...)
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(moment)*200*time.Microsecond)
		results, err := session.(skein.TogetherApplier).ApplyTogether(ctx, steps)
		cancel()
		if err != nil {
			stopped++
			if !strings.Contains(err.Error(), "00.sql") {
				t.Errorf("the error is not that of the first step: %v", err)
			}
		}
		made := len(slices.DeleteFunc(tables(t, db), func(name string) bool { return name == "skein_migrations" }))
		if records := len(history(t, session)); made != records || records != len(results) || err == nil && len(results) == 0 {
			t.Errorf("%d tables and %d records after %d results and %v", made, records, len(results), err)
		}
	}
	if stopped == 0 {
		t.Error("nothing was stopped before its end")
	}
}

// A temporary table does not hide another from the next migration, however it
// was made.
func TestTemporaryObjectsEnd(t *testing.T) {
	for name, sql := range map[string]string{
		"by its schema":    "CREATE TABLE temp.users (id integer)",
		"after a comment":  "-- of the import\nCREATE TEMP TABLE users (id integer)",
		"within a comment": "CREATE /* for now */ TEMPORARY TABLE users (id integer)",
	} {
		t.Run(name, func(t *testing.T) {
			e, session, db := locked(t)
			work := stepsOf(t, e, migration("1.sql", "CREATE TABLE users (id integer)"), migration("2.sql", sql), migration("3.sql", "INSERT INTO users VALUES (1)"))
			if _, left, err := together(t.Context(), session, work); err != nil {
				t.Fatalf("%s: %v", left[0].Migration.Name, err)
			}
			if got := query(t, db, "SELECT count(*) FROM users")[0][0]; got != "1" {
				t.Errorf("%s rows are in the table, want 1", got)
			}
		})
	}
}
