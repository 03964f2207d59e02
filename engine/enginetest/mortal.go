package enginetest

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/skeinhq/skein"
)

// A mortal is an engine whose process is killed at a point between two calls.
// The points in the middle of calls are as different as the engines, and left to
// other tests.
type mortal struct {
	skein.Engine
	point string
}

type mortalSession struct {
	skein.Session
	mortal mortal
}

// points are where a process can be killed, in the order in which a run of the
// race's migrations passes them.
func points() []string {
	all := []string{"after connecting", "after reading", "before locking", "after locking"}
	for _, name := range []string{"1.sql", "2.sql", "3.sql"} {
		all = append(all, "before applying "+name, "after applying "+name)
	}
	return append(all, "before unlocking", "after unlocking")
}

func (m mortal) reach(point string) {
	if point != m.point {
		return
	}
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Kill()
	}
	if err != nil {
		panic(err)
	}
	select {} // it is on its way
}

func (m mortal) Open(ctx context.Context, target skein.Target) (skein.Session, error) {
	session, err := m.Engine.Open(ctx, target)
	m.reach("after connecting")
	return mortalSession{session, m}, err
}

func (s mortalSession) History(ctx context.Context) (skein.History, error) {
	h, err := s.Session.History(ctx)
	s.mortal.reach("after reading")
	return h, err
}

func (s mortalSession) Lock(ctx context.Context, wait time.Duration) (skein.History, error) {
	s.mortal.reach("before locking")
	h, err := s.Session.Lock(ctx, wait)
	s.mortal.reach("after locking")
	return h, err
}

func (s mortalSession) Apply(ctx context.Context, step skein.Step) (skein.StepResult, error) {
	s.mortal.reach("before applying " + step.Migration.Name)
	r, err := s.Session.Apply(ctx, step)
	s.mortal.reach("after applying " + step.Migration.Name)
	return r, err
}

func (s mortalSession) Unlock(ctx context.Context) error {
	s.mortal.reach("before unlocking")
	err := s.Session.Unlock(ctx)
	s.mortal.reach("after unlocking")
	return err
}

// killedAt kills a process at a point, and wants the next to find everything as
// the history says, and to do the rest.
func (s *suite) killedAt(t *testing.T, point string) {
	target := s.NewTarget(t)
	p := s.start(t, target, doDieAt+point)
	p.send(t, true)
	for line := range p.lines {
		t.Errorf("it comes to its end, and says %q", line)
	}
	s.wantGlance(t, "when it was killed", target, true)
	e := s.engine()
	r := s.race(t, e, s.open(t, e, target), target)
	if r.Err != nil {
		t.Errorf("the next run: %v", r.Err)
	}
	s.wantRaceDone(t, target)
	s.wantGlance(t, "when the next run has ended", target, len(r.Done) == 0)
	if _, err := s.open(t, e, target).Lock(t.Context(), 0); err != nil {
		t.Errorf("the lock after that: %v", err)
	}
}
