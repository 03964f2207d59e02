package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// A sqliteFleet is a file for each tenant.
type sqliteFleet struct{ dir string }

func (f *sqliteFleet) name() string { return sqlite }

func (f *sqliteFleet) title() string { return "SQLite, a file a tenant" }

func (f *sqliteFleet) engine() string { return sqlite }

func (f *sqliteFleet) administrator() *account { return nil }

func (f *sqliteFleet) cpu() (float64, error) { return 0, nil }

func (f *sqliteFleet) prepare(context.Context, int) error { return nil }

func (f *sqliteFleet) tenants(n int) []tenant {
	tenants := make([]tenant, n)
	for i := range tenants {
		tenants[i] = tenant{Slug: slug(i), Engine: sqlite, Database: filepath.Join(f.dir, slug(i)+".db")}
	}
	return tenants
}

func (f *sqliteFleet) create(ctx context.Context, n int) error {
	if err := f.drop(ctx); err != nil {
		return err
	}
	for _, t := range f.tenants(n) {
		if err := os.WriteFile(t.Database, nil, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (f *sqliteFleet) drop(context.Context) error {
	if err := os.RemoveAll(f.dir); err != nil {
		return err
	}
	return os.MkdirAll(f.dir, 0o700)
}

func (f *sqliteFleet) settle(context.Context) error { return nil }

func (f *sqliteFleet) shape(ctx context.Context, t tenant) (string, error) {
	db, err := sql.Open("sqlite", t.Database)
	if err != nil {
		return "", err
	}
	defer db.Close() //nolint:errcheck // it was read alone
	in := " IN ('" + strings.Join(crmTables, "', '") + "')"
	rows, err := db.QueryContext(ctx, "SELECT m.name || '.' || c.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name"+in+
		" UNION ALL SELECT tbl_name || ': ' || count(*) || ' indexes' FROM sqlite_master WHERE type = 'index' AND tbl_name"+in+" GROUP BY tbl_name ORDER BY 1")
	if err != nil {
		return "", fmt.Errorf("read the tables of %s: %w", t.Slug, err)
	}
	all, err := readRows(rows)
	return lines(all), err
}
