package central

import (
	"context"
	"database/sql"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skeinhq/skein"
)

// Tenants lists the tenants that a filter means. A tenant whose row cannot be
// used is listed with its Err; an error of the list itself ends it. When what
// the filter names does not exist, the error comes before any tenant.
//
// However many tenants there are and however slowly they are taken, memory
// stays small and the central database holds no transaction open: rows are read
// a page at a time. A tenant that is added meanwhile may be in the list or not,
// one that is moved to another database may be in it twice or not at all, and
// all others are in it once.
func (s *Store) Tenants(ctx context.Context, f Filter) iter.Seq2[skein.Tenant, error] {
	return func(yield func(skein.Tenant, error) bool) {
		for r, err := range s.rows(ctx, f) {
			if err != nil {
				yield(skein.Tenant{}, err)
				return
			}
			if !yield(s.tenant(r), nil) {
				return
			}
		}
	}
}

// rows lists the rows of the tenants that a filter means, as Tenants does.
func (s *Store) rows(ctx context.Context, f Filter) iter.Seq2[*row, error] {
	return func(yield func(*row, error) bool) {
		sel, err := s.resolve(ctx, f)
		if err != nil {
			yield(nil, err)
			return
		}
		lanes, err := s.lanes(ctx, sel)
		if err != nil {
			yield(nil, err)
			return
		}
		for len(lanes) > 0 {
			for i := 0; i < len(lanes); {
				r, err := lanes[i].next(ctx)
				switch {
				case err != nil:
					yield(nil, err)
					return
				case r == nil:
					lanes = slices.Delete(lanes, i, i+1)
				case !yield(r, nil):
					return
				default:
					i++
				}
			}
		}
	}
}

// A Survey is what can be said of the tenants that a filter means without
// going through them one by one.
type Survey struct {
	Tenants int
	// Engines are the engines that they are on, sorted. Tenants whose row names
	// no engine that Skein knows have none.
	Engines []string
}

// Survey counts the tenants that a filter means. When what the filter names
// does not exist, it is an error, as for [Store.Tenants].
func (s *Store) Survey(ctx context.Context, f Filter) (Survey, error) {
	sel, err := s.resolve(ctx, f)
	if err != nil {
		return Survey{}, err
	}
	var out Survey
	engines := make(map[string]bool)
	err = s.scan(ctx, sel, func(r *row) error {
		if sel.includes(r) {
			out.Tenants++
			scheme, _, _ := strings.Cut(r.fields[fieldURL], ":")
			if engine, ok := skein.EngineName(or(or(r.fields[fieldEngine], scheme), s.table.defaults.Engine)); ok {
				engines[engine] = true
			}
		}
		return nil
	}, fieldID, fieldSlug, fieldStatus, fieldEngine, fieldURL)
	out.Engines = slices.Sorted(maps.Keys(engines))
	return out, err
}

// Find is the tenant with a slug or an id. The error is a [*NotFoundError] if
// there is none. A word that is one tenant's slug and another's id is refused.
func (s *Store) Find(ctx context.Context, word string) (skein.Tenant, error) {
	ids, err := s.lookUp(ctx, []string{word})
	if err != nil {
		return skein.Tenant{}, err
	}
	found, err := s.byID(ctx, ids)
	switch {
	case err != nil:
		return skein.Tenant{}, err
	case len(found) == 0: // removed since it was looked up
		return skein.Tenant{}, &NotFoundError{Words: []string{word}}
	}
	return found[0], nil
}

// byID are the tenants with these ids, sorted by slug.
func (s *Store) byID(ctx context.Context, ids []string) ([]skein.Tenant, error) {
	var found []skein.Tenant
	for r, err := range s.rowsByID(ctx, ids) {
		if err != nil {
			return found, err
		}
		found = append(found, s.tenant(r))
	}
	return found, nil
}

// rowsByID are the rows of the tenants with these ids, sorted by slug.
func (s *Store) rowsByID(ctx context.Context, ids []string) iter.Seq2[*row, error] {
	sel := &selection{table: s.table, filter: Filter{Only: ids}, only: make(map[string]bool)}
	for _, id := range ids {
		sel.only[id] = true
	}
	return func(yield func(*row, error) bool) {
		l := s.slugLane(sel)
		for {
			r, err := l.next(ctx)
			if r == nil && err == nil || !yield(r, err) || err != nil {
				return
			}
		}
	}
}

// A lane is a part of the tenants, in order, read a page at a time.
type lane struct {
	store *Store
	sel   *selection
	// keys are the expressions that the lane is sorted by. Together they are
	// unique.
	keys []string
	// The lane has the rows whose first keys are first or greater, and less than
	// end; nil where it begins or ends with the table.
	first, end []string
	page       int      // how many rows are asked for at once
	rows       []*row   // read and not taken
	after      []string // the keys of the last row that was read
	done       bool     // there is nothing more to read
}

const (
	// maxLanes is how many lanes the tenants are divided into at most, and so
	// how many servers' tenants are mixed.
	maxLanes = 16
	// A page costs the database about as much as looking at all tenants, so few
	// lanes have long ones.
	maxPages = 4 // of Store.page rows
)

// slugLane is all that is selected, sorted by slug.
func (s *Store) slugLane(sel *selection) *lane {
	l := &lane{store: s, sel: sel, keys: s.keys(fieldSlug, fieldID), page: maxPages * s.page}
	if s.table.own { // where slugs are unique, and MySQL uses an index for one key only
		l.keys = l.keys[:1]
	}
	return l
}

// lanes divides what is selected. For [ByServer] they are ranges of servers:
// a lane ends with the server with which it has enough tenants.
func (s *Store) lanes(ctx context.Context, sel *selection) ([]*lane, error) {
	if sel.filter.Order == BySlug {
		return []*lane{s.slugLane(sel)}, nil
	}
	server := s.keys(fieldEngine, fieldHost, fieldPort)
	keys := slices.Concat(server, s.keys(fieldDatabase, fieldUser, fieldSlug, fieldID))
	lanes := []*lane{{store: s, sel: sel, keys: keys, page: maxPages * s.page}}
	if len(server) == 0 {
		return lanes, nil
	}

	const doing = "read the tenants' servers"
	total := 0
	q := s.db.newQuery("SELECT COUNT(*) FROM " + s.table.from)
	sel.where(q)
	if err := q.each(ctx, s.db, func(rows *sql.Rows) error { return rows.Scan(&total) }); err != nil {
		return nil, s.db.fail(doing, err)
	}
	enough := max(s.page, total/maxLanes+1)
	q = s.db.newQuery("SELECT " + strings.Join(server, ", ") + ", COUNT(*) FROM " + s.table.from)
	sel.where(q)
	q.add(" GROUP BY ", strings.Join(server, ", "), " ORDER BY ", strings.Join(server, ", "))
	names := make([]string, len(server))
	var count, n int
	into := append(pointers(names), &count)
	err := q.each(ctx, s.db, func(rows *sql.Rows) error {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		if n >= enough {
			end := slices.Clone(names)
			lanes[len(lanes)-1].end = end
			lanes = append(lanes, &lane{store: s, sel: sel, keys: keys, first: end})
			n = 0
		}
		n += count
		return nil
	})
	if err != nil {
		return nil, s.db.fail(doing, err)
	}
	for _, l := range lanes {
		l.page = s.page * min(maxPages, maxLanes/len(lanes))
	}
	return lanes, nil
}

// keys are the expressions of those fields that the table has, each once.
func (s *Store) keys(fields ...field) []string {
	var keys []string
	for _, f := range fields {
		if e := s.table.expr[f]; e != "" && !slices.Contains(keys, e) {
			keys = append(keys, e)
		}
	}
	return keys
}

func pointers(values []string) []any {
	out := make([]any, len(values))
	for i := range values {
		out[i] = &values[i]
	}
	return out
}

// next takes the next row of a lane, nil at its end.
func (l *lane) next(ctx context.Context) (*row, error) {
	for len(l.rows) == 0 {
		if l.done {
			return nil, nil
		}
		if err := l.read(ctx); err != nil {
			return nil, err
		}
	}
	r := l.rows[0]
	l.rows[0] = nil
	l.rows = l.rows[1:]
	return r, nil
}

// A run over many tenants takes hours, in which the central database may be
// started anew: a page is asked for again, after these pauses.
var pagePauses = []time.Duration{100 * time.Millisecond, time.Second, 5 * time.Second, 15 * time.Second}

// read reads the next page.
func (l *lane) read(ctx context.Context) error {
	return again(ctx, func() error {
		p, err := l.query(ctx)
		if err == nil {
			err = l.store.readLabels(ctx, p.rows)
		}
		if err == nil {
			l.rows, l.after, l.done = p.rows, p.last, p.read < l.page
		}
		return err
	})
}

// again calls f, and again after a pause where its error may go away.
func again(ctx context.Context, f func() error) error {
	for try := 0; ; try++ {
		err := f()
		if err == nil || try == len(pagePauses) {
			return err
		}
		switch skein.ErrorClass(err) {
		case skein.Transient, skein.Unreachable, skein.ConnectionLost, skein.Busy:
		default:
			return err
		}
		select {
		case <-time.After(pagePauses[try]):
		case <-ctx.Done():
			return err
		}
	}
}

type page struct {
	rows []*row   // that are selected
	last []string // the keys of the last row
	read int      // rows, selected or not
}

// query reads the page after the last one.
func (l *lane) query(ctx context.Context) (page, error) {
	t := l.store.table
	q := l.store.db.newQuery("SELECT ")
	q.add(strings.Join(slices.Concat(t.read(allFields...), l.keys), ", "), " FROM ", t.from)
	l.sel.where(q)
	between := func(keys []string, op string, values []string) {
		if values == nil {
			return
		}
		q.add(" AND (", strings.Join(keys, ", "), ") ", op, " ")
		q.in(values)
	}
	if l.after != nil {
		between(l.keys, ">", l.after)
	} else {
		between(l.keys[:len(l.first)], ">=", l.first)
	}
	between(l.keys[:len(l.end)], "<", l.end)
	q.add(" ORDER BY ", strings.Join(l.keys, ", "), " LIMIT ", strconv.Itoa(l.page))

	p := page{last: make([]string, len(l.keys))}
	labels := make([]string, len(t.labels))
	err := q.each(ctx, l.store.db, func(sqlRows *sql.Rows) error {
		r := &row{}
		if err := sqlRows.Scan(slices.Concat(pointers(r.fields[:]), pointers(labels), pointers(p.last))...); err != nil {
			return err
		}
		p.read++
		r.complete()
		for i, value := range labels {
			r.label(t.labels[i].name, value)
		}
		if l.sel.includes(r) {
			p.rows = append(p.rows, r)
		}
		return nil
	})
	return p, l.store.db.fail("read tenants", err)
}

// complete gives a tenant without a slug its id for one.
func (r *row) complete() { r.fields[fieldSlug] = or(r.fields[fieldSlug], r.fields[fieldID]) }

func (r *row) label(name, value string) {
	if value == "" {
		return
	}
	if r.labels == nil {
		r.labels = make(map[string]string)
	}
	r.labels[name] = value
}

// labelRows is for how many tenants labels are asked for at once. For many more
// PostgreSQL reads the whole table instead of using its index.
const labelRows = 200

// readLabels reads the labels of rows of Skein's own table.
func (s *Store) readLabels(ctx context.Context, rows []*row) error {
	if !s.table.own {
		return nil
	}
	for part := range slices.Chunk(rows, labelRows) {
		byID := make(map[string]*row, len(part))
		ids := make([]string, len(part))
		for i, r := range part {
			ids[i] = r.fields[fieldID]
			byID[ids[i]] = r
		}
		q := s.db.newQuery("SELECT tenant_id, label, value FROM " + ownLabels + " WHERE tenant_id IN ")
		q.in(ids)
		err := q.each(ctx, s.db, func(rows *sql.Rows) error {
			var id, name, value string
			err := rows.Scan(&id, &name, &value)
			if r := byID[id]; r != nil {
				r.label(name, value)
			}
			return err
		})
		if err != nil {
			return s.db.fail("read labels", err)
		}
	}
	return nil
}
