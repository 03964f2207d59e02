package skein

import (
	"context"
	"errors"
	"sync"
	"time"
)

// A Migrator brings one tenant after another to where they should be, on
// sessions of one engine. It is safe for concurrent use with different
// sessions.
type Migrator struct {
	engine   Engine
	set      *Set
	lockWait time.Duration

	parsed   sync.Once
	parseErr error
	sections map[*Section][]Statement
}

// NewMigrator makes a migrator. lockWait is how long a tenant's lock is waited
// for, 0: not at all.
func NewMigrator(engine Engine, set *Set, lockWait time.Duration) *Migrator {
	return &Migrator{engine: engine, set: set, lockWait: lockWait}
}

// Parse splits and checks all migrations for the engine, once, and returns the
// first *FileError. The other methods call it themselves; calling it first
// finds a wrong file before any tenant is connected to.
func (m *Migrator) Parse() error {
	m.parsed.Do(func() {
		m.sections = make(map[*Section][]Statement)
		for _, migration := range m.set.All() {
			for _, section := range []*Section{migration.Up, migration.Down} {
				if section == nil {
					continue
				}
				statements, err := m.engine.Parse(section)
				if err != nil {
					m.parseErr = err
					return
				}
				m.sections[section] = statements
			}
		}
	})
	return m.parseErr
}

// Statements are what the engine would send for one side of a migration. Parse
// must have succeeded.
func (m *Migrator) Statements(section *Section) []Statement { return m.sections[section] }

// Inspect reads how a tenant stands and what opts would do there, and does
// nothing. A plan that is refused is the result's Err.
func (m *Migrator) Inspect(ctx context.Context, session Session, tenant Tenant, opts PlanOptions) Result {
	if err := m.Parse(); err != nil {
		return Result{Tenant: tenant, Standing: Standing{State: StateUnreachable}, Err: err}
	}
	r := m.Assess(ctx, session, tenant, opts.Policy)
	if r.Err != nil {
		return r
	}
	r.Plan, r.Err = MakePlan(m.set, r.History, opts)
	return r
}

// Assess reads how a tenant stands, and does nothing. Its error is that of
// reading: a tenant that needs a person is not one.
func (m *Migrator) Assess(ctx context.Context, session Session, tenant Tenant, policy Policy) Result {
	r := Result{Tenant: tenant, Standing: Standing{State: StateUnreachable}}
	if r.History, r.Err = session.History(ctx); r.Err == nil {
		r.Standing = Assess(m.set, r.History, policy)
	}
	return r
}

// Migrate carries out what opts asks for in one tenant. A tenant with nothing
// to do costs reading its history; otherwise the plan is made again under the
// tenant's lock. It stops between two migrations when stop is closed, with
// ErrInterrupted.
func (m *Migrator) Migrate(ctx context.Context, session Session, tenant Tenant, opts PlanOptions, stop <-chan struct{}, listen Listener) (r Result) {
	r = m.Inspect(ctx, session, tenant, opts)
	// A migration that began and did not end may be one that someone is at
	// right now: under the lock it is known.
	refused, _ := errors.AsType[*RefusedError](r.Err)
	underWay := refused != nil && refused.Reason == ReasonPartial
	if !underWay && (r.Err != nil || len(r.Plan.Steps) == 0) {
		return r
	}
	history, err := session.Lock(ctx, m.lockWait)
	if err != nil {
		r.Err = err
		return r
	}
	defer func() {
		// The lock is given back also when the run is being abandoned. If that
		// does not work the session's end will do it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := session.Unlock(ctx); err != nil && r.Err == nil {
			r.Err = err
		}
	}()
	r.History = history
	if underWay {
		r.Standing = Assess(m.set, history, opts.Policy)
	}
	if r.Plan, r.Err = MakePlan(m.set, history, opts); r.Err != nil {
		return r
	}
	if r.Plan.RecordOnly {
		r.Done, r.Err = m.record(ctx, session, r.Plan)
		return r
	}
	for _, migration := range r.Plan.Steps {
		select {
		case <-stop:
			r.Err = ErrInterrupted
			return r
		default:
		}
		step := Step{
			Migration: migration, Direction: r.Plan.Direction, Batch: r.Plan.Batch,
			Statements: m.sections[migration.Section(r.Plan.Direction)],
		}
		listen(Event{Type: MigrationStarted, Time: time.Now(), Tenant: tenant, Migration: migration, Direction: step.Direction})
		result, err := session.Apply(ctx, step)
		listen(Event{Type: MigrationEnded, Time: time.Now(), Tenant: tenant, Migration: migration, Direction: step.Direction, Duration: result.Duration, Err: err})
		if err != nil {
			r.Err = err
			return r
		}
		r.Done = append(r.Done, DoneStep{Migration: migration, Direction: step.Direction, Duration: result.Duration})
	}
	return r
}

func (m *Migrator) record(ctx context.Context, session Session, plan Plan) ([]DoneStep, error) {
	records := make([]Record, len(plan.Steps))
	done := make([]DoneStep, len(plan.Steps))
	now := time.Now()
	for i, migration := range plan.Steps {
		records[i] = Record{Name: migration.Name, State: Applied, Batch: plan.Batch, Checksum: migration.Checksum, AppliedAt: now}
		done[i] = DoneStep{Migration: migration, Direction: Up}
	}
	if err := session.Record(ctx, records); err != nil {
		return nil, err
	}
	return done, nil
}
