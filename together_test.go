package skein_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
)

// A messenger is a memory whose sessions can apply several steps in one message.
type messenger struct {
	*memory
	most int // steps in a message
	// beyond is how many steps more of a message the server carries out when the
	// connection has been lost in one.
	beyond int
	// messages are the steps that were handed over at once, the last one under the
	// lock with a dot behind it.
	messages []string
	unlock   func() error
}

func newMessenger() *messenger { return &messenger{memory: newMemory(), most: 100} }

func (e *messenger) Open(ctx context.Context, t skein.Target) (skein.Session, error) {
	s, err := e.memory.Open(ctx, t)
	if err != nil {
		return nil, err
	}
	return &messengerSession{s.(*memorySession), e}, nil
}

func (e *messenger) note(steps ...skein.Step) {
	names := make([]string, len(steps))
	for i, s := range steps {
		if names[i], _, _ = strings.Cut(s.Migration.Name, "_"); s.Last {
			names[i] += "."
		}
	}
	e.messages = append(e.messages, strings.Join(names, " "))
}

type messengerSession struct {
	*memorySession
	engine *messenger
}

func (s *messengerSession) Apply(ctx context.Context, step skein.Step) (skein.StepResult, error) {
	s.engine.note(step)
	return s.memorySession.Apply(ctx, step)
}

func (s *messengerSession) ApplyTogether(ctx context.Context, steps []skein.Step) ([]skein.StepResult, error) {
	s.engine.note(steps...)
	steps = steps[:min(len(steps), s.engine.most)]
	var results []skein.StepResult
	for i, step := range steps {
		if _, err := s.memorySession.Apply(ctx, step); err != nil {
			if skein.ErrorClass(err) == skein.ConnectionLost {
				s.engine.apply, s.engine.after = nil, nil
				for _, more := range steps[i+1:][:min(s.engine.beyond, len(steps)-i-1)] {
					if _, err := s.memorySession.Apply(ctx, more); err != nil {
						panic(err)
					}
				}
			}
			return results, err
		}
		results = append(results, skein.StepResult{Duration: time.Duration(i+1) * time.Minute})
	}
	return results, nil
}

func (s *messengerSession) Unlock(ctx context.Context) error {
	if s.engine.unlock != nil {
		return s.engine.unlock()
	}
	return s.memorySession.Unlock(ctx)
}

// numbered is a set of n migrations, 01_a.sql and so on.
func numbered(t *testing.T, n int) *skein.Set {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%02d_a.sql", i+1)
	}
	return migrations(t, names...)
}

// carryOut migrates the one tenant of an engine with a session of its own, and
// returns its events as text besides the result.
func (e *messenger) carryOut(t *testing.T, m *skein.Migrator, opts skein.PlanOptions) (skein.Result, []string) {
	t.Helper()
	tenant := tenants(1, 1)[0]
	s, err := e.Open(t.Context(), tenant.Target)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	var events []string
	r := m.Migrate(t.Context(), s, tenant, opts, nil, func(e skein.Event) {
		number, _, _ := strings.Cut(e.Migration.Name, "_")
		text := strings.TrimPrefix(string(e.Type), "migration_") + " " + number
		if e.Type == skein.MigrationEnded && e.Err == nil && e.Duration > 0 {
			text += " " + e.Duration.String()
		}
		if e.Err != nil {
			text += ": " + e.Err.Error()
		}
		events = append(events, text)
	})
	return r, events
}

// Steps go together in a tenant where nothing has run, and where nothing has to
// be done between two of them.
func TestMigratorSendsStepsTogether(t *testing.T) {
	for name, test := range map[string]struct {
		migrations, applied, most int
		timeout                   time.Duration
		opts                      skein.PlanOptions
		want                      []string
	}{
		"a fresh tenant":             {migrations: 3, want: []string{"01 02 03."}},
		"one migration":              {migrations: 1, want: []string{"01."}},
		"a part of them":             {migrations: 4, opts: skein.PlanOptions{Steps: 2}, want: []string{"01 02."}},
		"many":                       {migrations: 20, want: []string{"01 02 03 04 05 06 07 08 09 10 11 12 13 14 15 16", "17 18 19 20."}},
		"something has run":          {migrations: 3, applied: 1, want: []string{"02", "03."}},
		"each has its time":          {migrations: 3, timeout: time.Hour, want: []string{"01", "02", "03."}},
		"a session that takes fewer": {migrations: 5, most: 2, want: []string{"01 02 03 04 05.", "03 04 05.", "05."}},
		"back":                       {migrations: 3, applied: 3, opts: skein.PlanOptions{Direction: skein.Down}, want: []string{"03", "02", "01."}},
		"back in part":               {migrations: 3, applied: 3, opts: skein.PlanOptions{Direction: skein.Down, Steps: 2}, want: []string{"03", "02."}},
		"nothing to do":              {migrations: 3, applied: 3},
	} {
		t.Run(name, func(t *testing.T) {
			e, set := newMessenger(), numbered(t, test.migrations)
			if test.most > 0 {
				e.most = test.most
			}
			for _, m := range set.All()[:test.applied] {
				e.applied["d0"] = append(e.applied["d0"], m.Name)
			}
			r, _ := e.carryOut(t, skein.NewMigrator(e, set, 0).WithTimeout(test.timeout), test.opts)
			if r.Err != nil {
				t.Fatal(r.Err)
			}
			if diff := cmp.Diff(test.want, e.messages); diff != "" {
				t.Errorf("sent together (-want +got):\n%s", diff)
			}
			if !slices.Equal(doneNames(r), r.Plan.Names()) {
				t.Errorf("%q is done of %q", doneNames(r), r.Plan.Names())
			}
		})
	}
}

// What is told of steps that went together is what is told of them one by one:
// each begins when the one before it has ended, and none after one that failed.
func TestMigratorTellsOfStepsTogether(t *testing.T) {
	at := func(number string, err error) func(*messenger) {
		return func(e *messenger) {
			e.apply = func(_ string, step skein.Step) error {
				if strings.HasPrefix(step.Migration.Name, number) {
					return err
				}
				return nil
			}
		}
	}
	broken := &skein.StatementError{Migration: "a", Path: "a", Err: errors.New("broken")}
	lost := databaseError(skein.ConnectionLost)
	for name, test := range map[string]struct {
		trouble func(*messenger)
		err     error
		done    int
		want    []string
	}{
		"none": {done: 4, want: []string{
			"started 01", "ended 01 1m0s", "started 02", "ended 02 2m0s", "started 03", "ended 03 3m0s", "started 04", "ended 04 4m0s",
		}},
		"the first fails": {trouble: at("01", broken), err: broken, want: []string{"started 01", "ended 01: a: broken"}},
		"one in the middle fails": {trouble: at("03", broken), err: broken, done: 2, want: []string{
			"started 01", "ended 01 1m0s", "started 02", "ended 02 2m0s", "started 03", "ended 03: a: broken",
		}},
		"the last fails": {trouble: at("04", broken), err: broken, done: 3, want: []string{
			"started 01", "ended 01 1m0s", "started 02", "ended 02 2m0s", "started 03", "ended 03 3m0s", "started 04", "ended 04: a: broken",
		}},
		// All that may have run have begun, as far as anyone can tell.
		"the connection is lost at once": {trouble: at("01", lost), err: lost, want: []string{
			"started 01", "started 02", "started 03", "started 04", "ended 01: " + lost.Error(),
		}},
		"the connection is lost in the middle": {trouble: at("02", lost), err: lost, done: 1, want: []string{
			"started 01", "ended 01 1m0s", "started 02", "started 03", "started 04", "ended 02: " + lost.Error(),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			e := newMessenger()
			if test.trouble != nil {
				test.trouble(e)
			}
			r, events := e.carryOut(t, skein.NewMigrator(e, numbered(t, 4), 0), skein.PlanOptions{})
			if !errors.Is(r.Err, test.err) {
				t.Errorf("the error is %v, want %v", r.Err, test.err)
			}
			if diff := cmp.Diff(test.want, events); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			if want := r.Plan.Names()[:test.done]; !slices.Equal(doneNames(r), want) || !slices.Equal(e.applied["d0"], want) {
				t.Errorf("%q is said to be done, and %q is, want %q", doneNames(r), e.applied["d0"], want)
			}
		})
	}
}

// A connection that ends in the middle of a message leaves open what came of all
// that is behind. The history says so, and the rest is carried out.
func TestFleetReadsBackWhatBecameOfAMessage(t *testing.T) {
	all := []string{"01_a.sql", "02_a.sql", "03_a.sql", "04_a.sql"}
	for lostStep := range 4 {
		for _, committed := range []bool{true, false} {
			for beyond := range 4 - lostStep {
				if !committed && beyond > 0 {
					continue // the server runs nothing behind what it did not
				}
				name := fmt.Sprintf("step %d lost, committed %t, %d behind it", lostStep+1, committed, beyond)
				synctest.Test(t, func(t *testing.T) {
					e := newMessenger()
					e.beyond = beyond
					lose := func(_ string, step skein.Step) error {
						if step.Migration.Name == all[lostStep] {
							return databaseError(skein.ConnectionLost)
						}
						return nil
					}
					if committed {
						e.after = lose
					} else {
						e.apply = lose
					}
					ended := make(map[string]int)
					told := &recording{results: make(map[string]skein.Result), retried: make(map[string]int)}
					fleet := skein.NewFleet([]skein.Engine{e}, numbered(t, 4), &skein.FleetOptions{Retries: 1, Listener: func(event skein.Event) {
						if event.Type == skein.MigrationEnded && event.Err == nil {
							ended[event.Migration.Name]++
						}
						told.listen(event)
					}})
					sum, err := fleet.Migrate(t.Context(), listOf(tenants(1, 1)), skein.PlanOptions{})
					if err != nil || sum.Failed != 0 || sum.Steps != 4 {
						t.Fatalf("%s: %+v, %v, %v", name, sum, told.results["t0"].Err, err)
					}
					if got := e.applied["d0"]; !slices.Equal(got, all) {
						t.Errorf("%s: applied are %q", name, got)
					}
					if r := told.results["t0"]; !slices.Equal(doneNames(r), all) || r.Standing.State != skein.StateBehind || len(r.Plan.Steps) != 4 {
						t.Errorf("%s: %q is reported as done, of the plan %q", name, doneNames(r), r.Plan.Names())
					}
					for _, migration := range all {
						if ended[migration] != 1 {
							t.Errorf("%s: %s is told to have ended well %d times", name, migration, ended[migration])
						}
					}
				})
			}
		}
	}
}

// Where nobody can be asked, no more is said to be done than was answered.
func TestFleetCannotKnowWhatBecameOfAMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newMessenger()
		gone := false
		e.after = func(_ string, step skein.Step) error {
			if gone = step.Migration.Name == "02_a.sql"; gone {
				return databaseError(skein.ConnectionLost)
			}
			return nil
		}
		e.open = func(skein.Target) error {
			if gone {
				return databaseError(skein.Unreachable)
			}
			return nil
		}
		told := &recording{results: make(map[string]skein.Result), retried: make(map[string]int)}
		sum, err := skein.NewFleet([]skein.Engine{e}, numbered(t, 4), &skein.FleetOptions{Retries: 2, Listener: told.listen}).
			Migrate(t.Context(), listOf(tenants(1, 1)), skein.PlanOptions{})
		r := told.results["t0"]
		if err != nil || sum.Failed != 1 || skein.ErrorClass(r.Err) != skein.ConnectionLost || !slices.Equal(doneNames(r), []string{"01_a.sql"}) {
			t.Errorf("%+v, %v: %q is reported as done and %v, want the first and that the connection was lost", sum, err, doneNames(r), r.Err)
		}
	})
}

// A connection that is lost when all is done, and the lock is given back, has
// taken nothing with it.
func TestFleetLosesTheConnectionAfterTheLastStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newMessenger()
		lost := 0
		e.unlock = func() error {
			if lost++; lost == 1 {
				return databaseError(skein.ConnectionLost)
			}
			return nil
		}
		told := &recording{results: make(map[string]skein.Result), retried: make(map[string]int)}
		sum, err := skein.NewFleet([]skein.Engine{e}, numbered(t, 3), &skein.FleetOptions{Retries: 2, Listener: told.listen}).
			Migrate(t.Context(), listOf(tenants(1, 1)), skein.PlanOptions{})
		if r := told.results["t0"]; err != nil || r.Err != nil || sum.Steps != 3 || len(e.applied["d0"]) != 3 {
			t.Errorf("%+v, %v: %q is reported as done, %v, and %q is", sum, err, doneNames(r), r.Err, e.applied["d0"])
		}
	})
}
