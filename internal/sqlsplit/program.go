package sqlsplit

// A program follows a MySQL statement that holds statements of its own: CREATE
// TRIGGER, PROCEDURE, FUNCTION, EVENT, PACKAGE, ALTER EVENT, and what MariaDB
// allows outside of them (BEGIN NOT ATOMIC, IF, CASE, LOOP, WHILE, REPEAT, FOR).
//
// BEGIN and END are no reserved words: columns, variables and parameters may
// bear these names. So they count only where the grammar lets a statement begin
// or end (MySQL manual, "Compound Statement Syntax"; MariaDB Knowledge Base,
// "Programmatic & Compound Statements"), which is what a program keeps track of.
type program struct {
	state  state
	frames []frame
	parens int

	// The next token begins a statement; the last one did, and may be a label;
	// Oracle's <<label>> is being read.
	starts, label, angle bool

	function, returns bool // a function's head is being read; its RETURNS was

	declare bool // in a DECLARE
	handler conditions

	last, beforeLast string // the texts of the two tokens before
	lastPos          int
}

// A state says which part of the statement the next token is in.
type state int

const (
	inBody            state = iota
	inPlain                 // no program after all
	inBegin                 // between BEGIN and ATOMIC
	inTrigger               // before the end of FOR EACH ROW
	inOrder                 // where FOLLOWS or PRECEDES may stand
	inOrderName             // the trigger that they name
	inEvent                 // before DO
	inPackage               // before the first item of a package
	inRoutine               // a routine's name and parameters
	inCharacteristics       // after a procedure's parameters
	inFunction              // after a function's parameters
	inAs                    // after AS: a text in another language, or Oracle's declarations
)

// conditions says where in the list of DECLARE ... HANDLER FOR the next token
// is.
type conditions int

const (
	noConditions conditions = iota
	wantCondition
	afterCondition
)

// A frame is something that an END will close.
type frame struct {
	kind   frameKind
	pos    int
	what   string // its first word
	cond   bool   // before the THEN, DO or LOOP that begins its statements
	until  bool   // in the condition of REPEAT
	parens int    // around a CASE expression
}

type frameKind int

const (
	statements   frameKind = iota + 1 // BEGIN, IF, CASE
	loop                              // LOOP, WHILE, REPEAT, FOR
	declarations                      // Oracle's, up to BEGIN; a package's
	expression                        // CASE
)

// newProgram returns the program that a statement with this keyword is, or nil.
// t is the keyword's last word.
func newProgram(keyword string, t token) *program {
	switch keyword {
	case "CREATE TRIGGER":
		return &program{state: inTrigger}
	case "CREATE EVENT", "ALTER EVENT":
		return &program{state: inEvent}
	case "CREATE PROCEDURE":
		return &program{state: inRoutine}
	case "CREATE FUNCTION":
		return &program{state: inRoutine, function: true}
	case "CREATE PACKAGE":
		return &program{state: inPackage, lastPos: t.pos}
	case "BEGIN":
		return &program{state: inBegin, last: keyword, lastPos: t.pos}
	case "IF", "CASE", "LOOP", "WHILE", "REPEAT", "FOR":
		p := &program{starts: true}
		p.take(t, keyword)
		return p
	}
	return nil
}

// plain tells whether the statement turned out to hold no others.
func (p *program) plain() bool { return p.state == inPlain }

// wantsText tells whether a dollar quote may be next: the body of a routine in
// another language (MySQL 9 manual, "CREATE PROCEDURE and CREATE FUNCTION
// Statements").
func (p *program) wantsText() bool { return p.state == inAs }

func (p *program) open() (int, string) {
	for _, f := range p.frames {
		if f.kind != expression {
			return f.pos, f.what + " without its END (DELIMITER can set the whole statement off)"
		}
	}
	return 0, ""
}

func (p *program) semicolon() bool {
	// It stands in no parentheses and no expression, whatever was left open.
	p.parens, p.handler = 0, noConditions
	p.declare, p.label, p.angle = false, false, false
	for p.top().kind == expression {
		p.pop()
	}
	if len(p.frames) == 0 {
		return false
	}
	p.begin()
	p.last = ";"
	return true
}

func (p *program) take(t token, text string) {
	switch text {
	case "(":
		p.parens++
	case ")":
		p.parens = max(p.parens-1, 0)
	}
	if p.state == inBody || p.head(t, text) {
		p.inside(t, text)
	}
	p.beforeLast, p.last, p.lastPos = p.last, text, t.pos
}

// begin says that the next token begins a statement of the body.
func (p *program) begin() { p.state, p.starts = inBody, true }

// top returns the innermost frame; outside of all, one that is nothing.
func (p *program) top() *frame {
	if len(p.frames) == 0 {
		return &frame{}
	}
	return &p.frames[len(p.frames)-1]
}

func (p *program) push(f frame) { p.frames = append(p.frames, f) }

func (p *program) pop() { p.frames = p.frames[:max(len(p.frames)-1, 0)] }

// head reads a token before the body. It returns true, in state inBody, when
// the token is the body's first.
func (p *program) head(t token, text string) bool {
	switch p.state {
	case inBegin:
		switch {
		case text == "NOT" && p.last == "BEGIN":
		case text == "ATOMIC" && p.last == "NOT":
			p.push(frame{kind: statements, pos: p.lastPos, what: "BEGIN"})
			p.begin()
		default:
			p.state = inPlain
		}
	case inTrigger:
		if text == "ROW" && p.last == "EACH" {
			p.state = inOrder
		}
	case inOrder:
		if text != "FOLLOWS" && text != "PRECEDES" {
			p.begin()
			return true
		}
		p.state = inOrderName
	case inOrderName:
		p.state = inOrder
	case inEvent:
		if text == "DO" && p.parens == 0 {
			p.begin()
		}
	case inPackage:
		switch text {
		case "AS", "IS":
			p.push(frame{kind: declarations, pos: t.pos, what: "PACKAGE"})
			p.begin()
		case "PROCEDURE", "FUNCTION", "DECLARE", "END":
			// MariaDB 11.4, without sql_mode=ORACLE, has no AS here.
			p.push(frame{kind: declarations, pos: t.pos, what: "PACKAGE"})
			p.begin()
			return true
		}
	case inRoutine:
		switch {
		case p.parens > 0:
		case text == ")" && p.function, text == "RETURN":
			p.state = inFunction
		case text == "RETURNS":
			p.state, p.returns = inFunction, true
		case text == ")":
			p.state = inCharacteristics
		case text == "AS", text == "IS":
			p.state = inAs
		}
	case inCharacteristics:
		switch text {
		case "COMMENT", "LANGUAGE", "NOT", "DETERMINISTIC", "CONTAINS", "NO", "READS", "MODIFIES", "SQL", "DATA",
			"SECURITY", "DEFINER", "INVOKER":
		case "AS", "IS":
			p.state = inAs
		default:
			if p.last != "COMMENT" && p.last != "LANGUAGE" {
				p.begin()
				return true
			}
		}
	case inFunction:
		if p.parens > 0 {
			break
		}
		switch text {
		case "RETURNS":
			p.returns = true
		case "RETURN":
			if p.returns { // else it is Oracle's RETURNS
				p.begin()
				return true
			}
		case "BEGIN", "IF", "CASE", "LOOP", "WHILE", "REPEAT", "FOR":
			p.begin()
			return true
		case "AS", "IS":
			p.state = inAs
		}
	case inAs:
		if text == quoted {
			p.state, p.starts = inBody, false
			break
		}
		p.push(frame{kind: declarations, pos: p.lastPos, what: p.last})
		p.begin()
		return true
	}
	return false
}

// inside reads a token of the body.
func (p *program) inside(t token, text string) {
	switch p.handler {
	case wantCondition:
		switch text {
		case "SQLSTATE", "VALUE", "NOT": // the condition goes on
		default:
			p.handler = afterCondition
		}
		return
	case afterCondition:
		if text == "," {
			p.handler = wantCondition
			return
		}
		p.handler, p.starts = noConditions, true
	}
	if p.starts {
		p.first(t, text)
		return
	}
	label := p.label
	p.label = false
	if p.last == "@" || p.last == "." && !p.afterNumber() {
		return // a name, whatever it is
	}
	top := p.top()
	switch text {
	case ":":
		p.starts = label
	case ">":
		if p.angle && p.last == ">" {
			p.angle, p.starts = false, true
		}
	case "ATOMIC":
		p.starts = p.last == "NOT" && p.beforeLast == "BEGIN"
	case "THEN":
		if top.cond && p.parens == 0 {
			top.cond, p.starts = false, true
		}
	case "DO", "LOOP":
		if top.kind == loop && top.cond && p.parens == 0 {
			top.cond, p.starts = false, true
		}
	case "FOR":
		if p.declare && p.last == "HANDLER" {
			p.handler = wantCondition
		}
	case "CASE":
		if p.last != "END" {
			p.push(frame{kind: expression, parens: p.parens})
		}
	case "END":
		if p.afterOperand() && (top.kind == expression && top.parens == p.parens || top.until && p.parens == 0) {
			p.pop()
		}
	}
}

// first reads a token that begins a statement of the body.
func (p *program) first(t token, text string) {
	p.starts = false
	top := p.top()
	switch text {
	case "BEGIN":
		if top.kind == declarations && (p.last == ";" || p.last == "AS" || p.last == "IS") {
			top.kind = statements // of the block that they were declared for
		} else {
			p.push(frame{kind: statements, pos: t.pos, what: text})
		}
		p.starts = true
	case "IF", "CASE":
		p.push(frame{kind: statements, pos: t.pos, what: text, cond: true})
	case "WHILE", "FOR":
		p.push(frame{kind: loop, pos: t.pos, what: text, cond: true})
	case "LOOP", "REPEAT":
		p.push(frame{kind: loop, pos: t.pos, what: text})
		p.starts = true
	case "ELSEIF", "ELSIF", "WHEN", "EXCEPTION":
		top.cond = true
	case "ELSE":
		p.starts = true
	case "UNTIL":
		top.until = true
	case "END":
		p.pop()
	case "DECLARE":
		p.declare = true
	case "PROCEDURE", "FUNCTION":
		if top.kind == declarations {
			p.state, p.function, p.returns = inRoutine, text == "FUNCTION", false
		}
	case "<":
		p.angle = true
	default:
		p.label = true
	}
}

// afterNumber tells whether the dot before belongs to a number: 1.
func (p *program) afterNumber() bool {
	return p.beforeLast != "" && isDigit(p.beforeLast[0])
}

// afterOperand tells whether what is before can end an expression. If not, END
// is a name.
func (p *program) afterOperand() bool {
	switch p.last {
	case quoted, ")":
		return true
	case ".":
		return p.afterNumber()
	case "AND", "OR", "XOR", "NOT", "IS", "IN", "LIKE", "RLIKE", "REGEXP", "BETWEEN", "DIV", "MOD", "BINARY",
		"COLLATE", "ESCAPE", "CASE", "WHEN", "THEN", "ELSE", "UNTIL":
		return false
	}
	c := p.last[0]
	return c >= 0x80 || c == '_' || c == '$' || isDigit(c) || 'A' <= c && c <= 'Z'
}
