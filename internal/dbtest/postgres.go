package dbtest

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5"
)

type postgres struct{}

func (postgres) connect(ctx context.Context, admin *url.URL, database string) (session, error) {
	config, err := pgx.ParseConfig(admin.String())
	if err != nil {
		return nil, err
	}
	if database != "" {
		config.Database = database
	}
	// The simple protocol takes several statements at once and answers in text.
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	return postgresSession{conn}, nil
}

func (postgres) createUser(ctx context.Context, s session, user, password string) error {
	return s.exec(ctx, "CREATE ROLE "+quotePostgres(user)+
		" LOGIN PASSWORD '"+strings.ReplaceAll(password, "'", "''")+"'")
}

func (postgres) createDatabase(ctx context.Context, s session, database, user string) error {
	if len(database) > 63 {
		return fmt.Errorf("a name of %d bytes: PostgreSQL silently cuts names off after 63", len(database))
	}
	version, err := s.query(ctx, "SHOW server_version_num")
	if err != nil {
		return err
	}
	// Copying template1 fails while anyone is connected to it. Copying files,
	// the only way before 15, is several times faster than the later default.
	create := "CREATE DATABASE " + quotePostgres(database) + " OWNER " + quotePostgres(user) + " TEMPLATE template0"
	if version[0][0] >= "150000" {
		create += " STRATEGY file_copy"
	}
	return s.exec(ctx, create)
}

func (postgres) dropDatabase(ctx context.Context, s session, database string) error {
	return s.exec(ctx, "DROP DATABASE IF EXISTS "+quotePostgres(database)+" WITH (FORCE)")
}

func (postgres) dropUser(ctx context.Context, s session, user string) error {
	err := s.exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", user)
	if err != nil {
		return err
	}
	return s.exec(ctx, "DROP ROLE IF EXISTS "+quotePostgres(user))
}

func quotePostgres(name string) string { return pgx.Identifier{name}.Sanitize() }

type postgresSession struct{ conn *pgx.Conn }

func (s postgresSession) exec(ctx context.Context, sql string, args ...any) error {
	_, err := s.conn.Exec(ctx, sql, args...)
	return err
}

func (s postgresSession) query(ctx context.Context, sql string, args ...any) ([][]string, error) {
	rows, err := s.conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) ([]string, error) {
		values := row.RawValues()
		texts := make([]string, len(values))
		for i, value := range values {
			texts[i] = text(value)
		}
		return texts, nil
	})
}

func (s postgresSession) close(ctx context.Context) error { return s.conn.Close(ctx) }
