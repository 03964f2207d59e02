package enginetest

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/skeinhq/skein"
)

// timeoutTests are about a migration that does not end.
var timeoutTests = []namedTest{
	{"Slow", func(t *testing.T, s *suite) {
		for name, m := range map[string]*skein.Migration{"transaction": s.slow(), "no transaction": noTransaction(s.slow())} {
			t.Run(name, func(t *testing.T) {
				target := s.NewTarget(t)
				broken, _ := s.stopped(t, target, m)
				if s.Transactional && broken.Partial != m.Up.NoTransaction {
					t.Errorf("the error is %+v", broken)
				}
				s.wantBegun(t, target, m)
			})
		}
	}},

	{"Locked", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		if _, ok := s.open(t, s.engine(), target).(skein.Overseen); !ok {
			return // where a lock is one on the whole file, lock_timeout bounds the wait
		}
		s.Exec(t, target, table("one"))
		release := s.LockTable(t, target, "one")
		defer release()
		_, timeout := s.stopped(t, target, migration("1.sql", "ALTER TABLE one ADD COLUMN more integer", ""))
		if !strings.Contains(strings.ToLower(timeout.Activity), "lock") {
			t.Errorf("the error says %q of what it waited for", timeout.Activity)
		}
		if _, recorded := s.records(t, target)["1.sql"]; recorded && s.Transactional {
			t.Error("the migration is recorded")
		}
	}},
}

// stopped applies a migration with too little time for it, and wants it to be
// stopped, with the tenant's lock free afterwards.
func (s *suite) stopped(t *testing.T, target skein.Target, m *skein.Migration) (*skein.StatementError, *skein.TimeoutError) {
	t.Helper()
	set, err := skein.NewSet([]*skein.Migration{m})
	if err != nil {
		t.Fatal(err)
	}
	e := s.engine()
	session := s.open(t, e, target)
	migrator := skein.NewMigrator(e, set, 0).WithTimeout(1500 * time.Millisecond)
	var r skein.Result
	within(t, 1500*time.Millisecond+prompt, "stopping a migration", func() {
		r = migrator.Migrate(t.Context(), session, skein.Tenant{ID: "1", Target: target}, skein.PlanOptions{}, nil, func(skein.Event) {})
	})
	broken, ok := errors.AsType[*skein.StatementError](r.Err)
	if !ok {
		t.Fatalf("the error is %T: %v", r.Err, r.Err)
	}
	timeout, ok := errors.AsType[*skein.TimeoutError](r.Err)
	if !ok || timeout.EndErr != nil || skein.Hint(r.Err) == "" {
		t.Fatalf("the error is %T: %v", broken.Err, r.Err)
	}
	next := s.open(t, e, target)
	if _, err := next.Lock(t.Context(), 0); err != nil {
		t.Errorf("the lock after that: %v", err)
	}
	closes(t, next)
	return broken, timeout
}
