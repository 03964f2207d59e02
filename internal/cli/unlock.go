package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/ui"
)

func (a *app) unlockCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "unlock TENANT",
		Aliases: []string{"migrate:unlock"},
		GroupID: "work",
		Short:   "Show who holds a tenant's lock, and mend what a dead process left",
		Long: `Show who holds a tenant's lock. Skein's own lock ends with the process that has
it; it is only taken from a living one with --force, which ends that process's
database session.

Knex's lock is a row that a killed Knex leaves set, so that all later runs fail.
It is set back when nobody holds Skein's lock, after you said yes at the prompt
or by --force: make sure first that no Knex process is at work in this tenant.

` + exitCodesHelp,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("unlock takes one TENANT (slug or id); it got %d", len(args))
			}
			return nil
		},
		ValidArgsFunction: a.slugArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.unlock(cmd.Context(), args[0], force)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "take the lock away from a living process too, and do not ask")
	return cmd
}

func (a *app) unlock(ctx context.Context, word string, force bool) error {
	w, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer w.close()
	tenant, err := w.store.Find(ctx, word)
	if err != nil {
		return err
	}
	session, err := w.session(ctx, w.local(tenant))
	if err != nil {
		a.printFailure(tenant.Slug, err)
		return errFailed
	}
	defer func() { _ = session.Close() }() // nothing is left to be done there
	keeper, ok := session.(skein.LockKeeper)
	if !ok {
		return errors.New("this engine's locks cannot be shown")
	}
	slug := ui.Printable(tenant.Slug)
	holder, err := keeper.Holder(ctx)
	if err != nil {
		return err
	}
	switch {
	case holder != nil && !force:
		fmt.Fprintf(a.Out, "%s is locked by %s\n", slug, ui.Printable(holder.String()))
		fmt.Fprintln(a.Out, "The lock ends with that process. To end its session now: skein unlock --force", shellQuote(tenant.Slug))
		return errFailed
	case holder != nil:
		if err := keeper.Break(ctx, *holder); err != nil {
			return err
		}
		fmt.Fprintf(a.Out, "%s: ended %s, and with it its lock\n", slug, ui.Printable(holder.String()))
	}
	history, err := session.History(ctx)
	if err != nil {
		return err
	}
	if !history.KnexLocked {
		if holder == nil {
			fmt.Fprintf(a.Out, "%s is not locked\n", slug)
		}
		return nil
	}
	if !force {
		fmt.Fprintf(a.Err, "Knex's lock is set in %s: a Knex process is at work there, or was killed while it was.\n", slug)
		if err := a.confirm(ctx, "Is no Knex process at work there, and shall the lock be set back?", "--force"); err != nil {
			return err
		}
	}
	if _, err := keeper.ClearKnexLock(ctx); err != nil {
		return err
	}
	fmt.Fprintf(a.Out, "%s: Knex's lock is set back\n", slug)
	return nil
}
