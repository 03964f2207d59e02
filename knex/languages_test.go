package knex_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/nodetest"
	"github.com/skeinhq/skein/knex"
	"github.com/skeinhq/skein/source"
)

const (
	tsconfig            = `{"compilerOptions": {"module": "commonjs", "target": "es2022", "esModuleInterop": true}}`
	typeScriptMigration = `import type { Knex } from "knex";
import { tableName } from "../../lib/names";

enum Width { Short = 40 }

export async function up(knex: Knex): Promise<void> {
  await knex.schema.createTable(tableName("typed"), (t) => {
    t.increments();
    t.string("v", Width.Short);
  });
}

export async function down(knex: Knex): Promise<void> {
  await knex.schema.dropTable(tableName("typed"));
}
`
	typeScriptKnexfile = `import type { Knex } from "knex";

const config: { [name: string]: Knex.Config } = {
  development: {
    client: "better-sqlite3",
    connection: { filename: process.env.TENANT_DATABASE as string },
    useNullAsDefault: true,
    migrations: { directory: "./migrations/tenant", extension: "ts" },
  },
};

export default config;
`
)

func typeScript(t *testing.T, as map[string]string) *project {
	return newProject(t, map[string]string{
		"knexfile.ts":                  typeScriptKnexfile,
		"tsconfig.json":                tsconfig,
		"lib/names.ts":                 "export const tableName = (name: string): string => `the_${name}`;\n",
		"migrations/tenant/1_typed.ts": typeScriptMigration,
		"migrations/tenant/2_plain.js": up("plain"),
	}, as)
}

func TestTypeScript(t *testing.T) {
	t.Parallel()
	for name, as := range map[string]map[string]string{
		"tsx":     {"ts-node": ""},
		"ts-node": {"tsx": ""},
		"both":    nil,
	} {
		t.Run(name, func(t *testing.T) {
			p := typeScript(t, as)
			n := newTenant(t, skein.SQLite)
			r := p.runner(nil)
			got := p.mustMigrate(r, n.Target, skein.PlanOptions{})
			if !slices.Equal(got.done(), []string{"1_typed.ts", "2_plain.js"}) || !n.hasTable("the_typed") || !n.hasTable("plain") {
				t.Errorf("done are %q, tables are %q", got.done(), n.tables())
			}
			p.mustMigrate(r, n.Target, skein.PlanOptions{Direction: skein.Down})
			if n.hasTable("the_typed") {
				t.Error("the down did not run")
			}
			config, err := knex.ReadConfig(t.Context(), &knex.Options{Dir: p.dir})
			if err != nil || config.Extension != "ts" || config.Environment != "development" {
				t.Errorf("the knexfile is read as %+v, %v", config, err)
			}
		})
	}
}

// The line of an error is that of the file, and not of what it was compiled to.
func TestTypeScriptLine(t *testing.T) {
	t.Parallel()
	for name, as := range map[string]map[string]string{"tsx": {"ts-node": ""}, "ts-node": {"tsx": ""}} {
		t.Run(name, func(t *testing.T) {
			p := newProject(t, map[string]string{
				"knexfile.ts":   typeScriptKnexfile,
				"tsconfig.json": tsconfig,
				"migrations/tenant/1_typed.ts": `import type { Knex } from "knex";

interface Row {
  id: number;
}

enum Kind { A, B }

export async function up(knex: Knex): Promise<void> {
  const rows: Row[] = [{ id: Kind.A }];
  await knex.raw("select * from nowhere where 1 = ?", [rows[0].id]);
}

export async function down(): Promise<void> {}
`,
			}, as)
			got := p.migrate(p.runner(nil), newTenant(t, skein.SQLite).Target, skein.PlanOptions{})
			e, ok := errors.AsType[*skein.StatementError](got.Err)
			if !ok || e.Line != 11 || e.Statement != "select * from nowhere where 1 = ?" {
				t.Errorf("the error is %v", got.Err)
			}
		})
	}
}

func TestTypeScriptWithoutLoader(t *testing.T) {
	t.Parallel()
	p := newProject(t, map[string]string{
		"knexfile.js":                  knexfile(t),
		"migrations/tenant/1_plain.js": up("plain"),
	}, map[string]string{"tsx": "", "ts-node": ""})
	n := newTenant(t, skein.SQLite)
	r := p.runner(nil)
	p.mustMigrate(r, n.Target, skein.PlanOptions{})
	p.write("migrations/tenant/2_typed.ts", "export async function up(k: any): Promise<void> { await k.schema.createTable('typed', (t: any) => t.increments()); }\nexport async function down(): Promise<void> {}\n")
	got := p.migrate(r, n.Target, skein.PlanOptions{})
	if got.Err == nil {
		// This Node loads TypeScript by itself.
		if !n.hasTable("typed") {
			t.Error("the migration did nothing")
		}
		return
	}
	if !strings.Contains(got.Err.Error(), "neither tsx nor ts-node") || !strings.Contains(skein.Hint(got.Err), "npm install --save-dev tsx") {
		t.Errorf("the error is %v, with the hint %q", got.Err, skein.Hint(got.Err))
	}
}

// A Node that is new enough needs no loader for files that are JavaScript but for
// their types, as Knex makes them, and says of others what they need.
func TestTypeScriptByNodeItself(t *testing.T) {
	t.Parallel()
	const generated = "import type { Knex } from \"knex\";\n\nexport async function up(knex: Knex): Promise<void> {\n  await knex.schema.createTable('typed', (t) => { t.increments(); });\n}\n\nexport async function down(knex: Knex): Promise<void> {\n  await knex.schema.dropTable('typed');\n}\n"
	node := filepath.Join(nodetest.Modules(t, filepath.Join("testdata", "node22", "package.json")), ".bin", "node")
	knexfile := strings.ReplaceAll(typeScriptKnexfile, "better-sqlite3", "pg") // which is not compiled for one version of Node
	for _, test := range []struct {
		name, knexfile, migration string
		words                     string // of the error
	}{
		{name: "as Knex makes them", knexfile: knexfile, migration: generated},
		{name: "enum", knexfile: knexfile, migration: generated + "enum Width { Short = 40 }\n", words: "enum is not supported"},
		{name: "a type like a value", knexfile: knexfile, migration: strings.Replace(generated, "import type", "import", 1), words: "does not provide an export named 'Knex'"},
		{name: "no extension", knexfile: knexfile, migration: "import { tableName } from '../../lib/names';\n" + generated, words: "Cannot find module"},
		{name: "knexfile", knexfile: knexfile + "enum Width { Short = 40 }\n", migration: generated, words: "knexfile.ts cannot be loaded"},
	} {
		p := newProject(t, map[string]string{
			"knexfile.ts": test.knexfile, "lib/names.ts": "export const tableName = 'x';\n", "migrations/tenant/1_typed.ts": test.migration,
		}, map[string]string{"tsx": "", "ts-node": ""})
		n := newTenant(t, skein.PostgreSQL)
		got := p.migrate(p.runner(&knex.Options{Workers: 1, Node: node}), n.Target, skein.PlanOptions{})
		switch {
		case test.words == "" && (got.Err != nil || !n.hasTable("typed")):
			t.Errorf("%s: %v", test.name, got.Err)
		case test.words != "" && (got.Err == nil || !strings.Contains(got.Err.Error(), test.words) || !strings.Contains(skein.Hint(got.Err), "npm install --save-dev tsx")):
			t.Errorf("%s: the error is %v, with the hint %q", test.name, got.Err, skein.Hint(got.Err))
		}
	}
}

// require and import are chosen by Knex's rule.
func TestModules(t *testing.T) {
	t.Parallel()
	const esm = "export async function up(knex) {\n  await knex.schema.createTable('%', (t) => t.increments());\n}\nexport async function down(knex) {\n  await knex.schema.dropTable('%');\n}\n"
	module := func(table string) string { return strings.ReplaceAll(esm, "%", table) }
	tests := map[string]map[string]string{
		"mjs and cjs beside js": {
			"knexfile.js":                knexfile(t),
			"migrations/tenant/1_a.js":   up("a"),
			"migrations/tenant/2_b.mjs":  module("b"),
			"migrations/tenant/3_c.cjs":  up("c"),
			"migrations/tenant/4_d.js":   "exports.config = { transaction: true };\n" + up("d"),
			"migrations/tenant/5_e.mjs":  "export const config = { transaction: false };\n" + module("e"),
			"migrations/tenant/_list.md": "not a migration",
		},
		"type module": {
			"package.json":              `{"name": "project", "private": true, "type": "module"}`,
			"knexfile.js":               "export default { client: 'better-sqlite3', useNullAsDefault: true, migrations: { directory: './migrations/tenant' } };",
			"migrations/tenant/1_a.js":  module("a"),
			"migrations/tenant/2_b.mjs": module("b"),
			"migrations/tenant/3_c.cjs": up("c"),
			"migrations/tenant/4_d.js":  "import fs from 'node:fs';\nif (!fs.existsSync('package.json')) throw new Error('elsewhere');\n" + module("d"),
			"migrations/tenant/5_e.js":  module("e"),
		},
		"no knexfile": {
			"migrations/tenant/1_a.js": up("a"), "migrations/tenant/2_b.js": up("b"), "migrations/tenant/3_c.js": up("c"),
			"migrations/tenant/4_d.js": up("d"), "migrations/tenant/5_e.js": up("e"),
		},
		"a knexfile that is a function": {
			"knexfile.cjs":             "module.exports = async () => ({ development: { client: 'sqlite3' }, test: { client: 'better-sqlite3', useNullAsDefault: true } });",
			"migrations/tenant/1_a.js": up("a"), "migrations/tenant/2_b.js": up("b"), "migrations/tenant/3_c.js": up("c"),
			"migrations/tenant/4_d.js": up("d"), "migrations/tenant/5_e.js": up("e"),
		},
	}
	for name, files := range tests {
		t.Run(name, func(t *testing.T) {
			p := newProject(t, files, nil)
			n := newTenant(t, skein.SQLite)
			r := p.runner(&knex.Options{Workers: 1, Env: "test"})
			if got := p.mustMigrate(r, n.Target, skein.PlanOptions{}); len(got.Done) != 5 || !n.hasTable("e") {
				t.Errorf("done are %q, tables are %q", got.done(), n.tables())
			}
			p.mustMigrate(r, n.Target, skein.PlanOptions{Direction: skein.Down})
			if n.hasTable("a") {
				t.Error("the downs did not run")
			}
		})
	}
}

// What cannot be loaded is an error of its file, with the line.
func TestMigrationThatCannotBeLoaded(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		body  string
		line  int
		words string
	}{
		"syntax":         {"exports.up = async (k) => {\n  const = 1;\n};\n", 2, "SyntaxError"},
		"missing module": {"const x = 1;\nconst y = require('no-such-module');\n", 2, "no-such-module"},
		"no up":          {"exports.down = () => {};\n", 0, "must have both an up and down function"},
		"no down":        {"exports.up = () => {};\n", 0, "must have both an up and down function"},
		"throws":         {"\n\nthrow new Error('at once');\n", 3, "at once"},
	} {
		t.Run(name, func(t *testing.T) {
			p := trap(t, tt.body)
			n := newTenant(t, skein.SQLite)
			got := p.migrate(p.runner(nil), n.Target, skein.PlanOptions{})
			if got.Err == nil || !strings.Contains(got.Err.Error(), tt.words) || !strings.Contains(got.Err.Error(), "2_trap.js") {
				t.Errorf("the error is %v", got.Err)
			}
			if e, ok := errors.AsType[*skein.StatementError](got.Err); tt.line > 0 && (!ok || e.Line != tt.line) {
				t.Errorf("the error is %v, and not at line %d", got.Err, tt.line)
			}
			if n.hasTable("good") || len(history(t, n.Target).Records) != 0 {
				t.Error("something ran")
			}
		})
	}
}

// Folders that are sorted each by itself run as they do under Knex.
func TestSortDirsSeparately(t *testing.T) {
	t.Parallel()
	p := newProject(t, map[string]string{
		"knexfile.js": "module.exports = { sqlite: { client: 'better-sqlite3', connection: { filename: process.env.TENANT_DATABASE }, useNullAsDefault: true,\n" +
			"  migrations: { directory: ['core', 'extra'], sortDirsSeparately: true } } };",
		"core/5_a.js": up("a"), "core/10_b.js": up("b"), "extra/1_c.js": up("c"), "extra/2_d.js": up("d"),
	}, nil)
	load := func() *skein.Set {
		t.Helper()
		set, err := source.Load([]string{filepath.Join(p.dir, "core"), filepath.Join(p.dir, "extra")}, &source.Options{SortDirsSeparately: true})
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	alone, n := newTenant(t, skein.SQLite), newTenant(t, skein.SQLite)
	r := p.runner(nil)
	for i, opts := range []skein.PlanOptions{{}, {}, {Direction: skein.Down}, {}} {
		if i == 1 {
			p.write("core/6_e.js", up("e")) // older than the newest, but not in its folder
		}
		if opts.Direction == skein.Down {
			p.byKnex(alone, "rollback")
		} else {
			p.byKnex(alone, "latest")
		}
		if got := p.migrateSet(r, load(), n.Target, opts); got.Err != nil {
			t.Fatal(got.Err)
		}
		if diff := cmp.Diff(alone.dump(), n.dump()); diff != "" {
			t.Errorf("Skein leaves something else than Knex (-Knex +Skein):\n%s", diff)
		}
	}
}
