package sqlsplit

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func FuzzSplitPostgreSQL(f *testing.F) {
	fuzzSplit(f, PostgreSQL, "postgres.sql",
		"SELECT E'a'\n'b\\';'; SELECT $a$;$a$, $1, a$b$", "COPY t FROM STDIN;\n'\n\\.\nSELECT 1", "SELECT 1 \\gexec\n",
		"/*+ a */ ; /* /* */ */ SELECT (1;2)")
}

func FuzzSplitMySQL(f *testing.F) {
	fuzzSplit(f, MySQL, "mysql.sql",
		"DELIMITER //\nCREATE PROCEDURE p() BEGIN SELECT 1; END//\nDELIMITER ;\n", "/*!50003 CREATE*/ /*M! a; */; SELECT 5--3 # a",
		"CREATE PACKAGE BODY p AS FUNCTION f RETURN int; PROCEDURE q AS a int; BEGIN <<l>> WHILE 1 LOOP EXIT; END LOOP; END; BEGIN NULL; END;",
		"IF 1 THEN SELECT CASE WHEN end THEN end END; END IF; source x", "DELIMITER $$\nBEGIN NOT ATOMIC REPEAT SET @a=1; UNTIL 1 END REPEAT; END$$ SELECT 1; SELECT 2$$")
}

func FuzzSplitSQLite(f *testing.F) {
	fuzzSplit(f, SQLite, "sqlite.sql", "CREATE TRIGGER t DELETE ON x BEGIN SELECT 1; END; SELECT [;]", ".read a;\nSELECT 1")
}

func fuzzSplit(f *testing.F, d Dialect, file string, seeds ...string) {
	src, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range mustSplit(f, d, string(src)) {
		f.Add(s.Text + ";\nSELECT 1")
	}
	for _, s := range append(seeds, "-- +goose StatementBegin\na;b;\n-- +goose StatementEnd\nSELECT '\n\n';;") {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, src string) {
		stmts, err := Split(d, src)
		if err != nil {
			e := (*Error)(nil)
			if !errors.As(err, &e) || e.Line < 1 || e.Line > strings.Count(src, "\n")+1 || e.Col < 1 || e.Msg == "" {
				t.Fatalf("Split(%q): %#v", src, err)
			}
			return
		}
		checkPlaces(t, src, stmts)
		lower := strings.ToLower(src)
		contextual := strings.Contains(lower, "delimiter") || strings.Contains(lower, "+goose")
		for _, s := range stmts {
			s.IsTransactionControl()
			s.ImplicitCommit()
			s.CannotRunInTransaction()
			s.IsCopyFromStdin()
			// A statement by itself is the same statement, unless what it lost
			// around it made a comment or a byte order mark of its edges.
			if contextual || strings.HasPrefix(s.Text, bom) || d == MySQL && strings.HasSuffix(s.Text, "--") {
				continue
			}
			again, err := Split(d, s.Text+"\n;")
			if err != nil || len(again) != 1 || again[0].Text != s.Text || again[0].Keyword != s.Keyword {
				t.Fatalf("Split(%q) has the statement %q, which by itself gives %q, %v", src, s.Text, texts(again), err)
			}
		}
	})
}
