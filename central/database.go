package central

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/secret"
)

// A database is the connection to a central database.
type database struct {
	*sql.DB
	dialect
	target skein.Target
}

type connectOptions struct {
	timeout  time.Duration
	create   bool // a SQLite file that does not exist
	readOnly bool
}

// A dialect is what differs between the databases that can be central.
type dialect interface {
	open(target skein.Target, opts connectOptions) (*sql.DB, error)
	// quote quotes an identifier.
	quote(name string) string
	// placeholder is the nth parameter of a statement, counted from 1.
	placeholder(n int) string
	// text is an expression for a column as text: never NULL, and compared
	// byte by byte. Bytes become hexadecimal digits where hex is set.
	text(column, columnType string, hex bool) string
	// value is an expression for what a text stands for in a column, as the
	// counterpart of text.
	value(placeholder, columnType string, hex bool) string
	// limit is how many characters a column takes, 0 for as many as one likes.
	limit(ctx context.Context, db *sql.DB, schema, table, column string) (int, error)
	// now is an expression for the present instant in UTC.
	now() string
	// columns are the columns of a table with their types, none if there is no
	// such table. An empty schema means where the session looks.
	columns(ctx context.Context, db *sql.DB, schema, table string) ([]column, error)
	// sameName says whether two column names mean the same column.
	sameName(a, b string) bool
	// exclusively runs f while nobody else who calls this does. Where the
	// database can, all that f does is one transaction.
	exclusively(ctx context.Context, db *database, f func(execer) error) error
	// steps are the statements that make Skein's own tables.
	steps() []step
	// classify reads the driver's error, nil if it is none of the database's
	// own. Duplicate says that a unique key has the value already.
	classify(err error) (e *skein.DatabaseError, duplicate bool)
}

type column struct{ name, typ string }

// An execer is a connection or a transaction.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func connect(ctx context.Context, target skein.Target, opts connectOptions) (*database, error) {
	db := &database{target: target}
	switch target.Engine {
	case skein.PostgreSQL:
		db.dialect = postgres{}
	case skein.MySQL:
		db.dialect = mysqlDialect{}
	case skein.SQLite:
		db.dialect = sqliteDialect{}
	default:
		return nil, fmt.Errorf("engine %q cannot hold the central database", target.Engine)
	}
	pool, err := db.open(target, opts)
	if err != nil {
		return nil, db.fail("connect to the central database "+target.String(), err)
	}
	pool.SetMaxOpenConns(8)
	pool.SetConnMaxIdleTime(time.Minute)
	db.DB = pool
	if err := pool.PingContext(ctx); err != nil {
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			err = &skein.DatabaseError{Class: skein.Unreachable, Message: fmt.Sprintf("no answer within %s", opts.timeout)}
		}
		return nil, errors.Join(db.fail("connect to the central database "+target.String(), err), pool.Close())
	}
	return db, nil
}

// transaction runs f in a transaction and commits it if f returns no error.
func (db *database) transaction(ctx context.Context, doing string, f func(execer) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return db.fail(doing, err)
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	if err := f(tx); err != nil {
		return err
	}
	return db.fail(doing, tx.Commit())
}

// errDuplicate is in the chain of an error that comes from a unique key.
var errDuplicate = errors.New("a unique key has the value already")

// fail wraps an error of the driver as one that holds no secrets.
func (db *database) fail(doing string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*skein.DatabaseError](err); ok {
		return fmt.Errorf("%s: %w", doing, e)
	}
	if e, duplicate := db.classify(err); e != nil {
		e.Message = secret.Scrub(e.Message, db.target.Password)
		e.Detail = secret.Scrub(e.Detail, db.target.Password)
		if duplicate {
			return fmt.Errorf("%s: %w (%w)", doing, e, errDuplicate)
		}
		return fmt.Errorf("%s: %w", doing, e)
	}
	if ctxErr := contextError(err); ctxErr != nil {
		return fmt.Errorf("%s: %w", doing, ctxErr)
	}
	for _, lost := range []error{driver.ErrBadConn, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed} {
		if errors.Is(err, lost) {
			return fmt.Errorf("%s: %w", doing, &skein.DatabaseError{Class: skein.ConnectionLost, Message: "the connection ended"})
		}
	}
	if e, ok := errors.AsType[net.Error](err); ok {
		return fmt.Errorf("%s: %w", doing, &skein.DatabaseError{
			Class: skein.Unreachable, Message: secret.Scrub(e.Error(), db.target.Password),
		})
	}
	return fmt.Errorf("%s: %w", doing, secret.Clean(err, db.target.Password))
}

func contextError(err error) error {
	for _, target := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, target) {
			return target
		}
	}
	return nil
}

// A query is a statement that is being written, with its arguments.
type query struct {
	dialect dialect
	text    strings.Builder
	args    []any
}

func (db *database) newQuery(text string) *query {
	q := &query{dialect: db.dialect}
	q.add(text)
	return q
}

func (q *query) add(parts ...string) {
	for _, p := range parts {
		q.text.WriteString(p)
	}
}

// arg adds an argument and is the placeholder for it.
func (q *query) arg(value any) string {
	q.args = append(q.args, value)
	return q.dialect.placeholder(len(q.args))
}

// in writes a list of arguments in parentheses.
func (q *query) in(values []string) {
	for i, v := range values {
		q.add(separator(i), q.arg(v))
	}
	q.add(")")
}

func separator(i int) string {
	if i == 0 {
		return "("
	}
	return ", "
}

// each runs a query and calls f for every row.
func (q *query) each(ctx context.Context, db execer, f func(*sql.Rows) error) error {
	rows, err := db.QueryContext(ctx, q.text.String(), q.args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // rows.Err says what there is to say
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (q *query) exec(ctx context.Context, db execer) (sql.Result, error) {
	return db.ExecContext(ctx, q.text.String(), q.args...)
}
