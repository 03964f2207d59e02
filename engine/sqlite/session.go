package sqlite

import (
	"cmp"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/engine/internal/stepwise"
)

// timeLayout is how times are written: as SQLite's own functions do.
const timeLayout = "2006-01-02 15:04:05.000"

type session struct {
	engine *Engine
	path   string // absolute
	conn   connection
	lock   *fileLock // nil without
	// used says that a migration may have left settings, attached files or
	// temporary tables in conn. What comes next must not depend on whether it
	// runs in the same session, so that it gets a new connection.
	used bool
	// bounded says that the connection's busy timeout is a migration's.
	bounded bool
	// alone is set when steps that shared a transaction have failed.
	alone bool
	// statementTimeout is that of the migration that runs, 0: none.
	statementTimeout time.Duration
}

var (
	_ skein.Session         = (*session)(nil)
	_ skein.TogetherApplier = (*session)(nil)
	_ skein.KnexRecorder    = (*session)(nil)
	_ skein.LockKeeper      = (*session)(nil)
)

func (s *session) History(ctx context.Context) (skein.History, error) {
	var h skein.History
	sql := s.engine.sql
	err := s.query(ctx, sql.tables, len(sql.parts), func(row []driver.Value) (err error) {
		var parts []string
		for i, part := range sql.parts {
			if integer(row[i]) > 0 {
				parts = append(parts, part)
			}
		}
		if len(parts) > 0 {
			// As long as the outer statement has not ended, its transaction goes
			// on: both see the file at one moment, and it is locked once.
			if h, err = s.read(ctx, strings.Join(parts, " UNION ALL ")); err != nil {
				err = s.foreignTable(ctx, parts, err)
			}
		}
		return err
	})
	if err != nil {
		return skein.History{}, fmt.Errorf("read history: %w", err)
	}
	return h, nil
}

// foreignTable makes of the error of a column that is missing one that names the
// table: it has the name of one that is read, and is not that.
func (s *session) foreignTable(ctx context.Context, parts []string, err error) error {
	answer, ok := errors.AsType[*skein.DatabaseError](err)
	if !ok || !strings.HasPrefix(answer.Message, "no such column: ") {
		return err
	}
	knex := s.engine.opts.KnexTable
	for i, table := range []string{skein.HistoryTable, knex, knex + "_lock"} {
		part := s.engine.sql.parts[i]
		if !slices.Contains(parts, part) {
			continue
		}
		if _, err := s.read(ctx, part); err == nil {
			continue
		}
		e := &skein.DatabaseError{
			Class: skein.Permanent, Code: answer.Code,
			Message: fmt.Sprintf("the table %s is there and is not Skein's: %s", table, answer.Message),
			Hint:    "if it is another program's, rename it: Skein keeps its history under this name",
		}
		if i != ownTable {
			e.Message = fmt.Sprintf("the table %s is there and is not Knex's: %s", table, answer.Message)
			e.Hint = "migrations.table in skein.yaml is the name of Knex's table"
		}
		return e
	}
	return err
}

// read reads a history with a statement made of statements.parts.
func (s *session) read(ctx context.Context, statement string) (skein.History, error) {
	var locked bool
	var own []entry[skein.Record]
	var knex []entry[skein.KnexRow]
	err := s.query(ctx, statement, columns, func(row []driver.Value) error {
		id := integer(row[1])
		switch integer(row[0]) {
		case ownTable:
			own = append(own, entry[skein.Record]{id, skein.Record{
				Name: text(row[2]), State: skein.RecordState(text(row[3])), Batch: int(integer(row[4])), Checksum: text(row[5]),
				Done: int(integer(row[6])), Total: int(integer(row[7])), AppliedAt: instant(row[8]),
				Duration: time.Duration(integer(row[9])) * time.Millisecond, By: text(row[10]), Tool: text(row[11]), Fingerprints: text(row[12]),
			}})
		case knexTable:
			knex = append(knex, entry[skein.KnexRow]{id, skein.KnexRow{
				ID: id, Name: text(row[2]), Batch: int(integer(row[4])), Time: instant(row[8]),
			}})
		case knexLockTable:
			locked = id > 0
		}
		return nil
	})
	if err != nil {
		return skein.History{}, err
	}
	return skein.NewHistory(inOrder(own), inOrder(knex), locked), nil
}

// An entry is a row with its id.
type entry[T any] struct {
	id    int64
	value T
}

// inOrder puts rows in the order of their ids, which is nearly always that in
// which they were read. To have SQLite do it costs more than all of the rest.
func inOrder[T any](rows []entry[T]) []T {
	slices.SortStableFunc(rows, func(a, b entry[T]) int { return cmp.Compare(a.id, b.id) })
	values := make([]T, len(rows))
	for i, row := range rows {
		values[i] = row.value
	}
	return values
}

func (s *session) Lock(ctx context.Context, wait time.Duration) (skein.History, error) {
	lock, err := takeLock(ctx, s.path, s.engine.opts, wait)
	if err != nil {
		return skein.History{}, err
	}
	h, err := s.History(ctx)
	if err != nil {
		return skein.History{}, errors.Join(err, lock.release())
	}
	s.lock = lock
	return h, nil
}

func (s *session) Unlock(context.Context) error {
	lock := s.lock
	if lock == nil {
		return errors.New("unlock: this session has no lock")
	}
	s.lock = nil
	return lock.release()
}

func (s *session) Close() error {
	err := s.conn.Close()
	if err != nil {
		err = databaseError(s.path, err)
	}
	if s.lock != nil {
		err = errors.Join(err, s.Unlock(context.Background()))
	}
	return err
}

// Switch is false: a session is one file.
func (s *session) Switch(skein.Target) bool { return false }

func (s *session) Record(ctx context.Context, records []skein.Record) error {
	if len(records) == 0 {
		return nil
	}
	if err := s.renew(ctx); err != nil {
		return err
	}
	err := s.transaction(ctx, func() error {
		if err := s.exec(ctx, createTable); err != nil {
			return err
		}
		for _, r := range records {
			if err := s.writeRecord(ctx, writeRecord, r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	return nil
}

// Erase deletes records in one transaction.
func (s *session) Erase(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	return s.forEach(ctx, "erase records", []string{createTable}, deleteRecord, names)
}

// forEach runs statements before, and one for each name, in one transaction.
func (s *session) forEach(ctx context.Context, doing string, before []string, each string, names []string) error {
	if err := s.renew(ctx); err != nil {
		return err
	}
	err := s.transaction(ctx, func() error {
		for _, sql := range before {
			if err := s.exec(ctx, sql); err != nil {
				return err
			}
		}
		for _, name := range names {
			if err := s.exec(ctx, each, name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// writeRecord writes a record with one of the statements writeRecord and
// addRecord.
func (s *session) writeRecord(ctx context.Context, statement string, r skein.Record) error {
	began, ended := any(stamp(r.AppliedAt)), any(nil)
	if !r.Partial() {
		began, ended = stamp(r.AppliedAt.Add(-r.Duration)), stamp(r.AppliedAt)
	}
	by, tool := cmp.Or(cut(r.By, 255), s.engine.opts.By), cmp.Or(cut(r.Tool, 64), s.engine.opts.Tool)
	return s.exec(ctx, statement, r.Name, string(r.State), int64(r.Batch), orNull(r.Checksum), int64(r.Done), int64(r.Total),
		began, ended, r.Duration.Milliseconds(), orNull(by), orNull(tool), orNull(r.Fingerprints))
}

func (s *session) Apply(ctx context.Context, step skein.Step) (skein.StepResult, error) {
	start := time.Now()
	if err := s.renew(ctx); err != nil {
		return skein.StepResult{}, err
	}
	if err := s.bound(ctx, step.Migration.Section(step.Direction).Timeouts); err != nil {
		return skein.StepResult{}, err
	}
	s.used = leavesTraces(step)
	var err error
	if step.Migration.Section(step.Direction).NoTransaction {
		err = stepwise.Run(ctx, step, &steps{session: s, step: step, start: start})
	} else {
		err = s.applyWhole(ctx, step, start)
	}
	s.used = s.used || s.temporary(ctx)
	return skein.StepResult{Duration: time.Since(start)}, err
}

// renew opens the file again if a migration may have left something in the
// connection.
func (s *session) renew(ctx context.Context) error {
	if !s.used {
		return nil
	}
	conn, err := s.engine.connect(ctx, s.path)
	if err != nil {
		return fmt.Errorf("open the file again: %w", err)
	}
	_ = s.conn.Close() // what it would say is nobody's concern any more
	s.conn, s.used = conn, false
	return nil
}

// ApplyTogether applies steps in one transaction: most of what a step takes is
// the time in which the file system makes its end durable. If anything fails
// there, nothing of it stays, and the steps are applied one by one.
func (s *session) ApplyTogether(ctx context.Context, steps []skein.Step) ([]skein.StepResult, error) {
	n := 0
	for !s.alone && n < len(steps) && sharesTransaction(steps[n]) {
		n++
	}
	if n > 1 {
		results, err := s.applyShared(ctx, steps[:n])
		if err == nil {
			return results, nil
		}
		broke, _ := errors.AsType[*skein.StatementError](err)
		if broke == nil && isBusy(err) || ctx.Err() != nil {
			if broke != nil {
				err = broke.Err
			}
			return nil, stepwise.Fail(steps[0], -1, err) // it is not the step's own
		}
		s.alone = true
	}
	result, err := s.Apply(ctx, steps[0])
	if err != nil {
		return nil, err
	}
	return []skein.StepResult{result}, nil
}

func isBusy(err error) bool {
	answer, ok := errors.AsType[*skein.DatabaseError](err)
	return ok && answer.Class == skein.Busy
}

// sharesTransaction says whether a step may be in one transaction with others:
// what it does there is what it does in its own.
func sharesTransaction(step skein.Step) bool {
	section := step.Migration.Section(step.Direction)
	return step.Direction == skein.Up && !step.Began && !section.NoTransaction && section.Timeouts.IsZero() && !leavesTraces(step)
}

func (s *session) applyShared(ctx context.Context, steps []skein.Step) ([]skein.StepResult, error) {
	if err := s.renew(ctx); err != nil {
		return nil, err
	}
	if err := s.bound(ctx, skein.Timeouts{}); err != nil {
		return nil, err
	}
	var results []skein.StepResult
	begin := time.Now()
	err := s.transaction(ctx, func() error {
		for _, step := range steps {
			start := time.Now()
			if err := s.inTransaction(ctx, step, start); err != nil {
				return err
			}
			if s.temporary(ctx) {
				return errTemporary
			}
			if results = append(results, skein.StepResult{Duration: time.Since(start)}); time.Since(begin) > shared {
				break
			}
		}
		return nil
	})
	return results, err
}

// errTemporary is why steps do not share a transaction: one of them leaves what
// the next would find.
var errTemporary = errors.New("there are temporary objects")

// temporary says whether the session has temporary objects, or may have, as that
// cannot be told.
func (s *session) temporary(ctx context.Context) bool {
	some := true
	err := s.query(ctx, "SELECT count(*) FROM temp.sqlite_master", 1, func(row []driver.Value) error {
		some = integer(row[0]) > 0
		return nil
	})
	return some || err != nil
}

// shared is how long steps may share a transaction: whoever asks a run to stop, or
// looks at what it does, does not wait for slow ones together.
const shared = 40 * time.Millisecond

// applyWhole runs a step and records it in one transaction.
func (s *session) applyWhole(ctx context.Context, step skein.Step, start time.Time) error {
	err := s.transaction(ctx, func() error { return s.inTransaction(ctx, step, start) })
	if err != nil {
		e := stepwise.Fail(step, -1, err)
		e.Partial = step.Began // its record has not changed
		return e
	}
	return nil
}

// inTransaction runs a step and records it in the transaction that has begun.
func (s *session) inTransaction(ctx context.Context, step skein.Step, start time.Time) error {
	for i := step.From; i < len(step.Statements); i++ {
		if err := s.run(ctx, step.Statements[i].Text); err != nil {
			return fail(step, i, err)
		}
	}
	if step.Direction == skein.Down {
		return s.exec(ctx, deleteRecord, step.Migration.Name)
	}
	if err := s.exec(ctx, createTable); err != nil {
		return err
	}
	return s.writeRecord(ctx, recording(step), newRecord(step, skein.Applied, time.Now(), time.Since(start)))
}

// recording is the statement that records a step.
func recording(step skein.Step) string {
	if step.Began {
		return writeRecord
	}
	return addRecord
}

func newRecord(step skein.Step, state skein.RecordState, at time.Time, d time.Duration) skein.Record {
	return skein.Record{
		Name: step.Migration.Name, State: state, Batch: step.Batch, Checksum: step.Migration.Checksum, AppliedAt: at, Duration: d,
	}
}

// transaction runs f in a transaction that may write from its beginning, so
// that it never fails for another writer in its middle.
func (s *session) transaction(ctx context.Context, f func() error) error {
	if err := s.exec(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	err := f()
	if err == nil {
		err = s.commit(ctx)
	}
	if err != nil {
		s.rollback()
	}
	return err
}

// commit ends a transaction. After an error nothing of it stays once it is
// rolled back.
func (s *session) commit(ctx context.Context) error {
	err := s.exec(ctx, "COMMIT")
	// The driver may say that ctx has ended although the transaction has, too.
	// One that is still there to be rolled back did not.
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) && !s.rollback() {
		return nil
	}
	return err
}

// rollback ends a transaction, if there is one, and says whether there was.
// Some errors end it by themselves.
func (s *session) rollback() bool {
	_, err := s.conn.ExecContext(context.Background(), "ROLLBACK", nil)
	return err == nil
}

// steps runs a step that is not one transaction. Each statement is one together
// with the record of how far the step came, unless it cannot run in a
// transaction or is in one of the migration's own.
type steps struct {
	*session
	step     skein.Step
	start    time.Time
	recorded int // statements that are recorded as done
}

func (s *steps) Begin(ctx context.Context) error {
	return s.transaction(ctx, func() error {
		total := len(s.step.Statements)
		if s.step.Direction == skein.Down {
			return s.exec(ctx, beginDown, s.step.Migration.Name, int64(total), stamp(s.start), int64(s.step.From), skein.Fingerprints(s.step.Statements))
		}
		if err := s.exec(ctx, createTable); err != nil {
			return err
		}
		r := newRecord(s.step, skein.Applying, s.start, 0)
		r.Done, r.Total, r.Fingerprints = s.step.From, total, skein.Fingerprints(s.step.Statements)
		return s.writeRecord(ctx, recording(s.step), r)
	})
}

func (s *steps) Exec(ctx context.Context, i int) (ran int, err error) {
	if err := s.execOne(ctx, i); err != nil {
		return i, err
	}
	return i + 1, nil
}

func (s *steps) execOne(ctx context.Context, i int) error {
	text := s.step.Statements[i].Text
	whole := false
	if !bare.MatchString(text) {
		err := s.exec(ctx, "BEGIN IMMEDIATE")
		// SQLite refuses it inside a transaction, and for no other reason.
		answer, _ := errors.AsType[*skein.DatabaseError](err)
		own := answer != nil && answer.Code == codeName(sqlite3.SQLITE_ERROR)
		if err != nil && !own {
			return err
		}
		whole = !own
	}
	err := s.run(ctx, text)
	if err == nil && whole {
		if err = s.exec(ctx, progress, s.step.Migration.Name, int64(i+1)); err == nil {
			err = s.commit(ctx)
		}
		s.recorded = i + 1
	}
	if err != nil {
		// The record goes back with a transaction of the migration's own to where
		// it was when that began.
		s.rollback()
		return fail(s.step, i, err)
	}
	return nil
}

func (s *steps) Progress(ctx context.Context, done int) error {
	if s.recorded >= done {
		return nil
	}
	return s.exec(ctx, progress, s.step.Migration.Name, int64(done))
}

func (s *steps) Finish(ctx context.Context) error {
	if s.rollback() {
		return &skein.DatabaseError{
			Class: skein.Permanent, Code: "SQLITE_ERROR", Message: "the migration ends inside a transaction that it began, which was rolled back",
			Hint: "end it with COMMIT",
		}
	}
	if s.step.Direction == skein.Down {
		return s.exec(ctx, deleteRecord, s.step.Migration.Name)
	}
	return s.exec(ctx, finishUp, s.step.Migration.Name, stamp(time.Now()), time.Since(s.start).Milliseconds())
}

// NothingStayed is asked of the first statement, which is in no transaction of
// the migration's own: it was rolled back, or could not be compiled or get at
// the file.
func (s *steps) NothingStayed(i int, err error) bool {
	answer, ok := errors.AsType[*skein.DatabaseError](err)
	return !bare.MatchString(s.step.Statements[i].Text) || isBusy(err) || ok && answer.Code == codeName(sqlite3.SQLITE_ERROR)
}

func (s *steps) TakeBack(ctx context.Context) error {
	if s.step.Direction == skein.Down {
		return s.exec(ctx, takeBackDown, s.step.Migration.Name)
	}
	return s.exec(ctx, deleteRecord, s.step.Migration.Name)
}

// bound sets the timeouts of a migration, its own or the engine's.
func (s *session) bound(ctx context.Context, own skein.Timeouts) error {
	s.statementTimeout = s.engine.opts.StatementTimeout
	if own.Statement != nil {
		s.statementTimeout = *own.Statement
	}
	if own.Lock == nil && !s.bounded {
		return nil
	}
	busy := s.engine.opts.LockTimeout
	if own.Lock != nil {
		busy = *own.Lock
	}
	milliseconds := max(1, busy.Milliseconds())
	if busy == 0 {
		milliseconds = math.MaxInt32 // as good as no bound
	}
	if err := s.exec(ctx, "PRAGMA busy_timeout = "+strconv.FormatInt(milliseconds, 10)); err != nil {
		return fmt.Errorf("set the migration's timeouts: %w", err)
	}
	s.bounded = own.Lock != nil
	return nil
}

// run runs one statement of a migration, to its end and within its time.
func (s *session) run(ctx context.Context, statement string) error {
	limit := s.statementTimeout
	if limit <= 0 {
		return s.exec(ctx, statement)
	}
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := s.exec(within, statement)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return &skein.DatabaseError{
			Class: skein.Permanent, Code: "SQLITE_INTERRUPT",
			Message: fmt.Sprintf("the statement ran for longer than the statement timeout of %s", limit),
		}
	}
	return err
}

// exec runs one statement. Its error is ctx's own when ctx ended it, and also
// when ctx ended at the very end of a statement that has run.
func (s *session) exec(ctx context.Context, statement string, args ...any) error {
	if _, err := s.conn.ExecContext(ctx, statement, values(args)); err != nil {
		return databaseError(s.path, err)
	}
	return nil
}

// query runs one statement and calls f with each of its rows, which is good
// until f returns.
func (s *session) query(ctx context.Context, statement string, columns int, f func([]driver.Value) error) error {
	rows, err := s.conn.QueryContext(ctx, statement, nil)
	if err != nil {
		return databaseError(s.path, err)
	}
	row := make([]driver.Value, columns)
	for {
		err = rows.Next(row)
		if err == nil {
			err = f(row)
		}
		if err != nil {
			break
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err = cmp.Or(err, rows.Close()); err != nil {
		return databaseError(s.path, err)
	}
	return nil
}

// values are arguments as the driver takes them. They are of the types that it
// knows already.
func values(args []any) []driver.NamedValue {
	values := make([]driver.NamedValue, len(args))
	for i, arg := range args {
		values[i] = driver.NamedValue{Ordinal: i + 1, Value: arg}
	}
	return values
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func stamp(t time.Time) string { return t.UTC().Format(timeLayout) }

func integer(v driver.Value) int64 {
	switch v := v.(type) {
	case int64:
		return v
	case float64:
		return int64(v)
	}
	return 0
}

func text(v driver.Value) string {
	switch v := v.(type) {
	case string:
		return v
	case []byte:
		return string(v)
	}
	return ""
}

// instant reads a time: text as Skein writes it, or the milliseconds since 1970
// that Knex does. Zero stands for what is neither.
func instant(v driver.Value) time.Time {
	switch v := v.(type) {
	case int64:
		return time.UnixMilli(v)
	case float64:
		return time.UnixMilli(int64(v))
	case time.Time:
		return v // the driver reads the text of a column that is called a datetime
	case string:
		for _, layout := range []string{time.DateTime, time.RFC3339} { // a fraction of seconds may follow
			if t, err := time.Parse(layout, v); err == nil {
				return t
			}
		}
	}
	return time.Time{}
}
