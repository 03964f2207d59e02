// Command bench measures Skein beside other tools that migrate databases, on fleets
// of tenants that it makes on servers of its own. README.md says how it is used,
// docs/performance.md what came of it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := mainErr(ctx, os.Args[1:])
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func mainErr(ctx context.Context, args []string) error {
	if len(args) == 1 && args[0] == "spawn" { // see spawn
		return spawnMain(os.Stdin, os.Stdout)
	}
	if len(args) == 2 && args[0] == "loop" { // see bareLoop
		return loopMain(ctx, args[1])
	}
	if len(args) == 2 && args[0] == "library" { // see libraryJob
		return libraryMain(ctx, args[1])
	}
	opts, err := parseOptions(args)
	if err != nil {
		return err
	}
	return run(ctx, opts)
}

// The parts of the benchmark beside the operations on fleets.
const (
	partCost    = "cost"    // by fleet: many tenants, with nothing to do
	partHistory = "history" // by history: many applied migrations
	partStart   = "startup" // of processes
)

var (
	fleetNames = []string{postgres, schemaFleet, mysql, sqlite}
	partNames  = []string{string(opNothing), string(opFresh), string(opColumn), string(opRollback), string(opProvision), partCost, partHistory, partStart}
	peerNames  = []string{"goose", "golang-migrate", "tern", "dbmate", "atlas", "knex"}
)

type options struct {
	tenants int // of each fleet
	sample  int // of them, where they are changed, or a process each is started
	rounds  int
	fleets  []string
	only    []string
	peers   []string
	sizes   []int // of fleets, for partCost
	skein   string
	atlas   string
	servers string
	out     string
}

func (o *options) wants(part operation) bool { return slices.Contains(o.only, string(part)) }

// sampled is how many tenants are changed at a time.
func (o *options) sampled() int { return min(o.sample, o.tenants) }

// oneByOne is how many tenants are enough for what works on one at a time.
func (o *options) oneByOne() int { return min((o.sample+3)/4, o.tenants) }

func parseOptions(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&o.tenants, "tenants", 200, "tenants of each fleet")
	flags.IntVar(&o.sample, "sample", 64, "of them, those that are changed, and that other tools look at; a quarter for anything one by one")
	flags.IntVar(&o.rounds, "rounds", 3, "each is measured so often, all in turn; the median counts")
	fleets := flags.String("engines", strings.Join(fleetNames, ","), "fleets to measure on")
	only := flags.String("only", strings.Join(partNames, ","), "parts to measure")
	peers := flags.String("peers", strings.Join(peerNames, ","), "other tools to measure")
	sizes := flags.String("sizes", "1000,10000,100000", "tenants that are registered, for the part cost")
	flags.StringVar(&o.skein, "skein", "../bin/skein", "the program to measure")
	flags.StringVar(&o.atlas, "atlas", "", "a program of Atlas's open build, to measure that too")
	flags.StringVar(&o.servers, "servers", "", "use the servers that SKEIN_SERVERS=durable scripts/servers start has made in this folder; all in them is dropped")
	flags.StringVar(&o.out, "out", "", "folder for the results (default results, or results/partial where only a part is measured)")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("%q is not known; see -help", flags.Arg(0))
	}
	for _, list := range []struct {
		flag, value string
		known       []string
		to          *[]string
	}{{"engines", *fleets, fleetNames, &o.fleets}, {"only", *only, partNames, &o.only}, {"peers", *peers, peerNames, &o.peers}} {
		if list.value == "" {
			continue
		}
		*list.to = strings.Split(list.value, ",")
		for _, name := range *list.to {
			if !slices.Contains(list.known, name) {
				return o, fmt.Errorf("-%s: %q is none of %s", list.flag, name, strings.Join(list.known, ", "))
			}
		}
	}
	for _, s := range strings.Split(*sizes, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return o, fmt.Errorf("-sizes: %q is no number of tenants", s)
		}
		o.sizes = append(o.sizes, n)
	}
	if o.tenants < 1 || o.sample < 1 || o.rounds < 1 {
		return o, errors.New("-tenants, -sample and -rounds are numbers from 1 up")
	}
	if o.out == "" {
		o.out = "results"
		if len(o.only) < len(partNames) || len(o.fleets) < len(fleetNames) || len(o.peers) < len(peerNames) {
			o.out = "results/partial"
		}
	}
	return o, nil
}

func run(ctx context.Context, opts options) (err error) {
	if runtime.GOOS != "linux" {
		return errors.New("the servers' CPU time is read from /proc, which only Linux has")
	}
	b := &bench{
		opts: opts, begin: time.Now(), record: newRecord(), migrations: make(map[string][]migration),
		shapes: make(map[string]string), dropped: make(map[string]bool),
	}
	if b.work, err = os.MkdirTemp("", "skein-bench."); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	//nolint:gosec // the servers run as another account where root starts them
	if err := os.Chmod(b.work, 0o711); err != nil {
		return err
	}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	if slices.ContainsFunc([]operation{opNothing, opFresh, opColumn, opRollback}, opts.wants) {
		if err := b.overFleets(ctx); err != nil {
			return err
		}
	}
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{{string(opProvision), b.provisioning}, {partHistory, b.histories}, {partStart, b.startup}, {partCost, b.costs}} {
		if !slices.Contains(opts.only, part.name) {
			continue
		}
		if err := part.run(ctx); err != nil {
			return err
		}
		if err := b.write(); err != nil {
			return err
		}
	}
	b.say("done: %s", filepath.Join(opts.out, "results.md"))
	return nil
}

// prepare has all that is measured, and all that it is measured on.
func (b *bench) prepare(ctx context.Context) error {
	var err error
	if b.skein, err = newSkein(ctx, b.opts.skein, b.work); err != nil {
		return err
	}
	for engine, dir := range map[string]string{postgres: "pg", mysql: "my", sqlite: "sqlite"} {
		if b.migrations[engine], err = readMigrations(filepath.Join("migrations", dir)); err != nil {
			return err
		}
		if err := writeMigrations(b.migrations[engine], filepath.Join(b.work, "migrations", engine)); err != nil {
			return err
		}
	}
	if err := b.gather(ctx); err != nil {
		return err
	}
	if slices.ContainsFunc(b.opts.fleets, func(name string) bool { return name != sqlite }) {
		b.say("starting servers")
		if b.servers, err = startServers(ctx, "../scripts/servers", b.opts.servers, b.work); err != nil {
			return err
		}
	}
	for _, name := range b.opts.fleets {
		var f fleet
		switch name {
		case mysql:
			if f, err = newMySQLFleet(b.servers); err != nil {
				return err
			}
		case sqlite:
			f = &sqliteFleet{filepath.Join(b.work, "sqlite")}
		default:
			f = &postgresFleet{servers: b.servers, schemas: name == schemaFleet}
		}
		if err := f.prepare(ctx, max(b.opts.tenants, counted)); err != nil {
			return err
		}
		b.fleets = append(b.fleets, f)
	}
	return b.lookAround(ctx)
}

// gather makes the contestants, and installs those that are not there.
func (b *bench) gather(ctx context.Context) error {
	tools, err := filepath.Abs(".tools")
	if err != nil {
		return err
	}
	for _, atOnce := range []int{defaultAtOnce, 1} {
		one := *b.skein
		one.atOnce = atOnce
		b.contestants = append(b.contestants, &bareLoop{work: b.work, migrations: b.migrations, atOnce: atOnce}, &one)
	}
	if !slices.ContainsFunc(b.opts.only, func(part string) bool { return part != partCost && part != partHistory }) {
		return nil // which are of Skein alone
	}
	for _, tool := range peerTools {
		if !slices.Contains(b.opts.peers, strings.ToLower(tool.name)) {
			continue
		}
		bin := b.opts.atlas
		if tool.module != "" {
			b.say("%s %s", tool.name, tool.version)
			if bin, err = tool.install(ctx, tools); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				b.say("%s cannot be had: %v", tool.name, err)
				b.facts.missing(tool.name, "could not be installed")
				continue
			}
		}
		if bin == "" {
			b.facts.missing(tool.name, "is not a module that can be built by itself; README.md says how to have it measured")
			continue
		}
		if bin, err = filepath.Abs(bin); err != nil {
			return err
		}
		if err := tool.ready(ctx, bin, filepath.Join(b.work, "migrations")); err != nil {
			return err
		}
		for _, atOnce := range []int{defaultAtOnce, 1} {
			b.contestants = append(b.contestants, &peer{tool: tool, bin: bin, migrations: filepath.Join(b.work, "migrations"), atOnce: atOnce})
		}
	}
	if !slices.Contains(b.opts.peers, "knex") {
		return nil
	}
	b.say("Knex")
	if err := b.gatherKnex(ctx, tools); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		b.say("Knex cannot be had: %v", err)
		b.facts.missing("Knex", "could not be installed")
	}
	return nil
}

func (b *bench) gatherKnex(ctx context.Context, tools string) error {
	node, err := command{Args: []string{"node", "--print", "process.execPath"}}.output(ctx)
	if err != nil {
		return err
	}
	dir, err := installKnex(ctx, "knex", tools)
	if err != nil {
		return err
	}
	if err := copyKnexMigrations("migrations/knex", filepath.Join(b.work, "knex-migrations")); err != nil {
		return err
	}
	for _, atOnce := range []int{defaultAtOnce, 1} {
		b.contestants = append(b.contestants, &knexScript{dir: dir, node: node, work: b.work, atOnce: atOnce})
	}
	js := *b.skein
	js.js, js.knex = true, dir
	b.contestants = append(b.contestants, &js)
	return nil
}
