package sqlite_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/engine/enginetest"
	"github.com/skeinhq/skein/engine/sqlite"
)

func TestProvision(t *testing.T) {
	enginetest.RunProvision(t, enginetest.ProvisionConfig{
		New: func(opts skein.SessionOptions) skein.Provisioner { return sqlite.New(opts) },
		Admin: func(t testing.TB) skein.Target {
			return skein.Target{Engine: skein.SQLite, Database: filepath.Join(t.TempDir(), "tenants")}
		},
		Naming: skein.Naming{Database: "tenant_{slug}.db"},
		Exec:   exec,
		Query:  query,
		Exists: func(t testing.TB, target skein.Target) []string {
			names, err := filepath.Glob(filepath.Join(filepath.Dir(target.Database), "*"))
			if err != nil {
				t.Fatal(err)
			}
			var there []string
			for _, name := range names {
				// A process that was killed leaves the file that it had locked.
				if strings.Contains(name, filepath.Base(target.Database)) && !strings.HasSuffix(name, ".skein-provision") {
					there = append(there, "file")
				}
			}
			return there
		},
		Foreign: map[string]func(testing.TB, skein.Target){
			"file": func(t testing.TB, target skein.Target) {
				if err := os.MkdirAll(filepath.Dir(target.Database), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(target.Database, []byte("somebody else's"), 0o600); err != nil {
					t.Fatal(err)
				}
			},
		},
		Dump: func(t testing.TB, target skein.Target) string {
			var b strings.Builder
			for _, row := range query(t, target, "SELECT name, sql FROM sqlite_schema ORDER BY name") {
				b.WriteString(strings.Join(row, ": ") + "\n")
			}
			for _, table := range []string{"one", "two"} {
				for _, row := range query(t, target, "SELECT * FROM "+table) {
					b.WriteString(strings.Join(row, ", ") + "\n")
				}
			}
			for _, row := range query(t, target, "SELECT id, name, state, batch, checksum, done, total, applied_by, tool FROM skein_migrations ORDER BY id") {
				b.WriteString(strings.Join(row, ", ") + "\n")
			}
			return b.String()
		},
		Templates: func(t testing.TB, admin skein.Target, project string) []string {
			entries, err := os.ReadDir(admin.Database)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, e := range entries {
				if strings.HasPrefix(e.Name(), ".skein-template-"+project) {
					names = append(names, e.Name())
				}
			}
			return names
		},
		Volatile: "CREATE TABLE token (t text); INSERT INTO token VALUES (hex(randomblob(8)))",
		Slugs:    []string{"o'brien-{unique}", "ünï-東京-{unique}", "with-dash.and_dot-{unique}", "50%-{unique}", "{unique}..."},
		TooLong:  strings.Repeat("x", 200),
	})
}
