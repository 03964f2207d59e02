package cli_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skeinhq/skein/internal/dbtest"
)

// TestProvisionKilled kills the command at any time, on each engine, with
// SQLite and the engine itself holding the central database, and runs it again
// until it has ended. At the end there is what the list says, and no more.
func TestProvisionKilled(t *testing.T) {
	sqlite := func(testing.TB) string { return "sqlite:central.db" }
	for _, test := range []struct {
		name    string
		server  func(testing.TB) string
		central func(testing.TB) string
		left    func(t testing.TB, dir, prefix string) []string
	}{
		{"postgres", func(t testing.TB) string { return dbtest.Postgres(t).AdminURL() }, func(t testing.TB) string {
			server := dbtest.Postgres(t)
			return server.URL(server.CreateDatabase(t))
		}, func(t testing.TB, _, prefix string) []string {
			return column(dbtest.Postgres(t).Query(t, "", "SELECT datname FROM pg_database WHERE starts_with(datname, $1) UNION ALL SELECT rolname FROM pg_roles WHERE starts_with(rolname, $1)", prefix))
		}},
		{"mysql", func(t testing.TB) string { return dbtest.MySQL(t).AdminURL() }, func(t testing.TB) string {
			server := dbtest.MySQL(t)
			return server.URL(server.CreateDatabase(t))
		}, func(t testing.TB, _, prefix string) []string {
			return column(dbtest.MySQL(t).Query(t, "", "SELECT schema_name FROM information_schema.schemata WHERE schema_name LIKE ? UNION ALL SELECT user FROM mysql.user WHERE user LIKE ?", prefix+"%", prefix+"%"))
		}},
		{"sqlite", func(testing.TB) string { return "sqlite:tenants/" }, sqlite, func(t testing.TB, dir, _ string) []string {
			entries, err := os.ReadDir(filepath.Join(dir, "tenants"))
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, e := range entries {
				// What a killed process had locked, and the template.
				if !strings.HasSuffix(e.Name(), ".skein-provision") && !strings.HasPrefix(e.Name(), ".skein-template-") {
					names = append(names, e.Name())
				}
			}
			return names
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, prefix := t.TempDir(), dbtest.UniqueName()
			write := func(name, text string) {
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			settings := "central: {url: \"${CENTRAL}\"}\nencryption: {key: 0123456789abcdef0123456789abcdef}\nservers: {s: {url: \"${SERVER}\"}}\n"
			if test.name != "sqlite" {
				// The next template would be made in between, and take its time.
				settings += "provisioning: {database: \"" + prefix + "_{slug}\", user: \"" + prefix + "_{slug}\", from: replay}\n"
			}
			write("skein.yaml", settings)
			for i := range 4 {
				write(fmt.Sprintf("migrations/tenant/%d.sql", i), fmt.Sprintf("-- migrate:up\nCREATE TABLE t%d (id integer PRIMARY KEY);\n", i))
			}
			central, server := test.central(t), test.server(t)
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			command := func(ctx context.Context, args ...string) (string, error) {
				cmd := exec.CommandContext(ctx, self)
				cmd.Args, cmd.Dir = append([]string{"skein"}, args...), dir
				cmd.Env = append(os.Environ(), "CENTRAL="+central, "SERVER="+server)
				out, err := cmd.CombinedOutput()
				for _, secret := range []string{"0123456789abcdef", central, server} {
					if secret != "sqlite:central.db" && secret != "sqlite:tenants/" && strings.Contains(string(out), secret) {
						t.Errorf("%s shows a secret", args)
					}
				}
				return string(out), err
			}
			run := func(args ...string) string {
				out, err := command(t.Context(), args...)
				if err != nil {
					t.Fatalf("%s: %v\n%s", args, err, out)
				}
				return out
			}
			// ends runs a command that is killed later and later, until it has ended.
			ends := func(took time.Duration, done string, args ...string) {
				for i := 1; ; i++ {
					limit := took * time.Duration(i) / 8
					if i > 40 {
						limit = time.Minute
					}
					ctx, cancel := context.WithTimeout(t.Context(), limit)
					out, err := command(ctx, args...)
					killed := ctx.Err() != nil
					cancel()
					switch {
					case err == nil, !killed && strings.Contains(out, done):
						return
					case !killed:
						t.Fatalf("%s: %v\n%s", args, err, out)
					}
				}
			}
			run("init")
			start := time.Now()
			run("provision", "first")
			took := time.Since(start)
			for _, slug := range []string{"a", "b"} {
				ends(took, "there is a tenant "+slug+" already", "provision", slug)
			}
			if out := run("status", "--all", "--quiet"); !strings.Contains(out, "a, b, first") {
				t.Errorf("the status is %s", out)
			}
			for _, slug := range []string{"a", "b"} {
				ends(took, "no tenant has the slug", "deprovision", slug, "--yes", "--confirm", slug)
			}
			run("deprovision", "first", "--yes", "--confirm", "first")
			if left := test.left(t, dir, prefix); len(left) > 0 {
				t.Errorf("there is left %q", left)
			}
		})
	}
}

func column(rows [][]string) []string {
	var out []string
	for _, row := range rows {
		out = append(out, row[0])
	}
	return out
}
