package dbtest

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/go-sql-driver/mysql"
)

type mySQL struct{}

func (mySQL) connect(ctx context.Context, admin *url.URL, database string) (session, error) {
	config := mysql.NewConfig()
	config.Net = "tcp"
	config.Addr = admin.Host
	config.User = admin.User.Username()
	config.Passwd, _ = admin.User.Password()
	config.DBName = strings.TrimPrefix(admin.Path, "/")
	if database != "" {
		config.DBName = database
	}
	config.MultiStatements = true
	config.InterpolateParams = true // KILL and the like take no placeholders of the server
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return mySQLSession{db, conn}, nil
}

func (mySQL) createUser(ctx context.Context, s session, user, password string) error {
	return s.exec(ctx, "CREATE USER ?@'%' IDENTIFIED BY ?", user, password)
}

func (mySQL) createDatabase(ctx context.Context, s session, database, user string) error {
	// In the name of a database, GRANT takes _ and % for wildcards. It counts
	// the backslashes that make them plain, so the longest names do without.
	pattern := strings.NewReplacer("_", `\_`, "%", `\%`).Replace(database)
	if utf8.RuneCountInString(pattern) > 64 {
		pattern = database
	}
	// The right may come before the database; should the database not come
	// after, it goes with the account.
	if err := s.exec(ctx, "GRANT ALL PRIVILEGES ON "+quoteMySQL(pattern)+".* TO ?@'%'", user); err != nil {
		return err
	}
	return s.exec(ctx, "CREATE DATABASE "+quoteMySQL(database))
}

func (mySQL) dropDatabase(ctx context.Context, s session, database string) error {
	if err := kill(ctx, s, "db", database); err != nil {
		return err
	}
	return s.exec(ctx, "DROP DATABASE IF EXISTS "+quoteMySQL(database))
}

func (mySQL) dropUser(ctx context.Context, s session, user string) error {
	if err := kill(ctx, s, "user", user); err != nil {
		return err
	}
	return s.exec(ctx, "DROP USER IF EXISTS ?@'%'", user)
}

// kill ends the sessions whose db or user is value.
func kill(ctx context.Context, s session, column, value string) error {
	rows, err := s.query(ctx, "SELECT id FROM information_schema.processlist WHERE "+column+" = ?", value)
	if err != nil {
		return err
	}
	for _, row := range rows {
		const noSuchThread = 1094
		var e *mysql.MySQLError
		err := s.exec(ctx, "KILL "+row[0])
		if errors.As(err, &e) && e.Number == noSuchThread {
			continue // it ended by itself in the meantime
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func quoteMySQL(name string) string {
	return "`" + strings.ReplaceAll(name, "`", "``") + "`"
}

type mySQLSession struct {
	db   *sql.DB
	conn *sql.Conn
}

func (s mySQLSession) exec(ctx context.Context, query string, args ...any) error {
	_, err := s.conn.ExecContext(ctx, query, args...)
	return err
}

func (s mySQLSession) query(ctx context.Context, query string, args ...any) ([][]string, error) {
	rows, err := s.conn.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	values := make([]sql.RawBytes, len(columns))
	into := make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	var texts [][]string
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		row := make([]string, len(columns))
		for i, value := range values {
			row[i] = text(value)
		}
		texts = append(texts, row)
	}
	return texts, rows.Err()
}

func (s mySQLSession) close(context.Context) error {
	return errors.Join(s.conn.Close(), s.db.Close())
}
