package knex

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/skeinhq/skein"
)

// An attempt is a run on one worker after the other, until one has begun with
// it.
type attempt struct {
	target  skein.Target
	knex    skein.KnexRun
	request runMessage
	timeout time.Duration

	typescript bool
	steps      []skein.KnexStep
	began      []time.Time
	at         int      // the step under way, -1 between steps
	sessions   []string // at the server
	touched    bool     // Begin was called, or what runs needs none
	refusal    error    // what Begin returned
	keep       bool     // the worker can go on with another tenant
	raced      bool     // Knex's own tables were made by someone else at the same time
}

func (r *Runner) newAttempt(target skein.Target, run skein.KnexRun) (*attempt, error) {
	if run.RecordOnly {
		run.Output = func(*skein.Migration, string) {}
	}
	a := &attempt{
		target: target, knex: run, timeout: r.opts.Timeout, at: -1,
		steps: make([]skein.KnexStep, len(run.Steps)), began: make([]time.Time, len(run.Steps)),
		request: runMessage{
			Type: "run", Engine: target.Engine, Server: target.Server(), Direction: string(run.Direction), Record: run.RecordOnly, Table: r.opts.Table,
			Settings: sessionSettings(target.Engine, r.opts.LockTimeout, r.opts.StatementTimeout),
			Target: targetMessage{
				Host: cmp.Or(target.Host, "localhost"), Port: cmp.Or(target.Port, skein.DefaultPort(target.Engine)),
				Database: target.Database, Schema: target.Schema, User: target.User, Password: target.Password.Reveal(), Options: target.Options,
			},
		},
	}
	if a.request.Target.Options == nil {
		a.request.Target.Options = map[string]string{}
	}
	if target.Engine == skein.SQLite {
		// The worker's working directory is the project's.
		path, err := filepath.Abs(target.Database)
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", target.Database, err)
		}
		if _, err := os.Stat(path); err != nil {
			// The driver would make the file.
			return nil, &skein.DatabaseError{Class: skein.NoDatabase, Message: fmt.Sprintf("the file %s cannot be opened: %v", target.Database, cause(err))}
		}
		a.request.Target.Database = path
	}
	a.touched = run.RecordOnly
	for _, m := range run.Steps {
		if run.RecordOnly {
			a.request.Files = append(a.request.Files, fileMessage{Name: m.Name})
			continue
		}
		file, err := locate(m)
		if err != nil {
			return nil, err
		}
		a.request.Files = append(a.request.Files, file)
		a.typescript = a.typescript || isTypeScript(file.Path)
	}
	return a, nil
}

// locate finds a migration's file as Node will name it.
func locate(m *skein.Migration) (fileMessage, error) {
	path, err := filepath.Abs(m.Path)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return fileMessage{}, &skein.FileError{Path: m.Path, Msg: fmt.Sprintf("the file cannot be read, and Node has to load it: %v", cause(err))}
	}
	return fileMessage{Name: m.Name, Path: path}, nil
}

// sessionSettings is SQL that a new session of a migration's begins with.
func sessionSettings(engine string, lock, statement time.Duration) string {
	switch engine {
	case skein.PostgreSQL:
		// The server ends a statement whose client is gone: a Skein that was
		// killed leaves nothing at work.
		sql := "SELECT set_config('client_connection_check_interval', '2s', false)" +
			" WHERE current_setting('client_connection_check_interval', true) IS NOT NULL AND version() LIKE '%linux%'"
		if lock > 0 {
			sql += fmt.Sprintf("; SET lock_timeout = %d", max(1, lock.Milliseconds()))
		}
		if statement > 0 {
			sql += fmt.Sprintf("; SET statement_timeout = %d", max(1, statement.Milliseconds()))
		}
		return sql
	case skein.MySQL:
		if lock <= 0 && statement <= 0 {
			return ""
		}
		sql := "SET autocommit=1"
		if lock > 0 {
			seconds := int64((lock + time.Second - 1) / time.Second)
			sql += fmt.Sprintf(",lock_wait_timeout=%d,innodb_lock_wait_timeout=%d", seconds, seconds)
		}
		if statement > 0 {
			sql += fmt.Sprintf(" /*M!100101 ,max_statement_time=%.6f */ /*!50708 ,max_execution_time=%d */", statement.Seconds(), max(1, statement.Milliseconds()))
		}
		return sql
	}
	return ""
}

// run has the worker do the run. Afterwards the worker is used for another
// tenant only if keep is set.
func (a *attempt) run(ctx context.Context, w *worker) error {
	a.keep, a.raced = false, false
	if err := w.send(a.request); err != nil {
		return err
	}
	timer := time.NewTimer(loadTimeout)
	defer timer.Stop()
	var ending *message
	for marks := 0; ending == nil || marks < 2; {
		select {
		case e, open := <-w.events:
			switch {
			case !open:
				return a.lost(ctx, w, ending)
			case e.mark:
				marks++
			case e.message == nil:
				a.print(e)
			case e.message.Type == "done", e.message.Type == "failed", e.message.Type == "broken":
				ending = e.message
				timer.Reset(stopTimeout) // for the rest of the output
			default:
				if err := a.hear(ctx, w, e.message, timer); err != nil {
					return a.cutOff(ctx, w, err)
				}
			}
		case <-timer.C:
			if ending != nil {
				return a.end(ctx, w, ending)
			}
			return a.cutOff(ctx, w, a.tooLong())
		case <-ctx.Done():
			return a.cutOff(ctx, w, ctx.Err())
		}
	}
	return a.end(ctx, w, ending)
}

// hear takes a message from the middle of a run.
func (a *attempt) hear(ctx context.Context, w *worker, m *message, timer *time.Timer) error {
	switch m.Type {
	case "session":
		a.sessions = append(a.sessions, m.ID)
	case "begin":
		timer.Stop() // loading is done; Knex may wait for its lock
		steps := a.knex.Steps
		if m.Atomic {
			for i := range a.steps {
				a.steps[i].Transaction = true
			}
		} else {
			steps = steps[m.Step : m.Step+1]
			a.steps[m.Step].Transaction = m.Transaction
		}
		a.touched = true
		if a.refusal = a.knex.Begin(ctx, steps, m.Atomic); a.refusal != nil {
			why := "Skein could not note that it begins"
			if errors.Is(a.refusal, skein.ErrInterrupted) {
				why = "Skein was asked to stop, and this has not begun"
			}
			return w.send(stopMessage{Type: "stop", Message: why})
		}
		return w.send(typeMessage{Type: "go"})
	case "start":
		a.start(m.Step)
		if a.timeout > 0 {
			timer.Reset(a.timeout)
		}
	case "end":
		timer.Stop()
		a.at = -1
		a.steps[m.Step].Ended = true
		a.steps[m.Step].Duration = time.Duration(m.Micros) * time.Microsecond
	}
	return nil
}

func (a *attempt) start(step int) {
	a.at = step
	a.began[step] = time.Now()
	a.steps[step].Started = true
	a.steps[step].Begun = -1
	a.knex.Started(a.knex.Steps[step])
}

// print hands on a line of output.
func (a *attempt) print(e event) {
	var step *skein.Migration
	if e.step >= 0 && e.step < len(a.knex.Steps) {
		step = a.knex.Steps[e.step]
	}
	a.knex.Output(step, clean(e.line, a.target))
}

// end makes of the last message what came of the run.
func (a *attempt) end(ctx context.Context, w *worker, m *message) error {
	if m.Last >= 0 && m.Last < len(a.steps) {
		s := &a.steps[m.Last]
		s.Begun, s.Completed = m.Begun, m.Completed
		if !s.Ended {
			s.Failed = m.Type == "failed"
			s.Duration = time.Since(a.began[m.Last])
		}
	}
	if m.Type == "broken" {
		return a.lost(ctx, w, m)
	}
	w.memory = m.Memory
	a.keep = m.Left == ""
	if m.Left != "" {
		a.knex.Output(nil, fmt.Sprintf("skein: the migrations left %s behind: their Node process is replaced", m.Left))
		w.kill()
		if err := a.terminate(ctx); err != nil {
			return err
		}
	}
	if m.Error == nil {
		return nil
	}
	a.raced = m.Last < 0 && m.Error.Database && madeTwice(m.Error, a.request.Table)
	return a.fail(m)
}

// madeTwice says whether an error is that Knex's own table was there when it was
// made. Knex looks first, and does not expect that it may be between the two.
func madeTwice(e *errorMessage, table string) bool {
	statement := strings.ToLower(e.Statement)
	return strings.HasPrefix(statement, "create table") && strings.Contains(e.Statement, table) &&
		(e.Code == "42P07" || e.Code == "23505" || e.Code == "1050" || strings.Contains(e.Message, "already exists"))
}

// lost is the end of a run whose worker has ended.
func (a *attempt) lost(ctx context.Context, w *worker, m *message) error {
	w.kill()
	if !a.touched && m == nil {
		return errGone
	}
	if err := a.terminate(ctx); err != nil {
		return err
	}
	if m != nil {
		return a.fail(m)
	}
	gone := &goneError{words: clean(w.lastWords(), a.target)}
	if a.at < 0 {
		return gone
	}
	return a.statementError(a.at, gone)
}

// cutOff ends a run that may not go on, at the server too.
func (a *attempt) cutOff(ctx context.Context, w *worker, err error) error {
	w.end()
	// What it has said by now counts: a step may have begun, whose output came by
	// another way and was heard before that, or ended.
	for e := range w.events {
		switch {
		case e.message == nil && !e.mark:
			a.print(e)
		case e.message != nil && e.message.Type == "session":
			a.sessions = append(a.sessions, e.message.ID)
		case e.message != nil && e.message.Type == "start":
			a.start(e.message.Step)
		case e.message != nil && e.message.Type == "end":
			a.steps[e.message.Step].Ended = true
		}
	}
	if a.at >= 0 && !a.steps[a.at].Ended {
		a.steps[a.at].Duration = time.Since(a.began[a.at])
	}
	w.kill()
	if err2 := a.terminate(ctx); err2 != nil {
		return fmt.Errorf("%w; and %w", err, err2)
	}
	return err
}

// terminate ends what sessions the worker has left at the server.
func (a *attempt) terminate(ctx context.Context) error {
	if len(a.sessions) == 0 {
		return nil
	}
	ids := slices.Clone(a.sessions)
	a.sessions = nil
	if err := a.knex.Terminate(context.WithoutCancel(ctx), ids); err != nil {
		return fmt.Errorf("end the migration's sessions at the server: %w", err)
	}
	return nil
}

func (a *attempt) tooLong() error {
	switch {
	case a.knex.RecordOnly:
		return fmt.Errorf("recording the migrations in Knex's table took longer than %s", loadTimeout)
	case a.at < 0:
		return fmt.Errorf("loading the migrations took longer than %s", loadTimeout)
	}
	return a.statementError(a.at, &timeoutError{limit: a.timeout})
}
