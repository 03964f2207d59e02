package central

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/skeinhq/skein/internal/closest"
)

// A Filter says which tenants are meant. The zero value means every tenant.
type Filter struct {
	// Only names the tenants, each by its slug, its id, or a pattern for slugs
	// in which * stands for any text. Empty: all. A word that names no tenant,
	// or two, is an error, and so is a pattern that no slug matches.
	Only []string
	// Skip leaves out tenants, named likewise. Here a pattern may match none.
	Skip []string
	// Active leaves out tenants that are not active, unless Only has their slug
	// or id itself.
	Active bool
	// Statuses leaves out tenants with another status, upper and lower case
	// being the same. Empty: none.
	Statuses []string
	// Labels leaves out tenants that do not have all of these labels with these
	// values. A label that no tenant can have is an error.
	Labels map[string]string
	// Order is the order in which tenants are listed. It leaves out none.
	Order Order
}

// An Order is an order of tenants.
type Order int

const (
	// ByServer takes the tenants from the database servers in turn, so that
	// work with a bound for each server finds enough on all of them, and on
	// one server those of the same database one after another. A server's
	// tenants may come in a row where it has less than a few percent of all.
	ByServer Order = iota
	// BySlug sorts by slug, byte by byte.
	BySlug
)

// A NotFoundError is words that should name tenants and do not.
type NotFoundError struct {
	Words []string
	hint  string
}

func (e *NotFoundError) Error() string {
	const most = 20
	quoted := make([]string, 0, most)
	for _, w := range e.Words[:min(len(e.Words), most)] {
		quoted = append(quoted, strconv.Quote(w))
	}
	words := strings.Join(quoted, ", ")
	if more := len(e.Words) - most; more > 0 {
		words += fmt.Sprintf(" and %d more", more)
	}
	return "no tenant has the slug or id " + words
}

// Hint says which tenants may have been meant.
func (e *NotFoundError) Hint() string { return e.hint }

// Words splits what is given to select tenants, such as "acme,b*,@file", at its
// commas. A word with @ before it is a file, read with readFile, with a word a
// line; empty lines, and those that begin with #, are passed over.
func Words(text string, readFile func(name string) ([]byte, error)) ([]string, error) {
	var words []string
	for word := range strings.SplitSeq(text, ",") {
		word = strings.TrimSpace(word)
		name, isFile := strings.CutPrefix(word, "@")
		if !isFile {
			if word != "" {
				words = append(words, word)
			}
			continue
		}
		content, err := readFile(name)
		if err != nil {
			return nil, fmt.Errorf("read list of tenants: %w", err)
		}
		lines := bufio.NewScanner(bytes.NewReader(content))
		for n := 1; lines.Scan(); n++ {
			line := strings.TrimSpace(strings.TrimPrefix(lines.Text(), "\ufeff"))
			switch {
			case line == "" || line[0] == '#':
			case strings.Contains(line, ","):
				return nil, fmt.Errorf("%s:%d: there is a comma: the list has one tenant a line", name, n)
			default:
				words = append(words, line)
			}
		}
		if err := lines.Err(); err != nil {
			return nil, fmt.Errorf("read list of tenants %s: %w", name, err)
		}
	}
	return words, nil
}

// A pattern is a text in which * stands for any text.
type pattern string

func isPattern(word string) bool { return strings.Contains(word, "*") }

func (p pattern) match(s string) bool {
	parts := strings.Split(string(p), "*")
	first, last := parts[0], parts[len(parts)-1]
	if len(parts) == 1 {
		return s == first
	}
	if len(s) < len(first)+len(last) || !strings.HasPrefix(s, first) || !strings.HasSuffix(s, last) {
		return false
	}
	s = s[len(first) : len(s)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		_, after, found := strings.Cut(s, part)
		if !found {
			return false
		}
		s = after
	}
	return true
}

func matchAny(patterns []pattern, slug string) bool {
	return slices.ContainsFunc(patterns, func(p pattern) bool { return p.match(slug) })
}

// A selection is a filter whose words were looked up.
type selection struct {
	filter       Filter
	only, skip   map[string]bool // ids
	onlyPatterns []pattern
	skipPatterns []pattern
	statuses     map[string]bool
	table        *table
}

// includes says whether a tenant is meant, apart from its labels, which the
// query has asked for.
func (s *selection) includes(r *row) bool {
	id, slug, status := r.fields[fieldID], r.fields[fieldSlug], r.fields[fieldStatus]
	switch {
	case s.only[id]:
	case len(s.filter.Only) > 0 && !matchAny(s.onlyPatterns, slug):
		return false
	case s.filter.Active && !s.table.isActive(status):
		return false
	}
	if len(s.statuses) > 0 && !s.statuses[foldStatus(status)] {
		return false
	}
	return !s.skip[id] && !matchAny(s.skipPatterns, slug)
}

// maxListed is how many tenants are asked for by name in a query. When there are
// more it is better to read the whole table.
const maxListed = 500

// where adds the conditions of a selection that the database can check.
func (s *selection) where(q *query) {
	q.add(" WHERE 1 = 1")
	if len(s.filter.Only) > 0 && len(s.onlyPatterns) == 0 && len(s.only) <= maxListed {
		q.add(" AND ", s.table.expr[fieldID], " IN ")
		q.in(slices.Sorted(maps.Keys(s.only)))
	}
	for _, name := range slices.Sorted(maps.Keys(s.filter.Labels)) {
		value := s.filter.Labels[name]
		if s.table.own {
			q.add(" AND EXISTS (SELECT 1 FROM ", ownLabels, " WHERE tenant_id = ", ownTenants, ".id AND label = ", q.arg(name))
			q.add(" AND value = ", q.arg(value), ")")
			continue
		}
		i := slices.IndexFunc(s.table.labels, func(l label) bool { return l.name == name })
		q.add(" AND ", s.table.labels[i].expr, " = ", q.arg(value))
	}
}

// resolve looks up what a filter names, and is an error if any of it names
// nothing.
func (s *Store) resolve(ctx context.Context, f Filter) (*selection, error) {
	sel := &selection{filter: f, table: s.table, statuses: make(map[string]bool)}
	for _, status := range f.Statuses {
		sel.statuses[foldStatus(status)] = true
	}
	if err := s.checkLabels(ctx, f.Labels); err != nil {
		return nil, err
	}

	var words []string
	split := func(list []string) (patterns []pattern) {
		for _, w := range list {
			if isPattern(w) {
				patterns = append(patterns, pattern(w))
			} else {
				words = append(words, w)
			}
		}
		return patterns
	}
	sel.onlyPatterns = split(f.Only)
	only := len(words)
	sel.skipPatterns = split(f.Skip)
	ids, err := s.lookUp(ctx, words)
	if err != nil {
		return nil, err
	}
	sel.only, sel.skip = make(map[string]bool, only), make(map[string]bool, len(words)-only)
	for i, id := range ids {
		if i < only {
			sel.only[id] = true
		} else {
			sel.skip[id] = true
		}
	}
	return sel, s.checkPatterns(ctx, sel)
}

// checkPatterns is whether each pattern finds a tenant.
func (s *Store) checkPatterns(ctx context.Context, sel *selection) error {
	left := slices.Clone(sel.onlyPatterns)
	if len(left) == 0 {
		return nil
	}
	inactive := make(map[pattern]int)
	err := s.scan(ctx, sel, func(r *row) error {
		slug := r.fields[fieldSlug]
		if sel.filter.Active && !s.table.isActive(r.fields[fieldStatus]) {
			for _, p := range left {
				if p.match(slug) {
					inactive[p]++
				}
			}
			return nil
		}
		left = slices.DeleteFunc(left, func(p pattern) bool { return p.match(slug) })
		if len(left) == 0 {
			return errEnough
		}
		return nil
	}, fieldID, fieldSlug, fieldStatus)
	if err != nil {
		return err
	}
	var problems []error
	for _, p := range left {
		among := ""
		if len(sel.filter.Labels) > 0 {
			among = " with the labels asked for"
		}
		if n := inactive[p]; n > 0 {
			problems = append(problems, fmt.Errorf("no active tenant%s has a slug like %q: %d not active are", among, string(p), n))
		} else {
			problems = append(problems, fmt.Errorf("no tenant%s has a slug like %q", among, string(p)))
		}
	}
	return errors.Join(problems...)
}

// checkLabels is whether there are labels of these names at all.
func (s *Store) checkLabels(ctx context.Context, labels map[string]string) error {
	if len(labels) == 0 {
		return nil
	}
	var known []string
	if s.table.own {
		q := s.db.newQuery("SELECT DISTINCT label FROM " + ownLabels + " ORDER BY label")
		err := q.each(ctx, s.db, func(rows *sql.Rows) error {
			var name string
			err := rows.Scan(&name)
			known = append(known, name)
			return err
		})
		if err != nil {
			return s.db.fail("read labels", err)
		}
	} else {
		for _, l := range s.table.labels {
			known = append(known, l.name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		if !slices.Contains(known, name) {
			hint := "there are no labels"
			if len(known) > 0 {
				hint = "there are " + strings.Join(known[:min(len(known), 50)], ", ")
			}
			if near := closest.To(name, known); near != "" {
				hint = fmt.Sprintf("is it %s? ", near) + hint
			}
			return &advice{fmt.Errorf("no tenant has a label %q", name), hint}
		}
	}
	return nil
}

// lookUp finds the ids of the tenants that words name, each by slug or id.
func (s *Store) lookUp(ctx context.Context, words []string) ([]string, error) {
	if len(words) == 0 {
		return nil, nil
	}
	type tenant struct{ id, slug string }
	found := make(map[string][]tenant, len(words))
	for _, w := range words {
		found[w] = nil
	}
	q := s.db.newQuery("SELECT ")
	id, slug := s.table.expr[fieldID], s.table.expr[fieldSlug]
	q.add(id, ", ", slug, " FROM ", s.table.from)
	if len(found) <= maxListed {
		list := slices.Sorted(maps.Keys(found))
		q.add(" WHERE ", id, " IN ")
		q.in(list)
		q.add(" OR ", slug, " IN ")
		q.in(list)
	}
	err := q.each(ctx, s.db, func(rows *sql.Rows) error {
		var t tenant
		if err := rows.Scan(&t.id, &t.slug); err != nil {
			return err
		}
		t.slug = or(t.slug, t.id)
		for _, w := range slices.Compact([]string{t.id, t.slug}) {
			if list, ok := found[w]; ok {
				found[w] = append(list, t)
			}
		}
		return nil
	})
	if err != nil {
		return nil, s.db.fail("look up tenants", err)
	}

	ids := make([]string, len(words))
	var missing []string
	for i, w := range words {
		switch list := found[w]; len(list) {
		case 0:
			missing = append(missing, w)
		case 1:
			ids[i] = list[0].id
		default:
			are := make([]string, len(list))
			for i, t := range list {
				are[i] = fmt.Sprintf("%s (id %s)", t.slug, t.id)
			}
			return nil, &advice{
				fmt.Errorf("%q is the slug or id of more than one tenant: %s", w, strings.Join(are, ", ")),
				"name the one that is meant by its other name",
			}
		}
	}
	if len(missing) > 0 {
		return nil, s.notFound(ctx, missing)
	}
	return ids, nil
}

// notFound says which tenants come close to words that name none.
func (s *Store) notFound(ctx context.Context, missing []string) error {
	const words, each = 5, 3
	near := make([]*closest.Finder, 0, words)
	for _, w := range missing[:min(len(missing), words)] {
		near = append(near, closest.New(w, each))
	}
	err := s.scan(ctx, &selection{table: s.table}, func(r *row) error {
		for _, c := range near {
			c.Show(r.fields[fieldSlug])
		}
		return nil
	}, fieldID, fieldSlug)
	if err != nil {
		return err
	}
	var all []string
	for _, c := range near {
		all = append(all, c.Names()...)
	}
	e := &NotFoundError{Words: missing}
	switch {
	case len(all) == 1:
		e.hint = "is it " + all[0] + "?"
	case len(all) > 1:
		slices.Sort(all)
		e.hint = "close to it: " + strings.Join(slices.Compact(all), ", ")
	default:
		e.hint = "list the tenants with: skein tenants list"
	}
	return e
}

// errEnough ends a scan before its end.
var errEnough = errors.New("enough")

// scan calls f with every row that a selection's query finds, in no order and
// without regard to the rest of the selection. It is for what is quick: the
// query stays open meanwhile.
func (s *Store) scan(ctx context.Context, sel *selection, f func(*row) error, fields ...field) error {
	q := s.db.newQuery("SELECT ")
	for i, fd := range fields {
		if i > 0 {
			q.add(", ")
		}
		q.add(or(s.table.expr[fd], "''"))
	}
	q.add(" FROM ", s.table.from)
	sel.where(q)
	var r row
	into := make([]any, len(fields))
	for i, fd := range fields {
		into[i] = &r.fields[fd]
	}
	err := q.each(ctx, s.db, func(rows *sql.Rows) error {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		r.complete()
		return f(&r)
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return s.db.fail("read tenants", err)
}
