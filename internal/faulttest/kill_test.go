package faulttest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/dbtest"
)

// A Skein that is killed at any point leaves nothing that the next one, or a
// person, cannot finish.
func TestKilledAnywhere(t *testing.T) {
	for _, k := range kinds(t) {
		t.Run(k.name, func(t *testing.T) {
			whole := dbtest.NewProxy(t, k.address(), nil)
			target := k.newTarget(t, whole.Port())
			w := newWorkspace(t, map[string]skein.Target{"acme": target}, changes, k)
			w.mustRun(t, "migrate", "acme")
			wantWhole(t, k, target.Database, changes)
			points := make([]*point, whole.Flights()-1) // the last is the goodbye
			targets := make(map[string]skein.Target)
			for i := range points {
				points[i] = newPoint(t, k, i+1)
				targets[points[i].slug] = points[i].target
			}
			w = newWorkspace(t, targets, changes, k)
			for _, p := range points {
				t.Run(p.slug, func(t *testing.T) {
					t.Parallel()
					p.kill(t, k, w)
				})
			}
		})
	}
}

// A point is the moment at which a flight of a Skein at work on one tenant is
// about to be passed on: a request that the server then does not hear, or an
// answer that Skein does not.
type point struct {
	slug    string
	target  skein.Target
	reached chan string // what the flight says
	killed  chan struct{}
}

func newPoint(t *testing.T, k kind, number int) *point {
	p := &point{slug: fmt.Sprintf("flight-%d", number), reached: make(chan string, 1), killed: make(chan struct{})}
	var once atomic.Bool
	proxy := dbtest.NewProxy(t, k.address(), func(f dbtest.Flight) dbtest.Trouble {
		if f.Number != number || !once.CompareAndSwap(false, true) {
			return dbtest.Pass
		}
		p.reached <- fmt.Sprintf("answer %t, %.60q", f.Answer, f.Text)
		<-p.killed
		return dbtest.Cut
	})
	p.target = k.newTarget(t, proxy.Port())
	return p
}

// kill kills a Skein at the point, and wants the next, or a person, to bring
// everything to its end.
func (p *point) kill(t *testing.T, k kind, w workspace) {
	cmd := w.command(t.Context(), "migrate", p.slug)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var where string
	select {
	case where = <-p.reached:
	case <-time.After(time.Minute):
		t.Error("it does not come that far")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // it says that it was killed
	close(p.killed)

	out, code := w.run(t, "migrate", p.slug)
	if putRight(t, k, p.target.Database, changes) {
		if code != 1 || !strings.Contains(out, "--continue") {
			t.Errorf("of a migration that stopped is said, with exit code %d:\n%s", code, out)
		}
		w.mustRun(t, "migrate", p.slug, "--continue")
		w.mustRun(t, "migrate", p.slug)
	} else if code != 0 {
		t.Errorf("the next run ends with %d:\n%s", code, out)
	}
	wantWhole(t, k, p.target.Database, changes)
	if t.Failed() {
		t.Logf("killed at: %s", where)
	}
}

// A SQLite file has no conversation to listen to: it is left to chance when the
// process dies. Each migration writes enough for that to be in its middle.
func TestKilledInSQLite(t *testing.T) {
	const migrations, tries = 4, 16
	w := workspace{t.TempDir()}
	w.write(t, "skein.yaml", "limits: {lock_wait: 1m}\n")
	w.mustRun(t, "init")
	for i := range migrations {
		options, more := "", ""
		if i == 0 {
			more = "CREATE TABLE notes (n integer);\n"
		}
		if i%2 == 1 {
			options = " transaction:false"
		}
		w.write(t, fmt.Sprintf("migrations/tenant/%04d_x.sql", i+1), fmt.Sprintf("-- migrate:up%s\n%s"+
			"INSERT INTO notes (n) VALUES (%[3]d);\n"+
			"ALTER TABLE notes ADD COLUMN c%[3]d integer;\n"+
			"INSERT INTO notes (n) WITH RECURSIVE many(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM many WHERE n < 1500) SELECT 1000 * %[3]d FROM many;\n"+
			"INSERT INTO notes (n) VALUES (-%[3]d);\n", options, more, i+1))
	}
	var list strings.Builder
	for try := range tries {
		if err := os.WriteFile(filepath.Join(w.dir, fmt.Sprintf("t%d.db", try)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&list, "{\"slug\":\"t%[1]d\",\"url\":\"sqlite:t%[1]d.db\"}\n", try)
	}
	w.write(t, "tenants.jsonl", list.String())
	w.mustRun(t, "tenants", "import", "tenants.jsonl")
	start := time.Now()
	w.mustRun(t, "migrate", "t0")
	took := time.Since(start)
	var killed atomic.Int32
	t.Run("kill", func(t *testing.T) {
		for try := 1; try < tries; try++ {
			t.Run(fmt.Sprint(try), func(t *testing.T) {
				t.Parallel()
				slug := fmt.Sprintf("t%d", try)
				cmd := w.command(t.Context(), "migrate", slug)
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(took * time.Duration(try) / tries)
				_ = cmd.Process.Kill() // it may have ended
				if cmd.Wait() != nil {
					killed.Add(1)
				}
				for range migrations {
					out, code := w.run(t, "migrate", slug)
					if code == 0 {
						break
					}
					if !strings.Contains(out, "--continue") {
						t.Fatalf("the run after it was killed:\n%s", out)
					}
					// A statement and the record of it are one transaction: nobody has to look.
					w.mustRun(t, "migrate", slug, "--continue")
				}
				if _, err := os.Stat(filepath.Join(w.dir, slug+".db.skein-lock")); err == nil {
					t.Error("the lock's file is still there")
				}
			})
		}
	})
	if n := killed.Load(); n < tries/4 {
		t.Errorf("only %d of %d processes were killed before their end", n, tries-1)
	}
	wantSQLite(t, w, tries, migrations)
}
