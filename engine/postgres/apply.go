package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/engine/internal/stepwise"
)

// Apply runs one step under the lock and records it.
func (s *session) Apply(ctx context.Context, step skein.Step) (skein.StepResult, error) {
	if !s.locked {
		return skein.StepResult{}, errNotLocked
	}
	start := time.Now()
	section := step.Migration.Section(step.Direction)
	var err error
	if section != nil {
		err = s.setTimeouts(ctx, section.Timeouts)
	}
	if err != nil {
		return skein.StepResult{}, err
	}
	if section != nil && section.NoTransaction {
		err = stepwise.Run(ctx, step, &stepRunner{session: s, step: step, start: start})
	} else {
		err = s.applyInTransaction(ctx, step)
	}
	s.needsReset = true
	return skein.StepResult{Duration: time.Since(start)}, err
}

// setTimeouts bounds the session as a migration demands; the reset that is due
// after each migration undoes it. It is a message of its own, because a server
// before PostgreSQL 13 counts the time of all statements of a message together,
// by the timeout that was in force at its beginning.
func (s *session) setTimeouts(ctx context.Context, t skein.Timeouts) error {
	if t.IsZero() {
		return nil
	}
	var m script
	s.prepare(&m)
	for _, setting := range []struct {
		name  string
		value *time.Duration
	}{{lockTimeout, t.Lock}, {statementTimeout, t.Statement}, {idleTimeout, t.Idle}} {
		if setting.value != nil {
			m.add(setup, "SET "+setting.name+" TO "+milliseconds(*setting.value))
		}
	}
	s.needsReset = true
	if results, err := s.run(ctx, &m); err != nil {
		return s.ownError(ctx, &m, results, err)
	}
	s.prepared()
	return nil
}

// applyInTransaction sends the migration and its history row as one transaction
// in one message. Statements are not sent one by one: the server then parses
// them all before it runs the first, and there is one answer to wait for.
func (s *session) applyInTransaction(ctx context.Context, step skein.Step) error {
	var m script
	m.add(setup, "BEGIN")
	s.prepare(&m)
	s.createHistory(&m)
	for i := step.From; i < len(step.Statements); i++ {
		m.add(part(i), step.Statements[i].Text)
	}
	// The record comes last, to know the duration. The migration may have changed
	// the role and the search path by then: the one is set back, and the table
	// named with its schema.
	m.add(record, "RESET SESSION AUTHORIZATION", "RESET ROLE")
	after := s.state.after(step)
	after.kept.anew = after.kept.anew || setsComment(step)
	if step.Direction == skein.Down {
		m.add(record, deleteRecord(s.table(), step.Migration.Name))
	} else {
		m.add(record, insertApplied(s.table(), s.engine.opts, step))
	}
	s.keepFingerprint(&m, &after)
	m.add(commit, "COMMIT")

	results, err := s.commit(ctx, &m, after)
	if err == nil {
		return nil
	}
	answer, ok := errors.AsType[*pgconn.PgError](err)
	if !ok && !errors.Is(err, errRolledBack) || ok && fatal(answer) {
		e := s.fail(ctx, err)
		if lost, ok := errors.AsType[*skein.DatabaseError](e); ok && lost.Class == skein.ConnectionLost {
			lost.Hint = "whether the migration was committed is not known here: the tenant's history says so"
		}
		return fmt.Errorf("apply %s: %w", step.Migration.Name, e)
	}
	p, offset := s.locate(&m, len(results), err)
	i := int(p)
	switch {
	case p == commit || p == nowhere: // a deferred constraint; a text that the server cannot read
		i = -1
	case p < 0:
		return s.ownError(ctx, &m, results, err)
	}
	e := s.statementError(ctx, step, i, offset, err)
	e.Partial = step.Began // its record has not changed
	return e
}

// statementError is the error of statement i of a step, -1 if it is not known
// which, found by the server at an offset in bytes of its text.
func (s *session) statementError(ctx context.Context, step skein.Step, i, offset int, err error) *skein.StatementError {
	if !errors.Is(err, errRolledBack) {
		err = s.fail(ctx, err)
		e, ok := errors.AsType[*skein.DatabaseError](err)
		switch {
		case !ok || e.Hint != "":
		case e.Code == activeTransaction || e.Code == invalidTermination:
			e.Hint = noTransactionHint
		case e.Class == skein.Denied:
			e.Hint = rightHint(e.Message, s.target.User)
		}
	} else {
		err = &skein.DatabaseError{Class: skein.Permanent, Code: "40000", Message: err.Error()}
	}
	e := stepwise.Fail(step, i, err)
	if e.Index > 0 {
		e.Line += strings.Count(step.Statements[i].Text[:offset], "\n")
	}
	return e
}

// nowhere is the part of a script that is meant by an error which is about the
// whole of it.
const nowhere part = -100

// locate says which statement of a script failed, and at which offset in bytes
// of its text, given how many ended before.
func (s *session) locate(m *script, ended int, err error) (part, int) {
	if answer, ok := errors.AsType[*pgconn.PgError](err); ok && answer.Position > 0 {
		at := s.byteOffset(m.text.String(), int(answer.Position))
		for _, span := range slices.Backward(m.spans) {
			if span.from <= at {
				// Text that ends too early is found wrong at what Skein put after it.
				return span.part, min(at, span.to) - span.from
			}
		}
	}
	switch {
	case ended == 0:
		return nowhere, 0 // not even BEGIN ran
	case ended < len(m.spans):
		return m.spans[ended].part, 0
	}
	return commit, 0
}

// byteOffset is the offset of the character that a server counts as number
// position, from 1. In a database without an encoding characters are bytes.
func (s *session) byteOffset(text string, position int) int {
	if s.conn.ParameterStatus("server_encoding") == "SQL_ASCII" {
		return min(position-1, len(text))
	}
	at := 0
	for range position - 1 {
		_, n := utf8.DecodeRuneInString(text[at:])
		at += n
	}
	return at
}

// A stepRunner applies a migration that is not one transaction.
type stepRunner struct {
	*session
	step  skein.Step
	start time.Time

	recorded int             // statements that were recorded together with themselves
	answer   *pgconn.PgError // of the last statement that failed, if the server answered
	atomic   bool            // whether that statement was one transaction
	was      string          // SQL that sets back the record of a down
	before   tenantState     // when the step had not begun
}

// asLoginRole makes the rest of a transaction run as the role that logged in,
// whatever role the migration has set for its own statements.
var asLoginRole = []string{"SET LOCAL SESSION AUTHORIZATION DEFAULT", "SET LOCAL ROLE NONE"}

func (r *stepRunner) Begin(ctx context.Context) error {
	name, total := r.step.Migration.Name, len(r.step.Statements)
	var m script
	m.add(setup, "BEGIN")
	r.prepare(&m)
	r.createHistory(&m)
	prints := skein.Fingerprints(r.step.Statements)
	r.before = r.state
	after := r.state.with(skein.Record{Name: name, State: skein.Applying})
	selected := len(m.spans)
	if r.step.Direction == skein.Down {
		m.add(record,
			"SELECT done, total, EXTRACT(EPOCH FROM started_at) FROM "+r.table()+" WHERE name = "+quoteLiteral(name)+" FOR UPDATE",
			fmt.Sprintf("UPDATE %s SET state = 'reverting', done = %d, total = %d, fingerprints = %s, started_at = pg_catalog.clock_timestamp() WHERE name = %s",
				r.table(), r.step.From, total, quoteLiteral(prints), quoteLiteral(name)))
	} else {
		m.add(record, upsertRecords(r.table(), r.engine.opts, []skein.Record{{
			Name: name, State: skein.Applying, Batch: r.step.Batch, Checksum: r.step.Migration.Checksum,
			Done: r.step.From, Total: total, Fingerprints: prints,
		}}))
	}
	r.keepFingerprint(&m, &after)
	m.add(commit, "COMMIT")
	results, err := r.commit(ctx, &m, after)
	if err != nil {
		return r.ownError(ctx, &m, results, err)
	}
	r.state.kept.anew = r.state.kept.anew || setsComment(r.step)
	if row := results[selected].row; r.step.Direction == skein.Down && row != nil {
		r.was = fmt.Sprintf("UPDATE %s SET state = 'applied', done = %s, total = %s, fingerprints = NULL, started_at = pg_catalog.to_timestamp(%s) WHERE name = %s",
			r.table(), row[0], row[1], row[2], quoteLiteral(name))
	}
	return nil
}

// Exec runs statement i. One that can share a transaction shares one with the
// record that it has run.
func (r *stepRunner) Exec(ctx context.Context, i int) error {
	share := r.conn.TxStatus() == 'I' && canShareTransaction(r.step.Statements[i].Text)
	err := r.exec(ctx, i, share)
	if share && r.answer != nil && r.answer.Code == activeTransaction {
		// An extension's statement that cannot. Nothing of it has run.
		err = r.exec(ctx, i, false)
	}
	return err
}

func (r *stepRunner) exec(ctx context.Context, i int, share bool) error {
	var m script
	m.add(part(i), r.step.Statements[i].Text)
	after := r.state
	if share {
		m.add(record, asLoginRole...)
		after = r.note(&m, i+1)
	}
	results, err := r.run(ctx, &m)
	if err == nil {
		r.state = after
		if share {
			r.recorded = i + 1
		}
		return nil
	}
	r.answer, _ = errors.AsType[*pgconn.PgError](err)
	r.atomic = share
	p, offset := part(i), 0
	if r.answer != nil {
		r.rollBack(ctx)
		if len(results) > 0 || r.answer.Position > 0 {
			p, offset = r.locate(&m, len(results), err)
		}
	}
	if p < 0 {
		return r.ownError(ctx, &m, results, err)
	}
	e := r.statementError(ctx, r.step, i, offset, err)
	r.addLeftovers(ctx, r.step.Statements[i].Text, e)
	return e
}

// note adds to a script that the first done statements have run, and returns the
// state that the tenant is in when the script has.
func (r *stepRunner) note(m *script, done int) tenantState {
	m.add(record, r.progress(done))
	if done < len(r.step.Statements) {
		return r.state
	}
	return r.conclude(m, r.before.after(r.step))
}

// conclude adds the fingerprint of a state that the tenant comes to.
func (r *stepRunner) conclude(m *script, state tenantState) tenantState {
	state.kept, state.hasHistory = r.state.kept, true
	r.keepFingerprint(m, &state)
	return state
}

// progress is SQL that records that the first done statements have run.
func (r *stepRunner) progress(done int) string {
	name, total := r.step.Migration.Name, len(r.step.Statements)
	switch {
	case done < total:
		return fmt.Sprintf("UPDATE %s SET done = %d WHERE name = %s", r.table(), done, quoteLiteral(name))
	case r.step.Direction == skein.Down:
		return deleteRecord(r.table(), name)
	}
	return fmt.Sprintf("UPDATE %s SET state = 'applied', done = total, fingerprints = NULL, applied_at = pg_catalog.clock_timestamp(), duration_ms = %d WHERE name = %s",
		r.table(), time.Since(r.start).Milliseconds(), quoteLiteral(name))
}

func (r *stepRunner) Progress(ctx context.Context, done int) error {
	if done <= r.recorded {
		return nil
	}
	if r.conn.TxStatus() != 'I' {
		return nil // a transaction of the migration's own: nothing of it has stayed yet
	}
	return r.write(ctx, func(m *script) tenantState { return r.note(m, done) })
}

func (r *stepRunner) Finish(ctx context.Context) error {
	total := len(r.step.Statements)
	if r.recorded == total && total > 0 {
		return nil
	}
	if r.conn.TxStatus() != 'I' {
		r.rollBack(ctx)
		return errors.New("the migration ends inside of a transaction that it began: its COMMIT is missing, and what it did in there was rolled back")
	}
	return r.write(ctx, func(m *script) tenantState { return r.note(m, total) })
}

func (r *stepRunner) TakeBack(ctx context.Context) error {
	sql := r.was
	if r.step.Direction == skein.Up {
		sql = deleteRecord(r.table(), r.step.Migration.Name)
	}
	return r.write(ctx, func(m *script) tenantState {
		m.add(record, sql)
		return r.conclude(m, r.before)
	})
}

// write changes the record of the migration with what change adds to a script.
func (r *stepRunner) write(ctx context.Context, change func(*script) tenantState) error {
	var m script
	m.add(setup, "BEGIN")
	m.add(setup, asLoginRole...)
	after := change(&m)
	m.add(commit, "COMMIT")
	if results, err := r.commit(ctx, &m, after); err != nil {
		return r.ownError(ctx, &m, results, err)
	}
	return nil
}

// NothingStayed is certain of a statement that was a transaction. Of others,
// which commit several times while they run, it is certain when the server did
// not find what the statement names, as it looks for that first; within a
// function, which the context of the answer would say, it may look later.
func (r *stepRunner) NothingStayed(i int, _ error) bool {
	switch {
	case r.answer == nil || fatal(r.answer):
		return false
	case r.atomic:
		return true
	}
	return strings.HasPrefix(r.answer.Code, "42") && r.answer.Where == "" && !runsCode(r.step.Statements[i].Text)
}
