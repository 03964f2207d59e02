package knex_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/knex"
)

func (p *project) preview(engine string, direction skein.Direction) []knex.Preview {
	p.t.Helper()
	previews, err := p.runner(&knex.Options{Workers: 1, Timeout: 3 * time.Second}).Preview(p.t.Context(), engine, direction, p.set().All())
	if err != nil {
		p.t.Fatal(err)
	}
	return previews
}

// What a preview shows, sent to a database as it is, makes of it what Knex makes.
func TestPreviewIsWhatRuns(t *testing.T) {
	t.Parallel()
	for name, as := range map[string]map[string]string{"newest": nil, "0.95": {"knex-0.95": "knex"}} {
		t.Run(name, func(t *testing.T) {
			p := crm(t, as)
			onEach(t, func(t *testing.T, n *tenant) {
				if name == "0.95" && n.Engine == skein.SQLite {
					return // it does not know better-sqlite3
				}
				previews := p.preview(n.Engine, skein.Up)
				first := previews[0]
				if len(first.Statements) < 6 || !first.Transaction || !strings.HasPrefix(first.Unknown, "line 44 reads the database (select ") {
					t.Errorf("of a migration that reads, %d statements are shown, and then: %s", len(first.Statements), first.Unknown)
				}
				r := p.runner(nil)
				p.mustMigrate(r, n.Target, skein.PlanOptions{})
				byHand := newTenant(t, n.Engine)
				p.mustMigrate(r, byHand.Target, skein.PlanOptions{Steps: 1})
				for _, preview := range previews[1:] {
					if preview.Unknown != "" || len(preview.Statements) == 0 || !preview.Transaction {
						t.Errorf("the preview is %+v", preview)
					}
					for _, s := range preview.Statements {
						if n.Engine == skein.PostgreSQL {
							s = "SET ROLE " + byHand.User + "; " + s
						}
						byHand.exec(s)
					}
				}
				if diff := cmp.Diff(withoutKnex(n.dump()), withoutKnex(byHand.dump())); diff != "" {
					t.Errorf("the SQL that is shown makes something else (-run +shown):\n%s", diff)
				}
			})
		})
	}
}

// withoutKnex is a dump without the rows of Knex's table, and how many there were.
func withoutKnex(dump string) string {
	var b strings.Builder
	for line := range strings.Lines(counters.ReplaceAllString(dump, "")) {
		if !strings.Contains(line, "knex_migrations") {
			b.WriteString(line)
		}
	}
	return b.String()
}

var savepoints = regexp.MustCompile(`trx\d+`)

func TestPreview(t *testing.T) {
	t.Setenv("APP_SECRET", "s")
	t.Setenv("APP_NAME", "crm")
	t.Setenv("DB_PASSWORD", "hunter22")
	p := newProject(t, map[string]string{
		"package.json": `{"name": "project", "private": true}`,
		// Hooks that would look at what is not there.
		"knexfile.js": `module.exports = {
  pg: { client: 'pg', connection: () => { throw new Error('asked where to connect'); }, postProcessResponse: (r) => r.rows, wrapIdentifier: (v, next) => next(v.replace(/[A-Z]/g, (c) => '_' + c.toLowerCase())) },
  mysql: { client: 'mysql2' }, sqlite: { client: 'better-sqlite3' },
};`,
		"lib/seed.js": "const rows = [{ userName: \"O'Hara\", at: null }];\nexports.seed = (k) => k('someUsers').insert(rows);\nexports.count = async (k) => {\n  const [row] = await k.raw('select count(*) from x');\n  return row;\n};\n",
		"beside.txt":  "kept",
	}, nil)
	tests := []struct {
		name       string
		body       string // of an async up(k)
		statements []string
		unknown    string
	}{
		{"schema", "await k.schema.createTable('someUsers', (t) => t.string('userName', 10));", []string{`create table "some_users" ("user_name" varchar(10))`}, ""},
		{"raw", "await k.raw('create index a on b (c);');\nawait k.raw('update a set b = ? where ?? = ?', [1, 'cD', 'x']);", []string{`create index a on b (c)`, `update a set b = 1 where "c_d" = 'x'`}, ""},
		{"rows", "await require('../../lib/seed').seed(k);", []string{`insert into "some_users" ("at", "user_name") values (NULL, 'O''Hara')`}, ""},
		{"a transaction in it", "await k.transaction(async (trx) => { await trx('a').del(); });", []string{"SAVEPOINT trx2", `delete from "a"`, "RELEASE SAVEPOINT trx2"}, ""},
		{"nothing", "", nil, ""},
		{"secrets of the environment", "await k('a').insert({ b: process.env.APP_SECRET, c: process.env.APP_NAME });\nawait k.raw(`alter role x password '${process.env.DB_PASSWORD}'`);\nawait k.raw('select \"password\"::text');", []string{`insert into "a" ("b", "c") values ('[redacted]', 'crm')`, "alter role x password '[redacted]'", `select "password"::text`}, ""},
		{"an empty statement", "await k.raw('a');\nawait k.raw('');", []string{"a"}, "its code fails without a database: The query is empty (line 3)"},
		{"in batches", "await k.batchInsert('a', [{ b: 1 }, { b: 2 }], 1);", []string{"SAVEPOINT trx2", `insert into "a" ("b") values (1)`, `insert into "a" ("b") values (2)`, "RELEASE SAVEPOINT trx2"}, ""},
		{"whatever the client is", "if (k.client.config.client === 'pg') await k.raw('create extension x');", []string{"create extension x"}, ""},
		{"a select that nobody looks at", "await k.raw(\"select setval('a_id_seq', 5)\");", []string{"select setval('a_id_seq', 5)"}, ""},
		{"what is passed on", "const all = await Promise.all([k.raw('a'), k.raw('b')]);\nreturn all;", []string{"a", "b"}, ""},

		{"select", "await k('a').del();\n\nfor (const row of await k('b').select('id')) await k('a').insert(row);", []string{`delete from "a"`}, `line 4 reads the database (select "id" from "b"), and what it does depends on what it finds`},
		{"first", "const row = await k('b').where('id', 1).first();\nif (!row) await k('b').del();", nil, `line 2 reads the database (select * from "b" where "id" = 1 limit 1)`},
		{"hasColumn", "if (await k.schema.hasColumn('a', 'b')) await k.raw('drop table a');", nil, `line 2 reads the database (select * from information_schema.columns`},
		{"hasTable, and the error caught", "try { await k.schema.hasTable('a'); } catch { await k.raw('drop table a'); }", nil, `line 2 reads the database`},
		{"a raw select", "const r = await k.raw('select 1');\n\nif (r.rows.length) await k.raw('x');", []string{"select 1"}, `line 4 uses what the database answered to a statement (select 1)`},
		{"returning", "const [id] = await k('a').insert({ b: 1 }).returning('id');\nawait k('c').insert({ id });", []string{`insert into "a" ("b") values (1) returning "id"`}, `line 2 uses what the database answered`},
		{"a count", "const n = await k('a').update({ b: 1 });\nif (n > 1) throw new Error('many');", []string{`update "a" set "b" = 1`}, "line 3 uses what the database answered"},
		{"an answer as a value", "const id = await k('a').insert({ b: 1 });\nawait k('c').insert({ id });", []string{`insert into "a" ("b") values (1)`}, "uses what the database answered"},
		{"in another file", "await require('../../lib/seed').count(k);", []string{"select count(*) from x"}, "line 2 uses what the database answered"},
		{"a stream", "for await (const row of k('a').stream()) await k('b').insert(row);", nil, "reads the database (select * from"},
		{"another Knex", "const other = require('knex')({ client: 'pg', connection: { host: '127.0.0.1', port: 1 } });\nawait other.raw('select 1');", nil, "opens a connection of its own"},
		{"the network", "await fetch('http://127.0.0.1:59999/');", nil, "opens a connection of its own"},
		{"a program", "require('child_process').execSync('rm beside.txt');", nil, "line 2 starts a program"},
		{"files", "require('fs').writeFileSync('beside.txt', 'changed');", nil, "line 2 writes files"},
		{"files by promise", "const fs = require('fs/promises');\nawait fs.rm('beside.txt');", nil, "line 3 writes files"},
		{"reading files", "await k.raw('-- ' + require('fs').readFileSync('beside.txt', 'utf8'));", []string{"-- kept"}, ""},
		{"an error", "await k.raw('a');\nk.client.config.connection.user.trim();", []string{"a"}, "its code fails without a database: TypeError: Cannot read properties of undefined (reading 'user') (line 3)"},
		{"an exit", "process.exit(0);", nil, "process.exit(0) was called (line 2)"},
		{"a promise that nobody waits for", "k('a').select('b').then((rows) => rows.length);\nawait new Promise((r) => setTimeout(r, 20));", nil, `reads the database (select "b" from "a")`},
		{"no end", "for (;;);", nil, "it did not end within 3s"},
	}
	for i, test := range tests {
		p.write(fmt.Sprintf("migrations/tenant/%02d.js", i), "exports.up = async (k) => {\n"+test.body+"\n};\nexports.down = () => {};\n")
	}
	for i, got := range p.preview(skein.PostgreSQL, skein.Up) {
		test := tests[i]
		for j, s := range got.Statements {
			got.Statements[j] = savepoints.ReplaceAllString(s, "trx2")
		}
		if diff := cmp.Diff(test.statements, got.Statements, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: the statements are (-want +got):\n%s", test.name, diff)
		}
		if (test.unknown == "") != (got.Unknown == "") || !strings.Contains(got.Unknown, test.unknown) || strings.HasPrefix(test.unknown, "line ") && !strings.HasPrefix(got.Unknown, test.unknown) {
			t.Errorf("%s: unknown is %q, want %q", test.name, got.Unknown, test.unknown)
		}
	}
	if text, err := os.ReadFile(filepath.Join(p.dir, "beside.txt")); err != nil || string(text) != "kept" {
		t.Errorf("a preview has changed a file: %q, %v", text, err)
	}
}

// Some changes Knex itself makes only after it has looked at the table.
func TestPreviewOfWhatKnexReads(t *testing.T) {
	t.Parallel()
	p := newProject(t, map[string]string{
		"knexfile.js":              "module.exports = { pg: { client: 'pg' }, mysql: { client: 'mysql2' }, sqlite: { client: 'better-sqlite3' } };",
		"migrations/tenant/1_a.js": "exports.config = { transaction: false };\nexports.up = (k) => k.schema.alterTable('a', (t) => t.dropColumn('b'));\nexports.down = (k) => k.schema.alterTable('a', (t) => t.renameColumn('b', 'c'));\n",
	}, nil)
	for _, test := range []struct {
		engine    string
		direction skein.Direction
		want      string
	}{
		{skein.PostgreSQL, skein.Up, `alter table "a" drop column "b"`},
		{skein.MySQL, skein.Up, "alter table `a` drop `b`"},
		{skein.SQLite, skein.Up, "? line 2 "},
		{skein.PostgreSQL, skein.Down, `alter table "a" rename "b" to "c"`},
		{skein.MySQL, skein.Down, "? line 3 reads the database (show full fields from `a`"},
	} {
		got := p.preview(test.engine, test.direction)[0]
		text := strings.Join(got.Statements, "; ")
		if got.Unknown != "" {
			text = "? " + got.Unknown
		}
		if got.Transaction || !strings.HasPrefix(text, test.want) || !strings.HasPrefix(test.want, "?") && text != test.want {
			t.Errorf("%s %s: %s, want %s", test.engine, test.direction, text, test.want)
		}
	}
}

// TypeScript and ES modules have previews too, and a file that cannot be loaded
// says so.
func TestPreviewOfLanguages(t *testing.T) {
	t.Parallel()
	p := typeScript(t, nil)
	p.write("migrations/tenant/3_module.mjs", "import fs, { unlinkSync } from 'node:fs';\nexport const up = async (k) => {\n  await k.raw('a');\n  unlinkSync('knexfile.ts');\n};\nexport const down = () => {};\n")
	p.write("migrations/tenant/4_broken.js", "\nexports.up = (;\n")
	p.write("migrations/tenant/5_down.js", "exports.up = () => {};\n")
	previews := p.preview(skein.SQLite, skein.Up)
	var got []string
	for _, preview := range previews {
		got = append(got, fmt.Sprintf("%q %s", preview.Statements, strings.ReplaceAll(preview.Unknown, p.dir, "DIR")))
	}
	want := []string{
		"[\"create table `the_typed` (`id` integer not null primary key autoincrement, `v` varchar(40))\"] ",
		"[\"create table `plain` (`id` integer not null primary key autoincrement)\"] ",
		`["a"] line 4 writes files`,
		`[] it cannot be loaded: TransformError: Transform failed with 1 error: DIR/migrations/tenant/4_broken.js:2:14: ERROR: Unexpected ";" (line 2)`,
		"[] ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the previews are (-want +got):\n%s", diff)
	}
	if got := p.preview(skein.SQLite, skein.Down)[4]; !strings.Contains(got.Unknown, "it has no down function") {
		t.Errorf("of a migration without a down the preview is %+v", got)
	}
}

// A preview needs Node and Knex, and neither a driver nor a database.
func TestPreviewNeedsNoDriver(t *testing.T) {
	t.Parallel()
	files := map[string]string{"knexfile.js": "module.exports = { client: 'pg' };", "migrations/tenant/1_a.js": up("a")}
	p := newProject(t, files, map[string]string{"pg": ""})
	if got := p.preview(skein.PostgreSQL, skein.Up)[0]; len(got.Statements) != 1 || got.Unknown != "" {
		t.Errorf("the preview is %+v", got)
	}
	p = newProject(t, files, map[string]string{"knex": "", "knex-2.5": "", "knex-0.95": ""})
	_, err := p.runner(nil).Preview(t.Context(), skein.PostgreSQL, skein.Up, p.set().All())
	if err == nil || !strings.Contains(err.Error(), "knex is not installed") {
		t.Errorf("the error is %v", err)
	}
	if _, ok := errors.AsType[*skein.StatementError](err); ok {
		t.Error("that is told as an error of a migration")
	}
}
