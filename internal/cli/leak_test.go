//go:build linux

package cli_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein/internal/cli"
	"github.com/skeinhq/skein/internal/dbtest"
	"github.com/skeinhq/skein/internal/nodetest"
	"github.com/skeinhq/skein/secret"
)

// TestNothingLeaks puts passwords, keys and addresses that can be recognised
// through every command, in each of its formats, in worlds in which each thing
// goes wrong that can, and searches all that was written: standard output and
// error, the central database, the tenants' histories, the files, and the
// command lines of whatever ran meanwhile.
//
// A command that is added has to be given its calls in leakCalls.
func TestNothingLeaks(t *testing.T) {
	commands := cli.Commands()
	var covered []string
	for _, c := range leakCalls {
		covered = append(covered, c.command)
	}
	slices.Sort(covered)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(commands)), covered); diff != "" {
		t.Fatalf("leakCalls does not have the calls of each command (-commands +calls):\n%s", diff)
	}
	for name, change := range leakWorlds {
		t.Run(name, func(t *testing.T) {
			w := newLeakWorld(t)
			change(w)
			w.writeSettings()
			for _, command := range leakCalls {
				formats := [][]string{{"-v"}}
				for _, flag := range []string{"json", "sql"} {
					if slices.Contains(commands[command.command], flag) {
						formats = append(formats, []string{"--" + flag})
					}
				}
				if name == wellWorld {
					formats = append(formats, nil, []string{"-q"})
				}
				for i, format := range formats {
					calls := command.calls
					// Elsewhere, and in other formats, one call of each command
					// meets what there is to be met.
					if len(calls) > 1 && (name != wellWorld || i > 1) {
						calls = calls[:1]
					}
					for _, c := range calls {
						w.call(command.command, i, c, format)
					}
				}
			}
			w.searchWhatStays()
			if name == wellWorld && !w.programs["pg_dump"] {
				t.Errorf("the command lines of pg_dump were not seen, but those of %v", slices.Sorted(maps.Keys(w.programs)))
			}
		})
	}
}

// A leakCall is a call of a command: its arguments and standard input. {n}
// stands for a number that is another each time, {hidden} and {typed} for texts
// that must not be seen.
type leakCall struct {
	args  string // separated by spaces
	stdin string
}

// leakCalls are the calls of each command, in the order in which they are made.
var leakCalls = []struct {
	command string
	calls   []leakCall
}{
	{"help", nil}, // these read nothing
	{"completion bash", nil},
	{"completion fish", nil},
	{"completion powershell", nil},
	{"completion zsh", nil},

	{"init", []leakCall{
		{},
		{args: "-c new-{n}/skein.yaml --central postgres://u:{typed}@h/d"},
		{args: "-c new-{n}/skein.yaml --central mysql://u:{typed}%zz@h/d"},
		{args: "-c new-{n}/skein.yaml --central {typed}"},
	}},
	{"plan", []leakCall{{args: "--all"}}},
	{"migrate", []leakCall{
		{args: "--all"},
		{args: "good-pg good-my"},
		{args: "--tenants broken,unreachable"},
		{args: "--all --baseline 20260101000000"},
		{args: "good-my --continue"},
		{args: "good-my --redo"},
	}},
	{"migrate:all-tenants", []leakCall{{}}},
	{"status", []leakCall{{}, {args: "good-pg"}, {args: "good-my"}, {args: "wrong"}, {args: "broken"}, {args: "unreachable"}}},
	{"verify", []leakCall{{}, {args: "good-pg good-my --dry-run"}}},
	{"rollback", []leakCall{{args: "--all --yes"}, {args: "good-pg"}}},
	{"unlock", []leakCall{{args: "good-pg"}, {args: "wrong"}, {args: "broken"}, {args: "unreachable --force"}}},
	{"doctor", []leakCall{{}}},

	{"tenants list", []leakCall{{}}},
	{"tenants show", []leakCall{{args: "good-pg"}, {args: "wrong"}, {args: "broken"}, {args: "commanded"}}},
	{"tenants add", []leakCall{
		{args: "new-{n} --url postgres://u@127.0.0.1:1/d --password-stdin", stdin: "{hidden}"},
		{args: "url-{n} --url postgres://u:{typed}@h/d"},
		{args: "url-{n} --url mysql://u:{typed}%zz@h/d"},
		{args: "url-{n} --url postgres://h/d?password={typed}"},
		{args: "url-{n} --url {typed}"},
		{args: "opt-{n} --url postgres://u@h/d --option password={typed}"},
		{args: "opt-{n} --url postgres://u@h/d --option sslpassword={typed}"},
		{args: "good-pg --url postgres://u@h/d --password-stdin", stdin: "{hidden}"},
	}},
	{"tenants set", []leakCall{
		{args: "new-{n} --password-stdin", stdin: "{hidden}"},
		{args: "new-{n} --url postgres://u:{typed}@h/d"},
		{args: "new-{n} --url {typed}"},
		{args: "new-{n} --option sslpassword={typed}"},
		{args: "nobody --password-stdin", stdin: "{hidden}"},
	}},
	{"tenants import", []leakCall{
		{args: "- --format csv", stdin: "slug,engine,host,database,user,password\nin-{n},postgres,127.0.0.1,d,u,{hidden}\n"},
		{args: "- --format csv", stdin: "slug,engine,host,port,database,user,password\nx,postgres,h,{hidden},d,u,x\n"},
		{args: "- --format csv", stdin: "slug,url,password\nx,postgres://u:{hidden}%zz@h/d,\n"},
		{args: "- --format csv", stdin: "slug,{hidden}\nx,y\n"},
		{args: "- --format csv", stdin: "acme,postgres,h,d,u,{hidden}\n"},
		{args: "- --format csv", stdin: "{hidden}\nx,y\n"},
		{args: "- --format csv", stdin: "slug,password\n\"x,{hidden}\n"},
		{args: "- --format jsonl", stdin: `{"slug":"x","password":{"a":"{hidden}"}}`},
		{args: "- --format jsonl", stdin: `{"slug":"x","url":"mysql://u:{hidden}@h:port/d"}`},
		{args: "- --format jsonl", stdin: `{"slug":"x","password":"{hidden}`},
		{args: "- --format jsonl", stdin: `{"slug":"x","options":"{hidden}"}`},
	}},
	{"tenants check", []leakCall{{}, {args: "wrong"}, {args: "unreachable broken commanded"}}},
	{"tenants activate", []leakCall{{args: "good-my"}}},
	{"tenants suspend", []leakCall{{args: "suspended"}, {args: "nobody"}}},
	{"tenants remove", []leakCall{{args: "new-{n}"}, {args: "nobody"}}},

	{"provision", []leakCall{{args: "prov-{n}"}, {args: "--prepare"}, {args: "good-pg"}}},
	{"tenants clone", []leakCall{{args: "good-pg clone-{n}"}, {args: "wrong clone-{n}"}}},
	{"deprovision", []leakCall{
		{args: "prov-{n} --yes --confirm prov-{n} --backup backup-{n}"},
		{args: "clone-{n} --yes --confirm clone-{n}"},
		{args: "good-pg --yes --confirm good-pg"},
	}},

	{"keys generate", []leakCall{{}}},
	{"keys status", []leakCall{{}}},
	{"keys rotate", []leakCall{{args: "--dry-run"}, {args: "--no-connect --dry-run"}, {}, {args: "--to cbc"}, {args: "--to gcm --no-connect"}}},
	{"keys wrap", []leakCall{{args: "awskms://alias/skein", stdin: "{hidden}"}, {args: "https://x", stdin: "{hidden}"}}},
	// Last, since what it makes is not filled in.
	{"make", []leakCall{{args: "change_{n}"}}},
}

// leakWorlds are what is wrong, by name.
const wellWorld = "nothing is wrong but tenants"

var leakWorlds = map[string]func(*leakWorld){
	wellWorld: func(*leakWorld) {},
	"another key": func(w *leakWorld) {
		w.env["DB_ENCRYPTION_KEY"] = w.hide("another-key", 32)
	},
	"a key that does not fit": func(w *leakWorld) {
		w.env["DB_ENCRYPTION_KEY"] = w.hide("short-key", 30)
	},
	"a key from nowhere": func(w *leakWorld) {
		w.env["DB_ENCRYPTION_KEY"] = "vault://" + w.hide("ref", 20)
	},
	"the central address is malformed": func(w *leakWorld) {
		w.env["SKEIN_CENTRAL_URL"] = "postgres://u:" + w.hide("central", 20) + "%zz@127.0.0.1:1/d"
	},
	"the central address has a port that is none": func(w *leakWorld) {
		w.env["SKEIN_CENTRAL_URL"] = "mysql://u:" + w.hide("central", 20) + "@127.0.0.1:port/d"
	},
	"the central address is a password": func(w *leakWorld) {
		w.env["SKEIN_CENTRAL_URL"] = w.hide("central", 20)
	},
	"the central database is unreachable": func(w *leakWorld) {
		w.env["SKEIN_CENTRAL_URL"] = "postgres://u:" + w.hide("central", 20) + "@127.0.0.1:1/d"
	},
	"the central database refuses the password": func(w *leakWorld) {
		server := dbtest.MySQL(w.t)
		w.env["SKEIN_CENTRAL_URL"] = server.URL("d", "nobody", w.hide("central", 20))
	},
	"the settings are not YAML": func(w *leakWorld) {
		w.settings = "encryption: {key: \"" + w.hide("yaml", 20) + "\n"
	},
	"the settings have a secret in the wrong place": func(w *leakWorld) {
		s := w.hide("yaml", 20)
		w.settings = "encryption:\n  - key: " + s + "\ncentral: {url: [" + s + "], tenants: {password: {x: " + s + "}}}\n"
	},
	"the migrations are Knex's": func(w *leakWorld) {
		nodetest.Link(w.t, w.modules, w.dir, nil)
		w.file("package.json", `{"name": "leaks", "private": true}`)
		w.file("knexfile.js", "module.exports = { pg: { client: 'pg' }, mysql: { client: 'mysql2' }, sqlite: { client: 'better-sqlite3', useNullAsDefault: true } };\n")
		w.file("migrations/tenant/20260101120000_k.js", `exports.up = async (knex) => {
  const { password } = knex.client.config.connection;
  console.log('connected with', password, JSON.stringify(knex.client.config.connection));
  process.stderr.write(encodeURIComponent(password) + '\\n');
  if (password === undefined) throw new Error('SQLite has none');
  await knex.raw('select ? as p', [password]);
  const quoted = knex.raw('?', [password]).toString().replaceAll('?', '\\?'); // as Knex writes it into SQL
  await knex.raw('select ? as p, no_such_function(' + quoted + ')', [password]).catch((err) => {
    throw new Error('with ' + password, { cause: err });
  });
};
exports.down = () => {};
`)
	},
	"a server's address is malformed": func(w *leakWorld) {
		w.settings += "  bad: {url: \"postgres://u:" + w.hide("server", 20) + "%zz@h/d\"}\n"
	},
	"a server's administrator is refused": func(w *leakWorld) {
		w.settings = strings.Replace(w.settings, "${ADMIN_URL}", "${REFUSED_URL}", 1)
		server := dbtest.Postgres(w.t)
		w.env["REFUSED_URL"] = server.URL("postgres", "postgres", w.hide("admin", 20))
	},
	"the variables' file is broken": func(w *leakWorld) {
		w.file(".env", "DB_PASSWORD '"+w.hide("env", 20)+"\n")
	},
}

// A leakWorld is a project with tenants that are well and ill.
type leakWorld struct {
	t        *testing.T
	dir      string
	env      map[string]string
	settings string
	// These must not be seen: hidden by what it is, typed by whoever calls the
	// command, and clear, which somebody has put into the central database.
	hidden       map[string]string
	typed, clear string
	key          string

	modules string // a node_modules with Knex

	programs  map[string]bool // that ran
	files     map[string]bool // that the test itself wrote
	databases []func() string // their contents that Skein wrote
}

// hide makes a text of a length that must not be seen.
func (w *leakWorld) hide(what string, length int) string {
	text := "x7q" + what + "-"
	for i := 0; len(text) < length; i++ {
		text += string("0123456789abcdefghijklmnopqrstuvwxyz"[i%36])
	}
	w.hidden[what] = text[:length]
	return text[:length]
}

func newLeakWorld(t *testing.T) *leakWorld {
	w := &leakWorld{
		t: t, dir: t.TempDir(), hidden: make(map[string]string), files: make(map[string]bool), programs: make(map[string]bool),
		typed: "x7q-typed-password", clear: "x7q-clear-password",
	}
	w.modules = nodetest.Modules(t, filepath.FromSlash("../../knex/testdata/modules/package.json"))
	t.Chdir(w.dir)
	pg, my := dbtest.Postgres(t), dbtest.MySQL(t)
	prefix := dbtest.UniqueName()[len("skein_test_"):]
	w.key = w.hide("key", 32)
	w.env = map[string]string{
		"DB_ENCRYPTION_KEY": w.key, "SKEIN_CENTRAL_URL": "sqlite:central.db", "ADMIN_URL": pg.AdminURL(),
	}
	w.hidden["administrator"] = password(pg.AdminURL())
	w.settings = `limits: {retries: 0, connect_timeout: 5s}
provisioning: {server: pg, database: "` + prefix + `_{slug}", user: "` + prefix + `_{slug}"}
servers:
  certified:
    url: "postgres://127.0.0.2:1"
    options: {sslmode: verify-full, sslpassword: ` + w.hide("sslpassword", 20) + `, sslkey: nowhere.key, sslcert: nowhere.crt}
  commanded:
    url: "postgres://127.0.0.3:1"
    password_command: [./token]
  pg: {url: "${ADMIN_URL}"}
`
	w.file("token", "#!/bin/sh\necho "+w.hide("token", 20)+"\necho \"no: "+w.hidden["token"]+"\" >&2\nexit 3\n")
	if err := os.Chmod(filepath.Join(w.dir, "token"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := w.hide("statement", 20)
	w.file("migrations/tenant/20260101000000_a.sql", "-- migrate:up\nCREATE TABLE a (id int);\n-- migrate:down\nDROP TABLE a;\n")
	w.file("migrations/tenant/20260102000000_b.sql",
		"-- migrate:up\nCREATE TABLE b (id int);\nCREATE USER nobody_at_all IDENTIFIED BY '"+s+"' WITH PASSWORD '"+s+"';\n-- migrate:down\nDROP TABLE b;\n")
	w.writeSettings()
	w.must("", "init", "-q")

	// The test's own passwords end with a text that nothing else has.
	for _, server := range []struct {
		slug, engine string
		*dbtest.Server
	}{{"good-pg", "postgres", pg}, {"good-my", "mysql", my}} {
		name, user, pw := server.CreateDatabase(t)
		w.hidden[server.slug] = pw[len(pw)-20:]
		w.must(pw, "tenants", "add", server.slug, "--engine", server.engine, "--host", server.Host(), "--port", fmt.Sprint(server.Port()),
			"--database", name, "--user", user, "--password-stdin")
		w.must(w.hide("wrong-"+server.slug, 24), "tenants", "add", map[string]string{"good-pg": "wrong", "good-my": "wrong-my"}[server.slug],
			"--engine", server.engine, "--host", server.Host(), "--port", fmt.Sprint(server.Port()), "--database", name, "--user", user, "--password-stdin")
		w.databases = append(w.databases, func() string {
			var b strings.Builder
			for _, table := range []string{"skein_migrations", "knex_migrations"} {
				exists := server.Query(t, name, "SELECT count(*) FROM information_schema.tables WHERE table_name = '"+table+"' AND '"+name+"' IN (table_schema, table_catalog)")
				if exists[0][0] != "0" {
					fmt.Fprintln(&b, server.Query(t, name, "SELECT * FROM "+table))
				}
			}
			return b.String()
		})
	}
	w.must(w.hide("unreachable", 24), "tenants", "add", "unreachable", "--url", "postgres://u@127.0.0.1:1/d", "--password-stdin")
	w.must(w.hide("suspended", 24), "tenants", "add", "suspended", "--url", "mysql://u@127.0.0.1:1/d", "--password-stdin")
	w.must("", "tenants", "add", "certified", "--url", "postgres://u@127.0.0.2:1/d")
	w.must("", "tenants", "add", "commanded", "--url", "postgres://u@127.0.0.3:1/d")
	w.must("", "tenants", "add", "lite", "--url", "sqlite:lite.db")
	write(t, filepath.Join(w.dir, "lite.db"), "")
	w.must("", "tenants", "add", "broken", "--url", "postgres://u@127.0.0.1:1/d")
	// Somebody stored it without encrypting it.
	if _, err := querySQLite(filepath.Join(w.dir, "central.db"), "UPDATE skein_tenants SET password = '"+w.clear+"' WHERE slug = 'broken'"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, row := range pg.Query(t, "", "SELECT datname FROM pg_database WHERE datname LIKE '"+prefix+"\\_%'") {
			pg.Exec(t, "", `DROP DATABASE IF EXISTS "`+row[0]+`" WITH (FORCE)`)
		}
		for _, row := range pg.Query(t, "", "SELECT rolname FROM pg_roles WHERE rolname LIKE '"+prefix+"\\_%'") {
			pg.Exec(t, "", `DROP ROLE IF EXISTS "`+row[0]+`"`)
		}
	})
	return w
}

// password is that of an address.
func password(address string) string {
	_, rest, _ := strings.Cut(address, "://")
	rest, _, _ = strings.Cut(rest, "@")
	_, p, _ := strings.Cut(rest, ":")
	return p
}

func (w *leakWorld) file(name, text string) {
	w.t.Helper()
	write(w.t, filepath.Join(w.dir, name), text)
	w.files[name] = true
}

func (w *leakWorld) writeSettings() { w.file("skein.yaml", w.settings) }

// call runs a command and searches what it wrote, and the command lines of what
// ran meanwhile.
func (w *leakWorld) call(path string, number int, c leakCall, format []string) {
	w.t.Helper()
	fill := strings.NewReplacer("{n}", fmt.Sprint(number), "{typed}", w.typed, "{hidden}", w.hide("stdin", 20))
	args := append(strings.Fields(path+" "+fill.Replace(c.args)), format...)
	watch := beginWatch()
	_, out := w.run(fill.Replace(c.stdin), args...)
	lines := watch.end()
	shown := slices.Contains(args, "--sql") // what the migration says is what is asked for
	w.search("skein "+strings.Join(args, " "), out, func(what string) bool { return shown && what == "statement" })
	for _, line := range lines {
		w.programs[filepath.Base(strings.Split(line, "\x00")[0])] = true
		w.search("a command line during skein "+strings.Join(args, " "), line, func(string) bool { return false })
	}
}

// run calls the command and returns its exit code and all that it wrote.
func (w *leakWorld) run(stdin string, args ...string) (code int, out string) {
	var written locked
	code = cli.Run(args, cli.System{
		In: strings.NewReader(stdin), Out: &written, Err: &written, Version: "test",
		LookupEnv: func(name string) (string, bool) { value, ok := w.env[name]; return value, ok },
	})
	return code, written.String()
}

// must calls the command to prepare the world.
func (w *leakWorld) must(stdin string, args ...string) {
	w.t.Helper()
	if code, out := w.run(stdin, args...); code != 0 {
		w.t.Fatalf("skein %s ended with exit code %d:\n%s", strings.Join(args, " "), code, out)
	}
}

// locked is a buffer that several goroutines may write to.
type locked struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// search fails if a text has one of the markers, as it is or in hexadecimal
// digits or base64.
func (w *leakWorld) search(where, text string, allowed func(what string) bool) {
	w.t.Helper()
	markers := maps.Clone(w.hidden)
	markers["typed"], markers["clear"] = w.typed, w.clear
	for what, marker := range markers {
		if allowed(what) {
			continue
		}
		for how, form := range leakForms(marker) {
			if strings.Contains(text, form) {
				w.t.Errorf("%s shows the %s%s:\n%s", where, what, how, text)
				break
			}
		}
	}
}

func leakForms(marker string) map[string]string {
	// Of base64, what does not depend on what stands before and after.
	middle := func(from int) string {
		return base64.RawStdEncoding.EncodeToString([]byte(marker[from:]))[:(len(marker)-from)/3*4]
	}
	return map[string]string{
		"":                                 marker,
		" in hex":                          hex.EncodeToString([]byte(marker)),
		" in base64":                       middle(0),
		" in base64, from the second byte": middle(1),
		" in base64, from the third byte":  middle(2),
	}
}

// searchWhatStays searches the files that Skein made and the databases.
func (w *leakWorld) searchWhatStays() {
	w.t.Helper()
	err := filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(w.dir, path)
		if err != nil || w.files[name] {
			return err
		}
		if d.Type()&fs.ModeSymlink != 0 {
			return nil // Knex's packages
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		w.search("the file "+name, string(data), func(what string) bool { return what == "clear" && strings.HasPrefix(name, "central.db") })
		return nil
	})
	if err != nil {
		w.t.Error(err)
	}
	for _, contents := range w.databases {
		w.search("a tenant's history", contents(), func(string) bool { return false })
	}
	if len(w.hidden) < 10 {
		w.t.Errorf("only %d texts are searched for", len(w.hidden))
	}
}

// A watch collects the command lines of what the process starts.
type watch struct {
	stop  chan struct{}
	done  sync.WaitGroup
	lines map[string]bool
}

func beginWatch() *watch {
	w := &watch{stop: make(chan struct{}), lines: make(map[string]bool)}
	w.done.Go(func() {
		for {
			w.look(os.Getpid())
			select {
			case <-w.stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	})
	return w
}

// look reads what of it is there: each process may end at any time.
func (w *watch) look(pid int) {
	folder := fmt.Sprintf("/proc/%d", pid)
	if line, err := os.ReadFile(filepath.Join(folder, "cmdline")); err == nil {
		w.lines[string(line)] = true
	}
	threads, _ := filepath.Glob(filepath.Join(folder, "task/*/children")) // the pattern is right
	for _, thread := range threads {
		children, err := os.ReadFile(thread)
		if err != nil {
			continue
		}
		for _, child := range strings.Fields(string(children)) {
			if pid, err := strconv.Atoi(child); err == nil {
				w.look(pid)
			}
		}
	}
}

func (w *watch) end() []string {
	close(w.stop)
	w.done.Wait()
	return slices.Collect(maps.Keys(w.lines))
}

// TestLeaksAreFound holds the search itself to account.
func TestLeaksAreFound(t *testing.T) {
	w := &leakWorld{hidden: make(map[string]string), typed: "x7q-typed-password", clear: "x7q-clear-password"}
	marker := w.hide("key", 32)
	for _, text := range []string{
		marker,
		"a " + hex.EncodeToString([]byte("k="+marker)),
		base64.StdEncoding.EncodeToString([]byte(marker)),
		base64.StdEncoding.EncodeToString([]byte("a" + marker + "a")),
		base64.StdEncoding.EncodeToString([]byte("ab" + marker)),
	} {
		found := false
		for _, form := range leakForms(marker) {
			found = found || strings.Contains(text, form)
		}
		if !found {
			t.Errorf("%q is not found", text)
		}
	}
	if secret.New(marker).String() == marker {
		t.Error("a secret shows itself")
	}
}
