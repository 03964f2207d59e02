package central

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/closest"
	"github.com/skeinhq/skein/secret"
)

// A Format is how a file lists tenants.
type Format string

// The formats of lists. Their columns, or keys, are id, slug, name, status, url,
// engine, host, port, database, schema, user, password and options (a JSON
// object); slug is needed.
const (
	// CSV is RFC 4180 with a header line, in UTF-8. The column label:NAME has
	// the label NAME.
	CSV Format = "csv"
	// JSONLines is a JSON object a line. Its key labels is an object.
	JSONLines Format = "jsonl"
)

// An ImportError is why nothing of a list was imported.
type ImportError struct {
	// Problems are the first of what is wrong, in the order of the list.
	Problems []LineError
	// More is how many problems there are besides.
	More int
}

// A LineError is what is wrong with a line, counted from 1.
type LineError struct {
	Line int
	Err  error
}

// maxProblems is how many problems of a list are told.
const maxProblems = 20

func (e *ImportError) Error() string {
	var b strings.Builder
	for i, p := range e.Problems {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "line %d: %v", p.Line, p.Err)
	}
	if e.More > 0 {
		fmt.Fprintf(&b, "\nand %d more", e.More)
	}
	return b.String()
}

// Hint says what to do, if that is the same for all that is wrong.
func (e *ImportError) Hint() string {
	hint := skein.Hint(e.Problems[0].Err)
	for _, p := range e.Problems {
		if skein.Hint(p.Err) != hint {
			return ""
		}
	}
	return hint
}

// batchRows is how many tenants are stored with one statement. PostgreSQL and
// MySQL take 65,535 parameters, SQLite 32,766.
const batchRows = 500

// Import adds the tenants that r lists to Skein's own table and returns how many
// there were: all of them, or, when anything is wrong with any, none. Their
// passwords are in clear in the list and are stored encrypted. The error is an
// [*ImportError] for what is wrong in the list.
//
// The slugs and ids of the list are kept in memory meanwhile, the rest is not.
func (s *Store) Import(ctx context.Context, r io.Reader, format Format) (int, error) {
	const doing = "import tenants"
	if err := s.table.refuseMapped(doing); err != nil {
		return 0, err
	}
	im := &importer{store: s, ctx: ctx, lines: make(map[string]int)}
	list := im.csv
	switch format {
	case CSV:
	case JSONLines:
		list = im.jsonLines
	default:
		return 0, fmt.Errorf("%s: format %q is not one of %s, %s", doing, format, CSV, JSONLines)
	}
	err := s.db.transaction(ctx, doing, func(tx execer) error {
		im.tx = tx
		q := s.db.newQuery("SELECT COUNT(*) FROM (SELECT id FROM " + ownTenants + " LIMIT 1) AS tenants")
		if err := q.each(ctx, tx, func(rows *sql.Rows) error { return rows.Scan(&im.before) }); err != nil {
			return s.db.fail(doing, err)
		}
		if err := list(r); err != nil {
			return err
		}
		if err := im.flush(); err != nil {
			return err
		}
		if len(im.problems.Problems) > 0 {
			return &im.problems
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return im.count, nil
}

// An importer takes the rows of a list and stores them in batches, until
// something is wrong. From then on it only checks.
type importer struct {
	store    *Store
	ctx      context.Context
	tx       execer
	before   int            // 0 if the table was empty
	lines    map[string]int // where a slug or id stands in the list
	batch    []*sealedTenant
	found    []LineError // what is wrong in this batch
	problems ImportError
	count    int
}

func (im *importer) problem(line int, err error) {
	im.found = append(im.found, LineError{line, err})
}

func (im *importer) row(line int, r *row) error {
	t, problem := im.store.fromRow(r)
	if problem == nil {
		problem = im.duplicate(line, t)
	}
	if problem != nil {
		im.problem(line, problem)
	} else {
		t.line = line
		im.batch = append(im.batch, t)
	}
	if len(im.batch)+len(im.found) < batchRows {
		return nil
	}
	return im.flush()
}

// duplicate notes a slug and an id, and refuses those that were there before.
func (im *importer) duplicate(line int, t *sealedTenant) *FieldError {
	for f, word := range []string{fieldID: t.ID, fieldSlug: t.Slug} {
		if at, ok := im.lines[word]; ok {
			return badField(field(f), "%s is in line %d already", word, at)
		}
	}
	im.lines[t.Slug] = line
	if t.ownID {
		im.lines[t.ID] = line
	}
	return nil
}

// flush checks the batch against the table, and stores it.
func (im *importer) flush() error {
	if len(im.batch) > 0 && im.before > 0 {
		owners, err := im.store.owners(im.ctx, im.tx, im.batch)
		if err != nil {
			return err
		}
		for _, t := range im.batch {
			if problem := owners.problem(t); problem != nil {
				im.problem(t.line, problem)
			}
		}
	}
	slices.SortStableFunc(im.found, func(a, b LineError) int { return cmp.Compare(a.Line, b.Line) })
	for _, p := range im.found {
		if len(im.problems.Problems) < maxProblems {
			im.problems.Problems = append(im.problems.Problems, p)
		} else {
			im.problems.More++
		}
	}
	if len(im.problems.Problems) == 0 && len(im.batch) > 0 {
		if err := im.store.insert(im.ctx, im.tx, "import tenants", im.batch); err != nil {
			return err
		}
	}
	im.count += len(im.batch)
	im.batch, im.found = im.batch[:0], im.found[:0]
	return nil
}

// fromRow makes a tenant that can be stored of a row of a list.
func (s *Store) fromRow(r *row) (*sealedTenant, *FieldError) {
	target, problem := r.target(nil)
	if problem != nil {
		return nil, problem
	}
	if password := secret.New(r.fields[fieldPassword]); !password.IsZero() {
		if !target.Password.IsZero() && !target.Password.Equal(password) {
			return nil, badField(fieldPassword, conflict)
		}
		target.Password = password
	}
	return s.prepare(NewTenant{
		ID: r.fields[fieldID], Slug: r.fields[fieldSlug], Name: r.fields[fieldName], Status: r.fields[fieldStatus],
		Labels: r.labels, Target: target,
	})
}

const labelPrefix = "label:"

func (im *importer) csv(r io.Reader) error {
	in := bufio.NewReader(r)
	if mark, err := in.Peek(len(byteOrderMark)); err == nil && string(mark) == byteOrderMark {
		_, _ = in.Discard(len(mark)) // they are buffered
	}
	reader := csv.NewReader(in)
	reader.FieldsPerRecord = -1 // told below, and the lines after are read on
	reader.ReuseRecord = true
	var header []string
	var fields []field
	for {
		record, err := reader.Read()
		if e, ok := errors.AsType[*csv.ParseError](err); ok {
			// Where the fields of the rest begin and end cannot be known.
			im.problem(e.StartLine, fmt.Errorf("a quote is missing or in a wrong place (line %d, column %d)", e.Line, e.Column))
			return nil
		}
		if errors.Is(err, io.EOF) {
			if header == nil {
				im.problem(1, errors.New("there is no header line"))
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("read list of tenants: %w", err)
		}
		line, _ := reader.FieldPos(0)
		if header == nil {
			header = slices.Clone(record)
			if fields, err = readHeader(header); err != nil {
				im.problem(line, err)
				return nil
			}
			continue
		}
		if len(record) != len(header) {
			im.problem(line, fmt.Errorf("it has %d fields, and the header %d", len(record), len(header)))
			continue
		}
		var out row
		for i, value := range record {
			if fields[i] != fieldPassword {
				value = strings.TrimSpace(value)
			}
			if fields[i] == fieldCount {
				out.label(strings.TrimPrefix(header[i], labelPrefix), value)
			} else {
				out.fields[fields[i]] = value
			}
		}
		if err := im.row(line, &out); err != nil {
			return err
		}
	}
}

const byteOrderMark = "\ufeff"

// readHeader says which field each column is, fieldCount for a label. A list
// may have no header, and a password in its place, so that what is nothing like
// a column's name is not repeated.
func readHeader(header []string) ([]field, error) {
	fields := make([]field, len(header))
	for i, name := range header {
		name = strings.TrimSpace(name)
		header[i] = name
		fields[i] = fieldCount
		if !strings.HasPrefix(name, labelPrefix) {
			if fields[i] = field(slices.Index(fieldNames[:], name)); fields[i] < 0 {
				return nil, unknownColumnName(header, i)
			}
		}
		if slices.Contains(header[:i], name) {
			return nil, fmt.Errorf("the column %q is there twice", name)
		}
	}
	if !slices.Contains(fields, fieldSlug) {
		return nil, errors.New("there is no column slug")
	}
	return fields, nil
}

func unknownColumnName(header []string, i int) error {
	if near := closest.To(header[i], fieldNames[:]); near != "" {
		return fmt.Errorf("there is no column %q: is it %s?", header[i], near)
	}
	known := strings.Join(fieldNames[:], ", ") + ", " + labelPrefix + "NAME"
	if len(header) == 1 {
		return fmt.Errorf("the first line is no header with commas between the names of the columns, which are %s", known)
	}
	return fmt.Errorf("column %d of the header is none of %s; is the first line a header?", i+1, known)
}

// unknownName is the error of a key that no tenant has.
func unknownName(name string) error {
	known := append(slices.Clone(fieldNames[:]), "labels")
	if near := closest.To(name, known); near != "" {
		return fmt.Errorf("there is no key %q: is it %s?", name, near)
	}
	return fmt.Errorf("there is no key %q: there are %s", name, strings.Join(known, ", "))
}

// maxLine bounds a line of JSON, in bytes.
const maxLine = 1 << 20

func (im *importer) jsonLines(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	n := 0
	for lines.Scan() {
		n++
		text := bytes.TrimSpace(bytes.TrimPrefix(lines.Bytes(), []byte(byteOrderMark)))
		if len(text) == 0 {
			continue
		}
		out, err := readObject(text)
		if err != nil {
			im.problem(n, err)
			continue
		}
		if err := im.row(n, out); err != nil {
			return err
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		im.problem(n+1, fmt.Errorf("it is longer than %d bytes", maxLine))
		return nil
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read list of tenants: %w", err)
	}
	return nil
}

func readObject(text []byte) (*row, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(text, &object); err != nil {
		if e, ok := errors.AsType[*json.SyntaxError](err); ok {
			return nil, fmt.Errorf("it is not JSON from column %d on", e.Offset)
		}
		return nil, errors.New("it is not a JSON object")
	}
	out := &row{}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		value := object[name]
		if name == "labels" {
			var labels map[string]json.RawMessage
			if err := json.Unmarshal(value, &labels); err != nil {
				return nil, errors.New("labels: it is not an object")
			}
			for _, label := range slices.Sorted(maps.Keys(labels)) {
				word, ok := jsonText(labels[label])
				if !ok {
					return nil, fmt.Errorf("label %s: it is not a text, a number, true or false", label)
				}
				out.label(label, word)
			}
			continue
		}
		f := field(slices.Index(fieldNames[:], name))
		switch {
		case f < 0:
			return nil, unknownName(name)
		case f == fieldOptions:
			if string(value) != "null" {
				out.fields[f] = string(value)
			}
		default:
			word, ok := jsonText(value)
			if !ok {
				return nil, fmt.Errorf("%s: it is not a text or a number", name)
			}
			out.fields[f] = word
		}
	}
	return out, nil
}
