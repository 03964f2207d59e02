// Package stepwise carries out a migration that cannot be one transaction: it
// is recorded as begun before its first statement, and how far it came after
// each, so that what is half done is found again and named exactly.
package stepwise

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/secret"
)

// recordTimeout bounds writing a record for a run that is being abandoned.
const recordTimeout = 10 * time.Second

// A Runner carries out one step on one session. Its methods are called by one
// goroutine, in the order that Run documents. Their errors are those that an
// engine returns: cleaned, and a *skein.DatabaseError where the database or the
// way to it is the cause.
type Runner interface {
	// Begin records the step as begun, with the first step.From of its statements
	// done: as skein.Applying for an up, as skein.Reverting for a down. It may
	// leave that to the first Exec, which does it before anything runs; its error
	// is then a [NotBegunError].
	Begin(ctx context.Context) error
	// Exec runs statement i of the step, counted from 0, and may go on with those
	// after it where it records each as Progress does. It returns how many of the
	// step's statements have run: an error is that of the next one. -1 stands for
	// a number that is not known, beside the error that is the reason. An error
	// that knows the line better than the statement's first is made with [Fail].
	Exec(ctx context.Context, i int) (ran int, err error)
	// Progress records that the first done statements have run. It is not
	// called for the last statement, nor need it do anything if Exec recorded
	// this together with the statement, which is better where it can be had.
	Progress(ctx context.Context, done int) error
	// Finish records the step as done: an up as skein.Applied and without
	// fingerprints, a down by deleting its record.
	Finish(ctx context.Context) error
	// NothingStayed says whether it is certain that statement i, which failed
	// with err, left the database as it was.
	NothingStayed(i int, err error) bool
	// TakeBack makes the record what it was before Begin: none for an up,
	// skein.Applied for a down.
	TakeBack(ctx context.Context) error
}

// A NotBegunError is why a step could not be recorded as begun: nothing of it has
// run.
type NotBegunError struct{ Err error }

func (e *NotBegunError) Error() string { return "record the migration as begun: " + e.Err.Error() }

func (e *NotBegunError) Unwrap() error { return e.Err }

// Run carries out a step: Begin; for each statement from step.From on Exec and
// then Progress, or Finish after the last. When a statement fails the record
// stays as it is and the error is a *skein.StatementError with Partial set, and
// Exact if NothingStayed of it. Only when that was the first statement of a step
// that had not begun before, and NothingStayed of it, TakeBack is called and
// neither is set. When it was the first of a step that was begun anew, and
// NothingStayed of it, the record says again how far the step had come.
//
// When ctx ends, the statement that had run by then is still recorded.
func Run(ctx context.Context, step skein.Step, r Runner) error {
	if err := r.Begin(ctx); err != nil {
		return &NotBegunError{err}
	}
	total := len(step.Statements)
	if step.From >= total {
		return r.Finish(ctx)
	}
	for i := step.From; i < total; {
		if err := ctx.Err(); err != nil {
			return failed(ctx, step, r, i, err, true)
		}
		ran, err := r.Exec(ctx, i)
		if _, not := errors.AsType[*NotBegunError](err); not {
			return err
		}
		if err != nil {
			return failed(ctx, step, r, ran, err, ran >= 0 && r.NothingStayed(ran, err))
		}
		if ran <= i {
			return failed(ctx, step, r, i, errors.New("the statement did not run, and the server named no error"), false)
		}
		i = ran
		if err := record(ctx, r, ran, total); err != nil {
			e := Fail(step, ran-1, fmt.Errorf("the statement has run, but that could not be recorded: %w", err))
			e.Partial = true
			return e
		}
	}
	return nil
}

func record(ctx context.Context, r Runner, done, total int) error {
	// A statement that has run is recorded also when the run is abandoned.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	if done == total {
		return r.Finish(ctx)
	}
	return r.Progress(ctx, done)
}

func failed(ctx context.Context, step skein.Step, r Runner, i int, err error, nothingStayed bool) error {
	e := Fail(step, i, err)
	e.Partial, e.Exact = true, nothingStayed
	if i == 0 && nothingStayed && !step.Began {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
		defer cancel()
		e.Partial = r.TakeBack(ctx) != nil
		e.Exact = e.Partial
	}
	if i == 0 && nothingStayed && step.Done > 0 {
		// It was begun anew where what it did before is still there.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
		defer cancel()
		if r.Progress(ctx, step.Done) == nil {
			e.Kept = step.Done
		}
	}
	return e
}

// Fail is the error of a step whose statement i, counted from 0, failed with
// err; -1 stands for a statement that is not known. Passwords that the statement
// gives to roles are taken out of its text. An err that is a
// *skein.StatementError already is returned as it is.
func Fail(step skein.Step, i int, err error) *skein.StatementError {
	if e, ok := errors.AsType[*skein.StatementError](err); ok {
		return e
	}
	e := &skein.StatementError{
		Migration: step.Migration.Name, Direction: step.Direction, Path: step.Migration.Path,
		Total: len(step.Statements), Err: err,
	}
	if section := step.Migration.Section(step.Direction); section != nil && section.Path != "" {
		e.Path = section.Path
	}
	if i >= 0 && i < len(step.Statements) {
		e.Index, e.Line, e.Statement = i+1, step.Statements[i].Line, secret.Scrub(step.Statements[i].Text)
	}
	return e
}
