package cli

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/ui"
)

func (a *app) provisionCommand() *cobra.Command {
	var req skein.ProvisionRequest
	var labelFlags []string
	var from string
	var prepare, asJSON bool
	cmd := &cobra.Command{
		Use:     "provision SLUG",
		GroupID: "work",
		Short:   "Make a tenant: its role, database and schema",
		Long: `Make a tenant on a server of skein.yaml: create its role and its database (or
schema, or file), give it rights there and nowhere else, run all migrations, and
then make it active. The password is generated and stored encrypted.

Each step is recorded before it is taken. After an interrupt, a failure or a
crash the same command goes on where it was. What exists under the tenant's
names, and was not made for it, is never touched: the command is refused.

A slug that is taken is an error; with --id, a tenant that is active and has
this id is fine, so that a program can repeat a call whose answer it missed.

On PostgreSQL and SQLite tenants are copied from a template, which is made
after the first tenant with a new set of migrations, or by --prepare.

` + exitCodesHelp,
		Example: `  skein provision acme
  skein provision acme --name 'Acme Ltd' --label tier=gold --server eu-1 --json
  skein provision --prepare    # after a deploy that has new migrations`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case prepare && len(args) > 0:
				return errors.New("--prepare makes no tenant: leave the slug out")
			case !prepare && len(args) != 1:
				return fmt.Errorf("provision takes one SLUG; it got %d", len(args))
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			ctx := cmd.Context()
			if req.Tenant.Labels, err = pairs("--label", labelFlags); err != nil {
				return err
			}
			w, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer w.close()
			if from != "" {
				w.cfg.Provisioning.From = from
			}
			if from != "" && from != "auto" && from != "template" && from != "replay" {
				return fmt.Errorf("--from %q is not one of auto, template, replay", from)
			}
			p, err := w.provisioning(ctx, req.Server)
			if err != nil {
				return err
			}
			defer p.close()
			if prepare {
				return a.prepare(ctx, p)
			}
			req.Tenant.Slug, req.Server = args[0], p.server
			req.Tenant.Target = p.naming().Target(p.admin, args[0])
			return a.provision(ctx, p, req, asJSON)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&req.Tenant.Name, "name", "", "the tenant's name for people")
	flags.StringArrayVar(&labelFlags, "label", nil, "`label=value` to choose tenants by")
	flags.StringVar(&req.Server, "server", "", "server of skein.yaml to make it on (default provisioning.server, or the only one)")
	flags.StringVar(&req.Tenant.ID, "id", "", "the tenant's id (default a new one)")
	flags.StringVar(&from, "from", "", "auto, template or replay (default provisioning.from)")
	flags.BoolVar(&prepare, "prepare", false, "make the template, and no tenant")
	flags.BoolVar(&asJSON, "json", false, "one JSON object on standard output")
	flags.SortFlags = false
	return cmd
}

// A provisioner is what a command needs to provision on one server.
type provisioner struct {
	*skein.Provisioning
	w      *workspace
	server string
	admin  skein.Target // the server's administrator, as the settings have it
	conn   skein.Administrator
}

// provisioning connects to a server's administrator.
func (w *workspace) provisioning(ctx context.Context, name string) (*provisioner, error) {
	name, server, err := w.cfg.ProvisioningServer(name)
	if err != nil {
		return nil, err
	}
	journal, err := w.store.Journal(ctx)
	if err != nil {
		return nil, err
	}
	if server.Target.Engine != skein.SQLite && !w.store.Seals() {
		return nil, errors.New("a new tenant's password is stored encrypted, and there is no key: set encryption.key in skein.yaml, or DB_ENCRYPTION_KEY (make one with: skein keys generate)")
	}
	set, err := w.migrations()
	if err != nil {
		return nil, err
	}
	engine, err := w.provisionerFor(server.Target.Engine)
	if err != nil {
		return nil, err
	}
	p := &provisioner{w: w, server: name, admin: server.Target}
	p.Provisioning = skein.NewProvisioning(engine, set, journal, skein.ProvisioningOptions{
		Project:     w.project(),
		Origin:      skein.Origin(strings.TrimPrefix(w.cfg.Provisioning.From, "auto")),
		LockWait:    w.cfg.Limits.LockWait,
		Knex:        w.knexRunner(),
		KnexHistory: w.cfg.Migrations.KnexHistory,
		Timeout:     w.cfg.Limits.Timeout,
		Stop:        w.app.stop,
		Began: func(t skein.Tenant, step skein.ProvisionStep) {
			if w.app.verbose {
				w.app.notef("%s: %s", t.Slug, step)
			}
		},
		Locate: w.locate,
	})
	if p.conn, err = engine.Administer(ctx, w.locate(server.Target)); err != nil {
		return nil, fmt.Errorf("connect to server %s: %w", name, err)
	}
	return p, nil
}

func (p *provisioner) close() { _ = p.conn.Close() }

// locate is a target as this process finds it.
func (w *workspace) locate(t skein.Target) skein.Target {
	return w.local(skein.Tenant{Target: t}).Target
}

func (w *workspace) provisionerFor(name string) (skein.Provisioner, error) {
	for _, e := range w.engines() {
		if p, ok := e.(skein.Provisioner); ok && e.Name() == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("tenants cannot be provisioned on %s", name)
}

// project tells this project's templates from those of others on a server: two
// have different central databases.
func (w *workspace) project() string {
	where := w.store.Database()
	if t, err := skein.ParseTarget(where); err == nil && t.Engine == skein.SQLite {
		if path, err := filepath.Abs(t.Database); err == nil {
			where = path
		}
	}
	sum := sha256.Sum256([]byte(where))
	return hex.EncodeToString(sum[:8])
}

// naming is what tenants are called on the server.
func (p *provisioner) naming() skein.Naming {
	set := p.w.cfg.Provisioning
	if p.admin.Engine == skein.SQLite {
		return skein.Naming{Database: cmp.Or(set.Database, "{slug}.db")}
	}
	n := skein.Naming{
		Database: cmp.Or(set.Database, "tenant_{slug}"),
		Schema:   set.Schema,
		User:     cmp.Or(set.User, "tenant_{slug}"),
	}
	return n
}

type jsonProvisioned struct {
	Event      string            `json:"event"` // "provisioned"
	ID         string            `json:"id"`
	Slug       string            `json:"slug"`
	Name       string            `json:"name,omitempty"`
	Status     string            `json:"status"`
	Target     string            `json:"target"`
	Server     string            `json:"server"`
	Labels     map[string]string `json:"labels,omitempty"`
	From       string            `json:"from,omitempty"`
	Migrations int               `json:"migrations"`
	Resumed    bool              `json:"resumed,omitempty"`
	Already    bool              `json:"already,omitempty"`
	Error      *jsonError        `json:"error,omitempty"`
	DurationMS int64             `json:"duration_ms"`
}

func (a *app) provision(ctx context.Context, p *provisioner, req skein.ProvisionRequest, asJSON bool) error {
	out, err := p.Provision(ctx, p.conn, req)
	unfinished, _ := errors.AsType[*skein.UnfinishedError](err)
	if asJSON && (err == nil || unfinished != nil) {
		t := out.Tenant
		j := jsonProvisioned{
			Event: "provisioned", ID: t.ID, Slug: t.Slug, Name: t.Name, Status: t.Status, Target: t.Target.String(), Server: p.server,
			Labels: t.Labels, From: string(out.Origin), Migrations: out.Applied, Resumed: out.Resumed, Already: out.Already,
			DurationMS: out.Duration.Milliseconds(),
		}
		if unfinished != nil {
			j.Error = errorJSON(unfinished)
		}
		if err := a.writeJSON(j); err != nil {
			return err
		}
	}
	if err != nil {
		return a.provisionFailed(out.Tenant, err, unfinished, asJSON)
	}
	if !asJSON {
		verb := "Provisioned"
		switch {
		case out.Already:
			verb = "Already provisioned:"
		case req.Source != nil:
			verb = "Cloned " + req.Source.Slug + " as"
		}
		fmt.Fprintf(a.Out, "%s %s (%s)", verb, ui.Printable(out.Tenant.Slug), ui.Printable(out.Tenant.Target.String()))
		if !out.Already {
			fmt.Fprintf(a.Out, ": %s, in %s", ui.Plural(out.Applied, "migration"), ui.Took(out.Duration))
		}
		fmt.Fprintln(a.Out)
	}
	if out.Origin == skein.FromReplay && !out.Already && p.w.cfg.Provisioning.From != "replay" {
		a.prepareNext(ctx, p)
	}
	return nil
}

// provisionFailed tells why a tenant could not be made. What went wrong in its
// own database is a tenant that failed; all else is about the call.
func (a *app) provisionFailed(t skein.Tenant, err error, unfinished *skein.UnfinishedError, told bool) error {
	if errors.Is(err, skein.ErrInterrupted) {
		a.notef("Interrupted: run the same command again to go on")
		return errInterrupted
	}
	if unfinished == nil {
		return err
	}
	if !told {
		a.printFailure(t.Slug, err)
	}
	return errFailed
}

// prepareNext makes the template for the tenants to come, when one was made
// without. It is no failure of the tenant if that cannot be done.
func (a *app) prepareNext(ctx context.Context, p *provisioner) {
	start := time.Now()
	used, err := p.Prepare(ctx, p.conn, p.naming().Target(p.admin, "x"))
	switch {
	case !used || a.interrupted():
	case err == nil:
		a.notef("Made the template for the next tenants, in %s", ui.Took(time.Since(start)))
	default:
		if _, busy := errors.AsType[*skein.LockedError](err); !busy {
			a.notef("The next tenants will be made by replay: %v", err)
		}
	}
}

// prepare makes the template because it was asked for.
func (a *app) prepare(ctx context.Context, p *provisioner) error {
	start := time.Now()
	used, err := p.Prepare(ctx, p.conn, p.naming().Target(p.admin, "x"))
	switch {
	case err != nil:
		return err
	case !used:
		fmt.Fprintln(a.Out, "Tenants are made by replay here: no template is used")
	default:
		fmt.Fprintf(a.Out, "The template is there, after %s\n", ui.Took(time.Since(start)))
	}
	return nil
}

func (a *app) deprovisionCommand() *cobra.Command {
	var yes, asJSON bool
	var confirm, backup string
	cmd := &cobra.Command{
		Use:     "deprovision SLUG",
		GroupID: "work",
		Short:   "Drop a tenant that Skein provisioned, data and all",
		Long: `Drop a tenant that Skein provisioned: end its sessions, drop its database (or
schema, or file) and its role, and then remove it from the list. Its data is gone
after that, save for the --backup.

It takes --yes and the slug a second time, typed at the prompt or given with
--confirm. A tenant that Skein did not provision is refused. After an interrupt
or a crash the same command goes on; the slug is free again when it has ended.

` + exitCodesHelp,
		Example: `  skein deprovision acme --yes
  skein deprovision acme --yes --confirm acme --backup acme.dump`,
		Args:              oneTenant,
		ValidArgsFunction: a.slugArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			slug := args[0]
			if !yes {
				return fmt.Errorf("this drops the database of %s: give --yes, and the slug again (--confirm %s, or typed), if that is meant", slug, slug)
			}
			if confirm == "" {
				var err error
				if confirm, err = a.typeAgain(ctx, slug); err != nil {
					return err
				}
			}
			if confirm != slug {
				return fmt.Errorf("the slug given again is %q, and not %q: nothing was done", confirm, slug)
			}
			w, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer w.close()
			return a.deprovision(ctx, w, skein.DeprovisionRequest{Slug: slug, Backup: backup}, asJSON)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&yes, "yes", false, "yes, drop it")
	flags.StringVar(&confirm, "confirm", "", "the `slug` again")
	flags.StringVar(&backup, "backup", "", "write its data to this new `file` first")
	flags.BoolVar(&asJSON, "json", false, "one JSON object on standard output")
	flags.SortFlags = false
	return cmd
}

// typeAgain has a person type the slug.
func (a *app) typeAgain(ctx context.Context, slug string) (string, error) {
	if ui.Keyboard(a.In) == nil {
		return "", fmt.Errorf("there is no terminal to type the slug at again: give --confirm %s if that is meant", slug)
	}
	fmt.Fprintf(a.Err, "This drops the database of %s and all that is in it. Type the slug to go on: ", ui.Printable(slug))
	typed := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(a.In).ReadString('\n')
		typed <- strings.TrimSpace(line)
	}()
	select {
	case line := <-typed:
		return line, nil
	case <-a.stop:
		fmt.Fprintln(a.Err)
		return "", errInterrupted
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (a *app) deprovision(ctx context.Context, w *workspace, req skein.DeprovisionRequest, asJSON bool) error {
	journal, err := w.store.Journal(ctx)
	if err != nil {
		return err
	}
	r, err := skein.FindProvisioned(ctx, journal, req.Slug)
	if err != nil {
		return err
	}
	if _, ok := w.cfg.Servers[r.Server]; !ok {
		return fmt.Errorf("tenant %s was provisioned on server %s, which is not under servers any more", req.Slug, r.Server)
	}
	p, err := w.provisioning(ctx, r.Server)
	if err != nil {
		return err
	}
	defer p.close()
	start := time.Now()
	t, err := p.Deprovision(ctx, p.conn, req)
	switch {
	case errors.Is(err, skein.ErrInterrupted):
		a.notef("Interrupted: run the same command again to go on")
		return errInterrupted
	case err != nil:
		return err
	case asJSON:
		return a.writeJSON(jsonDeprovisioned{
			Event: "deprovisioned", ID: t.ID, Slug: t.Slug, Target: t.Target.String(), Server: r.Server, Backup: req.Backup,
			DurationMS: time.Since(start).Milliseconds(),
		})
	}
	fmt.Fprintf(a.Out, "Dropped %s (%s)", ui.Printable(t.Slug), ui.Printable(t.Target.String()))
	if req.Backup != "" {
		fmt.Fprintf(a.Out, "; its data is in %s", ui.Printable(req.Backup))
	}
	fmt.Fprintln(a.Out)
	return nil
}

type jsonDeprovisioned struct {
	Event      string `json:"event"` // "deprovisioned"
	ID         string `json:"id"`
	Slug       string `json:"slug"`
	Target     string `json:"target"`
	Server     string `json:"server"`
	Backup     string `json:"backup,omitempty"`
	DurationMS int64  `json:"duration_ms"`
}
