package central

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/secret"
)

func TestInit(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		cfg := Config{URL: f.url}
		_, err := Open(t.Context(), cfg)
		wantError(t, err, "skein init")
		if f.engine != skein.SQLite && !errors.Is(err, ErrNotInitialized) {
			t.Errorf("error %v is not ErrNotInitialized", err)
		}

		// Several replicas start at once.
		var wg sync.WaitGroup
		errs := make([]error, 8)
		for i := range errs {
			wg.Go(func() { _, errs[i] = Init(t.Context(), cfg) })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		where, err := Init(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if want := f.target(t).String(); where != want {
			t.Errorf("Init says %q, want %q", where, want)
		}
		s := f.open(t, cfg)
		if n := f.value(t, "SELECT COUNT(*) FROM skein_schema"); n != strconv.Itoa(len(s.db.steps())) {
			t.Errorf("%s steps are recorded, want %d", n, len(s.db.steps()))
		}
		if got, err := s.Survey(t.Context(), Filter{}); err != nil || got.Tenants != 0 {
			t.Errorf("Survey = %v, %v", got, err)
		}

		f.exec(t, "INSERT INTO skein_schema (version, applied_at) VALUES (99, 'later')")
		for _, open := range []func() error{
			func() error { _, err := Open(t.Context(), cfg); return err },
			func() error { _, err := Init(t.Context(), cfg); return err },
		} {
			wantError(t, open(), "version 99", "newer one")
		}
		f.exec(t, "DELETE FROM skein_schema WHERE version = 99")
	})
}

func (f *fixture) target(t *testing.T) skein.Target {
	t.Helper()
	target, err := skein.ParseTarget(f.url.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// A process that was killed in the middle leaves what the next one ends.
func TestInitGoesOn(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		cfg := Config{URL: f.url}
		if _, err := Init(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		if f.engine == skein.MySQL { // the others have one transaction
			f.exec(t, "DROP TABLE skein_tenant_labels", "DELETE FROM skein_schema")
		} else {
			f.exec(t, "DROP TABLE skein_tenant_labels", "DROP TABLE skein_tenants", "DELETE FROM skein_schema")
		}
		_, err := Open(t.Context(), cfg)
		if !errors.Is(err, ErrNotInitialized) {
			t.Errorf("Open: %v, want ErrNotInitialized", err)
		}
		if _, err := Init(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		s := f.open(t, cfg)
		add(t, s, NewTenant{Slug: "acme", Labels: map[string]string{"tier": "gold"}, Target: skein.Target{Engine: skein.SQLite, Database: "a.db"}})
	})
}

func TestSQLiteFileIsItsOwners(t *testing.T) {
	dir := filepath.Join(t.TempDir(), ".skein")
	path := filepath.Join(dir, "central.db")
	cfg := Config{URL: secret.New("sqlite:" + path)}
	_, err := Open(t.Context(), cfg)
	wantError(t, err, "no such file", "skein init")
	if _, err := os.Stat(dir); err == nil {
		t.Error("Open made the folder")
	}
	if _, err := Init(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{dir: 0o700, path: 0o600} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", name, got, want)
		}
	}
}

func TestRecordURL(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		cfg := Config{URL: secret.New("postgres://nobody@127.0.0.1:1/none"), RecordURL: f.url}
		if _, err := Init(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		f.open(t, cfg)
	})
}

func TestAdd(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		s := f.own(t)
		full := NewTenant{
			ID: "t-1", Slug: "acme", Name: "Acme, \"Größe\" & Söhne 東京", Status: "suspended",
			Labels: map[string]string{"tier": "gold", "region": "eu-1"},
			Target: skein.Target{
				Engine: skein.PostgreSQL, Host: "db1.example", Port: 5433, Database: `odd "name"`, Schema: "s", User: "u'ser",
				Password: secret.New(`p@ss'"\`), Options: map[string]string{"sslmode": "require"},
			},
		}
		added, err := s.Add(t.Context(), full)
		if err != nil {
			t.Fatal(err)
		}
		want := skein.Tenant{
			ID: full.ID, Slug: full.Slug, Name: full.Name, Status: full.Status, Labels: full.Labels, Target: full.Target,
		}
		if diff := cmp.Diff(want, added); diff != "" {
			t.Errorf("added (-want +got):\n%s", diff)
		}
		for _, word := range []string{"acme", "t-1"} {
			found, err := s.Find(t.Context(), word)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, found); diff != "" {
				t.Errorf("found by %s (-want +got):\n%s", word, diff)
			}
		}
		stored := f.value(t, "SELECT password FROM skein_tenants")
		if !secret.IsSealed(stored) || strings.Contains(stored, "p@ss") {
			t.Errorf("the password is stored as %q", stored)
		}
		// It is of no use in another tenant's row.
		f.exec(t, `INSERT INTO skein_tenants SELECT 't-2', 'copy', name, status, engine, host, port, database_name, schema_name,
			user_name, password, options, created_at, updated_at FROM skein_tenants WHERE id = 't-1'`)
		copied, err := s.Find(t.Context(), "copy")
		if err != nil {
			t.Fatal(err)
		}
		wantError(t, copied.Err, "column password", "another tenant", "encryption.key")

		small, err := s.Add(t.Context(), NewTenant{Slug: "東京-1", Target: skein.Target{Engine: skein.SQLite, Database: "data/t.db"}})
		if err != nil {
			t.Fatal(err)
		}
		if !small.Active || small.Status != skein.StatusActive || len(small.ID) != 36 {
			t.Errorf("added %+v", small)
		}
		found, err := s.Find(t.Context(), "東京-1")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(small, found); diff != "" {
			t.Errorf("found (-want +got):\n%s", diff)
		}

		for _, c := range []struct {
			slug, id, want string
		}{
			{"acme", "", "slug: there is a tenant acme already (id t-1)"},
			{"other", "t-1", "id: tenant acme has the id t-1 already"},
			{"t-1", "", "slug: t-1 is the id of tenant acme"},
			{"other", "acme", "id: acme is the slug of another tenant (id t-1)"},
		} {
			n := at(c.slug, "h")
			n.ID = c.id
			if _, err := s.Add(t.Context(), n); err == nil || err.Error() != c.want {
				t.Errorf("adding %s with id %s: %v, want %s", c.slug, c.id, err, c.want)
			}
		}
		if _, err := s.Add(t.Context(), at("Acme", "h")); err != nil {
			t.Errorf("a slug that differs in case is another one: %v", err)
		}
	})
}

func TestAddRefuses(t *testing.T) {
	s := sqliteStore(t)
	with := func(change func(*NewTenant)) NewTenant {
		n := at("good", "h")
		change(&n)
		return n
	}
	for name, c := range map[string]struct {
		tenant NewTenant
		want   string
	}{
		"no slug":        {with(func(n *NewTenant) { n.Slug = "" }), "slug: no slug is given"},
		"space":          {with(func(n *NewTenant) { n.Slug = "a b" }), "slug: it has the character ' '"},
		"comma":          {with(func(n *NewTenant) { n.Slug = "a,b" }), "slug: it has the character ','"},
		"star":           {with(func(n *NewTenant) { n.Slug = "a*" }), "slug: it has the character '*'"},
		"file":           {with(func(n *NewTenant) { n.Slug = "@a" }), "slug: it begins with '@'"},
		"flag":           {with(func(n *NewTenant) { n.Slug = "-a" }), "slug: it begins with '-'"},
		"newline":        {with(func(n *NewTenant) { n.Slug = "a\n" }), `slug: it has the character '\n'`},
		"not UTF-8":      {with(func(n *NewTenant) { n.Slug = "a\xff" }), "slug: it has the character"},
		"long":           {with(func(n *NewTenant) { n.Slug = strings.Repeat("ü", 32) }), "slug: it has 64 bytes, and 63 are allowed"},
		"id":             {with(func(n *NewTenant) { n.ID = "a b" }), "id: it has the character ' '"},
		"status":         {with(func(n *NewTenant) { n.Status = "gone" }), "status: it is not one of active, suspended"},
		"name":           {with(func(n *NewTenant) { n.Name = strings.Repeat("n", 256) }), "name: it has 256 bytes, and 255 are allowed"},
		"zero":           {with(func(n *NewTenant) { n.Target.User = "a\x00" }), "user: it has a control character"},
		"no engine":      {with(func(n *NewTenant) { n.Target.Engine = "" }), "no engine is given"},
		"no database":    {with(func(n *NewTenant) { n.Target.Database = "" }), "no database is given"},
		"port":           {with(func(n *NewTenant) { n.Target.Port = 70000 }), "port 70000"},
		"SQLite's host":  {with(func(n *NewTenant) { n.Target.Engine = skein.SQLite }), "a SQLite file has no host"},
		"label":          {with(func(n *NewTenant) { n.Labels = map[string]string{"a=b": "c"} }), "label a=b"},
		"empty label":    {with(func(n *NewTenant) { n.Labels = map[string]string{"a": ""} }), "label a: it has no value"},
		"secret option":  {with(func(n *NewTenant) { n.Target.Options = map[string]string{"sslpassword": "x"} }), "options: sslpassword would be stored in clear"},
		"long label":     {with(func(n *NewTenant) { n.Labels = map[string]string{"a": strings.Repeat("b", 256)} }), "label a: it has 256 bytes"},
		"control option": {with(func(n *NewTenant) { n.Target.Options = map[string]string{"a": "\x01"} }), "options: there is a character"},
	} {
		if _, err := s.Add(t.Context(), c.tenant); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	if got := slugs(t, s, Filter{}); got != "" {
		t.Errorf("stored: %s", got)
	}
}

func sqliteStore(t *testing.T) *Store {
	t.Helper()
	f := &fixture{engine: skein.SQLite, url: secret.New("sqlite:" + filepath.Join(t.TempDir(), "c.db"))}
	return f.own(t)
}

func TestWithoutKey(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		withKey := f.own(t)
		sealed := at("sealed", "h")
		sealed.Target.Password = secret.New("S3cret-word")
		add(t, withKey, sealed, at("trust", "h"))

		s := f.open(t, Config{URL: f.url})
		trust, err := s.Find(t.Context(), "trust")
		if err != nil || trust.Err != nil {
			t.Errorf("a tenant without a password: %v, %v", err, trust.Err)
		}
		found, err := s.Find(t.Context(), "sealed")
		if err != nil {
			t.Fatal(err)
		}
		wantError(t, found.Err, "column password", "no key", "encryption.key", "DB_ENCRYPTION_KEY")
		sealed.Slug = "another"
		_, err = s.Add(t.Context(), sealed)
		wantError(t, err, "password", "no key", "encryption.key")
		if strings.Contains(withHint(err), "S3cret") {
			t.Errorf("error %q has the password", err)
		}
	})
}

func TestSetStatusAndRemove(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		s := f.own(t)
		labelled := at("b", "h")
		labelled.Labels = map[string]string{"tier": "gold"}
		add(t, s, at("a", "h"), labelled, at("c", "h"))

		changed, err := s.SetStatus(t.Context(), []string{"c", "a"}, skein.StatusSuspended)
		if err != nil {
			t.Fatal(err)
		}
		if len(changed) != 2 || changed[0].Slug != "a" || changed[0].Status != skein.StatusSuspended || changed[0].Active {
			t.Errorf("changed %+v", changed)
		}
		if got := slugs(t, s, Filter{Active: true}); got != "b" {
			t.Errorf("active: %s, want b", got)
		}
		_, err = s.SetStatus(t.Context(), []string{"a", "nope"}, skein.StatusActive)
		wantError(t, err, `"nope"`)
		if got := slugs(t, s, Filter{Active: true}); got != "b" {
			t.Errorf("after an error active: %s, want b", got)
		}
		if _, err := s.SetStatus(t.Context(), []string{"a"}, "gone"); err == nil {
			t.Error("an unknown status was taken")
		}
		if _, err := s.SetStatus(t.Context(), []string{"a"}, skein.StatusActive); err != nil {
			t.Fatal(err)
		}

		if _, err := s.Remove(t.Context(), []string{"b", "nope"}); err == nil {
			t.Error("an unknown tenant was removed")
		}
		removed, err := s.Remove(t.Context(), []string{"b", "c"})
		if err != nil {
			t.Fatal(err)
		}
		if len(removed) != 2 || removed[0].Labels["tier"] != "gold" || removed[0].Target.Database != "db_b" {
			t.Errorf("removed %+v", removed)
		}
		if got := slugs(t, s, Filter{}); got != "a" {
			t.Errorf("left: %s, want a", got)
		}
		if n := f.value(t, "SELECT COUNT(*) FROM skein_tenant_labels"); n != "0" {
			t.Errorf("%s labels are left", n)
		}
		add(t, s, labelled)
	})
}

func TestChange(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		s := f.own(t)
		first := at("acme", "old")
		first.ID, first.Name, first.Labels = "t-1", "Acme", map[string]string{"tier": "gold", "trial": "yes"}
		first.Target.Password = secret.New("first-word")
		first.Target.Options = map[string]string{"sslmode": "require"}
		other := at("other", "old")
		other.Labels = map[string]string{"tier": "gold"}
		add(t, s, first, other)
		sealed := f.value(t, "SELECT password FROM skein_tenants WHERE id = 't-1'")

		changed, err := s.Change(t.Context(), "acme", func(n *NewTenant) {
			if !n.Target.Password.IsZero() {
				t.Error("the password is shown to who changes something else")
			}
			n.ID, n.Slug, n.Status = "t-9", "other", "gone" // which have no effect
			n.Name = ""
			n.Target.Host, n.Target.Port, n.Target.Options = "new", 5433, nil
			delete(n.Labels, "trial")
			n.Labels["region"] = "eu"
		})
		if err != nil {
			t.Fatal(err)
		}
		want := skein.Tenant{
			ID: "t-1", Slug: "acme", Status: skein.StatusActive, Active: true,
			Labels: map[string]string{"tier": "gold", "region": "eu"}, Target: first.Target,
		}
		want.Target.Host, want.Target.Port, want.Target.Options = "new", 5433, nil
		if diff := cmp.Diff(want, changed); diff != "" {
			t.Errorf("changed (-want +got):\n%s", diff)
		}
		if got := f.value(t, "SELECT password FROM skein_tenants WHERE id = 't-1'"); got != sealed {
			t.Error("the password was sealed again")
		}
		if got, err := s.Find(t.Context(), "other"); err != nil || got.Target.Host != "old" || got.Labels["tier"] != "gold" {
			t.Errorf("another tenant is now %+v, %v", got, err)
		}

		// A password that cannot be opened can be stored again, by id too.
		f.exec(t, "UPDATE skein_tenants SET password = 'nonsense' WHERE id = 't-1'")
		changed, err = s.Change(t.Context(), "t-1", func(n *NewTenant) { n.Target.Password = secret.New("second-word") })
		if err != nil || changed.Err != nil {
			t.Fatal(err, changed.Err)
		}
		if got := changed.Target.Password.Reveal(); got != "second-word" || changed.Target.Host != "new" {
			t.Errorf("changed to %+v", changed)
		}

		for name, change := range map[string]struct {
			change func(*NewTenant)
			want   string
		}{
			"engine": {func(n *NewTenant) { n.Target.Engine = "oracle" }, "oracle"},
			"label":  {func(n *NewTenant) { n.Labels = map[string]string{"a=b": "c"} }, "label a=b"},
			"option": {func(n *NewTenant) { n.Target.Options = map[string]string{"password": "x"} }, "stored in clear"},
			"file":   {func(n *NewTenant) { n.Target.Engine = skein.SQLite }, "a SQLite file has no host"},
		} {
			if _, err := s.Change(t.Context(), "acme", change.change); err == nil || !strings.Contains(err.Error(), change.want) {
				t.Errorf("%s: %v, want %s", name, err, change.want)
			}
		}
		if got, err := s.Find(t.Context(), "acme"); err != nil || !cmp.Equal(got, changed) {
			t.Errorf("after errors it is %+v, %v", got, err)
		}
		var missing *NotFoundError
		if _, err := s.Change(t.Context(), "nope", func(*NewTenant) { t.Error("called") }); !errors.As(err, &missing) {
			t.Errorf("changing nobody: %v", err)
		}

		// A file has no password.
		changed, err = s.Change(t.Context(), "acme", func(n *NewTenant) {
			n.Target = skein.Target{Engine: skein.SQLite, Database: "acme.db"}
		})
		if err != nil || changed.Target.String() != "sqlite:acme.db" || !changed.Target.Password.IsZero() {
			t.Errorf("moved to %+v, %v", changed, err)
		}
	})
}

// When two add the same tenant at once, one of them is told.
func TestAddRace(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		s := f.own(t)
		errs := make([]error, 8)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { _, errs[i] = s.Add(t.Context(), at("acme", "h")) })
		}
		wg.Wait()
		won := slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err != nil })
		if len(won) != 1 || slugs(t, s, Filter{}) != "acme" {
			t.Errorf("%d were added: %v", len(won), errs)
		}
		for _, err := range errs {
			if err != nil && !strings.Contains(err.Error(), "already") && !strings.Contains(err.Error(), "somebody else") {
				t.Errorf("error: %v", err)
			}
		}
	})
}
