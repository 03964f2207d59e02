package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/central"
	"github.com/skeinhq/skein/internal/config"
	"github.com/skeinhq/skein/internal/ui"
)

// A migrateRun is one call of migrate or plan.
type migrateRun struct {
	app    *app
	sel    selection
	limits limits
	policy policyFlags
	settle settleFlags
	opts   skein.PlanOptions
	dryRun bool
	sql    bool
	json   bool
}

// policyFlags let pass what the settings do not.
type policyFlags struct{ missing, outOfOrder bool }

func (p *policyFlags) register(flags *pflag.FlagSet) {
	flags.BoolVar(&p.missing, "allow-missing", false, "go on in tenants that have applied a migration whose file is gone")
	flags.BoolVar(&p.outOfOrder, "allow-out-of-order", false, "apply pending migrations that are older than the newest applied one")
}

func (p policyFlags) policy(cfg *config.Config) skein.Policy {
	policy := cfg.Migrations.Policy
	policy.AllowMissing = policy.AllowMissing || p.missing
	policy.AllowOutOfOrder = policy.AllowOutOfOrder || p.outOfOrder
	return policy
}

func (a *app) migrateCommand() *cobra.Command {
	run := &migrateRun{app: a}
	cmd := &cobra.Command{
		Use:     "migrate TENANT... | --all",
		Aliases: []string{"migrate:tenant"},
		GroupID: "work",
		Short:   "Apply pending migrations",
		Long: `Apply pending migrations to the tenants that are named by slug or id, or
chosen by flags.

Tenants are migrated in parallel. One that fails does not stop the others, and
is reported at the end with the command to go on with; running the same command
again does only what is not done yet.

A migration that could not be one transaction and broke in its middle is recorded
as partial, and nothing else runs in its tenant until it is settled: --continue
goes on with the statement that failed (not in a Knex migration, which only Knex
can run, and as a whole), --redo begins with the first, and --mark-applied and
--mark-reverted record what somebody has done by hand. Other migrations are not
run by these.

An interrupt (Ctrl-C) lets the migrations that have begun end and begins no
others; a second one leaves at once.

` + exitCodesHelp,
		Example: `  skein migrate acme
  skein migrate --all
  skein migrate --tenants 'beta-*,@more.txt' --skip-tenants beta-7
  skein migrate --where tier=internal --to 20240105090000
  skein migrate --all --dry-run
  skein migrate acme --continue`,
		ValidArgsFunction: a.slugArgs,
		RunE:              run.run,
	}
	run.register(cmd)
	cmd.Flags().BoolVar(&run.dryRun, "dry-run", false, "show the plan and change nothing (also: skein plan)")
	cmd.Flags().StringVar(&run.opts.Baseline, "baseline", "", "record all up to this `version` as applied, without running them, in tenants without a history")
	_ = cmd.RegisterFlagCompletionFunc("baseline", a.migrationNames)
	run.settle.register(cmd)
	return cmd
}

// migrateAllCommand is the name that many teams' scripts have for migrate --all.
func (a *app) migrateAllCommand() *cobra.Command {
	run := &migrateRun{app: a, sel: selection{}}
	cmd := &cobra.Command{
		Use:    "migrate:all-tenants",
		Hidden: true,
		Short:  "The same as migrate --all",
		Long:   "The same as migrate --all, by the name that many scripts have for it.\n\n" + exitCodesHelp,
		Args:   noArguments,
		RunE: func(cmd *cobra.Command, args []string) error {
			run.sel.all = len(run.sel.only) == 0
			return run.run(cmd, args)
		},
	}
	run.register(cmd)
	cmd.Flags().BoolVar(&run.dryRun, "dry-run", false, "show the plan and change nothing (also: skein plan)")
	return cmd
}

func (a *app) planCommand() *cobra.Command {
	run := &migrateRun{app: a, dryRun: true}
	cmd := &cobra.Command{
		Use:     "plan TENANT... | --all",
		GroupID: "look",
		Short:   "Show what migrate would do",
		Long: `Show what migrate would do, and change nothing. Tenants with the same plan are
shown as one group. A plan that would be refused is shown with its reason.

` + exitCodesHelp,
		Example: `  skein plan --all
  skein plan acme --sql`,
		ValidArgsFunction: a.slugArgs,
		RunE:              run.run,
	}
	run.register(cmd)
	return cmd
}

func (m *migrateRun) register(cmd *cobra.Command) {
	m.sel.register(cmd, m.app)
	flags := cmd.Flags()
	flags.StringVar(&m.opts.To, "to", "", "apply up to and with this `version`, or name of a migration")
	_ = cmd.RegisterFlagCompletionFunc("to", m.app.migrationNames)
	flags.IntVar(&m.opts.Steps, "steps", 0, "apply at most `N` migrations in each tenant")
	flags.BoolVar(&m.sql, "sql", false, "show the SQL that would be sent, and change nothing")
	flags.BoolVar(&m.json, "json", false, "one JSON object a line on standard output")
	m.policy.register(flags)
	m.limits.register(flags)
	m.limits.registerTimeout(flags)
	m.limits.registerFullCheck(flags)
	flags.SortFlags = false
}

func (m *migrateRun) run(cmd *cobra.Command, words []string) error {
	ctx := cmd.Context()
	if err := m.check(cmd); err != nil {
		return err
	}
	var err error
	if m.opts.Settle, err = m.settle.settlement(m, words); err != nil {
		return err
	}
	w, filter, err := m.app.choose(ctx, &m.sel, words, &m.limits)
	if err != nil {
		return err
	}
	defer w.close()
	set, err := w.migrations()
	if err != nil {
		return err
	}
	m.opts.Policy = m.policy.policy(w.cfg)
	for flag, word := range map[string]string{"--to": m.opts.To, "--baseline": m.opts.Baseline} {
		if word == "" {
			continue
		}
		if _, _, err := set.Resolve(word); err != nil {
			return fmt.Errorf("%s: %w", flag, err)
		}
	}
	if m.dryRun || m.sql {
		return m.app.dryRun(ctx, w, set, filter, m.opts, m.sql, m.json)
	}
	return m.app.carryOut(ctx, cmd, w, set, filter, m.opts, m.json, words)
}

func (m *migrateRun) check(cmd *cobra.Command) error {
	if cmd.Flags().Changed("steps") && m.opts.Steps < 1 {
		return fmt.Errorf("--steps %d is not a number from 1 up", m.opts.Steps)
	}
	if m.opts.Baseline != "" && (m.opts.To != "" || m.opts.Steps > 0) {
		return errors.New("--baseline says by itself how far: leave --to and --steps out")
	}
	return nil
}

// carryOut runs a plan in the tenants that a filter selects, and shows it.
func (a *app) carryOut(ctx context.Context, cmd *cobra.Command, w *workspace, set *skein.Set, filter central.Filter, opts skein.PlanOptions, asJSON bool, words []string) error {
	survey, err := w.store.Survey(ctx, filter)
	if err != nil {
		return err
	}
	var report reporter
	if asJSON {
		report = &jsonReport{app: a}
	} else {
		report = newTextReport(a, runVerb(opts), survey.Tenants)
	}
	fleet := w.fleet(set, report.event)
	if err := fleet.Parse(survey.Engines...); err != nil {
		return err
	}
	report.begin()
	sum, err := a.work(func() (skein.Summary, error) {
		return fleet.Migrate(ctx, w.tenants(ctx, filter), opts)
	})
	endErr := report.end(sum, func(failed failures) (command, caution string) {
		return goOnWith(cmd, words, failed, sum.Interrupted, opts)
	})
	if err != nil {
		return fmt.Errorf("read the tenants: %w", err)
	}
	return cmp.Or(endErr, outcome(sum))
}

func outcome(sum skein.Summary) error {
	switch {
	case sum.Interrupted:
		return errInterrupted
	case sum.Failed > 0:
		return errFailed
	}
	return nil
}

// settled is the verb of a run that settles what stopped, and runs nothing else.
const settled = "Settled"

func runVerb(opts skein.PlanOptions) string {
	switch {
	case opts.Baseline != "":
		return "Recorded the baseline in"
	case opts.Settle != "":
		return settled
	case opts.Direction == skein.Down:
		return "Rolled back"
	}
	return "Migrated"
}

// few is how many tenants a command to go on with names rather than select
// them as before, and many how many it names where selecting them as before
// would do harm.
const few, many = 5, 50

// goOnWith is the command that does what a run left undone: the same command,
// for just the tenants that failed where they are few and nothing else is left.
//
// A command that counts (the next two, the last batch) does more each time it is
// repeated, and so may not be repeated where it has been carried out.
func goOnWith(cmd *cobra.Command, words []string, failed failures, interrupted bool, opts skein.PlanOptions) (command, caution string) {
	if opts.Baseline != "" && !interrupted && !slices.ContainsFunc(failed.kept, func(r skein.Result) bool { return !refusedBecause(r.Err, skein.ReasonNotEmpty) }) {
		return "", "" // these have a history, and never need a baseline
	}
	stopped := func(r skein.Result) bool { _, ok := stopOf(r); return ok }
	if !interrupted && failed.total == len(failed.kept) && !slices.ContainsFunc(failed.kept, func(r skein.Result) bool { return !stopped(r) }) {
		return "", "" // these are to be settled first, which their failures say
	}
	counts := opts.Steps > 0 || opts.Direction == skein.Down && opts.To == "" && !opts.Everything
	named := !interrupted && failed.total <= few
	if counts {
		begun := slices.ContainsFunc(failed.kept, func(r skein.Result) bool { return len(r.Done) > 0 })
		named = !interrupted && failed.total <= many && (opts.Steps == 0 || !begun)
		if !named {
			verb := "apply"
			if opts.Direction == skein.Down {
				verb = "revert"
			}
			return "", fmt.Sprintf("The same command again would %s more where this one did its work: see first who is where, with skein status", verb)
		}
	}
	args := strings.Fields(cmd.CommandPath())
	if named {
		words = failed.slugs(func(r skein.Result) bool { return !stopped(r) })
		if args[1] == "migrate:all-tenants" {
			args[1] = "migrate"
		}
	}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		switch f.Name {
		case "quiet", "verbose", "no-color":
			return
		case "all", "tenants", "skip-tenants", "where":
			if named {
				return
			}
		}
		switch v := f.Value.(type) {
		case pflag.SliceValue:
			for _, s := range v.GetSlice() {
				args = append(args, "--"+f.Name, s)
			}
		default:
			if f.Value.Type() == "bool" && f.Value.String() == "true" {
				args = append(args, "--"+f.Name)
			} else {
				args = append(args, "--"+f.Name, f.Value.String())
			}
		}
	})
	return shellCommand(args, words), ""
}

func refusedBecause(err error, reason skein.Reason) bool {
	e, ok := errors.AsType[*skein.RefusedError](err)
	return ok && e.Reason == reason
}

// A planGroup is the tenants with the same plan.
type planGroup struct {
	plan   skein.Plan
	engine string // of the first; with --sql it is a part of what makes a group
	err    error
	stop   *skein.Stop // of a migration that has to be settled first
	count  int
	sample []string // the first slugs
}

// sampleSize is how many tenants of a group are named.
const sampleSize = 3

// maxErrorGroups bounds the errors that are told one by one: where each tenant
// has its own, there may be as many as tenants.
const maxErrorGroups = 200

// planGroups are the plans of many tenants.
type planGroups struct {
	bySQL  bool // tenants are only alike on the same engine
	groups map[string]*planGroup
	errors int // groups that have no plan
	untold int // tenants in such groups beyond maxErrorGroups
}

func newPlanGroups(bySQL bool) *planGroups {
	return &planGroups{bySQL: bySQL, groups: make(map[string]*planGroup)}
}

func (p *planGroups) add(r skein.Result) {
	key := r.Plan.Key()
	if p.bySQL && len(r.Plan.Steps) > 0 {
		key = r.Tenant.Target.Engine + "\n" + key
	}
	if r.Err != nil {
		key = "!" + r.Err.Error()
	}
	g := p.groups[key]
	if g == nil {
		if r.Err != nil {
			if p.errors++; p.errors > maxErrorGroups {
				p.untold++
				return
			}
		}
		g = &planGroup{plan: r.Plan, err: r.Err, engine: r.Tenant.Target.Engine}
		if stop, ok := stopOf(r); ok {
			g.stop = &stop
		}
		p.groups[key] = g
	}
	g.count++
	g.sample = keepFirst(g.sample, r.Tenant.Slug, sampleSize, strings.Compare)
}

// sorted has what would be done first, and what cannot be done last, where it is
// seen.
func (p *planGroups) sorted() []*planGroup {
	rank := func(g *planGroup) int {
		switch {
		case g.err != nil:
			return 2
		case len(g.plan.Steps) == 0:
			return 1
		}
		return 0
	}
	return slices.SortedFunc(maps.Values(p.groups), func(x, y *planGroup) int {
		return cmp.Or(rank(x)-rank(y), y.count-x.count, strings.Compare(x.sample[0], y.sample[0]))
	})
}

// dryRun shows what opts would do in the tenants that a filter selects.
func (a *app) dryRun(ctx context.Context, w *workspace, set *skein.Set, filter central.Filter, opts skein.PlanOptions, sql, asJSON bool) error {
	survey, err := w.store.Survey(ctx, filter)
	if err != nil {
		return err
	}
	plans := newPlanGroups(sql)
	report := newDryRunReport(a, asJSON, survey.Tenants, plans.add)
	fleet := w.fleet(set, report.event)
	if err := fleet.Parse(survey.Engines...); err != nil {
		return err
	}
	report.begin()
	sum, err := a.work(func() (skein.Summary, error) {
		return fleet.Inspect(ctx, w.tenants(ctx, filter), opts)
	})
	if endErr := report.end(sum); err != nil || endErr != nil {
		return cmp.Or(err, endErr)
	}
	if !asJSON {
		var show showSQL
		if sql {
			previews := knexPreviews{w: w}
			show = func(g *planGroup, m *skein.Migration) error { return a.printSQL(ctx, fleet, &previews, g, m) }
		}
		if err := a.printPlans(plans, sum, show); err != nil {
			return err
		}
		a.printInterrupted(sum, survey.Tenants, "looked at")
	}
	return outcome(sum)
}

// showSQL shows the SQL of a migration in the plan of a group.
type showSQL func(*planGroup, *skein.Migration) error

// printPlans shows plans as lists of migrations, or with show as their SQL.
func (a *app) printPlans(plans *planGroups, sum skein.Summary, show showSQL) error {
	sql := show != nil
	out, term := a.Out, a.term
	for _, g := range plans.sorted() {
		who := fmt.Sprintf("%s (%s)", term.OnOut(ui.Bold, ui.Plural(g.count, "tenant")), ui.Printable(ui.Names(g.sample, sampleSize, g.count)))
		comment := ""
		if sql {
			comment = "-- "
		}
		switch {
		case g.err != nil:
			fmt.Fprintf(out, "%s%s: %s\n", comment, who, term.OnOut(ui.Red, "cannot"))
			fmt.Fprintf(out, "%s  %s\n", comment, ui.Printable(g.err.Error()))
			if g.stop != nil && !sql {
				slugs := g.sample
				if g.count > len(slugs) {
					slugs = []string{"TENANT"}
				}
				a.printWays(*g.stop, slugs)
			} else if hint := skein.Hint(g.err); hint != "" {
				fmt.Fprintf(out, "%s  hint: %s\n", comment, ui.Printable(hint))
			}
		case len(g.plan.Steps) == 0:
			fmt.Fprintf(out, "%s%s: nothing to do\n", comment, who)
		default:
			verb := planVerb(g.plan)
			fmt.Fprintf(out, "%s%s: %s %s%s\n", comment, who, verb, ui.Plural(len(g.plan.Steps), "migration"), recordedAs(g.plan))
			for _, m := range g.plan.Steps {
				if sql {
					if err := show(g, m); err != nil {
						return err
					}
					continue
				}
				from := ""
				if g.plan.From > 0 {
					from = fmt.Sprintf(" from statement %d on", g.plan.From+1)
				}
				fmt.Fprintf(out, "  %s %s%s\n", verb, ui.Printable(m.Name), from)
			}
			for _, warning := range g.plan.Warnings {
				fmt.Fprintf(out, "%s  %s %s\n", comment, term.OnOut(ui.Yellow, "warning:"), ui.Printable(warning))
			}
		}
	}
	if plans.untold > 0 {
		fmt.Fprintf(out, "and %s more that cannot (all with --json)\n", ui.Plural(plans.untold, "tenant"))
	}
	if sum.Tenants == 0 {
		fmt.Fprintln(out, "No tenant to work on")
	}
	return nil
}

// recordedAs says as what migrations are recorded that are not run.
func recordedAs(p skein.Plan) string {
	switch {
	case !p.RecordOnly:
		return ""
	case p.Direction == skein.Down:
		return " as reverted"
	}
	return " as applied"
}

func planVerb(p skein.Plan) string {
	switch {
	case p.RecordOnly:
		return "record"
	case p.Direction == skein.Down:
		return "revert"
	}
	return "apply"
}

// printSQL shows what would be sent for one migration.
func (a *app) printSQL(ctx context.Context, fleet *skein.Fleet, previews *knexPreviews, g *planGroup, m *skein.Migration) error {
	section := m.Section(g.plan.Direction)
	how := "in one transaction, with its record"
	switch {
	case g.plan.RecordOnly:
		fmt.Fprintf(a.Out, "\n-- %s: recorded, not run\n", ui.Printable(m.Name))
		return nil
	case m.Kind == skein.Knex:
		return a.printKnexSQL(ctx, previews, g, m)
	case g.engine == skein.MySQL:
		how = "statement by statement: the database commits each change of a table"
	case section.NoTransaction:
		how = "statement by statement, without a transaction"
	}
	statements, err := fleet.Statements(g.engine, section)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.Out, "\n-- %s %s (%s)\n", ui.Printable(m.Name), g.plan.Direction, how)
	for _, s := range statements[min(g.plan.From, len(statements)):] {
		fmt.Fprintf(a.Out, "%s;\n", s.Text)
	}
	return nil
}

// A dryRunReport collects the results of a run that changes nothing.
type dryRunReport struct {
	collect func(skein.Result)
	detail  func(skein.Result, *jsonTenant) // adds to what --json tells, nil: nothing
	json    *jsonReport
	text    *textReport
}

func newDryRunReport(a *app, asJSON bool, total int, collect func(skein.Result)) *dryRunReport {
	r := &dryRunReport{collect: collect}
	if asJSON {
		r.json = &jsonReport{app: a}
	} else {
		r.text = newTextReport(a, "", total)
		r.text.silent = true
	}
	return r
}

func (r *dryRunReport) event(e skein.Event) {
	if r.json != nil {
		r.json.trouble(e)
	}
	if e.Type == skein.TenantEnded {
		if r.json != nil {
			j := tenantJSON(*e.Result, true)
			if r.detail != nil {
				r.detail(*e.Result, &j)
			}
			r.json.write(j)
		}
		if !errors.Is(e.Result.Err, skein.ErrInterrupted) {
			r.collect(*e.Result)
		}
	}
	if r.text != nil {
		r.text.event(e)
	}
}

func (r *dryRunReport) begin() {
	if r.text != nil {
		r.text.begin()
	}
}

func (r *dryRunReport) end(sum skein.Summary) error {
	if r.json != nil {
		return r.json.end(sum, noNextStep)
	}
	r.text.close()
	return nil
}
