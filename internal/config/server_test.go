package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
)

// loadText reads settings from a folder of their own.
func loadText(t *testing.T, text string, variables map[string]string) (*Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), FileName)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path, func(name string) (string, bool) { v, ok := variables[name]; return v, ok })
}

func TestServerOptions(t *testing.T) {
	c, err := loadText(t, `
servers:
  eu-1:
    url: postgres://admin@db1:5433/postgres?sslmode=require
    options: {sslmode: verify-full, sslrootcert: certs/ca.crt, sslkey: "${KEY}", statement_timeout: 5s}
    password_command: [aws, rds, generate-db-auth-token, --hostname, "{host}"]
    password_ttl: 10m
  eu-2: {url: "mysql://admin@db2/", password_command: ./token}
`, map[string]string{"KEY": "/run/key"})
	if err != nil {
		t.Fatal(err)
	}
	s := c.Servers["eu-1"]
	if diff := cmp.Diff([]string{"aws", "rds", "generate-db-auth-token", "--hostname", "{host}"}, s.PasswordCommand); diff != "" {
		t.Error(diff)
	}
	if other := c.Servers["eu-2"]; s.PasswordTTL != 10*time.Minute || other.PasswordTTL != 5*time.Minute || len(other.PasswordCommand) != 1 {
		t.Errorf("%v, %v, %q", s.PasswordTTL, other.PasswordTTL, other.PasswordCommand)
	}

	// What the tenant says itself goes first. The administrator's url is not the
	// tenants'.
	tenant := skein.Target{Engine: skein.PostgreSQL, Host: "db1", Port: 5433, Database: "d", Options: map[string]string{"statement_timeout": "1s", "application_name": "x"}}
	want := map[string]string{
		"sslmode": "verify-full", "sslrootcert": filepath.Join(c.Dir, "certs/ca.crt"), "sslkey": "/run/key",
		"statement_timeout": "1s", "application_name": "x",
	}
	if diff := cmp.Diff(want, c.WithOptions(tenant).Options); diff != "" {
		t.Error(diff)
	}
	if tenant.Options["sslmode"] != "" {
		t.Error("the tenant's own options were changed")
	}
	for _, elsewhere := range []skein.Target{
		{Engine: skein.PostgreSQL, Host: "db1", Database: "d"},
		{Engine: skein.MySQL, Host: "db1", Port: 5433, Database: "d"},
		{Engine: skein.MySQL, Host: "db2", Database: "d"},
	} {
		if got := c.WithOptions(elsewhere); got.Options != nil {
			t.Errorf("%s got options %v", elsewhere, got.Options)
		}
	}
	if _, ok := c.Connecting(skein.Target{Engine: skein.MySQL, Host: "db2", Port: 3306, Database: "d"}); !ok {
		t.Error("the default port is not the default port")
	}
}

func TestServerMistakes(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{`servers: {a: {url: "postgres://h", password_command: aws rds token}}`, "servers.a.password_command: it is run without a shell: give the program and its arguments as a list"},
		{`servers: {a: {url: "postgres://h", password_command: [""]}}`, "servers.a.password_command: it names no program"},
		{`servers: {a: {url: "postgres://h", password_ttl: 5}}`, "is not a time with its unit"},
		{`servers: {a: {url: "postgres://h", options: {user: x}}}`, "servers.a.options.user: it is no option"},
		{`servers: {a: {url: "postgres://h", option: {}}}`, `unknown key "servers.a.option": do you mean "options"?`},
		{`servers: {a: {url: "sqlite:x", options: {mode: ro}}}`, "SQLite files are connected to without options"},
		{`servers: {a: {url: "postgres://h", options: {sslmode: x}}, b: {url: "postgres://h:5432", password_command: [x]}}`, "servers.b: it is the same server as a"},
		{`central: {tenants: {table: t, write: maybe}}`, `central.tenants.write: "maybe" is not true or false`},
	} {
		_, err := loadText(t, test.text, nil)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s\n%v, want %s", test.text, err, test.want)
		}
	}
	c, err := loadText(t, `central: {tenants: {table: t, write: "${W}"}}`, map[string]string{"W": "true"})
	if err != nil || !c.Central.Tenants.Write {
		t.Errorf("write from a variable: %v", err)
	}
}

func TestServerDirect(t *testing.T) {
	c, err := loadText(t, `
servers:
  pooled: {url: "postgres://admin@pool:6432/postgres", direct: "db1:5433", options: {sslmode: require}}
  v6: {url: "mysql://admin@pool/", direct: "[::1]:3307"}
  port: {url: "postgres://admin@other:6432/postgres", direct: db2}
  none: {url: "postgres://admin@plain/postgres"}
`, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ listed, want string }{
		{"postgres://u@pool:6432/d", "postgres://u@db1:5433/d"},
		{"postgres://u@db1:5433/d", "postgres://u@db1:5433/d"},
		{"postgres://u@pool/d", "postgres://u@pool:5432/d"},
		{"mysql://u@pool:3306/d", "mysql://u@[::1]:3307/d"},
		{"postgres://u@other:6432/d?schema=s", "postgres://u@db2:5432/d?schema=s"},
		{"postgres://u@plain/d", "postgres://u@plain:5432/d"},
	} {
		target, err := skein.ParseTarget(test.listed)
		if err != nil {
			t.Fatal(err)
		}
		got := c.WithOptions(target)
		if got.String() != test.want {
			t.Errorf("%s is migrated at %s, not %s", test.listed, got, test.want)
		}
		if strings.Contains(test.want, "db1") && got.Options["sslmode"] != "require" {
			t.Errorf("%s has the options %v", test.listed, got.Options)
		}
	}
	if got := c.Servers["pooled"].Reached().Server() + " " + c.Servers["none"].Reached().Server(); got != "postgres://db1:5433 postgres://plain:5432" {
		t.Error(got)
	}
	for _, address := range []string{`""`, `":5432"`, "db:x", "db:99999", "a:b:c"} {
		_, err := loadText(t, `servers: {a: {url: "postgres://h", direct: `+address+`}}`, nil)
		if err == nil || !strings.Contains(err.Error(), "servers.a.direct: ") || !strings.Contains(err.Error(), "is not of the form HOST:PORT") {
			t.Errorf("%s: %v", address, err)
		}
	}
}
