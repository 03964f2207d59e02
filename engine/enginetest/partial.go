package enginetest

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
)

// broken is a migration that is no transaction and whose third statement fails,
// with a down whose second does.
func broken() *skein.Migration {
	return noTransaction(migration("1.sql",
		table("one")+";\nINSERT INTO one VALUES (1, 'one');\nINSERT INTO missing\n  VALUES (1);\n"+table("three"),
		"DROP TABLE three;\nDROP TABLE missing;\nDROP TABLE one"))
}

// settle runs the migrator in a target with these migrations.
func (s *suite) settle(t *testing.T, target skein.Target, opts skein.PlanOptions, migrations ...*skein.Migration) skein.Result {
	t.Helper()
	return s.migrate(t, target, opts, false, migrations)
}

// migrate is settle, with knexHistory as in skein.Migrator.WithKnexHistory.
func (s *suite) migrate(t *testing.T, target skein.Target, opts skein.PlanOptions, knexHistory bool, migrations []*skein.Migration) skein.Result {
	t.Helper()
	set, err := skein.NewSet(migrations)
	if err != nil {
		t.Fatal(err)
	}
	e := s.engine()
	session := s.open(t, e, target)
	defer func() { _ = session.Close() }()
	tenant := skein.Tenant{ID: "1", Slug: "acme", Target: target}
	m := skein.NewMigrator(e, set, 30*time.Second).WithKnexHistory(knexHistory)
	return m.Migrate(t.Context(), session, tenant, opts, nil, func(skein.Event) {})
}

func wantRefusal(t *testing.T, r skein.Result, reason skein.Reason, msg string, hints ...string) {
	t.Helper()
	refused, ok := errors.AsType[*skein.RefusedError](r.Err)
	if !ok || refused.Reason != reason {
		t.Fatalf("the error is %T, not a refusal for %q: %v", r.Err, reason, r.Err)
	}
	if refused.Msg != msg {
		t.Errorf("the refusal is %q,\nnot %q", refused.Msg, msg)
	}
	for _, hint := range hints {
		if !strings.Contains(refused.Hint(), hint) {
			t.Errorf("the hint does not have %q: %s", hint, refused.Hint())
		}
	}
}

// one is the record of a target that has one.
func (s *suite) one(t *testing.T, target skein.Target) skein.Record {
	t.Helper()
	records := s.history(t, target).Records
	if len(records) != 1 {
		t.Fatalf("%d records: %+v", len(records), records)
	}
	return records[0]
}

var partialTests = []namedTest{
	{"Continue", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		m, later := broken(), migration("2.sql", table("later"), "")
		if r := s.settle(t, target, skein.PlanOptions{}, m, later); r.Err == nil {
			t.Fatal("the migration did not fail")
		}
		was := s.one(t, target)
		wantPartial(t, was, skein.Applying, 2, 4)

		// Nothing else runs, and it is said where it stopped and how to go on.
		r := s.settle(t, target, skein.PlanOptions{}, m, later)
		wantRefusal(t, r, skein.ReasonPartial,
			"1.sql stopped while it was applied, at statement 3 of 4 (migrations/1.sql:6): INSERT INTO missing VALUES (1)",
			"skein migrate acme --continue", "goes on with statement 3", "--redo", "--mark-applied", "--mark-reverted")
		if len(r.Stops) != 1 || r.Stops[0].Index != 3 || r.Stops[0].Line != upLine+2 {
			t.Errorf("the stops are %+v", r.Stops)
		}

		// It fails again at the same statement, and goes on when that can run.
		r = s.settle(t, target, skein.PlanOptions{Settle: skein.Continue}, m, later)
		wantStatementError(t, r.Err, &skein.StatementError{
			Migration: "1.sql", Direction: skein.Up, Path: m.Path, Line: upLine + 2,
			Statement: "INSERT INTO missing\n  VALUES (1)", Index: 3, Total: 4, Partial: true, Exact: true,
		})
		wantPartial(t, s.one(t, target), skein.Applying, 2, 4)
		// Begun anew where what it did is still there, it has come no less far.
		r = s.settle(t, target, skein.PlanOptions{Settle: skein.Redo}, m, later)
		broken, ok := errors.AsType[*skein.StatementError](r.Err)
		if !ok || broken.Index != 1 || broken.Kept != 2 || !broken.Partial {
			t.Errorf("the error is %+v", r.Err)
		}
		wantPartial(t, s.one(t, target), skein.Applying, 2, 4)
		s.Exec(t, target, table("missing"))
		s.Exec(t, target, "INSERT INTO missing (id) VALUES (7)")
		m.Up.SQL = strings.Replace(m.Up.SQL, "missing\n", "missing (id)\n", 1)
		m.Checksum = checksum("as it was mended")
		r = s.settle(t, target, skein.PlanOptions{Settle: skein.Continue}, m, later)
		if r.Err != nil || len(r.Done) != 1 {
			t.Fatalf("going on: %d steps, %v", len(r.Done), r.Err)
		}
		if got, want := s.tables(t, target), []string{"missing", "one", "three"}; !slices.Equal(got, want) {
			t.Errorf("the tables are %q, not %q", got, want)
		}
		if s.count(t, target, "one") != "1" || s.count(t, target, "missing") != "2" {
			t.Error("a statement ran twice, or not at all")
		}
		now := s.one(t, target)
		if now.State != skein.Applied || now.Batch != was.Batch || now.Checksum != m.Checksum || now.Fingerprints != "" {
			t.Errorf("the record is %+v", now)
		}
		// Once more does nothing; the rest is migrate's.
		if r := s.settle(t, target, skein.PlanOptions{Settle: skein.Continue}, m, later); r.Err != nil || len(r.Done) > 0 {
			t.Errorf("a tenant with nothing to settle: %d steps, %v", len(r.Done), r.Err)
		}
		if r := s.settle(t, target, skein.PlanOptions{}, m, later); r.Err != nil || len(r.Done) != 1 {
			t.Errorf("migrating on: %d steps, %v", len(r.Done), r.Err)
		}
	}},

	{"Changed", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		m := broken()
		s.settle(t, target, skein.PlanOptions{}, m)
		up := m.Up.SQL

		m.Up.SQL = strings.Replace(up, "'one'", "'two'", 1)
		wantRefusal(t, s.settle(t, target, skein.PlanOptions{Settle: skein.Continue}, m), skein.ReasonEdited,
			"migrations/1.sql:5: statement 2 of 1.sql has run here, and is another in the file now", "undo the edit", "--redo")
		r := s.settle(t, target, skein.PlanOptions{}, m)
		if strings.Contains(skein.Hint(r.Err), "--continue") {
			t.Errorf("the hint offers what is refused: %s", skein.Hint(r.Err))
		}
		m.Up.SQL = table("one")
		wantRefusal(t, s.settle(t, target, skein.PlanOptions{Settle: skein.Continue}, m), skein.ReasonEdited,
			"migrations/1.sql: statement 2 of 1.sql has run here, and is another in the file now")
		wantPartial(t, s.one(t, target), skein.Applying, 2, 4)

		// The statement that failed was dropped, and what came after it.
		m.Up.SQL = table("one") + ";\nINSERT INTO one VALUES (1, 'one')"
		if r := s.settle(t, target, skein.PlanOptions{Settle: skein.Continue}, m); r.Err != nil || len(r.Done) != 1 {
			t.Fatalf("%d steps, %v", len(r.Done), r.Err)
		}
		if got := s.one(t, target); got.State != skein.Applied || s.count(t, target, "one") != "1" {
			t.Errorf("the record is %+v", got)
		}
	}},

	{"Redo", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		m := broken()
		s.settle(t, target, skein.PlanOptions{}, m)
		// The first statement fails, and leaves the tenant as it was: not settled.
		r := s.settle(t, target, skein.PlanOptions{Settle: skein.Redo}, m)
		failed, ok := errors.AsType[*skein.StatementError](r.Err)
		if !ok || failed.Index != 1 || !failed.Partial {
			t.Fatalf("the error is %T: %+v", r.Err, r.Err)
		}
		wantPartial(t, s.one(t, target), skein.Applying, 2, 4)
		s.Exec(t, target, "DROP TABLE one")
		s.Exec(t, target, table("missing"))
		m.Up.SQL = strings.Replace(m.Up.SQL, "missing\n", "missing (id)\n", 1)
		if r := s.settle(t, target, skein.PlanOptions{Settle: skein.Redo}, m); r.Err != nil || len(r.Done) != 1 {
			t.Fatalf("%d steps, %v", len(r.Done), r.Err)
		}
		if got := s.one(t, target); got.State != skein.Applied || got.Fingerprints != "" || s.count(t, target, "one") != "1" {
			t.Errorf("the record is %+v", got)
		}
	}},

	{"AsOneTransaction", func(t *testing.T, s *suite) {
		// What could not be one transaction can after an edit.
		target := s.NewTarget(t)
		m := noTransaction(migration("1.sql", "INSERT INTO notes VALUES (1, 'one');\nINSERT INTO missing VALUES (1)", ""))
		s.Exec(t, target, table("notes"))
		s.settle(t, target, skein.PlanOptions{}, m)
		wantPartial(t, s.one(t, target), skein.Applying, 1, 2)
		m.Up.NoTransaction = false
		r := s.settle(t, target, skein.PlanOptions{Settle: skein.Continue}, m)
		failed, ok := errors.AsType[*skein.StatementError](r.Err)
		if !ok || failed.Index != 2 || !failed.Partial {
			t.Fatalf("the error is %T: %+v", r.Err, r.Err)
		}
		wantPartial(t, s.one(t, target), skein.Applying, 1, 2)
		s.Exec(t, target, "CREATE TABLE missing (id integer PRIMARY KEY)")
		if r := s.settle(t, target, skein.PlanOptions{Settle: skein.Continue}, m); r.Err != nil || len(r.Done) != 1 {
			t.Fatalf("%d steps, %v", len(r.Done), r.Err)
		}
		got := s.one(t, target)
		if got.State != skein.Applied || got.Fingerprints != "" || s.count(t, target, "notes") != "1" || s.count(t, target, "missing") != "1" {
			t.Errorf("the record is %+v", got)
		}
	}},

	{"Down", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		m := noTransaction(migration("1.sql", table("one")+";\n"+table("two"), "DROP TABLE two;\nDROP TABLE missing;\nDROP TABLE one"))
		s.settle(t, target, skein.PlanOptions{}, m)
		was := s.one(t, target)
		r := s.settle(t, target, skein.PlanOptions{Direction: skein.Down}, m)
		if failed, ok := errors.AsType[*skein.StatementError](r.Err); !ok || !failed.Partial {
			t.Fatalf("the error is %T: %v", r.Err, r.Err)
		}
		wantPartial(t, s.one(t, target), skein.Reverting, 1, 3)
		wantRefusal(t, s.settle(t, target, skein.PlanOptions{}, m), skein.ReasonPartial,
			"1.sql stopped while it was reverted, at statement 2 of 3 (migrations/1.sql:1001): DROP TABLE missing",
			"skein migrate acme --continue")

		// Said to be applied, it is what it was, and can be reverted again.
		if r := s.settle(t, target, skein.PlanOptions{Settle: skein.MarkApplied}, m); r.Err != nil || len(r.Done) != 1 {
			t.Fatalf("%d steps, %v", len(r.Done), r.Err)
		}
		now := s.one(t, target)
		if now.State != skein.Applied || now.Batch != was.Batch || now.Checksum != was.Checksum || now.Fingerprints != "" {
			t.Errorf("the record is %+v, and was %+v", now, was)
		}
		s.Exec(t, target, table("two"))
		s.settle(t, target, skein.PlanOptions{Direction: skein.Down}, m)
		wantPartial(t, s.one(t, target), skein.Reverting, 1, 3)

		m.Down.SQL = strings.Replace(m.Down.SQL, "missing", "IF EXISTS missing", 1)
		r = s.settle(t, target, skein.PlanOptions{Settle: skein.Continue}, m)
		if r.Err != nil || len(r.Done) != 1 || r.Done[0].Direction != skein.Down {
			t.Fatalf("%+v, %v", r.Done, r.Err)
		}
		if tables, records := s.tables(t, target), s.records(t, target); len(tables) > 0 || len(records) > 0 {
			t.Errorf("the tables %q and the records %v are left", tables, records)
		}
	}},

	{"Mark", func(t *testing.T, s *suite) {
		for _, settle := range []skein.Settlement{skein.MarkApplied, skein.MarkReverted} {
			for _, file := range []bool{true, false} {
				target := s.NewTarget(t)
				m := broken()
				s.settle(t, target, skein.PlanOptions{}, m)
				tables := s.tables(t, target)
				files := []*skein.Migration{m}
				if !file {
					files = nil
					wantRefusal(t, s.settle(t, target, skein.PlanOptions{}), skein.ReasonPartial,
						"1.sql stopped while it was applied, at statement 3 of 4, and its file is gone", "skein migrate acme --mark-applied", "--mark-reverted")
					wantRefusal(t, s.settle(t, target, skein.PlanOptions{Settle: skein.Continue}), skein.ReasonMissing,
						"1.sql began and did not end, and is not among the files", "bring the file back")
				}
				r := s.settle(t, target, skein.PlanOptions{Settle: settle}, files...)
				if r.Err != nil || len(r.Done) != 1 || r.Done[0].Migration.Name != "1.sql" {
					t.Fatalf("%s: %+v, %v", settle, r.Done, r.Err)
				}
				if diff := cmp.Diff(tables, s.tables(t, target)); diff != "" {
					t.Errorf("%s changed the tables (-was +is):\n%s", settle, diff)
				}
				records := s.records(t, target)
				got, there := records["1.sql"]
				if there != (settle == skein.MarkApplied) || there && (got.State != skein.Applied || got.Checksum != m.Checksum || got.Batch != 1 || got.Fingerprints != "") {
					t.Errorf("%s: the record is %+v", settle, got)
				}
			}
		}
	}},

	{"Killed", func(t *testing.T, s *suite) {
		// The statement that was running when its process was killed is the one
		// that is gone on with.
		target := s.NewTarget(t)
		m := noTransaction(s.slow())
		p := s.start(t, target, doSlowBare)
		s.waitBegun(t, target, m)
		p.kill(t)
		m.Up.SQL = strings.Replace(m.Up.SQL, s.Slow, "SELECT 1", 1)
		if r := s.settle(t, target, skein.PlanOptions{Settle: skein.Continue}, m); r.Err != nil || len(r.Done) != 1 {
			t.Fatalf("%d steps, %v", len(r.Done), r.Err)
		}
		if got, want := s.tables(t, target), []string{"earlier", "later"}; !slices.Equal(got, want) {
			t.Errorf("the tables are %q, not %q", got, want)
		}
	}},
}
