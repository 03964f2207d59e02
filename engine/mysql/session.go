package mysql

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/skeinhq/skein"
)

const (
	// killTimeout bounds ending a statement at the server when its context
	// ended.
	killTimeout = 2 * time.Second
	// closeTimeout bounds saying goodbye.
	closeTimeout = time.Second
	// largeStatement is the smallest default of max_allowed_packet on any
	// server.
	largeStatement = 1 << 20
)

// A session is one connection. What it sends to the server and waits for is a
// flight: one or more statements in one message.
type session struct {
	engine *Engine
	conn   driver.Conn
	wire   *wire

	target skein.Target
	// name is the target's database, quoted; table is its history, which is
	// always named with its database.
	name, table string

	// database is the one in force at the server.
	database string
	// prepared says that the session's variables are set.
	prepared bool
	// guarded says that the server does not take the history's shorter form.
	guarded bool
	// recorded says that the history table exists.
	recorded bool
	// bounded says that the timeouts may be those of a migration.
	bounded bool
	// flights counts those that statements of migrations were sent in.
	flights int
	// used says that something was applied, which may have changed any of the
	// session's settings.
	used bool
}

var (
	_ skein.Session      = (*session)(nil)
	_ skein.KnexRecorder = (*session)(nil)
	_ skein.LockKeeper   = (*session)(nil)
)

// point makes target the one that the session works on.
func (s *session) point(target skein.Target) {
	s.target, s.recorded = target, false
	s.name = quoteName(target.Database)
	s.table = s.name + "." + quoteName(skein.HistoryTable)
}

// Switch points the session at another target of the same server, user and
// password, if nothing was applied on it so far.
func (s *session) Switch(target skein.Target) bool {
	if s.used {
		return false
	}
	s.point(target)
	return true
}

// Close ends the session.
func (s *session) Close() error {
	_ = s.wire.SetDeadline(time.Now().Add(closeTimeout))
	if err := s.conn.Close(); err != nil && !errors.Is(err, driver.ErrBadConn) && !errors.Is(err, mysql.ErrInvalidConn) {
		return fmt.Errorf("close the session: %w", databaseError(err, s.target))
	}
	return nil
}

// An answer receives the results of a flight: columns without a row where a
// result begins, then each of its rows. The row is only valid during the call.
type answer func(columns []string, row []driver.Value)

// flight sends sql and reads all that comes back. The error is ctx's own if it
// ended, and otherwise a *skein.DatabaseError. What ran at the server when ctx
// ended is ended there too.
func (s *session) flight(ctx context.Context, sql string, each answer) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var err error
	if each == nil {
		_, err = s.conn.(driver.ExecerContext).ExecContext(ctx, sql, nil)
	} else {
		err = s.read(ctx, sql, each)
	}
	if err == nil {
		return nil
	}
	if ended(ctx, err) {
		s.kill(ctx)
		return ctx.Err()
	}
	answer := databaseError(err, s.target)
	if answer.Class == skein.ConnectionLost && len(sql) > largeStatement {
		answer.Hint = fmt.Sprintf("a statement of %d bytes was being sent: the server's max_allowed_packet may be less", len(sql))
	}
	return answer
}

func (s *session) read(ctx context.Context, sql string, each answer) (err error) {
	rows, err := s.conn.(driver.QueryerContext).QueryContext(ctx, sql, nil)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := rows.Close(); err == nil {
			err = closeErr
		}
	}()
	results := rows.(driver.RowsNextResultSet)
	for {
		columns := rows.Columns()
		if len(columns) == 0 {
			return nil // no statement had a result
		}
		each(columns, nil)
		row := make([]driver.Value, len(columns))
		for {
			if err := rows.Next(row); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return err
			}
			each(columns, row)
		}
		if err := results.NextResultSet(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// kill ends the session at the server: the driver has closed the connection,
// which a server notices only when the statement is at its end.
func (s *session) kill(ctx context.Context) {
	if s.wire.id == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	conn, _, err := s.engine.connect(ctx, s.target)
	if err != nil {
		return // nothing is left that could be done
	}
	defer func() { _ = conn.Close() }()
	_, _ = conn.(driver.ExecerContext).ExecContext(ctx, "KILL "+strconv.FormatUint(uint64(s.wire.id), 10), nil)
}

// use is what a flight begins with to be in the target's database; without one
// that exists the flight fails.
func (s *session) use() string {
	if s.database == s.target.Database {
		return ""
	}
	return "USE " + s.name + ";"
}

// settings is what a flight begins with to have the session as migrations find
// it. The time zone, sql_mode and everything else are the server's own.
func (s *session) settings() string {
	if s.prepared {
		return ""
	}
	var b strings.Builder
	// The login named utf8mb4 with a collation that every server knows; this is
	// the server's own for it, as mysql and mariadb set it.
	b.WriteString("SET NAMES utf8mb4;SET autocommit=1")
	opts := s.engine.opts
	if opts.LockTimeout > 0 {
		b.WriteString(lockTimeout(&opts.LockTimeout))
	}
	if opts.StatementTimeout > 0 {
		b.WriteString(statementTimeout(&opts.StatementTimeout))
	}
	if opts.IdleTimeout > 0 {
		b.WriteString(idleTimeout(&opts.IdleTimeout))
	}
	b.WriteString(";")
	return b.String()
}

// The settings that bound what a session may do, as they follow others in a SET.
// Nil is the server's own, 0 none at all.

func lockTimeout(t *time.Duration) string {
	const none = 365 * 24 * time.Hour // the largest lock_wait_timeout
	value := seconds(t, none)
	return ",lock_wait_timeout=" + value + ",innodb_lock_wait_timeout=" + value
}

// What begins with M! is a comment for MySQL, and what begins with 50708 one for
// MariaDB.

func statementTimeout(t *time.Duration) string {
	if t == nil {
		return " /*M!100101 ,max_statement_time=DEFAULT */ /*!50708 ,max_execution_time=DEFAULT */"
	}
	milliseconds := t.Milliseconds()
	if *t > 0 {
		milliseconds = max(milliseconds, 1) // 0 is none
	}
	return fmt.Sprintf(" /*M!100101 ,max_statement_time=%.6f */ /*!50708 ,max_execution_time=%d */", t.Seconds(), milliseconds)
}

// idleTimeout bounds a transaction in which nothing happens, which MySQL cannot.
func idleTimeout(t *time.Duration) string {
	return " /*M!100300 ,idle_transaction_timeout=" + seconds(t, 0) + " */"
}

// seconds is a time in whole seconds, rounded up.
func seconds(t *time.Duration, none time.Duration) string {
	if t == nil {
		return "DEFAULT"
	}
	if *t <= 0 {
		t = &none
	}
	return strconv.FormatInt(int64((*t+time.Second-1)/time.Second), 10)
}

// bound sets the timeouts of a migration, in a flight of its own if it has some
// or the one before it had.
func (s *session) bound(ctx context.Context, own skein.Timeouts) error {
	if own.IsZero() && !s.bounded {
		return nil
	}
	opts := s.engine.opts
	either := func(own *time.Duration, opts time.Duration) *time.Duration {
		if own == nil && opts > 0 {
			return &opts
		}
		return own
	}
	s.bounded = true
	err := s.flight(ctx, "SET @skein_bounded=1"+lockTimeout(either(own.Lock, opts.LockTimeout))+
		statementTimeout(either(own.Statement, opts.StatementTimeout))+idleTimeout(either(own.Idle, opts.IdleTimeout)), nil)
	if err != nil {
		return fmt.Errorf("set the migration's timeouts: %w", err)
	}
	s.bounded = !own.IsZero()
	return nil
}

// text is a value as text, empty for null.
func text(v driver.Value) string {
	switch v := v.(type) {
	case nil:
		return ""
	case []byte:
		return string(v)
	case string:
		return v
	}
	return fmt.Sprint(v)
}

// number is a value as a whole number, 0 for null and for what is none.
func number(v driver.Value) int64 {
	switch v := v.(type) {
	case int64:
		return v
	case uint64:
		return int64(v)
	}
	n, _ := strconv.ParseInt(text(v), 10, 64)
	return n
}
