package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"

	"github.com/skeinhq/skein"
)

// A dialer makes connections to targets, and remembers what is the same for the
// many targets of a server. It is safe for concurrent use.
type dialer struct {
	opts skein.SessionOptions
	// dial replaces net.Dialer in tests.
	dial pgconn.DialFunc

	mu      sync.Mutex
	configs map[string]*pgconn.Config // by server and options
	noTLS   map[string]bool           // by the same; of servers met with sslmode=prefer
	bare    map[string]bool           // by the same; of poolers that take no settings with a login
}

// cancelTimeout is how long a server may take to end a statement whose context
// ended, before the connection to it is dropped.
const cancelTimeout = 3 * time.Second

// oldestVersion is the oldest that Skein is written for.
const oldestVersion = 10

func (d *dialer) connect(ctx context.Context, target skein.Target) (*pgconn.PgConn, error) {
	shared, err := d.config(target)
	if err != nil {
		return nil, err
	}
	if target, err = d.opts.Authenticate(ctx, target); err != nil {
		return nil, err
	}
	config := *shared // its maps and TLS settings are only read
	config.Database, config.User, config.Password = target.Database, target.User, target.Password.Reveal()

	key := target.Server() + "\x00" + optionsKey(target.Options)
	prefers := config.TLSConfig != nil && len(config.Fallbacks) == 1 && config.Fallbacks[0].TLSConfig == nil
	d.mu.Lock()
	plain := prefers && d.noTLS[key]
	bare := d.bare[key]
	d.mu.Unlock()
	if bare {
		config.RuntimeParams = withoutSettings(config.RuntimeParams)
	}
	var refused atomic.Bool
	switch {
	case plain:
		config.TLSConfig, config.Fallbacks = nil, nil
	case prefers:
		dial := config.DialFunc
		config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &tlsWatcher{Conn: conn, refused: &refused}, nil
		}
	}
	conn, err := pgconn.ConnectConfig(ctx, &config)
	if !bare && refusesSettings(err) {
		d.mu.Lock()
		d.bare[key] = true
		d.mu.Unlock()
		config.RuntimeParams = withoutSettings(config.RuntimeParams)
		conn, err = pgconn.ConnectConfig(ctx, &config)
	}
	if prefers {
		d.mu.Lock()
		// A server may learn TLS while a long-lived process remembers it without:
		// after an error it is asked again.
		d.noTLS[key] = err == nil && (plain || refused.Load())
		d.mu.Unlock()
	}
	if err != nil {
		return nil, connectError(ctx, target, config.ConnectTimeout, err)
	}
	if version := majorVersion(conn); version > 0 && version < oldestVersion {
		_ = closeConn(conn) // it is of no use
		return nil, &skein.DatabaseError{
			Class:   skein.Permanent,
			Message: fmt.Sprintf("%s is PostgreSQL %s, and %d is the oldest that Skein works with", target.Server(), conn.ParameterStatus("server_version"), oldestVersion),
			Hint:    "upgrade the server",
		}
	}
	return conn, nil
}

// config is what targets of one server with the same options have in common.
func (d *dialer) config(target skein.Target) (*pgconn.Config, error) {
	if target.User == "" {
		return nil, fmt.Errorf("no user is given for %s", target)
	}
	key := target.Server() + "\x00" + optionsKey(target.Options)
	d.mu.Lock()
	defer d.mu.Unlock()
	if config, ok := d.configs[key]; ok {
		return config, nil
	}
	config, err := newConfig(d.opts, target)
	if err != nil {
		return nil, err
	}
	if d.dial != nil {
		config.DialFunc = d.dial
	}
	if d.configs == nil {
		d.configs, d.noTLS, d.bare = make(map[string]*pgconn.Config), make(map[string]bool), make(map[string]bool)
	}
	d.configs[key] = config
	return config, nil
}

func optionsKey(options map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(options)) {
		b.WriteString(strconv.Quote(name) + "=" + strconv.Quote(options[name]) + " ")
	}
	return b.String()
}

// connectionOptions are the options that are about the connection, as libpq and
// pgconn call them, with what they are when a target does not have them. Giving
// each a value keeps PGSSLMODE and its like, and the files in the user's home,
// from deciding about tenants.
func connectionOptions() map[string]string {
	return map[string]string{
		"sslmode":              "prefer",
		"sslrootcert":          "",
		"sslcert":              "",
		"sslkey":               "",
		"sslpassword":          "",
		"sslsni":               "1",
		"sslnegotiation":       "postgres",
		"sslcertmode":          "allow",
		"channel_binding":      "prefer",
		"require_auth":         "",
		"target_session_attrs": "any",
		"connect_timeout":      "0",
		"min_protocol_version": "3.0",
		"max_protocol_version": "3.0",
		"krbsrvname":           "",
		"krbspn":               "",
	}
}

// The settings that bound what a session may do.
const (
	lockTimeout      = "lock_timeout"
	statementTimeout = "statement_timeout"
	idleTimeout      = "idle_in_transaction_session_timeout"
)

// milliseconds is the value of a timeout. What is less than one would be 0,
// which is no timeout at all.
func milliseconds(d time.Duration) string {
	if d <= 0 {
		return "0"
	}
	return strconv.FormatInt(max(1, d.Milliseconds()), 10)
}

// newConfig is the configuration for a target's server and options, without the
// target's database, user and password.
func newConfig(opts skein.SessionOptions, target skein.Target) (*pgconn.Config, error) {
	runtime := map[string]string{"application_name": opts.Caller()}
	for name, d := range map[string]time.Duration{
		lockTimeout: opts.LockTimeout, statementTimeout: opts.StatementTimeout, idleTimeout: opts.IdleTimeout,
	} {
		if d > 0 {
			runtime[name] = milliseconds(d)
		}
	}
	connection := connectionOptions()
	for name, value := range target.Options {
		switch _, known := connection[name]; {
		case known:
			connection[name] = value
		case name == "search_path" && target.Schema != "":
			// Part of what the session sets, see session.searchPath.
		case slices.Contains([]string{"host", "hostaddr", "port", "dbname", "database", "user", "password", "passfile", "service", "servicefile"}, name):
			return nil, fmt.Errorf("the option %s of %s is not allowed: host, port, database, user and password have their own places", name, target)
		case slices.Contains([]string{"client_encoding", "standard_conforming_strings", "replication"}, name):
			return nil, fmt.Errorf("the option %s of %s is not allowed: Skein sets it itself", name, target)
		default:
			runtime[name] = value
		}
	}
	// Files are UTF-8, and a backslash in a string is a backslash: splitting
	// files, and quoting, rely on it.
	runtime["client_encoding"], runtime["standard_conforming_strings"] = "UTF8", "on"
	if err := checkOptions(connection); err != nil {
		return nil, fmt.Errorf("the options of %s: %w", target, err)
	}

	// Only pgconn can make a Config, and only from a string; it is made once a
	// server. A PGSERVICE in the environment is read by it whatever the string
	// says: none of its settings lasts, but a service file without that service
	// is an error.
	connection["host"], connection["port"] = "localhost", strconv.Itoa(skein.DefaultPort(skein.PostgreSQL))
	if target.Host != "" {
		connection["host"] = target.Host
	}
	if target.Port != 0 {
		connection["port"] = strconv.Itoa(target.Port)
	}
	connection["user"], connection["database"], connection["password"], connection["passfile"] = "skein", "skein", "", ""
	var text strings.Builder
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	for name, value := range connection {
		fmt.Fprintf(&text, "%s='%s' ", name, quote.Replace(value))
	}
	config, err := pgconn.ParseConfig(text.String())
	if err != nil {
		// The error's own text repeats the string.
		if inner := errors.Unwrap(err); inner != nil {
			err = inner
		}
		return nil, fmt.Errorf("the options of %s: %w", target, err)
	}
	config.RuntimeParams = runtime
	if _, given := target.Options["connect_timeout"]; !given {
		config.ConnectTimeout = opts.ConnectTimeout
	}
	config.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: cancelTimeout}
	}
	return config, nil
}

// checkOptions refuses values that pgconn would refuse without saying where.
func checkOptions(options map[string]string) error {
	for name, allowed := range map[string][]string{
		"sslmode":              {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"},
		"channel_binding":      {"disable", "prefer", "require"},
		"target_session_attrs": {"any", "read-write", "read-only", "primary", "standby", "prefer-standby"},
	} {
		if !slices.Contains(allowed, options[name]) {
			return fmt.Errorf("%s=%s is not one of %s", name, options[name], strings.Join(allowed, ", "))
		}
	}
	if seconds, err := strconv.Atoi(options["connect_timeout"]); err != nil || seconds < 0 {
		return fmt.Errorf("connect_timeout=%s is not a number of seconds", options["connect_timeout"])
	}
	return nil
}

// A tlsWatcher notes that a server answers the question for TLS with no, which
// pgconn does not tell when it then goes on without. The question and its answer
// are in https://www.postgresql.org/docs/current/protocol-flow.html, SSL Session
// Encryption.
type tlsWatcher struct {
	net.Conn
	refused  *atomic.Bool
	asked    bool
	answered bool
}

func (w *tlsWatcher) Write(b []byte) (int, error) {
	w.asked = w.asked || string(b) == "\x00\x00\x00\x08\x04\xd2\x16\x2f"
	return w.Conn.Write(b)
}

func (w *tlsWatcher) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if w.asked && !w.answered && n > 0 {
		w.answered = true
		if b[0] == 'N' {
			w.refused.Store(true)
		}
	}
	return n, err
}
