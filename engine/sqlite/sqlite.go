// Package sqlite migrates tenants that are SQLite files. It needs no cgo.
//
// A target's database is the path of a file, which must exist: nothing but
// provisioning a tenant creates one. A file of no bytes is an empty database.
// The journal mode and all other settings of a file are left as they are.
//
// # The lock
//
// A tenant's lock is a lock that the operating system holds (flock) on a file
// beside the database, which has its name with ".skein-lock" appended and says
// who has it. It ends with the process; the file is removed when the lock is
// given back. On file systems without such locks, as some network shares are,
// SQLite itself is not safe either.
//
// # The history
//
// skein_migrations is as everywhere, with times as text in UTC, to the
// millisecond: "2006-01-02 15:04:05.000".
package sqlite

import (
	"context"
	"database/sql/driver"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	driversqlite "modernc.org/sqlite"

	"github.com/skeinhq/skein"
)

// defaultBusyTimeout is how long a statement waits for the file where
// SessionOptions.LockTimeout does not say. SQLite's own default is not at all,
// and every application that uses the file locks it for moments.
const defaultBusyTimeout = 5 * time.Second

// An Engine is the skein.Engine of SQLite. It is safe for concurrent use.
type Engine struct {
	opts skein.SessionOptions
	sql  statements
}

var _ skein.Engine = (*Engine)(nil)

// New makes the engine. LockTimeout, five seconds if it is 0, is how long a
// statement waits for somebody else who writes to the file. ConnectTimeout
// and IdleTimeout bound nothing here.
func New(opts skein.SessionOptions) *Engine {
	if opts.LockTimeout <= 0 {
		opts.LockTimeout = defaultBusyTimeout
	}
	if opts.KnexTable == "" {
		opts.KnexTable = skein.DefaultKnexTable
	}
	opts.By, opts.Tool = cut(opts.By, 255), cut(opts.Tool, 64)
	return &Engine{opts: opts, sql: newStatements(opts.KnexTable)}
}

// cut is the first n characters of s, which is what its column holds.
func cut(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}

// Name is skein.SQLite.
func (e *Engine) Name() string { return skein.SQLite }

// SessionKey is empty: a session is an open file, which serves one target.
func (e *Engine) SessionKey(skein.Target) string { return "" }

// Open opens the target's file. It reads nothing of it, so that a file which is
// no database is found out by the first use of the session.
func (e *Engine) Open(ctx context.Context, target skein.Target) (skein.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for name := range target.Options {
		return nil, &skein.DatabaseError{
			Class: skein.Permanent, Message: "SQLite takes no options, and " + strconv.Quote(name) + " is given",
			Hint: "what is to be set for a file belongs in a migration, as a PRAGMA",
		}
	}
	// SQLite resolves a relative path again for files beside the database, and
	// the lock may be taken later.
	path, err := filepath.Abs(target.Database)
	if err != nil {
		return nil, fileError(target.Database, err)
	}
	conn, err := e.connect(ctx, path)
	if err != nil {
		return nil, err
	}
	return &session{engine: e, path: path, conn: conn}, nil
}

// A connection is what this package uses of the driver, without the pool that
// database/sql puts before it.
type connection interface {
	driver.Conn
	driver.ExecerContext
	driver.QueryerContext
}

func (e *Engine) connect(ctx context.Context, path string) (connection, error) {
	connector, err := driversqlite.NewConnector(e.uri(path))
	if err != nil {
		return nil, databaseError(path, err)
	}
	conn, err := connector.Connect(ctx)
	if err != nil {
		return nil, databaseError(path, err)
	}
	return conn.(connection), nil
}

// uri is the file's name in the form of https://www.sqlite.org/uri.html, whose
// mode=rw keeps SQLite from creating a file.
func (e *Engine) uri(path string) string {
	slashed := filepath.ToSlash(path)
	if !strings.HasPrefix(slashed, "/") {
		slashed = "/" + slashed // a drive's letter
	}
	escaped := (&url.URL{Path: slashed}).EscapedPath()
	return "file://" + escaped + "?mode=rw&_busy_timeout=" + strconv.FormatInt(max(1, e.opts.LockTimeout.Milliseconds()), 10)
}
