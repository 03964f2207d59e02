package skein_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skeinhq/skein"
)

// migrations makes a set of SQL migrations with a down section, but for names
// that end in "!" (no down) or ".js" (Knex).
func migrations(t *testing.T, names ...string) *skein.Set {
	t.Helper()
	var all []*skein.Migration
	for _, name := range names {
		name, noDown := strings.CutSuffix(name, "!")
		m := &skein.Migration{Name: name, Version: strings.TrimRight(name, "abcdefghijklmnopqrstuvwxyz_."), Path: "m/" + name, Kind: skein.SQL, Checksum: "sum of " + name}
		if strings.HasSuffix(name, ".js") {
			m.Kind = skein.Knex
		} else {
			m.Up = &skein.Section{SQL: "up", Path: m.Path, Line: 2}
			if !noDown {
				m.Down = &skein.Section{SQL: "down", Path: m.Path, Line: 4}
			}
		}
		all = append(all, m)
	}
	set, err := skein.NewSet(all)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// history makes records of "batch:name" words; one that ends in "?" is partial,
// in "~" has the checksum of another file.
func history(words ...string) skein.History {
	var h skein.History
	for _, w := range words {
		batch, name, _ := strings.Cut(w, ":")
		r := skein.Record{State: skein.Applied, Batch: int(batch[0] - '0')}
		if n, ok := strings.CutSuffix(name, "?"); ok {
			name, r.State, r.Done, r.Total = n, skein.Applying, 1, 3
		}
		n, edited := strings.CutSuffix(name, "~")
		r.Name, r.Checksum = n, "sum of "+n
		if edited {
			r.Checksum = "another"
		}
		h.Records = append(h.Records, r)
	}
	return h
}

func TestMakePlanUp(t *testing.T) {
	set := []string{"1_a.sql", "2_b.sql", "3_c.sql"}
	tests := []struct {
		name    string
		set     []string
		history skein.History
		opts    skein.PlanOptions
		want    []string
		batch   int
		refused skein.Reason
		about   []string
		warn    bool
	}{
		{name: "fresh", want: set, batch: 1},
		{name: "up to date", history: history("1:1_a.sql", "1:2_b.sql", "2:3_c.sql"), batch: 3},
		{name: "half way", history: history("1:1_a.sql"), want: []string{"2_b.sql", "3_c.sql"}, batch: 2},
		{name: "steps", opts: skein.PlanOptions{Steps: 2}, want: []string{"1_a.sql", "2_b.sql"}, batch: 1},
		{name: "to a version", opts: skein.PlanOptions{To: "2"}, want: []string{"1_a.sql", "2_b.sql"}, batch: 1},
		{name: "to a name", opts: skein.PlanOptions{To: "1_a.sql"}, want: []string{"1_a.sql"}, batch: 1},
		{name: "to what is applied", history: history("1:1_a.sql", "1:2_b.sql"), opts: skein.PlanOptions{To: "1"}, batch: 2},
		{name: "to nothing known", opts: skein.PlanOptions{To: "9"}, refused: skein.ReasonUnknownName},
		{name: "out of order", history: history("1:1_a.sql", "1:3_c.sql"), refused: skein.ReasonOutOfOrder, about: []string{"2_b.sql"}},
		{name: "out of order, allowed", history: history("1:1_a.sql", "1:3_c.sql"), opts: skein.PlanOptions{Policy: skein.Policy{AllowOutOfOrder: true}}, want: []string{"2_b.sql"}, batch: 2},
		{name: "missing", history: history("1:1_a.sql", "1:0_z.sql"), refused: skein.ReasonMissing, about: []string{"0_z.sql"}},
		{name: "missing, allowed", history: history("1:1_a.sql", "1:0_z.sql"), opts: skein.PlanOptions{Policy: skein.Policy{AllowMissing: true}}, want: []string{"2_b.sql", "3_c.sql"}, batch: 2},
		{name: "edited", history: history("1:1_a.sql~", "1:2_b.sql"), refused: skein.ReasonEdited, about: []string{"1_a.sql"}},
		{name: "edited, warned of", history: history("1:1_a.sql~"), opts: skein.PlanOptions{Policy: skein.Policy{Edited: skein.EditedWarn}}, want: []string{"2_b.sql", "3_c.sql"}, batch: 2, warn: true},
		{name: "edited, ignored", history: history("1:1_a.sql~"), opts: skein.PlanOptions{Policy: skein.Policy{Edited: skein.EditedIgnore}}, want: []string{"2_b.sql", "3_c.sql"}, batch: 2},
		{name: "partial", history: history("1:1_a.sql", "2:2_b.sql?"), refused: skein.ReasonPartial, about: []string{"2_b.sql"}},
		{name: "knex pending", set: []string{"1_a.sql", "2_b.js"}, refused: skein.ReasonNeedsKnex, about: []string{"2_b.js"}},
		{name: "knex pending, and a runner", set: []string{"1_a.sql", "2_b.js"}, opts: skein.PlanOptions{Knex: true}, want: []string{"1_a.sql", "2_b.js"}, batch: 1},
		{name: "knex in a baseline", set: []string{"1_a.js"}, opts: skein.PlanOptions{Knex: true, Baseline: "1"}, want: []string{"1_a.js"}, batch: 1},
		{name: "a baseline without knex", set: []string{"1_a.js"}, opts: skein.PlanOptions{Baseline: "1"}, refused: skein.ReasonNeedsKnex, about: []string{"1_a.js"}},
		{name: "knex locked by a dead Skein", set: []string{"1_a.js"}, history: skein.History{KnexLocked: true, KnexOpen: history("1:1_a.js?").Records}, opts: skein.PlanOptions{Knex: true}, want: []string{"1_a.js"}, batch: 1},
		{name: "knex applied", set: []string{"1_a.js", "2_b.sql"}, history: history("1:1_a.js"), want: []string{"2_b.sql"}, batch: 2},
		{name: "knex locked", history: skein.History{KnexLocked: true}, refused: skein.ReasonKnexLocked},
		{name: "knex locked, nothing to do", history: skein.History{Records: history("1:1_a.sql", "1:2_b.sql", "1:3_c.sql").Records, KnexLocked: true}, batch: 2},
		{name: "no files", set: []string{}, batch: 1},
		{name: "baseline", opts: skein.PlanOptions{Baseline: "2"}, want: []string{"1_a.sql", "2_b.sql"}, batch: 1},
		{name: "baseline that is there", history: history("1:1_a.sql", "1:2_b.sql", "2:3_c.sql"), opts: skein.PlanOptions{Baseline: "2"}},
		{name: "baseline with a history", history: history("1:1_a.sql"), opts: skein.PlanOptions{Baseline: "2"}, refused: skein.ReasonNotEmpty, about: []string{"1_a.sql"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			files := tt.set
			if files == nil {
				files = set
			}
			plan, err := skein.MakePlan(migrations(t, files...), tt.history, tt.opts)
			if tt.refused != "" {
				checkRefused(t, err, tt.refused, tt.about)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(plan.Names(), tt.want) || plan.Batch != tt.batch {
				t.Errorf("got batch %d of %q, want batch %d of %q", plan.Batch, plan.Names(), tt.batch, tt.want)
			}
			if (len(plan.Warnings) > 0) != tt.warn {
				t.Errorf("warnings are %q, want any: %t", plan.Warnings, tt.warn)
			}
			if plan.RecordOnly != (tt.opts.Baseline != "" && len(tt.want) > 0) {
				t.Errorf("RecordOnly is %t", plan.RecordOnly)
			}
		})
	}
}

// Where folders come one after the other, what is new in one of them is not out
// of order because of another.
func TestGroups(t *testing.T) {
	var all []*skein.Migration
	for _, name := range []string{"0/5_a", "0/6_b", "0/7_c", "1/1_x", "1/2_y"} {
		all = append(all, &skein.Migration{Name: name[2:] + ".sql", Group: int(name[0] - '0'), Kind: skein.SQL, Checksum: "sum of " + name[2:] + ".sql", Up: &skein.Section{}})
	}
	set, err := skein.NewSet(all)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := skein.MakePlan(set, history("1:5_a.sql", "1:6_b.sql", "1:1_x.sql"), skein.PlanOptions{})
	if err != nil || !slices.Equal(plan.Names(), []string{"7_c.sql", "2_y.sql"}) {
		t.Errorf("the plan is %q, %v", plan.Names(), err)
	}
	_, err = skein.MakePlan(set, history("1:5_a.sql", "1:7_c.sql"), skein.PlanOptions{})
	checkRefused(t, err, skein.ReasonOutOfOrder, []string{"6_b.sql"})

	// It is ahead only if it would come last in whatever folder.
	for name, state := range map[string]skein.State{"8_z.sql": skein.StateAhead, "3_z.sql": skein.StateMissing} {
		h := history("1:5_a.sql", "1:6_b.sql", "1:7_c.sql", "1:1_x.sql", "1:2_y.sql", "2:"+name)
		if got := skein.Assess(set, h, skein.Policy{}).State; got != state {
			t.Errorf("with %s it is %s, want %s", name, got, state)
		}
	}
}

func checkRefused(t *testing.T, err error, reason skein.Reason, about []string) {
	t.Helper()
	refused, ok := errors.AsType[*skein.RefusedError](err)
	if !ok {
		t.Fatalf("the error is %v, want one of the type RefusedError", err)
	}
	if refused.Reason != reason || !slices.Equal(refused.Names, about) {
		t.Errorf("refused for %q about %q, want %q about %q", refused.Reason, refused.Names, reason, about)
	}
	for _, name := range about {
		if !strings.Contains(refused.Error(), name) {
			t.Errorf("%q does not name %s", refused, name)
		}
	}
}

func TestMakePlanDown(t *testing.T) {
	set := []string{"1_a.sql", "2_b.sql", "3_c.sql", "4_d.sql"}
	h := history("1:1_a.sql", "1:2_b.sql", "2:3_c.sql", "2:4_d.sql")
	tests := []struct {
		name    string
		set     []string
		history skein.History
		opts    skein.PlanOptions
		want    []string
		refused skein.Reason
		about   []string
	}{
		{name: "the last batch", history: h, want: []string{"4_d.sql", "3_c.sql"}},
		{name: "steps", history: h, opts: skein.PlanOptions{Steps: 3}, want: []string{"4_d.sql", "3_c.sql", "2_b.sql"}},
		{name: "steps beyond", history: h, opts: skein.PlanOptions{Steps: 9}, want: []string{"4_d.sql", "3_c.sql", "2_b.sql", "1_a.sql"}},
		{name: "to", history: h, opts: skein.PlanOptions{To: "2"}, want: []string{"4_d.sql", "3_c.sql"}},
		{name: "to the newest", history: h, opts: skein.PlanOptions{To: "4"}},
		{name: "everything", history: h, opts: skein.PlanOptions{Everything: true}, want: []string{"4_d.sql", "3_c.sql", "2_b.sql", "1_a.sql"}},
		{name: "nothing applied"},
		{name: "an older one applied later", history: history("1:1_a.sql", "1:3_c.sql", "2:2_b.sql"), opts: skein.PlanOptions{Steps: 2}, want: []string{"2_b.sql", "3_c.sql"}},
		{name: "no down", set: []string{"1_a.sql", "2_b.sql!"}, history: history("1:1_a.sql", "1:2_b.sql"), refused: skein.ReasonNoDown, about: []string{"2_b.sql"}},
		{name: "no down, but below", set: []string{"1_a.sql!", "2_b.sql"}, history: history("1:1_a.sql", "2:2_b.sql"), want: []string{"2_b.sql"}},
		{name: "no file", history: history("1:1_a.sql", "2:9_z.sql"), refused: skein.ReasonMissing, about: []string{"9_z.sql"}},
		{name: "no file above to", history: history("1:1_a.sql", "2:9_z.sql"), opts: skein.PlanOptions{To: "1"}, refused: skein.ReasonMissing, about: []string{"9_z.sql"}},
		{name: "no file between, by steps", history: history("1:1_a.sql", "1:2_b.sql", "1:2_x.sql", "1:3_c.sql"), opts: skein.PlanOptions{Steps: 2}, refused: skein.ReasonMissing, about: []string{"2_x.sql"}},
		{name: "no file below the steps", history: history("1:1_a.sql", "1:2_b.sql", "1:2_x.sql", "1:3_c.sql"), opts: skein.PlanOptions{Steps: 1}, want: []string{"3_c.sql"}},
		{name: "no file between, by to", history: history("1:1_a.sql", "1:2_b.sql", "1:2_x.sql", "1:3_c.sql"), opts: skein.PlanOptions{To: "2"}, refused: skein.ReasonMissing, about: []string{"2_x.sql"}},
		{name: "no file below to", history: history("1:0_z.sql", "1:1_a.sql", "2:2_b.sql"), opts: skein.PlanOptions{To: "1"}, want: []string{"2_b.sql"}},
		{name: "edited", history: history("1:1_a.sql", "2:2_b.sql~"), refused: skein.ReasonEdited, about: []string{"2_b.sql"}},
		{name: "edited, but below", history: history("1:1_a.sql~", "2:2_b.sql"), want: []string{"2_b.sql"}},
		{name: "partial", history: history("1:1_a.sql?"), refused: skein.ReasonPartial, about: []string{"1_a.sql"}},
		{name: "knex with a runner", set: []string{"1_a.js"}, history: history("1:1_a.js"), opts: skein.PlanOptions{Knex: true}, want: []string{"1_a.js"}},
		{name: "knex", set: []string{"1_a.js"}, history: history("1:1_a.js"), refused: skein.ReasonNeedsKnex, about: []string{"1_a.js"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			files := tt.set
			if files == nil {
				files = set
			}
			tt.opts.Direction = skein.Down
			plan, err := skein.MakePlan(migrations(t, files...), tt.history, tt.opts)
			if tt.refused != "" {
				checkRefused(t, err, tt.refused, tt.about)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(plan.Names(), tt.want) {
				t.Errorf("got %q, want %q", plan.Names(), tt.want)
			}
		})
	}
}

func TestAssessState(t *testing.T) {
	set := []string{"08_a.sql", "9_b.sql", "10_c.sql"}
	tests := []struct {
		name    string
		history skein.History
		policy  skein.Policy
		want    skein.State
		newest  string
	}{
		{name: "empty", want: skein.StateBehind},
		{name: "all", history: history("1:08_a.sql", "1:9_b.sql", "1:10_c.sql"), want: skein.StateUpToDate, newest: "10_c.sql"},
		{name: "ahead", history: history("1:08_a.sql", "1:9_b.sql", "1:10_c.sql", "2:11_d.sql"), want: skein.StateAhead, newest: "10_c.sql"},
		{name: "missing in the middle", history: history("1:08_a.sql", "1:9_a.sql", "1:9_b.sql", "1:10_c.sql"), want: skein.StateMissing, newest: "10_c.sql"},
		{name: "missing, allowed", history: history("1:08_a.sql", "1:9_a.sql", "1:9_b.sql", "1:10_c.sql"), policy: skein.Policy{AllowMissing: true}, want: skein.StateUpToDate, newest: "10_c.sql"},
		{name: "newer ones and pending ones", history: history("1:08_a.sql", "2:11_d.sql"), want: skein.StateMissing, newest: "08_a.sql"},
		{name: "edited", history: history("1:08_a.sql~"), want: skein.StateEdited, newest: "08_a.sql"},
		{name: "edited, warned of", history: history("1:08_a.sql~"), policy: skein.Policy{Edited: skein.EditedWarn}, want: skein.StateBehind, newest: "08_a.sql"},
		{name: "partial before edited", history: history("1:08_a.sql~", "1:9_b.sql?"), want: skein.StatePartial, newest: "08_a.sql"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := skein.Assess(migrations(t, set...), tt.history, tt.policy)
			newest := ""
			if s.Newest != nil {
				newest = s.Newest.Name
			}
			if s.State != tt.want || newest != tt.newest {
				t.Errorf("got %q at %q, want %q at %q", s.State, newest, tt.want, tt.newest)
			}
		})
	}
}

func TestMergeHistory(t *testing.T) {
	at := time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)
	own := []skein.Record{
		{Name: "1_a.js", State: skein.Applied, Batch: 4, Checksum: "x", By: "ann@host"},
		{Name: "2_b.sql", State: skein.Applied, Batch: 4},
		{Name: "3_c.js", State: skein.Applied, Batch: 5}, // Knex has rolled it back since
		// Workers died: in the middle, in a transaction, after the row, after the
		// row was gone, and while it was reverted.
		{Name: "4_d.js", State: skein.Applying, Batch: 6, Total: 1},
		{Name: "5_e.js", State: skein.Applying, Batch: 6},
		{Name: "6_f.js", State: skein.Applying, Batch: 6, Total: 1, Checksum: "f"},
		{Name: "7_g.js", State: skein.Reverting, Batch: 6, Total: 1},
		{Name: "8_h.js", State: skein.Reverting, Batch: 6, Total: 1},
		{Name: "9_i.js", State: skein.Applied, Batch: 7, Checksum: "i", AppliedAt: at}, // Knex has applied it again since
	}
	knex := []skein.KnexRow{
		{ID: 1, Name: "0_z.js", Batch: 1},
		{ID: 2, Name: "1_a.js", Batch: 2},
		{ID: 3, Name: "6_f.js", Batch: 6, Time: at},
		{ID: 4, Name: "8_h.js", Batch: 6},
		{ID: 5, Name: "9_i.js", Batch: 8, Time: at.Add(time.Hour / 2).Add(time.Minute)},
	}
	var got []string
	for _, r := range skein.MergeHistory(own, knex) {
		word := r.Name + " " + string(r.State)
		if r.InKnex {
			word += " knex"
		}
		got = append(got, word)
	}
	want := []string{
		"0_z.js applied knex", "1_a.js applied knex", "2_b.sql applied",
		"6_f.js applied knex", "8_h.js reverting knex", "4_d.js applying", "9_i.js applied knex",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	merged := skein.MergeHistory(own, knex)
	if r := merged[1]; r.Batch != 4 || r.Checksum != "x" || r.By != "ann@host" {
		t.Errorf("%s lost what Skein recorded of it: %+v", r.Name, r)
	}
	if r := merged[3]; r.Checksum != "f" || !r.AppliedAt.Equal(at) {
		t.Errorf("%s is not what Knex recorded and Skein noted of it: %+v", r.Name, r)
	}
	if r := merged[6]; r.Batch != 8 || r.Checksum != "" {
		t.Errorf("%s has what Skein recorded of an earlier time: %+v", r.Name, r)
	}
	var open []string
	for _, r := range skein.NewHistory(own, knex, true).KnexOpen {
		open = append(open, r.Name)
	}
	if want := []string{"4_d.js", "5_e.js", "6_f.js", "7_g.js", "8_h.js"}; !slices.Equal(open, want) {
		t.Errorf("open are %q, want %q", open, want)
	}
}

// What MySQL keeps of Knex's times is local time without its zone.
func TestMergeHistoryInAnotherZone(t *testing.T) {
	at := time.Date(2024, 2, 29, 12, 0, 0, 300e6, time.UTC)
	own := []skein.Record{{Name: "1_a.js", State: skein.Applied, Batch: 4, Checksum: "x", AppliedAt: at}}
	for shift, same := range map[time.Duration]bool{
		0: true, 500 * time.Millisecond: true, 2 * time.Hour: true, -5*time.Hour - 30*time.Minute - time.Second: true,
		3 * time.Second: false, time.Hour + time.Minute: false, 48 * time.Hour: false,
	} {
		merged := skein.MergeHistory(own, []skein.KnexRow{{ID: 1, Name: "1_a.js", Batch: 1, Time: at.Add(shift)}})
		if got := merged[0].Checksum == "x"; got != same {
			t.Errorf("%s apart: taken for the same is %t, want %t", shift, got, same)
		}
	}
}

func TestResolve(t *testing.T) {
	set := migrations(t, "1_a.sql", "12_b.js", "12_c.js", "13_d.sql")
	tests := []struct{ word, want, fault string }{
		{word: "1", want: "1_a.sql"},
		{word: "13_d", want: "13_d.sql"},
		{word: "12_c.js", want: "12_c.js"},
		{word: "12", fault: `"12" could be 12_b.js or 12_c.js: give the whole name`},
		{word: "2", fault: `no migration is called "2": the newest is 13_d.sql`},
		{word: "", fault: `no migration is called "": the newest is 13_d.sql`},
	}
	for _, tt := range tests {
		m, _, err := set.Resolve(tt.word)
		switch {
		case tt.fault != "":
			if err == nil || err.Error() != tt.fault {
				t.Errorf("Resolve(%q) has the error %v, want %s", tt.word, err, tt.fault)
			}
		case err != nil:
			t.Errorf("Resolve(%q): %v", tt.word, err)
		case m.Name != tt.want:
			t.Errorf("Resolve(%q) = %s, want %s", tt.word, m.Name, tt.want)
		}
	}
}
