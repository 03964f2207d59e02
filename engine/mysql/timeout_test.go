package mysql

import (
	"database/sql/driver"
	"strings"
	"testing"
	"time"

	"github.com/skeinhq/skein"
)

func TestTimeouts(t *testing.T) {
	target := newTarget(t)
	e := New(skein.SessionOptions{LockTimeout: 1500 * time.Millisecond, IdleTimeout: time.Second})
	opened, err := e.Open(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	s := opened.(*session)
	if _, err := s.Lock(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	const seen = "INSERT INTO seen (timeouts) SELECT CONCAT_WS(' ', @@lock_wait_timeout, @@innodb_lock_wait_timeout, FORMAT(@@max_statement_time, 2), @@idle_transaction_timeout)"
	short, none := 250*time.Millisecond, time.Duration(0)
	for _, m := range []struct {
		name, up string
		own      skein.Timeouts
	}{
		{"1.sql", "CREATE TABLE seen (id int AUTO_INCREMENT PRIMARY KEY, timeouts text);" + seen, skein.Timeouts{}},
		{"2.sql", seen, skein.Timeouts{Lock: &short, Statement: &short}},
		{"3.sql", seen, skein.Timeouts{Lock: &none, Statement: &none, Idle: &none}},
		{"4.sql", seen + ";ALTER TABLE seen ADD COLUMN more int;" + seen, skein.Timeouts{Statement: &short}},
		{"5.sql", seen, skein.Timeouts{}},
	} {
		section := &skein.Section{SQL: m.up, Path: m.name, Line: 1, Timeouts: m.own}
		statements, err := e.Parse(section)
		if err != nil {
			t.Fatal(err)
		}
		step := skein.Step{Migration: &skein.Migration{Name: m.name, Path: m.name, Up: section}, Direction: skein.Up, Statements: statements, Batch: 1}
		if _, err := s.Apply(t.Context(), step); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	err = s.flight(t.Context(), "SELECT timeouts FROM seen ORDER BY id", func(_ []string, row []driver.Value) {
		if row != nil {
			got = append(got, text(row[0]))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "2 2 0.00 1, 1 1 0.25 1, 31536000 31536000 0.00 0, 2 2 0.25 1, 2 2 0.25 1, 2 2 0.00 1"
	if strings.Join(got, ", ") != want {
		t.Errorf("migrations saw the timeouts %s,\nnot %s", strings.Join(got, ", "), want)
	}

	// A transaction in which nothing happens ends, and its locks with it.
	if err := s.flight(t.Context(), "START TRANSACTION; SELECT * FROM seen FOR UPDATE", func([]string, []driver.Value) {}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2500 * time.Millisecond)
	if _, err := s.History(t.Context()); skein.ErrorClass(err) != skein.ConnectionLost {
		t.Errorf("an idle transaction: %v", err)
	}
}
