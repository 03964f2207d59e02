package postgres

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/dbtest"
	"github.com/skeinhq/skein/secret"
)

// look is what can be told of targets from the first of them.
func look(t testing.TB, targets ...skein.Target) []skein.Glimpse {
	t.Helper()
	return lookFrom(t, nil, targets...)
}

func lookFrom(t testing.TB, server *skein.Target, targets ...skein.Target) []skein.Glimpse {
	t.Helper()
	e := New(skein.SessionOptions{})
	from, _ := e.Vantage(targets[0], server)
	s := open(t, e, from)
	defer func() { _ = s.Close() }()
	glimpses, err := e.Glance(t.Context(), s, targets)
	if err != nil {
		t.Fatal(err)
	}
	return glimpses
}

// fingerprint is that of a target's history.
func fingerprint(t testing.TB, target skein.Target) string {
	t.Helper()
	s := open(t, New(skein.SessionOptions{}), target)
	defer func() { _ = s.Close() }()
	h, err := s.History(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return h.Fingerprint()
}

// wantTold wants a look to tell the fingerprint of a target's history.
func wantTold(t testing.TB, when string, target skein.Target) {
	t.Helper()
	if got, want := look(t, target)[0], (skein.Glimpse{Fingerprint: fingerprint(t, target)}); got != want {
		t.Errorf("%s: it is told %+v, want %+v", when, got, want)
	}
}

// wantUntold wants a look to tell nothing of a target, but whether its
// fingerprint could be written.
func wantUntold(t testing.TB, when string, target skein.Target, wanting bool) {
	t.Helper()
	if got, want := look(t, target)[0], (skein.Glimpse{Wanting: wanting}); got != want {
		t.Errorf("%s: it is told %+v, want %+v", when, got, want)
	}
}

// migrated applies migrations in a session of its own.
func migrated(t testing.TB, target skein.Target, steps ...skein.Step) {
	t.Helper()
	s := open(t, New(skein.SessionOptions{}), target)
	defer func() { _ = s.Close() }()
	lock(t, s)
	for _, step := range steps {
		apply(t, s, step)
	}
	unlock(t, s)
}

// verify compares and mends a target's fingerprint.
func verify(t testing.TB, target skein.Target) skein.FingerprintState {
	t.Helper()
	e := New(skein.SessionOptions{})
	set, err := skein.NewSet(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, e, target)
	defer func() { _ = s.Close() }()
	r := skein.NewMigrator(e, set, 0).Verify(t.Context(), s, skein.Tenant{Target: target}, skein.Policy{}, true)
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	return r.Fingerprint
}

// comment is that of a target's database.
func comment(t testing.TB, target skein.Target) string {
	t.Helper()
	return dbtest.Postgres(t).Query(t, "", "SELECT COALESCE(shobj_description(oid, 'pg_database'), '') FROM pg_database WHERE datname = $1", target.Database)[0][0]
}

func setComment(t testing.TB, target skein.Target, text string) {
	t.Helper()
	dbtest.Postgres(t).Exec(t, "", "COMMENT ON DATABASE "+quoteIdent(target.Database)+" IS "+quoteLiteral(text))
}

// giveTo gives a target's database to a role.
func giveTo(t testing.TB, target skein.Target, owner string) {
	t.Helper()
	dbtest.Postgres(t).Exec(t, "", "ALTER DATABASE "+quoteIdent(target.Database)+" OWNER TO "+owner)
}

// addRole makes a role, which is dropped with the test.
func addRole(t testing.TB, attributes string) (string, secret.Secret) {
	t.Helper()
	server := dbtest.Postgres(t)
	name, password := dbtest.UniqueName(), secret.GenerateKey()
	server.Exec(t, "", "CREATE ROLE "+name+" PASSWORD "+quoteLiteral(password.Reveal())+" "+attributes)
	t.Cleanup(func() { server.Exec(t, "", "DROP ROLE "+name) })
	return name, password
}

var (
	one = func(t testing.TB) skein.Step { return step(t, "1.sql", "CREATE TABLE one (id int)", false) }
	two = func(t testing.TB) skein.Step { return step(t, "2.sql", "CREATE TABLE two (id int)", true) }
)

// A role that may not write the comment migrates as ever, and what the comment
// says counts for nothing.
func TestFingerprintNeedsTheOwner(t *testing.T) {
	target := newDatabase(t)
	migrated(t, target, one(t))
	wantTold(t, "by the owner", target)
	setComment(t, target, "Acme")
	giveTo(t, target, "postgres")
	dbtest.Postgres(t).Exec(t, target.Database, "GRANT ALL ON SCHEMA public TO "+target.User)

	migrated(t, target, two(t))
	wantUntold(t, "the database is another's", target, false)
	if got := comment(t, target); got != "Acme" {
		t.Errorf("the comment is %q", got)
	}
	if got := verify(t, target); got != skein.FingerprintRefused {
		t.Errorf("verify says %q", got)
	}
	giveTo(t, target, target.User)
	wantUntold(t, "the database is its own again", target, true)
	if got := verify(t, target); got != skein.FingerprintMissing {
		t.Errorf("verify says %q", got)
	}
	wantTold(t, "when it was mended", target)

	// A fingerprint that was written before is not one while it could not be
	// written.
	giveTo(t, target, "postgres")
	wantUntold(t, "with a fingerprint, the database is another's", target, false)
	giveTo(t, target, target.User)
}

// What counts is whether the role that logs in has the owner's rights, whatever
// role it works as.
func TestFingerprintOfMembers(t *testing.T) {
	server := dbtest.Postgres(t)
	for _, test := range []struct {
		name, attributes string
		told             bool
	}{{"a member", "LOGIN INHERIT", true}, {"a member that does not inherit", "LOGIN NOINHERIT", false}, {"a superuser", "LOGIN SUPERUSER", true}} {
		t.Run(test.name, func(t *testing.T) {
			target := newDatabase(t)
			owner := target.User
			target.User, target.Password = addRole(t, test.attributes)
			server.Exec(t, target.Database, "GRANT "+owner+" TO "+target.User+"; GRANT ALL ON SCHEMA public TO "+target.User)
			t.Cleanup(func() { server.Exec(t, target.Database, "DROP OWNED BY "+target.User) })
			migrated(t, target, one(t), two(t))
			if test.told {
				wantTold(t, "applied", target)
			} else {
				wantUntold(t, "applied", target, false)
			}
		})
	}
	for _, test := range []struct{ name, how string }{
		{"the role's setting", "role"}, {"an option", "option"}, {"a migration", "migration"},
	} {
		t.Run("as another role by "+test.name, func(t *testing.T) {
			target := newDatabase(t)
			other, _ := addRole(t, "NOLOGIN")
			server.Exec(t, target.Database, "GRANT "+other+" TO "+target.User+"; GRANT ALL ON SCHEMA public TO "+other)
			t.Cleanup(func() { server.Exec(t, target.Database, "DROP OWNED BY "+other) })
			first := one(t)
			switch test.how {
			case "role":
				server.Exec(t, "", "ALTER ROLE "+target.User+" SET role = "+other)
			case "option":
				target.Options = map[string]string{"role": other}
			case "migration":
				first = step(t, "1.sql", "SET ROLE "+other+"; CREATE TABLE one (id int)", true)
			}
			migrated(t, target, first, step(t, "2.sql", "SELECT 1", false), step(t, "3.sql", "SELECT 1", true))
			wantTold(t, "applied", target)
		})
	}
}

// Several tenants may share a database, by their roles' search paths. There is
// room for the fingerprint of one.
func TestFingerprintOfTwoRoles(t *testing.T) {
	server := dbtest.Postgres(t)
	a := newDatabase(t)
	b := a
	b.User, b.Password = addRole(t, "LOGIN")
	server.Exec(t, a.Database, "GRANT "+a.User+" TO "+b.User+"; CREATE SCHEMA b AUTHORIZATION "+b.User)
	server.Exec(t, "", "ALTER ROLE "+b.User+" SET search_path TO b")
	t.Cleanup(func() { server.Exec(t, a.Database, "DROP OWNED BY "+b.User) })

	migrated(t, a, one(t))
	wantTold(t, "one has it", a)
	wantUntold(t, "the other's", b, true)
	migrated(t, b, one(t), two(t))
	wantTold(t, "the other has it", b)
	wantUntold(t, "the one's", a, true)
	if got := verify(t, a); got != skein.FingerprintMissing {
		t.Errorf("verify says %q", got)
	}
	wantTold(t, "when it was mended", a)
	// What is told of one is never what the other's history is.
	s := open(t, New(skein.SessionOptions{}), b)
	lock(t, s)
	if err := s.Erase(t.Context(), []string{"2.sql"}); err != nil {
		t.Fatal(err)
	}
	unlock(t, s)
	if fingerprint(t, a) != fingerprint(t, b) {
		t.Fatal("the histories are not the same")
	}
	wantTold(t, "the last to change something", b)
	wantUntold(t, "the one's, with the same history", a, true)
}

// A tenant may be reached by its schema's name as well as by the search path. A
// change that came the one way is not hidden from the other.
func TestFingerprintAndSchema(t *testing.T) {
	target := newDatabase(t)
	migrated(t, target, one(t), two(t))
	wantTold(t, "by the search path", target)
	public := target
	public.Schema = "public"
	s := open(t, New(skein.SessionOptions{}), public)
	lock(t, s)
	wantTold(t, "a session in the schema has the lock", target)
	if err := s.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantTold(t, "that found nothing to do", target)
	if err := s.Erase(t.Context(), []string{"2.sql"}); err != nil {
		t.Fatal(err)
	}
	wantUntold(t, "by the schema's name", target, true)
	unlock(t, s)
	if h := look(t, public)[0].History; h == nil || len(h.Records) != 1 {
		t.Errorf("in the schema it is told: %+v", h)
	}
	if got := verify(t, public); got != skein.FingerprintNeedless {
		t.Errorf("verify says %q of a schema", got)
	}
	migrated(t, target, step(t, "3.sql", "SELECT 1", false))
	wantTold(t, "by the search path again", target)
}

// Another search path may lead to another history.
func TestFingerprintOfSearchPaths(t *testing.T) {
	target := newDatabase(t)
	execAs(t, target, "CREATE SCHEMA other")
	migrated(t, target, one(t))
	for name, options := range map[string]map[string]string{
		"search_path": {"search_path": "other"}, "options": {"options": "-c search_path=other"}, "role": {"role": target.User},
	} {
		other := target
		other.Options = options
		wantUntold(t, name, other, true)
	}
	same := target
	same.Options = map[string]string{"sslmode": "disable", "application_name": "x"}
	wantTold(t, "options that are about the connection", same)
	e := New(skein.SessionOptions{KnexTable: "migrations"})
	if e.scope(target) == New(skein.SessionOptions{}).scope(target) {
		t.Error("with another table of Knex's it is the same")
	}
}

// Comments are somebody else's, and stay what they are.
func TestFingerprintLeavesCommentsAsTheyAre(t *testing.T) {
	for _, text := range []string{
		"", "Acme", "Acme's \"GmbH\" \\ $skein$ %I 東京", "two\nlines\n", "  spaces  ", "[skein v1 ", "[skein v1 none]", "Acme [skein v1 aaaaaaaa bbbbbbbbbbbbbbbbbbbbbb]",
	} {
		for name, second := range map[string]skein.Step{
			"as it was":       two(t),
			"as it is by now": step(t, "2.sql", "-- comment on database\nSELECT 1", false),
		} {
			target := newDatabase(t)
			if text != "" {
				setComment(t, target, text)
			}
			migrated(t, target, one(t), second)
			wantTold(t, fmt.Sprintf("%q", text), target)
			got := comment(t, target)
			rest, ok := strings.CutPrefix(got, text)
			if rest = strings.TrimPrefix(rest, " "); !ok || !strings.HasPrefix(rest, "[skein v1 ") || len(rest) != tagLength {
				t.Errorf("%q, %s, has become %q", text, name, got)
			}
			// Something began: the fingerprint goes, the rest stays.
			s := open(t, New(skein.SessionOptions{}), target)
			lock(t, s)
			s.state.kept.anew = name == "as it is by now"
			if err := s.Record(t.Context(), []skein.Record{{Name: "3.sql", State: skein.Applying, Batch: 2, Total: 1, AppliedAt: time.Now()}}); err != nil {
				t.Fatal(err)
			}
			unlock(t, s)
			if got := comment(t, target); got != text {
				t.Errorf("%q, %s, is %q after the fingerprint was taken away", text, name, got)
			}
		}
	}
}

// A comment that a migration sets is the migration's.
func TestFingerprintOfMigrationsThatSetTheComment(t *testing.T) {
	const dynamic = "DO $$ BEGIN EXECUTE format('COMMENT ON  DATABASE %I IS %L', current_database(), 'from a migration'); END $$"
	for name, step := range map[string]skein.Step{
		"in a transaction": step(t, "2.sql", dynamic, false),
		"without one":      step(t, "2.sql", "CREATE TABLE three (id int); "+dynamic+"; CREATE TABLE four (id int)", true),
		"at the end":       step(t, "2.sql", dynamic, true),
	} {
		t.Run(name, func(t *testing.T) {
			target := newDatabase(t)
			setComment(t, target, "before")
			migrated(t, target, one(t), step)
			wantTold(t, "applied", target)
			migrated(t, target, two(t))
			if got := comment(t, target); !strings.HasPrefix(got, "from a migration [skein v1 ") {
				t.Errorf("the comment is %q", got)
			}
		})
	}
	t.Run("by Knex", func(t *testing.T) {
		target := newDatabase(t)
		s := open(t, New(skein.SessionOptions{}), target)
		lock(t, s)
		note := skein.Record{Name: "1.js", State: skein.Applying, Batch: 1, Total: 1, AppliedAt: time.Now()}
		if err := s.Record(t.Context(), []skein.Record{note}); err != nil {
			t.Fatal(err)
		}
		setComment(t, target, "from Knex")
		if _, err := s.History(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Erase(t.Context(), []string{"1.js"}); err != nil {
			t.Fatal(err)
		}
		unlock(t, s)
		wantTold(t, "settled", target)
		if got := comment(t, target); !strings.HasPrefix(got, "from Knex [skein v1 ") {
			t.Errorf("the comment is %q", got)
		}
	})
}

// Names and comments are in the encoding of the database that they were written
// from. Those of another are not read, and not written.
func TestFingerprintInOtherEncodings(t *testing.T) {
	server := dbtest.Postgres(t)
	for _, test := range []struct {
		encoding, comment string
		told              bool
	}{
		{"UTF8", "Ámos 東京", true},
		{"LATIN1", "Amos", true},
		{"WIN1252", "Amos", true},
		{"SQL_ASCII", "Ámos 東京", true},
		{"EUC_JP", "", true},
		// In WIN1252 there is no 0x81, which is half of Á.
		{"WIN1252", "Ámos", false},
		{"LATIN1", "Ámos", false},
		{"EUC_JP", "Ámos", false},
	} {
		t.Run(test.encoding+" "+test.comment, func(t *testing.T) {
			target := newDatabase(t)
			server.Exec(t, "", "DROP DATABASE "+target.Database)
			server.Exec(t, "", "CREATE DATABASE "+target.Database+" OWNER "+target.User+" ENCODING '"+test.encoding+"' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
			if test.comment != "" {
				setComment(t, target, test.comment)
			}
			migrated(t, target, one(t), two(t))
			beside := newDatabase(t)
			migrated(t, beside, one(t))
			want := skein.Glimpse{Wanting: true}
			if test.told {
				want = skein.Glimpse{Fingerprint: fingerprint(t, target)}
			}
			if got := look(t, target, beside); got[0] != want || got[1].Fingerprint == "" {
				t.Errorf("from itself it is told %+v, want %+v", got, want)
			}
			if got := look(t, beside, target); got[1] != want || got[0].Fingerprint == "" {
				t.Errorf("from another it is told %+v, want %+v", got, want)
			}
			if got := comment(t, target); got != test.comment && !(test.told && strings.HasPrefix(got, test.comment)) {
				t.Errorf("the comment is %q", got)
			}
		})
	}
}

func TestFingerprintOfOddNames(t *testing.T) {
	server := dbtest.Postgres(t)
	for _, suffix := range []string{` "quoted"`, "'s", "-Zürich-東京", "%I $skein$", " [skein v1 x]"} {
		name := dbtest.UniqueName() + suffix
		user, password := server.CreateDatabaseNamed(t, name)
		target := target(server, name, user, password)
		migrated(t, target, one(t), step(t, "2.sql", "-- comment on database", false))
		wantTold(t, name, target)
	}
}

// What a provisioned tenant's comment says of whose it is, is read and kept.
func TestFingerprintOfProvisionedTenants(t *testing.T) {
	e := New(skein.SessionOptions{})
	admin, err := e.Administer(t.Context(), administratorOf(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = admin.Close() }()
	site := skein.Site{TenantID: "7", Target: administratorOf(t)}
	site.Target.Database, site.Target.User, site.Target.Password = dbtest.UniqueName(), dbtest.UniqueName(), secret.GenerateKey()
	prepare := func() {
		t.Helper()
		for _, f := range []func() error{
			func() error { return admin.CreateRole(t.Context(), site) },
			func() error { return admin.CreateDatabase(t.Context(), site) },
			func() error { return admin.GrantRights(t.Context(), site) },
		} {
			if err := f(); err != nil {
				t.Fatal(err)
			}
		}
	}
	ours := func(when string) {
		t.Helper()
		found, err := admin.Find(t.Context(), site)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			if !f.Ours {
				t.Errorf("%s: the %s is not the tenant's", when, f.What)
			}
		}
		if len(found) != 2 {
			t.Errorf("%s: %d things were found", when, len(found))
		}
	}
	prepare()
	migrated(t, site.Target, one(t))
	wantTold(t, "provisioned", site.Target)
	if got := comment(t, site.Target); !strings.HasPrefix(got, site.Mark()+" [skein v1 ") {
		t.Errorf("the comment is %q", got)
	}
	// Whose it is shows in the comment alone, when the role's is another.
	dbtest.Postgres(t).Exec(t, "", "COMMENT ON ROLE "+site.Target.User+" IS 'somebody'")
	found, err := admin.Find(t.Context(), site)
	if err != nil || !found[1].Ours {
		t.Errorf("by its comment the database is %+v, %v", found, err)
	}
	dbtest.Postgres(t).Exec(t, "", "COMMENT ON ROLE "+site.Target.User+" IS "+quoteLiteral(site.Mark()))

	prepare() // again, as after being killed
	ours("prepared again")
	wantUntold(t, "prepared again", site.Target, true)
	migrated(t, site.Target, two(t))
	wantTold(t, "prepared again and migrated", site.Target)
	ours("at the end")
	if err := admin.DropDatabase(t.Context(), site); err != nil {
		t.Error(err)
	}
	if err := admin.DropRole(t.Context(), site); err != nil {
		t.Error(err)
	}
}

// What replaces a database, or the history in it, behind Skein: each way, and
// what is told then.
func TestFingerprintOfReplacedHistories(t *testing.T) {
	server := dbtest.Postgres(t)
	admin := administratorOf(t)
	run := func(t *testing.T, program string, input []byte, args ...string) []byte {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Env = append(os.Environ(), "PGHOST="+server.Host(), fmt.Sprint("PGPORT=", server.Port()), "PGUSER="+admin.User, "PGPASSWORD="+admin.Password.Reveal())
		cmd.Stdin = bytes.NewReader(input)
		var out, said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &said
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v: %s", program, err, said.String())
		}
		return out.Bytes()
	}
	dump := func(t *testing.T, target skein.Target, args ...string) string {
		t.Helper()
		file := filepath.Join(t.TempDir(), "dump")
		run(t, "pg_dump", nil, append(args, "--format=custom", "--file="+file, target.Database)...)
		return file
	}
	for _, test := range []struct {
		name    string
		replace func(t *testing.T, target skein.Target) skein.Target
		// What is told: the fingerprint of the history as it is ("right"), nothing
		// ("nothing"), or that of the history as it was ("stale"), which only a full
		// check and verify notice.
		want string
	}{
		{"renamed", func(t *testing.T, target skein.Target) skein.Target {
			was, name := target.Database, target.Database+"_new"
			server.Exec(t, "", "ALTER DATABASE "+was+" RENAME TO "+name)
			t.Cleanup(func() { server.Exec(t, "", "ALTER DATABASE "+name+" RENAME TO "+was) })
			target.Database = name
			return target
		}, "right"},
		{"dropped and made again", func(t *testing.T, target skein.Target) skein.Target {
			server.Exec(t, "", "DROP DATABASE "+target.Database)
			server.Exec(t, "", "CREATE DATABASE "+target.Database+" OWNER "+target.User)
			return target
		}, "nothing"},
		{"copied as a template", func(t *testing.T, target skein.Target) skein.Target {
			name := target.Database + "_copy"
			server.Exec(t, "", "CREATE DATABASE "+name+" OWNER "+target.User+" TEMPLATE "+target.Database)
			t.Cleanup(func() { server.Exec(t, "", "DROP DATABASE "+name) })
			target.Database = name
			return target
		}, "nothing"},
		{"swapped by name", func(t *testing.T, target skein.Target) skein.Target {
			other := newDatabase(t)
			server.Exec(t, "", "ALTER DATABASE "+other.Database+" OWNER TO "+target.User)
			for _, sql := range []string{"ALTER DATABASE %[1]s RENAME TO %[1]s_old", "ALTER DATABASE %[2]s RENAME TO %[1]s"} {
				server.Exec(t, "", fmt.Sprintf(sql, target.Database, other.Database))
			}
			t.Cleanup(func() { server.Exec(t, "", "DROP DATABASE "+target.Database+"_old") })
			return target
		}, "nothing"},
		{"pg_dump --create, into another database", func(t *testing.T, target skein.Target) skein.Target {
			sql := run(t, "pg_dump", nil, "--create", target.Database)
			name := target.Database + "_copy"
			run(t, "psql", bytes.ReplaceAll(sql, []byte(target.Database), []byte(name)), "--quiet", "--set=ON_ERROR_STOP=1", "postgres")
			t.Cleanup(func() { server.Exec(t, "", "DROP DATABASE "+name) })
			target.Database = name
			if !strings.Contains(comment(t, target), "[skein v1 ") {
				t.Error("the dump does not have the comment")
			}
			return target
		}, "nothing"},
		{"pg_restore --create --clean of an older dump", func(t *testing.T, target skein.Target) skein.Target {
			file := dump(t, target)
			migrated(t, target, two(t))
			run(t, "pg_restore", nil, "--create", "--clean", "--dbname=postgres", file)
			return target
		}, "nothing"},
		{"pg_restore --clean of an older dump", func(t *testing.T, target skein.Target) skein.Target {
			file := dump(t, target)
			migrated(t, target, two(t))
			run(t, "pg_restore", nil, "--clean", "--dbname="+target.Database, file)
			return target
		}, "nothing"},
		{"pg_restore into another database that there is", func(t *testing.T, target skein.Target) skein.Target {
			file := dump(t, target)
			other := newDatabase(t)
			migrated(t, other, one(t), two(t))
			run(t, "pg_restore", nil, "--clean", "--if-exists", "--no-owner", "--role="+other.User, "--dbname="+other.Database, file)
			return other
		}, "nothing"},
		{"the schema dropped, and psql with an older dump", func(t *testing.T, target skein.Target) skein.Target {
			sql := run(t, "pg_dump", nil, target.Database)
			migrated(t, target, two(t))
			server.Exec(t, target.Database, "DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION "+target.User)
			run(t, "psql", sql, "--quiet", "--set=ON_ERROR_STOP=1", target.Database)
			return target
		}, "nothing"},
		{"the table dropped", func(t *testing.T, target skein.Target) skein.Target {
			execAs(t, target, "DROP TABLE skein_migrations")
			return target
		}, "nothing"},
		{"the table moved to another schema", func(t *testing.T, target skein.Target) skein.Target {
			execAs(t, target, "CREATE SCHEMA attic; ALTER TABLE skein_migrations SET SCHEMA attic")
			return target
		}, "stale"},
		{"the role's search path leads elsewhere", func(t *testing.T, target skein.Target) skein.Target {
			execAs(t, target, "CREATE SCHEMA other")
			server.Exec(t, "", "ALTER ROLE "+target.User+" SET search_path TO other")
			return target
		}, "stale"},
		{"reverted as a role that does not own the database", func(t *testing.T, target skein.Target) skein.Target {
			other := target
			other.User, other.Password = addRole(t, "LOGIN")
			server.Exec(t, target.Database, "GRANT ALL ON SCHEMA public TO "+other.User+"; GRANT ALL ON ALL TABLES IN SCHEMA public TO "+other.User)
			t.Cleanup(func() { server.Exec(t, target.Database, "DROP OWNED BY "+other.User) })
			s := open(t, New(skein.SessionOptions{}), other)
			lock(t, s)
			if err := s.Erase(t.Context(), []string{"1.sql"}); err != nil {
				t.Fatal(err)
			}
			unlock(t, s)
			return target
		}, "stale"},
		{"the table rewritten", func(t *testing.T, target skein.Target) skein.Target {
			execAs(t, target, "VACUUM FULL skein_migrations")
			execAs(t, target, "ALTER TABLE skein_migrations ADD COLUMN note text DEFAULT clock_timestamp()::text")
			return target
		}, "right"},
		{"pg_restore --data-only of an older dump", func(t *testing.T, target skein.Target) skein.Target {
			file := dump(t, target)
			migrated(t, target, two(t))
			execAs(t, target, "TRUNCATE skein_migrations")
			run(t, "pg_restore", nil, "--data-only", "--table=skein_migrations", "--dbname="+target.Database, file)
			return target
		}, "stale"},
		{"a row deleted", func(t *testing.T, target skein.Target) skein.Target {
			execAs(t, target, "DELETE FROM skein_migrations")
			return target
		}, "stale"},
		{"a row added", func(t *testing.T, target skein.Target) skein.Target {
			execAs(t, target, "INSERT INTO skein_migrations (id, name, state, batch, started_at) VALUES (7, '7.sql', 'applied', 7, now())")
			return target
		}, "stale"},
		{"the comment written anew", func(t *testing.T, target skein.Target) skein.Target {
			setComment(t, target, "Acme")
			return target
		}, "nothing"},
		{"the comment taken away", func(t *testing.T, target skein.Target) skein.Target {
			server.Exec(t, "", "COMMENT ON DATABASE "+target.Database+" IS NULL")
			return target
		}, "nothing"},
		{"something written behind the fingerprint", func(t *testing.T, target skein.Target) skein.Target {
			setComment(t, target, comment(t, target)+", Acme")
			return target
		}, "nothing"},
		{"something written before the fingerprint", func(t *testing.T, target skein.Target) skein.Target {
			setComment(t, target, "Acme "+comment(t, target))
			return target
		}, "right"},
		{"the comment of another database", func(t *testing.T, target skein.Target) skein.Target {
			other := newDatabase(t)
			giveTo(t, other, target.User)
			t.Cleanup(func() { giveTo(t, other, other.User) })
			setComment(t, other, comment(t, target))
			target.Database = other.Database
			return target
		}, "nothing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			target := newDatabase(t)
			execAs(t, target, "CREATE TABLE pets (id int)")
			migrated(t, target, one(t))
			was := fingerprint(t, target)
			wantTold(t, "before", target)
			target = test.replace(t, target)
			switch test.want {
			case "right":
				wantTold(t, "afterwards", target)
			case "nothing":
				wantUntold(t, "afterwards", target, true)
			case "stale":
				got := look(t, target)[0].Fingerprint
				if got == "" || got == fingerprint(t, target) {
					t.Errorf("it is told %q, which was %q and is %q: this is noticed, and the documentation says it is not", got, was, fingerprint(t, target))
				}
			}
			state := map[string]skein.FingerprintState{"right": skein.FingerprintRight, "nothing": skein.FingerprintMissing, "stale": skein.FingerprintWrong}[test.want]
			if test.name == "the table moved to another schema" || test.name == "the role's search path leads elsewhere" {
				state = skein.FingerprintMissing // the session's own history has another table
			}
			if got := verify(t, target); got != state {
				t.Errorf("verify says %q, want %q", got, state)
			}
			wantTold(t, "when it was mended", target)
			if got := verify(t, target); got != skein.FingerprintRight {
				t.Errorf("after it was mended, verify says %q", got)
			}
		})
	}
}

// Knex's table is the history's where Skein has none.
func TestFingerprintOfKnexTables(t *testing.T) {
	config := conformance(newDatabase, newDatabases)
	target := newDatabase(t)
	execAs(t, target, config.Knex)
	execAs(t, target, "INSERT INTO knex_migrations (name, batch) VALUES ('1.js', 1)")
	wantUntold(t, "by Knex", target, true)
	if got := verify(t, target); got != skein.FingerprintMissing {
		t.Errorf("verify says %q", got)
	}
	wantTold(t, "when it was kept", target)
	execAs(t, target, "INSERT INTO knex_migrations (name, batch) VALUES ('2.js', 2)")
	if got := look(t, target)[0].Fingerprint; got == fingerprint(t, target) {
		t.Error("what Knex applied changed the fingerprint")
	}
	if got := verify(t, target); got != skein.FingerprintWrong {
		t.Errorf("after Knex applied one, verify says %q", got)
	}
	execAs(t, target, "DELETE FROM knex_migrations WHERE name = '2.js'")
	if got := look(t, target)[0].Fingerprint; got == "" || got == fingerprint(t, target) {
		t.Error("what Knex reverted is noticed, and the documentation says it is not")
	}
	execAs(t, target, "DROP TABLE knex_migrations; DROP TABLE knex_migrations_lock")
	execAs(t, target, config.Knex)
	wantUntold(t, "made again", target, true)
	migrated(t, target, one(t))
	wantTold(t, "with a table of Skein's", target)
}

// The catalog of owners says nothing of what belongs to the role that initdb
// made. A fingerprint of such a table counts without that.
func TestFingerprintOfTheFirstSuperuser(t *testing.T) {
	target := newDatabase(t)
	admin := administratorOf(t)
	target.User, target.Password = admin.User, admin.Password
	if rows := queryAs(t, target, "SELECT oid FROM pg_roles WHERE rolname = current_user"); rows[0][0] != "10" {
		t.Fatalf("the administrator is the role %s", rows[0][0])
	}
	migrated(t, target, one(t), two(t))
	wantTold(t, "migrated", target)
	if got := comment(t, target); !strings.HasSuffix(got, " "+noTable+"]") {
		t.Errorf("the comment is %q", got)
	}
	if got := verify(t, target); got != skein.FingerprintRight {
		t.Errorf("verify says %q", got)
	}
}

// Of databases that nobody can connect to, or not as this role, nothing is told.
func TestFingerprintOfClosedDatabases(t *testing.T) {
	server := dbtest.Postgres(t)
	vantage, target := newDatabase(t), newDatabase(t)
	migrated(t, target, one(t))
	told := func(when string, want bool) {
		t.Helper()
		if got := look(t, vantage, target)[1].Fingerprint != ""; got != want {
			t.Errorf("%s it is told: %t", when, got)
		}
	}
	told("from another database", true)
	server.Exec(t, "", "ALTER DATABASE "+target.Database+" ALLOW_CONNECTIONS false")
	told("closed", false)
	server.Exec(t, "", "ALTER DATABASE "+target.Database+" ALLOW_CONNECTIONS true; ALTER ROLE "+target.User+" NOLOGIN")
	told("its role cannot log in", false)
	server.Exec(t, "", "ALTER ROLE "+target.User+" LOGIN")
	told("again", true)
	nobody := target
	nobody.User = "nobody'"
	if got := look(t, vantage, nobody)[1]; got != (skein.Glimpse{}) {
		t.Errorf("of a role that does not exist it is told %+v", got)
	}
}

// A fingerprint that cannot be written when the lock is given back is no reason
// to keep it.
func TestUnlockWithoutTheFingerprint(t *testing.T) {
	target := newDatabase(t)
	e := New(skein.SessionOptions{})
	s := open(t, e, target)
	lock(t, s)
	apply(t, s, one(t))
	giveTo(t, target, "postgres")
	unlock(t, s)
	giveTo(t, target, target.User)
	other := open(t, e, target)
	if _, err := other.Lock(t.Context(), 0); err != nil {
		t.Errorf("the lock is still there: %v", err)
	}
	wantUntold(t, "afterwards", target, true)
}

// Behind a pooler there may be several servers, so that nothing is concluded
// through one.
func TestGlanceBehindAPooler(t *testing.T) {
	direct := newDatabase(t)
	migrated(t, direct, one(t))
	schema := newSchema(t)
	migrated(t, schema, one(t))
	for _, mode := range []string{"session", "transaction", "statement"} {
		pooled := behind(t, direct, mode)
		if got := look(t, pooled)[0]; got != (skein.Glimpse{}) {
			t.Errorf("%s: it is told %+v", mode, got)
		}
		// A server's own address goes past it.
		address := administratorOf(t)
		if got := lookFrom(t, &address, pooled)[0]; got.Fingerprint != fingerprint(t, direct) {
			t.Errorf("%s: from the server's address it is told %+v", mode, got)
		}
		// A history is what it is.
		if got := look(t, behind(t, schema, mode))[0]; got.History == nil || len(got.History.Records) != 1 {
			t.Errorf("%s: of a schema it is told %+v", mode, got)
		}
	}
	// One that lends for sessions can be migrated over.
	pooled := behind(t, direct, "session")
	migrated(t, pooled, two(t))
	wantTold(t, "migrated over a pooler", direct)
}

// A server's address whose role may not read the tenants' tables is an error.
func TestGlanceWithoutRights(t *testing.T) {
	targets := newSchemas(t, 3)
	for _, target := range targets {
		migrated(t, target, one(t))
	}
	address := administratorOf(t)
	address.User, address.Password = addRole(t, "LOGIN")
	e := New(skein.SessionOptions{})
	from, _ := e.Vantage(targets[0], &address)
	server := dbtest.Postgres(t)
	server.Exec(t, "", "GRANT CONNECT ON DATABASE "+targets[0].Database+" TO "+address.User)
	t.Cleanup(func() { server.Exec(t, targets[0].Database, "DROP OWNED BY "+address.User) })
	s := open(t, e, from)
	_, err := e.Glance(t.Context(), s, targets)
	if answer, ok := errors.AsType[*skein.DatabaseError](err); !ok || answer.Class != skein.Denied || !strings.Contains(err.Error(), "read histories") {
		t.Errorf("the error is %v", err)
	}
	server.Exec(t, targets[0].Database, "GRANT "+targets[0].User+" TO "+address.User)
	s = open(t, e, from)
	if glimpses, err := e.Glance(t.Context(), s, targets); err != nil || glimpses[2].History == nil {
		t.Errorf("with the rights it is told %+v, %v", glimpses, err)
	}
}

// What is told of odd tables is what their own history would be, or nothing.
func TestGlanceOfOddTables(t *testing.T) {
	targets := newSchemas(t, 9)
	config := conformance(newSchema, newSchemas)
	execAs(t, targets[0], "CREATE SEQUENCE skein_migrations")
	execAs(t, targets[1], "CREATE TABLE m (id int, name text, batch int, migration_time timestamp); INSERT INTO m VALUES (1, '1.js', 1, '2024-01-01'); CREATE VIEW knex_migrations AS SELECT * FROM m")
	migrated(t, targets[1], one(t))
	s := open(t, New(skein.SessionOptions{}), targets[1])
	lock(t, s)
	if err := s.Record(t.Context(), []skein.Record{{Name: "1.js", State: skein.Applied, Batch: 1, Checksum: strings.Repeat("1", 64), AppliedAt: time.Now()}}); err != nil {
		t.Fatal(err)
	}
	unlock(t, s)
	execAs(t, targets[2], config.Knex)
	execAs(t, targets[2], "INSERT INTO knex_migrations (name, batch, migration_time) VALUES ('1.js', 1, 'infinity'), ('2.js', 1, '-infinity'), ('3.js', 1, '0044-03-15 BC')")
	execAs(t, targets[3], config.Knex)
	execAs(t, targets[4], config.Knex)
	execAs(t, targets[5], "CREATE MATERIALIZED VIEW knex_migrations AS SELECT 1 AS id, '1.js'::text AS name, 1 AS batch, now() AS migration_time")
	// Columns of other types than in the rest, and rows in another order than that
	// of their ids.
	execAs(t, targets[6], "CREATE TABLE knex_migrations (id bigint, name char(4), batch numeric, migration_time text); INSERT INTO knex_migrations VALUES (2, '2.js', 2, NULL), (10, 'a.js', 3, 'x'), (1, '1.js', 1, now())")
	migrated(t, targets[7], one(t), two(t), step(t, "0.sql", "SELECT 1", false))
	execAs(t, targets[7], "UPDATE skein_migrations SET batch = 1 WHERE name = '1.sql'")
	// What cannot be read is left to whoever connects, and the rest is told.
	execAs(t, targets[8], "CREATE TABLE knex_migrations (id int, name text, batch text, migration_time timestamptz); INSERT INTO knex_migrations VALUES (1, '1.js', 'one', now())")
	glimpses := look(t, targets...)
	if glimpses[0] != (skein.Glimpse{}) {
		t.Errorf("of a sequence it is told %+v", glimpses[0])
	}
	if glimpses[8] != (skein.Glimpse{}) {
		t.Errorf("of a batch that is no number it is told %+v", glimpses[8])
	}
	if _, err := open(t, New(skein.SessionOptions{}), targets[8]).History(t.Context()); err == nil {
		t.Error("a batch that is no number is no error to whoever connects")
	}
	for i, target := range targets[1:8] {
		s := open(t, New(skein.SessionOptions{}), target)
		h, err := s.History(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		told := glimpses[i+1].History
		if told == nil {
			t.Errorf("nothing is told of %s", target)
			continue
		}
		var want, got []string
		for _, r := range h.Records {
			want = append(want, r.Name+" "+r.Checksum)
		}
		for _, r := range told.Records {
			got = append(got, r.Name+" "+r.Checksum)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-history +told):\n%s", target, diff)
		}
	}
	// A table that is not what it is called is an error, as it is for whoever
	// connects.
	execAs(t, targets[3], "ALTER TABLE knex_migrations DROP COLUMN batch")
	e := New(skein.SessionOptions{})
	if _, err := e.Glance(t.Context(), open(t, e, targets[0]), targets[1:]); err == nil {
		t.Error("a table without a column is no error")
	}
}
