package mysql

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	driver "github.com/go-sql-driver/mysql"
	"go.uber.org/goleak"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/engine/enginetest"
	"github.com/skeinhq/skein/internal/dbtest"
	"github.com/skeinhq/skein/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	knexTime := time.Date(2024, 2, 29, 13, 14, 15, 0, time.Local)
	enginetest.Run(t, enginetest.Config{
		New: func(opts skein.SessionOptions) skein.Engine { return New(opts) },

		NewTarget: newTarget,
		Exec: func(t testing.TB, target skein.Target, sql string) {
			dbtest.MySQL(t).Exec(t, target.Database, sql)
		},
		Query: func(t testing.TB, target skein.Target, sql string) [][]string {
			return dbtest.MySQL(t).Query(t, target.Database, sql)
		},
		Tables: tables,
		LockTable: func(t testing.TB, target skein.Target, table string) func() {
			conn := connect(t, target)
			if _, err := conn.ExecContext(t.Context(), "LOCK TABLES "+table+" WRITE"); err != nil {
				t.Fatal(err)
			}
			return sync.OnceFunc(func() {
				if _, err := conn.ExecContext(t.Context(), "UNLOCK TABLES"); err != nil {
					t.Error(err)
				}
			})
		},
		// MariaDB looks every five seconds whether SLEEP's client is there, and
		// ends it without an error if not. This makes one of it.
		Slow: "SELECT SLEEP(60) + 18446744073709551615 + (SYSDATE() < NOW() + INTERVAL 50 SECOND)",
		Knex: "CREATE TABLE knex_migrations (id int unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY, name varchar(255), batch int, migration_time timestamp NULL DEFAULT NULL);" +
			"CREATE TABLE knex_migrations_lock (`index` int unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY, is_locked int);" +
			"INSERT INTO knex_migrations_lock (is_locked) VALUES (0)",
		KnexTime:      "'" + knexTime.Format(time.DateTime) + "'",
		KnexTimeMeans: knexTime,
		Trigger: "DELIMITER //\nCREATE TRIGGER watching AFTER INSERT ON watched FOR EACH ROW\nBEGIN\n" +
			"  INSERT INTO noted VALUES (10 * NEW.id, 'a;b');\n  INSERT INTO noted VALUES (20 * NEW.id, NEW.note);\nEND//\nDELIMITER ;\n",
		TriggerStatements: 1,
		Named: map[string]func(testing.TB, string) skein.Target{
			"database": func(t testing.TB, name string) skein.Target { return namedTarget(t, name) },
		},
		MaxName: 64,
		Missing: map[string]func(testing.TB) skein.Target{
			"database": func(t testing.TB) skein.Target {
				target := newTarget(t)
				dbtest.MySQL(t).Exec(t, "", "DROP DATABASE "+quoteName(target.Database))
				return target
			},
		},
		Neighbours: []enginetest.Neighbours{
			{Kind: "databases of one account", Switch: true, New: neighbours},
			{Kind: "databases of two accounts", New: func(t testing.TB) (a, b skein.Target) { return newTarget(t), newTarget(t) }},
			{Kind: "databases whose names differ in case", New: func(t testing.TB) (a, b skein.Target) {
				name := dbtest.UniqueName()
				return namedTarget(t, name), namedTarget(t, strings.ToUpper(name))
			}},
		},
		Together: together,
		Address:  func(t testing.TB, _ skein.Target) skein.Target { return administratorOf(t) },
	})
}

func newTarget(t testing.TB) skein.Target { return namedTarget(t, dbtest.UniqueName()) }

func namedTarget(t testing.TB, name string) skein.Target {
	server := dbtest.MySQL(t)
	user, password := server.CreateDatabaseNamed(t, name)
	return skein.Target{
		Engine: skein.MySQL, Host: server.Host(), Port: server.Port(),
		Database: name, User: user, Password: secret.New(password),
	}
}

// neighbours are two databases of one account.
func neighbours(t testing.TB) (a, b skein.Target) {
	a, b = newTarget(t), newTarget(t)
	b.User, b.Password = a.User, a.Password
	dbtest.MySQL(t).Exec(t, "", "GRANT ALL PRIVILEGES ON "+quoteName(b.Database)+".* TO "+quoteName(a.User))
	return a, b
}

// together are databases of one account.
func together(t testing.TB, n int) []skein.Target {
	targets := []skein.Target{newTarget(t)}
	for range n - 1 {
		next := targets[0]
		next.Database = dbtest.UniqueName() + "-" // a name that has to be quoted
		server := dbtest.MySQL(t)
		server.Exec(t, "", "CREATE DATABASE "+quoteName(next.Database))
		t.Cleanup(func() { server.Exec(t, "", "DROP DATABASE "+quoteName(next.Database)) })
		server.Exec(t, "", "GRANT ALL PRIVILEGES ON "+quoteName(next.Database)+".* TO "+quoteName(next.User))
		targets = append(targets, next)
	}
	return targets
}

func tables(t testing.TB, target skein.Target) []string {
	var names []string
	for _, row := range dbtest.MySQL(t).Query(t, target.Database, "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA=DATABASE() ORDER BY BINARY TABLE_NAME") {
		names = append(names, row[0])
	}
	return names
}

// connect is a connection as the target's account, without the engine.
func connect(t testing.TB, target skein.Target) *sql.Conn {
	config := driver.NewConfig()
	config.User, config.Passwd, config.DBName = target.User, target.Password.Reveal(), target.Database
	config.Net, config.Addr = address(target)
	connector, err := driver.NewConnector(config)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	t.Cleanup(func() { _ = db.Close() })
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// A disguise makes a server's greeting not that of MariaDB.
type disguise struct {
	net.Conn
	greeted bool
}

func (d *disguise) Read(b []byte) (int, error) {
	n, err := d.Conn.Read(b)
	if !d.greeted {
		copy(b[:n], bytes.ReplaceAll(b[:n], []byte("MariaDB"), []byte("Percona")))
		d.greeted = true
	}
	return n, err
}

func asMySQL(e *Engine) *Engine {
	dial := e.dial
	e.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &disguise{Conn: conn}, nil
	}
	return e
}

// flights counts the flights of an engine's connections: how often something is
// sent after something was received.
type flights struct{ sent atomic.Int64 }

func (f *flights) count(e *Engine) *Engine {
	dial := e.dial
	e.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &counted{Conn: conn, flights: f}, nil
	}
	return e
}

// since returns how many flights there were since it was asked last.
func (f *flights) since() int { return int(f.sent.Swap(0)) }

type counted struct {
	net.Conn
	flights *flights
	sending bool
}

func (c *counted) Write(b []byte) (int, error) {
	if !c.sending {
		c.sending = true
		c.flights.sent.Add(1)
	}
	return c.Conn.Write(b)
}

func (c *counted) Read(b []byte) (int, error) {
	c.sending = false
	return c.Conn.Read(b)
}

// open opens a session that ends with the test.
func open(t testing.TB, e *Engine, target skein.Target) *session {
	t.Helper()
	s, err := e.Open(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s.(*session)
}

func lock(t testing.TB, s skein.Session) skein.History {
	t.Helper()
	history, err := s.Lock(t.Context(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return history
}

// migration makes a migration whose sections begin on line 1.
func migration(name, up, down string) *skein.Migration {
	path := "migrations/" + name
	return &skein.Migration{
		Name: name, Path: path, Kind: skein.SQL, Checksum: strings.Repeat("0", 64),
		Up:   &skein.Section{SQL: up, Path: path, Line: 1},
		Down: &skein.Section{SQL: down, Path: path, Line: 1},
	}
}

func step(t testing.TB, e *Engine, m *skein.Migration, d skein.Direction) skein.Step {
	t.Helper()
	statements, err := e.Parse(m.Section(d))
	if err != nil {
		t.Fatal(err)
	}
	return skein.Step{Migration: m, Direction: d, Statements: statements, Batch: 1}
}

func apply(t testing.TB, e *Engine, s skein.Session, m *skein.Migration, d skein.Direction) error {
	t.Helper()
	_, err := s.Apply(t.Context(), step(t, e, m, d))
	return err
}

// records are the history as short texts.
func records(t testing.TB, e *Engine, target skein.Target) []string {
	t.Helper()
	history, err := open(t, e, target).History(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, r := range history.Records {
		out = append(out, fmt.Sprintf("%s %s %d/%d", r.Name, r.State, r.Done, r.Total))
	}
	return out
}
