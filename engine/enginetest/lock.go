package enginetest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/skeinhq/skein"
)

var lockTests = []namedTest{
	{"Excludes", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		e := s.engine()
		holder := s.open(t, e, target)
		lock(t, holder)
		for name, session := range map[string]skein.Session{
			"the same engine": s.open(t, e, target), "another engine": s.open(t, s.engine(), target),
		} {
			within(t, prompt, "being refused", func() {
				wantLocked(t, session, 0)
			})
			const wait = 400 * time.Millisecond
			start := time.Now()
			wantLocked(t, session, wait)
			if took := time.Since(start); took < wait-50*time.Millisecond || took > wait+prompt {
				t.Errorf("%s: a wait of %s took %s", name, wait, took)
			}
			// One can look while another works.
			if _, err := session.History(t.Context()); err != nil {
				t.Errorf("%s: reading the history while another session has the lock: %v", name, err)
			}
		}
	}},

	{"Unlock", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		e := s.engine()
		a, b := s.open(t, e, target), s.open(t, e, target)
		for range 3 {
			lock(t, a)
			wantLocked(t, b, 0)
			unlock(t, a)
			lock(t, b)
			wantLocked(t, a, 0)
			unlock(t, b)
		}
	}},

	{"LastStep", func(t *testing.T, s *suite) {
		// Whether a session gives the lock back with the last step is its own
		// matter: Unlock is called once, and then it is free.
		for name, change := range map[string]func(*skein.Migration) *skein.Migration{
			"in a transaction": func(m *skein.Migration) *skein.Migration { return m }, "without": noTransaction,
		} {
			t.Run(name, func(t *testing.T) {
				target := s.NewTarget(t)
				e := s.engine()
				a, b := s.open(t, e, target), s.open(t, e, target)
				last := func(m *skein.Migration, d skein.Direction) error {
					step := step(t, e, change(m), d, 1)
					step.Last = true
					_, err := a.Apply(t.Context(), step)
					return err
				}
				up := migration("1.sql", table("one"), "DROP TABLE one")
				for _, d := range []skein.Direction{skein.Up, skein.Down, skein.Up} {
					lock(t, a)
					if err := last(up, d); err != nil {
						t.Fatal(err)
					}
					unlock(t, a)
					if err := a.Unlock(t.Context()); err == nil {
						t.Error("the lock was given back once more")
					}
					lock(t, b)
					unlock(t, b)
				}
				lock(t, a)
				if err := last(migration("2.sql", "INSERT INTO nothing VALUES (1)", ""), skein.Up); err == nil {
					t.Fatal("a step that is wrong succeeds")
				}
				wantLocked(t, b, 0)
				unlock(t, a)
				lock(t, b)
			})
		}
	}},

	{"Close", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		e := s.engine()
		a, b := s.open(t, e, target), s.open(t, e, target)
		lock(t, a)
		closes(t, a)
		lock(t, b)
	}},

	{"Waits", func(t *testing.T, s *suite) {
		// A lock that becomes free while it is waited for is taken, and the
		// history under it has what its last holder did.
		target := s.NewTarget(t)
		e := s.engine()
		a, b := s.open(t, e, target), s.open(t, e, target)
		lock(t, a)
		type answer struct {
			history skein.History
			err     error
			at      time.Time
		}
		got := make(chan answer, 1)
		go func() {
			history, err := b.Lock(t.Context(), 30*time.Second)
			got <- answer{history, err, time.Now()}
		}()
		time.Sleep(300 * time.Millisecond)
		apply(t, e, a, migration("1.sql", table("one"), ""), skein.Up, 1)
		apply(t, e, a, noTransaction(migration("2.sql", table("two"), "")), skein.Up, 2)
		freed := time.Now()
		unlock(t, a)
		b1 := <-got
		if b1.err != nil {
			t.Fatal(b1.err)
		}
		if late := b1.at.Sub(freed); late > prompt {
			t.Errorf("the lock was taken %s after it was given back", late)
		}
		if len(b1.history.Records) != 2 || b1.history.LastBatch() != 2 {
			t.Errorf("the history under the lock is %+v", b1.history.Records)
		}
	}},

	{"Cancel", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		e := s.engine()
		a, b := s.open(t, e, target), s.open(t, e, target)
		lock(t, a)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		within(t, prompt, "a wait whose context ended", func() {
			if _, err := b.Lock(ctx, time.Minute); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the error is %v", err)
			}
		})
		closes(t, b)
		unlock(t, a)
		lock(t, s.open(t, e, target))
	}},

	{"AfterFailure", func(t *testing.T, s *suite) {
		// A migration that broke keeps the lock, until it is given back.
		target := s.NewTarget(t)
		e := s.engine()
		a, b := s.open(t, e, target), s.open(t, e, target)
		for _, m := range []*skein.Migration{
			migration("1.sql", "SELECT 1;\nINSERT INTO missing VALUES (1)", ""),
			noTransaction(migration("2.sql", "SELECT 1;\nINSERT INTO missing VALUES (1)", "")),
		} {
			lock(t, a)
			if _, err := a.Apply(t.Context(), step(t, e, m, skein.Up, 1)); err == nil {
				t.Error("the migration did not fail")
			}
			wantLocked(t, b, 0)
			unlock(t, a)
			lock(t, b)
			unlock(t, b)
		}
	}},

	{"Neighbours", func(t *testing.T, s *suite) {
		for _, n := range s.Neighbours {
			t.Run(n.Kind, func(t *testing.T) {
				a, b := n.New(t)
				e := s.engine()
				first, second := s.open(t, e, a), s.open(t, e, b)
				lock(t, first)
				if _, err := second.Lock(t.Context(), 0); err != nil {
					t.Fatalf("while %s is locked, so is %s: %v", a, b, err)
				}
				apply(t, e, first, migration("a.sql", table("one"), ""), skein.Up, 1)
				apply(t, e, second, migration("b.sql", table("one"), ""), skein.Up, 1)
				for name, target := range map[string]skein.Target{"a.sql": a, "b.sql": b} {
					if records := s.records(t, target); len(records) != 1 || records[name].Name != name {
						t.Errorf("%s has the records %v", target, records)
					}
				}
			})
		}
	}},
}

// wantLocked wants a lock refused.
func wantLocked(t *testing.T, session skein.Session, wait time.Duration) {
	t.Helper()
	_, err := session.Lock(t.Context(), wait)
	locked, ok := errors.AsType[*skein.LockedError](err)
	if !ok {
		t.Fatalf("the error is %T and not a LockedError: %v", err, err)
	}
	if locked.Holder == "" {
		t.Error("the error does not say who has the lock")
	}
	if wait > 0 && locked.Waited < wait/2 {
		t.Errorf("the error says %s were waited, of %s", locked.Waited, wait)
	}
}

var lockKeeperTests = []namedTest{
	{"Holder", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		e := s.engine()
		a, b := s.open(t, e, target), s.open(t, e, target)
		keeper := lockKeeper(t, b)
		if holder, err := keeper.Holder(t.Context()); holder != nil || err != nil {
			t.Errorf("the holder of a lock that nobody has is %v, %v", holder, err)
		}
		before := time.Now().Add(-time.Minute)
		lock(t, a)
		holder, err := keeper.Holder(t.Context())
		if err != nil || holder == nil {
			t.Fatalf("the holder is %v, %v", holder, err)
		}
		if holder.ID == "" {
			t.Errorf("the holder is %+v", *holder)
		}
		if !holder.Since.IsZero() && (holder.Since.Before(before) || holder.Since.After(time.Now().Add(time.Second))) {
			t.Errorf("the holder has it since %s, and now it is %s", holder.Since, time.Now())
		}
		_, err = b.Lock(t.Context(), 0)
		if locked, ok := errors.AsType[*skein.LockedError](err); !ok || !strings.Contains(locked.Holder, holder.ID) {
			t.Errorf("the holder is %s, and the error: %v", holder, err)
		}
		unlock(t, a)
		if holder, err := keeper.Holder(t.Context()); holder != nil || err != nil {
			t.Errorf("the holder of a lock that nobody has any more is %v, %v", holder, err)
		}
	}},

	{"HolderAmongNeighbours", func(t *testing.T, s *suite) {
		for _, n := range s.Neighbours {
			a, b := n.New(t)
			e := s.engine()
			lock(t, s.open(t, e, a))
			if holder, err := lockKeeper(t, s.open(t, e, b)).Holder(t.Context()); holder != nil || err != nil {
				t.Errorf("%s: the holder of the lock of the other is %v, %v", n.Kind, holder, err)
			}
		}
	}},

	{"Terminate", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		e := s.engine()
		a, b := s.open(t, e, target), s.open(t, e, target)
		terminator, ok := b.(skein.Terminator)
		if !ok {
			return // there are no sessions at a server
		}
		lock(t, a)
		holder, err := lockKeeper(t, b).Holder(t.Context())
		if err != nil || holder == nil {
			t.Fatalf("the holder is %v, %v", holder, err)
		}
		if err := terminator.Terminate(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if err := terminator.Terminate(t.Context(), []string{holder.ID}); err != nil {
			t.Fatal(err)
		}
		if _, err = a.History(t.Context()); skein.ErrorClass(err) != skein.ConnectionLost {
			t.Errorf("the session goes on: %v", err)
		}
		if err := terminator.Terminate(t.Context(), []string{holder.ID}); err != nil {
			t.Errorf("a session that is gone: %v", err)
		}
		lock(t, b)
		if err := terminator.Terminate(t.Context(), []string{"1; DROP TABLE t"}); err == nil {
			t.Error("what is no session's id was let pass")
		}
	}},

	{"Break", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		e := s.engine()
		a, b := s.open(t, e, target), s.open(t, e, target)
		lock(t, a)
		keeper := lockKeeper(t, b)
		holder, err := keeper.Holder(t.Context())
		if err != nil || holder == nil {
			t.Fatalf("the holder is %v, %v", holder, err)
		}
		if err := keeper.Break(t.Context(), *holder); err != nil {
			// An engine that cannot end another process says so, and does nothing.
			wantLocked(t, b, 0)
			unlock(t, a)
			return
		}
		lock(t, b)
		_, err = a.History(t.Context())
		if skein.ErrorClass(err) != skein.ConnectionLost {
			t.Errorf("the session that was ended says %q: %v", skein.ErrorClass(err), err)
		}
		closes(t, a)
		unlock(t, b)
		lock(t, s.open(t, e, target))
	}},

	{"BreakNobody", func(t *testing.T, s *suite) {
		// Between looking and breaking the holder may have ended by itself.
		target := s.NewTarget(t)
		e := s.engine()
		a, b := s.open(t, e, target), s.open(t, e, target)
		lock(t, a)
		keeper := lockKeeper(t, b)
		holder, err := keeper.Holder(t.Context())
		if err != nil || holder == nil {
			t.Fatalf("the holder is %v, %v", holder, err)
		}
		closes(t, a)
		if err := keeper.Break(t.Context(), *holder); err != nil {
			t.Errorf("breaking a lock that was given back meanwhile: %v", err)
		}
		lock(t, b)
	}},

	{"ClearKnexLock", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		session := s.open(t, s.engine(), target)
		keeper := lockKeeper(t, session)
		clears := func(want bool) {
			t.Helper()
			if was, err := keeper.ClearKnexLock(t.Context()); was != want || err != nil {
				t.Errorf("clearing answers %t, %v instead of %t", was, err, want)
			}
		}
		clears(false) // without the table
		if tables := s.Tables(t, target); len(tables) > 0 {
			t.Errorf("clearing made the tables %q", tables)
		}
		s.Exec(t, target, s.Knex)
		clears(false)
		s.Exec(t, target, "UPDATE knex_migrations_lock SET is_locked = 1")
		clears(true)
		clears(false)
		if history := s.history(t, target); history.KnexLocked {
			t.Error("KnexLocked is still set")
		}
		if rows := s.Query(t, target, "SELECT is_locked FROM knex_migrations_lock"); len(rows) != 1 || rows[0][0] != "0" {
			t.Errorf("the lock table holds %q", rows)
		}
		// Two Knex that make the table at once can leave two rows, with which no
		// Knex gets its lock ever again.
		s.Exec(t, target, "INSERT INTO knex_migrations_lock (is_locked) VALUES (0)")
		if history := s.history(t, target); !history.KnexLocked {
			t.Error("KnexLocked is not set, and Knex cannot get its lock")
		}
		clears(true)
		clears(false)
		if rows := s.Query(t, target, "SELECT is_locked FROM knex_migrations_lock"); len(rows) != 1 || rows[0][0] != "0" {
			t.Errorf("the lock table holds %q", rows)
		}
	}},
}

func lockKeeper(t *testing.T, session skein.Session) skein.LockKeeper {
	t.Helper()
	keeper, ok := session.(skein.LockKeeper)
	if !ok {
		t.Fatalf("%T is not a LockKeeper", session)
	}
	return keeper
}

var switchTests = []namedTest{
	{"Serves", func(t *testing.T, s *suite) {
		for _, n := range s.Neighbours {
			if !n.Switch {
				continue
			}
			t.Run(n.Kind, func(t *testing.T) {
				a, b := n.New(t)
				e := s.engine()
				if key := e.SessionKey(a); key == "" || key != e.SessionKey(b) {
					t.Fatalf("the session keys are %q and %q", key, e.SessionKey(b))
				}
				if password := a.Password.Reveal(); password != "" && strings.Contains(e.SessionKey(a), password) {
					t.Error("the session key shows the password")
				}
				session := s.open(t, e, a)
				for _, target := range []skein.Target{b, a} {
					if !session.Switch(target) {
						t.Fatalf("the session cannot switch to %s", target)
					}
					if history, err := session.History(t.Context()); err != nil || len(history.Records) > 0 {
						t.Fatalf("the history of %s is %+v, %v", target, history, err)
					}
				}
				for round, target := range []skein.Target{a, b, a, b} {
					// A migration may leave a session in a state that is not
					// for the next target.
					if !session.Switch(target) {
						closes(t, session)
						session = s.open(t, e, target)
					}
					history, err := session.History(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					if len(history.Records) != round/2 {
						t.Errorf("round %d: the history of %s is %+v", round, target, history.Records)
					}
					lock(t, session)
					name := string(rune('a'+round)) + ".sql"
					apply(t, e, session, migration(name, table("t"+name[:1]), ""), skein.Up, round+1)
					unlock(t, session)
				}
				for target, want := range map[*skein.Target]string{&a: "ta tc", &b: "tb td"} {
					if got := strings.Join(s.tables(t, *target), " "); got != want {
						t.Errorf("%s has the tables %q, not %q", target, got, want)
					}
				}
			})
		}
	}},

	{"Keys", func(t *testing.T, s *suite) {
		e := s.engine()
		target := s.NewTarget(t)
		if e.SessionKey(target) == "" {
			return
		}
		for name, change := range map[string]func(*skein.Target){
			"host": func(t *skein.Target) { t.Host += ".example" },
			"port": func(t *skein.Target) { t.Port = 1 },
			"user": func(t *skein.Target) { t.User += "x" },
		} {
			other := target
			change(&other)
			if e.SessionKey(other) == e.SessionKey(target) {
				t.Errorf("one session key for targets with different values of %s", name)
			}
		}
	}},
}

var nameTests = []namedTest{
	{"Odd", func(t *testing.T, s *suite) {
		for kind, make := range s.Named {
			for _, name := range []string{
				"UPPER Case",
				`quo'te"d` + "`b` [x]",
				"dollar$1 100% a?b=c&d#e :f @g",
				"Ünïcødé 数据",
				"semi;colon--comment",
				strings.Repeat("n", s.MaxName),
			} {
				t.Run(kind+"/"+name, func(t *testing.T) {
					target := make(t, name)
					e := s.engine()
					a, b := s.open(t, e, target), s.open(t, e, target)
					if history := lock(t, a); len(history.Records) > 0 {
						t.Fatalf("the history of an empty target is %+v", history.Records)
					}
					wantLocked(t, b, 0)
					m := migration("1.sql", table("one"), "DROP TABLE one")
					apply(t, e, a, m, skein.Up, 1)
					if records := s.records(t, target); len(records) != 1 {
						t.Errorf("the records are %v", records)
					}
					if tables := strings.Join(s.Tables(t, target), " "); tables != "one skein_migrations" {
						t.Errorf("the tables are %q", tables)
					}
					apply(t, e, a, m, skein.Down, 1)
					unlock(t, a)
					lock(t, b)
				})
			}
		}
	}},
}
