package cli

import (
	"cmp"
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/skeinhq/skein"
)

func (a *app) tenantsCloneCommand() *cobra.Command {
	var tenant skein.Tenant
	var labelFlags []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "clone TENANT NEW",
		Short: "Make a new tenant as a copy of another, data and all",
		Long: `Make a new tenant whose database is a copy of another's, with the same history,
and with a role and a password of its own: to try a migration on, for instance.
It is made on the same server, which skein.yaml must know, and named as skein
provision names tenants. Migrations that are pending in the one are pending in
the copy.

The tenant that is copied may be in use. On PostgreSQL this then takes pg_dump
and pg_restore, on MySQL and MariaDB always their dump program and client. A
tenant that is a schema cannot be copied.

After an interrupt, a failure or a crash the same command goes on.

` + exitCodesHelp,
		Example: `  skein tenants clone acme acme-test --label tier=internal
  skein migrate acme-test
  skein deprovision acme-test --yes`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return fmt.Errorf("clone takes the TENANT (slug or id) and the NEW slug; it got %d", len(args))
			}
			return nil
		},
		ValidArgsFunction: a.slugArgs,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			ctx := cmd.Context()
			if tenant.Labels, err = pairs("--label", labelFlags); err != nil {
				return err
			}
			w, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer w.close()
			source, err := w.store.Find(ctx, args[0])
			if err == nil {
				err = cmp.Or(source.Err, source.Target.Validate())
			}
			if err != nil {
				return err
			}
			server, err := w.serverOf(ctx, source)
			if err != nil {
				return err
			}
			p, err := w.provisioning(ctx, server)
			if err != nil {
				return err
			}
			defer p.close()
			tenant.Slug = args[1]
			tenant.Target = p.naming().Target(p.admin, tenant.Slug)
			return a.provision(ctx, p, skein.ProvisionRequest{Tenant: tenant, Server: server, Source: &source}, asJSON)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&tenant.Name, "name", "", "the new tenant's name for people")
	flags.StringArrayVar(&labelFlags, "label", nil, "`label=value` to choose tenants by")
	flags.StringVar(&tenant.ID, "id", "", "the new tenant's id (default a new one)")
	flags.BoolVar(&asJSON, "json", false, "one JSON object on standard output")
	flags.SortFlags = false
	return cmd
}

// serverOf is the name of the server that a tenant is on.
func (w *workspace) serverOf(ctx context.Context, t skein.Tenant) (string, error) {
	journal, err := w.store.Journal(ctx)
	if err != nil {
		return "", err
	}
	r, err := journal.Look(ctx, t.Slug)
	if err != nil {
		return "", err
	}
	if r != nil && r.Server != "" {
		return r.Server, nil
	}
	var found []string
	for name, s := range w.cfg.Servers {
		if s.Target.Server() == t.Target.Server() {
			found = append(found, name)
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("tenant %s is on %s, and of the servers in skein.yaml there are %d with that address: one is needed to make a copy there", t.Slug, t.Target.Server(), len(found))
	}
	return found[0], nil
}
