package cli

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/ui"
)

// A reporter shows the events of a run to whoever runs it: people, or with
// --json a program.
type reporter interface {
	begin()
	event(skein.Event)
	// end shows what came of the whole run.
	end(sum skein.Summary, next nextStep) error
}

// A nextStep says how to go on after a run that left something undone: the
// command, or where there is none that could be given without harm, a word of
// caution.
type nextStep func(failed failures) (command, caution string)

// noNextStep is that of a run that changes nothing.
func noNextStep(failures) (command, caution string) { return "", "" }

// maxFailures bounds the failures that are kept to be told at the end. The
// others are counted.
const maxFailures = 1000

// maxAlike bounds the failures with the same reason that are told while a run
// goes on.
const maxAlike = 20

// failures are the tenants that failed, the first of them by slug kept for the
// end of a run.
type failures struct {
	kept  []skein.Result
	total int
}

func (f *failures) add(r skein.Result) {
	f.total++
	f.kept = keepFirst(f.kept, r, maxFailures, func(a, b skein.Result) int { return strings.Compare(a.Tenant.Slug, b.Tenant.Slug) })
}

// slugs are those of the tenants that are wanted.
func (f *failures) slugs(wanted func(skein.Result) bool) []string {
	var out []string
	for _, r := range f.kept {
		if wanted(r) {
			out = append(out, r.Tenant.Slug)
		}
	}
	return out
}

// keepFirst puts x in its place in a sorted list, of which no more than limit
// are kept: tenants end in any order, and what is shown of many is the same in
// each run.
func keepFirst[T any](list []T, x T, limit int, compare func(a, b T) int) []T {
	at, _ := slices.BinarySearchFunc(list, x, compare)
	if at == limit {
		return list
	}
	list = slices.Insert(list, at, x)
	return list[:min(len(list), limit)]
}

// textReport is for people.
type textReport struct {
	app   *app
	total int // tenants in the run
	// done is the verb of the run, as "Migrated".
	done   string
	each   bool // show each migration, and tenants with nothing to do
	silent bool // only the live line: what is found is shown at the end
	live   *ui.Live

	mu       sync.Mutex
	start    time.Time
	ended    int
	ok       int
	same     int // of ok, those with nothing to do
	failures failures
	partly   int                // of those that failed, the ones in which something was done before
	alike    map[string]int     // failures that were told, by what they say
	running  map[string]running // by tenant id
	paused   map[string]pause   // likewise, those that are tried again later
	retried  map[string]running // likewise, those that were tried before, since their first try
}

type running struct {
	slug, migration string
	since           time.Time
	why             string // it is tried again
}

func newTextReport(a *app, done string, total int) *textReport {
	r := &textReport{
		app: a, done: done, total: total,
		each:  a.verbose || total == 1,
		alike: make(map[string]int), running: make(map[string]running), paused: make(map[string]pause), retried: make(map[string]running),
	}
	return r
}

func (r *textReport) begin() {
	r.start = time.Now()
	if !r.app.quiet {
		r.live = ui.NewLive(r.app.term, r.line)
	}
}

// close takes the live line away.
func (r *textReport) close() {
	if r.live != nil {
		r.live.End()
	}
}

// perTime is a rate by the second, or the minute where that says more.
func perTime(perSecond float64) string {
	switch {
	case perSecond >= 10:
		return fmt.Sprintf("%.0f/s", perSecond)
	case perSecond >= 1:
		return fmt.Sprintf("%.1f/s", perSecond)
	}
	return fmt.Sprintf("%.0f/min", perSecond*60)
}

// slow is after how long a tenant is named in the live line.
const slow = 5 * time.Second

// line is the live line: how far the run is, and what takes long. Where that
// does not fit, the pace is left out first, and then what went well.
func (r *textReport) line(width int) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	elapsed := time.Since(r.start)
	done := ui.Count(r.ended) + "/" + ui.Count(r.total)
	failed := "  failed " + ui.Count(r.failures.total)
	counts := "  ok " + ui.Count(r.ok-r.same) + failed + "  skipped " + ui.Count(r.same)
	pace := ""
	if rate := float64(r.ended) / elapsed.Seconds(); r.ended > 0 && elapsed > time.Second && !r.app.interrupted() {
		pace = "  " + perTime(rate)
		if left := r.total - r.ended; left > 0 {
			pace += fmt.Sprintf("  %s left", ui.Took(time.Duration(float64(left)/rate*float64(time.Second))))
		}
	}
	rest := r.pausedText()
	if r.app.interrupted() {
		rest += "  stopping: what has begun ends (once more leaves at once)"
	}
	rest += r.slowText()
	text := done + counts + pace + rest
	for _, shorter := range []string{done + counts + rest, done + failed + rest} {
		if ui.Width(text) > width {
			text = shorter
		}
	}
	// The text is cut before it is painted, so that no colour is cut in two.
	return r.app.term.OnErr(ui.Cyan, ui.Fit(text, width))
}

// slowText names the tenants that take longest.
func (r *textReport) slowText() string {
	var late []running
	for id, w := range r.running {
		if _, again := r.retried[id]; !again && time.Since(w.since) > slow {
			late = append(late, w)
		}
	}
	for _, w := range r.retried {
		if time.Since(w.since) > slow {
			late = append(late, w)
		}
	}
	slices.SortFunc(late, func(a, b running) int { return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.slug, b.slug)) })
	text := ""
	for i, w := range late {
		if i == 2 {
			text += fmt.Sprintf("  and %d more", len(late)-i)
			break
		}
		text += fmt.Sprintf("  slow: %s %s", ui.Printable(w.slug), ui.Took(time.Since(w.since)))
		switch {
		case w.why != "":
			text += " (" + ui.Printable(w.why) + ")"
		case w.migration != "":
			text += " in " + ui.Printable(w.migration)
		}
	}
	return text
}

func (r *textReport) print(line string) {
	if r.live != nil {
		r.live.Print(line)
	}
}

func (r *textReport) event(e skein.Event) {
	r.mu.Lock()
	line := r.note(e)
	r.mu.Unlock()
	if line != "" && (!r.silent || e.Server != "") {
		r.print(line)
	}
}

// note counts an event and returns the lines that stay, if there are any.
func (r *textReport) note(e skein.Event) string {
	term := r.app.term
	switch e.Type {
	case skein.TenantStarted:
		r.running[e.Tenant.ID] = running{slug: e.Tenant.Slug, since: e.Time}
	case skein.MigrationStarted:
		w := r.running[e.Tenant.ID]
		w.migration, w.since = e.Migration.Name, e.Time
		r.running[e.Tenant.ID] = w
	case skein.TenantRetried, skein.ServerCrowded, skein.ServerDown, skein.ServerBack, skein.ServerUnasked:
		return r.noteTrouble(e)
	case skein.MigrationOutput:
		return fmt.Sprintf("  %s  %s %s", ui.Printable(e.Tenant.Slug), term.OnErr(ui.Dim, "|"), ui.Printable(e.Output))
	case skein.MigrationEnded:
		if r.each && e.Err == nil {
			return fmt.Sprintf("  %s  %s  %s  %s", ui.Printable(e.Tenant.Slug), e.Direction, ui.Printable(e.Migration.Name), term.OnErr(ui.Dim, ui.Took(e.Duration)))
		}
	case skein.TenantEnded:
		delete(r.running, e.Tenant.ID)
		delete(r.paused, e.Tenant.ID)
		delete(r.retried, e.Tenant.ID)
		r.ended++
		res := r.app.told(*e.Result)
		slug := ui.Printable(e.Tenant.Slug)
		switch {
		case errors.Is(res.Err, skein.ErrInterrupted):
			return fmt.Sprintf("%s %s  stopped after %s", term.OnErr(ui.Yellow, "-"), slug, ui.Plural(len(res.Done), "migration"))
		case res.Err != nil:
			r.failures.add(res)
			if len(res.Done) > 0 {
				r.partly++
			}
			if _, down := errors.AsType[*skein.ServerDownError](res.Err); down && r.total > 1 {
				return "" // the server's own line said it for all of them
			}
			why := oneLine(res.Err)
			if len(r.alike) < maxFailures {
				r.alike[why]++
			}
			told := r.alike[why]
			if told == maxAlike+1 {
				return "  " + term.OnErr(ui.Dim, "others that fail for the same reason are told at the end")
			}
			if told > maxAlike {
				return ""
			}
			line := fmt.Sprintf("%s %s  %s", term.OnErr(ui.Red, "✗"), term.OnErr(ui.Bold, slug), ui.Printable(why))
			return line
		}
		r.ok++
		var lines []string
		if len(res.Done) > 0 {
			lines = append(lines, r.changed(res))
		} else {
			r.same++
			if r.each {
				what := "nothing to do"
				if r.done == settled {
					what = "no migration has stopped here"
				}
				lines = append(lines, fmt.Sprintf("%s %s  %s", term.OnErr(ui.Dim, "="), slug, what))
			}
		}
		for _, w := range res.Plan.Warnings {
			lines = append(lines, fmt.Sprintf("%s %s  %s", term.OnErr(ui.Yellow, "!"), slug, ui.Printable(w)))
		}
		return strings.Join(lines, "\n")
	}
	return ""
}

// changed is the line of a tenant in which something was done.
func (r *textReport) changed(res skein.Result) string {
	term := r.app.term
	names := make([]string, len(res.Done))
	for i, d := range res.Done {
		names[i] = d.Migration.Name
	}
	line := fmt.Sprintf("%s  %s %s in %s: ", res.Tenant.Slug, ui.Plural(len(names), "migration"), pastTense(res), ui.Took(res.Duration))
	listed := strings.Join(names, ", ")
	if width := term.Width() - 3; term.Live() && len(names) > 2 && ui.Width(line+listed) > width {
		listed = names[0] + " … " + names[len(names)-1]
	}
	line = term.OnErr(ui.Green, "✓") + " " + ui.Printable(line+listed)
	if n := len(res.Standing.Pending); r.done == settled && n > 0 {
		line += fmt.Sprintf("; %s to be applied: %s", ui.Plural(n, "migration"), shellCommand([]string{"skein", "migrate"}, []string{res.Tenant.Slug}))
	}
	return line
}

func pastTense(r skein.Result) string {
	switch {
	case r.Plan.RecordOnly:
		return "recorded" + recordedAs(r.Plan)
	case r.Plan.Direction == skein.Down:
		return "reverted"
	}
	return "applied"
}

func (r *textReport) end(sum skein.Summary, next nextStep) error {
	r.close()
	r.mu.Lock()
	defer r.mu.Unlock()
	term, out := r.app.term, r.app.Out

	if r.failures.total > 0 {
		if !r.app.quiet {
			fmt.Fprintln(out)
		}
		r.app.printFailures(r.failures)
	}
	style := ui.Green
	if sum.Failed > 0 || sum.Interrupted {
		style = ui.Bold
	}
	head, tail := r.summary(sum)
	fmt.Fprintln(out, term.OnOut(style, head)+tail)
	r.app.printInterrupted(sum, r.total, "begun")
	if sum.Failed > 0 || sum.Interrupted {
		command, caution := next(r.failures)
		if command != "" {
			fmt.Fprintf(out, "Go on with:  %s\n", ui.Printable(command))
		}
		if caution != "" {
			fmt.Fprintf(out, "%s %s\n", term.OnOut(ui.Yellow, "!"), ui.Printable(caution))
		}
	}
	return nil
}

// summary is the line that says what came of a run: what was done, and the
// rest.
func (r *textReport) summary(sum skein.Summary) (head, tail string) {
	if sum.Tenants == 0 {
		return "No tenant to work on", ""
	}
	took := ui.Took(sum.Duration)
	if sum.Changed == 0 && sum.Failed == 0 && !sum.Interrupted {
		return "Nothing to do in " + ui.Plural(sum.Tenants, "tenant"), ", looked at in " + took + howKnown(sum)
	}
	tail = ": " + ui.Plural(sum.Steps, "migration")
	if sum.Unchanged > 0 {
		tail += ", " + ui.Count(sum.Unchanged) + " had nothing to do"
	}
	if sum.Failed > 0 {
		failed := ui.Count(sum.Failed) + " failed"
		switch {
		case r.partly == sum.Failed:
			failed += " part of the way"
		case r.partly > 0:
			failed += ", " + ui.Count(r.partly) + " of them part of the way"
		}
		tail += ", " + r.app.term.OnOut(ui.Red, failed)
	}
	return fmt.Sprintf("%s %s in %s", r.done, ui.Plural(sum.Changed-r.partly, "tenant"), took), tail
}

// printInterrupted says how much a signal left undone.
func (a *app) printInterrupted(sum skein.Summary, total int, verb string) {
	if !sum.Interrupted {
		return
	}
	left := ""
	if n := total - sum.Tenants; n > 0 {
		left = fmt.Sprintf(": %s not %s", ui.Plural(n, "tenant"), verb)
	}
	fmt.Fprintf(a.Out, "%s%s\n", a.term.OnOut(ui.Yellow, "Interrupted"), left)
}

// oneLine is an error as one line of a list: what, and where.
func oneLine(err error) string {
	if e, ok := errors.AsType[*skein.StatementError](err); ok {
		return e.Migration + ": " + cause(e)
	}
	return err.Error()
}

// cause is what the database said about a statement.
func cause(e *skein.StatementError) string {
	if d, ok := errors.AsType[*skein.DatabaseError](e.Err); ok {
		return d.Error()
	}
	return e.Err.Error()
}

// printFailures tells each failure once, with the tenants that share it.
func (a *app) printFailures(f failures) {
	type group struct {
		first   skein.Result
		slugs   []string
		differs bool
	}
	var groups []*group
	byText := make(map[string]*group)
	for _, r := range f.kept {
		key := failureKey(r)
		g := byText[key]
		if g == nil {
			g = &group{first: r}
			byText[key] = g
			groups = append(groups, g)
		}
		g.slugs = append(g.slugs, r.Tenant.Slug)
		g.differs = g.differs || r.Err.Error() != g.first.Err.Error()
	}
	for _, g := range groups {
		a.printResult(g.first, g.slugs, g.differs)
	}
	if more := f.total - len(f.kept); more > 0 {
		fmt.Fprintf(a.Out, "and %s more failed (all with --json)\n\n", ui.Count(more))
	}
}

// printResult shows why tenants failed alike, and what settles them; differs says
// that what the databases said of them is not the same to the letter.
func (a *app) printResult(r skein.Result, slugs []string, differs bool) {
	a.tellFailure(ui.Names(slugs, 5, len(slugs)), r.Err)
	if differs {
		fmt.Fprintf(a.Out, "  this is of %s: in the others it has other names or values (all with --json)\n", ui.Printable(r.Tenant.Slug))
	}
	if stop, ok := stopOf(r); ok {
		a.printWays(stop, slugs)
	}
	fmt.Fprintln(a.Out)
}

// printFailure shows an error with all that is known about it.
func (a *app) printFailure(tenants string, err error) {
	a.tellFailure(tenants, err)
	fmt.Fprintln(a.Out)
}

func (a *app) tellFailure(tenants string, err error) {
	term, out := a.term, a.Out
	fmt.Fprintf(out, "%s  %s\n", term.OnOut(ui.Red, "FAILED"), term.OnOut(ui.Bold, ui.Printable(tenants)))
	if e, ok := errors.AsType[*skein.StatementError](err); ok {
		where := e.Path
		if e.Line > 0 {
			where = fmt.Sprintf("%s:%d", e.Path, e.Line)
		}
		if e.Index > 0 {
			where += fmt.Sprintf(" (%s, statement %d of %d)", e.Direction, e.Index, e.Total)
		}
		fmt.Fprintf(out, "  %s\n", ui.Printable(where))
		for _, line := range excerpt(e.Statement, 6) {
			fmt.Fprintf(out, "    %s\n", term.OnOut(ui.Dim, line))
		}
		fmt.Fprintf(out, "  %s\n", ui.Printable(cause(e)))
		what := "this migration"
		if e.Direction == skein.Down {
			what = "this migration's down section"
		}
		switch {
		case e.Partial && e.Index > 0:
			fmt.Fprintf(out, "  %s of %s stayed, and it is recorded as partial\n", ui.Plural(max(e.Index-1, e.Kept), "statement"), what)
		case e.Partial:
			fmt.Fprintf(out, "  a part of %s may have stayed, and it is recorded as partial\n", what)
		default:
			fmt.Fprintf(out, "  nothing of %s stayed\n", what)
		}
		if len(e.Undone) > 0 {
			fmt.Fprintf(out, "  undone with it, as they share its transaction: %s\n", ui.Printable(ui.Names(e.Undone, 5, len(e.Undone))))
		}
	} else {
		fmt.Fprintf(out, "  %s\n", ui.Printable(err.Error()))
	}
	if hint := skein.Hint(err); hint != "" && !refusedBecause(err, skein.ReasonPartial) {
		fmt.Fprintf(out, "  hint: %s\n", ui.Printable(hint))
	}
}

// excerpt is the first lines of a statement, cut to a readable width.
func excerpt(statement string, limit int) []string {
	if statement == "" {
		return nil // of a migration of Knex's that threw an error of its own
	}
	var out []string
	lines := strings.Split(strings.TrimSpace(statement), "\n")
	for i, line := range lines {
		if i == limit {
			out = append(out, fmt.Sprintf("... %s more", ui.Plural(len(lines)-i, "line")))
			break
		}
		out = append(out, ui.Fit(ui.Printable(strings.TrimRight(line, "\r")), 100))
	}
	return out
}
