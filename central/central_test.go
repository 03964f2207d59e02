package central

import (
	"crypto/rand"
	"database/sql"
	"fmt"
	"iter"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/dbtest"
	"github.com/skeinhq/skein/secret"
)

// A fixture is an empty database that can become a central one.
type fixture struct {
	engine   string
	url      secret.Secret
	password string // in the URL; empty for SQLite
	// admin is another connection to it, for what Skein does not do.
	admin *sql.DB
}

// onEach runs a test on each database that can be central.
func onEach(t *testing.T, test func(*testing.T, *fixture)) {
	t.Run("postgres", func(t *testing.T) { test(t, onServer(t, skein.PostgreSQL, dbtest.Postgres(t))) })
	t.Run("mysql", func(t *testing.T) { test(t, onServer(t, skein.MySQL, dbtest.MySQL(t))) })
	t.Run("sqlite", func(t *testing.T) {
		// A path with all that means something in a SQLite URI.
		path := filepath.Join(t.TempDir(), "a folder", "50% #1 ü&x=y.db")
		f := &fixture{engine: skein.SQLite, url: secret.New("sqlite:" + path)}
		f.connect(t)
		test(t, f)
	})
}

func onServer(t *testing.T, engine string, server *dbtest.Server) *fixture {
	name, user, password := server.CreateDatabase(t)
	f := &fixture{engine: engine, url: secret.New(server.URL(name, user, password)), password: password}
	f.connect(t)
	return f
}

func (f *fixture) connect(t *testing.T) {
	t.Helper()
	target, err := skein.ParseTarget(f.url.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	if f.engine == skein.SQLite {
		// The file comes with Init, or with the first statement of the admin.
		admin, err := sql.Open("sqlite", "file:"+escapePath(target.Database)+"?_pragma=busy_timeout(10000)&_pragma=foreign_keys(1)")
		if err != nil {
			t.Fatal(err)
		}
		f.admin = admin
	} else {
		db, err := connect(t.Context(), target, connectOptions{timeout: defaultConnectTimeout})
		if err != nil {
			t.Fatal(err)
		}
		f.admin = db.DB
	}
	t.Cleanup(func() {
		if err := f.admin.Close(); err != nil {
			t.Error(err)
		}
	})
}

func (f *fixture) exec(t *testing.T, statements ...string) {
	t.Helper()
	if f.engine == skein.SQLite {
		if err := createFile(f.target(t).Database); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range statements {
		if _, err := f.admin.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%v\nin: %s", err, s)
		}
	}
}

// value is what a query of one row and column gives.
func (f *fixture) value(t *testing.T, query string) string {
	t.Helper()
	var out sql.NullString
	if err := f.admin.QueryRowContext(t.Context(), query).Scan(&out); err != nil {
		t.Fatalf("%v\nin: %s", err, query)
	}
	return out.String
}

// newKeyring is one with a key of its own.
func newKeyring(t *testing.T) *secret.Keyring {
	t.Helper()
	ring, err := secret.NewKeyring(secret.New(rand.Text()+rand.Text()[:6]), secret.KeyringOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// own opens Skein's own table in a new central database.
func (f *fixture) own(t *testing.T) *Store {
	t.Helper()
	cfg := Config{URL: f.url, Keyring: newKeyring(t)}
	if _, err := Init(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	return f.open(t, cfg)
}

func (f *fixture) open(t *testing.T, cfg Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func add(t *testing.T, s *Store, tenants ...NewTenant) {
	t.Helper()
	for _, n := range tenants {
		if _, err := s.Add(t.Context(), n); err != nil {
			t.Fatalf("add %s: %v", n.Slug, err)
		}
	}
}

// at is a tenant with a target on a server.
func at(slug, host string) NewTenant {
	return NewTenant{Slug: slug, Target: skein.Target{Engine: skein.PostgreSQL, Host: host, Database: "db_" + slug}}
}

func collect(seq iter.Seq2[skein.Tenant, error]) (tenants []skein.Tenant, err error) {
	for t, err := range seq {
		if err != nil {
			return tenants, err
		}
		tenants = append(tenants, t)
	}
	return tenants, nil
}

// slugs are those of the tenants that a filter means.
func slugs(t *testing.T, s *Store, f Filter) string {
	t.Helper()
	tenants, err := collect(s.Tenants(t.Context(), f))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, t := range tenants {
		out = append(out, t.Slug)
	}
	return strings.Join(out, " ")
}

// withHint is an error and its hint, for comparing.
func withHint(err error) string {
	if err == nil {
		return ""
	}
	if hint := skein.Hint(err); hint != "" {
		return fmt.Sprintf("%v [%s]", err, hint)
	}
	return err.Error()
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if text := withHint(err); !strings.Contains(text, part) {
			t.Errorf("error %q does not have %q", text, part)
		}
	}
}
