//go:build unix

package cli_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/skeinhq/skein/internal/nodetest"
)

// An example is a copy of one of the examples, to call commands in.
type example struct {
	dir string
	// run calls a command of the shell, which is to end with this exit code.
	run func(code int, command string) (out string)
}

func newExample(t *testing.T, name string) example {
	t.Helper()
	if _, err := exec.LookPath("npm"); err != nil {
		t.Fatalf("this test needs npm: run `make test`, or install Node.js: %v", err)
	}
	dir := filepath.Join(t.TempDir(), name)
	if err := os.CopyFS(dir, os.DirFS("../../examples/"+name)); err != nil {
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
	return example{dir, run}
}

// showing checks what commands write.
func showing(t *testing.T) func(out, pattern string) {
	return func(out, pattern string) {
		t.Helper()
		if !regexp.MustCompile("(?m)" + pattern).MatchString(out) {
			t.Errorf("the output does not match %s:\n%s", pattern, out)
		}
	}
}

// TestNpmScripts goes the way of examples/npm-scripts/README.md, with npm.
func TestNpmScripts(t *testing.T) {
	t.Parallel()
	e, shows := newExample(t, "npm-scripts"), showing(t)
	run := e.run

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
	write(t, filepath.Join(e.dir, path), "-- migrate:up\nSELECT nonsense;\n")
	shows(run(1, "npm run migrate:all-tenants"), `^FAILED  acme, globex$`)
}

// exampleModules is what npm install makes of an example's package.json, as far as
// its own dependencies go: those of the tests of package knex hold them too, and
// are compiled once.
func exampleModules(t *testing.T, name string) string {
	t.Helper()
	tests := filepath.FromSlash("../../knex/testdata/modules/package.json")
	var wanted, there struct{ Dependencies map[string]string }
	for path, into := range map[string]any{filepath.FromSlash("../../examples/" + name + "/package.json"): &wanted, tests: &there} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, into); err != nil {
			t.Fatal(err)
		}
	}
	for name, version := range wanted.Dependencies {
		if there.Dependencies[name] != version {
			t.Errorf("the example needs %s %s, and the tests have %q", name, version, there.Dependencies[name])
		}
	}
	return nodetest.Modules(t, tests)
}

// TestKnexExample goes the way of examples/knex-crm/README.md, line by line.
func TestKnexExample(t *testing.T) {
	t.Parallel()
	modules := exampleModules(t, "knex-crm")
	readme, err := os.ReadFile(filepath.FromSlash("../../examples/knex-crm/README.md"))
	if err != nil {
		t.Fatal(err)
	}
	e, shows := newExample(t, "knex-crm"), showing(t)
	want := map[string]string{
		"npm run migrate:all-tenants":      `^Migrated 2 tenants in .*: 16 migrations$`,
		"npm run migrate:list":             `^ +2  up to date  20240301060000  acme, globex$`,
		"npx knex migrate:list":            `Found 8 Completed`,
		"npx knex migrate:rollback":        `Batch 1 rolled back: 8 migrations`,
		"npm run migrate:tenant -- acme":   `^Migrated 1 tenant in .*: 8 migrations$`,
		"skein tenants import tenants.csv": `^Added 2 tenants`,
	}
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(readme), -1) {
		for command := range strings.Lines(block[1]) {
			command = strings.TrimSpace(command)
			if command == "npm install" {
				if err := os.Symlink(modules, filepath.Join(e.dir, "node_modules")); err != nil {
					t.Fatal(err)
				}
				continue
			}
			if command == "" {
				continue
			}
			out := e.run(0, command)
			for part, pattern := range want {
				if strings.HasSuffix(command, part) {
					shows(out, pattern)
					delete(want, part)
				}
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("the README has none of %v", want)
	}

	// The same without the settings, which the knexfile says too.
	e = newExample(t, "knex-crm")
	if err := os.Symlink(modules, filepath.Join(e.dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	e.run(0, "rm skein.yaml && mkdir databases && touch databases/acme.db databases/globex.db")
	shows(e.run(0, "skein init --from-knex"), `^knexfile.js, environment development  read, with knex 3`)
	e.run(0, "skein tenants import tenants.csv")
	shows(e.run(0, "npm run migrate:all-tenants"), `^Migrated 2 tenants in .*: 16 migrations$`)
	shows(e.run(0, "npm run migrate:rollback -- acme"), `^Rolled back 1 tenant in .*: 8 migrations$`)
	path := strings.TrimSpace(e.run(0, "npm run migrate:make -- add_notes"))
	shows(path, `^migrations/tenant/20\d{12}_add_notes\.js$`)
	shows(e.run(0, "npm run migrate:tenant -- acme"), `^Migrated 1 tenant in .*: 9 migrations$`)
	shows(e.run(0, "npm run migrate:list -- acme"), `_add_notes.js +applied`)
}
