package postgres

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/secret"
)

var _ skein.Overseen = (*session)(nil)

// queryWidth is how much is shown of another session's query.
const queryWidth = 120

// Activity says what the session does, from another connection. A role sees the
// queries of its own sessions alone, unless it is a member of pg_read_all_stats.
func (s *session) Activity(ctx context.Context) (string, error) {
	pid := s.backend
	row, err := s.askBeside(ctx, "SELECT a.state, a.wait_event_type, a.wait_event, pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - a.query_start)"+
		", (SELECT pg_catalog.string_agg('session ' || b.pid || coalesce(' of ' || b.usename, '') || coalesce(' (' || nullif(b.application_name, '') || ')', '')"+
		" || coalesce(', ' || b.state, '') || coalesce(': ' || pg_catalog.left(pg_catalog.regexp_replace(b.query, '\\s+', ' ', 'g'), "+strconv.Itoa(queryWidth)+"), ''), '; ' ORDER BY b.pid)"+
		" FROM pg_catalog.pg_stat_activity b WHERE b.pid = ANY (pg_catalog.pg_blocking_pids(a.pid)))"+
		" FROM pg_catalog.pg_stat_activity a WHERE a.pid = "+pid)
	if err != nil || row == nil {
		return "", err
	}
	state, kind, event, blockers := string(row[0]), string(row[1]), string(row[2]), string(row[4])
	text := "the server was running it"
	switch {
	case kind == "Lock":
		text = "it was waiting for a lock (" + event + ")"
	case kind != "" && kind != "Client":
		text = "it was waiting (" + kind + ": " + event + ")"
	case state != "" && state != "active":
		text = "its session was " + state
	}
	if blockers != "" {
		text += ", held by " + secret.Scrub(blockers, s.target.Password)
	}
	return text, nil
}

// End terminates the session's backend and waits until it is gone.
func (s *session) End(ctx context.Context) error {
	pid := s.backend
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		// A backend of another role is another session, to which the number went.
		row, err := s.askBeside(ctx, "SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a WHERE a.pid = "+pid+
			" AND a.datname = pg_catalog.current_database() AND a.usename = session_user")
		if err != nil {
			return fmt.Errorf("end the session at the server: %w", err)
		}
		if row == nil {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of session %s: %w", pid, ctx.Err())
		}
	}
}

// askBeside runs a query on another connection to the session's target, and
// returns its first row.
func (s *session) askBeside(ctx context.Context, sql string) ([][]byte, error) {
	conn, err := s.engine.dialer.connect(ctx, s.target)
	if err != nil {
		return nil, err
	}
	beside := &session{engine: s.engine, target: s.target, conn: conn}
	defer func() { _ = beside.Close() }()
	var m script
	m.add(reading, sql)
	results, err := beside.run(ctx, &m)
	if err != nil {
		return nil, beside.fail(ctx, err)
	}
	return results[0].row, nil
}
