package central

import (
	"context"
	"fmt"
	"maps"

	"github.com/skeinhq/skein"
)

// Change changes what Skein's own table says of a tenant, named by slug or id,
// and returns the tenant as it is then. change is called with what is stored but
// for the password, which stays as it is unless change gives the target another.
// Id, slug and status stay. What change leaves alone is not written, so that it
// takes back nothing of what somebody else changes meanwhile.
//
// The error is a [*NotFoundError] if there is no such tenant, and a
// [*FieldError] for what cannot be stored; then nothing is changed. No database
// is touched but the central one.
func (s *Store) Change(ctx context.Context, word string, change func(*NewTenant)) (skein.Tenant, error) {
	if err := s.table.refuseMapped("change a tenant"); err != nil {
		return skein.Tenant{}, err
	}
	ids, err := s.lookUp(ctx, []string{word})
	if err != nil {
		return skein.Tenant{}, err
	}
	doing := "change tenant " + word
	if err := s.refuseUnsettled(ctx, doing, ids); err != nil {
		return skein.Tenant{}, err
	}
	var before, after NewTenant
	for r, err := range s.rowsByID(ctx, ids) {
		if err != nil {
			return skein.Tenant{}, err
		}
		var problem *FieldError
		if before, problem = s.stored(r); problem != nil {
			return skein.Tenant{}, s.table.locate(problem)
		}
		after = before
		after.Labels, after.Target.Options = maps.Clone(before.Labels), maps.Clone(before.Target.Options)
		change(&after)
		after.ID, after.Slug, after.Status = before.ID, before.Slug, before.Status
		if problem := after.complete(); problem != nil {
			return skein.Tenant{}, problem
		}
	}
	if before.ID != "" { // it may have been removed since it was looked up
		err := s.db.transaction(ctx, doing, func(tx execer) error { return s.update(ctx, tx, doing, before, after) })
		if err != nil {
			return skein.Tenant{}, err
		}
	}
	return s.Find(ctx, ids[0])
}

// stored is what a row of Skein's own table says, but for the password.
func (s *Store) stored(r *row) (NewTenant, *FieldError) {
	target, problem := r.target(&s.table.defaults)
	return NewTenant{
		ID: r.fields[fieldID], Slug: r.fields[fieldSlug], Name: r.fields[fieldName], Status: r.fields[fieldStatus],
		Labels: r.labels, Target: target,
	}, problem
}

// update writes what is different after a change.
func (s *Store) update(ctx context.Context, tx execer, doing string, before, after NewTenant) error {
	was, err := optionsText(before.Target.Options)
	if err != nil {
		return err
	}
	options, err := optionsText(after.Target.Options)
	if err != nil {
		return err
	}
	q := s.db.newQuery("UPDATE " + ownTenants + " SET updated_at = " + s.db.now())
	from, to := before.Target, after.Target
	for _, c := range []struct {
		name      string
		was, then any
	}{
		{"name", before.Name, after.Name},
		{"engine", from.Engine, to.Engine},
		{"host", from.Host, to.Host},
		{"port", from.Port, to.Port},
		{"database_name", from.Database, to.Database},
		{"schema_name", from.Schema, to.Schema},
		{"user_name", from.User, to.User},
		{"options", was, options},
	} {
		if c.then != c.was {
			q.add(", ", c.name, " = ", q.arg(c.then))
		}
	}
	password, problem := s.seal(to.Password, after.ID)
	if problem != nil {
		return problem
	}
	if password != "" || to.Engine == skein.SQLite {
		q.add(", password = ", q.arg(password))
	}
	q.add(" WHERE id = ", q.arg(after.ID))
	if options != was {
		q.add(" AND options = ", q.arg(was)) // they are one text
	}
	result, err := q.exec(ctx, tx)
	if err != nil {
		return s.db.fail(doing, err)
	}
	if n, err := result.RowsAffected(); options != was && err == nil && n == 0 {
		return &advice{fmt.Errorf("%s: somebody else has just changed its options", doing), "try again"}
	}
	return s.updateLabels(ctx, tx, doing, before, after)
}

// updateLabels writes the labels that are different after a change.
func (s *Store) updateLabels(ctx context.Context, tx execer, doing string, before, after NewTenant) error {
	differs := func(a, b map[string]string) []string {
		var names []string
		for name, value := range a {
			if b[name] != value {
				names = append(names, name)
			}
		}
		return names
	}
	if gone := differs(before.Labels, after.Labels); len(gone) > 0 {
		q := s.db.newQuery("DELETE FROM " + ownLabels + " WHERE tenant_id = ")
		q.add(q.arg(after.ID), " AND label IN ")
		q.in(gone)
		if _, err := q.exec(ctx, tx); err != nil {
			return s.db.fail(doing, err)
		}
	}
	added := NewTenant{ID: after.ID, Labels: make(map[string]string)}
	for _, name := range differs(after.Labels, before.Labels) {
		added.Labels[name] = after.Labels[name]
	}
	return s.insertLabels(ctx, tx, doing, []*sealedTenant{{NewTenant: added}})
}
