package skein

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/skeinhq/skein/secret"
)

// A Settlement is what is to be done about a migration that began and did not
// end.
type Settlement string

// The settlements.
const (
	// Continue goes on at the first statement that is not recorded as done, in
	// the direction in which the migration was going.
	Continue Settlement = "continue"
	// Redo runs the same side again from its first statement, whatever of it has
	// run before.
	Redo Settlement = "redo"
	// MarkApplied records that the migration is applied, and runs nothing.
	MarkApplied Settlement = "mark applied"
	// MarkReverted records that nothing of the migration is there, and runs
	// nothing.
	MarkReverted Settlement = "mark reverted"
)

// A Stop is where a migration that began and did not end came to a stop in one
// tenant.
type Stop struct {
	Record    Record
	Direction Direction
	// Index is the number, counted from 1, of the first statement that is not
	// recorded as done: the one that failed, or that was running when its
	// process was killed and may have run. Total counts the statements. Both are
	// 0 for a Knex migration.
	Index, Total int
	// Path, Line and Statement are that statement's in the file as it is now.
	// Line and Statement are empty where the file has no such statement any
	// more, Path where there is no file. Passwords are taken out of Statement.
	Path      string
	Line      int
	Statement string
	// Changed is the number of the first statement that has run and is another
	// in the file now, 0 if there is none.
	Changed int
	// ChangedLine is its line in the file, 0 where the file has fewer statements.
	ChangedLine int
}

// Fingerprints tell whether statements are still what they were: a text with 16
// hexadecimal characters for each, separated by spaces. An engine keeps it in
// the record of a migration that has begun.
func Fingerprints(statements []Statement) string {
	sums := make([]string, len(statements))
	for i, s := range statements {
		sum := sha256.Sum256([]byte(s.Text))
		sums[i] = hex.EncodeToString(sum[:8])
	}
	return strings.Join(sums, " ")
}

// findStop finds in the file, as it is now, where a migration stopped.
// migration is nil where there is no file.
func findStop(r Record, migration *Migration, statements func(*Section) []Statement) Stop {
	s := Stop{Record: r, Direction: r.direction(), Total: r.Total}
	if migration != nil {
		s.Path = migration.Path
	}
	if KnexName(r.Name) {
		s.Total = 0 // what Skein counts there are calls, and not statements of the file
		return s
	}
	s.Index = r.Done + 1
	if migration == nil {
		return s
	}
	section := migration.Section(s.Direction)
	if section == nil {
		return s
	}
	s.Path = section.Path
	now := statements(section)
	was := strings.Fields(r.Fingerprints)
	for i := range r.Done {
		if i < len(now) && i < len(was) && was[i] == Fingerprints(now[i:i+1]) {
			continue
		}
		s.Changed = i + 1
		if i < len(now) {
			s.ChangedLine = now[i].Line
		}
		break
	}
	if r.Done < len(now) {
		next := now[r.Done]
		s.Line, s.Statement = next.Line, secret.Scrub(next.Text)
	}
	return s
}

func (r Record) direction() Direction {
	if r.State == Reverting {
		return Down
	}
	return Up
}

// String says in one line where the migration stopped, with the statement.
func (s Stop) String() string {
	if s.Line == 0 {
		return s.Summary()
	}
	return s.Summary() + ": " + shorten(s.Statement)
}

// Summary is String without the statement.
func (s Stop) Summary() string {
	text := s.Record.Name + " stopped while it was applied"
	if s.Direction == Down {
		text = s.Record.Name + " stopped while it was reverted"
	}
	switch {
	case s.Index == 0 && s.Path == "":
		return text + ", and its file is gone"
	case s.Index == 0:
		return text
	case s.Index > s.Total:
		text += fmt.Sprintf(", with all of its %d statements done", s.Total)
	default:
		text += fmt.Sprintf(", at statement %d of %d", s.Index, s.Total)
	}
	switch {
	case s.Line > 0:
		text += fmt.Sprintf(" (%s:%d)", s.Path, s.Line)
	case s.Path == "":
		text += ", and its file is gone"
	}
	return text
}

// statementWidth is how many characters of a statement a line shows.
const statementWidth = 80

// shorten is a statement in one line.
func shorten(statement string) string {
	words := []rune(strings.Join(strings.Fields(statement), " "))
	if len(words) > statementWidth {
		return string(words[:statementWidth-1]) + "…"
	}
	return string(words)
}

// A Way is a flag of "skein migrate TENANT" that settles a migration, and what
// it does.
type Way struct {
	Settlement Settlement
	Flag, Does string
}

// Ways are the ways in which the migration can be settled, the likeliest first.
func (s Stop) Ways() []Way {
	var ways []Way
	reverting := ""
	if s.Direction == Down {
		reverting = " reverting"
	}
	switch knex := s.Index == 0; {
	case s.Path == "":
	case knex:
		ways = append(ways, Way{Redo, "--redo", "runs it again from its beginning"})
	case s.Changed == 0:
		ways = append(ways, Way{Continue, "--continue", fmt.Sprintf("goes on%s with statement %d", reverting, s.Index)})
		fallthrough
	default:
		ways = append(ways, Way{Redo, "--redo", fmt.Sprintf("begins%s again with statement 1", reverting)})
	}
	return append(ways,
		Way{MarkApplied, "--mark-applied", "records that all of it is there"},
		Way{MarkReverted, "--mark-reverted", "records that nothing of it is there"})
}

// quoteWord writes a word for a shell.
func quoteWord(word string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-.@%+:,/", r)
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !plain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// refuse is the refusal of a tenant in which a migration stopped.
func (s Stop) refuse(slug string, names []string) *RefusedError {
	ways := s.Ways()
	hint := ""
	if s.Changed > 0 {
		hint = fmt.Sprintf("statement %d has run here, and is another in the file now: undo that edit to go on with statement %d; or ", s.Changed, s.Index)
	}
	hint += fmt.Sprintf("put it right, then: skein migrate %s %s, which %s", quoteWord(slug), ways[0].Flag, ways[0].Does)
	for _, w := range ways[1:] {
		hint += fmt.Sprintf("; %s %s", w.Flag, w.Does)
	}
	return &RefusedError{Reason: ReasonPartial, Names: names, Msg: s.String(), hint: hint}
}

// planSettlement decides how the first of a tenant's migrations that began and
// did not end is settled. A tenant that has none has nothing to do.
func planSettlement(set *Set, standing Standing, opts PlanOptions) (Plan, error) {
	if len(standing.Partial) == 0 {
		return Plan{Direction: Up}, nil
	}
	r := standing.Partial[0]
	m, _ := set.Find(r.Name)
	plan := Plan{Direction: r.direction(), Batch: r.Batch}
	refuse := func(reason Reason, hint, format string, args ...any) (Plan, error) {
		return Plan{}, &RefusedError{Reason: reason, Names: []string{r.Name}, Msg: fmt.Sprintf(format, args...), hint: hint}
	}

	switch opts.Settle {
	case MarkApplied, MarkReverted:
		plan.RecordOnly, plan.Direction = true, Up
		if opts.Settle == MarkReverted {
			plan.Direction = Down
		}
		marked := &Migration{Name: r.Name, Version: r.Name, Kind: SQL}
		if KnexName(r.Name) {
			marked.Kind = Knex
			// Its own table has to say the same.
			if r.InKnex != (plan.Direction == Up) && !opts.Knex {
				return refuse(ReasonNeedsKnex, "change that row by hand", "%s is to be recorded by Knex, which is not to be had here", r.Name)
			}
			if standing.KnexLocked {
				return Plan{}, refuseKnexLock()
			}
		}
		if m != nil {
			*marked = *m
		}
		if m == nil || r.State == Reverting {
			// What was applied is what had been recorded as applied.
			marked.Checksum = r.Checksum
		}
		plan.Steps = []*Migration{marked}
		return plan, nil
	case Continue, Redo:
	default:
		return refuse(ReasonPartial, "", "%q is no way to settle a migration", opts.Settle)
	}

	switch {
	case KnexName(r.Name) && opts.Settle == Continue:
		return refuse(ReasonPartial, "undo by hand what it has done, then: --redo; or finish or undo it by hand, then: --mark-applied or --mark-reverted",
			"%s is Knex's, which runs a migration from its beginning and cannot go on in its middle", r.Name)
	case m == nil:
		return refuse(ReasonMissing, "bring the file back; or finish or undo it by hand, then: --mark-applied or --mark-reverted",
			"%s began and did not end, and is not among the files", r.Name)
	case m.Kind == SQL && m.Section(plan.Direction) == nil:
		return refuse(ReasonNoDown, "bring it back; or finish or undo it by hand, then: --mark-applied or --mark-reverted",
			"%s began to be reverted, and has no down section any more", r.Name)
	}
	plan.Steps, plan.Began = []*Migration{m}, true
	if opts.Settle == Continue {
		plan.From = r.Done
	}
	if err := refuseKnex(plan.Steps, standing, opts, "run"); err != nil {
		return Plan{}, err
	}
	return plan, nil
}

// refuseChanged refuses to go on with a migration whose statements that have run
// are others now.
func (s Stop) refuseChanged() error {
	if s.Changed == 0 {
		return nil
	}
	where := s.Path
	if s.ChangedLine > 0 {
		where = fmt.Sprintf("%s:%d", s.Path, s.ChangedLine)
	}
	return &RefusedError{
		Reason: ReasonEdited, Names: []string{s.Record.Name},
		Msg: fmt.Sprintf("%s: statement %d of %s has run here, and is another in the file now", where, s.Changed, s.Record.Name),
		hint: "only what has not run can be changed: undo the edit, and go on then; " +
			"or put the tenant right by hand and use --redo, --mark-applied or --mark-reverted",
	}
}
