//go:build unix

package cli_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skeinhq/skein/internal/dbtest"
)

// A process is the command, running in a folder of its own.
type process struct {
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
	ended          chan struct{}
}

// skein runs the command in a folder to its end, and returns what it wrote.
func skein(t *testing.T, dir string, code int, stdin string, args ...string) string {
	t.Helper()
	p := start(t, dir, strings.NewReader(stdin), args...)
	p.wait(t, code, time.Minute)
	return p.stdout.String()
}

func start(t *testing.T, dir string, stdin io.Reader, args ...string) *process {
	t.Helper()
	p := command(dir, args...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = stdin, &p.stdout, &p.stderr
	p.run(t)
	return p
}

// command is the command that is to run in a folder.
func command(dir string, args ...string) *process {
	p := &process{cmd: exec.Command("skein", args...), ended: make(chan struct{})}
	p.cmd.Dir = dir
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "SKEIN_") && !strings.HasPrefix(v, "NO_COLOR") {
			p.cmd.Env = append(p.cmd.Env, v)
		}
	}
	p.cmd.Env = append(p.cmd.Env, "DB_ENCRYPTION_KEY=0123456789abcdef0123456789abcdef")
	return p
}

func (p *process) run(t *testing.T) {
	t.Helper()
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // its state is read in wait
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // most often it has ended
		<-p.ended
	})
}

func (p *process) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("send %s: %v", sig, err)
	}
}

// wait waits for the end of the process, which is to come within a time and
// with an exit code.
func (p *process) wait(t *testing.T, code int, within time.Duration) {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(within):
		t.Fatalf("%s has not ended after %s", p.cmd, within)
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		t.Fatalf("%s ended with exit code %d, not %d\n%s%s", p.cmd, got, code, &p.stdout, &p.stderr)
	}
}

// until waits for something to become true.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after 20 seconds still not: %s", what)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// hold keeps others from writing to a SQLite file, or with reading from
// committing what they write, until it is released.
func hold(t *testing.T, path string, reading bool) (release func()) {
	t.Helper()
	begin := "BEGIN IMMEDIATE"
	if reading {
		begin = "BEGIN; SELECT count(*) FROM sqlite_master"
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ExecContext(t.Context(), begin); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		_, err := conn.ExecContext(context.WithoutCancel(t.Context()), "ROLLBACK")
		if err := errors.Join(err, conn.Close(), db.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// fleetOfThree is a folder with the SQLite tenants a, b and c and two
// migrations, where locked files are waited for.
func fleetOfThree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	list := "slug,url\n"
	for _, slug := range []string{"a", "b", "c"} {
		write(t, filepath.Join(dir, slug+".db"), "")
		list += fmt.Sprintf("%s,sqlite:%s.db\n", slug, slug)
	}
	write(t, filepath.Join(dir, "tenants.csv"), list)
	write(t, filepath.Join(dir, "migrations/tenant/1_one.sql"), "-- migrate:up\nCREATE TABLE one (id integer);\n")
	write(t, filepath.Join(dir, "migrations/tenant/2_two.sql"), "-- migrate:up\nCREATE TABLE two (id integer);\n")
	write(t, filepath.Join(dir, "skein.yaml"), "limits: {lock_timeout: 1m}\n")
	skein(t, dir, 0, "", "init")
	skein(t, dir, 0, "", "tenants", "import", "tenants.csv")
	return dir
}

// TestSignal sends one signal in the middle of a migration, which then ends;
// nothing else begins.
func TestSignal(t *testing.T) {
	for _, test := range []struct {
		signal syscall.Signal
		code   int
	}{{syscall.SIGINT, 130}, {syscall.SIGTERM, 143}, {syscall.SIGHUP, 129}} {
		t.Run(test.signal.String(), func(t *testing.T) {
			t.Parallel()
			dir := fleetOfThree(t)
			write(t, filepath.Join(dir, "skein.yaml"), "limits: {parallel: 1, lock_timeout: 1m}\n")
			// With a timeout of its own it shares no transaction with the next.
			write(t, filepath.Join(dir, "migrations/tenant/1_one.sql"), "-- migrate:up\n-- skein: lock_timeout=1m\nCREATE TABLE one (id integer);\n")
			release := hold(t, filepath.Join(dir, "a.db"), true)
			p := start(t, dir, nil, "migrate", "--all")
			until(t, "a is in its first migration", func() bool { return exists(filepath.Join(dir, "a.db-journal")) })
			p.signal(t, test.signal)
			time.Sleep(100 * time.Millisecond)
			release()
			p.wait(t, test.code, 20*time.Second)

			for _, want := range []string{"Migrated 1 tenant in ", ": 1 migration\n", "Interrupted: 2 tenants not begun\n", "Go on with:  skein migrate --all\n"} {
				if !strings.Contains(p.stdout.String(), want) {
					t.Errorf("the output has no %q:\n%s", want, &p.stdout)
				}
			}
			if want := "- a  stopped after 1 migration\n"; !strings.Contains(p.stderr.String(), want) {
				t.Errorf("the progress has no %q:\n%s", want, &p.stderr)
			}
			if exists(filepath.Join(dir, "a.db.skein-lock")) {
				t.Error("a lock was left behind")
			}
			if out := skein(t, dir, 0, "", "migrate", "--all"); !strings.Contains(out, "Migrated 3 tenants") || !strings.Contains(out, ": 5 migrations\n") {
				t.Errorf("going on did not do what was left:\n%s", out)
			}
		})
	}
}

// TestSecondSignal sends two signals in the middle of a statement: the command
// leaves at once, the statement ends, and no lock is left.
func TestSecondSignal(t *testing.T) {
	for _, test := range []struct {
		engine, slow string
		target       func(*testing.T, string) (url, password string, working func() bool)
		stays        bool // the migration is known as partial
	}{
		{
			engine: "postgres", slow: "SELECT pg_sleep(300)",
			target: func(t *testing.T, _ string) (string, string, func() bool) {
				server := dbtest.Postgres(t)
				name, user, password := server.CreateDatabase(t)
				return fmt.Sprintf("postgres://%s@%s:%d/%s", user, server.Host(), server.Port(), name), password, func() bool {
					return len(server.Query(t, "", "SELECT 1 FROM pg_stat_activity WHERE datname = $1 AND query LIKE '%pg_sleep%' AND state = 'active'", name)) > 0
				}
			},
		},
		{
			engine: "mysql", slow: "SELECT SLEEP(300)", stays: true,
			target: func(t *testing.T, _ string) (string, string, func() bool) {
				server := dbtest.MySQL(t)
				name, user, password := server.CreateDatabase(t)
				return fmt.Sprintf("mysql://%s@%s:%d/%s", user, server.Host(), server.Port(), name), password, func() bool {
					return len(server.Query(t, "", "SELECT 1 FROM information_schema.processlist WHERE db = ? AND info LIKE '%SLEEP(300)%' AND command = 'Query'", name)) > 0
				}
			},
		},
		{
			engine: "sqlite", slow: "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000000) SELECT count(*) FROM n",
			target: func(t *testing.T, dir string) (string, string, func() bool) {
				write(t, filepath.Join(dir, "acme.db"), "")
				return "sqlite:acme.db", "", func() bool { return exists(filepath.Join(dir, "acme.db-journal")) }
			},
		},
	} {
		t.Run(test.engine, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			url, password, working := test.target(t, dir)
			write(t, filepath.Join(dir, "migrations/tenant/1_slow.sql"), "-- migrate:up\nCREATE TABLE one (id integer);\n"+test.slow+";\n")
			skein(t, dir, 0, "", "init")
			add := []string{"tenants", "add", "acme", "--url", url}
			if password != "" {
				add = append(add, "--password-stdin")
			}
			skein(t, dir, 0, password, add...)

			p := start(t, dir, nil, "migrate", "acme")
			until(t, "the statement runs", working)
			p.signal(t, syscall.SIGINT)
			time.Sleep(200 * time.Millisecond)
			select {
			case <-p.ended:
				t.Fatalf("one signal ended it in the middle of a statement:\n%s%s", &p.stdout, &p.stderr)
			default:
			}
			p.signal(t, syscall.SIGINT)
			p.wait(t, 130, 15*time.Second)
			until(t, "the statement has ended", func() bool { return !working() })
			if out := skein(t, dir, 0, "", "unlock", "acme"); out != "acme is not locked\n" {
				t.Errorf("a lock was left behind:\n%s", out)
			}
			if !strings.Contains(p.stdout.String(), "Interrupted") || !strings.Contains(p.stdout.String(), "Go on with:  skein migrate acme\n") {
				t.Errorf("the output does not say how to go on:\n%s", &p.stdout)
			}
			if got := p.stderr.String(); !strings.HasPrefix(got, "✗ acme  ") || !strings.HasSuffix(got, "left in the middle, at the second signal\n") {
				t.Errorf("the progress does not say what became of the tenant:\n%s", got)
			}
			state := "behind by 1"
			if test.stays {
				state = "partial"
			}
			if out := skein(t, dir, 0, "", "status", "acme"); !strings.HasPrefix(out, "acme  "+state+"\n") {
				t.Errorf("the tenant is not %s:\n%s", state, out)
			}
		})
	}
}

// TestSignalWhileReading ends a command that waits for its standard input.
func TestSignalWhileReading(t *testing.T) {
	for _, args := range [][]string{
		{"tenants", "import", "-", "--format", "csv"},
		{"tenants", "add", "new", "--url", "postgres://u@h/d", "--password-stdin"},
		{"migrate", "--tenants", "@-"},
	} {
		t.Run(strings.Join(args[:2], " "), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			skein(t, dir, 0, "", "init")
			never, in, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			defer never.Close()
			p := start(t, dir, never, args...)
			time.Sleep(500 * time.Millisecond)
			p.signal(t, syscall.SIGTERM)
			p.wait(t, 143, 10*time.Second)
			if got := p.stderr.String(); got != "skein: interrupted\n" {
				t.Errorf("it wrote %q", got)
			}
		})
	}
}
