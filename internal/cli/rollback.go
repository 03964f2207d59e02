package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/central"
	"github.com/skeinhq/skein/internal/ui"
)

func (a *app) rollbackCommand() *cobra.Command {
	var (
		sel    selection
		bounds limits
		policy policyFlags
		opts   = skein.PlanOptions{Direction: skein.Down}
		yes    bool
		dryRun bool
		sql    bool
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:     "rollback TENANT... | --all",
		Aliases: []string{"migrate:rollback"},
		GroupID: "work",
		Short:   "Revert the last batch, or more",
		Long: `Revert migrations by their down sections: in each tenant the last batch, which
is what the last run applied there, unless --steps, --to or --everything says
otherwise.

All plans are made before anything is reverted. If one of them needs a
migration that has no down section, or whose file is gone or was edited after
it was applied, nothing is reverted anywhere. More than one tenant is only
touched after you have said yes, at the prompt or by --yes.

` + exitCodesHelp,
		Example: `  skein rollback acme
  skein rollback acme --steps 2
  skein rollback --all --to 20240105090000 --yes`,
		ValidArgsFunction: a.slugArgs,
		RunE: func(cmd *cobra.Command, words []string) error {
			ctx := cmd.Context()
			given := 0
			for _, name := range []string{"steps", "to", "everything"} {
				if cmd.Flags().Changed(name) {
					given++
				}
			}
			if given > 1 {
				return errors.New("--steps, --to and --everything contradict each other: give one of them")
			}
			if cmd.Flags().Changed("steps") && opts.Steps < 1 {
				return fmt.Errorf("--steps %d is not a number from 1 up", opts.Steps)
			}
			w, filter, err := a.choose(ctx, &sel, words, &bounds)
			if err != nil {
				return err
			}
			defer w.close()
			set, err := w.migrations()
			if err != nil {
				return err
			}
			if opts.To != "" {
				if _, _, err := set.Resolve(opts.To); err != nil {
					return fmt.Errorf("--to: %w", err)
				}
			}
			opts.Policy = policy.policy(w.cfg)
			if dryRun || sql {
				return a.dryRun(ctx, w, set, filter, opts, sql, asJSON)
			}
			if err := a.prepareRollback(ctx, w, set, filter, opts, yes, asJSON); err != nil {
				return err
			}
			return a.carryOut(ctx, cmd, w, set, filter, opts, asJSON, words)
		},
	}
	sel.register(cmd, a)
	flags := cmd.Flags()
	flags.IntVar(&opts.Steps, "steps", 0, "revert the last `N` migrations of each tenant")
	flags.StringVar(&opts.To, "to", "", "revert all that came after this `version`, which stays")
	_ = cmd.RegisterFlagCompletionFunc("to", a.migrationNames)
	flags.BoolVar(&opts.Everything, "everything", false, "revert all migrations")
	flags.BoolVarP(&yes, "yes", "y", false, "do not ask before more than one tenant is touched")
	flags.BoolVar(&dryRun, "dry-run", false, "show the plan and change nothing")
	flags.BoolVar(&sql, "sql", false, "show the SQL that would be sent, and change nothing")
	flags.BoolVar(&asJSON, "json", false, "one JSON object a line on standard output")
	policy.register(flags)
	bounds.register(flags)
	bounds.registerTimeout(flags)
	flags.SortFlags = false
	return cmd
}

// prepareRollback makes all plans before the first is carried out, refuses if
// one cannot be, and asks where more than one tenant would be touched.
func (a *app) prepareRollback(ctx context.Context, w *workspace, set *skein.Set, filter central.Filter, opts skein.PlanOptions, yes, asJSON bool) error {
	survey, err := w.store.Survey(ctx, filter)
	if err != nil {
		return err
	}
	var refused failures
	tenants, migrations, plans := 0, 0, newPlanGroups(false)
	unread := 0 // tenants that the run itself may read, and then revert
	// What cannot be read now is told by the run itself.
	report := newTextReport(a, "", survey.Tenants)
	report.silent = true
	fleet := w.fleet(set, func(e skein.Event) {
		report.event(e)
		if e.Type != skein.TenantEnded {
			return
		}
		r := *e.Result
		if _, ok := errors.AsType[*skein.RefusedError](r.Err); ok {
			refused.add(r)
		} else if r.Err != nil {
			unread++
		}
		if n := len(r.Plan.Steps); n > 0 && r.Err == nil {
			tenants++
			migrations += n
			plans.add(r)
		}
	})
	if err := fleet.Parse(survey.Engines...); err != nil {
		return err
	}
	report.begin()
	sum, err := a.work(func() (skein.Summary, error) {
		if yes {
			return fleet.Revertible(ctx, w.tenants(ctx, filter), opts)
		}
		return fleet.Inspect(ctx, w.tenants(ctx, filter), opts)
	})
	report.close()
	if err != nil {
		return fmt.Errorf("read the tenants: %w", err)
	}
	if sum.Interrupted {
		a.errorf("interrupted: nothing was reverted")
		return errInterrupted
	}
	if refused.total > 0 {
		if asJSON {
			report := &jsonReport{app: a}
			for _, r := range refused.kept {
				report.write(tenantJSON(r, false))
			}
			end := skein.Summary{Tenants: sum.Tenants, Unchanged: sum.Tenants - refused.total, Failed: refused.total, Duration: sum.Duration}
			return cmp.Or(report.end(end, noNextStep), errFailed)
		}
		a.printFailures(refused)
		fmt.Fprintf(a.Out, "Nothing was reverted: %s cannot be rolled back\n", ui.Plural(refused.total, "tenant"))
		return errFailed
	}
	if tenants+unread <= 1 || yes {
		return nil
	}
	a.tellReverts(plans)
	question := fmt.Sprintf("Revert %s in %s?", ui.Plural(migrations, "migration"), ui.Plural(tenants, "tenant"))
	if unread > 0 {
		question = fmt.Sprintf("Revert %s in %s, and likewise in %s that cannot be read now, should they be by then?",
			ui.Plural(migrations, "migration"), ui.Plural(tenants, "tenant"), ui.Count(unread))
	}
	return a.confirm(ctx, question, "--yes")
}

// maxReverts bounds the plans that are shown before a question, and the
// migrations of each.
const maxReverts = 10

// tellReverts shows a person what a question is about.
func (a *app) tellReverts(plans *planGroups) {
	sorted := plans.sorted()
	for i, g := range sorted {
		if i == maxReverts {
			a.notef("and %s more (all with --dry-run)", ui.Plural(len(sorted)-i, "plan"))
			break
		}
		fmt.Fprintf(a.Err, "%s (%s):\n", a.term.OnErr(ui.Bold, ui.Plural(g.count, "tenant")), ui.Printable(ui.Names(g.sample, sampleSize, g.count)))
		names := g.plan.Names()
		for _, name := range names[:min(len(names), maxReverts)] {
			fmt.Fprintf(a.Err, "  revert %s\n", ui.Printable(name))
		}
		if more := len(names) - maxReverts; more > 0 {
			fmt.Fprintf(a.Err, "  and %s more\n", ui.Count(more))
		}
	}
}

// errDeclined is returned by a command whose question was answered with no.
var errDeclined = errors.New("nothing was changed")

// confirm asks a person, and is errDeclined unless the answer is yes. Where there
// is nobody to ask it refuses, and names the flag that goes on without asking.
func (a *app) confirm(ctx context.Context, question, flag string) error {
	if ui.Keyboard(a.In) == nil {
		return fmt.Errorf("%s There is no terminal to ask at: give %s if that is meant", question, flag)
	}
	fmt.Fprintf(a.Err, "%s [y/N] ", question)
	answers := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(a.In).ReadString('\n')
		answers <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case answer := <-answers:
		if answer == "y" || answer == "yes" {
			return nil
		}
		fmt.Fprintln(a.Out, "Nothing was changed")
		return errDeclined
	case <-a.stop:
		fmt.Fprintln(a.Err)
		return errInterrupted
	case <-ctx.Done():
		return ctx.Err()
	}
}
