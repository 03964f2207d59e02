package skein

import (
	"cmp"
	"context"
	"errors"
	"slices"
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
	knex     KnexRunner
	timeout  time.Duration // of each migration, 0: none
	// knexHistory says that SQL migrations are recorded in Knex's table too.
	knexHistory bool

	parsed   sync.Once
	parseErr error
	sections map[*Section][]Statement
}

// NewMigrator makes a migrator. lockWait is how long a tenant's lock is waited
// for, 0: not at all.
func NewMigrator(engine Engine, set *Set, lockWait time.Duration) *Migrator {
	return &Migrator{engine: engine, set: set, lockWait: lockWait}
}

// WithKnex makes the migrator run Knex migrations, and returns it. It is called
// before the migrator is used.
func (m *Migrator) WithKnex(runner KnexRunner) *Migrator {
	m.knex = runner
	return m
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
	r := m.look(ctx, session, tenant, opts)
	if unsettled(r) {
		if r.Holder = holder(ctx, session); r.Holder != nil {
			r.Err = &LockedError{Holder: r.Holder.String()}
		}
	}
	return r
}

// holder is who is at work in a tenant, nil if it is nobody or cannot be told.
func holder(ctx context.Context, session Session) *Holder {
	keeper, ok := session.(LockKeeper)
	if !ok {
		return nil
	}
	who, err := keeper.Holder(ctx)
	if err != nil {
		return nil
	}
	return who
}

// look is Inspect without regard to who may be at work in the tenant.
func (m *Migrator) look(ctx context.Context, session Session, tenant Tenant, opts PlanOptions) Result {
	if err := m.Parse(); err != nil {
		return Result{Tenant: tenant, Standing: Standing{State: StateUnreachable}, Err: err}
	}
	r := m.read(ctx, session, tenant)
	if r.Err != nil {
		return r
	}
	return m.inspect(r, opts)
}

// inspect is Inspect for a history that was read.
func (m *Migrator) inspect(r Result, opts PlanOptions) Result {
	opts.Knex = m.knex != nil
	if r = m.assess(r, opts.Policy); r.Err == nil {
		r.Plan, r.Err = m.plan(r.History, r.Tenant, opts)
	}
	return r
}

// plan makes a tenant's plan, with what the statements of the files say of a
// migration that began and did not end.
func (m *Migrator) plan(history History, tenant Tenant, opts PlanOptions) (Plan, error) {
	plan, err := MakePlan(m.set, history, opts)
	partial := opts.Settle == "" && refusedFor(err, ReasonPartial)
	if !partial && plan.From == 0 {
		return plan, err
	}
	standing := Assess(m.set, history, opts.Policy)
	stop := m.stops(standing)[0]
	if partial {
		return Plan{}, stop.refuse(tenant.Slug, recordNames(standing.Partial))
	}
	if err := stop.refuseChanged(); err != nil {
		return Plan{}, err
	}
	return plan, nil
}

// stops are where the partial migrations of a tenant stopped.
func (m *Migrator) stops(standing Standing) []Stop {
	var stops []Stop
	for _, r := range standing.Partial {
		migration, _ := m.set.Find(r.Name)
		stops = append(stops, findStop(r, migration, m.Statements))
	}
	return stops
}

// Assess reads how a tenant stands, and does nothing. Its error is that of
// reading: a tenant that needs a person is not one.
func (m *Migrator) Assess(ctx context.Context, session Session, tenant Tenant, policy Policy) Result {
	r := m.read(ctx, session, tenant)
	if r.Err != nil {
		return r
	}
	if r = m.assess(r, policy); len(r.Standing.Partial) > 0 || r.Standing.KnexLocked {
		r.Holder = holder(ctx, session)
	}
	return r
}

// read reads a tenant's history.
func (m *Migrator) read(ctx context.Context, session Session, tenant Tenant) Result {
	r := Result{Tenant: tenant, Standing: Standing{State: StateUnreachable}, Source: FromConnection}
	r.History, r.Err = session.History(ctx)
	return r
}

// assess is Assess for a history that was read.
func (m *Migrator) assess(r Result, policy Policy) Result {
	r.Standing = Assess(m.set, r.History, policy)
	if r.Err = m.Parse(); r.Err == nil {
		r.Stops = m.stops(r.Standing)
	}
	return r
}

// Migrate carries out what opts asks for in one tenant. A tenant with nothing
// to do costs reading its history; otherwise the plan is made again under the
// tenant's lock. It stops between two migrations when stop is closed, with
// ErrInterrupted.
func (m *Migrator) Migrate(ctx context.Context, session Session, tenant Tenant, opts PlanOptions, stop <-chan struct{}, listen Listener) (r Result) {
	return m.migrate(ctx, session, tenant, opts, false, stop, listen)
}

// migrate is Migrate. Of a tenant that is behind, as far as could be seen
// without connecting, the history is read with the lock and not once before.
// Likewise for a rollback: there is something to revert nearly everywhere.
func (m *Migrator) migrate(ctx context.Context, session Session, tenant Tenant, opts PlanOptions, behind bool, stop <-chan struct{}, listen Listener) (r Result) {
	behind = behind || opts.Direction == Down
	if behind {
		r = Result{Tenant: tenant, Standing: Standing{State: StateUnreachable}, Source: FromConnection, Err: m.Parse()}
	} else {
		r = m.look(ctx, session, tenant, opts)
	}
	opts.Knex = m.knex != nil
	underWay := behind && r.Err == nil || unsettled(r)
	if !underWay && (r.Err != nil || len(r.Plan.Steps) == 0) {
		return r
	}
	history, err := m.lock(ctx, session, stop)
	if _, locked := errors.AsType[*LockedError](err); locked && behind {
		r = m.look(ctx, session, tenant, opts)
		if !unsettled(r) && (r.Err != nil || len(r.Plan.Steps) == 0) {
			return r // it needs no lock after all
		}
	}
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
	if len(history.KnexOpen) > 0 {
		if history, err = m.mend(ctx, session, history); err != nil {
			r.Err = err
			return r
		}
	}
	defer func() {
		if r.Err == nil && len(r.Plan.Steps) == 0 {
			keep(ctx, session)
		}
	}()
	for wait := time.Now().Add(m.lockWait); ; {
		r.History = history
		r.Plan, r.Err = m.plan(history, tenant, opts)
		if underWay || r.Err != nil { // not as it was seen before the lock, if it was
			r.Standing = Assess(m.set, history, opts.Policy)
			r.Stops = m.stops(r.Standing)
		}
		if r.Err == nil && r.Plan.RecordOnly {
			r.Done, r.Err = m.record(ctx, session, tenant, r.Plan, history)
		} else if r.Err == nil {
			r.Done, r.Err = m.carryOut(ctx, session, tenant, r.Plan, history, stop, listen)
		}
		// A Knex process that is at work in the tenant is waited for like a Skein.
		if !refusedFor(r.Err, ReasonKnexLocked) || len(r.Done) > 0 || !time.Now().Before(wait) {
			return r
		}
		select {
		case <-time.After(knexLockPause):
		case <-stop:
			return r
		case <-ctx.Done():
			return r
		}
		if history, err = session.History(ctx); err != nil {
			r.Err = err
			return r
		}
		underWay = true
	}
}

// unsettled says whether what was read may be the middle of something: a
// migration that began and did not end, and a lock of Knex's, may be those of
// someone who is at it right now. Under the lock it is known.
func unsettled(r Result) bool {
	return refusedFor(r.Err, ReasonPartial) || refusedFor(r.Err, ReasonKnexLocked) || len(r.History.KnexOpen) > 0
}

// lock takes the tenant's lock. A run that is asked to stop does not go on
// waiting for it: nothing has begun.
func (m *Migrator) lock(ctx context.Context, session Session, stop <-chan struct{}) (History, error) {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ended:
		}
	}()
	history, err := session.Lock(waiting, m.lockWait)
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		return History{}, ErrInterrupted
	}
	return history, err
}

// knexLockPause is the time between two looks at a lock of Knex's.
const knexLockPause = 200 * time.Millisecond

func refusedFor(err error, reason Reason) bool {
	refused, ok := errors.AsType[*RefusedError](err)
	return ok && refused.Reason == reason
}

// carryOut runs the steps of a plan under the lock: SQL migrations one by one,
// and Knex migrations that follow each other together.
func (m *Migrator) carryOut(ctx context.Context, session Session, tenant Tenant, plan Plan, history History, stop <-chan struct{}, listen Listener) ([]DoneStep, error) {
	if knex := slices.DeleteFunc(slices.Clone(plan.Steps), func(m *Migration) bool { return m.Kind != Knex }); len(knex) > 0 {
		if err := m.knex.Ready(ctx, knex); err != nil {
			return nil, err
		}
	}
	if plan.Direction == Up {
		if err := m.copyToKnex(ctx, session, history.lackingInKnex()); err != nil {
			return nil, err
		}
	}
	var all []DoneStep
	inKnex := rowsInKnex(history)
	for i := 0; i < len(plan.Steps); {
		select {
		case <-stop:
			return all, ErrInterrupted
		default:
		}
		end := i + 1
		for plan.Steps[i].Kind == Knex && end < len(plan.Steps) && plan.Steps[end].Kind == Knex {
			end++
		}
		var done []DoneStep
		var err error
		row, there := inKnex[plan.Steps[i].Name]
		switch {
		case plan.Steps[i].Kind == Knex:
			done, err = m.runKnex(ctx, session, tenant, plan, history, plan.Steps[i:end], stop, listen)
		case there && plan.Direction == Down:
			done, err = m.revertInKnex(ctx, session, tenant, row, m.stepsFrom(plan, i, history)[0], listen)
		default:
			done, err = m.runSQL(ctx, session, tenant, m.stepsFrom(plan, i, history), listen)
			end = i + len(done)
			if plan.Direction == Up && len(done) > 0 {
				err = cmp.Or(err, m.copyToKnex(ctx, session, stepNames(done)))
			}
		}
		if all = append(all, done...); err != nil {
			return all, err
		}
		i = end
	}
	return all, nil
}

// mostTogether bounds the steps that are sent together, as a run that is asked
// to stop does so after them.
const mostTogether = 16

// stepsFrom are the next SQL migration of a plan, as a step, and in a tenant
// where nothing has ever run those that can be sent together with it: what a
// fresh tenant takes is quick, as there is no data, and most of it is waiting.
func (m *Migrator) stepsFrom(plan Plan, i int, history History) []Step {
	most := 1
	fresh := plan.Direction == Up && len(history.Records) == 0 && m.timeout <= 0
	if fresh {
		most = mostTogether
	}
	var steps []Step
	for ; i < len(plan.Steps) && plan.Steps[i].Kind != Knex && len(steps) < most; i++ {
		migration := plan.Steps[i]
		steps = append(steps, Step{
			Migration: migration, Direction: plan.Direction, Batch: plan.Batch,
			Statements: m.sections[migration.Section(plan.Direction)], Began: plan.Began, From: plan.From,
			Done: doneBefore(plan, history, migration), Fresh: fresh, Last: i == len(plan.Steps)-1 && !m.knexHistory, // which is written behind it
		})
	}
	return steps
}

// doneBefore is how many statements of a migration have run by its record, where
// it is taken up again.
func doneBefore(plan Plan, history History, migration *Migration) int {
	i := slices.IndexFunc(history.Records, func(r Record) bool { return r.Name == migration.Name })
	if !plan.Began || i < 0 {
		return 0
	}
	return history.Records[i].Done
}

// runSQL applies the first of the steps, and as many after it as the session can
// together with it.
func (m *Migrator) runSQL(ctx context.Context, session Session, tenant Tenant, steps []Step, listen Listener) ([]DoneStep, error) {
	started := func(s Step) {
		listen(Event{Type: MigrationStarted, Time: time.Now(), Tenant: tenant, Migration: s.Migration, Direction: s.Direction})
	}
	ended := func(s Step, took time.Duration, err error) {
		listen(Event{Type: MigrationEnded, Time: time.Now(), Tenant: tenant, Migration: s.Migration, Direction: s.Direction, Duration: took, Err: err})
	}
	started(steps[0])
	var results []StepResult
	var err error
	start := time.Now()
	if together, ok := session.(TogetherApplier); ok && len(steps) > 1 {
		results, err = together.ApplyTogether(ctx, steps)
	} else {
		var result StepResult
		if result, err = m.apply(ctx, session, steps[0]); err == nil {
			results = []StepResult{result}
		}
	}
	var done []DoneStep
	for i, r := range results {
		if i > 0 {
			started(steps[i])
		}
		ended(steps[i], r.Duration, nil)
		done = append(done, DoneStep{Migration: steps[i].Migration, Direction: steps[i].Direction, Duration: r.Duration})
	}
	if err == nil {
		return done, nil
	}
	failed := len(results)
	for i := max(failed, 1); i < len(steps) && (i == failed || lost(err)); i++ {
		started(steps[i]) // what came of those that were sent is not known
	}
	took := time.Since(start)
	for _, r := range results {
		took -= r.Duration
	}
	ended(steps[failed], max(took, 0), err)
	return done, err
}

func (m *Migrator) record(ctx context.Context, session Session, tenant Tenant, plan Plan, history History) ([]DoneStep, error) {
	rows, err := m.recordInKnex(ctx, session, tenant, plan, history)
	if err != nil {
		return nil, err
	}
	records := planned(plan)
	done := make([]DoneStep, len(plan.Steps))
	for i, migration := range plan.Steps {
		if row, ok := rows[migration.Name]; ok {
			records[i].AppliedAt = row.AppliedAt
		}
		done[i] = DoneStep{Migration: migration, Direction: plan.Direction}
	}
	if plan.Direction == Down {
		if err := m.eraseSQLInKnex(ctx, session, plan, history); err != nil {
			return nil, err
		}
		if err := session.Erase(ctx, plan.Names()); err != nil {
			return nil, err
		}
		return done, nil
	}
	if err := session.Record(ctx, records); err != nil {
		return nil, err
	}
	var ours []string
	for _, migration := range plan.Steps {
		if migration.Kind != Knex {
			ours = append(ours, migration.Name)
		}
	}
	return done, m.copyToKnex(ctx, session, ours)
}

func stepNames(done []DoneStep) []string {
	out := make([]string, len(done))
	for i, d := range done {
		out[i] = d.Migration.Name
	}
	return out
}

// planned are the records of a plan whose steps are recorded and not run.
func planned(plan Plan) []Record {
	records := make([]Record, len(plan.Steps))
	now := time.Now()
	for i, migration := range plan.Steps {
		records[i] = Record{Name: migration.Name, State: Applied, Batch: plan.Batch, Checksum: migration.Checksum, AppliedAt: now}
	}
	return records
}
