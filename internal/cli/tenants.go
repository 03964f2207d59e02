package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/central"
	"github.com/skeinhq/skein/internal/ui"
	"github.com/skeinhq/skein/secret"
)

func (a *app) tenantsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "tenants",
		GroupID: "set",
		Short:   "List, add, change, check, suspend and remove tenants",
		Long: `Work on the list of tenants in the central database.

Where skein.yaml maps a table of the application's own (central.tenants), the
list is only read; the application changes it.

` + exitCodesHelp,
		Args: noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		a.tenantsListCommand(), a.tenantsShowCommand(), a.tenantsAddCommand(), a.tenantsSetCommand(), a.tenantsImportCommand(),
		a.tenantsStatusCommand("activate", skein.StatusActive, "Make tenants active, so that --all includes them"),
		a.tenantsStatusCommand("suspend", skein.StatusSuspended, "Suspend tenants, so that --all leaves them out"),
		a.tenantsRemoveCommand(), a.tenantsCheckCommand(), a.tenantsCloneCommand(),
	)
	return cmd
}

// jsonListed is a tenant in the output of tenants list and show.
type jsonListed struct {
	ID     string            `json:"id"`
	Slug   string            `json:"slug"`
	Name   string            `json:"name,omitempty"`
	Status string            `json:"status"`
	Active bool              `json:"active"`
	Target string            `json:"target"`
	Labels map[string]string `json:"labels,omitempty"`
	Error  *jsonError        `json:"error,omitempty"`
}

func listed(t skein.Tenant) jsonListed {
	j := jsonListed{ID: t.ID, Slug: t.Slug, Name: t.Name, Status: t.Status, Active: t.Active, Target: t.Target.String(), Labels: t.Labels}
	if t.Err != nil {
		j.Error = errorJSON(t.Err)
	}
	return j
}

func (a *app) tenantsListCommand() *cobra.Command {
	var sel selection
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List tenants",
		Long:  "List tenants by slug: all of them, or those that are chosen.\n\n" + exitCodesHelp,
		Example: `  skein tenants list
  skein tenants list --where tier=internal
  skein tenants list --all --json    # the active ones`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			active := sel.given(nil)
			sel.all = sel.all || !active
			filter, err := sel.filter(a, nil)
			if err != nil {
				return err
			}
			filter.Active, filter.Order = active, central.BySlug
			w, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer w.close()
			if asJSON {
				for t, err := range w.store.Tenants(ctx, filter) {
					if err := cmp.Or(err, ctx.Err()); err != nil {
						return err
					}
					if err := a.writeJSON(listed(t)); err != nil {
						return err
					}
				}
				return nil
			}
			return a.listTenants(ctx, w, filter)
		},
	}
	sel.register(cmd, a)
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line on standard output")
	return cmd
}

// listRows is how many tenants are lined up at once: a list of any length takes
// the memory of this many.
const listRows = 500

func (a *app) listTenants(ctx context.Context, w *workspace, filter central.Filter) error {
	dim := func(s string) string { return a.term.OnOut(ui.Dim, s) }
	head := func() *ui.Table {
		var t ui.Table
		t.Row(ui.Styled(dim, "SLUG"), ui.Styled(dim, "STATUS"), ui.Styled(dim, "TARGET"), ui.Styled(dim, "NAME"), ui.Styled(dim, "LABELS"))
		return &t
	}
	table, rows, total := head(), 0, 0
	for t, err := range w.store.Tenants(ctx, filter) {
		if err != nil {
			return err
		}
		if a.interrupted() {
			return errInterrupted
		}
		if rows == listRows {
			if err := table.Write(a.Out, ""); err != nil {
				return err
			}
			table, rows = &ui.Table{}, 0
		}
		status := ui.Styled(func(s string) string { return a.term.OnOut(ui.Yellow, s) }, t.Status)
		if t.Active {
			status = t.Status
		}
		target := any(t.Target.String())
		if t.Err != nil {
			target = ui.Styled(func(s string) string { return a.term.OnOut(ui.Red, s) }, t.Err.Error())
		}
		table.Row(t.Slug, status, target, t.Name, labels(t.Labels))
		rows++
		total++
	}
	if total == 0 {
		if filter.Active {
			fmt.Fprintln(a.Out, "No active tenants are chosen by this")
		} else {
			fmt.Fprintln(a.Out, "No tenants. Add one with: skein tenants add SLUG --url URL")
		}
		return nil
	}
	if err := table.Write(a.Out, ""); err != nil {
		return err
	}
	a.notef("%s", ui.Plural(total, "tenant"))
	return nil
}

func labels(all map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(all)) {
		parts = append(parts, k+"="+all[k])
	}
	return strings.Join(parts, " ")
}

func (a *app) tenantsShowCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "show TENANT",
		Short:             "Show what the central database has of a tenant",
		Long:              "Show what the central database has of a tenant, by slug or id. Its password is\nnever shown.\n\n" + exitCodesHelp,
		Args:              oneTenant,
		ValidArgsFunction: a.slugArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			w, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer w.close()
			t, err := w.store.Find(ctx, args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return a.writeJSON(listed(t))
			}
			var table ui.Table
			dim := func(s string) string { return a.term.OnOut(ui.Dim, s) }
			for _, row := range [][2]string{
				{"slug", t.Slug},
				{"id", t.ID},
				{"name", t.Name},
				{"status", t.Status},
				{"target", t.Target.String()},
				{"password", passwordState(t)},
				{"options", labels(t.Target.Options)},
				{"labels", labels(t.Labels)},
			} {
				if row[1] != "" {
					table.Row(ui.Styled(dim, row[0]), row[1])
				}
			}
			if err := table.Write(a.Out, ""); err != nil {
				return err
			}
			if t.Err != nil {
				fmt.Fprintf(a.Out, "%s %s\n", a.term.OnOut(ui.Red, "!"), ui.Printable(t.Err.Error()))
				if hint := skein.Hint(t.Err); hint != "" {
					fmt.Fprintf(a.Out, "  hint: %s\n", ui.Printable(hint))
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object on standard output")
	return cmd
}

func passwordState(t skein.Tenant) string {
	switch {
	case t.Target.Engine == skein.SQLite, t.Err != nil:
		return ""
	case t.Target.Password.IsZero():
		return "none"
	}
	return "stored, encrypted"
}

func oneTenant(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s takes one TENANT (slug or id); it got %d", cmd.CommandPath(), len(args))
	}
	return nil
}

func someTenants(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("%s takes at least one TENANT (slug or id)", cmd.CommandPath())
	}
	return nil
}

// targetFlags say where a tenant's database is.
type targetFlags struct {
	url          string
	target       skein.Target
	options      []string
	withPassword bool
}

func (f *targetFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.url, "url", "", "where the database is: `postgres://user@host/db`, mysql://..., sqlite:PATH")
	flags.StringVar(&f.target.Engine, "engine", "", "postgres, mysql or sqlite")
	flags.StringVar(&f.target.Host, "host", "", "database server")
	flags.IntVar(&f.target.Port, "port", 0, "its port (default the engine's)")
	flags.StringVar(&f.target.Database, "database", "", "name of the database; for SQLite the file")
	flags.StringVar(&f.target.Schema, "schema", "", "schema in that database (PostgreSQL)")
	flags.StringVar(&f.target.User, "user", "", "role to connect as")
	flags.StringArrayVar(&f.options, "option", nil, "`name=value` of the connection, such as sslmode=require")
	flags.BoolVar(&f.withPassword, "password-stdin", false, "read the password from standard input")
}

// read checks what was given, reads the password, and returns what lays all of
// it over a target.
func (f *targetFlags) read(a *app, flags *pflag.FlagSet) (apply func(*skein.Target), err error) {
	if f.url != "" {
		for _, name := range []string{"engine", "host", "port", "database", "schema", "user"} {
			if flags.Changed(name) {
				return nil, fmt.Errorf("--url and --%s contradict each other: give one of them", name)
			}
		}
	}
	var place skein.Target
	if flags.Changed("url") {
		if place, err = skein.ParseTarget(f.url); err != nil {
			return nil, fmt.Errorf("--url: %w", err)
		}
		if !place.Password.IsZero() {
			return nil, errors.New("--url holds a password, which the process list shows to everyone: leave it out and give --password-stdin")
		}
	}
	options, err := pairs("--option", f.options)
	if err != nil {
		return nil, err
	}
	var password secret.Secret
	if f.withPassword {
		if password, err = a.readPassword(); err != nil {
			return nil, err
		}
	}
	return func(t *skein.Target) {
		if flags.Changed("url") {
			*t = place
		}
		for _, part := range []struct {
			flag     string
			to, from *string
		}{
			{"engine", &t.Engine, &f.target.Engine},
			{"host", &t.Host, &f.target.Host},
			{"database", &t.Database, &f.target.Database},
			{"schema", &t.Schema, &f.target.Schema},
			{"user", &t.User, &f.target.User},
		} {
			if flags.Changed(part.flag) {
				*part.to = *part.from
			}
		}
		if flags.Changed("port") {
			t.Port = f.target.Port
		}
		t.Options = overlay(t.Options, options)
		t.Password = password
	}, nil
}

// overlay lays pairs over others. An empty value takes a pair away.
func overlay(under, over map[string]string) map[string]string {
	for k, v := range over {
		if v == "" {
			delete(under, k)
			continue
		}
		if under == nil {
			under = make(map[string]string)
		}
		under[k] = v
	}
	return under
}

func (a *app) tenantsAddCommand() *cobra.Command {
	var n central.NewTenant
	var place targetFlags
	var labelFlags []string
	cmd := &cobra.Command{
		Use:   "add SLUG",
		Short: "Add a tenant whose database exists",
		Long: `Add a tenant to the list. Its database must exist already; nothing is done
there. The tenant is active at once.

Where the database is, is told by --url or by the other flags. A password is
given on standard input with --password-stdin (or typed at the prompt), and
stored encrypted; in a --url it would be seen in the process list, so it is
refused there.

` + exitCodesHelp,
		Example: `  skein tenants add acme --url sqlite:databases/acme.db
  skein tenants add acme --engine postgres --host db1 --database acme --user acme --password-stdin < secret.txt
  skein tenants add globex --url 'postgres://app@db1/shared?schema=globex' --label tier=internal`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("add takes one SLUG; it got %d", len(args))
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			n.Slug = args[0]
			var err error
			if n.Labels, err = pairs("--label", labelFlags); err != nil {
				return err
			}
			apply, err := place.read(a, cmd.Flags())
			if err != nil {
				return err
			}
			apply(&n.Target)
			w, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer w.close()
			t, err := w.store.Add(ctx, n)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.Out, "Added %s (%s)\n", ui.Printable(t.Slug), ui.Printable(t.Target.String()))
			if t = w.local(t); t.Target.Engine == skein.SQLite {
				if _, err := os.Stat(t.Target.Database); errors.Is(err, fs.ErrNotExist) {
					a.notef("The file %s does not exist yet", t.Target.Database)
				}
			}
			return nil
		},
	}
	flags := cmd.Flags()
	place.register(flags)
	flags.StringVar(&n.ID, "id", "", "the tenant's id (default a new one)")
	flags.StringVar(&n.Name, "name", "", "the tenant's name for people")
	flags.StringArrayVar(&labelFlags, "label", nil, "`label=value` to choose tenants by")
	flags.SortFlags = false
	return cmd
}

func (a *app) tenantsSetCommand() *cobra.Command {
	var place targetFlags
	var name string
	var labelFlags []string
	cmd := &cobra.Command{
		Use:   "set TENANT",
		Short: "Change where a tenant is, its password, its name or its labels",
		Long: `Change what the list has of a tenant, by slug or id; nothing is done in its
database. What is not given stays as it is. --url replaces all that says where
the database is, but for the password. An empty value takes a label or an
option away.

` + exitCodesHelp,
		Example: `  skein tenants set acme --password-stdin < secret.txt
  skein tenants set acme --host db2
  skein tenants set acme --label tier=gold --label trial=`,
		Args:              oneTenant,
		ValidArgsFunction: a.slugArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			given := false
			cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) { given = given || f.Changed })
			if !given {
				return fmt.Errorf("what is to be changed of %s? Give a flag (see: skein tenants set --help)", args[0])
			}
			labels, err := pairs("--label", labelFlags)
			if err != nil {
				return err
			}
			apply, err := place.read(a, cmd.Flags())
			if err != nil {
				return err
			}
			w, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer w.close()
			t, err := w.store.Change(ctx, args[0], func(n *central.NewTenant) {
				apply(&n.Target)
				n.Labels = overlay(n.Labels, labels)
				if cmd.Flags().Changed("name") {
					n.Name = name
				}
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(a.Out, "Changed %s (%s)\n", ui.Printable(t.Slug), ui.Printable(t.Target.String()))
			a.notef("See whether it can be reached:  skein tenants check %s", shellQuote(t.Slug))
			return nil
		},
	}
	flags := cmd.Flags()
	place.register(flags)
	flags.StringVar(&name, "name", "", "the tenant's name for people")
	flags.StringArrayVar(&labelFlags, "label", nil, "`label=value` to choose tenants by")
	flags.SortFlags = false
	return cmd
}

func pairs(flag string, words []string) (map[string]string, error) {
	var out map[string]string
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("%s %q is not of the form name=value", flag, w)
		}
		if out == nil {
			out = make(map[string]string)
		}
		out[k] = v
	}
	return out, nil
}

// readPassword reads one line. A person is asked for it, and it is not shown.
func (a *app) readPassword() (secret.Secret, error) {
	var text string
	var err error
	if terminal := ui.Keyboard(a.In); terminal != nil {
		text, err = ui.ReadPassword(terminal, a.Err, "Password: ", a.stop)
	} else {
		text, err = bufio.NewReader(a.stdin()).ReadString('\n')
		if errors.Is(err, io.EOF) {
			err = nil // a last line need not end
		}
	}
	if err != nil {
		return secret.Secret{}, fmt.Errorf("read the password: %w", err)
	}
	text = strings.TrimRight(text, "\r\n")
	if text == "" {
		return secret.Secret{}, errors.New("the password on standard input is empty")
	}
	return secret.New(text), nil
}

func (a *app) tenantsImportCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Add many tenants from CSV or JSON lines, all or none",
		Long: `Add tenants from a file, or from standard input where FILE is -: CSV with a
header, or one JSON object a line. Nothing is added unless every line is right.

The columns, or keys: slug, id, name, status, url or engine, host, port,
database, schema, user, password, options; and label:NAME in CSV, a labels
object in JSON. Passwords are stored encrypted.

` + exitCodesHelp,
		Example: `  skein tenants import tenants.csv
  ./export-customers | skein tenants import - --format jsonl`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("import takes one FILE (- for standard input); it got %d", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			f, err := formatOf(args[0], format)
			if err != nil {
				return err
			}
			in, name := io.Reader(nil), "standard input"
			if args[0] == "-" {
				in = a.stdin()
			} else {
				file, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer func() { _ = file.Close() }() // it was only read
				in, name = file, args[0]
			}
			w, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer w.close()
			n, err := w.store.Import(ctx, in, f)
			if wrong, ok := errors.AsType[*central.ImportError](err); ok {
				return importError{name, wrong}
			}
			if err != nil {
				return fmt.Errorf("nothing was imported: %w", err)
			}
			fmt.Fprintf(a.Out, "Added %s\n", ui.Plural(n, "tenant"))
			return nil
		},
	}
	cmd.Flags().StringVar(&format, "format", "", "csv or jsonl (default by the file's name)")
	return cmd
}

// formatOf is the format of a file, by what --format says or else by its name.
func formatOf(name, flag string) (central.Format, error) {
	switch f := central.Format(flag); f {
	case central.CSV, central.JSONLines:
		return f, nil
	case "":
	default:
		return "", fmt.Errorf("--format %q is not csv or jsonl", flag)
	}
	switch strings.ToLower(filepath.Ext(name)) {
	case ".csv":
		return central.CSV, nil
	case ".jsonl", ".ndjson":
		return central.JSONLines, nil
	}
	return "", fmt.Errorf("%s does not end in .csv or .jsonl: give --format", name)
}

// An importError is what is wrong in a file of tenants.
type importError struct {
	file string
	*central.ImportError
}

func (e importError) Error() string {
	var b strings.Builder
	b.WriteString("nothing was imported:")
	for _, p := range e.Problems {
		fmt.Fprintf(&b, "\n%s:%d: %v", e.file, p.Line, p.Err)
	}
	if e.More > 0 {
		fmt.Fprintf(&b, "\nand %s more", ui.Count(e.More))
	}
	return b.String()
}

func (a *app) tenantsStatusCommand(verb, status, short string) *cobra.Command {
	return &cobra.Command{
		Use:               verb + " TENANT...",
		Short:             short,
		Long:              short + ".\nNothing is done in their databases.\n\n" + exitCodesHelp,
		Args:              someTenants,
		ValidArgsFunction: a.slugArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			w, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer w.close()
			tenants, err := w.store.SetStatus(ctx, args, status)
			if err != nil {
				return err
			}
			for _, t := range tenants {
				fmt.Fprintf(a.Out, "%s is %s\n", ui.Printable(t.Slug), status)
			}
			return nil
		},
	}
}

func (a *app) tenantsRemoveCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:               "remove TENANT...",
		Short:             "Forget tenants; their databases are not touched",
		Long:              "Take tenants off the list. Their databases and roles stay as they are.\n\n" + exitCodesHelp,
		Args:              someTenants,
		ValidArgsFunction: a.slugArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			w, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer w.close()
			if !yes {
				if err := a.askToForget(ctx, w, args); err != nil {
					return err
				}
			}
			tenants, err := w.store.Remove(ctx, args)
			if err != nil {
				return err
			}
			for _, t := range tenants {
				fmt.Fprintf(a.Out, "Forgot %s; its data stays in %s\n", ui.Printable(t.Slug), ui.Printable(t.Target.String()))
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask before more than one tenant, or one that Skein made a database for, is forgotten")
	return cmd
}

// askToForget asks before several tenants are forgotten, or one whose database
// nobody could take away with Skein any more.
func (a *app) askToForget(ctx context.Context, w *workspace, words []string) error {
	ours, err := w.store.Provisioned(ctx, words)
	if err != nil || len(words) == 1 && len(ours) == 0 {
		return err
	}
	question := fmt.Sprintf("Forget %s?", ui.Plural(len(words), "tenant"))
	if len(ours) > 0 {
		question = fmt.Sprintf("Skein made the database and the role of %s. They stay, with what is in them; skein deprovision takes them away. Forget %s all the same?",
			ui.Printable(ui.Names(ours, sampleSize, len(ours))), ui.Plural(len(words), "tenant"))
	}
	return a.confirm(ctx, question, "--yes")
}

func (a *app) tenantsCheckCommand() *cobra.Command {
	var sel selection
	var bounds limits
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check [TENANT...]",
		Short: "Connect to tenants and say what is wrong",
		Long: `Connect to each active tenant, or those that are chosen, and read its history.
What is wrong is told by tenant: a password that cannot be decrypted, a server
that cannot be reached, a login that is refused, a database that does not exist.

` + exitCodesHelp,
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
			return a.checkTenants(ctx, w, filter, asJSON)
		},
	}
	sel.register(cmd, a)
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line on standard output")
	bounds.register(cmd.Flags())
	return cmd
}

func (a *app) checkTenants(ctx context.Context, w *workspace, filter central.Filter, asJSON bool) error {
	survey, err := w.store.Survey(ctx, filter)
	if err != nil {
		return err
	}
	var failed failures
	report := newDryRunReport(a, asJSON, survey.Tenants, func(r skein.Result) {
		if r.Err != nil {
			failed.add(r)
		}
	})
	set, err := skein.NewSet(nil)
	if err != nil {
		return err
	}
	fleet := w.fleet(set, report.event)
	report.begin()
	sum, err := a.work(func() (skein.Summary, error) {
		return fleet.Each(ctx, w.tenants(ctx, filter), func(ctx context.Context, m *skein.Migrator, s skein.Session, t skein.Tenant) skein.Result {
			return m.Assess(ctx, s, t, skein.Policy{AllowMissing: true, Edited: skein.EditedIgnore})
		})
	})
	if endErr := report.end(sum); err != nil || endErr != nil {
		return cmp.Or(err, endErr)
	}
	if !asJSON {
		a.printFailures(failed)
		line := fmt.Sprintf("%s checked in %s", ui.Plural(sum.Tenants, "tenant"), ui.Took(sum.Duration))
		if failed.total > 0 {
			line += ": " + a.term.OnOut(ui.Red, ui.Count(failed.total)+" failed")
		} else if sum.Tenants > 0 && !sum.Interrupted {
			line += ": " + a.term.OnOut(ui.Green, "all can be reached")
		}
		fmt.Fprintln(a.Out, line)
		a.printInterrupted(sum, survey.Tenants, "looked at")
	}
	return outcome(sum)
}
