package main

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	_ "github.com/go-sql-driver/mysql" // the driver "mysql"
)

// A mysqlFleet is a database for each tenant, with a user of its own.
type mysqlFleet struct {
	servers *servers
	db      *sql.DB
}

func newMySQLFleet(s *servers) (*mysqlFleet, error) {
	admin := tenant{Host: s.mysql.Host, Port: s.mysql.Port, User: s.mysql.User, Password: s.mysql.Password}
	db, err := sql.Open("mysql", admin.mysqlDSN("multiStatements=true"))
	if err != nil {
		return nil, fmt.Errorf("connect to MariaDB: %w", err)
	}
	return &mysqlFleet{servers: s, db: db}, nil
}

func (f *mysqlFleet) name() string { return mysql }

func (f *mysqlFleet) title() string { return "MariaDB, a database a tenant" }

func (f *mysqlFleet) engine() string { return mysql }

func (f *mysqlFleet) administrator() *account { return &f.servers.mysql }

func (f *mysqlFleet) cpu() (float64, error) {
	pid, err := f.servers.pid("mariadb/data/pid")
	if err != nil {
		return 0, err
	}
	return treeCPU(pid)
}

func (f *mysqlFleet) tenants(n int) []tenant {
	tenants := make([]tenant, n)
	for i := range tenants {
		tenants[i] = tenant{
			Slug: slug(i), Engine: mysql, Host: f.servers.mysql.Host, Port: f.servers.mysql.Port,
			Database: slug(i), User: slug(i), Password: "password-of-" + slug(i),
		}
	}
	return tenants
}

func (f *mysqlFleet) exec(ctx context.Context, statement string) error {
	if _, err := f.db.ExecContext(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}

func (f *mysqlFleet) prepare(ctx context.Context, n int) error {
	for _, t := range f.tenants(n) {
		err := f.exec(ctx, fmt.Sprintf("CREATE USER IF NOT EXISTS '%s'@'%%' IDENTIFIED BY '%s'; GRANT ALL PRIVILEGES ON `%s`.* TO '%s'@'%%'", t.User, t.Password, t.Database, t.User))
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *mysqlFleet) create(ctx context.Context, n int) error {
	if err := f.drop(ctx); err != nil {
		return err
	}
	for _, t := range f.tenants(n) {
		if err := f.exec(ctx, "CREATE DATABASE "+t.Database); err != nil {
			return err
		}
	}
	return nil
}

func (f *mysqlFleet) query(ctx context.Context, query string) ([][]string, error) {
	rows, err := f.db.QueryContext(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", query, err)
	}
	return readRows(rows)
}

// readRows reads the one column of all rows.
func readRows(rows *sql.Rows) ([][]string, error) {
	defer rows.Close()
	var all [][]string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		all = append(all, []string{s})
	}
	return all, rows.Err()
}

func (f *mysqlFleet) drop(ctx context.Context) error {
	databases, err := f.query(ctx, "SELECT schema_name FROM information_schema.schemata WHERE schema_name NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys')")
	if err != nil {
		return err
	}
	err = inParallel(ctx, len(databases), func(ctx context.Context, i int) error {
		return f.exec(ctx, "DROP DATABASE `"+databases[i][0]+"`")
	})
	if err != nil {
		return err
	}
	users, err := f.query(ctx, "SELECT concat('`', user, '`@`', host, '`') FROM mysql.user WHERE user LIKE 'tenant\\_%'")
	if err != nil {
		return err
	}
	for _, u := range users {
		if err := f.exec(ctx, "DROP USER "+u[0]); err != nil {
			return err
		}
	}
	return nil
}

func (f *mysqlFleet) settle(context.Context) error { return nil }

func (f *mysqlFleet) shape(ctx context.Context, t tenant) (string, error) {
	in := "= '" + t.Database + "' AND table_name IN ('" + strings.Join(crmTables, "', '") + "')"
	rows, err := f.query(ctx, "SELECT concat(table_name, '.', column_name) AS line FROM information_schema.columns WHERE table_schema "+in+
		" UNION ALL SELECT concat(table_name, ': ', count(DISTINCT index_name), ' indexes') FROM information_schema.statistics WHERE table_schema "+in+" GROUP BY table_name ORDER BY line")
	if err != nil {
		return "", err
	}
	return lines(rows), nil
}

func (f *mysqlFleet) durability(ctx context.Context) (string, error) {
	rows, err := f.query(ctx, "SELECT concat('innodb_flush_log_at_trx_commit ', @@innodb_flush_log_at_trx_commit, ', innodb_doublewrite ', @@innodb_doublewrite, ', log_bin ', @@log_bin)")
	if err != nil {
		return "", err
	}
	return rows[0][0], nil
}

func (f *mysqlFleet) version(ctx context.Context) (string, error) {
	rows, err := f.query(ctx, "SELECT version()")
	if err != nil {
		return "", err
	}
	number, _, _ := strings.Cut(rows[0][0], "-")
	return "MariaDB " + number, nil
}
