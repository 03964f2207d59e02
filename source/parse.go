package source

import (
	"fmt"
	"strings"

	"github.com/skeinhq/skein"
)

// parsed is what a file's annotations make of it.
type parsed struct {
	up, down      *skein.Section
	noTransaction bool           // goose's, which is said of the whole file
	timeouts      skein.Timeouts // said of the whole file
	errs          Errors
}

// parse cuts a file into its sections at dbmate's and goose's annotations. It
// goes by lines and not by statements, as these tools do: a line that is an
// annotation is one in a string too.
//
// dbmate's form: pkg/dbmate/migration.go in github.com/amacneil/dbmate. goose's:
// internal/sqlparser/parser.go in github.com/pressly/goose.
func parse(path, text string) parsed {
	p := parser{path: path}
	line := 0
	for at := 0; at < len(text); {
		line++
		end := len(text)
		if n := strings.IndexByte(text[at:], '\n'); n >= 0 {
			end = at + n + 1
		}
		this := strings.TrimRight(text[at:end], " \t\n")
		if words, ok, msg := readDirective(this); msg != "" {
			p.fail(line, "%s", msg)
		} else if ok {
			p.direct(words, line, text[:at])
		} else if a, msg := readAnnotation(this); msg != "" {
			p.fail(line, "%s", msg)
		} else if a.verb != "" {
			p.take(a, line, text[:at], end)
		}
		at = end
	}
	p.endStatement()
	p.closeSection(text)

	if p.up != nil && p.down != nil && p.down.Line < p.up.Line {
		p.fail(p.down.Line-1, "the down section is above the up section: put it below")
	}
	for _, s := range []*skein.Section{p.up, p.down} {
		if s != nil {
			s.NoTransaction = s.NoTransaction || p.noTransaction
			s.Timeouts = orElse(s.Timeouts, p.timeouts)
		}
	}
	return p.parsed
}

// The verbs of annotations.
const (
	verbUp             = "up"
	verbDown           = "down"
	verbNoTransaction  = "no transaction"
	verbStatementBegin = "statement begin"
	verbStatementEnd   = "statement end"
)

// An annotation is a comment that says something about the file.
type annotation struct {
	tool    string // dbmate or goose
	verb    string // empty: the line is no annotation
	written string
	options []string // dbmate's
}

// readAnnotation reads a line. What comes so close to an annotation that it is
// probably meant as one is refused with msg: read as a comment, a mistyped
// migrate:down would let the down run with the up.
func readAnnotation(line string) (a annotation, msg string) {
	body, ok := strings.CutPrefix(strings.TrimLeft(line, " \t"), "--")
	if !ok {
		return annotation{}, ""
	}
	body = strings.TrimLeft(body, " \t")
	if body == "" {
		return annotation{}, ""
	}
	switch body[0] {
	case 'm', 'M':
		return readDbmate(line, body)
	case '+':
		return readGoose(line, body)
	}
	return annotation{}, ""
}

func readDbmate(line, body string) (annotation, string) {
	before, after, ok := strings.Cut(body, ":")
	if !ok || !strings.EqualFold(strings.TrimRight(before, " \t"), "migrate") {
		return annotation{}, ""
	}
	words := strings.Fields(after)
	spaced := len(words) == 0 || !strings.HasPrefix(after, words[0])
	if len(words) == 0 {
		return annotation{}, "" // prose
	}
	verb, options := strings.ToLower(words[0]), words[1:]
	if verb != verbUp && verb != verbDown {
		if spaced {
			return annotation{}, "" // prose
		}
		return annotation{}, fmt.Sprintf("-- migrate:%s is not known: there are -- migrate:up and -- migrate:down", words[0])
	}
	if !strings.HasPrefix(line, "--") || !strings.HasPrefix(body, "migrate:"+verb) {
		if spaced && len(options) > 0 && !strings.Contains(options[0], ":") {
			return annotation{}, "" // prose: "migrate: up to a thousand rows"
		}
		return annotation{}, fmt.Sprintf("write -- migrate:%s like this, in small letters and at the beginning of the line", verb)
	}
	return annotation{tool: "dbmate", verb: verb, written: "-- migrate:" + verb, options: options}, ""
}

func readGoose(line, body string) (annotation, string) {
	words := strings.Fields(body[1:])
	if len(words) == 0 || !strings.EqualFold(words[0], "goose") {
		return annotation{}, ""
	}
	name := strings.Join(words[1:], " ")
	for _, known := range []struct{ name, verb string }{
		{"Up", verbUp},
		{"Down", verbDown},
		{"NO TRANSACTION", verbNoTransaction},
		{"StatementBegin", verbStatementBegin},
		{"StatementEnd", verbStatementEnd},
	} {
		if !strings.EqualFold(name, known.name) {
			continue
		}
		written := "+goose " + known.name
		if body != written || !strings.HasPrefix(line, "--") {
			return annotation{}, fmt.Sprintf("write -- %s like this, and at the beginning of the line", written)
		}
		return annotation{tool: "goose", verb: known.verb, written: "-- " + written}, ""
	}
	if len(words) > 1 && strings.HasPrefix(strings.ToUpper(words[1]), "ENVSUB") {
		return annotation{}, "a migration must be the same in every tenant and on every machine, so environment variables are not put into it: write the values out and take this line away"
	}
	return annotation{}, fmt.Sprintf("-- +goose %s is not known: there are Up, Down, StatementBegin, StatementEnd and NO TRANSACTION", name)
}

// A parser is what has been read of a file.
type parser struct {
	parsed
	path string

	first   annotation     // the first that tells the file's form
	open    *skein.Section // that began last
	openAt  int            // where its text begins
	begin   int            // line of a StatementBegin without its end; 0: none
	headers bool           // the text above the first section was looked at
}

func (p *parser) fail(line int, format string, args ...any) {
	p.errs = append(p.errs, &skein.FileError{Path: p.path, Line: line, Msg: fmt.Sprintf(format, args...)})
}

// take takes an annotation on a line; before is the text above the line, end
// where the line ends.
func (p *parser) take(a annotation, line int, before string, end int) {
	switch a.verb {
	case verbNoTransaction:
		if p.oneForm(a, line) {
			p.noTransaction = true
		}
	case verbStatementBegin:
		if p.begin > 0 {
			p.fail(line, "the statement that begins on line %d has not ended: a line -- +goose StatementEnd is missing", p.begin)
		}
		p.begin = line
	case verbStatementEnd:
		if p.begin == 0 {
			p.fail(line, "no statement has begun: a line -- +goose StatementBegin is missing")
		}
		p.begin = 0
	case verbUp, verbDown:
		p.endStatement()
		p.closeSection(before)
		if !p.oneForm(a, line) {
			return
		}
		if !p.headers {
			p.headers = true
			if at := firstStatement(before); at >= 0 {
				p.fail(lineAt(before, at), "this is above the first section: move it below %s", a.written)
			}
		}
		section := &skein.Section{Path: p.path, Line: line + 1}
		side := &p.up
		if a.verb == verbDown {
			side = &p.down
		}
		if *side != nil {
			p.fail(line, "this is the second %s of the file: the first is on line %d", a.written, (*side).Line-1)
			return
		}
		*side, p.open, p.openAt = section, section, end
		p.readOptions(section, a.options, line)
	}
}

// oneForm says whether an annotation is of the same tool as those above it. Only
// goose's marks around statements can be in files of any form.
func (p *parser) oneForm(a annotation, line int) bool {
	if p.first.verb == "" {
		p.first = a
	}
	if a.tool != p.first.tool {
		p.fail(line, "the file is written for %s (%s), and this is %s's: keep to one form", p.first.tool, p.first.written, a.tool)
		return false
	}
	return true
}

func (p *parser) readOptions(section *skein.Section, options []string, line int) {
	seen := false
	for _, option := range options {
		switch {
		case option != "transaction:false" && option != "transaction:true":
			p.fail(line, "the option %s is not known: transaction:false is", option)
		case seen:
			p.fail(line, "the option transaction is given twice")
		default:
			seen = true
			section.NoTransaction = option == "transaction:false"
		}
	}
}

// closeSection ends the section that is open, if one is, where before ends.
func (p *parser) closeSection(before string) {
	if p.open != nil {
		p.open.SQL = before[p.openAt:]
		p.open = nil
	}
}

// endStatement is called where no statement may be open.
func (p *parser) endStatement() {
	if p.begin > 0 {
		p.fail(p.begin, "the statement that begins here has no end: a line -- +goose StatementEnd is missing")
		p.begin = 0
	}
}

// firstStatement is where something other than comments, white space and
// semicolons begins, -1 if nothing does. A comment that only some databases take
// for one (/*! of MySQL, what follows a nested comment) is something: whether
// that can run is for the engine to say.
func firstStatement(sql string) int {
	for i := 0; i < len(sql); {
		switch c := sql[i]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\f' || c == '\v' || c == ';':
			i++
		case c == '#' || strings.HasPrefix(sql[i:], "--"):
			n := strings.IndexByte(sql[i:], '\n')
			if n < 0 {
				return -1
			}
			i += n + 1
		case strings.HasPrefix(sql[i:], "/*") && !strings.HasPrefix(sql[i:], "/*!") && !strings.HasPrefix(sql[i:], "/*M!"):
			n := strings.Index(sql[i+2:], "*/")
			if n < 0 {
				return i
			}
			i += 2 + n + 2
		default:
			return i
		}
	}
	return -1
}
