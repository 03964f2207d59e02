package skein_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/skeinhq/skein"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is an engine whose databases are maps, for what a fleet does around
// an engine. What engines do is tested by engine/enginetest.
type memory struct {
	mu       sync.Mutex
	applied  map[string][]string // by database
	batches  map[string]int      // by database and migration
	partial  []skein.Record      // in every database
	shared   bool                // sessions serve several targets
	opened   int
	cores    int            // that sessions tell of
	counted  int            // how often they were asked
	active   map[string]int // open sessions by server
	peak     map[string]int
	peakAll  int
	open     func(skein.Target) error
	apply    func(database string, step skein.Step) error
	after    func(database string, step skein.Step) error // when the step is applied
	lostOnce map[string]bool                              // databases on which a kept session turns out to be lost
}

func newMemory() *memory {
	return &memory{applied: make(map[string][]string), batches: make(map[string]int), active: make(map[string]int), peak: make(map[string]int), lostOnce: make(map[string]bool)}
}

func (e *memory) Name() string { return skein.PostgreSQL }

func (e *memory) Parse(*skein.Section) ([]skein.Statement, error) {
	return []skein.Statement{{Text: "x", Line: 1}}, nil
}

func (e *memory) SessionKey(t skein.Target) string {
	if e.shared {
		return t.Server()
	}
	return ""
}

func (e *memory) Open(_ context.Context, t skein.Target) (skein.Session, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t.Database == "down" {
		return nil, &skein.DatabaseError{Class: skein.Unreachable, Message: "no route"}
	}
	if e.open != nil {
		if err := e.open(t); err != nil {
			return nil, err
		}
	}
	e.opened++
	e.active[t.Server()]++
	e.peak[t.Server()] = max(e.peak[t.Server()], e.active[t.Server()])
	all := 0
	for _, n := range e.active {
		all += n
	}
	e.peakAll = max(e.peakAll, all)
	return &memorySession{engine: e, target: t}, nil
}

type memorySession struct {
	engine *memory
	target skein.Target
	reused bool
}

func (s *memorySession) History(context.Context) (skein.History, error) {
	time.Sleep(time.Millisecond)
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	if s.reused && s.engine.lostOnce[s.target.Database] {
		return skein.History{}, &skein.DatabaseError{Class: skein.ConnectionLost, Message: "gone"}
	}
	var h skein.History
	for _, name := range s.engine.applied[s.target.Database] {
		h.Records = append(h.Records, skein.Record{Name: name, State: skein.Applied, Batch: max(1, s.engine.batches[s.target.Database+" "+name])})
	}
	h.Records = append(h.Records, s.engine.partial...)
	return h, nil
}

func (s *memorySession) Lock(ctx context.Context, _ time.Duration) (skein.History, error) {
	return s.History(ctx)
}

func (s *memorySession) Processors(context.Context) (int, error) {
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	s.engine.counted++
	return s.engine.cores, nil
}

func (s *memorySession) Unlock(context.Context) error                 { return nil }
func (s *memorySession) Record(context.Context, []skein.Record) error { return nil }
func (s *memorySession) Erase(context.Context, []string) error        { return nil }

func (s *memorySession) Apply(_ context.Context, step skein.Step) (skein.StepResult, error) {
	if s.engine.apply != nil {
		if err := s.engine.apply(s.target.Database, step); err != nil {
			return skein.StepResult{}, err
		}
	}
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	applied, name := s.engine.applied[s.target.Database], step.Migration.Name
	if step.Direction == skein.Down {
		applied = slices.DeleteFunc(applied, func(n string) bool { return n == name })
	} else {
		applied = append(applied, name)
		s.engine.batches[s.target.Database+" "+name] = step.Batch
	}
	s.engine.applied[s.target.Database] = applied
	if s.engine.after != nil {
		return skein.StepResult{}, s.engine.after(s.target.Database, step)
	}
	return skein.StepResult{}, nil
}

func (s *memorySession) Switch(t skein.Target) bool {
	s.target, s.reused = t, true
	return true
}

func (s *memorySession) Close() error {
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	s.engine.active[s.target.Server()]--
	return nil
}

// tenants makes n tenants, spread over servers.
func tenants(n, servers int) []skein.Tenant {
	out := make([]skein.Tenant, n)
	for i := range out {
		out[i] = skein.Tenant{
			ID: fmt.Sprint(i), Slug: fmt.Sprintf("t%d", i), Active: true,
			Target: skein.Target{Engine: skein.PostgreSQL, Host: fmt.Sprintf("db%d", i%servers), Database: fmt.Sprintf("d%d", i)},
		}
	}
	return out
}

func listOf(all []skein.Tenant) iter.Seq2[skein.Tenant, error] {
	return func(yield func(skein.Tenant, error) bool) {
		for _, t := range all {
			if !yield(t, nil) {
				return
			}
		}
	}
}

func TestFleetMigratesAllAndReportsFailures(t *testing.T) {
	engine := newMemory()
	all := tenants(20, 2)
	all[3].Target.Database = "down"
	all[5].Err = errors.New("its password cannot be decrypted")
	all[7].Target.Engine = "oracle"
	engine.apply = func(database string, step skein.Step) error {
		if database == "d9" && step.Migration.Name == "2_b.sql" {
			return &skein.StatementError{Migration: step.Migration.Name, Err: errors.New("broken")}
		}
		return nil
	}
	ended := make(map[string]skein.Result)
	fleet := skein.NewFleet([]skein.Engine{engine}, migrations(t, "1_a.sql", "2_b.sql"), &skein.FleetOptions{
		Listener: func(e skein.Event) {
			if e.Type == skein.TenantEnded {
				ended[e.Tenant.Slug] = *e.Result
			}
		},
	})
	sum, err := fleet.Migrate(t.Context(), listOf(all), skein.PlanOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if sum.Tenants != 20 || sum.Failed != 4 || sum.Changed != 17 || sum.Steps != 16*2+1 || sum.Unchanged != 0 {
		t.Errorf("the summary is %+v", sum)
	}
	if len(ended) != 20 {
		t.Errorf("%d tenants were reported, want 20", len(ended))
	}
	for _, slug := range []string{"t3", "t5", "t7", "t9"} {
		if ended[slug].Err == nil {
			t.Errorf("%s is not reported as failed", slug)
		}
	}
	if got := len(ended["t9"].Done); got != 1 {
		t.Errorf("t9 is reported with %d migrations done, want 1", got)
	}
	sum, err = fleet.Migrate(t.Context(), listOf(all[10:]), skein.PlanOptions{})
	if err != nil || sum.Unchanged != 10 || sum.Steps != 0 {
		t.Errorf("a second run gives %+v, %v, want nothing to do in 10", sum, err)
	}
}

func TestFleetKeepsItsBounds(t *testing.T) {
	engine := newMemory()
	fleet := skein.NewFleet([]skein.Engine{engine}, migrations(t, "1_a.sql"), &skein.FleetOptions{
		Parallel: 6, PerServer: 3, Servers: map[string]int{"postgres://db0:5432": 1},
	})
	if _, err := fleet.Migrate(t.Context(), listOf(tenants(200, 4)), skein.PlanOptions{}); err != nil {
		t.Fatal(err)
	}
	if engine.peakAll > 6 {
		t.Errorf("%d tenants were worked on at once, want at most 6", engine.peakAll)
	}
	if got := engine.peak["postgres://db0:5432"]; got != 1 {
		t.Errorf("db0 had %d at once, want 1", got)
	}
	for _, server := range []string{"postgres://db1:5432", "postgres://db2:5432", "postgres://db3:5432"} {
		if got := engine.peak[server]; got > 3 {
			t.Errorf("%s had %d at once, want at most 3", server, got)
		}
	}
}

func TestFleetGoesOnElsewhereWhileOneServerIsFull(t *testing.T) {
	engine := newMemory()
	release := make(chan struct{})
	var elsewhere atomic.Int32
	engine.apply = func(database string, _ skein.Step) error {
		if database == "slow" {
			<-release
		} else if elsewhere.Add(1) == 50 {
			close(release)
		}
		return nil
	}
	slowOnes := tenants(3, 1)
	for i := range slowOnes {
		slowOnes[i].Target.Host, slowOnes[i].Target.Database = "slow", "slow"
	}
	fleet := skein.NewFleet([]skein.Engine{engine}, migrations(t, "1_a.sql"), &skein.FleetOptions{Parallel: 2, PerServer: 1})
	sum, err := fleet.Migrate(t.Context(), listOf(append(slowOnes, tenants(50, 1)...)), skein.PlanOptions{})
	if err != nil || sum.Failed != 0 || sum.Tenants != 53 {
		t.Errorf("got %+v, %v", sum, err)
	}
}

func TestFleetSharesSessions(t *testing.T) {
	engine := newMemory()
	engine.shared = true
	engine.lostOnce["d70"] = true
	fleet := skein.NewFleet([]skein.Engine{engine}, migrations(t, "1_a.sql"), &skein.FleetOptions{Parallel: 4, PerServer: 4})
	sum, err := fleet.Migrate(t.Context(), listOf(tenants(100, 1)), skein.PlanOptions{})
	if err != nil || sum.Failed != 0 {
		t.Fatalf("got %+v, %v: a kept session that is lost is no tenant's failure", sum, err)
	}
	if engine.opened > 5 {
		t.Errorf("%d sessions were opened for 4 workers and one that was lost, want at most 5", engine.opened)
	}
}

func TestFleetStops(t *testing.T) {
	engine := newMemory()
	stop := make(chan struct{})
	var once sync.Once
	engine.apply = func(string, skein.Step) error {
		once.Do(func() { close(stop) })
		time.Sleep(5 * time.Millisecond)
		return nil
	}
	var interrupted, whole int
	fleet := skein.NewFleet([]skein.Engine{engine}, migrations(t, "1_a.sql", "2_b.sql"), &skein.FleetOptions{
		Parallel: 4, Stop: stop,
		Listener: func(e skein.Event) {
			if e.Type != skein.TenantEnded {
				return
			}
			if errors.Is(e.Result.Err, skein.ErrInterrupted) {
				interrupted++
			} else {
				whole++
			}
		},
	})
	sum, err := fleet.Migrate(t.Context(), listOf(tenants(1000, 4)), skein.PlanOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !sum.Interrupted || sum.Tenants > 8 || interrupted == 0 || sum.Failed != 0 {
		t.Errorf("got %+v with %d interrupted and %d whole: what has begun ends its migration and nothing else begins", sum, interrupted, whole)
	}
	for database, applied := range engine.applied {
		if !slices.Equal(applied, []string{"1_a.sql"}) && len(applied) != 2 {
			t.Errorf("%s has %q", database, applied)
		}
	}
}

func TestFleetReportsABrokenList(t *testing.T) {
	broken := errors.New("the central database went away")
	list := func(yield func(skein.Tenant, error) bool) {
		for _, tenant := range tenants(10, 1) {
			if !yield(tenant, nil) {
				return
			}
		}
		yield(skein.Tenant{}, broken)
	}
	fleet := skein.NewFleet([]skein.Engine{newMemory()}, migrations(t, "1_a.sql"), nil)
	sum, err := fleet.Migrate(t.Context(), list, skein.PlanOptions{})
	if !errors.Is(err, broken) || sum.Tenants != 10 || sum.Failed != 0 {
		t.Errorf("got %+v, %v: what was read before is to be migrated", sum, err)
	}
}

func TestFleetReadsTenantsAsTheyAreNeeded(t *testing.T) {
	const many = 20000
	engine := newMemory()
	engine.shared = true
	var read, done atomic.Int32
	var ahead int32
	list := func(yield func(skein.Tenant, error) bool) {
		for i := range many {
			ahead = max(ahead, read.Add(1)-done.Load())
			if !yield(skein.Tenant{ID: fmt.Sprint(i), Target: skein.Target{Engine: skein.PostgreSQL, Database: fmt.Sprint(i % 7)}}, nil) {
				return
			}
		}
	}
	fleet := skein.NewFleet([]skein.Engine{engine}, migrations(t), &skein.FleetOptions{
		Parallel: 64, PerServer: 64,
		Listener: func(e skein.Event) {
			if e.Type == skein.TenantEnded {
				done.Add(1)
			}
		},
	})
	if sum, err := fleet.Inspect(t.Context(), list, skein.PlanOptions{}); err != nil || sum.Tenants != many {
		t.Fatalf("got %+v, %v", sum, err)
	}
	if ahead > 4096+2*64+1 {
		t.Errorf("%d tenants were read and not done: they do not fit in bounded memory", ahead)
	}
}

// lockedOut is a session whose tenant someone else has.
type lockedOut struct{ skein.Session }

func (lockedOut) Lock(ctx context.Context, _ time.Duration) (skein.History, error) {
	<-ctx.Done()
	return skein.History{}, ctx.Err()
}

func TestStopEndsTheWaitForALock(t *testing.T) {
	engine := newMemory()
	session, err := engine.Open(t.Context(), tenants(1, 1)[0].Target)
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	time.AfterFunc(10*time.Millisecond, func() { close(stop) })
	m := skein.NewMigrator(engine, migrations(t, "1_a.sql"), time.Hour)
	r := m.Migrate(t.Context(), lockedOut{session}, tenants(1, 1)[0], skein.PlanOptions{}, stop, func(skein.Event) {})
	if !errors.Is(r.Err, skein.ErrInterrupted) {
		t.Errorf("the error is %v, want %v", r.Err, skein.ErrInterrupted)
	}
}

// overtaken is a session whose lock another Skein had, in whose migration
// something broke before it gave it back.
type overtaken struct {
	skein.Session
	partial skein.Record
}

func (s overtaken) Lock(ctx context.Context, wait time.Duration) (skein.History, error) {
	h, err := s.Session.Lock(ctx, wait)
	h.Records = append(h.Records, s.partial)
	return h, err
}

// What stopped another Skein is told as if it had been there from the beginning.
func TestStopMetUnderTheLock(t *testing.T) {
	engine, tenant := newMemory(), tenants(1, 1)[0]
	session, err := engine.Open(t.Context(), tenant.Target)
	if err != nil {
		t.Fatal(err)
	}
	session = overtaken{session, skein.Record{Name: "1_a.sql", State: skein.Applying, Batch: 1, Done: 1, Total: 3}}
	m := skein.NewMigrator(engine, migrations(t, "1_a.sql"), time.Hour)
	r := m.Migrate(t.Context(), session, tenant, skein.PlanOptions{}, nil, func(skein.Event) {})
	refused, ok := errors.AsType[*skein.RefusedError](r.Err)
	if !ok || refused.Reason != skein.ReasonPartial || r.Standing.State != skein.StatePartial || len(r.Stops) != 1 || r.Stops[0].Record.Name != "1_a.sql" {
		t.Errorf("the tenant is %s, its stops are %+v, the error is %v", r.Standing.State, r.Stops, r.Err)
	}
}

// A server on this machine gets as many tenants at once as this machine's
// processors bear, another one a fixed number, unless the settings say it.
func TestBound(t *testing.T) {
	here := 2 * runtime.GOMAXPROCS(0)
	for _, test := range []struct {
		target    skein.Target
		opts      skein.FleetOptions
		want      int
		uncounted bool
	}{
		{skein.Target{Engine: skein.PostgreSQL, Host: "127.0.0.1"}, skein.FleetOptions{}, here, false},
		{skein.Target{Engine: skein.PostgreSQL, Host: "/run/postgresql"}, skein.FleetOptions{}, here, false},
		{skein.Target{Engine: skein.MySQL, Host: "localhost"}, skein.FleetOptions{}, here, false},
		{skein.Target{Engine: skein.MySQL, Host: "::1"}, skein.FleetOptions{}, here, false},
		{skein.Target{Engine: skein.SQLite, Database: "a.db"}, skein.FleetOptions{}, here, false},
		{skein.Target{Engine: skein.MySQL, Host: "db1"}, skein.FleetOptions{}, 8, true},
		{skein.Target{Engine: skein.MySQL, Host: "10.0.0.1"}, skein.FleetOptions{PerServer: 5}, 5, false},
		{skein.Target{Engine: skein.MySQL, Host: "db1"}, skein.FleetOptions{PerServer: 5, Servers: map[string]int{"mysql://db1:3306": 9}}, 9, false},
	} {
		if got, uncounted := test.opts.Bound(test.target); got != test.want || uncounted != test.uncounted {
			t.Errorf("%s: %d, %t; want %d, %t", test.target, got, uncounted, test.want, test.uncounted)
		}
	}
}

// A server that tells how many processors it has is asked once, and gets as many
// tenants at once as they bear.
func TestBoundOfCountedServer(t *testing.T) {
	engine := newMemory()
	engine.cores = 6
	together, all := make(chan struct{}), 12
	var reached sync.Once
	engine.apply = func(string, skein.Step) error {
		engine.mu.Lock()
		active := engine.active["postgres://db0:5432"]
		engine.mu.Unlock()
		if active == all {
			reached.Do(func() { close(together) })
		}
		select {
		case <-together:
		case <-time.After(30 * time.Second):
			t.Error("there are never twelve at once")
		}
		return nil
	}
	fleet := skein.NewFleet([]skein.Engine{engine}, migrations(t, "1_a.sql"), &skein.FleetOptions{Parallel: 20})
	if _, err := fleet.Migrate(t.Context(), listOf(tenants(60, 1)), skein.PlanOptions{}); err != nil {
		t.Fatal(err)
	}
	if engine.peakAll != all {
		t.Errorf("%d tenants were worked on at once, want %d", engine.peakAll, all)
	}
	if engine.counted != 1 {
		t.Errorf("the server was asked %d times, want once", engine.counted)
	}
}
