// Package mysql is Skein's engine for MySQL and MariaDB.
//
// It needs MySQL 5.7 or MariaDB 10.2, or later. In MySQL and MariaDB every
// statement that changes a schema commits by itself, so only a migration made
// of data changes alone is one transaction together with its record. Any other
// is recorded as begun before its first statement, and how far it came after
// each.
//
// A tenant's lock is GET_LOCK of a name made from the database's: it belongs to
// the session and ends with it. It is one server's: the nodes of a Galera
// cluster do not see each other's, so all who migrate a tenant have to connect
// to the same node.
package mysql

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/skeinhq/skein"
)

// An Engine opens sessions on MySQL and MariaDB servers. It is safe for
// concurrent use.
type Engine struct {
	opts skein.SessionOptions
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	// key makes session keys tell passwords apart without showing them.
	key [32]byte

	mu  sync.Mutex
	tls map[tlsOptions]*tls.Config
}

var _ skein.Engine = (*Engine)(nil)

// New makes an engine.
//
// LockTimeout is rounded up to whole seconds, which is what the servers count
// in, and so is IdleTimeout, which only MariaDB has. StatementTimeout bounds
// every statement on MariaDB; MySQL has a bound for SELECT alone.
func New(opts skein.SessionOptions) *Engine {
	if opts.KnexTable == "" {
		opts.KnexTable = skein.DefaultKnexTable
	}
	opts.By = truncate(opts.By, 255)
	opts.Tool = truncate(opts.Tool, 64)
	e := &Engine{opts: opts, dial: new(net.Dialer).DialContext, tls: make(map[tlsOptions]*tls.Config)}
	_, _ = rand.Read(e.key[:]) // it never returns an error
	return e
}

// Name returns skein.MySQL, for MariaDB too.
func (e *Engine) Name() string { return skein.MySQL }

// SessionKey is equal for targets with the same server, user, password and
// options: the database is named anew for each.
func (e *Engine) SessionKey(t skein.Target) string {
	key := fmt.Appendf(nil, "%q %d %q %q", t.Host, port(t), t.User, t.Password.Reveal())
	for _, name := range slices.Sorted(maps.Keys(t.Options)) {
		key = fmt.Appendf(key, " %q=%q", name, t.Options[name])
	}
	mac := hmac.New(sha256.New, e.key[:])
	mac.Write(key)
	return string(mac.Sum(nil))
}

// Open connects and logs in, and sends nothing else. Target.Host is a name or
// an address, or the path of a Unix socket or of the folder that holds one.
//
// Target.Options are
//   - tls: false (the default), true, skip-verify (encrypted, the server's
//     certificate is not looked at) or preferred (likewise if the server can,
//     otherwise not encrypted); a Unix socket is never encrypted;
//   - ssl-ca, ssl-cert, ssl-key: PEM files with the authorities that sign the
//     server's certificate, and the client's certificate and key; tls is then
//     true where it is not given;
//   - charset: utf8mb4, the only one there is;
//   - timeout, readTimeout, writeTimeout: durations like 30s, of connecting and
//     logging in (a shorter SessionOptions.ConnectTimeout goes first), of
//     waiting for an answer and of sending;
//   - allowCleartextPasswords: true sends the password as it is to a server
//     that asks for it so, for PAM or LDAP. Use TLS with it.
func (e *Engine) Open(ctx context.Context, target skein.Target) (skein.Session, error) {
	conn, w, err := e.connect(ctx, target)
	if err != nil {
		return nil, err
	}
	s := &session{engine: e, conn: conn, wire: w, database: target.Database}
	s.point(target)
	return s, nil
}

// connect opens a connection for whatever it is needed.
func (e *Engine) connect(ctx context.Context, target skein.Target) (driver.Conn, *wire, error) {
	target, err := e.opts.Authenticate(ctx, target)
	if err != nil {
		return nil, nil, err
	}
	config, timeout, err := e.config(target)
	if err != nil {
		return nil, nil, err
	}
	var w *wire
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := e.dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		w = &wire{Conn: conn}
		return w, nil
	}
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to %s: %w", target.Server(), databaseError(err, target))
	}
	dialing := ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		dialing, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	conn, err := connector.Connect(dialing)
	switch {
	case err == nil && w.tooOld() != "":
		_ = conn.Close() // it is of no use
		return nil, nil, &skein.DatabaseError{
			Class:   skein.Permanent,
			Message: fmt.Sprintf("%s is %s of those that Skein works with", target.Server(), w.tooOld()),
			Hint:    "upgrade the server",
		}
	case err == nil:
		return conn, w, nil
	case ctx.Err() != nil:
		return nil, nil, fmt.Errorf("connect to %s: %w", target.Server(), ctx.Err())
	case dialing.Err() != nil:
		return nil, nil, &skein.DatabaseError{
			Class: skein.Unreachable, Message: fmt.Sprintf("no answer from %s within %s", target.Server(), timeout.Round(time.Millisecond)),
		}
	}
	answer := databaseError(err, target)
	if answer.Class == skein.ConnectionLost || answer.Code == "" && answer.Class == skein.Permanent {
		// Whatever goes wrong on the way in, there is no session that was lost.
		answer.Class = skein.Unreachable
		if errors.Is(err, mysql.ErrInvalidConn) {
			answer.Message = fmt.Sprintf("%s ended the connection before the login was complete", target.Server())
		}
	}
	return nil, nil, answer
}
