package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/central"
	"github.com/skeinhq/skein/internal/ui"
)

func (a *app) statusCommand() *cobra.Command {
	var (
		sel    selection
		bounds limits
		asJSON bool
		check  bool
	)
	cmd := &cobra.Command{
		Use:     "status [TENANT...]",
		Aliases: []string{"migrate:list", "migrate:status"},
		GroupID: "look",
		Short:   "Show which tenants are where",
		Long: `Show which tenants are where: all active tenants, or those that are chosen,
grouped by state and version, and below them those that need a person. For a
single TENANT each migration is shown.

The states:
  up to date   all migrations are applied
  behind       some are pending
  ahead        it has migrations newer than all files here
  missing      a migration is applied whose file is gone
  edited       a file was changed after it was applied
  partial      a migration began and did not end
  unreachable  the history could not be read

` + exitCodesHelp,
		Example: `  skein status
  skein status acme
  skein status --where region=eu --check   # exit code 1 unless all are up to date`,
		ValidArgsFunction: a.slugArgs,
		RunE: func(cmd *cobra.Command, words []string) error {
			ctx := cmd.Context()
			if !sel.given(words) {
				sel.all = true
			}
			filter, err := sel.filter(a, words)
			if err != nil {
				return err
			}
			w, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer w.close()
			if err := bounds.apply(&w.cfg.Limits); err != nil {
				return err
			}
			set, err := w.migrations()
			if err != nil {
				return err
			}
			if len(words) == 1 && len(sel.only) == 0 && !asJSON {
				return a.statusOfOne(ctx, w, set, words[0], check)
			}
			return a.statusOfMany(ctx, w, set, filter, asJSON, check)
		},
	}
	sel.register(cmd, a)
	flags := cmd.Flags()
	flags.BoolVar(&check, "check", false, "exit with 1 unless all tenants are up to date")
	flags.BoolVar(&asJSON, "json", false, "one JSON object a line on standard output")
	bounds.register(flags)
	flags.SortFlags = false
	return cmd
}

// A standGroup is the tenants that stand alike.
type standGroup struct {
	state   skein.State
	version string
	pending int
	count   int
	sample  []string
}

// needsPerson says whether a state does not mend itself by migrating.
func needsPerson(s skein.State) bool {
	return s != skein.StateUpToDate && s != skein.StateBehind && s != skein.StateAhead
}

// maxNamed bounds the tenants that are listed by name.
const maxNamed = 50

func (a *app) statusOfMany(ctx context.Context, w *workspace, set *skein.Set, filter central.Filter, asJSON, check bool) error {
	type groupKey struct {
		state   skein.State
		version string
		pending int
	}
	groups := make(map[groupKey]*standGroup)
	var troubled []skein.Result
	troubledTotal, notUpToDate := 0, 0
	collect := func(r skein.Result) {
		s := r.Standing
		k := groupKey{state: s.State, pending: len(s.Pending)}
		if s.Newest != nil {
			k.version = s.Newest.Version
		}
		g := groups[k]
		if g == nil {
			g = &standGroup{state: k.state, version: k.version, pending: k.pending}
			groups[k] = g
		}
		g.count++
		if len(g.sample) < sampleSize {
			g.sample = append(g.sample, r.Tenant.Slug)
		}
		if s.State != skein.StateUpToDate {
			notUpToDate++
		}
		if needsPerson(s.State) || len(s.OutOfOrder) > 0 || s.KnexLocked {
			troubledTotal++
			if len(troubled) < maxNamed {
				troubled = append(troubled, r)
			}
		}
	}
	report := newDryRunReport(a, asJSON, collect)
	fleet := w.fleet(set, report.event)
	policy := w.cfg.Migrations.Policy
	report.begin()
	sum, err := fleet.Each(ctx, w.tenants(ctx, filter), func(ctx context.Context, m *skein.Migrator, s skein.Session, t skein.Tenant) skein.Result {
		return m.Assess(ctx, s, t, policy)
	})
	if endErr := report.end(sum); err != nil || endErr != nil {
		return cmp.Or(err, endErr)
	}
	if !asJSON {
		sorted := make([]*standGroup, 0, len(groups))
		for _, g := range groups {
			slices.Sort(g.sample)
			sorted = append(sorted, g)
		}
		if err := a.printStatus(sorted, troubled, troubledTotal, sum, set, policy); err != nil {
			return err
		}
	}
	switch {
	case sum.Interrupted:
		return errInterrupted
	case sum.Failed > 0, check && notUpToDate > 0:
		return errFailed
	}
	return nil
}

func (a *app) printStatus(groups []*standGroup, troubled []skein.Result, troubledTotal int, sum skein.Summary, set *skein.Set, policy skein.Policy) error {
	out, term := a.Out, a.term
	if sum.Tenants == 0 {
		fmt.Fprintln(out, "No active tenants. Add one with: skein tenants add")
		return nil
	}
	rank := map[skein.State]int{
		skein.StateUpToDate: 0, skein.StateBehind: 1, skein.StateAhead: 2, skein.StateMissing: 3,
		skein.StateEdited: 4, skein.StatePartial: 5, skein.StateUnreachable: 6,
	}
	slices.SortFunc(groups, func(x, y *standGroup) int {
		return cmp.Or(cmp.Compare(rank[x.state], rank[y.state]), cmp.Compare(x.pending, y.pending), cmp.Compare(y.count, x.count), cmp.Compare(x.version, y.version))
	})
	var t ui.Table
	t.RightAlign(0)
	dim := func(s string) string { return term.OnOut(ui.Dim, s) }
	t.Row(ui.Styled(dim, "TENANTS"), ui.Styled(dim, "STATE"), ui.Styled(dim, "VERSION"), ui.Styled(dim, "WHICH"))
	for _, g := range groups {
		state := string(g.state)
		if g.state == skein.StateBehind {
			state = fmt.Sprintf("behind by %s", ui.Count(g.pending))
		}
		version := g.version
		if version == "" && g.state != skein.StateUnreachable {
			version = "none"
		}
		t.Row(ui.Count(g.count), ui.Styled(func(s string) string { return term.OnOut(stateStyle(g.state), s) }, state), version, ui.Names(g.sample, sampleSize, g.count))
	}
	if err := t.Write(out, ""); err != nil {
		return err
	}
	newest := "no migrations"
	if set.Len() > 0 {
		newest = "the newest of " + ui.Plural(set.Len(), "migration") + " is " + set.All()[set.Len()-1].Name
	}
	fmt.Fprintf(out, "\n%s in %s; %s\n", ui.Plural(sum.Tenants, "tenant"), ui.Took(sum.Duration), ui.Printable(newest))

	if troubledTotal > 0 {
		fmt.Fprintf(out, "\n%s\n", term.OnOut(ui.Bold, "These need a person:"))
		slices.SortFunc(troubled, func(x, y skein.Result) int {
			return cmp.Or(cmp.Compare(rank[y.Standing.State], rank[x.Standing.State]), cmp.Compare(x.Tenant.Slug, y.Tenant.Slug))
		})
		var t ui.Table
		for _, r := range troubled {
			t.Row(r.Tenant.Slug, ui.Styled(func(s string) string { return term.OnOut(stateStyle(r.Standing.State), s) }, string(r.Standing.State)), trouble(r))
		}
		if err := t.Write(out, "  "); err != nil {
			return err
		}
		if more := troubledTotal - len(troubled); more > 0 {
			fmt.Fprintf(out, "  and %s more (all with --json)\n", ui.Count(more))
		}
	}
	for _, g := range groups {
		if g.state == skein.StateBehind {
			fmt.Fprintf(out, "\nBring them up to date with:  skein migrate --all\n")
			break
		}
	}
	return nil
}

func stateStyle(s skein.State) ui.Style {
	switch s {
	case skein.StateUpToDate:
		return ui.Green
	case skein.StateBehind, skein.StateAhead:
		return ui.Yellow
	}
	return ui.Red
}

// trouble says in a line why a tenant needs a person.
func trouble(r skein.Result) string {
	s := r.Standing
	var parts []string
	if r.Err != nil {
		parts = append(parts, r.Err.Error())
	}
	for _, p := range s.Partial {
		parts = append(parts, fmt.Sprintf("%s: %d of %d statements done", p.Name, p.Done, p.Total))
	}
	if len(s.Edited) > 0 {
		parts = append(parts, "edited: "+ui.Names(migrationNames(s.Edited), 3, len(s.Edited)))
	}
	if len(s.Missing) > 0 && s.State != skein.StateAhead {
		names := make([]string, len(s.Missing))
		for i, m := range s.Missing {
			names[i] = m.Name
		}
		parts = append(parts, "without a file: "+ui.Names(names, 3, len(names)))
	}
	if len(s.OutOfOrder) > 0 {
		parts = append(parts, "pending, and older than "+s.Newest.Name+": "+ui.Names(migrationNames(s.OutOfOrder), 3, len(s.OutOfOrder)))
	}
	if s.KnexLocked {
		parts = append(parts, "Knex's lock is set")
	}
	return strings.Join(parts, "; ")
}

func migrationNames(migrations []*skein.Migration) []string {
	names := make([]string, len(migrations))
	for i, m := range migrations {
		names[i] = m.Name
	}
	return names
}

// statusOfOne shows each migration of one tenant.
func (a *app) statusOfOne(ctx context.Context, w *workspace, set *skein.Set, word string, check bool) error {
	tenant, err := w.store.Find(ctx, word)
	if err != nil {
		return err
	}
	tenant = w.local(tenant)
	policy := w.cfg.Migrations.Policy
	var result skein.Result
	fleet := w.fleet(set, func(e skein.Event) {
		if e.Type == skein.TenantEnded {
			result = *e.Result
		}
	})
	one := func(yield func(skein.Tenant, error) bool) { yield(tenant, nil) }
	sum, err := fleet.Each(ctx, one, func(ctx context.Context, m *skein.Migrator, s skein.Session, t skein.Tenant) skein.Result {
		return m.Assess(ctx, s, t, policy)
	})
	if err != nil {
		return err
	}
	if sum.Tenants == 0 {
		return errInterrupted
	}
	if result.Err != nil {
		a.printFailure(tenant.Slug, result.Err)
		return errFailed
	}
	if err := a.printTenantStatus(set, result); err != nil {
		return err
	}
	if check && result.Standing.State != skein.StateUpToDate {
		return errFailed
	}
	return nil
}

func (a *app) printTenantStatus(set *skein.Set, r skein.Result) error {
	out, term, s := a.Out, a.term, r.Standing
	name := r.Tenant.Slug
	if r.Tenant.Name != "" {
		name += " (" + r.Tenant.Name + ")"
	}
	state := string(s.State)
	if s.State == skein.StateBehind {
		state = fmt.Sprintf("behind by %s", ui.Count(len(s.Pending)))
	}
	fmt.Fprintf(out, "%s  %s\n%s\n\n", term.OnOut(ui.Bold, ui.Printable(name)), term.OnOut(stateStyle(s.State), state), ui.Printable(r.Tenant.Target.String()))

	dim := func(s string) string { return term.OnOut(ui.Dim, s) }
	var t ui.Table
	t.RightAlign(2, 4)
	t.Row(ui.Styled(dim, "MIGRATION"), ui.Styled(dim, "STATE"), ui.Styled(dim, "BATCH"), ui.Styled(dim, "APPLIED"), ui.Styled(dim, "TOOK"), ui.Styled(dim, "BY"))
	for _, line := range tenantLines(set, r.History, s) {
		t.Row(line.name, ui.Styled(func(s string) string { return term.OnOut(line.style, s) }, line.state), line.batch, line.at, line.took, line.by)
	}
	if err := t.Write(out, ""); err != nil {
		return err
	}
	if s.KnexLocked {
		fmt.Fprintf(out, "\n%s Knex's lock is set: a Knex process is at work here or was killed (skein unlock %s)\n", term.OnOut(ui.Red, "!"), shellQuote(r.Tenant.Slug))
	}
	return nil
}

type statusLine struct {
	name, state, batch, at, took, by string
	style                            ui.Style
}

// tenantLines are a tenant's migrations in the order of the files, those
// without a file first where they were applied before the others.
func tenantLines(set *skein.Set, history skein.History, s skein.Standing) []statusLine {
	records := make(map[string]skein.Record, len(history.Records))
	for _, r := range history.Records {
		records[r.Name] = r
	}
	recorded := func(r skein.Record, state string, style ui.Style) statusLine {
		line := statusLine{name: r.Name, state: state, style: style, batch: ui.Count(r.Batch), by: r.By}
		if !r.AppliedAt.IsZero() {
			line.at = r.AppliedAt.Local().Format(time.DateTime)
		}
		if r.Duration > 0 {
			line.took = ui.Took(r.Duration)
		}
		switch {
		case r.InKnex && r.By == "":
			line.by = "knex"
		case line.by != "" && r.Tool != "":
			line.by += " (" + r.Tool + ")"
		}
		return line
	}
	var lines []statusLine
	for _, m := range set.All() {
		r, ok := records[m.Name]
		switch {
		case !ok && slices.Contains(s.OutOfOrder, m):
			lines = append(lines, statusLine{name: m.Name, state: "pending, out of order", style: ui.Red})
		case !ok:
			lines = append(lines, statusLine{name: m.Name, state: "pending", style: ui.Yellow})
		case r.Partial():
			lines = append(lines, recorded(r, fmt.Sprintf("partial, %d of %d", r.Done, r.Total), ui.Red))
		case slices.Contains(s.Edited, m):
			lines = append(lines, recorded(r, "applied, edited since", ui.Red))
		default:
			lines = append(lines, recorded(r, "applied", ui.Green))
		}
	}
	for _, r := range s.Missing {
		lines = append(lines, recorded(r, "applied, no file", ui.Red))
	}
	for _, r := range s.Partial {
		if m, _ := set.Find(r.Name); m == nil {
			lines = append(lines, recorded(r, fmt.Sprintf("partial, %d of %d, no file", r.Done, r.Total), ui.Red))
		}
	}
	return lines
}
