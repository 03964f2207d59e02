package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/engine/enginetest"
	"github.com/skeinhq/skein/engine/sqlite"
	"github.com/skeinhq/skein/internal/dbtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func target(path string) skein.Target { return skein.Target{Engine: skein.SQLite, Database: path} }

func newTarget(t testing.TB) skein.Target { return target(dbtest.SQLite(t)) }

func named(t testing.TB, name string) skein.Target {
	path := filepath.Join(t.TempDir(), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return target(path)
}

// open opens a file without the engine.
func open(t testing.TB, target skein.Target) *sql.DB {
	t.Helper()
	// The driver cuts the name off at a question mark, unless it is a URI.
	escaped := strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23").Replace(target.Database)
	db, err := sql.Open("sqlite", "file:"+escaped+"?mode=rw&_busy_timeout=10000")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func exec(t testing.TB, target skein.Target, script string) {
	t.Helper()
	db := open(t, target)
	defer db.Close()
	if _, err := db.ExecContext(context.WithoutCancel(t.Context()), script); err != nil {
		t.Fatalf("%v\nin: %s", err, script)
	}
}

func query(t testing.TB, target skein.Target, statement string) [][]string {
	t.Helper()
	db := open(t, target)
	defer db.Close()
	rows, err := db.QueryContext(t.Context(), statement)
	if err != nil {
		t.Fatalf("%v\nin: %s", err, statement)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var texts [][]string
	for rows.Next() {
		values := make([]any, len(columns))
		into := make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		row := make([]string, len(columns))
		for i, value := range values {
			row[i] = "NULL"
			if value != nil {
				row[i] = fmt.Sprint(value)
			}
		}
		texts = append(texts, row)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return texts
}

func tables(t testing.TB, target skein.Target) []string {
	t.Helper()
	var names []string
	for _, row := range query(t, target, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name") {
		names = append(names, row[0])
	}
	return names
}

// lockTable locks the whole file for other writers.
func lockTable(t testing.TB, target skein.Target, _ string) func() {
	t.Helper()
	db := open(t, target)
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	return func() {
		if _, err := db.ExecContext(t.Context(), "ROLLBACK"); err != nil {
			t.Error(err)
		}
	}
}

func TestConformance(t *testing.T) {
	enginetest.Run(t, enginetest.Config{
		New:           func(opts skein.SessionOptions) skein.Engine { return sqlite.New(opts) },
		NewTarget:     newTarget,
		Exec:          exec,
		Query:         query,
		Tables:        tables,
		LockTable:     lockTable,
		Transactional: true,
		Slow:          "SELECT count(*) FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000000) SELECT i FROM n)",
		Knex: "CREATE TABLE `knex_migrations` (`id` integer not null primary key autoincrement, `name` varchar(255), `batch` integer, `migration_time` datetime);" +
			"CREATE TABLE `knex_migrations_lock` (`index` integer not null primary key autoincrement, `is_locked` integer);" +
			"INSERT INTO `knex_migrations_lock` (`is_locked`) VALUES (0)",
		KnexTime:      "1795434304227",
		KnexTimeMeans: time.Date(2026, 11, 23, 11, 45, 4, 227_000_000, time.UTC),
		Trigger: "CREATE TRIGGER note AFTER INSERT ON watched BEGIN\n" +
			"  INSERT INTO noted VALUES (10 * new.id, CASE WHEN new.note = 'x' THEN 'a;' ELSE 'b' END);\n" +
			"  -- and once more; this is the END;\n" +
			"  INSERT INTO noted VALUES (20 * new.id, 'second');\nEND;\n" +
			"INSERT INTO watched SELECT 1, 'none' WHERE false",
		TriggerStatements: 2,
		Named: map[string]func(testing.TB, string) skein.Target{
			"file":   named,
			"folder": func(t testing.TB, name string) skein.Target { return named(t, filepath.Join(name, "tenant.db")) },
		},
		MaxName: 244, // with the suffix of the lock file, 255
		Missing: map[string]func(testing.TB) skein.Target{
			"file":   func(t testing.TB) skein.Target { return target(filepath.Join(t.TempDir(), "none.db")) },
			"folder": func(t testing.TB) skein.Target { return target(filepath.Join(t.TempDir(), "none", "tenant.db")) },
		},
		Neighbours: []enginetest.Neighbours{{
			Kind: "files of one folder",
			New: func(t testing.TB) (a, b skein.Target) {
				a = named(t, "tenant")
				b = target(a.Database + ".db")
				if err := os.WriteFile(b.Database, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				return a, b
			},
		}},
	})
}
