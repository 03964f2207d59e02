package skein

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"sync"
	"time"
)

// FleetOptions bound a fleet's work.
type FleetOptions struct {
	// Parallel is how many tenants are worked on at once. Defaults to 8 for each
	// processor that this process may use.
	Parallel int
	// PerServer is how many of them may be on one database server. Defaults to 2
	// for each processor of the server, or 8 where it is not known how many it
	// has: it is for a server on this machine, and for MariaDB, which can be asked.
	PerServer int
	// Servers holds the bound of single servers, by Target.Server, where it is
	// not PerServer.
	Servers map[string]int
	// LockWait is how long a tenant's lock is waited for. 0: not at all.
	LockWait time.Duration
	// Retries is how often a tenant is tried again that met trouble which may
	// go away by itself: a table that is locked, a deadlock, a lost connection, a
	// server that cannot be reached. 0: not at all.
	Retries int
	// Timeout is how long a single migration may take before it is stopped at the
	// server. 0: as long as it takes.
	Timeout time.Duration
	// Knex runs the Knex migrations. Nil: a plan that needs one is refused.
	Knex KnexRunner
	// KnexHistory has SQL migrations recorded in Knex's table too.
	KnexHistory bool
	// Stop, when closed, begins no further tenant and no further migration;
	// what has begun ends.
	Stop <-chan struct{}
	// Addresses are where the servers themselves can be reached, by Target.Server,
	// as a role that may see the tenants' histories. From there a server is asked
	// about many tenants at once.
	Addresses map[string]Target
	// FullCheck connects to every tenant, whatever could be told without.
	FullCheck bool
	// Listener receives what happens.
	Listener Listener
}

const (
	// Waiting for the network, the disk and the other side takes about as long as
	// the work, so that two for each processor keep a server busy. More do not
	// make it faster, and DDL in MariaDB slower.
	perProcessor = 2
	// defaultPerServer is for a server of which nothing is known.
	defaultPerServer = 8
	// A client's part of the work is a small one.
	parallelPerProcessor = 8
	// A session that serves one tenant after another is renewed after this
	// many: a PostgreSQL backend keeps something of each schema it has seen.
	sessionTenants = 1000
	// lookRetries bounds how often a tenant is looked at again.
	lookRetries = 2
)

// A Fleet works on many tenants at once. Use it for one run at a time.
type Fleet struct {
	migrators map[string]*Migrator
	opts      FleetOptions
}

// Bound is how many tenants may be worked on at once on the server of a target,
// as far as that is known before it is connected to; uncounted says that
// the number of its processors may make it another.
func (o FleetOptions) Bound(t Target) (bound int, uncounted bool) {
	switch {
	case o.Servers[t.Server()] > 0:
		return o.Servers[t.Server()], false
	case o.PerServer > 0:
		return o.PerServer, false
	case t.local():
		return perProcessor * runtime.GOMAXPROCS(0), false
	}
	return defaultPerServer, true
}

// NewFleet makes a fleet whose tenants are on these engines.
func NewFleet(engines []Engine, set *Set, opts *FleetOptions) *Fleet {
	f := &Fleet{migrators: make(map[string]*Migrator, len(engines))}
	if opts != nil {
		f.opts = *opts
	}
	if f.opts.Parallel <= 0 {
		f.opts.Parallel = parallelPerProcessor * runtime.GOMAXPROCS(0)
	}
	if listen := f.opts.Listener; listen == nil {
		f.opts.Listener = func(Event) {}
	} else {
		var mu sync.Mutex
		f.opts.Listener = func(e Event) {
			mu.Lock()
			defer mu.Unlock()
			listen(e)
		}
	}
	for _, e := range engines {
		f.migrators[e.Name()] = NewMigrator(e, set, f.opts.LockWait).WithKnex(f.opts.Knex).WithKnexHistory(f.opts.KnexHistory).WithTimeout(f.opts.Timeout)
	}
	return f
}

// Parse checks all migrations for the named engines, so that a wrong file is
// found before any tenant is connected to. The error is a *FileError.
func (f *Fleet) Parse(engines ...string) error {
	for _, name := range engines {
		m, err := f.migrator(name)
		if err != nil {
			return err
		}
		if err := m.Parse(); err != nil {
			return err
		}
	}
	return nil
}

// Statements are what the named engine would send for one side of a migration.
func (f *Fleet) Statements(engine string, section *Section) ([]Statement, error) {
	m, err := f.migrator(engine)
	if err != nil {
		return nil, err
	}
	if err := m.Parse(); err != nil {
		return nil, err
	}
	return m.Statements(section), nil
}

func (f *Fleet) migrator(engine string) (*Migrator, error) {
	if m, ok := f.migrators[engine]; ok {
		return m, nil
	}
	return nil, fmt.Errorf("no engine is called %q", engine)
}

// Migrate carries out what opts asks for in each tenant. A tenant that fails
// does not stop the others. The error is the list's own, when the tenants could
// not be read to their end; what had begun was ended.
//
// Where a connection ended before the answer, the tenant's history says whether
// the migration was carried out. It is read under the tenant's lock, which the
// server frees when whatever it was doing has ended.
func (f *Fleet) Migrate(ctx context.Context, tenants iter.Seq2[Tenant, error], opts PlanOptions) (Summary, error) {
	return f.each(ctx, tenants, f.opts.Retries, func(ctx context.Context, m *Migrator, s Session, t *task) Result {
		return m.try(ctx, s, t, opts, f.opts.Stop, f.opts.Listener)
	}, judgePlan(opts, false))
}

// Inspect reads how each tenant stands and what opts would do there, and does
// nothing. A plan that is refused is the tenant's error.
func (f *Fleet) Inspect(ctx context.Context, tenants iter.Seq2[Tenant, error], opts PlanOptions) (Summary, error) {
	work := func(ctx context.Context, m *Migrator, s Session, t *task) Result {
		return m.Inspect(ctx, s, t.tenant, opts)
	}
	return f.each(ctx, tenants, min(f.opts.Retries, lookRetries), work, judgePlan(opts, true))
}

// Revertible finds the tenants where the rollback that opts asks for would be
// refused, and does nothing. Their error says why, and that of others is why they
// could not be read. It is Inspect, but has no plan of tenants where everything
// could be reverted: that can be told of many without connecting to them.
func (f *Fleet) Revertible(ctx context.Context, tenants iter.Seq2[Tenant, error], opts PlanOptions) (Summary, error) {
	work := func(ctx context.Context, m *Migrator, s Session, t *task) Result {
		return m.Inspect(ctx, s, t.tenant, opts)
	}
	return f.each(ctx, tenants, min(f.opts.Retries, lookRetries), work, judgeRevertible(opts))
}

// Work is what is done in one tenant, on a session of its own or one that
// served another tenant before.
type Work func(context.Context, *Migrator, Session, Tenant) Result

// Each does the same work in each tenant, in parallel within the fleet's
// bounds, and reports each as a TenantEnded event. Every tenant is connected to.
// Tenants are read as they are needed. Work that met trouble which may go away is
// done again, twice at most: it is for looking at tenants, and whoever looks wants
// an answer soon.
func (f *Fleet) Each(ctx context.Context, tenants iter.Seq2[Tenant, error], work Work) (Summary, error) {
	return f.each(ctx, tenants, min(f.opts.Retries, lookRetries), func(ctx context.Context, m *Migrator, s Session, t *task) Result {
		return work(ctx, m, s, t.tenant)
	}, nil)
}

// An attempt is one try of a tenant's work.
type attempt func(context.Context, *Migrator, Session, *task) Result

func (f *Fleet) each(ctx context.Context, tenants iter.Seq2[Tenant, error], retries int, work attempt, judge judge) (Summary, error) {
	start := time.Now()
	look := f.lookout(judge)
	q := newQueue(f.opts, retries)
	var listErr error
	var feeding sync.WaitGroup
	feeding.Go(func() {
		defer q.close()
		for t, err := range tenants {
			if err != nil {
				listErr = err
				return
			}
			next := &task{tenant: t}
			if look != nil {
				f.vantage(next)
			}
			if !q.put(next) {
				return
			}
		}
	})
	unwatch := make(chan struct{})
	feeding.Go(func() {
		select {
		case <-f.opts.Stop:
			q.stop()
		case <-ctx.Done():
			q.stop()
		case <-unwatch:
		}
	})

	var mu sync.Mutex
	var sum Summary
	report := func(t *task) {
		r := t.result()
		mu.Lock()
		sum.add(r)
		mu.Unlock()
		f.opts.Listener(Event{Type: TenantEnded, Time: time.Now(), Tenant: t.tenant, Result: &r})
	}
	ended := func(t *task, connected bool) {
		again, events := q.ended(t, connected)
		for _, e := range events {
			f.opts.Listener(e)
		}
		if !again {
			report(t)
		}
	}
	var workers sync.WaitGroup
	for range f.opts.Parallel {
		workers.Go(func() {
			w := worker{fleet: f, queue: q}
			defer w.hangUp()
			for server := ""; ; {
				t, ok := q.next(server, w.hangUp)
				if !ok {
					return
				}
				server = t.tenant.Target.Server()
				if t.toLookAt() {
					batch := t.batch
					seen, tried := w.look(ctx, look, batch)
					q.lookedAt(batch, tried)
					for _, t := range seen {
						report(t)
					}
					if tried {
						ended(t, false)
					}
					continue
				}
				t.looked = true
				ended(t, w.try(ctx, t, work))
			}
		})
	}
	workers.Wait()
	for _, t := range q.left() {
		report(t)
	}
	close(unwatch)
	feeding.Wait()
	sum.Interrupted = sum.Interrupted || q.stopped
	sum.Duration = time.Since(start)
	return sum, listErr
}

func (s *Summary) add(r Result) {
	s.Tenants++
	s.Steps += len(r.Done)
	if len(r.Done) > 0 {
		s.Changed++
	}
	switch r.Source {
	case FromHistory:
		s.ByHistory++
	case FromFingerprint:
		s.ByFingerprint++
	}
	switch {
	case errors.Is(r.Err, ErrInterrupted):
		s.Interrupted = true
	case r.Err != nil:
		s.Failed++
	case len(r.Done) == 0:
		s.Unchanged++
	}
}

// A worker serves one tenant after another, and keeps its session for as long
// as the tenants can share it.
type worker struct {
	fleet   *Fleet
	queue   *queue
	session Session
	key     string // of the session
	engine  string // likewise
	served  int
}

// try tries a tenant once, and notes in the task what came of it. It says
// whether the tenant was connected to.
func (w *worker) try(ctx context.Context, t *task, work attempt) (connected bool) {
	if !t.tried {
		w.fleet.opts.Listener(Event{Type: TenantStarted, Time: t.started, Tenant: t.tenant})
	}
	if t.down != nil {
		t.note(unreachable(t.tenant, t.down))
		return false
	}
	m, err := w.prepare(t.tenant)
	if err != nil {
		t.note(unreachable(t.tenant, err))
		return false
	}
	reused, err := w.connect(ctx, m.engine, t.tenant.Target)
	if err != nil {
		t.note(unreachable(t.tenant, err))
		return false
	}
	r := work(ctx, m, w.session, t)
	if lost(r.Err) && reused && len(r.Done) == 0 && r.Standing.State == StateUnreachable {
		// A kept session may have ended while it was not used: that is not this
		// tenant's failure, and nothing was done on it.
		w.hangUp()
		if _, err = w.connect(ctx, m.engine, t.tenant.Target); err != nil {
			t.note(unreachable(t.tenant, err))
			return false
		}
		r = work(ctx, m, w.session, t)
	}
	if _, refused := errors.AsType[*RefusedError](r.Err); w.key == "" || r.Err != nil && !refused {
		w.hangUp()
	}
	if ctx.Err() != nil {
		t.final = true
	}
	t.note(r)
	return true
}

// prepare finds what a tenant's work needs besides a connection.
func (w *worker) prepare(t Tenant) (*Migrator, error) {
	if t.Err != nil {
		return nil, t.Err
	}
	if err := t.Target.Validate(); err != nil {
		return nil, err
	}
	m, err := w.fleet.migrator(t.Target.Engine)
	if err != nil {
		return nil, err
	}
	return m, m.Parse()
}

func unreachable(t Tenant, err error) Result {
	return Result{Tenant: t, Standing: Standing{State: StateUnreachable}, Err: err}
}

// connect makes the worker's session one on the target. It says whether that is
// a session which was used before.
func (w *worker) connect(ctx context.Context, e Engine, t Target) (reused bool, err error) {
	key := e.SessionKey(t)
	if w.session != nil {
		if key != "" && key == w.key && e.Name() == w.engine && w.served < sessionTenants && w.session.Switch(t) {
			w.served++
			return true, nil
		}
		w.hangUp()
	}
	session, err := e.Open(ctx, t)
	if err != nil {
		return false, err
	}
	w.session, w.key, w.engine, w.served = session, key, e.Name(), 1
	if counter, ok := session.(ProcessorCounter); ok && w.queue.count(t.Server()) {
		// If the session is broken, what it is used for next says so.
		if n, err := counter.Processors(ctx); err == nil && n > 0 {
			w.queue.counted(t.Server(), perProcessor*n)
		}
	}
	return false, nil
}

func (w *worker) hangUp() {
	if w.session != nil {
		// What a closing connection answers changes nothing about its tenant.
		_ = w.session.Close()
		w.session = nil
	}
}
