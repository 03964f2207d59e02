package central

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/secret"
)

func TestFilter(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		s := f.own(t)
		s.page = 2
		labels := func(n NewTenant, kv ...string) NewTenant {
			n.Labels = make(map[string]string)
			for i := 0; i < len(kv); i += 2 {
				n.Labels[kv[i]] = kv[i+1]
			}
			return n
		}
		suspended := at("b2", "h1")
		suspended.ID, suspended.Status = "id-b2", skein.StatusSuspended
		add(t, s,
			labels(at("acme", "h1"), "tier", "gold", "region", "eu"),
			labels(at("b1", "h2"), "tier", "gold"), suspended,
			labels(at("b3", "h2"), "tier", "free"), at("C", "h3"), at("b10", "h3"))

		for _, c := range []struct {
			filter Filter
			want   string
		}{
			{Filter{}, "C acme b1 b10 b2 b3"},
			{Filter{Active: true}, "C acme b1 b10 b3"},
			{Filter{Statuses: []string{"SUSPENDED"}}, "b2"},
			{Filter{Statuses: []string{"none such"}}, ""},
			{Filter{Only: []string{"b1", "acme"}}, "acme b1"},
			{Filter{Only: []string{"b1", "b1"}}, "b1"},
			// Who names a tenant means it, who names a group means the active ones.
			{Filter{Only: []string{"b2"}, Active: true}, "b2"},
			{Filter{Only: []string{"id-b2"}, Active: true}, "b2"},
			{Filter{Only: []string{"b*"}, Active: true}, "b1 b10 b3"},
			{Filter{Only: []string{"b*"}}, "b1 b10 b2 b3"},
			{Filter{Only: []string{"b*", "b2"}, Active: true}, "b1 b10 b2 b3"},
			{Filter{Only: []string{"*0", "*c*e"}}, "acme b10"},
			{Filter{Only: []string{"*"}}, "C acme b1 b10 b2 b3"},
			{Filter{Skip: []string{"b*"}}, "C acme"},
			{Filter{Skip: []string{"none*", "C"}}, "acme b1 b10 b2 b3"},
			{Filter{Only: []string{"b*"}, Skip: []string{"b1", "id-b2"}}, "b10 b3"},
			{Filter{Labels: map[string]string{"tier": "gold"}}, "acme b1"},
			{Filter{Labels: map[string]string{"tier": "gold", "region": "eu"}}, "acme"},
			{Filter{Labels: map[string]string{"tier": "GOLD"}}, ""},
			{Filter{Only: []string{"b*"}, Labels: map[string]string{"tier": "gold"}}, "b1"},
			{Filter{Only: []string{"b3"}, Labels: map[string]string{"tier": "gold"}}, ""},
		} {
			c.filter.Order = BySlug
			if got := slugs(t, s, c.filter); got != c.want {
				t.Errorf("%+v: %s, want %s", c.filter, got, c.want)
			}
			c.filter.Order = ByServer
			got := strings.Fields(slugs(t, s, c.filter))
			slices.Sort(got)
			if strings.Join(got, " ") != c.want {
				t.Errorf("%+v by server: %s, want %s", c.filter, got, c.want)
			}
			survey, err := s.Survey(t.Context(), c.filter)
			if err != nil || survey.Tenants != len(strings.Fields(c.want)) {
				t.Errorf("%+v: Survey = %v, %v", c.filter, survey, err)
			}
		}

		for _, c := range []struct {
			filter Filter
			want   string
		}{
			{Filter{Only: []string{"b1", "b7", "x"}}, `no tenant has the slug or id "b7", "x" [close to it: b1, b2, b3]`},
			{Filter{Only: []string{"c"}}, `no tenant has the slug or id "c" [is it C?]`},
			{Filter{Only: []string{"amce"}}, `no tenant has the slug or id "amce" [is it acme?]`},
			{Filter{Only: []string{""}}, `no tenant has the slug or id "" [list the tenants with: skein tenants list]`},
			{Filter{Skip: []string{"zzzz"}}, `no tenant has the slug or id "zzzz" [list the tenants with: skein tenants list]`},
			{Filter{Only: []string{"b*", "z*"}}, `no tenant has a slug like "z*"`},
			{Filter{Only: []string{"b2*"}, Active: true}, `no active tenant has a slug like "b2*": 1 not active are`},
			{Filter{Only: []string{"C*"}, Labels: map[string]string{"tier": "gold"}}, `no tenant with the labels asked for has a slug like "C*"`},
			{Filter{Labels: map[string]string{"teir": "gold"}}, `no tenant has a label "teir" [is it tier? there are region, tier]`},
			{Filter{Labels: map[string]string{"size": "1"}}, `no tenant has a label "size" [there are region, tier]`},
		} {
			tenants, err := collect(s.Tenants(t.Context(), c.filter))
			if withHint(err) != c.want || len(tenants) > 0 {
				t.Errorf("%+v: %d tenants and %q, want %q", c.filter, len(tenants), withHint(err), c.want)
			}
			if _, err := s.Survey(t.Context(), c.filter); withHint(err) != c.want {
				t.Errorf("%+v: Survey ends in %q, want %q", c.filter, withHint(err), c.want)
			}
		}
	})
}

// More names than are asked for in one query.
func TestManyNames(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		s := f.own(t)
		importRows(t, s, maxListed+20, func(i int) string { return fmt.Sprintf("t%d,postgres,h%d,db%d", i, i%3, i) })
		var only []string
		for i := range maxListed + 10 {
			only = append(only, fmt.Sprintf("t%d", i))
		}
		if n := len(strings.Fields(slugs(t, s, Filter{Only: only}))); n != len(only) {
			t.Errorf("%d tenants, want %d", n, len(only))
		}
		_, err := s.Survey(t.Context(), Filter{Only: append(only, "t9x")})
		wantError(t, err, `"t9x"`)
		if _, err := s.SetStatus(t.Context(), only, skein.StatusSuspended); err != nil {
			t.Fatal(err)
		}
		if n := len(strings.Fields(slugs(t, s, Filter{Active: true}))); n != 10 {
			t.Errorf("%d are active, want 10", n)
		}
		removed, err := s.Remove(t.Context(), only)
		if err != nil || len(removed) != len(only) {
			t.Errorf("removed %d, %v", len(removed), err)
		}
	})
}

// importRows adds n tenants, whose slug, engine, host and database row gives.
func importRows(t *testing.T, s *Store, n int, row func(int) string) {
	t.Helper()
	var b strings.Builder
	b.WriteString("slug,engine,host,database\n")
	for i := range n {
		b.WriteString(row(i) + "\n")
	}
	if got, err := s.Import(t.Context(), strings.NewReader(b.String()), CSV); err != nil || got != n {
		t.Fatalf("import: %d, %v", got, err)
	}
}

func TestByServer(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		s := f.own(t)
		s.page = 10
		// Three servers that fill up one after the other, and a handful of tenants
		// on small ones; each two tenants of the large ones share a database.
		importRows(t, s, 130, func(i int) string {
			if i >= 120 {
				return fmt.Sprintf("t%03d,mysql,small%d,db", i, i%5)
			}
			return fmt.Sprintf("t%03d,postgres,big%d,db%02d", i, i/40, 19-i%20)
		})
		tenants, err := collect(s.Tenants(t.Context(), Filter{}))
		if err != nil {
			t.Fatal(err)
		}
		seen := make(map[string]int)
		last := make(map[string]skein.Tenant)
		for i, tenant := range tenants {
			seen[tenant.Slug]++
			server := tenant.Target.Server()
			before, ok := last[server]
			if ok && cmp.Or(cmp.Compare(before.Target.Database, tenant.Target.Database), cmp.Compare(before.Slug, tenant.Slug)) >= 0 {
				t.Errorf("on %s %s comes before %s", server, before.Target, tenant.Target)
			}
			last[server] = tenant
			if i >= 30 && i < 90 && i%3 == 0 {
				round := make(map[string]bool)
				for _, other := range tenants[i : i+4] {
					round[other.Target.Server()] = true
				}
				if len(round) < 3 {
					t.Errorf("from tenant %d on, four are on %d servers", i, len(round))
				}
			}
		}
		if len(seen) != 130 || len(tenants) != 130 {
			t.Errorf("%d tenants, %d of them different; want 130", len(tenants), len(seen))
		}
	})
}

// What is added, removed and changed meanwhile takes nothing from the rest.
func TestChangesWhileListing(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		for _, order := range []Order{ByServer, BySlug} {
			s := f.own(t)
			s.page = 3
			importRows(t, s, 60, func(i int) string { return fmt.Sprintf("t%03d,postgres,h%d,db%d", i, i%4, i) })
			seen := make(map[string]int)
			i := 0
			for tenant, err := range s.Tenants(t.Context(), Filter{Order: order}) {
				if err != nil {
					t.Fatal(err)
				}
				seen[tenant.Slug]++
				if i < 40 {
					add(t, s, at(fmt.Sprintf("s%03d", i), "h0"), at(fmt.Sprintf("u%03d", i), fmt.Sprintf("h%d", i%7)))
					if _, err := s.SetStatus(t.Context(), []string{tenant.Slug}, skein.StatusSuspended); err != nil {
						t.Fatal(err)
					}
				}
				i++
			}
			for i := range 60 {
				if n := seen[fmt.Sprintf("t%03d", i)]; n != 1 {
					t.Errorf("order %d: t%03d is there %d times", order, i, n)
				}
			}
			all := strings.Fields(slugs(t, s, Filter{}))
			if _, err := s.Remove(t.Context(), all); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// While the tenants are worked on, for hours, no query is open.
func TestNothingOpenWhileListing(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		s := f.own(t)
		s.page = 2
		add(t, s, at("a", "h"), at("b", "h"), at("c", "h"))
		for _, err := range s.Tenants(t.Context(), Filter{}) {
			if err != nil {
				t.Fatal(err)
			}
			if n := s.db.Stats().InUse; n != 0 {
				t.Errorf("%d connections are in use", n)
			}
		}
	})
}

// The central database is started anew while a run goes on.
func TestConnectionsLostWhileListing(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		if f.engine == skein.SQLite {
			return // has none
		}
		s := f.own(t)
		s.page = 2
		for i := range 9 {
			add(t, s, at(fmt.Sprintf("t%d", i), "h"))
		}
		n := 0
		for _, err := range s.Tenants(t.Context(), Filter{}) {
			if err != nil {
				t.Fatal(err)
			}
			n++
			f.killOthers(t)
		}
		if n != 9 {
			t.Errorf("%d tenants, want 9", n)
		}
	})
}

// killOthers ends every session of this user but the admin's.
func (f *fixture) killOthers(t *testing.T) {
	t.Helper()
	conn, err := f.admin.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if f.engine == skein.PostgreSQL {
		_, err := conn.ExecContext(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid()")
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	rows, err := conn.QueryContext(t.Context(), "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID()")
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		// One that is gone already needs no killing.
		_, _ = conn.ExecContext(t.Context(), "KILL "+id)
	}
}

func TestSurvey(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		s := f.own(t)
		importRows(t, s, 30, func(i int) string {
			if i%3 == 0 {
				return fmt.Sprintf("t%d,sqlite,,f%d.db", i, i)
			}
			return fmt.Sprintf("t%d,mysql,h,db%d", i, i)
		})
		got, err := s.Survey(t.Context(), Filter{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(Survey{Tenants: 30, Engines: []string{"mysql", "sqlite"}}, got); diff != "" {
			t.Errorf("Survey (-want +got):\n%s", diff)
		}
		got, err = s.Survey(t.Context(), Filter{Only: []string{"t1", "t2"}})
		if err != nil || got.Tenants != 2 || !slices.Equal(got.Engines, []string{"mysql"}) {
			t.Errorf("Survey = %v, %v", got, err)
		}
	})
}

func TestFind(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		s := f.own(t)
		add(t, s, at("acme", "h"), at("acme-eu", "h"), at("globex", "h"))
		for word, want := range map[string]string{
			"acmee":  `no tenant has the slug or id "acmee" [close to it: acme, acme-eu]`,
			"glboex": `no tenant has the slug or id "glboex" [is it globex?]`,
			"acm":    `no tenant has the slug or id "acm" [close to it: acme, acme-eu]`,
			"%":      `no tenant has the slug or id "%" [list the tenants with: skein tenants list]`,
			"' OR 1": `no tenant has the slug or id "' OR 1" [list the tenants with: skein tenants list]`,
		} {
			_, err := s.Find(t.Context(), word)
			if _, ok := errors.AsType[*NotFoundError](err); !ok || withHint(err) != want {
				t.Errorf("Find(%q): %q, want %q", word, withHint(err), want)
			}
		}
		// Skein lets nobody store this; another program may.
		f.exec(t, `INSERT INTO skein_tenants SELECT 'acme', 'other', name, status, engine, host, port, database_name, schema_name,
			user_name, password, options, created_at, updated_at FROM skein_tenants WHERE slug = 'globex'`)
		_, err := s.Find(t.Context(), "acme")
		wantError(t, err, `"acme" is the slug or id of more than one tenant`, "other (id acme)", "acme (id ")
	})
}

func TestErrorsHoldNoPassword(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		if f.engine == skein.SQLite {
			return // has no password
		}
		right := f.target(t)
		for name, change := range map[string]func(string) string{
			"wrong password": func(url string) string { return strings.Replace(url, "p%40ss", "wr%40ng", 1) },
			"no database":    func(url string) string { return strings.Replace(url, "/"+right.Database, "/none_such", 1) },
			"no server":      func(url string) string { return strings.Replace(url, fmt.Sprint(":", right.Port), ":1", 1) },
			"no such option": func(url string) string { return url + "?sslmode=none-such&tls=none-such" },
			"not a URL":      func(url string) string { return strings.Replace(url, "%40", "%", 1) },
			"no scheme":      func(url string) string { _, url, _ = strings.Cut(url, "://"); return url },
		} {
			url := change(f.url.Reveal())
			_, err := Open(t.Context(), Config{URL: secret.New(url)})
			if err == nil {
				t.Errorf("%s: no error", name)
				continue
			}
			for _, leak := range []string{f.password, f.password[12:], "wr@ng", "ss%3A"} {
				if strings.Contains(withHint(err), leak) {
					t.Errorf("%s: error %q has the password", name, err)
				}
			}
			t.Logf("%s: %s", name, withHint(err))
			class := skein.ErrorClass(err)
			if name == "wrong password" && class != skein.Denied || name == "no server" && class != skein.Unreachable {
				t.Errorf("%s: class %q", name, class)
			}
			// MySQL does not tell a user without rights that a database does not exist.
			if name == "no database" && class != skein.NoDatabase && class != skein.Denied {
				t.Errorf("%s: class %q", name, class)
			}
		}
	})
}

func TestPattern(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"a", "a", true},
		{"a", "ab", false},
		{"*", "", true},
		{"*", "x", true},
		{"**", "x", true},
		{"a*", "a", true},
		{"a*", "ba", false},
		{"*a", "ba", true},
		{"a*a", "a", false},
		{"a*a", "aa", true},
		{"a*b*c", "abc", true},
		{"a*b*c", "axxbyyc", true},
		{"a*b*c", "acb", false},
		{"a*bb*c", "abc", false},
		{"*ab*ab*", "ab", false},
		{"*ab*ab*", "abab", true},
		{"[a]*", "a", false},
		{"a?*", "ab", false},
		{"ü*", "über", true},
	} {
		if got := pattern(c.pattern).match(c.text); got != c.want {
			t.Errorf("%q matches %q: %v", c.pattern, c.text, got)
		}
	}
}

func TestWords(t *testing.T) {
	files := map[string]string{
		"list":  "\ufeffacme\r\n# a comment\n\n  b* \nlast",
		"comma": "a\nb,c\n",
	}
	read := func(name string) ([]byte, error) {
		if text, ok := files[name]; ok {
			return []byte(text), nil
		}
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	for text, want := range map[string]string{
		"":           "",
		"a":          "a",
		" a , b* ,,": "a b*",
		"x,@list,y":  "x acme b* last y",
	} {
		got, err := Words(text, read)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("Words(%q) = %q, %v, want %q", text, got, err, want)
		}
	}
	for text, want := range map[string]string{"@none": "open none", "@comma": "comma:2: there is a comma"} {
		if _, err := Words(text, read); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Words(%q): %v, want %s", text, err, want)
		}
	}
}
