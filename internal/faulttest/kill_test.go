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
			// The last is the goodbye.
			for number := 1; number < whole.Flights(); number++ {
				t.Run(fmt.Sprint(number), func(t *testing.T) {
					t.Parallel()
					killedAt(t, k, number)
				})
			}
		})
	}
}

// killedAt kills a Skein when flight number is about to be passed on: a request
// that the server then does not hear, or an answer that Skein does not.
func killedAt(t *testing.T, k kind, number int) {
	reached, killed := make(chan string, 1), make(chan struct{})
	var once atomic.Bool
	proxy := dbtest.NewProxy(t, k.address(), func(f dbtest.Flight) dbtest.Trouble {
		if f.Number != number || !once.CompareAndSwap(false, true) {
			return dbtest.Pass
		}
		reached <- fmt.Sprintf("answer %t, %.60q", f.Answer, f.Text)
		<-killed
		return dbtest.Cut
	})
	target := k.newTarget(t, proxy.Port())
	w := newWorkspace(t, map[string]skein.Target{"acme": target}, changes, k)
	cmd := w.command(t.Context(), "migrate", "acme")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var where string
	select {
	case where = <-reached:
	case <-time.After(time.Minute):
		t.Error("it does not come that far")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // it says that it was killed
	close(killed)

	out, code := w.run(t, "migrate", "acme")
	if putRight(t, k, target.Database, changes) {
		if code != 1 || !strings.Contains(out, "--continue") {
			t.Errorf("of a migration that stopped is said, with exit code %d:\n%s", code, out)
		}
		w.mustRun(t, "migrate", "acme", "--continue")
		w.mustRun(t, "migrate", "acme")
	} else if code != 0 {
		t.Errorf("the next run ends with %d:\n%s", code, out)
	}
	wantWhole(t, k, target.Database, changes)
	if t.Failed() {
		t.Logf("killed at flight %d: %s", number, where)
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
			"INSERT INTO notes (n) WITH RECURSIVE many(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM many WHERE n < 5000) SELECT 1000 * %[3]d FROM many;\n"+
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
