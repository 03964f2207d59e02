//go:build unix

package cli_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestNpmScripts goes the way of examples/npm-scripts/README.md, with npm.
func TestNpmScripts(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("npm"); err != nil {
		t.Fatalf("this test needs npm: run `make test`, or install Node.js: %v", err)
	}
	dir := filepath.Join(t.TempDir(), "npm-scripts")
	if err := os.CopyFS(dir, os.DirFS("../../examples/npm-scripts")); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	run := func(code int, command string) string {
		t.Helper()
		cmd := exec.Command("sh", "-c", command)
		cmd.Dir = dir
		for _, v := range os.Environ() {
			if !strings.HasPrefix(v, "SKEIN_") && !strings.HasPrefix(v, "npm_") {
				cmd.Env = append(cmd.Env, v)
			}
		}
		cmd.Env = append(cmd.Env, "HOME="+home, "npm_config_update_notifier=false", "npm_config_loglevel=silent")
		out, err := cmd.CombinedOutput()
		got := 0
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			got = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		if got != code {
			t.Fatalf("%s ended with exit code %d, not %d:\n%s", command, got, code, out)
		}
		return string(out)
	}
	shows := func(out, pattern string) {
		t.Helper()
		if !regexp.MustCompile("(?m)" + pattern).MatchString(out) {
			t.Errorf("the output does not match %s:\n%s", pattern, out)
		}
	}

	run(0, "skein init")
	run(0, "mkdir -p databases && touch databases/acme.db databases/globex.db")
	run(0, "skein tenants import tenants.csv")
	shows(run(0, "npm run migrate:all-tenants -- --dry-run"), `^2 tenants \(acme, globex\): apply 1 migration$`)
	shows(run(0, "npm run migrate:all-tenants"), `^Migrated 2 tenants in `)
	shows(run(0, "npm run migrate:list"), `^ +2  up to date  20260105090000  acme, globex$`)
	shows(run(0, "npm run migrate:list -- acme"), `^20260105090000_create_contacts.sql +applied`)
	shows(run(0, "npm run migrate:rollback -- acme"), `^Rolled back 1 tenant in `)
	shows(run(0, "npm run migrate:tenant -- acme"), `^Migrated 1 tenant in `)
	shows(run(0, "npm run migrate:unlock -- acme"), `^acme is not locked$`)
	path := strings.TrimSpace(run(0, "npm run migrate:make -- add_phone"))
	shows(path, `^migrations/tenant/20\d{12}_add_phone\.sql$`)

	// npm ends with Skein's exit code.
	shows(run(2, "npm run migrate:tenant"), `which tenants\?`)
	write(t, filepath.Join(dir, path), "-- migrate:up\nSELECT nonsense;\n")
	shows(run(1, "npm run migrate:all-tenants"), `^FAILED  acme, globex$`)
}
