package knex_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/secret"
)

// childEnv tells the test binary that it is a Skein which is to be killed.
const childEnv = "SKEIN_TEST_KNEX_CHILD"

// A childJob is what such a Skein is to do.
type childJob struct {
	Dir      string
	Target   skein.Target
	Password string
	Down     bool
	Baseline string
}

// TestChild is not a test of its own: it is what TestSkeinKilled starts.
func TestChild(t *testing.T) {
	text := os.Getenv(childEnv)
	if text == "" {
		return
	}
	var job childJob
	if err := json.Unmarshal([]byte(text), &job); err != nil {
		t.Fatal(err)
	}
	job.Target.Password = secret.New(job.Password)
	opts := skein.PlanOptions{Baseline: job.Baseline}
	if job.Down {
		opts.Direction = skein.Down
	}
	p := &project{t: t, dir: job.Dir}
	p.migrate(p.runner(nil), job.Target, opts)
}

func (p *project) child(n *tenant, job childJob) *exec.Cmd {
	p.t.Helper()
	job.Dir, job.Target, job.Password = p.dir, n.Target, n.Password.Reveal()
	job.Target.Password = secret.Secret{}
	text, err := json.Marshal(job)
	if err != nil {
		p.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.CommandContext(p.t.Context(), self, "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), childEnv+"="+string(text), "HANG=1")
	return cmd
}

// A Skein that was killed in the middle of a Knex migration takes its worker
// with it. The next one knows that the lock which is left is nobody's, and what
// may be half done.
func TestSkeinKilled(t *testing.T) {
	t.Parallel()
	const hang = "  if (process.env.HANG) { require('fs').writeFileSync('hanging', String(process.pid)); await new Promise((r) => setTimeout(r, 60000)); }\n"
	tests := []struct {
		name, config string
		down         bool
		// partial is whether something of the migration may have stayed.
		partial func(engine string) bool
	}{
		{name: "in one transaction", partial: func(engine string) bool { return engine == skein.MySQL }},
		{name: "without a transaction", config: "exports.config = { transaction: false };\n", partial: func(string) bool { return true }},
		{name: "while it is reverted", down: true, partial: func(string) bool { return true }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			onEach(t, func(t *testing.T, n *tenant) {
				body := tt.config + "exports.up = async (k) => {\n  await k.schema.createTable('t', (t) => t.increments());\n  UP\n};\nexports.down = async (k) => {\n  DOWN\n  await k.schema.dropTable('t');\n};\n"
				if tt.down {
					body = strings.NewReplacer("  UP\n", "", "  DOWN\n", hang).Replace(body)
				} else {
					body = strings.NewReplacer("  UP\n", hang, "  DOWN\n", "").Replace(body)
				}
				p := trap(t, body)
				r := p.runner(nil)
				if tt.down {
					p.mustMigrate(r, n.Target, skein.PlanOptions{})
				}
				killWhen(t, p.child(n, childJob{Down: tt.down}), filepath.Join(p.dir, "hanging"))
				wantGone(t, filepath.Join(p.dir, "hanging"))

				direction := skein.Up
				if tt.down {
					direction = skein.Down
				}
				got := p.migrate(r, n.Target, skein.PlanOptions{Direction: direction})
				if n.locked() != "0" {
					t.Error("Knex's lock was not taken away")
				}
				if !tt.partial(n.Engine) {
					if got.Err != nil || len(got.Done) != 2 || !n.hasTable("t") {
						t.Errorf("the next Skein did %q: %v", got.done(), got.Err)
					}
					return
				}
				refused, ok := errors.AsType[*skein.RefusedError](got.Err)
				if !ok || refused.Reason != skein.ReasonPartial || len(refused.Names) != 1 || refused.Names[0] != "2_trap.js" {
					t.Errorf("the next Skein says %v", got.Err)
				}
				if h := history(t, n.Target); len(h.KnexOpen) != 1 {
					t.Errorf("open are %+v", h.KnexOpen)
				}
			})
		})
	}
}

// wantGone waits until the worker whose number a file holds is gone.
func wantGone(t *testing.T, file string) {
	t.Helper()
	pid, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for range 200 {
		// A process that nobody has waited for yet is one that has ended.
		stat, err := os.ReadFile(filepath.Join("/proc", string(pid), "stat"))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("the worker %s goes on after its Skein", pid)
}
