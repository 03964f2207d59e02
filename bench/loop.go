package main

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	sqldriver "github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"
)

// A loopJob is what a bare loop does.
type loopJob struct {
	Engine     string
	Op         operation
	Kept       bool // connections serve one tenant after another
	AtOnce     int
	Tenants    []tenant
	Migrations []migration // all
	Admin      *account
	Template   string // for opProvision: the database, or file, to copy
	History    string // the table that is read, where it is another tool's
}

// loopMain is the process of a bare loop.
func loopMain(ctx context.Context, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var job loopJob
	if err := json.Unmarshal(text, &job); err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	return job.run(ctx)
}

// run lets so many workers take tenants from one queue.
func (j *loopJob) run(ctx context.Context) error {
	next := make(chan tenant)
	failed := make(chan error, j.AtOnce)
	var wait sync.WaitGroup
	for range j.AtOnce {
		wait.Go(func() {
			w, err := j.worker(ctx)
			for t := range next {
				if err == nil {
					err = w.serve(ctx, t)
				}
			}
			if w != nil {
				err = errors.Join(err, w.close())
			}
			if err != nil {
				failed <- err
			}
		})
	}
	for _, t := range j.Tenants {
		next <- t
	}
	close(next)
	wait.Wait()
	close(failed)
	return <-failed
}

// A loopWorker serves one tenant after another.
type loopWorker interface {
	serve(ctx context.Context, t tenant) error
	close() error
}

func (j *loopJob) worker(ctx context.Context) (loopWorker, error) {
	switch j.Engine {
	case postgres:
		return newPostgresLoop(ctx, j)
	case mysql:
		return newMySQLLoop(ctx, j)
	}
	return &sqliteLoop{j}, nil
}

// pending are the migrations to be run, in the order of running, each with its record.
func (j *loopJob) pending() []migration {
	switch j.Op {
	case opFresh, opProvision:
		return j.Migrations[:6]
	case opColumn, opRollback:
		return j.Migrations[6:]
	}
	return nil
}

// text is a migration and its record, as one text to send.
func (j *loopJob) text(m migration) string {
	if j.Op == opRollback {
		return bare(m.Down) + "; DELETE FROM history WHERE name = '" + m.Name + "'"
	}
	return bare(m.Up) + "; INSERT INTO history (name) VALUES ('" + m.Name + "')"
}

// bare is SQL without its last semicolon: MariaDB refuses an empty statement.
func bare(sql string) string { return strings.TrimRight(sql, "; \n") }

const makeHistory = "CREATE TABLE history (name varchar(255) NOT NULL PRIMARY KEY, applied_at timestamp NOT NULL DEFAULT current_timestamp)"

// readHistory is the query for a tenant's history; in is its schema or database, or
// nothing.
func (j *loopJob) readHistory(in string) string {
	table := cmp.Or(j.History, "history")
	if in != "" {
		table = in + "." + table
	}
	return "SELECT name FROM " + table
}

// A postgresLoop sends each migration, with its record, in one flight, and all of a
// fresh tenant's in one.
type postgresLoop struct {
	job  *loopJob
	kept *pgconn.PgConn // nil: a connection for each tenant
}

func newPostgresLoop(ctx context.Context, j *loopJob) (loopWorker, error) {
	l := &postgresLoop{job: j}
	var err error
	switch {
	case j.Op == opProvision:
		admin := tenant{Engine: postgres, Host: j.Admin.Host, Port: j.Admin.Port, Database: "postgres", User: j.Admin.User, Password: j.Admin.Password}
		l.kept, err = pgconn.Connect(ctx, admin.url())
	case j.Kept:
		shared := j.Tenants[0]
		shared.Schema = ""
		l.kept, err = pgconn.Connect(ctx, shared.url())
	}
	return l, err
}

func (l *postgresLoop) close() error {
	if l.kept == nil {
		return nil
	}
	return l.kept.Close(context.Background())
}

func (l *postgresLoop) serve(ctx context.Context, t tenant) (err error) {
	conn := l.kept
	if conn == nil {
		if conn, err = pgconn.Connect(ctx, t.url()); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	}
	exec := func(text string) {
		if err == nil {
			_, err = conn.Exec(ctx, text).ReadAll()
		}
	}
	begin := "BEGIN; "
	if l.kept != nil {
		begin = "BEGIN; SET LOCAL search_path TO " + t.Schema + "; "
	}
	switch l.job.Op {
	case opProvision:
		exec("CREATE DATABASE " + t.Database + " TEMPLATE " + l.job.Template)
		return err
	case opFresh:
		text := begin + makeHistory + "; COMMIT"
		for _, m := range l.job.pending() {
			text += "; " + begin + l.job.text(m) + "; COMMIT"
		}
		exec(text)
		return err
	}
	exec(l.job.readHistory(t.Schema))
	for _, m := range l.job.pending() {
		exec(begin + l.job.text(m) + "; COMMIT")
	}
	return err
}

// A mysqlLoop sends each migration, with its record, in one flight.
type mysqlLoop struct {
	job  *loopJob
	kept driver.Conn // nil: a connection for each tenant
}

func newMySQLLoop(ctx context.Context, j *loopJob) (loopWorker, error) {
	l := &mysqlLoop{job: j}
	if !j.Kept && j.Op != opProvision {
		return l, nil
	}
	var err error
	l.kept, err = mysqlConnect(ctx, tenant{Host: j.Admin.Host, Port: j.Admin.Port, User: j.Admin.User, Password: j.Admin.Password})
	return l, err
}

func mysqlConnect(ctx context.Context, t tenant) (driver.Conn, error) {
	config, err := sqldriver.ParseDSN(t.mysqlDSN("multiStatements=true"))
	if err != nil {
		return nil, err
	}
	connector, err := sqldriver.NewConnector(config)
	if err != nil {
		return nil, err
	}
	return connector.Connect(ctx)
}

func (l *mysqlLoop) close() error {
	if l.kept == nil {
		return nil
	}
	return l.kept.Close()
}

func (l *mysqlLoop) serve(ctx context.Context, t tenant) (err error) {
	conn := l.kept
	if conn == nil {
		if conn, err = mysqlConnect(ctx, t); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, conn.Close()) }()
	}
	exec := func(text string) {
		if err == nil {
			_, err = conn.(driver.ExecerContext).ExecContext(ctx, text, nil)
		}
	}
	switch l.job.Op {
	case opProvision:
		exec("CREATE DATABASE " + t.Database + "; USE " + t.Database + "; " + makeHistory)
	case opFresh:
		exec(makeHistory)
	default:
		query := l.job.readHistory("")
		if l.kept != nil {
			query = l.job.readHistory(t.Database)
		}
		if err := mysqlRead(ctx, conn, query); err != nil {
			return err
		}
	}
	for _, m := range l.job.pending() {
		exec(l.job.text(m))
	}
	return err
}

func mysqlRead(ctx context.Context, conn driver.Conn, query string) error {
	rows, err := conn.(driver.QueryerContext).QueryContext(ctx, query, nil)
	if err != nil {
		return err
	}
	defer rows.Close() //nolint:errcheck // read to the end
	values := make([]driver.Value, len(rows.Columns()))
	for {
		err := rows.Next(values)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// A sqliteLoop runs each migration, with its record, in one transaction.
type sqliteLoop struct{ job *loopJob }

func (l *sqliteLoop) close() error { return nil }

func (l *sqliteLoop) serve(ctx context.Context, t tenant) (err error) {
	if l.job.Op == opProvision {
		return copyFile(l.job.Template, t.Database)
	}
	db, err := sql.Open("sqlite", t.Database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	exec := func(text string) {
		if err == nil {
			_, err = db.ExecContext(ctx, text)
		}
	}
	if l.job.Op == opFresh {
		text := "BEGIN; " + makeHistory
		for _, m := range l.job.pending() {
			text += "; " + l.job.text(m)
		}
		exec(text + "; COMMIT")
		return err
	}
	rows, err := db.QueryContext(ctx, l.job.readHistory(""))
	if err != nil {
		return err
	}
	if _, err := readRows(rows); err != nil {
		return err
	}
	for _, m := range l.job.pending() {
		exec("BEGIN; " + l.job.text(m) + "; COMMIT")
	}
	return err
}

// copyFile copies a file, and lets it reach the disk with its name.
func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // it was read alone
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	if err := out.Sync(); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(to))
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // nothing was written to it
	return dir.Sync()
}
