package knex_test

import (
	"bufio"
	"bytes"
	"cmp"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/engine/mysql"
	"github.com/skeinhq/skein/engine/postgres"
	"github.com/skeinhq/skein/engine/sqlite"
	"github.com/skeinhq/skein/internal/dbtest"
	"github.com/skeinhq/skein/internal/nodetest"
	"github.com/skeinhq/skein/knex"
	"github.com/skeinhq/skein/secret"
	"github.com/skeinhq/skein/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A project is a folder with a knexfile, migrations and packages.
type project struct {
	t   *testing.T
	dir string

	mu    sync.Mutex
	shell *knexShell
}

// newProject makes a project of files, by their paths in it. It has the newest
// Knex, unless as says that another is to be called knex.
func newProject(t *testing.T, files map[string]string, as map[string]string) *project {
	t.Helper()
	p := &project{t: t, dir: t.TempDir()}
	if _, ok := files["package.json"]; !ok {
		p.write("package.json", `{"name": "project", "private": true}`)
	}
	for path, text := range files {
		p.write(path, text)
	}
	nodetest.Link(t, nodetest.Modules(t, filepath.Join("testdata", "modules", "package.json")), p.dir, as)
	return p
}

// crm is the project of testdata/crm.
func crm(t *testing.T, as map[string]string) *project {
	t.Helper()
	p := newProject(t, nil, as)
	if err := os.CopyFS(filepath.Join(p.dir, "migrations"), os.DirFS("testdata/crm/migrations")); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("testdata/crm/knexfile.js")
	if err != nil {
		t.Fatal(err)
	}
	p.write("knexfile.js", string(text))
	return p
}

func (p *project) write(path, text string) {
	p.t.Helper()
	path = filepath.Join(p.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *project) set() *skein.Set {
	p.t.Helper()
	set, err := source.Load([]string{filepath.Join(p.dir, "migrations", "tenant")}, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return set
}

// runner makes a runner that ends with the test.
func (p *project) runner(opts *knex.Options) *knex.Runner {
	o := knex.Options{Workers: 1}
	if opts != nil {
		o = *opts
	}
	o.Dir = cmp.Or(o.Dir, p.dir)
	r := knex.New(&o)
	p.t.Cleanup(func() { _ = r.Close() })
	return r
}

// A run is what came of a migrator's work on one tenant.
type run struct {
	skein.Result
	events []skein.Event
}

// output is what migrations have printed.
func (r run) output() string {
	var b strings.Builder
	for _, e := range r.events {
		if e.Type == skein.MigrationOutput {
			b.WriteString(e.Output + "\n")
		}
	}
	return b.String()
}

func (r run) done() []string {
	names := make([]string, len(r.Done))
	for i, d := range r.Done {
		names[i] = d.Migration.Name
	}
	return names
}

// migrate brings a tenant to where opts want it, with the runner.
func (p *project) migrate(r skein.KnexRunner, target skein.Target, opts skein.PlanOptions) run {
	p.t.Helper()
	return p.migrateSet(r, p.set(), target, opts)
}

func (p *project) migrateSet(r skein.KnexRunner, set *skein.Set, target skein.Target, opts skein.PlanOptions) run {
	p.t.Helper()
	e := engineFor(target)
	session, err := e.Open(p.t.Context(), target)
	if err != nil {
		p.t.Fatal(err)
	}
	defer session.Close()
	var got run
	var mu sync.Mutex
	m := skein.NewMigrator(e, set, time.Minute).WithKnex(r)
	got.Result = m.Migrate(p.t.Context(), session, skein.Tenant{ID: "1", Target: target}, opts, nil, func(e skein.Event) {
		mu.Lock()
		defer mu.Unlock()
		got.events = append(got.events, e)
	})
	return got
}

// mustMigrate is migrate where nothing may go wrong.
func (p *project) mustMigrate(r skein.KnexRunner, target skein.Target, opts skein.PlanOptions) run {
	p.t.Helper()
	got := p.migrate(r, target, opts)
	if got.Err != nil {
		p.t.Fatalf("migrate: %v\nhint: %s\noutput:\n%s", got.Err, skein.Hint(got.Err), got.output())
	}
	return got
}

// history reads a tenant's history.
func history(t *testing.T, target skein.Target) skein.History {
	t.Helper()
	session, err := engineFor(target).Open(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	h, err := session.History(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func engineFor(target skein.Target) skein.Engine {
	opts := skein.SessionOptions{By: "ann@host", Tool: "skein test"}
	switch target.Engine {
	case skein.PostgreSQL:
		return postgres.New(opts)
	case skein.MySQL:
		return mysql.New(opts)
	}
	return sqlite.New(opts)
}

// A tenant is a target and ways to look at it without Skein.
type tenant struct {
	t *testing.T
	skein.Target
	server *dbtest.Server // nil for SQLite
}

func newTenant(t *testing.T, engine string) *tenant {
	t.Helper()
	n := &tenant{t: t, Target: skein.Target{Engine: engine}}
	switch engine {
	case skein.PostgreSQL:
		n.server = dbtest.Postgres(t)
	case skein.MySQL:
		n.server = dbtest.MySQL(t)
	default:
		n.Database = dbtest.SQLite(t)
		return n
	}
	name, user, password := n.server.CreateDatabase(t)
	n.Host, n.Port, n.Database, n.User, n.Password = n.server.Host(), n.server.Port(), name, user, secret.New(password)
	if engine == skein.MySQL {
		n.server.Exec(t, "", "ALTER DATABASE `"+name+"` CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci")
	}
	return n
}

// onEach runs a test on a tenant of each engine, on all of them at once.
func onEach(t *testing.T, test func(*testing.T, *tenant)) {
	for _, engine := range []string{skein.PostgreSQL, skein.MySQL, skein.SQLite} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			test(t, newTenant(t, engine))
		})
	}
}

func (n *tenant) exec(sql string) {
	n.t.Helper()
	if n.server != nil {
		n.server.Exec(n.t, n.Database, sql)
		return
	}
	db := n.open()
	defer db.Close()
	if _, err := db.ExecContext(n.t.Context(), sql); err != nil {
		n.t.Fatalf("%v\nin: %s", err, sql)
	}
}

func (n *tenant) query(query string) [][]string {
	n.t.Helper()
	if n.server != nil {
		return n.server.Query(n.t, n.Database, query)
	}
	db := n.open()
	defer db.Close()
	rows, err := db.QueryContext(n.t.Context(), query)
	if err != nil {
		n.t.Fatalf("%v\nin: %s", err, query)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		n.t.Fatal(err)
	}
	var all [][]string
	for rows.Next() {
		values, into := make([]sql.NullString, len(columns)), make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			n.t.Fatal(err)
		}
		row := make([]string, len(columns))
		for i, v := range values {
			if row[i] = v.String; !v.Valid {
				row[i] = "NULL"
			}
		}
		all = append(all, row)
	}
	if err := rows.Err(); err != nil {
		n.t.Fatal(err)
	}
	return all
}

func (n *tenant) open() *sql.DB {
	db, err := sql.Open("sqlite", n.Database)
	if err != nil {
		n.t.Fatal(err)
	}
	return db
}

// value is the one value of a query.
func (n *tenant) value(query string) string {
	n.t.Helper()
	rows := n.query(query)
	if len(rows) != 1 || len(rows[0]) != 1 {
		n.t.Fatalf("%s returned %v", query, rows)
	}
	return rows[0][0]
}

func (n *tenant) hasTable(name string) bool {
	n.t.Helper()
	return slices.Contains(n.tables(), name)
}

func (n *tenant) tables() []string {
	n.t.Helper()
	query := "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
	switch n.Engine {
	case skein.MySQL:
		query = "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() ORDER BY 1"
	case skein.SQLite:
		query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY 1"
	}
	var names []string
	for _, row := range n.query(query) {
		names = append(names, row[0])
	}
	return names
}

// knexRows are the rows of knex_migrations, as "id name batch".
func (n *tenant) knexRows() []string {
	n.t.Helper()
	var rows []string
	for _, row := range n.query("SELECT id, name, batch FROM knex_migrations ORDER BY id") {
		rows = append(rows, strings.Join(row, " "))
	}
	return rows
}

// locked is the value of Knex's lock, which is to have one row.
func (n *tenant) locked() string {
	n.t.Helper()
	return n.value("SELECT is_locked FROM knex_migrations_lock")
}

// environment is what the knexfile of testdata/crm calls the engine.
func (n *tenant) environment() string {
	return map[string]string{skein.PostgreSQL: "pg", skein.MySQL: "mysql", skein.SQLite: "sqlite"}[n.Engine]
}

// variables tell that knexfile where the tenant is.
func (n *tenant) variables() []string {
	env := append(os.Environ(), "TENANT_DATABASE="+n.Database, "NO_COLOR=1")
	if n.server != nil {
		env = append(env, "TENANT_HOST="+n.Host, "TENANT_PORT="+strconv.Itoa(n.Port), "TENANT_USER="+n.User, "TENANT_PASSWORD="+n.Password.Reveal())
	}
	return env
}

// knexCommand is Knex's own command line in a tenant.
func (p *project) knexCommand(n *tenant, args ...string) *exec.Cmd {
	args = append([]string{filepath.Join(p.dir, "node_modules", "knex", "bin", "cli.js"), "--env", n.environment()}, args...)
	cmd := exec.CommandContext(p.t.Context(), "node", args...)
	cmd.Dir, cmd.Env = p.dir, n.variables()
	return cmd
}

// knex runs Knex's own command, which has to succeed, and returns what it says.
func (p *project) knex(n *tenant, args ...string) string {
	p.t.Helper()
	out, err := p.knexCommand(n, args...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("knex %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// A knexShell is a Node process that calls Knex's migrator, without Skein, as
// Knex's command line does: starting Node for each call takes ten times as long.
type knexShell struct {
	in  io.Writer
	out *bufio.Scanner
}

const shellSource = `
require('readline').createInterface({ input: process.stdin }).on('line', async (line) => {
  const { environment, variables, op } = JSON.parse(line);
  Object.assign(process.env, variables);
  const answer = {};
  try {
    const file = require.resolve(process.cwd() + '/knexfile.js');
    delete require.cache[file]; // it reads the variables
    const knex = require('knex')(require(file)[environment]);
    try {
      const lists = await knex.migrate[op]();
      if (op === 'list') [answer.completed, answer.pending] = lists.map((list) => list.length);
    } finally {
      await knex.destroy();
    }
  } catch (err) {
    answer.error = String(err && err.stack);
  }
  process.stdout.write('answer ' + JSON.stringify(answer) + '\n');
});
`

// A shellAnswer is what came of a call of Knex's migrator.
type shellAnswer struct {
	Completed, Pending int // of list
	Error              string
}

// byKnex calls a method of knex.migrate, which has to succeed, in the environment
// of the knexfile that is the tenant's.
func (p *project) byKnex(n *tenant, op string) shellAnswer {
	p.t.Helper()
	return p.byKnexIn(n.environment(), n.variables(), op)
}

func (p *project) byKnexIn(environment string, variables []string, op string) shellAnswer {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shell == nil {
		p.startShell()
	}
	values := make(map[string]string)
	for _, v := range variables {
		name, value, _ := strings.Cut(v, "=")
		values[name] = value
	}
	request, err := json.Marshal(map[string]any{"environment": environment, "variables": values, "op": op})
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.shell.in.Write(append(request, '\n')); err != nil {
		p.t.Fatal(err)
	}
	for p.shell.out.Scan() {
		text, ok := strings.CutPrefix(p.shell.out.Text(), "answer ")
		if !ok {
			continue // a migration has printed it
		}
		var answer shellAnswer
		if err := json.Unmarshal([]byte(text), &answer); err != nil {
			p.t.Fatal(err)
		}
		if answer.Error != "" {
			p.t.Fatalf("knex.migrate.%s: %s", op, answer.Error)
		}
		return answer
	}
	p.t.Fatalf("Knex's process ended: %v", p.shell.out.Err())
	return shellAnswer{}
}

func (p *project) startShell() {
	p.t.Helper()
	cmd := exec.Command("node", "-e", shellSource)
	cmd.Dir, cmd.Stderr = p.dir, os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.shell = &knexShell{in: in, out: bufio.NewScanner(out)}
	p.t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
}

// wantList checks how many migrations Knex knows as completed and as pending.
func (p *project) wantList(n *tenant, completed, pending int) {
	p.t.Helper()
	if got := p.byKnex(n, "list"); got.Completed != completed || got.Pending != pending {
		p.t.Errorf("knex.migrate.list says %d completed and %d pending, want %d and %d", got.Completed, got.Pending, completed, pending)
	}
}

// dump is a tenant's schema and rows as SQL, without Skein's table, and with
// times made equal.
func (n *tenant) dump() string {
	n.t.Helper()
	switch n.Engine {
	case skein.PostgreSQL:
		cmd := exec.CommandContext(n.t.Context(), program(n.t, "pg_dump"), "--inserts", "--no-owner", "--exclude-table=*.skein_migrations", "--exclude-table=*.skein_migrations_id_seq",
			n.server.URL(n.Database, n.User, n.Password.Reveal()))
		return normalize(output(n.t, cmd))
	case skein.MySQL:
		return normalize(n.mysqlSchema() + n.rows())
	}
	return normalize(n.sqliteSchema() + n.rows())
}

func (n *tenant) mysqlSchema() string {
	n.t.Helper()
	var b strings.Builder
	for _, table := range n.tables() {
		if table != "skein_migrations" {
			b.WriteString(n.query("SHOW CREATE TABLE `" + table + "`")[0][1] + ";\n")
		}
	}
	return b.String()
}

func (n *tenant) sqliteSchema() string {
	n.t.Helper()
	var b strings.Builder
	for _, row := range n.query("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE '%skein_migrations%' ORDER BY rowid") {
		b.WriteString(row[0] + ";\n")
	}
	return b.String()
}

// rows are those of all tables but Skein's, in their order.
func (n *tenant) rows() string {
	n.t.Helper()
	var b strings.Builder
	for _, table := range n.tables() {
		if table == "skein_migrations" {
			continue
		}
		for _, row := range n.query("SELECT * FROM " + table) {
			fmt.Fprintf(&b, "%s %q\n", table, row)
		}
	}
	return b.String()
}

func program(t *testing.T, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) == 0 {
		t.Fatalf("this test needs %s: scripts/install-test-deps installs it", name)
	}
	return found[len(found)-1]
}

func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", filepath.Base(cmd.Path), err, &stderr)
	}
	return string(out)
}

var (
	instants = regexp.MustCompile(`\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(\+\d\d|Z)?|\b1[6-9]\d{11}\b`)
	noise    = regexp.MustCompile(`^(--.*|SET .*|SELECT pg_catalog\.set_config.*|\\(un)?restrict .*|/\*.*\*/;? *|ALTER (TABLE|SEQUENCE) .* OWNER TO .*|LOCK TABLES.*|UNLOCK TABLES.*|DROP TABLE IF EXISTS.*|)$`)
	counters = regexp.MustCompile(` AUTO_INCREMENT=\d+`)
)

// normalize leaves out of a dump what two equal databases differ in.
func normalize(dump string) string {
	var b strings.Builder
	for line := range strings.Lines(dump) {
		line = strings.TrimRight(line, "\n")
		if noise.MatchString(line) {
			continue
		}
		b.WriteString(instants.ReplaceAllString(line, "TIME") + "\n")
	}
	return b.String()
}

// up is a migration that makes a table.
func up(table string) string {
	return fmt.Sprintf("exports.up = (knex) => knex.schema.createTable('%[1]s', (t) => { t.increments(); });\nexports.down = (knex) => knex.schema.dropTable('%[1]s');\n", table)
}
