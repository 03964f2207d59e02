package mysql

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/engine/enginetest"
	"github.com/skeinhq/skein/internal/dbtest"
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
