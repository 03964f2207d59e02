package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/central"
	"github.com/skeinhq/skein/internal/config"
	"github.com/skeinhq/skein/internal/ui"
	"github.com/skeinhq/skein/secret"
)

func (a *app) doctorCommand() *cobra.Command {
	var asJSON bool
	var bounds limits
	cmd := &cobra.Command{
		Use:     "doctor",
		GroupID: "look",
		Short:   "Check all that a run needs, and say what is wrong",
		Long: `Check the settings, the central database, the key, the migrations and the Knex
that runs them, and each active tenant and the servers they are on: versions,
connection limits against the parallelism asked for, who is out of reach, and
who cannot be migrated before a person has looked. Nothing is changed.

` + exitCodesHelp,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := &doctor{app: a, json: asJSON, bounds: &bounds}
			if err := d.examine(cmd.Context()); err != nil {
				return err
			}
			switch {
			case a.interrupted():
				return errInterrupted
			case d.unusable:
				return errUnusable
			case d.failed:
				return errFailed
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line on standard output")
	bounds.register(cmd.Flags())
	return cmd
}

// errUnusable is returned by a command that has already told what is wrong with
// the settings, the key or the central database.
var errUnusable = errors.New("settings, key or central database cannot be used")

// A doctor examines one installation, and tells each finding as it is made.
type doctor struct {
	app      *app
	json     bool
	bounds   *limits
	failed   bool // something is wrong that a run would meet
	unusable bool // no run is possible at all
	writeErr error
}

// A finding's result.
const (
	fine    = "ok"
	warning = "warning"
	wrong   = "failed"
)

type jsonFinding struct {
	Event   string `json:"event"` // "check"
	Name    string `json:"name"`
	Result  string `json:"result"` // ok, warning, failed
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

func (d *doctor) tell(name, result, message, hint string) {
	d.failed = d.failed || result == wrong
	if d.json {
		d.writeErr = cmp.Or(d.writeErr, d.app.writeJSON(jsonFinding{Event: "check", Name: name, Result: result, Message: message, Hint: hint}))
		return
	}
	if d.app.quiet && result == fine {
		return
	}
	mark := map[string]string{
		fine:    d.app.term.OnOut(ui.Green, "✓"),
		warning: d.app.term.OnOut(ui.Yellow, "!"),
		wrong:   d.app.term.OnOut(ui.Red, "✗"),
	}[result]
	for i, line := range strings.Split(strings.TrimRight(message, "\n"), "\n") {
		if i > 0 {
			mark, name = " ", ""
		}
		fmt.Fprintf(d.app.Out, "%s %-10s  %s\n", mark, ui.Printable(name), ui.Printable(line))
	}
	if hint != "" {
		fmt.Fprintf(d.app.Out, "  %-10s  hint: %s\n", "", ui.Printable(hint))
	}
}

func (d *doctor) broken(name string, err error) {
	d.tell(name, wrong, err.Error(), skein.Hint(err))
}

func (d *doctor) examine(ctx context.Context) error {
	a := d.app
	cfg, err := config.Load(a.configPath, a.LookupEnv)
	if err != nil {
		d.broken("settings", err)
		d.unusable = true
		return d.writeErr
	}
	if err := d.bounds.apply(&cfg.Limits); err != nil {
		return err
	}
	if cfg.Path == "" {
		d.tell("settings", fine, "no skein.yaml here: the defaults", "")
	} else {
		d.tell("settings", fine, cfg.Path, "")
	}
	keys, ring, keyErr := d.examineKey(ctx, cfg)

	w := &workspace{app: a, cfg: cfg}
	set, err := w.migrations()
	switch {
	case err != nil:
		d.broken("migrations", err)
	case set.Len() == 0:
		d.tell("migrations", fine, "none yet in "+strings.Join(cfg.MigrationDirs(), ", "), "")
	default:
		d.tell("migrations", fine, fmt.Sprintf("%s in %s, the newest is %s", ui.Plural(set.Len(), "file"), strings.Join(cfg.MigrationDirs(), ", "), set.All()[set.Len()-1].Name), "")
	}

	cc, err := centralWith(cfg, keys, ring)
	if err != nil {
		d.broken("central", err)
		d.unusable = true
		return d.writeErr
	}
	if keyErr != nil {
		// The tenants' rows may tell what is wrong about it.
		cc.Keyring, d.unusable = brokenKeyring{errors.New("the key cannot be used")}, true
	}
	if w.store, err = central.Open(ctx, cc); err != nil {
		d.broken("central", err)
		d.unusable = true
		return d.writeErr
	}
	defer w.close()
	filter := central.Filter{Active: true}
	survey, err := w.store.Survey(ctx, filter)
	if err != nil {
		d.broken("central", err)
		d.unusable = true
		return d.writeErr
	}
	d.tell("central", fine, fmt.Sprintf("%s, %s", w.store.Database(), ui.Plural(survey.Tenants, "active tenant")), "")
	if set != nil {
		if err := w.fleet(set, nil).Parse(survey.Engines...); err != nil {
			d.broken("migrations", err)
			set = nil
		}
	}
	if set != nil {
		d.examineKnex(ctx, w, set)
	}
	return cmp.Or(d.examineTenants(ctx, w, set, filter, survey.Tenants), d.writeErr)
}

// examineKnex looks for what runs the project's Knex migrations, where it has
// any.
func (d *doctor) examineKnex(ctx context.Context, w *workspace, set *skein.Set) {
	theirs := slices.DeleteFunc(slices.Clone(set.All()), func(m *skein.Migration) bool { return m.Kind != skein.Knex })
	if len(theirs) == 0 {
		return
	}
	runner := w.knexProcesses()
	if err := runner.Ready(ctx, theirs); err != nil {
		d.broken("knex", err)
		return
	}
	project, err := runner.Config(ctx)
	if err != nil {
		d.broken("knex", err)
		return
	}
	line := "Knex " + project.Knex
	switch {
	case project.Knexfile == "":
		line += ", without a knexfile"
	case project.Environment == "":
		line += ", " + project.Knexfile
	default:
		line += ", " + project.Knexfile + ", environment " + project.Environment
	}
	d.tell("knex", fine, line, "")
}

func (d *doctor) examineKey(ctx context.Context, cfg *config.Config) (keys keys, ring *secret.Keyring, err error) {
	if keys, err = d.app.loadKeys(ctx, cfg); err == nil {
		ring, err = keys.ring(cfg)
	}
	switch {
	case err != nil:
		d.broken("key", err)
	case ring == nil:
		d.tell("key", fine, "none is set: tenants with a stored password cannot be used", "")
	default:
		d.tell("key", fine, "key id "+strings.Join(ring.KeyIDs(), ", previous "), "")
	}
	return keys, ring, err
}

// A serverFinding is what the tenants of one server met.
type serverFinding struct {
	info    *skein.ServerInfo
	tenants int
	failed  int
	reasons reasons
}

// reasons are what is wrong with tenants, by what it says.
type reasons struct {
	all    map[string]*reason
	untold int // tenants with more reasons than are kept
}

type reason struct {
	text, hint string
	slugs      []string
	count      int
}

func (r *reasons) add(slug, key, text, hint string) {
	why := r.all[key]
	if why == nil {
		if len(r.all) == maxErrorGroups {
			r.untold++
			return
		}
		if r.all == nil {
			r.all = make(map[string]*reason)
		}
		why = &reason{text: text, hint: hint}
		r.all[key] = why
	}
	why.count++
	if why.slugs = keepFirst(why.slugs, slug, sampleSize, strings.Compare); why.slugs[0] == slug {
		why.text, why.hint = text, hint // what it names is the first one's
	}
}

func (d *doctor) tellReasons(name string, r reasons, all string) {
	for _, why := range slices.SortedFunc(maps.Values(r.all), func(x, y *reason) int { return strings.Compare(x.slugs[0], y.slugs[0]) }) {
		d.tell(name, wrong, ui.Names(why.slugs, sampleSize, why.count)+": "+why.text, why.hint)
	}
	if r.untold > 0 {
		d.tell(name, wrong, fmt.Sprintf("and %s more, each for another reason (all with: %s)", ui.Count(r.untold), all), "")
	}
}

// examineTenants connects to each active tenant, and asks one on each server
// about the server. set is nil where the migrations cannot be read: then nothing
// is known of how tenants stand.
func (d *doctor) examineTenants(ctx context.Context, w *workspace, set *skein.Set, filter central.Filter, total int) error {
	var mu sync.Mutex // of what the workers find
	servers := make(map[string]*serverFinding)
	var histories reasons
	known, policy := set != nil, w.cfg.Migrations.Policy
	if !known {
		var err error
		if set, err = skein.NewSet(nil); err != nil {
			return err
		}
	}
	at := func(server string) *serverFinding {
		if servers[server] == nil {
			servers[server] = &serverFinding{}
		}
		return servers[server]
	}
	report := newDryRunReport(d.app, false, total, func(r skein.Result) {
		mu.Lock()
		defer mu.Unlock()
		f := at(r.Tenant.Target.Server())
		f.tenants++
		switch {
		case r.Err != nil:
			f.failed++
			f.reasons.add(r.Tenant.Slug, failureKey(r), r.Err.Error(), skein.Hint(r.Err))
		case known && stuck(r.Standing, policy) && r.Holder == nil:
			text := trouble(r)
			histories.add(r.Tenant.Slug, text, text, "see skein status "+shellQuote(r.Tenant.Slug))
		}
	})
	fleet := w.fleet(set, report.event)
	look := func(ctx context.Context, m *skein.Migrator, s skein.Session, t skein.Tenant) skein.Result {
		r := m.Assess(ctx, s, t, policy)
		reporter, ok := s.(skein.ServerReporter)
		if r.Err != nil || !ok {
			return r
		}
		mu.Lock()
		f := at(t.Target.Server())
		asked := f.info != nil
		if !asked {
			f.info = &skein.ServerInfo{} // so that no other worker asks too
		}
		mu.Unlock()
		if asked {
			return r
		}
		info, err := reporter.Server(ctx)
		if err != nil {
			r.Err = err
			return r
		}
		mu.Lock()
		*f.info = info
		mu.Unlock()
		return r
	}
	report.begin()
	sum, err := d.app.work(func() (skein.Summary, error) {
		return fleet.Each(ctx, w.tenants(ctx, filter), look)
	})
	if endErr := report.end(sum); err != nil || endErr != nil {
		return cmp.Or(err, endErr)
	}
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		d.tellServer(w, name, servers[name])
	}
	d.tellReasons("histories", histories, "skein status --json")
	if !d.json {
		d.app.printInterrupted(sum, total, "looked at")
	}
	return nil
}

func (d *doctor) tellServer(w *workspace, name string, f *serverFinding) {
	opts := w.fleetOptions()
	target, _ := skein.ParseTarget(name) // without a database, which does not matter
	bound, _ := opts.Bound(target)
	bound = min(bound, cmp.Or(opts.Parallel, bound))
	who := name
	if f.info != nil && f.info.Version != "" {
		who += ", " + f.info.Version
	}
	line := fmt.Sprintf("%s: %s", who, ui.Plural(f.tenants, "tenant"))
	switch {
	case f.failed == f.tenants:
		d.tell("server", wrong, line+", none of them can be used", "")
	case f.info != nil && f.info.ReadOnly:
		d.tell("server", wrong, line+"; it takes no changes (a standby, or set to read only)", "name the primary server in the tenants' rows")
	case f.info != nil && f.info.MaxConnections > 0 && f.info.Connections+bound > f.info.MaxConnections:
		d.tell("server", warning, fmt.Sprintf("%s; %s of its %s connections are in use, and up to %s more are asked for", line, ui.Count(f.info.Connections), ui.Count(f.info.MaxConnections), ui.Count(bound)), "lower limits.per_server, or this server's own limit under servers")
	case f.info != nil && f.info.MaxConnections > 0:
		d.tell("server", fine, fmt.Sprintf("%s; %s of %s connections in use, up to %s more for a run", line, ui.Count(f.info.Connections), ui.Count(f.info.MaxConnections), ui.Count(bound)), "")
	default:
		d.tell("server", fine, line, "")
	}
	d.tellReasons("tenants", f.reasons, "skein tenants check --json")
}
