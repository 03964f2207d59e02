package postgres

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/skeinhq/skein"
)

// breakTimeout is how long a session that was told to end may take.
const breakTimeout = 10 * time.Second

// Holder says who has the tenant's lock. A role that is not a member of
// pg_read_all_stats sees of another role's session its number and role alone.
func (s *session) Holder(ctx context.Context) (*skein.Holder, error) {
	var m script
	m.add(reading, "SELECT l.pid, a.usename, pg_catalog.host(a.client_addr), a.application_name"+
		", pg_catalog.to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"+
		" FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid WHERE "+s.holds())
	results, err := s.run(ctx, &m)
	if err != nil {
		return nil, fmt.Errorf("look who has the tenant's lock: %w", s.fail(ctx, err))
	}
	row := results[0].row
	if row == nil {
		return nil, nil
	}
	holder := &skein.Holder{ID: string(row[0]), User: string(row[1]), Host: string(row[2]), Name: string(row[3])}
	if since, err := time.Parse(time.RFC3339Nano, string(row[4])); err == nil {
		holder.Since = since
	}
	return holder, nil
}

// holds is the condition by which pg_locks l shows who has the tenant's lock.
func (s *session) holds() string {
	return "l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid = " + strconv.Itoa(lockClass) +
		" AND l.objid = " + schemaExpr(s.target) + "::oid" +
		" AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())"
}

// Break ends the session that has the tenant's lock, if it is still the one
// that Holder found, and waits until its lock is gone.
func (s *session) Break(ctx context.Context, holder skein.Holder) error {
	pid, err := strconv.Atoi(holder.ID)
	if err != nil {
		return fmt.Errorf("end the session %q: a PostgreSQL session has a number", holder.ID)
	}
	ctx, cancel := context.WithTimeout(ctx, breakTimeout)
	defer cancel()
	var m script
	m.add(setup, "SELECT pg_catalog.pg_terminate_backend(l.pid) FROM pg_catalog.pg_locks l WHERE "+s.holds()+" AND l.pid = "+strconv.Itoa(pid))
	if _, err := s.run(ctx, &m); err != nil {
		return fmt.Errorf("end the session %d: %w", pid, withHint(s.fail(ctx, err),
			"the role must be that of the session, or a member of it or of pg_signal_backend"))
	}
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		now, err := s.Holder(ctx)
		if err != nil {
			return err
		}
		if now == nil || now.ID != holder.ID {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of session %d: %w", pid, ctx.Err())
		}
	}
}

// Terminate ends sessions of the tenant's database, and waits until they are
// gone.
func (s *session) Terminate(ctx context.Context, ids []string) error {
	pids := make([]string, len(ids))
	for i, id := range ids {
		pid, err := strconv.Atoi(id)
		if err != nil {
			return fmt.Errorf("end the session %q: a PostgreSQL session has a number", id)
		}
		pids[i] = strconv.Itoa(pid)
	}
	if len(pids) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, breakTimeout)
	defer cancel()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		var m script
		// A number is another session's by the time it is used again.
		m.add(setup, "SELECT pg_catalog.count(pg_catalog.pg_terminate_backend(a.pid)) FROM pg_catalog.pg_stat_activity a"+
			" WHERE a.datname = pg_catalog.current_database() AND a.usename = CURRENT_USER AND a.pid <> pg_catalog.pg_backend_pid()"+
			" AND a.pid IN ("+strings.Join(pids, ", ")+")")
		results, err := s.run(ctx, &m)
		if err != nil {
			return fmt.Errorf("end the sessions %s: %w", strings.Join(ids, ", "), s.fail(ctx, err))
		}
		if string(results[0].row[0]) == "0" {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of the sessions %s: %w", strings.Join(ids, ", "), ctx.Err())
		}
	}
}

// ClearKnexLock leaves one row in Knex's lock table, set back.
func (s *session) ClearKnexLock(ctx context.Context) (bool, error) {
	state, err := s.read(ctx)
	if err != nil || !state.hasKnexLock {
		return false, err
	}
	table := state.schema + "." + quoteIdent(knexLock(s.engine.opts.KnexTable))
	var m script
	m.add(setup, `DELETE FROM `+table+` WHERE "index" > (SELECT min("index") FROM `+table+`)`, "UPDATE "+table+" SET is_locked = 0 WHERE is_locked <> 0")
	results, err := s.run(ctx, &m)
	if err != nil {
		return false, fmt.Errorf("clear Knex's lock: %w", withHint(s.fail(ctx, err),
			fmt.Sprintf("GRANT SELECT, UPDATE, DELETE ON %s TO %s", table, quoteIdent(s.target.User))))
	}
	return results[0].tag != "DELETE 0" || results[1].tag != "UPDATE 0", nil
}
