package dbtest_test

import (
	"database/sql"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/skeinhq/skein/internal/dbtest"
)

// servers runs a test on each server.
func servers(t *testing.T, test func(*testing.T, *dbtest.Server)) {
	t.Run("postgres", func(t *testing.T) { test(t, dbtest.Postgres(t)) })
	t.Run("mysql", func(t *testing.T) { test(t, dbtest.MySQL(t)) })
}

func isPostgres(s *dbtest.Server) bool { return strings.HasPrefix(s.AdminURL(), "postgres:") }

// connect opens a session as an ordinary client and returns it as a function
// that runs SQL.
func connect(t *testing.T, s *dbtest.Server, database, user, password string) (func(sql string) error, error) {
	t.Helper()
	ctx := t.Context()
	if isPostgres(s) {
		conn, err := pgx.Connect(ctx, s.URL(database, user, password))
		return func(sql string) error {
			_, err := conn.Exec(ctx, sql)
			return err
		}, err
	}
	config := mysql.NewConfig()
	config.Net, config.Addr = "tcp", fmt.Sprintf("%s:%d", s.Host(), s.Port())
	config.User, config.Passwd, config.DBName = user, password, database
	config.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	t.Cleanup(func() { _ = db.Close() })
	conn, err := db.Conn(ctx)
	return func(sql string) error {
		_, err := conn.ExecContext(ctx, sql)
		return err
	}, err
}

func TestCreateDatabase(t *testing.T) {
	servers(t, func(t *testing.T, s *dbtest.Server) {
		name, user, password := s.CreateDatabase(t)
		other, _, _ := s.CreateDatabase(t)

		exec, err := connect(t, s, name, user, password)
		if err != nil {
			t.Fatalf("connect as the owner: %v", err)
		}
		for _, sql := range []string{
			"CREATE TABLE pets (id int PRIMARY KEY, name varchar(20))",
			"INSERT INTO pets VALUES (1, 'Tux'), (2, NULL)",
		} {
			if err := exec(sql); err != nil {
				t.Fatalf("%s as the owner: %v", sql, err)
			}
		}
		placeholder := "?"
		if isPostgres(s) {
			placeholder = "$1"
		}
		got := s.Query(t, name, "SELECT id, name FROM pets WHERE id <= "+placeholder+" ORDER BY id", 2)
		if diff := cmp.Diff([][]string{{"1", "Tux"}, {"2", "NULL"}}, got); diff != "" {
			t.Errorf("rows (-want +got):\n%s", diff)
		}

		if err := exec("DROP DATABASE " + other); err == nil {
			t.Error("the owner of one database could drop another")
		}
		if _, err := connect(t, s, name, user, "wrong"); err == nil {
			t.Error("a wrong password was accepted")
		}
	})
}

func TestCreateDatabaseNamed(t *testing.T) {
	servers(t, func(t *testing.T, s *dbtest.Server) {
		long := 64
		if isPostgres(s) {
			long = 63
		}
		unique := dbtest.UniqueName()
		for _, name := range []string{
			unique + " a space",
			unique + `-"quotes"'s`,
			unique + "`;DROP",
			unique + "_100%",
			unique + "-Zürich-東京",
			unique + strings.Repeat("x", long-len(unique)),
		} {
			t.Run(name, func(t *testing.T) {
				user, password := s.CreateDatabaseNamed(t, name)
				exec, err := connect(t, s, name, user, password)
				if err != nil {
					t.Fatalf("connect as the owner: %v", err)
				}
				if err := exec("CREATE TABLE t (id int)"); err != nil {
					t.Fatalf("create a table as the owner: %v", err)
				}
				s.Exec(t, name, "INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)")
				got := s.Query(t, name, "SELECT count(*) FROM t")
				if diff := cmp.Diff([][]string{{"2"}}, got); diff != "" {
					t.Errorf("count (-want +got):\n%s", diff)
				}
			})
		}
	})
}

// A database that a test leaves with a session in the middle of a transaction
// goes away all the same, and its account too.
func TestDropInUse(t *testing.T) {
	servers(t, func(t *testing.T, s *dbtest.Server) {
		var name, user string
		t.Run("left in use", func(t *testing.T) {
			var password string
			name, user, password = s.CreateDatabase(t)
			exec, err := connect(t, s, name, user, password)
			if err != nil {
				t.Fatal(err)
			}
			for _, sql := range []string{"CREATE TABLE t (id int)", "BEGIN", "INSERT INTO t VALUES (1)"} {
				if err := exec(sql); err != nil {
					t.Fatal(err)
				}
			}
		})
		query := `SELECT
			(SELECT count(*) FROM information_schema.schemata WHERE schema_name = ?),
			(SELECT count(*) FROM mysql.user WHERE user = ?)`
		if isPostgres(s) {
			query = `SELECT
				(SELECT count(*) FROM pg_database WHERE datname = $1),
				(SELECT count(*) FROM pg_roles WHERE rolname = $2)`
		}
		got := s.Query(t, "", query, name, user)
		if diff := cmp.Diff([][]string{{"0", "0"}}, got); diff != "" {
			t.Errorf("databases and accounts left (-want +got):\n%s", diff)
		}
	})
}

// A name that is taken fails the test and leaves the database alone.
func TestCreateDatabaseTaken(t *testing.T) {
	servers(t, func(t *testing.T, s *dbtest.Server) {
		name, _, _ := s.CreateDatabase(t)
		s.Exec(t, name, "CREATE TABLE mine (id int)")
		message := fatal(t, func(tb testing.TB) { s.CreateDatabaseNamed(tb, name) })
		if !strings.Contains(message, "create database") || !strings.Contains(message, "exists") {
			t.Errorf("message %q does not say that the database exists", message)
		}
		s.Query(t, name, "SELECT id FROM mine")
	})
}

func TestNameTooLong(t *testing.T) {
	servers(t, func(t *testing.T, s *dbtest.Server) {
		name := dbtest.UniqueName() + strings.Repeat("x", 50)
		if message := fatal(t, func(tb testing.TB) { s.CreateDatabaseNamed(tb, name) }); message == "" {
			t.Error("a name that the server cannot hold was taken")
		}
	})
}

func TestExecFails(t *testing.T) {
	servers(t, func(t *testing.T, s *dbtest.Server) {
		for _, sql := range []string{"SELEKT 1", "SELECT 1; SELEKT 2"} {
			if message := fatal(t, func(tb testing.TB) { s.Exec(tb, "", sql) }); !strings.Contains(message, sql) {
				t.Errorf("message %q does not show %q", message, sql)
			}
		}
		if message := fatal(t, func(tb testing.TB) { s.Query(tb, "", "SELEKT 1") }); !strings.Contains(message, "SELEKT 1") {
			t.Errorf("message %q does not show the statement", message)
		}
	})
}

func TestMissingServer(t *testing.T) {
	for _, c := range []struct {
		name, value, want string
	}{
		{"unset", "", "make test"},
		{"another scheme", "mysqlx://root:sesame@127.0.0.1:1/", "is not of the form"},
		{"no port", "mysql://root:sesame@127.0.0.1/", "is not of the form"},
		{"not a URL", "mysql://root:sesame%zz@127.0.0.1/", "is not of the form"},
		{"stopped", "mysql://root:sesame@127.0.0.1:1/", "make test"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(dbtest.MySQLEnv, c.value)
			message := fatal(t, func(tb testing.TB) { dbtest.MySQL(tb).Exec(tb, "", "SELECT 1") })
			if !strings.Contains(message, c.want) {
				t.Errorf("message %q does not contain %q", message, c.want)
			}
			if strings.Contains(message, "sesame") {
				t.Errorf("message %q contains the password", message)
			}
		})
	}
}

func TestSQLite(t *testing.T) {
	info, err := os.Stat(dbtest.SQLite(t))
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() != 0 {
		t.Errorf("size = %d, want an empty file", info.Size())
	}
}

// fatal runs f as a test of its own and returns what it ended with, "" if it
// did not.
func fatal(t *testing.T, f func(testing.TB)) string {
	recorder := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(recorder)
	}()
	<-done
	return recorder.message
}

type recorder struct {
	testing.TB
	message string
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.message = fmt.Sprintf(format, args...)
	runtime.Goexit()
}
