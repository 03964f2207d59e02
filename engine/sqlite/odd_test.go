package sqlite_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/engine/sqlite"
)

// A file that may not grow is what a disk that is full looks like.
func TestNoRoom(t *testing.T) {
	target := newTarget(t)
	e := sqlite.New(skein.SessionOptions{})
	session, err := e.Open(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if _, err := session.Lock(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	apply := func(name, up string, noTransaction bool) error {
		section := &skein.Section{SQL: up, Path: name, Line: 1, NoTransaction: noTransaction}
		statements, err := e.Parse(section)
		if err != nil {
			t.Fatal(err)
		}
		_, err = session.Apply(t.Context(), skein.Step{
			Migration: &skein.Migration{Name: name, Path: name, Up: section}, Direction: skein.Up, Statements: statements, Batch: 1,
		})
		return err
	}
	if err := apply("1.sql", "CREATE TABLE one (note text)", false); err != nil {
		t.Fatal(err)
	}
	const fill = "INSERT INTO one WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT printf('%.1000c', 'x') FROM n"
	err = apply("2.sql", "PRAGMA max_page_count = 50; "+fill, false)
	answer, ok := errors.AsType[*skein.DatabaseError](err)
	if !ok || answer.Class != skein.Permanent || answer.Code != "SQLITE_FULL" || !strings.Contains(answer.Hint, "make room on the disk that holds "+target.Database) {
		t.Fatalf("the error is %T: %+v", err, err)
	}
	if broken, ok := errors.AsType[*skein.StatementError](err); !ok || broken.Partial || broken.Index != 2 {
		t.Errorf("the error is %+v", err)
	}
	if rows := query(t, target, "SELECT (SELECT count(*) FROM one), (SELECT count(*) FROM skein_migrations)"); rows[0][0] != "0" || rows[0][1] != "1" {
		t.Errorf("after that there are %q", rows)
	}

	// Without a transaction what is recorded is what is there.
	err = apply("2.sql", "INSERT INTO one VALUES ('a'); PRAGMA max_page_count = 50; "+fill, true)
	if broken, ok := errors.AsType[*skein.StatementError](err); !ok || !broken.Partial || broken.Index != 3 {
		t.Fatalf("the error is %T: %+v", err, err)
	}
	if rows := query(t, target, "SELECT (SELECT count(*) FROM one), done, state FROM skein_migrations WHERE name = '2.sql'"); rows[0][0] != "1" || rows[0][1] != "2" || rows[0][2] != "applying" {
		t.Errorf("after that there are %q", rows)
	}
}
