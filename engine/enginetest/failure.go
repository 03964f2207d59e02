package enginetest

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/secret"
)

// slow is a migration whose second statement does not end by itself.
func (s *suite) slow() *skein.Migration {
	return migration("slow.sql", table("earlier")+";\n"+s.Slow+";\n"+table("later"), "")
}

var cancelTests = []namedTest{
	{"Statement", func(t *testing.T, s *suite) {
		for name, m := range map[string]*skein.Migration{"transaction": s.slow(), "no transaction": noTransaction(s.slow())} {
			t.Run(name, func(t *testing.T) {
				target := s.NewTarget(t)
				e := s.engine()
				session := s.open(t, e, target)
				lock(t, session)
				work := step(t, e, m, skein.Up, 1)
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() {
					_, err := session.Apply(ctx, work)
					ended <- err
				}()
				if m.Up.NoTransaction || !s.Transactional {
					s.waitBegun(t, target, m)
				}
				time.Sleep(700 * time.Millisecond)
				var err error
				within(t, prompt, "ending a migration that was cancelled", func() {
					cancel()
					err = <-ended
				})
				if !errors.Is(err, context.Canceled) {
					t.Errorf("the error is %v", err)
				}
				closes(t, session)

				next := s.open(t, e, target)
				lock(t, next) // waits for less than the statement would have run
				s.wantBegun(t, target, m)
			})
		}
	}},

	{"AnyMoment", func(t *testing.T, s *suite) {
		// Whenever it comes, what is recorded is what is there. Only of the one
		// statement that was running it may be unknown that it has run.
		up := table("t1") + ";" + table("t2") + ";" + table("t3") + ";" + table("t4")
		for moment := range 12 {
			for _, m := range []*skein.Migration{migration("1.sql", up, ""), noTransaction(migration("1.sql", up, ""))} {
				target := s.NewTarget(t)
				e := s.engine()
				session := s.open(t, e, target)
				lock(t, session)
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(moment)*2*time.Millisecond)
				_, err := session.Apply(ctx, step(t, e, m, skein.Up, 1))
				cancel()
				closes(t, session)
				lock(t, s.open(t, e, target))
				made := len(s.tables(t, target))
				r, recorded := s.records(t, target)["1.sql"]
				switch {
				case err == nil && (r.State != skein.Applied || made != 4):
					t.Errorf("after %d ms there is no error, %d of 4 tables and the record %+v", 2*moment, made, r)
				case s.Transactional && !m.Up.NoTransaction && (made != 0 && made != 4 || recorded != (made == 4)):
					t.Errorf("after %d ms %d of 4 tables stayed, and the record %+v", 2*moment, made, r)
				case r.State == skein.Applied && made != 4, r.State == skein.Applying && (made < r.Done || made > r.Done+1), !recorded && made > 0:
					t.Errorf("after %d ms %d of 4 tables stayed, and the record %+v", 2*moment, made, r)
				}
			}
		}
	}},

	{"Before", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		e := s.engine()
		within(t, prompt, "everything", func() {
			if session, err := e.Open(cancelled(t), target); err == nil {
				_ = session.Close()
				t.Error("a session was opened for a context that had ended")
			}
			session := s.open(t, e, target)
			if _, err := session.History(cancelled(t)); err == nil {
				t.Error("the history was read for a context that had ended")
			}
			closes(t, session)
			session = s.open(t, e, target)
			lock(t, session)
			m := migration("1.sql", table("one"), "")
			if _, err := session.Apply(cancelled(t), step(t, e, m, skein.Up, 1)); !errors.Is(err, context.Canceled) {
				t.Errorf("the error is %v", err)
			}
			closes(t, session)
		})
		if tables := s.tables(t, target); len(tables) > 0 {
			t.Errorf("the tables %q were made", tables)
		}
		if records := s.records(t, target); len(records) > 0 {
			t.Errorf("the records are %v", records)
		}
	}},
}

// waitBegun waits until the first statement of the slow migration is recorded as
// done. It must be one that is no transaction.
func (s *suite) waitBegun(t *testing.T, target skein.Target, m *skein.Migration) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); s.records(t, target)[m.Name].Done < 1; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the first statement does not come to its end")
		}
	}
}

// wantBegun wants a target as it is after the slow migration was cut off: as if
// it had never been, or as one that began and was recorded so.
func (s *suite) wantBegun(t *testing.T, target skein.Target, m *skein.Migration) {
	t.Helper()
	tables, record := s.tables(t, target), s.records(t, target)[m.Name]
	if s.Transactional && !m.Up.NoTransaction {
		if len(tables) > 0 || record.Name != "" {
			t.Errorf("the tables %q and the record %+v stayed", tables, record)
		}
		return
	}
	if !slices.Equal(tables, []string{"earlier"}) {
		t.Errorf("the tables are %q", tables)
	}
	wantPartial(t, record, skein.Applying, 1, 3)
}

var errorTests = []namedTest{
	{"Password", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		if target.Engine == skein.SQLite {
			return // it knows none
		}
		for name, change := range map[string]func(*skein.Target){
			"wrong password": func(t *skein.Target) { t.Password = secret.New("wr0ng'p@ss") },
			"no password":    func(t *skein.Target) { t.Password = secret.Secret{} },
			"unknown role":   func(t *skein.Target) { t.User = "skein_nobody" },
		} {
			wrong := target
			change(&wrong)
			if code := s.wantRefused(t, wrong, skein.Denied); code == "" {
				t.Errorf("%s: the error has no code", name)
			}
		}
	}},

	{"Missing", func(t *testing.T, s *suite) {
		for kind, make := range s.Missing {
			t.Run(kind, func(t *testing.T) {
				s.wantRefused(t, make(t), skein.NoDatabase)
			})
		}
	}},

	{"Unreachable", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		if target.Engine == skein.SQLite {
			return // there is no way to it that could be cut
		}
		var config net.ListenConfig
		closed, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		refusing := target
		refusing.Host, refusing.Port = "127.0.0.1", closed.Addr().(*net.TCPAddr).Port
		_ = closed.Close()
		s.wantRefused(t, refusing, skein.Unreachable)

		unknown := target
		unknown.Host = "no-such-host.invalid"
		s.wantRefused(t, unknown, skein.Unreachable)
	}},

	{"Silent", func(t *testing.T, s *suite) {
		// A server that takes the connection and then says nothing.
		target := s.NewTarget(t)
		if target.Engine == skein.SQLite {
			return
		}
		target.Host, target.Port = "127.0.0.1", listen(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
		opts := s.options()
		opts.ConnectTimeout = 500 * time.Millisecond
		within(t, prompt, "giving up a server that is silent", func() {
			_, err := s.New(opts).Open(t.Context(), target)
			wantClass(t, target, err, skein.Unreachable)
		})
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		within(t, prompt, "giving up a server that is silent", func() {
			if _, err := s.engine().Open(ctx, target); err == nil {
				t.Error("there is no error")
			}
		})
	}},

	{"HangsUp", func(t *testing.T, s *suite) {
		// A server that takes the connection and ends it.
		target := s.NewTarget(t)
		if target.Engine == skein.SQLite {
			return
		}
		target.Host, target.Port = "127.0.0.1", listen(t, func(net.Conn) {})
		s.wantRefused(t, target, skein.Unreachable)
	}},

	{"Busy", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		s.applyAll(t, target, migration("1.sql", table("one"), ""))
		opts := s.options()
		// Whole seconds: not every database can do with less.
		opts.LockTimeout = time.Second
		e := s.New(opts)
		session := s.open(t, e, target)
		lock(t, session)
		m := migration("2.sql", "ALTER TABLE one ADD COLUMN more integer", "")
		release := s.LockTable(t, target, "one")
		var err error
		within(t, opts.LockTimeout+prompt, "waiting for a table", func() {
			_, err = session.Apply(t.Context(), step(t, e, m, skein.Up, 2))
		})
		release()
		wantClass(t, target, err, skein.Busy)
		broken, ok := errors.AsType[*skein.StatementError](err)
		if !ok {
			t.Fatalf("the error is %T: %v", err, err)
		}
		// Where the lock is one on everything, it is no statement that waits for it.
		if broken.Migration != m.Name || broken.Index > 0 && broken.Line != upLine {
			t.Errorf("the error is %+v", broken)
		}
		if broken.Partial {
			t.Error("a statement that did not begin is said to have stayed")
			return
		}
		if r, recorded := s.records(t, target)[m.Name]; recorded {
			t.Errorf("it is recorded: %+v", r)
		}
		apply(t, e, session, m, skein.Up, 2)
	}},

	{"OwnTimeouts", func(t *testing.T, s *suite) {
		// A migration's own timeouts go before the session's, and are gone after
		// it.
		target := s.NewTarget(t)
		s.applyAll(t, target, migration("1.sql", table("one"), ""))
		opts := s.options()
		opts.LockTimeout, opts.StatementTimeout = 4*time.Second, time.Minute
		e := s.New(opts)
		session := s.open(t, e, target)
		lock(t, session)
		short, none := time.Second, time.Duration(0)
		alter := func(name string, own skein.Timeouts, from, to time.Duration) {
			t.Helper()
			m := migration(name, "ALTER TABLE one ADD COLUMN c"+strings.TrimSuffix(name, ".sql")+" integer", "")
			m.Up.Timeouts = own
			release := s.LockTable(t, target, "one")
			start := time.Now()
			_, err := session.Apply(t.Context(), step(t, e, m, skein.Up, 2))
			took := time.Since(start)
			release()
			wantClass(t, target, err, skein.Busy)
			if took < from || took > to {
				t.Errorf("with the timeouts of %s a table was waited for %s, not %s to %s", name, took, from, to)
			}
			if _, recorded := s.records(t, target)[m.Name]; recorded {
				t.Errorf("%s did nothing, and is recorded", name)
			}
		}
		alter("2.sql", skein.Timeouts{Lock: &short}, 900*time.Millisecond, 3500*time.Millisecond)
		alter("3.sql", skein.Timeouts{}, 3500*time.Millisecond, 4*time.Second+prompt)

		slow := migration("4.sql", s.Slow, "")
		slow.Up.Timeouts = skein.Timeouts{Lock: &none, Statement: &short, Idle: &none}
		within(t, short+prompt, "a statement that takes too long", func() {
			_, err := session.Apply(t.Context(), step(t, e, slow, skein.Up, 2))
			wantClass(t, target, err, skein.Permanent)
		})
		m := noTransaction(migration("5.sql", "ALTER TABLE one ADD COLUMN c5 integer;\n"+table("five"), ""))
		m.Up.Timeouts = skein.Timeouts{Lock: &none, Statement: &none}
		apply(t, e, session, m, skein.Up, 2)
	}},

	{"StatementTimeout", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		opts := s.options()
		opts.StatementTimeout = time.Second
		e := s.New(opts)
		session := s.open(t, e, target)
		lock(t, session)
		m := migration("1.sql", table("one")+";\n"+s.Slow, "")
		within(t, opts.StatementTimeout+prompt, "a statement that takes too long", func() {
			_, err := session.Apply(t.Context(), step(t, e, m, skein.Up, 1))
			wantClass(t, target, err, skein.Permanent)
			broken, ok := errors.AsType[*skein.StatementError](err)
			if !ok {
				t.Fatalf("the error is %T: %v", err, err)
			}
			if broken.Index != 2 || broken.Line != upLine+1 || broken.Partial == s.Transactional {
				t.Errorf("the error is %+v", broken)
			}
		})
		if tables := s.tables(t, target); s.Transactional && len(tables) > 0 {
			t.Errorf("the tables %q stayed", tables)
		}
		if _, err := session.History(t.Context()); err != nil {
			t.Errorf("the session is of no use after a timeout: %v", err)
		}
	}},
}

// wantRefused wants a target that cannot be used to be found out when its
// history is read, if not before. It returns the database's code.
func (s *suite) wantRefused(t *testing.T, target skein.Target, want skein.Class) (code string) {
	t.Helper()
	session, err := s.engine().Open(t.Context(), target)
	if err == nil {
		defer func() { _ = session.Close() }()
		_, err = session.History(t.Context())
	}
	return wantClass(t, target, err, want)
}

func wantClass(t *testing.T, target skein.Target, err error, want skein.Class) (code string) {
	t.Helper()
	answer, ok := errors.AsType[*skein.DatabaseError](err)
	if !ok {
		t.Errorf("the error is %T and not a DatabaseError: %v", err, err)
		return ""
	}
	if answer.Class != want {
		t.Errorf("the error is %q and not %q: %v", answer.Class, want, err)
	}
	if strings.TrimSpace(answer.Message) == "" {
		t.Errorf("the error has no message: %+v", answer)
	}
	wantNoSecret(t, target, err)
	return answer.Code
}

// listen serves connections with f until the test ends, and returns the port.
func listen(t *testing.T, f func(net.Conn)) int {
	t.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				f(conn)
			}()
		}
	}()
	return listener.Addr().(*net.TCPAddr).Port
}
