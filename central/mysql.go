package central

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/skeinhq/skein"
)

// mysqlDialect is MariaDB's too.
type mysqlDialect struct{}

func (mysqlDialect) open(t skein.Target, opts connectOptions) (*sql.DB, error) {
	values := url.Values{}
	for name, value := range t.Options {
		values.Set(name, value)
	}
	// The driver reads the options; what else a DSN holds is set below, where
	// nothing needs to be escaped and no error can repeat it.
	config, err := mysql.ParseDSN("/?" + values.Encode())
	if err != nil {
		return nil, err
	}
	config.User, config.Passwd, config.DBName = t.User, t.Password.Reveal(), t.Database
	config.Net, config.Addr = "tcp", net.JoinHostPort(t.Host, strconv.Itoa(t.Port))
	switch {
	case strings.HasPrefix(t.Host, "/"):
		config.Net, config.Addr = "unix", t.Host
	case t.Host == "" || t.Port == 0:
		config.Addr = net.JoinHostPort(or(t.Host, "localhost"), strconv.Itoa(or(t.Port, skein.DefaultPort(t.Engine))))
	}
	if config.Timeout == 0 {
		config.Timeout = opts.timeout
	}
	config.InterpolateParams = true // one round trip a statement
	config.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

func (mysqlDialect) quote(name string) string {
	return "`" + strings.ReplaceAll(name, "`", "``") + "`"
}

func (mysqlDialect) placeholder(int) string { return "?" }

func isBinary(columnType string) bool {
	return columnType == "binary" || columnType == "varbinary" || strings.HasSuffix(columnType, "blob")
}

func (mysqlDialect) text(column, columnType string, hex bool) string {
	switch {
	case isBinary(columnType) && hex:
		column = "LOWER(HEX(" + column + "))"
	case columnType == "bit":
		column = "CAST(" + column + " AS UNSIGNED)"
	}
	return "COALESCE(CONVERT(" + column + " USING utf8mb4), '') COLLATE utf8mb4_bin"
}

func (mysqlDialect) value(placeholder, columnType string, hex bool) string {
	if hex && isBinary(columnType) {
		return "UNHEX(" + placeholder + ")"
	}
	return placeholder
}

func (mysqlDialect) limit(ctx context.Context, db *sql.DB, schema, table, column string) (limit int, err error) {
	err = db.QueryRowContext(ctx, `SELECT COALESCE(character_maximum_length, 0) FROM information_schema.columns
		WHERE table_schema = COALESCE(NULLIF(?, ''), DATABASE()) AND table_name = ? AND column_name = ?`, schema, table, column).Scan(&limit)
	return limit, err
}

func (mysqlDialect) now() string { return "UTC_TIMESTAMP(6)" }

func (d mysqlDialect) columns(ctx context.Context, db *sql.DB, schema, table string) ([]column, error) {
	q := &query{dialect: d}
	q.add(`SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = `)
	if schema == "" {
		q.add("DATABASE()")
	} else {
		q.add(q.arg(schema))
	}
	q.add(" AND table_name = ", q.arg(table), " ORDER BY ordinal_position")
	return readColumns(ctx, db, q)
}

func (mysqlDialect) sameName(a, b string) bool { return strings.EqualFold(a, b) }

// The lock is the server's, so it has the database's name in it, which is
// hashed to fit in the 64 characters that a lock's name may have.
const mysqlLock = "CONCAT('skein_central_', MD5(DATABASE()))"

// mysqlLockWait is how long another process may take to make Skein's tables,
// in seconds.
const mysqlLockWait = 60

func (mysqlDialect) exclusively(ctx context.Context, db *database, f func(execer) error) (err error) {
	const doing = "lock the central database"
	conn, err := db.Conn(ctx)
	if err != nil {
		return db.fail(doing, err)
	}
	defer func() { _ = conn.Close() }() // back to the pool
	var got sql.NullInt64
	lock := fmt.Sprintf("SELECT GET_LOCK(%s, %d)", mysqlLock, mysqlLockWait)
	if err := conn.QueryRowContext(ctx, lock).Scan(&got); err != nil {
		return db.fail(doing, err)
	}
	if got.Int64 != 1 {
		return db.fail(doing, &skein.DatabaseError{
			Class:   skein.Busy,
			Message: fmt.Sprintf("another process has held the lock for %d s", mysqlLockWait),
		})
	}
	defer func() {
		if _, unlockErr := conn.ExecContext(context.WithoutCancel(ctx), "DO RELEASE_LOCK("+mysqlLock+")"); err == nil {
			err = db.fail("unlock the central database", unlockErr)
		}
	}()
	return f(conn)
}

// MySQL commits before and after each of these, so each does no harm when it
// is run again.
func (mysqlDialect) steps() []step {
	const options = ` ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin`
	return []step{{1, []string{
		`CREATE TABLE IF NOT EXISTS skein_tenants (
			id varchar(64) PRIMARY KEY,
			slug varchar(63) NOT NULL UNIQUE,
			name varchar(255) NOT NULL,
			status varchar(32) NOT NULL,
			engine varchar(16) NOT NULL,
			host varchar(255) NOT NULL,
			port integer NOT NULL,
			database_name varchar(1024) NOT NULL,
			schema_name varchar(63) NOT NULL,
			user_name varchar(128) NOT NULL,
			password text NOT NULL,
			options text NOT NULL,
			created_at datetime(6) NOT NULL,
			updated_at datetime(6) NOT NULL)` + options,
		`CREATE TABLE IF NOT EXISTS skein_tenant_labels (
			tenant_id varchar(64) NOT NULL,
			label varchar(63) NOT NULL,
			value varchar(255) NOT NULL,
			PRIMARY KEY (tenant_id, label),
			KEY skein_tenant_labels_by_value (label, value),
			FOREIGN KEY (tenant_id) REFERENCES skein_tenants (id) ON DELETE CASCADE)` + options,
	}}, {2, []string{provisioningTable(options)}}}
}

func (mysqlDialect) classify(err error) (*skein.DatabaseError, bool) {
	if errors.Is(err, mysql.ErrInvalidConn) {
		return &skein.DatabaseError{Class: skein.ConnectionLost, Message: err.Error()}, false
	}
	e, ok := errors.AsType[*mysql.MySQLError](err)
	if !ok {
		return nil, false
	}
	out := &skein.DatabaseError{Class: skein.Permanent, Code: strconv.Itoa(int(e.Number)), Message: e.Message}
	switch e.Number {
	case 1044, 1045, 1142, 1143, 1227, 1370, 1698:
		out.Class = skein.Denied
		out.Hint = "check the user in the address of the central database, its password and its rights"
	case 1049:
		out.Class = skein.NoDatabase
		out.Hint = "create it, or correct the address of the central database"
	case 1040, 1203, 1205, 1213, 1226: // too many connections; a lock timeout or deadlock
		out.Class = skein.Transient
	case 1053, 1077, 1079, 1927, 3169: // the server shuts down, or the session was killed
		out.Class = skein.ConnectionLost
	}
	return out, e.Number == 1062
}
