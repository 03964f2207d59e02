// Package enginetest is the conformance suite that every engine passes. What is
// true of all engines is tested here; an engine's own tests hold only what is
// particular to it.
//
// An engine calls [Run] from one of its tests:
//
//	func TestConformance(t *testing.T) {
//		enginetest.Run(t, enginetest.Config{ ... })
//	}
//
// The suite starts the test binary again to have several processes. Such a
// child runs the same test up to its call of Run and no further.
package enginetest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/skeinhq/skein"
)

// A Config tells the suite how to reach an engine and its database, and what
// differs from one database's SQL to another's. All fields are required unless
// they say otherwise.
type Config struct {
	// New makes the engine.
	New func(skein.SessionOptions) skein.Engine

	// NewTarget makes an empty target that no other test uses, and removes it
	// when the test ends. Its role owns it, and has no rights elsewhere.
	NewTarget func(testing.TB) skein.Target

	// Exec runs SQL in a target without the engine, as somebody else does:
	// possibly several statements. In a target with a schema, names without
	// one mean that schema.
	Exec func(t testing.TB, target skein.Target, sql string)

	// Query runs one statement likewise and returns its rows as text, NULL as
	// "NULL".
	Query func(t testing.TB, target skein.Target, sql string) [][]string

	// Tables lists the names of all tables in a target (in its schema, where it
	// has one).
	Tables func(t testing.TB, target skein.Target) []string

	// LockTable begins a transaction without the engine that keeps everybody
	// else from writing to a table and from altering it. It ends when release
	// is called.
	LockTable func(t testing.TB, target skein.Target, table string) (release func())

	// Transactional says that DDL can be rolled back.
	Transactional bool

	// Slow is one statement that runs for 30 seconds or more if it is let, and
	// can run in a transaction.
	Slow string

	// Knex makes Knex's two tables as Knex does, called knex_migrations and
	// knex_migrations_lock, the latter with its one row, not locked.
	Knex string
	// KnexTime is the value of migration_time, as SQL, which means the instant
	// KnexTimeMeans to a precision of one second.
	KnexTime      string
	KnexTimeMeans time.Time

	// Trigger is the text of a migration that makes every row inserted into
	// the table watched insert two rows into the table noted. It has semicolons
	// in at least one body, and TriggerStatements statements. Both tables exist
	// and are (id integer primary key, note varchar(200)); the new rows have
	// the ids 10 and 20 times that of the inserted row.
	Trigger           string
	TriggerStatements int

	// Named makes a target like NewTarget, in which something has the given
	// name: the keys say what, for instance "database" and "schema".
	Named map[string]func(t testing.TB, name string) skein.Target
	// MaxName is the length in bytes of the longest name of ASCII characters.
	MaxName int

	// Missing makes a target whose database, schema, or file does not exist:
	// the keys say which.
	Missing map[string]func(testing.TB) skein.Target

	// Neighbours are the ways in which two targets can be next to each other.
	Neighbours []Neighbours

	// Together makes targets like NewTarget that can be looked at together from
	// one of them, and Address is the server's own address for such targets, as an
	// administrator. Both are nil for an engine that is no [skein.Glancer].
	Together func(t testing.TB, n int) []skein.Target
	Address  func(t testing.TB, target skein.Target) skein.Target
}

// Neighbours are two targets that have something in common.
type Neighbours struct {
	// Kind says what they are, for instance "schemas of one database".
	Kind string
	// New makes two empty targets like NewTarget.
	New func(testing.TB) (a, b skein.Target)
	// Switch says that one session is to serve both.
	Switch bool
}

// Run runs the suite.
func Run(t *testing.T, c Config) {
	if os.Getenv(childEnv) != "" {
		child(t, c)
		return
	}
	s := &suite{Config: c, test: t.Name()}
	for _, group := range []struct {
		name  string
		tests []namedTest
	}{
		{"History", historyTests},
		{"Knex", knexTests},
		{"InKnex", inKnexTests},
		{"Apply", applyTests},
		{"Partial", partialTests},
		{"Parse", parseTests},
		{"Record", recordTests},
		{"Lock", lockTests},
		{"LockKeeper", lockKeeperTests},
		{"Switch", switchTests},
		{"Names", nameTests},
		{"Cancel", cancelTests},
		{"Timeout", timeoutTests},
		{"Errors", errorTests},
		{"Odd", oddTests},
		{"Glance", glanceTests},
		{"Race", raceTests},
		{"Server", serverTests},
		{"Killed", killedTests},
	} {
		t.Run(group.name, func(t *testing.T) {
			for _, test := range group.tests {
				t.Run(test.name, func(t *testing.T) { test.run(t, s) })
			}
		})
	}
}

type namedTest struct {
	name string
	run  func(*testing.T, *suite)
}

type suite struct {
	Config
	test string // the name of the test that called Run
}

const (
	by   = `o'brien "the" ops@höst\1`
	tool = "skein 0.0.0-test"
)

// prompt bounds what is to happen at once, with room for a busy machine.
const prompt = 5 * time.Second

func (s *suite) options() skein.SessionOptions {
	return skein.SessionOptions{ConnectTimeout: 20 * time.Second, By: by, Tool: tool}
}

func (s *suite) engine() skein.Engine { return s.New(s.options()) }

// open opens a session that ends with the test, if not before.
func (s *suite) open(t *testing.T, e skein.Engine, target skein.Target) skein.Session {
	t.Helper()
	session, err := e.Open(t.Context(), target)
	if err != nil {
		t.Fatalf("open %s: %v", target, err)
	}
	t.Cleanup(func() { _ = session.Close() })
	return session
}

// history reads a target's history in a session of its own.
func (s *suite) history(t *testing.T, target skein.Target) skein.History {
	t.Helper()
	session := s.open(t, s.engine(), target)
	defer func() { _ = session.Close() }()
	history, err := session.History(t.Context())
	if err != nil {
		t.Fatalf("read the history of %s: %v", target, err)
	}
	return history
}

// records is the history as a map.
func (s *suite) records(t *testing.T, target skein.Target) map[string]skein.Record {
	t.Helper()
	records := make(map[string]skein.Record)
	for _, r := range s.history(t, target).Records {
		if _, ok := records[r.Name]; ok {
			t.Errorf("the history names %s twice", r.Name)
		}
		records[r.Name] = r
	}
	return records
}

// tables lists a target's tables without Skein's own.
func (s *suite) tables(t *testing.T, target skein.Target) []string {
	t.Helper()
	var tables []string
	for _, name := range s.Tables(t, target) {
		if name != skein.HistoryTable {
			tables = append(tables, name)
		}
	}
	return tables
}

// count counts a table's rows.
func (s *suite) count(t *testing.T, target skein.Target, table string) string {
	t.Helper()
	return s.Query(t, target, "SELECT count(*) FROM "+table)[0][0]
}

func lock(t *testing.T, session skein.Session) skein.History {
	t.Helper()
	history, err := session.Lock(t.Context(), 10*time.Second)
	if err != nil {
		t.Fatalf("lock: %v", err)
	}
	return history
}

func unlock(t *testing.T, session skein.Session) {
	t.Helper()
	if err := session.Unlock(t.Context()); err != nil {
		t.Fatalf("unlock: %v", err)
	}
}

// The lines on which the two sections of a test's migration begin.
const (
	upLine   = 4
	downLine = 1000
)

// migration makes a migration as it would be read from a file.
func migration(name, up, down string) *skein.Migration {
	m := &skein.Migration{
		Name: name, Version: name, Path: "migrations/" + name, Kind: skein.SQL,
		Checksum: checksum(up + down),
		Up:       &skein.Section{SQL: up, Path: "migrations/" + name, Line: upLine},
	}
	if down != "" {
		m.Down = &skein.Section{SQL: down, Path: "migrations/" + name, Line: downLine}
	}
	return m
}

// noTransaction makes a migration's sections run outside of a transaction.
func noTransaction(m *skein.Migration) *skein.Migration {
	m.Up.NoTransaction = true
	if m.Down != nil {
		m.Down.NoTransaction = true
	}
	return m
}

func checksum(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func step(t *testing.T, e skein.Engine, m *skein.Migration, d skein.Direction, batch int) skein.Step {
	t.Helper()
	statements, err := e.Parse(m.Section(d))
	if err != nil {
		t.Fatalf("parse %s: %v", m.Name, err)
	}
	return skein.Step{Migration: m, Direction: d, Statements: statements, Batch: batch}
}

// apply runs a step in a session that holds the lock.
func apply(t *testing.T, e skein.Engine, session skein.Session, m *skein.Migration, d skein.Direction, batch int) skein.StepResult {
	t.Helper()
	result, err := session.Apply(t.Context(), step(t, e, m, d, batch))
	if err != nil {
		t.Fatalf("%s of %s: %v", d, m.Name, err)
	}
	return result
}

// applyAll runs migrations up in a session of its own, each a batch.
func (s *suite) applyAll(t *testing.T, target skein.Target, migrations ...*skein.Migration) {
	t.Helper()
	e := s.engine()
	session := s.open(t, e, target)
	defer func() { _ = session.Close() }()
	batch := lock(t, session).LastBatch()
	for _, m := range migrations {
		batch++
		apply(t, e, session, m, skein.Up, batch)
	}
	unlock(t, session)
}

// table is the statement that makes a table of a number and a text.
func table(name string) string {
	return "CREATE TABLE " + name + " (id integer PRIMARY KEY, note varchar(200))"
}

// within fails a test in which f takes longer than it may.
func within(t *testing.T, limit time.Duration, what string, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if took := time.Since(start); took > limit {
		t.Errorf("%s took %s, more than %s", what, took.Round(time.Millisecond), limit)
	}
}

// closes ends a session and fails if that does not happen at once.
func closes(t *testing.T, session skein.Session) {
	t.Helper()
	within(t, prompt, "closing", func() { _ = session.Close() })
}

// wantNoSecret fails if an error shows a target's password.
func wantNoSecret(t *testing.T, target skein.Target, err error) {
	t.Helper()
	if password := target.Password.Reveal(); password != "" && strings.Contains(err.Error(), password) {
		t.Errorf("the password is in the error: %v", err)
	}
}

// cancelled returns a context that was cancelled already.
func cancelled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
