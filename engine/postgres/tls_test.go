package postgres

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/dbtest"
	"github.com/skeinhq/skein/secret"
)

// TestServerWithTLSAlone connects to a real server that takes nothing else.
func TestServerWithTLSAlone(t *testing.T) {
	server := dbtest.PostgresTLS(t)
	authority, certificate, key := dbtest.Certificates(t)
	name, user, password := server.CreateDatabase(t)
	stranger := newTLSFront(t).authority
	for _, test := range []struct {
		name    string
		host    string
		options map[string]string
		want    string // of the error
	}{
		{name: "prefer"},
		{name: "disable", options: map[string]string{"sslmode": "disable"}, want: "no pg_hba.conf entry"},
		{name: "require", options: map[string]string{"sslmode": "require"}},
		{name: "verify-full", options: map[string]string{"sslmode": "verify-full", "sslrootcert": authority}},
		{name: "verify-full, another name", host: "localhost", options: map[string]string{"sslmode": "verify-full", "sslrootcert": authority}, want: "certificate"},
		{name: "verify-ca, another name", host: "localhost", options: map[string]string{"sslmode": "verify-ca", "sslrootcert": authority}},
		{name: "verify-ca, another authority", options: map[string]string{"sslmode": "verify-ca", "sslrootcert": stranger}, want: "certificate"},
		{name: "no such file", options: map[string]string{"sslmode": "verify-ca", "sslrootcert": "/nowhere/ca.crt"}, want: "/nowhere/ca.crt"},
		{name: "client certificate that is not asked for", options: map[string]string{"sslmode": "verify-full", "sslrootcert": authority, "sslcert": certificate, "sslkey": key}},
	} {
		t.Run(test.name, func(t *testing.T) {
			target := skein.Target{
				Engine: skein.PostgreSQL, Host: server.Host(), Port: server.Port(), Database: name,
				User: user, Password: secret.New(password), Options: test.options,
			}
			if test.host != "" {
				target.Host = test.host
			}
			err := visit(t, skein.SessionOptions{}, target)
			switch {
			case test.want == "" && err != nil:
				t.Fatal(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Fatalf("error %v, want one with %q", err, test.want)
			case err != nil && strings.Contains(err.Error(), password):
				t.Error("the error has the password")
			}
		})
	}

	t.Run("client certificate instead of a password", func(t *testing.T) {
		server.Exec(t, "", "DROP ROLE IF EXISTS "+dbtest.CertifiedUser)
		server.Exec(t, "", "CREATE ROLE "+dbtest.CertifiedUser+" LOGIN")
		t.Cleanup(func() { server.Exec(t, "", "DROP ROLE "+dbtest.CertifiedUser) })
		target := skein.Target{
			Engine: skein.PostgreSQL, Host: server.Host(), Port: server.Port(), Database: name, User: dbtest.CertifiedUser,
			Options: map[string]string{"sslmode": "verify-full", "sslrootcert": authority, "sslcert": certificate, "sslkey": key},
		}
		if err := visit(t, skein.SessionOptions{}, target); err != nil {
			t.Error(err)
		}
		target.Options = map[string]string{"sslmode": "verify-full", "sslrootcert": authority}
		if err := visit(t, skein.SessionOptions{}, target); skein.ErrorClass(err) != skein.Denied {
			t.Errorf("without the certificate: %v", err)
		}
	})
}

// visit connects and reads the history.
func visit(t *testing.T, opts skein.SessionOptions, target skein.Target) error {
	t.Helper()
	s, err := New(opts).Open(t.Context(), target)
	if err != nil {
		return err
	}
	defer s.Close()
	_, err = s.History(t.Context())
	return err
}

func TestPasswordIsFound(t *testing.T) {
	server := dbtest.Postgres(t)
	name, user, password := server.CreateDatabase(t)
	target := skein.Target{Engine: skein.PostgreSQL, Host: server.Host(), Port: server.Port(), Database: name, User: user}
	asked := 0
	opts := skein.SessionOptions{Password: func(_ context.Context, of skein.Target) (secret.Secret, error) {
		asked++
		if of.User != user || of.Database != name {
			t.Errorf("asked for the password of %s", of)
		}
		return secret.New(password), nil
	}}
	if err := visit(t, opts, target); err != nil || asked != 1 {
		t.Errorf("%v, asked %d times", err, asked)
	}
	target.Password = secret.New("its own, and wrong")
	if err := visit(t, opts, target); skein.ErrorClass(err) != skein.Denied || asked != 1 {
		t.Errorf("%v, asked %d times", err, asked)
	}
	target.Password = secret.Secret{}
	nothing := errors.New("no token today")
	opts.Password = func(context.Context, skein.Target) (secret.Secret, error) { return secret.Secret{}, nothing }
	if err := visit(t, opts, target); !errors.Is(err, nothing) {
		t.Errorf("error %v, want %v", err, nothing)
	}
}
