package source

import (
	"fmt"
	"strings"
	"time"

	"github.com/skeinhq/skein"
)

// longestTimeout is what fits into PostgreSQL's settings, which are 32-bit
// numbers of milliseconds, in whole days.
const longestTimeout = 24 * 24 * time.Hour

// readDirective reads a line of the form -- skein: name=value, name=value and
// returns what follows the colon. What is probably meant as one and is none is
// refused with msg.
func readDirective(line string) (words string, ok bool, msg string) {
	body, ok := strings.CutPrefix(strings.TrimLeft(line, " \t"), "--")
	if !ok {
		return "", false, ""
	}
	before, after, ok := strings.Cut(body, ":")
	if !ok || !strings.EqualFold(strings.TrimSpace(before), "skein") {
		return "", false, ""
	}
	if strings.TrimLeft(before, " \t") != "skein" {
		return "", false, "write -- skein: like this, in small letters and with the colon right behind it"
	}
	return after, true, ""
}

// direct takes a directive on a line; before is the text above the line.
func (p *parser) direct(words string, line int, before string) {
	to := &p.timeouts
	if p.open != nil {
		to, before = &p.open.Timeouts, before[p.openAt:]
	}
	if firstStatement(before) >= 0 {
		p.fail(line, "put this above the first statement: at the top of the file it is for both sections, below -- migrate:up or -- migrate:down for that one")
		return
	}
	for word := range strings.SplitSeq(words, ",") {
		if msg := setTimeout(to, strings.TrimSpace(word)); msg != "" {
			p.fail(line, "%s", msg)
		}
	}
}

// setTimeout takes one name=value, and says what is wrong with it.
func setTimeout(to *skein.Timeouts, word string) (msg string) {
	name, value, ok := strings.Cut(word, "=")
	name, value = strings.TrimSpace(name), strings.TrimSpace(value)
	if !ok {
		return fmt.Sprintf("%q is not of the form name=value, as in -- skein: lock_timeout=1s, statement_timeout=2h", word)
	}
	field, ok := map[string]**time.Duration{
		"lock_timeout": &to.Lock, "statement_timeout": &to.Statement, "idle_timeout": &to.Idle,
	}[name]
	if !ok {
		return fmt.Sprintf("%s is not known: there are lock_timeout, statement_timeout and idle_timeout", name)
	}
	d, err := time.ParseDuration(value)
	switch {
	case err != nil || d < 0:
		return fmt.Sprintf("%s=%s is not a time with its unit, such as 500ms, 5s, 2m or 1h (0 for no bound)", name, value)
	case d > longestTimeout:
		return fmt.Sprintf("%s=%s is more than 24 days, the most there is: 0 is no bound", name, value)
	case *field != nil:
		return name + " is given twice"
	}
	*field = &d
	return ""
}

// orElse are a section's own timeouts, and the file's where it has none.
func orElse(own, file skein.Timeouts) skein.Timeouts {
	for _, f := range []struct{ own, file **time.Duration }{
		{&own.Lock, &file.Lock}, {&own.Statement, &file.Statement}, {&own.Idle, &file.Idle},
	} {
		if *f.own == nil {
			*f.own = *f.file
		}
	}
	return own
}

// withoutDirectives is SQL as it counts for the checksum: to give a migration
// more time is not to edit it.
func withoutDirectives(sql string) string {
	if !strings.Contains(sql, "skein:") {
		return sql
	}
	var b strings.Builder
	for line := range strings.Lines(sql) {
		if _, ok, _ := readDirective(strings.TrimRight(line, " \t\n")); !ok {
			b.WriteString(line)
		}
	}
	return b.String()
}
