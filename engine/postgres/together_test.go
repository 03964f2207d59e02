package postgres

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/dbtest"
)

// applied are the names of the records that a session of its own finds, in the
// order of their ids.
func applied(t *testing.T, target skein.Target) []string {
	t.Helper()
	h, err := open(t, New(skein.SessionOptions{}), target).History(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return names(h)
}

func TestApplyTogether(t *testing.T) {
	e, wire := countedEngine()
	target := newDatabase(t)
	s := open(t, e, target)
	lock(t, s)
	steps := []skein.Step{
		step(t, "1.sql", "CREATE TABLE a (id integer); SELECT pg_sleep(0.2); SET search_path TO nowhere", false),
		step(t, "2.sql", "CREATE TABLE b (id integer); SELECT pg_sleep(0.05)", false), // finds the search path as it was
		step(t, "3.sql", "INSERT INTO a VALUES (1); INSERT INTO b VALUES (2)", false),
	}
	steps[2].Last = true
	wire.take()
	results, err := s.ApplyTogether(t.Context(), steps)
	if err != nil {
		t.Fatal(err)
	}
	if n := wire.take(); n != 1 {
		t.Errorf("three steps took %d round trips, want 1", n)
	}
	if len(results) != 3 {
		t.Fatalf("%d results of 3 steps", len(results))
	}
	if a, b := results[0].Duration, results[1].Duration; a < 200*time.Millisecond || b < 50*time.Millisecond || b >= a {
		t.Errorf("the steps that sleep 200 and 50 ms took %s and %s", a, b)
	}
	unlock(t, s)
	if diff := cmp.Diff([]string{"1.sql applied", "2.sql applied", "3.sql applied"}, applied(t, target)); diff != "" {
		t.Error(diff)
	}
	// Each is a transaction of its own, and says so.
	rows, err := queryRows(t.Context(), s, "SELECT count(DISTINCT xmin::text), bool_and(started_at < applied_at), bool_and(duration_ms >= 0) FROM skein_migrations")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"3", "t", "t"}; !slices.Equal(rows[0], want) {
		t.Errorf("transactions, times in order, durations: %q, want %q", rows[0], want)
	}
	if kept, err := s.Kept(t.Context()); err != nil || kept.Fingerprint == "" {
		t.Errorf("the fingerprint afterwards: %+v, %v", kept, err)
	}
}

// What comes before a step that fails stays, and what comes after it does not
// run: the same as one by one.
func TestApplyTogetherFails(t *testing.T) {
	good := func(name string) skein.Step { return step(t, name, "CREATE TABLE t"+name[:1]+" (id integer)", false) }
	for name, sql := range map[string]string{
		"when it runs":           "CREATE TABLE odd (id integer);\nSELECT * FROM nobody",
		"when it is read":        "CREATE TABLE odd (id integer);\nSELEC 1",
		"when it commits":        "CREATE TABLE u (id integer UNIQUE DEFERRABLE INITIALLY DEFERRED);\nINSERT INTO u VALUES (1), (1)",
		"when it is read, whole": "CREATE TABLE odd (id integer);\nSELECT 'a' || E'\\xff'",
	} {
		t.Run(name, func(t *testing.T) {
			target := newDatabase(t)
			s := open(t, New(skein.SessionOptions{}), target)
			lock(t, s)
			steps := []skein.Step{good("1.sql"), good("2.sql"), step(t, "3.sql", sql, false), good("4.sql")}
			var err error
			for len(steps) > 0 && err == nil {
				var results []skein.StepResult
				results, err = s.ApplyTogether(t.Context(), steps)
				if err == nil && len(results) == 0 {
					t.Fatal("neither a result nor an error")
				}
				steps = steps[len(results):]
			}
			alone := open(t, New(skein.SessionOptions{}), newDatabase(t))
			lock(t, alone)
			want := failing(t, alone, steps[0])
			if err == nil || err.Error() != want.Error() || steps[0].Migration.Name != "3.sql" {
				t.Errorf("%s failed:\n%v\nalone it is\n%v", steps[0].Migration.Name, err, want)
			}
			unlock(t, s)
			if diff := cmp.Diff([]string{"1.sql applied", "2.sql applied"}, applied(t, target)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestApplyTogetherStopsBeforeOthers(t *testing.T) {
	s := open(t, New(skein.SessionOptions{}), newDatabase(t))
	lock(t, s)
	wait := time.Minute
	bounded := step(t, "2.sql", "SELECT 2", false)
	bounded.Migration.Up.Timeouts.Lock = &wait
	steps := []skein.Step{
		step(t, "1.sql", "SELECT 1", false),
		bounded,
		step(t, "3.sql", "CREATE TABLE a (id integer); CREATE INDEX CONCURRENTLY i ON a (id)", true),
		step(t, "4.sql", "SELECT 4", false), step(t, "5.sql", "SELECT 5", false),
	}
	var sizes []int
	for len(steps) > 0 {
		results, err := s.ApplyTogether(t.Context(), steps)
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(results))
		steps = steps[len(results):]
	}
	if want := []int{1, 1, 1, 2}; !slices.Equal(sizes, want) {
		t.Errorf("together went %v, want %v", sizes, want)
	}
}

// The last step of a run gives the lock back in its own round trip, and Unlock
// has nothing left to do. One that fails keeps it.
func TestLastStepUnlocks(t *testing.T) {
	e, wire := countedEngine()
	target := newDatabase(t)
	s, other := open(t, e, target), open(t, New(skein.SessionOptions{}), target)
	lock(t, s)
	apply(t, s, step(t, "1.sql", "SELECT 1", false))
	unlock(t, s)

	lock(t, s)
	last := step(t, "2.sql", "SELECT 2", false)
	last.Last = true
	broken := step(t, "2.sql", "SELECT nothing", false)
	broken.Last = true
	_ = failing(t, s, broken)
	if _, err := other.Lock(t.Context(), 0); err == nil {
		t.Fatal("the lock is free after a step that failed")
	}
	wire.take()
	apply(t, s, last)
	if n := wire.take(); n != 1 {
		t.Errorf("the last step took %d round trips, want 1", n)
	}
	lock(t, other)
	unlock(t, s)
	if n := wire.take(); n != 0 {
		t.Errorf("unlocking afterwards took %d round trips, want none", n)
	}
	unlock(t, other)
	if err := s.Unlock(t.Context()); err == nil {
		t.Error("the lock was given back once more")
	}
}

// Where the lock could not be given back with the last step, that is no error of
// the step, which is applied: Unlock tries again, or says what is wrong.
func TestLastStepCannotUnlock(t *testing.T) {
	last := func(name, sql string) skein.Step {
		s := step(t, name, sql, false)
		s.Last = true
		return s
	}
	for name, test := range map[string]struct {
		sql    string
		revoke bool // the right to give a lock back
		want   string
	}{
		"the migration did": {sql: "SELECT pg_advisory_unlock_all()", want: "the session had lost it"},
		"it is an error":    {sql: "SELECT 1", revoke: true, want: "permission denied for function pg_advisory_unlock"},
	} {
		for way, apply := range map[string]func(*session, skein.Step) error{
			"alone": func(s *session, step skein.Step) error {
				_, err := s.Apply(t.Context(), step)
				return err
			},
			"with another": func(s *session, second skein.Step) error {
				results, err := s.ApplyTogether(t.Context(), []skein.Step{step(t, "2.sql", "SELECT 1", false), second})
				if err == nil && len(results) != 2 {
					t.Errorf("%s: %d results of two steps", name, len(results))
				}
				return err
			},
		} {
			t.Run(name+", "+way, func(t *testing.T) {
				target := newDatabase(t)
				migrated(t, target, one(t))
				s, other := open(t, New(skein.SessionOptions{}), target), open(t, New(skein.SessionOptions{}), target)
				lock(t, s)
				if test.revoke {
					dbtest.Postgres(t).Exec(t, target.Database, "REVOKE EXECUTE ON FUNCTION pg_advisory_unlock(integer, integer) FROM PUBLIC")
				}
				if err := apply(s, last("3.sql", test.sql)); err != nil {
					t.Fatalf("the step failed: %v", err)
				}
				if got := applied(t, target); got[len(got)-1] != "3.sql applied" {
					t.Errorf("recorded are %q", got)
				}
				if err := s.Unlock(t.Context()); err == nil || !strings.Contains(err.Error(), "give the lock back: ") || !strings.Contains(err.Error(), test.want) {
					t.Errorf("unlocking afterwards says %v, want that %s", err, test.want)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				lock(t, other) // what a session did not give back ends with it
			})
		}
	}
}

// The lock stays where the step made Skein's table, whose fingerprint is written
// before it is given back, and where the step is no transaction.
func TestLastStepLeavesTheLock(t *testing.T) {
	for name, test := range map[string]struct {
		fresh bool
		step  skein.Step
	}{
		"with the table":        {fresh: true, step: step(t, "2.sql", "SELECT 1", false)},
		"without a transaction": {step: step(t, "2.sql", "SELECT 1", true)},
	} {
		t.Run(name, func(t *testing.T) {
			target := newDatabase(t)
			if !test.fresh {
				migrated(t, target, one(t))
			}
			s, other := open(t, New(skein.SessionOptions{}), target), open(t, New(skein.SessionOptions{}), target)
			lock(t, s)
			test.step.Last = true
			apply(t, s, test.step)
			if _, err := other.Lock(t.Context(), 0); err == nil {
				t.Error("the lock is free before it was given back")
			}
			unlock(t, s)
			wantTold(t, "afterwards", target)
			lock(t, other)
		})
	}
}

// A connection that ends in the middle of steps that went together leaves what
// was committed, and its error is that of the first step without an answer.
func TestApplyTogetherLosesTheConnection(t *testing.T) {
	target := newDatabase(t)
	s := open(t, New(skein.SessionOptions{}), target)
	lock(t, s)
	results, err := s.ApplyTogether(t.Context(), []skein.Step{
		step(t, "1.sql", "CREATE TABLE a (id integer)", false),
		step(t, "2.sql", "CREATE TABLE b (id integer); SELECT pg_terminate_backend(pg_backend_pid())", false),
		step(t, "3.sql", "CREATE TABLE c (id integer)", false),
	})
	if len(results) != 1 || skein.ErrorClass(err) != skein.ConnectionLost || !strings.HasPrefix(err.Error(), "apply 2.sql: ") {
		t.Errorf("%d steps have an answer, and the error is %v", len(results), err)
	}
	if hint := skein.Hint(err); !strings.Contains(hint, "the tenant's history says so") {
		t.Errorf("the hint is %q", hint)
	}
	lock(t, open(t, New(skein.SessionOptions{}), target))
	if diff := cmp.Diff([]string{"1.sql applied"}, applied(t, target)); diff != "" {
		t.Error(diff)
	}
}
