package mysql

import (
	"context"
	"fmt"
	"strings"
)

// createKnex makes Knex's tables as Knex does, where there are none:
// https://github.com/knex/knex/blob/master/lib/migrations/util/table-creator.js.
func createKnex(table, lock string) string {
	return "CREATE TABLE IF NOT EXISTS " + table + " (`id` int unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY, `name` varchar(255), `batch` int, `migration_time` timestamp NULL);" +
		"CREATE TABLE IF NOT EXISTS " + lock + " (`index` int unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY, `is_locked` int);" +
		"INSERT INTO " + lock + " (is_locked) SELECT 0 FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM " + lock + ");"
}

// RecordInKnex copies records to Knex's table. Its times are of a type that
// takes them in the session's zone; Skein's are UTC.
func (s *session) RecordInKnex(ctx context.Context, names []string) error {
	table := s.knexTable("")
	return s.writeKnex(ctx, s.create()+createKnex(table, s.knexTable("_lock"))+
		"SET @skein_zone=TIMESTAMPDIFF(SECOND,UTC_TIMESTAMP(),NOW());"+
		"INSERT INTO "+table+" (name,batch,migration_time) SELECT name,batch,TIMESTAMPADD(SECOND,@skein_zone,applied_at) FROM "+s.table+
		" WHERE name IN ("+quoteAll(names)+") AND state='applied' AND name NOT IN (SELECT name FROM (SELECT name FROM "+table+" WHERE name IS NOT NULL) k) ORDER BY id;COMMIT")
}

// EraseInKnex deletes rows of Knex's table.
func (s *session) EraseInKnex(ctx context.Context, names []string) error {
	return s.writeKnex(ctx, "DELETE FROM "+s.knexTable("")+" WHERE name IN ("+quoteAll(names)+");COMMIT")
}

func (s *session) knexTable(suffix string) string {
	return s.name + "." + quoteName(s.engine.opts.KnexTable+suffix)
}

func (s *session) writeKnex(ctx context.Context, sql string) error {
	if err := s.flight(ctx, s.use()+sql, nil); err != nil {
		return fmt.Errorf("write Knex's table: %w", s.rollback(ctx, err))
	}
	s.database = s.target.Database
	return nil
}

func quoteAll(texts []string) string {
	quoted := make([]string, len(texts))
	for i, text := range texts {
		quoted[i] = quote(text)
	}
	return strings.Join(quoted, ",")
}
