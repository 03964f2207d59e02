package enginetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
)

// inKnexTests are about SQL migrations that Knex's table has.
var inKnexTests = []namedTest{
	{"Record", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		e := s.engine()
		session := s.open(t, e, target)
		recorder := knexRecorder(t, session)
		lock(t, session)
		for _, name := range []string{"2.sql", "1.sql", "it's 3.sql", "4.sql"} {
			apply(t, e, session, migration(name, "SELECT 1", ""), skein.Up, 7)
		}
		before := s.history(t, target).Records
		for range 2 { // a second time nothing is left to be written
			if err := recorder.RecordInKnex(t.Context(), []string{"2.sql", "1.sql", "it's 3.sql", "none.sql"}); err != nil {
				t.Fatal(err)
			}
		}
		want := [][]string{{"1", "2.sql", "7"}, {"2", "1.sql", "7"}, {"3", "it's 3.sql", "7"}}
		if got := s.rowsInKnex(t, target); !cmp.Equal(got, want) {
			t.Errorf("Knex's table has %q, want %q", got, want)
		}
		if got := s.Query(t, target, "SELECT is_locked FROM knex_migrations_lock"); !cmp.Equal(got, [][]string{{"0"}}) {
			t.Errorf("Knex's lock is %q", got)
		}
		// The history is what it was, but for where it stands.
		after := s.history(t, target).Records
		for i := range after {
			if want := after[i].Name != "4.sql"; after[i].InKnex != want {
				t.Errorf("%s: InKnex is %t", after[i].Name, after[i].InKnex)
			}
			after[i].InKnex = false
		}
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("the records (-before +after):\n%s", diff)
		}

		if err := recorder.EraseInKnex(t.Context(), []string{"it's 3.sql", "2.sql", "4.sql"}); err != nil {
			t.Fatal(err)
		}
		if got, want := s.rowsInKnex(t, target), [][]string{{"2", "1.sql", "7"}}; !cmp.Equal(got, want) {
			t.Errorf("Knex's table has %q, want %q", got, want)
		}
		unlock(t, session)
		if got := len(s.history(t, target).Records); got != 4 {
			t.Errorf("%d records are left of 4", got)
		}
	}},

	{"Migrate", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		all := []*skein.Migration{
			migration("1.sql", table("one"), "DROP TABLE one"), migration("2.sql", table("two"), "DROP TABLE two"),
			migration("3.sql", table("three")+";\n"+table("four"), "DROP TABLE four;\nDROP TABLE three"),
		}
		s.besideKnex(t, target, skein.PlanOptions{Baseline: "1.sql"}, all...)
		s.besideKnex(t, target, skein.PlanOptions{Steps: 1}, all...)
		want := [][]string{{"1", "1.sql", "1"}, {"2", "2.sql", "2"}}
		if got := s.rowsInKnex(t, target); !cmp.Equal(got, want) {
			t.Errorf("Knex's table has %q, want %q", got, want)
		}
		// A row that is missing is written with the next.
		s.Exec(t, target, "DELETE FROM knex_migrations WHERE name = '1.sql'")
		s.besideKnex(t, target, skein.PlanOptions{}, all...)
		want = [][]string{{"2", "2.sql", "2"}, {"3", "1.sql", "1"}, {"4", "3.sql", "3"}}
		if got := s.rowsInKnex(t, target); !cmp.Equal(got, want) {
			t.Errorf("Knex's table has %q, want %q", got, want)
		}
		s.besideKnex(t, target, skein.PlanOptions{Direction: skein.Down, Steps: 2}, all...)
		if got, want := s.rowsInKnex(t, target), [][]string{{"3", "1.sql", "1"}}; !cmp.Equal(got, want) {
			t.Errorf("after a rollback Knex's table has %q, want %q", got, want)
		}
		if got := s.tables(t, target); !slices.Equal(got, knexTables) {
			t.Errorf("after a rollback there are the tables %q", got)
		}
	}},

	{"Revert", func(t *testing.T, s *suite) {
		// What only Knex's table has, whoever wrote it there.
		target := s.NewTarget(t)
		s.Exec(t, target, s.Knex)
		s.Exec(t, target, table("one"))
		s.Exec(t, target, table("two"))
		s.Exec(t, target, "INSERT INTO knex_migrations (name, batch, migration_time) VALUES ('1.sql', 1, "+s.KnexTime+"), ('2.sql', 2, "+s.KnexTime+"), ('3.sql', 2, "+s.KnexTime+")")
		bare := migration("3.sql", "SELECT 1", "DROP TABLE missing;\nSELECT 1")
		bare.Down.NoTransaction = true
		all := []*skein.Migration{migration("1.sql", table("one"), "DROP TABLE one"), migration("2.sql", table("two"), "DROP TABLE two"), bare}

		// A down that fails and leaves nothing changes nothing.
		r := s.settle(t, target, skein.PlanOptions{Direction: skein.Down, Steps: 1}, all...)
		if _, ok := errors.AsType[*skein.StatementError](r.Err); !ok {
			t.Fatalf("the error is %v", r.Err)
		}
		if got := s.rowsInKnex(t, target); len(got) != 3 || got[2][1] != "3.sql" {
			t.Errorf("after a down that failed Knex's table has %q", got)
		}
		if got := s.records(t, target); len(got) != 3 || got["3.sql"].Partial() {
			t.Errorf("after a down that failed the records are %+v", got)
		}

		all[2] = migration("3.sql", "SELECT 1", "SELECT 1;\nSELECT 2")
		all[2].Down.NoTransaction = true
		if r = s.settle(t, target, skein.PlanOptions{Direction: skein.Down}, all...); r.Err != nil || len(r.Done) != 2 {
			t.Fatalf("%d steps, %v", len(r.Done), r.Err)
		}
		if got, want := s.rowsInKnex(t, target), [][]string{{"1", "1.sql", "1"}}; !cmp.Equal(got, want) {
			t.Errorf("Knex's table has %q, want %q", got, want)
		}
		if got := s.tables(t, target); !slices.Equal(got, append(knexTables, "one")) {
			t.Errorf("the tables are %q", got)
		}
		if r = s.settle(t, target, skein.PlanOptions{}, all...); r.Err != nil || len(r.Done) != 2 {
			t.Errorf("once more: %d steps, %v", len(r.Done), r.Err)
		}
	}},
}

var knexTables = []string{"knex_migrations", "knex_migrations_lock"}

func knexRecorder(t *testing.T, session skein.Session) skein.KnexRecorder {
	t.Helper()
	recorder, ok := session.(skein.KnexRecorder)
	if !ok {
		t.Fatalf("%T is no skein.KnexRecorder", session)
	}
	return recorder
}

// rowsInKnex are the rows of Knex's table but for their times.
func (s *suite) rowsInKnex(t *testing.T, target skein.Target) [][]string {
	t.Helper()
	return s.Query(t, target, "SELECT id, name, batch FROM knex_migrations WHERE migration_time IS NOT NULL ORDER BY id")
}

// besideKnex runs the migrator, which records SQL migrations in Knex's table
// too.
func (s *suite) besideKnex(t *testing.T, target skein.Target, opts skein.PlanOptions, migrations ...*skein.Migration) {
	t.Helper()
	r := s.migrate(t, target, opts, true, migrations)
	if r.Err != nil {
		t.Fatal(fmt.Errorf("%+v: %w", opts, r.Err))
	}
}
