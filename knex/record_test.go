package knex_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
)

// A baseline leaves in Knex's tables what Knex leaves after it has run the
// files, and nothing else of them.
func TestBaseline(t *testing.T) {
	t.Parallel()
	for name, as := range map[string]map[string]string{"newest": nil, "0.95": {"knex-0.95": "knex"}} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, n *tenant) {
				if name == "0.95" && n.Engine == skein.SQLite {
					return // it does not know better-sqlite3
				}
				p := crm(t, as)
				// Hooks of the project are for what runs.
				p.write("knexfile.js", strings.Replace(knexfile(t), "tenant' }", "tenant', disableTransactions: true, beforeEach: () => { throw new Error('a hook') } }", 1))
				alone := newTenant(t, n.Engine)
				byKnex := crm(t, as)
				byKnex.byKnex(alone, "latest")
				p.write("migrations/tenant/20240107000000_between.sql", "-- migrate:up\nCREATE TABLE never (id int);\n")
				r := p.runner(nil)
				got := p.mustMigrate(r, n.Target, skein.PlanOptions{Baseline: "20240120101530"})
				if len(got.Done) != 7 || len(got.events) != 0 {
					t.Errorf("done are %q, with %d events", got.done(), len(got.events))
				}
				if diff := cmp.Diff(alone.knexTables(), n.knexTables()); diff != "" {
					t.Errorf("Knex's tables are not as Knex makes them (-Knex +Skein):\n%s", diff)
				}
				if tables := n.tables(); len(tables) != 3 {
					t.Errorf("the tables are %q", tables)
				}
				for _, record := range history(t, n.Target).Records {
					m, _ := p.set().Find(record.Name)
					if record.State != skein.Applied || record.Batch != 1 || record.Checksum != m.Checksum || record.InKnex != (m.Kind == skein.Knex) || record.By != "ann@host" {
						t.Errorf("recorded is %+v", record)
					}
				}
				if got := p.mustMigrate(r, n.Target, skein.PlanOptions{Baseline: "20240120101530"}); len(got.Done) != 0 {
					t.Errorf("recorded again are %q", got.done())
				}
				byKnex.wantList(n, 6, 0)
			})
		})
	}
}

// knexTables are Knex's tables and their rows, as a dump has them.
func (n *tenant) knexTables() string {
	n.t.Helper()
	var b strings.Builder
	switch n.Engine {
	case skein.PostgreSQL:
		for _, statement := range strings.Split(n.dump(), ";\n") {
			if strings.Contains(statement, "knex_migrations") {
				b.WriteString(statement + ";\n")
			}
		}
		return b.String()
	case skein.MySQL:
		for _, table := range []string{"knex_migrations", "knex_migrations_lock"} {
			b.WriteString(n.query("SHOW CREATE TABLE `" + table + "`")[0][1] + ";\n")
		}
	default:
		for _, row := range n.query("SELECT sql FROM sqlite_master WHERE name LIKE 'knex%' ORDER BY name") {
			b.WriteString(row[0] + ";\n")
		}
	}
	fmt.Fprintf(&b, "%q %s %s\n", n.knexRows(), n.locked(), n.value("SELECT count(*) FROM knex_migrations WHERE migration_time IS NOT NULL"))
	return normalize(b.String())
}

// slowKnexfile is for a Knex that stops when it has sent a statement which HANG
// matches, as often as the number before it says.
const slowKnexfile = `
const fs = require('fs');
let left = parseInt(process.env.HANG);
const slow = (name) => class extends require('knex/lib/dialects/' + name) {
  async _query(connection, query) {
    const answer = await super._query(connection, query);
    if (process.env.HANG && new RegExp(process.env.HANG.slice(2), 'i').test(query.sql) && --left === 0) {
      fs.writeFileSync('hanging', String(process.pid));
      await new Promise((r) => setTimeout(r, 60000));
    }
    return answer;
  }
};
const migrations = { directory: 'migrations/tenant' };
module.exports = {
  pg: { client: slow('postgres'), migrations },
  mysql: { client: slow('mysql2'), migrations },
  sqlite: { client: slow('better-sqlite3'), migrations, useNullAsDefault: true },
};
`

// A baseline that is killed, wherever, is there as a whole in the end.
func TestBaselineKilled(t *testing.T) {
	t.Parallel()
	for _, hang := range []string{"1 ^update", "2 ^insert into .knex_migrations. ", "1 ^commit"} {
		t.Run(hang, func(t *testing.T) {
			onEach(t, func(t *testing.T, n *tenant) {
				p := newProject(t, map[string]string{
					"knexfile.js":               slowKnexfile,
					"migrations/tenant/1_a.js":  up("a"),
					"migrations/tenant/2_b.sql": "-- migrate:up\nCREATE TABLE b (id int);\n",
					"migrations/tenant/3_c.js":  up("c"),
					"migrations/tenant/4_d.sql": "-- migrate:up\nCREATE TABLE d (id int);\n",
				}, nil)
				cmd := p.child(n, childJob{Baseline: "3"})
				cmd.Env = append(cmd.Env, "HANG="+hang)
				killWhen(t, cmd, filepath.Join(p.dir, "hanging"))
				wantGone(t, filepath.Join(p.dir, "hanging"))

				// What is seen of it is nothing that has happened by halves.
				h := history(t, n.Target)
				if slices.ContainsFunc(h.Records, func(r skein.Record) bool { return r.Partial() || !r.InKnex }) || len(h.KnexOpen) != 3 {
					t.Errorf("seen are %+v, with the notes %+v", h.Records, h.KnexOpen)
				}
				r := p.runner(nil)
				p.mustMigrate(r, n.Target, skein.PlanOptions{Baseline: "3"})
				h = history(t, n.Target)
				var names []string
				for _, record := range h.Records {
					if record.State != skein.Applied || record.Checksum == "" {
						t.Errorf("recorded is %+v", record)
					}
					names = append(names, record.Name)
				}
				slices.Sort(names)
				if !slices.Equal(names, []string{"1_a.js", "2_b.sql", "3_c.js"}) || len(h.KnexOpen) != 0 || n.locked() != "0" {
					t.Errorf("recorded are %q, left are the notes %v", names, h.KnexOpen)
				}
				if rows := n.knexRows(); len(rows) != 2 || !strings.HasSuffix(rows[0], " 1_a.js 1") || !strings.HasSuffix(rows[1], " 3_c.js 1") {
					t.Errorf("knex_migrations has %q", rows)
				}
				if got := p.mustMigrate(r, n.Target, skein.PlanOptions{}); !slices.Equal(got.done(), []string{"4_d.sql"}) || n.hasTable("a") || n.hasTable("b") {
					t.Errorf("the rest is %q", got.done())
				}
			})
		})
	}
}

// A migration that broke in its middle is settled in each of the ways.
func TestSettle(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{skein.PostgreSQL, skein.MySQL} {
		t.Run(engine, func(t *testing.T) {
			p := trap(t, `exports.config = { transaction: false };
exports.up = async (k) => {
  await k.schema.createTable('t', (t) => t.increments());
  await k('good').insert({ id: 5 });
};
exports.down = async (k) => {
  await k.schema.dropTable('t');
  await k.raw('drop table beside');
};
`)
			r := p.runner(nil)
			broken := func(opts skein.PlanOptions) *tenant {
				t.Helper()
				n := newTenant(t, engine)
				p.mustMigrate(r, n.Target, skein.PlanOptions{Steps: 1})
				if opts.Direction == skein.Down {
					p.mustMigrate(r, n.Target, skein.PlanOptions{})
				} else {
					n.exec("INSERT INTO good (id) VALUES (5)")
				}
				got := p.migrate(r, n.Target, opts)
				if e, ok := errors.AsType[*skein.StatementError](got.Err); !ok || !e.Partial {
					t.Fatalf("the error is %v", got.Err)
				}
				got = p.migrate(r, n.Target, skein.PlanOptions{})
				hint := skein.Hint(got.Err)
				for _, way := range []string{"--redo runs it again from its beginning", "--mark-applied", "--mark-reverted"} {
					if !strings.Contains(strings.ReplaceAll(hint, "--redo, which runs", "--redo runs"), way) {
						t.Errorf("the hint is %q, without %s", hint, way)
					}
				}
				return n
			}
			settle := func(n *tenant, how skein.Settlement) run {
				t.Helper()
				return p.migrate(r, n.Target, skein.PlanOptions{Settle: how})
			}

			n := broken(skein.PlanOptions{})
			got := settle(n, skein.Continue)
			if refused, ok := errors.AsType[*skein.RefusedError](got.Err); !ok || refused.Reason != skein.ReasonPartial || !strings.Contains(refused.Hint(), "--redo") {
				t.Errorf("going on: %v, %s", got.Err, skein.Hint(got.Err))
			}
			if got := settle(n, skein.Redo); got.Err == nil || !strings.Contains(got.Err.Error(), "already exists") || !partial(history(t, n.Target), "2_trap.js") {
				t.Errorf("again, with what stayed in the way: %v", got.Err)
			}
			n.exec("DROP TABLE t")
			n.exec("DELETE FROM good")
			if got := settle(n, skein.Redo); got.Err != nil || !slices.Equal(got.done(), []string{"2_trap.js"}) || n.value("SELECT count(*) FROM good") != "1" {
				t.Errorf("again: %q, %v", got.done(), got.Err)
			}
			wantRows(t, n, "1_good.js 1", "2_trap.js 2")

			n = broken(skein.PlanOptions{})
			if got := settle(n, skein.MarkApplied); got.Err != nil || n.value("SELECT count(*) FROM good") != "1" {
				t.Errorf("recorded as applied: %v", got.Err)
			}
			wantRows(t, n, "1_good.js 1", "2_trap.js 2")
			p.mustMigrate(r, n.Target, skein.PlanOptions{})
			n = broken(skein.PlanOptions{})
			if got := settle(n, skein.MarkReverted); got.Err != nil {
				t.Errorf("recorded as reverted: %v", got.Err)
			}
			wantRows(t, n, "1_good.js 1")

			n = broken(skein.PlanOptions{Direction: skein.Down, Steps: 1})
			if got := settle(n, skein.MarkApplied); got.Err != nil {
				t.Errorf("a down recorded as applied: %v", got.Err)
			}
			wantRows(t, n, "1_good.js 1", "2_trap.js 2")
			n = broken(skein.PlanOptions{Direction: skein.Down, Steps: 1})
			if got := settle(n, skein.MarkReverted); got.Err != nil || len(history(t, n.Target).Records) != 1 {
				t.Errorf("a down recorded as reverted: %v", got.Err)
			}
			wantRows(t, n, "1_good.js 1")
			n = broken(skein.PlanOptions{Direction: skein.Down, Steps: 1})
			n.exec("CREATE TABLE t (id int)")
			n.exec("CREATE TABLE beside (id int)")
			if engine == skein.PostgreSQL {
				n.exec("ALTER TABLE t OWNER TO " + n.User + "; ALTER TABLE beside OWNER TO " + n.User)
			}
			if got := settle(n, skein.Redo); got.Err != nil || n.hasTable("beside") {
				t.Errorf("a down again: %v", got.Err)
			}
			wantRows(t, n, "1_good.js 1")
		})
	}
}

func partial(h skein.History, name string) bool {
	return slices.ContainsFunc(h.Records, func(r skein.Record) bool { return r.Name == name && r.Partial() })
}

// wantRows checks the names and batches of Knex's rows, that its lock is free,
// and that Skein holds nothing for unfinished.
func wantRows(t *testing.T, n *tenant, want ...string) {
	t.Helper()
	var got []string
	for _, row := range n.knexRows() {
		_, row, _ = strings.Cut(row, " ")
		got = append(got, row)
	}
	if h := history(t, n.Target); !slices.Equal(got, want) || n.locked() != "0" || len(h.KnexOpen) > 0 {
		t.Errorf("knex_migrations has %q, want %q; the lock is %s, open are %v", got, want, n.locked(), h.KnexOpen)
	}
}
