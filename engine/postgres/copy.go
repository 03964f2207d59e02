package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"

	"github.com/skeinhq/skein"
)

var _ skein.Copier = (*administrator)(nil)

// CheckCopy looks whether the source can be copied. A database that somebody is
// connected to is one that the server does not copy: it takes pg_dump and
// pg_restore then.
func (a *administrator) CheckCopy(ctx context.Context, site skein.Site) error {
	from := site.Source
	switch {
	case from.Schema != "" || site.Target.Schema != "":
		return errors.New("a tenant that is a schema cannot be copied: PostgreSQL copies databases only; use pg_dump --schema, and rename the schema in what it writes")
	case from.Server() != site.Target.Server():
		return fmt.Errorf("the copy would be on %s, and the tenant is on %s: a copy is made on the same server", site.Target.Server(), from.Server())
	}
	row, err := a.row(ctx, `SELECT pg_catalog.pg_has_role(d.datdba, 'MEMBER'),
		(SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity s WHERE s.datid = d.oid),
		EXISTS (SELECT 1 FROM pg_catalog.pg_roles r WHERE r.rolsuper AND r.rolname = `+quoteLiteral(from.User)+`)
		FROM pg_catalog.pg_database d WHERE d.datname = `+quoteLiteral(from.Database))
	switch {
	case err != nil:
		return fmt.Errorf("look at the tenant that is to be copied: %w", err)
	case row == nil:
		return &skein.DatabaseError{Class: skein.NoDatabase, Message: fmt.Sprintf("there is no database %s to copy", quoteIdent(from.Database))}
	case row[0] != "t":
		return &skein.DatabaseError{
			Class: skein.Denied, Message: fmt.Sprintf("database %s belongs to a role that %s is not a member of", quoteIdent(from.Database), quoteIdent(a.target.User)),
			Hint: fmt.Sprintf("GRANT %s TO %s", quoteIdent(from.User), quoteIdent(a.target.User)),
		}
	case row[1] == "0" && row[2] != "t":
		return nil
	}
	for _, name := range []string{"pg_dump", "pg_restore"} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("database %s takes pg_dump and pg_restore to copy, as %s sessions are connected to it or its role is a superuser, and %s is not installed here: install it, or end those sessions", quoteIdent(from.Database), row[1], name)
		}
	}
	return nil
}

// copyDatabase creates a database as a copy of another. What there is of it was
// not brought to its end, and is dropped.
func (a *administrator) copyDatabase(ctx context.Context, site skein.Site) error {
	t := site.Target
	there, err := a.find(ctx, site, "database")
	if err != nil {
		return err
	}
	if there {
		if err := a.dropDatabase(ctx, t.Database); err != nil {
			return err
		}
	}
	// What a superuser owns cannot be told from what belongs to the server.
	super, err := a.row(ctx, "SELECT 1 FROM pg_catalog.pg_roles WHERE rolsuper AND rolname = "+quoteLiteral(site.Source.User))
	if err != nil {
		return fmt.Errorf("look at the source's role: %w", err)
	}
	if super == nil {
		err = a.createDatabase(ctx, t.Database, t.User, site.Source.Database, 0)
		if code(err) != inUse {
			return a.own(ctx, site, "database", err)
		}
	}
	if err := a.own(ctx, site, "database", a.createDatabase(ctx, t.Database, t.User, "", holdWait)); err != nil {
		return err
	}
	if err := a.openDatabase(ctx, t.Database, site.Mark()); err != nil {
		return err
	}
	if err := a.pipe(ctx, site); err != nil {
		return fmt.Errorf("copy database %s: %w", quoteIdent(site.Source.Database), err)
	}
	return nil
}

// pipe has pg_dump read the source, as it is at one moment, and pg_restore write
// it as the new tenant.
func (a *administrator) pipe(ctx context.Context, site skein.Site) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	from := a.target
	from.Database = site.Source.Database
	dump, err := command(ctx, "pg_dump", from, "--format=custom", "--compress=0", "--no-password")
	if err != nil {
		return err
	}
	restore, err := command(ctx, "pg_restore", site.Target, "--no-owner", "--exit-on-error", "--no-password", "--dbname="+site.Target.Database)
	if err != nil {
		return err
	}
	in, out := io.Pipe()
	dump.Stdout, restore.Stdin = out, in
	dumped := make(chan error, 1)
	go func() {
		err := dump.run()
		_ = out.CloseWithError(err) // never fails
		dumped <- err
	}()
	restored := restore.run()
	if restored != nil {
		cancel() // nobody reads what pg_dump would go on to write
	}
	_ = in.Close()
	if err := <-dumped; restored == nil {
		return err
	}
	return restored
}
