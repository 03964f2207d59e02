package sqlite

import (
	"context"
	"fmt"

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

// RecordInKnex copies records to Knex's table.
func (s *session) RecordInKnex(ctx context.Context, names []string) error {
	return s.writeKnex(ctx, s.engine.sql.knex.create, s.engine.sql.knex.record, names)
}

// EraseInKnex deletes rows of Knex's table.
func (s *session) EraseInKnex(ctx context.Context, names []string) error {
	return s.writeKnex(ctx, nil, s.engine.sql.knex.erase, names)
}

// writeKnex runs statements before, and one for each name, in one transaction.
func (s *session) writeKnex(ctx context.Context, before []string, each string, names []string) error {
	err := s.renew(ctx)
	if err == nil {
		err = s.transaction(ctx, func() error {
			for _, sql := range before {
				if err := s.exec(ctx, sql); err != nil {
					return err
				}
			}
			for _, name := range names {
				if err := s.exec(ctx, each, name); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("write Knex's table: %w", err)
	}
	return nil
}
