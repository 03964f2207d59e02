package sqlite

import (
	"strings"

	"github.com/skeinhq/skein"
)

// statements is the SQL of an engine.
type statements struct {
	tables string // which of the three tables there are, as one row
	parts  [3]string
	clear  string // takes Knex's lock away
	knex   knexStatements
}

// The tables of a history, in the order of statements.parts.
const (
	ownTable = iota
	knexTable
	knexLockTable
)

// The columns of each part are those of the longest, skein_migrations.
const (
	columns = 13
	own     = "SELECT 0, id, name, state, batch, checksum, done, total," +
		" CASE state WHEN 'applied' THEN applied_at ELSE started_at END, duration_ms, applied_by, tool, fingerprints FROM skein_migrations"
)

const createTable = `CREATE TABLE IF NOT EXISTS skein_migrations (
  id integer PRIMARY KEY,
  name varchar(255) NOT NULL UNIQUE,
  state varchar(16) NOT NULL CHECK (state IN ('applied', 'applying', 'reverting')),
  batch integer NOT NULL,
  checksum char(64),
  done integer NOT NULL DEFAULT 0,
  total integer NOT NULL DEFAULT 0,
  fingerprints text,
  started_at text NOT NULL,
  applied_at text,
  duration_ms bigint,
  applied_by varchar(255),
  tool varchar(64)
)`

const (
	// A record takes the place of what there was about its migration, and keeps
	// its id, which is its place in the order.
	writeRecord = `INSERT INTO skein_migrations
  (name, state, batch, checksum, done, total, started_at, applied_at, duration_ms, applied_by, tool, fingerprints)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
  ON CONFLICT (name) DO UPDATE SET state = excluded.state, batch = excluded.batch, checksum = excluded.checksum,
    done = excluded.done, total = excluded.total, started_at = excluded.started_at, applied_at = excluded.applied_at,
    duration_ms = excluded.duration_ms, applied_by = excluded.applied_by, tool = excluded.tool, fingerprints = excluded.fingerprints`
	// addRecord is for a migration that there must be nothing about.
	addRecord = `INSERT INTO skein_migrations
  (name, state, batch, checksum, done, total, started_at, applied_at, duration_ms, applied_by, tool, fingerprints)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)`
	// What stays of an applied record while it is reverted is needed when nothing
	// of the down stayed after all.
	beginDown    = "UPDATE skein_migrations SET state = 'reverting', done = ?4, total = ?2, started_at = ?3, fingerprints = ?5 WHERE name = ?1"
	takeBackDown = "UPDATE skein_migrations SET state = 'applied', done = 0, total = 0, fingerprints = NULL WHERE name = ?1"
	progress     = "UPDATE skein_migrations SET done = ?2 WHERE name = ?1"
	finishUp     = "UPDATE skein_migrations SET state = 'applied', done = total, fingerprints = NULL, applied_at = ?2, duration_ms = ?3 WHERE name = ?1"
	deleteRecord = "DELETE FROM skein_migrations WHERE name = ?1"
)

func newStatements(knex string) statements {
	lock := knex + "_lock"
	return statements{
		// Of ASCII letters in a table's name the case does not count.
		tables: "SELECT count(*) FILTER (WHERE name = " + literal(skein.HistoryTable) + " COLLATE NOCASE)," +
			" count(*) FILTER (WHERE name = " + literal(knex) + " COLLATE NOCASE)," +
			" count(*) FILTER (WHERE name = " + literal(lock) + " COLLATE NOCASE)" +
			" FROM sqlite_schema WHERE type IN ('table', 'view')",
		parts: [3]string{
			own,
			"SELECT 1, id, name, NULL, batch, NULL, NULL, NULL, migration_time, NULL, NULL, NULL, NULL FROM " + identifier(knex) + " WHERE name IS NOT NULL",
			"SELECT 2, count(*) FILTER (WHERE is_locked <> 0) + (count(*) > 1), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM " + identifier(lock),
		},
		clear: "DELETE FROM " + identifier(lock) + ` WHERE "index" > (SELECT min("index") FROM ` + identifier(lock) + "); UPDATE " + identifier(lock) + " SET is_locked = 0 WHERE is_locked <> 0",
		knex:  newKnexStatements(knex),
	}
}

func identifier(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }
