package postgres

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/dbtest"
)

// behind is a target reached over a PgBouncer.
func behind(t *testing.T, target skein.Target, mode string, settings ...string) skein.Target {
	t.Helper()
	target.Host, target.Port = "127.0.0.1", dbtest.PgBouncer(t, mode, map[string]string{target.User: target.Password.Reveal()}, settings...)
	return target
}

func timed() *Engine {
	return New(skein.SessionOptions{
		ConnectTimeout: 10 * time.Second, LockTimeout: 3 * time.Second, StatementTimeout: time.Minute, IdleTimeout: time.Minute, By: "test@host",
	})
}

func TestPoolerOfTransactions(t *testing.T) {
	for _, test := range []struct {
		name, mode string
		settings   []string
		newTarget  func(testing.TB) skein.Target
	}{
		{"transaction", "transaction", nil, newDatabase},
		{"transaction, a schema", "transaction", nil, newSchema},
		{"transaction, settings ignored", "transaction", []string{"ignore_startup_parameters = lock_timeout, statement_timeout, idle_in_transaction_session_timeout"}, newDatabase},
		{"transaction, connections in turn", "transaction", []string{"server_round_robin = 1", "min_pool_size = 5"}, newDatabase},
		{"statement", "statement", nil, newDatabase},
	} {
		t.Run(test.name, func(t *testing.T) {
			direct := test.newTarget(t)
			target := behind(t, direct, test.mode, test.settings...)
			// Several connections to the server are there to be lent.
			var idle []*pgx.Conn
			anyone := target
			anyone.Schema = ""
			for range 4 {
				conn := connectAs(t, anyone)
				if test.mode == "transaction" {
					if _, err := conn.Exec(t.Context(), "BEGIN; SELECT pg_sleep(0.01)"); err != nil {
						t.Fatal(err)
					}
				}
				idle = append(idle, conn)
			}
			for _, conn := range idle {
				_ = conn.Close(t.Context())
			}
			e := timed()
			s := open(t, e, target)
			// Looking needs no lock.
			if _, err := s.History(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, err := s.Lock(t.Context(), 0)
			answer, ok := errors.AsType[*skein.DatabaseError](err)
			if !ok || answer.Class != skein.Permanent || !strings.Contains(answer.Message, "lends server connections for single "+test.mode+"s") ||
				!strings.Contains(answer.Hint, "direct:") {
				t.Fatalf("the error is %T: %v", err, err)
			}
			_ = s.Close()
			// Nothing of it stayed on connections that others use.
			const left = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = %d AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
			if rows := queryAs(t, direct, fmt.Sprintf(left, lockClass)); rows[0][0] != "0" {
				t.Errorf("%s advisory locks are left", rows[0][0])
			}
			direct.Schema = ""
			const settings = "SELECT current_setting('search_path'), current_setting('tcp_keepalives_idle'), current_setting('lock_timeout')"
			want := fmt.Sprint(queryAs(t, direct, settings))
			for range 5 {
				if got := fmt.Sprint(queryAs(t, anyone, settings)); got != want {
					t.Errorf("the settings %s are %s after it", want, got)
				}
			}
		})
	}
}

func TestPoolerOfSessions(t *testing.T) {
	for _, test := range []struct {
		name      string
		settings  []string
		newTarget func(testing.TB) skein.Target
	}{
		{"database", nil, newDatabase},
		{"schema", nil, newSchema},
		{"settings ignored", []string{"ignore_startup_parameters = lock_timeout, statement_timeout, idle_in_transaction_session_timeout"}, newDatabase},
		{"one connection", []string{"default_pool_size = 1"}, newDatabase},
	} {
		t.Run(test.name, func(t *testing.T) {
			direct := test.newTarget(t)
			target := behind(t, direct, "session", test.settings...)
			e := timed()
			s := open(t, e, target)
			lock(t, s)
			const seen = "INSERT INTO seen SELECT current_setting('lock_timeout') || ' ' || current_setting('statement_timeout') || ' ' || current_setting('idle_in_transaction_session_timeout')"
			apply(t, s, step(t, "1.sql", "CREATE TABLE seen (timeouts text);"+seen+"; SET lock_timeout TO 7", false))
			apply(t, s, step(t, "2.sql", seen, false))
			if got := fmt.Sprint(queryAs(t, direct, "SELECT timeouts FROM seen")); got != "[[3s 1min 1min] [3s 1min 1min]]" {
				t.Errorf("migrations saw the timeouts %s", got)
			}
			// The lock is one with those who come another way.
			other := open(t, timed(), direct)
			if _, err := other.Lock(t.Context(), 0); err == nil {
				t.Error("another session has the lock too")
			}
			unlock(t, s)
			lock(t, other)
			if _, err := s.Lock(t.Context(), 0); err == nil {
				t.Error("the session behind the pooler has the lock too")
			}
		})
	}
}

// What a target's options say of the search path holds although the pooler did
// not take it with the login.
func TestPoolerSearchPath(t *testing.T) {
	direct := addSchema(t, newDatabase(t), "other")
	direct.Schema = ""
	direct.Options = map[string]string{"search_path": "other"}
	s := open(t, timed(), direct)
	lock(t, s)
	apply(t, s, step(t, "1.sql", "CREATE TABLE one (id int)", false))
	unlock(t, s)
	for _, mode := range []string{"transaction", "session"} {
		history, err := open(t, timed(), behind(t, direct, mode)).History(t.Context())
		if err != nil || len(history.Records) != 1 {
			t.Errorf("%s: the history is %+v, %v", mode, history, err)
		}
	}
	target := behind(t, direct, "session")
	target.Options = map[string]string{"options": "-c search_path=other"}
	_, err := timed().Open(t.Context(), target)
	if answer, ok := errors.AsType[*skein.DatabaseError](err); !ok || answer.Class != skein.Permanent || !strings.Contains(answer.Hint, "take it out of the target's options") {
		t.Errorf("the error is %T: %v", err, err)
	}
}
