package postgres

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/sqlsplit"
)

// The SQLSTATEs of a statement that cannot be in a transaction and is, and of
// code that ends the transaction it is in.
const (
	activeTransaction  = "25001"
	invalidTermination = "2D000"
)

const noTransactionHint = "put transaction:false after migrate:up (or migrate:down), best in a file with nothing else"

// Parse splits a section into its statements, and refuses what cannot work.
func (e *Engine) Parse(section *skein.Section) ([]skein.Statement, error) {
	refuse := func(line int, format string, args ...any) error {
		return &skein.FileError{Path: section.Path, Line: section.Line + line - 1, Msg: fmt.Sprintf(format, args...)}
	}
	line := 1
	for text := range strings.Lines(section.SQL) {
		if !utf8.ValidString(text) {
			return nil, refuse(line, "the file is not UTF-8: save it as UTF-8")
		}
		line++
	}
	found, err := sqlsplit.Split(sqlsplit.PostgreSQL, section.SQL)
	if err != nil {
		if at, ok := errors.AsType[*sqlsplit.Error](err); ok {
			return nil, refuse(at.Line, "%s", at.Msg)
		}
		return nil, refuse(1, "%v", err)
	}
	statements := make([]skein.Statement, len(found))
	for i, st := range found {
		switch {
		case st.IsClientCommand():
			return nil, refuse(st.Line, "%s is a command of psql, which the server does not know: write SQL instead", st.Keyword)
		case st.IsCopyFromStdin():
			return nil, refuse(st.Line, "COPY FROM STDIN takes data from a client, and a migration has none: write INSERT instead (pg_dump --inserts does)")
		case section.NoTransaction:
		case st.IsTransactionControl():
			return nil, refuse(st.Line, "%s cannot be in a migration, which is one transaction with its history row: leave it out, or %s", st.Keyword, noTransactionHint)
		case st.CannotRunInTransaction():
			return nil, refuse(st.Line, "this %s cannot run in a transaction: %s", st.Keyword, noTransactionHint)
		}
		statements[i] = skein.Statement{Text: st.Text, Line: section.Line + st.Line - 1}
	}
	return statements, nil
}

// canShareTransaction says whether a statement can be in one transaction with
// others, as far as its text can tell.
func canShareTransaction(text string) bool {
	found, err := sqlsplit.Split(sqlsplit.PostgreSQL, text)
	if err != nil || len(found) != 1 {
		return false
	}
	st := found[0]
	// ALTER TYPE ... ADD VALUE cannot before PostgreSQL 12.
	return !st.IsTransactionControl() && !st.CannotRunInTransaction() && !runsCode(text) && st.Keyword != "ALTER TYPE"
}

// runsCode says whether a statement runs procedural code, which may commit.
func runsCode(text string) bool {
	found, err := sqlsplit.Split(sqlsplit.PostgreSQL, text)
	return err != nil || len(found) != 1 || found[0].Keyword == "CALL" || found[0].Keyword == "DO"
}
