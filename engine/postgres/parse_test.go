package postgres

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
)

func TestParse(t *testing.T) {
	got, err := New(skein.SessionOptions{}).Parse(&skein.Section{Path: "m/1.sql", Line: 5, SQL: `-- first
CREATE TABLE one (note text DEFAULT ';');

CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$
BEGIN
  COMMIT; -- not of the migration
END $$; SELECT 'ü', E'\';'`})
	if err != nil {
		t.Fatal(err)
	}
	want := []skein.Statement{
		{Text: "CREATE TABLE one (note text DEFAULT ';')", Line: 6},
		{Text: "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$\nBEGIN\n  COMMIT; -- not of the migration\nEND $$", Line: 8},
		{Text: `SELECT 'ü', E'\';'`, Line: 11},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("statements (-want +got):\n%s", diff)
	}
}

func TestParseRefuses(t *testing.T) {
	tests := []struct {
		sql           string
		noTransaction bool
		line          int // of the section, 0 if it is allowed
		says          string
	}{
		{sql: "SELECT 1;\nBEGIN;", line: 2, says: "BEGIN"},
		{sql: "SELECT 1;\n\ncommit", line: 3, says: "COMMIT"},
		{sql: "PREPARE TRANSACTION 'x'", line: 1, says: "transaction:false"},
		{sql: "BEGIN; SELECT 1; COMMIT", noTransaction: true},
		{sql: "SAVEPOINT a; ROLLBACK TO a"},
		{sql: "SELECT 1;\nCREATE INDEX CONCURRENTLY i ON t (a)", line: 2, says: "transaction:false"},
		{sql: "CREATE INDEX CONCURRENTLY i ON t (a)", noTransaction: true},
		{sql: "VACUUM t", line: 1, says: "VACUUM"},
		{sql: "SELECT 1;\n\\connect other\nSELECT 2", line: 2, says: "psql"},
		{sql: "\\i other.sql", noTransaction: true, line: 1, says: "psql"},
		{sql: "SELECT 1;\nCOPY t FROM STDIN;\n1\n\\.\n", line: 2, says: "INSERT"},
		{sql: "COPY t FROM STDIN", noTransaction: true, line: 1, says: "INSERT"},
		{sql: "SELECT 1;\nSELECT '", line: 2, says: ""},
		{sql: "SELECT 1;\nSELECT $$ never closed", line: 2, says: ""},
		{sql: "SELECT '�';\nSELECT '\xff'", line: 2, says: "UTF-8"},
		{sql: "-- nothing"},
	}
	for _, test := range tests {
		_, err := New(skein.SessionOptions{}).Parse(&skein.Section{SQL: test.sql, Path: "m/1.sql", Line: 5, NoTransaction: test.noTransaction})
		if test.line == 0 {
			if err != nil {
				t.Errorf("%q is refused: %v", test.sql, err)
			}
			continue
		}
		refused, ok := errors.AsType[*skein.FileError](err)
		if !ok || refused.Path != "m/1.sql" || refused.Line != test.line+4 || !strings.Contains(refused.Msg, test.says) {
			t.Errorf("%q: the error is %v, not on line %d, saying %q", test.sql, err, test.line+4, test.says)
		}
	}
}
