package postgres

import (
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/engine/enginetest"
	"github.com/skeinhq/skein/internal/dbtest"
	"github.com/skeinhq/skein/secret"
)

func TestProvision(t *testing.T) {
	// A superuser, and a role that may do no more than it takes, of databases;
	// and schemas in a database.
	t.Run("databases", func(t *testing.T) { enginetest.RunProvision(t, provisionConfig(administratorOf)) })
	t.Run("by a creator", func(t *testing.T) {
		c := provisionConfig(creator)
		c.Brief = true
		enginetest.RunProvision(t, c)
	})
	t.Run("schemas", func(t *testing.T) {
		c := provisionConfig(func(t testing.TB) skein.Target {
			admin := administratorOf(t)
			admin.Database, _, _ = dbtest.Postgres(t).CreateDatabase(t)
			return admin
		})
		c.Naming = skein.Naming{Database: "none", Schema: "s_{slug}", User: "skein_test_{slug}"}
		c.Exists = func(t testing.TB, target skein.Target) []string {
			return found(t, target.Database, "SELECT 'role' FROM pg_roles WHERE rolname = $1 UNION ALL SELECT 'schema' FROM pg_namespace WHERE nspname = $2", target.User, target.Schema)
		}
		c.Foreign = map[string]func(testing.TB, skein.Target){
			"role": c.Foreign["role"],
			"schema": func(t testing.TB, target skein.Target) {
				dbtest.Postgres(t).Exec(t, target.Database, "CREATE SCHEMA "+quoteIdent(target.Schema))
			},
		}
		c.Templates, c.CannotCopy = nil, true
		enginetest.RunProvision(t, c)
	})
}

func administratorOf(t testing.TB) skein.Target {
	admin, err := skein.ParseTarget(dbtest.Postgres(t).AdminURL())
	if err != nil {
		t.Fatal(err)
	}
	return admin
}

// creator is a role with the rights CREATEDB and CREATEROLE alone.
func creator(t testing.TB) skein.Target {
	admin := administratorOf(t)
	server := dbtest.Postgres(t)
	admin.User, admin.Password = dbtest.UniqueName(), secret.GenerateKey()
	server.Exec(t, "", "CREATE ROLE "+admin.User+" LOGIN CREATEDB CREATEROLE PASSWORD '"+admin.Password.Reveal()+"'")
	t.Cleanup(func() { server.Exec(t, "", "DROP ROLE "+admin.User) })
	return admin
}

func found(t testing.TB, database, sql string, args ...any) []string {
	var there []string
	for _, row := range dbtest.Postgres(t).Query(t, database, sql, args...) {
		there = append(there, row[0])
	}
	return there
}

func provisionConfig(admin func(testing.TB) skein.Target) enginetest.ProvisionConfig {
	return enginetest.ProvisionConfig{
		New:    func(opts skein.SessionOptions) skein.Provisioner { return New(opts) },
		Admin:  admin,
		Naming: skein.Naming{Database: "skein_test_{slug}", User: "skein_test_{slug}"},
		Exec:   execAs,
		Query:  queryAs,
		Exists: func(t testing.TB, target skein.Target) []string {
			return found(t, "", "SELECT 'database' FROM pg_database WHERE datname = $1 UNION ALL SELECT 'role' FROM pg_roles WHERE rolname = $2", target.Database, target.User)
		},
		Foreign: map[string]func(testing.TB, skein.Target){
			"role": func(t testing.TB, target skein.Target) {
				server := dbtest.Postgres(t)
				server.Exec(t, "", "CREATE ROLE "+quoteIdent(target.User))
				t.Cleanup(func() { server.Exec(t, "", "DROP ROLE "+quoteIdent(target.User)) })
			},
			"database": func(t testing.TB, target skein.Target) {
				server := dbtest.Postgres(t)
				server.Exec(t, "", "CREATE DATABASE "+quoteIdent(target.Database))
				t.Cleanup(func() { server.Exec(t, "", "DROP DATABASE "+quoteIdent(target.Database)) })
			},
		},
		Dump: dumpTenant,
		Templates: func(t testing.TB, _ skein.Target, project string) []string {
			return found(t, "", "SELECT DISTINCT left(datname, 31) FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba WHERE concat(shobj_description(d.oid, 'pg_database'), shobj_description(r.oid, 'pg_authid')) LIKE $1 "+
				"UNION SELECT left(rolname, 31) FROM pg_roles WHERE shobj_description(oid, 'pg_authid') LIKE $1 AND shobj_description(oid, 'pg_authid') NOT LIKE '%: none%'", "%"+project+"%")
		},
		Clean: func(t testing.TB, _ skein.Target, project string) {
			server := dbtest.Postgres(t)
			roles := found(t, "", "SELECT rolname FROM pg_roles WHERE shobj_description(oid, 'pg_authid') LIKE $1", "%"+project+"%")
			slices.Sort(roles)
			for _, role := range roles {
				for _, database := range []string{"", "_new", "_replay", "_copy"} {
					server.Exec(t, "", "DROP DATABASE IF EXISTS "+quoteIdent(role+database)+" WITH (FORCE)")
				}
			}
			for _, role := range roles {
				server.Exec(t, "", "DROP ROLE IF EXISTS "+quoteIdent(role))
			}
		},
		Volatile: "CREATE TABLE token AS SELECT gen_random_uuid() AS t",
		Slugs:    []string{`o'brien"{unique}`, `back\slash-{unique}`, "ünï-東京-{unique}", "with-dash.and_dot-{unique}", "50% {unique}"},
		TooLong:  strings.Repeat("x", 63),
	}
}

// dumpTenant is what pg_dump says of a tenant, with its rights and settings.
func dumpTenant(t testing.TB, target skein.Target) string {
	t.Helper()
	args := []string{dbtest.Postgres(t).URL(target.Database, administratorOf(t).User, administratorOf(t).Password.Reveal())}
	if target.Schema == "" {
		args = append(args, "--create")
	} else {
		args = append(args, "--schema="+quoteIdent(target.Schema))
	}
	cmd := exec.CommandContext(t.Context(), "pg_dump", args...)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, said.String())
	}
	text := string(out)
	for name, word := range map[string]string{target.Database: "DATABASE", target.User: "DATABASE", target.Schema: "SCHEMA"} {
		if name != "" {
			text = strings.ReplaceAll(text, name, word)
		}
	}
	for pattern, word := range map[string]string{
		`(?m)^\\(un)?restrict.*$`:                                     "",
		`skein tenant [\w-]+( \[skein v1 [^]]*\])?`:                   "skein tenant",
		`\t\d{4}-\d\d-\d\d [\d:.+]+\t\d{4}-\d\d-\d\d [\d:.+]+\t\d+\t`: "\tTIMES\t",
	} {
		text = regexp.MustCompile(pattern).ReplaceAllString(text, word)
	}
	return text
}

// A tenant that is in use, or whose objects belong to several roles, is copied
// whole, and the source keeps what it has.
func TestCopyInUse(t *testing.T) {
	server := dbtest.Postgres(t)
	source := newDatabase(t)
	other := dbtest.UniqueName()
	server.Exec(t, "", "CREATE ROLE "+other)
	t.Cleanup(func() { server.Exec(t, "", "DROP OWNED BY "+other+"; DROP ROLE "+other) })
	execAs(t, source, "CREATE TABLE one (id serial, t text); INSERT INTO one (t) VALUES ('a'); CREATE VIEW two AS SELECT * FROM one")
	server.Exec(t, source.Database, "CREATE TABLE three (id int); ALTER TABLE three OWNER TO "+other)
	t.Cleanup(func() { server.Exec(t, source.Database, "DROP TABLE three") })
	owners := func(database string) []string {
		return found(t, database, "SELECT relname || ' ' || relowner::regrole FROM pg_class WHERE relnamespace = 'public'::regnamespace UNION ALL SELECT datname || ' ' || datdba::regrole FROM pg_database WHERE datname = '"+source.Database+"' ORDER BY 1")
	}
	before := owners(source.Database)
	for _, inUse := range []bool{false, true} {
		admin, err := New(skein.SessionOptions{}).Administer(t.Context(), administratorOf(t))
		if err != nil {
			t.Fatal(err)
		}
		defer admin.Close()
		name := dbtest.UniqueName()
		site := skein.Site{TenantID: name, Target: source, Source: &source}
		site.Target.Database, site.Target.User, site.Target.Password = name, name, secret.GenerateKey()
		t.Cleanup(func() {
			server.Exec(t, "", "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
			server.Exec(t, "", "DROP ROLE IF EXISTS "+name)
		})
		if inUse {
			conn := connectAs(t, source)
			if _, err := conn.Exec(t.Context(), "SELECT 1"); err != nil {
				t.Fatal(err)
			}
		}
		for _, step := range []func() error{
			func() error { return admin.(skein.Copier).CheckCopy(t.Context(), site) },
			func() error { return admin.CreateRole(t.Context(), site) },
			func() error { return admin.CreateDatabase(t.Context(), site) },
			func() error { return admin.CreateDatabase(t.Context(), site) }, // as after a crash
			func() error { return admin.GrantRights(t.Context(), site) },
			func() error {
				s, err := admin.Open(t.Context(), site)
				if err != nil {
					return err
				}
				return s.Close()
			},
		} {
			if err := step(); err != nil {
				t.Fatalf("in use %t: %v", inUse, err)
			}
		}
		if rows := queryAs(t, site.Target, "SELECT t FROM two"); len(rows) != 1 || rows[0][0] != "a" {
			t.Errorf("in use %t: the rows are %q", inUse, rows)
		}
		execAs(t, site.Target, "INSERT INTO one (t) VALUES ('b'); INSERT INTO three VALUES (1); DROP TABLE three")
		if after := owners(source.Database); !slices.Equal(before, after) {
			t.Errorf("in use %t: the source belongs to %q, and before to %q", inUse, after, before)
		}
	}
}
