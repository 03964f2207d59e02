package skein_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skeinhq/skein"
)

// A knexTenant is a tenant's tables in memory, and the Knex that works on them.
type knexTenant struct {
	engine     string
	own        []skein.Record
	rows       []skein.KnexRow
	knexLocked bool

	unready error      // what there is to say before a run
	runs    [][]string // what the runner was asked for, by names
	// knex does what Knex would; nil: it applies or reverts all.
	knex func(context.Context, skein.KnexRun) (skein.KnexResult, error)
	// looked is called each time that the history is read.
	looked func()
	mute   bool // nothing is written any more
}

func (k *knexTenant) Name() string { return k.engine }
func (k *knexTenant) Parse(*skein.Section) ([]skein.Statement, error) {
	return []skein.Statement{{Text: "x", Line: 1}}, nil
}
func (k *knexTenant) SessionKey(skein.Target) string                            { return "" }
func (k *knexTenant) Open(context.Context, skein.Target) (skein.Session, error) { return k, nil }
func (k *knexTenant) Switch(skein.Target) bool                                  { return false }
func (k *knexTenant) Close() error                                              { return nil }
func (k *knexTenant) Unlock(context.Context) error                              { return nil }
func (k *knexTenant) Holder(context.Context) (*skein.Holder, error)             { return nil, nil }
func (k *knexTenant) Break(context.Context, skein.Holder) error                 { return nil }
func (k *knexTenant) ClearKnexLock(context.Context) (bool, error) {
	was := k.knexLocked
	k.knexLocked = false
	return was, nil
}

func (k *knexTenant) History(ctx context.Context) (skein.History, error) {
	if k.looked != nil {
		k.looked()
	}
	return skein.NewHistory(slices.Clone(k.own), slices.Clone(k.rows), k.knexLocked), nil
}

func (k *knexTenant) Lock(ctx context.Context, _ time.Duration) (skein.History, error) {
	return k.History(ctx)
}

func (k *knexTenant) Record(_ context.Context, records []skein.Record) error {
	if k.mute {
		return errors.New("gone")
	}
	for _, r := range records {
		if i := slices.IndexFunc(k.own, func(o skein.Record) bool { return o.Name == r.Name }); i >= 0 {
			k.own[i] = r
		} else {
			k.own = append(k.own, r)
		}
	}
	return nil
}

func (k *knexTenant) Erase(_ context.Context, names []string) error {
	if k.mute {
		return errors.New("gone")
	}
	k.own = slices.DeleteFunc(k.own, func(r skein.Record) bool { return slices.Contains(names, r.Name) })
	return nil
}

func (k *knexTenant) Apply(ctx context.Context, step skein.Step) (skein.StepResult, error) {
	if step.Direction == skein.Down {
		return skein.StepResult{}, k.Erase(ctx, []string{step.Migration.Name})
	}
	return skein.StepResult{}, k.Record(ctx, []skein.Record{{Name: step.Migration.Name, State: skein.Applied, Batch: step.Batch}})
}

func (k *knexTenant) Ready(context.Context, []*skein.Migration) error { return k.unready }

func (k *knexTenant) Run(ctx context.Context, _ skein.Target, run skein.KnexRun) (skein.KnexResult, error) {
	var names []string
	for _, m := range run.Steps {
		names = append(names, m.Name)
	}
	k.runs = append(k.runs, names)
	if k.knex != nil {
		return k.knex(ctx, run)
	}
	return k.carryOut(ctx, run, len(run.Steps), run.Direction == skein.Up)
}

// carryOut does the first n steps.
func (k *knexTenant) carryOut(ctx context.Context, run skein.KnexRun, n int, whole bool) (skein.KnexResult, error) {
	r := skein.KnexResult{Steps: make([]skein.KnexStep, len(run.Steps))}
	if run.RecordOnly {
		for _, m := range run.Steps {
			k.write(run.Direction, m)
		}
		return r, nil
	}
	if whole {
		if err := run.Begin(ctx, run.Steps, true); err != nil {
			return r, err
		}
	}
	for i, m := range run.Steps[:n] {
		if !whole {
			if err := run.Begin(ctx, run.Steps[i:i+1], false); err != nil {
				return r, err
			}
		}
		run.Started(m)
		r.Steps[i] = skein.KnexStep{Started: true, Ended: true, Transaction: true, Begun: 2, Completed: 2, Duration: time.Second}
		k.write(run.Direction, m)
	}
	return r, nil
}

func (k *knexTenant) write(direction skein.Direction, m *skein.Migration) {
	if direction == skein.Up {
		k.rows = append(k.rows, skein.KnexRow{ID: int64(len(k.rows) + 1), Name: m.Name, Batch: 9, Time: time.Now()})
	} else {
		k.rows = slices.DeleteFunc(k.rows, func(r skein.KnexRow) bool { return r.Name == m.Name })
	}
}

// state is what the tables hold, as words.
func (k *knexTenant) state() string {
	var words []string
	for _, r := range k.own {
		word := fmt.Sprintf("%s:%s", r.Name, r.State)
		if r.Partial() {
			word += fmt.Sprintf("(%d/%d)", r.Done, r.Total)
		}
		words = append(words, word)
	}
	for _, r := range k.rows {
		words = append(words, "+"+r.Name)
	}
	return strings.Join(words, " ")
}

// migrate runs a migrator with the tenant's Knex over it, and returns what came
// of it and the ends of migrations that were told.
func (k *knexTenant) migrate(t *testing.T, set *skein.Set, opts skein.PlanOptions, wait time.Duration) (skein.Result, []string) {
	t.Helper()
	var ended []string
	listen := func(e skein.Event) {
		if e.Type == skein.MigrationEnded {
			word := e.Migration.Name
			if e.Err != nil {
				word += "!"
			}
			ended = append(ended, word)
		}
	}
	m := skein.NewMigrator(k, set, wait).WithKnex(k)
	return m.Migrate(t.Context(), k, skein.Tenant{}, opts, nil, listen), ended
}

func TestKnexRunsInGroups(t *testing.T) {
	k := &knexTenant{engine: skein.PostgreSQL}
	set := migrations(t, "1_a.js", "2_b.js", "3_c.sql", "4_d.js")
	r, ended := k.migrate(t, set, skein.PlanOptions{}, 0)
	if r.Err != nil || len(r.Done) != 4 {
		t.Fatalf("%d steps were done: %v", len(r.Done), r.Err)
	}
	if want := [][]string{{"1_a.js", "2_b.js"}, {"4_d.js"}}; fmt.Sprint(k.runs) != fmt.Sprint(want) {
		t.Errorf("Knex was asked for %v, want %v", k.runs, want)
	}
	if want := []string{"1_a.js", "2_b.js", "3_c.sql", "4_d.js"}; !slices.Equal(ended, want) {
		t.Errorf("the ends told are %q, want %q", ended, want)
	}
	for _, record := range k.own {
		if record.State != skein.Applied || record.Batch != 1 || record.Name != "3_c.sql" && record.Checksum != "sum of "+record.Name {
			t.Errorf("recorded is %+v", record)
		}
	}
	k.runs = nil
	if r, _ = k.migrate(t, set, skein.PlanOptions{Direction: skein.Down}, 0); r.Err != nil || len(r.Done) != 4 {
		t.Fatalf("%d steps were undone: %v", len(r.Done), r.Err)
	}
	if want := [][]string{{"4_d.js"}, {"2_b.js", "1_a.js"}}; fmt.Sprint(k.runs) != fmt.Sprint(want) {
		t.Errorf("Knex was asked to take back %v, want %v", k.runs, want)
	}
	if got := k.state(); got != "" {
		t.Errorf("left is %q", got)
	}
}

// What stays of a run that broke is what Knex's table shows, and what the engine
// makes certain.
func TestKnexFailures(t *testing.T) {
	broken := func(run skein.KnexRun, i int) error {
		return &skein.StatementError{Migration: run.Steps[i].Name, Direction: run.Direction, Err: errors.New("broken")}
	}
	failed := skein.KnexStep{Started: true, Failed: true, Transaction: true, Begun: 2, Completed: 1}
	// The first step is done, the second breaks, the third is never reached.
	second := func(k *knexTenant, step skein.KnexStep, whole bool) func(context.Context, skein.KnexRun) (skein.KnexResult, error) {
		return func(ctx context.Context, run skein.KnexRun) (skein.KnexResult, error) {
			rows := slices.Clone(k.rows)
			r, err := k.carryOut(ctx, run, 1, whole)
			if err != nil {
				return r, err
			}
			if whole {
				k.rows = rows
			} else if err := run.Begin(ctx, run.Steps[1:2], false); err != nil {
				return r, err
			}
			run.Started(run.Steps[1])
			r.Steps[1] = step
			return r, broken(run, 1)
		}
	}
	tests := []struct {
		name      string
		engine    string
		direction skein.Direction
		step      skein.KnexStep
		whole     bool
		state     string
		partial   bool
		undone    []string
		ended     []string
	}{
		{name: "one transaction", engine: skein.PostgreSQL, step: failed, whole: true, undone: []string{"1_a.js"}, ended: []string{"1_a.js!", "2_b.js!"}},
		{name: "one transaction, cut off", engine: skein.SQLite, step: skein.KnexStep{Started: true, Begun: -1}, whole: true, undone: []string{"1_a.js"}, ended: []string{"1_a.js!", "2_b.js!"}},
		{name: "a transaction each", engine: skein.PostgreSQL, step: failed, state: "1_a.js:applied +1_a.js", ended: []string{"1_a.js", "2_b.js!"}},
		{name: "a transaction each, cut off after its end", engine: skein.PostgreSQL, step: skein.KnexStep{Started: true, Ended: true, Transaction: true, Begun: -1}, state: "1_a.js:applied 2_b.js:applying(0/1) +1_a.js", partial: true, ended: []string{"1_a.js", "2_b.js!"}},
		{name: "no transaction", engine: skein.PostgreSQL, step: skein.KnexStep{Started: true, Failed: true, Begun: 3, Completed: 2}, state: "1_a.js:applied 2_b.js:applying(2/3) +1_a.js", partial: true, ended: []string{"1_a.js", "2_b.js!"}},
		{name: "no transaction, first statement", engine: skein.PostgreSQL, step: skein.KnexStep{Started: true, Failed: true, Begun: 1}, state: "1_a.js:applied +1_a.js", ended: []string{"1_a.js", "2_b.js!"}},
		{name: "no transaction, first statement, cut off", engine: skein.PostgreSQL, step: skein.KnexStep{Started: true, Begun: 1}, state: "1_a.js:applied 2_b.js:applying(0/1) +1_a.js", partial: true, ended: []string{"1_a.js", "2_b.js!"}},
		{name: "no transaction, before any statement", engine: skein.MySQL, step: skein.KnexStep{Started: true}, state: "1_a.js:applied +1_a.js", ended: []string{"1_a.js", "2_b.js!"}},
		{name: "MySQL", engine: skein.MySQL, step: failed, state: "1_a.js:applied 2_b.js:applying(1/2) +1_a.js", partial: true, ended: []string{"1_a.js", "2_b.js!"}},
		{name: "down", engine: skein.PostgreSQL, direction: skein.Down, step: failed, state: "1_a.js:applied 2_b.js:applied +1_a.js +2_b.js", ended: []string{"3_c.js", "2_b.js!"}},
		{name: "down on MySQL", engine: skein.MySQL, direction: skein.Down, step: failed, state: "1_a.js:applied 2_b.js:reverting(1/2) +1_a.js +2_b.js", partial: true, ended: []string{"3_c.js", "2_b.js!"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := &knexTenant{engine: tt.engine}
			set := migrations(t, "1_a.js", "2_b.js", "3_c.js")
			if tt.direction == skein.Down {
				if r, _ := k.migrate(t, set, skein.PlanOptions{}, 0); r.Err != nil {
					t.Fatal(r.Err)
				}
			}
			k.knex = second(k, tt.step, tt.whole)
			r, ended := k.migrate(t, set, skein.PlanOptions{Direction: tt.direction}, 0)
			e, ok := errors.AsType[*skein.StatementError](r.Err)
			if !ok {
				t.Fatalf("the error is %v", r.Err)
			}
			if got := k.state(); got != tt.state {
				t.Errorf("left is %q, want %q", got, tt.state)
			}
			if e.Partial != tt.partial || !slices.Equal(e.Undone, tt.undone) {
				t.Errorf("told is: partial %t, undone %q; want %t, %q", e.Partial, e.Undone, tt.partial, tt.undone)
			}
			if !slices.Equal(ended, tt.ended) {
				t.Errorf("the ends told are %q, want %q", ended, tt.ended)
			}
			want := 1
			if tt.whole {
				want = 0
			}
			if len(r.Done) != want {
				t.Errorf("%d steps are told as done, want %d", len(r.Done), want)
			}
		})
	}
}

func TestKnexThatDoesNothing(t *testing.T) {
	k := &knexTenant{engine: skein.PostgreSQL}
	k.knex = func(ctx context.Context, run skein.KnexRun) (skein.KnexResult, error) {
		run.Started(run.Steps[0])
		return skein.KnexResult{Steps: []skein.KnexStep{{Started: true, Ended: true}}}, run.Begin(ctx, run.Steps, true)
	}
	r, _ := k.migrate(t, migrations(t, "1_a.js"), skein.PlanOptions{}, 0)
	if r.Err == nil || len(r.Done) != 0 || k.state() != "" {
		t.Errorf("a Knex that wrote no row is told as %v, %v, with %q left", r.Done, r.Err, k.state())
	}
}

// Where there is no Knex, nothing is begun: not the SQL before it either.
func TestKnexIsMissing(t *testing.T) {
	missing := errors.New("no node")
	k := &knexTenant{engine: skein.PostgreSQL, unready: missing}
	r, _ := k.migrate(t, migrations(t, "1_a.sql", "2_b.js"), skein.PlanOptions{}, 0)
	if !errors.Is(r.Err, missing) || len(r.Done) != 0 || k.state() != "" {
		t.Errorf("done are %v, left is %q: %v", r.Done, k.state(), r.Err)
	}
}

// Another Knex did it all while this one waited for its lock.
func TestKnexComesSecond(t *testing.T) {
	k := &knexTenant{engine: skein.PostgreSQL}
	k.knex = func(ctx context.Context, run skein.KnexRun) (skein.KnexResult, error) {
		err := run.Begin(ctx, run.Steps, true)
		k.rows = []skein.KnexRow{{ID: 1, Name: "1_a.js", Batch: 1, Time: time.Now()}}
		return skein.KnexResult{Steps: make([]skein.KnexStep, 1)}, err
	}
	r, ended := k.migrate(t, migrations(t, "1_a.js"), skein.PlanOptions{}, 0)
	if r.Err != nil || len(r.Done) != 0 || len(ended) != 0 || k.state() != "+1_a.js" {
		t.Errorf("told are %v, %v, %q; left is %q", r.Done, r.Err, ended, k.state())
	}
}

func TestKnexLockIsWaitedFor(t *testing.T) {
	set := migrations(t, "1_a.js", "2_b.sql")
	t.Run("seen in the history", func(t *testing.T) {
		looks := 0
		k := &knexTenant{engine: skein.MySQL, knexLocked: true}
		k.looked = func() {
			if looks++; looks == 4 {
				k.knexLocked = false
				k.rows = []skein.KnexRow{{ID: 1, Name: "1_a.js", Batch: 1, Time: time.Now()}}
			}
		}
		if r, _ := k.migrate(t, set, skein.PlanOptions{}, time.Minute); r.Err != nil || len(r.Done) != 1 || len(k.runs) != 0 {
			t.Errorf("done are %v by %v: %v", r.Done, k.runs, r.Err)
		}
	})
	t.Run("met by Knex", func(t *testing.T) {
		k := &knexTenant{engine: skein.MySQL}
		k.knex = func(ctx context.Context, run skein.KnexRun) (skein.KnexResult, error) {
			if len(k.runs) < 3 {
				return skein.KnexResult{}, fmt.Errorf("knex: %w", skein.ErrKnexLocked)
			}
			return k.carryOut(ctx, run, len(run.Steps), true)
		}
		if r, _ := k.migrate(t, set, skein.PlanOptions{}, time.Minute); r.Err != nil || len(r.Done) != 2 {
			t.Errorf("done are %v: %v", r.Done, r.Err)
		}
	})
	t.Run("for so long", func(t *testing.T) {
		k := &knexTenant{engine: skein.MySQL, knexLocked: true}
		r, _ := k.migrate(t, set, skein.PlanOptions{}, 300*time.Millisecond)
		if refused, ok := errors.AsType[*skein.RefusedError](r.Err); !ok || refused.Reason != skein.ReasonKnexLocked || skein.Hint(r.Err) == "" {
			t.Errorf("the error is %v", r.Err)
		}
		if len(k.runs) != 0 || k.state() != "" {
			t.Errorf("something ran: %v, %q", k.runs, k.state())
		}
	})
}

// A Skein that died has left notes, and its worker Knex's lock.
func TestKnexNotesOfADeadSkein(t *testing.T) {
	set := migrations(t, "1_a.js", "2_b.js", "3_c.js")
	at := time.Now()
	tests := []struct {
		name    string
		own     []skein.Record
		rows    []string
		state   string
		refused bool
	}{
		{
			name:  "before the transaction was committed",
			own:   []skein.Record{{Name: "1_a.js", State: skein.Applying, Batch: 1}, {Name: "2_b.js", State: skein.Applying, Batch: 1}},
			state: "1_a.js:applied 2_b.js:applied 3_c.js:applied +1_a.js +2_b.js +3_c.js",
		},
		{
			name:  "after the last row, before the lock was given back",
			own:   []skein.Record{{Name: "1_a.js", State: skein.Applied, Batch: 1}, {Name: "2_b.js", State: skein.Applied, Batch: 1}, {Name: "3_c.js", State: skein.Applying, Batch: 1, Total: 1}},
			rows:  []string{"1_a.js", "2_b.js", "3_c.js"},
			state: "1_a.js:applied 2_b.js:applied 3_c.js:applied +1_a.js +2_b.js +3_c.js",
		},
		{
			name:  "after the row of a revert was gone",
			own:   []skein.Record{{Name: "1_a.js", State: skein.Applied, Batch: 1}, {Name: "2_b.js", State: skein.Reverting, Batch: 1, Total: 1}},
			rows:  []string{"1_a.js"},
			state: "1_a.js:applied 2_b.js:applied 3_c.js:applied +1_a.js +2_b.js +3_c.js",
		},
		{
			name:    "in the middle",
			own:     []skein.Record{{Name: "1_a.js", State: skein.Applied, Batch: 1}, {Name: "2_b.js", State: skein.Applying, Batch: 1, Total: 1}},
			rows:    []string{"1_a.js"},
			state:   "1_a.js:applied 2_b.js:applying(0/1) +1_a.js",
			refused: true,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := &knexTenant{engine: skein.MySQL, own: tt.own, knexLocked: true}
			for i, name := range tt.rows {
				k.rows = append(k.rows, skein.KnexRow{ID: int64(i + 1), Name: name, Batch: 1, Time: at})
			}
			r, _ := k.migrate(t, set, skein.PlanOptions{}, 0)
			refused, ok := errors.AsType[*skein.RefusedError](r.Err)
			if ok != tt.refused || !ok && r.Err != nil || ok && refused.Reason != skein.ReasonPartial {
				t.Fatalf("the error is %v", r.Err)
			}
			if k.knexLocked {
				t.Error("the lock that the worker left is still there")
			}
			slices.SortStableFunc(k.own, func(a, b skein.Record) int { return strings.Compare(a.Name, b.Name) })
			if got := k.state(); got != tt.state {
				t.Errorf("left is %q, want %q", got, tt.state)
			}
		})
	}
}

func TestKnexBaseline(t *testing.T) {
	set := migrations(t, "1_a.js", "2_b.sql", "3_c.js", "4_d.js")
	baseline := skein.PlanOptions{Baseline: "3"}
	const done = "1_a.js:applied 2_b.sql:applied 3_c.js:applied +1_a.js +3_c.js"
	k := &knexTenant{engine: skein.MySQL}
	r, ended := k.migrate(t, set, baseline, 0)
	if r.Err != nil || len(r.Done) != 3 || len(ended) != 0 || k.state() != done {
		t.Errorf("done are %v, told as ended %q, left is %q: %v", r.Done, ended, k.state(), r.Err)
	}
	if want := [][]string{{"1_a.js", "3_c.js"}}; fmt.Sprint(k.runs) != fmt.Sprint(want) {
		t.Errorf("Knex was asked to record %v, want %v", k.runs, want)
	}
	for _, record := range k.own {
		if record.Batch != 1 || record.Checksum != "sum of "+record.Name {
			t.Errorf("recorded is %+v", record)
		}
	}
	// Once more there is nothing to do, and the rest runs as ever.
	if r, _ := k.migrate(t, set, baseline, 0); r.Err != nil || len(r.Done) != 0 || len(k.runs) != 1 {
		t.Errorf("again: done are %v by %v: %v", r.Done, k.runs, r.Err)
	}
	if r, _ := k.migrate(t, set, skein.PlanOptions{}, 0); r.Err != nil || len(r.Done) != 1 {
		t.Errorf("the rest: done are %v: %v", r.Done, r.Err)
	}
}

// Wherever a baseline is cut off, nothing of it is there for a migrator that
// comes next, or all of it.
func TestKnexBaselineCutOff(t *testing.T) {
	set := migrations(t, "1_a.js", "2_b.sql", "3_c.js", "4_d.sql")
	baseline := skein.PlanOptions{Baseline: "3"}
	cut := errors.New("cut off")
	const nothing, all = "", "1_a.js:applied 2_b.sql:applied 3_c.js:applied +1_a.js +3_c.js"
	for _, test := range []struct {
		name string
		cut  func(k *knexTenant, run skein.KnexRun)
		want string
	}{
		{"before Knex's rows", func(*knexTenant, skein.KnexRun) {}, nothing},
		{"after Knex's rows", func(k *knexTenant, run skein.KnexRun) { _, _ = k.carryOut(t.Context(), run, 2, true) }, all},
	} {
		dead := func(t *testing.T) *knexTenant {
			t.Helper()
			k := &knexTenant{engine: skein.MySQL, own: []skein.Record{}}
			k.knex = func(_ context.Context, run skein.KnexRun) (skein.KnexResult, error) {
				test.cut(k, run)
				k.mute = true // the process is gone
				return skein.KnexResult{}, cut
			}
			k.migrate(t, set, baseline, 0)
			k.knex, k.runs, k.mute = nil, nil, false
			if len(k.own) != 3 {
				t.Fatalf("%s: left is %q", test.name, k.state())
			}
			return k
		}
		k := dead(t)
		if r, _ := k.migrate(t, set, baseline, 0); r.Err != nil || k.state() != all {
			t.Errorf("%s: the same again leaves %q: %v", test.name, k.state(), r.Err)
		}
		// A run that knows nothing of the baseline.
		k = dead(t)
		h, err := k.History(t.Context())
		if err != nil || slices.ContainsFunc(h.Records, func(r skein.Record) bool { return r.Partial() || r.Name == "2_b.sql" }) {
			t.Errorf("%s: seen are %+v", test.name, h.Records)
		}
		r, _ := k.migrate(t, set, skein.PlanOptions{Steps: 1}, 0)
		want := all + " 4_d.sql:applied"
		if test.want == nothing {
			want = "1_a.js:applied +1_a.js"
		}
		if got := k.state(); r.Err != nil || len(got) != len(want) {
			t.Errorf("%s: one step on is %q, want %q: %v", test.name, got, want, r.Err)
		}
	}
}

// A Knex migration that stopped in its middle is run again, or is recorded in
// Knex's table as somebody says it is.
func TestKnexSettled(t *testing.T) {
	set := migrations(t, "1_a.js", "2_b.js")
	failing := func(step skein.KnexStep) func(*knexTenant) {
		return func(k *knexTenant) {
			k.knex = func(ctx context.Context, run skein.KnexRun) (skein.KnexResult, error) {
				r := skein.KnexResult{Steps: []skein.KnexStep{step}}
				if !step.Started {
					return r, errors.New("no connection")
				}
				if err := run.Begin(ctx, run.Steps, false); err != nil {
					return r, err
				}
				run.Started(run.Steps[0])
				return r, &skein.StatementError{Migration: run.Steps[0].Name, Direction: run.Direction, Err: errors.New("broken")}
			}
		}
	}
	for _, test := range []struct {
		name   string
		state  skein.RecordState
		settle skein.Settlement
		knex   func(*knexTenant)
		want   string
		fails  bool
	}{
		{"redo", skein.Applying, skein.Redo, nil, "1_a.js:applied 2_b.js:applied +1_a.js +2_b.js", false},
		{"redo a down", skein.Reverting, skein.Redo, nil, "1_a.js:applied +1_a.js", false},
		{"applied", skein.Applying, skein.MarkApplied, nil, "1_a.js:applied 2_b.js:applied +1_a.js +2_b.js", false},
		{"reverted", skein.Applying, skein.MarkReverted, nil, "1_a.js:applied +1_a.js", false},
		{"a down is applied", skein.Reverting, skein.MarkApplied, nil, "1_a.js:applied 2_b.js:applied +1_a.js +2_b.js", false},
		{"a down is reverted", skein.Reverting, skein.MarkReverted, nil, "1_a.js:applied +1_a.js", false},
		// What stayed of the first time is still there.
		{"redo that does not begin", skein.Applying, skein.Redo, failing(skein.KnexStep{}), "1_a.js:applied 2_b.js:applying(1/3) +1_a.js", true},
		{"redo that fails at once", skein.Applying, skein.Redo, failing(skein.KnexStep{Started: true, Failed: true, Begun: 1}), "1_a.js:applied 2_b.js:applying(0/1) +1_a.js", true},
		{"redo a down that fails", skein.Reverting, skein.Redo, failing(skein.KnexStep{Started: true, Failed: true, Begun: 1}), "1_a.js:applied 2_b.js:reverting(0/1) +1_a.js +2_b.js", true},
	} {
		k := &knexTenant{engine: skein.MySQL}
		k.migrate(t, set, skein.PlanOptions{}, 0)
		k.own[1].State, k.own[1].Done, k.own[1].Total = test.state, 1, 3
		if test.state == skein.Applying {
			k.rows = k.rows[:1]
		}
		if test.knex != nil {
			test.knex(k)
		}
		r, _ := k.migrate(t, set, skein.PlanOptions{Settle: test.settle}, 0)
		if (r.Err != nil) != test.fails || k.state() != test.want {
			t.Errorf("%s: left is %q, want %q: %v", test.name, k.state(), test.want, r.Err)
		}
		if e, ok := errors.AsType[*skein.StatementError](r.Err); ok && !e.Partial {
			t.Errorf("%s: the error does not say that something may have stayed", test.name)
		}
	}
}

// A run that is asked to stop begins nothing more: not the next migration, and
// not those that had still to wait for a worker.
func TestKnexStops(t *testing.T) {
	for name, test := range map[string]struct {
		whole bool
		after int // migrations after which it is asked
		want  []string
	}{
		"while it waits for a worker":  {whole: true},
		"before the first":             {},
		"between two":                  {after: 1, want: []string{"1_a.js"}},
		"when all of one have begun":   {whole: true, after: 1, want: []string{"1_a.js", "2_b.js", "3_c.js"}},
		"when there is no other to do": {after: 3, want: []string{"1_a.js", "2_b.js", "3_c.js"}},
	} {
		t.Run(name, func(t *testing.T) {
			stop := make(chan struct{})
			k := &knexTenant{engine: skein.PostgreSQL}
			k.knex = func(ctx context.Context, run skein.KnexRun) (skein.KnexResult, error) {
				if test.after == 0 {
					close(stop)
				}
				started, n := run.Started, 0
				run.Started = func(m *skein.Migration) {
					if n++; n == test.after {
						close(stop)
					}
					started(m)
				}
				return k.carryOut(ctx, run, len(run.Steps), test.whole)
			}
			set := migrations(t, "1_a.js", "2_b.js", "3_c.js")
			r := skein.NewMigrator(k, set, 0).WithKnex(k).Migrate(t.Context(), k, skein.Tenant{}, skein.PlanOptions{}, stop, func(skein.Event) {})
			var done []string
			for _, d := range r.Done {
				done = append(done, d.Migration.Name)
			}
			if !slices.Equal(done, test.want) {
				t.Errorf("done is %q, want %q", done, test.want)
			}
			if interrupted := errors.Is(r.Err, skein.ErrInterrupted); interrupted != (len(test.want) < 3) {
				t.Errorf("the error is %v", r.Err)
			}
			for _, record := range k.own {
				if record.Partial() {
					t.Errorf("a note is left: %+v", record)
				}
			}
		})
	}
}
