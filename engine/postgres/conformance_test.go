package postgres

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/engine/enginetest"
	"github.com/skeinhq/skein/internal/dbtest"
	"github.com/skeinhq/skein/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	// A tenant is a database of its own, or a schema: all is to be true of both.
	t.Run("database", func(t *testing.T) { enginetest.Run(t, conformance(newDatabase, newDatabases)) })
	t.Run("schema", func(t *testing.T) { enginetest.Run(t, conformance(newSchema, newSchemas)) })
}

func conformance(newTarget func(testing.TB) skein.Target, together func(testing.TB, int) []skein.Target) enginetest.Config {
	return enginetest.Config{
		New:       func(opts skein.SessionOptions) skein.Engine { return New(opts) },
		NewTarget: newTarget,
		Exec:      execAs,
		Query:     queryAs,
		Tables: func(t testing.TB, target skein.Target) []string {
			var names []string
			for _, row := range queryAs(t, target, "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() ORDER BY tablename") {
				names = append(names, row[0])
			}
			return names
		},
		LockTable: func(t testing.TB, target skein.Target, table string) func() {
			conn := connectAs(t, target)
			for _, sql := range []string{"BEGIN", "LOCK TABLE " + table + " IN ACCESS EXCLUSIVE MODE"} {
				if _, err := conn.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			}
			return func() {
				if _, err := conn.Exec(t.Context(), "ROLLBACK"); err != nil {
					t.Error(err)
				}
			}
		},
		Transactional: true,
		Slow:          "SELECT pg_sleep(60)",
		Knex: `create table "knex_migrations" ("id" serial primary key, "name" varchar(255), "batch" integer, "migration_time" timestamptz);
			create table "knex_migrations_lock" ("index" serial primary key, "is_locked" integer);
			insert into "knex_migrations_lock" ("is_locked") values (0)`,
		KnexTime:      "'2024-02-29 23:30:00.25-05'",
		KnexTimeMeans: time.Date(2024, 3, 1, 4, 30, 0, 250_000_000, time.UTC),
		Trigger: `CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $note$
			BEGIN
				INSERT INTO noted VALUES (NEW.id * 10, 'it''s; first');
				INSERT INTO noted VALUES (NEW.id * 20, $$second;$$);
				RETURN NEW;
			END $note$;
			CREATE TRIGGER note AFTER INSERT ON watched FOR EACH ROW EXECUTE FUNCTION note()`,
		TriggerStatements: 2,
		Named: map[string]func(testing.TB, string) skein.Target{
			"database": func(t testing.TB, name string) skein.Target {
				server := dbtest.Postgres(t)
				user, password := server.CreateDatabaseNamed(t, name)
				return target(server, name, user, password)
			},
			"schema": func(t testing.TB, name string) skein.Target { return addSchema(t, newDatabase(t), name) },
		},
		MaxName: 63,
		Missing: map[string]func(testing.TB) skein.Target{
			"database": func(t testing.TB) skein.Target {
				missing := newDatabase(t)
				missing.Database = dbtest.UniqueName()
				return missing
			},
			"schema": func(t testing.TB) skein.Target {
				missing := newDatabase(t)
				missing.Schema = "nowhere"
				return missing
			},
		},
		Neighbours: []enginetest.Neighbours{
			{Kind: "schemas of one database", Switch: true, New: func(t testing.TB) (skein.Target, skein.Target) {
				database := newDatabase(t)
				return addSchema(t, database, "tenant_a"), addSchema(t, database, `Tenant "b"`)
			}},
			{Kind: "a database and a schema in it", New: func(t testing.TB) (skein.Target, skein.Target) {
				database := newDatabase(t)
				return database, addSchema(t, database, "tenant")
			}},
			{Kind: "databases of one role", New: func(t testing.TB) (skein.Target, skein.Target) {
				server := dbtest.Postgres(t)
				a, b := newDatabase(t), newDatabase(t)
				server.Exec(t, "", "ALTER DATABASE "+b.Database+" OWNER TO "+a.User)
				t.Cleanup(func() { server.Exec(t, "", "ALTER DATABASE "+b.Database+" OWNER TO postgres") })
				b.User, b.Password = a.User, a.Password
				return a, b
			}},
		},
		Together: together,
		Address:  func(t testing.TB, _ skein.Target) skein.Target { return administratorOf(t) },
	}
}

func target(server *dbtest.Server, database, user, password string) skein.Target {
	return skein.Target{
		Engine: skein.PostgreSQL, Host: server.Host(), Port: server.Port(),
		Database: database, User: user, Password: secret.New(password),
	}
}

// newDatabase makes a target that is an empty database.
func newDatabase(t testing.TB) skein.Target {
	server := dbtest.Postgres(t)
	name, user, password := server.CreateDatabase(t)
	return target(server, name, user, password)
}

func newDatabases(t testing.TB, n int) []skein.Target {
	targets := make([]skein.Target, n)
	for i := range targets {
		targets[i] = newDatabase(t)
	}
	return targets
}

// newSchemas makes targets that are schemas of one database, and of one role.
func newSchemas(t testing.TB, n int) []skein.Target {
	first := newSchema(t)
	targets := []skein.Target{first}
	for i := 1; i < n; i++ {
		targets = append(targets, addSchema(t, first, fmt.Sprintf(`Tenant "%d"`, i)))
	}
	return targets
}

// newSchema makes a target that is an empty schema. Its role may do nothing in
// the rest of the database.
func newSchema(t testing.TB) skein.Target {
	database := newDatabase(t)
	server := dbtest.Postgres(t)
	target := addSchema(t, database, "tenant")
	server.Exec(t, "", "ALTER DATABASE "+database.Database+" OWNER TO postgres; REVOKE ALL ON DATABASE "+database.Database+" FROM PUBLIC; GRANT CONNECT ON DATABASE "+database.Database+" TO "+database.User)
	return target
}

// addSchema makes a schema in a database, owned by its role.
func addSchema(t testing.TB, database skein.Target, name string) skein.Target {
	dbtest.Postgres(t).Exec(t, database.Database, "CREATE SCHEMA "+quoteIdent(name)+" AUTHORIZATION "+quoteIdent(database.User))
	database.Schema = name
	return database
}

// connectAs connects as a target's role, without the engine.
func connectAs(t testing.TB, target skein.Target) *pgx.Conn {
	t.Helper()
	server := dbtest.Postgres(t)
	url := strings.Replace(server.URL("x", target.User, target.Password.Reveal()),
		fmt.Sprintf("@%s:%d/", server.Host(), server.Port()), fmt.Sprintf("@%s:%d/", target.Host, target.Port), 1)
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.Database = target.Database
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	if target.Schema != "" {
		config.RuntimeParams["search_path"] = quoteIdent(target.Schema)
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func execAs(t testing.TB, target skein.Target, sql string) {
	t.Helper()
	conn := connectAs(t, target)
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%v\nin: %s", err, sql)
	}
}

func queryAs(t testing.TB, target skein.Target, sql string) [][]string {
	t.Helper()
	conn := connectAs(t, target)
	defer conn.Close(t.Context())
	rows, err := conn.Query(t.Context(), sql)
	if err != nil {
		t.Fatalf("%v\nin: %s", err, sql)
	}
	var all [][]string
	for rows.Next() {
		var row []string
		for _, value := range rows.RawValues() {
			text := "NULL"
			if value != nil {
				text = string(value)
			}
			row = append(row, text)
		}
		all = append(all, row)
	}
	if err := rows.Err(); err != nil {
		t.Fatalf("%v\nin: %s", err, sql)
	}
	return all
}
