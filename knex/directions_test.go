package knex_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/knex"
)

// Knex migrates a tenant half way, Skein goes on, and Knex takes it back: each
// finds what it would have written itself.
func TestKnexSkeinKnex(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, n *tenant) {
		p := crm(t, nil)
		names := p.set().All()
		r := p.runner(nil)
		p.byKnex(n, "up")
		p.byKnex(n, "up")
		wantList(t, p.knex(n, "migrate:list"), 2, 4)

		got := p.mustMigrate(r, n.Target, skein.PlanOptions{Steps: 3})
		if len(got.Done) != 3 || got.Done[0].Migration != got.Plan.Steps[0] {
			t.Errorf("done are %q", got.done())
		}
		p.wantList(n, 5, 1)
		if status := p.knex(n, "migrate:status"); !strings.Contains(status, "Found 5 Completed") && !strings.Contains(status, "1") {
			t.Errorf("knex migrate:status says %s", status)
		}
		if version := p.knex(n, "migrate:currentVersion"); !strings.Contains(version, names[4].Version) {
			t.Errorf("knex migrate:currentVersion says %s", version)
		}
		var rows []string
		for i, m := range names[:5] {
			rows = append(rows, fmt.Sprintf("%d %s %d", i+1, m.Name, min(i+1, 3)))
		}
		if diff := cmp.Diff(rows, n.knexRows()); diff != "" {
			t.Errorf("knex_migrations (-want +got):\n%s", diff)
		}
		if n.locked() != "0" {
			t.Error("Knex's lock is set")
		}
		h := history(t, n.Target)
		for i, record := range h.Records {
			skeins := i >= 2
			if record.State != skein.Applied || !record.InKnex || (record.By == "ann@host") != skeins || (record.Checksum == names[i].Checksum) != skeins || record.Batch != min(i+1, 3) {
				t.Errorf("recorded is %+v", record)
			}
			if since := time.Since(record.AppliedAt); since < -2*time.Second || since > 2*time.Minute {
				t.Errorf("%s was applied %s ago", record.Name, since)
			}
		}

		if said := p.knex(n, "migrate:rollback"); !strings.Contains(said, "Batch 3 rolled back: 3 migrations") {
			t.Errorf("knex migrate:rollback says %s", said)
		}
		p.wantList(n, 2, 4)

		// And Skein takes back what Knex has done, and does it again.
		p.byKnex(n, "latest")
		if got := p.mustMigrate(r, n.Target, skein.PlanOptions{Direction: skein.Down}); len(got.Done) != 4 {
			t.Errorf("reverted are %q", got.done())
		}
		p.wantList(n, 2, 4)
		if got := p.mustMigrate(r, n.Target, skein.PlanOptions{Direction: skein.Down, Everything: true}); len(got.Done) != 2 {
			t.Errorf("reverted are %q", got.done())
		}
		if tables := n.tables(); !slices.Equal(tables, []string{"knex_migrations", "knex_migrations_lock", "skein_migrations"}) {
			t.Errorf("left are the tables %q", tables)
		}
		if got := p.mustMigrate(r, n.Target, skein.PlanOptions{}); len(got.Done) != 6 {
			t.Errorf("applied are %q", got.done())
		}
		p.wantList(n, 6, 0)
		if got := p.mustMigrate(r, n.Target, skein.PlanOptions{}); len(got.Done) != 0 {
			t.Errorf("applied again are %q", got.done())
		}
	})
}

// SQL migrations that are recorded in Knex's table too are there for a Knex that
// loads them, in tables that Skein or Knex has made.
func TestKnexHistory(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, n *tenant) {
		p := newProject(t, map[string]string{
			"migrations/tenant/1_a.sql": "-- migrate:up\nCREATE TABLE a (id int)",
			"migrations/tenant/2_b.js":  "exports.up = (knex) => knex.schema.createTable('b', (t) => t.increments());\nexports.down = (knex) => knex.schema.dropTable('b');",
			"migrations/tenant/3_c.sql": "-- migrate:up\nCREATE TABLE c (id int)",
			"knexfile.js": `const { TENANT_HOST: host, TENANT_PORT: port, TENANT_USER: user, TENANT_PASSWORD: password, TENANT_DATABASE: database } = process.env;
const migrations = { directory: './migrations/tenant', loadExtensions: ['.js', '.sql'] };
module.exports = {
  pg: { client: 'pg', connection: { host, port, user, password, database }, migrations },
  mysql: { client: 'mysql2', connection: { host, port, user, password, database }, migrations },
  sqlite: { client: 'better-sqlite3', connection: { filename: database }, useNullAsDefault: true, migrations },
};
`,
		}, nil)
		r := p.runner(nil)
		e := engineFor(n.Target)
		session, err := e.Open(t.Context(), n.Target)
		if err != nil {
			t.Fatal(err)
		}
		defer session.Close()
		m := skein.NewMigrator(e, p.set(), time.Minute).WithKnex(r).WithKnexHistory(true)
		got := m.Migrate(t.Context(), session, skein.Tenant{ID: "1", Target: n.Target}, skein.PlanOptions{}, nil, func(skein.Event) {})
		if got.Err != nil || len(got.Done) != 3 {
			t.Fatalf("%d steps: %v", len(got.Done), got.Err)
		}
		wantList(t, p.knex(n, "migrate:list"), 3, 0)
	})
}

func wantList(t *testing.T, said string, completed, pending int) {
	t.Helper()
	count := func(what string) int {
		m := regexp.MustCompile(`Found (\d+) ` + what).FindStringSubmatch(said)
		n := 0
		if m != nil {
			_, _ = fmt.Sscan(m[1], &n)
		}
		return n
	}
	if c, p := count("Completed"), count("Pending"); c != completed || p != pending {
		t.Errorf("knex migrate:list says %d completed and %d pending, want %d and %d:\n%s", c, p, completed, pending, said)
	}
}

// What Skein leaves is what Knex leaves, to the last column, and what it left
// when the files of testdata/golden were written.
func TestSameAsKnex(t *testing.T) {
	t.Parallel()
	for name, as := range map[string]map[string]string{
		"newest": nil,
		"2.5":    {"knex-2.5": "knex"},
		"0.95":   {"knex-0.95": "knex"},
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, n *tenant) {
				if name == "0.95" && n.Engine == skein.SQLite {
					return // it does not know better-sqlite3
				}
				p := crm(t, as)
				alone := newTenant(t, n.Engine)
				p.byKnex(alone, "latest")
				r := p.runner(nil)
				p.mustMigrate(r, n.Target, skein.PlanOptions{})
				if diff := cmp.Diff(alone.dump(), n.dump()); diff != "" {
					t.Errorf("Skein leaves something else than Knex (-Knex +Skein):\n%s", diff)
				}
				if name == "newest" {
					compareGolden(t, n)
				}
				// The way back, and forth again.
				p.byKnex(alone, "rollback")
				p.mustMigrate(r, n.Target, skein.PlanOptions{Direction: skein.Down})
				if diff := cmp.Diff(alone.dump(), n.dump()); diff != "" {
					t.Errorf("after a rollback Skein leaves something else than Knex (-Knex +Skein):\n%s", diff)
				}
				p.byKnex(alone, "latest")
				p.mustMigrate(r, n.Target, skein.PlanOptions{})
				if diff := cmp.Diff(alone.dump(), n.dump()); diff != "" {
					t.Errorf("after a second time Skein leaves something else than Knex (-Knex +Skein):\n%s", diff)
				}
			})
		})
	}
}

func compareGolden(t *testing.T, n *tenant) {
	t.Helper()
	prefix := map[string]string{skein.PostgreSQL: "pg", skein.MySQL: "mariadb", skein.SQLite: "sqlite"}[n.Engine]
	text, err := os.ReadFile(filepath.Join("testdata", "golden", prefix+"_schema.sql"))
	if err != nil {
		t.Fatal(err)
	}
	// A dump of another version of the server may have its statements in another
	// order.
	statements := func(dump string) []string {
		var kept []string
		for _, s := range strings.Split(counters.ReplaceAllString(dump, ""), ";\n") {
			s = strings.TrimSpace(s)
			if s == "" || strings.HasPrefix(s, "INSERT INTO") || strings.HasPrefix(s, "SELECT pg_catalog.setval") || strings.Contains(s, "sqlite_sequence") {
				continue
			}
			kept = append(kept, s)
		}
		slices.Sort(kept)
		return kept
	}
	var got string
	switch n.Engine {
	case skein.PostgreSQL:
		got = n.dump()
	case skein.MySQL:
		got = normalize(n.mysqlSchema())
	default:
		got = normalize(n.sqliteSchema())
	}
	if diff := cmp.Diff(statements(normalize(string(text))), statements(got)); diff != "" {
		t.Errorf("the schema is not that of testdata/golden (-want +got):\n%s", diff)
	}
	rows, err := os.ReadFile(filepath.Join("testdata", "golden", prefix+"_knex_tables.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, m := range regexp.MustCompile(`(?m)^[ |]*(\d+) ?\| ?(\d+_\w+\.js) *\| *(\d+) ?\|`).FindAllStringSubmatch(string(rows), -1) {
		want = append(want, strings.Join(m[1:], " "))
	}
	if diff := cmp.Diff(want, n.knexRows()); diff != "" || len(want) != 6 {
		t.Errorf("knex_migrations is not as in testdata/golden (-want +got):\n%s", diff)
	}
}

// Knex processes and Skeins race for the same tenants: each migration runs once.
func TestRace(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, first *tenant) {
		p := newProject(t, map[string]string{
			"knexfile.js": knexfile(t),
			// Each would be noticed if it ran twice, or half.
			"migrations/tenant/1_a.js": "exports.up = async (k) => { await k.schema.createTable('log', (t) => t.string('who')); await k('log').insert({who: '1'}); };\nexports.down = () => {};",
			"migrations/tenant/2_b.js": "exports.up = async (k) => { await k('log').insert({who: '2'}); await new Promise((r) => setTimeout(r, 50)); };\nexports.down = () => {};",
			"migrations/tenant/3_c.js": "exports.up = (k) => k.schema.alterTable('log', (t) => t.string('more'));\nexports.down = () => {};",
			"migrations/tenant/4_d.js": "exports.up = (k) => k('log').insert({who: '4'});\nexports.down = () => {};",
		}, nil)
		tenants := []*tenant{first, newTenant(t, first.Engine), newTenant(t, first.Engine)}
		for _, n := range tenants {
			// Two that make Knex's tables at once fail, or put two rows into its lock,
			// which nobody gets then. That is so without Skein.
			p.byKnex(n, "list")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		var wg sync.WaitGroup
		for range 3 {
			r := p.runner(&knex.Options{Workers: 2})
			wg.Go(func() {
				e := engineFor(first.Target)
				fleet := skein.NewFleet([]skein.Engine{e}, p.set(), &skein.FleetOptions{
					LockWait: time.Minute, Knex: r,
					Listener: func(e skein.Event) {
						if e.Type == skein.TenantEnded && e.Result.Err != nil {
							t.Errorf("a Skein: %v", e.Result.Err)
						}
					},
				})
				list := func(yield func(skein.Tenant, error) bool) {
					for i, n := range tenants {
						if !yield(skein.Tenant{ID: fmt.Sprint(i), Target: n.Target}, nil) {
							return
						}
					}
				}
				if _, err := fleet.Migrate(ctx, list, skein.PlanOptions{}); err != nil {
					t.Error(err)
				}
			})
		}
		for _, n := range tenants {
			wg.Go(func() {
				cmd := p.knexCommand(n, "migrate:latest")
				out, err := cmd.CombinedOutput()
				// Knex does not wait where it meets its lock, or another who makes its tables.
				if err != nil && !regexp.MustCompile(`already locked|already exists|database is locked|pg_type_typname|duplicate key`).Match(out) {
					t.Errorf("Knex: %v\n%s", err, out)
				}
			})
		}
		wg.Wait()
		if ctx.Err() != nil {
			t.Fatal("it did not end")
		}
		for _, n := range tenants {
			var who []string
			for _, row := range n.query("SELECT who FROM log ORDER BY who") {
				who = append(who, row[0])
			}
			if !slices.Equal(who, []string{"1", "2", "4"}) {
				t.Errorf("run have %q", who)
			}
			var names []string
			for _, row := range n.query("SELECT name FROM knex_migrations ORDER BY name") {
				names = append(names, row[0])
			}
			if !slices.Equal(names, []string{"1_a.js", "2_b.js", "3_c.js", "4_d.js"}) {
				t.Errorf("recorded are %q", names)
			}
			if h := history(t, n.Target); h.KnexLocked || len(h.KnexOpen) > 0 {
				t.Errorf("left are KnexLocked %t and the notes %v", h.KnexLocked, h.KnexOpen)
			}
		}
	})
}

func knexfile(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("testdata/crm/knexfile.js")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A Knex that was killed leaves its lock: Skein says so, and takes it away when
// it is told to.
func TestKnexKilled(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, n *tenant) {
		p := newProject(t, map[string]string{
			"knexfile.js":              knexfile(t),
			"migrations/tenant/1_a.js": up("a"),
			"migrations/tenant/2_b.js": "const fs = require('fs');\nexports.config = { transaction: false };\nexports.up = async (k) => {\n  if (process.env.HANG) { fs.writeFileSync('hanging', ''); await new Promise((r) => setTimeout(r, 60000)); }\n  await k.schema.createTable('b', (t) => t.increments());\n};\nexports.down = () => {};\n",
		}, nil)
		cmd := p.knexCommand(n, "migrate:latest")
		cmd.Env = append(cmd.Env, "HANG=1")
		killWhen(t, cmd, filepath.Join(p.dir, "hanging"))
		if n.locked() != "1" {
			t.Fatal("the lock is not what a killed Knex leaves")
		}

		r := p.runner(nil)
		got := migrateAtOnce(t, p, r, n)
		refused, ok := errors.AsType[*skein.RefusedError](got.Err)
		if !ok || refused.Reason != skein.ReasonKnexLocked || !strings.Contains(refused.Error(), "killed") || !strings.Contains(refused.Hint(), "skein unlock") {
			t.Errorf("the error is %v, with the hint %q", got.Err, skein.Hint(got.Err))
		}
		if n.hasTable("b") || n.locked() != "1" {
			t.Error("something was done against the lock")
		}

		session, err := engineFor(n.Target).Open(t.Context(), n.Target)
		if err != nil {
			t.Fatal(err)
		}
		defer session.Close()
		if was, err := session.(skein.LockKeeper).ClearKnexLock(t.Context()); !was || err != nil {
			t.Fatalf("unlock: %t, %v", was, err)
		}
		p.mustMigrate(r, n.Target, skein.PlanOptions{})
		if !n.hasTable("b") || n.locked() != "0" {
			t.Error("the rest was not done")
		}
	})
}

// migrateAtOnce is migrate without waiting for locks.
func migrateAtOnce(t *testing.T, p *project, r skein.KnexRunner, n *tenant) run {
	t.Helper()
	e := engineFor(n.Target)
	session, err := e.Open(t.Context(), n.Target)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	m := skein.NewMigrator(e, p.set(), 0).WithKnex(r)
	return run{Result: m.Migrate(t.Context(), session, skein.Tenant{Target: n.Target}, skein.PlanOptions{}, nil, func(skein.Event) {})}
}

// killWhen starts a command, and kills it once a file is there.
func killWhen(t *testing.T, cmd *exec.Cmd, file string) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for range 600 {
		if _, err := os.Stat(file); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if _, err := os.Stat(file); err != nil {
		t.Fatal("the command did not come so far")
	}
}
