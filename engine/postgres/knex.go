package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/skeinhq/skein"
)

// createKnex makes Knex's tables as Knex does, where there are none:
// https://github.com/knex/knex/blob/master/lib/migrations/util/table-creator.js.
func createKnex(table, lock string) []string {
	return []string{
		"CREATE TABLE IF NOT EXISTS " + table + ` ("id" serial PRIMARY KEY, "name" varchar(255), "batch" integer, "migration_time" timestamptz)`,
		"CREATE TABLE IF NOT EXISTS " + lock + ` ("index" serial PRIMARY KEY, "is_locked" integer)`,
		"INSERT INTO " + lock + " (is_locked) SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM " + lock + ")",
	}
}

func (s *session) knexTable() string {
	return s.state.schema + "." + quoteIdent(s.engine.opts.KnexTable)
}

// RecordInKnex copies records to Knex's table.
func (s *session) RecordInKnex(ctx context.Context, names []string) error {
	table, lock := s.knexTable(), s.state.schema+"."+quoteIdent(knexLock(s.engine.opts.KnexTable))
	after := s.state
	after.knex, after.hasKnexLock = slices.Clone(after.knex), true
	for _, r := range after.own {
		row := func(k skein.KnexRow) bool { return k.Name == r.Name }
		if slices.Contains(names, r.Name) && r.State == skein.Applied && !slices.ContainsFunc(after.knex, row) {
			after.knex = append(after.knex, skein.KnexRow{Name: r.Name, Batch: r.Batch, Time: r.AppliedAt})
		}
	}
	statements := append(createKnex(table, lock), "INSERT INTO "+table+" (name, batch, migration_time) SELECT r.name, r.batch, r.applied_at FROM "+s.table()+
		" r WHERE r.name IN ("+literals(names)+") AND r.state = 'applied' AND NOT EXISTS (SELECT 1 FROM "+table+" k WHERE k.name = r.name) ORDER BY r.id")
	return s.writeKnex(ctx, statements, after)
}

// EraseInKnex deletes rows of Knex's table.
func (s *session) EraseInKnex(ctx context.Context, names []string) error {
	after := s.state
	after.knex = slices.DeleteFunc(slices.Clone(after.knex), func(k skein.KnexRow) bool { return slices.Contains(names, k.Name) })
	return s.writeKnex(ctx, []string{"DELETE FROM " + s.knexTable() + " WHERE name IN (" + literals(names) + ")"}, after)
}

// writeKnex changes Knex's table, and with it what is kept of the history.
func (s *session) writeKnex(ctx context.Context, statements []string, after tenantState) error {
	if !s.locked {
		return errNotLocked
	}
	var m script
	m.add(setup, "BEGIN")
	s.prepare(&m)
	m.add(setup, statements...)
	s.keepFingerprint(&m, &after)
	m.add(commit, "COMMIT")
	_, err := s.commit(ctx, &m, after)
	if err == nil {
		return nil
	}
	if !errors.Is(err, errRolledBack) {
		err = withHint(s.fail(ctx, err), fmt.Sprintf("GRANT SELECT, INSERT, DELETE ON %s TO %s, and USAGE on its sequence", s.knexTable(), quoteIdent(s.target.User)))
	}
	return fmt.Errorf("write Knex's table: %w", err)
}

func literals(texts []string) string {
	quoted := make([]string, len(texts))
	for i, text := range texts {
		quoted[i] = quoteLiteral(text)
	}
	return strings.Join(quoted, ", ")
}
