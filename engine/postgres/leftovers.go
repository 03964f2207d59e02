package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/sqlsplit"
)

var _ skein.LeftoverFinder = (*session)(nil)

// Leftovers finds indexes that CREATE INDEX CONCURRENTLY or REINDEX
// CONCURRENTLY left INVALID: those of the tenant's schema, or of its whole
// database if it has no schema. Indexes that another session is building are
// left out, where the server can tell (from PostgreSQL 12 on).
func (s *session) Leftovers(ctx context.Context) ([]skein.Leftover, error) {
	where := ""
	if s.target.Schema != "" {
		where = " AND n.nspname = " + quoteLiteral(s.target.Schema)
	}
	if s.version() >= 12 {
		where += " AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid)"
	}
	var m script
	m.add(reading, "SELECT pg_catalog.json_agg(pg_catalog.json_build_array(n.nspname, c.relname, i.indrelid::regclass::text) ORDER BY n.nspname, c.relname)"+
		" FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"+
		" WHERE NOT i.indisvalid AND c.relkind = 'i' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'"+where)
	results, err := s.run(ctx, &m)
	if err != nil {
		return nil, fmt.Errorf("look for INVALID indexes: %w", s.fail(ctx, err))
	}
	var found [][3]string
	if answer := results[0].row[0]; answer != nil {
		if err := json.Unmarshal(answer, &found); err != nil {
			return nil, fmt.Errorf("look for INVALID indexes: %w", err)
		}
	}
	leftovers := make([]skein.Leftover, len(found))
	for i, index := range found {
		name := quoteIdent(index[0]) + "." + quoteIdent(index[1])
		leftovers[i] = skein.Leftover{
			What:   fmt.Sprintf("the index %s of %s is INVALID: no query uses it, and every write keeps it up", name, index[2]),
			Remove: "DROP INDEX CONCURRENTLY " + name,
		}
	}
	return leftovers, nil
}

// addLeftovers adds to the error of a statement what it may have left behind.
func (s *session) addLeftovers(ctx context.Context, statement string, err error) {
	answer, ok := errors.AsType[*skein.DatabaseError](err)
	if !ok || s.conn.IsClosed() || ctx.Err() != nil || !buildsConcurrently(statement) {
		return
	}
	leftovers, err := s.Leftovers(ctx)
	if err != nil {
		return // the statement's own error is the one to be told
	}
	for _, l := range leftovers {
		if answer.Hint != "" {
			answer.Hint += "; "
		}
		answer.Hint += l.What + "; remove it with: " + l.Remove
	}
}

// buildsConcurrently says whether a statement makes or drops indexes in several
// transactions.
func buildsConcurrently(statement string) bool {
	found, err := sqlsplit.Split(sqlsplit.PostgreSQL, statement)
	return err == nil && len(found) == 1 && found[0].CannotRunInTransaction() && strings.Contains(found[0].Keyword, "INDEX")
}
