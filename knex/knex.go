// Package knex runs .js and .ts migrations with the Knex that their project has
// in its node_modules.
//
// A [Runner] starts a few Node processes, its workers, when the first tenant has
// something pending, and uses them for all tenants, one at a time each. A worker
// calls Knex's own knex.migrate with the migrations that are to run as its
// migrationSource: lock, batches, transactions and the rows of knex_migrations
// are those of the version the project has. The knexfile's settings hold, but
// for the connection, which is the tenant's.
//
// A migration that takes its worker down, or changes what the next tenant would
// find, costs the worker and nobody else's migration.
package knex

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/skeinhq/skein"
)

// Options say where the project is and what its migrations may take. A nil
// *Options is the zero value.
type Options struct {
	// Dir is the project's folder, from which one would call knex. Defaults to
	// the working directory.
	Dir string
	// Knexfile is relative to Dir; where it is given, its folder is the project's,
	// as with knex --knexfile. Defaults to the one that Knex finds, in Dir or the
	// nearest folder above it. A project without one runs on Knex's defaults.
	Knexfile string
	// Env is the environment of the knexfile to use. Defaults to NODE_ENV, or
	// development.
	Env string
	// Table is the table of Knex's that Skein reads. Defaults to
	// skein.DefaultKnexTable.
	Table string
	// Node is the program. Defaults to node, looked for on PATH.
	Node string

	// Workers is how many Node processes there may be. Defaults to the number of
	// cores, at least 2 and as many as fit in the free memory.
	Workers int
	// Memory is what a worker may have, in bytes, at the end of a tenant: one
	// that has more is replaced. Defaults to 512 MB.
	Memory int64
	// Timeout is how long one migration may run. One that takes longer is ended,
	// with its session at the server. 0: no bound.
	Timeout time.Duration
	// LockTimeout and StatementTimeout are those of the migrations' sessions, as
	// in skein.SessionOptions. 0: the server's own.
	LockTimeout, StatementTimeout time.Duration
}

const (
	defaultMemory = 512 << 20
	// A worker is counted on with this much when their number is chosen.
	workerMemory = 256 << 20
	maxWorkers   = 16
	// How often, and after how long, a run is tried again that met another Knex
	// making Knex's tables.
	maxTries  = 4
	racePause = 50 * time.Millisecond
	// loadTimeout bounds starting Node, and loading the knexfile and the
	// migrations, which may mean compiling TypeScript.
	loadTimeout = 2 * time.Minute
)

// A Runner is a skein.KnexRunner. It is safe for concurrent use. It starts
// nothing before its first run.
type Runner struct {
	opts  Options
	slots chan struct{}

	mu         sync.Mutex
	project    *project // nil before the first run
	projectErr error
	typescript bool // some migration was in it
	idle       []*worker
	closed     bool

	ending sync.WaitGroup // workers on their way out
}

var _ skein.KnexRunner = (*Runner)(nil)

// New makes a runner. Close is to be called at its end.
func New(opts *Options) *Runner {
	r := &Runner{}
	if opts != nil {
		r.opts = *opts
	}
	if r.opts.Table == "" {
		r.opts.Table = skein.DefaultKnexTable
	}
	if r.opts.Memory <= 0 {
		r.opts.Memory = defaultMemory
	}
	if r.opts.Workers <= 0 {
		r.opts.Workers = chooseWorkers(runtime.GOMAXPROCS(0), freeMemory())
	}
	r.slots = make(chan struct{}, r.opts.Workers)
	return r
}

// chooseWorkers is the number of workers for a machine with so many cores and
// bytes of free memory, 0 if that is not known.
func chooseWorkers(cores int, free int64) int {
	n := min(max(2, cores), maxWorkers)
	if free > 0 {
		n = min(n, int(free/workerMemory))
	}
	return max(1, n)
}

// Close ends the workers. No run may be under way.
func (r *Runner) Close() error {
	r.mu.Lock()
	r.closed = true
	idle := r.idle
	r.idle = nil
	r.mu.Unlock()
	for _, w := range idle {
		r.dismiss(w)
	}
	r.ending.Wait()
	return nil
}

// Ready says what is missing to run migrations. The worker that it starts is
// there for the run that follows.
func (r *Runner) Ready(ctx context.Context, steps []*skein.Migration) error {
	free, err := r.slot(ctx)
	if err != nil {
		return err
	}
	defer free()
	w, _, err := r.worker(ctx, slices.ContainsFunc(steps, func(m *skein.Migration) bool { return isTypeScript(m.Path) }))
	if err != nil {
		return err
	}
	r.putBack(w)
	return nil
}

// slot waits until there may be one worker more at work, and returns what ends
// that.
func (r *Runner) slot(ctx context.Context) (free func(), err error) {
	select {
	case r.slots <- struct{}{}:
		return func() { <-r.slots }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for a worker: %w", ctx.Err())
	}
}

// Run applies or reverts migrations in one tenant.
func (r *Runner) Run(ctx context.Context, target skein.Target, run skein.KnexRun) (skein.KnexResult, error) {
	if len(run.Steps) == 0 {
		return skein.KnexResult{}, nil
	}
	a, err := r.newAttempt(target, run)
	if err != nil {
		return skein.KnexResult{}, err
	}
	free, err := r.slot(ctx)
	if err != nil {
		return skein.KnexResult{}, err
	}
	defer free()
	for tries := 1; ; tries++ {
		w, used, err := r.worker(ctx, a.typescript)
		if err != nil {
			return skein.KnexResult{}, err
		}
		err = a.run(ctx, w)
		switch {
		case a.keep && w.memory <= r.opts.Memory:
			r.putBack(w)
		default:
			r.dismiss(w)
		}
		if errors.Is(err, errGone) && used && !a.touched {
			// What the tenant before had left ended the worker while it waited.
			continue
		}
		if a.raced && tries < maxTries {
			// Another Knex makes the same tables in a new tenant. It is half done
			// with them.
			time.Sleep(racePause)
			continue
		}
		if errors.Is(err, errGone) {
			err = fmt.Errorf("load the migrations: %w: %s", errGone, clean(w.lastWords(), target))
		}
		return skein.KnexResult{Steps: a.steps}, err
	}
}

// worker is an idle worker or a new one.
func (r *Runner) worker(ctx context.Context, typescript bool) (w *worker, used bool, err error) {
	for {
		r.mu.Lock()
		r.typescript = r.typescript || typescript
		typescript = r.typescript
		if n := len(r.idle); n > 0 {
			w, r.idle = r.idle[n-1], r.idle[:n-1]
		}
		r.mu.Unlock()
		if w == nil {
			w, err = r.newWorker(ctx, typescript)
			return w, false, err
		}
		if !typescript || w.typescript {
			return w, true, nil
		}
		r.dismiss(w) // it was started when there was no TypeScript
		w = nil
	}
}

func (r *Runner) newWorker(ctx context.Context, typescript bool) (*worker, error) {
	r.mu.Lock()
	if r.project == nil && r.projectErr == nil {
		r.project, r.projectErr = findProject(&r.opts)
	}
	project, err := r.project, r.projectErr
	if r.closed {
		err = errors.New("the runner is closed")
	}
	r.mu.Unlock()
	if err != nil {
		return nil, err
	}
	w, err := start(ctx, project, &r.opts, typescript)
	if unready, ok := errors.AsType[*projectError](err); ok {
		// It will be the same for the next tenant, and costs starting Node.
		r.mu.Lock()
		r.projectErr = unready
		r.mu.Unlock()
	}
	return w, err
}

func (r *Runner) putBack(w *worker) {
	r.mu.Lock()
	if !r.closed {
		r.idle = append(r.idle, w)
		r.mu.Unlock()
		return
	}
	r.mu.Unlock()
	r.dismiss(w)
}

// dismiss ends a worker, without waiting for it.
func (r *Runner) dismiss(w *worker) { r.ending.Go(w.stop) }

// A Config is what a knexfile says of migrations.
type Config struct {
	// Knexfile is its path, empty where the project has none.
	Knexfile string `json:"knexfile"`
	// Knex is the version that the project has.
	Knex string `json:"knex"`
	// Environment is the one that was chosen, empty where the file has none of
	// that name: then it holds a single configuration. Environments are all that
	// have a client.
	Environment  string   `json:"environment"`
	Environments []string `json:"environments"`
	// Client is Knex's name for the database, and Engine Skein's: empty for one
	// that Skein has no engine for.
	Client string `json:"client"`
	Engine string `json:"engine"`

	// What follows is empty or false where the knexfile does not say.

	// Directories are as they are written, relative to the project's folder: that
	// of Options.Knexfile, or Options.Dir.
	Directories []string `json:"directory"`
	TableName   string   `json:"tableName"`
	SchemaName  string   `json:"schemaName"`
	// Extension is that of new migrations, without the dot.
	Extension string `json:"extension"`
	// LoadExtensions are those of migrations, with the dot.
	LoadExtensions      []string `json:"loadExtensions"`
	SortDirsSeparately  bool     `json:"sortDirsSeparately"`
	DisableTransactions bool     `json:"disableTransactions"`
	// OwnSource says that the project reads its migrations in a way of its own
	// (migrationSource), which Skein does not follow.
	OwnSource  bool     `json:"ownSource"`
	SearchPath []string `json:"searchPath"`
}

// ReadConfig is Runner.Config for a project of which nothing is to be run. Of
// the options Dir, Knexfile, Env and Node count.
func ReadConfig(ctx context.Context, opts *Options) (Config, error) {
	r := New(opts)
	defer r.Close() //nolint:errcheck // it returns no error
	return r.Config(ctx)
}

// Config loads the knexfile of the project, with Node, as Knex would: a file that
// computes its settings does so now.
func (r *Runner) Config(ctx context.Context) (Config, error) {
	free, err := r.slot(ctx)
	if err != nil {
		return Config{}, err
	}
	defer free()
	w, _, err := r.worker(ctx, false)
	if err != nil {
		return Config{}, err
	}
	config, err := w.describe(ctx)
	if err != nil {
		r.dismiss(w)
		return Config{}, err
	}
	r.putBack(w)
	return config, nil
}

// freeMemory is what the machine, or the container, has left, in bytes; 0 where
// that is not known.
func freeMemory() int64 {
	free := int64(0)
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		free = meminfo(string(text))
	}
	limit, used := readNumber("/sys/fs/cgroup/memory.max"), readNumber("/sys/fs/cgroup/memory.current")
	if limit > 0 && (free == 0 || limit-used < free) {
		free = max(limit-used, 1)
	}
	return free
}

func absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
