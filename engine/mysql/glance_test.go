package mysql

import (
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/dbtest"
	"github.com/skeinhq/skein/secret"
)

// lookFrom looks at targets from their server's own address.
func lookFrom(t testing.TB, address skein.Target, targets ...skein.Target) ([]skein.Glimpse, error) {
	t.Helper()
	e := New(skein.SessionOptions{})
	from, _ := e.Vantage(targets[0], &address)
	s := open(t, e, from)
	defer func() { _ = s.Close() }()
	return e.Glance(t.Context(), s, targets)
}

// told are the names in what is told of a target, or that nothing is.
func told(g skein.Glimpse) string {
	if g.History == nil {
		return "nothing"
	}
	names := []string{}
	for _, r := range g.History.Records {
		names = append(names, r.Name)
	}
	return fmt.Sprint(names)
}

func migrated(t testing.TB, target skein.Target, names ...string) {
	t.Helper()
	e := New(skein.SessionOptions{})
	s := open(t, e, target)
	defer func() { _ = s.Close() }()
	lock(t, s)
	for _, name := range names {
		if err := apply(t, e, s, migration(name, "SELECT 1", ""), skein.Up); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// account makes an account with these rights on tenants' databases.
func account(t testing.TB, grants ...string) skein.Target {
	t.Helper()
	server := dbtest.MySQL(t)
	address := administratorOf(t)
	address.User, address.Password = dbtest.UniqueName(), secret.GenerateKey()
	server.Exec(t, "", "CREATE USER "+quoteName(address.User)+" IDENTIFIED BY '"+address.Password.Reveal()+"'")
	t.Cleanup(func() { server.Exec(t, "", "DROP USER "+quoteName(address.User)) })
	for _, grant := range grants {
		server.Exec(t, "", "GRANT "+grant+" TO "+quoteName(address.User))
	}
	return address
}

// What an account may not see is not told, and what it may see and not read is
// an error: neither is taken for a tenant where nothing has run.
func TestGlanceWithoutRights(t *testing.T) {
	a, b := newTarget(t), newTarget(t)
	migrated(t, a, "1.sql")
	migrated(t, b, "1.sql")
	for _, test := range []struct {
		name   string
		grants []string
		want   string // of a and b; empty: an error
	}{
		{"all", []string{"SELECT ON " + a.Database + ".*", "SELECT ON " + b.Database + ".*"}, "[1.sql] [1.sql]"},
		{"one", []string{"SELECT ON " + a.Database + ".*"}, "[1.sql] nothing"},
		{"none", nil, "nothing nothing"},
		{"other rights", []string{"SELECT ON " + a.Database + ".*", "INSERT ON " + b.Database + ".*"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			glimpses, err := lookFrom(t, account(t, test.grants...), a, b)
			if test.want == "" {
				answer, ok := errors.AsType[*skein.DatabaseError](err)
				if !ok || answer.Class != skein.Denied || !strings.Contains(err.Error(), "read histories") {
					t.Errorf("the error is %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := told(glimpses[0]) + " " + told(glimpses[1]); got != test.want {
				t.Errorf("it is told %s, want %s", got, test.want)
			}
		})
	}
}

// A fleet whose server's address may not read the tenants' tables says so once,
// and connects to each.
func TestFleetWithoutRights(t *testing.T) {
	targets := []skein.Target{newTarget(t), newTarget(t), newTarget(t)}
	for _, target := range targets {
		migrated(t, target, "1.sql")
	}
	set, err := skein.NewSet([]*skein.Migration{migration("1.sql", "SELECT 1", "")})
	if err != nil {
		t.Fatal(err)
	}
	tenants := func() iter.Seq2[skein.Tenant, error] {
		return func(yield func(skein.Tenant, error) bool) {
			for i, target := range targets {
				if !yield(skein.Tenant{ID: fmt.Sprint(i), Slug: fmt.Sprint(i), Target: target}, nil) {
					return
				}
			}
		}
	}
	denied := account(t, "INSERT ON "+targets[1].Database+".*")
	for _, test := range []struct {
		name      string
		addresses map[string]skein.Target
		history   int
		unasked   int
	}{
		// Each has an account of its own.
		{"no address", nil, 0, 0},
		{"the administrator's", map[string]skein.Target{targets[0].Server(): administratorOf(t)}, 3, 0},
		{"one that may not read", map[string]skein.Target{targets[0].Server(): denied}, 0, 1},
	} {
		unasked := 0
		fleet := skein.NewFleet([]skein.Engine{New(skein.SessionOptions{})}, set, &skein.FleetOptions{
			Addresses: test.addresses,
			Listener: func(e skein.Event) {
				if e.Type == skein.ServerUnasked {
					unasked++
				}
			},
		})
		sum, err := fleet.Migrate(t.Context(), tenants(), skein.PlanOptions{})
		if err != nil || sum.Unchanged != 3 || sum.ByHistory != test.history || unasked != test.unasked {
			t.Errorf("%s: the summary is %+v, %v; it was told %d times that the server cannot be asked", test.name, sum, err, unasked)
		}
	}
}

// Names that differ in case may be the same to the server, or not. What is told
// of a database is never another's.
func TestGlanceOfNamesThatDifferInCase(t *testing.T) {
	server := dbtest.MySQL(t)
	name := dbtest.UniqueName()
	lower := namedTarget(t, name)
	migrated(t, lower, "1.sql")
	upper := lower
	upper.Database = strings.ToUpper(name)
	want := "[1.sql] nothing"
	if server.Query(t, "", "SELECT @@lower_case_table_names")[0][0] == "0" {
		upper = namedTarget(t, strings.ToUpper(name))
		migrated(t, upper, "2.sql")
		want = "[1.sql] [2.sql]"
	}
	// MariaDB takes a list of two names that differ in case for one name.
	glimpses, err := lookFrom(t, administratorOf(t), lower, upper, newTarget(t))
	if err != nil {
		t.Fatal(err)
	}
	if got := told(glimpses[0]) + " " + told(glimpses[1]); got != want {
		t.Errorf("it is told %s, want %s", got, want)
	}
	// A table with another's name in other letters is left to whoever connects.
	server.Exec(t, lower.Database, "CREATE TABLE Knex_Migrations (id int)")
	if glimpses, err = lookFrom(t, administratorOf(t), lower, upper); err != nil {
		t.Fatal(err)
	}
	if got := told(glimpses[0]); got != "nothing" {
		t.Errorf("beside a table whose name differs in case it is told %s", got)
	}
}

// Tables may have been converted, each to another character set.
func TestGlanceOfConvertedTables(t *testing.T) {
	server := dbtest.MySQL(t)
	knex := "CREATE TABLE knex_migrations (id int unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY, name varchar(255), batch int, migration_time timestamp NULL DEFAULT NULL);" +
		"CREATE TABLE knex_migrations_lock (`index` int unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY, is_locked int); INSERT INTO knex_migrations_lock (is_locked) VALUES (0);" +
		"INSERT INTO knex_migrations (name, batch, migration_time) VALUES ('ä.js', 1, NULL)"
	var targets []skein.Target
	for _, charset := range []string{
		"utf8mb4 COLLATE utf8mb4_bin", "utf8mb4 COLLATE utf8mb4_general_ci", "utf8mb4 COLLATE utf8mb4_unicode_ci", "latin1", "utf8mb3", "ascii COLLATE ascii_bin", "utf16",
	} {
		target := newTarget(t)
		name := "1 ü.sql"
		if strings.HasPrefix(charset, "ascii") {
			name = "1.sql"
		}
		migrated(t, target, name)
		server.Exec(t, target.Database, knex)
		server.Exec(t, target.Database, "ALTER TABLE skein_migrations CONVERT TO CHARACTER SET "+charset)
		if !strings.HasPrefix(charset, "ascii") {
			server.Exec(t, target.Database, "ALTER TABLE knex_migrations CONVERT TO CHARACTER SET "+charset)
		}
		targets = append(targets, target)
	}
	for turn := range targets { // the first of a union decides about its columns
		some := append(append([]skein.Target{}, targets[turn:]...), targets[:turn]...)
		glimpses, err := lookFrom(t, administratorOf(t), some...)
		if err != nil {
			t.Fatal(err)
		}
		for i, g := range glimpses {
			h, err := open(t, New(skein.SessionOptions{}), some[i]).History(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if g.History == nil || g.History.Fingerprint() != h.Fingerprint() || len(h.Records) != 2 {
				t.Errorf("of %v it is told %s", h.Records, told(g))
			}
		}
	}
}

// A server's address need not name a database.
func TestVantageWithoutADatabase(t *testing.T) {
	target := newTarget(t)
	migrated(t, target, "1.sql")
	address := administratorOf(t)
	address.Database = ""
	glimpses, err := lookFrom(t, address, target)
	if err != nil || told(glimpses[0]) != "[1.sql]" {
		t.Errorf("it is told %v, %v", glimpses, err)
	}
}
