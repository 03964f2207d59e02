package sqlsplit

import "strings"

type kind uint8

const (
	eof kind = iota
	word
	quotedText
	punct
	semicolon
	delimiter  // what MySQL's DELIMITER set
	client     // a backslash command, to the end of its line
	comment    // the opening or closing of an executable comment
	groupBegin // -- +goose StatementBegin
	groupEnd   // -- +goose StatementEnd
)

type token struct {
	kind     kind
	pos, end int
}

// quoted stands for the text of strings and quoted identifiers, of which only
// the presence matters.
const quoted = "'"

// A lexer cuts text into tokens, as coarsely as splitting allows, without
// ordinary comments and whitespace. The rules are those of
//
//   - PostgreSQL: manual, "Lexical Structure", and src/backend/parser/scan.l;
//   - MySQL: manual, "Language Structure" and "mysql Client Commands"; MariaDB:
//     Knowledge Base, "Comment Syntax";
//   - SQLite: sqlite.org/lang.html, and src/tokenize.c.
type lexer struct {
	dialect Dialect
	src     string
	pos     int

	delim   string // as set by MySQL's DELIMITER; "" is the semicolon
	grouped bool   // within goose's markers: no delimiter, no client commands
	dollar  bool   // $tag$ opens a quote here
	exec    int    // where the executable comment now open was opened, or -1
	hint    int    // where the first hint comment since the last reset is, or -1
}

// text returns what a body is told of t.
func (l *lexer) text(t token) string {
	switch t.kind {
	case word:
		return asciiUpper(l.src[t.pos:t.end])
	case quotedText:
		return quoted
	}
	return l.src[t.pos:t.end]
}

// next returns the next token, of kind eof at the end.
func (l *lexer) next() (token, error) {
	for l.pos < len(l.src) {
		pos, c := l.pos, l.src[l.pos]
		if l.isSpace(c) {
			l.pos++
			continue
		}
		if l.atDelimiter(pos) {
			l.pos += len(l.delim)
			return token{delimiter, pos, l.pos}, nil
		}
		switch {
		case l.atLineComment(pos):
			if k, marker := l.skipLineComment(); marker {
				return token{k, pos, l.pos}, nil
			}
			continue
		case c == '/' && l.at(pos+1) == '*':
			if n := l.executableComment(pos); n > 0 {
				l.exec = pos
				l.pos += n
				return token{comment, pos, l.pos}, nil
			}
			if l.hint < 0 && l.at(pos+2) == '+' && l.dialect != SQLite {
				l.hint = pos
			}
			if err := l.skipBlockComment(); err != nil {
				return token{}, err
			}
			continue
		case c == '*' && l.exec >= 0 && l.at(pos+1) == '/':
			l.exec = -1
			l.pos += 2
			return token{comment, pos, l.pos}, nil
		case l.dialect == SQLite && strings.HasPrefix(l.src[pos:], bom):
			// tokenize.c takes it for a space wherever a token may begin.
			l.pos += len(bom)
			continue
		}
		return l.token()
	}
	return token{eof, l.pos, l.pos}, nil
}

// token reads one at pos, where neither space nor comment is.
func (l *lexer) token() (token, error) {
	pos, c := l.pos, l.src[l.pos]
	switch {
	case c == ';':
		l.pos++
		return token{semicolon, pos, l.pos}, nil
	case c == '\'', c == '"', c == '`' && l.dialect != PostgreSQL:
		return l.quote(pos, c, l.dialect == MySQL && c != '`')
	case c == '[' && l.dialect == SQLite:
		return l.quote(pos, ']', false)
	case c == '$' && l.dollar:
		if n := l.dollarTag(pos); n > 0 {
			return l.dollarQuote(n)
		}
		if l.dialect == PostgreSQL {
			// A parameter, $1, ends with its digits: $1$$ opens a quote.
			l.pos++
			l.pos += countDigits(l.src[l.pos:])
			return token{punct, pos, l.pos}, nil
		}
	case c == '\\' && !l.grouped && l.isClientCommand(pos):
		end := l.lineEnd(pos)
		l.pos = end
		for l.isSpace(l.src[end-1]) {
			end--
		}
		return token{client, pos, end}, nil
	case l.dialect == PostgreSQL && isDigit(c):
		// Not a word: 1$$ opens a quote.
		l.pos += countDigits(l.src[pos:])
		return token{punct, pos, l.pos}, nil
	}
	if l.isWord(c) {
		for l.pos < len(l.src) && l.isWord(l.src[l.pos]) && !l.atDelimiter(l.pos) {
			l.pos++
		}
		if l.dialect == PostgreSQL && l.pos-pos == 1 && (c == 'e' || c == 'E') && l.at(l.pos) == '\'' {
			return l.escapeString(pos)
		}
		return token{word, pos, l.pos}, nil
	}
	l.pos++
	if l.dialect == MySQL && c == ':' && l.at(l.pos) == '=' {
		l.pos++ // an assignment, not a label
	}
	return token{punct, pos, l.pos}, nil
}

// at returns the byte at i, 0 beyond the end.
func (l *lexer) at(i int) byte {
	if i < len(l.src) {
		return l.src[i]
	}
	return 0
}

func (l *lexer) isSpace(c byte) bool {
	switch c {
	case ' ', '\t', '\n', '\r', '\f':
		return true
	case '\v':
		return l.dialect != SQLite // PostgreSQL: since 16
	}
	return false
}

// isWord tells whether c may be part of an unquoted identifier, keyword or
// number. Every byte beyond ASCII may.
func (l *lexer) isWord(c byte) bool {
	return c >= 0x80 || c == '_' || c == '$' || isDigit(c) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func countDigits(s string) int {
	n := 0
	for n < len(s) && isDigit(s[n]) {
		n++
	}
	return n
}

// atDelimiter tells whether DELIMITER's string is at i. Like the client, it
// takes no notice of where words end: "END$$" ends a statement under $$.
func (l *lexer) atDelimiter(i int) bool {
	return l.delim != "" && l.src[i] == l.delim[0] && !l.grouped && l.exec < 0 && strings.HasPrefix(l.src[i:], l.delim)
}

// isClientCommand tells whether the backslash at pos begins a command of psql
// or mysql. It is no operator in either language; MySQL's \N is a null.
func (l *lexer) isClientCommand(pos int) bool {
	switch l.dialect {
	case PostgreSQL:
		return true
	case MySQL:
		return l.at(pos+1) != 'N' && l.exec < 0
	}
	return false
}

func (l *lexer) lineEnd(pos int) int {
	if i := strings.IndexByte(l.src[pos:], '\n'); i >= 0 {
		return pos + i
	}
	return len(l.src)
}

// startsLine tells whether nothing but space is before pos on its line.
func (l *lexer) startsLine(pos int) bool {
	for pos--; pos >= 0 && l.src[pos] != '\n'; pos-- {
		if !l.isSpace(l.src[pos]) {
			return pos == len(bom)-1 && strings.HasPrefix(l.src, bom)
		}
	}
	return true
}

func (l *lexer) atLineComment(pos int) bool {
	switch l.src[pos] {
	case '#':
		return l.dialect == MySQL
	case '-':
		if l.at(pos+1) != '-' {
			return false
		}
		// In MySQL 5--3 is a difference: a comment wants a space or a control
		// character after the dashes, or the end.
		return l.dialect != MySQL || l.at(pos+2) <= ' ' || l.at(pos+2) == 0x7f
	}
	return false
}

// skipLineComment skips one, and returns the kind of marker it is, if it is
// one: alone on its line.
func (l *lexer) skipLineComment() (k kind, marker bool) {
	start, text := l.pos, l.src[l.pos:]
	newline := "\n"
	if l.dialect == PostgreSQL {
		newline = "\r\n"
	}
	if i := strings.IndexAny(text, newline); i >= 0 {
		text = text[:i]
	}
	l.pos += len(text)
	text, dashes := strings.CutPrefix(text, "--")
	if !dashes || !l.startsLine(start) {
		return 0, false
	}
	switch text = strings.Trim(text, " \t\r"); {
	case asciiEqualFold(text, "+goose StatementBegin"):
		return groupBegin, true
	case asciiEqualFold(text, "+goose StatementEnd"):
		return groupEnd, true
	}
	return 0, false
}

// executableComment returns the length of the opening of an executable comment
// at pos, with its version, or 0. Its content is read as if it stood outside.
func (l *lexer) executableComment(pos int) int {
	if l.dialect != MySQL {
		return 0
	}
	for _, opening := range []string{"/*!", "/*M!"} {
		if strings.HasPrefix(l.src[pos:], opening) {
			n := len(opening)
			if v := countDigits(l.src[pos+n:]); v >= 5 {
				n += min(v, 6)
			}
			return n
		}
	}
	return 0
}

// skipBlockComment skips one. PostgreSQL's nest. SQLite lets the last one of a
// text stay open; here that is an error, since it hides the statements behind
// it.
func (l *lexer) skipBlockComment() error {
	depth, i := 1, l.pos+2
	for from := i; depth > 0; from = i {
		for {
			n := strings.IndexByte(l.src[i:], '/')
			if n < 0 {
				return errorAt(l.src, l.pos, "comment without */")
			}
			i += n + 1
			if i-2 >= from && l.src[i-2] == '*' {
				depth--
				break
			}
			if l.dialect == PostgreSQL && l.at(i) == '*' {
				depth++
				i++
				break
			}
		}
	}
	l.pos = i
	return nil
}

// quote reads what is quoted from pos to the next end. A doubled end needs no
// care: it reads as two quotes side by side.
func (l *lexer) quote(pos int, end byte, escapes bool) (token, error) {
	i := l.pos + 1
	for i < len(l.src) {
		c := l.src[i]
		if c == end {
			l.pos = i + 1
			return token{quotedText, pos, l.pos}, nil
		}
		if c == '\\' && escapes {
			i++
		}
		i++
	}
	if end == ']' {
		return token{}, errorAt(l.src, pos, "[ without ]")
	}
	return token{}, errorAt(l.src, pos, "quote without its closing "+string(rune(end)))
}

// escapeString reads PostgreSQL's E'...' from pos, up to whose quote the lexer
// has come. A string goes on, with escapes, in a further '...' behind space
// with a newline in it ("String Constants").
func (l *lexer) escapeString(pos int) (token, error) {
	for {
		if _, err := l.quote(l.pos, '\'', true); err != nil {
			return token{}, errorAt(l.src, pos, "quote without its closing '")
		}
		next := l.pos
		if l.at(next) != '\'' { // not doubled
			newline := false
			for next < len(l.src) {
				if c := l.src[next]; l.isSpace(c) {
					newline = newline || c == '\n' || c == '\r'
					next++
				} else if l.atLineComment(next) {
					if n := strings.IndexAny(l.src[next:], "\r\n"); n >= 0 {
						next += n
					} else {
						next = len(l.src)
					}
				} else {
					break
				}
			}
			if !newline || l.at(next) != '\'' {
				return token{quotedText, pos, l.pos}, nil
			}
		}
		l.pos = next
	}
}

// dollarTag returns the length of the $tag$ at pos, or 0. A tag is an
// identifier without dollars, or nothing.
func (l *lexer) dollarTag(pos int) int {
	for i := pos + 1; i < len(l.src); i++ {
		c := l.src[i]
		if c == '$' {
			return i + 1 - pos
		}
		if !l.isWord(c) || i == pos+1 && isDigit(c) {
			break
		}
	}
	return 0
}

func (l *lexer) dollarQuote(n int) (token, error) {
	pos := l.pos
	tag := l.src[pos : pos+n]
	i := strings.Index(l.src[pos+n:], tag)
	if i < 0 {
		return token{}, errorAt(l.src, pos, "dollar quote without its closing "+tag)
	}
	l.pos += n + i + n
	return token{quotedText, pos, l.pos}, nil
}

// asciiUpper leaves bytes beyond ASCII alone, as the engines do for keywords:
// strings.ToUpper makes an I of "ı".
func asciiUpper(s string) string {
	for i := 0; i < len(s); i++ {
		if 'a' <= s[i] && s[i] <= 'z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if 'a' <= b[i] && b[i] <= 'z' {
					b[i] -= 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

func asciiEqualFold(s, t string) bool {
	return len(s) == len(t) && asciiUpper(s) == asciiUpper(t)
}
