// Package ui is what people see: text that lines up, colours that can be turned
// off, and one live line.
package ui

import (
	"cmp"
	"context"
	"io"
	"os"
	"strings"
	"unicode"

	"golang.org/x/term"
)

// A Terminal is where a command writes: results to Out, and people's progress
// to Err.
type Terminal struct {
	Out, Err io.Writer

	outColor, errColor bool
	live               *os.File // the terminal behind Err, nil if there is none
}

// TerminalOptions say what a person asked for.
type TerminalOptions struct {
	NoColor bool
	// Term is the TERM variable; "dumb" has neither colours nor a live line.
	Term string
}

// NewTerminal makes a terminal of two streams, which may be files or not.
func NewTerminal(out, err io.Writer, opts TerminalOptions) *Terminal {
	t := &Terminal{Out: out, Err: err}
	dumb := opts.Term == "dumb"
	t.outColor = isTerminal(out) && !opts.NoColor && !dumb
	t.errColor = isTerminal(err) && !opts.NoColor && !dumb
	if isTerminal(err) && !dumb {
		t.live = err.(*os.File)
	}
	return t
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Keyboard is the terminal that a reader is, nil if it is none.
func Keyboard(r io.Reader) *os.File {
	if f, ok := r.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}

// Live says whether Err can show a line that changes.
func (t *Terminal) Live() bool { return t.live != nil }

// Width is the number of columns of the terminal behind Err, 80 if it cannot
// tell.
func (t *Terminal) Width() int {
	if t.live != nil {
		if w, _, err := term.GetSize(int(t.live.Fd())); err == nil && w > 20 {
			return w
		}
	}
	return 80
}

// A Style is a way to write that is not needed to understand.
type Style string

// The styles.
const (
	Bold   Style = "1"
	Dim    Style = "2"
	Red    Style = "31"
	Green  Style = "32"
	Yellow Style = "33"
	Cyan   Style = "36"
)

// OnOut is s in a style, if Out shows colours.
func (t *Terminal) OnOut(style Style, s string) string { return paint(t.outColor, style, s) }

// OnErr is s in a style, if Err shows colours.
func (t *Terminal) OnErr(style Style, s string) string { return paint(t.errColor, style, s) }

func paint(on bool, style Style, s string) string {
	if !on || s == "" {
		return s
	}
	return "\x1b[" + string(style) + "m" + s + "\x1b[0m"
}

// Printable is s without what would move a terminal's cursor or change its
// colours: names and messages come from databases. Line breaks and tabs become
// spaces.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case unicode.IsControl(r), r == unicode.ReplacementChar, bidi(r):
			return '\ufffd'
		}
		return r
	}, s)
}

// bidi says whether a rune turns the direction of the text around it.
func bidi(r rune) bool { return r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 }

// ReadPassword asks a person at a terminal for a line that is not shown. When
// stop is closed it gives up with context.Canceled, and the terminal shows again
// what is typed.
func ReadPassword(terminal *os.File, prompt io.Writer, question string, stop <-chan struct{}) (string, error) {
	fd := int(terminal.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	if _, err := io.WriteString(prompt, question); err != nil {
		return "", err
	}
	type line struct {
		text []byte
		err  error
	}
	read := make(chan line, 1)
	go func() {
		text, err := term.ReadPassword(fd)
		read <- line{text, err}
	}()
	select {
	case l := <-read:
		_, _ = io.WriteString(prompt, "\n")
		return string(l.text), l.err
	case <-stop:
		_, _ = io.WriteString(prompt, "\n")
		return "", cmp.Or(term.Restore(fd, before), context.Canceled)
	}
}
