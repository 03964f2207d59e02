package knex_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/knex"
)

// trap is a project with one good migration and then one that does something.
func trap(t *testing.T, body string) *project {
	t.Helper()
	return newProject(t, map[string]string{
		"knexfile.js":                 knexfile(t),
		"migrations/tenant/1_good.js": up("good"),
		"migrations/tenant/2_trap.js": body,
	}, nil)
}

// wantBroken checks that a run ended at a line of the second migration, in
// words.
func wantBroken(t *testing.T, got run, line int, words ...string) *skein.StatementError {
	t.Helper()
	e, ok := errors.AsType[*skein.StatementError](got.Err)
	if !ok {
		t.Fatalf("the error is %v, and not one of a migration", got.Err)
	}
	if e.Migration != "2_trap.js" || e.Line != line || !strings.HasSuffix(e.Path, "2_trap.js") {
		t.Errorf("the error is at %s, %s:%d, and not at line %d of 2_trap.js", e.Migration, e.Path, e.Line, line)
	}
	for _, word := range words {
		if !strings.Contains(e.Error(), word) {
			t.Errorf("the error is %q, without %q", e, word)
		}
	}
	return e
}

// Each of these is one tenant's failure: the database has nothing of the batch
// where it can be one transaction, and the runner goes on with the next tenant.
func TestTraps(t *testing.T) {
	t.Parallel()
	traps := []struct {
		name    string
		body    string
		line    int
		words   []string
		hint    string
		timeout time.Duration
	}{
		{name: "process.exit", body: `exports.up = async (k) => {
  await k.schema.createTable('t', (t) => t.increments());
  process.exit(0);
};`, line: 3, words: []string{"process.exit(0)"}, hint: "take the call out"},
		{name: "process.abort", body: `exports.up = async (k) => {
  await k.schema.createTable('t', (t) => t.increments());
  process.abort();
};`, line: 3, words: []string{"process.abort()"}},
		{name: "unhandled rejection", body: `exports.up = async (k) => {
  await k.schema.createTable('t', (t) => t.increments());
  Promise.reject(new TypeError('nobody waits'));
  await new Promise((r) => setTimeout(r, 20000));
};`, line: 3, words: []string{"nobody waited for it", "TypeError: nobody waits"}, hint: "await"},
		{name: "uncaught exception", body: `exports.up = async (k) => {
  await k.schema.createTable('t', (t) => t.increments());
  setTimeout(() => {
    throw new Error('from a timer');
  }, 10);
  await new Promise((r) => setTimeout(r, 20000));
};`, line: 4, words: []string{"from a timer"}},
		{name: "killed", body: `exports.up = async (k) => {
  await k.schema.createTable('t', (t) => t.increments());
  process.kill(process.pid, 'SIGKILL');
  await new Promise((r) => setTimeout(r, 20000));
};`, words: []string{"Node process ended", "killed"}},
		{name: "a promise that never ends", body: `exports.up = async (k) => {
  await k.schema.createTable('t', (t) => t.increments());
  await new Promise(() => {});
};`, words: []string{"longer than 1s"}, hint: "never settles", timeout: time.Second},
		{name: "a loop that never ends", body: `exports.up = async (k) => {
  await k.schema.createTable('t', (t) => t.increments());
  for (;;);
};`, words: []string{"longer than 1s"}, timeout: time.Second},
		{name: "throws", body: `exports.up = async (k) => {
  await k.schema.createTable('t', (t) => t.increments());
  throw new RangeError('no good');
};`, line: 3, words: []string{"RangeError: no good"}},
		{name: "throws what is no error", body: `exports.up = async (k) => {
  await k.schema.createTable('t', (t) => t.increments());
  throw { reason: 'x' };
};`, words: []string{"it threw { reason: 'x' }"}},
		{name: "throws nothing", body: `exports.up = async (k) => {
  await k.schema.createTable('t', (t) => t.increments());
  throw undefined;
};`, words: []string{"undefined"}},
	}
	// One runner goes from trap to trap: starting Node takes longest here.
	runners := make(map[time.Duration]*knex.Runner)
	first := trap(t, "")
	for _, trapped := range traps {
		r := runners[trapped.timeout]
		if r == nil {
			r = first.runner(&knex.Options{Workers: 1, Timeout: trapped.timeout})
			runners[trapped.timeout] = r
		}
		t.Run(trapped.name, func(t *testing.T) {
			p := trap(t, trapped.body+"\nexports.down = () => {};\n")
			onEach(t, func(t *testing.T, n *tenant) {
				got := p.migrate(r, n.Target, skein.PlanOptions{})
				e := wantBroken(t, got, trapped.line, trapped.words...)
				if trapped.hint != "" && !strings.Contains(skein.Hint(got.Err), trapped.hint) {
					t.Errorf("the hint is %q", skein.Hint(got.Err))
				}
				h := history(t, n.Target)
				if n.Engine == skein.MySQL {
					// What changes the schema is committed by itself.
					if !n.hasTable("t") || !n.hasTable("good") || !e.Partial || len(got.Done) != 1 {
						t.Errorf("the tables are %q, Partial is %t, done are %q", n.tables(), e.Partial, got.done())
					}
					if len(h.Records) != 2 || h.Records[0].Partial() || !h.Records[1].Partial() {
						t.Errorf("recorded is %+v", h.Records)
					}
				} else {
					if n.hasTable("t") || n.hasTable("good") || e.Partial || len(got.Done) != 0 || !slices.Equal(e.Undone, []string{"1_good.js"}) {
						t.Errorf("the tables are %q, Partial is %t, done are %q, undone %q", n.tables(), e.Partial, got.done(), e.Undone)
					}
					if len(h.Records) != 0 || h.KnexLocked || len(h.KnexOpen) != 0 {
						t.Errorf("recorded is %+v", h)
					}
				}
				// The next tenant is none the worse for it.
				next := newTenant(t, n.Engine)
				p2 := p.with("migrations/tenant/2_trap.js", up("t"))
				if got := p2.mustMigrate(r, next.Target, skein.PlanOptions{}); len(got.Done) != 2 || !next.hasTable("t") {
					t.Errorf("in the next tenant %q were done", got.done())
				}
			})
		})
	}
}

// with is another project that is the same but for one file.
func (p *project) with(path, text string) *project {
	p.t.Helper()
	files := map[string]string{path: text}
	for _, other := range []string{"knexfile.js", "migrations/tenant/1_good.js"} {
		text, err := os.ReadFile(filepath.Join(p.dir, other))
		if err != nil {
			p.t.Fatal(err)
		}
		files[other] = string(text)
	}
	return newProject(p.t, files, nil)
}

// A migration that hangs in a query is ended at the server too.
func TestTimeoutEndsTheQuery(t *testing.T) {
	t.Parallel()
	for engine, sleep := range map[string]string{skein.PostgreSQL: "select pg_sleep(100)", skein.MySQL: "select sleep(100)"} {
		t.Run(engine, func(t *testing.T) {
			n := newTenant(t, engine)
			p := trap(t, "exports.up = async (k) => {\n  await k.raw('"+sleep+"');\n};\nexports.down = () => {};\n")
			start := time.Now()
			got := p.migrate(p.runner(&knex.Options{Workers: 1, Timeout: time.Second}), n.Target, skein.PlanOptions{})
			_ = wantBroken(t, got, 0, "longer than 1s")
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("it took %s", took)
			}
			wantNoSleep(t, n)
		})
	}
}

func wantNoSleep(t *testing.T, n *tenant) {
	t.Helper()
	query := "SELECT count(*) FROM pg_stat_activity WHERE datname = '" + n.Database + "' AND query LIKE '%pg_sleep(100)%' AND pid <> pg_backend_pid()"
	if n.Engine == skein.MySQL {
		query = "SELECT count(*) FROM information_schema.processlist WHERE db = '" + n.Database + "' AND info LIKE '%sleep(100)%' AND id <> connection_id()"
	}
	if left := n.value(query); left != "0" {
		t.Errorf("%s queries are still running", left)
	}
}

func TestCancelEndsTheQuery(t *testing.T) {
	t.Parallel()
	for engine, sleep := range map[string]string{skein.PostgreSQL: "select pg_sleep(100)", skein.MySQL: "select sleep(100)"} {
		t.Run(engine, func(t *testing.T) {
			n := newTenant(t, engine)
			p := trap(t, "exports.up = async (k) => {\n  console.log('sleeping');\n  await k.raw('"+sleep+"');\n};\nexports.down = () => {};\n")
			e := engineFor(n.Target)
			session, err := e.Open(t.Context(), n.Target)
			if err != nil {
				t.Fatal(err)
			}
			defer session.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			m := skein.NewMigrator(e, p.set(), 0).WithKnex(p.runner(nil))
			got := m.Migrate(ctx, session, skein.Tenant{Target: n.Target}, skein.PlanOptions{}, nil, func(e skein.Event) {
				if e.Type == skein.MigrationOutput {
					cancel()
				}
			})
			if !errors.Is(got.Err, context.Canceled) {
				t.Errorf("the error is %v", got.Err)
			}
			wantNoSleep(t, n)
			h := history(t, n.Target)
			if partial := len(h.Records) > 0 && h.Records[len(h.Records)-1].Partial(); partial != (engine == skein.MySQL) {
				t.Errorf("recorded is %+v", h.Records)
			}
		})
	}
}

// What a migration prints is its tenant's, whatever it is.
func TestOutput(t *testing.T) {
	t.Parallel()
	p := trap(t, `const { execSync } = require('child_process');
console.log('loaded');
exports.up = async (k) => {
  console.log('one'); console.error('two');
  process.stdout.write('{"t":"done"}\n\x01{"t":"done"}\n');
  require('fs').writeSync(4, '{"t":"done","names":[]}\n');
  process.stdout.write('no end of line');
  execSync('echo from a child', { stdio: 'inherit' });
  console.log('\nafter an empty line\n');
  await k.schema.createTable('t', (t) => t.increments());
  console.log('x'.repeat(200000));
};
exports.down = () => {};
`)
	n := newTenant(t, skein.SQLite)
	r := p.runner(nil)
	got := p.mustMigrate(r, n.Target, skein.PlanOptions{})
	out := got.output()
	for _, line := range []string{"loaded", "one", "two", `{"t":"done"}`, "no end of linefrom a child", "after an empty line"} {
		if !slices.Contains(strings.Split(out, "\n"), line) {
			t.Errorf("the line %q is missing in %.500q", line, out)
		}
	}
	if c := strings.Count(out, "x"); c < 200000 {
		t.Errorf("of a long line %d characters came", c)
	}
	for _, e := range got.events {
		if e.Type == skein.MigrationOutput && e.Output == "one" && (e.Migration == nil || e.Migration.Name != "2_trap.js" || e.Direction != skein.Up) {
			t.Errorf("the line is told as that of %v", e.Migration)
		}
	}
	// The module is loaded once, and the next tenant's output is its own.
	again := p.mustMigrate(r, newTenant(t, skein.SQLite).Target, skein.PlanOptions{}).output()
	if strings.Contains(again, "loaded") || strings.Count(again, "one\n") != 1 {
		t.Errorf("the next tenant's output is %.300q", again)
	}
}

// A tenant's migrations find the world as the first tenant's did.
func TestNothingIsLeftForTheNextTenant(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]string{
		"a global":                     "if (global.seen) throw new Error('seen'); global.seen = true;",
		"a changed prototype":          "if (Array.prototype.seen) throw new Error('seen'); Array.prototype.seen = () => 1; delete Array.prototype.at;",
		"a replaced function":          "if (JSON.seen) throw new Error('seen'); const s = JSON.stringify; JSON.stringify = (...a) => s(...a); JSON.stringify.seen = JSON.seen = true;",
		"the working directory":        "if (!require('fs').existsSync('knexfile.js')) throw new Error('seen'); process.chdir('/');",
		"the environment":              "if (process.env.SEEN) throw new Error('seen'); process.env.SEEN = '1'; delete process.env.PATH;",
		"a timer":                      "setInterval(() => {}, 1000);",
		"a listening socket":           "await new Promise((r) => require('net').createServer().listen(0, '127.0.0.1', r));",
		"a connection of its own":      "const own = require('knex')({ client: 'pg', connection: k.client.config.connection }); await own.raw('select 1');",
		"an open transaction":          "const own = require('knex')({ client: 'pg', connection: k.client.config.connection }); const trx = await own.transaction(); await trx.raw('create table left_open (id int)');",
		"a console that says no more":  "if (console.seen) throw new Error('seen'); console.seen = true; console.log = () => {};",
		"a process that cannot report": "if (process.seen) throw new Error('seen'); process.seen = true; require('fs').writeSync = () => { throw new Error('no'); };",
	} {
		t.Run(name, func(t *testing.T) {
			p := trap(t, "exports.up = async (k) => {\n  "+change+"\n  console.log('here');\n};\nexports.down = () => {};\n")
			r := p.runner(nil)
			engine := skein.SQLite
			if strings.Contains(change, "'pg'") {
				engine = skein.PostgreSQL
			}
			for range 2 {
				n := newTenant(t, engine)
				if got := p.mustMigrate(r, n.Target, skein.PlanOptions{}); len(got.Done) != 2 {
					t.Errorf("done are %q", got.done())
				}
			}
		})
	}
}

// The same worker serves all tenants while nothing is wrong.
func TestOneWorker(t *testing.T) {
	t.Parallel()
	p := trap(t, "exports.up = async (k) => {\n  console.log('worker', process.pid);\n};\nexports.down = () => {};\n")
	r := p.runner(nil)
	workers := make(map[string]bool)
	for range 4 {
		for _, engine := range []string{skein.PostgreSQL, skein.MySQL, skein.SQLite} {
			workers[p.mustMigrate(r, newTenant(t, engine).Target, skein.PlanOptions{}).output()] = true
		}
	}
	if len(workers) != 1 {
		t.Errorf("there were %d workers: %v", len(workers), workers)
	}
	// One that has grown is replaced.
	small := p.runner(&knex.Options{Workers: 1, Memory: 1 << 20})
	for range 2 {
		workers[p.mustMigrate(small, newTenant(t, skein.SQLite).Target, skein.PlanOptions{}).output()] = true
	}
	if len(workers) != 3 {
		t.Errorf("of workers that are too large there were %d", len(workers)-1)
	}
}

// config.transaction, and Knex within knex.transaction, are as under Knex.
func TestWithoutTransaction(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, n *tenant) {
		beside := "await k('t').insert({ v: 2 });" // on a second connection, while the first is in a transaction
		if n.Engine == skein.SQLite {
			beside = "await trx('t').insert({ v: 2 });"
		}
		p := trap(t, `exports.config = { transaction: false };
exports.up = async (k) => {
  await k.schema.createTable('t', (t) => { t.increments(); t.integer('v'); });
  await k.transaction(async (trx) => {
    await trx('t').insert({ v: 1 });
    `+beside+`
  });
  await k.raw('select ? as x', [1]);
};
exports.down = (k) => k.schema.dropTable('t');
`)
		r := p.runner(nil)
		got := p.mustMigrate(r, n.Target, skein.PlanOptions{})
		if len(got.Done) != 2 || n.value("SELECT count(*) FROM t") != "2" {
			t.Errorf("done are %q", got.done())
		}
		if n.locked() != "0" {
			t.Error("Knex's lock is set")
		}
		// The first stays when the second breaks.
		broken := trap(t, "exports.config = { transaction: false };\nexports.up = async (k) => {\n  await k.schema.createTable('t', (t) => t.increments());\n  await k.raw('select * from nowhere');\n};\nexports.down = () => {};\n")
		next := newTenant(t, n.Engine)
		got = broken.migrate(r, next.Target, skein.PlanOptions{})
		e := wantBroken(t, got, 4, "nowhere")
		if !e.Partial || e.Statement != "select * from nowhere" || !slices.Equal(got.done(), []string{"1_good.js"}) {
			t.Errorf("Partial is %t, the statement %q, done are %q", e.Partial, e.Statement, got.done())
		}
		h := history(t, next.Target)
		if last := h.Records[len(h.Records)-1]; last.Name != "2_trap.js" || !last.Partial() || last.Done != 1 || last.Total != 2 {
			t.Errorf("recorded is %+v", last)
		}
	})
}

// An error says which line, which statement, and what the database said, and
// nothing of the values in it.
func TestErrorOfTheDatabase(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, n *tenant) {
		p := trap(t, `exports.up = async (k) => {
  await k.schema.createTable('t', (t) => { t.integer('id').primary(); t.string('v'); });
  const rows = [{ id: 1, v: 'hidden value' }, { id: 1, v: 'hidden value' }];
  for (const row of rows) {
    await k('t').insert(row);
  }
};
exports.down = () => {};
`)
		got := p.migrate(p.runner(nil), n.Target, skein.PlanOptions{})
		e := wantBroken(t, got, 5)
		database, ok := errors.AsType[*skein.DatabaseError](e)
		if !ok {
			t.Fatalf("the error is %v", e)
		}
		code := map[string]string{skein.PostgreSQL: "23505", skein.MySQL: "1062", skein.SQLite: "SQLITE_CONSTRAINT_PRIMARYKEY"}[n.Engine]
		if database.Code != code || database.Class != skein.Permanent {
			t.Errorf("the code is %q of the class %q", database.Code, database.Class)
		}
		if !strings.HasPrefix(e.Statement, "insert into") || strings.Contains(e.Statement, "hidden") {
			t.Errorf("the statement is %q", e.Statement)
		}
		if text := fmt.Sprintf("%v %+v %+v", got.Err, e, database); strings.Contains(text, "hidden value") || strings.Contains(text, "insert into") && !strings.Contains(text, e.Statement) {
			t.Errorf("the error shows values: %s", text)
		}
	})
}

func TestErrorOfTheConnection(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{skein.PostgreSQL, skein.MySQL} {
		n := newTenant(t, engine)
		p := trap(t, up("t"))
		r := p.runner(nil)
		run := skein.KnexRun{
			Steps: p.set().All(), Direction: skein.Up,
			Begin:     func(context.Context, []*skein.Migration, bool) error { return nil },
			Started:   func(*skein.Migration) {},
			Output:    func(*skein.Migration, string) {},
			Terminate: func(context.Context, []string) error { return nil },
		}
		wrong := n.Target
		wrong.User = "nobody"
		_, err := r.Run(t.Context(), wrong, run)
		if skein.ErrorClass(err) != skein.Denied || strings.Contains(err.Error(), n.Password.Reveal()) {
			t.Errorf("%s: a wrong user is %v of the class %s", engine, err, skein.ErrorClass(err))
		}
		away := n.Target
		away.Port = 1
		if _, err := r.Run(t.Context(), away, run); skein.ErrorClass(err) != skein.Unreachable {
			t.Errorf("%s: a server that is not there is %v of the class %s", engine, err, skein.ErrorClass(err))
		}
	}
}

// A note that cannot be written keeps the migration from running.
func TestRefusedBegin(t *testing.T) {
	t.Parallel()
	for _, transaction := range []string{"true", "false"} {
		onEach(t, func(t *testing.T, n *tenant) {
			p := trap(t, "exports.config = { transaction: "+transaction+" };\n"+up("t"))
			refusal := errors.New("the lock is lost")
			r := p.runner(nil)
			_, err := r.Run(t.Context(), n.Target, skein.KnexRun{
				Steps: p.set().All(), Direction: skein.Up,
				Begin:     func(context.Context, []*skein.Migration, bool) error { return refusal },
				Started:   func(*skein.Migration) { t.Error("it began") },
				Output:    func(*skein.Migration, string) {},
				Terminate: func(context.Context, []string) error { return nil },
			})
			if !errors.Is(err, refusal) {
				t.Errorf("the error is %v", err)
			}
			if n.hasTable("good") || n.hasTable("t") {
				t.Error("something ran")
			}
		})
	}
}

// Statements with question marks, helpers beside the migrations, files read by
// relative paths, and a data migration that reads and writes: all as under Knex.
func TestUnchangedMigrations(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, n *tenant) {
		p := newProject(t, map[string]string{
			"knexfile.js":  knexfile(t),
			"lib/slug.js":  "module.exports = (s) => s.toLowerCase().replace(/ /g, '-');",
			"sql/view.sql": "create view names as select name from people",
			"migrations/tenant/1_people.js": `exports.up = async (knex) => {
  await knex.schema.createTable('people', (t) => { t.increments(); t.string('name'); });
  await knex('people').insert([{ name: 'Ann Lee' }, { name: 'Bo Ek' }]);
};
exports.down = (knex) => knex.schema.dropTable('people');`,
			"migrations/tenant/2_slugs.js": `const fs = require('fs');
const slug = require('../../lib/slug');
exports.up = async function (knex) {
  await knex.schema.alterTable('people', (t) => t.string('slug'));
  for (const p of await knex('people').select('id', 'name')) {
    await knex('people').where({ id: p.id }).update({ slug: slug(p.name) });
  }
  if (!(await knex.schema.hasColumn('people', 'slug'))) throw new Error('no column');
  await knex.raw(fs.readFileSync('./sql/view.sql', 'utf8'));
  await knex.raw("update people set name = ? where name = 'Bo Ek'", ['Bo \\? Ek']);
};
exports.down = async (knex) => {
  await knex.raw('drop view names');
  await knex.schema.alterTable('people', (t) => t.dropColumn('slug'));
};`,
		}, nil)
		alone := newTenant(t, n.Engine)
		p.byKnex(alone, "latest")
		p.mustMigrate(p.runner(nil), n.Target, skein.PlanOptions{})
		for _, query := range []string{"SELECT id, name, slug FROM people ORDER BY id", "SELECT name FROM names ORDER BY name"} {
			if got, want := fmt.Sprint(n.query(query)), fmt.Sprint(alone.query(query)); got != want {
				t.Errorf("%s: %s, and under Knex %s", query, got, want)
			}
		}
		if got := n.value("SELECT slug FROM people WHERE id = 1"); got != "ann-lee" {
			t.Errorf("the data migration has written %q", got)
		}
	})
}

// A migration that has only looked when it fails has left nothing, even where
// there is no transaction that could be undone.
func TestReadingChangesNothing(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, n *tenant) {
		p := trap(t, `exports.config = { transaction: false };
exports.up = async (k) => {
  if (await k.schema.hasTable('t')) return;
  if (await k('good').first()) return;
  throw new Error('not here');
};
exports.down = () => {};
`)
		got := p.migrate(p.runner(nil), n.Target, skein.PlanOptions{})
		if e := wantBroken(t, got, 5, "not here"); e.Partial || partial(history(t, n.Target), "2_trap.js") {
			t.Error("it is recorded as partial")
		}
	})
}

// A process that a migration leaves behind, with the worker's output as its own,
// keeps nobody waiting.
func TestChildLivesOn(t *testing.T) {
	t.Parallel()
	n := newTenant(t, skein.SQLite)
	p := trap(t, `const { spawn } = require('child_process');
exports.up = async () => { spawn('sleep', ['60'], { detached: true, stdio: 'inherit' }).unref(); };
exports.down = () => {};
`)
	r := knex.New(&knex.Options{Dir: p.dir})
	ended := make(chan error)
	go func() {
		got := p.migrate(r, n.Target, skein.PlanOptions{})
		ended <- errors.Join(got.Err, r.Close())
	}()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("it waits for the child")
	}
}

// What ends the process while the files are loaded is told with how it ended.
func TestKilledWhileLoading(t *testing.T) {
	t.Parallel()
	n := newTenant(t, skein.SQLite)
	p := trap(t, "console.error('about to go');\nprocess.kill(process.pid, 'SIGKILL');\n")
	r := p.runner(nil)
	got := p.migrate(r, n.Target, skein.PlanOptions{})
	if got.Err == nil || !strings.Contains(got.Err.Error(), "signal: killed") {
		t.Errorf("the error is %v", got.Err)
	}
}
