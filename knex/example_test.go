package knex_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
)

// The project in examples/knex-crm does what it says, and what Knex alone does.
func TestExampleProject(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{skein.PostgreSQL, skein.SQLite} {
		t.Run(engine, func(t *testing.T) {
			p := newProject(t, nil, nil)
			const example = "../examples/knex-crm"
			if err := os.CopyFS(filepath.Join(p.dir, "migrations"), os.DirFS(filepath.Join(example, "migrations"))); err != nil {
				t.Fatal(err)
			}
			for _, file := range []string{"knexfile.js", "package.json"} {
				text, err := os.ReadFile(filepath.Join(example, file))
				if err != nil {
					t.Fatal(err)
				}
				p.write(file, string(text))
			}
			if n := p.set().Len(); n != 8 {
				t.Errorf("there are %d migrations", n)
			}
			knex := func(n *tenant, op string) shellAnswer {
				t.Helper()
				url, environment := n.Database, "development"
				if n.server != nil {
					url, environment = n.server.URL(n.Database, n.User, n.Password.Reveal()), "production"
				}
				return p.byKnexIn(environment, []string{"TENANT_URL=" + url}, op)
			}

			alone, n := newTenant(t, engine), newTenant(t, engine)
			r := p.runner(nil)
			const people = "INSERT INTO contacts (name, email) VALUES ('Ann Marie Lee', 'ann@example.com'), ('Cher', NULL)"
			for range 6 {
				knex(alone, "up")
			}
			alone.exec(people)
			knex(alone, "latest")

			p.mustMigrate(r, n.Target, skein.PlanOptions{Steps: 6})
			n.exec(people)
			got := p.mustMigrate(r, n.Target, skein.PlanOptions{})
			if !strings.Contains(got.output(), "split the names of 2 contacts") {
				t.Errorf("printed is %q", got.output())
			}
			rows := n.query("SELECT first_name, last_name FROM contacts ORDER BY id")
			if diff := cmp.Diff([][]string{{"Ann Marie", "Lee"}, {"NULL", "Cher"}}, rows); diff != "" {
				t.Errorf("the contacts (-want +got):\n%s", diff)
			}
			if got := knex(n, "list"); got.Completed != 8 || got.Pending != 0 {
				t.Errorf("Knex lists %+v", got)
			}
			p.mustMigrate(r, n.Target, skein.PlanOptions{Direction: skein.Down, Everything: true})
			if got := knex(n, "list"); got.Completed != 0 || got.Pending != 8 {
				t.Errorf("Knex lists %+v", got)
			}
			p.mustMigrate(r, n.Target, skein.PlanOptions{})
			if n.value("SELECT count(*) FROM role_permissions") != alone.value("SELECT count(*) FROM role_permissions") {
				t.Error("the rows of role_permissions are not those under Knex")
			}
		})
	}
}
