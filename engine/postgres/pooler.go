package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/skeinhq/skein"
)

// A pooler stands between Skein and the server and lends out connections to the
// server, for whole sessions (which is as good as none) or for single
// transactions or statements. There a lock of a session is one of nobody: it
// stays on a connection that the next client is given, who has it then too.
//
// A pooler is recognised by the number of the backend, which it does not know
// when a client logs in, so that it makes one up. What it lends for is not to be
// asked, only to be tried.

// The codes of a refused login option (protocol_violation), and of the guard.
const (
	protocolViolation = "08P01"
	divisionByZero    = "22012"
)

// guard is a statement that fails in a session of another backend than the one
// that is taken to be this session's, and keeps all that follows it in its
// message from being done to a connection that others use.
func (s *session) guard() string {
	return "SELECT 1 / (pg_catalog.pg_backend_pid() = " + s.backend + ")::integer"
}

// errPooled is the error of a message that the guard ended.
var errPooled = errors.New("the session is not the one that logged in")

// lendsStatements says whether err is that of a pooler which lends connections
// for single statements: it lets no transaction begin.
func lendsStatements(err error) bool {
	answer, ok := errors.AsType[*pgconn.PgError](err)
	return ok && answer.Code == protocolViolation && strings.Contains(answer.Message, "statement pooling")
}

// guardFailed says whether err is the guard's.
func guardFailed(err error) bool {
	answer, ok := errors.AsType[*pgconn.PgError](err)
	return ok && answer.Code == divisionByZero
}

// The bounds of trying out a pooler: how many connections are tried at most, and
// how long one may take. That there is none to be had says that they are lent
// for sessions.
const (
	mostProbes   = 64
	probeTimeout = 3 * time.Second
)

// passPooler finds out what the pooler that the session is behind lends its
// connections for. If it is for sessions it makes the session ready to be used;
// otherwise the error says why it cannot be.
//
// While this session does nothing, other connections begin transactions, until
// one is given this session's backend, or each backend that there is belongs to
// one of them.
func (s *session) passPooler(ctx context.Context) error {
	backend, others, err := s.backends(ctx)
	if err != nil {
		return err
	}
	key := s.target.Server() + "\x00" + s.target.Database + "\x00" + s.target.User
	e := s.engine
	e.mu.Lock()
	passed := e.passed[key]
	e.mu.Unlock()
	if !passed {
		if err := s.tryPooler(ctx, backend, min(others+1, mostProbes)); err != nil {
			return err
		}
		e.mu.Lock()
		if e.passed == nil {
			e.passed = make(map[string]bool)
		}
		e.passed[key] = true
		e.mu.Unlock()
	}
	s.backend, s.pooled, s.needsSettings = backend, true, true
	return nil
}

// backends asks for the session's backend, and how many others there are that
// the same pooler has for the same role and database.
func (s *session) backends(ctx context.Context) (backend string, others int, err error) {
	var m script
	m.add(reading, "SELECT pg_catalog.pg_backend_pid(), (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity a, pg_catalog.pg_stat_activity b"+
		" WHERE b.pid = pg_catalog.pg_backend_pid() AND a.pid <> b.pid AND a.datid = b.datid AND a.usesysid = b.usesysid AND a.client_addr IS NOT DISTINCT FROM b.client_addr)")
	results, err := s.run(ctx, &m)
	if err != nil {
		return "", 0, fmt.Errorf("ask for the session's backend: %w", s.fail(ctx, err))
	}
	row := results[0].row
	if others, err = strconv.Atoi(string(row[1])); err != nil {
		return "", 0, fmt.Errorf("ask for the session's backend: %w", err)
	}
	return string(row[0]), others, nil
}

func (s *session) tryPooler(ctx context.Context, backend string, probes int) error {
	var open []*session
	defer func() {
		for _, other := range open {
			_ = other.Close()
		}
	}()
	for range probes {
		within, cancel := context.WithTimeout(ctx, probeTimeout)
		other, err := s.probe(within)
		cancel()
		if other != nil {
			open = append(open, other)
		}
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("try out the pooler: %w", ctx.Err())
		case within.Err() != nil:
			return nil
		case lendsStatements(err):
			return s.refusePooler("statements")
		case err != nil && other != nil:
			return fmt.Errorf("try out the pooler: %w", other.fail(ctx, err))
		case err != nil:
			return fmt.Errorf("try out the pooler: %w", err)
		case other.backend == backend:
			return s.refusePooler("transactions")
		}
	}
	if now, _, err := s.backends(ctx); err != nil || now != backend {
		if err != nil {
			return err
		}
		return s.refusePooler("transactions")
	}
	return nil
}

// probe makes a connection that is in a transaction, and asks for its backend.
// The error may be the driver's.
func (s *session) probe(ctx context.Context) (*session, error) {
	conn, err := s.engine.dialer.connect(ctx, s.target)
	if err != nil {
		return nil, err
	}
	other := &session{engine: s.engine, target: s.target, conn: conn}
	var m script
	m.add(setup, "BEGIN")
	m.add(reading, "SELECT pg_catalog.pg_backend_pid()")
	results, err := other.run(ctx, &m)
	if err != nil {
		return other, err
	}
	other.backend = string(results[1].row[0])
	return other, nil
}

func (s *session) refusePooler(lends string) error {
	return &skein.DatabaseError{
		Class:   skein.Permanent,
		Message: fmt.Sprintf("%s is a connection pooler that lends server connections for single %s (PgBouncer's pool_mode), so that a lock on the tenant would hold nothing", s.target.Server(), lends),
		Hint:    poolerHint,
	}
}

const poolerHint = "migrate over the database server itself: give its address in skein.yaml, servers: {NAME: {url: ..., direct: \"HOST:PORT\"}}, where url has the pooler's address; or let the pooler lend for sessions (pool_mode = session)"

// refusesSettings says whether err is that of a pooler which does not take
// settings with the login.
func refusesSettings(err error) bool {
	answer, ok := errors.AsType[*pgconn.PgError](err)
	return ok && answer.Code == protocolViolation && strings.Contains(answer.Message, "startup parameter")
}

// everywhere are the settings that a pooler takes with the login, since it keeps
// them for each client: https://www.pgbouncer.org/config.html, track_extra_parameters.
var everywhere = []string{"application_name", "client_encoding", "standard_conforming_strings", "options"}

// withoutSettings are the settings of a login to a pooler that takes no others.
func withoutSettings(settings map[string]string) map[string]string {
	few := maps.Clone(settings)
	maps.DeleteFunc(few, func(name, _ string) bool { return !slices.Contains(everywhere, name) })
	return few
}

// bareLogin says whether the target's settings were left out of its login.
func (d *dialer) bareLogin(target skein.Target) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bare[target.Server()+"\x00"+optionsKey(target.Options)]
}

// applySettings adds what a session sets that could not be, or may have been
// ignored, with its login: for the message alone, or for good.
func (s *session) applySettings(m *script, local bool) {
	config, err := s.engine.dialer.config(s.target)
	if err != nil {
		return // the login would have failed with it
	}
	for _, name := range slices.Sorted(maps.Keys(config.RuntimeParams)) {
		if name != "options" {
			m.add(setup, "SELECT pg_catalog.set_config("+quoteLiteral(name)+", "+quoteLiteral(config.RuntimeParams[name])+", "+strconv.FormatBool(local)+")")
		}
	}
}
