package skein_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skeinhq/skein"
)

// A recording is what a fleet told.
type recording struct {
	results map[string]skein.Result // by slug
	retried map[string]int          // likewise
	events  []skein.Event           // all but those of single migrations
}

func (r *recording) listen(e skein.Event) {
	switch e.Type {
	case skein.TenantEnded:
		r.results[e.Tenant.Slug] = *e.Result
	case skein.TenantRetried:
		r.retried[e.Tenant.Slug]++
	}
	r.events = append(r.events, e)
}

func (r *recording) count(kind skein.EventType) int {
	n := 0
	for _, e := range r.events {
		if e.Type == kind {
			n++
		}
	}
	return n
}

// migrate runs a fleet, with five tries again, and returns what it told.
func migrate(t *testing.T, engine *memory, set *skein.Set, all []skein.Tenant, opts skein.PlanOptions, bound func(*skein.FleetOptions)) (*recording, skein.Summary) {
	t.Helper()
	told := &recording{results: make(map[string]skein.Result), retried: make(map[string]int)}
	fleetOpts := &skein.FleetOptions{Retries: 5, Listener: told.listen}
	if bound != nil {
		bound(fleetOpts)
	}
	sum, err := skein.NewFleet([]skein.Engine{engine}, set, fleetOpts).Migrate(t.Context(), listOf(all), opts)
	if err != nil {
		t.Fatal(err)
	}
	if len(told.results) != len(all) && !sum.Interrupted {
		t.Errorf("%d of %d tenants were reported", len(told.results), len(all))
	}
	return told, sum
}

func databaseError(class skein.Class) error {
	return &skein.DatabaseError{Class: class, Message: "trouble: " + string(class)}
}

func TestFleetTriesAgainWhatMayPass(t *testing.T) {
	for class, want := range map[skein.Class]bool{
		skein.Transient: true, skein.Busy: true, skein.ConnectionLost: true,
		skein.Permanent: false, skein.Denied: false, skein.NoDatabase: false,
	} {
		t.Run(string(class), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				engine := newMemory()
				tries := 0
				engine.apply = func(string, skein.Step) error {
					if tries++; tries <= 3 {
						return databaseError(class)
					}
					return nil
				}
				told, sum := migrate(t, engine, migrations(t, "1_a.sql"), tenants(1, 1), skein.PlanOptions{}, nil)
				if got := sum.Failed == 0; got != want {
					t.Errorf("it ended well: %t, want %t", got, want)
				}
				if again := map[bool]int{true: 3, false: 0}[want]; told.retried["t0"] != again || tries != again+1 {
					t.Errorf("it was told %d times that it is tried again, and tried %d times", told.retried["t0"], tries)
				}
				if took := told.results["t0"].Duration; want && (took < 700*time.Millisecond || took > 2*time.Second) {
					t.Errorf("it took %s, want the pauses 0.25, 0.5 and 1 s, each halved at most", took)
				}
			})
		})
	}
}

func TestFleetGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := newMemory()
		tries := 0
		engine.apply = func(string, skein.Step) error {
			tries++
			return &skein.StatementError{Migration: "1_a.sql", Err: databaseError(skein.Busy)}
		}
		told, sum := migrate(t, engine, migrations(t, "1_a.sql"), tenants(1, 1), skein.PlanOptions{}, nil)
		if sum.Failed != 1 || tries != 6 || skein.ErrorClass(told.results["t0"].Err) != skein.Busy {
			t.Errorf("after %d tries: %v, want the error after 6", tries, told.results["t0"].Err)
		}
	})
}

func TestFleetLeavesPartialMigrationsToPeople(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := newMemory()
		tries := 0
		engine.apply = func(string, skein.Step) error {
			tries++
			return &skein.StatementError{Migration: "1_a.sql", Partial: true, Err: databaseError(skein.Busy)}
		}
		_, sum := migrate(t, engine, migrations(t, "1_a.sql"), tenants(1, 1), skein.PlanOptions{}, nil)
		if sum.Failed != 1 || tries != 1 {
			t.Errorf("it was tried %d times, want once", tries)
		}
	})
}

// A connection that ends in a migration leaves open whether that was committed.
func TestFleetReadsBackWhatBecameOfALostStep(t *testing.T) {
	for name, committed := range map[string]bool{"committed": true, "rolled back": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				engine := newMemory()
				cut := true
				lose := func(_ string, step skein.Step) error {
					if cut && step.Migration.Name == "2_b.sql" {
						cut = false
						return databaseError(skein.ConnectionLost)
					}
					return nil
				}
				if committed {
					engine.after = lose
				} else {
					engine.apply = lose
				}
				told, sum := migrate(t, engine, migrations(t, "1_a.sql", "2_b.sql", "3_c.sql"), tenants(1, 1), skein.PlanOptions{}, nil)
				want := []string{"1_a.sql", "2_b.sql", "3_c.sql"}
				if got := engine.applied["d0"]; !slices.Equal(got, want) {
					t.Errorf("applied are %q", got)
				}
				r := told.results["t0"]
				if got := doneNames(r); r.Err != nil || !slices.Equal(got, want) || sum.Steps != 3 {
					t.Errorf("reported as done are %q, %d in all, and %v", got, sum.Steps, r.Err)
				}
				if r.Standing.State != skein.StateBehind || len(r.Plan.Steps) != 3 {
					t.Errorf("it stood %s with a plan of %q, want what it was at first", r.Standing.State, r.Plan.Names())
				}
			})
		})
	}
}

// What is tried again is the rest of what was begun: the last batch is another
// one when it has been reverted, and the next migration another when one was
// applied.
func TestFleetRevertsNoMoreWhenItTriesAgain(t *testing.T) {
	for name, opts := range map[string]skein.PlanOptions{"batch": {Direction: skein.Down}, "steps": {Direction: skein.Down, Steps: 2}} {
		for lostStep := range 2 {
			for _, committed := range []bool{true, false} {
				synctest.Test(t, func(t *testing.T) {
					engine := newMemory()
					engine.applied["d0"] = []string{"1_a.sql", "2_b.sql", "3_c.sql", "4_d.sql"}
					engine.batches = map[string]int{"d0 1_a.sql": 1, "d0 2_b.sql": 1, "d0 3_c.sql": 2, "d0 4_d.sql": 2}
					cut := 0
					lose := func(string, skein.Step) error {
						if cut++; cut == lostStep+1 {
							return databaseError(skein.ConnectionLost)
						}
						return nil
					}
					if committed {
						engine.after = lose
					} else {
						engine.apply = lose
					}
					told, _ := migrate(t, engine, migrations(t, "1_a.sql", "2_b.sql", "3_c.sql", "4_d.sql"), tenants(1, 1), opts, nil)
					if got := engine.applied["d0"]; !slices.Equal(got, []string{"1_a.sql", "2_b.sql"}) {
						t.Errorf("%s, step %d lost, committed %t: %q is still applied", name, lostStep, committed, got)
					}
					if r := told.results["t0"]; r.Err != nil || !slices.Equal(doneNames(r), []string{"4_d.sql", "3_c.sql"}) {
						t.Errorf("%s, step %d lost, committed %t: %q is reported and %v", name, lostStep, committed, doneNames(r), r.Err)
					}
				})
			}
		}
	}
}

func doneNames(r skein.Result) []string {
	var names []string
	for _, d := range r.Done {
		names = append(names, d.Migration.Name)
	}
	return names
}

func TestFleetSaysWhenItCannotKnow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := newMemory()
		lost := false
		engine.after = func(string, skein.Step) error {
			lost = true
			return databaseError(skein.ConnectionLost)
		}
		engine.open = func(skein.Target) error {
			if lost {
				return databaseError(skein.Unreachable)
			}
			return nil
		}
		told, _ := migrate(t, engine, migrations(t, "1_a.sql"), tenants(1, 1), skein.PlanOptions{}, nil)
		if r := told.results["t0"]; skein.ErrorClass(r.Err) != skein.ConnectionLost {
			t.Errorf("the error is %v, want that the connection was lost in a migration", r.Err)
		}
	})
}

func TestFleetGivesUpAServerThatIsDown(t *testing.T) {
	for kind, timeout := range map[string]time.Duration{"refuses": 0, "silent": 10 * time.Second} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				engine := newMemory()
				all := tenants(200, 2)
				tries := 0
				engine.open = func(target skein.Target) error {
					if target.Host != "db1" {
						return nil
					}
					tries++
					engine.mu.Unlock()
					time.Sleep(timeout)
					engine.mu.Lock()
					return databaseError(skein.Unreachable)
				}
				told, sum := migrate(t, engine, migrations(t, "1_a.sql"), all, skein.PlanOptions{}, nil)
				if sum.Failed != 100 || sum.Changed != 100 {
					t.Errorf("%+v, want the 100 tenants of the other server migrated", sum)
				}
				if sum.Duration > 35*time.Second || tries > 8+6 {
					t.Errorf("it took %s and %d tries", sum.Duration, tries)
				}
				if n := told.count(skein.ServerDown); n != 1 {
					t.Errorf("it was told %d times that the server is down", n)
				}
				texts := make(map[string]bool)
				for _, r := range told.results {
					if r.Err == nil {
						continue
					}
					texts[r.Err.Error()] = true
					if r.Standing.State != skein.StateUnreachable || skein.ErrorClass(r.Err) != skein.Unreachable || skein.Hint(r.Err) == "" {
						t.Errorf("%s is %s: %v", r.Tenant.Slug, r.Standing.State, r.Err)
					}
				}
				if len(texts) != 1 {
					t.Errorf("its tenants have %d different errors, want one: %v", len(texts), texts)
				}
			})
		})
	}
}

func TestFleetSeesAServerComeBack(t *testing.T) {
	for name, away := range map[string]time.Duration{"soon": 3 * time.Second, "late": 30 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				engine := newMemory()
				start := time.Now()
				engine.open = func(target skein.Target) error {
					if target.Host == "db1" && time.Since(start) < away {
						return databaseError(skein.Unreachable)
					}
					return nil
				}
				engine.apply = func(database string, _ skein.Step) error {
					if database == "d0" {
						time.Sleep(50 * time.Second) // on the other server
					}
					return nil
				}
				all := tenants(2, 2)
				// More than are read ahead, so that there are some left when it is back.
				for i := range 100 {
					more := all[1]
					more.ID, more.Slug = "more", "more"
					more.Target.Database = "m" + strings.Repeat("x", i)
					all = append(all, more)
				}
				list := func(yield func(skein.Tenant, error) bool) {
					for i, tenant := range all {
						if i > 50 && name == "late" {
							time.Sleep(time.Second)
						}
						if !yield(tenant, nil) {
							return
						}
					}
				}
				told := &recording{results: make(map[string]skein.Result), retried: make(map[string]int)}
				sum, err := skein.NewFleet([]skein.Engine{engine}, migrations(t, "1_a.sql"), &skein.FleetOptions{Retries: 5, Listener: told.listen}).
					Migrate(t.Context(), list, skein.PlanOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if name == "soon" && sum.Failed != 0 {
					t.Errorf("%d failed although the server was back soon", sum.Failed)
				}
				if name == "late" && (sum.Changed < 10 || told.count(skein.ServerBack) != 1) {
					t.Errorf("%d were migrated, and it was told %d times that the server is back", sum.Changed, told.count(skein.ServerBack))
				}
			})
		})
	}
}

// The trouble of one tenant is not that of its server.
func TestFleetKeepsAServerForOneUnreachableTenant(t *testing.T) {
	for _, retries := range []int{0, 5} {
		synctest.Test(t, func(t *testing.T) {
			engine := newMemory()
			all := tenants(60, 1)
			all[0].Target.Database = "down"
			told, sum := migrate(t, engine, migrations(t, "1_a.sql"), all, skein.PlanOptions{}, func(o *skein.FleetOptions) { o.Retries = retries })
			if sum.Failed != 1 || told.results["t0"].Err == nil || told.count(skein.ServerDown) > 1 {
				t.Errorf("with %d retries %d failed", retries, sum.Failed)
			}
		})
	}
}

func TestFleetDoesLessOnACrowdedServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := newMemory()
		limit := 3
		engine.open = func(target skein.Target) error {
			if engine.active[target.Server()] >= limit {
				return databaseError(skein.Crowded)
			}
			return nil
		}
		var peakLate int
		start := time.Now()
		engine.apply = func(string, skein.Step) error {
			time.Sleep(100 * time.Millisecond)
			engine.mu.Lock()
			defer engine.mu.Unlock()
			if time.Since(start) > 5*time.Second {
				limit = 100 // whoever had the other connections is gone
			}
			if time.Since(start) > 60*time.Second {
				peakLate = max(peakLate, engine.active["postgres://db0:5432"])
			}
			return nil
		}
		told, sum := migrate(t, engine, migrations(t, "1_a.sql"), tenants(4000, 1), skein.PlanOptions{}, func(o *skein.FleetOptions) {
			o.Parallel, o.PerServer = 8, 8
		})
		if sum.Failed != 0 {
			t.Errorf("%d failed", sum.Failed)
		}
		if n := told.count(skein.ServerCrowded); n != 1 {
			t.Errorf("it was told %d times that there are too many connections, want once", n)
		}
		if n := told.count(skein.TenantRetried); n > 20 {
			t.Errorf("%d tenants were turned away, want few", n)
		}
		if peakLate != 8 {
			t.Errorf("%d were worked on at once in the end, want the 8 that were asked for", peakLate)
		}
	})
}

func TestFleetGivesUpAServerThatStaysCrowded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := newMemory()
		engine.open = func(skein.Target) error { return databaseError(skein.Crowded) }
		_, sum := migrate(t, engine, migrations(t, "1_a.sql"), tenants(1000, 1), skein.PlanOptions{}, nil)
		if sum.Failed != 1000 || sum.Duration > time.Minute {
			t.Errorf("%d failed after %s", sum.Failed, sum.Duration)
		}
	})
}

func TestFleetStopsWhileItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := newMemory()
		stop := make(chan struct{})
		engine.open = func(skein.Target) error { return databaseError(skein.Unreachable) }
		start := time.Now()
		go func() {
			time.Sleep(300 * time.Millisecond)
			close(stop)
		}()
		told, sum := migrate(t, engine, migrations(t, "1_a.sql"), tenants(1, 1), skein.PlanOptions{}, func(o *skein.FleetOptions) { o.Stop = stop })
		if took := time.Since(start); took > 400*time.Millisecond {
			t.Errorf("it ended %s after its beginning, want at once when it is stopped", took)
		}
		if r := told.results["t0"]; !sum.Interrupted || sum.Failed != 1 || errors.Is(r.Err, skein.ErrInterrupted) {
			t.Errorf("%+v, %v: want what the tenant met", sum, r.Err)
		}
	})
}

// A statement that waited too long in the middle of a migration is tried again,
// and not what ran before it.
func TestFleetGoesOnInTheMiddle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := newMemory()
		var from []int
		engine.apply = func(_ string, step skein.Step) error {
			if step.Migration.Name != "2_b.sql" {
				return nil
			}
			from = append(from, step.From)
			if len(from) > 2 {
				engine.partial = nil
				return nil
			}
			engine.partial = []skein.Record{{Name: "2_b.sql", State: skein.Applying, Batch: 1, Done: 1, Total: 2, Fingerprints: skein.Fingerprints([]skein.Statement{{Text: "x"}})}}
			return &skein.StatementError{Migration: "2_b.sql", Index: 2, Total: 2, Partial: true, Exact: true, Err: databaseError(skein.Busy)}
		}
		told, sum := migrate(t, engine, migrations(t, "1_a.sql", "2_b.sql", "3_c.sql"), tenants(1, 1), skein.PlanOptions{}, nil)
		if !slices.Equal(from, []int{0, 1, 1}) || sum.Failed != 0 {
			t.Errorf("it began behind %d statements, and %d failed: %v", from, sum.Failed, told.results["t0"].Err)
		}
		if got := doneNames(told.results["t0"]); !slices.Equal(got, []string{"1_a.sql", "2_b.sql", "3_c.sql"}) {
			t.Errorf("reported as done are %q", got)
		}
	})
}
