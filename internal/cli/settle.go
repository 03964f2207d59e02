package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/ui"
)

// settleFlags say what is to be done about migrations that stopped in their
// middle.
type settleFlags struct{ resume, redo, applied, reverted bool }

func (s *settleFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&s.resume, "continue", false, "go on with a migration that stopped in its middle, at the statement that failed")
	flags.BoolVar(&s.redo, "redo", false, "run such a migration again, from its first statement")
	flags.BoolVar(&s.applied, "mark-applied", false, "record that such a migration is applied, and run nothing")
	flags.BoolVar(&s.reverted, "mark-reverted", false, "record that nothing of such a migration is there, and run nothing")
}

// settlement is what the flags say, empty if none is given.
func (s *settleFlags) settlement(m *migrateRun, words []string) (skein.Settlement, error) {
	var given []string
	var settle skein.Settlement
	for _, f := range []struct {
		name  string
		given bool
		means skein.Settlement
	}{
		{"--continue", s.resume, skein.Continue},
		{"--redo", s.redo, skein.Redo},
		{"--mark-applied", s.applied, skein.MarkApplied},
		{"--mark-reverted", s.reverted, skein.MarkReverted},
	} {
		if f.given {
			given = append(given, f.name)
			settle = f.means
		}
	}
	switch {
	case len(given) == 0:
		return "", nil
	case len(given) > 1:
		return "", fmt.Errorf("%s and %s contradict each other: give one of them", given[0], given[1])
	case m.opts.To != "" || m.opts.Steps > 0 || m.opts.Baseline != "":
		return "", fmt.Errorf("%s settles the migration that stopped, and runs no other: leave --to, --steps and --baseline out", given[0])
	case settle != skein.Continue && (m.sel.all || len(m.sel.where)+len(m.sel.only) > 0 || slices.ContainsFunc(words, func(w string) bool { return strings.Contains(w, "*") })):
		return "", fmt.Errorf("%s is for tenants that somebody has looked at: name them", given[0])
	}
	return settle, nil
}

// stopOf is where the migration stopped that made a tenant fail, in this run or
// before it.
func stopOf(r skein.Result) (skein.Stop, bool) {
	if e, ok := errors.AsType[*skein.StatementError](r.Err); ok && e.Partial {
		at := e.Index
		if e.Kept > 0 {
			at = e.Kept + 1
		}
		return skein.Stop{Direction: e.Direction, Index: at, Total: e.Total, Path: e.Path}, true
	}
	if refusedBecause(r.Err, skein.ReasonPartial) && len(r.Stops) > 0 {
		return r.Stops[0], true
	}
	return skein.Stop{}, false
}

// printWays shows, below a failure, the commands that settle a migration in tenants that stopped
// alike.
func (a *app) printWays(stop skein.Stop, slugs []string) {
	if len(slugs) > few {
		slugs = []string{"TENANT"}
	}
	fmt.Fprintln(a.Out, "  Put it right, then one of:")
	var t ui.Table
	for _, w := range stop.Ways() {
		t.Row("skein migrate "+strings.Join(quoteAll(slugs), " ")+" "+w.Flag, w.Does)
	}
	_ = t.Write(a.Out, "    ") // whoever reads the output went away
}

func quoteAll(words []string) []string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = shellQuote(w)
	}
	return quoted
}

// printStop shows where a migration stopped in a tenant, and what it left.
func (a *app) printStop(slug string, stop skein.Stop, leftovers []skein.Leftover) {
	fmt.Fprintf(a.Out, "\n%s %s\n", a.term.OnOut(ui.Red, "!"), ui.Printable(stop.Summary()))
	for _, line := range excerpt(stop.Statement, 6) {
		fmt.Fprintf(a.Out, "    %s\n", a.term.OnOut(ui.Dim, line))
	}
	if stop.Changed > 0 {
		fmt.Fprintf(a.Out, "  Its statement %d has run here, and is another in the file now. Undo that edit to go on with statement %d.\n", stop.Changed, stop.Index)
	}
	for _, l := range leftovers {
		fmt.Fprintf(a.Out, "  %s; remove it with:\n    %s\n", ui.Printable(strings.ToUpper(l.What[:1])+l.What[1:]), ui.Printable(l.Remove))
	}
	a.printWays(stop, []string{slug})
}

// leftovers are what a tenant's broken migrations left behind, as far as its
// database can tell.
func leftovers(ctx context.Context, s skein.Session, r skein.Result) ([]skein.Leftover, error) {
	if finder, ok := s.(skein.LeftoverFinder); ok && len(r.Stops) > 0 {
		return finder.Leftovers(ctx)
	}
	return nil, nil
}

// addStops tells of partial migrations where they stopped.
func addStops(migrations []jsonMigration, stops []skein.Stop) {
	for _, s := range stops {
		i := slices.IndexFunc(migrations, func(m jsonMigration) bool { return m.Migration == s.Record.Name })
		if i < 0 {
			continue
		}
		m := &migrations[i]
		m.Direction, m.StatementIndex, m.File, m.Line, m.Statement = string(s.Direction), s.Index, s.Path, s.Line, s.Statement
	}
}
