package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
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
			w, filter, err := a.choose(ctx, &sel, words, &bounds)
			if err != nil {
				return err
			}
			defer w.close()
			set, err := w.migrations()
			if err != nil {
				return err
			}
			named := !slices.ContainsFunc(words, func(w string) bool { return strings.Contains(w, "*") })
			if named && len(words) == 1 && len(sel.only)+len(sel.skip)+len(sel.where) == 0 && !asJSON {
				return a.statusOfOne(ctx, w, set, words[0], check)
			}
			v := &statusView{app: a, json: asJSON, check: check, detailed: named && len(words) > 0, behind: sel.again("migrate", words)}
			return v.ofMany(ctx, w, set, filter)
		},
	}
	sel.register(cmd, a)
	flags := cmd.Flags()
	flags.BoolVar(&check, "check", false, "exit with 1 unless all tenants are up to date")
	flags.BoolVar(&asJSON, "json", false, "one JSON object a line on standard output")
	bounds.register(flags)
	bounds.registerFullCheck(flags)
	flags.SortFlags = false
	return cmd
}

// A standGroup is the tenants that stand alike.
type standGroup struct {
	standKey
	count  int
	sample []string // the first slugs
}

type standKey struct {
	state   skein.State
	version string
	pending int
}

// needsPerson says whether a state does not mend itself by migrating.
func needsPerson(s skein.State) bool {
	return s != skein.StateUpToDate && s != skein.StateBehind && s != skein.StateAhead
}

// stuck says whether a tenant is not to be migrated before a person has looked.
func stuck(s skein.Standing, policy skein.Policy) bool {
	return needsPerson(s.State) || len(s.OutOfOrder) > 0 && !policy.AllowOutOfOrder || s.KnexLocked
}

// maxNamed bounds the tenants that are listed by name.
const maxNamed = 50

// stateRank orders states by how much they need a person.
var stateRank = map[skein.State]int{
	skein.StateUpToDate: 0, skein.StateBehind: 1, skein.StateAhead: 2, skein.StateMissing: 3,
	skein.StateEdited: 4, skein.StatePartial: 5, skein.StateUnreachable: 6,
}

// A statusView is how many tenants stand.
type statusView struct {
	app      *app
	json     bool
	check    bool
	detailed bool   // with each migration, in --json
	behind   string // the command that brings them up to date
	policy   skein.Policy

	total       int
	groups      map[standKey]*standGroup
	troubles    map[string]*troubleGroup // of tenants that need a person
	untold      int                      // such tenants in groups beyond maxErrorGroups
	set         *skein.Set
	servers     map[string]*serverGroup // that could not be reached
	notUpToDate int
	ready       int // to be migrated
}

func (v *statusView) ofMany(ctx context.Context, w *workspace, set *skein.Set, filter central.Filter) error {
	survey, err := w.store.Survey(ctx, filter)
	if err != nil {
		return err
	}
	v.total, v.groups, v.set, v.troubles = survey.Tenants, make(map[standKey]*standGroup), set, make(map[string]*troubleGroup)
	v.servers = make(map[string]*serverGroup)
	report := newDryRunReport(v.app, v.json, v.total, v.collect)
	if v.detailed {
		report.detail = func(r skein.Result, j *jsonTenant) {
			j.Migrations = migrationsJSON(tenantLines(set, r.History, r.Standing))
			addStops(j.Migrations, r.Stops)
		}
	}
	w.fullCheck = w.fullCheck || v.detailed // which needs what only a history says
	fleet := w.fleet(set, report.event)
	v.policy = w.cfg.Migrations.Policy
	report.begin()
	sum, err := v.app.work(func() (skein.Summary, error) {
		return fleet.Assess(ctx, w.tenants(ctx, filter), v.policy)
	})
	if endErr := report.end(sum); err != nil || endErr != nil {
		return cmp.Or(err, endErr)
	}
	if !v.json {
		if err := v.print(sum, set); err != nil {
			return err
		}
		v.app.printInterrupted(sum, v.total, "looked at")
	}
	if v.check && v.notUpToDate > 0 && !sum.Interrupted {
		return errFailed
	}
	return outcome(sum)
}

func (v *statusView) collect(r skein.Result) {
	s := r.Standing
	key := standKey{state: s.State, pending: len(s.Pending)}
	if s.Newest != nil {
		key.version = s.Newest.Version
	}
	g := v.groups[key]
	if g == nil {
		g = &standGroup{standKey: key}
		v.groups[key] = g
	}
	g.count++
	g.sample = keepFirst(g.sample, r.Tenant.Slug, sampleSize, strings.Compare)
	if s.State != skein.StateUpToDate {
		v.notUpToDate++
	}
	if unreachable(r.Err) {
		v.addUnreachable(r)
		return
	}
	if s.State == skein.StateBehind && !stuck(s, v.policy) {
		v.ready++
	}
	if stuck(s, v.policy) {
		v.addTrouble(r)
	}
}

func (v *statusView) print(sum skein.Summary, set *skein.Set) error {
	out, term := v.app.Out, v.app.term
	if sum.Tenants == 0 && !sum.Interrupted {
		fmt.Fprintln(out, "No active tenants. Add one with: skein tenants add SLUG --url URL; see all with: skein tenants list")
		return nil
	}
	groups := slices.SortedFunc(maps.Values(v.groups), func(x, y *standGroup) int {
		return cmp.Or(cmp.Compare(stateRank[x.state], stateRank[y.state]), cmp.Compare(x.pending, y.pending), cmp.Compare(y.count, x.count), cmp.Compare(x.version, y.version))
	})
	var t ui.Table
	t.RightAlign(0)
	dim := func(s string) string { return term.OnOut(ui.Dim, s) }
	t.Row(ui.Styled(dim, "TENANTS"), ui.Styled(dim, "STATE"), ui.Styled(dim, "VERSION"), ui.Styled(dim, "WHICH"))
	for _, g := range groups {
		state := string(g.state)
		if g.state == skein.StateBehind {
			state = "behind by " + ui.Count(g.pending)
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
	fmt.Fprintf(out, "\n%s in %s%s; %s\n", ui.Plural(sum.Tenants, "tenant"), ui.Took(sum.Duration), howKnown(sum), ui.Printable(newest))

	if len(v.troubles) > 0 || len(v.servers) > 0 {
		fmt.Fprintf(out, "\n%s\n", term.OnOut(ui.Bold, "These need a person:"))
		var t ui.Table
		worst := slices.SortedFunc(maps.Values(v.troubles), func(x, y *troubleGroup) int {
			return cmp.Or(cmp.Compare(stateRank[y.state], stateRank[x.state]), strings.Compare(x.sample[0], y.sample[0]))
		})
		for _, g := range worst[:min(len(worst), maxNamed)] {
			t.Row(ui.Names(g.sample, sampleSize, g.count), ui.Styled(func(s string) string { return term.OnOut(stateStyle(g.state), s) }, string(g.state)), g.why)
		}
		for _, name := range slices.Sorted(maps.Keys(v.servers)) {
			g := v.servers[name]
			t.Row(ui.Names(g.sample, sampleSize, g.count), ui.Styled(func(s string) string { return term.OnOut(ui.Red, s) }, string(skein.StateUnreachable)), g.why)
		}
		if err := t.Write(out, "  "); err != nil {
			return err
		}
		more := v.untold
		for _, g := range worst[min(len(worst), maxNamed):] {
			more += g.count
		}
		if more > 0 {
			fmt.Fprintf(out, "  and %s more (all with --json)\n", ui.Count(more))
		}
		v.printHints(worst[:min(len(worst), maxNamed)])
	}
	if v.ready > 0 {
		fmt.Fprintf(out, "\nBring them up to date with:  %s\n", ui.Printable(v.behind))
	}
	return nil
}

// A troubleGroup is the tenants that need a person for the same reason.
type troubleGroup struct {
	state     skein.State
	why, hint string // of the first
	count     int
	sample    []string
}

func (v *statusView) addTrouble(r skein.Result) {
	why := trouble(r)
	key := string(r.Standing.State) + " " + alike(r.Tenant, why)
	g := v.troubles[key]
	if g == nil {
		if len(v.troubles) == maxErrorGroups {
			v.untold++
			return
		}
		g = &troubleGroup{state: r.Standing.State, hint: advice(v.set, r, v.policy)}
		v.troubles[key] = g
	}
	g.count++
	if g.sample = keepFirst(g.sample, r.Tenant.Slug, sampleSize, strings.Compare); g.sample[0] == r.Tenant.Slug {
		g.why = why
	}
}

// printHints says what is to be done, with the tenants that it is for.
func (v *statusView) printHints(groups []*troubleGroup) {
	told := make(map[string]bool)
	for _, g := range groups {
		if g.hint == "" || told[g.hint] {
			continue
		}
		told[g.hint] = true
		var slugs []string
		count := 0
		for _, other := range groups {
			if other.hint == g.hint {
				count += other.count
				for _, slug := range other.sample {
					slugs = keepFirst(slugs, slug, sampleSize, strings.Compare)
				}
			}
		}
		fmt.Fprintf(v.app.Out, "  hint for %s: %s\n", ui.Printable(ui.Names(slugs, sampleSize, count)), ui.Printable(g.hint))
	}
}

// howKnown says of how many tenants it is known without a connection how they
// stand, and by what; nothing where all were connected to.
func howKnown(sum skein.Summary) string {
	var parts []string
	if sum.ByFingerprint > 0 {
		parts = append(parts, ui.Count(sum.ByFingerprint)+" by fingerprint")
	}
	if sum.ByHistory > 0 {
		parts = append(parts, ui.Count(sum.ByHistory)+" by histories read together")
	}
	if rest := sum.Tenants - sum.ByFingerprint - sum.ByHistory; rest > 0 && len(parts) > 0 {
		parts = append(parts, ui.Count(rest)+" connected to")
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

// A serverGroup is the tenants of a server that could not be reached.
type serverGroup struct {
	count  int
	sample []string
	why    string
}

func (v *statusView) addUnreachable(r skein.Result) {
	server := r.Tenant.Target.Server()
	g := v.servers[server]
	if g == nil {
		g = &serverGroup{}
		v.servers[server] = g
	}
	g.count++
	g.sample = keepFirst(g.sample, r.Tenant.Slug, sampleSize, strings.Compare)
	if why := r.Err.Error(); g.why == "" || strings.HasPrefix(why, server) {
		g.why = why // the server's own error rather than one tenant's
	}
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
	if r.Holder != nil {
		return "being migrated now, by " + r.Holder.String()
	}
	for _, stop := range r.Stops {
		parts = append(parts, stop.String())
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

// advice says what a person does about a tenant that is stuck.
func advice(set *skein.Set, r skein.Result, policy skein.Policy) string {
	switch {
	case r.Err != nil:
		return skein.Hint(r.Err)
	case r.Holder != nil:
		return "wait for it to end, and look again"
	case r.Standing.State == skein.StatePartial:
		return "see where it stopped, and what settles it, with: skein status TENANT"
	}
	_, err := skein.MakePlan(set, r.History, skein.PlanOptions{Policy: policy, Knex: true})
	return skein.Hint(err)
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
	var left []skein.Leftover
	fleet := w.fleet(set, func(e skein.Event) {
		if e.Type == skein.TenantEnded {
			result = *e.Result
		}
	})
	one := func(yield func(skein.Tenant, error) bool) { yield(tenant, nil) }
	sum, err := a.work(func() (skein.Summary, error) {
		return fleet.Each(ctx, one, func(ctx context.Context, m *skein.Migrator, s skein.Session, t skein.Tenant) skein.Result {
			r := m.Assess(ctx, s, t, policy)
			var err error
			if left, err = leftovers(ctx, s, r); err != nil {
				r.Err = err
			}
			return r
		})
	})
	if err != nil {
		return err
	}
	if sum.Interrupted {
		a.printInterrupted(sum, 1, "looked at")
		return errInterrupted
	}
	if result.Err != nil {
		a.printFailure(tenant.Slug, result.Err)
		return errFailed
	}
	if err := a.printTenantStatus(set, result, policy); err != nil {
		return err
	}
	if result.Holder == nil {
		for _, stop := range result.Stops {
			a.printStop(tenant.Slug, stop, left)
		}
	}
	if check && result.Standing.State != skein.StateUpToDate {
		return errFailed
	}
	return nil
}

func (a *app) printTenantStatus(set *skein.Set, r skein.Result, policy skein.Policy) error {
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
		batch, at, took, by := line.cells()
		t.Row(line.name, ui.Styled(func(s string) string { return term.OnOut(line.style, s) }, line.text), batch, at, took, by)
	}
	if err := t.Write(out, ""); err != nil {
		return err
	}
	if r.Holder != nil {
		fmt.Fprintf(out, "\n%s %s\n", term.OnOut(ui.Yellow, "!"), ui.Printable(trouble(r)))
		return nil
	}
	if s.KnexLocked {
		fmt.Fprintf(out, "\n%s Knex's lock is set: a Knex process is at work here or was killed (skein unlock %s)\n", term.OnOut(ui.Red, "!"), shellQuote(r.Tenant.Slug))
	}
	switch {
	case s.KnexLocked, s.State == skein.StatePartial: // where it stopped is told by itself
	case stuck(s, policy):
		fmt.Fprintf(out, "\n%s %s\n  hint: %s\n", term.OnOut(ui.Red, "!"), ui.Printable(trouble(r)), ui.Printable(advice(set, r, policy)))
	case s.State == skein.StateBehind:
		fmt.Fprintf(out, "\nBring it up to date with:  %s\n", shellCommand([]string{"skein", "migrate"}, []string{r.Tenant.Slug}))
	}
	return nil
}

// A tenantLine is how one migration stands in a tenant.
type tenantLine struct {
	name  string
	state string // as --json has it
	text  string // the state, for people
	style ui.Style
	rec   *skein.Record // nil where it is pending
}

// tenantLines are a tenant's migrations in the order of the files, and behind
// them those without a file.
func tenantLines(set *skein.Set, history skein.History, s skein.Standing) []tenantLine {
	records := make(map[string]*skein.Record, len(history.Records))
	for i, r := range history.Records {
		records[r.Name] = &history.Records[i]
	}
	partial := func(r *skein.Record) string { return fmt.Sprintf("partial, %d of %d", r.Done, r.Total) }
	var lines []tenantLine
	for _, m := range set.All() {
		line := tenantLine{name: m.Name, rec: records[m.Name]}
		switch {
		case line.rec == nil && slices.Contains(s.OutOfOrder, m):
			line.state, line.text, line.style = "out of order", "pending, out of order", ui.Red
		case line.rec == nil:
			line.state, line.text, line.style = "pending", "pending", ui.Yellow
		case line.rec.Partial():
			line.state, line.text, line.style = "partial", partial(line.rec), ui.Red
		case slices.Contains(s.Edited, m):
			line.state, line.text, line.style = "edited", "applied, edited since", ui.Red
		default:
			line.state, line.text, line.style = "applied", "applied", ui.Green
		}
		lines = append(lines, line)
	}
	for i, r := range history.Records {
		if m, _ := set.Find(r.Name); m != nil {
			continue
		}
		line := tenantLine{name: r.Name, rec: &history.Records[i], state: "missing", text: "applied, no file", style: ui.Red}
		if r.Partial() {
			line.state, line.text = "partial", partial(line.rec)+", no file"
		}
		lines = append(lines, line)
	}
	return lines
}

// cells are a line's columns behind its name and state: batch, when it was
// applied, how long it took, by whom.
func (l tenantLine) cells() (batch, at, took, by string) {
	r := l.rec
	if r == nil {
		return "", "", "", ""
	}
	if !r.AppliedAt.IsZero() {
		at = r.AppliedAt.Local().Format(time.DateTime)
	}
	if r.Duration > 0 {
		took = ui.Took(r.Duration)
	}
	switch by = r.By; {
	case r.InKnex && by == "":
		by = "knex"
	case by != "" && r.Tool != "":
		by += " (" + r.Tool + ")"
	}
	return ui.Count(r.Batch), at, took, by
}

func migrationsJSON(lines []tenantLine) []jsonMigration {
	all := make([]jsonMigration, len(lines))
	for i, l := range lines {
		j := jsonMigration{Migration: l.name, State: l.state}
		if r := l.rec; r != nil {
			j.Batch, j.By, j.Tool = r.Batch, r.By, r.Tool
			if !r.AppliedAt.IsZero() {
				at := r.AppliedAt.UTC()
				j.AppliedAt = &at
			}
			if ms := r.Duration.Milliseconds(); r.Tool != "" {
				j.DurationMS = &ms
			}
			if r.Partial() {
				j.Done, j.Statements = &r.Done, &r.Total
			}
		}
		all[i] = j
	}
	return all
}
