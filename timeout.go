package skein

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// An Overseen is a [Session] that can be looked at and ended while it is in a
// call. Its methods are the only ones that another goroutine may call then; they
// use a connection of their own.
type Overseen interface {
	// Activity says what the session does at the server, what it waits for, and
	// who makes it wait, as far as the database can tell.
	Activity(ctx context.Context) (string, error)
	// End ends the session at the server, if it is still there, and waits until
	// it is gone. The session can then only be closed.
	End(ctx context.Context) error
}

// A TimeoutError is a migration that ran longer than it may, and was stopped at
// the server.
type TimeoutError struct {
	Limit time.Duration
	// Activity is what the session was doing when its time was up, empty if the
	// database could not tell.
	Activity string
	// EndErr is why the session could not be seen to end at the server, nil if it
	// was. What it runs may go on there, and the tenant stays locked until then.
	EndErr error
}

func (e *TimeoutError) Error() string {
	msg := fmt.Sprintf("stopped after %s", e.Limit)
	if e.Activity != "" {
		msg += ": " + e.Activity
	}
	if e.EndErr != nil {
		msg += fmt.Sprintf(" (it may still be running at the server: %v)", e.EndErr)
	}
	return msg
}

// Hint says what to do.
func (e *TimeoutError) Hint() string {
	return "see what it waited for, and try again when that is gone; or give it longer with --timeout (limits.timeout)"
}

const (
	// lookTimeout bounds asking what a session does, before it is stopped.
	lookTimeout = 5 * time.Second
	// stopGrace is how long a migration may take to stop before its session is
	// ended at the server.
	stopGrace = 5 * time.Second
	// endTimeout bounds waiting for a session's end.
	endTimeout = 15 * time.Second
)

// WithTimeout bounds the time that each migration may take, 0: no bound, and
// returns the migrator. It is called before the migrator is used.
func (m *Migrator) WithTimeout(limit time.Duration) *Migrator {
	m.timeout = limit
	return m
}

// apply is Session.Apply, within the migrator's timeout.
func (m *Migrator) apply(ctx context.Context, session Session, step Step) (StepResult, error) {
	if m.timeout <= 0 {
		return session.Apply(ctx, step)
	}
	stoppable, stop := context.WithCancel(ctx)
	defer stop()
	overseen, _ := session.(Overseen)
	ended, watched := make(chan struct{}), make(chan *TimeoutError, 1)
	go func() {
		watched <- m.watchTimeout(ctx, overseen, stop, ended)
	}()
	result, err := session.Apply(stoppable, step)
	close(ended)
	timeout := <-watched
	if err == nil || timeout == nil || ctx.Err() != nil {
		return result, err // it came to its end after all
	}
	if overseen != nil {
		// Its lock must be free, and nothing of it may go on, when this is told.
		ctx, cancel := context.WithTimeout(ctx, endTimeout)
		defer cancel()
		timeout.EndErr = overseen.End(ctx)
	}
	if broke, ok := errors.AsType[*StatementError](err); ok {
		broke.Err = timeout
		return result, broke
	}
	return result, fmt.Errorf("apply %s: %w", step.Migration.Name, timeout)
}

// watchTimeout waits for the end of a migration or of its time, and stops it
// then: first as a person does who interrupts it, and if that does not help by
// ending its session.
func (m *Migrator) watchTimeout(ctx context.Context, session Overseen, stop func(), ended <-chan struct{}) *TimeoutError {
	select {
	case <-time.After(m.timeout):
	case <-ended:
		return nil
	}
	timeout := &TimeoutError{Limit: m.timeout}
	if session != nil {
		look, cancel := context.WithTimeout(ctx, lookTimeout)
		// A server that cannot tell is no reason to let it run on.
		timeout.Activity, _ = session.Activity(look)
		cancel()
	}
	stop()
	select {
	case <-time.After(stopGrace):
	case <-ended:
		return timeout
	}
	if session != nil {
		end, cancel := context.WithTimeout(ctx, endTimeout)
		defer cancel()
		_ = session.End(end) // it is ended once more when the call is over
	}
	return timeout
}
