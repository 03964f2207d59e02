// Package dbtest gives tests the real database servers they run against: a
// PostgreSQL and a MySQL or MariaDB named by environment variables, and SQLite
// files.
//
// `make test` and scripts/servers start such servers. A test whose server is
// missing fails; it is never skipped.
package dbtest

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The environment variables that name the servers, each as the URL of an
// administrator who may create databases and accounts:
// postgres://USER:PASSWORD@HOST:PORT/DATABASE and mysql://USER:PASSWORD@HOST:PORT/.
const (
	PostgresEnv = "SKEIN_TEST_POSTGRES"
	MySQLEnv    = "SKEIN_TEST_MYSQL"

	// PostgresTLSEnv names a PostgreSQL that takes connections with TLS alone,
	// CertsEnv the folder of certificates that [Certificates] tells about. The
	// server of [MySQLEnv] has a certificate of the same authority.
	PostgresTLSEnv = "SKEIN_TEST_POSTGRES_TLS"
	CertsEnv       = "SKEIN_TEST_CERTS"
)

// timeout bounds each call, so that a test that left a lock behind fails with
// the statement that waits for it.
const timeout = 30 * time.Second

// A Server is a database server reached as its administrator. It holds no
// connection, each call makes its own; it may be used by several tests at once.
// Methods that take a testing.TB end that test when something goes wrong.
type Server struct {
	admin *url.URL
	dialect
}

// dialect is what differs between the servers.
type dialect interface {
	// connect opens a session of the administrator in a database, "" being the
	// one that the administrator's URL names.
	connect(ctx context.Context, admin *url.URL, database string) (session, error)
	createUser(ctx context.Context, s session, user, password string) error
	// createDatabase creates an empty database that is the user's.
	createDatabase(ctx context.Context, s session, database, user string) error
	// dropDatabase ends the sessions in the database and drops it, if it exists.
	dropDatabase(ctx context.Context, s session, database string) error
	// dropUser ends the user's sessions and drops the account, if it exists.
	dropUser(ctx context.Context, s session, user string) error
}

// session is one connection.
type session interface {
	exec(ctx context.Context, sql string, args ...any) error
	query(ctx context.Context, sql string, args ...any) ([][]string, error)
	close(ctx context.Context) error
}

// Postgres returns the PostgreSQL server that [PostgresEnv] names.
func Postgres(t testing.TB) *Server {
	t.Helper()
	return fromEnv(t, PostgresEnv, "postgres", postgres{})
}

// PostgresTLS returns the PostgreSQL server that [PostgresTLSEnv] names.
func PostgresTLS(t testing.TB) *Server {
	t.Helper()
	return fromEnv(t, PostgresTLSEnv, "postgres", postgres{})
}

// CertifiedUser is whom the client's certificate is made out to. The server of
// [PostgresTLSEnv] lets this role in with it, and without a password.
const CertifiedUser = "skein_test_client"

// Certificates returns the files of the authority that signed the servers'
// certificates, which are made out to 127.0.0.1, and of a client's certificate
// and key.
func Certificates(t testing.TB) (authority, certificate, key string) {
	t.Helper()
	dir := os.Getenv(CertsEnv)
	if dir == "" {
		t.Fatalf("this test needs certificates and %s is not set: %s", CertsEnv, howToStart)
	}
	return filepath.Join(dir, "ca.crt"), filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key")
}

// MySQL returns the MySQL or MariaDB server that [MySQLEnv] names.
func MySQL(t testing.TB) *Server {
	t.Helper()
	return fromEnv(t, MySQLEnv, "mysql", mySQL{})
}

// SQLite returns the path of an empty SQLite database, removed with the test.
func SQLite(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "test.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatalf("create an SQLite file: %v", err)
	}
	return path
}

const howToStart = "run `make test`, or keep servers up with `scripts/servers start DIR` " +
	"and `eval \"$(scripts/servers env DIR)\"`"

func fromEnv(t testing.TB, env, scheme string, d dialect) *Server {
	t.Helper()
	value := os.Getenv(env)
	if value == "" {
		t.Fatalf("this test needs a server and %s is not set: %s", env, howToStart)
	}
	u, err := url.Parse(value)
	if err != nil || u.Scheme != scheme || u.Hostname() == "" || u.Port() == "" || u.User == nil {
		// The value itself stays out of the message: it holds a password.
		t.Fatalf("%s is not of the form %s://USER:PASSWORD@HOST:PORT/", env, scheme)
	}
	return &Server{admin: u, dialect: d}
}

// Host returns the server's host name or address.
func (s *Server) Host() string { return s.admin.Hostname() }

// Port returns the server's TCP port.
func (s *Server) Port() int {
	port, _ := strconv.Atoi(s.admin.Port()) // url.Parse let digits alone pass
	return port
}

// AdminURL returns the administrator's URL, password included.
func (s *Server) AdminURL() string { return s.admin.String() }

// URL returns the URL of a database of this server for a user, each part
// escaped.
func (s *Server) URL(database, user, password string) string {
	u := url.URL{
		Scheme: s.admin.Scheme,
		User:   url.UserPassword(user, password),
		Host:   s.admin.Host,
		Path:   "/" + database,
	}
	return u.String()
}

// UniqueName returns a name that no database or account has: 24 characters of
// a-z, 0-9 and "_", beginning with a letter. Longer ones can be made of it.
func UniqueName() string {
	return "skein_test_" + strings.ToLower(rand.Text()[:13])
}

// CreateDatabase creates an empty database with a unique name, and an account
// that owns it and has rights nowhere else. Both are dropped when the test ends,
// after ending the sessions that still use them.
//
// The password has characters that must be escaped in URLs and in SQL.
func (s *Server) CreateDatabase(t testing.TB) (name, user, password string) {
	t.Helper()
	name = UniqueName()
	user, password = s.CreateDatabaseNamed(t, name)
	return name, user, password
}

// CreateDatabaseNamed is [Server.CreateDatabase] for a name of the caller's
// choice, which no other test may use at the same time; see [UniqueName].
func (s *Server) CreateDatabaseNamed(t testing.TB, name string) (user, password string) {
	t.Helper()
	user = UniqueName()
	password = `p@ss:w/rd?#%20 '"\` + rand.Text()
	s.do(t, "", func(ctx context.Context, admin session) error {
		if err := s.createUser(ctx, admin, user, password); err != nil {
			return fmt.Errorf("create account %s: %w", user, err)
		}
		t.Cleanup(func() {
			s.do(t, "", func(ctx context.Context, admin session) error {
				return s.dropUser(ctx, admin, user)
			})
		})
		// Dropped only if it was created: one that was there is not ours.
		if err := s.createDatabase(ctx, admin, name, user); err != nil {
			return fmt.Errorf("create database %q: %w", name, err)
		}
		t.Cleanup(func() {
			s.do(t, "", func(ctx context.Context, admin session) error {
				return s.dropDatabase(ctx, admin, name)
			})
		})
		return nil
	})
	return user, password
}

// Exec runs SQL as the administrator in a database, "" being the one that the
// administrator's URL names. Without arguments it may be several statements.
// Placeholders are the server's: $1 or ?.
func (s *Server) Exec(t testing.TB, database, sql string, args ...any) {
	t.Helper()
	s.do(t, database, func(ctx context.Context, admin session) error {
		if err := admin.exec(ctx, sql, args...); err != nil {
			return fmt.Errorf("%w\nin: %s", err, sql)
		}
		return nil
	})
}

// Query runs one statement as the administrator in a database and returns its
// rows, each value in the server's text form and NULL as "NULL". See
// [Server.Exec].
func (s *Server) Query(t testing.TB, database, sql string, args ...any) [][]string {
	t.Helper()
	var rows [][]string
	s.do(t, database, func(ctx context.Context, admin session) (err error) {
		if rows, err = admin.query(ctx, sql, args...); err != nil {
			return fmt.Errorf("%w\nin: %s", err, sql)
		}
		return nil
	})
	return rows
}

// do runs f with a session of the administrator. It works in a cleanup as well,
// when the test's own context has ended.
func (s *Server) do(t testing.TB, database string, f func(context.Context, session) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), timeout)
	defer cancel()
	admin, err := s.connect(ctx, s.admin, database)
	if err != nil {
		t.Fatalf("connect to the %s test server, database %q: %v\nis it still running? %s",
			s.admin.Scheme, database, err, howToStart)
	}
	err = cmp.Or(f(ctx, admin), admin.close(ctx))
	if err != nil {
		t.Fatalf("%s test server: %v", s.admin.Scheme, err)
	}
}

// text is a value as Query returns it.
func text(value []byte) string {
	if value == nil {
		return "NULL"
	}
	return string(value)
}
