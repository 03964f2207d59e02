package central

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/skeinhq/skein"
)

// Statuses are those that a tenant in Skein's own table may have.
var statuses = []string{skein.StatusActive, skein.StatusSuspended}

// A NewTenant is a tenant that is to be put into Skein's own table.
type NewTenant struct {
	// ID never changes once it is there. Defaults to a UUID of version 7.
	ID string
	// Slug is the tenant's short name: letters, digits, -, _ and ., beginning
	// with a letter or a digit, at most 63 bytes. It is needed.
	Slug string
	Name string // for people
	// Status defaults to active.
	Status string
	Labels map[string]string
	// Target is where its database is. The password is stored encrypted.
	Target skein.Target
}

// Add puts a tenant into Skein's own table and returns it as it is there. The
// error is a [*FieldError] for what cannot be stored. It touches no database
// but the central one.
func (s *Store) Add(ctx context.Context, t NewTenant) (skein.Tenant, error) {
	if err := s.table.refuseMapped("add a tenant"); err != nil {
		return skein.Tenant{}, err
	}
	added, problem := s.prepare(t)
	if problem != nil {
		return skein.Tenant{}, problem
	}
	doing := "add tenant " + added.Slug
	err := s.db.transaction(ctx, doing, func(tx execer) error {
		owners, err := s.owners(ctx, tx, []*sealedTenant{added})
		if err != nil {
			return err
		}
		if problem := owners.problem(added); problem != nil {
			return problem
		}
		return s.insert(ctx, tx, doing, []*sealedTenant{added})
	})
	if err != nil {
		return skein.Tenant{}, err
	}
	return skein.Tenant{
		ID: added.ID, Slug: added.Slug, Name: added.Name, Status: added.Status, Active: s.table.isActive(added.Status),
		Labels: added.Labels, Target: added.Target,
	}, nil
}

// SetStatus gives tenants of Skein's own table, named by slug or id, another
// status, and returns them with it, sorted by slug. When one of them does not
// exist, none is changed.
func (s *Store) SetStatus(ctx context.Context, words []string, status string) ([]skein.Tenant, error) {
	if err := s.table.refuseMapped("change the status of tenants"); err != nil {
		return nil, err
	}
	if !slices.Contains(statuses, status) {
		return nil, errStatus()
	}
	ids, err := s.lookUp(ctx, words)
	if err != nil {
		return nil, err
	}
	const doing = "change the status of tenants"
	if err := s.refuseUnsettled(ctx, doing, ids); err != nil {
		return nil, err
	}
	err = s.db.transaction(ctx, doing, func(tx execer) error {
		for part := range slices.Chunk(ids, maxListed) {
			q := s.db.newQuery("UPDATE " + ownTenants + " SET status = ")
			q.add(q.arg(status), ", updated_at = ", s.db.now(), " WHERE status <> ", q.arg(status), " AND id IN ")
			q.in(part)
			if _, err := q.exec(ctx, tx); err != nil {
				return s.db.fail(doing, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.byID(ctx, ids)
}

// Remove takes tenants, named by slug or id, out of Skein's own table, and
// returns what they were, sorted by slug. When one of them does not exist, none
// is removed. The tenants' databases are left as they are.
func (s *Store) Remove(ctx context.Context, words []string) ([]skein.Tenant, error) {
	if err := s.table.refuseMapped("remove tenants"); err != nil {
		return nil, err
	}
	ids, err := s.lookUp(ctx, words)
	if err != nil {
		return nil, err
	}
	removed, err := s.byID(ctx, ids)
	if err != nil {
		return nil, err
	}
	const doing = "remove tenants"
	if err := s.refuseUnsettled(ctx, doing, ids); err != nil {
		return nil, err
	}
	return removed, s.db.transaction(ctx, doing, func(tx execer) error {
		for part := range slices.Chunk(ids, maxListed) {
			// Their labels go with them, by the foreign key.
			q := s.db.newQuery("DELETE FROM " + ownTenants + " WHERE id IN ")
			q.in(part)
			if _, err := q.exec(ctx, tx); err != nil {
				return s.db.fail(doing, err)
			}
		}
		return nil
	})
}

// The lengths that the columns have, in bytes, so that they mean the same
// everywhere.
const (
	maxID         = 64
	maxSlug       = 63
	maxName       = 255
	maxHost       = 255
	maxDatabase   = 1024
	maxSchema     = 63
	maxUser       = 128
	maxLabel      = 63
	maxLabelValue = 255
)

// A sealedTenant is a tenant that was checked and is to be stored.
type sealedTenant struct {
	NewTenant
	ownID    bool   // the id was given, not made
	password string // sealed
	line     int    // of the list that it comes from
}

// prepare checks a tenant that is to be stored, gives it an id and a status, and
// seals its password.
func (s *Store) prepare(t NewTenant) (*sealedTenant, *FieldError) {
	ownID := t.ID != ""
	if problem := t.complete(); problem != nil {
		return nil, problem
	}
	password, problem := s.seal(t.Target.Password, t.ID)
	return &sealedTenant{NewTenant: t, ownID: ownID, password: password}, problem
}

// complete checks a tenant and gives it an id and a status.
func (t *NewTenant) complete() *FieldError {
	if t.Slug == "" {
		return badField(fieldSlug, "no slug is given: it is the tenant's short name, such as acme")
	}
	if problem := checkWord(fieldSlug, t.Slug, maxSlug); problem != nil {
		return problem
	}
	if t.ID == "" {
		id, err := uuid.NewV7()
		if err != nil {
			return badField(fieldID, "%v", err)
		}
		t.ID = id.String()
	}
	if problem := checkWord(fieldID, t.ID, maxID); problem != nil {
		return problem
	}
	t.Status = or(strings.ToLower(t.Status), skein.StatusActive)
	if !slices.Contains(statuses, t.Status) {
		return errStatus()
	}
	target := &t.Target
	for _, text := range []struct {
		field field
		value string
		max   int
	}{
		{fieldName, t.Name, maxName},
		{fieldHost, target.Host, maxHost},
		{fieldDatabase, target.Database, maxDatabase},
		{fieldSchema, target.Schema, maxSchema},
		{fieldUser, target.User, maxUser},
	} {
		if problem := checkText(text.field.String(), text.value, text.max); problem != nil {
			return problem
		}
	}
	for name, value := range target.Options {
		if strings.ContainsFunc(name+value, unicode.IsControl) || !utf8.ValidString(name+value) {
			return badField(fieldOptions, "there is a character that cannot be stored")
		}
		if strings.Contains(strings.ToLower(name), "password") {
			return badField(fieldOptions, "%s would be stored in clear: only password is encrypted", name)
		}
	}
	if err := target.Validate(); err != nil {
		return &FieldError{Field: "target", Msg: err.Error()}
	}
	if target.Engine == skein.SQLite && (target.Host != "" || target.Port != 0 || target.User != "" || !target.Password.IsZero()) {
		return badField(fieldEngine, "a SQLite file has no host, port, user or password")
	}
	for _, name := range slices.Sorted(maps.Keys(t.Labels)) {
		if name == "" || strings.ContainsAny(name, "=, \t") {
			return &FieldError{Field: "label " + name, Msg: "the name of a label is not empty and has no equals sign, comma or space"}
		}
		if problem := checkText("label "+name, name, maxLabel); problem != nil {
			return problem
		}
		if t.Labels[name] == "" {
			return &FieldError{Field: "label " + name, Msg: "it has no value: leave it out"}
		}
		if problem := checkText("label "+name, t.Labels[name], maxLabelValue); problem != nil {
			return problem
		}
	}
	return nil
}

// checkWord checks what a tenant is named by. It goes into selections (a,b*,@file),
// command lines and names of databases, so no character may mean anything there.
func checkWord(f field, word string, limit int) *FieldError {
	if len(word) > limit {
		return badField(f, "it has %d bytes, and %d are allowed", len(word), limit)
	}
	for i, r := range word {
		plain := r != utf8.RuneError && (unicode.IsLetter(r) || unicode.IsDigit(r))
		switch {
		case plain, i > 0 && (strings.ContainsRune("-_.", r) || unicode.IsMark(r)):
		case i == 0:
			return badField(f, "it begins with %q: it must begin with a letter or a digit", r)
		default:
			return badField(f, "it has the character %q: allowed are letters, digits, -, _ and .", r)
		}
	}
	return nil
}

func checkText(name, value string, limit int) *FieldError {
	switch {
	case len(value) > limit:
		return &FieldError{Field: name, Msg: fmt.Sprintf("it has %d bytes, and %d are allowed", len(value), limit)}
	case !utf8.ValidString(value):
		return &FieldError{Field: name, Msg: "it is not UTF-8"}
	case strings.ContainsFunc(value, unicode.IsControl):
		return &FieldError{Field: name, Msg: "it has a control character"}
	}
	return nil
}

func errStatus() *FieldError {
	return badField(fieldStatus, "it is not one of %s", strings.Join(statuses, ", "))
}

// owners are the tenants that have words for their slug or id: the id by slug,
// and the slug by id.
type owners struct{ bySlug, byID map[string]string }

// problem is why a tenant cannot be added beside those that are there. A slug
// that is another tenant's id would be a word that names two.
func (o owners) problem(t *sealedTenant) *FieldError {
	if id, ok := o.bySlug[t.Slug]; ok {
		return badField(fieldSlug, "there is a tenant %s already (id %s)", t.Slug, id)
	}
	if slug, ok := o.byID[t.ID]; ok {
		return badField(fieldID, "tenant %s has the id %s already", slug, t.ID)
	}
	if slug, ok := o.byID[t.Slug]; ok {
		return badField(fieldSlug, "%s is the id of tenant %s", t.Slug, slug)
	}
	if id, ok := o.bySlug[t.ID]; ok {
		return badField(fieldID, "%s is the slug of another tenant (id %s)", t.ID, id)
	}
	return nil
}

// owners looks up who has the slugs and ids of tenants that are to be stored.
func (s *Store) owners(ctx context.Context, tx execer, tenants []*sealedTenant) (owners, error) {
	words := make([]string, 0, 2*len(tenants))
	for _, t := range tenants {
		words = append(words, t.Slug)
		if t.ownID { // one that was made is no one else's
			words = append(words, t.ID)
		}
	}
	out := owners{make(map[string]string), make(map[string]string)}
	q := s.db.newQuery("SELECT id, slug FROM " + ownTenants + " WHERE id IN ")
	q.in(words)
	q.add(" UNION SELECT id, slug FROM ", ownTenants, " WHERE slug IN ")
	q.in(words)
	err := q.each(ctx, tx, func(rows *sql.Rows) error {
		var id, slug string
		err := rows.Scan(&id, &slug)
		out.bySlug[slug], out.byID[id] = id, slug
		return err
	})
	return out, s.db.fail("look for tenants that are there already", err)
}

// insert stores tenants, as many as fit into one statement.
func (s *Store) insert(ctx context.Context, tx execer, doing string, tenants []*sealedTenant) error {
	q := s.db.newQuery("INSERT INTO " + ownTenants + ` (id, slug, name, status, engine, host, port,
		database_name, schema_name, user_name, password, options, created_at, updated_at) VALUES `)
	for i, t := range tenants {
		if i > 0 {
			q.add(", ")
		}
		options, err := optionsText(t.Target.Options)
		if err != nil {
			return err
		}
		for j, value := range []any{
			t.ID, t.Slug, t.Name, t.Status, t.Target.Engine, t.Target.Host, t.Target.Port,
			t.Target.Database, t.Target.Schema, t.Target.User, t.password, options,
		} {
			q.add(separator(j), q.arg(value))
		}
		q.add(", ", s.db.now(), ", ", s.db.now(), ")")
	}
	if _, err := q.exec(ctx, tx); err != nil {
		err = s.db.fail(doing, err)
		if errors.Is(err, errDuplicate) {
			return &advice{fmt.Errorf("%w: somebody else has just added a tenant with this slug or id", err), "try again"}
		}
		return err
	}
	return s.insertLabels(ctx, tx, doing, tenants)
}

// insertLabels stores the labels of tenants, as many as fit into one statement.
func (s *Store) insertLabels(ctx context.Context, tx execer, doing string, tenants []*sealedTenant) error {
	q := s.db.newQuery("INSERT INTO " + ownLabels + " (tenant_id, label, value) VALUES ")
	for _, t := range tenants {
		for _, name := range slices.Sorted(maps.Keys(t.Labels)) {
			if len(q.args) > 0 {
				q.add(", ")
			}
			q.in([]string{t.ID, name, t.Labels[name]})
		}
	}
	if len(q.args) == 0 {
		return nil
	}
	_, err := q.exec(ctx, tx)
	return s.db.fail(doing, err)
}

// optionsText are the options of a target as they are stored, empty for none.
func optionsText(options map[string]string) (string, error) {
	if len(options) == 0 {
		return "", nil
	}
	text, err := json.Marshal(options) // in the order of their names
	if err != nil {
		return "", badField(fieldOptions, "%v", err)
	}
	return string(text), nil
}
