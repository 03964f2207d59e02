package skein

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A KnexRunner runs Knex migrations by the Knex that belongs to their project;
// package knex has one. It is safe for concurrent use.
type KnexRunner interface {
	// Ready says why the migrations cannot be run at all: there is no Node, the
	// project has no Knex. It is asked before a plan with them is begun, which
	// may have SQL migrations to run first.
	Ready(ctx context.Context, steps []*Migration) error
	// Run applies or reverts migrations in one tenant, as one call of Knex's own
	// migrator does: lock, batch, transactions and the rows of knex_migrations
	// are Knex's. What it knows of each step is in the result, also beside an
	// error; what came of them only the tenant's history can say.
	//
	// An error of a migration's own is a *StatementError.
	Run(ctx context.Context, target Target, run KnexRun) (KnexResult, error)
}

// A KnexRun is what a KnexRunner is to do. Its functions are called by Run, from
// its own goroutine.
type KnexRun struct {
	// Steps are in the order in which they are to run.
	Steps     []*Migration
	Direction Direction
	// RecordOnly says that Knex is to write its rows, or with Down to take them
	// out, in one transaction where it can, and that nothing of the steps runs:
	// their files need not be there, and of the functions only Terminate is
	// called.
	RecordOnly bool

	// Begin is called before anything of the steps runs: once for all of them if
	// they are one transaction, and otherwise for each by itself. An error keeps
	// them from running, and ends the run.
	Begin func(ctx context.Context, steps []*Migration, whole bool) error
	// Started is called when a step begins.
	Started func(*Migration)
	// Output is called with each line that a step prints; the step is nil while
	// the files are loaded.
	Output func(step *Migration, line string)
	// Terminate ends sessions at the server, by the database's own ids for them.
	// It is called when a worker was lost that may have left them at work.
	Terminate func(ctx context.Context, ids []string) error
}

// A KnexResult is what a KnexRunner knows of a run.
type KnexResult struct {
	// Steps are those of the KnexRun, in its order.
	Steps []KnexStep
}

// A KnexStep is what is known of a Knex migration that was to run.
type KnexStep struct {
	Started, Ended bool
	// Failed says that the step ended with an error, and that Knex did then what
	// it does: otherwise a step that did not end was cut off.
	Failed bool
	// Transaction says that the step was in a transaction: its own, or that of
	// the whole run.
	Transaction bool
	// Begun and Completed count the statements that the step sent to the
	// database, and those of them that succeeded. Begun is -1 if that is not
	// known.
	Begun, Completed int
	Duration         time.Duration
}

// A Terminator is a [Session] that can end other sessions of its tenant's role.
type Terminator interface {
	// Terminate ends the sessions with these ids, the database's own for them,
	// as far as they are in the session's database, and waits until they are
	// gone.
	Terminate(ctx context.Context, ids []string) error
}

// ErrUndone is the error of a Knex migration that ran to its end and was undone
// because a later one broke, whose transaction it shared.
var ErrUndone = errors.New("undone with the migration that broke, whose transaction it shared")

// ErrKnexLocked is the error of a [KnexRunner] that met Knex's lock: nothing ran.
var ErrKnexLocked = errors.New("the lock of Knex is set in this tenant")

// settleTimeout bounds the time for writing down what came of Knex migrations,
// when the run itself was stopped.
const settleTimeout = 30 * time.Second

// A knexGroup is a run of Knex's in one tenant under way.
type knexGroup struct {
	*Migrator
	session Session
	tenant  Tenant
	plan    Plan
	steps   []*Migration
	stop    <-chan struct{}
	listen  Listener

	was   map[string]Record // as they were before the run
	noted []*Migration
	whole bool // the steps are one transaction
}

// runKnex carries out consecutive steps of a plan by Knex. Done are those that
// the tenant's history then shows as done.
func (m *Migrator) runKnex(ctx context.Context, session Session, tenant Tenant, plan Plan, history History, steps []*Migration, stop <-chan struct{}, listen Listener) (done []DoneStep, err error) {
	g := &knexGroup{Migrator: m, session: session, tenant: tenant, plan: plan, steps: steps, stop: stop, listen: listen, was: make(map[string]Record)}
	for _, r := range history.Records {
		g.was[r.Name] = r
	}
	run := KnexRun{
		Steps: steps, Direction: plan.Direction,
		Begin: g.begin,
		Started: func(step *Migration) {
			listen(Event{Type: MigrationStarted, Time: time.Now(), Tenant: tenant, Migration: step, Direction: plan.Direction})
		},
		Output: func(step *Migration, line string) {
			listen(Event{Type: MigrationOutput, Time: time.Now(), Tenant: tenant, Migration: step, Direction: plan.Direction, Output: line})
		},
		Terminate: terminator(session),
	}
	result, err := m.knex.Run(ctx, tenant.Target, run)
	if errors.Is(err, ErrKnexLocked) {
		err = refuseKnexLock()
	}
	return g.settle(ctx, result, err)
}

// begin notes in the tenant's history what is about to run. A run that was asked
// to stop, while it waited for a worker or ran the step before, begins nothing.
func (g *knexGroup) begin(ctx context.Context, steps []*Migration, whole bool) error {
	select {
	case <-g.stop:
		return ErrInterrupted
	default:
	}
	g.whole = whole
	records := make([]Record, len(steps))
	for i, m := range steps {
		r := Record{Name: m.Name, State: Applying, Batch: g.plan.Batch, Checksum: m.Checksum, AppliedAt: time.Now()}
		if g.plan.Direction == Down {
			r = g.was[m.Name]
			r.State, r.Done = Reverting, 0
		}
		if !whole {
			// How many statements it has is not known before it runs; that it has
			// one says that a part of it may stay.
			r.Total = 1
		}
		records[i] = r
	}
	if err := g.session.Record(ctx, records); err != nil {
		return fmt.Errorf("note what begins: %w", err)
	}
	g.noted = append(g.noted, steps...)
	return nil
}

// settle writes down what came of the run, as Knex's own table shows it.
func (g *knexGroup) settle(ctx context.Context, result KnexResult, runErr error) ([]DoneStep, error) {
	// What has run has to be written down also when the run was stopped.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	history, err := g.session.History(ctx)
	if err != nil {
		return nil, errors.Join(runErr, fmt.Errorf("read what Knex has done: %w", err))
	}
	inKnex := rowsInKnex(history)

	var done []DoneStep
	var records []Record
	var erase []string
	var broke *StatementError
	errors.As(runErr, &broke)
	for i, m := range g.steps {
		var step KnexStep
		if i < len(result.Steps) {
			step = result.Steps[i]
		}
		row, there := inKnex[m.Name]
		var stepErr error
		switch up := g.plan.Direction == Up; {
		case there == up && !step.Started:
			// Somebody else's Knex has done it, while this one waited for its lock.
			if !up || g.plan.Began || slices.Contains(g.noted, m) {
				erase = append(erase, m.Name)
			}
		case up && there:
			records = append(records, Record{
				Name: m.Name, State: Applied, Batch: g.plan.Batch, Checksum: m.Checksum,
				AppliedAt: row.AppliedAt, Duration: step.Duration,
			})
			done = append(done, DoneStep{Migration: m, Direction: Up, Duration: step.Duration})
		case !up && !there:
			erase = append(erase, m.Name)
			done = append(done, DoneStep{Migration: m, Direction: Down, Duration: step.Duration})
		default:
			stepErr = g.undone(m, step, &records, &erase, broke)
			if stepErr == nil {
				stepErr = runErr
			}
			if runErr == nil {
				// Knex says that it is done and its table says that it is not.
				runErr = fmt.Errorf("%s: Knex ended without an error, and its table in the tenant does not show the migration as %s", m.Name, pastOf(g.plan.Direction))
				stepErr = runErr
			}
		}
		if step.Started {
			g.listen(Event{
				Type: MigrationEnded, Time: time.Now(), Tenant: g.tenant, Migration: m, Direction: g.plan.Direction,
				Duration: step.Duration, Err: stepErr,
			})
		}
	}
	if err := g.session.Record(ctx, records); err != nil {
		return done, errors.Join(runErr, fmt.Errorf("record what Knex has done: %w", err))
	}
	if err := g.session.Erase(ctx, erase); err != nil {
		return done, errors.Join(runErr, fmt.Errorf("record what Knex has done: %w", err))
	}
	return done, runErr
}

func pastOf(d Direction) string {
	if d == Down {
		return "reverted"
	}
	return "applied"
}

// recordInKnex has Knex record the steps of a plan that are its, where its table
// does not say of them what the plan does: a baseline, or a migration that was
// settled by hand. It returns what Knex's table says then.
//
// What Knex writes and what Skein writes afterwards are not one transaction. So a
// baseline is noted first: whoever finds the notes and no end of it learns from
// Knex's table whether it was done (see mend).
func (m *Migrator) recordInKnex(ctx context.Context, session Session, tenant Tenant, plan Plan, history History) (map[string]Record, error) {
	rows := rowsInKnex(history)
	var steps []*Migration
	for _, step := range plan.Steps {
		if _, there := rows[step.Name]; step.Kind == Knex && there != (plan.Direction == Up) {
			steps = append(steps, step)
		}
	}
	if len(steps) == 0 {
		return rows, nil
	}
	if err := m.knex.Ready(ctx, steps); err != nil {
		return nil, err
	}
	baseline := plan.Direction == Up && len(history.Records) == 0
	if baseline {
		notes := planned(plan)
		for i := range notes {
			notes[i].State = Applying
		}
		if err := session.Record(ctx, notes); err != nil {
			return nil, fmt.Errorf("note what begins: %w", err)
		}
	}
	_, runErr := m.knex.Run(ctx, tenant.Target, KnexRun{
		Steps: steps, Direction: plan.Direction, RecordOnly: true,
		Terminate: terminator(session),
	})
	if errors.Is(runErr, ErrKnexLocked) {
		runErr = refuseKnexLock()
	}

	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	history, err := session.History(ctx)
	if err != nil {
		return nil, errors.Join(runErr, fmt.Errorf("read what Knex has recorded: %w", err))
	}
	rows = rowsInKnex(history)
	for _, step := range steps {
		if _, there := rows[step.Name]; there == (plan.Direction == Up) {
			continue
		}
		if runErr == nil {
			runErr = fmt.Errorf("%s: Knex ended without an error, and its table in the tenant does not show the migration as %s", step.Name, pastOf(plan.Direction))
		}
		if baseline {
			if err := session.Erase(ctx, plan.Names()); err != nil {
				return nil, errors.Join(runErr, err)
			}
		}
		return nil, runErr
	}
	return rows, nil
}

func rowsInKnex(h History) map[string]Record {
	rows := make(map[string]Record, len(h.Records))
	for _, r := range h.Records {
		if r.InKnex {
			rows[r.Name] = r
		}
	}
	return rows
}

func terminator(session Session) func(context.Context, []string) error {
	return func(ctx context.Context, ids []string) error {
		if t, ok := session.(Terminator); ok {
			return t.Terminate(ctx, ids)
		}
		return nil
	}
}

// undone decides about a step that Knex's table does not show as done.
func (g *knexGroup) undone(m *Migration, step KnexStep, records *[]Record, erase *[]string, broke *StatementError) error {
	mine := broke != nil && broke.Migration == m.Name
	if !slices.Contains(g.noted, m) {
		return nil // it had not begun
	}
	if g.plan.Began && !step.Started {
		*records = append(*records, g.was[m.Name]) // as it was
		return nil
	}
	if !g.plan.Began && g.nothingStayed(step) {
		if g.plan.Direction == Up {
			*erase = append(*erase, m.Name)
		} else if r := g.was[m.Name]; r.Checksum != "" || r.By != "" {
			*records = append(*records, r)
		} else {
			*erase = append(*erase, m.Name) // only Knex had recorded it
		}
		if step.Ended && !mine {
			if broke != nil {
				broke.Undone = append(broke.Undone, m.Name)
			}
			return ErrUndone
		}
		return nil
	}
	r := Record{Name: m.Name, State: Applying, Batch: g.plan.Batch, Checksum: m.Checksum, AppliedAt: time.Now().Add(-step.Duration)}
	if g.plan.Direction == Down {
		r = g.was[m.Name]
		r.State = Reverting
	}
	r.Done, r.Total = step.Completed, max(1, step.Begun)
	*records = append(*records, r)
	if mine {
		broke.Partial = true
	}
	return nil
}

// nothingStayed says whether it is certain that the database has nothing of a
// step which its history does not show as done.
func (g *knexGroup) nothingStayed(step KnexStep) bool {
	switch {
	case !step.Started, step.Begun == 0 && !step.Ended, g.whole && g.rollsBack():
		return true
	case step.Transaction && g.rollsBack():
		// A transaction of its own commits between its end and its row.
		return !step.Ended
	}
	// On MySQL a transaction does not hold what changes the schema. A first
	// statement that failed changed nothing.
	return step.Failed && step.Begun == 1 && step.Completed == 0
}

// rollsBack says whether transactions of the engine hold all that a migration
// can do in one.
func (g *knexGroup) rollsBack() bool { return g.engine.Name() != MySQL }

// mend writes down what became of the Knex migrations that a Skein which died
// had noted, and takes away the lock that its worker left. It is called under
// the tenant's lock, and returns the history as it is then.
func (m *Migrator) mend(ctx context.Context, session Session, history History) (History, error) {
	if history.KnexLocked {
		if keeper, ok := session.(LockKeeper); ok {
			if _, err := keeper.ClearKnexLock(ctx); err != nil {
				return history, err
			}
		}
	}
	var records []Record
	var erase []string
	rows := rowsInKnex(history)
	// The SQL migrations of a baseline are recorded if Knex's are.
	recorded := !slices.ContainsFunc(history.KnexOpen, func(note Record) bool {
		_, there := rows[note.Name]
		return KnexName(note.Name) && !there
	})
	for _, note := range history.KnexOpen {
		i := slices.IndexFunc(history.Records, func(r Record) bool { return r.Name == note.Name })
		switch {
		case i < 0 && recorded && !KnexName(note.Name):
			note.State = Applied
			records = append(records, note)
		case i < 0:
			erase = append(erase, note.Name)
		case !history.Records[i].Partial():
			records = append(records, history.Records[i])
		}
	}
	if err := session.Record(ctx, records); err != nil {
		return history, err
	}
	if err := session.Erase(ctx, erase); err != nil {
		return history, err
	}
	return session.History(ctx)
}
