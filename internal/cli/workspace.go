package cli

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"os/user"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/central"
	"github.com/skeinhq/skein/engine/mysql"
	"github.com/skeinhq/skein/engine/postgres"
	"github.com/skeinhq/skein/engine/sqlite"
	"github.com/skeinhq/skein/internal/config"
	"github.com/skeinhq/skein/knex"
	"github.com/skeinhq/skein/secret"
	"github.com/skeinhq/skein/source"
)

// A workspace is the settings and the open central database of one command.
type workspace struct {
	app   *app
	cfg   *config.Config
	store *central.Store
	knex  *knex.Runner // see knexRunner

	passwords passwordCommands
	fullCheck bool // connect to every tenant
}

// open reads the settings and opens the central database.
func (a *app) open(ctx context.Context) (*workspace, error) {
	cfg, err := config.Load(a.configPath, a.LookupEnv)
	if err != nil {
		return nil, err
	}
	w := &workspace{app: a, cfg: cfg}
	cc, err := a.centralConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if w.store, err = central.Open(ctx, cc); err != nil {
		if url, _ := a.LookupEnv("SKEIN_CENTRAL_URL"); cfg.Path == "" && url == "" {
			err = &elsewhere{err}
		}
		return nil, err
	}
	return w, nil
}

// elsewhere is the error of a central database that is not there where there are
// no settings either.
type elsewhere struct{ error }

func (e *elsewhere) Unwrap() error { return e.error }

// Hint says what to do.
func (e *elsewhere) Hint() string {
	return "there is no skein.yaml here: go to the folder that has it, or name it with --config; to begin in this folder: skein init"
}

// choose opens the central database for a run over the tenants that words and
// flags select, with the limits that the flags set. The caller closes the
// workspace.
func (a *app) choose(ctx context.Context, sel *selection, words []string, bounds *limits) (*workspace, central.Filter, error) {
	filter, err := sel.filter(a, words)
	if err != nil {
		return nil, central.Filter{}, err
	}
	w, err := a.open(ctx)
	if err != nil {
		return nil, central.Filter{}, err
	}
	if err := bounds.apply(&w.cfg.Limits); err != nil {
		w.close()
		return nil, central.Filter{}, err
	}
	w.fullCheck = bounds.fullCheck
	return w, filter, nil
}

func (w *workspace) close() {
	// Nothing is left to be written by then.
	_ = w.store.Close()
	if w.knex != nil {
		_ = w.knex.Close()
	}
}

// engines are all that Skein has, with the settings' limits.
func (w *workspace) engines() []skein.Engine {
	opts := skein.SessionOptions{
		ConnectTimeout:   w.cfg.Limits.ConnectTimeout,
		LockTimeout:      w.cfg.Limits.LockTimeout,
		StatementTimeout: w.cfg.Limits.StatementTimeout,
		IdleTimeout:      w.cfg.Limits.IdleTimeout,
		KnexTable:        w.cfg.Migrations.Table,
		By:               whoami(),
		Tool:             "skein " + w.app.Version,
		Password:         w.password,
	}
	return []skein.Engine{postgres.New(opts), mysql.New(opts), sqlite.New(opts)}
}

// whoami is the person and machine that histories record.
func whoami() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		return name
	}
	return name + "@" + host
}

// migrations reads and checks all migration files.
func (w *workspace) migrations() (*skein.Set, error) {
	return source.Load(w.cfg.MigrationDirs(), &source.Options{
		Extensions: w.cfg.Migrations.Extensions, SortDirsSeparately: w.cfg.Migrations.SortDirsSeparately,
	})
}

// limits are flags that bound a run, laid over the settings.
type limits struct {
	flags *pflag.FlagSet
	config.Limits
	fullCheck bool
}

func (l *limits) register(flags *pflag.FlagSet) {
	l.flags = flags
	flags.IntVar(&l.Parallel, "parallel", 0, "tenants worked on at once (default 8 for each processor, or limits.parallel)")
	flags.IntVar(&l.PerServer, "per-server", 0, "tenants worked on at once on one database server (default 2 for each of its processors, 8 where that is not known, or limits.per_server)")
	flags.IntVar(&l.Retries, "retries", 0, "how often to try a tenant again that met trouble which may pass (default 5, or limits.retries)")
	flags.DurationVar(&l.LockWait, "lock-wait", 0, "how long to wait for a tenant that another process is migrating (default 1m, or limits.lock_wait)")
}

// registerTimeout adds the flag of commands that run migrations.
func (l *limits) registerTimeout(flags *pflag.FlagSet) {
	flags.DurationVar(&l.Timeout, "timeout", 0, "how long a migration may take before it is stopped (default any time, or limits.timeout)")
}

// registerFullCheck adds the flag of commands that need not connect to tenants
// which are up to date.
func (l *limits) registerFullCheck(flags *pflag.FlagSet) {
	flags.BoolVar(&l.fullCheck, "full-check", false, "connect to every tenant and read its history, whatever is known without")
}

// apply lays the flags that were given over the settings.
func (l *limits) apply(to *config.Limits) error {
	for _, f := range []struct {
		name  string
		value int
		to    *int
	}{{"parallel", l.Parallel, &to.Parallel}, {"per-server", l.PerServer, &to.PerServer}} {
		if !l.flags.Changed(f.name) {
			continue
		}
		if f.value < 1 {
			return fmt.Errorf("--%s %d is not a number from 1 up", f.name, f.value)
		}
		*f.to = f.value
	}
	if l.flags.Changed("retries") {
		if l.Retries < 0 {
			return fmt.Errorf("--retries %d is less than 0", l.Retries)
		}
		to.Retries = l.Retries
	}
	if l.flags.Changed("timeout") {
		if l.Timeout < 0 {
			return fmt.Errorf("--timeout %s is less than 0", l.Timeout)
		}
		to.Timeout = l.Timeout
	}
	if l.flags.Changed("lock-wait") {
		if l.LockWait < 0 {
			return fmt.Errorf("--lock-wait %s is less than 0", l.LockWait)
		}
		to.LockWait = l.LockWait
	}
	return nil
}

// fleet makes the fleet that a run works on.
func (w *workspace) fleet(set *skein.Set, listen skein.Listener) *skein.Fleet {
	return w.fleetOn(w.engines(), set, listen)
}

func (w *workspace) fleetOn(engines []skein.Engine, set *skein.Set, listen skein.Listener) *skein.Fleet {
	opts := w.fleetOptions()
	opts.Knex, opts.KnexHistory, opts.Listener = w.knexRunner(), w.cfg.Migrations.KnexHistory, listen
	return skein.NewFleet(engines, set, &opts)
}

// fleetOptions are a run's, as the settings and flags have them.
func (w *workspace) fleetOptions() skein.FleetOptions {
	servers, addresses := make(map[string]int), make(map[string]skein.Target)
	for _, s := range w.cfg.Servers {
		reached := s.Reached()
		if s.Parallel > 0 {
			servers[reached.Server()] = s.Parallel
		}
		if reached.User != "" {
			addresses[reached.Server()] = w.cfg.WithOptions(reached)
		}
	}
	return skein.FleetOptions{
		Parallel:  w.cfg.Limits.Parallel,
		PerServer: w.cfg.Limits.PerServer,
		Servers:   servers,
		Addresses: addresses,
		FullCheck: w.fullCheck,
		LockWait:  w.cfg.Limits.LockWait,
		Retries:   w.cfg.Limits.Retries,
		Timeout:   w.cfg.Limits.Timeout,
		Stop:      w.app.stop,
	}
}

// knexRunner is what runs Knex migrations in this command. It starts nothing
// before there is one to run.
func (w *workspace) knexRunner() skein.KnexRunner { return withPasswords{w.knexProcesses(), w} }

func (w *workspace) knexProcesses() *knex.Runner {
	if w.knex == nil {
		w.knex = knex.New(knexOptions(w.cfg))
	}
	return w.knex
}

// tenants reads the tenants that a filter selects, as this process can connect
// to them.
func (w *workspace) tenants(ctx context.Context, f central.Filter) iter.Seq2[skein.Tenant, error] {
	return func(yield func(skein.Tenant, error) bool) {
		for t, err := range w.store.Tenants(ctx, f) {
			if err == nil {
				t = w.local(t)
			}
			if !yield(t, err) {
				return
			}
		}
	}
}

// local is a tenant as this process connects to it: with the options of its
// server, and a SQLite file where it is, relative to the settings file.
func (w *workspace) local(t skein.Tenant) skein.Tenant {
	if t.Target.Engine == skein.SQLite {
		t.Target.Database = w.cfg.Resolve(t.Target.Database)
	} else {
		t.Target = w.cfg.WithOptions(t.Target)
	}
	return t
}

// centralConfig is what the central database needs of the settings.
func (a *app) centralConfig(ctx context.Context, cfg *config.Config) (central.Config, error) {
	keys, err := a.loadKeys(ctx, cfg)
	if err != nil {
		return central.Config{}, err
	}
	ring, err := keys.ring(cfg)
	if err != nil {
		return central.Config{}, err
	}
	return centralWith(cfg, keys, ring)
}

// centralWith is centralConfig with a keyring, nil for none, made of keys.
func centralWith(cfg *config.Config, keys keys, ring *secret.Keyring) (central.Config, error) {
	cc := central.Config{
		URL: localURL(cfg, cfg.Central.URL), RecordURL: localURL(cfg, cfg.Central.RecordURL),
		Explain: keys.explain(),
	}
	if ring != nil {
		cc.Keyring = ring
	}
	if m := cfg.Central.Tenants; m != nil {
		columns, err := mappedColumns(cfg.Path, m)
		if err != nil {
			return cc, err
		}
		cc.Mapping = &central.Mapping{
			Table: m.Table, Columns: columns, Labels: m.Labels,
			Engine: m.Engine, Host: m.Host, Port: m.Port, Database: m.Database, Schema: m.Schema, User: m.User,
			Password: secret.New(m.Password), Options: m.Options, Active: m.Active, Write: m.Write,
		}
	}
	return cc, nil
}

// localURL is a central address whose SQLite file is where this process finds
// it.
func localURL(cfg *config.Config, url secret.Secret) secret.Secret {
	t, err := skein.ParseTarget(url.Reveal())
	if err != nil || t.Engine != skein.SQLite {
		return url // central says what is wrong with it
	}
	return secret.New("sqlite:" + cfg.Resolve(t.Database))
}

// mappedColumns are the columns that central.tenants.columns names.
func mappedColumns(path string, m *config.Mapping) (central.Columns, error) {
	var c central.Columns
	fields := map[string]*string{
		"id": &c.ID, "slug": &c.Slug, "name": &c.Name, "status": &c.Status, "url": &c.URL,
		"engine": &c.Engine, "host": &c.Host, "port": &c.Port, "database": &c.Database, "schema": &c.Schema,
		"user": &c.User, "password": &c.Password, "options": &c.Options,
	}
	for _, name := range slices.Sorted(maps.Keys(m.Columns)) {
		column := m.Columns[name]
		to, ok := fields[name]
		if !ok {
			known := slices.Sorted(maps.Keys(fields))
			return c, fmt.Errorf("%s:%d: central.tenants.columns: a tenant has no %q; it has %s", path, m.Line, name, strings.Join(known, ", "))
		}
		*to = column
	}
	return c, nil
}

var errNoSelection = errors.New("which tenants? Name them (slug or id), or choose with --all, --tenants a,b* or --where label=value")

// session opens a session on a single tenant.
func (w *workspace) session(ctx context.Context, t skein.Tenant) (skein.Session, error) {
	if t.Err != nil {
		return nil, t.Err
	}
	if err := t.Target.Validate(); err != nil {
		return nil, err
	}
	for _, e := range w.engines() {
		if e.Name() == t.Target.Engine {
			return e.Open(ctx, t.Target)
		}
	}
	return nil, fmt.Errorf("no engine is called %q", t.Target.Engine)
}
