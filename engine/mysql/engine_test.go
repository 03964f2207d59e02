package mysql

import (
	sqldriver "database/sql/driver"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/dbtest"
)

func TestOptions(t *testing.T) {
	target := newTarget(t)
	folder := t.TempDir()
	noPEM := filepath.Join(folder, "no.pem")
	if err := os.WriteFile(noPEM, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		options map[string]string
		want    string // in the error; empty: it works
	}{
		{map[string]string{"charset": "utf8mb4", "timeout": "5s", "readTimeout": "1m", "writeTimeout": "1m", "tls": "preferred"}, ""},
		{map[string]string{"tls": "false", "allowCleartextPasswords": "false"}, ""},
		{map[string]string{"charset": "latin1"}, "utf8mb4"},
		{map[string]string{"multiStatements": "true"}, `"multiStatements"`},
		{map[string]string{"tls": "yes"}, "skip-verify"},
		{map[string]string{"timeout": "5"}, "30s"},
		{map[string]string{"readTimeout": "-1s"}, "30s"},
		{map[string]string{"allowCleartextPasswords": "maybe"}, "true or false"},
		{map[string]string{"ssl-ca": filepath.Join(folder, "missing.pem")}, "missing.pem"},
		{map[string]string{"ssl-ca": noPEM}, "no certificate"},
		{map[string]string{"ssl-cert": noPEM}, "ssl-key"},
		{map[string]string{"ssl-cert": noPEM, "ssl-key": noPEM}, "no.pem"},
	} {
		target.Options = test.options
		s, err := New(skein.SessionOptions{}).Open(t.Context(), target)
		if err == nil {
			_ = s.Close()
		}
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%v: %v", test.options, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%v: the error is %v", test.options, err)
		}
	}
}

func TestTLSConfig(t *testing.T) {
	e := New(skein.SessionOptions{})
	for mode, verify := range map[string]bool{"true": true, "skip-verify": false, "preferred": false} {
		c, err := e.tlsConfig(tlsOptions{mode: mode})
		if err != nil || c.InsecureSkipVerify == verify {
			t.Errorf("tls=%s: %v", mode, err)
		}
		if again, _ := e.tlsConfig(tlsOptions{mode: mode}); again != c {
			t.Errorf("tls=%s is made twice", mode)
		}
	}
	target := newTarget(t)
	target.Options = map[string]string{"tls": "true"}
	config, _, err := e.config(target)
	if err != nil || config.TLS == nil || config.AllowFallbackToPlaintext {
		t.Errorf("the configuration has TLS %v, %v", config.TLS, err)
	}
}

func TestAddress(t *testing.T) {
	folder := t.TempDir()
	socket := filepath.Join(folder, "mysql.sock")
	if err := os.WriteFile(socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		host    string
		port    int
		network string
		address string
	}{
		{"", 0, "tcp", "localhost:3306"},
		{"db", 3307, "tcp", "db:3307"},
		{"::1", 0, "tcp", "[::1]:3306"},
		{socket, 0, "unix", socket},
		{folder, 0, "unix", socket},
		{"/no/such.sock", 0, "unix", "/no/such.sock"},
	} {
		network, address := address(skein.Target{Host: test.host, Port: test.port})
		if network != test.network || address != test.address {
			t.Errorf("%q is %s %s", test.host, network, address)
		}
	}
}

// TestDenied names the right that is missing.
func TestDenied(t *testing.T) {
	target := newTarget(t)
	server := dbtest.MySQL(t)
	grant := quoteName(strings.ReplaceAll(target.Database, "_", `\_`)) + ".*"
	server.Exec(t, "", "REVOKE ALL PRIVILEGES ON "+grant+" FROM "+quoteName(target.User)+"; GRANT SELECT ON "+grant+" TO "+quoteName(target.User))
	e := New(skein.SessionOptions{})
	s := open(t, e, target)
	lock(t, s)
	err := apply(t, e, s, migration("1.sql", "CREATE TABLE a (id int)", ""), skein.Up)
	answer, ok := errors.AsType[*skein.DatabaseError](err)
	if !ok || answer.Class != skein.Denied || answer.Code != "1142" {
		t.Fatalf("the error is %v", err)
	}
	if want := "GRANT CREATE ON " + grant + " TO " + quoteName(target.User); !strings.HasSuffix(answer.Hint, want) {
		t.Errorf("the hint is %q, not %q", answer.Hint, want)
	}
	if _, ok := errors.AsType[*skein.StatementError](err); ok {
		t.Errorf("the migration is blamed: %v", err)
	}
	if err := s.Unlock(t.Context()); err != nil {
		t.Error(err)
	}

	// An account without any right on the database cannot log in to it.
	other := newTarget(t)
	other.Database = target.Database
	_, err = e.Open(t.Context(), other)
	if answer, ok := errors.AsType[*skein.DatabaseError](err); !ok || answer.Class != skein.Denied || !strings.Contains(answer.Hint, "GRANT ALL PRIVILEGES ON "+grant) {
		t.Errorf("the error is %+v", err)
	}
}

func TestErrors(t *testing.T) {
	target := newTarget(t)
	server := dbtest.MySQL(t)
	e := New(skein.SessionOptions{})

	server.Exec(t, "", "ALTER USER "+quoteName(target.User)+" WITH MAX_USER_CONNECTIONS 1")
	first := open(t, e, target)
	if _, err := e.Open(t.Context(), target); skein.ErrorClass(err) != skein.Crowded {
		t.Errorf("a second connection where one is allowed: %v", err)
	}
	server.Exec(t, "", "ALTER USER "+quoteName(target.User)+" WITH MAX_USER_CONNECTIONS 0")

	lock(t, first)
	server.Exec(t, target.Database, "CREATE TABLE a (id int PRIMARY KEY, n int); INSERT INTO a VALUES (1, 0), (2, 0)")
	other := connect(t, target)
	exec := func(sql string) {
		t.Helper()
		if _, err := other.ExecContext(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec("START TRANSACTION")
	// What has changed more rows is not the one that gives way.
	exec("INSERT INTO a SELECT seq, 0 FROM seq_10_to_500")
	exec("UPDATE a SET n=1 WHERE id=2")
	done := make(chan error, 1)
	go func() {
		done <- apply(t, e, first, migration("1.sql", "UPDATE a SET n=2 WHERE id=1;\nUPDATE a SET n=2 WHERE id=2", ""), skein.Up)
	}()
	time.Sleep(300 * time.Millisecond)
	exec("UPDATE a SET n=1 WHERE id=1")
	err := <-done
	if broken, ok := errors.AsType[*skein.StatementError](err); !ok || broken.Partial || skein.ErrorClass(err) != skein.Transient {
		t.Errorf("a deadlock: %v", err)
	}
	exec("ROLLBACK")

	server.Exec(t, "", "KILL "+server.Query(t, "", "SELECT IS_USED_LOCK(?)", lockName(target.Database))[0][0])
	if _, err := first.History(t.Context()); skein.ErrorClass(err) != skein.ConnectionLost {
		t.Errorf("a session that was killed: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Errorf("closing it: %v", err)
	}
}

func TestParse(t *testing.T) {
	e := New(skein.SessionOptions{})
	for _, test := range []struct {
		sql           string
		noTransaction bool
		want          string // in the refusal; empty: none
	}{
		{"USE other", false, "USE"},
		{"/* to */ use other", true, "USE"},
		{"LOAD DATA LOCAL INFILE 'x' INTO TABLE t", true, "LOAD DATA LOCAL"},
		{"LOAD DATA INFILE 'x' INTO TABLE t", false, ""},
		{"SOURCE other.sql", true, "mysql client"},
		{`\. other.sql`, false, "mysql client"},
		{"SET autocommit=0", false, "transaction"},
		{"SET autocommit=0", true, ""},
		{"BEGIN", true, ""},
		{"XA START 'x'", false, "transaction"},
		{"SAVEPOINT x", false, ""},
		{"SELECT 'USE x'; CREATE TABLE `use` (id int)", false, ""},
		{"", false, ""},
	} {
		_, err := e.Parse(&skein.Section{SQL: "SELECT 1;\n" + test.sql, Path: "a.sql", Line: 10, NoTransaction: test.noTransaction})
		if test.want == "" {
			if err != nil {
				t.Errorf("%q: %v", test.sql, err)
			}
			continue
		}
		wrong, ok := errors.AsType[*skein.FileError](err)
		if !ok || wrong.Path != "a.sql" || wrong.Line != 11 || !strings.Contains(wrong.Msg, test.want) {
			t.Errorf("%q: the error is %v", test.sql, err)
		}
	}
}

func TestWords(t *testing.T) {
	for text, want := range map[string]string{
		"select 1": "SELECT", "(select 1) union (select 2)": "SELECT", "insert into t values": "INSERT INTO T VALUES",
		"/* a */ -- b\n# c\nDrop /*d*/ table x": "DROP TABLE X", "/*!40000 ALTER TABLE `x` DISABLE */": "ALTER TABLE",
		"/*M!100100 SET x */": "SET X", "": "", "--": "", "/* open": "", "  ": "", "`a`": "", "création 2a": "CRéATION",
	} {
		if got := strings.Join(words(text, 4).list, " "); got != want && !strings.EqualFold(got, want) {
			t.Errorf("the words of %q are %q, not %q", text, got, want)
		}
	}
}

func TestCanRollBack(t *testing.T) {
	for text, want := range map[string]bool{
		"INSERT INTO t VALUES (1)": true, "with x as (select 1) select 1": true, "SET @a=1": true, "(SELECT 1)": true, "LOAD XML INFILE 'x' INTO TABLE t": true,
		"SET PASSWORD = 'x'": false, "SET STATEMENT max_statement_time=1 FOR DROP TABLE t": false, "CALL p()": false, "EXECUTE s": false, "BEGIN NOT ATOMIC SELECT 1; END": false,
		"CREATE TABLE t (id int)": false, "CREATE TEMPORARY TABLE t (id int)": false, "LOCK TABLES t WRITE": false, "ANALYZE TABLE t": false, "TRUNCATE t": false,
		"LOAD INDEX INTO CACHE t": false, "`x`": false, "": false, "ROLLBACK TO x": true, "ROLLBACK": false,
	} {
		if got := canRollBack(text); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
}

func TestQuote(t *testing.T) {
	target := newTarget(t)
	s := open(t, New(skein.SessionOptions{}), target)
	for _, want := range []string{"", "plain", "it's", `back\slash`, "ünïcødé 🪿", "a\nb\x00c", "'", `\'`, "''"} {
		for _, mode := range []string{"", "NO_BACKSLASH_ESCAPES,ANSI_QUOTES"} {
			var got string
			err := s.flight(t.Context(), "SET SESSION sql_mode='"+mode+"';SELECT "+quote(want), func(_ []string, row []sqldriver.Value) {
				if row != nil {
					got = text(row[0])
				}
			})
			if err != nil || got != want {
				t.Errorf("%q is %q, %v", want, got, err)
			}
		}
	}
}
