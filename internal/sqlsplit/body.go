package sqlsplit

// An atomic follows PostgreSQL's CREATE FUNCTION or PROCEDURE, whose body may
// be BEGIN ATOMIC ... END instead of a string (manual, CREATE FUNCTION,
// "sql_body"). Within it only CASE has an END of its own.
type atomic struct {
	pos    int // where BEGIN is
	ends   int // how many END are wanted
	prev   token
	before string // the text of prev
}

func (a *atomic) take(t token, text string) {
	prev, before := a.prev, a.before
	a.prev, a.before = t, text
	// After AS or a dot even a reserved word is a name: SELECT 1 AS end.
	if t.kind != word || before == "AS" || before == "." {
		return
	}
	switch {
	case text == "ATOMIC" && before == "BEGIN":
		if a.ends == 0 {
			a.pos = prev.pos
		}
		a.ends++
	case a.ends == 0:
	case text == "CASE":
		a.ends++
	case text == "END":
		a.ends--
	}
}

func (a *atomic) semicolon() bool { return a.ends > 0 }

func (a *atomic) open() (int, string) {
	if a.ends > 0 {
		return a.pos, "BEGIN ATOMIC without its END"
	}
	return 0, ""
}

// A trigger follows SQLite's CREATE TRIGGER by the rule of sqlite3_complete
// (sqlite.org/c3ref/complete.html): it ends with an END between two semicolons,
// so that neither CASE ... END nor a column called end can close it.
type trigger struct {
	pos            int // where the statement starts
	afterSemicolon bool
	closed         bool
}

func (b *trigger) take(_ token, text string) {
	b.closed = b.afterSemicolon && text == "END"
	b.afterSemicolon = false
}

func (b *trigger) semicolon() bool {
	b.afterSemicolon = true
	return !b.closed
}

func (b *trigger) open() (int, string) {
	if !b.closed {
		return b.pos, "CREATE TRIGGER without the ; END that closes its body"
	}
	return 0, ""
}
