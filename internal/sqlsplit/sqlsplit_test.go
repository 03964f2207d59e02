package sqlsplit

import (
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	_ "modernc.org/sqlite"
)

var update = flag.Bool("update", false, "write the .golden files of testdata")

func texts(stmts []Statement) []string {
	var out []string
	for _, s := range stmts {
		out = append(out, s.Text)
	}
	return out
}

// mustSplit splits src and checks what holds for every text.
func mustSplit(t testing.TB, d Dialect, src string) []Statement {
	t.Helper()
	stmts, err := Split(d, src)
	if err != nil {
		t.Fatalf("Split(%v, %.200q): %v", d, src, err)
	}
	checkPlaces(t, src, stmts)
	return stmts
}

func checkPlaces(t testing.TB, src string, stmts []Statement) {
	t.Helper()
	end := 0
	for _, s := range stmts {
		if s.Offset < end || !strings.HasPrefix(src[s.Offset:], s.Text) {
			t.Fatalf("%q is not at offset %d, or before %d, of %.500q", s.Text, s.Offset, end, src)
		}
		if want := strings.Count(src[:s.Offset], "\n") + 1; s.Line != want {
			t.Fatalf("%q is on line %d, not %d, of %.500q", s.Text, want, s.Line, src)
		}
		end = s.Offset + len(s.Text)
		if s.Text == "" || s.Text != strings.Trim(s.Text, " \t\r\n\f") {
			t.Fatalf("statement %q of %.500q is empty or not trimmed", s.Text, src)
		}
	}
}

func TestSplit(t *testing.T) {
	pg, my, lite := []Dialect{PostgreSQL}, []Dialect{MySQL}, []Dialect{SQLite}
	all := []Dialect{PostgreSQL, MySQL, SQLite}
	for _, c := range []struct {
		name     string
		dialects []Dialect
		src      string
		want     []string
	}{
		{"nothing", all, "", nil},
		{"space", all, " \t\r\n\f", nil},
		{"comments only", all, "-- a;\n/* b; */ -- c", nil},
		{"empty statements", all, ";; ;\n/* a */;SELECT 1;;", []string{"SELECT 1"}},
		{"no terminator", all, "SELECT 1; SELECT 2", []string{"SELECT 1", "SELECT 2"}},
		{
			"comments around", all, "-- a\n/* b */ SELECT /* c; */ 1 -- d;\n, 2 /* e */ ; -- f\nSELECT 3 -- g",
			[]string{"SELECT /* c; */ 1 -- d;\n, 2", "SELECT 3"},
		},
		{"CRLF", all, "SELECT 1;\r\n-- a;\r\nSELECT\r\n2;\r\n", []string{"SELECT 1", "SELECT\r\n2"}},
		{"byte order mark", all, bom + "SELECT 1;", []string{"SELECT 1"}},
		{"non-ASCII space is a name", all, "SELECT 1;\u00a0;\u3000a", []string{"SELECT 1", "\u00a0", "\u3000a"}},
		{"UTF-8 names", all, "SELECT é;SELECT имя, \"日;本\"", []string{"SELECT é", "SELECT имя, \"日;本\""}},
		{"doubled quotes", all, `SELECT 'a'';', "b"";"; SELECT ''';'`, []string{`SELECT 'a'';', "b"";"`, `SELECT ''';'`}},
		{"comment marks in quotes", all, "SELECT '--', '/*'; SELECT \"*/\"", []string{"SELECT '--', '/*'", "SELECT \"*/\""}},
		{"quotes in comments", all, "SELECT 1 -- it's\n; SELECT 2 /* it's */", []string{"SELECT 1", "SELECT 2"}},
		{"stray )", all, "SELECT 1); SELECT 2", []string{"SELECT 1)", "SELECT 2"}},
		{
			"slashes", all, "SELECT 4/2; SELECT 1/ *2; SELECT /*/ ; */ 3",
			[]string{"SELECT 4/2", "SELECT 1/ *2", "SELECT /*/ ; */ 3"},
		},
		{
			"stars before the end of a comment", all, "SELECT 1 /***/; SELECT 2 /* **/; SELECT 3 /**/",
			[]string{"SELECT 1", "SELECT 2", "SELECT 3"},
		},

		{
			"group", all, "SELECT 0\n-- +goose StatementBegin\nSELECT 1; -- a;\nSELECT 2;;\n  --  +goose statementend  \r\nSELECT 3;",
			[]string{"SELECT 0", "SELECT 1; -- a;\nSELECT 2", "SELECT 3"},
		},
		{"group at the very start", all, bom + "-- +goose StatementBegin\n;a;b;\n-- +goose StatementEnd", []string{"a;b"}},
		{"group of nothing", all, "-- +goose StatementBegin\n-- a\n;\n-- +goose StatementEnd\nSELECT 1", []string{"SELECT 1"}},
		{"marker not alone on its line", all, "SELECT 1 -- +goose StatementBegin\n; SELECT 2", []string{"SELECT 1", "SELECT 2"}},
		{"marker in a string", all, "SELECT '\n-- +goose StatementBegin\n'; SELECT 2", []string{"SELECT '\n-- +goose StatementBegin\n'", "SELECT 2"}},
		{"no client commands in a group", all, "-- +goose StatementBegin\nSELECT 1 \\x\n;\n-- +goose StatementEnd", []string{"SELECT 1 \\x"}},

		// PostgreSQL
		{
			"escape string", pg, `SELECT E'a\';', e'\\'; SELECT 'b\'; SELECT namee'\'; SELECT 1`,
			[]string{`SELECT E'a\';', e'\\'`, `SELECT 'b\'`, `SELECT namee'\'`, `SELECT 1`},
		},
		{
			"escape string goes on", pg, "SELECT E'a'\n 'b\\';'; SELECT E'a' -- c\n  -- d\n 'b\\';'; SELECT E'a' 'b\\'; SELECT E'a''\\';'",
			[]string{"SELECT E'a'\n 'b\\';'", "SELECT E'a' -- c\n  -- d\n 'b\\';'", "SELECT E'a' 'b\\'", "SELECT E'a''\\';'"},
		},
		{"plain string does not take on escapes", pg, "SELECT 'a'\n 'b\\'; SELECT 2", []string{"SELECT 'a'\n 'b\\'", "SELECT 2"}},
		{
			"other strings", pg, `SELECT U&'\0061\', B'1', X'ff', N'a\', U&"d\"; SELECT 2`,
			[]string{`SELECT U&'\0061\', B'1', X'ff', N'a\', U&"d\"`, "SELECT 2"},
		},
		{
			"dollar quotes", pg, "SELECT $$a;$b$;$$; SELECT $b$;$$;$c$;$B$;$b$; SELECT $ж_1$;$ж_1$",
			[]string{"SELECT $$a;$b$;$$", "SELECT $b$;$$;$c$;$B$;$b$", "SELECT $ж_1$;$ж_1$"},
		},
		{
			"dollars that quote nothing", pg, "SELECT $1; SELECT a$b$; SELECT a$$; SELECT $1a$; SELECT $ 1; SELECT é$$",
			[]string{"SELECT $1", "SELECT a$b$", "SELECT a$$", "SELECT $1a$", "SELECT $ 1", "SELECT é$$"},
		},
		{"dollar quote behind a number", pg, "SELECT 1$$;$$; SELECT $1$$;$$", []string{"SELECT 1$$;$$", "SELECT $1$$;$$"}},
		{"nested comments", pg, "SELECT 1 /* a /* b; */ c; /*/ d; */; */; SELECT 2", []string{"SELECT 1", "SELECT 2"}},
		{"a carriage return ends a comment", pg, "SELECT 1 -- a;\r; SELECT 2", []string{"SELECT 1", "SELECT 2"}},
		{"comment in an operator", pg, "SELECT 1+--;\n2; SELECT 1--2;\n", []string{"SELECT 1+--;\n2", "SELECT 1"}},
		{"# is an operator", pg, "SELECT 1 # 2; SELECT 3", []string{"SELECT 1 # 2", "SELECT 3"}},
		{"` is nothing", pg, "SELECT `; SELECT `", []string{"SELECT `", "SELECT `"}},
		{"brackets", pg, "SELECT a[1]; SELECT '{[}'", []string{"SELECT a[1]", "SELECT '{[}'"}},
		{
			"rule", pg, "CREATE RULE r AS ON UPDATE TO t DO ALSO (DELETE FROM a; SELECT ')'; DELETE FROM b;); SELECT 1",
			[]string{"CREATE RULE r AS ON UPDATE TO t DO ALSO (DELETE FROM a; SELECT ')'; DELETE FROM b;)", "SELECT 1"},
		},
		{
			"body", pg, "CREATE FUNCTION f() RETURNS int BEGIN\n-- a\nATOMIC SELECT CASE 1 WHEN 1 THEN CASE WHEN true THEN 1 END END; SELECT (CASE WHEN true THEN 2 END); END; SELECT 3",
			[]string{"CREATE FUNCTION f() RETURNS int BEGIN\n-- a\nATOMIC SELECT CASE 1 WHEN 1 THEN CASE WHEN true THEN 1 END END; SELECT (CASE WHEN true THEN 2 END); END", "SELECT 3"},
		},
		{
			"names in a body", pg, "create or replace procedure p() begin atomic select 1 as end; select t.end, t.case as case from t; end; select 3",
			[]string{"create or replace procedure p() begin atomic select 1 as end; select t.end, t.case as case from t; end", "select 3"},
		},
		{
			"BEGIN as a name", pg, "CREATE FUNCTION f(begin int) RETURNS int RETURN begin; SELECT begin FROM t; BEGIN; SELECT 1; END",
			[]string{"CREATE FUNCTION f(begin int) RETURNS int RETURN begin", "SELECT begin FROM t", "BEGIN", "SELECT 1", "END"},
		},
		{
			"leading hint", pg, "/* a */ /*+ SeqScan(t) */ -- b\nSELECT 1; /*+ x */; SELECT 2",
			[]string{"/*+ SeqScan(t) */ -- b\nSELECT 1", "SELECT 2"},
		},
		{
			"psql commands", pg, "\\connect a;b\nSELECT 1 \\gexec\n\\i f.sql \r\nSELECT '\\x'; \\q",
			[]string{`\connect a;b`, "SELECT 1", `\gexec`, `\i f.sql`, `SELECT '\x'`, `\q`},
		},
		{
			"copy data", pg, "COPY t (a) FROM stdin;\n1\tit's; $$\n\\.\nSELECT 1; copy u from stdin with (format csv) ;  \r\n\\N\n\"\r\n\\.\r\nSELECT 2;",
			[]string{"COPY t (a) FROM stdin", "SELECT 1", "copy u from stdin with (format csv)", "SELECT 2"},
		},
		{"copy data to the end", pg, "COPY t FROM STDIN;\n1;'\n", []string{"COPY t FROM STDIN"}},
		{
			"copy without data", pg, "COPY t FROM STDIN; SELECT 1;\nCOPY t TO STDOUT;\nSELECT 2;\nCOPY t FROM '/a';\nSELECT 3",
			[]string{"COPY t FROM STDIN", "SELECT 1", "COPY t TO STDOUT", "SELECT 2", "COPY t FROM '/a'", "SELECT 3"},
		},

		// MySQL
		{"backslash", my, "SELECT 'a\\';', \"b\\\";\", `c\\`; SELECT '\\\\'; SELECT \"'\"", []string{"SELECT 'a\\';', \"b\\\";\", `c\\`", `SELECT '\\'`, `SELECT "'"`}},
		{"`", my, "SELECT `a;``b`; SELECT 2", []string{"SELECT `a;``b`", "SELECT 2"}},
		{"# comment", my, "SELECT 1 # a;\n; # b\nSELECT 2#;", []string{"SELECT 1", "SELECT 2"}},
		{"-- wants a space", my, "SELECT 5--3; SELECT 1 --\t;\n; SELECT 2 --\n; SELECT 3 --", []string{"SELECT 5--3", "SELECT 1", "SELECT 2", "SELECT 3"}},
		{"comments do not nest", my, "SELECT 1 /* a /* b */; SELECT 2", []string{"SELECT 1", "SELECT 2"}},
		{
			"executable comments", my, "/*!40101 SET NAMES utf8 */;\n/*M!100100 SELECT 1; */; SELECT /*!80000 'a;*/', */ 2;/*!*/",
			[]string{"/*!40101 SET NAMES utf8 */", "/*M!100100 SELECT 1; */", "SELECT /*!80000 'a;*/', */ 2", "/*!*/"},
		},
		{
			"comment in an executable one", my, "CREATE TABLE t (a int) /*!50100 /* b; */ PARTITION BY HASH (a) */ ; SELECT 1",
			[]string{"CREATE TABLE t (a int) /*!50100 /* b; */ PARTITION BY HASH (a) */", "SELECT 1"},
		},
		{"hints", my, "SELECT /*+ MAX_EXECUTION_TIME(1) */ 1; SELECT 2", []string{"SELECT /*+ MAX_EXECUTION_TIME(1) */ 1", "SELECT 2"}},
		{"dollars", my, "SELECT 1 AS $$; SELECT a$$b; SELECT $1", []string{"SELECT 1 AS $$", "SELECT a$$b", "SELECT $1"}},
		{
			"DELIMITER", my, "DELIMITER //\nSELECT 1//\nSELECT '//', `//`, /* // */ 2 -- //\n// # //\n  delimiter ;\nSELECT 3;",
			[]string{"SELECT 1", "SELECT '//', `//`, /* // */ 2", "SELECT 3"},
		},
		{"DELIMITER ends a statement", my, "DELIMITER //\nCREATE PROCEDURE p() BEGIN END\nDELIMITER ;\nSELECT 1", []string{"CREATE PROCEDURE p() BEGIN END", "SELECT 1"}},
		{
			"delimiter is a name", my, "CREATE TABLE t (\n delimiter int,\n a int); SELECT delimiter; SELECT\n  delimiter\nFROM t",
			[]string{"CREATE TABLE t (\n delimiter int,\n a int)", "SELECT delimiter", "SELECT\n  delimiter\nFROM t"},
		},
		{
			"semicolons under DELIMITER", my, "DELIMITER $$\nDROP PROCEDURE p; CREATE PROCEDURE p() BEGIN SELECT 1; END; $$\nSELECT 1; SELECT 2 $$\nCREATE PROCEDURE q() BEGIN BEGIN; $$",
			[]string{"DROP PROCEDURE p", "CREATE PROCEDURE p() BEGIN SELECT 1; END", "SELECT 1", "SELECT 2", "CREATE PROCEDURE q() BEGIN BEGIN"},
		},
		{
			"mysqldump's trigger", my, "DELIMITER ;;\n/*!50003 CREATE*/ /*!50017 DEFINER=`root`@`%`*/ /*!50003 TRIGGER t BEFORE INSERT ON x FOR EACH ROW BEGIN SET @a = 1; END */;;\nDELIMITER ;\nSELECT 1;",
			[]string{"/*!50003 CREATE*/ /*!50017 DEFINER=`root`@`%`*/ /*!50003 TRIGGER t BEFORE INSERT ON x FOR EACH ROW BEGIN SET @a = 1; END */", "SELECT 1"},
		},
		{
			"client commands", my, "source a.sql;\nSELECT 1\\G\n\\. b.sql\nSELECT \\N; SELECT source FROM t;\n SYSTEM ls;\nDELIMITER //\ntee x //\nSELECT 2//",
			[]string{"source a.sql", "SELECT 1", `\G`, `\. b.sql`, `SELECT \N`, "SELECT source FROM t", "SYSTEM ls", "tee x", "SELECT 2"},
		},
		{
			"transactions", my, "BEGIN; SELECT 1; BEGIN WORK; COMMIT; XA BEGIN 'a'; XA END 'a'; START TRANSACTION; ROLLBACK",
			[]string{"BEGIN", "SELECT 1", "BEGIN WORK", "COMMIT", "XA BEGIN 'a'", "XA END 'a'", "START TRANSACTION", "ROLLBACK"},
		},
		{
			"END and BEGIN are names", my, "CREATE PROCEDURE p(begin int, end int) BEGIN SELECT end; SET end = begin, @end = 1; IF end THEN SELECT t.end; END IF; SELECT CASE WHEN end THEN end ELSE end END; END; SELECT end",
			[]string{"CREATE PROCEDURE p(begin int, end int) BEGIN SELECT end; SET end = begin, @end = 1; IF end THEN SELECT t.end; END IF; SELECT CASE WHEN end THEN end ELSE end END; END", "SELECT end"},
		},
		{
			"numbers before END", my, "CREATE PROCEDURE p() BEGIN SELECT CASE WHEN 1 THEN 1. END; SELECT CASE WHEN 1 THEN .5 END; END; SELECT 1",
			[]string{"CREATE PROCEDURE p() BEGIN SELECT CASE WHEN 1 THEN 1. END; SELECT CASE WHEN 1 THEN .5 END; END", "SELECT 1"},
		},
		{
			"IF of three kinds", my, "CREATE TRIGGER IF NOT EXISTS t BEFORE INSERT ON x FOR EACH ROW IF (NEW.a) THEN SET NEW.b = IF(1, 2, 3); DROP TABLE IF EXISTS y; END IF; SELECT IF(1, 2, 3)",
			[]string{"CREATE TRIGGER IF NOT EXISTS t BEFORE INSERT ON x FOR EACH ROW IF (NEW.a) THEN SET NEW.b = IF(1, 2, 3); DROP TABLE IF EXISTS y; END IF", "SELECT IF(1, 2, 3)"},
		},
		{
			"one statement for a body", my, "CREATE TRIGGER t BEFORE INSERT ON x FOR EACH ROW PRECEDES u SET NEW.a = 1; CREATE EVENT e ON SCHEDULE AT now() DO DELETE FROM x; CREATE FUNCTION f RETURNS STRING SONAME 'x.so'; CREATE PROCEDURE p() COMMENT 'c' DO 1; SELECT 1",
			[]string{
				"CREATE TRIGGER t BEFORE INSERT ON x FOR EACH ROW PRECEDES u SET NEW.a = 1", "CREATE EVENT e ON SCHEDULE AT now() DO DELETE FROM x",
				"CREATE FUNCTION f RETURNS STRING SONAME 'x.so'", "CREATE PROCEDURE p() COMMENT 'c' DO 1", "SELECT 1",
			},
		},
		{
			"names like programs", my, "CREATE TABLE `trigger` (begin int); CREATE DEFINER=event@localhost VIEW v AS SELECT 1; ALTER TABLE event ADD a int; CREATE INDEX i ON procedures (a)",
			[]string{"CREATE TABLE `trigger` (begin int)", "CREATE DEFINER=event@localhost VIEW v AS SELECT 1", "ALTER TABLE event ADD a int", "CREATE INDEX i ON procedures (a)"},
		},
		{
			"other languages", my, "CREATE FUNCTION f(a int) RETURNS int LANGUAGE JAVASCRIPT AS $js$ let b = 'it; $$'; return a; $js$; CREATE PROCEDURE p() LANGUAGE JAVASCRIPT AS 'a;'; SELECT 1",
			[]string{"CREATE FUNCTION f(a int) RETURNS int LANGUAGE JAVASCRIPT AS $js$ let b = 'it; $$'; return a; $js$", "CREATE PROCEDURE p() LANGUAGE JAVASCRIPT AS 'a;'", "SELECT 1"},
		},
		// MariaDB 11.4 manual, CREATE PACKAGE BODY.
		{
			"package without AS", my, "CREATE PACKAGE p FUNCTION f() RETURNS int; PROCEDURE q(a int); END; CREATE PACKAGE BODY p DECLARE v int DEFAULT 1; FUNCTION f() RETURNS int BEGIN RETURN v; END; PROCEDURE q(a int) BEGIN IF a THEN SELECT 1; END IF; END; SET v = 2; END; SELECT 1",
			[]string{
				"CREATE PACKAGE p FUNCTION f() RETURNS int; PROCEDURE q(a int); END",
				"CREATE PACKAGE BODY p DECLARE v int DEFAULT 1; FUNCTION f() RETURNS int BEGIN RETURN v; END; PROCEDURE q(a int) BEGIN IF a THEN SELECT 1; END IF; END; SET v = 2; END", "SELECT 1",
			},
		},
		{"an ı is no I", my, "ıf a THEN; SELECT 1", []string{"ıf a THEN", "SELECT 1"}},

		// SQLite
		{"names", lite, "SELECT [a;'], `b;`, \"c;\" , [d[]; SELECT 'a\\'; SELECT 2", []string{"SELECT [a;'], `b;`, \"c;\" , [d[]", "SELECT 'a\\'", "SELECT 2"}},
		{
			"trigger", lite, "CREATE TEMPORARY TRIGGER t AFTER INSERT ON x WHEN CASE 1 WHEN 1 THEN 2 END BEGIN SELECT CASE WHEN 1 THEN 2 END; SELECT end FROM x; END; SELECT 3",
			[]string{"CREATE TEMPORARY TRIGGER t AFTER INSERT ON x WHEN CASE 1 WHEN 1 THEN 2 END BEGIN SELECT CASE WHEN 1 THEN 2 END; SELECT end FROM x; END", "SELECT 3"},
		},
		{
			"trigger ends behind a comment", lite, "CREATE TRIGGER t DELETE ON x BEGIN SELECT 1; /* a; */ -- b\nend -- c\n; SELECT 3",
			[]string{"CREATE TRIGGER t DELETE ON x BEGIN SELECT 1; /* a; */ -- b\nend", "SELECT 3"},
		},
		{"transactions end with END", lite, "BEGIN; SELECT 1; END; SELECT 2", []string{"BEGIN", "SELECT 1", "END", "SELECT 2"}},
		{"shell commands", lite, ".read a.sql\nSELECT 1;\n.mode csv; x\nSELECT .5", []string{".read a.sql", "SELECT 1", ".mode csv; x", "SELECT .5"}},
		{"byte order mark between tokens", lite, "SELECT 1;" + bom + "SELECT" + bom + "2", []string{"SELECT 1", "SELECT" + bom + "2"}},
		{"parentheses hold nothing together", lite, "SELECT (1; SELECT 2)", []string{"SELECT (1", "SELECT 2)"}},
	} {
		for _, d := range c.dialects {
			t.Run(d.String()+"/"+c.name, func(t *testing.T) {
				if diff := cmp.Diff(c.want, texts(mustSplit(t, d, c.src))); diff != "" {
					t.Errorf("Split(%q), want - got +:\n%s", c.src, diff)
				}
			})
		}
	}
}

func TestSplitErrors(t *testing.T) {
	all := []Dialect{PostgreSQL, MySQL, SQLite}
	for _, c := range []struct {
		dialects []Dialect
		src      string
		want     string
	}{
		{all, "SELECT 1;\n SELECT 'a;\n;", "line 2, column 9: quote without its closing '"},
		{all, "SELECT é, \"a", "line 1, column 11: quote without its closing \""},
		{all, "SELECT 1;\n/* a; SELECT 2;", "line 2, column 1: comment without */"},
		{all, "SELECT 1 /*/;", "line 1, column 10: comment without */"},
		{all, "a\x00b", "line 1, column 2: NUL byte: SQL text must be UTF-8 and cannot hold one"},
		{all, "\n-- +goose StatementBegin\nSELECT 1", "line 2, column 1: StatementBegin without StatementEnd"},
		{all, "\n-- +goose StatementEnd\nSELECT 1", "line 2, column 1: StatementEnd without StatementBegin"},
		{all, "-- +goose StatementBegin\n-- +goose StatementBegin", "line 2, column 1: StatementBegin inside a StatementBegin"},
		{[]Dialect{PostgreSQL}, "SELECT E'a\\';", "line 1, column 8: quote without its closing '"},
		{[]Dialect{PostgreSQL}, "SELECT E'a'\n'b\\';", "line 1, column 8: quote without its closing '"},
		{[]Dialect{PostgreSQL}, "SELECT 1;\nDO $a$ BEGIN; $A$; $$", "line 2, column 4: dollar quote without its closing $a$"},
		{[]Dialect{PostgreSQL}, "/* /* */ SELECT 1;", "line 1, column 1: comment without */"},
		{[]Dialect{PostgreSQL}, "SELECT 1;\nSELECT ((1);\nSELECT 2", "line 2, column 8: ( without )"},
		{[]Dialect{PostgreSQL}, "SELECT (1\n-- +goose StatementBegin\n-- +goose StatementEnd", "line 1, column 8: ( without )"},
		{[]Dialect{PostgreSQL}, "CREATE FUNCTION f() RETURNS int\nBEGIN ATOMIC SELECT CASE WHEN a THEN b; END; SELECT 1;", "line 2, column 1: BEGIN ATOMIC without its END"},
		{[]Dialect{MySQL}, "SELECT 'a\\';", "line 1, column 8: quote without its closing '"},
		{[]Dialect{MySQL}, "SELECT `a\\", "line 1, column 8: quote without its closing `"},
		{[]Dialect{MySQL}, "SELECT 1;\nSELECT /*!50000 2; SELECT 3", "line 2, column 8: executable comment without */"},
		{[]Dialect{MySQL}, "-- +goose StatementBegin\n/*! a\n-- +goose StatementEnd", "line 2, column 1: executable comment without */"},
		{[]Dialect{MySQL}, "SELECT 1;\n DELIMITER \nSELECT 2", "line 2, column 2: DELIMITER without a delimiter: give a string, such as //"},
		{[]Dialect{MySQL}, "delimiter ''", "line 1, column 1: DELIMITER without a delimiter: give a string, such as //"},
		{[]Dialect{MySQL}, "DELIMITER '//", "line 1, column 1: DELIMITER with an unterminated quote"},
		{[]Dialect{MySQL}, `DELIMITER \\`, "line 1, column 1: DELIMITER cannot contain a backslash"},
		{[]Dialect{MySQL}, "CREATE PROCEDURE p()\nBEGIN\nIF a THEN SELECT 1;\nEND; SELECT 1;", "line 2, column 1: BEGIN without its END (DELIMITER can set the whole statement off)"},
		{[]Dialect{MySQL}, "CREATE TRIGGER t BEFORE INSERT ON x FOR EACH ROW\n  WHILE a DO SELECT 1;\nDELIMITER //\n", "line 2, column 3: WHILE without its END (DELIMITER can set the whole statement off)"},
		{[]Dialect{MySQL}, "CREATE PACKAGE p AS PROCEDURE q; ", "line 1, column 18: PACKAGE without its END (DELIMITER can set the whole statement off)"},
		{[]Dialect{SQLite}, "SELECT [a; SELECT 2", "line 1, column 8: [ without ]"},
		{[]Dialect{SQLite}, "SELECT 1;\nCREATE TRIGGER t DELETE ON x BEGIN SELECT 1 END;\nSELECT 2;", "line 2, column 1: CREATE TRIGGER without the ; END that closes its body"},
	} {
		for _, d := range c.dialects {
			stmts, err := Split(d, c.src)
			if e := (*Error)(nil); !errors.As(err, &e) || err.Error() != c.want || stmts != nil {
				t.Errorf("%v: Split(%q) = %q, %v; want error %s", d, c.src, texts(stmts), err, c.want)
			}
		}
	}
	if _, err := Split(0, "SELECT 1"); err == nil {
		t.Error("Split for no dialect: no error")
	}
}

func TestDelimiter(t *testing.T) {
	for _, c := range []struct {
		line, end string
	}{
		{"DELIMITER //", "//"},
		{"delimiter\t$$", "$$"},
		{"  Delimiter   |  note ; //", "|"},
		{"DELIMITER ';;'", ";;"},
		{`DELIMITER "a b" note`, "a b"},
		{"DELIMITER `--`", "--"},
		{"DELIMITER #", "#"},
		{"DELIMITER END_OF_IT", "END_OF_IT"},
		{"DELIMITER é\r", "é"},
		{"SELECT 0; DELIMITER //", "//"},
	} {
		src := c.line + "\nCREATE PROCEDURE p() BEGIN SELECT 1; END" + c.end + " SELECT 2" + c.end + "\nDELIMITER ;\nSELECT 3;"
		want := []string{"CREATE PROCEDURE p() BEGIN SELECT 1; END", "SELECT 2", "SELECT 3"}
		if strings.HasPrefix(src, "SELECT 0") {
			want = append([]string{"SELECT 0"}, want...)
		}
		if diff := cmp.Diff(want, texts(mustSplit(t, MySQL, src))); diff != "" {
			t.Errorf("Split(%q), want - got +:\n%s", src, diff)
		}
	}
}

// TestFiles holds the files of testdata, which the engines were seen to run
// statement by statement, to their .golden files.
func TestFiles(t *testing.T) {
	for file, d := range map[string]Dialect{
		"postgres.sql": PostgreSQL, "mysql.sql": MySQL, "mariadb.sql": MySQL, "sqlite.sql": SQLite,
	} {
		t.Run(file, func(t *testing.T) {
			src, err := os.ReadFile(filepath.Join("testdata", file))
			if err != nil {
				t.Fatal(err)
			}
			for _, ending := range []string{"\n", "\r\n"} {
				src := strings.ReplaceAll(string(src), "\n", ending)
				var got strings.Builder
				for _, s := range mustSplit(t, d, src) {
					first, _, _ := strings.Cut(s.Text, "\n")
					last := s.Text[strings.LastIndex(s.Text, "\n")+1:]
					fmt.Fprintf(&got, "%d\t%s\t%d lines\t%.30s ... %s\n", s.Line, s.Keyword,
						strings.Count(s.Text, "\n")+1, strings.TrimSpace(first), last[max(0, len(last)-30):])
				}
				golden := filepath.Join("testdata", file+".golden")
				if *update {
					if err := os.WriteFile(golden, []byte(got.String()), 0o666); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(golden)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(want), got.String()); diff != "" {
					t.Errorf("line ending %q, want - got +:\n%s", ending, diff)
				}
			}
		})
	}
}

func TestCRM(t *testing.T) {
	want := []int{2, 3, 2, 2, 4, 4}
	for dir, d := range map[string]Dialect{"pg": PostgreSQL, "my": MySQL, "sqlite": SQLite} {
		files, err := filepath.Glob(filepath.Join("testdata", "crm", dir, "*.up.sql"))
		if err != nil || len(files) != len(want) {
			t.Fatalf("files of %s: %v, %v", dir, files, err)
		}
		for i, file := range files {
			for _, file := range []string{file, strings.Replace(file, ".up.", ".down.", 1)} {
				src, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				stmts := mustSplit(t, d, string(src))
				if strings.Contains(file, ".up.") && len(stmts) != want[i] {
					t.Errorf("%s: %d statements, want %d", file, len(stmts), want[i])
				}
				if n := strings.Count(string(src), ";\n"); len(stmts) != n {
					t.Errorf("%s: %d statements, but %d lines end with a semicolon", file, len(stmts), n)
				}
			}
		}
	}
}

// TestSQLiteRuns runs a file statement by statement on SQLite itself.
func TestSQLiteRuns(t *testing.T) {
	src, err := os.ReadFile("testdata/sqlite.sql")
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, s := range mustSplit(t, SQLite, string(src)) {
		if _, err := db.Exec(s.Text); err != nil {
			t.Errorf("line %d: %v\n%s", s.Line, err, s.Text)
		}
	}
	var log, views int
	if err := db.QueryRow(`SELECT count(*) FROM log`).Scan(&log); err != nil {
		t.Error(err)
	}
	if err := db.QueryRow(`SELECT count(*) FROM sqlite_master WHERE name = 'v'`).Scan(&views); err != nil {
		t.Error(err)
	}
	if log != 3 || views != 1 {
		t.Errorf("log has %d rows, want 3; %d views, want 1", log, views)
	}
}

func TestClassification(t *testing.T) {
	const (
		client = 1 << iota
		control
		commits
		alone
		copies
	)
	names := map[int]string{client: "client", control: "control", commits: "commits", alone: "alone", copies: "copies"}
	for _, c := range []struct {
		d       Dialect
		text    string
		keyword string
		want    int
	}{
		{PostgreSQL, "begin", "BEGIN", control},
		{PostgreSQL, "BEGIN ISOLATION LEVEL SERIALIZABLE", "BEGIN", control},
		{PostgreSQL, "START TRANSACTION READ ONLY", "START", control},
		{PostgreSQL, "COMMIT AND CHAIN", "COMMIT", control},
		{PostgreSQL, "END", "END", control},
		{PostgreSQL, "ROLLBACK WORK", "ROLLBACK", control},
		{PostgreSQL, "ROLLBACK /* x */ to a", "ROLLBACK", 0},
		{PostgreSQL, "ROLLBACK TRANSACTION TO SAVEPOINT a", "ROLLBACK", 0},
		{PostgreSQL, "ABORT", "ABORT", control},
		{PostgreSQL, "PREPARE TRANSACTION 'a'", "PREPARE", control},
		{PostgreSQL, "PREPARE a AS SELECT 1", "PREPARE", 0},
		{PostgreSQL, "COMMIT PREPARED 'a'", "COMMIT", control},
		{PostgreSQL, "ROLLBACK PREPARED 'to'", "ROLLBACK", control},
		{PostgreSQL, "SAVEPOINT a", "SAVEPOINT", 0},
		{PostgreSQL, "RELEASE a", "RELEASE", 0},
		{PostgreSQL, "CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)", "CREATE INDEX", alone},
		{PostgreSQL, "create index concurrently if not exists i on t (a)", "CREATE INDEX", alone},
		{PostgreSQL, "CREATE INDEX i ON concurrently (a)", "CREATE INDEX", 0},
		{PostgreSQL, `CREATE INDEX "concurrently" ON t (a)`, "CREATE INDEX", 0},
		{PostgreSQL, "DROP INDEX CONCURRENTLY i", "DROP INDEX", alone},
		{PostgreSQL, "DROP INDEX i", "DROP INDEX", 0},
		{PostgreSQL, "REINDEX TABLE CONCURRENTLY t", "REINDEX", alone},
		{PostgreSQL, "REINDEX (VERBOSE, CONCURRENTLY) TABLE t", "REINDEX", alone},
		{PostgreSQL, "REINDEX (CONCURRENTLY TRUE) TABLE t", "REINDEX", alone},
		{PostgreSQL, "REINDEX (CONCURRENTLY off) TABLE t", "REINDEX", 0},
		{PostgreSQL, "REINDEX TABLE t", "REINDEX", 0},
		{PostgreSQL, "REINDEX SCHEMA s", "REINDEX", alone},
		{PostgreSQL, "REINDEX (VERBOSE) DATABASE d", "REINDEX", alone},
		{PostgreSQL, "VACUUM ANALYZE t", "VACUUM", alone},
		{PostgreSQL, "ANALYZE t", "ANALYZE", 0},
		{PostgreSQL, "CLUSTER", "CLUSTER", alone},
		{PostgreSQL, "CLUSTER (VERBOSE)", "CLUSTER", alone},
		{PostgreSQL, `CLUSTER VERBOSE "t"`, "CLUSTER", 0},
		{PostgreSQL, "DISCARD ALL", "DISCARD", alone},
		{PostgreSQL, "DISCARD PLANS", "DISCARD", 0},
		{PostgreSQL, "CREATE DATABASE d", "CREATE DATABASE", alone},
		{PostgreSQL, "DROP DATABASE d WITH (FORCE)", "DROP DATABASE", alone},
		{PostgreSQL, "ALTER DATABASE d SET TABLESPACE s", "ALTER DATABASE", alone},
		{PostgreSQL, "ALTER DATABASE d SET work_mem = '1MB'", "ALTER DATABASE", 0},
		{PostgreSQL, "CREATE TABLESPACE s LOCATION '/a'", "CREATE TABLESPACE", alone},
		{PostgreSQL, "DROP TABLESPACE s", "DROP TABLESPACE", alone},
		{PostgreSQL, "ALTER SYSTEM SET a = 1", "ALTER SYSTEM", alone},
		{PostgreSQL, "CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p", "CREATE SUBSCRIPTION", alone},
		{PostgreSQL, "ALTER SUBSCRIPTION s REFRESH PUBLICATION", "ALTER SUBSCRIPTION", alone},
		{PostgreSQL, "ALTER SUBSCRIPTION s DISABLE", "ALTER SUBSCRIPTION", 0},
		{PostgreSQL, `ALTER TABLE t DETACH PARTITION "p" CONCURRENTLY`, "ALTER TABLE", alone},
		{PostgreSQL, "ALTER TABLE t DETACH PARTITION p FINALIZE", "ALTER TABLE", 0},
		{PostgreSQL, "ALTER TABLE t ADD concurrently int", "ALTER TABLE", 0},
		{PostgreSQL, "REFRESH MATERIALIZED VIEW CONCURRENTLY v", "REFRESH", 0},
		{PostgreSQL, "ALTER TYPE e ADD VALUE 'a'", "ALTER TYPE", 0},
		{PostgreSQL, "CREATE MATERIALIZED VIEW v AS SELECT 1", "CREATE VIEW", 0},
		{PostgreSQL, "CREATE EVENT TRIGGER t ON ddl_command_start EXECUTE FUNCTION f()", "CREATE TRIGGER", 0},
		{PostgreSQL, "COPY s.t (a, b) FROM STDIN WITH (FORMAT csv)", "COPY", copies},
		{PostgreSQL, `copy "t" from stdin`, "COPY", copies},
		{PostgreSQL, "COPY t FROM STDOUT", "COPY", copies},
		{PostgreSQL, "COPY (SELECT * FROM stdin) TO '/a'", "COPY", 0},
		{PostgreSQL, "COPY t FROM 'stdin'", "COPY", 0},
		{PostgreSQL, "COPY t FROM PROGRAM 'a'", "COPY", 0},
		{PostgreSQL, `\connect other`, `\connect`, client},
		{PostgreSQL, `\i file.sql`, `\i`, client},
		{PostgreSQL, "(SELECT 1) UNION SELECT 2", "SELECT", 0},
		{PostgreSQL, "WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a", "WITH", 0},
		{PostgreSQL, "SET autocommit = 1", "SET", 0},
		{PostgreSQL, "DO $$ BEGIN END $$", "DO", 0},
		{PostgreSQL, "'a'", "", 0},

		{MySQL, "BEGIN WORK", "BEGIN", control | commits},
		{MySQL, "START TRANSACTION", "START", control | commits},
		{MySQL, "START SLAVE", "START", commits},
		{MySQL, "COMMIT", "COMMIT", control | commits},
		{MySQL, "ROLLBACK", "ROLLBACK", control | commits},
		{MySQL, "ROLLBACK TO SAVEPOINT a", "ROLLBACK", 0},
		{MySQL, "SAVEPOINT a", "SAVEPOINT", 0},
		{MySQL, "XA START 'a'", "XA", control | commits},
		{MySQL, "SET autocommit = 0", "SET", control | commits},
		{MySQL, "SET @a = 1, SESSION autocommit := 1", "SET", control | commits},
		{MySQL, "SET @@session.autocommit = 1", "SET", control | commits},
		{MySQL, "SET @@autocommit = 1", "SET", control | commits},
		{MySQL, "SET @autocommit = 1", "SET", 0},
		{MySQL, "SET @a = @@autocommit", "SET", 0},
		{MySQL, "SET NAMES utf8mb4", "SET", 0},
		{MySQL, "SET foreign_key_checks = 0", "SET", 0},
		{MySQL, "SET PASSWORD = ''", "SET", commits},
		{MySQL, "SET DEFAULT ROLE a", "SET", commits},
		{MySQL, "SET STATEMENT a = 1 FOR CREATE TABLE t (a int)", "SET", commits},
		{MySQL, "/*!40101 SET NAMES utf8 */", "SET", 0},
		{MySQL, "BEGIN NOT ATOMIC SELECT 1; END", "BEGIN", commits},
		{MySQL, "CREATE TABLE t (temporary int)", "CREATE TABLE", commits},
		{MySQL, "CREATE TEMPORARY TABLE t (a int)", "CREATE TABLE", 0},
		{MySQL, "CREATE OR REPLACE TEMPORARY TABLE t (a int)", "CREATE TABLE", 0},
		{MySQL, "DROP TEMPORARY TABLE t", "DROP TABLE", 0},
		{MySQL, "DROP TABLE t", "DROP TABLE", commits},
		{MySQL, "CREATE TEMPORARY SEQUENCE s", "CREATE SEQUENCE", commits},
		{MySQL, "ALTER TABLE t ADD a int", "ALTER TABLE", commits},
		{MySQL, "CREATE DEFINER=`a`@`b` SQL SECURITY INVOKER VIEW v AS SELECT 1", "CREATE VIEW", commits},
		{MySQL, "CREATE ALGORITHM=MERGE DEFINER=root@localhost VIEW v AS SELECT 1", "CREATE VIEW", commits},
		{MySQL, "TRUNCATE t", "TRUNCATE", commits},
		{MySQL, "RENAME TABLE a TO b", "RENAME", commits},
		{MySQL, "LOCK TABLES t WRITE", "LOCK", commits},
		{MySQL, "ANALYZE TABLE t", "ANALYZE", commits},
		{MySQL, "GRANT ALL ON t TO a", "GRANT", commits},
		{MySQL, "CALL p()", "CALL", commits},
		{MySQL, "EXECUTE s", "EXECUTE", commits},
		{MySQL, "LOAD DATA INFILE 'a' INTO TABLE t", "LOAD", commits},
		{MySQL, "INSERT INTO t VALUES (1)", "INSERT", 0},
		{MySQL, "REPLACE INTO t VALUES (1)", "REPLACE", 0},
		{MySQL, "(SELECT 1)", "SELECT", 0},
		{MySQL, "WITH a AS (SELECT 1) SELECT * FROM a", "WITH", 0},
		{MySQL, "DO sleep(1)", "DO", 0},
		{MySQL, "PREPARE s FROM 'x'", "PREPARE", 0},
		{MySQL, "source a.sql", "SOURCE", client | commits},
		{MySQL, `\. a.sql`, `\.`, client | commits},

		{SQLite, "BEGIN IMMEDIATE", "BEGIN", control},
		{SQLite, "COMMIT TRANSACTION", "COMMIT", control},
		{SQLite, "END TRANSACTION", "END", control},
		{SQLite, "ROLLBACK", "ROLLBACK", control},
		{SQLite, "ROLLBACK TRANSACTION TO a", "ROLLBACK", 0},
		{SQLite, "VACUUM INTO 'a'", "VACUUM", alone},
		{SQLite, "ATTACH 'a' AS b", "ATTACH", 0},
		{SQLite, "DETACH b", "DETACH", alone},
		{SQLite, "PRAGMA journal_mode = WAL", "PRAGMA", alone},
		{SQLite, "PRAGMA main.journal_mode(wal)", "PRAGMA", alone},
		{SQLite, "PRAGMA journal_mode", "PRAGMA", 0},
		{SQLite, "PRAGMA foreign_keys = on", "PRAGMA", alone},
		{SQLite, "PRAGMA synchronous = off", "PRAGMA", alone},
		{SQLite, "PRAGMA wal_checkpoint", "PRAGMA", alone},
		{SQLite, "PRAGMA defer_foreign_keys = on", "PRAGMA", 0},
		{SQLite, "PRAGMA user_version = 3", "PRAGMA", 0},
		{SQLite, "CREATE VIRTUAL TABLE t USING fts5(a)", "CREATE TABLE", 0},
		{SQLite, ".read a.sql", ".read", client},
	} {
		stmts := mustSplit(t, c.d, c.text+"\n;")
		if len(stmts) != 1 || stmts[0].Text != c.text {
			t.Errorf("%v: Split(%q) = %q", c.d, c.text, texts(stmts))
			continue
		}
		s := stmts[0]
		if s.Keyword != c.keyword {
			t.Errorf("%v: %q has keyword %q, want %q", c.d, c.text, s.Keyword, c.keyword)
		}
		for bit, got := range map[int]bool{
			client: s.IsClientCommand(), control: s.IsTransactionControl(), commits: s.ImplicitCommit(),
			alone: s.CannotRunInTransaction(), copies: s.IsCopyFromStdin(),
		} {
			if want := c.want&bit != 0; got != want {
				t.Errorf("%v: %q: %s is %v, want %v", c.d, c.text, names[bit], got, want)
			}
		}
	}
}

// TestLinear holds texts that invite quadratic time to a limit far above the
// tenth of a second or less that each takes.
func TestLinear(t *testing.T) {
	const size = 1 << 20
	for _, unit := range []string{
		"x ", "x;", "'a' ", "E'' \n", "E'a' --\n", "$", "$a ", "$a$ ", "$1 ", "/*", "/*/", "/* */", "/*+*/", "/*!", "/*! */", "*/",
		"(", ")", "[", "`", "-- a\n", "--\r", "--\n ", "# a\n", "\\", "\\a\n", "\n", " ", ":", "a: ",
		"BEGIN ", "BEGIN x;\n", "BEGIN ATOMIC ", "CASE ", "END ", "IF a THEN ", "; END ", "AS ", "AS $a ",
		"CREATE ", "CREATE TRIGGER ", "CREATE FUNCTION f() BEGIN ATOMIC SELECT 1; END; ", "CREATE PROCEDURE p() BEGIN END; ",
		"delimiter //\n", "delimiter ", "x\ndelimiter ", "source ", "SET autocommit ", "COPY t FROM STDIN;\n\\.\n", "COPY t FROM STDIN; ",
		"-- +goose StatementBegin\nx;\n-- +goose StatementEnd\n", "   -- +goose StatementBegin", ".a\n", "\xff", bom,
	} {
		for _, c := range []struct {
			d      Dialect
			prefix string
		}{
			{PostgreSQL, ""},
			{PostgreSQL, "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC "},
			{MySQL, ""},
			{MySQL, "CREATE PROCEDURE p() BEGIN "},
			{MySQL, "DELIMITER $$\n"},
			{SQLite, ""},
			{SQLite, "CREATE TRIGGER t DELETE ON x BEGIN "},
		} {
			src := c.prefix + strings.Repeat(unit, size/len(unit))
			start := time.Now()
			stmts, err := Split(c.d, src)
			for _, s := range stmts {
				s.IsTransactionControl()
				s.ImplicitCommit()
				s.CannotRunInTransaction()
			}
			if took := time.Since(start); took > 6*time.Second {
				t.Errorf("%v: %d bytes of %q behind %q took %v (error: %v)", c.d, size, unit, c.prefix, took, err)
			}
		}
	}
}

func BenchmarkSplit(b *testing.B) {
	const size = 5 << 20
	for _, c := range []struct {
		d    Dialect
		file string
	}{{PostgreSQL, "postgres.sql"}, {MySQL, "mysql.sql"}, {SQLite, "sqlite.sql"}} {
		src, err := os.ReadFile(filepath.Join("testdata", c.file))
		if err != nil {
			b.Fatal(err)
		}
		for name, unit := range map[string]string{
			"programs": string(src) + "\n;\n",
			"inserts":  "INSERT INTO contacts (id, name, note) VALUES (1, 'it''s a name', 'and a note; that goes on'), (2, 'b', NULL);\n",
		} {
			text := strings.Repeat(unit, size/len(unit))
			b.Run(c.d.String()+"/"+name, func(b *testing.B) {
				b.SetBytes(int64(len(text)))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := Split(c.d, text); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
