package skein

import (
	"context"
	"errors"
	"fmt"
)

// A KnexRecorder is a [Session] that can write Knex's table without Knex. It is
// asked for SQL migrations alone, under the tenant's lock.
type KnexRecorder interface {
	// RecordInKnex copies the applied records with these names from Skein's table
	// to the end of Knex's, in their order, but for those that are there. Where
	// there are no tables of Knex's it makes them as Knex does.
	RecordInKnex(ctx context.Context, names []string) error
	// EraseInKnex takes the rows with these names out of Knex's table.
	EraseInKnex(ctx context.Context, names []string) error
}

// WithKnexHistory makes the migrator record SQL migrations in Knex's table too,
// and returns it. It is called before the migrator is used.
//
// The truth about them is Skein's own table: a row that is missing in Knex's is
// written when something is applied there the next time.
func (m *Migrator) WithKnexHistory(on bool) *Migrator {
	m.knexHistory = on
	return m
}

// lackingInKnex are the applied SQL migrations that Knex's table does not have.
func (h History) lackingInKnex() []string {
	var out []string
	for _, r := range h.Records {
		if !r.InKnex && r.State == Applied && !KnexName(r.Name) {
			out = append(out, r.Name)
		}
	}
	return out
}

// copyToKnex records applied SQL migrations in Knex's table, where that is
// wanted.
func (m *Migrator) copyToKnex(ctx context.Context, session Session, names []string) error {
	if !m.knexHistory || len(names) == 0 {
		return nil
	}
	recorder, err := knexRecorder(session)
	if err == nil {
		err = recorder.RecordInKnex(ctx, names)
	}
	if err != nil {
		return fmt.Errorf("record SQL migrations in Knex's table too (migrations.history): %w", err)
	}
	return nil
}

func knexRecorder(session Session) (KnexRecorder, error) {
	recorder, ok := session.(KnexRecorder)
	if !ok {
		return nil, errors.New("this engine cannot write Knex's table")
	}
	return recorder, nil
}

// eraseSQLInKnex takes the SQL migrations of a plan out of Knex's table.
func (m *Migrator) eraseSQLInKnex(ctx context.Context, session Session, plan Plan, history History) error {
	var theirs []string
	rows := rowsInKnex(history)
	for _, migration := range plan.Steps {
		if _, there := rows[migration.Name]; there && migration.Kind != Knex {
			theirs = append(theirs, migration.Name)
		}
	}
	if len(theirs) == 0 {
		return nil
	}
	recorder, err := knexRecorder(session)
	if err != nil {
		return err
	}
	return recorder.EraseInKnex(ctx, theirs)
}

// revertInKnex reverts a SQL migration that Knex's table has: by migrations.history,
// or since a Knex has run it that loads .sql files. Its row goes first, while
// Skein's own record says that it is applied: at any moment one of the two says
// what is true. Knex itself could not revert it.
func (m *Migrator) revertInKnex(ctx context.Context, session Session, tenant Tenant, record Record, step Step, listen Listener) ([]DoneStep, error) {
	recorder, err := knexRecorder(session)
	if err != nil {
		return nil, err
	}
	if record.By == "" && record.Checksum == "" { // it is in Knex's table alone
		record.By = "knex"
		if err := session.Record(ctx, []Record{record}); err != nil {
			return nil, err
		}
	}
	name := []string{record.Name}
	if err := recorder.EraseInKnex(ctx, name); err != nil {
		return nil, err
	}
	done, err := m.runSQL(ctx, session, tenant, []Step{step}, listen)
	if err == nil || lost(err) {
		return done, err
	}
	// If it is applied as it was, Knex's table is to say so as well.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	return done, errors.Join(err, recorder.RecordInKnex(ctx, name))
}
