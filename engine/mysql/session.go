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
	// used says that something was applied, which may have changed any of the
	// session's settings.
	used bool
}

var (
	_ skein.Session    = (*session)(nil)
	_ skein.LockKeeper = (*session)(nil)
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
	if t := s.engine.opts.LockTimeout; t > 0 {
		seconds := strconv.FormatInt(int64((t+time.Second-1)/time.Second), 10)
		b.WriteString(",lock_wait_timeout=" + seconds + ",innodb_lock_wait_timeout=" + seconds)
	}
	if t := s.engine.opts.StatementTimeout; t > 0 {
		// The first is a comment for MySQL, the second for MariaDB.
		fmt.Fprintf(&b, " /*M!100101 ,max_statement_time=%.6f */ /*!50708 ,max_execution_time=%d */", t.Seconds(), max(t.Milliseconds(), 1))
	}
	b.WriteString(";")
	return b.String()
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
