package central

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skeinhq/skein"
)

// ownProvisioning is the table of what Skein provisions and has provisioned: a
// row for each of these tenants, with the step that was begun last.
const ownProvisioning = "skein_provisioning"

// provisioningTable makes the table. The types are understood by all databases,
// and names are as long as those of skein_tenants.
func provisioningTable(options string) string {
	return `CREATE TABLE IF NOT EXISTS ` + ownProvisioning + ` (
			tenant_id varchar(64) NOT NULL PRIMARY KEY,
			step varchar(32) NOT NULL,
			server varchar(255) NOT NULL,
			source varchar(63) NOT NULL,
			place text NOT NULL,
			began_at varchar(64) NOT NULL,
			updated_at varchar(64) NOT NULL)` + options
}

// Journal is where provisioning is recorded. What it returns is safe for
// concurrent use; Journal itself is not, and its result is good until the store
// is closed. With a mapping that may not be written it is an error.
func (s *Store) Journal(ctx context.Context) (skein.ProvisionJournal, error) {
	if s.table.own {
		return &journal{s}, nil
	}
	if !s.config.Mapping.Write {
		return nil, &advice{
			fmt.Errorf("provision tenants: the application owns table %s, and Skein does not change it", s.table.name),
			"to let Skein fill in rows there, set " + settingWrite + ": true in skein.yaml, and run: skein init",
		}
	}
	return newMappedJournal(ctx, s)
}

// A journal records provisioning in Skein's own tables.
type journal struct{ *Store }

func stamp() string { return time.Now().UTC().Format(time.RFC3339Nano) }

// Look finds a tenant and what is recorded of it.
func (j *journal) Look(ctx context.Context, slug string) (*skein.Reservation, error) {
	t, err := j.Find(ctx, slug)
	if _, none := errors.AsType[*NotFoundError](err); none {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if t.Slug != slug {
		return nil, badField(fieldSlug, "%s is the id of tenant %s", slug, t.Slug)
	}
	r := &skein.Reservation{Tenant: t}
	return r, j.record(ctx, r)
}

// record reads what is recorded of a tenant.
func (j *journal) record(ctx context.Context, r *skein.Reservation) error {
	q := j.db.newQuery("SELECT step, server, source, place, began_at FROM " + ownProvisioning + " WHERE tenant_id = ")
	q.add(q.arg(r.Tenant.ID))
	return j.db.fail("read the record of provisioning", q.each(ctx, j.db, func(rows *sql.Rows) error {
		var began string
		if err := rows.Scan(&r.Step, &r.Server, &r.Source, &r.Place, &began); err != nil {
			return err
		}
		var err error
		r.Since, err = time.Parse(time.RFC3339Nano, began)
		return err
	}))
}

// Reserve adds the tenant and its record in one transaction.
func (j *journal) Reserve(ctx context.Context, r skein.Reservation) (skein.Tenant, error) {
	t := r.Tenant
	added, problem := j.prepare(NewTenant{ID: t.ID, Slug: t.Slug, Name: t.Name, Labels: t.Labels, Target: t.Target})
	if problem != nil {
		return t, problem
	}
	added.Status = skein.StatusProvisioning
	doing := "reserve tenant " + added.Slug
	err := j.db.transaction(ctx, doing, func(tx execer) error {
		owners, err := j.owners(ctx, tx, []*sealedTenant{added})
		if err != nil {
			return err
		}
		if problem := owners.problem(added); problem != nil {
			return problem
		}
		if err := j.insert(ctx, tx, doing, []*sealedTenant{added}); err != nil {
			return err
		}
		// A tenant that was removed may have left a record with the same id.
		if err := j.unrecord(ctx, tx, added.ID); err != nil {
			return err
		}
		q := j.db.newQuery("INSERT INTO " + ownProvisioning + " (tenant_id, step, server, source, place, began_at, updated_at) VALUES ")
		q.in([]string{added.ID, string(r.Step), r.Server, r.Source, r.Place, r.Since.UTC().Format(time.RFC3339Nano), stamp()})
		_, err = q.exec(ctx, tx)
		return j.db.fail(doing, err)
	})
	t.ID, t.Status, t.Active = added.ID, added.Status, false
	return t, err
}

func (j *journal) unrecord(ctx context.Context, tx execer, id string) error {
	q := j.db.newQuery("DELETE FROM " + ownProvisioning + " WHERE tenant_id = ")
	q.add(q.arg(id))
	_, err := q.exec(ctx, tx)
	return j.db.fail("remove the record of provisioning", err)
}

// Begin records a step.
func (j *journal) Begin(ctx context.Context, t skein.Tenant, step skein.ProvisionStep) error {
	return j.begin(ctx, j.db, t, step)
}

func (j *journal) begin(ctx context.Context, tx execer, t skein.Tenant, step skein.ProvisionStep) error {
	doing := fmt.Sprintf("record that %q begins", step)
	q := j.db.newQuery("UPDATE " + ownProvisioning + " SET step = ")
	q.add(q.arg(string(step)), ", updated_at = ", q.arg(stamp()), " WHERE tenant_id = ", q.arg(t.ID))
	result, err := q.exec(ctx, tx)
	if err != nil {
		return j.db.fail(doing, err)
	}
	if n, err := result.RowsAffected(); err == nil && n == 0 {
		return fmt.Errorf("%s: the tenant %s is not in the central database any more", doing, t.Slug)
	}
	return nil
}

// Activate makes a tenant active.
func (j *journal) Activate(ctx context.Context, t skein.Tenant) error {
	return j.move(ctx, "activate tenant "+t.Slug, t, skein.StatusActive, skein.StepDone)
}

// Retire makes a tenant one that is being deprovisioned.
func (j *journal) Retire(ctx context.Context, t skein.Tenant, step skein.ProvisionStep) error {
	return j.move(ctx, "retire tenant "+t.Slug, t, skein.StatusDeprovisioning, step)
}

func (j *journal) move(ctx context.Context, doing string, t skein.Tenant, status string, step skein.ProvisionStep) error {
	return j.db.transaction(ctx, doing, func(tx execer) error {
		q := j.db.newQuery("UPDATE " + ownTenants + " SET status = ")
		q.add(q.arg(status), ", updated_at = ", j.db.now(), " WHERE id = ", q.arg(t.ID))
		if _, err := q.exec(ctx, tx); err != nil {
			return j.db.fail(doing, err)
		}
		return j.begin(ctx, tx, t, step)
	})
}

// Forget removes a tenant and its record.
func (j *journal) Forget(ctx context.Context, t skein.Tenant) error {
	doing := "forget tenant " + t.Slug
	return j.db.transaction(ctx, doing, func(tx execer) error {
		q := j.db.newQuery("DELETE FROM " + ownTenants + " WHERE id = ")
		q.add(q.arg(t.ID))
		if _, err := q.exec(ctx, tx); err != nil {
			return j.db.fail(doing, err)
		}
		return j.unrecord(ctx, tx, t.ID)
	})
}

// refuseUnsettled refuses to change by hand what provisioning is at.
func (s *Store) refuseUnsettled(ctx context.Context, doing string, ids []string) error {
	for part := range slices.Chunk(ids, maxListed) {
		tenants, err := s.byID(ctx, part)
		if err != nil {
			return err
		}
		for _, t := range tenants {
			switch t.Status {
			case skein.StatusProvisioning:
				return &advice{
					fmt.Errorf("%s: tenant %s is not provisioned to its end", doing, t.Slug),
					fmt.Sprintf("go on with: skein provision %s; or take it back with: skein deprovision %s", t.Slug, t.Slug),
				}
			case skein.StatusDeprovisioning:
				return &advice{
					fmt.Errorf("%s: tenant %s is being taken away", doing, t.Slug),
					"go on with: skein deprovision " + t.Slug,
				}
			}
		}
	}
	return nil
}

// Provisioned are the slugs of those of the tenants, named by slug or id, whose
// databases Skein made, sorted.
func (s *Store) Provisioned(ctx context.Context, words []string) ([]string, error) {
	ids, err := s.lookUp(ctx, words)
	if err != nil || !s.table.own {
		return nil, err
	}
	var slugs []string
	for part := range slices.Chunk(ids, maxListed) {
		q := s.db.newQuery("SELECT t.slug FROM " + ownTenants + " t JOIN " + ownProvisioning + " p ON p.tenant_id = t.id WHERE p.step = ")
		q.add(q.arg(string(skein.StepDone)), " AND t.id IN ")
		q.in(part)
		err := q.each(ctx, s.db, func(rows *sql.Rows) error {
			var slug string
			err := rows.Scan(&slug)
			slugs = append(slugs, slug)
			return err
		})
		if err != nil {
			return nil, s.db.fail("read the records of provisioning", err)
		}
	}
	slices.Sort(slugs)
	return slugs, nil
}

// Seals says whether there is a key to encrypt passwords with.
func (s *Store) Seals() bool { return s.keyring != nil }
