// Package cli is Skein's command line: a file a command, which wires the other
// packages together and shows what they do.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/closest"
	"github.com/skeinhq/skein/internal/config"
	"github.com/skeinhq/skein/internal/ui"
)

// Exit codes are an interface: pipelines decide by them.
const (
	exitOK          = 0
	exitFailed      = 1 // some tenants failed, a check found something, or a question was answered with no
	exitUsage       = 2 // usage, configuration, key or central database
	exitInterrupted = 130
	exitTerminated  = 143
	exitHungUp      = 129
	exitPipe        = 141 // nobody reads the output of a command that only looks
)

const exitCodesHelp = `Exit codes:
  0    done, or nothing to do
  1    some tenants failed, or a check found something
  2    usage, settings, key or central database
  130  interrupted (143: terminated, 129: hung up) after what had begun was ended`

// A System is what the command line is connected to.
type System struct {
	In        io.Reader
	Out, Err  io.Writer
	LookupEnv config.Environment
	Version   string
	// KeyServices keep the keys that encrypt keys, by the scheme of their
	// addresses.
	KeyServices map[string]KeyService
}

// An output is where results or messages go. Its first error is kept, so that
// who writes need not look at each.
type output struct {
	io.Writer
	err error
}

func (o *output) Write(p []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.Writer.Write(p)
	o.err = err
	return n, err
}

// An app is one call of the command.
type app struct {
	System
	raw  System // with Out and Err as they are, which may be terminals
	term *ui.Terminal
	args []string

	configPath string
	quiet      bool
	verbose    bool
	noColor    bool

	// stop is closed by the first signal: what has begun ends.
	stop   chan struct{}
	signal os.Signal // the one that closed stop; read it after stop is closed
	// working is set while tenants are worked on, which is what the first
	// signal lets end. Everything else it ends at once.
	working atomic.Bool
	// abandoned is set by the second signal: what has begun is left.
	abandoned atomic.Bool
}

// Run carries out a command line and returns the exit code.
func Run(args []string, system System) int {
	out := &output{Writer: system.Out}
	a := &app{System: system, raw: system, args: args, stop: make(chan struct{})}
	a.Out, a.Err = out, &output{Writer: system.Err}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	// Whoever reads the output may go away in the middle of a run: that is told
	// at its end, and stops no migration.
	signal.Ignore(syscall.SIGPIPE)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	ended := make(chan struct{})
	defer func() {
		signal.Stop(signals)
		close(ended)
	}()
	go func() {
		select {
		case a.signal = <-signals:
		case <-ended:
			return
		}
		close(a.stop)
		if !a.working.Load() {
			cancel()
		}
		select {
		case <-signals:
		case <-ended:
			return
		}
		// The database connections end, and with them their locks. Should even
		// that take long, a third signal is the system's to deal with.
		a.abandoned.Store(true)
		cancel()
		signal.Reset(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	}()

	a.setTerminal()
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	cmd, err := root.ExecuteContextC(ctx)
	if errors.Is(out.err, syscall.EPIPE) && onlyLooks(cmd) {
		return exitPipe
	}
	code := a.exitCode(cmd, err)
	if out.err != nil && code != exitOK && errors.Is(err, out.err) {
		return code // told already
	}
	if out.err != nil {
		a.errorf("write the output: %v", out.err)
		code = max(code, exitUsage)
	}
	return code
}

// onlyLooks says whether nothing is left undone by a command that ends early.
func onlyLooks(cmd *cobra.Command) bool {
	help, _ := cmd.Flags().GetBool("help")
	return help || !cmd.HasParent() || cmd.GroupID == "look" && cmd.Name() != "verify" ||
		slices.Contains([]string{"list", "show", "check", "help", "completion"}, cmd.Name())
}

func (a *app) setTerminal() {
	noColor, _ := a.LookupEnv("NO_COLOR")
	kind, _ := a.LookupEnv("TERM")
	a.term = ui.NewTerminal(a.raw.Out, a.raw.Err, ui.TerminalOptions{NoColor: a.noColor || noColor != "", Term: kind})
}

// stdin is the standard input, which a signal ends: a person may never type
// what is waited for.
func (a *app) stdin() io.Reader {
	r, w := io.Pipe()
	go func() {
		_, err := io.Copy(w, a.In)
		_ = w.CloseWithError(err) // it always returns nil
	}()
	go func() {
		<-a.stop
		_ = w.CloseWithError(context.Canceled)
	}()
	return r
}

// work calls f, which works on tenants: from now on the first signal lets what
// has begun end.
func (a *app) work(f func() (skein.Summary, error)) (skein.Summary, error) {
	a.working.Store(true)
	defer a.working.Store(false)
	sum, err := f()
	sum.Interrupted = sum.Interrupted || a.abandoned.Load()
	return sum, err
}

// errAbandoned is the error of a tenant that the second signal left.
var errAbandoned = errors.New("left in the middle, at the second signal")

// told is a result as it is shown: what a database says of a statement that was
// canceled tells nobody why.
func (a *app) told(r skein.Result) skein.Result {
	if !a.abandoned.Load() || r.Err == nil {
		return r
	}
	canceled := errors.Is(r.Err, context.Canceled)
	if e, ok := errors.AsType[*skein.DatabaseError](r.Err); ok {
		switch e.Code {
		case "57014", "1317", "SQLITE_INTERRUPT":
			canceled = true
		}
	}
	if !canceled {
		return r
	}
	if e, ok := errors.AsType[*skein.StatementError](r.Err); ok {
		left := *e
		left.Err = errAbandoned
		r.Err = &left
	} else {
		r.Err = errAbandoned
	}
	return r
}

// interrupted says whether a signal came.
func (a *app) interrupted() bool {
	select {
	case <-a.stop:
		return true
	default:
		return false
	}
}

// errFailed is returned by a command that has already told what went wrong in
// the tenants.
var errFailed = errors.New("some tenants failed")

// errInterrupted is returned by a command that a signal ended, and that has
// said so.
var errInterrupted = errors.New("interrupted")

func (a *app) exitCode(cmd *cobra.Command, err error) int {
	interrupted := exitInterrupted
	if a.interrupted() {
		switch a.signal {
		case syscall.SIGTERM:
			interrupted = exitTerminated
		case syscall.SIGHUP:
			interrupted = exitHungUp
		}
	}
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errInterrupted):
		return interrupted
	case errors.Is(err, errFailed), errors.Is(err, errDeclined):
		return exitFailed
	case errors.Is(err, errUnusable):
		return exitUsage
	case errors.Is(err, context.Canceled) && a.interrupted():
		a.errorf("interrupted")
		return interrupted
	}
	if f := cmd.Flags().Lookup("json"); f != nil && f.Changed && f.Value.String() == "true" {
		// A program that reads the output learns there why it ends.
		_ = a.writeJSON(jsonFault{Event: "error", Error: errorJSON(err)})
	}
	a.printError(err)
	return exitUsage
}

// printError shows an error with its hint; one that joins several is shown a
// line each.
func (a *app) printError(err error) {
	lines := strings.Split(strings.TrimRight(err.Error(), "\n"), "\n")
	for i, line := range lines {
		if i == 20 {
			a.errorf("and %d more", len(lines)-i)
			break
		}
		a.errorf("%s", line)
	}
	if hint := skein.Hint(err); hint != "" {
		fmt.Fprintf(a.Err, "  hint: %s\n", ui.Printable(hint))
	}
}

func (a *app) errorf(format string, args ...any) {
	fmt.Fprintf(a.Err, "%s %s\n", a.term.OnErr(ui.Red, "skein:"), ui.Printable(fmt.Sprintf(format, args...)))
}

// notef tells people something that is not a result.
func (a *app) notef(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintf(a.Err, "%s\n", ui.Printable(fmt.Sprintf(format, args...)))
	}
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "skein",
		Short: "Migrate every tenant database of a multi-tenant product",
		Long: `Skein migrates every tenant database of a multi-tenant product: a database,
a schema or a file for each tenant, on PostgreSQL, MySQL, MariaDB and SQLite.

To begin:
  skein init                   makes settings, a folder, and the list of tenants
  skein tenants add acme --url postgres://acme@db1/acme
  skein make create_contacts   makes a migration to fill in
  skein migrate --all          migrates every active tenant
  skein status                 shows which tenants are where

` + exitCodesHelp,
		Version:       a.Version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
		PersistentPreRun: func(*cobra.Command, []string) { a.setTerminal() },
	}
	root.SetVersionTemplate("skein {{.Version}}\n")
	root.SetFlagErrorFunc(a.flagError)
	flags := root.PersistentFlags()
	flags.StringVarP(&a.configPath, "config", "c", "", "settings `file` (default skein.yaml, or $SKEIN_CONFIG)")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "show results and failures only")
	flags.BoolVarP(&a.verbose, "verbose", "v", false, "show more of what is done")
	flags.BoolVar(&a.noColor, "no-color", false, "no colours (also: NO_COLOR=1)")
	_ = root.MarkPersistentFlagFilename("config", "yaml", "yml")

	root.AddGroup(
		&cobra.Group{ID: "work", Title: "Migrating:"},
		&cobra.Group{ID: "look", Title: "Looking:"},
		&cobra.Group{ID: "set", Title: "Setting up:"},
	)
	root.AddCommand(
		a.migrateCommand(), a.migrateAllCommand(), a.rollbackCommand(), a.unlockCommand(), a.makeCommand(),
		a.planCommand(), a.statusCommand(), a.verifyCommand(), a.doctorCommand(),
		a.initCommand(), a.tenantsCommand(), a.keysCommand(), a.provisionCommand(), a.deprovisionCommand(),
	)
	root.SetHelpCommandGroupID("set")
	root.SetCompletionCommandGroupID("set")
	return root
}

// flagError says of a flag that cannot be used what would do. Where the command
// itself is misspelt, the flags are those of another one.
func (a *app) flagError(cmd *cobra.Command, err error) error {
	if cmd.HasSubCommands() {
		_, words, findErr := cmd.Root().Find(a.args)
		words = slices.DeleteFunc(slices.Clone(words), func(w string) bool { return strings.HasPrefix(w, "-") })
		known := func(c *cobra.Command) bool { return c.Name() == words[0] || c.HasAlias(words[0]) }
		if findErr == nil && len(words) > 0 && !slices.ContainsFunc(cmd.Commands(), known) {
			return noSuchCommand(cmd, words)
		}
	}
	see := fmt.Sprintf("(see: %s --help)", cmd.CommandPath())
	if e, ok := errors.AsType[*pflag.NotExistError](err); ok {
		name := e.GetSpecifiedName()
		if e.GetSpecifiedShortnames() != "" {
			return fmt.Errorf("%s has no flag -%s %s", cmd.CommandPath(), name, see)
		}
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if near := closest.To(name, names); near != "" {
			return fmt.Errorf("%s has no flag --%s: do you mean --%s?", cmd.CommandPath(), name, near)
		}
		return fmt.Errorf("%s has no flag --%s %s", cmd.CommandPath(), name, see)
	}
	if e, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		is := map[string]string{
			"int": "a whole number", "duration": "a time with its unit, such as 30s or 2m", "bool": "true or false",
		}[e.GetFlag().Value.Type()]
		if is != "" {
			return fmt.Errorf("--%s %q is not %s", e.GetFlag().Name, e.GetValue(), is)
		}
	}
	return fmt.Errorf("%w %s", err, see)
}

// noArguments refuses words behind a command that takes none.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes flags alone, and it got %q (see: %s --help)", cmd.CommandPath(), args[0], cmd.CommandPath())
	}
	return nil
}

// noSuchCommand refuses the word behind a command that only has others below
// it, and says which of them is near.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, c := range cmd.Commands() {
		if !strings.HasPrefix(c.Name(), "__") { // the shells' own
			names = append(append(names, c.Name()), c.Aliases...)
		}
	}
	near := closest.To(args[0], names)
	if near == "" {
		return fmt.Errorf("%s has no command %q (see: %s --help)", cmd.CommandPath(), args[0], cmd.CommandPath())
	}
	return fmt.Errorf("%s has no command %q: do you mean %s %s?", cmd.CommandPath(), args[0], cmd.CommandPath(), near)
}

// shellCommand is a command as a person would type it, with words behind its
// flags that may look like flags.
func shellCommand(args, words []string) string {
	if slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(w, "-") }) {
		args = append(args, "--")
	}
	quoted := make([]string, 0, len(args)+len(words))
	for _, a := range append(args, words...) {
		quoted = append(quoted, shellQuote(a))
	}
	return strings.Join(quoted, " ")
}

// shellQuote is a word as a POSIX shell reads it back.
func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=@%+,", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
