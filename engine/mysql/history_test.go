package mysql

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/dbtest"
)

// TestHistoryForms reads histories in the form for MariaDB and in that for
// MySQL, which have to say the same.
func TestHistoryForms(t *testing.T) {
	const knex = "CREATE TABLE `KNEX` (id int unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY, name varchar(255), batch int, migration_time timestamp NULL DEFAULT NULL);" +
		"INSERT INTO `KNEX` (name, batch, migration_time) VALUES ('1.js', 1, '2024-01-02 03:04:05'), ('2.js', 1, NULL), ('ü.ts', 2, '2024-01-02 03:04:06');"
	const knexLock = "CREATE TABLE `KNEX_lock` (`index` int unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY, is_locked int);" +
		"INSERT INTO `KNEX_lock` (is_locked) VALUES (0), (1);"
	for name, test := range map[string]struct {
		database, knexTable string
		sql                 string
		own                 bool
		records             int
		locked              bool
	}{
		"no tables":            {},
		"own":                  {own: true, records: 1},
		"knex alone":           {sql: knex + knexLock, records: 3, locked: true},
		"all":                  {own: true, sql: knex + knexLock, records: 4, locked: true},
		"knex without lock":    {own: true, sql: knex, records: 4},
		"a lock without knex":  {sql: knexLock, locked: true},
		"an odd database":      {database: "o'dd`d\"b%_ \u00e9", own: true, sql: knex + knexLock, records: 4, locked: true},
		"an odd table":         {knexTable: "kn'ex`t\"able% \u00e9", own: true, sql: knex + knexLock, records: 4, locked: true},
		"a table of zero time": {sql: "SET sql_mode='';" + strings.Replace(knex, "'2024-01-02 03:04:05'", "'0000-00-00 00:00:00'", 1), records: 3},
	} {
		t.Run(name, func(t *testing.T) {
			if test.database == "" {
				test.database = dbtest.UniqueName()
			}
			opts := skein.SessionOptions{KnexTable: test.knexTable}
			if test.knexTable == "" {
				test.knexTable = skein.DefaultKnexTable
			}
			target := namedTarget(t, test.database)
			if test.sql != "" {
				sql := strings.ReplaceAll(test.sql, "`KNEX`", quoteName(test.knexTable))
				dbtest.MySQL(t).Exec(t, target.Database, strings.ReplaceAll(sql, "`KNEX_lock`", quoteName(test.knexTable+"_lock")))
			}
			if test.own {
				s := open(t, New(opts), target)
				if err := s.Record(t.Context(), []skein.Record{{Name: "ö'.sql", State: skein.Applied, Batch: 1, AppliedAt: time.Unix(1700000000, 0)}}); err != nil {
					t.Fatal(err)
				}
			}
			var got [2]skein.History
			for i, e := range []*Engine{New(opts), asMySQL(New(opts))} {
				var f flights
				s := open(t, f.count(e), target)
				if s.wire.mariaDB == (i == 1) || s.wire.id == 0 {
					t.Fatalf("the greeting was read as %+v", s.wire)
				}
				f.since()
				var err error
				if got[i], err = s.History(t.Context()); err != nil {
					t.Fatal(err)
				}
				if n := f.since(); n != 1 {
					t.Errorf("reading took %d flights", n)
				}
				under := lock(t, s)
				if n := f.since(); n != 1 {
					t.Errorf("locking took %d flights", n)
				}
				if diff := cmp.Diff(got[i], under); diff != "" {
					t.Errorf("the history under the lock (-without +with):\n%s", diff)
				}
				if err := s.Unlock(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if diff := cmp.Diff(got[0], got[1]); diff != "" {
				t.Errorf("the two forms differ:\n%s", diff)
			}
			if len(got[0].Records) != test.records || got[0].KnexLocked != test.locked {
				t.Errorf("the history is %+v", got[0])
			}
			for _, r := range got[0].Records {
				if r.Name == "ü.ts" && !r.AppliedAt.Equal(time.Date(2024, 1, 2, 3, 4, 6, 0, time.Local)) {
					t.Errorf("a time of Knex's is %s", r.AppliedAt)
				}
				if r.Name == "1.js" && test.sql[:3] == "SET" && !r.AppliedAt.IsZero() {
					t.Errorf("no time is read as %s", r.AppliedAt)
				}
			}
		})
	}
}

// TestHistoryOracle is about a server whose sql_mode has other blocks.
func TestHistoryOracle(t *testing.T) {
	target := newTarget(t)
	s := open(t, New(skein.SessionOptions{}), target)
	if err := s.flight(t.Context(), "SET SESSION sql_mode='ORACLE'", nil); err != nil {
		t.Fatal(err)
	}
	lock(t, s)
	if !s.guarded {
		t.Fatal("this server takes the block in sql_mode=ORACLE")
	}
	if err := s.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The lock, asked for twice, was given back once.
	if holder, err := s.Holder(t.Context()); holder != nil || err != nil {
		t.Errorf("after unlocking the holder is %v, %v", holder, err)
	}
}

func TestSwitch(t *testing.T) {
	a, b := neighbours(t)
	gone := a
	gone.Database = "skein_no_such_database"
	var f flights
	e := f.count(New(skein.SessionOptions{}))
	if e.SessionKey(a) != e.SessionKey(b) {
		t.Fatal("the session keys differ")
	}
	other := a
	other.Options = map[string]string{"tls": "preferred"}
	if e.SessionKey(a) == e.SessionKey(other) {
		t.Error("one session key with other options")
	}
	other = a
	other.Password = newTarget(t).Password
	if e.SessionKey(a) == e.SessionKey(other) {
		t.Error("one session key with another password")
	}

	s := open(t, e, a)
	if _, err := s.History(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.since()
	if !s.Switch(b) {
		t.Fatal("it cannot switch")
	}
	if err := s.Record(t.Context(), []skein.Record{{Name: "1.sql", State: skein.Applied, Batch: 1}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, test := range []struct {
			target  skein.Target
			records int
		}{{a, 0}, {b, 1}} {
			f.since()
			if !s.Switch(test.target) {
				t.Fatal("it cannot switch")
			}
			history, err := s.History(t.Context())
			if err != nil || len(history.Records) != test.records {
				t.Errorf("the history is %+v, %v", history, err)
			}
			under := lock(t, s)
			if err := s.Unlock(t.Context()); err != nil || len(under.Records) != test.records {
				t.Errorf("the history under the lock is %+v, %v", under, err)
			}
			if n := f.since(); n != 3 {
				t.Errorf("history, lock and unlock took %d flights", n)
			}
		}
		if !s.Switch(gone) {
			t.Fatal("it cannot switch")
		}
		for _, read := range []func() error{
			func() error { _, err := s.History(t.Context()); return err },
			func() error { _, err := s.Lock(t.Context(), 0); return err },
		} {
			if err := read(); skein.ErrorClass(err) != skein.NoDatabase && skein.ErrorClass(err) != skein.Denied {
				t.Errorf("a database that does not exist: %v", err)
			}
		}
	}
	if tables := tables(t, a); len(tables) > 0 {
		t.Errorf("the tables of the other target are %q", tables)
	}
}

func TestLockName(t *testing.T) {
	long := strings.Repeat("n", 64)
	names := []string{"tenant_1", "Tenant_1", "TENANT_1", "tenant é", "tenant e", "tenant É", "tenant-1", "`'\"\\", long, long[:63], strings.Repeat("N", 64), ""}
	seen := make(map[string]string)
	for _, name := range names {
		lock := lockName(name)
		if len(lock) > 64 {
			t.Errorf("the lock of %q has %d characters", name, len(lock))
		}
		// GET_LOCK folds case.
		if other, ok := seen[strings.ToLower(lock)]; ok {
			t.Errorf("%q and %q have one lock", name, other)
		}
		seen[strings.ToLower(lock)] = name
	}
	if got := lockName("tenant_1"); got != "skein:tenant_1" {
		t.Errorf("the lock of tenant_1 is %s", got)
	}
}

func TestHolder(t *testing.T) {
	target := newTarget(t)
	e := New(skein.SessionOptions{})
	a, b := open(t, e, target), open(t, e, target)
	lock(t, a)
	holder, err := b.Holder(t.Context())
	if err != nil || holder == nil {
		t.Fatalf("the holder is %v, %v", holder, err)
	}
	if holder.User != target.User || holder.Host == "" {
		t.Errorf("the holder is %+v", holder)
	}

	// Another account does not see whose session it is, and may not end it.
	other := newTarget(t)
	dbtest.MySQL(t).Exec(t, "", "GRANT ALL PRIVILEGES ON "+quoteName(target.Database)+".* TO "+quoteName(other.User))
	other.Database = target.Database
	c := open(t, e, other)
	seen, err := c.Holder(t.Context())
	if err != nil || seen == nil || seen.ID != holder.ID || seen.User != "" {
		t.Errorf("to another account the holder is %+v, %v", seen, err)
	}
	if err := c.Break(t.Context(), *holder); skein.ErrorClass(err) != skein.Denied || skein.Hint(err) == "" {
		t.Errorf("another account breaks the lock: %v", err)
	}
	if err := b.Break(t.Context(), skein.Holder{ID: "1; DROP TABLE x"}); err == nil {
		t.Error("what is no id is taken for one")
	}
	if err := b.Break(t.Context(), *holder); err != nil {
		t.Error(err)
	}
	lock(t, c)
}
