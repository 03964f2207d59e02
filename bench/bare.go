package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
)

// The names of what is the limit.
const (
	whoBare     = "bare loop"
	whoBareKept = "bare loop, connections kept"
	whoPgbench  = "pgbench -C, trust"
)

// A bareLoop is the least that any tool has to do: the connections, statements and
// rows alone, in a process of its own. It is the limit that others are measured
// against.
type bareLoop struct {
	work       string
	migrations map[string][]migration // by engine
	atOnce     int
}

func (b *bareLoop) name() string { return whoBare }

func (b *bareLoop) parallel() int { return b.atOnce }

func (b *bareLoop) whole() bool { return b.atOnce > 1 }

func (b *bareLoop) steps(_ context.Context, f fleet, o operation, tenants []tenant) ([]step, error) {
	if o == opStatus || o == opVersion {
		return nil, nil
	}
	first, err := b.step(f, loopJob{Op: o, Tenants: tenants, Kept: tenants[0].Schema != ""})
	if err != nil {
		return nil, err
	}
	steps := []step{first}
	if o == opNothing && f.engine() == mysql {
		kept, err := b.step(f, loopJob{Op: o, Tenants: tenants, Kept: true})
		if err != nil {
			return nil, err
		}
		kept.who = whoBareKept
		steps = append(steps, kept)
	}
	if o == opNothing && f.name() == postgres && b.whole() {
		if program, ok := findPgbench(); ok {
			s, err := b.pgbench(program, f, tenants)
			if err != nil {
				return nil, err
			}
			steps = append(steps, s)
		}
	}
	return steps, nil
}

// step is a process that does a job.
func (b *bareLoop) step(f fleet, job loopJob) (step, error) {
	self, err := os.Executable()
	if err != nil {
		return step{}, fmt.Errorf("find this program: %w", err)
	}
	job.Engine, job.AtOnce, job.Migrations, job.Admin = f.engine(), b.atOnce, b.migrations[f.engine()], f.administrator()
	text, err := json.Marshal(job)
	if err != nil {
		return step{}, err
	}
	file := filepath.Join(b.work, fmt.Sprintf("loop-%s-%s-%d-%t.json", f.name(), job.Op, b.atOnce, job.Kept))
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return step{}, fmt.Errorf("write a job: %w", err)
	}
	return forAll("", len(job.Tenants), command{Args: []string{self, "loop", file}, Dir: b.work}), nil
}

// pgbench connects as often as there are tenants, without a password, each time to
// the first tenant's database, and runs the least query.
func (b *bareLoop) pgbench(program string, f fleet, tenants []tenant) (step, error) {
	t := tenants[0]
	each := (len(tenants) + b.atOnce - 1) / b.atOnce
	script := filepath.Join(b.work, "select.sql")
	if err := os.WriteFile(script, []byte("SELECT 1;\n"), 0o600); err != nil {
		return step{}, fmt.Errorf("write a script: %w", err)
	}
	args := []string{
		program, "--no-vacuum", "--connect", "--client", strconv.Itoa(b.atOnce), "--jobs", "2", "--transactions", strconv.Itoa(each),
		"--file", script, "--host", t.Host, "--port", strconv.Itoa(f.administrator().Port), "--username", trustRole, t.Database,
	}
	return forAll(whoPgbench, each*b.atOnce, command{Args: args, Env: []string{"PGSSLMODE=disable", "PGGSSENCMODE=disable"}, Dir: b.work}), nil
}

// findPgbench looks first where Debian keeps the program itself: the one on the PATH
// is a script there.
func findPgbench() (string, bool) {
	if found, err := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench"); err == nil && len(found) > 0 {
		return slices.MaxFunc(found, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) }), true
	}
	path, err := exec.LookPath("pgbench")
	return path, err == nil
}
