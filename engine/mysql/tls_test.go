package mysql

import (
	"context"
	"database/sql/driver"
	"errors"
	"strings"
	"testing"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/dbtest"
	"github.com/skeinhq/skein/secret"
)

// TestServerWithTLS connects to a real server whose certificate is made out to
// 127.0.0.1.
func TestServerWithTLS(t *testing.T) {
	server := dbtest.MySQL(t)
	authority, certificate, key := dbtest.Certificates(t)
	name, user, password := server.CreateDatabase(t)
	certified := dbtest.UniqueName()
	server.Exec(t, "", "CREATE USER "+certified+"@'%' IDENTIFIED BY 'p' REQUIRE SUBJECT '/CN="+dbtest.CertifiedUser+"'")
	t.Cleanup(func() { server.Exec(t, "", "DROP USER "+certified+"@'%'") })
	server.Exec(t, "", "GRANT ALL ON `"+name+"`.* TO "+certified+"@'%'")

	for _, test := range []struct {
		name    string
		user    string
		host    string
		options map[string]string
		plain   bool   // the connection is not encrypted
		want    string // of the error
	}{
		{name: "nothing said", plain: true},
		{name: "false", options: map[string]string{"tls": "false"}, plain: true},
		{name: "preferred", options: map[string]string{"tls": "preferred"}},
		{name: "skip-verify", options: map[string]string{"tls": "skip-verify"}},
		{name: "the authority", options: map[string]string{"ssl-ca": authority}},
		{name: "the authority, true", options: map[string]string{"tls": "true", "ssl-ca": authority}},
		{name: "another name", host: "localhost", options: map[string]string{"ssl-ca": authority}, want: "certificate"},
		{name: "the system's authorities", options: map[string]string{"tls": "true"}, want: "certificate"},
		{name: "no such file", options: map[string]string{"ssl-ca": "/nowhere/ca.crt"}, want: "/nowhere/ca.crt"},
		{name: "client certificate", user: certified, options: map[string]string{"ssl-ca": authority, "ssl-cert": certificate, "ssl-key": key}},
		{name: "without the client certificate", user: certified, options: map[string]string{"ssl-ca": authority}, want: "Access denied"},
	} {
		t.Run(test.name, func(t *testing.T) {
			target := skein.Target{
				Engine: skein.MySQL, Host: server.Host(), Port: server.Port(), Database: name,
				User: user, Password: secret.New(password), Options: test.options,
			}
			if test.host != "" {
				target.Host = test.host
			}
			if test.user != "" {
				target.User, target.Password = test.user, secret.New("p")
			}
			s, err := New(skein.SessionOptions{}).Open(t.Context(), target)
			switch {
			case test.want == "" && err != nil:
				t.Fatal(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Fatalf("error %v, want one with %q", err, test.want)
			case err != nil:
				if strings.Contains(err.Error(), password) {
					t.Error("the error has the password")
				}
				return
			}
			defer s.Close()
			cipher := ""
			err = s.(*session).flight(t.Context(), "SHOW SESSION STATUS LIKE 'Ssl_cipher'", func(_ []string, row []driver.Value) {
				if row != nil {
					cipher = text(row[1])
				}
			})
			if err != nil || (cipher == "") != test.plain {
				t.Errorf("cipher %q, %v", cipher, err)
			}
		})
	}
}

func TestPasswordIsFound(t *testing.T) {
	server := dbtest.MySQL(t)
	name, user, password := server.CreateDatabase(t)
	target := skein.Target{Engine: skein.MySQL, Host: server.Host(), Port: server.Port(), Database: name, User: user}
	asked := 0
	opts := skein.SessionOptions{Password: func(_ context.Context, of skein.Target) (secret.Secret, error) {
		asked++
		if of.User != user || of.Database != name {
			t.Errorf("asked for the password of %s", of)
		}
		return secret.New(password), nil
	}}
	visit := func() error {
		s, err := New(opts).Open(t.Context(), target)
		if err != nil {
			return err
		}
		defer s.Close()
		_, err = s.History(t.Context())
		return err
	}
	if err := visit(); err != nil || asked != 1 {
		t.Errorf("%v, asked %d times", err, asked)
	}
	target.Password = secret.New("its own, and wrong")
	if err := visit(); skein.ErrorClass(err) != skein.Denied || asked != 1 {
		t.Errorf("%v, asked %d times", err, asked)
	}
	target.Password = secret.Secret{}
	nothing := errors.New("no token today")
	opts.Password = func(context.Context, skein.Target) (secret.Secret, error) { return secret.Secret{}, nothing }
	if err := visit(); !errors.Is(err, nothing) {
		t.Errorf("error %v, want %v", err, nothing)
	}
}
