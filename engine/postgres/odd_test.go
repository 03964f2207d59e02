package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/dbtest"
	"github.com/skeinhq/skein/secret"
)

// wantAnswer wants an error that says what is wrong, and what to do.
func wantAnswer(t *testing.T, err error, class skein.Class, code, message, hint string) {
	t.Helper()
	answer, ok := errors.AsType[*skein.DatabaseError](err)
	if !ok {
		t.Errorf("the error is %T: %v", err, err)
		return
	}
	if answer.Class != class || answer.Code != code || !strings.Contains(answer.Message, message) || !strings.Contains(answer.Hint, hint) {
		t.Errorf("the error is %+v,\nnot %s, %s, %q with the hint %q", answer, class, code, message, hint)
	}
}

func TestMissingRights(t *testing.T) {
	target, server := newDatabase(t), dbtest.Postgres(t)
	s := open(t, New(skein.SessionOptions{}), target)
	lock(t, s)
	apply(t, s, step(t, "1.sql", "CREATE TABLE mine (id int)", false))
	server.Exec(t, target.Database, "CREATE TABLE theirs (id int); CREATE SCHEMA closed; CREATE TABLE closed.one (id int)")
	role := quoteIdent(target.User)
	for _, test := range []struct{ sql, hint string }{
		{"ALTER TABLE theirs ADD COLUMN more int", "ALTER TABLE theirs OWNER TO " + role},
		{"CREATE INDEX ON theirs (id)", "OWNER TO " + role},
		{"INSERT INTO theirs VALUES (1)", "GRANT ALL ON TABLE theirs TO " + role},
		{"CREATE TABLE closed.two (id int)", "GRANT CREATE, USAGE ON SCHEMA closed TO " + role},
		{"SET ROLE postgres", "the role " + role + " lacks a right"},
	} {
		for _, noTransaction := range []bool{false, true} {
			failed := failing(t, s, step(t, "2.sql", test.sql, noTransaction))
			wantAnswer(t, failed, skein.Denied, "42501", "", test.hint)
			if failed.Partial {
				t.Errorf("%s: it is said that something stayed", test.sql)
			}
		}
	}
	if rows := queryAs(t, target, "SELECT name FROM skein_migrations"); len(rows) != 1 {
		t.Errorf("recorded are %q", rows)
	}
}

// The role, and not the server, takes no changes.
func TestReadOnlyRole(t *testing.T) {
	target := newDatabase(t)
	dbtest.Postgres(t).Exec(t, "", "ALTER ROLE "+quoteIdent(target.User)+" SET default_transaction_read_only = on")
	s := open(t, New(skein.SessionOptions{}), target)
	lock(t, s)
	_, err := s.Apply(t.Context(), step(t, "1.sql", "CREATE TABLE one (id int)", false))
	wantAnswer(t, err, skein.Permanent, readOnlyTransaction, "read-only transaction", "default_transaction_read_only")
	if rows := queryAs(t, target, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"); len(rows) > 0 {
		t.Errorf("the tables %q stayed", rows)
	}
}

// A server of one's own can be a standby, have no room, and stop.
func TestServerInTrouble(t *testing.T) {
	server := dbtest.PrivatePostgres(t)
	name, user, password := server.CreateDatabase(t)
	target := skein.Target{Engine: skein.PostgreSQL, Host: server.Host(), Port: server.Port(), Database: name, User: user, Password: secret.New(password)}
	e := New(skein.SessionOptions{ConnectTimeout: 10 * time.Second})
	s := open(t, e, target)
	lock(t, s)
	apply(t, s, step(t, "1.sql", "CREATE TABLE one (id int, note text)", false))
	unlock(t, s)

	t.Run("it stops", func(t *testing.T) {
		s := open(t, e, target)
		lock(t, s)
		ended := make(chan error, 1)
		slow := step(t, "2.sql", "CREATE TABLE two (id int); SELECT pg_sleep(60)", false)
		go func() {
			_, err := s.Apply(context.WithoutCancel(t.Context()), slow)
			ended <- err
		}()
		time.Sleep(300 * time.Millisecond)
		server.Kill(syscall.SIGINT) // fast
		wantAnswer(t, <-ended, skein.ConnectionLost, "57P01", "terminating connection due to administrator command", "whether the migration was committed is not known")
		_, err := e.Open(t.Context(), target)
		wantAnswer(t, err, skein.Unreachable, "", "connect to postgres://127.0.0.1", "")
	})

	t.Run("it is stopping", func(t *testing.T) {
		server.Start()
		s := open(t, e, target)
		lock(t, s)
		server.Signal(syscall.SIGTERM) // smart: it waits for the session
		var err error
		for end := time.Now().Add(10 * time.Second); err == nil && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			var next skein.Session
			if next, err = e.Open(t.Context(), target); err == nil {
				_ = next.Close()
			}
		}
		wantAnswer(t, err, skein.Transient, "57P03", "shutting down", "try again")
		_ = s.Close()
		server.Kill(syscall.SIGINT)
	})

	t.Run("there is no room on its disk", func(t *testing.T) {
		server.LimitFiles(20001) // of a WAL segment, 16 MB, more; not a multiple of a page
		server.Start()
		s := open(t, e, target)
		lock(t, s)
		fill := step(t, "2.sql", "CREATE TABLE two (id int); INSERT INTO one SELECT i, repeat('x', 1000) FROM generate_series(1, 30000) i", false)
		failed := failing(t, s, fill)
		wantAnswer(t, failed, skein.Permanent, "53100", "could not extend file", "free disk space")
		if failed.Partial || failed.Index != 2 {
			t.Errorf("the error is %+v", failed)
		}
		var m script
		m.add(reading, "SELECT (SELECT count(*) FROM one), (SELECT count(*) FROM skein_migrations), to_regclass('two')::text")
		results, err := s.run(t.Context(), &m)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%s %s %s", results[0].row[0], results[0].row[1], results[0].row[2]); got != "0 1 " {
			t.Errorf("after that there are %s", got)
		}
		_ = s.Close()
		server.Kill(syscall.SIGINT)
		server.LimitFiles(0)
	})

	t.Run("it is a standby", func(t *testing.T) {
		server.File("standby.signal", "")
		server.Start()
		s := open(t, e, target)
		if history, err := s.History(t.Context()); err != nil || len(history.Records) != 1 {
			t.Errorf("the history is %+v, %v", history, err)
		}
		// It may be behind its primary, and takes no fingerprint.
		if glimpses, err := e.Glance(t.Context(), s, []skein.Target{target}); err != nil || glimpses[0] != (skein.Glimpse{}) {
			t.Errorf("of tenants of a standby it is told %+v, %v", glimpses, err)
		}
		if kept, err := s.Kept(t.Context()); err != nil || kept.Writable {
			t.Errorf("what is kept is %+v, %v", kept, err)
		}
		lock(t, s)
		_, err := s.Apply(t.Context(), step(t, "2.sql", "CREATE TABLE two (id int)", false))
		wantAnswer(t, err, skein.Permanent, readOnlyTransaction, "read-only transaction", "standby")
		unlock(t, s)
		_ = s.Close()
		server.Kill(syscall.SIGINT)
	})

	t.Run("it is a standby that lets nobody in", func(t *testing.T) {
		server.File("postgresql.auto.conf", "hot_standby = off\n")
		server.Begin()
		var err error
		for end := time.Now().Add(10 * time.Second); skein.ErrorClass(err) != skein.Transient && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			_, err = e.Open(t.Context(), target)
		}
		wantAnswer(t, err, skein.Transient, "57P03", "the database system is", "")
		server.Kill(syscall.SIGINT)
		server.File("postgresql.auto.conf", "")
	})
	// For the end of the test, which drops the database.
	server.Remove("standby.signal")
	server.Start()
}

// Debian has one version of PostgreSQL, so that an old one is only played.
func TestServerTooOld(t *testing.T) {
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	served := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			served <- err
			return
		}
		defer conn.Close()
		backend := pgproto3.NewBackend(conn, conn)
		if _, err := backend.ReceiveStartupMessage(); err != nil {
			served <- err
			return
		}
		backend.Send(&pgproto3.AuthenticationOk{})
		backend.Send(&pgproto3.ParameterStatus{Name: "server_version", Value: "9.6.24"})
		backend.Send(&pgproto3.BackendKeyData{ProcessID: 1, SecretKey: []byte{0, 0, 0, 2}})
		backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		err = backend.Flush()
		_, _ = io.Copy(io.Discard, conn)
		served <- err
	}()
	target := skein.Target{
		Engine: skein.PostgreSQL, Host: "127.0.0.1", Port: listener.Addr().(*net.TCPAddr).Port, Database: "d", User: "u",
		Options: map[string]string{"sslmode": "disable"},
	}
	_, err = New(skein.SessionOptions{}).Open(t.Context(), target)
	wantAnswer(t, err, skein.Permanent, "", "is PostgreSQL 9.6.24, and 10 is the oldest that Skein works with", "upgrade")
	if err := <-served; err != nil {
		t.Error(err)
	}
}
