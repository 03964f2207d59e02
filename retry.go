package skein

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"
)

// settleWait is how long at least the tenant's lock is waited for when it is not
// known what came of a step: the lost session may have it, until the server has
// ended what it was at.
const settleWait = time.Minute

func lost(err error) bool { return ErrorClass(err) == ConnectionLost }

// note adds what came of a try to what came of those before.
func (t *task) note(r Result) {
	if t.tried {
		r.Done = slices.Concat(t.last.Done, r.Done)
		if r.Standing.State == StateUnreachable {
			r.History, r.Source = t.last.History, cmp.Or(r.Source, t.last.Source)
		}
		if t.last.Standing.State != StateUnreachable {
			r.Standing = t.last.Standing
		}
	}
	if t.plan != nil {
		r.Plan = *t.plan
	}
	r.Duration = time.Since(t.begun)
	t.tried, t.last = true, r
}

// result is what came of all tries.
func (t *task) result() Result {
	r := t.last
	if len(t.doubtful) > 0 && r.Err != nil {
		// That the server could not be asked afterwards matters less.
		r.Err = t.doubt
	}
	return r
}

// try is Migrate for a tenant that may have been tried before. What was begun
// then is not begun anew: first it is found out what came of it, and then the
// rest of its plan is carried out.
func (m *Migrator) try(ctx context.Context, session Session, t *task, opts PlanOptions, stop <-chan struct{}, listen Listener) Result {
	if t.plan == nil {
		return m.watch(ctx, session, t, opts, stop, listen)
	}
	r := Result{Tenant: t.tenant, Standing: Standing{State: StateUnreachable}}
	if len(t.doubtful) > 0 {
		if r.History, r.Done, r.Err = m.settle(ctx, session, t, opts, listen); r.Err != nil {
			return r
		}
	}
	left := slices.DeleteFunc(slices.Clone(t.plan.Steps), func(step *Migration) bool {
		return slices.ContainsFunc(slices.Concat(t.last.Done, r.Done), func(d DoneStep) bool { return d.Migration.Name == step.Name })
	})
	if len(left) == 0 {
		return r
	}
	if stuck := t.stuck; stuck != nil {
		t.stuck = nil
		settle := opts
		settle.Settle, settle.only, settle.from = Continue, left, stuck.Index-1
		rest := m.watch(ctx, session, t, settle, stop, listen)
		rest.Done = slices.Concat(r.Done, rest.Done)
		if r = rest; r.Err != nil || opts.Settle != "" {
			return r
		}
		left = slices.DeleteFunc(left, func(step *Migration) bool { return step.Name == stuck.Migration })
		if len(left) == 0 {
			return r
		}
	}
	opts.only = left
	rest := m.watch(ctx, session, t, opts, stop, listen)
	rest.Done = slices.Concat(r.Done, rest.Done)
	return rest
}

// watch is Migrate, and notes in the task what a next try has to know.
func (m *Migrator) watch(ctx context.Context, session Session, t *task, opts PlanOptions, stop <-chan struct{}, listen Listener) Result {
	begun := false
	var open []*Migration
	r := m.migrate(ctx, session, t.tenant, opts, t.behind, stop, func(e Event) {
		switch e.Type {
		case MigrationStarted:
			begun = true
			open = append(open, e.Migration)
		case MigrationEnded:
			if !lost(e.Err) {
				open = slices.DeleteFunc(open, func(m *Migration) bool { return m == e.Migration })
			}
		}
		listen(e)
	})
	if r.Plan.RecordOnly && lost(r.Err) {
		begun, open = true, r.Plan.Steps
	}
	if begun && t.plan == nil {
		plan := r.Plan
		t.plan = &plan
	}
	if lost(r.Err) {
		t.doubtful, t.doubt = open, r.Err
	} else if broke, ok := errors.AsType[*StatementError](r.Err); ok && broke.Partial {
		if broke.Exact && broke.Index > 0 {
			t.stuck = broke
		} else {
			t.final = true // a person has to look at what stayed
		}
	}
	return r
}

// settle finds out what came of the doubtful steps of a task, from the history
// under the tenant's lock. Done are those that were carried out.
func (m *Migrator) settle(ctx context.Context, session Session, t *task, opts PlanOptions, listen Listener) (history History, done []DoneStep, err error) {
	history, err = session.Lock(ctx, max(m.lockWait, settleWait))
	if err != nil {
		return History{}, nil, err
	}
	if err := session.Unlock(ctx); err != nil {
		return history, nil, err
	}
	doubtful, doubt := t.doubtful, t.doubt
	t.doubtful, t.doubt = nil, nil
	for _, step := range doubtful {
		i := slices.IndexFunc(history.Records, func(r Record) bool { return r.Name == step.Name })
		if i >= 0 && history.Records[i].Partial() && !t.plan.RecordOnly {
			t.final = true
			broken, ok := errors.AsType[*StatementError](doubt)
			switch {
			case !ok:
				_, doubt = MakePlan(m.set, history, opts) // which refuses to go on
			case broken.Index == 0:
				doubt = m.located(broken, history.Records[i], step)
			}
			return history, done, doubt
		}
		applied := i >= 0 && !history.Records[i].Partial()
		if applied != (t.plan.Direction == Up) {
			continue // it was not carried out
		}
		d := DoneStep{Migration: step, Direction: t.plan.Direction}
		if applied {
			d.Duration = history.Records[i].Duration
		}
		done = append(done, d)
		listen(Event{Type: MigrationEnded, Time: time.Now(), Tenant: t.tenant, Migration: step, Direction: d.Direction, Duration: d.Duration})
	}
	return history, done, nil
}

// located is the error of a migration of several statements that were under way
// when the connection was lost, with the one at which its record says that it
// stopped.
func (m *Migrator) located(broken *StatementError, r Record, migration *Migration) error {
	stop := findStop(r, migration, m.Statements)
	if stop.Index < 1 || stop.Index > stop.Total {
		return broken
	}
	known := *broken
	known.Index, known.Total, known.Line, known.Statement = stop.Index, stop.Total, stop.Line, stop.Statement
	return &known
}
