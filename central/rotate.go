package central

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/secret"
)

// A StoredPassword is a tenant's row with what its stored password is.
type StoredPassword struct {
	// Tenant is the tenant as [Store.Tenants] lists it.
	Tenant skein.Tenant
	// Missing says that the row has no stored password.
	Missing bool
	// Sealed says that it is in Skein's authenticated form, see
	// [secret.IsSealed]. Any other is read in the configured CBC format.
	Sealed bool
	// KeyID is the key that opens it.
	KeyID string
	// Err is why it cannot be opened, a [*FieldError].
	Err error

	stored string
	plain  secret.Secret
}

// Passwords lists the stored passwords of the tenants that a filter means, in
// the way of [Store.Tenants].
func (s *Store) Passwords(ctx context.Context, f Filter) iter.Seq2[StoredPassword, error] {
	return func(yield func(StoredPassword, error) bool) {
		for r, err := range s.rows(ctx, f) {
			if err != nil {
				yield(StoredPassword{}, err)
				return
			}
			if !yield(s.password(r), nil) {
				return
			}
		}
	}
}

func (s *Store) password(r *row) StoredPassword {
	p := StoredPassword{Tenant: s.tenant(r), stored: r.fields[fieldPassword]}
	p.Missing, p.Sealed = p.stored == "", secret.IsSealed(p.stored)
	if p.Missing {
		return p
	}
	opened, keyID, problem := s.open(p.stored, p.Tenant.ID)
	if problem != nil {
		p.Err = s.table.locate(problem)
		return p
	}
	p.plain, p.KeyID = opened, keyID
	return p
}

// A Rotation encrypts the stored passwords anew: with the current key of a
// keyring, as that writes them. All tenants count, active or not.
//
// It goes over the table twice. [Rotation.Candidates] lists what is to be
// tried; when every one of them was found to be good, [Rotation.Rewrite]
// rewrites those, and no others. It keeps 16 bytes of each in between.
type Rotation struct {
	store *Store
	ring  *secret.Keyring
	limit int // characters that the password column takes; 0: any
	tried map[mark]struct{}
}

// A mark stands for a row's id and its stored password.
type mark [16]byte

func markOf(p StoredPassword) mark {
	sum := sha256.Sum256([]byte(p.Tenant.ID + "\x00" + p.stored))
	return mark(sum[:16])
}

// NewRotation begins a rotation to the current key of ring, which must open all
// that is stored. A mapped table has to be one that Skein may change
// ([Mapping.Write]), with a column for passwords.
func (s *Store) NewRotation(ctx context.Context, ring *secret.Keyring) (*Rotation, error) {
	const doing = "rotate the key"
	r := &Rotation{store: s, ring: ring, tried: make(map[mark]struct{})}
	t := s.table
	if t.own {
		return r, nil
	}
	if !t.defaults.Write {
		return nil, &advice{
			fmt.Errorf("%s: the application owns table %s, and Skein does not change it", doing, t.name),
			"allow it with central.tenants.write: true, and let the role of central.url UPDATE the password column",
		}
	}
	if t.expr[fieldPassword] == "" {
		return nil, fmt.Errorf("%s: %scolumns names no password: there is nothing that is encrypted", doing, settingPrefix)
	}
	schema, name, ok := strings.Cut(t.name, ".")
	if !ok {
		schema, name = "", t.name
	}
	var err error
	r.limit, err = s.db.limit(ctx, s.db.DB, schema, name, t.columns[fieldPassword])
	return r, s.db.fail(doing, err)
}

// Survey counts the tenants, of which those with a stored password are rotated.
func (r *Rotation) Survey(ctx context.Context) (Survey, error) { return r.store.Survey(ctx, Filter{}) }

// Candidates lists the passwords that are to be opened and tried, those with an
// Err among them: all but what is missing, and what is already sealed with the
// current key. A CBC value may be under the current key and is listed
// nevertheless, since that it opens proves nothing.
func (r *Rotation) Candidates(ctx context.Context) iter.Seq2[StoredPassword, error] {
	return func(yield func(StoredPassword, error) bool) {
		for p, err := range r.store.Passwords(ctx, Filter{}) {
			if err != nil {
				yield(p, err)
				return
			}
			if p.Missing || p.Err == nil && p.Sealed && r.isDone(p) {
				continue
			}
			if p.Err == nil {
				_, p.Err = r.seal(p)
			}
			if p.Err == nil {
				r.tried[markOf(p)] = struct{}{}
			}
			if !yield(p, nil) {
				return
			}
		}
	}
}

func (r *Rotation) isDone(p StoredPassword) bool {
	return p.KeyID == r.ring.Current() && p.Sealed == (r.ring.Writes() == secret.WriteGCM)
}

// seal is the password as it is to be stored.
func (r *Rotation) seal(p StoredPassword) (string, error) {
	sealed, err := r.ring.Seal(p.plain, passwordBinding(p.Tenant.ID))
	if err != nil {
		return "", r.store.table.locate(&FieldError{Field: fieldPassword.String(), Msg: err.Error(), err: err})
	}
	if r.limit > 0 && len(sealed) > r.limit {
		return "", r.store.table.locate(badField(fieldPassword, "encrypted anew it has %d characters, and the column takes %d: make the column wider", len(sealed), r.limit))
	}
	return sealed, nil
}

// A Rewritten is what came of [Rotation.Rewrite].
type Rewritten struct {
	Rewritten int // encrypted anew
	Already   int // that were so before, or were made so by someone else meanwhile
	// Changed were changed by someone else since they were tried, or added, and
	// are left as they are.
	Changed     int
	Interrupted bool // stop was closed before the end
}

// rewriteBatch is how many rows are rewritten in one transaction: few, since
// the application waits for rows that it wants to change.
const rewriteBatch = 100

// Rewrite rewrites the passwords that Candidates has listed and that are still
// what they were then: each row is updated where it has the old value. It calls
// changed for each tenant that is left out because it does not.
//
// It can be killed at any instant. What was rewritten is so for good, and the
// next rotation goes on with the rest. When stop is closed it ends after the
// rows that it has begun.
func (r *Rotation) Rewrite(ctx context.Context, stop <-chan struct{}, changed func(skein.Tenant)) (Rewritten, error) {
	var out Rewritten
	var batch []StoredPassword
	flush := func() error {
		err := r.rewrite(ctx, batch, &out, changed)
		batch = batch[:0]
		return err
	}
	for p, err := range r.store.Passwords(ctx, Filter{Order: BySlug}) {
		if err != nil {
			return out, err
		}
		select {
		case <-stop:
			out.Interrupted = true
			return out, nil
		default:
		}
		_, tried := r.tried[markOf(p)]
		switch {
		case p.Missing:
		case p.Err == nil && r.isDone(p):
			out.Already++
		case !tried || p.Err != nil:
			out.Changed++
			changed(p.Tenant)
		default:
			if batch = append(batch, p); len(batch) == rewriteBatch {
				if err := flush(); err != nil {
					return out, err
				}
			}
		}
	}
	return out, flush()
}

const rewriting = "store the passwords that were encrypted anew"

// rewrite rewrites some rows, again after errors that may go away: what a lost
// answer leaves unclear is looked up.
func (r *Rotation) rewrite(ctx context.Context, batch []StoredPassword, out *Rewritten, changed func(skein.Tenant)) error {
	if len(batch) == 0 {
		return nil
	}
	var missed []StoredPassword
	if err := again(ctx, func() error {
		missed = missed[:0]
		return r.store.db.transaction(ctx, rewriting, func(tx execer) error {
			var updated []StoredPassword
			for _, p := range batch {
				n, err := r.update(ctx, tx, p, r.byKey)
				switch {
				case err != nil:
					return err
				case n == 0:
					missed = append(missed, p)
				default:
					updated = append(updated, p)
				}
			}
			return r.verify(ctx, tx, updated, r.byKey)
		})
	}); err != nil {
		return err
	}
	out.Rewritten += len(batch) - len(missed)
	for _, p := range missed {
		if err := again(ctx, func() error { return r.settle(ctx, p, out, changed) }); err != nil {
			return err
		}
	}
	return nil
}

// settle finds out about a row that an update did not meet: it was changed or
// removed, or it is not found by its key as other rows are (see byKey).
func (r *Rotation) settle(ctx context.Context, p StoredPassword, out *Rewritten, changed func(skein.Tenant)) error {
	match := r.byKey
	found, err := r.look(ctx, r.store.db, []StoredPassword{p}, match)
	if err == nil && len(found) == 0 {
		match = r.byText
		found, err = r.look(ctx, r.store.db, []StoredPassword{p}, match)
	}
	now, ok := found[p.Tenant.ID]
	switch {
	case err != nil:
		return err
	case !ok, now.Missing: // removed, and so no matter of ours
		return nil
	case now.Err == nil && r.isDone(now):
		out.Already++
		return nil
	case now.stored == p.stored:
		n := int64(0)
		err := r.store.db.transaction(ctx, rewriting, func(tx execer) error {
			var err error
			if n, err = r.update(ctx, tx, p, match); err != nil || n == 0 {
				return err
			}
			return r.verify(ctx, tx, []StoredPassword{p}, match)
		})
		if err != nil {
			return err
		}
		if n > 0 {
			out.Rewritten++
			return nil
		}
	}
	out.Changed++
	changed(p.Tenant)
	return nil
}

// A match writes the condition by which rows are found.
type match func(q *query, rows []StoredPassword)

// byKey compares the column itself, so that its index is used. The database
// compares in its own way, so more rows may be found than are meant.
func (r *Rotation) byKey(q *query, rows []StoredPassword) {
	t := r.store.table
	column, columnType := t.columns[fieldID], t.types[fieldID]
	if column == "" {
		column, columnType = t.columns[fieldSlug], t.types[fieldSlug]
	}
	q.add(r.store.db.quote(column), " IN ")
	for i, p := range rows {
		q.add(separator(i), r.store.db.value(q.arg(p.Tenant.ID), columnType, t.columns[fieldID] != ""))
	}
	q.add(")")
}

// byText compares the text of the id, for which the whole table is looked at.
// It finds rows that byKey may not: a SQLite column without a type, for
// instance, in which numbers are not equal to texts.
func (r *Rotation) byText(q *query, rows []StoredPassword) {
	q.add(r.store.table.expr[fieldID], " IN ")
	for i, p := range rows {
		q.add(separator(i), q.arg(p.Tenant.ID))
	}
	q.add(")")
}

// update is how many rows have the new password.
func (r *Rotation) update(ctx context.Context, tx execer, p StoredPassword, where match) (int64, error) {
	sealed, err := r.seal(p)
	if err != nil {
		return 0, fmt.Errorf("tenant %s: %w", p.Tenant.Slug, err)
	}
	s := r.store
	q := s.db.newQuery("UPDATE " + s.table.from + " SET ")
	q.add(s.db.quote(s.table.columns[fieldPassword]), " = ", s.db.value(q.arg(sealed), s.table.types[fieldPassword], false))
	if s.table.own {
		q.add(", updated_at = ", s.db.now())
	}
	q.add(" WHERE ")
	where(q, []StoredPassword{p})
	q.add(" AND ", s.table.expr[fieldID], " = ", q.arg(p.Tenant.ID), " AND ", s.table.expr[fieldPassword], " = ", q.arg(p.stored))
	result, err := q.exec(ctx, tx)
	if err != nil {
		return 0, s.db.fail(rewriting, err)
	}
	n, err := result.RowsAffected()
	return n, s.db.fail(rewriting, err)
}

// verify reads back what was just written, before it is committed: a column may
// have cut it short (MySQL without its strict mode does), and a trigger may have
// changed it.
func (r *Rotation) verify(ctx context.Context, tx execer, updated []StoredPassword, where match) error {
	if len(updated) == 0 || r.store.table.own {
		return nil
	}
	found, err := r.look(ctx, tx, updated, where)
	if err != nil {
		return err
	}
	for _, p := range updated {
		if now, ok := found[p.Tenant.ID]; !ok || now.Err != nil || !now.plain.Equal(p.plain) {
			return &advice{
				fmt.Errorf("%s: tenant %s: what was written into column %s is not what is read back, so it was undone",
					rewriting, p.Tenant.Slug, r.store.table.columns[fieldPassword]),
				"the column may be too narrow, or a trigger may change it",
			}
		}
	}
	return nil
}

// look reads the passwords of rows as they are now, by id.
func (r *Rotation) look(ctx context.Context, tx execer, rows []StoredPassword, where match) (map[string]StoredPassword, error) {
	s := r.store
	q := s.db.newQuery("SELECT ")
	q.add(s.table.expr[fieldID], ", ", s.table.expr[fieldPassword], " FROM ", s.table.from, " WHERE ")
	where(q, rows)
	found := make(map[string]StoredPassword)
	err := q.each(ctx, tx, func(rows *sql.Rows) error {
		var p StoredPassword
		if err := rows.Scan(&p.Tenant.ID, &p.stored); err != nil {
			return err
		}
		p.Missing, p.Sealed = p.stored == "", secret.IsSealed(p.stored)
		if !p.Missing {
			p.plain, p.KeyID, p.Err = r.ring.Open(p.stored, passwordBinding(p.Tenant.ID))
		}
		found[p.Tenant.ID] = p
		return nil
	})
	if err != nil {
		return nil, s.db.fail(rewriting, err)
	}
	for id := range found { // that the database takes for equal, and are not
		if !slices.ContainsFunc(rows, func(p StoredPassword) bool { return p.Tenant.ID == id }) {
			delete(found, id)
		}
	}
	return found, nil
}

// locate names the column that a problem is in, and what to do.
func (t *table) locate(problem *FieldError) *FieldError {
	// The column is what one looks for in the table.
	for f, column := range t.columns {
		if problem.Field == field(f).String() && column != "" {
			problem.Field = "column " + column
		}
	}
	problem.hint = or(problem.hint, "correct this tenant's row in table "+t.name)
	return problem
}
