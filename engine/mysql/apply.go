package mysql

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/engine/internal/stepwise"
)

// recordTimeout bounds what is still done when the run was abandoned: ending a
// transaction, giving back a lock.
const recordTimeout = 10 * time.Second

// sentAlong is what follows each statement of a migration, on a line of its own
// because the statement may end in a comment.
const sentAlong = ";SET @skein_ran="

// Apply runs a step. If it is made of data changes alone it is one transaction
// with its record; otherwise it goes statement by statement.
func (s *session) Apply(ctx context.Context, step skein.Step) (skein.StepResult, error) {
	start := time.Now()
	s.used = true
	var own skein.Timeouts
	if section := step.Migration.Section(step.Direction); section != nil {
		own = section.Timeouts
	}
	err := s.bound(ctx, own)
	if err != nil {
		return skein.StepResult{}, err
	}
	if transactional(step) {
		err = s.transaction(ctx, step)
	} else {
		err = stepwise.Run(ctx, step, &runner{session: s, step: step, noted: -1})
	}
	return skein.StepResult{Duration: time.Since(start)}, err
}

// transactional says whether a step can be rolled back.
func transactional(step skein.Step) bool {
	if section := step.Migration.Section(step.Direction); section != nil && section.NoTransaction {
		return false
	}
	for _, statement := range step.Statements {
		if !canRollBack(statement.Text) {
			return false
		}
	}
	return true
}

// run sends the statements of a step from one on and before another, as one
// flight. Each is followed by what after gives for the number of statements that
// have run by then.
//
// The servers end a flight at its first error, and do not say which statement it
// is of: variables do, of how many have run, and for how many of those what
// comes after has run too. Both are -1 where that is not known, since the answer
// was lost. A flight of which nothing ran, or not even all of before, is a
// *stepwise.NotBegunError if there is a before.
func (s *session) run(ctx context.Context, step skein.Step, from, to int, before string, after func(done int) string) (ran, noted int, err error) {
	// A flight that is refused as a whole leaves the variables as the last one set
	// them: each has a number.
	s.flights++
	id := strconv.Itoa(s.flights)
	var b strings.Builder
	parts := make([]string, 0, 3)
	fmt.Fprintf(&b, "SET @skein_flight=%s,@skein_ran=-1,@skein_noted=-1;%sSET @skein_ran=%d,@skein_noted=%d", id, before, from, from)
	for i := from; i < to; i++ {
		if i > from {
			fmt.Fprintf(&b, "SET @skein_noted=%d", i)
		}
		statement := s.lockingHistory(step.Statements[i].Text)
		if standsAlone(statement) {
			parts = append(parts, b.String(), statement)
			b.Reset()
			fmt.Fprintf(&b, "SET @skein_ran=%d;%s", i+1, after(i+1))
			continue
		}
		fmt.Fprintf(&b, ";%s\n%s%d;%s", statement, sentAlong, i+1, after(i+1))
		if i+1 < to {
			b.WriteString(";")
		}
	}
	for _, sql := range append(parts, b.String()) {
		if err = s.flight(ctx, sql, nil); err != nil {
			break
		}
	}
	if err == nil {
		return to, to, nil
	}
	if skein.ErrorClass(err) == skein.ConnectionLost || ctx.Err() != nil {
		return -1, -1, err
	}
	ran, noted = -1, -1
	begun := false
	lookup := s.flight(ctx, "SELECT @skein_flight="+id+",@skein_ran,@skein_noted", func(_ []string, row []driver.Value) {
		if row != nil {
			begun, ran, noted = text(row[0]) == "1", int(number(row[1])), int(number(row[2]))
		}
	})
	switch {
	case lookup != nil:
		return -1, -1, err
	case begun && ran >= 0:
		return ran, noted, err
	case before != "":
		err = &stepwise.NotBegunError{Err: err}
	}
	return from, from, err
}

// standsAlone says whether a statement has to be a flight of its own: what is in
// an executable comment may be nothing to this server, and nothing must not be
// followed by a semicolon.
func standsAlone(statement string) bool { return strings.HasPrefix(statement, "/*") }

// mostInFlight bounds a flight of several statements, in bytes: it is far below
// what any server takes.
const mostInFlight = 64 << 10

// inFlight is the statement before which a flight ends that begins with statement
// i. Only statements share one that make, change and fill what belongs to a
// tenant, and leave the session as it is.
func (r *runner) inFlight(i int) int {
	step, size, end := r.step, 0, i
	if !step.Fresh {
		return i + 1
	}
	for ; end < len(step.Statements); end++ {
		text := step.Statements[end].Text
		h := words(text, 1)
		if standsAlone(text) || len(h.list) == 0 || !slices.Contains([]string{"CREATE", "ALTER", "DROP", "INSERT", "UPDATE", "DELETE", "REPLACE"}, h.list[0]) {
			break
		}
		if size += len(text) + len(r.note(end+1)) + len(sentAlong) + len("SET @skein_noted=") + 16; size > mostInFlight {
			break
		}
	}
	return max(end, i+1)
}

// undo rolls back what failed and gives back table locks. It says whether
// something stayed that cannot be rolled back, in tables of another storage
// engine than InnoDB.
func (s *session) undo(ctx context.Context) (stayed bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	_ = s.flight(ctx, "ROLLBACK;SHOW WARNINGS;UNLOCK TABLES", func(_ []string, row []driver.Value) {
		stayed = stayed || row != nil && number(row[1]) == errNotRolledBack
	})
	return stayed
}

// transaction runs a step as one transaction with its record. With a history
// table it takes one flight for each statement and no more.
func (s *session) transaction(ctx context.Context, step skein.Step) error {
	if err := s.prepareTable(ctx); err != nil {
		return fmt.Errorf("record the migration: %w", err)
	}
	before := "SET @skein_started=UTC_TIMESTAMP(6);START TRANSACTION;"
	record := s.done(step)
	total := len(step.Statements)
	if step.From >= total {
		if err := s.flight(ctx, before+record, nil); err != nil {
			s.undo(ctx)
			return fmt.Errorf("record the migration: %w", err)
		}
		return nil
	}
	last := func(done int) string {
		if done == total {
			return record
		}
		return ""
	}
	for i := step.From; i < total; i++ {
		ran, _, err := s.run(ctx, step, i, i+1, before, last)
		before = ""
		if err == nil {
			continue
		}
		if refused, ok := errors.AsType[*stepwise.NotBegunError](err); ok {
			err = refused.Err
		}
		stayed := s.undo(ctx)
		if ran > i && !stayed {
			return fmt.Errorf("record the migration: %w", err)
		}
		failed := fail(step, i, err)
		failed.Partial = step.Began // its record has not changed
		if stayed {
			// What could not be rolled back is noted as what it is, a migration
			// that began and did not end.
			failed.Partial = s.flight(ctx, s.begin(step, i), nil) == nil
		}
		return failed
	}
	return nil
}

// prepareTable makes the history table, which would end a transaction.
func (s *session) prepareTable(ctx context.Context) error {
	if s.recorded {
		return nil
	}
	err := s.flight(ctx, s.create(), nil)
	s.recorded = err == nil
	return err
}

// begin writes that a step began and that done of its statements have run.
func (s *session) begin(step skein.Step, done int) string {
	state := skein.Applying
	if step.Direction == skein.Down {
		state = skein.Reverting
	}
	m, total := step.Migration, len(step.Statements)
	values := fmt.Sprintf("(%s,%s,%d,NULLIF(%s,''),%d,%d,UTC_TIMESTAMP(6),NULLIF(%s,''),NULLIF(%s,''),%s)",
		quote(m.Name), quote(string(state)), step.Batch, quote(m.Checksum), done, total, quote(s.engine.opts.By), quote(s.engine.opts.Tool),
		quote(skein.Fingerprints(step.Statements)))
	insert := "INSERT INTO " + s.table + " (name,state,batch,checksum,done,total,started_at,applied_by,tool,fingerprints) VALUES " + values
	switch {
	case step.Direction == skein.Up && step.Began:
		return insert + replaceRecord
	case step.Direction == skein.Up:
		return insert
	}
	// A down keeps what is known of the up, and takes it up again if nothing of
	// it stayed. A migration that only Knex's table names has no record yet.
	return "SELECT done,total,started_at INTO @skein_done,@skein_total,@skein_begun FROM " + s.table + " WHERE name=" + quote(m.Name) + ";" +
		insert + " ON DUPLICATE KEY UPDATE state=VALUES(state),done=VALUES(done),total=VALUES(total),started_at=VALUES(started_at),fingerprints=VALUES(fingerprints)"
}

// done ends the transaction of a step with its record: an up as applied, a down
// as none.
func (s *session) done(step skein.Step) string {
	m := step.Migration
	if step.Direction == skein.Down {
		return "DELETE FROM " + s.table + " WHERE name=" + quote(m.Name) + ";COMMIT"
	}
	instead := ""
	if step.Began {
		instead = replaceRecord
	}
	return fmt.Sprintf("INSERT INTO %s (name,state,batch,checksum,started_at,applied_at,duration_ms,applied_by,tool)"+
		" VALUES (%s,'applied',%d,NULLIF(%s,''),@skein_started,UTC_TIMESTAMP(6),TIMESTAMPDIFF(MICROSECOND,@skein_started,UTC_TIMESTAMP(6)) DIV 1000,NULLIF(%s,''),NULLIF(%s,''))%s;COMMIT",
		s.table, quote(m.Name), step.Batch, quote(m.Checksum), quote(s.engine.opts.By), quote(s.engine.opts.Tool), instead)
}

// A runner goes through a step statement by statement. How far it came is sent
// along with each statement: the server notes it even if nobody is there any
// more to hear that the statement ended.
type runner struct {
	*session
	step skein.Step
	// noted is how many statements the record has as done, -1 before any ran.
	noted int
	// failed is the statement's own error, with which Exec failed last.
	failed *skein.DatabaseError
	// unsent is what is to be sent with the first statements, as it records that
	// the step begins.
	unsent string
}

func (r *runner) Begin(ctx context.Context) error {
	if r.inFlight(r.step.From) > r.step.From+1 {
		r.unsent = r.create() + r.begin(r.step, r.step.From) + ";"
		return ctx.Err()
	}
	err := r.flight(ctx, r.create()+r.begin(r.step, r.step.From), nil)
	if err == nil {
		r.recorded = true
	}
	return err
}

func (r *runner) Exec(ctx context.Context, i int) (int, error) {
	end, first := r.inFlight(i), r.unsent
	r.unsent = ""
	ran, noted, err := r.run(ctx, r.step, i, end, first, r.note)
	if _, not := errors.AsType[*stepwise.NotBegunError](err); not {
		r.undo(ctx)
		_ = r.TakeBack(ctx) // what may have been written before something kept it from going on
		return 0, err
	}
	if noted >= 0 {
		r.recorded, r.noted = true, noted
	}
	switch {
	case err == nil, ran > noted:
		return ran, nil // what was not noted is noted once more, by itself
	case ran < 0 && end == i+1:
		ran = i // the only one that it can be
	}
	r.undo(ctx)
	r.failed, _ = errors.AsType[*skein.DatabaseError](err)
	return ran, fail(r.step, ran, err)
}

func (r *runner) Progress(ctx context.Context, done int) error {
	if r.noted == done {
		return nil
	}
	return r.flight(ctx, r.note(done), nil)
}

func (r *runner) Finish(ctx context.Context) error {
	return r.Progress(ctx, len(r.step.Statements))
}

// note writes that the first done statements have run. After the last of them
// table locks that are left over are given back and a transaction that is left
// open is committed: the migration is recorded as done.
func (r *runner) note(done int) string {
	table, name := r.table, quote(r.step.Migration.Name)
	switch {
	case done < len(r.step.Statements):
		return fmt.Sprintf("UPDATE %s SET done=%d WHERE name=%s", table, done, name)
	case r.step.Direction == skein.Down:
		return fmt.Sprintf("UNLOCK TABLES;DELETE FROM %s WHERE name=%s;COMMIT", table, name)
	}
	return fmt.Sprintf("UNLOCK TABLES;UPDATE %s SET state='applied',done=%d,fingerprints=NULL,applied_at=UTC_TIMESTAMP(6),"+
		"duration_ms=TIMESTAMPDIFF(MICROSECOND,started_at,UTC_TIMESTAMP(6)) DIV 1000 WHERE name=%s;COMMIT", table, done, name)
}

// NothingStayed relies on what the servers undo of a statement that they
// answered with an error. That is not what they do when they crash in it.
func (r *runner) NothingStayed(i int, _ error) bool {
	if r.failed == nil || r.failed.Code == "" || r.failed.Class == skein.ConnectionLost {
		return false
	}
	statement := r.step.Statements[i].Text
	return leavesNothing(statement) || resolving[r.failed.Code] && resolvesFirst(statement)
}

// resolving are errors that come while a statement is read and its names are
// looked up, before it does anything.
var resolving = map[string]bool{
	strconv.Itoa(errSyntax):          true,
	strconv.Itoa(errNoTable):         true,
	strconv.Itoa(errNoDatabase):      true,
	strconv.Itoa(errDatabaseDenied):  true,
	strconv.Itoa(errCommandDenied):   true,
	strconv.Itoa(errColumnDenied):    true,
	strconv.Itoa(errPrivilegeDenied): true,
	strconv.Itoa(errNoColumn):        true,
	"1305":                           true, // unknown routine
}

// TakeBack removes the record of an up, and makes that of a down what it was.
func (r *runner) TakeBack(ctx context.Context) error {
	table, name := r.table, quote(r.step.Migration.Name)
	if r.step.Direction == skein.Up {
		return r.flight(ctx, "DELETE FROM "+table+" WHERE name="+name, nil)
	}
	return r.flight(ctx, "UPDATE "+table+" SET state='applied',done=@skein_done,total=@skein_total,started_at=@skein_begun,fingerprints=NULL WHERE name="+name, nil)
}

// fail is the error of statement i. A syntax error quotes what follows it and
// names its line, counted from the statement's first.
func fail(step skein.Step, i int, err error) *skein.StatementError {
	e := stepwise.Fail(step, i, err)
	answer, ok := errors.AsType[*skein.DatabaseError](err)
	if !ok || answer.Code != strconv.Itoa(errSyntax) || i < 0 {
		return e
	}
	m := nearLine.FindStringSubmatch(answer.Message)
	if m == nil {
		return e
	}
	line, _ := strconv.Atoi(m[3])
	line = min(max(line, 1), 1+strings.Count(step.Statements[i].Text, "\n"))
	answer.Message = fmt.Sprintf("%s near '%s' at line %d", m[1], withoutSentAlong(m[2]), line)
	e.Line += line - 1
	return e
}

// withoutSentAlong cuts from what a server quotes, 80 characters at most, what
// was sent along with the statement.
func withoutSentAlong(near string) string {
	for i := range len(near) {
		if rest := near[i:]; strings.HasPrefix(rest, sentAlong) || rest[0] == ';' && strings.HasPrefix(sentAlong, rest) {
			return strings.TrimSuffix(near[:i], "\n")
		}
	}
	return near
}
