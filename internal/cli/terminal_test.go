//go:build linux

package cli_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skeinhq/skein/internal/ui"
)

// A terminal is a pseudo-terminal, and what was written to it.
type terminal struct {
	control, tty *os.File

	mu      sync.Mutex
	written bytes.Buffer
	read    chan struct{}
}

func openTerminal(t *testing.T, columns uint16) *terminal {
	t.Helper()
	control, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(control.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns})
	}
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{control: control, tty: tty, read: make(chan struct{})}
	go func() {
		defer close(term.read)
		buf := make([]byte, 4096)
		for {
			n, err := control.Read(buf)
			term.mu.Lock()
			term.written.Write(buf[:n])
			term.mu.Unlock()
			if err != nil {
				return // all who write to it are gone
			}
		}
	}()
	t.Cleanup(func() {
		_ = tty.Close()
		_ = control.Close()
		<-term.read
	})
	return term
}

func (t *terminal) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.written.String()
}

// startAt runs the command at a terminal.
func (t *terminal) startAt(tt *testing.T, dir string, args ...string) *process {
	tt.Helper()
	p := command(dir, args...)
	p.cmd.Env = append(p.cmd.Env, "TERM=xterm")
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = t.tty, t.tty, t.tty
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	p.run(tt)
	return p
}

var escape = regexp.MustCompile(`\x1b\[[0-9;]*[A-Za-z]`)

// TestTerminal runs a fleet with a slow tenant at a terminal, in colours and
// without, and leaves it by Ctrl-C.
func TestTerminal(t *testing.T) {
	for _, columns := range []uint16{100, 50} {
		t.Run(fmt.Sprint(columns), func(t *testing.T) {
			t.Parallel()
			dir := fleetOfThree(t)
			release := hold(t, filepath.Join(dir, "a.db"), false)
			term := openTerminal(t, columns)
			p := term.startAt(t, dir, "migrate", "--all", "--parallel", "2", "--per-server", "2")
			until(t, "a is named as slow", func() bool {
				return strings.Contains(term.String(), "slow: a 5.")
			})
			if _, err := term.control.WriteString("\x03"); err != nil { // Ctrl-C
				t.Fatal(err)
			}
			until(t, "it says that it stops", func() bool { return strings.Contains(term.String(), "stopping") })
			release()
			p.wait(t, 130, 20*time.Second)
			_ = term.tty.Close()
			<-term.read
			out := term.String()

			for _, want := range []string{
				"\x1b[32m✓\x1b[0m b  2 migrations applied in ",
				"\x1b[33m-\x1b[0m a  stopped after 1 migration\r\n",
				"\x1b[33mInterrupted\x1b[0m\r\n",
				"Go on with:  skein migrate --all --parallel 2 --per-server 2\r\n",
			} {
				if !strings.Contains(out, want) {
					t.Errorf("the terminal has no %q at its end:\n%q", want, out[max(0, len(out)-2000):])
				}
			}
			frames := strings.Split(out, "\r\x1b[K")
			if len(frames) < 20 {
				t.Errorf("in more than five seconds the line was drawn %d times", len(frames))
			}
			for _, frame := range frames[1:] {
				live, _, _ := strings.Cut(frame, "\r\n")
				if !strings.HasPrefix(live, "\x1b[36m") {
					continue // a line that stays
				}
				live = strings.TrimSuffix(live, "^C") // the terminal's echo
				if !strings.HasSuffix(live, "\x1b[0m") {
					t.Fatalf("the line's colour does not end with it: %q", live)
				}
				if width := ui.Width(escape.ReplaceAllString(live, "")); width >= int(columns) {
					t.Fatalf("the line is %d wide: %q", width, live)
				}
			}
		})
	}

	t.Run("no colours", func(t *testing.T) {
		t.Parallel()
		for _, off := range []string{"--no-color", "NO_COLOR=1"} {
			dir := fleetOfThree(t)
			term := openTerminal(t, 80)
			p := command(dir, "migrate", "--all")
			p.cmd.Env = append(p.cmd.Env, "TERM=xterm")
			if strings.HasPrefix(off, "-") {
				p.cmd.Args = append(p.cmd.Args, off)
			} else {
				p.cmd.Env = append(p.cmd.Env, off)
			}
			p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = term.tty, term.tty, term.tty
			p.run(t)
			p.wait(t, 0, 20*time.Second)
			_ = term.tty.Close()
			<-term.read
			if out := term.String(); strings.Contains(out, "\x1b[3") || !strings.Contains(out, "Migrated 3 tenants") {
				t.Errorf("with %s: %q", off, out)
			}
		}
	})
}

// TestPassword asks for a password at a terminal, which does not show it, and
// shows again what is typed after a Ctrl-C.
func TestPassword(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	skein(t, dir, 0, "", "init")
	echoes := func(term *terminal) bool {
		state, err := unix.IoctlGetTermios(int(term.tty.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return state.Lflag&unix.ECHO != 0
	}
	for _, typed := range []string{"geheim\r", "gehe\x03"} {
		term := openTerminal(t, 80)
		p := term.startAt(t, dir, "tenants", "add", "acme", "--url", "postgres://u@h/d", "--password-stdin")
		until(t, "it asks, and shows nothing", func() bool {
			return strings.HasSuffix(term.String(), "Password: ") && !echoes(term)
		})
		if _, err := term.control.WriteString(typed); err != nil {
			t.Fatal(err)
		}
		code, want := 0, "Password: \r\nAdded acme (postgres://u@h:5432/d)\r\n"
		if strings.HasSuffix(typed, "\x03") {
			code, want = 130, "Password: \r\n\x1b[31mskein:\x1b[0m interrupted\r\n"
		}
		p.wait(t, code, 20*time.Second)
		if !echoes(term) {
			t.Errorf("after %q the terminal does not show what is typed", typed)
		}
		_ = term.tty.Close()
		<-term.read
		if got := term.String(); got != want {
			t.Errorf("after %q the terminal shows %q, not %q", typed, got, want)
		}
	}
}
