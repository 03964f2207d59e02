package knex_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/knex"
)

func TestReadConfig(t *testing.T) {
	p := newProject(t, map[string]string{
		"knexfile.js": `module.exports = {
  development: { client: 'sqlite3' },
  production: {
    client: 'pg',
    connection: { password: 'secret' },
    searchPath: 'app, public',
    migrations: {
      directory: ['./migrations/tenant', '../shared'], tableName: 'schema_changes', schemaName: 'app', extension: 'ts',
      loadExtensions: ['.js', '.ts'], sortDirsSeparately: true, disableTransactions: true,
    },
  },
};`,
	}, nil)
	got, err := knex.ReadConfig(t.Context(), &knex.Options{Dir: p.dir, Env: "production"})
	if err != nil {
		t.Fatal(err)
	}
	if got.Knex == "" {
		t.Error("Knex's version is not told")
	}
	dir, err := filepath.EvalSymlinks(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	want := knex.Config{
		Knexfile: filepath.Join(dir, "knexfile.js"), Knex: got.Knex,
		Environment: "production", Environments: []string{"development", "production"}, Client: "pg", Engine: skein.PostgreSQL,
		Directories: []string{"./migrations/tenant", "../shared"}, TableName: "schema_changes", SchemaName: "app", Extension: "ts",
		LoadExtensions: []string{".js", ".ts"}, SortDirsSeparately: true, DisableTransactions: true, SearchPath: []string{"app", "public"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read is (-want +got):\n%s", diff)
	}

	t.Setenv("NODE_ENV", "development")
	got, err = knex.ReadConfig(t.Context(), &knex.Options{Dir: p.dir})
	if err != nil || got.Environment != "development" || got.Engine != skein.SQLite || len(got.Directories) != 0 {
		t.Errorf("with NODE_ENV it is read as %+v, %v", got, err)
	}

	// The nearest knexfile above the folder, as Knex finds it.
	p.write("packages/api/package.json", "{}")
	got, err = knex.ReadConfig(t.Context(), &knex.Options{Dir: filepath.Join(p.dir, "packages", "api")})
	if err != nil || got.Knexfile != want.Knexfile {
		t.Errorf("from a folder below it is %q, %v", got.Knexfile, err)
	}
	p.write("config/knex.js", "module.exports = { client: 'mysql2', migrations: { directory: 'm' } };")
	got, err = knex.ReadConfig(t.Context(), &knex.Options{Dir: p.dir, Knexfile: "config/knex.js"})
	if err != nil || got.Engine != skein.MySQL || got.Environment != "" || !slices.Equal(got.Directories, []string{"m"}) {
		t.Errorf("another file is read as %+v, %v", got, err)
	}
}

func TestReadConfigFails(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		files map[string]string
		opts  knex.Options
		words []string
	}{
		"throws":       {files: map[string]string{"knexfile.js": "\nthrow new Error('no DB_HOST, and p=postgres://u:hunter22@h/d');"}, words: []string{"knexfile.js", "no DB_HOST", "knexfile.js:2"}},
		"exits":        {files: map[string]string{"knexfile.js": "process.exit(3);"}, words: []string{"process.exit(3)"}},
		"is empty":     {files: map[string]string{"knexfile.js": "module.exports = null;"}, words: []string{"exports no configuration"}},
		"not there":    {opts: knex.Options{Knexfile: "other.js"}, words: []string{"other.js", "no such file"}},
		"no folder":    {opts: knex.Options{Dir: "/no/such/folder"}, words: []string{"/no/such/folder", "does not exist"}},
		"no Node":      {opts: knex.Options{Node: "no-such-node"}, words: []string{"no-such-node", "PATH"}},
		"not Node":     {opts: knex.Options{Node: "/bin/false"}, words: []string{"ended before it had loaded Knex", "exit status 1"}},
		"no Node here": {opts: knex.Options{Node: "/no/such/node"}, words: []string{"looked for /no/such/node"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProject(t, tt.files, nil)
			if tt.opts.Dir == "" {
				tt.opts.Dir = p.dir
			}
			_, err := knex.ReadConfig(t.Context(), &tt.opts)
			if err == nil {
				t.Fatal("it was read")
			}
			for _, word := range tt.words {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("the error is %q, without %q", err, word)
				}
			}
			if strings.Contains(err.Error(), "hunter22") {
				t.Errorf("the error shows a password: %v", err)
			}
		})
	}
}

func TestKnexIsNotInstalled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "package.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := knex.ReadConfig(t.Context(), &knex.Options{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "knex is not installed") || !strings.Contains(err.Error(), filepath.Join(dir, "node_modules")) || !strings.Contains(skein.Hint(err), "npm install") {
		t.Errorf("the error is %v, with the hint %q", err, skein.Hint(err))
	}
}

// Where only SQL is pending there need be no Node.
func TestOnlySQLNeedsNoNode(t *testing.T) {
	t.Parallel()
	p := &project{t: t, dir: t.TempDir()}
	p.write("migrations/tenant/1_a.sql", "-- migrate:up\ncreate table a (id int);\n")
	r := p.runner(&knex.Options{Node: "no-such-node", Dir: "/no/such/folder"})
	n := newTenant(t, skein.SQLite)
	p.mustMigrate(r, n.Target, skein.PlanOptions{})
	p.write("migrations/tenant/2_b.js", up("b"))
	got := p.migrate(r, n.Target, skein.PlanOptions{})
	if got.Err == nil || !strings.Contains(got.Err.Error(), "/no/such/folder") {
		t.Errorf("the error is %v", got.Err)
	}
}

// A knexfile that means other tables, or another schema, than Skein reads would
// have Knex and Skein not see each other.
func TestKnexfileThatDoesNotFit(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		knexfile string
		engine   string
		words    string
	}{
		"table":        {"module.exports = { client: 'better-sqlite3', migrations: { tableName: 'changes' } };", skein.SQLite, `"changes"`},
		"schema":       {"module.exports = { client: 'pg', migrations: { schemaName: 'app' } };", skein.PostgreSQL, `"app"`},
		"search path":  {"module.exports = { client: 'pg', searchPath: ['app', 'public'] };", skein.PostgreSQL, "give the tenant the schema app"},
		"client":       {"module.exports = { client: 'pg' };", skein.SQLite, "is for the client pg"},
		"environments": {"module.exports = { a: { client: 'pg' }, b: { client: 'pg' } };", skein.PostgreSQL, "2 environments for postgres (a, b)"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProject(t, map[string]string{"knexfile.js": tt.knexfile, "migrations/tenant/1_a.js": up("a")}, nil)
			n := newTenant(t, tt.engine)
			got := p.migrate(p.runner(nil), n.Target, skein.PlanOptions{})
			if got.Err == nil || !strings.Contains(got.Err.Error(), tt.words) {
				t.Errorf("the error is %v", got.Err)
			}
			if n.hasTable("a") || n.hasTable("knex_migrations") {
				t.Errorf("something ran: the tables are %q", n.tables())
			}
		})
	}
}

// Tables of other names, schemas of tenants, and the project's own options.
func TestSchemaAndTable(t *testing.T) {
	t.Parallel()
	database := newTenant(t, skein.PostgreSQL)
	database.exec(`CREATE SCHEMA "Tenant ""a""" AUTHORIZATION ` + database.User + `; CREATE SCHEMA tenant_b AUTHORIZATION ` + database.User)
	p := newProject(t, map[string]string{
		"knexfile.js": `module.exports = { client: 'pg', connection: { host: 'nowhere' }, migrations: { directory: 'migrations/tenant' },
  wrapIdentifier: (value, next) => next(value === 'Upper' ? 'upper_case' : value) };`,
		"migrations/tenant/1_a.js": up("Upper"),
	}, nil)
	r := p.runner(nil)
	for _, schema := range []string{`Tenant "a"`, "tenant_b"} {
		target := database.Target
		target.Schema = schema
		p.mustMigrate(r, target, skein.PlanOptions{})
		h := history(t, target)
		if len(h.Records) != 1 || !h.Records[0].InKnex {
			t.Errorf("schema %s: recorded is %+v", schema, h.Records)
		}
	}
	rows := database.query("SELECT schemaname, tablename FROM pg_tables WHERE tablename IN ('upper_case', 'knex_migrations', 'skein_migrations') ORDER BY 1, 2")
	if len(rows) != 6 {
		t.Errorf("the tables are %v", rows)
	}
}
