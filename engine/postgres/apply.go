package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
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
		_, err = s.applyInTransactions(ctx, []skein.Step{step})
	}
	s.needsReset = true
	return skein.StepResult{Duration: time.Since(start)}, err
}

// ApplyTogether sends transactions that go up in one message. The server runs
// them one after the other, and none after one that fails. For six small
// migrations that is a tenth less of its work, and five waits less.
func (s *session) ApplyTogether(ctx context.Context, steps []skein.Step) ([]skein.StepResult, error) {
	if !s.locked {
		return nil, errNotLocked
	}
	n := 0
	for n < len(steps) && together(steps[n]) {
		n++
	}
	// Before PostgreSQL 13 the time of all statements of a message counts together.
	if n < 2 || s.version() < 13 {
		result, err := s.Apply(ctx, steps[0])
		if err != nil {
			return nil, err
		}
		return []skein.StepResult{result}, nil
	}
	results, err := s.applyInTransactions(ctx, steps[:n])
	s.needsReset = true
	return results, err
}

// together says whether a step can share a message with others.
func together(step skein.Step) bool {
	section := step.Migration.Section(step.Direction)
	return step.Direction == skein.Up && !step.Began && section != nil && !section.NoTransaction && section.Timeouts.IsZero()
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

// applyInTransactions sends steps in one message, each with its history row as
// one transaction. Statements are not sent one by one: the server then parses
// them all before it runs the first, and there is one answer to wait for. There
// is a result for each step that was applied; the error is that of the next.
func (s *session) applyInTransactions(ctx context.Context, steps []skein.Step) ([]skein.StepResult, error) {
	var m script
	before := s.state
	states := make([]tenantState, len(steps)) // that follow the steps
	records, commits := make([]int, len(steps)), make([]int, len(steps))
	for i, step := range steps {
		m.step = i
		m.add(setup, "BEGIN")
		s.prepare(&m)
		s.createHistory(&m)
		for j := step.From; j < len(step.Statements); j++ {
			m.add(part(j), step.Statements[j].Text)
		}
		// The record comes last, to know the duration. The migration may have changed
		// the role and the search path by then: the one is set back, and the table
		// named with its schema.
		m.add(record, "RESET SESSION AUTHORIZATION", "RESET ROLE")
		after := s.state.after(step)
		after.kept.anew = after.kept.anew || setsComment(step)
		records[i] = len(m.spans)
		if step.Direction == skein.Down {
			m.add(record, deleteRecord(s.table(), step.Migration.Name))
		} else {
			began := "pg_catalog.transaction_timestamp()"
			if i > 0 {
				// To the server a message is one point in time.
				began = "(SELECT applied_at FROM " + s.table() + " WHERE name = " + quoteLiteral(steps[i-1].Migration.Name) + ")"
			}
			insert := insertApplied(s.table(), s.state.lastID+1, s.engine.opts, step, began)
			if len(steps) > 1 {
				insert += " RETURNING EXTRACT(EPOCH FROM applied_at - started_at) * 1000"
			}
			m.add(record, insert)
		}
		s.keepFingerprint(&m, &after)
		commits[i] = len(m.spans)
		m.add(commit, "COMMIT")
		s.state, states[i] = after, after
		s.needsReset = true
	}
	if steps[len(steps)-1].Last && m.made == 0 && !s.owes {
		m.add(commit, unlockQuery(s.lockedKey()))
	}
	s.state = before

	results, err := s.run(ctx, &m)
	var applied []skein.StepResult
	for i, at := range commits {
		if len(results) <= at || results[at].tag != "COMMIT" {
			break
		}
		s.prepared()
		s.changed(&m, results, states[i])
		applied = append(applied, skein.StepResult{Duration: recordedDuration(results[records[i]])})
	}
	if len(applied) == len(steps) {
		// What came after the answer to the last COMMIT is the lock, if anything:
		// where that did not go well Unlock will say so.
		if last := commits[len(steps)-1] + 1; len(results) > last && len(results[last].row) == 1 && string(results[last].row[0]) == "t" {
			s.locked, s.released = false, true
		}
		return applied, nil
	}
	if err == nil {
		err = errRolledBack
	} else {
		s.rollBack(ctx)
	}
	at, offset := s.locate(&m, len(results), err)
	answer, answered := errors.AsType[*pgconn.PgError](err)
	if answered && !fatal(answer) && len(steps) > 1 && len(applied) == 0 && at.step != 0 {
		// The server has read the whole message, found that it cannot read it, and
		// run nothing: what comes before that can be applied.
		return s.applyInTransactions(ctx, steps[:max(at.step, 1)])
	}
	step := steps[len(applied)]
	if !answered && !errors.Is(err, errRolledBack) || answered && fatal(answer) {
		e := s.fail(ctx, err)
		if lost, ok := errors.AsType[*skein.DatabaseError](e); ok && lost.Class == skein.ConnectionLost {
			lost.Hint = "whether the migration was committed is not known here: the tenant's history says so"
		}
		return applied, fmt.Errorf("apply %s: %w", step.Migration.Name, e)
	}
	i := int(at.part)
	switch {
	case at.part == commit || at.part == nowhere: // a deferred constraint; a text that the server cannot read
		i = -1
	case at.part < 0:
		return applied, s.ownError(ctx, &m, results, err)
	}
	e := s.statementError(ctx, step, i, offset, err)
	e.Partial = step.Began // its record has not changed
	return applied, e
}

// recordedDuration is what was returned of a record in milliseconds, 0 if
// nothing was.
func recordedDuration(r result) time.Duration {
	if len(r.row) != 1 {
		return 0
	}
	millis, err := strconv.ParseFloat(string(r.row[0]), 64)
	if err != nil {
		return 0
	}
	return time.Duration(millis * float64(time.Millisecond))
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
func (s *session) locate(m *script, ended int, err error) (span, int) {
	if answer, ok := errors.AsType[*pgconn.PgError](err); ok && answer.Position > 0 {
		at := s.byteOffset(m.text.String(), int(answer.Position))
		for _, span := range slices.Backward(m.spans) {
			if span.from <= at {
				// Text that ends too early is found wrong at what Skein put after it.
				return span, min(at, span.to) - span.from
			}
		}
	}
	switch {
	case ended == 0:
		return span{step: -1, part: nowhere}, 0 // not even BEGIN ran
	case ended < len(m.spans):
		return m.spans[ended], 0
	}
	return m.spans[len(m.spans)-1], 0
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
		m.add(record, upsertRecords(r.table(), r.state.lastID, r.engine.opts, []skein.Record{{
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
func (r *stepRunner) Exec(ctx context.Context, i int) (ran int, err error) {
	share := r.conn.TxStatus() == 'I' && canShareTransaction(r.step.Statements[i].Text)
	err = r.exec(ctx, i, share)
	if share && r.answer != nil && r.answer.Code == activeTransaction {
		// An extension's statement that cannot. Nothing of it has run.
		err = r.exec(ctx, i, false)
	}
	if err != nil {
		return i, err
	}
	return i + 1, nil
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
			var at span
			at, offset = r.locate(&m, len(results), err)
			p = at.part
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
