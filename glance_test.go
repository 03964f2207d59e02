package skein_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skeinhq/skein"
)

// A glancer is a memory whose databases can be looked at together: by the
// fingerprints that are kept of them, or by their histories.
type glancer struct {
	*memory
	set *skein.Set
	// histories says that these are told, and no fingerprints are kept.
	histories bool
	// keys are those of vantages by database, where it is not the server's.
	keys map[string]string
	// glance is called before a batch is looked at.
	glance func(ctx context.Context, from skein.Target, targets []skein.Target) error
	// lock is called before a tenant's lock is given.
	lock func(skein.Target) error

	mu        sync.Mutex
	kept      map[string]string               // fingerprints by database
	change    map[string]func(*skein.History) // what else a history says, by database
	bare      map[string]bool                 // databases whose records have no checksums
	connected map[string]int                  // how often, by database
	batches   [][]skein.Target
	keeps     int
	reads     int // of histories by their own sessions
}

func newGlancer(set *skein.Set) *glancer {
	return &glancer{
		memory: newMemory(), set: set,
		kept: make(map[string]string), change: make(map[string]func(*skein.History)), bare: make(map[string]bool), connected: make(map[string]int),
	}
}

// bring makes the tenants' histories hold the named migrations, and keeps their
// fingerprints.
func (e *glancer) bring(all []skein.Tenant, names ...string) {
	for _, t := range all {
		e.applied[t.Target.Database] = slices.Clone(names)
		e.kept[t.Target.Database] = e.history(t.Target.Database).Fingerprint()
	}
}

func (e *glancer) history(database string) skein.History {
	e.memory.mu.Lock()
	defer e.memory.mu.Unlock()
	var h skein.History
	for _, name := range e.applied[database] {
		r := skein.Record{Name: name, State: skein.Applied, Batch: 1}
		if m, _ := e.set.Find(name); m != nil && !e.bare[database] {
			r.Checksum = m.Checksum
		}
		h.Records = append(h.Records, r)
	}
	if change := e.change[database]; change != nil {
		change(&h)
	}
	return h
}

func (e *glancer) Vantage(target skein.Target, server *skein.Target) (skein.Target, string) {
	if key, ok := e.keys[target.Database]; ok {
		return target, key
	}
	if server != nil {
		return *server, target.Server()
	}
	return target, target.Server()
}

func (e *glancer) Glance(ctx context.Context, on skein.Session, targets []skein.Target) ([]skein.Glimpse, error) {
	s := on.(*glancerSession)
	e.mu.Lock()
	e.batches = append(e.batches, targets)
	e.mu.Unlock()
	if s.reused && e.lostOnce[s.target.Database] {
		return nil, databaseError(skein.ConnectionLost)
	}
	if e.glance != nil {
		if err := e.glance(ctx, s.target, targets); err != nil {
			return nil, err
		}
	}
	glimpses := make([]skein.Glimpse, len(targets))
	for i, t := range targets {
		if e.histories {
			h := e.history(t.Database)
			glimpses[i].History = &h
			continue
		}
		e.mu.Lock()
		glimpses[i].Fingerprint = e.kept[t.Database]
		e.mu.Unlock()
		glimpses[i].Wanting = glimpses[i].Fingerprint == ""
	}
	return glimpses, nil
}

func (e *glancer) Open(ctx context.Context, t skein.Target) (skein.Session, error) {
	e.mu.Lock()
	e.connected[t.Database]++
	e.mu.Unlock()
	s, err := e.memory.Open(ctx, t)
	if err != nil {
		return nil, err
	}
	return &glancerSession{s.(*memorySession), e}, nil
}

// strangers are how many of the tenants were connected to.
func (e *glancer) strangers(all []skein.Tenant) int {
	n := 0
	for _, t := range all {
		if e.connected[t.Target.Database] > 0 {
			n++
		}
	}
	return n
}

type glancerSession struct {
	*memorySession
	engine *glancer
}

func (s *glancerSession) History(ctx context.Context) (skein.History, error) {
	if _, err := s.memorySession.History(ctx); err != nil {
		return skein.History{}, err
	}
	s.engine.mu.Lock()
	s.engine.reads++
	s.engine.mu.Unlock()
	return s.engine.history(s.target.Database), nil
}

func (s *glancerSession) Lock(ctx context.Context, _ time.Duration) (skein.History, error) {
	if s.engine.lock != nil {
		if err := s.engine.lock(s.target); err != nil {
			return skein.History{}, err
		}
	}
	return s.History(ctx)
}

func (s *glancerSession) Apply(ctx context.Context, step skein.Step) (skein.StepResult, error) {
	r, err := s.memorySession.Apply(ctx, step)
	if err == nil {
		err = s.Keep(ctx)
	}
	return r, err
}

func (s *glancerSession) Kept(context.Context) (skein.Kept, error) {
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	return skein.Kept{Fingerprint: s.engine.kept[s.target.Database], Writable: true}, nil
}

func (s *glancerSession) Keep(context.Context) error {
	now := s.engine.history(s.target.Database).Fingerprint()
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	if s.engine.kept[s.target.Database] != now {
		s.engine.kept[s.target.Database] = now
		s.engine.keeps++
	}
	return nil
}

func (s *glancerSession) Switch(t skein.Target) bool {
	s.engine.mu.Lock()
	s.engine.connected[t.Database]++
	s.engine.mu.Unlock()
	return s.memorySession.Switch(t)
}

// A run is one of a fleet over tenants that can be looked at together.
type run struct {
	*recording
	sum skein.Summary
}

// look runs a fleet over tenants, and checks that each is reported once, or in a
// run that was interrupted not at all, and that the summary is the sum of that.
func (e *glancer) look(t *testing.T, all []skein.Tenant, bound func(*skein.FleetOptions), do func(*skein.Fleet) (skein.Summary, error)) run {
	t.Helper()
	told := &recording{results: make(map[string]skein.Result), retried: make(map[string]int)}
	ended := make(map[string]int)
	opts := &skein.FleetOptions{Retries: 5, Parallel: 8, PerServer: 8, Listener: func(event skein.Event) {
		if event.Type == skein.TenantEnded {
			ended[event.Tenant.Slug]++
		}
		told.listen(event)
	}}
	if bound != nil {
		bound(opts)
	}
	sum, err := do(skein.NewFleet([]skein.Engine{e}, e.set, opts))
	if err != nil {
		t.Fatal(err)
	}
	var want skein.Summary
	for slug, n := range ended {
		if n != 1 {
			t.Errorf("%s was reported %d times", slug, n)
		}
		r := told.results[slug]
		want.Tenants++
		want.Steps += len(r.Done)
		switch {
		case errors.Is(r.Err, skein.ErrInterrupted):
		case r.Err != nil:
			want.Failed++
		case len(r.Done) == 0:
			want.Unchanged++
		}
		if len(r.Done) > 0 {
			want.Changed++
		}
		switch r.Source {
		case skein.FromFingerprint:
			want.ByFingerprint++
		case skein.FromHistory:
			want.ByHistory++
		}
	}
	want.Interrupted, want.Duration = sum.Interrupted, sum.Duration
	if sum != want {
		t.Errorf("the summary is %+v, and what was reported is %+v", sum, want)
	}
	if !sum.Interrupted && sum.Tenants != len(all) {
		t.Errorf("%d of %d tenants were reported", sum.Tenants, len(all))
	}
	for server, n := range e.peak {
		if bound := opts.Servers[server]; n > opts.PerServer && (bound == 0 || n > bound) {
			t.Errorf("%s had %d sessions at once, want at most %d", server, n, opts.PerServer)
		}
	}
	if e.peakAll > opts.Parallel {
		t.Errorf("%d sessions were open at once, want at most %d", e.peakAll, opts.Parallel)
	}
	return run{told, sum}
}

func (e *glancer) migrate(t *testing.T, all []skein.Tenant, bound func(*skein.FleetOptions)) run {
	t.Helper()
	return e.look(t, all, bound, func(f *skein.Fleet) (skein.Summary, error) {
		return f.Migrate(t.Context(), listOf(all), skein.PlanOptions{})
	})
}

func (e *glancer) assess(t *testing.T, all []skein.Tenant, bound func(*skein.FleetOptions)) run {
	t.Helper()
	return e.look(t, all, bound, func(f *skein.Fleet) (skein.Summary, error) {
		return f.Assess(t.Context(), listOf(all), skein.Policy{})
	})
}

func (e *glancer) inspect(t *testing.T, all []skein.Tenant, bound func(*skein.FleetOptions)) run {
	t.Helper()
	return e.look(t, all, bound, func(f *skein.Fleet) (skein.Summary, error) {
		return f.Inspect(t.Context(), listOf(all), skein.PlanOptions{})
	})
}

// oneWorker makes what a run does the same each time.
func oneWorker(o *skein.FleetOptions) { o.Parallel = 1 }

func TestFleetConnectsToWhatIsBehindAlone(t *testing.T) {
	set := migrations(t, "1_a.sql", "2_b.sql")
	for name, do := range map[string]func(*glancer, *testing.T, []skein.Tenant, func(*skein.FleetOptions)) run{
		"migrate": (*glancer).migrate, "plan": (*glancer).inspect, "status": (*glancer).assess,
	} {
		t.Run(name, func(t *testing.T) {
			engine := newGlancer(set)
			all := tenants(1200, 2)
			engine.bring(all, "1_a.sql", "2_b.sql")
			behind := all[700:720]
			engine.bring(behind, "1_a.sql")
			r := do(engine, t, all, nil)
			if r.sum.ByFingerprint != 1180 || r.sum.Failed != 0 {
				t.Errorf("the summary is %+v, want 1180 known by their fingerprints", r.sum)
			}
			// The vantages are tenants too.
			if n := engine.strangers(all) - engine.strangers(behind); n > len(engine.batches) {
				t.Errorf("%d tenants that are up to date were connected to for %d looks", n, len(engine.batches))
			}
			for _, tenant := range all {
				got, want := r.results[tenant.Slug], skein.StateUpToDate
				if slices.ContainsFunc(behind, func(b skein.Tenant) bool { return b.ID == tenant.ID }) {
					want = skein.StateBehind
					if done := doneNames(got); got.Source != skein.FromConnection || name == "migrate" && !slices.Equal(done, []string{"2_b.sql"}) {
						t.Errorf("%s is known by %s and had %q done", tenant.Slug, got.Source, done)
					}
				} else if got.Source != skein.FromFingerprint || len(got.History.Records) > 0 {
					t.Errorf("%s is known by %s, with the history %v", tenant.Slug, got.Source, got.History)
				}
				if got.Standing.State != want || got.Standing.Newest == nil {
					t.Errorf("%s stands as %+v, want %s", tenant.Slug, got.Standing, want)
				}
			}
			if started := r.count(skein.TenantStarted); started != len(behind) {
				t.Errorf("%d tenants are told to have been begun, want %d", started, len(behind))
			}
		})
	}
}

func TestFleetConnectsToNoneOfTenThousand(t *testing.T) {
	engine := newGlancer(migrations(t, "1_a.sql", "2_b.sql"))
	all := tenants(10000, 3)
	engine.bring(all, "1_a.sql", "2_b.sql")
	at := make(map[string]skein.Target)
	for i := range 3 {
		target := skein.Target{Engine: skein.PostgreSQL, Host: fmt.Sprintf("db%d", i), Database: "postgres", User: "admin"}
		at[target.Server()] = target
	}
	r := engine.migrate(t, all, func(o *skein.FleetOptions) { o.Addresses = at })
	if r.sum.ByFingerprint != 10000 || r.sum.Unchanged != 10000 || engine.strangers(all) != 0 {
		t.Errorf("%+v, and %d were connected to", r.sum, engine.strangers(all))
	}
	if n := len(engine.batches); n < 20 || n > 40 {
		t.Errorf("they were looked at in %d batches", n)
	}
	for _, batch := range engine.batches {
		if len(batch) > 500 {
			t.Errorf("%d were looked at together", len(batch))
		}
	}
	if engine.opened != len(engine.batches) {
		t.Errorf("%d sessions were opened for %d batches", engine.opened, len(engine.batches))
	}
}

// What is read of the list and not done stays bounded also where batches of it
// are with the workers.
func TestFleetLooksAtTenantsAsTheyAreNeeded(t *testing.T) {
	const many, parallel = 30000, 4
	engine := newGlancer(migrations(t, "1_a.sql"))
	for i := range 7 {
		engine.applied[strconv.Itoa(i)] = []string{"1_a.sql"}
		engine.kept[strconv.Itoa(i)] = engine.history(strconv.Itoa(i)).Fingerprint()
	}
	var read, done atomic.Int32
	var ahead int32
	list := func(yield func(skein.Tenant, error) bool) {
		for i := range many {
			ahead = max(ahead, read.Add(1)-done.Load())
			if !yield(skein.Tenant{ID: strconv.Itoa(i), Target: skein.Target{Engine: skein.PostgreSQL, Database: strconv.Itoa(i % 7)}}, nil) {
				return
			}
		}
	}
	fleet := skein.NewFleet([]skein.Engine{engine}, engine.set, &skein.FleetOptions{
		Parallel: parallel, PerServer: parallel,
		Listener: func(e skein.Event) {
			if e.Type == skein.TenantEnded {
				done.Add(1)
			}
		},
	})
	if sum, err := fleet.Assess(t.Context(), list, skein.Policy{}); err != nil || sum.ByFingerprint != many {
		t.Fatalf("got %+v, %v", sum, err)
	}
	if ahead > 4096+parallel*500+1 {
		t.Errorf("%d tenants were read and not done: they do not fit in bounded memory", ahead)
	}
}

// A tenant whose history has no checksums, since Knex wrote it, has a fingerprint
// that is not known beforehand. It is learned from one of those that have it.
func TestFleetLearnsFingerprints(t *testing.T) {
	engine := newGlancer(migrations(t, "1_a.sql", "2_b.sql"))
	all := tenants(300, 1)
	for _, tenant := range all {
		engine.bare[tenant.Target.Database] = true
	}
	engine.bring(all, "1_a.sql", "2_b.sql")
	r := engine.migrate(t, all, oneWorker)
	if r.sum.ByFingerprint != 299 || r.sum.Unchanged != 300 {
		t.Errorf("the summary is %+v, want all but one known by fingerprint", r.sum)
	}
	// The first tenant is the vantage as well.
	if n := engine.strangers(all); n != 1 || engine.connected["d0"] != 2 {
		t.Errorf("%d tenants were connected to, the first %d times, want it alone, twice", n, engine.connected["d0"])
	}
	if got := r.results["t0"]; got.Source != skein.FromConnection || len(got.History.Records) != 2 {
		t.Errorf("the one that was learned from is known by %s, with the history %v", got.Source, got.History)
	}

	// What was learned may be that there is something to do.
	behind := newGlancer(engine.set)
	behind.bring(all, "1_a.sql")
	if r := behind.migrate(t, all, oneWorker); r.sum.Changed != 300 || r.sum.ByFingerprint != 0 {
		t.Errorf("the summary is %+v, want all migrated", r.sum)
	}
	if n := behind.connected["d1"]; n != 1 {
		t.Errorf("a tenant of which it is known to be behind was connected to %d times", n)
	}
}

// Nothing is learned from a tenant whose fingerprint is not that of its history.
func TestFleetDoesNotLearnFromAFingerprintThatLies(t *testing.T) {
	engine := newGlancer(migrations(t, "1_a.sql", "2_b.sql"))
	all := tenants(10, 1)
	for _, tenant := range all {
		engine.bare[tenant.Target.Database] = true
	}
	engine.bring(all, "1_a.sql", "2_b.sql")
	engine.applied["d0"] = nil
	r := engine.migrate(t, all, oneWorker)
	if got := doneNames(r.results["t0"]); !slices.Equal(got, []string{"1_a.sql", "2_b.sql"}) {
		t.Errorf("in the tenant whose history was changed %q was done", got)
	}
	if r.sum.ByFingerprint != 8 || r.sum.Unchanged != 9 {
		t.Errorf("the summary is %+v, want what the second taught about the others", r.sum)
	}

	// Where each one lies, some are tried and then all are connected to.
	engine = newGlancer(engine.set)
	engine.bring(all, "1_a.sql")
	for i, tenant := range all {
		engine.kept[tenant.Target.Database] = strings.Repeat(strconv.Itoa(i), 22)
	}
	if r := engine.migrate(t, all, oneWorker); r.sum.Changed != 10 || r.sum.Steps != 10 {
		t.Errorf("the summary is %+v, want all migrated", r.sum)
	}
	opened := 0
	for _, n := range engine.connected {
		opened += n
	}
	if opened > 1+3+10 {
		t.Errorf("%d connections were made for 10 tenants, want a look, three lessons and one each", opened)
	}
}

// A lock of Knex's is no part of a fingerprint, and says nothing about others.
func TestFleetDoesNotLearnFromATenantThatKnexHasLocked(t *testing.T) {
	engine := newGlancer(migrations(t, "1_a.sql"))
	all := tenants(20, 1)
	for _, tenant := range all {
		engine.bare[tenant.Target.Database] = true
	}
	engine.bring(all, "1_a.sql")
	engine.change["d0"] = func(h *skein.History) { h.KnexLocked = true }
	r := engine.assess(t, all, oneWorker)
	if r.sum.ByFingerprint != 18 || !r.results["t0"].Standing.KnexLocked || r.results["t0"].Source != skein.FromConnection {
		t.Errorf("the summary is %+v, and the locked one %+v", r.sum, r.results["t0"])
	}
}

func TestFleetWritesMissingFingerprints(t *testing.T) {
	set := migrations(t, "1_a.sql")
	for _, test := range []struct {
		name string
		do   func(*glancer, *testing.T, []skein.Tenant, func(*skein.FleetOptions)) run
		kept int
	}{{"migrate", (*glancer).migrate, 20}, {"plan", (*glancer).inspect, 0}, {"status", (*glancer).assess, 0}} {
		t.Run(test.name, func(t *testing.T) {
			engine := newGlancer(set)
			all := tenants(20, 1)
			engine.bring(all, "1_a.sql")
			clear(engine.kept)
			if r := test.do(engine, t, all, nil); r.sum.Unchanged != 20 || r.sum.ByFingerprint != 0 {
				t.Errorf("the summary is %+v", r.sum)
			}
			if engine.keeps != test.kept {
				t.Errorf("%d fingerprints were written, want %d", engine.keeps, test.kept)
			}
			// Not those of tenants where something began and did not end.
			engine.change["d0"] = func(h *skein.History) {
				h.KnexOpen = []skein.Record{{Name: "2.js", State: skein.Applying}}
			}
			delete(engine.kept, "d0")
			test.do(engine, t, all, nil)
			if engine.kept["d0"] != "" {
				t.Error("a fingerprint was written of a history in which something is open")
			}
		})
	}
}

// A fingerprint that tells of less than the history has is found wrong when the
// tenant is connected to for that.
func TestFleetMendsFingerprintsItFindsWrong(t *testing.T) {
	engine := newGlancer(migrations(t, "1_a.sql", "2_b.sql"))
	all := tenants(10, 1)
	engine.bring(all, "1_a.sql")
	for _, tenant := range all {
		engine.applied[tenant.Target.Database] = []string{"1_a.sql", "2_b.sql"} // by somebody else
	}
	if r := engine.migrate(t, all, oneWorker); r.sum.Unchanged != 10 {
		t.Errorf("the summary is %+v, want nothing to do", r.sum)
	}
	if r := engine.migrate(t, all, oneWorker); r.sum.ByFingerprint != 10 {
		t.Errorf("the next summary is %+v, want all known by their fingerprints", r.sum)
	}
}

// A tenant that seems to be behind is locked at once. Where somebody else has the
// lock, and there is nothing to do after all, that is no failure.
func TestFleetNeedsNoLockWhereThereIsNothingToDo(t *testing.T) {
	engine := newGlancer(migrations(t, "1_a.sql"))
	all := tenants(3, 1)
	engine.bring(all, "1_a.sql")
	clear(engine.kept)
	delete(engine.applied, "d2")
	engine.lock = func(skein.Target) error { return &skein.LockedError{Holder: "someone"} }
	r := engine.migrate(t, all, oneWorker)
	if r.sum.Unchanged != 2 || r.sum.Failed != 1 {
		t.Errorf("the summary is %+v", r.sum)
	}
	if _, locked := errors.AsType[*skein.LockedError](r.results["t2"].Err); !locked || r.results["t2"].Standing.State != skein.StateBehind {
		t.Errorf("the one that is behind is %+v", r.results["t2"])
	}
}

// A vantage that is a tenant itself, and cannot be connected to, is that tenant's
// trouble alone.
func TestFleetLooksFromAnotherTenant(t *testing.T) {
	engine := newGlancer(migrations(t, "1_a.sql"))
	all := tenants(50, 1)
	engine.bring(all, "1_a.sql")
	engine.open = func(target skein.Target) error {
		if target.Database == "d0" || target.Database == "d1" {
			return databaseError(skein.Denied)
		}
		return nil
	}
	r := engine.migrate(t, all, nil)
	if r.sum.Failed != 2 || r.sum.ByFingerprint != 48 {
		t.Errorf("the summary is %+v", r.sum)
	}
	for _, slug := range []string{"t0", "t1"} {
		if skein.ErrorClass(r.results[slug].Err) != skein.Denied {
			t.Errorf("%s ended with %v", slug, r.results[slug].Err)
		}
	}
	if engine.connected["d0"] != 1 || engine.connected["d1"] != 1 {
		t.Errorf("those that refuse were connected to %d and %d times, want once each", engine.connected["d0"], engine.connected["d1"])
	}
	if n := r.count(skein.TenantStarted); n != 2 {
		t.Errorf("%d tenants are told to have been begun, want 2", n)
	}
	if n := r.count(skein.ServerUnasked); n != 0 {
		t.Errorf("it was told %d times that the server cannot be asked", n)
	}
}

// A server whose own address is of no use for that has its tenants connected to.
// That is told once.
func TestFleetSaysThatAServerCannotBeAsked(t *testing.T) {
	address := skein.Target{Engine: skein.PostgreSQL, Host: "db0", Database: "postgres", User: "admin"}
	for _, test := range []struct {
		name   string
		open   error
		glance error
		told   int
	}{
		{"denied", databaseError(skein.Denied), nil, 1},
		{"unreachable", databaseError(skein.Unreachable), nil, 1},
		{"may not read", nil, databaseError(skein.Denied), 1},
		{"busy", nil, databaseError(skein.Busy), 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			engine := newGlancer(migrations(t, "1_a.sql"))
			all := tenants(2500, 1)
			engine.bring(all, "1_a.sql")
			engine.shared = true
			engine.open = func(target skein.Target) error {
				if target.Database == "postgres" {
					return test.open
				}
				return nil
			}
			engine.glance = func(context.Context, skein.Target, []skein.Target) error { return test.glance }
			r := engine.migrate(t, all, func(o *skein.FleetOptions) { o.Addresses = map[string]skein.Target{address.Server(): address} })
			if r.sum.Unchanged != 2500 || r.sum.ByFingerprint != 0 || engine.strangers(all) != 2500 {
				t.Errorf("the summary is %+v, and %d were connected to", r.sum, engine.strangers(all))
			}
			if n := r.count(skein.ServerUnasked); n != test.told {
				t.Errorf("it was told %d times that the server cannot be asked, want %d", n, test.told)
			}
			for _, e := range r.events {
				if e.Type == skein.ServerUnasked && (e.Err == nil || e.Server != address.Server()) {
					t.Errorf("it was told as %+v", e)
				}
			}
			if n := r.count(skein.ServerDown); n != 0 {
				t.Errorf("the server was given up on %d times", n)
			}
		})
	}
}

// A batch that cannot be looked at is the trouble of its tenants alone, where it
// may pass: one of them may have its history's table locked.
func TestFleetGoesOnLookingAfterABatchThatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := newGlancer(migrations(t, "1_a.sql"))
		all := tenants(2000, 1)
		engine.bring(all, "1_a.sql")
		engine.glance = func(ctx context.Context, _ skein.Target, targets []skein.Target) error {
			if !slices.ContainsFunc(targets, func(target skein.Target) bool { return target.Database == "d3" }) {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}
		address := skein.Target{Engine: skein.PostgreSQL, Host: "db0", Database: "postgres", User: "admin"}
		for name, at := range map[string]map[string]skein.Target{"its own": nil, "the server's": {address.Server(): address}} {
			r := engine.assess(t, all, func(o *skein.FleetOptions) { o.Addresses = at })
			if r.sum.ByFingerprint != 1500 || r.sum.Unchanged != 2000 {
				t.Errorf("%s: the summary is %+v, want one batch of four connected to", name, r.sum)
			}
			if r.sum.Duration > time.Minute {
				t.Errorf("%s: it took %s", name, r.sum.Duration)
			}
			if n := r.count(skein.ServerUnasked); n != 0 {
				t.Errorf("%s: it was told %d times that the server cannot be asked", name, n)
			}
		}
	})
}

func TestFleetFullCheck(t *testing.T) {
	engine := newGlancer(migrations(t, "1_a.sql"))
	all := tenants(50, 1)
	engine.bring(all, "1_a.sql")
	delete(engine.applied, "d7")
	r := engine.migrate(t, all, func(o *skein.FleetOptions) { o.FullCheck = true })
	if len(engine.batches) != 0 || engine.strangers(all) != 50 {
		t.Errorf("it looked %d times, and connected to %d", len(engine.batches), engine.strangers(all))
	}
	if got := doneNames(r.results["t7"]); !slices.Equal(got, []string{"1_a.sql"}) || r.sum.Changed != 1 {
		t.Errorf("in the tenant whose history was changed behind its fingerprint %q was done", got)
	}
}

// What has to be done everywhere is done everywhere: nothing is looked at first.
func TestFleetRevertsWithoutLooking(t *testing.T) {
	engine := newGlancer(migrations(t, "1_a.sql", "2_b.sql"))
	all := tenants(20, 1)
	engine.bring(all, "1_a.sql", "2_b.sql")
	r := engine.look(t, all, nil, func(f *skein.Fleet) (skein.Summary, error) {
		return f.Migrate(t.Context(), listOf(all), skein.PlanOptions{Direction: skein.Down, Steps: 1})
	})
	if r.sum.Changed != 20 || len(engine.batches) != 0 {
		t.Errorf("the summary is %+v after %d looks", r.sum, len(engine.batches))
	}
}

func TestFleetLooksWhileAServerIsDown(t *testing.T) {
	for kind, timeout := range map[string]time.Duration{"refuses": 0, "silent": 10 * time.Second} {
		for _, addressed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, address %t", kind, addressed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					engine := newGlancer(migrations(t, "1_a.sql"))
					all := tenants(2000, 2)
					engine.bring(all, "1_a.sql")
					engine.open = func(target skein.Target) error {
						if target.Host != "db1" {
							return nil
						}
						engine.memory.mu.Unlock()
						time.Sleep(timeout)
						engine.memory.mu.Lock()
						return databaseError(skein.Unreachable)
					}
					r := engine.migrate(t, all, func(o *skein.FleetOptions) {
						if addressed {
							o.Addresses = make(map[string]skein.Target)
							for _, host := range []string{"db0", "db1"} {
								address := skein.Target{Engine: skein.PostgreSQL, Host: host, Database: "postgres", User: "admin"}
								o.Addresses[address.Server()] = address
							}
						}
					})
					if r.sum.ByFingerprint != 1000 || r.sum.Failed != 1000 {
						t.Errorf("the summary is %+v", r.sum)
					}
					if n := r.count(skein.ServerDown); n != 1 {
						t.Errorf("it was told %d times that the server is down", n)
					}
					most := 35 * time.Second
					if addressed {
						most += timeout
					}
					if r.sum.Duration > most {
						t.Errorf("it took %s", r.sum.Duration)
					}
				})
			})
		}
	}
}

// A server that comes back is looked at again.
func TestFleetLooksAtAServerThatIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := newGlancer(migrations(t, "1_a.sql"))
		all := tenants(3000, 1)
		engine.bring(all, "1_a.sql")
		up := time.Now().Add(2 * time.Second)
		engine.open = func(skein.Target) error {
			if time.Now().Before(up) {
				return databaseError(skein.Unreachable)
			}
			return nil
		}
		r := engine.migrate(t, all, nil)
		if r.sum.Failed != 0 || r.sum.Unchanged != 3000 {
			t.Errorf("the summary is %+v", r.sum)
		}
		if n := engine.strangers(all); n > 100 {
			t.Errorf("%d were connected to", n)
		}
	})
}

func TestFleetStopsWhileItLooks(t *testing.T) {
	for _, test := range []struct {
		name    string
		tenants int
		behind  int // of the last of them
		cancel  bool
		begun   int // tenants that may be reported, at most
		whole   bool
	}{
		{"with more to come", 30000, 30000, false, 0, false},
		{"in the last batch", 300, 300, false, 0, false},
		{"in the last batch, one of which is behind", 300, 1, false, 299, false},
		{"in the last batch, which is up to date", 300, 0, false, 300, true},
		{"abandoned with more to come", 30000, 30000, true, 0, false},
		{"abandoned in the last batch", 300, 300, true, 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				engine := newGlancer(migrations(t, "1_a.sql", "2_b.sql"))
				all := tenants(test.tenants, 1)
				engine.bring(all, "1_a.sql", "2_b.sql")
				engine.bring(all[len(all)-test.behind:], "1_a.sql")
				stop := make(chan struct{})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var once sync.Once
				engine.glance = func(ctx context.Context, _ skein.Target, _ []skein.Target) error {
					once.Do(func() {
						if test.cancel {
							cancel()
						} else {
							close(stop)
						}
					})
					time.Sleep(time.Second) // until that is known to the run
					return ctx.Err()
				}
				r := engine.look(t, all, func(o *skein.FleetOptions) { o.Parallel, o.Stop = 4, stop }, func(f *skein.Fleet) (skein.Summary, error) {
					return f.Migrate(ctx, listOf(all), skein.PlanOptions{})
				})
				if r.sum.Interrupted == test.whole || r.sum.Tenants > test.begun || r.sum.Failed+r.sum.Changed > 0 {
					t.Errorf("the summary is %+v, want at most %d and interrupted: %t", r.sum, test.begun, !test.whole)
				}
				if n := engine.strangers(all); n > len(engine.batches) {
					t.Errorf("%d tenants were connected to for %d looks: none is begun any more", n, len(engine.batches))
				}
				if len(engine.batches) > 4 {
					t.Errorf("it looked %d times", len(engine.batches))
				}
			})
		})
	}
}

// All workers share what is left to do when the last batch was looked at.
func TestFleetSharesWhatWasLookedAt(t *testing.T) {
	engine := newGlancer(migrations(t, "1_a.sql"))
	const parallel = 6
	together := make(chan struct{})
	var at atomic.Int32
	engine.apply = func(string, skein.Step) error {
		if at.Add(1) == parallel {
			close(together)
		}
		select {
		case <-together:
		case <-time.After(30 * time.Second):
			t.Error("there are never six at once")
		}
		return nil
	}
	all := tenants(100, 1)
	r := engine.migrate(t, all, func(o *skein.FleetOptions) { o.Parallel, o.PerServer = parallel, parallel })
	if r.sum.Changed != 100 || len(engine.batches) != 1 {
		t.Errorf("the summary is %+v after %d looks", r.sum, len(engine.batches))
	}
}

func TestFleetKeepsItsBoundsWhileItLooks(t *testing.T) {
	engine := newGlancer(migrations(t, "1_a.sql", "2_b.sql"))
	all := tenants(6000, 4)
	engine.bring(all, "1_a.sql", "2_b.sql")
	for i := 0; i < len(all); i += 37 {
		database := all[i].Target.Database
		engine.applied[database] = []string{"1_a.sql"}
		if i%2 == 0 {
			engine.kept[database] = engine.history(database).Fingerprint()
		} else {
			delete(engine.kept, database)
		}
	}
	engine.glance = func(context.Context, skein.Target, []skein.Target) error {
		time.Sleep(time.Millisecond)
		return nil
	}
	r := engine.migrate(t, all, func(o *skein.FleetOptions) {
		o.Parallel, o.PerServer, o.Servers = 6, 3, map[string]int{"postgres://db0:5432": 1}
	})
	if r.sum.Changed != (6000+36)/37 || r.sum.Failed != 0 {
		t.Errorf("the summary is %+v", r.sum)
	}
	if n := engine.peak["postgres://db0:5432"]; n != 1 {
		t.Errorf("db0 had %d sessions at once, want 1", n)
	}
}

// Tenants of several vantages may come in any order.
func TestFleetLooksFromSeveralVantages(t *testing.T) {
	engine := newGlancer(migrations(t, "1_a.sql"))
	all := tenants(2000, 1)
	engine.bring(all, "1_a.sql")
	engine.keys = make(map[string]string)
	for i, tenant := range all[:1900] {
		engine.keys[tenant.Target.Database] = "vantage " + strconv.Itoa(i%10)
	}
	for i, tenant := range all[1900:] {
		engine.keys[tenant.Target.Database] = "its own " + strconv.Itoa(i)
	}
	engine.keys["d1999"] = "" // nothing to look at it from
	r := engine.assess(t, all, nil)
	// A single one that is left of a vantage is connected to: it costs the same.
	if r.sum.Unchanged != 2000 || r.sum.ByFingerprint < 1890 || r.sum.ByFingerprint > 1900 {
		t.Errorf("the summary is %+v", r.sum)
	}
	if n := len(engine.batches); n > 60 {
		t.Errorf("it looked %d times", n)
	}
	for _, batch := range engine.batches {
		keys := make(map[string]bool)
		for _, target := range batch {
			keys[engine.keys[target.Database]] = true
		}
		if len(keys) != 1 || len(batch) < 2 {
			t.Errorf("%d tenants were looked at from %d vantages at once", len(batch), len(keys))
		}
	}
}

// A session at a vantage that was not used for a while may have ended.
func TestFleetLooksAgainOnANewSession(t *testing.T) {
	engine := newGlancer(migrations(t, "1_a.sql"))
	engine.histories, engine.shared = true, true
	all := tenants(2000, 1)
	engine.bring(all, "1_a.sql")
	engine.lostOnce["postgres"] = true
	address := skein.Target{Engine: skein.PostgreSQL, Host: "db0", Database: "postgres", User: "admin"}
	r := engine.assess(t, all, func(o *skein.FleetOptions) {
		o.Parallel, o.Addresses = 1, map[string]skein.Target{address.Server(): address}
	})
	if r.sum.ByHistory != 2000 || r.count(skein.ServerUnasked) != 0 {
		t.Errorf("the summary is %+v", r.sum)
	}
}

// From a history, unlike from a fingerprint, it can be told what is to be done.
func TestFleetTellsFromHistories(t *testing.T) {
	set := migrations(t, "1_a.sql", "2_b.sql", "3_c.js")
	engine := newGlancer(set)
	engine.histories = true
	all := tenants(12, 1)
	engine.bring(all, "1_a.sql", "2_b.sql", "3_c.js")
	engine.bring(all[:2], "1_a.sql", "2_b.sql")
	engine.bring(all[2:3], "1_a.sql", "3_c.js")
	engine.bring(all[3:4], "1_a.sql", "2_b.sql", "3_c.js", "4_d.sql")
	engine.change["d4"] = func(h *skein.History) {
		h.Records = append(h.Records[:1], skein.Record{Name: "2_b.sql", State: skein.Applying, Done: 1, Total: 2})
	}
	engine.change["d5"] = func(h *skein.History) { h.KnexLocked = true }
	engine.change["d6"] = func(h *skein.History) {
		h.KnexOpen = []skein.Record{{Name: "3_c.js", State: skein.Applying}}
	}
	want := map[string]string{
		"t0": "behind history", "t1": "behind history", "t2": "behind history", "t3": "ahead history",
		"t4": "partial connection", "t5": "up to date history", "t6": "up to date connection", "t7": "up to date history",
	}
	r := engine.assess(t, all, nil)
	for _, slug := range slices.Sorted(maps.Keys(want)) {
		got := r.results[slug]
		if got := fmt.Sprint(got.Standing.State, " ", got.Source); got != want[slug] {
			t.Errorf("status: %s is %s, want %s", slug, got, want[slug])
		}
	}
	if !r.results["t5"].Standing.KnexLocked {
		t.Error("a lock of Knex's is not told")
	}
	if len(r.results["t4"].Stops) != 1 {
		t.Error("it is not told where a partial migration stopped")
	}

	r = engine.look(t, all, nil, func(f *skein.Fleet) (skein.Summary, error) {
		return f.Inspect(t.Context(), listOf(all), skein.PlanOptions{To: "2"})
	})
	for slug, want := range map[string]string{
		"t0": "history [] <nil>", "t2": "connection [] out of order", "t3": "connection [] missing", "t4": "connection [] partial",
		"t6": "connection [] <nil>", "t7": "history [] <nil>",
	} {
		got := r.results[slug]
		why := fmt.Sprint(got.Err)
		if refused, ok := errors.AsType[*skein.RefusedError](got.Err); ok {
			why = strings.ReplaceAll(string(refused.Reason), "_", " ")
		}
		if got := fmt.Sprint(got.Source, " ", got.Plan.Names(), " ", why); got != want {
			t.Errorf("plan: %s is %s, want %s", slug, got, want)
		}
	}

	engine.bring(all[:2], "1_a.sql")
	r = engine.look(t, all[:2], nil, func(f *skein.Fleet) (skein.Summary, error) {
		return f.Inspect(t.Context(), listOf(all[:2]), skein.PlanOptions{To: "2"})
	})
	if got := r.results["t0"]; got.Source != skein.FromHistory || !slices.Equal(got.Plan.Names(), []string{"2_b.sql"}) || len(got.History.Records) != 1 {
		t.Errorf("the plan of one that is behind is %+v", got)
	}
}

func TestVerify(t *testing.T) {
	set := migrations(t, "1_a.sql", "2_b.sql")
	for _, test := range []struct {
		name    string
		prepare func(*glancer)
		want    skein.FingerprintState
	}{
		{"right", func(*glancer) {}, skein.FingerprintRight},
		{"missing", func(e *glancer) { delete(e.kept, "d0") }, skein.FingerprintMissing},
		{"a row was deleted", func(e *glancer) { e.applied["d0"] = e.applied["d0"][:1] }, skein.FingerprintWrong},
		{"a row was added", func(e *glancer) { e.applied["d0"] = append(e.applied["d0"], "3_c.sql") }, skein.FingerprintWrong},
		{"a checksum was changed", func(e *glancer) { e.bare["d0"] = true }, skein.FingerprintWrong},
		{"something is open", func(e *glancer) {
			e.change["d0"] = func(h *skein.History) { h.KnexOpen = []skein.Record{{Name: "2.js", State: skein.Applying}} }
		}, skein.FingerprintWrong},
		{"nothing has run", func(e *glancer) {
			delete(e.applied, "d0")
			e.kept["d0"] = skein.History{}.Fingerprint()
		}, skein.FingerprintRight},
	} {
		for _, mend := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, mend %t", test.name, mend), func(t *testing.T) {
				engine := newGlancer(set)
				all := tenants(1, 1)
				engine.bring(all, "1_a.sql", "2_b.sql")
				test.prepare(engine)
				was := engine.kept["d0"]
				verify := func() skein.Result {
					r := engine.look(t, all, nil, func(f *skein.Fleet) (skein.Summary, error) {
						return f.Each(t.Context(), listOf(all), func(ctx context.Context, m *skein.Migrator, s skein.Session, tenant skein.Tenant) skein.Result {
							return m.Verify(ctx, s, tenant, skein.Policy{}, mend)
						})
					})
					return r.results["t0"]
				}
				if got := verify(); got.Fingerprint != test.want || got.Err != nil {
					t.Errorf("it is %q, %v; want %q", got.Fingerprint, got.Err, test.want)
				}
				if !mend && engine.kept["d0"] != was {
					t.Error("it was changed")
				}
				if mend && engine.kept["d0"] != engine.history("d0").Fingerprint() {
					t.Error("it was not mended")
				}
				if got := verify(); mend && got.Fingerprint != skein.FingerprintRight {
					t.Errorf("afterwards it is %q", got.Fingerprint)
				}
			})
		}
	}
}

// A history that changes between the two that verify compares is no wrong
// fingerprint.
func TestVerifyComparesUnderTheLock(t *testing.T) {
	engine := newGlancer(migrations(t, "1_a.sql", "2_b.sql"))
	all := tenants(1, 1)
	engine.bring(all, "1_a.sql", "2_b.sql")
	engine.kept["d0"] = "of a moment later"
	engine.lock = func(skein.Target) error {
		engine.bring(all, "1_a.sql")
		return nil
	}
	session, err := engine.Open(t.Context(), all[0].Target)
	if err != nil {
		t.Fatal(err)
	}
	r := skein.NewMigrator(engine, engine.set, 0).Verify(t.Context(), session, all[0], skein.Policy{}, true)
	if r.Fingerprint != skein.FingerprintRight || r.Err != nil || engine.keeps != 0 {
		t.Errorf("it is %q, %v, and was written %d times", r.Fingerprint, r.Err, engine.keeps)
	}
	engine.kept["d0"] = ""
	engine.lock = func(skein.Target) error { return &skein.LockedError{} }
	r = skein.NewMigrator(engine, engine.set, 0).Verify(t.Context(), session, all[0], skein.Policy{}, true)
	if _, locked := errors.AsType[*skein.LockedError](r.Err); !locked {
		t.Errorf("of a tenant that somebody has locked it says %v", r.Err)
	}
	plain := newMemory()
	s, err := plain.Open(t.Context(), all[0].Target)
	if err != nil {
		t.Fatal(err)
	}
	if r := skein.NewMigrator(plain, engine.set, 0).Verify(t.Context(), s, all[0], skein.Policy{}, true); r.Fingerprint != skein.FingerprintNeedless || r.Err != nil {
		t.Errorf("where none are kept it is %q, %v", r.Fingerprint, r.Err)
	}
}

// Fingerprints are equal for what stands the same against any files, and for
// nothing else.
func TestFingerprint(t *testing.T) {
	record := func(name, checksum string, change ...func(*skein.Record)) skein.Record {
		r := skein.Record{Name: name, State: skein.Applied, Batch: 1, Checksum: checksum}
		for _, c := range change {
			c(&r)
		}
		return r
	}
	all := func(records ...skein.Record) skein.History { return skein.History{Records: records} }
	one := all(record("1.sql", "a"), record("2.sql", "b"))
	same := map[string]skein.History{
		"in another order": all(record("2.sql", "b"), record("1.sql", "a")),
		"in other batches": all(record("1.sql", "a"), record("2.sql", "b", func(r *skein.Record) { r.Batch, r.By, r.AppliedAt = 7, "x", time.Now() })),
		"with Knex's lock": {Records: one.Records, KnexLocked: true},
	}
	for name, h := range same {
		if h.Fingerprint() != one.Fingerprint() {
			t.Errorf("%s it is another", name)
		}
	}
	seen := map[string]string{one.Fingerprint(): "one"}
	for name, h := range map[string]skein.History{
		"none":              {},
		"one less":          all(record("1.sql", "a")),
		"one more":          all(record("1.sql", "a"), record("2.sql", "b"), record("3.sql", "c")),
		"another checksum":  all(record("1.sql", "a"), record("2.sql", "c")),
		"no checksum":       all(record("1.sql", "a"), record("2.sql", "")),
		"swapped checksums": all(record("1.sql", "b"), record("2.sql", "a")),
		"a name with both":  all(record("1.sql\" a\n\"2.sql", "b")),
	} {
		got := h.Fingerprint()
		if other, ok := seen[got]; ok || got == "" {
			t.Errorf("%s has the fingerprint %q, as %s", name, got, other)
		}
		seen[got] = name
	}
	for name, h := range map[string]skein.History{
		"applying":  all(record("1.sql", "a", func(r *skein.Record) { r.State = skein.Applying })),
		"reverting": all(record("1.sql", "a", func(r *skein.Record) { r.State = skein.Reverting })),
		"open":      {KnexOpen: []skein.Record{record("1.js", "")}},
	} {
		if got := h.Fingerprint(); got != "" {
			t.Errorf("a history in which something is %s has the fingerprint %s", name, got)
		}
	}
}

// revertible asks which of the tenants could not be rolled back.
func (e *glancer) revertible(t *testing.T, all []skein.Tenant, opts skein.PlanOptions) run {
	t.Helper()
	opts.Direction = skein.Down
	return e.look(t, all, func(o *skein.FleetOptions) { o.Retries = 0 }, func(f *skein.Fleet) (skein.Summary, error) {
		return f.Revertible(t.Context(), listOf(all), opts)
	})
}

// Where all that has run could be reverted, no rollback is refused, and there is
// no need to know what it comes to.
func TestFleetSeesWhatCanBeReverted(t *testing.T) {
	for name, histories := range map[string]bool{"by fingerprint": false, "by history": true} {
		t.Run(name, func(t *testing.T) {
			engine := newGlancer(migrations(t, "1_a.sql", "2_b.sql", "3_c.sql"))
			engine.histories = histories
			all := tenants(100, 1)
			engine.bring(all, "1_a.sql", "2_b.sql", "3_c.sql")
			behind := all[50:60]
			engine.bring(behind, "1_a.sql", "2_b.sql")
			empty := all[70:71]
			engine.bring(empty)
			for _, opts := range []skein.PlanOptions{{}, {Steps: 2}, {To: "1"}, {Everything: true}} {
				clear(engine.connected)
				r := engine.revertible(t, all, opts)
				if r.sum.Failed != 0 || r.sum.Steps != 0 {
					t.Fatalf("%+v: the summary is %+v", opts, r.sum)
				}
				for _, tenant := range all {
					got := r.results[tenant.Slug]
					want, source := skein.StateUpToDate, skein.FromFingerprint
					if histories {
						source = skein.FromHistory
					}
					if n := len(engine.applied[tenant.Target.Database]); n < 3 {
						want = skein.StateBehind
						// What is concluded from a fingerprint is that all is as it should be.
						if !histories {
							source = skein.FromConnection
						}
					}
					if got.Standing.State != want || got.Source != source {
						t.Errorf("%+v: %s is %s by %s, want %s by %s", opts, tenant.Slug, got.Standing.State, got.Source, want, source)
					}
					if source != skein.FromConnection && len(got.Plan.Steps) > 0 {
						t.Errorf("%+v: %s, which was only looked at, has the plan %q", opts, tenant.Slug, got.Plan.Names())
					}
				}
				if n := engine.strangers(all[1:]); histories && n > 0 || n > len(behind)+len(empty)+len(engine.batches) {
					t.Errorf("%+v: %d tenants were connected to", opts, n)
				}
			}
		})
	}
}

// What may be refused is asked for by its own plan, and its error is that of the
// rollback.
func TestFleetSeesWhatCannotBeReverted(t *testing.T) {
	for name, histories := range map[string]bool{"by fingerprint": false, "by history": true} {
		t.Run(name, func(t *testing.T) {
			// The first has no down section.
			set := migrations(t, "1_a.sql!", "2_b.sql", "3_c.sql")
			engine := newGlancer(set)
			engine.histories = histories
			all := tenants(9, 1)
			engine.bring(all, "1_a.sql", "2_b.sql", "3_c.sql")
			of := func(i int) string { return all[i].Target.Database }
			engine.bring(all[1:2], "1_a.sql", "2_b.sql")
			engine.bring(all[2:3], "2_b.sql", "3_c.sql", "4_gone.sql") // which would be reverted first
			engine.change[of(3)] = func(h *skein.History) { h.Records[2].Checksum = "another" }
			engine.change[of(4)] = func(h *skein.History) { h.Records[2].State = skein.Reverting }
			engine.change[of(5)] = func(h *skein.History) { h.KnexLocked = true }
			all[6].Target.Database = "down"
			engine.bring(all[6:7], "1_a.sql")
			all[7].Err = errors.New("its password cannot be decrypted")
			engine.bring(all[8:])
			for _, i := range []int{3, 4, 5} {
				h := engine.history(of(i))
				engine.kept[of(i)] = h.Fingerprint()
				if i == 5 {
					engine.kept[of(i)] = "" // of a lock that Knex has it says nothing
				}
			}
			for _, test := range []struct {
				opts    skein.PlanOptions
				reasons [6]skein.Reason // of the first six
				plans   [2]string       // of the first two
			}{
				{skein.PlanOptions{Steps: 1}, [6]skein.Reason{"", "", skein.ReasonMissing, skein.ReasonEdited, skein.ReasonPartial, skein.ReasonKnexLocked}, [2]string{"3_c.sql", "2_b.sql"}},
				{skein.PlanOptions{To: "1"}, [6]skein.Reason{"", "", skein.ReasonMissing, skein.ReasonEdited, skein.ReasonPartial, skein.ReasonKnexLocked}, [2]string{"3_c.sql 2_b.sql", "2_b.sql"}},
				{skein.PlanOptions{Steps: 2}, [6]skein.Reason{"", skein.ReasonNoDown, skein.ReasonMissing, skein.ReasonEdited, skein.ReasonPartial, skein.ReasonKnexLocked}, [2]string{"3_c.sql 2_b.sql", ""}},
				{skein.PlanOptions{}, [6]skein.Reason{skein.ReasonNoDown, skein.ReasonNoDown, skein.ReasonMissing, skein.ReasonNoDown, skein.ReasonPartial, skein.ReasonNoDown}, [2]string{}},
			} {
				r := engine.revertible(t, all, test.opts)
				for i, want := range test.reasons {
					got := r.results[all[i].Slug]
					refused, ok := errors.AsType[*skein.RefusedError](got.Err)
					if want == "" && got.Err != nil || want != "" && (!ok || refused.Reason != want) {
						t.Errorf("%+v: %s is refused for %v, want %q", test.opts, all[i].Slug, got.Err, want)
					}
					if i < 2 && strings.Join(got.Plan.Names(), " ") != test.plans[i] {
						t.Errorf("%+v: %s has the plan %q, want %q", test.opts, all[i].Slug, got.Plan.Names(), test.plans[i])
					}
					if got.Source != skein.FromConnection {
						t.Errorf("%+v: %s is known by %s, want by its own connection", test.opts, all[i].Slug, got.Source)
					}
				}
				if err := r.results["t6"].Err; skein.ErrorClass(err) != skein.Unreachable {
					t.Errorf("%+v: of the one that is down the error is %v", test.opts, err)
				}
				if err := r.results["t7"].Err; !errors.Is(err, all[7].Err) {
					t.Errorf("%+v: of the one without a password the error is %v", test.opts, err)
				}
				if got := r.results["t8"]; got.Err != nil || len(got.Plan.Steps) > 0 {
					t.Errorf("%+v: of the one where nothing has run it says %+v", test.opts, got)
				}
			}
		})
	}
}

// A rollback that was agreed to looks at all tenants together and connects to
// each once, to carry it out, with the history read under the lock.
func TestFleetConnectsOnceToRollBack(t *testing.T) {
	for name, histories := range map[string]bool{"by fingerprint": false, "by history": true} {
		t.Run(name, func(t *testing.T) {
			engine := newGlancer(migrations(t, "1_a.sql", "2_b.sql"))
			engine.histories = histories
			all := tenants(50, 1)
			engine.bring(all, "1_a.sql", "2_b.sql")
			var locked atomic.Int32
			engine.lock = func(skein.Target) error {
				locked.Add(1)
				return nil
			}
			down := skein.PlanOptions{Direction: skein.Down, Steps: 1}
			r := engine.look(t, all, oneWorker, func(f *skein.Fleet) (skein.Summary, error) {
				return f.Revertible(t.Context(), listOf(all), down)
			})
			if n := engine.opened; n != 1 || locked.Load() != 0 || r.sum.ByFingerprint+r.sum.ByHistory != 50 {
				t.Errorf("to look, %d sessions were opened and %d locks taken: %+v", n, locked.Load(), r.sum)
			}
			r = engine.look(t, all, oneWorker, func(f *skein.Fleet) (skein.Summary, error) {
				return f.Migrate(t.Context(), listOf(all), down)
			})
			if n := engine.opened; n != 1+50 || locked.Load() != 50 || r.sum.Steps != 50 {
				t.Errorf("to revert, %d sessions were opened in all and %d locks taken: %+v", n, locked.Load(), r.sum)
			}
			if n := engine.reads; n != 50 {
				t.Errorf("histories were read %d times, want 50, with the lock", n)
			}
			for database, applied := range engine.applied {
				if !slices.Equal(applied, []string{"1_a.sql"}) {
					t.Errorf("%s has %q", database, applied)
				}
			}
		})
	}
}

// A rollback finds a tenant that somebody else is at work in, and where there is
// nothing to revert does not wait for that.
func TestFleetRollsBackLockedTenants(t *testing.T) {
	engine := newGlancer(migrations(t, "1_a.sql"))
	all := tenants(2, 1)
	engine.bring(all[:1], "1_a.sql")
	engine.bring(all[1:])
	engine.lock = func(skein.Target) error { return &skein.LockedError{Holder: "somebody"} }
	r := engine.look(t, all, nil, func(f *skein.Fleet) (skein.Summary, error) {
		return f.Migrate(t.Context(), listOf(all), skein.PlanOptions{Direction: skein.Down})
	})
	if _, locked := errors.AsType[*skein.LockedError](r.results["t0"].Err); !locked {
		t.Errorf("where there is something to revert the error is %v", r.results["t0"].Err)
	}
	if got := r.results["t1"]; got.Err != nil || got.Standing.State != skein.StateBehind {
		t.Errorf("where there is nothing to revert it is %s, %v", got.Standing.State, got.Err)
	}
}
