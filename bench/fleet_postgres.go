package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// trustRole logs in without a password, for pgbench.
const trustRole = "bench_trust"

// sharedDatabase has a schema for each tenant.
const sharedDatabase = "bench_shared"

// A postgresFleet is a database for each tenant, with a role of its own; or a
// schema for each in one database, with one role for all.
type postgresFleet struct {
	servers *servers
	schemas bool
}

func (f *postgresFleet) name() string {
	if f.schemas {
		return schemaFleet
	}
	return postgres
}

func (f *postgresFleet) title() string {
	if f.schemas {
		return "PostgreSQL, a schema a tenant"
	}
	return "PostgreSQL, a database a tenant"
}

func (f *postgresFleet) engine() string { return postgres }

func (f *postgresFleet) administrator() *account { return &f.servers.postgres }

func (f *postgresFleet) cpu() (float64, error) {
	pid, err := f.servers.pid("postgres/data/postmaster.pid")
	if err != nil {
		return 0, err
	}
	return treeCPU(pid)
}

// exec runs statements as the administrator, each by itself.
func (f *postgresFleet) exec(ctx context.Context, database string, statements ...string) ([][]string, error) {
	admin := f.servers.postgres
	t := tenant{Engine: postgres, Host: admin.Host, Port: admin.Port, Database: database, User: admin.User, Password: admin.Password}
	conn, err := pgconn.Connect(ctx, t.url())
	if err != nil {
		return nil, fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // what it did has been answered
	var rows [][]string
	for _, s := range statements {
		results, err := conn.Exec(ctx, s).ReadAll()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s, err)
		}
		rows = rows[:0]
		for _, r := range results {
			for _, values := range r.Rows {
				row := make([]string, len(values))
				for i, v := range values {
					row[i] = string(v)
				}
				rows = append(rows, row)
			}
		}
	}
	return rows, nil
}

func (f *postgresFleet) tenants(n int) []tenant {
	tenants := make([]tenant, n)
	for i := range tenants {
		t := tenant{
			Slug: slug(i), Engine: postgres, Host: f.servers.postgres.Host, Port: f.servers.postgres.Port,
			Database: slug(i), User: slug(i), Password: "password of " + slug(i),
		}
		if f.schemas {
			t.Database, t.Schema, t.User, t.Password = sharedDatabase, slug(i), sharedDatabase, "password of "+sharedDatabase
		}
		tenants[i] = t
	}
	return tenants
}

func (f *postgresFleet) prepare(ctx context.Context, n int) error {
	// Before the first line that would ask for a password.
	rows, err := f.exec(ctx, "postgres", "SELECT pg_read_file(current_setting('hba_file')), current_setting('hba_file')")
	if err != nil {
		return err
	}
	if hba, file := rows[0][0], rows[0][1]; !strings.Contains(hba, trustRole) {
		hba = "host all " + trustRole + " 127.0.0.1/32 trust\n" + hba
		_, err := f.exec(ctx, "postgres",
			"CREATE ROLE "+trustRole+" LOGIN",
			"COPY (SELECT unnest(string_to_array("+quote(hba)+", E'\\n'))) TO "+quote(file),
			"SELECT pg_reload_conf()")
		if err != nil {
			return err
		}
	}
	have, err := f.exec(ctx, "postgres", "SELECT rolname FROM pg_roles")
	if err != nil {
		return err
	}
	there := make(map[string]bool, len(have))
	for _, r := range have {
		there[r[0]] = true
	}
	var statements []string
	for _, t := range f.tenants(n) {
		if !there[t.User] {
			statements = append(statements, "CREATE ROLE "+t.User+" LOGIN PASSWORD "+quote(t.Password))
			there[t.User] = true
		}
	}
	_, err = f.exec(ctx, "postgres", statements...)
	return err
}

func (f *postgresFleet) create(ctx context.Context, n int) error {
	if err := f.drop(ctx); err != nil {
		return err
	}
	if !f.schemas {
		tenants := f.tenants(n)
		return inParallel(ctx, n, func(ctx context.Context, i int) error {
			_, err := f.exec(ctx, "postgres", "CREATE DATABASE "+tenants[i].Database+" OWNER "+tenants[i].User)
			return err
		})
	}
	if _, err := f.exec(ctx, "postgres", "CREATE DATABASE "+sharedDatabase+" OWNER "+sharedDatabase); err != nil {
		return err
	}
	var statements []string
	for _, t := range f.tenants(n) {
		statements = append(statements, "CREATE SCHEMA "+t.Schema+" AUTHORIZATION "+t.User)
	}
	_, err := f.exec(ctx, sharedDatabase, strings.Join(statements, "; "))
	return err
}

func (f *postgresFleet) drop(ctx context.Context) error {
	if err := f.forget(ctx); err != nil {
		return err
	}
	databases, err := f.exec(ctx, "postgres", "SELECT datname, datistemplate FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1')")
	if err != nil {
		return err
	}
	err = inParallel(ctx, len(databases), func(ctx context.Context, i int) error {
		name := `"` + databases[i][0] + `"`
		var statements []string
		if databases[i][1] == "t" {
			statements = append(statements, "ALTER DATABASE "+name+" IS_TEMPLATE false")
		}
		_, err := f.exec(ctx, "postgres", append(statements, "DROP DATABASE "+name+" WITH (FORCE)")...)
		return err
	})
	if err != nil {
		return err
	}
	roles, err := f.exec(ctx, "postgres", `SELECT rolname FROM pg_roles WHERE rolname LIKE 'tenant\_%' OR rolname LIKE 'skein\_%'`)
	if err != nil {
		return err
	}
	for _, r := range roles {
		if _, err := f.exec(ctx, "postgres", `DROP ROLE "`+r[0]+`"`); err != nil {
			return err
		}
	}
	return nil
}

func (f *postgresFleet) settle(ctx context.Context) error {
	_, err := f.exec(ctx, "postgres", "CHECKPOINT")
	return err
}

func (f *postgresFleet) shape(ctx context.Context, t tenant) (string, error) {
	schema := t.Schema
	if schema == "" {
		schema = "public"
	}
	in := "= " + quote(schema) + " AND table_name IN ('" + strings.Join(crmTables, "', '") + "')"
	rows, err := f.exec(ctx, t.Database, "SELECT table_name || '.' || column_name FROM information_schema.columns WHERE table_schema "+in+
		" UNION ALL SELECT tablename || ': ' || count(*) || ' indexes' FROM pg_indexes WHERE schemaname "+strings.Replace(in, "table_name", "tablename", 1)+" GROUP BY tablename ORDER BY 1")
	if err != nil {
		return "", err
	}
	return lines(rows), nil
}

// durability is what the server says of it.
func (f *postgresFleet) durability(ctx context.Context) (string, error) {
	rows, err := f.exec(ctx, "postgres", "SELECT 'fsync ' || current_setting('fsync') || ', synchronous_commit ' || current_setting('synchronous_commit') || ', full_page_writes ' || current_setting('full_page_writes')")
	if err != nil {
		return "", err
	}
	return rows[0][0], nil
}

func (f *postgresFleet) version(ctx context.Context) (string, error) {
	rows, err := f.exec(ctx, "postgres", "SHOW server_version")
	if err != nil {
		return "", err
	}
	number, _, _ := strings.Cut(rows[0][0], " ")
	return "PostgreSQL " + number, nil
}

func lines(rows [][]string) string {
	var b strings.Builder
	for _, r := range rows {
		b.WriteString(strings.Join(r, " ") + "\n")
	}
	return b.String()
}

// quote makes a literal of SQL; none of the benchmark's has a backslash in it.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// The oids of databases that are only in the catalog begin here.
const firstCatalogued = "3000000000"

func catalogued(i int) string { return fmt.Sprintf("catalogued%06d", i) }

// catalogue adds rows to the shared catalogs until there are n databases which look
// like an existing one, with its comment and its owners. Nobody can connect to them.
func (f *postgresFleet) catalogue(ctx context.Context, database string, n int) error {
	columns, err := f.exec(ctx, "postgres", `SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute
		WHERE attrelid = 'pg_database'::regclass AND attnum > 0 AND NOT attisdropped AND attname NOT IN ('oid', 'datname')`)
	if err != nil {
		return err
	}
	_, err = f.exec(ctx, "postgres", fmt.Sprintf(`SET allow_system_table_mods = on;
		CREATE TEMPORARY TABLE wanted AS SELECT (%[1]s + i)::oid AS oid, ('catalogued' || lpad(i::text, 6, '0'))::name AS name
			FROM generate_series(0, %[2]d) i WHERE NOT EXISTS (SELECT FROM pg_database d WHERE d.oid = (%[1]s + i)::oid);
		INSERT INTO pg_database (oid, datname, %[3]s) SELECT w.oid, w.name, %[3]s FROM pg_database d, wanted w WHERE d.datname = %[4]s;
		INSERT INTO pg_shdescription (objoid, classoid, description) SELECT w.oid, c.classoid, c.description
			FROM wanted w, pg_shdescription c JOIN pg_database d ON d.oid = c.objoid AND c.classoid = 'pg_database'::regclass WHERE d.datname = %[4]s;
		INSERT INTO pg_shdepend (dbid, classid, objid, objsubid, refclassid, refobjid, deptype)
			SELECT w.oid, s.classid, s.objid, s.objsubid, s.refclassid, s.refobjid, s.deptype
			FROM wanted w, pg_shdepend s JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = %[4]s`,
		firstCatalogued, n-1, columns[0][0], quote(database)), "ANALYZE pg_database, pg_shdescription, pg_shdepend")
	return err
}

// forget takes these rows away again.
func (f *postgresFleet) forget(ctx context.Context) error {
	_, err := f.exec(ctx, "postgres", fmt.Sprintf(`SET allow_system_table_mods = on;
		DELETE FROM pg_shdepend WHERE dbid >= %[1]s::oid; DELETE FROM pg_shdescription WHERE objoid >= %[1]s::oid;
		DELETE FROM pg_database WHERE oid >= %[1]s::oid`, firstCatalogued))
	return err
}
