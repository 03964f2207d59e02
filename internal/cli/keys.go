package cli

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/central"
	"github.com/skeinhq/skein/internal/config"
	"github.com/skeinhq/skein/internal/ui"
	"github.com/skeinhq/skein/secret"
)

func (a *app) keysCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "keys",
		GroupID: "set",
		Short:   "Make and rotate the key that passwords are encrypted with",
		Long: `Make a key, see which keys the stored passwords are under, and encrypt them anew
with another one. A key is never shown, but for the new one of generate; its id
is, 8 hexadecimal digits.

` + exitCodesHelp,
		Args: noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.keysGenerateCommand(), a.keysStatusCommand(), a.keysRotateCommand(), a.keysWrapCommand())
	return cmd
}

func (a *app) keysWrapCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "wrap ADDRESS",
		Short: "Have a key encrypted by a key management service",
		Long: `Read a key on standard input, have it encrypted by the key management service
at ADDRESS, and print what to set encryption.key to: the address, # and the
encrypted key. Whoever reads that learns nothing of the key without the service.

The addresses are awskms://, gcpkms://, azurekeyvault:// and hashivault://, as
gocloud.dev/secrets reads them, in a build of cmd/skein-kms.

` + exitCodesHelp,
		Example: `  skein-kms keys generate | skein-kms keys wrap 'awskms://alias/skein?region=eu-central-1'`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("wrap takes one ADDRESS of a key; it got %d", len(args))
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			scheme, _, _ := strings.Cut(args[0], "://")
			service := a.KeyServices[scheme]
			switch {
			case service == nil && slices.Contains(keyServiceSchemes, scheme):
				return errNoKeyServices
			case service == nil:
				return fmt.Errorf("the address begins with none of %s://", strings.Join(keyServiceSchemes, "://, "))
			case strings.Contains(args[0], "#"):
				return errors.New("the address holds a #, behind which the wrapped key is to stand")
			}
			data, err := io.ReadAll(io.LimitReader(a.stdin(), maxKey+1))
			if err != nil {
				return fmt.Errorf("read the key: %w", err)
			}
			key := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
			if key == "" || len(data) > maxKey || strings.ContainsAny(key, "\r\n") {
				return errors.New("standard input is not one key: one line that is not empty is expected")
			}
			wrapped, err := service.Wrap(cmd.Context(), args[0], []byte(key))
			if err != nil {
				return fmt.Errorf("wrap the key: %w", secret.Clean(err, secret.New(key)))
			}
			_, err = fmt.Fprintf(a.Out, "%s#%s\n", args[0], base64.StdEncoding.EncodeToString(wrapped))
			return err
		},
	}
}

// maxKey bounds what is read for a key, in bytes. Key management services take
// no more.
const maxKey = 4096

func (a *app) keysGenerateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "generate",
		Short: "Print a new key",
		Long: `Print a new key: 32 characters, made of 192 random bits, which fit
encryption.derivation: utf8 as they stand. Nothing else is written, and nothing
is changed.

` + exitCodesHelp,
		Example: "  (umask 077; skein keys generate > /run/secrets/db_encryption_key)",
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(a.Out, secret.GenerateKey().Reveal())
			return err
		},
	}
}

func (a *app) keysStatusCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Count the stored passwords by their key and form",
		Long: `Open the stored passwords of all tenants, active or not, and count them by the
key that they are under and the form that they have. No tenant is connected to.
It ends with 1 if some cannot be opened.

` + exitCodesHelp,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			w, ring, err := a.openKeys(ctx, "")
			if err != nil {
				return err
			}
			defer w.close()
			c, err := takeCensus(ctx, w.store, func(res skein.Result) error {
				if asJSON {
					return a.writeJSON(tenantJSON(res, false))
				}
				return nil
			})
			if err != nil {
				return err
			}
			if asJSON {
				err = a.writeJSON(c.json(ring))
			} else {
				err = a.printCensus(c, ring)
			}
			if err == nil && c.unreadable.total > 0 {
				err = errFailed
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line on standard output")
	return cmd
}

// openKeys is open for a command that needs the keys. A write mode goes before
// that of the settings.
func (a *app) openKeys(ctx context.Context, write secret.WriteMode) (*workspace, *secret.Keyring, error) {
	cfg, err := config.Load(a.configPath, a.LookupEnv)
	if err != nil {
		return nil, nil, err
	}
	if write != "" {
		cfg.Encryption.Write = string(write)
	}
	keys, err := a.loadKeys(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	ring, err := keys.ring(cfg)
	switch {
	case err != nil:
		return nil, nil, err
	case ring == nil:
		return nil, nil, errors.New("no key is set: set encryption.key in skein.yaml, or DB_ENCRYPTION_KEY in the environment")
	}
	cc, err := centralWith(cfg, keys, ring)
	if err != nil {
		return nil, nil, err
	}
	w := &workspace{app: a, cfg: cfg}
	w.store, err = central.Open(ctx, cc)
	return w, ring, err
}

// A census counts the stored passwords.
type census struct {
	tenants    int
	missing    int
	unreadable failures
	values     map[valueKind]int
}

// A valueKind is how a password is stored.
type valueKind struct {
	sealed bool // as Skein does it; otherwise CBC
	keyID  string
}

// takeCensus opens all stored passwords, and calls unreadable for each that
// cannot be.
func takeCensus(ctx context.Context, store *central.Store, unreadable func(skein.Result) error) (census, error) {
	c := census{values: make(map[valueKind]int)}
	for p, err := range store.Passwords(ctx, central.Filter{Order: central.BySlug}) {
		if err := cmp.Or(err, ctx.Err()); err != nil {
			return c, err
		}
		c.tenants++
		switch {
		case p.Missing:
			c.missing++
		case p.Err != nil:
			res := unusable(p.Tenant, p.Err)
			c.unreadable.add(res)
			if err := unreadable(res); err != nil {
				return c, err
			}
		default:
			c.values[valueKind{p.Sealed, p.KeyID}]++
		}
	}
	return c, nil
}

// unusable is the result of a tenant that could not be worked on.
func unusable(t skein.Tenant, err error) skein.Result {
	return skein.Result{Tenant: t, Standing: skein.Standing{State: skein.StateUnreachable}, Err: err}
}

// old is how many passwords are under another key than the current one.
func (c census) old(ring *secret.Keyring) (n int) {
	for kind, count := range c.values {
		if kind.keyID != ring.Current() {
			n += count
		}
	}
	return n
}

// kinds are the kinds that occur: the current key's first, sealed ones first.
func (c census) kinds(ring *secret.Keyring) []valueKind {
	ids := ring.KeyIDs()
	return slices.SortedFunc(maps.Keys(c.values), func(x, y valueKind) int {
		order := func(k valueKind) int {
			if k.sealed {
				return 0
			}
			return 1
		}
		return cmp.Or(slices.Index(ids, x.keyID)-slices.Index(ids, y.keyID), order(x)-order(y))
	})
}

const sealedForm = "skein:v1"

func (k valueKind) form(ring *secret.Keyring) string {
	if k.sealed {
		return sealedForm
	}
	return string(ring.Format())
}

func (a *app) printCensus(c census, ring *secret.Keyring) error {
	var t ui.Table
	t.RightAlign(0)
	dim := func(s string) string { return a.term.OnOut(ui.Dim, s) }
	t.Row(ui.Styled(dim, "PASSWORDS"), ui.Styled(dim, "FORM"), ui.Styled(dim, "KEY"))
	for _, k := range c.kinds(ring) {
		which := "previous"
		if k.keyID == ring.Current() {
			which = "current"
		}
		t.Row(ui.Count(c.values[k]), k.form(ring), k.keyID+", "+which)
	}
	if n := c.unreadable.total; n > 0 {
		red := func(s string) string { return a.term.OnOut(ui.Red, s) }
		t.Row(ui.Count(n), ui.Styled(red, "cannot be opened"), ui.Names(c.unreadable.slugs(func(skein.Result) bool { return true }), sampleSize, n))
	}
	if c.missing > 0 {
		t.Row(ui.Count(c.missing), "none", "")
	}
	if err := t.Write(a.Out, ""); err != nil {
		return err
	}
	a.printOld(c, ring)
	if c.unreadable.total > 0 {
		fmt.Fprintln(a.Out)
		a.printFailures(c.unreadable)
	}
	return nil
}

// printOld says whether the previous key is still needed.
func (a *app) printOld(c census, ring *secret.Keyring) {
	n := c.old(ring)
	switch {
	case n > 0:
		fmt.Fprintf(a.Out, "\n%s still under the previous key. Encrypt them anew with:  skein keys rotate\n", are(n))
	case len(ring.KeyIDs()) > 1 && c.unreadable.total == 0:
		fmt.Fprintf(a.Out, "\nNo password needs the previous key any more: remove encryption.previous_key (or DB_ENCRYPTION_KEY_PREVIOUS)\n")
	}
}

func are(n int) string {
	if n == 1 {
		return "1 password is"
	}
	return ui.Count(n) + " passwords are"
}

type jsonKeys struct {
	Event           string      `json:"event"` // "keys"
	Current         string      `json:"current"`
	Previous        []string    `json:"previous,omitempty"`
	Tenants         int         `json:"tenants"`
	WithoutPassword int         `json:"without_password"`
	Unreadable      int         `json:"unreadable"`
	UnderPrevious   int         `json:"under_previous"`
	Values          []jsonValue `json:"values,omitempty"`
}

type jsonValue struct {
	Form      string `json:"form"`
	Key       string `json:"key"`
	Passwords int    `json:"passwords"`
}

func (c census) json(ring *secret.Keyring) jsonKeys {
	j := jsonKeys{
		Event: "keys", Current: ring.Current(), Previous: ring.KeyIDs()[1:],
		Tenants: c.tenants, WithoutPassword: c.missing, Unreadable: c.unreadable.total, UnderPrevious: c.old(ring),
	}
	for _, k := range c.kinds(ring) {
		j.Values = append(j.Values, jsonValue{Form: k.form(ring), Key: k.keyID, Passwords: c.values[k]})
	}
	return j
}

func (a *app) keysRotateCommand() *cobra.Command {
	r := &keyRotation{app: a}
	var bounds limits
	var to string
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Encrypt the stored passwords anew with the current key",
		Long: `Encrypt the stored passwords of all tenants, active or not, anew: with
encryption.key, in the form that encryption.write names.

First every one is opened, with the current key or the previous one, and tried
by connecting to its tenant. If one cannot be opened or used, it is named, and
nothing is changed. Then the rows are rewritten, each where it still has the
value that was tried: what the application changes meanwhile is left as it is,
and told.

It may be killed at any instant; the same command goes on where it was. Before
it, give both keys to Skein and to the application: see docs/encryption.md.

In a mapped table it needs central.tenants.write: true.

` + exitCodesHelp,
		Example: `  skein keys rotate --dry-run
  skein keys rotate
  skein keys rotate --to gcm      # CBC values become authenticated ones`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			write := secret.WriteMode(to)
			if to != "" && write != secret.WriteGCM && write != secret.WriteCBC {
				return fmt.Errorf("--to %q is not gcm or cbc", to)
			}
			return r.run(cmd.Context(), write, &bounds)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&to, "to", "", "the form to write: `gcm or cbc` (default encryption.write)")
	flags.BoolVar(&r.noConnect, "no-connect", false, "do not try the passwords by connecting")
	flags.BoolVar(&r.dryRun, "dry-run", false, "open and try all passwords, and change nothing")
	flags.BoolVar(&r.json, "json", false, "one JSON object a line on standard output")
	bounds.register(flags)
	_ = flags.MarkHidden("lock-wait") // no lock is taken
	_ = cmd.RegisterFlagCompletionFunc("to", cobra.FixedCompletions([]string{"gcm", "cbc"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// A keyRotation is one call of keys rotate.
type keyRotation struct {
	app       *app
	noConnect bool
	dryRun    bool
	json      bool

	w        *workspace
	ring     *secret.Keyring
	start    time.Time
	failures failures
	changed  []string // the first slugs of rows that someone else changed
	result   jsonRotation
	writeErr error // the first that writing JSON met
}

type jsonRotation struct {
	Event         string `json:"event"` // "rotation"
	Key           string `json:"key"`
	To            string `json:"to"`
	Tried         int    `json:"tried"`
	Failed        int    `json:"failed"`
	Rewritten     int    `json:"rewritten"`
	Already       int    `json:"already"`
	Changed       int    `json:"changed_meanwhile"`
	UnderPrevious *int   `json:"under_previous,omitempty"`
	DryRun        bool   `json:"dry_run"`
	Interrupted   bool   `json:"interrupted"`
	DurationMS    int64  `json:"duration_ms"`
}

func (r *keyRotation) run(ctx context.Context, to secret.WriteMode, bounds *limits) error {
	a := r.app
	r.start = time.Now()
	var err error
	if r.w, r.ring, err = a.openKeys(ctx, to); err != nil {
		return err
	}
	defer r.w.close()
	if err := bounds.apply(&r.w.cfg.Limits); err != nil {
		return err
	}
	if r.w.store.Mapped() && r.w.cfg.Encryption.Write == "" {
		return errors.New("the application reads these passwords, so say in which form: set encryption.write in skein.yaml to cbc, as it reads them now, or to gcm once it reads that (see docs/encryption.md)")
	}
	rotation, err := r.w.store.NewRotation(ctx, r.ring)
	if err != nil {
		return err
	}
	a.working.Store(true)
	defer a.working.Store(false)
	if err := r.try(ctx, rotation); err != nil {
		return err
	}
	r.result.Failed = r.failures.total
	if r.failures.total > 0 || r.result.Interrupted || r.dryRun {
		return r.end(nil)
	}
	if !r.json && r.result.Tried > 0 {
		a.notef("%s tried, and good. Encrypting them anew", ui.Plural(r.result.Tried, "password"))
	}
	out, err := rotation.Rewrite(ctx, a.stop, func(t skein.Tenant) {
		r.changed = keepFirst(r.changed, t.Slug, sampleSize, strings.Compare)
		r.tell(unusable(t, errMeanwhile))
	})
	r.result.Rewritten, r.result.Already, r.result.Changed, r.result.Interrupted = out.Rewritten, out.Already, out.Changed, out.Interrupted
	if err != nil {
		if out.Rewritten > 0 {
			a.notef("%s encrypted anew before this; the same command goes on with the rest", ui.Plural(out.Rewritten, "password"))
		}
		return err
	}
	if out.Interrupted {
		return r.end(nil)
	}
	c, err := takeCensus(ctx, r.w.store, func(skein.Result) error { return nil })
	if err != nil {
		return err
	}
	return r.end(&c)
}

var errMeanwhile = errors.New("its stored password was changed by someone else after it was tried, and is left as it is: rotate again")

// try opens every password, and connects with it.
func (r *keyRotation) try(ctx context.Context, rotation *central.Rotation) error {
	survey, err := rotation.Survey(ctx)
	if err != nil {
		return err
	}
	failed := func(t skein.Tenant, err error) {
		if errors.Is(err, context.Canceled) && r.app.interrupted() {
			return
		}
		res := unusable(t, err)
		r.failures.add(res)
		r.tell(res)
	}
	if r.noConnect {
		for p, err := range rotation.Candidates(ctx) {
			if err := cmp.Or(err, ctx.Err()); err != nil {
				return err
			}
			if r.app.interrupted() {
				r.result.Interrupted = true
				break
			}
			if r.result.Tried++; p.Err != nil {
				failed(p.Tenant, p.Err)
			}
		}
		return r.writeErr
	}
	collect := func(res skein.Result) {
		if res.Err != nil {
			failed(res.Tenant, res.Err)
		}
	}
	listen := func(e skein.Event) {
		if e.Type == skein.TenantEnded && !errors.Is(e.Result.Err, skein.ErrInterrupted) {
			collect(*e.Result)
		}
	}
	if !r.json {
		report := newDryRunReport(r.app, false, survey.Tenants, collect)
		report.begin()
		defer report.text.close()
		listen = report.event
	}
	none, err := skein.NewSet(nil)
	if err != nil {
		return err
	}
	var engines []skein.Engine
	for _, e := range r.w.engines() {
		engines = append(engines, loneSessions{e})
	}
	sum, err := r.w.fleetOn(engines, none, listen).Each(ctx, r.candidates(ctx, rotation),
		func(ctx context.Context, m *skein.Migrator, s skein.Session, t skein.Tenant) skein.Result {
			return m.Assess(ctx, s, t, skein.Policy{})
		})
	r.result.Tried, r.result.Interrupted = sum.Tenants, sum.Interrupted || r.app.interrupted()
	if r.result.Interrupted && errors.Is(err, context.Canceled) {
		err = nil
	}
	return cmp.Or(err, r.writeErr)
}

// tell writes what came of a tenant for a program.
func (r *keyRotation) tell(res skein.Result) {
	if r.json {
		r.writeErr = cmp.Or(r.writeErr, r.app.writeJSON(tenantJSON(res, false)))
	}
}

// outOfReach says whether an error says nothing of a password.
func outOfReach(err error) bool {
	switch skein.ErrorClass(err) {
	case skein.Unreachable, skein.ConnectionLost, skein.Transient:
		return true
	}
	return false
}

// candidates are the tenants to be connected to.
func (r *keyRotation) candidates(ctx context.Context, rotation *central.Rotation) iter.Seq2[skein.Tenant, error] {
	return func(yield func(skein.Tenant, error) bool) {
		for p, err := range rotation.Candidates(ctx) {
			t := r.w.local(p.Tenant)
			if p.Err != nil {
				t.Err = p.Err
			}
			if !yield(t, err) {
				return
			}
		}
	}
}

// loneSessions is an engine with a session for each tenant: one that another
// tenant's password opened would prove nothing.
type loneSessions struct{ skein.Engine }

func (loneSessions) SessionKey(skein.Target) string { return "" }

// end tells what came of it.
func (r *keyRotation) end(after *census) error {
	a, res := r.app, &r.result
	res.Event, res.Key, res.To, res.DryRun = "rotation", r.ring.Current(), string(r.ring.Writes()), r.dryRun
	res.DurationMS = time.Since(r.start).Milliseconds()
	if after != nil {
		old := after.old(r.ring)
		res.UnderPrevious = &old
	}
	if r.json {
		if err := cmp.Or(r.writeErr, a.writeJSON(res)); err != nil {
			return err
		}
	} else {
		r.print(after)
	}
	switch {
	case res.Interrupted:
		return errInterrupted
	case res.Failed > 0 || res.Changed > 0:
		return errFailed
	}
	return nil
}

func (r *keyRotation) print(after *census) {
	a, res := r.app, &r.result
	out := a.Out
	took := ui.Took(time.Since(r.start))
	if res.Failed > 0 {
		a.printFailures(r.failures)
	}
	how := "opened and connected with"
	if r.noConnect {
		how = "opened"
	}
	switch {
	case res.Interrupted && res.Rewritten == 0:
		fmt.Fprintf(out, "%s: nothing was changed\n", a.term.OnOut(ui.Yellow, "Interrupted"))
	case res.Failed > 0:
		fmt.Fprintf(out, "%s of %s cannot be %s: nothing was changed\n", a.term.OnOut(ui.Red, ui.Count(res.Failed)), ui.Plural(res.Tried, "password"), how)
		if !slices.ContainsFunc(r.failures.kept, func(res skein.Result) bool { return !outOfReach(res.Err) }) {
			fmt.Fprintln(out, "If these servers are to stay out of reach, rotate without connecting:  skein keys rotate --no-connect")
		}
	case res.Interrupted:
		fmt.Fprintf(out, "%s after %s; the same command goes on with the rest\n", a.term.OnOut(ui.Yellow, "Interrupted"), ui.Plural(res.Rewritten, "password"))
	case r.dryRun && res.Tried == 0:
		fmt.Fprintf(out, "Nothing to encrypt anew with key %s (%s)\n", res.Key, res.To)
	case r.dryRun:
		fmt.Fprintf(out, "%s can be %s, in %s. Nothing was changed\n", ui.Plural(res.Tried, "password"), how, took)
	default:
		line := "Encrypted " + ui.Plural(res.Rewritten, "password") + " anew"
		style := ui.Green
		if res.Rewritten == 0 {
			line, style = "Nothing to encrypt anew", ui.Bold
		}
		fmt.Fprintf(out, "%s with key %s (%s) in %s", a.term.OnOut(style, line), res.Key, res.To, took)
		if res.Already > 0 {
			fmt.Fprintf(out, "; %s were so already", ui.Count(res.Already))
		}
		fmt.Fprintln(out)
		if res.Changed > 0 {
			fmt.Fprintf(out, "%s changed or added by someone else meanwhile, and left as they are: %s\nGo on with:  skein keys rotate\n",
				a.term.OnOut(ui.Yellow, ui.Count(res.Changed)), ui.Printable(ui.Names(r.changed, sampleSize, res.Changed)))
		}
		if after != nil && res.Changed == 0 {
			a.printOld(*after, r.ring)
		}
	}
}
