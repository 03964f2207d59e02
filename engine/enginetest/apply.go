package enginetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
)

var applyTests = []namedTest{
	{"UpAndDown", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		e := s.engine()
		session := s.open(t, e, target)
		first := migration("1.sql", table("first")+";\nINSERT INTO first VALUES (1, 'one');", "DROP TABLE first;")
		second := migration("2.sql", table("second"), "DROP TABLE second")
		lock(t, session)
		result := apply(t, e, session, first, skein.Up, 1)
		if result.Duration <= 0 || result.Duration > time.Minute {
			t.Errorf("the duration is %s", result.Duration)
		}
		apply(t, e, session, second, skein.Up, 1)
		unlock(t, session)
		if got, want := s.tables(t, target), []string{"first", "second"}; !slices.Equal(got, want) {
			t.Errorf("the tables are %q, not %q", got, want)
		}
		if got := s.Query(t, target, "SELECT id, note FROM first"); len(got) != 1 || got[0][0] != "1" || got[0][1] != "one" {
			t.Errorf("the rows are %q", got)
		}

		lock(t, session)
		apply(t, e, session, second, skein.Down, 0)
		history, err := session.History(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(history.Records) != 1 || history.Records[0].Name != "1.sql" {
			t.Errorf("after the down of 2.sql the history is %+v", history.Records)
		}
		apply(t, e, session, first, skein.Down, 0)
		unlock(t, session)
		if got := s.tables(t, target); len(got) > 0 {
			t.Errorf("the tables %q are left", got)
		}
		if got := s.records(t, target); len(got) > 0 {
			t.Errorf("the records %v are left", got)
		}

		// And once more: nothing in the way may be left of it.
		lock(t, session)
		apply(t, e, session, first, skein.Up, 1)
	}},

	{"DataIsAtomic", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		s.applyAll(t, target, migration("1.sql", table("notes"), ""))
		e := s.engine()
		session := s.open(t, e, target)
		lock(t, session)
		bad := migration("2.sql", "INSERT INTO notes VALUES (1, 'one');\nINSERT INTO notes VALUES (1, 'again');\nINSERT INTO notes VALUES (3, 'three')", "")
		_, err := session.Apply(t.Context(), step(t, e, bad, skein.Up, 2))
		wantStatementError(t, err, &skein.StatementError{
			Migration: "2.sql", Direction: skein.Up, Path: bad.Path, Line: upLine + 1,
			Statement: "INSERT INTO notes VALUES (1, 'again')", Index: 2, Total: 3,
		})
		if rows := s.count(t, target, "notes"); rows != "0" {
			t.Errorf("%s rows stayed", rows)
		}
		if _, ok := s.records(t, target)["2.sql"]; ok {
			t.Error("the migration that failed is recorded")
		}

		// A migration that broke does not break the session.
		good := migration("2.sql", "INSERT INTO notes VALUES (1, 'one')", "DELETE FROM notes;\nDELETE FROM nothing;")
		apply(t, e, session, good, skein.Up, 2)
		_, err = session.Apply(t.Context(), step(t, e, good, skein.Down, 0))
		wantStatementError(t, err, &skein.StatementError{
			Migration: "2.sql", Direction: skein.Down, Path: good.Path, Line: downLine + 1,
			Statement: "DELETE FROM nothing", Index: 2, Total: 2,
		})
		unlock(t, session)
		if rows := s.count(t, target, "notes"); rows != "1" {
			t.Errorf("a down that failed left %s rows of 1", rows)
		}
		if r := s.records(t, target)["2.sql"]; r.State != skein.Applied {
			t.Errorf("after a down that failed the record is %+v", r)
		}
	}},

	{"SchemaIsAtomic", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		e := s.engine()
		session := s.open(t, e, target)
		lock(t, session)
		bad := migration("1.sql", table("one")+";\nINSERT INTO one VALUES (1, 'one');\n\n"+table("one")+";\n"+table("two"), "")
		_, err := session.Apply(t.Context(), step(t, e, bad, skein.Up, 1))
		wantStatementError(t, err, &skein.StatementError{
			Migration: "1.sql", Direction: skein.Up, Path: bad.Path, Line: upLine + 3,
			Statement: table("one"), Index: 3, Total: 4, Partial: !s.Transactional, Exact: !s.Transactional,
		})
		tables, record := s.tables(t, target), s.records(t, target)["1.sql"]
		if s.Transactional {
			if len(tables) > 0 || record.Name != "" {
				t.Errorf("the tables %q and the record %+v stayed", tables, record)
			}
			apply(t, e, session, migration("1.sql", table("one"), ""), skein.Up, 1)
			return
		}
		if !slices.Equal(tables, []string{"one"}) || s.count(t, target, "one") != "1" {
			t.Errorf("the tables are %q", tables)
		}
		wantPartial(t, record, skein.Applying, 2, 4)
	}},

	{"Partial", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		e := s.engine()
		session := s.open(t, e, target)
		lock(t, session)
		up := table("one") + ";\n" + table("two") + ";\nINSERT INTO missing\n  VALUES (1);\n" + table("three")
		m := noTransaction(migration("1.sql", up, "DROP TABLE two;\nDROP TABLE missing;\nDROP TABLE one"))
		_, err := session.Apply(t.Context(), step(t, e, m, skein.Up, 4))
		wantStatementError(t, err, &skein.StatementError{
			Migration: "1.sql", Direction: skein.Up, Path: m.Path, Line: upLine + 2,
			Statement: "INSERT INTO missing\n  VALUES (1)", Index: 3, Total: 4, Partial: true, Exact: true,
		})
		r := s.records(t, target)["1.sql"]
		wantPartial(t, r, skein.Applying, 2, 4)
		if r.Batch != 4 || r.Checksum != m.Checksum || r.By != by || r.Tool != tool || time.Since(r.AppliedAt).Abs() > time.Minute {
			t.Errorf("the record is %+v", r)
		}
		if got, want := s.tables(t, target), []string{"one", "two"}; !slices.Equal(got, want) {
			t.Errorf("the tables are %q, not %q", got, want)
		}

		// Somebody made the rest of it by hand, and said so.
		r.State, r.Done = skein.Applied, r.Total
		if err := session.Record(t.Context(), []skein.Record{r}); err != nil {
			t.Fatal(err)
		}
		_, err = session.Apply(t.Context(), step(t, e, m, skein.Down, 0))
		wantStatementError(t, err, &skein.StatementError{
			Migration: "1.sql", Direction: skein.Down, Path: m.Path, Line: downLine + 1,
			Statement: "DROP TABLE missing", Index: 2, Total: 3, Partial: true, Exact: true,
		})
		wantPartial(t, s.records(t, target)["1.sql"], skein.Reverting, 1, 3)
		if got, want := s.tables(t, target), []string{"one"}; !slices.Equal(got, want) {
			t.Errorf("the tables are %q, not %q", got, want)
		}
	}},

	{"FirstStatementFails", func(t *testing.T, s *suite) {
		// Whether something of a statement that failed stayed is the engine's to
		// know, but what it says and what it records must be the same.
		target := s.NewTarget(t)
		e := s.engine()
		session := s.open(t, e, target)
		lock(t, session)
		m := noTransaction(migration("1.sql", "INSERT INTO missing VALUES (1);\n"+table("one"), ""))
		_, err := session.Apply(t.Context(), step(t, e, m, skein.Up, 1))
		broken, ok := errors.AsType[*skein.StatementError](err)
		if !ok {
			t.Fatalf("the error is %T: %v", err, err)
		}
		wantStatementError(t, err, &skein.StatementError{
			Migration: "1.sql", Direction: skein.Up, Path: m.Path, Line: upLine,
			Statement: "INSERT INTO missing VALUES (1)", Index: 1, Total: 2, Partial: broken.Partial, Exact: broken.Exact,
		})
		r, recorded := s.records(t, target)["1.sql"]
		if recorded != broken.Partial {
			t.Fatalf("Partial is %t, and the record %+v", broken.Partial, r)
		}
		if recorded {
			wantPartial(t, r, skein.Applying, 0, 2)
		}
		if tables := s.tables(t, target); len(tables) > 0 {
			t.Errorf("the tables %q were made", tables)
		}
	}},

	{"NoTransaction", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		e := s.engine()
		session := s.open(t, e, target)
		m := noTransaction(migration("1.sql", table("one")+";\n"+table("two"), "DROP TABLE two;\nDROP TABLE one"))
		lock(t, session)
		apply(t, e, session, m, skein.Up, 1)
		r := s.records(t, target)["1.sql"]
		if r.State != skein.Applied || r.Checksum != m.Checksum || r.By != by || time.Since(r.AppliedAt).Abs() > time.Minute {
			t.Errorf("the record is %+v", r)
		}
		if got, want := s.tables(t, target), []string{"one", "two"}; !slices.Equal(got, want) {
			t.Errorf("the tables are %q, not %q", got, want)
		}
		apply(t, e, session, m, skein.Down, 0)
		if got := s.records(t, target); len(got) > 0 {
			t.Errorf("after the down the records are %v", got)
		}
		if got := s.tables(t, target); len(got) > 0 {
			t.Errorf("after the down the tables are %q", got)
		}
	}},

	{"Empty", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		e := s.engine()
		session := s.open(t, e, target)
		lock(t, session)
		for _, m := range []*skein.Migration{
			migration("1.sql", table("one"), "-- nothing to undo"),
			noTransaction(migration("2.sql", table("two"), "/* nothing\nto undo */\n\n")),
		} {
			apply(t, e, session, m, skein.Up, 1)
			apply(t, e, session, m, skein.Down, 0)
		}
		if got := s.records(t, target); len(got) > 0 {
			t.Errorf("the records %v are left", got)
		}
	}},

	{"Bodies", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		e := s.engine()
		session := s.open(t, e, target)
		lock(t, session)
		apply(t, e, session, migration("1.sql", table("watched")+";"+table("noted"), ""), skein.Up, 1)
		trigger := step(t, e, migration("2.sql", s.Trigger, ""), skein.Up, 2)
		if len(trigger.Statements) != s.TriggerStatements {
			t.Errorf("the migration is %d statements, not %d: %+v", len(trigger.Statements), s.TriggerStatements, trigger.Statements)
		}
		if _, err := session.Apply(t.Context(), trigger); err != nil {
			t.Fatal(err)
		}
		apply(t, e, session, migration("3.sql", "INSERT INTO watched VALUES (3, 'three')", ""), skein.Up, 3)
		got := s.Query(t, target, "SELECT id FROM noted ORDER BY id")
		if diff := cmp.Diff([][]string{{"30"}, {"60"}}, got); diff != "" {
			t.Errorf("what the trigger wrote is not as wanted (-want +got):\n%s", diff)
		}
	}},

	{"Comments", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		e := s.engine()
		session := s.open(t, e, target)
		lock(t, session)
		for i, up := range []string{
			table("t0") + "\n-- it's the last line; without an end",
			table("t1") + "; -- it's the last line; without an end",
			"-- first; \"\n/* second; ' */\n" + table("t2") + " /* third; */ ; /* fourth */",
			table("t3") + ";\n\n;;\n -- nothing\n ; ",
			"CREATE TABLE t4 ( -- it's a number;\n id integer /* ; */ PRIMARY KEY -- the last;\n)",
			table("t5") + ";\r\nINSERT INTO t5 VALUES (1, 'a');\r\n-- end\r\n",
		} {
			m := migration(fmt.Sprintf("%d.sql", i), up, fmt.Sprintf("DROP TABLE t%d -- it's gone", i))
			apply(t, e, session, m, skein.Up, 1)
			if want := fmt.Sprintf("t%d", i); !slices.Contains(s.tables(t, target), want) {
				t.Errorf("the table %s was not made by %q", want, up)
			}
			apply(t, e, session, m, skein.Down, 0)
			apply(t, e, session, noTransaction(m), skein.Up, 1)
			apply(t, e, session, m, skein.Down, 0)
		}
	}},

	{"SentAsItIs", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		e := s.engine()
		session := s.open(t, e, target)
		lock(t, session)
		apply(t, e, session, migration("1.sql", "CREATE TABLE inside (id integer PRIMARY KEY, note varchar(200));\nCREATE TABLE outside (id integer PRIMARY KEY, note varchar(200))", ""), skein.Up, 1)
		var literals []string
		for i, text := range []string{
			`what? $1 $2 :x @x ?1 :1 %s %d %% 100% {} {{.}} #{x} ${HOME} $$ &amp; /* no */ -- no`,
			`a\\b`,
			`it''s; "quoted" ` + "`ticked`",
			"two\nlines\tand\ttabs ",
			`üñïçødé 数据 🪿`,
		} {
			literals = append(literals, fmt.Sprintf("INSERT INTO inside VALUES (%d, '%s')", i, text))
		}
		script := strings.Join(literals, ";\n")
		apply(t, e, session, migration("2.sql", script, ""), skein.Up, 2)
		apply(t, e, session, noTransaction(migration("3.sql", strings.ReplaceAll(script, "(", "(1"), "")), skein.Up, 2)
		for _, literal := range literals {
			literal = strings.Replace(literal, "inside", "outside", 1)
			s.Exec(t, target, literal)
			s.Exec(t, target, strings.Replace(literal, "(", "(1", 1))
		}
		got, want := s.Query(t, target, "SELECT id, note FROM inside ORDER BY id"), s.Query(t, target, "SELECT id, note FROM outside ORDER BY id")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("what was sent is not what the file says (-want +got):\n%s", diff)
		}
	}},

	{"Rows", func(t *testing.T, s *suite) {
		// Statements that return rows are run to their end.
		target := s.NewTarget(t)
		e := s.engine()
		session := s.open(t, e, target)
		lock(t, session)
		var values []string
		for i := range 1000 {
			values = append(values, fmt.Sprintf("(%d, '%s')", i, strings.Repeat("x", 150)))
		}
		up := table("many") + ";\nINSERT INTO many VALUES " + strings.Join(values, ", ") +
			";\nSELECT a.id, a.note, b.note FROM many a CROSS JOIN (SELECT note FROM many WHERE id < 5) b;\nSELECT 1;\n" + table("after") + ";\nSELECT id FROM many"
		apply(t, e, session, migration("1.sql", up, ""), skein.Up, 1)
		apply(t, e, session, noTransaction(migration("2.sql", "SELECT id, note FROM many;\n"+table("later")+";\nSELECT id FROM many", "")), skein.Up, 1)
		if got, want := s.tables(t, target), []string{"after", "later", "many"}; !slices.Equal(got, want) {
			t.Errorf("the tables are %q, not %q", got, want)
		}
	}},

	{"Large", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		e := s.engine()
		session := s.open(t, e, target)
		lock(t, session)
		var script strings.Builder
		script.WriteString(table("many"))
		for i := range 2000 {
			fmt.Fprintf(&script, ";\nINSERT INTO many VALUES (%d, 'ü')", i)
		}
		script.WriteString(";\nINSERT INTO many VALUES (-1, '")
		script.WriteString(strings.Repeat("ü", 200) + "') /* " + strings.Repeat("long ", 200_000) + " */")
		apply(t, e, session, migration("1.sql", script.String(), ""), skein.Up, 1)
		if got := s.count(t, target, "many"); got != "2001" {
			t.Errorf("%s rows of 2001", got)
		}
	}},

	{"Lines", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		e := s.engine()
		session := s.open(t, e, target)
		lock(t, session)
		for name, test := range map[string]struct {
			up          string
			first, last int // lines of the section, from 1, that may be named
			index       int
		}{
			"unknown table": {table("one") + ";\n\n-- a comment;\n\n/* and\nanother */\nINSERT INTO missing VALUES (1);\n" + table("two"), 7, 7, 2},
			"syntax":        {table("one") + ";\n" + table("two") + ";\nINSERT INTO one\n(id,\nnote)\nVALUS (1);\n" + table("three"), 3, 6, 3},
			"in a body":     {table("one") + ";\nINSERT INTO one VALUES (1, 'a;\nb;\nc');\n\n\tSELECT missing FROM one", 6, 6, 3},
			"CRLF":          {table("one") + ";\r\n\r\n-- a comment\r\nSELECT missing FROM one;\r\n", 4, 4, 2},
		} {
			m := migration("1.sql", test.up, "")
			_, err := session.Apply(t.Context(), step(t, e, m, skein.Up, 1))
			broken, ok := errors.AsType[*skein.StatementError](err)
			if !ok {
				t.Fatalf("%s: the error is %T: %v", name, err, err)
			}
			if line := broken.Line - upLine + 1; line < test.first || line > test.last {
				t.Errorf("%s: line %d of the section instead of %d to %d", name, line, test.first, test.last)
			}
			if broken.Index != test.index {
				t.Errorf("%s: statement %d instead of %d", name, broken.Index, test.index)
			}
			if !strings.HasPrefix(err.Error(), fmt.Sprintf("%s:%d: ", m.Path, broken.Line)) {
				t.Errorf("%s: the error does not begin with the place: %v", name, err)
			}
			if broken.Partial {
				// Begin again with an empty target.
				_ = session.Close()
				target = s.NewTarget(t)
				session = s.open(t, e, target)
				lock(t, session)
			}
		}
	}},
}

func wantStatementError(t *testing.T, err error, want *skein.StatementError) {
	t.Helper()
	got, ok := errors.AsType[*skein.StatementError](err)
	if !ok {
		t.Fatalf("the error is %T and not a StatementError: %v", err, err)
	}
	copied := *got
	copied.Err = nil
	if diff := cmp.Diff(want, &copied); diff != "" {
		t.Errorf("the error is not as wanted (-want +got):\n%s", diff)
	}
	answer, ok := errors.AsType[*skein.DatabaseError](err)
	if !ok {
		t.Fatalf("the cause is %T and not a DatabaseError: %v", got.Err, got.Err)
	}
	if answer.Class != skein.Permanent || answer.Code == "" || answer.Message == "" {
		t.Errorf("the database's answer is %+v", answer)
	}
}

func wantPartial(t *testing.T, r skein.Record, state skein.RecordState, done, total int) {
	t.Helper()
	if r.State != state || r.Done != done || r.Total != total {
		t.Errorf("recorded is %q with %d of %d statements, not %q with %d of %d", r.State, r.Done, r.Total, state, done, total)
	}
}

var parseTests = []namedTest{
	{"TransactionControl", func(t *testing.T, s *suite) {
		e := s.engine()
		for _, sql := range []string{
			"BEGIN", "begin transaction", "START TRANSACTION", "COMMIT", "Rollback", "/* now */ COMMIT",
		} {
			if sql == "START TRANSACTION" && e.Name() == skein.SQLite || sql == "begin transaction" && e.Name() == skein.MySQL {
				continue // not a word of this dialect
			}
			m := migration("1.sql", "SELECT 1;\n\n"+sql+";\nSELECT 2;", "")
			wantFileError(t, e, m.Up, sql)
		}
	}},

	{"Statements", func(t *testing.T, s *suite) {
		m := migration("1.sql", "SELECT 1;\nSELECT\n2;;\n-- none\nSELECT ';';SELECT 4", "")
		got, err := s.engine().Parse(m.Up)
		if err != nil {
			t.Fatal(err)
		}
		want := []skein.Statement{
			{Text: "SELECT 1", Line: upLine},
			{Text: "SELECT\n2", Line: upLine + 1},
			{Text: "SELECT ';'", Line: upLine + 4},
			{Text: "SELECT 4", Line: upLine + 4},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the statements are not as wanted (-want +got):\n%s", diff)
		}
	}},

	{"Unfinished", func(t *testing.T, s *suite) {
		e := s.engine()
		for _, sql := range []string{"SELECT 'open", "SELECT 1 /* open"} {
			wantFileError(t, e, migration("1.sql", "SELECT 1;\n\n"+sql, "").Up, sql)
		}
	}},
}

// wantFileError wants a section refused because of its third line.
func wantFileError(t *testing.T, e skein.Engine, section *skein.Section, what string) {
	t.Helper()
	_, err := e.Parse(section)
	wrong, ok := errors.AsType[*skein.FileError](err)
	if !ok {
		t.Errorf("%q: the error is %T and not a FileError: %v", what, err, err)
		return
	}
	if wrong.Path != section.Path || wrong.Line != section.Line+2 || wrong.Msg == "" {
		t.Errorf("%q: the error is %+v", what, wrong)
	}
}
