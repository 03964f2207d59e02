package mysql

import (
	"context"
	"database/sql/driver"
	"fmt"
	"strconv"
	"time"

	"github.com/skeinhq/skein"
)

var _ skein.Overseen = (*session)(nil)

// Activity says what the session does, from another connection.
func (s *session) Activity(ctx context.Context) (string, error) {
	var state string
	err := s.beside(ctx, func(beside *session) error {
		return beside.flight(ctx, "SELECT COALESCE(NULLIF(STATE,''),COMMAND) FROM information_schema.PROCESSLIST WHERE ID="+s.number(),
			func(_ []string, row []driver.Value) {
				if row != nil {
					state = text(row[0])
				}
			})
	})
	if err != nil || state == "" {
		return "", err
	}
	return "its state at the server was: " + state, nil
}

// End kills the session and waits until it is gone, which takes as long as the
// server needs to undo what the session did.
func (s *session) End(ctx context.Context) error {
	if s.wire.id == 0 {
		return nil
	}
	return s.beside(ctx, func(beside *session) error {
		for pause := firstPause; ; pause = min(2*pause, lastPause) {
			there := false
			err := beside.flight(ctx, "SELECT ID FROM information_schema.PROCESSLIST WHERE ID="+s.number()+" AND USER=SUBSTRING_INDEX(USER(),'@',1)",
				func(_ []string, row []driver.Value) { there = there || row != nil })
			if err != nil {
				return fmt.Errorf("end the session at the server: %w", err)
			}
			if !there {
				return nil
			}
			// It may end by itself in this moment, or be ending already.
			_ = beside.flight(ctx, "KILL "+s.number(), nil)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return fmt.Errorf("wait for the end of session %s: %w", s.number(), ctx.Err())
			}
		}
	})
}

// number is the server's for the session.
func (s *session) number() string { return strconv.FormatUint(uint64(s.wire.id), 10) }

// beside calls f with another session on the same target.
func (s *session) beside(ctx context.Context, f func(*session) error) error {
	conn, w, err := s.engine.connect(ctx, s.target)
	if err != nil {
		return err
	}
	other := &session{engine: s.engine, conn: conn, wire: w, database: s.target.Database}
	other.point(s.target)
	defer func() { _ = other.Close() }()
	return f(other)
}
