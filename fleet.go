package skein

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"
)

// FleetOptions bound a fleet's work.
type FleetOptions struct {
	// Parallel is how many tenants are worked on at once. Defaults to 16.
	Parallel int
	// PerServer is how many of them may be on one database server. Defaults
	// to 8.
	PerServer int
	// Servers holds the bound of single servers, by Target.Server, where it is
	// not PerServer.
	Servers map[string]int
	// LockWait is how long a tenant's lock is waited for. 0: not at all.
	LockWait time.Duration
	// Knex runs the Knex migrations. Nil: a plan that needs one is refused.
	Knex KnexRunner
	// Stop, when closed, begins no further tenant and no further migration;
	// what has begun ends.
	Stop <-chan struct{}
	// Listener receives what happens.
	Listener Listener
}

const (
	defaultParallel  = 16
	defaultPerServer = 8
	// lookahead bounds the tenants that were read from the central database and
	// not begun, so that a fleet of any size fits in the same memory. It is
	// what lets other servers' tenants go first while one server is at its
	// bound.
	lookahead = 4096
	// A session that serves one tenant after another is renewed after this
	// many: a PostgreSQL backend keeps something of each schema it has seen.
	sessionTenants = 500
)

// A Fleet works on many tenants at once. Use it for one run at a time.
type Fleet struct {
	migrators map[string]*Migrator
	opts      FleetOptions
}

// NewFleet makes a fleet whose tenants are on these engines.
func NewFleet(engines []Engine, set *Set, opts *FleetOptions) *Fleet {
	f := &Fleet{migrators: make(map[string]*Migrator, len(engines))}
	if opts != nil {
		f.opts = *opts
	}
	if f.opts.Parallel <= 0 {
		f.opts.Parallel = defaultParallel
	}
	if f.opts.PerServer <= 0 {
		f.opts.PerServer = defaultPerServer
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
		f.migrators[e.Name()] = NewMigrator(e, set, f.opts.LockWait).WithKnex(f.opts.Knex)
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
func (f *Fleet) Migrate(ctx context.Context, tenants iter.Seq2[Tenant, error], opts PlanOptions) (Summary, error) {
	return f.Each(ctx, tenants, func(ctx context.Context, m *Migrator, s Session, t Tenant) Result {
		return m.Migrate(ctx, s, t, opts, f.opts.Stop, f.opts.Listener)
	})
}

// Inspect reads how each tenant stands and what opts would do there, and does
// nothing. A plan that is refused is the tenant's error.
func (f *Fleet) Inspect(ctx context.Context, tenants iter.Seq2[Tenant, error], opts PlanOptions) (Summary, error) {
	return f.Each(ctx, tenants, func(ctx context.Context, m *Migrator, s Session, t Tenant) Result {
		return m.Inspect(ctx, s, t, opts)
	})
}

// Work is what is done in one tenant, on a session of its own or one that
// served another tenant before.
type Work func(context.Context, *Migrator, Session, Tenant) Result

// Each does the same work in each tenant, in parallel within the fleet's
// bounds, and reports each as a TenantEnded event. Tenants are read as they are
// needed.
func (f *Fleet) Each(ctx context.Context, tenants iter.Seq2[Tenant, error], work Work) (Summary, error) {
	start := time.Now()
	q := newQueue(f.opts)
	var listErr error
	var feeding sync.WaitGroup
	feeding.Go(func() {
		defer q.close()
		for t, err := range tenants {
			if err != nil {
				listErr = err
				return
			}
			if !q.put(t) {
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
	var workers sync.WaitGroup
	for range f.opts.Parallel {
		workers.Go(func() {
			w := worker{fleet: f}
			defer w.hangUp()
			for server := ""; ; {
				t, ok := q.next(server)
				if !ok {
					return
				}
				server = t.Target.Server()
				r := w.tenant(ctx, t, work)
				q.done(server)
				mu.Lock()
				sum.add(r)
				mu.Unlock()
				f.opts.Listener(Event{Type: TenantEnded, Time: time.Now(), Tenant: t, Result: &r})
			}
		})
	}
	workers.Wait()
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
	session Session
	key     string // of the session
	engine  string // likewise
	served  int
}

func (w *worker) tenant(ctx context.Context, t Tenant, work Work) Result {
	start := time.Now()
	w.fleet.opts.Listener(Event{Type: TenantStarted, Time: start, Tenant: t})
	failed := func(err error) Result {
		return Result{Tenant: t, Standing: Standing{State: StateUnreachable}, Err: err, Duration: time.Since(start)}
	}
	if t.Err != nil {
		return failed(t.Err)
	}
	if err := t.Target.Validate(); err != nil {
		return failed(err)
	}
	m, err := w.fleet.migrator(t.Target.Engine)
	if err != nil {
		return failed(err)
	}
	if err := m.Parse(); err != nil {
		return failed(err)
	}
	reused, err := w.connect(ctx, m.engine, t.Target)
	if err != nil {
		return failed(err)
	}
	r := work(ctx, m, w.session, t)
	if lost(r.Err) && reused && len(r.Done) == 0 && r.Standing.State == StateUnreachable {
		// A kept session may have ended while it was not used: that is not this
		// tenant's failure, and nothing was done on it.
		w.hangUp()
		if _, err = w.connect(ctx, m.engine, t.Target); err != nil {
			return failed(err)
		}
		r = work(ctx, m, w.session, t)
	}
	if _, refused := errors.AsType[*RefusedError](r.Err); w.key == "" || r.Err != nil && !refused {
		w.hangUp()
	}
	r.Duration = time.Since(start)
	return r
}

func lost(err error) bool { return err != nil && ErrorClass(err) == ConnectionLost }

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
	return false, nil
}

func (w *worker) hangUp() {
	if w.session != nil {
		// What a closing connection answers changes nothing about its tenant.
		_ = w.session.Close()
		w.session = nil
	}
}

// A queue hands out tenants to workers, within the bound of each server.
type queue struct {
	mu      sync.Mutex
	changed *sync.Cond
	bound   func(server string) int
	servers map[string]*serverQueue
	order   []*serverQueue // the servers, to go around them in turn
	turn    int
	waiting int // tenants in all servers' queues
	closed  bool
	stopped bool
}

type serverQueue struct {
	tenants []Tenant
	active  int
	bound   int
}

func newQueue(opts FleetOptions) *queue {
	q := &queue{servers: make(map[string]*serverQueue)}
	q.changed = sync.NewCond(&q.mu)
	q.bound = func(server string) int {
		if n := opts.Servers[server]; n > 0 {
			return n
		}
		return opts.PerServer
	}
	return q
}

// put adds a tenant, and waits while enough are waiting. False means that no
// more are wanted.
func (q *queue) put(t Tenant) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.waiting >= lookahead && !q.stopped {
		q.changed.Wait()
	}
	if q.stopped {
		return false
	}
	name := t.Target.Server()
	s := q.servers[name]
	if s == nil {
		s = &serverQueue{bound: q.bound(name)}
		q.servers[name] = s
		q.order = append(q.order, s)
	}
	s.tenants = append(s.tenants, t)
	q.waiting++
	q.changed.Broadcast()
	return true
}

// next waits for a tenant that may be begun; one on the given server comes
// first, since the worker may have a session there. False means that there are
// no more.
func (q *queue) next(server string) (Tenant, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if q.stopped {
			return Tenant{}, false
		}
		if s := q.servers[server]; s.ready() {
			return q.take(s), true
		}
		for range q.order {
			q.turn = (q.turn + 1) % len(q.order)
			if s := q.order[q.turn]; s.ready() {
				return q.take(s), true
			}
		}
		if q.closed && q.waiting == 0 {
			return Tenant{}, false
		}
		q.changed.Wait()
	}
}

func (s *serverQueue) ready() bool { return s != nil && len(s.tenants) > 0 && s.active < s.bound }

func (q *queue) take(s *serverQueue) Tenant {
	t := s.tenants[0]
	s.tenants[0] = Tenant{}
	s.tenants = s.tenants[1:]
	s.active++
	q.waiting--
	q.changed.Broadcast()
	return t
}

func (q *queue) done(server string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.servers[server].active--
	q.changed.Broadcast()
}

// close says that no more tenants come.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.changed.Broadcast()
}

// stop hands out no more tenants.
func (q *queue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	// A run that is at its end already was not interrupted.
	if !q.closed || q.waiting > 0 {
		q.stopped = true
	}
	q.changed.Broadcast()
}
