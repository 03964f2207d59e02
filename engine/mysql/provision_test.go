package mysql

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/engine/enginetest"
	"github.com/skeinhq/skein/internal/dbtest"
	"github.com/skeinhq/skein/secret"
)

func TestProvision(t *testing.T) {
	enginetest.RunProvision(t, enginetest.ProvisionConfig{
		New:    func(opts skein.SessionOptions) skein.Provisioner { return New(opts) },
		Admin:  administratorOf,
		Naming: skein.Naming{Database: "skein_test_{slug}", User: "st_{slug}"},
		Exec:   execAs,
		Query: func(t testing.TB, target skein.Target, sql string) [][]string {
			return dbtest.MySQL(t).Query(t, target.Database, sql)
		},
		Exists: func(t testing.TB, target skein.Target) []string {
			server := dbtest.MySQL(t)
			var there []string
			for _, row := range server.Query(t, "", "SELECT 'database' FROM information_schema.schemata WHERE schema_name = ? UNION ALL SELECT 'user' FROM mysql.user WHERE user = ?", target.Database, target.User) {
				there = append(there, row[0])
			}
			return there
		},
		Foreign: map[string]func(testing.TB, skein.Target){
			"user": func(t testing.TB, target skein.Target) {
				server := dbtest.MySQL(t)
				server.Exec(t, "", "CREATE USER ?@'%' IDENTIFIED BY 'somebody else'", target.User)
				t.Cleanup(func() { server.Exec(t, "", "DROP USER ?@'%'", target.User) })
			},
			"database": func(t testing.TB, target skein.Target) {
				server := dbtest.MySQL(t)
				server.Exec(t, "", "CREATE DATABASE "+quoteName(target.Database))
				server.Exec(t, target.Database, "CREATE TABLE theirs (id integer)")
				t.Cleanup(func() { server.Exec(t, "", "DROP DATABASE "+quoteName(target.Database)) })
			},
		},
		Dump: func(t testing.TB, target skein.Target) string {
			var b strings.Builder
			rows := func(sql string, args ...any) {
				for _, row := range dbtest.MySQL(t).Query(t, target.Database, sql, args...) {
					fmt.Fprintln(&b, strings.Join(row, ", "))
				}
			}
			rows("SHOW GRANTS FOR ?@'%'", target.User)
			rows("SELECT table_name, column_name, column_type, column_key, extra, collation_name, ordinal_position FROM information_schema.columns WHERE table_schema = ? ORDER BY 1, 7", target.Database)
			rows("SELECT table_name, index_name, column_name FROM information_schema.statistics WHERE table_schema = ? ORDER BY 1, 2, 3", target.Database)
			rows("SELECT table_name, view_definition, definer FROM information_schema.views WHERE table_schema = ?", target.Database)
			rows("SELECT trigger_name, action_statement, definer FROM information_schema.triggers WHERE trigger_schema = ?", target.Database)
			rows("SELECT routine_name, routine_definition, definer FROM information_schema.routines WHERE routine_schema = ?", target.Database)
			rows("SELECT * FROM one")
			rows("SELECT * FROM two")
			rows("SELECT id, name, state, batch, checksum, done, total, applied_by, tool FROM skein_migrations ORDER BY id")
			text := strings.NewReplacer(target.Database, "DATABASE", pattern(target.Database), "DATABASE", target.User, "USER").Replace(b.String())
			return regexp.MustCompile(`PASSWORD '\*\w+'`).ReplaceAllString(text, "PASSWORD")
		},
		Volatile: "CREATE TABLE token (t text); INSERT INTO token VALUES (uuid())",
		Slugs:    []string{"o'brien\"{unique}", "back`tick\\{unique}", "ünï-東京-{unique}", "with-dash.and_dot-{unique}", "50%_{unique}"},
		TooLong:  strings.Repeat("x", 64),
	})
}

func administratorOf(t testing.TB) skein.Target {
	admin, err := skein.ParseTarget(dbtest.MySQL(t).AdminURL())
	if err != nil {
		t.Fatal(err)
	}
	return admin
}

// execAs runs a statement as a target's own user.
func execAs(t testing.TB, target skein.Target, sql string) {
	t.Helper()
	conn := connect(t, target)
	defer conn.Close()
	if _, err := conn.ExecContext(t.Context(), sql); err != nil {
		t.Fatalf("%v\nin: %s", err, sql)
	}
}

// What has a definer is the new tenant's own in a copy, and rows that look like
// a dump's clauses stay as they are.
func TestCopyDefiners(t *testing.T) {
	source := newTarget(t)
	const row = "/*!50017 DEFINER=`a`@`b`*/\nCREATE DEFINER=`a`@`b` VIEW"
	for _, sql := range []string{
		"CREATE TABLE one (id int PRIMARY KEY, t varchar(100))",
		"INSERT INTO one VALUES (1, " + quote(row) + ")",
		"CREATE VIEW two AS SELECT id FROM one",
		"CREATE TRIGGER three BEFORE INSERT ON one FOR EACH ROW SET NEW.t = 'triggered'",
		"CREATE PROCEDURE four() SELECT COUNT(*) FROM one",
		"CREATE FUNCTION five() RETURNS int DETERMINISTIC RETURN 5",
	} {
		execAs(t, source, sql)
	}
	server := dbtest.MySQL(t)
	conn, err := New(skein.SessionOptions{}).Administer(t.Context(), administratorOf(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	name := dbtest.UniqueName()
	site := skein.Site{TenantID: name, Target: source, Source: &source}
	site.Target.Database, site.Target.User, site.Target.Password = name, name, secret.GenerateKey()
	t.Cleanup(func() {
		server.Exec(t, "", "DROP DATABASE IF EXISTS "+name)
		server.Exec(t, "", "DROP USER IF EXISTS "+name)
	})
	for range 2 { // the second time as after a crash
		for _, step := range []func(context.Context, skein.Site) error{conn.CreateRole, conn.CreateDatabase, conn.GrantRights} {
			if err := step(t.Context(), site); err != nil {
				t.Fatal(err)
			}
		}
	}
	got := server.Query(t, name, `SELECT definer FROM information_schema.views WHERE table_schema = ? UNION
		SELECT definer FROM information_schema.triggers WHERE trigger_schema = ? UNION
		SELECT definer FROM information_schema.routines WHERE routine_schema = ?`, name, name, name)
	if len(got) != 1 || got[0][0] != name+"@%" {
		t.Errorf("the definers are %q", got)
	}
	execAs(t, site.Target, "INSERT INTO one (id) VALUES (2)")
	rows := server.Query(t, name, "SELECT t FROM one ORDER BY id")
	if len(rows) != 2 || rows[0][0] != row || rows[1][0] != "triggered" {
		t.Errorf("the rows are %q", rows)
	}
	if n := server.Query(t, name, "SELECT count(*), five() FROM two"); n[0][0] != "2" || n[0][1] != "5" {
		t.Errorf("the view and the function give %q", n)
	}
}
