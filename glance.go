package skein

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"
)

// A Glancer is an [Engine] that can tell how many tenants stand without a
// connection to each.
type Glancer interface {
	// Vantage says from where a target can be looked at together with others: the
	// target to connect to, and a key that is equal for all targets which a
	// session there can tell of. server is the address of the target's server if
	// the settings have one, nil if not, and is used if it is there. The key is
	// empty for a target that has to be connected to.
	Vantage(target Target, server *Target) (from Target, key string)

	// Glance looks, on a session at a vantage, at targets with its key. There is a
	// glimpse for each, in their order. It changes nothing.
	Glance(ctx context.Context, session Session, targets []Target) ([]Glimpse, error)
}

// A Glimpse is what can be told of a tenant without connecting to it. The zero
// value is that of a tenant of which nothing can be told.
type Glimpse struct {
	// History is what the tenant's own tables say, nil if they were not read:
	// names, batches and checksums, and no more. Where something began and did not
	// end it shows that, and may not show how far it came.
	History *History
	// Fingerprint is the one that is kept for the tenant, empty if there is none
	// that can be relied on.
	Fingerprint string
	// Wanting says that there is none although the tenant's role could write one.
	Wanting bool
}

// A Source is how it is known how a tenant stands.
type Source string

// The sources of a result.
const (
	// FromConnection is a connection of the tenant's own.
	FromConnection Source = "connection"
	// FromHistory is the tenant's history, read together with others.
	FromHistory Source = "history"
	// FromFingerprint is the fingerprint that was kept of the tenant's history
	// when it was written.
	FromFingerprint Source = "fingerprint"
)

const (
	// glanceBatch is how many tenants are looked at together at most.
	glanceBatch = 500
	// maxVerdicts bounds the fingerprints that a run remembers.
	maxVerdicts = 1000
	// maxLessons bounds the tenants of a batch that are connected to in order to
	// learn what their fingerprint means.
	maxLessons = 3
	// glanceTimeout bounds looking at a batch: one tenant whose history cannot be
	// read just now, since somebody has its table locked, is not to keep all others.
	glanceTimeout = 30 * time.Second
)

// A judge says what comes of a tenant with a history in a run, and whether that
// is all: nothing is to be done there that needs a connection.
type judge func(m *Migrator, t Tenant, history History) (Result, bool)

// judgeRevertible is the judge of whether tenants can be rolled back. Where all
// that has run can be reverted, what a rollback comes to need not be known.
func judgeRevertible(opts PlanOptions) judge {
	opts.To, opts.Steps, opts.Everything = "", 0, true
	return func(m *Migrator, t Tenant, history History) (Result, bool) {
		r := m.inspect(Result{Tenant: t, History: history}, opts)
		r.Plan = Plan{}
		return r, r.Err == nil && len(history.KnexOpen) == 0
	}
}

// judgePlan is the judge of a run that carries out what opts asks for, or with
// dry only shows it. It is nil where the run has to connect to every tenant.
func judgePlan(opts PlanOptions, dry bool) judge {
	if opts.Direction == Down || opts.Settle != "" || opts.Baseline != "" {
		return nil
	}
	return func(m *Migrator, t Tenant, history History) (Result, bool) {
		r := m.inspect(Result{Tenant: t, History: history}, opts)
		return r, r.Err == nil && len(history.KnexOpen) == 0 && (dry || len(r.Plan.Steps) == 0)
	}
}

// judgeStanding is the judge of a run that shows how tenants stand.
func judgeStanding(policy Policy) judge {
	return func(m *Migrator, t Tenant, history History) (Result, bool) {
		r := m.assess(Result{Tenant: t, History: history}, policy)
		return r, r.Err == nil && len(history.KnexOpen) == 0 && len(r.Standing.Partial) == 0
	}
}

// Assess reads how each tenant stands, and does nothing.
func (f *Fleet) Assess(ctx context.Context, tenants iter.Seq2[Tenant, error], policy Policy) (Summary, error) {
	work := func(ctx context.Context, m *Migrator, s Session, t *task) Result {
		return m.Assess(ctx, s, t.tenant, policy)
	}
	return f.each(ctx, tenants, min(f.opts.Retries, lookRetries), work, judgeStanding(policy))
}

// A lookout is what a run knows of tenants that it has not connected to.
type lookout struct {
	judge judge

	mu    sync.Mutex
	known map[string]verdict // by engine and fingerprint
	begun map[string]bool    // the engines of which there is the first verdict
	blind map[string]bool    // the keys of vantages from which nothing can be seen
	told  map[string]bool    // the servers of which this was told
}

// A verdict is about all tenants with the same fingerprint.
type verdict struct {
	standing Standing
	plan     Plan
	enough   bool // there is no need to connect to them
}

// lookout is that of a run with a judge, nil where each tenant is connected to.
func (f *Fleet) lookout(j judge) *lookout {
	if j == nil || f.opts.FullCheck {
		return nil
	}
	return &lookout{judge: j, known: make(map[string]verdict), begun: make(map[string]bool), blind: make(map[string]bool), told: make(map[string]bool)}
}

// vantage notes in a task from where its tenant can be looked at.
func (f *Fleet) vantage(t *task) {
	target := t.tenant.Target
	m, err := f.migrator(target.Engine)
	if err != nil || t.tenant.Err != nil || target.Validate() != nil {
		return
	}
	if glancer, ok := m.engine.(Glancer); ok {
		var server *Target
		if at, ok := f.opts.Addresses[target.Server()]; ok {
			server = &at
		}
		t.from, t.key = glancer.Vantage(target, server)
		t.lent = server != nil
	}
}

// blinded notes that nothing can be seen from a vantage, and says whether that
// is to be told: of each server it is told once.
func (l *lookout) blinded(key, server string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.told[server]
	l.blind[key], l.told[server] = true, true
	return !was
}

func (l *lookout) isBlind(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.blind[key]
}

// judged is the verdict about a history; by its fingerprint alone nothing less
// may be concluded than that all is as it should be.
func (l *lookout) judged(m *Migrator, history History) verdict {
	r, ok := l.judge(m, Tenant{}, history)
	s := r.Standing
	return verdict{
		standing: s, plan: r.Plan,
		enough: ok && s.State == StateUpToDate && len(s.Pending)+len(s.Edited)+len(s.Missing) == 0 && !s.KnexLocked && len(r.Plan.Steps) == 0,
	}
}

// verdict is what is known of a fingerprint.
func (l *lookout) verdict(m *Migrator, fingerprint string) (verdict, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	engine := m.engine.Name()
	if !l.begun[engine] {
		// What a tenant has that Skein brought up to date is known beforehand.
		l.begun[engine] = true
		var all History
		for _, migration := range m.set.All() {
			all.Records = append(all.Records, Record{Name: migration.Name, State: Applied, Batch: 1, Checksum: migration.Checksum})
		}
		l.known[engine+" "+all.Fingerprint()] = l.judged(m, all)
	}
	v, ok := l.known[engine+" "+fingerprint]
	return v, ok
}

func (l *lookout) learn(m *Migrator, history History) verdict {
	v := l.judged(m, history)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.known) < maxVerdicts {
		l.known[m.engine.Name()+" "+history.Fingerprint()] = v
	}
	return v
}

// look looks at tenants with the same vantage, and returns those that need no
// more than that, with what came of them noted. All others are marked as looked
// at. Only where the first one could not be connected to as itself, it was tried
// with that, which is noted, and the rest is to be looked at without it: that may
// be the first one's own trouble.
func (w *worker) look(ctx context.Context, l *lookout, batch []*task) (seen []*task, tried bool) {
	first := batch[0]
	if l.isBlind(first.key) {
		mark(batch)
		return nil, false
	}
	m, err := w.prepare(first.tenant)
	if err != nil {
		mark(batch)
		return nil, false
	}
	glimpses, err := w.glimpses(ctx, m, batch)
	if err != nil {
		connected := w.session != nil
		w.hangUp()
		if !connected && !first.lent && ctx.Err() == nil {
			first.looked = true
			w.fleet.opts.Listener(Event{Type: TenantStarted, Time: first.started, Tenant: first.tenant})
			first.note(unreachable(first.tenant, err))
			return nil, true
		}
		mark(batch)
		// What may pass is no reason to look no more.
		lasts := first.lent && ctx.Err() == nil && !(connected && (passes(ErrorClass(err)) || errors.Is(err, context.DeadlineExceeded)))
		if server := first.tenant.Target.Server(); lasts && l.blinded(first.key, server) {
			w.fleet.opts.Listener(Event{Type: ServerUnasked, Time: time.Now(), Server: server, Err: err})
		}
		return nil, false
	}
	mark(batch)
	lessons := 0
	for i, t := range batch {
		if w.conclude(ctx, l, m, t, glimpses[i], &lessons) {
			seen = append(seen, t)
		}
	}
	if w.key == "" {
		w.hangUp()
	}
	return seen, false
}

func mark(batch []*task) {
	for _, t := range batch {
		t.looked = true
	}
}

// glimpses are those of a batch. After an error the worker has a session if the
// vantage could be connected to.
func (w *worker) glimpses(ctx context.Context, m *Migrator, batch []*task) ([]Glimpse, error) {
	targets := make([]Target, len(batch))
	for i, t := range batch {
		targets[i] = t.tenant.Target
	}
	for {
		reused, err := w.connect(ctx, m.engine, batch[0].from)
		if err != nil {
			return nil, err
		}
		w.served += len(batch) - 1
		within, cancel := context.WithTimeout(ctx, glanceTimeout)
		glimpses, err := m.engine.(Glancer).Glance(within, w.session, targets)
		if err != nil && within.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("no answer within %s: %w", glanceTimeout, within.Err())
		}
		cancel()
		if lost(err) && reused {
			w.hangUp() // it may have ended while it was not used
			continue
		}
		return glimpses, err
	}
}

// conclude notes what comes of a tenant, if its glimpse is enough to tell. A
// fingerprint that is met for the first time is learned from the tenant itself,
// which is connected to for that.
func (w *worker) conclude(ctx context.Context, l *lookout, m *Migrator, t *task, g Glimpse, lessons *int) bool {
	if g.History != nil {
		r, ok := l.judge(m, t.tenant, *g.History)
		if ok {
			r.Source = FromHistory
			t.note(r)
		}
		t.behind = r.Err == nil && len(r.Plan.Steps) > 0
		return ok
	}
	if t.behind = g.Wanting; g.Fingerprint == "" {
		return false
	}
	t.behind = true
	v, known := l.verdict(m, g.Fingerprint)
	if !known {
		if *lessons == maxLessons || ctx.Err() != nil || w.fleet.stopped() {
			return false
		}
		*lessons++
		// A lock of Knex's is this tenant's alone, and not in the fingerprint.
		history, err := w.lesson(ctx, m, t)
		if err != nil || history.Fingerprint() != g.Fingerprint || history.KnexLocked {
			return false // it is connected to once more, and reported as any other
		}
		if v = l.learn(m, history); v.enough {
			t.note(Result{Tenant: t.tenant, Standing: v.standing, Plan: v.plan, Source: FromConnection, History: history})
		}
		return v.enough
	}
	if v.enough {
		t.note(Result{Tenant: t.tenant, Standing: v.standing, Plan: v.plan, Source: FromFingerprint})
	}
	return v.enough
}

// lesson reads a tenant's own history.
func (w *worker) lesson(ctx context.Context, m *Migrator, t *task) (History, error) {
	ctx, cancel := context.WithTimeout(ctx, glanceTimeout)
	defer cancel()
	if _, err := w.connect(ctx, m.engine, t.tenant.Target); err != nil {
		return History{}, err
	}
	history, err := w.session.History(ctx)
	if err != nil || w.key == "" {
		w.hangUp()
	}
	return history, err
}

// stopped says whether the run was asked to stop.
func (f *Fleet) stopped() bool {
	select {
	case <-f.opts.Stop:
		return true
	default:
		return false
	}
}

// keep makes up for a fingerprint that is missing or not that of the history,
// under the tenant's lock. What it meets is no trouble of the tenant's: a
// fingerprint saves a connection, and the next run tries again.
func keep(ctx context.Context, session Session) {
	if keeper, ok := session.(FingerprintKeeper); ok {
		_ = keeper.Keep(ctx)
	}
}
