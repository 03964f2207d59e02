package sqlite

import (
	"context"

	"github.com/skeinhq/skein"
)

// knexStatements are the SQL that writes Knex's table, of the name that it has.
// It is made as Knex makes it:
// https://github.com/knex/knex/blob/master/lib/migrations/util/table-creator.js.
type knexStatements struct {
	create []string
	record string // ?1
	erase  string // ?1
}

func newKnexStatements(knex string) knexStatements {
	table, lock := identifier(knex), identifier(knex+"_lock")
	return knexStatements{
		create: []string{
			"CREATE TABLE IF NOT EXISTS " + table + " (`id` integer not null primary key autoincrement, `name` varchar(255), `batch` integer, `migration_time` datetime)",
			"CREATE TABLE IF NOT EXISTS " + lock + " (`index` integer not null primary key autoincrement, `is_locked` integer)",
			"INSERT INTO " + lock + " (is_locked) SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM " + lock + ")",
		},
		// Knex's times are milliseconds, and 2440587.5 is the Julian day of 1970.
		record: "INSERT INTO " + table + " (name, batch, migration_time)" +
			" SELECT name, batch, CAST(round((julianday(applied_at) - 2440587.5) * 86400000) AS integer) FROM " + skein.HistoryTable +
			" WHERE name = ?1 AND state = 'applied' AND NOT EXISTS (SELECT 1 FROM " + table + " WHERE name = ?1)",
		erase: "DELETE FROM " + table + " WHERE name = ?1",
	}
}

const writingKnex = "write Knex's table"

// RecordInKnex copies records to Knex's table.
func (s *session) RecordInKnex(ctx context.Context, names []string) error {
	return s.forEach(ctx, writingKnex, s.engine.sql.knex.create, s.engine.sql.knex.record, names)
}

// EraseInKnex deletes rows of Knex's table.
func (s *session) EraseInKnex(ctx context.Context, names []string) error {
	return s.forEach(ctx, writingKnex, nil, s.engine.sql.knex.erase, names)
}
