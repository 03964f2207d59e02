package mysql

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/dbtest"
	"github.com/skeinhq/skein/secret"
)

// wantAnswer wants an error that says what is wrong, and what to do.
func wantAnswer(t *testing.T, err error, class skein.Class, codes, message, hint string) {
	t.Helper()
	answer, ok := errors.AsType[*skein.DatabaseError](err)
	if !ok {
		t.Errorf("the error is %T: %v", err, err)
		return
	}
	if answer.Class != class || !strings.Contains(" "+codes+" ", " "+answer.Code+" ") || !strings.Contains(answer.Message, message) || !strings.Contains(answer.Hint, hint) {
		t.Errorf("the error is %+v,\nnot %s, %s, %q with the hint %q", answer, class, codes, message, hint)
	}
}

// oddStep makes a step of a migration.
func oddStep(t *testing.T, e *Engine, name, up string) skein.Step {
	t.Helper()
	section := &skein.Section{SQL: up, Path: name, Line: 1}
	statements, err := e.Parse(section)
	if err != nil {
		t.Fatal(err)
	}
	return skein.Step{Migration: &skein.Migration{Name: name, Path: name, Up: section}, Direction: skein.Up, Statements: statements, Batch: 1}
}

func TestMissingRights(t *testing.T) {
	target, server := newTarget(t), dbtest.MySQL(t)
	e := New(skein.SessionOptions{})
	account := quoteName(target.User)
	session := locked(t, e, target)
	if _, err := session.Apply(t.Context(), oddStep(t, e, "1.sql", "CREATE TABLE one (id int)")); err != nil {
		t.Fatal(err)
	}
	_ = session.Close()
	escaped := quoteName(strings.ReplaceAll(target.Database, "_", `\_`))
	server.Exec(t, "", "REVOKE ALL PRIVILEGES ON "+escaped+".* FROM "+account)
	server.Exec(t, "", "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE ON "+escaped+".* TO "+account)
	session = locked(t, e, target)
	for _, test := range []struct{ sql, hint string }{
		{"ALTER TABLE one ADD COLUMN more int", "GRANT ALTER ON "},
		{"CREATE INDEX i ON one (id)", "GRANT INDEX ON "},
		{"DROP TABLE one", "GRANT DROP ON "},
		{"CREATE VIEW v AS SELECT 1", "GRANT CREATE VIEW ON "},
	} {
		_, err := session.Apply(t.Context(), oddStep(t, e, "2.sql", test.sql))
		wantAnswer(t, err, skein.Denied, "1142", "", test.hint)
		if broken, ok := errors.AsType[*skein.StatementError](err); !ok || broken.Partial {
			t.Errorf("%s: the error is %+v", test.sql, err)
		}
	}
	history, err := session.History(t.Context())
	if err != nil || len(history.Records) != 1 {
		t.Errorf("recorded are %+v, %v", history.Records, err)
	}
}

// locked is a session that has the target's lock.
func locked(t *testing.T, e *Engine, target skein.Target) skein.Session {
	t.Helper()
	session, err := e.Open(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = session.Close() })
	if _, err := session.Lock(t.Context(), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	return session
}

// A server of one's own can be read-only, have no room, and stop.
func TestServerInTrouble(t *testing.T) {
	server := dbtest.PrivateMySQL(t, "--innodb-log-file-size=8M")
	name, user, password := server.CreateDatabase(t)
	target := skein.Target{Engine: skein.MySQL, Host: server.Host(), Port: server.Port(), Database: name, User: user, Password: secret.New(password)}
	e := New(skein.SessionOptions{ConnectTimeout: 10 * time.Second})
	count := func(sql string) string { return server.Query(t, name, sql)[0][0] }

	t.Run("it is read-only", func(t *testing.T) {
		server.Exec(t, "", "SET GLOBAL read_only = 1")
		session := locked(t, e, target)
		_, err := session.Apply(t.Context(), oddStep(t, e, "1.sql", "CREATE TABLE one (id int)"))
		wantAnswer(t, err, skein.Permanent, "1290", "read-only", "connect to the primary")
		_ = session.Close()
		server.Exec(t, "", "SET GLOBAL read_only = 0")
		session = locked(t, e, target)
		if _, err := session.Apply(t.Context(), oddStep(t, e, "1.sql", "CREATE TABLE one (id int AUTO_INCREMENT PRIMARY KEY, note varchar(2000))")); err != nil {
			t.Fatal(err)
		}
		// It becomes read-only once something has begun.
		server.Exec(t, "", "SET GLOBAL read_only = 1")
		_, err = session.Apply(t.Context(), oddStep(t, e, "2.sql", "ALTER TABLE one ADD COLUMN more int"))
		wantAnswer(t, err, skein.Permanent, "1290", "read-only", "connect to the primary")
		_ = session.Close()
		server.Exec(t, "", "SET GLOBAL read_only = 0")
		if got := count("SELECT COUNT(*) FROM skein_migrations"); got != "1" {
			t.Errorf("%s migrations are recorded", got)
		}
	})

	t.Run("there is no room on its disk", func(t *testing.T) {
		server.Kill(syscall.SIGTERM)
		server.LimitFiles(20_000) // more than a new server's have
		server.Start()
		session := locked(t, e, target)
		_, err := session.Apply(t.Context(), oddStep(t, e, "2.sql", "INSERT INTO one (note) SELECT REPEAT('x', 1000) FROM seq_1_to_30000"))
		wantAnswer(t, err, skein.Permanent, "1114 1021 1026 3", "full", "make room")
		if broken, ok := errors.AsType[*skein.StatementError](err); !ok || broken.Partial {
			t.Errorf("the error is %+v", err)
		}
		_ = session.Close()
		if got := count("SELECT COUNT(*) FROM one") + " " + count("SELECT COUNT(*) FROM skein_migrations"); got != "0 1" {
			t.Errorf("after that there are %s", got)
		}
	})

	t.Run("it stops", func(t *testing.T) {
		session := locked(t, e, target)
		ended := make(chan error, 1)
		slow := oddStep(t, e, "2.sql", "INSERT INTO one (note) VALUES ('a'); SELECT SLEEP(60) + 18446744073709551615")
		go func() {
			_, err := session.Apply(context.WithoutCancel(t.Context()), slow)
			ended <- err
		}()
		time.Sleep(500 * time.Millisecond)
		server.Kill(syscall.SIGTERM)
		wantAnswer(t, <-ended, skein.ConnectionLost, " 1927", "", "")
		_, err := e.Open(t.Context(), target)
		wantAnswer(t, err, skein.Unreachable, "", "", "")
		server.Start()
		if got := count("SELECT COUNT(*) FROM one") + " " + count("SELECT COUNT(*) FROM skein_migrations"); got != "0 1" {
			t.Errorf("after that there are %s", got)
		}
	})
}

// An aged connection says in its greeting that the server is an older one.
type aged struct {
	net.Conn
	version string
}

func (c aged) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if at := bytes.Index(b[:n], []byte("-MariaDB")); at >= 0 {
		end := at + bytes.IndexByte(b[at:n], 0)
		start := bytes.LastIndexByte(b[:at], 10) + 1 // the protocol's version
		copy(b[start:end], c.version+strings.Repeat(" ", end-start-len(c.version)))
	}
	return n, err
}

func TestServerTooOld(t *testing.T) {
	target := newTarget(t)
	for version, want := range map[string]string{
		"5.5.5-10.1.48-MariaDB": "is MariaDB 10.1.48-MariaDB", "5.6.51": "is MySQL 5.6.51", "5.5.5-10.2.0-MariaDB": "", "11.4.2-MariaDB": "", "5.7.44": "", "8.4.0": "",
	} {
		e := New(skein.SessionOptions{})
		e.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			return aged{conn, version}, err
		}
		session, err := e.Open(t.Context(), target)
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", version, err)
				continue
			}
			_ = session.Close()
			continue
		}
		wantAnswer(t, err, skein.Permanent, "", want, "upgrade the server")
	}
}
