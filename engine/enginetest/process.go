package enginetest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/secret"
)

// childEnv is set in the environment of a test binary that the suite started.
const childEnv = "SKEIN_ENGINETEST_CHILD"

// An order is what a child is to do. It is sent to its standard input, since it
// holds a password.
type order struct {
	Do       string // one of the names below
	Target   skein.Target
	Password string
}

const (
	doMigrate  = "migrate"   // run what is pending of raceSet
	doLock     = "lock"      // take the lock, and keep it
	doSlow     = "slow"      // take the lock, and apply the slow migration
	doSlowBare = "slow-bare" // likewise, without a transaction
	doDieAt    = "die "      // run what is pending of raceSet, and be killed at a point
)

// Lines that children write begin with this; the testing package writes others.
const childLine = "enginetest: "

func child(t *testing.T, c Config) {
	s := &suite{Config: c}
	var o order
	input := json.NewDecoder(os.Stdin)
	if err := input.Decode(&o); err != nil {
		t.Fatalf("read the order: %v", err)
	}
	o.Target.Password = secret.New(o.Password)
	say := func(format string, args ...any) { fmt.Printf(childLine+format+"\n", args...) }

	e := s.engine()
	point, dies := strings.CutPrefix(o.Do, doDieAt)
	if dies {
		say("ready") // one that dies may not come any further
		e = mortal{e, point}
	}
	session := s.open(t, e, o.Target)
	if o.Do == doMigrate || dies {
		if !dies {
			say("ready")
		}
		var begin bool
		if err := input.Decode(&begin); err != nil {
			t.Fatalf("wait for the others: %v", err)
		}
		r := s.race(t, e, session, o.Target)
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		say("%d", len(r.Done))
		return
	}

	// The end of the input is the end of whoever gave the order.
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	lock(t, session)
	say("ready")
	switch o.Do {
	case doSlow:
		apply(t, e, session, s.slow(), skein.Up, 1)
	case doSlowBare:
		apply(t, e, session, noTransaction(s.slow()), skein.Up, 1)
	}
	select {}
}

// A process is a child that was started.
type process struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan string // what it says, until its end
	rest  strings.Builder
}

// start gives a child its order, and waits until it is ready.
func (s *suite) start(t *testing.T, target skein.Target, do string) *process {
	t.Helper()
	// Parts of a test's name may be any text; -test.run takes expressions.
	parts := strings.Split(s.test, "/")
	for i, part := range parts {
		parts[i] = "^" + regexp.QuoteMeta(part) + "$"
	}
	p := &process{
		cmd:   exec.CommandContext(t.Context(), os.Args[0], "-test.run="+strings.Join(parts, "/"), "-test.count=1"),
		lines: make(chan string, 16),
	}
	p.cmd.Env = append(os.Environ(), childEnv+"=1")
	p.cmd.Stderr = &p.rest
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(p.lines)
		for scanner := bufio.NewScanner(stdout); scanner.Scan(); {
			if line, ok := strings.CutPrefix(scanner.Text(), childLine); ok {
				p.lines <- line
			}
		}
	})
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended, which is as good
		for range p.lines {
		}
		reading.Wait()
		_ = p.cmd.Wait()
	})
	o := order{Do: do, Target: target, Password: target.Password.Reveal()}
	o.Target.Password = secret.Secret{} // which JSON would write and not read
	p.send(t, o)
	if line := p.read(t); line != "ready" {
		t.Fatalf("the child says %q", line)
	}
	return p
}

func (p *process) send(t *testing.T, value any) {
	t.Helper()
	if err := json.NewEncoder(p.stdin).Encode(value); err != nil {
		t.Fatalf("tell the child: %v", err)
	}
}

func (p *process) read(t *testing.T) string {
	t.Helper()
	select {
	case line, ok := <-p.lines:
		if !ok {
			t.Fatalf("the child ended: %s", p.rest.String())
		}
		return line
	case <-time.After(time.Minute):
		t.Fatal("the child says nothing")
		return ""
	}
}

// kill ends the process as a machine that loses power does, and waits until it
// is gone.
func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for range p.lines {
	}
}

// raceSet is what the runners of a race want to run. Of a migration that is run
// twice, the second run fails or shows in the table.
func (s *suite) raceSet(t *testing.T) *skein.Set {
	t.Helper()
	set, err := skein.NewSet([]*skein.Migration{
		migration("1.sql", table("one")+";\nINSERT INTO one VALUES (1, 'one')", ""),
		migration("2.sql", "UPDATE one SET note = 'two' WHERE note = 'one'", ""),
		noTransaction(migration("3.sql", table("three")+";\nINSERT INTO three VALUES (1, 'one')", "")),
	})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func (s *suite) race(t *testing.T, e skein.Engine, session skein.Session, target skein.Target) skein.Result {
	migrator := skein.NewMigrator(e, s.raceSet(t), time.Minute)
	return migrator.Migrate(t.Context(), session, skein.Tenant{ID: "1", Target: target}, skein.PlanOptions{}, nil, func(skein.Event) {})
}

const runners = 5

// wantOneWinner wants one runner to have done everything and the others nothing.
func (s *suite) wantOneWinner(t *testing.T, target skein.Target, done []string) {
	t.Helper()
	winners := 0
	for _, d := range done {
		switch d {
		case "3":
			winners++
		case "0":
		default:
			t.Errorf("a runner did %s migrations", d)
		}
	}
	if winners != 1 {
		t.Errorf("%d of %d runners applied the migrations", winners, len(done))
	}
	s.wantRaceDone(t, target)
}

// wantRaceDone wants each migration of the race to have run once.
func (s *suite) wantRaceDone(t *testing.T, target skein.Target) {
	t.Helper()
	records := s.records(t, target)
	for _, name := range []string{"1.sql", "2.sql", "3.sql"} {
		if records[name].State != skein.Applied {
			t.Errorf("%s is recorded as %+v", name, records[name])
		}
	}
	if rows := s.Query(t, target, "SELECT note FROM one"); len(rows) != 1 || rows[0][0] != "two" {
		t.Errorf("the rows are %q", rows)
	}
}

var raceTests = []namedTest{
	{"Sessions", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		e := s.engine()
		begin := make(chan struct{})
		done := make([]string, runners)
		var running sync.WaitGroup
		for i := range runners {
			session := s.open(t, e, target)
			running.Go(func() {
				<-begin
				r := s.race(t, e, session, target)
				if r.Err != nil {
					t.Error(r.Err)
				}
				done[i] = fmt.Sprint(len(r.Done))
			})
		}
		close(begin)
		running.Wait()
		s.wantOneWinner(t, target, done)
	}},

	{"UnderWay", func(t *testing.T, s *suite) {
		// Somebody else is in the middle of a migration that is no transaction.
		// That is a reason to wait, and not a migration that broke.
		target := s.NewTarget(t)
		e := s.engine()
		a, b := s.open(t, e, target), s.open(t, e, target)
		lock(t, a)
		var records []skein.Record
		for _, m := range s.raceSet(t).All() {
			records = append(records, skein.Record{Name: m.Name, State: skein.Applying, Batch: 1, Checksum: m.Checksum, Total: 2, AppliedAt: time.Now()})
		}
		if err := a.Record(t.Context(), records); err != nil {
			t.Fatal(err)
		}
		impatient := skein.NewMigrator(e, s.raceSet(t), 0)
		r := impatient.Migrate(t.Context(), b, skein.Tenant{ID: "1", Target: target}, skein.PlanOptions{}, nil, func(skein.Event) {})
		if _, ok := errors.AsType[*skein.LockedError](r.Err); !ok {
			t.Errorf("without waiting: %v", r.Err)
		}
		done := make(chan skein.Result, 1)
		go func() { done <- s.race(t, e, b, target) }()
		time.Sleep(300 * time.Millisecond)
		for i := range records {
			records[i].State = skein.Applied
		}
		if err := a.Record(t.Context(), records); err != nil {
			t.Fatal(err)
		}
		unlock(t, a)
		if r := <-done; r.Err != nil || len(r.Done) != 0 || r.Standing.State != skein.StateUpToDate {
			t.Errorf("after waiting %d migrations were done in a tenant that is %s: %v", len(r.Done), r.Standing.State, r.Err)
		}
	}},

	{"Processes", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		var processes []*process
		for range runners {
			processes = append(processes, s.start(t, target, doMigrate))
		}
		for _, p := range processes {
			p.send(t, true)
		}
		var done []string
		for _, p := range processes {
			done = append(done, p.read(t))
		}
		s.wantOneWinner(t, target, done)
	}},
}

var killedTests = []namedTest{
	{"EachPoint", func(t *testing.T, s *suite) {
		for _, point := range points() {
			t.Run(point, func(t *testing.T) { s.killedAt(t, point) })
		}
	}},

	{"Lock", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		session := s.open(t, s.engine(), target)
		p := s.start(t, target, doLock)
		wantLocked(t, session, 0)
		p.kill(t)
		lock(t, session)
		if holder, err := lockKeeper(t, s.open(t, s.engine(), target)).Holder(t.Context()); holder == nil || err != nil {
			t.Errorf("the holder is %v, %v", holder, err)
		}
		unlock(t, session)
	}},

	{"Migration", func(t *testing.T, s *suite) {
		for do, m := range map[string]*skein.Migration{doSlow: s.slow(), doSlowBare: noTransaction(s.slow())} {
			t.Run(do, func(t *testing.T) {
				target := s.NewTarget(t)
				session := s.open(t, s.engine(), target)
				p := s.start(t, target, do)
				if !s.Transactional || m.Up.NoTransaction {
					s.waitBegun(t, target, m)
				}
				time.Sleep(500 * time.Millisecond)
				wantLocked(t, session, 0)
				p.kill(t)
				// A server may only look every few seconds whether the other side
				// of a connection is still there while it runs a statement.
				if _, err := session.Lock(t.Context(), 20*time.Second); err != nil {
					t.Fatalf("the lock of a process that was killed: %v", err)
				}
				s.wantBegun(t, target, m)
				unlock(t, session)
				s.wantGlance(t, "when it was killed", target, true)

				if _, partial := s.records(t, target)[m.Name]; !partial {
					return
				}
				_, err := skein.MakePlan(s.raceSet(t), s.history(t, target), skein.PlanOptions{})
				if refused, ok := errors.AsType[*skein.RefusedError](err); !ok || refused.Reason != skein.ReasonPartial {
					t.Errorf("the plan after that: %v", err)
				}
			})
		}
	}},
}
