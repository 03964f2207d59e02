package sqlsplit

import (
	"iter"
	"slices"
	"strings"
)

// IsClientCommand tells whether the statement is a command of the engine's
// command-line client, which no server understands: a backslash command of psql
// (\connect, \i) or mysql (\., \G), a word such as SOURCE of mysql, a dot
// command of sqlite3.
func (s Statement) IsClientCommand() bool {
	switch s.dialect {
	case PostgreSQL:
		return strings.HasPrefix(s.Text, `\`)
	case MySQL:
		return strings.HasPrefix(s.Text, `\`) || clientWord(s.Keyword)
	case SQLite:
		return strings.HasPrefix(s.Text, ".")
	}
	return false
}

// IsTransactionControl tells whether the statement begins or ends a
// transaction, MySQL's SET autocommit and XA included. Savepoints do neither,
// nor does ROLLBACK TO one.
func (s Statement) IsTransactionControl() bool {
	switch s.Keyword {
	case "COMMIT":
		return true
	case "BEGIN":
		return !s.contains("NOT", "ATOMIC")
	case "ROLLBACK":
		return !s.contains("TO")
	case "END":
		return s.dialect != MySQL
	case "START":
		return s.dialect != SQLite && s.contains("START", "TRANSACTION")
	case "ABORT":
		return s.dialect == PostgreSQL
	case "PREPARE":
		return s.dialect == PostgreSQL && s.contains("PREPARE", "TRANSACTION")
	case "XA":
		return s.dialect == MySQL
	case "SET":
		return s.dialect == MySQL && s.setsAutocommit()
	}
	return false
}

// ImplicitCommit tells whether a MySQL statement commits the transaction it is
// run in, or may: it is true for all but those known not to (MySQL manual,
// "Statements That Cause an Implicit Commit"). CALL and EXECUTE may, by what
// they run. CREATE and DROP TEMPORARY TABLE do not, but neither can they be
// rolled back. For other engines it is false.
func (s Statement) ImplicitCommit() bool {
	if s.dialect != MySQL {
		return false
	}
	switch s.Keyword {
	case "INSERT", "UPDATE", "DELETE", "REPLACE", "SELECT", "WITH", "VALUES", "TABLE", "DO",
		"SHOW", "EXPLAIN", "DESCRIBE", "DESC", "HELP", "USE", "HANDLER",
		"SAVEPOINT", "RELEASE", "PREPARE", "DEALLOCATE", "SIGNAL", "RESIGNAL", "GET":
		return false
	case "ROLLBACK":
		return s.IsTransactionControl()
	case "CREATE TABLE", "DROP TABLE":
		for t := range s.tokens() {
			if t.text == "TEMPORARY" || t.text == "TABLE" {
				return t.text == "TABLE"
			}
		}
	case "SET":
		return s.contains("SET", "PASSWORD") || s.contains("SET", "DEFAULT") || s.contains("SET", "STATEMENT") ||
			s.setsAutocommit()
	}
	return true
}

// CannotRunInTransaction tells whether the statement fails in a transaction
// block (PostgreSQL: each command's page in the manual), or fails or does
// nothing there (SQLite: sqlite.org/pragma.html). DROP and ALTER SUBSCRIPTION
// count although some of their forms could. For MySQL it is false: see
// [Statement.ImplicitCommit].
func (s Statement) CannotRunInTransaction() bool {
	switch s.dialect {
	case PostgreSQL:
		switch s.Keyword {
		case "VACUUM", "ALTER SYSTEM", "CREATE DATABASE", "DROP DATABASE", "CREATE TABLESPACE", "DROP TABLESPACE",
			"CREATE SUBSCRIPTION", "DROP SUBSCRIPTION":
			return true
		case "CREATE INDEX", "DROP INDEX":
			return s.contains("INDEX", "CONCURRENTLY")
		case "REINDEX":
			return s.reindexesAlone()
		case "CLUSTER":
			return s.clustersAll()
		case "DISCARD":
			return s.contains("DISCARD", "ALL")
		case "ALTER TABLE":
			return s.contains("DETACH", "PARTITION") && s.contains("CONCURRENTLY")
		case "ALTER DATABASE":
			return s.contains("SET", "TABLESPACE")
		case "ALTER SUBSCRIPTION":
			return s.contains("REFRESH") || s.contains("PUBLICATION")
		}
	case SQLite:
		switch s.Keyword {
		case "VACUUM", "DETACH":
			return true
		case "PRAGMA":
			return s.contains("WAL_CHECKPOINT") || s.sets("JOURNAL_MODE", "FOREIGN_KEYS", "SYNCHRONOUS", "TEMP_STORE")
		}
	}
	return false
}

// IsCopyFromStdin tells whether the statement is PostgreSQL's COPY ... FROM
// STDIN, which waits for data that no statement can carry. (FROM STDOUT is
// taken for the same by its grammar.)
func (s Statement) IsCopyFromStdin() bool {
	return s.dialect == PostgreSQL && s.Keyword == "COPY" &&
		(s.contains("FROM", "STDIN") || s.contains("FROM", "STDOUT"))
}

// A piece is a token as the classification sees it.
type piece struct {
	text   string
	parens int
}

// tokens yields the tokens of the statement in order, words in upper case.
func (s Statement) tokens() iter.Seq[piece] {
	return func(yield func(piece) bool) {
		l := lexer{dialect: s.dialect, src: s.Text, exec: -1, hint: -1, grouped: true, dollar: s.dialect == PostgreSQL}
		parens := 0
		for {
			t, err := l.next()
			if err != nil || t.kind == eof {
				return
			}
			if t.kind == comment {
				continue
			}
			p := piece{l.text(t), parens}
			switch p.text {
			case "(":
				parens++
			case ")":
				parens--
				p.parens--
			}
			if !yield(p) {
				return
			}
		}
	}
}

// contains tells whether the words follow each other outside parentheses.
func (s Statement) contains(words ...string) bool {
	n := 0
	for t := range s.tokens() {
		if t.parens > 0 || t.text != words[n] {
			n = 0
		}
		if t.parens == 0 && t.text == words[n] {
			n++
		}
		if n == len(words) {
			return true
		}
	}
	return false
}

// setsAutocommit tells whether a SET assigns the system variable autocommit;
// @autocommit is not it, @@autocommit is.
func (s Statement) setsAutocommit() bool {
	var last [3]string
	for t := range s.tokens() {
		if t.parens == 0 && (t.text == "=" || t.text == ":=") && last[2] == "AUTOCOMMIT" &&
			(last[1] != "@" || last[0] == "@") {
			return true
		}
		last = [3]string{last[1], last[2], t.text}
	}
	return false
}

// sets tells whether a PRAGMA gives one of the names a value.
func (s Statement) sets(names ...string) bool {
	last := ""
	for t := range s.tokens() {
		if (t.text == "=" || t.text == "(") && slices.Contains(names, last) {
			return true
		}
		last = t.text
	}
	return false
}

// reindexesAlone tells whether a REINDEX is CONCURRENTLY, as a word or an
// option, or of more than one table.
func (s Statement) reindexesAlone() bool {
	concurrently := false
	for t := range s.tokens() {
		if concurrently && (t.text != "FALSE" && t.text != "OFF" && t.text != "0") {
			return true
		}
		concurrently = t.text == "CONCURRENTLY"
		if t.parens == 0 && (t.text == "SCHEMA" || t.text == "DATABASE" || t.text == "SYSTEM") {
			return true
		}
	}
	return false
}

// clustersAll tells whether a CLUSTER names no table.
func (s Statement) clustersAll() bool {
	for t := range s.tokens() {
		if t.parens == 0 && t.text != "CLUSTER" && t.text != "VERBOSE" && t.text != "(" && t.text != ")" {
			return false
		}
	}
	return true
}
