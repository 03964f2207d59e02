package faulttest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/cli"
)

// commandEnv makes the test binary the command itself, so that what is killed is
// the whole of Skein and nothing but it.
const commandEnv = "SKEIN_FAULTTEST_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(commandEnv) != "" {
		os.Exit(cli.Run(os.Args[1:], cli.System{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, LookupEnv: os.LookupEnv, Version: "test"}))
	}
	flag.Parse()
	// The tests wait more than they work.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// A workspace is a folder with skein.yaml, migrations and tenants.
type workspace struct{ dir string }

// newWorkspace makes a workspace of these tenants, by slug.
func newWorkspace(t testing.TB, tenants map[string]skein.Target, changes []change, k kind) workspace {
	t.Helper()
	w := workspace{t.TempDir()}
	w.write(t, "skein.yaml", "encryption: {key: 0123456789abcdef0123456789abcdef}\nlimits: {retries: 5, lock_timeout: 5s, lock_wait: 1m}\n")
	for _, c := range changes {
		w.write(t, "migrations/tenant/"+c.name, c.file(k))
	}
	var list bytes.Buffer
	for slug, target := range tenants {
		line := map[string]string{"slug": slug, "url": urlOf(target)}
		if err := json.NewEncoder(&list).Encode(line); err != nil {
			t.Fatal(err)
		}
	}
	w.mustRun(t, "init")
	w.write(t, "tenants.jsonl", list.String())
	w.mustRun(t, "tenants", "import", "tenants.jsonl")
	return w
}

func urlOf(t skein.Target) string {
	if t.Engine == skein.SQLite {
		return "sqlite:" + t.Database
	}
	u := url.URL{Scheme: t.Engine, User: url.UserPassword(t.User, t.Password.Reveal()), Path: "/" + t.Database}
	u.Host = strings.TrimPrefix(t.Server(), t.Engine+"://")
	return u.String()
}

func (w workspace) write(t testing.TB, name, text string) {
	t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// command is a call of skein in the workspace.
func (w workspace) command(ctx context.Context, args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		panic(err) // it runs
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Dir = w.dir
	cmd.Env = append(os.Environ(), commandEnv+"=1")
	return cmd
}

// run runs skein to its end, and returns what it wrote and its exit code.
func (w workspace) run(t testing.TB, args ...string) (out string, code int) {
	t.Helper()
	cmd := w.command(t.Context(), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return stdout.String() + stderr.String(), code
}

func (w workspace) mustRun(t testing.TB, args ...string) {
	t.Helper()
	if out, code := w.run(t, args...); code != 0 {
		t.Errorf("skein %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
}
