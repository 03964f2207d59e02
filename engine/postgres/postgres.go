// Package postgres is the engine for PostgreSQL 10 and newer, on the native
// protocol of pgx's pgconn.
//
// What Skein sends in one go is one message of the simple protocol, so a tenant
// that is up to date costs a login and one round trip, and a migration costs
// one more: BEGIN, the migration, its history row and COMMIT.
//
// A target with a schema works in that schema: its history is read from there
// and nowhere else, and the search path is the schema followed by public, where
// extensions live. The option search_path of the target replaces what follows
// the schema; set to nothing, only the schema is searched. A target without a
// schema works in the first schema of its role's own search path, as Knex does.
//
// Locks are session-level advisory locks, see lockClass. A pooler that lends
// connections for whole sessions may stand before the server; one that lends
// them for transactions, where such locks hold nothing, is refused when the lock
// is to be taken.
package postgres

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/skeinhq/skein"
)

// Engine is PostgreSQL. It is safe for concurrent use.
type Engine struct {
	opts   skein.SessionOptions
	dialer dialer

	mu     sync.Mutex
	passed map[string]bool // poolers that lend for sessions
}

var _ skein.Engine = (*Engine)(nil)

// New makes the engine.
func New(opts skein.SessionOptions) *Engine {
	if opts.KnexTable == "" {
		opts.KnexTable = skein.DefaultKnexTable
	}
	return &Engine{opts: opts, dialer: dialer{opts: opts}}
}

// Name is skein.PostgreSQL.
func (e *Engine) Name() string { return skein.PostgreSQL }

// SessionKey is equal for the schemas of one database that are reached as the
// same role with the same options. A target without a schema has a session of
// its own. The role's password is not part of the key.
func (e *Engine) SessionKey(target skein.Target) string {
	if target.Schema == "" {
		return ""
	}
	return target.Server() + "\x00" + target.Database + "\x00" + target.User + "\x00" + optionsKey(target.Options)
}

// Open connects to a target. All that the session needs is in the startup
// message, so it costs what logging in costs.
func (e *Engine) Open(ctx context.Context, target skein.Target) (skein.Session, error) {
	conn, err := e.dialer.connect(ctx, target)
	if err != nil {
		return nil, err
	}
	return &session{
		engine: e, target: target, conn: conn, backend: strconv.FormatUint(uint64(conn.PID()), 10),
		needsPath: target.Schema != "", bare: e.dialer.bareLogin(target),
	}, nil
}

// quoteIdent writes a name as SQL, whatever characters it has.
func quoteIdent(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// quoteLiteral writes a string as SQL. It relies on standard_conforming_strings,
// which sessions are started with.
func quoteLiteral(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// closeTimeout bounds what Close waits for.
const closeTimeout = time.Second

// closeConn ends a connection, and does not wait for a server that does not
// answer.
func closeConn(conn *pgconn.PgConn) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := conn.Close(ctx)
	select {
	case <-conn.CleanupDone(): // of a connection that broke, in the background
	case <-ctx.Done():
	}
	if err != nil {
		return fmt.Errorf("close the connection: %w", err)
	}
	return nil
}
