package central

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/dbtest"
	"github.com/skeinhq/skein/secret"
)

// appTable is a table as an application may have made it, with the native types
// of each database.
func (f *fixture) appTable(t *testing.T) {
	t.Helper()
	create := map[string]string{
		skein.PostgreSQL: `CREATE TABLE "Companies" (uid uuid PRIMARY KEY, "subDomain" varchar(100), title text, enabled boolean,
			driver varchar(20), db_host text, db_port integer, db_name char(20), db_user text, db_password text, plan text, seats integer)`,
		skein.MySQL: "CREATE TABLE `Companies` (uid binary(16) PRIMARY KEY, `subDomain` varchar(100), title text, enabled bit(1)," +
			"driver enum('','pg','mysql2','oracle'), db_host text, db_port integer, db_name char(20), db_user text, db_password blob, plan text, seats integer)",
		skein.SQLite: `CREATE TABLE "Companies" (uid text PRIMARY KEY, "subDomain" varchar(100), title text, enabled boolean,
			driver varchar(20), db_host text, db_port integer, db_name text, db_user text, db_password text, plan text, seats integer)`,
	}
	f.exec(t, create[f.engine])
}

var companies = Mapping{
	Table: "Companies",
	Columns: Columns{
		ID: "uid", Slug: "subDomain", Name: "title", Status: "enabled", Engine: "driver", Host: "db_host", Port: "db_port",
		Database: "db_name", User: "db_user", Password: "db_password",
	},
	Labels: map[string]string{"tier": "plan", "seats": "seats"},
	Engine: "postgres", Host: "db.internal", User: "app_{slug}", Schema: "public",
	Options: map[string]string{"sslmode": "require"},
}

func companyID(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }

// company inserts a row; values are SQL, in the order of the columns after uid.
func (f *fixture) company(t *testing.T, n int, values string) {
	t.Helper()
	id := "'" + companyID(n) + "'"
	if f.engine == skein.MySQL {
		id = "UNHEX(REPLACE(" + id + ", '-', ''))"
	}
	f.exec(t, fmt.Sprintf(`INSERT INTO %s VALUES (%s, %s)`, f.companies(), id, values))
}

func (f *fixture) companies() string {
	if f.engine == skein.MySQL {
		return "`Companies`"
	}
	return `"Companies"`
}

func TestMapping(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		f.appTable(t)
		ring := newKeyring(t)
		seal := func(n int) string {
			id := companyID(n)
			if f.engine == skein.MySQL {
				id = strings.ReplaceAll(id, "-", "") // as Skein reads binary ids
			}
			sealed, err := ring.Seal(secret.New("S3cret-word"), secret.Binding{Tenant: id, Field: "password"})
			if err != nil {
				t.Fatal(err)
			}
			return sealed
		}
		yes, no := "true", "false"
		if f.engine == skein.MySQL {
			yes, no = "1", "0"
		}
		f.company(t, 1, "'acme', 'Acme', "+yes+", 'mysql2', 'db1', 3307, 'acme_db', 'acme_user', '"+seal(1)+"', 'gold', 12")
		f.company(t, 2, "'beta', NULL, "+no+", NULL, NULL, NULL, 'beta_db', NULL, NULL, NULL, NULL")
		f.company(t, 3, "NULL, '', NULL, '', '', 0, 'gamma', '', '', '', 0")
		f.company(t, 4, "'bad-port', NULL, "+yes+", NULL, NULL, 99999, 'd', NULL, NULL, NULL, NULL")
		f.company(t, 5, "'bad-engine', NULL, "+yes+", 'oracle', NULL, NULL, 'd', NULL, NULL, NULL, NULL")
		f.company(t, 6, "'bad-password', NULL, "+yes+", NULL, NULL, NULL, 'd', NULL, 'S3cret-word', NULL, NULL")
		f.company(t, 7, "'no-database', NULL, "+yes+", NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL")
		before := f.dump(t)

		mapping := companies
		s := f.open(t, Config{URL: f.url, Mapping: &mapping, Keyring: ring})
		s.page = 2
		tenants, err := collect(s.Tenants(t.Context(), Filter{Order: BySlug}))
		if err != nil {
			t.Fatal(err)
		}
		bySlug := make(map[string]skein.Tenant)
		for _, tenant := range tenants {
			bySlug[tenant.Slug] = tenant
		}
		id := func(n int) string {
			if f.engine == skein.MySQL {
				return strings.ReplaceAll(companyID(n), "-", "")
			}
			return companyID(n)
		}
		status := map[bool]string{true: yes, false: no}
		if f.engine == skein.SQLite { // true is 1 there
			status = map[bool]string{true: "1", false: "0"}
		}
		options := map[string]string{"sslmode": "require"}
		want := map[string]skein.Tenant{
			"acme": {
				ID: id(1), Slug: "acme", Name: "Acme", Status: status[true], Active: true,
				Labels: map[string]string{"tier": "gold", "seats": "12"},
				Target: skein.Target{
					Engine: skein.MySQL, Host: "db1", Port: 3307, Database: "acme_db", User: "acme_user",
					Password: secret.New("S3cret-word"), Options: options,
				},
			},
			"beta": {
				ID: id(2), Slug: "beta", Status: status[false],
				Target: skein.Target{Engine: skein.PostgreSQL, Host: "db.internal", Database: "beta_db", Schema: "public", User: "app_beta", Options: options},
			},
			id(3): {
				ID: id(3), Slug: id(3), Labels: map[string]string{"seats": "0"},
				Target: skein.Target{Engine: skein.PostgreSQL, Host: "db.internal", Database: "gamma", Schema: "public", User: "app_" + id(3), Options: options},
			},
		}
		for slug, tenant := range want {
			if diff := cmp.Diff(tenant, bySlug[slug]); diff != "" {
				t.Errorf("%s (-want +got):\n%s", slug, diff)
			}
			found, err := s.Find(t.Context(), tenant.ID)
			if err != nil {
				t.Errorf("find %s: %v", tenant.ID, err)
			}
			if diff := cmp.Diff(tenant, found); diff != "" {
				t.Errorf("%s by id (-want +got):\n%s", slug, diff)
			}
		}
		for slug, text := range map[string]string{
			"bad-port":     "column db_port: it is not a number from 1 to 65535 [correct this tenant's row in table Companies]",
			"bad-engine":   "column driver: it is not one of postgres, mysql, sqlite [correct this tenant's row in table Companies]",
			"bad-password": "column db_password: the value is not in the format",
			"no-database":  "column db_name: no database is given [correct this tenant's row in table Companies]",
		} {
			got := withHint(bySlug[slug].Err)
			if !strings.HasPrefix(got, text) || strings.Contains(got, "S3cret") {
				t.Errorf("%s: %q, want %q", slug, got, text)
			}
		}
		if len(tenants) != 7 {
			t.Errorf("%d tenants, want 7", len(tenants))
		}
		if got := slugs(t, s, Filter{Order: BySlug, Labels: map[string]string{"tier": "gold"}}); got != "acme" {
			t.Errorf("with tier=gold: %s", got)
		}
		if got := slugs(t, s, Filter{Order: BySlug, Active: true, Skip: []string{"bad-*", "no-*"}}); got != "acme" {
			t.Errorf("active: %s", got)
		}
		if got := len(strings.Fields(slugs(t, s, Filter{}))); got != 7 {
			t.Errorf("by server: %d tenants", got)
		}

		for name, change := range map[string]func() error{
			"add":    func() error { _, err := s.Add(t.Context(), at("x", "h")); return err },
			"import": func() error { _, err := s.Import(t.Context(), strings.NewReader("slug\n"), CSV); return err },
			"status": func() error { _, err := s.SetStatus(t.Context(), []string{"acme"}, "suspended"); return err },
			"remove": func() error { _, err := s.Remove(t.Context(), []string{"acme"}); return err },
		} {
			if err := change(); err == nil || !strings.Contains(err.Error(), "the application owns table Companies") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := Init(t.Context(), Config{URL: f.url, Mapping: &mapping, Keyring: ring}); err != nil {
			t.Errorf("Init: %v", err)
		}
		if after := f.dump(t); after != before {
			t.Errorf("the application's table was changed:\n%s\nbefore:\n%s", after, before)
		}
		columns, err := s.db.columns(t.Context(), s.db.DB, "", "skein_schema")
		if err != nil || len(columns) > 0 {
			t.Errorf("Skein made tables of its own: %v, %v", columns, err)
		}
	})
}

// dump is all that the application's table holds.
func (f *fixture) dump(t *testing.T) string {
	t.Helper()
	rows, err := f.admin.QueryContext(t.Context(), "SELECT * FROM "+f.companies()+" ORDER BY 1")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var b strings.Builder
	for rows.Next() {
		values, into := make([]any, 12), make([]any, 12)
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&b, values)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestMappingOfURLs(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		f.exec(t, `CREATE TABLE tenants (id bigint PRIMARY KEY, url varchar(200), pw varchar(200), db_host varchar(100), conf text)`)
		for i, values := range []string{
			`'postgres://app:S3cret-word@db1:5433/acme?schema=s&sslmode=disable', NULL, NULL, '{"sslmode": "require", "n": 5}'`,
			`'sqlite:tenants/b.db', NULL, NULL, NULL`,
			`'mysql://app@db2/c', NULL, 'db3', NULL`,
			`'S3cret-word:x', NULL, NULL, NULL`,
			`'postgres://app:S3cret%word@db1/d', NULL, NULL, NULL`,
			`NULL, NULL, NULL, NULL`,
			`'mysql://app@db2/c', NULL, NULL, '{"S3cret'`,
			`'mysql://app@db2/c', NULL, NULL, '{"a": {"b": "S3cret"}}'`,
			`'mysql://app@db2/c', 'sealed', NULL, NULL`,
		} {
			f.exec(t, fmt.Sprintf("INSERT INTO tenants VALUES (%d, %s)", i+1, values))
		}
		s := f.open(t, Config{URL: f.url, Mapping: &Mapping{
			Table: "tenants", Columns: Columns{ID: "id", URL: "url", Password: "pw", Host: "db_host", Options: "conf"},
		}})
		tenants, err := collect(s.Tenants(t.Context(), Filter{Order: BySlug}))
		if err != nil {
			t.Fatal(err)
		}
		if len(tenants) != 9 {
			t.Fatalf("%d tenants, want 9", len(tenants))
		}
		acme := skein.Tenant{
			ID: "1", Slug: "1", Active: true,
			Target: skein.Target{
				Engine: skein.PostgreSQL, Host: "db1", Port: 5433, Database: "acme", Schema: "s", User: "app",
				Password: secret.New("S3cret-word"), Options: map[string]string{"sslmode": "require", "n": "5"},
			},
		}
		if diff := cmp.Diff(acme, tenants[0]); diff != "" {
			t.Errorf("acme (-want +got):\n%s", diff)
		}
		if got := tenants[1].Target; got.Database != "tenants/b.db" || tenants[1].Err != nil {
			t.Errorf("SQLite: %+v", tenants[1])
		}
		for i, want := range []string{
			2: "column db_host: the URL says something else",
			3: "column url: it is not the address of a database",
			4: "column url: the address of the postgres database is not a URL",
			5: "engine: no engine is given",
			6: "column conf: it is not a JSON object",
			7: `column conf: the value of "a" is not a text`,
			8: "column pw: it is stored encrypted, and there is no key",
		} {
			if want == "" {
				continue
			}
			got := withHint(tenants[i].Err)
			if !strings.HasPrefix(got, want) || strings.Contains(got, "S3cret") {
				t.Errorf("tenant %d: %q, want %q", i+1, got, want)
			}
		}
		survey, err := s.Survey(t.Context(), Filter{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(Survey{Tenants: 9, Engines: []string{"mysql", "postgres", "sqlite"}}, survey); diff != "" {
			t.Errorf("Survey (-want +got):\n%s", diff)
		}
	})
}

// A schema for each tenant, in one database that no column names.
func TestMappingOfSchemas(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		f.exec(t, `CREATE TABLE tenants (id integer PRIMARY KEY, subdomain varchar(50), state varchar(10))`,
			`INSERT INTO tenants VALUES (7, 'acme', 'LIVE'), (8, 'beta', 'gone'), (9, 'ACME', 'trial')`)
		m := &Mapping{
			Table: "tenants", Columns: Columns{ID: "id", Slug: "subdomain", Status: "state"}, Active: []string{"live", "Trial"},
			Engine: "pg", Port: 6432, Database: "app", Schema: "t_{id}_{slug}", User: "app", Password: secret.New("pw"),
		}
		s := f.open(t, Config{URL: f.url, Mapping: m})
		if got := slugs(t, s, Filter{Active: true, Order: BySlug}); got != "ACME acme" {
			t.Errorf("active: %s", got)
		}
		if got := slugs(t, s, Filter{}); got != "ACME acme beta" {
			t.Errorf("by server: %s", got)
		}
		got, err := s.Find(t.Context(), "acme")
		if err != nil {
			t.Fatal(err)
		}
		want := skein.Target{Engine: skein.PostgreSQL, Port: 6432, Database: "app", Schema: "t_7_acme", User: "app", Password: secret.New("pw")}
		if diff := cmp.Diff(want, got.Target); diff != "" {
			t.Errorf("target (-want +got):\n%s", diff)
		}
	})
}

func TestMappingIsChecked(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		f.appTable(t)
		change := func(change func(*Mapping)) *Mapping {
			m := companies
			change(&m)
			return &m
		}
		for name, c := range map[string]struct {
			mapping *Mapping
			want    []string
		}{
			"column": {change(func(m *Mapping) { m.Columns.Host = "dbhost" }), []string{
				`central.tenants.columns.host: table Companies has no column "dbhost": is it db_host? it has uid, subDomain, title`,
			}},
			"two columns": {change(func(m *Mapping) { m.Columns.Host, m.Columns.User = "dbhost", "zzzzz" }), []string{"columns.host", `columns.user: table Companies has no column "zzzzz": it has uid`}},
			"label":       {change(func(m *Mapping) { m.Labels = map[string]string{"tier": "plam"} }), []string{`central.tenants.labels.tier`, "is it plan?"}},
			"table":       {change(func(m *Mapping) { m.Table = "none_such" }), []string{`central.tenants.table`, `no table "none_such"`}},
			"no table":    {change(func(m *Mapping) { m.Table = "" }), []string{"central.tenants.table: no table is given"}},
			"no slug":     {change(func(m *Mapping) { m.Columns.ID, m.Columns.Slug = "", "" }), []string{"central.tenants.columns: slug or id must be given"}},
			"no engine":   {change(func(m *Mapping) { m.Engine, m.Columns.Engine = "", "" }), []string{"central.tenants.engine: give one of postgres"}},
			"engine":      {change(func(m *Mapping) { m.Engine = "oracle" }), []string{`central.tenants.engine: "oracle" is not one of`}},
			"port":        {change(func(m *Mapping) { m.Port = -1 }), []string{`central.tenants.port: -1 is not a number`}},
			"no database": {change(func(m *Mapping) { m.Columns.Database = "" }), []string{"central.tenants.columns: give database"}},
		} {
			_, err := Open(t.Context(), Config{URL: f.url, Mapping: c.mapping})
			if err == nil {
				t.Errorf("%s: no error", name)
			}
			wantError(t, err, c.want...)
		}
		// Where the database does not tell case apart, neither does Skein.
		upper := change(func(m *Mapping) { m.Columns.Host = "DB_HOST" })
		s, err := Open(t.Context(), Config{URL: f.url, Mapping: upper})
		if f.engine == skein.PostgreSQL {
			wantError(t, err, `no column "DB_HOST": is it db_host?`)
		} else if err != nil {
			t.Error(err)
		} else if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestMappingOfAnotherSchema(t *testing.T) {
	t.Run("postgres", func(t *testing.T) {
		f := onServer(t, skein.PostgreSQL, dbtest.Postgres(t))
		f.exec(t, `CREATE SCHEMA "App"`, `CREATE TABLE "App".tenants (slug text, db text)`, `INSERT INTO "App".tenants VALUES ('a', 'd')`)
		m := &Mapping{Table: "App.tenants", Columns: Columns{Slug: "slug", Database: "db"}, Engine: "mysql"}
		if got := slugs(t, f.open(t, Config{URL: f.url, Mapping: m}), Filter{}); got != "a" {
			t.Errorf("tenants: %s", got)
		}
		m.Table = "tenants"
		url := secret.New(f.url.Reveal() + "?schema=App")
		if got := slugs(t, f.open(t, Config{URL: url, Mapping: m}), Filter{}); got != "a" {
			t.Errorf("by the address's schema: %s", got)
		}
	})
	t.Run("mysql", func(t *testing.T) {
		f := onServer(t, skein.MySQL, dbtest.MySQL(t))
		f.exec(t, `CREATE TABLE tenants (slug text, db text)`, `INSERT INTO tenants VALUES ('a', 'd')`)
		m := &Mapping{Table: f.target(t).Database + ".tenants", Columns: Columns{Slug: "slug", Database: "db"}, Engine: "mysql"}
		if got := slugs(t, f.open(t, Config{URL: f.url, Mapping: m}), Filter{}); got != "a" {
			t.Errorf("tenants: %s", got)
		}
	})
}

// A role that may only SELECT is enough, and one that may not is told.
func TestMappingNeedsOnlySelect(t *testing.T) {
	server := dbtest.Postgres(t)
	f := onServer(t, skein.PostgreSQL, server)
	f.appTable(t)
	_, user, password := server.CreateDatabase(t)
	database := f.target(t).Database
	mapping := companies
	cfg := Config{URL: secret.New(server.URL(database, user, password)), Mapping: &mapping}
	_, err := Open(t.Context(), cfg)
	wantError(t, err, "read table Companies", "permission denied")
	if class := skein.ErrorClass(err); class != skein.Denied {
		t.Errorf("class %q, want denied", class)
	}
	server.Exec(t, database, fmt.Sprintf(`GRANT SELECT ON "Companies" TO %s`, user))
	if got := slugs(t, f.open(t, cfg), Filter{}); got != "" {
		t.Errorf("tenants: %s", got)
	}
	server.Exec(t, database, fmt.Sprintf(`REVOKE ALL ON "Companies" FROM %s`, user))
}
