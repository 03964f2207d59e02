package central

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skeinhq/skein"
)

// A mappedJournal records provisioning where the tenants are in a table of the
// application's: what a tenant is stands there, and how far it came in Skein's
// own table, by slug.
type mappedJournal struct {
	*Store
	record *database
	types  map[string]string // of the table's columns, by name
}

// settingWrite is what allows Skein to change a mapped table.
const settingWrite = settingPrefix + "write"

// newMappedJournal checks that a mapping can be written.
func newMappedJournal(ctx context.Context, s *Store) (*mappedJournal, error) {
	columns := s.table.columns
	for f, why := range map[field]string{
		fieldSlug:   "tenants are made by slug",
		fieldStatus: "it says when a tenant is active",
	} {
		if columns[f] == "" {
			return nil, fmt.Errorf("%s: columns.%s is needed to provision: %s", settingWrite, f, why)
		}
	}
	if columns[fieldURL] != "" {
		return nil, fmt.Errorf("%s: an address in columns.url would hold the password in clear: map columns of their own", settingWrite)
	}
	if s.record == nil {
		own := s.config
		own.Mapping = nil
		record, err := own.connect(ctx, false)
		if err != nil {
			return nil, err
		}
		if err := checkSteps(ctx, record); err != nil {
			return nil, errors.Join(err, record.Close())
		}
		s.record = record // Store.Close closes it
	}
	j := &mappedJournal{Store: s, record: s.record, types: make(map[string]string)}
	schema, name, ok := strings.Cut(s.config.Mapping.Table, ".")
	if !ok {
		schema, name = "", s.config.Mapping.Table
	}
	all, err := s.db.columns(ctx, s.db.DB, schema, name)
	if err != nil {
		return nil, s.db.fail("look for the columns of table "+s.table.name, err)
	}
	for _, c := range all {
		for _, wanted := range slices.Concat(columns[:], slices.Collect(maps.Values(s.config.Mapping.Labels))) {
			if wanted != "" && s.db.sameName(c.name, wanted) {
				j.types[wanted] = c.typ
			}
		}
	}
	return j, nil
}

// row reads a tenant's row by slug, nil if there is none.
func (j *mappedJournal) row(ctx context.Context, tx execer, slug string) (*row, error) {
	q := j.db.newQuery("SELECT ")
	q.add(strings.Join(j.table.read(allFields...), ", "), " FROM ", j.table.from, " WHERE ", j.table.expr[fieldSlug], " = ", q.arg(slug))
	var found *row
	labels := make([]string, len(j.table.labels))
	err := q.each(ctx, tx, func(rows *sql.Rows) error {
		if found != nil {
			return fmt.Errorf("two rows of table %s have the slug %q", j.table.name, slug)
		}
		found = &row{}
		if err := rows.Scan(slices.Concat(pointers(found.fields[:]), pointers(labels))...); err != nil {
			return err
		}
		found.complete()
		for i, value := range labels {
			found.label(j.table.labels[i].name, value)
		}
		return nil
	})
	return found, j.db.fail("read tenant "+slug, err)
}

// filled says whether a row says where the tenant's data is.
func (j *mappedJournal) filled(r *row) bool {
	return r.fields[fieldDatabase]+r.fields[fieldSchema]+r.fields[fieldUser]+r.fields[fieldPassword] != ""
}

func (j *mappedJournal) read(ctx context.Context, r *skein.Reservation) error {
	own := journal{&Store{db: j.record}}
	keyed := skein.Reservation{Tenant: skein.Tenant{ID: r.Tenant.Slug}}
	if err := own.record(ctx, &keyed); err != nil {
		return err
	}
	keyed.Tenant = r.Tenant
	*r = keyed
	return nil
}

// Look finds a tenant. A row that is not active and says nothing of where its
// data is, is one to fill in.
func (j *mappedJournal) Look(ctx context.Context, slug string) (*skein.Reservation, error) {
	found, err := j.row(ctx, j.db, slug)
	if found == nil || err != nil {
		return nil, err
	}
	r := &skein.Reservation{Tenant: j.tenant(found)}
	if err := j.read(ctx, r); err != nil {
		return nil, err
	}
	hasPlace := j.table.columns[fieldDatabase]+j.table.columns[fieldSchema]+j.table.columns[fieldUser]+j.table.columns[fieldPassword] != ""
	switch {
	case hasPlace && !j.filled(found) && !r.Tenant.Active, !hasPlace && r.Step == "" && !r.Tenant.Active:
		return nil, nil
	case r.Step == "" || r.Step == skein.StepDone:
		return r, nil
	}
	r.Tenant.Status, r.Tenant.Active = skein.StatusProvisioning, false
	if slices.Contains([]skein.ProvisionStep{skein.StepDropDatabase, skein.StepDropRole, skein.StepUndoDatabase, skein.StepUndoRole, skein.StepForget}, r.Step) {
		r.Tenant.Status = skein.StatusDeprovisioning
	}
	return r, nil
}

// Reserve writes the record and then the row, filling in what the application
// may have put there.
func (j *mappedJournal) Reserve(ctx context.Context, r skein.Reservation) (skein.Tenant, error) {
	t := r.Tenant
	doing := "reserve tenant " + t.Slug
	if problem := checkText(fieldSlug.String(), t.Slug, maxID); problem != nil {
		return t, problem
	}
	err := j.record.transaction(ctx, doing, func(tx execer) error {
		own := journal{&Store{db: j.record}}
		if err := own.unrecord(ctx, tx, t.Slug); err != nil {
			return err
		}
		q := j.record.newQuery("INSERT INTO " + ownProvisioning + " (tenant_id, step, server, source, place, began_at, updated_at) VALUES ")
		q.in([]string{t.Slug, string(r.Step), r.Server, r.Source, r.Place, r.Since.UTC().Format(time.RFC3339Nano), stamp()})
		_, err := q.exec(ctx, tx)
		return j.record.fail(doing, err)
	})
	if err != nil {
		return t, err
	}
	err = j.db.transaction(ctx, doing, func(tx execer) (err error) {
		t, err = j.fill(ctx, tx, t)
		return err
	})
	return t, err
}

// fill writes a tenant's row, and makes sure that it reads as what is meant.
func (j *mappedJournal) fill(ctx context.Context, tx execer, t skein.Tenant) (skein.Tenant, error) {
	doing := "write table " + j.table.name
	found, err := j.row(ctx, tx, t.Slug)
	if err != nil {
		return t, err
	}
	values := map[string]string{}
	set := func(f field, value string) {
		if column := j.table.columns[f]; column != "" && value != "" {
			values[column] = value
		}
	}
	set(fieldName, t.Name)
	for name, value := range t.Labels {
		column := j.config.Mapping.Labels[name]
		if column == "" {
			return t, fmt.Errorf("label %s: no column of table %s holds it (%slabels)", name, j.table.name, settingPrefix)
		}
		values[column] = value
	}
	if found == nil {
		values[j.table.columns[fieldSlug]] = t.Slug
		set(fieldID, t.ID)
		set(fieldStatus, j.status(skein.StatusProvisioning))
		if err := j.insert(ctx, tx, values); err != nil {
			return t, err
		}
		values = map[string]string{}
		if found, err = j.row(ctx, tx, t.Slug); err != nil {
			return t, err
		}
		if found == nil {
			return t, fmt.Errorf("%s: the row that was inserted cannot be read", doing)
		}
	} else if t.ID != "" && t.ID != found.fields[fieldID] {
		return t, fmt.Errorf("there is a tenant %s already, with another id (%s)", t.Slug, found.fields[fieldID])
	}
	t.ID = found.fields[fieldID]
	password, problem := j.seal(t.Target.Password, t.ID)
	if problem != nil {
		return t, problem
	}
	if password != "" && j.table.columns[fieldPassword] == "" {
		return t, fmt.Errorf("%s: columns.password is needed to provision: the generated password is stored there", settingWrite)
	}
	set(fieldStatus, j.status(skein.StatusProvisioning))
	set(fieldEngine, t.Target.Engine)
	set(fieldHost, t.Target.Host)
	if t.Target.Port != 0 {
		set(fieldPort, strconv.Itoa(t.Target.Port))
	}
	set(fieldDatabase, t.Target.Database)
	set(fieldSchema, t.Target.Schema)
	set(fieldUser, t.Target.User)
	set(fieldPassword, password)
	if len(t.Target.Options) > 0 {
		options, err := json.Marshal(t.Target.Options)
		if err != nil {
			return t, fmt.Errorf("%s: %w", doing, err)
		}
		set(fieldOptions, string(options))
	}
	if err := j.update(ctx, tx, t.Slug, values); err != nil {
		return t, err
	}
	if found, err = j.row(ctx, tx, t.Slug); err != nil {
		return t, err
	}
	read := j.tenant(found)
	switch {
	case read.Err != nil:
		return t, fmt.Errorf("%s: what was written cannot be used: %w", doing, read.Err)
	case read.Active:
		return t, fmt.Errorf("%s: the status %q is one of an active tenant (%sactive)", doing, read.Status, settingPrefix)
	case read.Target.String() != t.Target.String() || !read.Target.Password.Equal(t.Target.Password):
		return t, fmt.Errorf("%s: the tenant would be %s, and the row reads as %s: map the columns that are missing", doing, t.Target, read.Target)
	}
	t.Name, t.Labels, t.Status, t.Active = read.Name, read.Labels, skein.StatusProvisioning, false
	return t, nil
}

// status is a status as the column holds it: one that can only be true or false
// is false until the tenant is active.
func (j *mappedJournal) status(word string) string {
	switch strings.ToLower(j.types[j.table.columns[fieldStatus]]) {
	case "boolean", "bool", "tinyint", "bit", "integer", "int", "smallint":
		return "0"
	}
	return word
}

// value is an argument as the column takes it.
func (j *mappedJournal) value(q *query, column, value string) string {
	if j.db.target.Engine == skein.PostgreSQL {
		return "CAST(CAST(" + q.arg(value) + " AS text) AS " + j.types[column] + ")"
	}
	return q.arg(value)
}

func (j *mappedJournal) insert(ctx context.Context, tx execer, values map[string]string) error {
	q := j.db.newQuery("INSERT INTO " + j.table.from + " ")
	columns := slices.Sorted(maps.Keys(values))
	for i, c := range columns {
		q.add(separator(i), j.db.quote(c))
	}
	q.add(") VALUES ")
	for i, c := range columns {
		q.add(separator(i), j.value(q, c, values[c]))
	}
	q.add(")")
	_, err := q.exec(ctx, tx)
	return j.db.fail("insert into table "+j.table.name, err)
}

func (j *mappedJournal) update(ctx context.Context, tx execer, slug string, values map[string]string) error {
	q := j.db.newQuery("UPDATE " + j.table.from + " SET ")
	for i, c := range slices.Sorted(maps.Keys(values)) {
		if i > 0 {
			q.add(", ")
		}
		q.add(j.db.quote(c), " = ", j.value(q, c, values[c]))
	}
	q.add(" WHERE ", j.table.expr[fieldSlug], " = ", q.arg(slug))
	_, err := q.exec(ctx, tx)
	return j.db.fail("update table "+j.table.name, err)
}

// Begin records a step.
func (j *mappedJournal) Begin(ctx context.Context, t skein.Tenant, step skein.ProvisionStep) error {
	own := journal{&Store{db: j.record}}
	return own.Begin(ctx, skein.Tenant{ID: t.Slug, Slug: t.Slug}, step)
}

// Activate gives the row the first of the active statuses.
func (j *mappedJournal) Activate(ctx context.Context, t skein.Tenant) error {
	word := skein.StatusActive
	if active := j.config.Mapping.Active; len(active) > 0 {
		word = active[0]
	}
	if j.status(word) == "0" {
		word = "1"
	}
	if err := j.update(ctx, j.db, t.Slug, map[string]string{j.table.columns[fieldStatus]: word}); err != nil {
		return err
	}
	return j.Begin(ctx, t, skein.StepDone)
}

// Retire takes the active status away.
func (j *mappedJournal) Retire(ctx context.Context, t skein.Tenant, step skein.ProvisionStep) error {
	status := map[string]string{j.table.columns[fieldStatus]: j.status(skein.StatusDeprovisioning)}
	if err := j.update(ctx, j.db, t.Slug, status); err != nil {
		return err
	}
	return j.Begin(ctx, t, step)
}

// Forget empties what Skein wrote of where the data was. The row stays: it is
// the application's.
func (j *mappedJournal) Forget(ctx context.Context, t skein.Tenant) error {
	values := map[string]string{j.table.columns[fieldStatus]: j.status("deprovisioned")}
	for _, f := range []field{fieldDatabase, fieldSchema, fieldUser, fieldPassword} {
		if column := j.table.columns[f]; column != "" {
			values[column] = ""
		}
	}
	if err := j.update(ctx, j.db, t.Slug, values); err != nil {
		return err
	}
	own := journal{&Store{db: j.record}}
	return own.unrecord(ctx, j.record, t.Slug)
}
