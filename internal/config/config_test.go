package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
)

// in makes a folder with a skein.yaml, and an .env file unless it is empty.
func in(t testing.TB, yaml, dotenv string) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(FileName, yaml)
	if dotenv != "" {
		write(".env", dotenv)
	}
	return filepath.Join(dir, FileName)
}

func environment(vars map[string]string) Environment {
	return func(name string) (string, bool) {
		v, ok := vars[name]
		return v, ok
	}
}

func TestDefaults(t *testing.T) {
	t.Chdir(t.TempDir())
	c, err := Load("", environment(nil))
	if err != nil {
		t.Fatal(err)
	}
	if c.Path != "" || c.Dir != "." {
		t.Errorf("Path, Dir = %q, %q without a file", c.Path, c.Dir)
	}
	if got := c.Central.URL.Reveal(); got != DefaultCentralURL {
		t.Errorf("Central.URL = %q", got)
	}
	if diff := cmp.Diff([]string{filepath.FromSlash("migrations/tenant")}, c.MigrationDirs()); diff != "" {
		t.Error(diff)
	}
	if c.Migrations.Table != "knex_migrations" || c.Migrations.Policy != (skein.Policy{Edited: skein.EditedError}) {
		t.Errorf("Migrations = %+v", c.Migrations)
	}
	l := c.Limits
	if l.Parallel != 0 || l.PerServer != 0 || l.LockWait != time.Minute || l.LockTimeout != 5*time.Second || l.StatementTimeout != 0 || l.ConnectTimeout != 10*time.Second {
		t.Errorf("Limits = %+v", l)
	}
}

// TestPrecedence lays the environment over .env over the file over the default,
// for a setting of each kind.
func TestPrecedence(t *testing.T) {
	const yaml = `
central: {url: "sqlite:yaml.db"}
migrations: {edited: warn, missing: allow}
limits: {parallel: 3, lock_wait: 3s}
`
	type settings struct {
		URL, Edited string
		Missing     bool
		Parallel    int
		LockWait    time.Duration
	}
	all := func(url, edited, missing, parallel, wait string) map[string]string {
		return map[string]string{
			"SKEIN_CENTRAL_URL": url, "SKEIN_EDITED": edited, "SKEIN_MISSING": missing,
			"SKEIN_PARALLEL": parallel, "SKEIN_LOCK_WAIT": wait,
		}
	}
	const dotenv = "SKEIN_CENTRAL_URL=sqlite:dotenv.db\nSKEIN_EDITED=ignore\nSKEIN_MISSING=error\nSKEIN_PARALLEL=4\nSKEIN_LOCK_WAIT=4s\n"
	for _, test := range []struct {
		name, yaml, dotenv string
		env                map[string]string
		want               settings
	}{
		{"default", "", "", nil, settings{DefaultCentralURL, "error", false, 0, time.Minute}},
		{"file", yaml, "", nil, settings{"sqlite:yaml.db", "warn", true, 3, 3 * time.Second}},
		{".env", yaml, dotenv, nil, settings{"sqlite:dotenv.db", "ignore", false, 4, 4 * time.Second}},
		{"environment", yaml, dotenv, all("sqlite:env.db", "error", "allow", "5", "0"), settings{"sqlite:env.db", "error", true, 5, 0}},
		{"empty variables are none", yaml, "", all("", "", "", "", ""), settings{"sqlite:yaml.db", "warn", true, 3, 3 * time.Second}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := Load(in(t, test.yaml, test.dotenv), environment(test.env))
			if err != nil {
				t.Fatal(err)
			}
			got := settings{c.Central.URL.Reveal(), string(c.Migrations.Policy.Edited), c.Migrations.Policy.AllowMissing, c.Limits.Parallel, c.Limits.LockWait}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestVariables(t *testing.T) {
	env := environment(map[string]string{"HOST": "db1", "PASSWORD": "p: #'\"\n&", "EMPTY": "", "N": "7", "YES": "yes"})
	for _, test := range []struct{ value, want string }{
		{"postgres://${HOST}/x", "postgres://db1/x"},
		{"'postgres://${HOST}/x'", "postgres://db1/x"},
		{"sqlite:${NONE:-a b}.db", "sqlite:a b.db"},
		{"sqlite:${EMPTY:-default}.db", "sqlite:default.db"},
		{"sqlite:${EMPTY}.db", "sqlite:.db"},
		{"sqlite:$$HOME and $HOME and 5$", "sqlite:$HOME and $HOME and 5$"},
		{"sqlite:$${HOST}", "sqlite:${HOST}"},
		// What a variable holds is not looked at again, as YAML or for variables.
		{"${PASSWORD}", "p: #'\"\n&"},
		{"${YES}", "yes"},
		{"${N}", "7"},
	} {
		c, err := Load(in(t, "central: {url: "+test.value+"}", ""), env)
		if strings.HasPrefix(test.value, "${") || !strings.HasPrefix(test.value, "'") {
			// In a flow mapping a brace would end the value.
			c, err = Load(in(t, "central:\n  url: "+test.value, ""), env)
		}
		if err != nil {
			t.Errorf("%s: %v", test.value, err)
			continue
		}
		if got := c.Central.URL.Reveal(); got != test.want {
			t.Errorf("%s became %q, not %q", test.value, got, test.want)
		}
	}

	c, err := Load(in(t, "limits:\n  parallel: ${N}\n  lock_wait: ${WAIT:-2m}\nmigrations: {dir: ['${HOST}', b]}", ""), env)
	if err != nil {
		t.Fatal(err)
	}
	if c.Limits.Parallel != 7 || c.Limits.LockWait != 2*time.Minute || c.Migrations.Dirs[0] != "db1" {
		t.Errorf("variables in a number, a duration and a list: %+v", c)
	}
	// A key that is not there is only missed when a password has to be read.
	if c, err = Load(in(t, "encryption: {key: '${NO_KEY}', previous_key: '${NO_OTHER}'}", ""), env); err != nil || !c.Encryption.Key.IsZero() {
		t.Errorf("a key whose variable is not set: %v, %v", c, err)
	}
}

func TestKeys(t *testing.T) {
	env := environment(map[string]string{"DB_ENCRYPTION_KEY": "from-env", "DB_ENCRYPTION_KEY_PREVIOUS": "old-env", "OTHER": "from-other"})
	c, err := Load(in(t, "", ""), env)
	if err != nil {
		t.Fatal(err)
	}
	if c.Encryption.Key.Reveal() != "from-env" || c.Encryption.PreviousKey.Reveal() != "old-env" {
		t.Error("the key was not taken from the environment")
	}
	c, err = Load(in(t, "encryption: {key: '${OTHER}'}", ""), env)
	if err != nil {
		t.Fatal(err)
	}
	if c.Encryption.Key.Reveal() != "from-other" || c.Encryption.PreviousKey.Reveal() != "old-env" {
		t.Error("the key that the file names does not go before the environment's")
	}
}

func TestServers(t *testing.T) {
	c, err := Load(in(t, `
servers:
  eu-1: {url: "postgres://admin:${PASSWORD}@db1/postgres", parallel: 4}
  eu-2: {url: "mysql://admin@db2:3307/"}
`, ""), environment(map[string]string{"PASSWORD": "p%40ss"}))
	if err != nil {
		t.Fatal(err)
	}
	one, two := c.Servers["eu-1"], c.Servers["eu-2"]
	if one.Target.Server() != "postgres://db1:5432" || one.Parallel != 4 || one.Target.Password.Reveal() != "p@ss" {
		t.Errorf("eu-1 = %+v", one)
	}
	if two.Target.Server() != "mysql://db2:3307" || two.Parallel != 0 {
		t.Errorf("eu-2 = %+v", two)
	}
}

func TestPaths(t *testing.T) {
	path := in(t, "migrations: {dir: [one, /two]}", "")
	c, err := Load(path, environment(nil))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(path)
	if diff := cmp.Diff([]string{filepath.Join(dir, "one"), "/two"}, c.MigrationDirs()); diff != "" {
		t.Error(diff)
	}
	if got := c.Resolve("a.db"); got != filepath.Join(dir, "a.db") {
		t.Errorf("Resolve = %q", got)
	}
	c, err = Load(path, environment(map[string]string{"SKEIN_MIGRATIONS_DIR": "a" + string(filepath.ListSeparator) + "b"}))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "b"}, c.Migrations.Dirs); diff != "" {
		t.Error(diff)
	}

	t.Chdir(dir)
	for _, named := range []string{FileName, path} {
		if c, err = Load("", environment(map[string]string{"SKEIN_CONFIG": named})); err != nil || c.Path != named {
			t.Errorf("with SKEIN_CONFIG=%s: %v, %v", named, c, err)
		}
	}
	if c, err = Load("", environment(nil)); err != nil || c.Path != FileName {
		t.Errorf("in the folder itself: %v, %v", c, err)
	}
	if _, err = Load("", environment(map[string]string{"SKEIN_CONFIG": "nowhere.yaml"})); err == nil {
		t.Error("a file that is named and not there was no error")
	}
}

func TestWrong(t *testing.T) {
	for _, test := range []struct{ yaml, want string }{
		{"central: 3", "skein.yaml:1: central holds keys and values, not a single value"},
		{"central: [a]", "skein.yaml:1: central holds keys and values, not a single value"},
		{"- a", "skein.yaml:1: the file holds keys and values, not a single value"},
		{"\nlimits:\n  parallel: [1]", "skein.yaml:3: limits.parallel is a single value"},
		{"limits: {parallel: 1.5}", `skein.yaml:1: limits.parallel: "1.5" is not a whole number`},
		{"limits: {parallel: 99999999999999999999}", `skein.yaml:1: limits.parallel: "99999999999999999999" is not a whole number`},
		{"limits: {parallel: -1}", "skein.yaml:1: limits.parallel: -1 is not a number from 1 up"},
		{"limits: {parallel: 1}\nlimits: {parallel: 2}", `skein.yaml:2: key "limits" stands here a second time: the first is in line 1`},
		{"limits: {parallel: ${N}}", ""}, // a flow mapping in a flow mapping
		{"a: &x 1\nlimits: {parallel: *x}", `unknown key "a"`},
		{"limits: &x {parallel: 1}\nservers: *x", "skein.yaml:2: servers: *x stands for another value: write it out"},
		{"central:\n  url: ${1}", "skein.yaml:2: central.url: a variable is written ${NAME} or ${NAME:-default}"},
		{"central:\n  tenants:\n    tabel: x", `skein.yaml:3: unknown key "central.tenants.tabel": do you mean "table"?`},
		{"central:\n  tenants:\n    port: x", `skein.yaml:3: central.tenants.port: "x" is not a whole number`},
		{"servers:\n  a: {url: 'postgres://u:geheim@[::1/x'}", "skein.yaml:2: servers.a.url: the address of the postgres database is not a URL"},
		{"migrations: {edited: maybe}", `skein.yaml:1: migrations.edited: "maybe" is not one of error, warn, ignore`},
		{"\tx: 1", "skein.yaml:1: "},
	} {
		_, err := Load(in(t, test.yaml, ""), environment(nil))
		if err == nil {
			t.Errorf("%q was no error", test.yaml)
			continue
		}
		if !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v\nwants %s", test.yaml, err, test.want)
		}
		if strings.Contains(err.Error(), "geheim") {
			t.Errorf("%q: the error has a password: %v", test.yaml, err)
		}
	}
	if _, err := Load(in(t, "", "geheim\n"), environment(nil)); err == nil || strings.Contains(err.Error(), "geheim") {
		t.Errorf("a broken .env: %v", err)
	}
}

// FuzzLoad reads files that may be anything. What is refused is named with the
// file, and no secret of the environment gets into a message.
func FuzzLoad(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "# nothing\n", "---\n...\n", "central: {url: 'sqlite:x.db'}", "central:\n  url: ${SECRET}",
		"migrations: {dir: [a, '${SECRET}'], edited: warn}", "limits: {parallel: ${SECRET:-3}, lock_wait: 5s}",
		"servers: {a: {url: 'postgres://u:${SECRET}@h/d', parallel: 2}}", "a: &x [*x]", "limits: &l {parallel: 1}\nx: *l",
		"? [a]\n: b", "!!binary x: y", "central: {tenants: {columns: {id: id}, active: [a], port: 1, options: {a: b}}}",
		"encryption: {key: '${SECRET}', format: x}", "<<: {limits: {parallel: 1}}", "limits:\n  parallel: !!str 5\n",
		"provisioning: {server: a}", "limits:\n  parallel: ${SECRET}\n  lock_wait: ${SECRET}", "migrations:\n  edited: ${SECRET}\n  dir: [b]",
		"servers:\n  a:\n    url: ${SECRET}", "central:\n  tenants:\n    port: ${SECRET}", "'${SECRET}': 3",
	} {
		f.Add(seed)
	}
	const secret = "gEhEiM-91b7"
	env := environment(map[string]string{"SECRET": secret})
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(dir, FileName)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(path, env)
		switch {
		case err == nil:
			if c.Limits.Parallel < 0 || c.Limits.PerServer < 0 || len(c.Migrations.Dirs) == 0 || c.Central.URL.IsZero() {
				t.Errorf("a setting is missing or out of range: %+v", c.Limits)
			}
		case strings.Contains(err.Error(), secret):
			t.Errorf("the error has the secret: %v", err)
		case !strings.Contains(err.Error(), path) && !strings.Contains(err.Error(), ": "):
			t.Errorf("the error names neither the file nor a setting: %v", err)
		}
	})
}
