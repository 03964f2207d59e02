package mysql

import (
	"errors"
	"slices"
	"strings"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/sqlsplit"
)

// Parse splits one side of a migration. It obeys DELIMITER, as the mysql client
// does. It refuses that client's other commands, USE (a migration belongs to
// its tenant's database) and reading local files, and in a section that is not
// marked as one without a transaction, beginning and ending transactions.
func (e *Engine) Parse(section *skein.Section) ([]skein.Statement, error) {
	split, err := sqlsplit.Split(sqlsplit.MySQL, section.SQL)
	if wrong, ok := errors.AsType[*sqlsplit.Error](err); ok {
		return nil, &skein.FileError{Path: section.Path, Line: section.Line + wrong.Line - 1, Msg: wrong.Msg}
	} else if err != nil {
		return nil, &skein.FileError{Path: section.Path, Line: section.Line, Msg: err.Error()}
	}
	statements := make([]skein.Statement, len(split))
	for i, s := range split {
		statements[i] = skein.Statement{Text: s.Text, Line: section.Line + s.Line - 1}
		if msg := refusal(s, section.NoTransaction); msg != "" {
			return nil, &skein.FileError{Path: section.Path, Line: statements[i].Line, Msg: msg}
		}
	}
	return statements, nil
}

// refusal says why a statement is not sent, empty if it is.
func refusal(s sqlsplit.Statement, noTransaction bool) string {
	first := words(s.Text, 4)
	switch {
	case first.are("USE"):
		return "USE leads away from the tenant's database: leave it out, Skein connects to the right one, or name tables as `database`.`table`"
	case first.are("LOAD", "DATA") && slices.Contains(first.list, "LOCAL"):
		return "LOAD DATA LOCAL would read a file of the machine that Skein runs on, which is not carried out: write the rows as INSERT statements"
	case s.IsClientCommand():
		return s.Keyword + " is a command of the mysql client, and not one of the server: leave it out"
	case noTransaction:
		return ""
	case s.IsTransactionControl():
		return s.Keyword + " does not belong into a migration, which Skein makes a transaction where it can be one: leave it out, or put transaction:false at the top of the file"
	}
	return ""
}

// A head is the first words of a statement.
type head struct {
	list []string // in upper case
	ends []int    // where in the text each ends
}

// are says whether the statement begins with these words.
func (h head) are(words ...string) bool {
	return len(h.list) >= len(words) && slices.Equal(h.list[:len(words)], words)
}

// words reads at most n words from the beginning of a statement. Comments are
// skipped; what an executable comment holds is read, though a server of another
// version may not. The words end at anything else but a parenthesis.
func words(text string, n int) head {
	var h head
	for i := 0; i < len(text) && len(h.list) < n; {
		switch c := text[i]; {
		case c <= ' ' || c == '(':
			i++
		case c == '#', strings.HasPrefix(text[i:], "--"):
			end := strings.IndexByte(text[i:], '\n')
			if end < 0 {
				return h
			}
			i += end
		case strings.HasPrefix(text[i:], "/*!"), strings.HasPrefix(text[i:], "/*M!"):
			i += strings.IndexByte(text[i:], '!') + 1
			for i < len(text) && text[i] >= '0' && text[i] <= '9' {
				i++
			}
		case strings.HasPrefix(text[i:], "*/"):
			i += 2
		case strings.HasPrefix(text[i:], "/*"):
			end := strings.Index(text[i+2:], "*/")
			if end < 0 {
				return h
			}
			i += 2 + end + 2
		case letter(c):
			end := i
			for end < len(text) && (letter(text[end]) || text[end] >= '0' && text[end] <= '9') {
				end++
			}
			h.list = append(h.list, strings.ToUpper(text[i:end]))
			h.ends = append(h.ends, end)
			i = end
		default:
			return h
		}
	}
	return h
}

func letter(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '$' || c >= 0x80
}

// canRollBack says whether a statement can be part of a transaction and be
// undone with it. What is not known to be so commits, or may:
// https://dev.mysql.com/doc/refman/8.4/en/implicit-commit.html and
// https://mariadb.com/kb/en/sql-statements-that-cause-an-implicit-commit/
func canRollBack(text string) bool {
	h := words(text, 3)
	if len(h.list) == 0 {
		return false
	}
	switch h.list[0] {
	case "SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "WITH", "VALUES", "DO", "SHOW", "SAVEPOINT", "RELEASE":
		return true
	case "ROLLBACK":
		return h.are("ROLLBACK", "TO") || h.are("ROLLBACK", "WORK", "TO")
	case "SET":
		// SET PASSWORD and SET ROLE change accounts, SET STATEMENT is followed
		// by any other statement.
		return !h.are("SET", "PASSWORD") && !h.are("SET", "DEFAULT") && !h.are("SET", "STATEMENT")
	case "LOAD":
		return h.are("LOAD", "DATA") || h.are("LOAD", "XML")
	}
	return false
}

// leavesNothing says whether a statement that the server answered with an error
// has changed nothing for certain. Each of these works on one thing, and the
// servers clean up after it; what names several may have got to some of them,
// and rows of other storage engines than InnoDB stay.
func leavesNothing(text string) bool {
	if strings.Contains(text, ";") {
		return false // it may be several statements, or a string
	}
	h := words(text, 3)
	switch {
	case h.are("CREATE", "OR"):
		return false // MariaDB drops what there was first
	case h.are("CREATE", "DATABASE"), h.are("CREATE", "SCHEMA"), h.are("CREATE", "USER"), h.are("CREATE", "ROLE"),
		h.are("ALTER", "USER"):
		return false
	case h.are("CREATE"), h.are("ALTER"):
		return true
	case h.are("TRUNCATE"):
		return true
	case h.are("DROP", "INDEX"), h.are("DROP", "TRIGGER"), h.are("DROP", "PROCEDURE"), h.are("DROP", "FUNCTION"), h.are("DROP", "EVENT"):
		return true
	case h.are("DROP", "TABLE"), h.are("DROP", "VIEW"):
		return !strings.Contains(text, ",")
	}
	return false
}

// resolvesFirst says whether a statement looks its names up before it does
// anything. What calls other statements may find a name missing in the middle.
func resolvesFirst(text string) bool {
	h := words(text, 1)
	return !strings.Contains(text, ";") && !h.are("CALL") && !h.are("EXECUTE") && !h.are("BEGIN")
}

// lockingHistory is a statement as it is sent. LOCK TABLES keeps a session from
// all tables that it does not name, so it is made to name the history as well.
func (s *session) lockingHistory(text string) string {
	h := words(text, 2)
	if !h.are("LOCK", "TABLES") && !h.are("LOCK", "TABLE") {
		return text
	}
	return text[:h.ends[1]] + " " + s.table + " WRITE," + text[h.ends[1]:]
}
