package enginetest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
)

var historyTests = []namedTest{
	{"Untouched", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		session := s.open(t, s.engine(), target)
		for range 2 {
			history, err := session.History(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(history.Records) > 0 || history.KnexLocked {
				t.Errorf("an empty target has the history %+v", history)
			}
		}
		if history := lock(t, session); len(history.Records) > 0 || history.KnexLocked {
			t.Errorf("an empty target has the history %+v under its lock", history)
		}
		unlock(t, session)
		if tables := s.Tables(t, target); len(tables) > 0 {
			t.Errorf("reading a target's history made tables in it: %q", tables)
		}
	}},

	{"Fields", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		m := migration("20240101_a.sql", table("a")+";\n"+table("b"), "")
		before := time.Now().Add(-time.Second)
		s.applyAll(t, target, m)
		after := time.Now().Add(time.Second)

		history := s.history(t, target)
		if len(history.Records) != 1 {
			t.Fatalf("the history has %d records: %+v", len(history.Records), history.Records)
		}
		r := history.Records[0]
		if r.AppliedAt.Before(before) || r.AppliedAt.After(after) {
			t.Errorf("applied at %s, which is not between %s and %s", r.AppliedAt, before, after)
		}
		if r.Duration < 0 || r.Duration > after.Sub(before) {
			t.Errorf("a duration of %s", r.Duration)
		}
		// What was one transaction has no statements counted.
		r.AppliedAt, r.Duration, r.Done, r.Total = time.Time{}, 0, 0, 0
		want := skein.Record{Name: m.Name, State: skein.Applied, Batch: 1, Checksum: m.Checksum, By: by, Tool: tool}
		if diff := cmp.Diff(want, r); diff != "" {
			t.Errorf("the record is not as wanted (-want +got):\n%s", diff)
		}

		// The names of the columns are an interface: people look into the table.
		row := s.Query(t, target, "SELECT name, state, batch, checksum, applied_by, tool FROM skein_migrations")
		if diff := cmp.Diff([][]string{{m.Name, "applied", "1", m.Checksum, by, tool}}, row); diff != "" {
			t.Errorf("the row is not as wanted (-want +got):\n%s", diff)
		}
		row = s.Query(t, target, "SELECT count(id), count(started_at), count(applied_at), count(duration_ms), count(done), count(total) FROM skein_migrations")
		if diff := cmp.Diff([][]string{{"1", "1", "1", "1", "1", "1"}}, row); diff != "" {
			t.Errorf("columns without a value (-want +got):\n%s", diff)
		}
	}},

	{"Order", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		e := s.engine()
		session := s.open(t, e, target)
		lock(t, session)
		for _, m := range []struct {
			name  string
			batch int
		}{{"3.sql", 1}, {"1.sql", 2}, {"4.sql", 2}, {"2.sql", 3}} {
			apply(t, e, session, migration(m.name, "SELECT 1", ""), skein.Up, m.batch)
		}
		unlock(t, session)

		history := s.history(t, target)
		var names []string
		for _, r := range history.Records {
			names = append(names, r.Name)
		}
		if want := []string{"3.sql", "1.sql", "4.sql", "2.sql"}; !slices.Equal(names, want) {
			t.Errorf("records in the order %q, not %q", names, want)
		}
		if history.LastBatch() != 3 {
			t.Errorf("the last batch is %d, not 3", history.LastBatch())
		}
	}},

	{"OddNames", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		names := []string{
			"a.sql", "A.sql", "ä.sql", "a .sql", // a collation may take these for one
			`o'brien "quoted" ` + "`x`" + ` \ %s $1 ? :x.sql`,
			"数据_🪿.sql",
			strings.Repeat("x", 251) + ".sql",
		}
		var all []*skein.Migration
		for _, name := range names {
			all = append(all, migration(name, "SELECT 1", "SELECT 2"))
		}
		s.applyAll(t, target, all...)
		records := s.records(t, target)
		for _, m := range all {
			if records[m.Name].Checksum != m.Checksum {
				t.Errorf("%q is recorded as %+v", m.Name, records[m.Name])
			}
		}
		if len(records) != len(names) {
			t.Errorf("%d records of %d migrations", len(records), len(names))
		}

		e := s.engine()
		session := s.open(t, e, target)
		lock(t, session)
		apply(t, e, session, all[0], skein.Down, 0)
		records = s.records(t, target)
		if _, ok := records["a.sql"]; ok || len(records) != len(names)-1 {
			t.Errorf("after a.sql was reverted the records are %v", records)
		}
	}},

	{"LongOptions", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		opts := s.options()
		opts.By, opts.Tool = strings.Repeat("ü", 300), strings.Repeat("ü", 100)
		e := s.New(opts)
		session := s.open(t, e, target)
		lock(t, session)
		apply(t, e, session, migration("1.sql", "SELECT 1", ""), skein.Up, 1)
		r := s.records(t, target)["1.sql"]
		if want := strings.Repeat("ü", 255); r.By != want {
			t.Errorf("By is %q, not the first 255 characters", r.By)
		}
		if want := strings.Repeat("ü", 64); r.Tool != want {
			t.Errorf("Tool is %q, not the first 64 characters", r.Tool)
		}
	}},

	{"Many", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		session := s.open(t, s.engine(), target)
		lock(t, session)
		var records []skein.Record
		for i := range 2000 {
			records = append(records, skein.Record{
				Name: strings.Repeat("m", 60) + string(rune('a'+i%26)) + time.Unix(int64(i), 0).UTC().Format("150405") + ".sql", State: skein.Applied,
				Batch: 1 + i/10, Checksum: checksum("x"), AppliedAt: time.Unix(1700000000, 0),
			})
		}
		if err := session.Record(t.Context(), records); err != nil {
			t.Fatal(err)
		}
		unlock(t, session)
		history := s.history(t, target)
		if len(history.Records) != len(records) || history.LastBatch() != 200 {
			t.Errorf("%d records up to batch %d", len(history.Records), history.LastBatch())
		}
		for i, r := range history.Records {
			if r.Name != records[i].Name {
				t.Fatalf("record %d is %s, not %s", i, r.Name, records[i].Name)
			}
		}
	}},
}

var knexTests = []namedTest{
	{"Read", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		s.Exec(t, target, s.Knex)
		s.Exec(t, target, "INSERT INTO knex_migrations (name, batch, migration_time) VALUES "+
			"('20240101_a.js', 1, "+s.KnexTime+"), ('20240103_c.js', 2, "+s.KnexTime+"), ('20240102_b.ts', 2, "+s.KnexTime+")")
		tables := s.Tables(t, target)

		history := s.history(t, target)
		var got []skein.Record
		for _, r := range history.Records {
			if d := r.AppliedAt.Sub(s.KnexTimeMeans); d < -time.Second || d > time.Second {
				t.Errorf("%s was applied at %s, not %s", r.Name, r.AppliedAt, s.KnexTimeMeans)
			}
			r.AppliedAt = time.Time{}
			got = append(got, r)
		}
		want := []skein.Record{
			{Name: "20240101_a.js", State: skein.Applied, Batch: 1, InKnex: true},
			{Name: "20240103_c.js", State: skein.Applied, Batch: 2, InKnex: true},
			{Name: "20240102_b.ts", State: skein.Applied, Batch: 2, InKnex: true},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the records are not as wanted (-want +got):\n%s", diff)
		}
		if history.KnexLocked {
			t.Error("KnexLocked is set")
		}
		if now := s.Tables(t, target); !slices.Equal(now, tables) {
			t.Errorf("reading changed the tables from %q to %q", tables, now)
		}
	}},

	{"Open", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		s.Exec(t, target, s.Knex)
		s.Exec(t, target, "INSERT INTO knex_migrations (name, batch, migration_time) VALUES ('1.js', 1, "+s.KnexTime+"), ('2.js', 1, "+s.KnexTime+")")
		s.Exec(t, target, "UPDATE knex_migrations_lock SET is_locked = 1")
		session := s.open(t, s.engine(), target)
		lock(t, session)
		notes := []skein.Record{
			{Name: "1.js", State: skein.Applied, Batch: 1, Checksum: checksum("1"), AppliedAt: s.KnexTimeMeans},
			{Name: "2.js", State: skein.Applying, Batch: 1, Checksum: checksum("2"), Total: 1, AppliedAt: time.Now()},
			{Name: "3.js", State: skein.Applying, Batch: 1, Total: 1, AppliedAt: time.Now()},
		}
		if err := session.Record(t.Context(), notes); err != nil {
			t.Fatal(err)
		}
		h := s.history(t, target)
		if !h.KnexLocked || len(h.KnexOpen) != 2 || h.KnexOpen[0].Name != "2.js" || h.KnexOpen[1].Name != "3.js" {
			t.Errorf("what was noted and not ended is %v, and KnexLocked is %t", h.KnexOpen, h.KnexLocked)
		}
		got := s.records(t, target)
		if r := got["2.js"]; r.State != skein.Applied || !r.InKnex || r.Checksum != checksum("2") {
			t.Errorf("what Knex has recorded is read as %+v", r)
		}
		if r := got["3.js"]; !r.Partial() || r.InKnex {
			t.Errorf("what Knex has not recorded is read as %+v", r)
		}
	}},

	{"Mixed", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		s.Exec(t, target, s.Knex)
		s.Exec(t, target, "INSERT INTO knex_migrations (name, batch, migration_time) VALUES ('1.js', 1, "+s.KnexTime+"), ('3.js', 3, "+s.KnexTime+")")
		e := s.engine()
		session := s.open(t, e, target)
		if got := lock(t, session).LastBatch(); got != 3 {
			t.Errorf("the last batch under the lock is %d, not Knex's 3", got)
		}
		apply(t, e, session, migration("2.sql", "SELECT 1", ""), skein.Up, 2)
		apply(t, e, session, migration("4.sql", "SELECT 1", ""), skein.Up, 4)
		// What Skein notes about a Knex migration is added to Knex's row, and
		// counts for nothing without it.
		err := session.Record(t.Context(), []skein.Record{
			{Name: "3.js", State: skein.Applied, Batch: 3, Checksum: checksum("3"), AppliedAt: s.KnexTimeMeans, Duration: 3 * time.Second},
			{Name: "5.js", State: skein.Applied, Batch: 5, Checksum: checksum("5"), AppliedAt: time.Unix(1700000000, 0)},
		})
		if err != nil {
			t.Fatal(err)
		}
		unlock(t, session)

		type seen struct {
			Name   string
			Batch  int
			InKnex bool
		}
		var got []seen
		for _, r := range s.history(t, target).Records {
			got = append(got, seen{r.Name, r.Batch, r.InKnex})
			if r.Name == "3.js" && (r.Checksum != checksum("3") || r.Duration != 3*time.Second) {
				t.Errorf("what Skein noted about 3.js is missing: %+v", r)
			}
		}
		want := []seen{{"1.js", 1, true}, {"2.sql", 2, false}, {"3.js", 3, true}, {"4.sql", 4, false}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the records are not as wanted (-want +got):\n%s", diff)
		}
		if rows := s.count(t, target, "knex_migrations"); rows != "2" {
			t.Errorf("knex_migrations has %s rows, where Knex wrote 2", rows)
		}
	}},

	{"Nulls", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		s.Exec(t, target, s.Knex)
		s.Exec(t, target, "INSERT INTO knex_migrations (name, batch, migration_time) VALUES ('1.js', NULL, NULL), ('2.js', 1, NULL), (NULL, 1, NULL)")
		s.Exec(t, target, "UPDATE knex_migrations_lock SET is_locked = NULL")
		history := s.history(t, target)
		if history.KnexLocked {
			t.Error("KnexLocked is set by a null")
		}
		names := make(map[string]skein.Record)
		for _, r := range history.Records {
			names[r.Name] = r
		}
		for _, name := range []string{"1.js", "2.js"} {
			if r, ok := names[name]; !ok || !r.AppliedAt.IsZero() {
				t.Errorf("%s is read as %+v", name, r)
			}
		}
		if _, ok := names[""]; ok || len(history.Records) != 2 {
			t.Errorf("a row without a name is read as a migration: %+v", history.Records)
		}
	}},

	{"Locked", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		s.Exec(t, target, s.Knex)
		session := s.open(t, s.engine(), target)
		for _, test := range []struct {
			sql  string
			want bool
		}{
			{"UPDATE knex_migrations_lock SET is_locked = 1", true},
			{"UPDATE knex_migrations_lock SET is_locked = 0", false},
			{"INSERT INTO knex_migrations_lock (is_locked) VALUES (1)", true},
			{"DELETE FROM knex_migrations_lock", false},
		} {
			s.Exec(t, target, test.sql)
			history, err := session.History(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if history.KnexLocked != test.want {
				t.Errorf("after %s, KnexLocked is %t", test.sql, history.KnexLocked)
			}
			if got := lock(t, session).KnexLocked; got != test.want {
				t.Errorf("after %s, KnexLocked is %t under the lock", test.sql, got)
			}
			unlock(t, session)
		}
		for _, name := range []string{"knex_migrations_lock", "knex_migrations"} {
			s.Exec(t, target, "DROP TABLE "+name)
			if _, err := session.History(t.Context()); err != nil {
				t.Errorf("without the table %s: %v", name, err)
			}
		}
	}},

	{"OwnTable", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		const name = `odd'"` + "`" + `Knex 表`
		opts := s.options()
		opts.KnexTable = name
		s.Exec(t, target, s.Knex)
		s.Exec(t, target, "INSERT INTO knex_migrations (name, batch, migration_time) VALUES ('default.js', 1, NULL)")
		session := s.open(t, s.New(opts), target)
		history, err := session.History(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(history.Records) > 0 {
			t.Errorf("with the Knex table %s the history is %+v", name, history.Records)
		}

		s.Exec(t, target, strings.ReplaceAll(s.Knex, "knex_migrations", "other_migrations"))
		s.Exec(t, target, "INSERT INTO other_migrations (name, batch, migration_time) VALUES ('other.js', 1, NULL)")
		s.Exec(t, target, "UPDATE other_migrations_lock SET is_locked = 1")
		opts.KnexTable = "other_migrations"
		session = s.open(t, s.New(opts), target)
		if history, err = session.History(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(history.Records) != 1 || history.Records[0].Name != "other.js" || !history.KnexLocked {
			t.Errorf("with the Knex table other_migrations the history is %+v", history)
		}
	}},
}

var recordTests = []namedTest{
	{"Baseline", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		set, err := skein.NewSet([]*skein.Migration{
			migration("1.sql", table("one"), ""), migration("2.sql", table("two"), ""), migration("3.sql", table("three"), ""),
		})
		if err != nil {
			t.Fatal(err)
		}
		e := s.engine()
		session := s.open(t, e, target)
		migrator := skein.NewMigrator(e, set, time.Second)
		r := migrator.Migrate(t.Context(), session, skein.Tenant{ID: "1", Target: target}, skein.PlanOptions{Baseline: "2.sql"}, nil, func(skein.Event) {})
		if r.Err != nil || len(r.Done) != 2 {
			t.Fatalf("the baseline did %d steps: %v", len(r.Done), r.Err)
		}
		if tables := s.tables(t, target); len(tables) > 0 {
			t.Errorf("a baseline ran something: the tables are %q", tables)
		}
		for i, name := range []string{"1.sql", "2.sql"} {
			got := s.records(t, target)[name]
			if time.Since(got.AppliedAt).Abs() > time.Minute {
				t.Errorf("%s was applied at %s", name, got.AppliedAt)
			}
			got.AppliedAt = time.Time{}
			want := skein.Record{Name: name, State: skein.Applied, Batch: 1, Checksum: set.All()[i].Checksum, By: by, Tool: tool}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("the record is not as wanted (-want +got):\n%s", diff)
			}
		}
		r = migrator.Migrate(t.Context(), session, skein.Tenant{ID: "1", Target: target}, skein.PlanOptions{}, nil, func(skein.Event) {})
		if r.Err != nil || len(r.Done) != 1 {
			t.Fatalf("after the baseline %d steps were done: %v", len(r.Done), r.Err)
		}
		if tables := s.tables(t, target); !slices.Equal(tables, []string{"three"}) {
			t.Errorf("the tables are %q", tables)
		}
	}},

	{"AsTheyAre", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		session := s.open(t, s.engine(), target)
		lock(t, session)
		at := time.Date(2024, 2, 29, 23, 59, 59, 987_000_000, time.FixedZone("", 5*3600))
		want := []skein.Record{
			{Name: "1.sql", State: skein.Applied, Batch: 7, Checksum: checksum("1"), AppliedAt: at, Duration: 1234 * time.Millisecond, By: "someone", Tool: "something"},
			{Name: "2.sql", State: skein.Applying, Batch: 8, Done: 3, Total: 5, AppliedAt: at, By: "someone", Tool: "something"},
			{Name: "3.sql", State: skein.Reverting, Batch: 9, Checksum: checksum("3"), Done: 1, Total: 2, AppliedAt: at, By: "someone", Tool: "something"},
		}
		if err := session.Record(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		sameTime := cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) })
		if diff := cmp.Diff(want, s.history(t, target).Records, sameTime); diff != "" {
			t.Errorf("the records are not as wanted (-want +got):\n%s", diff)
		}

		// A record takes the place of what there was about the migration.
		want[1].State, want[1].Done, want[1].Checksum = skein.Applied, 5, checksum("2")
		if err := session.Record(t.Context(), want[1:2]); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, s.history(t, target).Records, sameTime); diff != "" {
			t.Errorf("the records are not as wanted (-want +got):\n%s", diff)
		}
	}},

	{"Erase", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		session := s.open(t, s.engine(), target)
		lock(t, session)
		if err := session.Erase(t.Context(), []string{"1.sql"}); err != nil {
			t.Fatalf("in a tenant without records: %v", err)
		}
		var records []skein.Record
		for _, name := range []string{"1.sql", "it's 2.sql", "3.sql"} {
			records = append(records, skein.Record{Name: name, State: skein.Applied, Batch: 1, AppliedAt: time.Now()})
		}
		if err := session.Record(t.Context(), records); err != nil {
			t.Fatal(err)
		}
		if err := session.Erase(t.Context(), []string{"it's 2.sql", "3.sql", "4.sql"}); err != nil {
			t.Fatal(err)
		}
		if err := session.Erase(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if got := s.records(t, target); len(got) != 1 || got["1.sql"].Name == "" {
			t.Errorf("what is left is %v, not 1.sql alone", got)
		}
	}},

	{"Nothing", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		session := s.open(t, s.engine(), target)
		lock(t, session)
		if err := session.Record(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}},
}
