// Package ui is what people see: text that lines up, colours that can be turned
// off, and one live line.
package ui

import (
	"bufio"
	"errors"
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

// IsTerminal says whether a reader is a person's keyboard.
func IsTerminal(r io.Reader) bool {
	f, ok := r.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
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

// ReadPassword reads one line. A person is asked for it, and it is not shown.
func ReadPassword(in io.Reader, prompt io.Writer, question string) (string, error) {
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		if _, err := io.WriteString(prompt, question); err != nil {
			return "", err
		}
		data, err := term.ReadPassword(int(f.Fd()))
		_, _ = io.WriteString(prompt, "\n")
		return string(data), err
	}
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return strings.TrimRight(line, "\r\n"), nil
}
