package cli_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skeinhq/skein/internal/dbtest"
	"github.com/skeinhq/skein/internal/nodetest"
)

// TestProvisionKnex makes tenants whose migrations are Knex's, SQL among them, on
// each engine: one at once, and one whose last migration breaks in its middle at
// first.
func TestProvisionKnex(t *testing.T) {
	t.Parallel()
	const query = "SELECT name FROM knex_migrations ORDER BY id"
	for _, test := range []struct {
		name   string
		server func(testing.TB) string
		names  func(t testing.TB, dir, database string) [][]string
	}{
		{"postgres", func(t testing.TB) string { return dbtest.Postgres(t).AdminURL() }, func(t testing.TB, _, database string) [][]string {
			return dbtest.Postgres(t).Query(t, database, query)
		}},
		{"mysql", func(t testing.TB) string { return dbtest.MySQL(t).AdminURL() }, func(t testing.TB, _, database string) [][]string {
			return dbtest.MySQL(t).Query(t, database, query)
		}},
		{"sqlite", func(testing.TB) string { return "sqlite:tenants/" }, func(t testing.TB, dir, database string) [][]string {
			rows, err := querySQLite(filepath.Join(dir, "tenants", database), query)
			if err != nil {
				t.Fatal(err)
			}
			return rows
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir, prefix := t.TempDir(), dbtest.UniqueName()
			nodetest.Link(t, nodetest.Modules(t, filepath.FromSlash("../../knex/testdata/modules/package.json")), dir, nil)
			names := "{database: \"" + prefix + "_{slug}\", user: \"" + prefix + "_{slug}\"}"
			if test.name == "sqlite" {
				names = "{database: \"" + prefix + "_{slug}\"}"
			}
			for name, text := range map[string]string{
				"skein.yaml":                "encryption: {key: 0123456789abcdef0123456789abcdef}\nservers: {s: {url: \"${SERVER}\"}}\nprovisioning: " + names + "\n",
				"package.json":              `{"name": "provisioned", "private": true}`,
				"knexfile.js":               "module.exports = { pg: { client: 'pg' }, mysql: { client: 'mysql2' }, sqlite: { client: 'better-sqlite3', useNullAsDefault: true } };\n",
				"migrations/tenant/1_a.js":  "exports.up = (k) => k.schema.createTable('a', (t) => t.integer('id').primary());\nexports.down = (k) => k.schema.dropTable('a');\n",
				"migrations/tenant/2_b.sql": "-- migrate:up\nCREATE TABLE b (id integer PRIMARY KEY);\n-- migrate:down\nDROP TABLE b;\n",
				"migrations/tenant/3_c.js": `exports.config = { transaction: false };
exports.up = async (k) => {
  await k.schema.createTable('c', (t) => t.integer('id').primary().references('id').inTable('b'));
  if (process.env.BREAK) throw new Error('it breaks here');
  await k('a').insert({ id: 1 });
};
exports.down = (k) => k.schema.dropTable('c');
`,
			} {
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				write(t, path, text)
			}
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			run := func(fails bool, env string, args ...string) string {
				t.Helper()
				cmd := exec.CommandContext(t.Context(), self)
				cmd.Args, cmd.Dir = append([]string{"skein"}, args...), dir
				cmd.Env = append(os.Environ(), "SERVER="+test.server(t), env)
				out, err := cmd.CombinedOutput()
				if (err != nil) != fails {
					t.Fatalf("skein %s: %v\n%s", strings.Join(args, " "), err, out)
				}
				return string(out)
			}
			wantRows := func(slug string, want ...string) {
				t.Helper()
				if rows := fmt.Sprint(column(test.names(t, dir, prefix+"_"+slug))); rows != fmt.Sprint(want) {
					t.Errorf("knex_migrations of %s has %s, want %s", slug, rows, want)
				}
			}

			run(false, "", "init")
			if out := run(false, "", "provision", "whole"); !strings.Contains(out, "3 migrations") {
				t.Errorf("it says %s", out)
			}
			wantRows("whole", "1_a.js", "3_c.js")

			out := run(true, "BREAK=1", "provision", "broken")
			for _, words := range []string{"3_c.js:4", "it breaks here", "skein deprovision broken"} {
				if !strings.Contains(out, words) {
					t.Errorf("of a migration that breaks it says, without %q:\n%s", words, out)
				}
			}
			wantRows("broken", "1_a.js")
			if out := run(false, "", "tenants", "show", "broken"); !strings.Contains(out, "provisioning") {
				t.Errorf("the tenant is %s", out)
			}
			// Nobody has used it: it is made anew where something may have stayed.
			if out := run(false, "", "provision", "broken"); !strings.Contains(out, "3 migrations") {
				t.Errorf("again it says %s", out)
			}
			wantRows("broken", "1_a.js", "3_c.js")
			if out := run(false, "", "status", "--check"); !strings.Contains(out, "broken, whole") {
				t.Errorf("the status is %s", out)
			}
			for _, slug := range []string{"whole", "broken"} {
				run(false, "", "deprovision", slug, "--yes", "--confirm", slug)
			}
		})
	}
}
