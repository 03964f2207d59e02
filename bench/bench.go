package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// defaultAtOnce is how many tenants of a server Skein works on at once unless it
// is told otherwise (limits.per_server), and so how many all others do.
const defaultAtOnce = 8

// What is repeated until it has taken long enough to be timed.
const (
	enough     = time.Second
	maxRepeats = 20
)

// A bench is one run of the benchmark.
type bench struct {
	opts        options
	begin       time.Time
	work        string // holds all that the run makes, and goes with it
	servers     *servers
	fleets      []fleet
	contestants []contestant
	skein       *skeinCommand
	migrations  map[string][]migration // by engine
	record      *record
	facts       facts
	shapes      map[string]string // of a migrated tenant, by fleet and operation
	dropped     map[string]bool   // contestants that failed, by fleet
}

// say tells how far the run is.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%7s  %s\n", time.Since(b.begin).Truncate(time.Second), fmt.Sprintf(format, args...))
}

// measure times a step.
func (b *bench) measure(ctx context.Context, f fleet, o operation, s step) (sample, error) {
	if err := f.settle(ctx); err != nil {
		return sample{}, err
	}
	before, err := f.cpu()
	if err != nil {
		return sample{}, err
	}
	var total sample
	for range maxRepeats {
		done, err := spawn(ctx, spawnJob{Commands: s.commands, AtOnce: s.atOnce, Log: b.log()})
		if err != nil {
			return sample{}, err
		}
		total.Tenants += s.tenants
		total.Seconds += done.Seconds
		total.Client += done.CPU
		total.PeakKiB = max(total.PeakKiB, done.PeakKiB*int64(min(s.atOnce, len(s.commands))))
		if !o.harmless() || total.Seconds >= enough.Seconds() {
			break
		}
	}
	// A server process may take a moment to end after its client has.
	if err := pause(ctx, 20*time.Millisecond); err != nil {
		return sample{}, err
	}
	after, err := f.cpu()
	total.Server = after - before
	return total, err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (b *bench) log() string { return filepath.Join(b.work, "log") }

// logged is the end of what the processes have printed, to explain a failure.
func (b *bench) logged() string {
	text, err := os.ReadFile(b.log())
	if err != nil {
		return ""
	}
	return tail(string(text), 15)
}

// partFleets is the part of the benchmark in which all contestants go over fleets.
const partFleets = "fleets"

func (b *bench) key(f fleet, o operation, c contestant, s step) rowKey {
	who := s.who
	if who == "" {
		who = c.name()
	}
	return rowKey{part: partFleets, fleet: f.name(), op: o, who: who, atOnce: c.parallel()}
}

// operations are those that are measured on each fleet, in an order in which each
// finds the state that it needs.
func (b *bench) operations() []operation {
	all := []operation{opFresh, opNothing, opColumn, opRollback}
	last := 0
	for i, o := range all {
		if b.opts.wants(o) {
			last = i
		}
	}
	return slices.DeleteFunc(all[:last+1], func(o operation) bool { return o == opNothing && !b.opts.wants(o) })
}

// overFleets measures all contestants on all fleets.
func (b *bench) overFleets(ctx context.Context) error {
	for _, f := range b.fleets {
		if err := b.overFleet(ctx, f); err != nil {
			return err
		}
		if err := b.write(); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) overFleet(ctx context.Context, f fleet) error {
	b.say("%s: counting round trips", f.title())
	if err := b.countFlights(ctx, f); err != nil {
		return err
	}
	for round := range b.opts.rounds {
		for i := range b.contestants {
			// Each round begins elsewhere, so that no place in it is anybody's.
			c := b.contestants[(i+round*len(b.contestants)/b.opts.rounds)%len(b.contestants)]
			if err := b.turn(ctx, f, c, round); err != nil {
				return err
			}
		}
	}
	return f.drop(ctx)
}

// turn is a contestant's turn in a round.
func (b *bench) turn(ctx context.Context, f fleet, c contestant, round int) error {
	timed := func(o operation, s step) error {
		done, err := b.measure(ctx, f, o, s)
		if err != nil {
			return err
		}
		r := b.record.row(b.key(f, o, c, s))
		r.Samples = append(r.Samples, done)
		b.say("%s, round %d of %d: %s of %s, %d at once: %s tenants/s", f.name(), round+1, b.opts.rounds, o, r.Who, r.AtOnce,
			digits(float64(done.Tenants)/done.Seconds))
		return nil
	}
	n := b.opts.sampled()
	if _, script := c.(*knexScript); c.parallel() == 1 && !script {
		n = b.opts.oneByOne() // the script is what Skein's own Knex runs are compared with
	}
	if !c.whole() {
		return b.cycle(ctx, f, c, n, b.operations(), timed)
	}
	// What changes tenants takes longer where there are more of them, so all are
	// changed in fleets of the same size. Where nothing is changed it does not
	// matter, but the start of one process for all does.
	changes := slices.DeleteFunc(b.operations(), func(o operation) bool { return o == opNothing })
	if slices.ContainsFunc(changes, b.opts.wants) {
		if err := b.cycle(ctx, f, c, n, changes, timed); err != nil {
			return err
		}
	}
	if !b.opts.wants(opNothing) {
		return nil
	}
	return b.cycle(ctx, f, c, b.opts.tenants, []operation{opFresh, opNothing}, func(o operation, s step) error {
		if o == opFresh {
			return b.run(ctx, s)
		}
		return timed(o, s)
	})
}

// cycle takes new tenants through operations with one contestant, and has each step
// done by do.
func (b *bench) cycle(ctx context.Context, f fleet, c contestant, n int, operations []operation, do func(operation, step) error) error {
	tenants := f.tenants(n)
	who := f.name() + " " + c.name()
	if b.dropped[who] {
		return nil
	}
	if steps, err := c.steps(ctx, f, opFresh, tenants); err != nil || len(steps) == 0 {
		return err
	}
	if err := f.create(ctx, n); err != nil {
		return err
	}
	for _, o := range operations {
		steps, err := c.steps(ctx, f, o, tenants)
		if err != nil {
			return err
		}
		for _, s := range steps {
			err := do(o, s)
			if err == nil && !o.harmless() {
				err = b.verify(ctx, f, o, tenants)
			}
			if err == nil {
				continue
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			err = fmt.Errorf("%s, %s of %s: %w\n%s", f.name(), o, c.name(), err, b.logged())
			if own(c) {
				return err
			}
			b.say("%v", err)
			b.say("%s is left out of %s from here on", c.name(), f.name())
			b.dropped[who] = true
			b.record.row(b.key(f, o, c, s)).Note = "failed"
			return nil
		}
		if len(steps) == 0 && o == opColumn {
			break // the way back would find nothing
		}
	}
	return nil
}

// own says whether a contestant is the benchmark's or Skein, without which the
// results would say nothing.
func own(c contestant) bool {
	switch c.(type) {
	case *skeinCommand, *bareLoop:
		return true
	}
	return false
}

// verify compares the first and the last tenant with what the first contestant has
// made of them: all do the same work.
func (b *bench) verify(ctx context.Context, f fleet, o operation, tenants []tenant) error {
	for _, t := range []tenant{tenants[0], tenants[len(tenants)-1]} {
		shape, err := f.shape(ctx, t)
		if err != nil {
			return err
		}
		key := f.name() + " " + o.set()
		if o == opRollback {
			key = f.name() + " " + six
		}
		if want, ok := b.shapes[key]; !ok {
			b.shapes[key] = shape
		} else if shape != want {
			return fmt.Errorf("%s has other tables than it should have:\n%s\nand not:\n%s", t.Slug, shape, want)
		}
	}
	return nil
}

// counted is how many tenants flights are counted over.
const counted = 10

// A viaProxy is a fleet whose server is reached over a proxy.
type viaProxy struct {
	fleet
	port int
}

func (f viaProxy) tenants(n int) []tenant {
	tenants := f.fleet.tenants(n)
	for i := range tenants {
		tenants[i].Port = f.port
	}
	return tenants
}

func (f viaProxy) administrator() *account {
	admin := *f.fleet.administrator()
	admin.Port = f.port
	return &admin
}

// countFlights counts round trips and connections, apart from what is timed. It
// also sees to it that all contestants have run before.
func (b *bench) countFlights(ctx context.Context, f fleet) error {
	if f.administrator() == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p, err := newProxy(ctx, f.administrator().address())
	if err != nil {
		return err
	}
	defer p.close() //nolint:errcheck // nobody is connected any more
	via := viaProxy{f, p.port()}
	for _, c := range b.contestants {
		if c.parallel() == 1 {
			continue // the same as many at once
		}
		err := b.cycle(ctx, via, c, counted, b.operations(), func(o operation, s step) error {
			if s.who == whoPgbench {
				return nil
			}
			p.take()
			if _, err := spawn(ctx, spawnJob{Commands: s.commands, AtOnce: s.atOnce, Log: b.log()}); err != nil {
				return err
			}
			flights, connections := p.take()
			for _, same := range b.contestants {
				if same.name() == c.name() {
					r := b.record.row(b.key(f, o, same, s))
					r.Flights, r.Connections = float64(flights)/counted, float64(connections)/counted
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// write writes the results so far.
func (b *bench) write() error {
	if err := os.MkdirAll(b.opts.out, 0o750); err != nil {
		return err
	}
	b.facts.Took = time.Since(b.begin)
	files := map[string]string{
		"results.md":  markdown(b.facts, b.record),
		"results.csv": csvOf(b.record),
	}
	for name, svg := range plots(b.record) {
		files[name] = svg
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(b.opts.out, name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("write the results: %w", err)
		}
	}
	return nil
}

// close ends the servers and removes what the run has made.
func (b *bench) close() error {
	var err error
	if b.servers != nil {
		err = b.servers.stop()
	}
	return errors.Join(err, os.RemoveAll(b.work))
}

// digits writes a number with three significant digits, and thousands apart.
func digits(v float64) string {
	switch {
	case math.IsNaN(v):
		return "-"
	case math.Abs(v) >= 99.95:
		return thousands(int64(math.Round(v)))
	case math.Abs(v) >= 9.995:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
