package cli

import (
	"cmp"
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/central"
	"github.com/skeinhq/skein/internal/ui"
)

func (a *app) verifyCommand() *cobra.Command {
	var (
		sel    selection
		bounds limits
		dryRun bool
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:     "verify [TENANT...]",
		GroupID: "look",
		Short:   "Compare fingerprints with histories, and mend them",
		Long: `Connect to all active tenants, or those that are chosen, and compare the
fingerprint that is kept of each tenant's history with the history itself.

PostgreSQL tenants with a database each have a fingerprint, at the end of the
database's comment. By it migrate, plan and status know without connecting that
a tenant is up to date. It is written together with the history, and is wrong
only where somebody else changed rows of the history: by hand, by a rollback of
Knex alone, by restoring data into the tables that are there.

A fingerprint that is missing is written, and one that is wrong is mended. The
exit code is 1 if one was wrong, mended or not.

` + exitCodesHelp,
		Example: `  skein verify
  skein verify --where region=eu --dry-run`,
		ValidArgsFunction: a.slugArgs,
		RunE: func(cmd *cobra.Command, words []string) error {
			if !sel.given(words) {
				sel.all = true
			}
			w, filter, err := a.choose(cmd.Context(), &sel, words, &bounds)
			if err != nil {
				return err
			}
			defer w.close()
			return a.verify(cmd.Context(), w, filter, !dryRun, asJSON)
		},
	}
	sel.register(cmd, a)
	flags := cmd.Flags()
	flags.BoolVar(&dryRun, "dry-run", false, "compare, and change nothing")
	flags.BoolVar(&asJSON, "json", false, "one JSON object a line on standard output")
	bounds.register(flags)
	flags.SortFlags = false
	return cmd
}

func (a *app) verify(ctx context.Context, w *workspace, filter central.Filter, mend, asJSON bool) error {
	survey, err := w.store.Survey(ctx, filter)
	if err != nil {
		return err
	}
	set, err := w.migrations()
	if err != nil {
		return err
	}
	counts := make(map[skein.FingerprintState]int)
	var failed, wrong failures
	report := newDryRunReport(a, asJSON, survey.Tenants, func(r skein.Result) {
		if r.Err != nil {
			failed.add(r)
			return
		}
		counts[r.Fingerprint]++
		if r.Fingerprint == skein.FingerprintWrong {
			wrong.add(r)
		}
	})
	fleet := w.fleet(set, report.event)
	policy := w.cfg.Migrations.Policy
	report.begin()
	sum, err := a.work(func() (skein.Summary, error) {
		return fleet.Each(ctx, w.tenants(ctx, filter), func(ctx context.Context, m *skein.Migrator, s skein.Session, t skein.Tenant) skein.Result {
			return m.Verify(ctx, s, t, policy, mend)
		})
	})
	if endErr := report.end(sum); err != nil || endErr != nil {
		return cmp.Or(err, endErr)
	}
	if !asJSON {
		a.printFailures(failed)
		if err := a.printVerified(sum, counts, wrong, mend); err != nil {
			return err
		}
		a.printInterrupted(sum, survey.Tenants, "looked at")
	}
	if err := outcome(sum); err != nil {
		return err
	}
	if wrong.total > 0 {
		return errFailed
	}
	return nil
}

// printVerified says what was found, the worst last.
func (a *app) printVerified(sum skein.Summary, counts map[skein.FingerprintState]int, wrong failures, mend bool) error {
	out, term := a.Out, a.term
	if sum.Tenants == 0 {
		fmt.Fprintln(out, "No tenant to verify")
		return nil
	}
	fmt.Fprintf(out, "%s verified in %s", ui.Plural(sum.Tenants, "tenant"), ui.Took(sum.Duration))
	if sum.Failed > 0 {
		fmt.Fprint(out, ": ", term.OnOut(ui.Red, ui.Count(sum.Failed)+" failed"))
	}
	fmt.Fprintln(out)
	written, mended := "written now", "mended now"
	if !mend {
		written, mended = "left so", "left so"
	}
	var t ui.Table
	t.RightAlign(0)
	for _, line := range []struct {
		state skein.FingerprintState
		style ui.Style
		text  string
	}{
		{skein.FingerprintRight, ui.Green, "right"},
		{skein.FingerprintNeedless, ui.Dim, "without need of one: these histories are read each time"},
		{skein.FingerprintRefused, ui.Yellow, "without one that counts: the tenant's role does not own its database"},
		{skein.FingerprintMissing, ui.Yellow, "missing, " + written},
		{skein.FingerprintWrong, ui.Red, "wrong, " + mended + ": someone else changed the history"},
	} {
		if n := counts[line.state]; n > 0 {
			t.Row(ui.Count(n), ui.Styled(func(s string) string { return term.OnOut(line.style, s) }, line.text))
		}
	}
	if err := t.Write(out, "  "); err != nil {
		return err
	}
	if wrong.total > 0 {
		slugs := wrong.slugs(func(skein.Result) bool { return true })
		fmt.Fprintf(out, "Wrong in:  %s\n", ui.Printable(ui.Names(slugs, maxNamed, wrong.total)))
	}
	return nil
}
