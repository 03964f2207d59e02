package faulttest

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/dbtest"
	"github.com/skeinhq/skein/secret"
)

var (
	faultSeed  = flag.Uint64("fault.seed", 1, "what the seeded fault run makes its choices from")
	faultCount = flag.Int("fault.n", 20, "faults in the seeded fault run")
	faultKeep  = flag.Bool("fault.verbose", false, "tell each fault")
)

const (
	faultTenants   = 40 // half of them on each server
	faultsARound   = 20
	faultProcesses = 3
)

// TestSeeded is the fault run: several processes race to migrate all tenants
// while they are killed, interrupted, cut off, and their servers crash. Then all
// is run to its end, and each migration must have run once in each tenant. A
// round adds migrations, so that there is always something to do.
//
// The seed decides which faults there are, and roughly when. What they meet is
// left to the machine.
func TestSeeded(t *testing.T) {
	servers := startServers(t)
	r := &faultRun{t: t, rand: rand.New(rand.NewPCG(*faultSeed, 0)), servers: servers, counts: make(map[string]int)}
	r.prepare()
	start := time.Now()
	for r.faults < *faultCount && !t.Failed() {
		r.round()
	}
	t.Logf("seed %d: %d faults in %d rounds over %d tenants, %s: %s", *faultSeed, r.faults, r.rounds, faultTenants, time.Since(start).Round(time.Second), r.tally())
}

// testServers are a PostgreSQL and a MariaDB that belong to this test alone.
type testServers struct{ script, dir string }

func startServers(t *testing.T) testServers {
	t.Helper()
	script, err := filepath.Abs("../../scripts/servers")
	if err != nil {
		t.Fatal(err)
	}
	// Not in t.TempDir: the servers may run as an account that cannot reach that.
	dir, err := os.MkdirTemp("", "skein-fault-")
	if err != nil {
		t.Fatal(err)
	}
	s := testServers{script, dir}
	s.call(t, "start", dir)
	t.Cleanup(func() { s.call(t, "stop", dir) })
	env, err := os.ReadFile(filepath.Join(dir, "env"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(env)) {
		name, value, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(line, "export ")), "=")
		t.Setenv(name, value)
	}
	return s
}

func (s testServers) call(t *testing.T, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.script, args...)
	cmd.Dir = "/"
	var out bytes.Buffer
	// Files, as the servers that it starts have its output for as long as they run.
	file, err := os.CreateTemp(t.TempDir(), "servers")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	cmd.Stdout, cmd.Stderr = file, file
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(file.Name())
		out.Write(text)
		t.Fatalf("scripts/servers %s: %v\n%s", strings.Join(args, " "), err, out.String())
	}
}

type faultRun struct {
	t       *testing.T
	rand    *rand.Rand
	servers testServers
	kinds   []kind
	proxies map[string]*dbtest.Proxy // by kind
	targets map[string]skein.Target  // of the tenants, by slug
	of      map[string]kind          // likewise
	w       workspace

	changes []change
	rounds  int
	faults  int
	counts  map[string]int // faults by what they were, and what came of them

	mu  sync.Mutex
	cut map[string]dbtest.Trouble // what the next flight of a kind meets
}

func (r *faultRun) prepare() {
	t := r.t
	r.kinds = kinds(t)
	r.proxies, r.targets, r.of = make(map[string]*dbtest.Proxy), make(map[string]skein.Target), make(map[string]kind)
	r.cut = make(map[string]dbtest.Trouble)
	for _, k := range r.kinds {
		r.proxies[k.name] = dbtest.NewProxy(t, k.address(), func(dbtest.Flight) dbtest.Trouble {
			r.mu.Lock()
			defer r.mu.Unlock()
			trouble := r.cut[k.name]
			delete(r.cut, k.name)
			return trouble
		})
	}
	// Nothing is dropped: the servers go as a whole.
	const user, password = "skein_test_fault", "fault"
	r.kinds[0].server.Exec(t, "", "CREATE ROLE "+user+" LOGIN PASSWORD '"+password+"'")
	r.kinds[1].server.Exec(t, "", "CREATE USER "+user+" IDENTIFIED BY '"+password+"'")
	for i := range faultTenants {
		k := r.kinds[i%len(r.kinds)]
		slug := fmt.Sprintf("t%02d", i)
		database := "fault_" + slug
		if k.name == skein.PostgreSQL {
			k.server.Exec(t, "", "CREATE DATABASE "+database+" OWNER "+user+" TEMPLATE template0")
		} else {
			k.server.Exec(t, "", "CREATE DATABASE "+database+"; GRANT ALL ON "+database+".* TO "+user)
		}
		r.of[slug] = k
		r.targets[slug] = skein.Target{Engine: k.name, Host: "127.0.0.1", Port: r.proxies[k.name].Port(), Database: database, User: user, Password: secret.New(password)}
	}
	r.w = newWorkspace(t, r.targets, nil, r.kinds[0])
}

// addChanges adds the migrations of a round: one that is a transaction where that
// can be, and one that is not. All are SQL that both servers understand.
func (r *faultRun) addChanges() {
	first := []change{{fmt.Sprintf("%04d_x.sql", len(r.changes)+1), false, nil}, {fmt.Sprintf("%04d_y.sql", len(r.changes)+2), true, nil}}
	n := 10 * len(r.changes)
	if len(r.changes) == 0 {
		first[0].effects = []effect{{"table", rows}, {"row", "1"}}
	} else {
		first[0].effects = []effect{{"column", fmt.Sprintf("c%d", n)}, {"row", fmt.Sprint(n + 1)}}
	}
	first[1].effects = []effect{{"row", fmt.Sprint(n + 2)}, {"index", fmt.Sprintf("i%d", n)}, {"row", fmt.Sprint(n + 3)}, {"column", fmt.Sprintf("d%d", n)}}
	for _, c := range first {
		r.w.write(r.t, "migrations/tenant/"+c.name, c.file(r.kinds[0]))
	}
	r.changes = append(r.changes, first...)
}

// round makes some faults while several processes migrate, and then brings
// everything to its end.
func (r *faultRun) round() {
	r.rounds++
	r.addChanges()
	ctx, cancel := context.WithCancel(r.t.Context())
	var racing sync.WaitGroup
	processes := make([]chan os.Signal, faultProcesses)
	for i := range processes {
		processes[i] = make(chan os.Signal, 1)
		racing.Go(func() { r.race(ctx, processes[i]) })
	}
	for range min(faultsARound, *faultCount-r.faults) {
		time.Sleep(time.Duration(r.rand.IntN(300)) * time.Millisecond)
		r.fault(processes)
	}
	cancel()
	racing.Wait()
	r.settle()
}

// race migrates all tenants again and again, until the context ends.
func (r *faultRun) race(ctx context.Context, signals <-chan os.Signal) {
	for ctx.Err() == nil {
		cmd := r.w.command(context.WithoutCancel(ctx), "migrate", "--all", "--parallel", "6", "--json")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			r.t.Error(err)
			return
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = cmd.Wait() // what came of it is looked at in the end
		}()
	wait:
		for {
			select {
			case <-ended:
				break wait
			case s := <-signals:
				_ = cmd.Process.Signal(s) // it may have ended
			case <-ctx.Done():
				_ = cmd.Process.Kill()
				<-ended
				break wait
			}
		}
		if text := out.String(); strings.Contains(text, "panic:") || strings.Contains(text, "DATA RACE") {
			r.t.Errorf("a process fell over:\n%s", text)
		}
	}
}

// fault does some harm.
func (r *faultRun) fault(processes []chan os.Signal) {
	r.faults++
	k := r.kinds[r.rand.IntN(len(r.kinds))]
	n := r.rand.IntN(100)
	// Each round has a crash of each server.
	for i, at := range []int{7, 14} {
		if r.faults%faultsARound == at {
			k, n = r.kinds[i], 99
		}
	}
	what := ""
	switch {
	case n < 45:
		what = "killed"
		signal(processes[r.rand.IntN(len(processes))], syscall.SIGKILL)
	case n < 53:
		what = "interrupted"
		signal(processes[r.rand.IntN(len(processes))], syscall.SIGINT)
	case n < 83:
		trouble := []dbtest.Trouble{dbtest.Cut, dbtest.Halve, dbtest.Delay}[r.rand.IntN(3)]
		what = []string{"", "cut", "halved", "delayed"}[trouble]
		r.mu.Lock()
		r.cut[k.name] = trouble
		r.mu.Unlock()
	case n < 91:
		what = "all connections cut"
		r.proxies[k.name].CutAll()
	case n < 95:
		what = "session ended by an administrator"
		query := "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'skein%' LIMIT 1"
		if k.name == skein.MySQL {
			query = "SELECT id FROM information_schema.processlist WHERE user LIKE 'skein_test%' LIMIT 1"
		}
		found := k.server.Query(r.t, "", query)
		if k.name == skein.MySQL && len(found) > 0 {
			// It may be gone by now, which is no error of the test's.
			k.server.Exec(r.t, "", "BEGIN NOT ATOMIC DECLARE CONTINUE HANDLER FOR 1094 BEGIN END; KILL "+found[0][0]+"; END")
		}
	default:
		what = "server crashed"
		name := map[string]string{skein.PostgreSQL: "postgres", skein.MySQL: "mariadb"}[k.name]
		r.servers.call(r.t, "crash", r.servers.dir, name)
		time.Sleep(time.Duration(r.rand.IntN(1500)) * time.Millisecond)
		r.servers.call(r.t, "resume", r.servers.dir, name)
	}
	r.counts[what]++
	if *faultKeep {
		r.t.Logf("fault %d: %s (%s)", r.faults, what, k.name)
	}
}

func signal(process chan<- os.Signal, s os.Signal) {
	select {
	case process <- s:
	default: // it has one coming
	}
}

// settle does what is left to be done, as a person would: run the same command
// again, and look after the tenants in which a migration stopped.
func (r *faultRun) settle() {
	r.mu.Lock()
	clear(r.cut)
	r.mu.Unlock()
	out, code := "", 0
	for range 2 + len(r.changes) {
		if out, code = r.w.run(r.t, "migrate", "--all", "--json"); code == 0 {
			break
		}
		for line := range strings.Lines(out) {
			var tenant struct {
				Slug  string
				Error *struct{ Kind, Reason, Message string }
			}
			if json.Unmarshal([]byte(line), &tenant) != nil || tenant.Error == nil || tenant.Slug == "" {
				continue
			}
			if tenant.Error.Reason != string(skein.ReasonPartial) {
				r.t.Errorf("%s, with nothing in its way: %s", tenant.Slug, line)
				continue
			}
			if putRight(r.t, r.of[tenant.Slug], r.targets[tenant.Slug].Database, r.changes) {
				r.counts["put right by hand"]++
			}
			r.w.mustRun(r.t, "migrate", tenant.Slug, "--continue")
		}
	}
	if code != 0 {
		r.t.Errorf("it does not come to an end:\n%s", out)
	}
	for slug, target := range r.targets {
		wantWhole(r.t, r.of[slug], target.Database, r.changes)
	}
}

func (r *faultRun) tally() string {
	var parts []string
	for what, n := range r.counts {
		parts = append(parts, fmt.Sprintf("%d %s", n, what))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}
