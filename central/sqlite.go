package central

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/skeinhq/skein"
)

type sqliteDialect struct{}

func (sqliteDialect) open(t skein.Target, opts connectOptions) (*sql.DB, error) {
	if opts.create {
		if err := createFile(t.Database); err != nil {
			return nil, err
		}
	} else if _, err := os.Stat(t.Database); errors.Is(err, fs.ErrNotExist) {
		return nil, &skein.DatabaseError{
			Class: skein.NoDatabase, Message: "there is no such file",
			Hint: "make it with: skein init, or correct the address of the central database",
		}
	}
	values := url.Values{
		// SQLite would make a file that went away in between.
		"mode":    {"rw"},
		"_txlock": {"immediate"},
		"_pragma": {"busy_timeout(10000)", "foreign_keys(1)"},
	}
	switch {
	case opts.readOnly:
		// mode=ro cannot read a file in WAL mode whose folder is not writable.
		values.Add("_pragma", "query_only(1)")
	case opts.create:
		values.Add("_pragma", "journal_mode(wal)")
	}
	path := escapePath(t.Database)
	return sql.Open("sqlite", "file:"+path+"?"+values.Encode())
}

// createFile makes the file and its folder, for their owner alone: it will hold
// who the tenants are and where.
func createFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func (sqliteDialect) quote(name string) string {
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

func (sqliteDialect) placeholder(int) string { return "?" }

func (sqliteDialect) text(column, _ string, _ bool) string {
	return "COALESCE(CAST(" + column + " AS TEXT), '') COLLATE BINARY"
}

func (sqliteDialect) value(placeholder, _ string, _ bool) string { return placeholder }

func (sqliteDialect) limit(context.Context, *sql.DB, string, string, string) (int, error) {
	return 0, nil
}

func (sqliteDialect) now() string { return "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')" }

func (d sqliteDialect) columns(ctx context.Context, db *sql.DB, schema, table string) ([]column, error) {
	q := &query{dialect: d}
	q.add("SELECT name, type FROM pragma_table_info(", q.arg(table))
	if schema != "" {
		q.add(", ", q.arg(schema))
	}
	q.add(")")
	return readColumns(ctx, db, q)
}

func (sqliteDialect) sameName(a, b string) bool { return strings.EqualFold(a, b) }

// A transaction begins with the file's write lock (_txlock above).
func (sqliteDialect) exclusively(ctx context.Context, db *database, f func(execer) error) error {
	return db.transaction(ctx, "lock the central database", f)
}

func (sqliteDialect) steps() []step {
	return []step{{1, []string{
		`CREATE TABLE skein_tenants (
			id text PRIMARY KEY NOT NULL,
			slug text NOT NULL UNIQUE,
			name text NOT NULL,
			status text NOT NULL,
			engine text NOT NULL,
			host text NOT NULL,
			port integer NOT NULL,
			database_name text NOT NULL,
			schema_name text NOT NULL,
			user_name text NOT NULL,
			password text NOT NULL,
			options text NOT NULL,
			created_at text NOT NULL,
			updated_at text NOT NULL)`,
		`CREATE TABLE skein_tenant_labels (
			tenant_id text NOT NULL REFERENCES skein_tenants (id) ON DELETE CASCADE,
			label text NOT NULL,
			value text NOT NULL,
			PRIMARY KEY (tenant_id, label)) WITHOUT ROWID`,
		`CREATE INDEX skein_tenant_labels_by_value ON skein_tenant_labels (label, value)`,
	}}, {2, []string{provisioningTable("")}}}
}

func (sqliteDialect) classify(err error) (*skein.DatabaseError, bool) {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return nil, false
	}
	out := &skein.DatabaseError{Class: skein.Permanent, Code: sqlite.ErrorCodeString[e.Code()], Message: e.Error()}
	switch e.Code() & 0xff { // the rest of an extended code says more of the same
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		out.Class = skein.Busy
	case sqlite3.SQLITE_CANTOPEN:
		out.Class = skein.NoDatabase
	case sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_AUTH:
		out.Class = skein.Denied
	}
	return out, e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY
}

// escapePath writes a path for a SQLite URI (https://www.sqlite.org/uri.html).
func escapePath(path string) string {
	return strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23").Replace(filepath.ToSlash(path))
}
