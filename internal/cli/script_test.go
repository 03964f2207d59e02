package cli_test

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	_ "modernc.org/sqlite" // the driver of the sql command

	"github.com/skeinhq/skein/internal/cli"
	"github.com/skeinhq/skein/internal/dbtest"
	"github.com/skeinhq/skein/internal/nodetest"
)

var update = flag.Bool("update", false, "write what the commands print into the scripts that compare it")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"skein": func() {
			os.Exit(cli.Run(os.Args[1:], cli.System{
				In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
				LookupEnv: os.LookupEnv, Version: "test",
			}))
		},
	})
}

// TestScripts runs the command line as a person would, and compares what is
// seen. The commands that the scripts have besides testscript's own:
//
//	run CODE COMMAND ARGS...   runs a command that is to end with this exit code;
//	                           the files out and err are what it wrote, with a
//	                           fixed text for what differs from run to run
//	database ENGINE NAME [DB]  makes a database (called DB) on the test server,
//	                           and sets NAME_URL, NAME_DB, NAME_USER,
//	                           NAME_PASSWORD, NAME_HOST and NAME_PORT; of the
//	                           engine postgres-tls also NAME_CA, a file
//	sql FILE|NAME STATEMENT    runs SQL in a SQLite file, or as the administrator
//	                           in a database that was made; its rows are stdout
//	putenv VARIABLE FILE       writes a variable's value to a file
//	waitfor FILE TABLE         waits until a SQLite file has a table
//	pgbouncer MODE NAME POOL   starts a PgBouncer before the database NAME, which
//	                           lends connections for MODE, and sets POOL_PORT
//	documented FILE            checks lines of JSON against docs/json.md
//	modules DIR                gives a project Knex, the drivers and the loaders
//	                           that knex/testdata/modules/package.json names
func TestScripts(t *testing.T) {
	first := ""
	if raceDetector {
		// What runs at once within a command has tests of its own.
		bin := t.TempDir()
		if out, err := exec.Command("go", "build", "-o", bin+"/", "./testdata/skein").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		first = bin + string(os.PathListSeparator)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "../../testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("TZ", "UTC")
			env.Setenv("PATH", first+env.Getenv("PATH"))
			env.Values[stateKey{}] = &scriptState{
				t:         env.T().(testing.TB),
				databases: make(map[string]database),
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"run": runCommand, "putenv": putenvCommand, "waitfor": waitCommand, "database": databaseCommand, "sql": sqlCommand, "documented": documentedCommand, "pgbouncer": pgbouncerCommand,
			"modules": modulesCommand,
		},
	})
}

// A scriptState is what the commands of one script share.
type scriptState struct {
	t         testing.TB
	databases map[string]database
	masks     []string // pairs for a strings.Replacer
}

type stateKey struct{}

func stateOf(ts *testscript.TestScript) *scriptState { return ts.Value(stateKey{}).(*scriptState) }

// A database is one that a script made.
type database struct {
	server *dbtest.Server
	name   string
}

func runCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: run CODE COMMAND ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	for _, stream := range []struct{ from, to string }{{"stdout", "out"}, {"stderr", "err"}} {
		text := stateOf(ts).mask(ts.Getenv("WORK"), ts.ReadFile(stream.from))
		ts.Check(os.WriteFile(ts.MkAbs(stream.to), []byte(text), 0o600))
	}
	if code != want {
		ts.Fatalf("it ended with exit code %d, not %d", code, want)
	}
}

var maskPatterns = []struct {
	pattern *regexp.Regexp
	to      string
}{
	{regexp.MustCompile(`<1ms|\b\d+ms\b|\b\d+\.\ds\b|\b\d+m\d\ds\b`), "9ms"},
	{regexp.MustCompile(`"duration_ms":\d+`), `"duration_ms":9`},
	{regexp.MustCompile(`looked in .*node_modules`), "looked in WORK/node_modules and above"},
	{regexp.MustCompile(`\bSQLite 3\.[\d.]+\b`), "SQLite 3.9"},
	{regexp.MustCompile(`\b20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\b`), "2026-01-31 12:00:00"},
	{regexp.MustCompile(`[^\s"]+@[^\s"]+ \(skein test\)`), "me@here (skein test)"},
	{regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`), "AN-ID"},
	{regexp.MustCompile(`\b127\.0\.0\.1:\d+`), "127.0.0.1:9999"},
	// How wide a column of durations is, and what is in it, differs.
	{regexp.MustCompile(`(APPLIED {14}) *TOOK +BY`), "${1}TOOK  BY"},
	{regexp.MustCompile(`(?m)(12:00:00) +(9ms +)?me@here`), "$1  9ms   me@here"},
	{regexp.MustCompile(`(?m)(12:00:00) +knex$`), "$1        knex"},
}

// mask puts fixed texts in place of what differs from run to run.
func (s *scriptState) mask(work, text string) string {
	text = strings.ReplaceAll(text, work, "WORK")
	text = strings.NewReplacer(s.masks...).Replace(text)
	for _, m := range maskPatterns {
		text = m.pattern.ReplaceAllString(text, m.to)
	}
	return text
}

func databaseCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: database postgres|postgres-tls|mysql NAME [DB]")
	}
	state, variable := stateOf(ts), args[1]
	var server *dbtest.Server
	switch args[0] {
	case "postgres":
		server = dbtest.Postgres(state.t)
	case "mysql":
		server = dbtest.MySQL(state.t)
	case "postgres-tls":
		server = dbtest.PostgresTLS(state.t)
		authority, _, _ := dbtest.Certificates(state.t)
		ts.Setenv(variable+"_CA", authority)
	default:
		ts.Fatalf("there is no server of %s", args[0])
	}
	var name, user, password string
	if len(args) == 3 {
		// Servers are shared with other tests.
		name = strings.ReplaceAll(args[2], "UNIQUE", dbtest.UniqueName())
		user, password = server.CreateDatabaseNamed(state.t, name)
	} else {
		name, user, password = server.CreateDatabase(state.t)
	}
	state.databases[variable] = database{server, name}
	state.masks = append(state.masks, name, variable+"_DB", url.PathEscape(name), variable+"_DB", user, variable+"_USER")
	for suffix, value := range map[string]string{
		"URL": server.URL(name, user, password), "DB": name, "USER": user, "PASSWORD": password,
		"HOST": server.Host(), "PORT": strconv.Itoa(server.Port()),
	} {
		ts.Setenv(variable+"_"+suffix, value)
	}
}

func pgbouncerCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: pgbouncer MODE NAME POOL")
	}
	users := map[string]string{ts.Getenv(args[1] + "_USER"): ts.Getenv(args[1] + "_PASSWORD")}
	port := dbtest.PgBouncer(stateOf(ts).t, args[0], users)
	ts.Setenv(args[2]+"_PORT", strconv.Itoa(port))
}

func sqlCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: sql FILE|NAME STATEMENT")
	}
	var rows [][]string
	var err error
	if db, ok := stateOf(ts).databases[args[0]]; ok {
		rows = db.server.Query(stateOf(ts).t, db.name, args[1])
	} else {
		rows, err = querySQLite(ts.MkAbs(args[0]), args[1])
		ts.Check(err)
	}
	for _, row := range rows {
		fmt.Fprintln(ts.Stdout(), strings.Join(row, " | "))
	}
}

// querySQLite runs statements in a file and returns the last one's rows.
func querySQLite(path, statements string) (rows [][]string, err error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err // SQLite would make it
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	result, err := db.QueryContext(context.Background(), statements)
	if err != nil {
		return nil, err
	}
	defer result.Close()
	columns, err := result.Columns()
	if err != nil {
		return nil, err
	}
	for result.Next() {
		values, into := make([]sql.NullString, len(columns)), make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := result.Scan(into...); err != nil {
			return nil, err
		}
		row := make([]string, len(columns))
		for i, v := range values {
			row[i] = "NULL"
			if v.Valid {
				row[i] = v.String
			}
		}
		rows = append(rows, row)
	}
	return rows, result.Err()
}

func putenvCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: putenv VARIABLE FILE")
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(ts.Getenv(args[0])), 0o600))
}

func waitCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: waitfor FILE TABLE")
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		rows, err := querySQLite(ts.MkAbs(args[0]), "SELECT 1 FROM sqlite_master WHERE name = '"+args[1]+"'")
		if err == nil && len(rows) > 0 {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%s has no table %s after 20 seconds: %v", args[0], args[1], err)
		}
	}
}

func documentedCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: documented FILE")
	}
	documents, err := readDocumented(filepath.FromSlash("../../docs/json.md"))
	ts.Check(err)
	ts.Check(documents.check(ts.ReadFile(args[0])))
}

func modulesCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: modules DIR")
	}
	t := stateOf(ts).t
	nodetest.Link(t, nodetest.Modules(t, filepath.FromSlash("../../knex/testdata/modules/package.json")), ts.MkAbs(args[0]), nil)
}
