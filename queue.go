package skein

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	// lookahead bounds the tenants that were read from the central database and
	// not ended, so that a fleet of any size fits in the same memory. It is
	// what lets other servers' tenants go first while one server is at its
	// bound.
	lookahead = 4096

	// The pauses before the first try again, and the longest.
	firstPause, longestPause = 250 * time.Millisecond, 10 * time.Second
	// A server that cannot be reached is given up on after the run's retries, but
	// not before fewestProbes, which are those of several tenants where there are
	// several; or earlier after this patience, where each try takes its time.
	fewestProbes = 3
	patience     = 15 * time.Second
	// probeEvery is how often a server that was given up on is tried again.
	probeEvery = 30 * time.Second
	// raiseEvery is how long a server that had too many connections has to be
	// without complaint before it gets one tenant more at once.
	raiseEvery = 5 * time.Second
)

// A task is a tenant on its way through a run.
type task struct {
	tenant Tenant
	// down is set while the task is handed out if its server was given up on: it
	// is reported and not tried.
	down *ServerDownError

	// from is where the tenant can be looked at together with others that have
	// the same key, at the server's own address if it is lent; empty for one that
	// has to be connected to.
	from Target
	key  string
	lent bool
	// looked says that this was done, and behind that there is something to do, as
	// far as that shows.
	looked bool
	behind bool
	batch  []*task // that were taken with this one to be looked at together

	try     int       // the number of this try, from 1
	started time.Time // when this try began
	begun   time.Time // when the first did
	due     time.Time // when it may be tried again
	// probe says that this try is to show whether the server is back.
	probe bool
	// final says that trying again would be no use.
	final bool

	tried bool
	last  Result // of the tries so far; its Err is that of the last
	// plan is the one of which a step was begun, nil before: what is left of it is
	// then all that there is to do, whatever a plan made anew would have.
	plan *Plan
	// doubtful are the steps of which it is not known what came of them, because
	// of the error doubt.
	doubtful []*Migration
	doubt    error
	// stuck is a statement that failed in the middle of a migration and left
	// nothing, so that the migration can go on with it.
	stuck *StatementError
}

// A queue hands out tenants to workers, within the bound of each server, and
// says which are tried again.
type queue struct {
	retries int

	mu      sync.Mutex
	changed *sync.Cond
	bound   func(Target) (bound int, uncounted bool)
	servers map[string]*serverQueue
	order   []*serverQueue // the servers, to go around them in turn
	turn    int
	waiting int // tasks in all servers' queues
	looking int // tasks that are being looked at together, and may come back
	closed  bool
	stopped bool // hands out nothing
	ending  bool // tries nothing again
}

// A serverQueue is what waits for one server, and how that server is.
type serverQueue struct {
	name   string
	fresh  []*task
	toLook int            // of fresh, those to be looked at together
	byKey  map[string]int // of those, how many have a key
	again  []*task        // to be tried again
	active int
	most   int // the bound that was asked for
	// uncounted says that the server's processors may still make it another.
	uncounted bool

	// bound is the one in force, which is lower while the server has too many
	// connections. It was changed at boundChanged.
	bound        int
	boundChanged time.Time
	crowdedTold  bool

	// failures counts the tries, one after the other, that did not reach the
	// server. Those that ran at the same time are one.
	failures      int
	failingSince  time.Time
	failureNoted  time.Time
	notBefore     time.Time // nothing is tried before
	probing       bool
	down          *ServerDownError // since it was given up on
	lastConnected time.Time
}

func newQueue(opts FleetOptions, retries int) *queue {
	q := &queue{retries: retries, bound: opts.Bound, servers: make(map[string]*serverQueue)}
	q.changed = sync.NewCond(&q.mu)
	return q
}

// put adds a tenant, and waits while enough are waiting. False means that no
// more are wanted.
func (q *queue) put(t *task) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.waiting >= lookahead && !q.stopped {
		q.changed.Wait()
	}
	if q.stopped {
		return false
	}
	name := t.tenant.Target.Server()
	s := q.servers[name]
	if s == nil {
		bound, uncounted := q.bound(t.tenant.Target)
		s = &serverQueue{name: name, most: bound, bound: bound, uncounted: uncounted, byKey: make(map[string]int)}
		q.servers[name] = s
		q.order = append(q.order, s)
	}
	s.fresh = append(s.fresh, t)
	q.waiting++
	if t.toLookAt() {
		if s.countLook(t, 1); s.toLook < glanceBatch && q.waiting < lookahead {
			return true // nobody takes it before there are more
		}
	}
	q.changed.Broadcast()
	return true
}

// toLookAt says whether a task is to be looked at together with others.
func (t *task) toLookAt() bool { return t.key != "" && !t.looked && t.down == nil && !t.probe }

// takeMore takes the tasks that can be looked at together with one that was
// taken, wherever they stand in the queue.
func (q *queue) takeMore(s *serverQueue, t *task) {
	more := min(s.byKey[t.key], glanceBatch-1)
	if more == 0 {
		t.looked = true // it is as well connected to
		return
	}
	t.batch = make([]*task, 1, 1+more)
	t.batch[0] = t
	left := s.fresh[:0]
	for i, next := range s.fresh {
		if len(t.batch) > more {
			left = append(left, s.fresh[i:]...)
			break
		}
		if !next.toLookAt() || next.key != t.key {
			left = append(left, next)
			continue
		}
		s.countLook(next, -1)
		next.started, next.begun = t.started, t.started
		t.batch = append(t.batch, next)
	}
	clear(s.fresh[len(left):])
	s.fresh = left
	q.waiting -= more
	q.looking += len(t.batch)
}

// lookedAt takes back the tasks of a batch that did not end with being looked
// at. They go first. The first, which the batch was taken with, is not one of
// them if it was tried as itself: then ended takes it back.
func (q *queue) lookedAt(batch []*task, tried bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	first := batch[0]
	s := q.servers[first.tenant.Target.Server()]
	first.batch = nil
	if !tried {
		s.active--
		first.try--
	}
	var back []*task
	for _, t := range batch {
		if t.tried {
			continue
		}
		t.begun = time.Time{}
		if t.toLookAt() {
			s.countLook(t, 1)
		}
		back = append(back, t)
	}
	s.fresh = append(back, s.fresh...)
	q.waiting += len(back)
	q.looking -= len(batch)
	if q.ending && len(back) > 0 {
		q.stopped = true // these are what was left when the run was stopped
	}
	q.changed.Broadcast()
}

// countLook counts a task that is to be looked at together with others.
func (s *serverQueue) countLook(t *task, n int) {
	s.toLook += n
	if s.byKey[t.key] += n; s.byKey[t.key] == 0 {
		delete(s.byKey, t.key)
	}
}

// next waits for a task that may be begun; one on the given server comes first,
// since the worker may have a session there. It calls idle before it waits while
// that server has too many connections. False means that there are no more.
func (q *queue) next(server string, idle func()) (*task, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for idled := false; ; {
		if q.stopped {
			return nil, false
		}
		now := time.Now()
		s := q.servers[server]
		if t := q.take(s, now); t != nil {
			return t, true
		}
		for range q.order {
			q.turn = (q.turn + 1) % len(q.order)
			if t := q.take(q.order[q.turn], now); t != nil {
				return t, true
			}
		}
		if q.closed && q.waiting+q.looking == 0 {
			return nil, false
		}
		if s != nil && s.bound < s.most && !idled {
			idled = true
			q.mu.Unlock()
			idle()
			q.mu.Lock()
			continue
		}
		q.changed.Wait()
	}
}

// count says whether a server is to be asked how many processors it has.
func (q *queue) count(server string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.servers[server]
	if s == nil || !s.uncounted {
		return false
	}
	s.uncounted = false
	return true
}

// counted sets the bound that follows from a server's processors.
func (q *queue) counted(server string, bound int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.servers[server]
	if s.bound == s.most || s.bound > bound {
		s.bound = bound
	}
	s.most = bound
	q.changed.Broadcast()
}

// take begins a task of a server, nil if none may begin now.
func (q *queue) take(s *serverQueue, now time.Time) *task {
	if s == nil || len(s.fresh)+len(s.again) == 0 {
		return nil
	}
	giveUp, failing := s.down, s.failures > 0
	switch {
	case s.active >= s.bound:
		return nil
	case giveUp == nil && (now.Before(s.notBefore) || failing && s.probing):
		return nil
	case giveUp != nil && !now.Before(s.notBefore):
		giveUp = nil
		s.notBefore = now.Add(probeEvery)
	}
	if giveUp == nil && !failing && len(s.again) == 0 && s.toLook < glanceBatch && !q.closed && q.waiting < lookahead && s.fresh[0].toLookAt() {
		return nil // there will be more to look at together with it
	}
	t := s.pick(now, giveUp != nil)
	if t == nil {
		return nil
	}
	s.active++
	q.waiting--
	t.down, t.probe = giveUp, failing && giveUp == nil
	s.probing = s.probing || t.probe
	t.started = now
	if t.begun.IsZero() {
		t.begun = now
	}
	t.try++
	if t.toLookAt() {
		q.takeMore(s, t)
	}
	q.changed.Broadcast()
	return t
}

// pick takes a task out of a server's queue. What was tried already goes first
// when its time has come; but while the server cannot be reached others go
// first, as the trouble may be one tenant's own. With early none has to wait.
func (s *serverQueue) pick(now time.Time, early bool) *task {
	due := slices.IndexFunc(s.again, func(t *task) bool { return early || !now.Before(t.due) })
	if due >= 0 && (s.failures == 0 || len(s.fresh) == 0) {
		t := s.again[due]
		s.again = slices.Delete(s.again, due, due+1)
		return t
	}
	if len(s.fresh) == 0 {
		return nil
	}
	return s.takeFresh()
}

func (s *serverQueue) takeFresh() *task {
	t := s.fresh[0]
	s.fresh[0] = nil
	s.fresh = s.fresh[1:]
	if t.toLookAt() {
		s.countLook(t, -1)
	}
	return t
}

// ended takes back a task that was tried, with what came of it in its last; the
// error is one of connecting if connected is false. It says whether the tenant
// will be tried again, and returns the events that tell what the fleet makes of
// it.
func (q *queue) ended(t *task, connected bool) (again bool, events []Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.changed.Broadcast()
	s := q.servers[t.tenant.Target.Server()]
	s.active--
	if t.probe {
		s.probing = false
	}
	if t.down != nil {
		return false, nil
	}
	now := time.Now()
	err := t.last.Err
	class := ErrorClass(err)
	if class == Crowded && s.bound > 1 {
		if s.lower(t, now) {
			t.try-- // the server is asked less, and so this was not the tenant's
		}
		if !s.crowdedTold {
			s.crowdedTold = true
			events = append(events, Event{Type: ServerCrowded, Time: now, Server: s.name, Bound: s.bound, Err: err})
		}
		s.notBefore = now.Add(backoff(1))
		q.wake(time.Until(s.notBefore))
	} else if !connected && passes(class) {
		events = append(events, q.missed(s, t, now)...)
	} else if connected || class == Denied || class == NoDatabase {
		events = append(events, s.answered(now)...)
	}
	switch {
	case s.down != nil && !connected && passes(class):
		t.last.Err = s.down
		return false, events
	case t.final || !passes(class) || t.try > q.retries || q.ending:
		return false, events
	}
	pause := backoff(max(t.try, 1))
	if left := s.notBefore.Sub(now); s.failures > 0 && left > 0 {
		pause = left
	}
	t.due = now.Add(pause)
	s.again = append(s.again, t)
	q.waiting++
	q.wake(pause)
	return true, append(events, Event{Type: TenantRetried, Time: now, Tenant: t.tenant, Err: err, Pause: pause})
}

// passes says whether trouble of a class may go away by itself.
func passes(c Class) bool {
	switch c {
	case Transient, Busy, Crowded, Unreachable, ConnectionLost:
		return true
	}
	return false
}

// lower halves what is done at once on a server that has too many connections.
// All that began before it was last lowered complain about the same thing.
func (s *serverQueue) lower(t *task, now time.Time) bool {
	if !t.started.After(s.boundChanged) {
		return false
	}
	s.bound = max(1, min(s.bound, s.active+1)/2)
	s.boundChanged = now
	return true
}

// answered notes that the server did.
func (s *serverQueue) answered(now time.Time) (events []Event) {
	if s.down != nil {
		events = append(events, Event{Type: ServerBack, Time: now, Server: s.name})
	}
	if s.failures > 0 {
		s.failures, s.down, s.notBefore = 0, nil, time.Time{}
	}
	s.lastConnected = now
	if s.bound < s.most && now.Sub(s.boundChanged) >= raiseEvery {
		s.bound++
		s.boundChanged = now
	}
	return events
}

// missed notes a try that did not reach the server.
func (q *queue) missed(s *serverQueue, t *task, now time.Time) []Event {
	if s.down != nil {
		return nil // still
	}
	// One that began before others failed, or before the server was reached,
	// tells nothing new.
	if t.started.After(s.failureNoted) && !t.started.Before(s.lastConnected) || s.failures == 0 {
		if s.failures == 0 {
			s.failingSince = t.started
		}
		s.failures++
		s.failureNoted = now
	}
	if s.failures > max(q.retries, fewestProbes-1) || s.failures >= fewestProbes-1 && now.Sub(s.failingSince) >= patience {
		s.down = &ServerDownError{Server: s.name, Tries: s.failures, For: now.Sub(s.failingSince), Err: t.last.Err}
		s.notBefore = now.Add(probeEvery)
		return []Event{{Type: ServerDown, Time: now, Server: s.name, Err: t.last.Err}}
	}
	s.notBefore = now.Add(backoff(s.failures))
	q.wake(time.Until(s.notBefore))
	return nil
}

// backoff is the pause before the next try after so many: twice as long each
// time, and not the same for all.
func backoff(tries int) time.Duration {
	pause := min(firstPause<<min(tries-1, 10), longestPause)
	return pause/2 + rand.N(pause/2)
}

// wake lets the workers look again after a pause.
func (q *queue) wake(pause time.Duration) {
	time.AfterFunc(pause, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.changed.Broadcast()
	})
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
	q.ending = true
	// A run that is at its end already was not interrupted.
	if !q.closed || q.waiting > 0 {
		q.stopped = true
	}
	q.changed.Broadcast()
}

// left are the tasks that were to be tried again when the run was stopped.
func (q *queue) left() []*task {
	q.mu.Lock()
	defer q.mu.Unlock()
	var all []*task
	for _, s := range q.order {
		all = append(all, s.again...)
	}
	return all
}

// A ServerDownError is a tenant whose server could not be reached, by this
// tenant's tries or by others'. It may not have been tried itself.
type ServerDownError struct {
	Server string
	Tries  int           // that failed, one after the other
	For    time.Duration // from the first to the last of them
	Err    error         // of the last
}

func (e *ServerDownError) Error() string {
	return fmt.Sprintf("%s cannot be reached, tried %d times in %s: %v", e.Server, e.Tries, e.For.Round(100*time.Millisecond), e.Err)
}

func (e *ServerDownError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *ServerDownError) Hint() string {
	return "when the server is back, the same command goes on with its tenants"
}
