package sqlite

import (
	"errors"
	"regexp"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/sqlsplit"
)

// Parse splits a section into the statements that are sent, one by one, and
// refuses what would not work as it is meant. A migration with
// transaction:false may have transactions of its own.
func (e *Engine) Parse(section *skein.Section) ([]skein.Statement, error) {
	wrong := func(line int, msg string) error {
		return &skein.FileError{Path: section.Path, Line: section.Line + line - 1, Msg: msg}
	}
	split, err := sqlsplit.Split(sqlsplit.SQLite, section.SQL)
	if err != nil {
		if at, ok := errors.AsType[*sqlsplit.Error](err); ok {
			return nil, wrong(at.Line, at.Msg)
		}
		return nil, wrong(1, err.Error())
	}
	statements := make([]skein.Statement, len(split))
	began := 0 // the line on which the migration's own transaction begins
	for i, s := range split {
		statements[i] = skein.Statement{Text: s.Text, Line: section.Line + s.Line - 1}
		switch {
		case s.IsClientCommand():
			return nil, wrong(s.Line, s.Keyword+" is a command of the sqlite3 program, which the database does not know: write it as SQL, or leave it out")
		case section.NoTransaction && s.IsTransactionControl():
			switch begins := s.Keyword == "BEGIN"; {
			case begins && began > 0:
				return nil, wrong(s.Line, "BEGIN inside a transaction: end the one before with COMMIT")
			case begins:
				began = s.Line
			case began == 0:
				return nil, wrong(s.Line, s.Keyword+" without a BEGIN before it")
			default:
				began = 0
			}
		case section.NoTransaction:
		case s.IsTransactionControl():
			return nil, wrong(s.Line, s.Keyword+" cannot be used here, since the migration is one transaction already: leave it out, or add transaction:false")
		case s.CannotRunInTransaction(), s.Keyword == "ATTACH":
			return nil, wrong(s.Line, s.Keyword+" does not work inside a transaction: add transaction:false to the file, or put it into a file of its own that has it")
		}
	}
	if began > 0 {
		return nil, wrong(began, "the transaction that begins here has no end: add COMMIT")
	}
	return statements, nil
}

// lasting matches statements whose effect is on the session and outlasts the
// migration. Temporary objects have more ways to be made: see session.temporary.
var lasting = regexp.MustCompile(`(?is)^(?:\s|--[^\n]*\n|/\*.*?\*/)*(pragma|attach|create\s+temp)`)

// bare matches statements that begin or end a transaction, or that fail or do
// nothing inside one.
var bare = regexp.MustCompile(`(?i)^(begin|commit|end|rollback|savepoint|release|pragma|attach|detach|vacuum)\b`)

// leavesTraces says whether a step may leave something in the session: settings,
// attached files, temporary objects that are called so.
func leavesTraces(step skein.Step) bool {
	for _, s := range step.Statements {
		if lasting.MatchString(s.Text) {
			return true
		}
	}
	return false
}
