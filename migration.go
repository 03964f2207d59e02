package skein

import (
	"fmt"
	"strings"
	"time"
)

// A Direction is which side of a migration runs.
type Direction string

// The two directions.
const (
	Up   Direction = "up"
	Down Direction = "down"
)

// A Kind is what a migration is written in, and so what runs it.
type Kind string

// The kinds of migration.
const (
	SQL  Kind = "sql"  // run by Skein, recorded in skein_migrations
	Knex Kind = "knex" // a .js or .ts file, run and recorded by the project's own Knex
)

// A Migration is one change to a tenant's schema or data, read from a file.
// It is not changed after it was read, and safe for concurrent use.
type Migration struct {
	// Name is what the history records: the file's name with its extension
	// and without its folder, as Knex records it. Of a golang-migrate pair it
	// is the name of the .up.sql file.
	Name string
	// Version is what a person calls the migration by: the digits that begin
	// the name, or the whole name where none do.
	Version string
	// Path is the file as errors show it, relative to where Skein was started.
	Path string
	Kind Kind
	// Group is the number of its folder where folders come one after the other,
	// each in its own order: there a migration is older or newer only than those
	// of its group. It is 0 where all folders are one order.
	Group int
	// Checksum is the hexadecimal SHA-256 of the up section, or of a Knex
	// migration's file. White space around it, line endings and a byte order
	// mark do not count. Nor does the down section, which can be added or
	// mended after the migration has run.
	Checksum string
	// Up and Down are the two sides of a SQL migration. Down is nil where the
	// file has none; both are nil for a Knex migration.
	Up, Down *Section
}

// Section returns the side of a SQL migration that runs in a direction, nil if
// the migration has none.
func (m *Migration) Section(d Direction) *Section {
	if d == Down {
		return m.Down
	}
	return m.Up
}

// A Section is one side of a SQL migration.
type Section struct {
	SQL string
	// Path is the file that holds the section.
	Path string
	// Line is the line of the file, counted from 1, on which SQL begins.
	Line int
	// NoTransaction is set where the file says that the section must not run
	// inside a transaction.
	NoTransaction bool
	// Timeouts are the section's own.
	Timeouts Timeouts
}

// Timeouts are bounds that a section of a migration sets for itself, in the
// place of those of [SessionOptions]. Nil: as there; 0: no bound at all.
type Timeouts struct {
	Lock, Statement, Idle *time.Duration
}

// IsZero says whether none is set.
func (t Timeouts) IsZero() bool { return t == Timeouts{} }

// A Statement is one statement of a section, as an engine sends it.
type Statement struct {
	Text string
	// Line is the line of the file, counted from 1, on which Text begins.
	Line int
}

// A Set is the migrations of one folder, in the order in which they run.
// It is safe for concurrent use.
type Set struct {
	all    []*Migration
	byName map[string]int
}

// NewSet makes a set of migrations that are in the order in which they run, those
// of a group behind each other. Two migrations of one name are an error.
func NewSet(migrations []*Migration) (*Set, error) {
	s := &Set{all: migrations, byName: make(map[string]int, len(migrations))}
	for i, m := range migrations {
		if j, ok := s.byName[m.Name]; ok {
			return nil, &FileError{Path: m.Path, Msg: fmt.Sprintf("the name %s is taken by %s: rename one of them", m.Name, migrations[j].Path)}
		}
		s.byName[m.Name] = i
	}
	return s, nil
}

// All returns the migrations in the order in which they run. The slice is
// shared and must not be changed.
func (s *Set) All() []*Migration { return s.all }

// Len is the number of migrations.
func (s *Set) Len() int { return len(s.all) }

// Find returns the migration of that name and its place in the order, counted
// from 0; nil and -1 if there is none.
func (s *Set) Find(name string) (*Migration, int) {
	if i, ok := s.byName[name]; ok {
		return s.all[i], i
	}
	return nil, -1
}

// Resolve returns the migration that a person means by a version, a file name,
// or the beginning of a file name that only one file has.
func (s *Set) Resolve(word string) (*Migration, int, error) {
	if m, i := s.Find(word); m != nil {
		return m, i, nil
	}
	var found []int
	for i, m := range s.all {
		if m.Version == word {
			found = append(found, i)
		}
	}
	if len(found) == 0 && word != "" {
		for i, m := range s.all {
			if strings.HasPrefix(m.Name, word) {
				found = append(found, i)
			}
		}
	}
	switch len(found) {
	case 1:
		return s.all[found[0]], found[0], nil
	case 0:
		if len(s.all) == 0 {
			return nil, -1, fmt.Errorf("no migration is called %q: the folder holds none", word)
		}
		return nil, -1, fmt.Errorf("no migration is called %q: the newest is %s", word, s.all[len(s.all)-1].Name)
	}
	names := make([]string, len(found))
	for i, at := range found {
		names[i] = s.all[at].Name
	}
	return nil, -1, fmt.Errorf("%q could be %s: give the whole name", word, strings.Join(names, " or "))
}

// KnexName says whether a name in a history is that of a Knex migration: one
// with an extension that Knex loads by default, which .sql is not.
func KnexName(name string) bool {
	i := strings.LastIndexByte(name, '.')
	if i < 0 {
		return false
	}
	switch name[i:] {
	case ".js", ".cjs", ".mjs", ".ts", ".cts", ".mts", ".co", ".coffee", ".eg", ".iced", ".litcoffee", ".ls":
		return true
	}
	return false
}
