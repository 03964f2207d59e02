package central

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/skeinhq/skein"
)

type postgres struct{}

func (d postgres) open(t skein.Target, opts connectOptions) (*sql.DB, error) {
	values := url.Values{}
	for name, value := range t.Options {
		values.Set(name, value)
	}
	values.Set("host", or(t.Host, "localhost"))
	values.Set("port", strconv.Itoa(or(t.Port, skein.DefaultPort(t.Engine))))
	values.Set("dbname", t.Database)
	// Without user and password, which are set below: no error can repeat them.
	config, err := pgx.ParseConfig("postgres:///?" + values.Encode())
	if err != nil {
		return nil, err
	}
	if t.User != "" {
		config.User = t.User
	}
	if !t.Password.IsZero() {
		config.Password = t.Password.Reveal()
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = opts.timeout
	}
	if t.Schema != "" {
		config.RuntimeParams["search_path"] = d.quote(t.Schema)
	}
	if _, ok := t.Options["application_name"]; !ok {
		config.RuntimeParams["application_name"] = "skein"
	}
	// No prepared statements, so that a pooler such as PgBouncer may be between.
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	return stdlib.OpenDB(*config), nil
}

func (postgres) quote(name string) string { return pgx.Identifier{name}.Sanitize() }

func (postgres) placeholder(n int) string { return "$" + strconv.Itoa(n) }

func (postgres) text(column, columnType string, hex bool) string {
	switch {
	case columnType == "bytea" && hex:
		column = "encode(" + column + ", 'hex')"
	case columnType == "bytea":
		column = "encode(" + column + ", 'escape')"
	default:
		column += "::text"
	}
	return "COALESCE(" + column + `, '') COLLATE "C"`
}

func (postgres) value(placeholder, columnType string, hex bool) string {
	switch {
	case columnType == "":
		return placeholder
	case columnType == "bytea" && hex:
		return "decode(" + placeholder + ", 'hex')"
	case columnType == "bytea":
		return "decode(" + placeholder + ", 'escape')"
	case columnType == "character": // that alone would mean one character
		columnType = "bpchar"
	}
	return "CAST(" + placeholder + " AS " + columnType + ")"
}

func (d postgres) limit(ctx context.Context, db *sql.DB, schema, table, column string) (limit int, err error) {
	name := d.quote(table)
	if schema != "" {
		name = d.quote(schema) + "." + name
	}
	err = db.QueryRowContext(ctx, `SELECT CASE WHEN atttypid IN ('varchar'::regtype, 'bpchar'::regtype) AND atttypmod > 4
		THEN atttypmod - 4 ELSE 0 END FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = $2`, name, column).Scan(&limit)
	return limit, err
}

func (postgres) now() string { return "now()" }

func (d postgres) columns(ctx context.Context, db *sql.DB, schema, table string) ([]column, error) {
	name := d.quote(table)
	if schema != "" {
		name = d.quote(schema) + "." + name
	}
	q := &query{dialect: d}
	q.add(`SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute
		WHERE attrelid = to_regclass(`, q.arg(name), `) AND attnum > 0 AND NOT attisdropped ORDER BY attnum`)
	return readColumns(ctx, db, q)
}

func readColumns(ctx context.Context, db *sql.DB, q *query) ([]column, error) {
	var columns []column
	err := q.each(ctx, db, func(rows *sql.Rows) error {
		var c column
		err := rows.Scan(&c.name, &c.typ)
		columns = append(columns, c)
		return err
	})
	return columns, err
}

func (postgres) sameName(a, b string) bool { return a == b }

// schemaLock is the key of the advisory lock, "skein" in ASCII, under which
// Skein's own tables are made.
const schemaLock = 0x736b65696e

func (postgres) exclusively(ctx context.Context, db *database, f func(execer) error) error {
	const doing = "lock the central database"
	return db.transaction(ctx, doing, func(tx execer) error {
		if _, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock("+strconv.Itoa(schemaLock)+")"); err != nil {
			return db.fail(doing, err)
		}
		return f(tx)
	})
}

func (postgres) steps() []step {
	return []step{{1, []string{
		`CREATE TABLE skein_tenants (
			id text COLLATE "C" PRIMARY KEY,
			slug text COLLATE "C" NOT NULL UNIQUE,
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
			created_at timestamptz NOT NULL,
			updated_at timestamptz NOT NULL)`,
		`CREATE TABLE skein_tenant_labels (
			tenant_id text COLLATE "C" NOT NULL REFERENCES skein_tenants (id) ON DELETE CASCADE,
			label text COLLATE "C" NOT NULL,
			value text COLLATE "C" NOT NULL,
			PRIMARY KEY (tenant_id, label))`,
		`CREATE INDEX skein_tenant_labels_by_value ON skein_tenant_labels (label, value)`,
	}}, {2, []string{provisioningTable("")}}}
}

func (postgres) classify(err error) (*skein.DatabaseError, bool) {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return nil, false
	}
	out := &skein.DatabaseError{Class: skein.Permanent, Code: e.Code, Message: e.Message, Detail: e.Detail, Hint: e.Hint}
	switch {
	case e.Code == "42501":
		out.Class = skein.Denied
	case e.Code == "3D000":
		out.Class = skein.NoDatabase
		out.Hint = "create it, or correct the address of the central database"
	case strings.HasPrefix(e.Code, "28"):
		out.Class = skein.Denied
		out.Hint = "check the user and password in the address of the central database"
	case strings.HasPrefix(e.Code, "57P"): // the server shuts down, or starts
		out.Class = skein.ConnectionLost
	case strings.HasPrefix(e.Code, "40"), strings.HasPrefix(e.Code, "53"): // a deadlock; too few resources
		out.Class = skein.Transient
	}
	return out, e.Code == "23505"
}
