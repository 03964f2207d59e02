package postgres

import (
	"fmt"
	"testing"
	"time"

	"github.com/skeinhq/skein"
)

// timeouts are the timeouts in force.
func timeouts(t *testing.T, s *session) string {
	t.Helper()
	var m script
	m.add(reading, "SELECT current_setting('lock_timeout'), current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout')")
	results, err := s.run(t.Context(), &m)
	if err != nil {
		t.Fatal(err)
	}
	row := results[0].row
	return fmt.Sprintf("%s %s %s", row[0], row[1], row[2])
}

func TestTimeouts(t *testing.T) {
	target := newDatabase(t)
	s := open(t, New(skein.SessionOptions{LockTimeout: time.Second, StatementTimeout: 1500 * time.Millisecond, IdleTimeout: time.Nanosecond}), target)
	if got, want := timeouts(t, s), "1s 1500ms 1ms"; got != want {
		t.Errorf("the timeouts are %s, not %s", got, want)
	}

	s = open(t, New(skein.SessionOptions{LockTimeout: time.Second, IdleTimeout: time.Second}), target)
	lock(t, s)
	const seen = "INSERT INTO seen SELECT current_setting('lock_timeout') || ' ' || current_setting('statement_timeout') || ' ' || current_setting('idle_in_transaction_session_timeout')"
	apply(t, s, step(t, "1.sql", "CREATE TABLE seen (timeouts text);"+seen, false))
	short, none := 250*time.Millisecond, time.Duration(0)
	own := step(t, "2.sql", seen, false)
	own.Migration.Up.Timeouts = skein.Timeouts{Lock: &short, Statement: &none}
	apply(t, s, own)
	apply(t, s, step(t, "3.sql", seen, false))
	own = step(t, "4.sql", seen+"; VACUUM seen; "+seen, true)
	hours := 2 * time.Hour
	own.Migration.Up.Timeouts = skein.Timeouts{Statement: &hours, Idle: &none}
	apply(t, s, own)
	apply(t, s, step(t, "5.sql", "VACUUM seen; "+seen, true))
	got := fmt.Sprint(queryAs(t, target, "SELECT timeouts FROM seen ORDER BY ctid"))
	if want := "[[1s 0 1s] [250ms 0 1s] [1s 0 1s] [1s 2h 0] [1s 2h 0] [1s 0 1s]]"; got != want {
		t.Errorf("migrations saw the timeouts %s,\nnot %s", got, want)
	}

	// A transaction in which nothing happens ends, and its locks with it.
	var m script
	m.add(setup, "BEGIN", "LOCK TABLE seen")
	if _, err := s.run(t.Context(), &m); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1500 * time.Millisecond)
	if _, err := s.History(t.Context()); skein.ErrorClass(err) != skein.ConnectionLost {
		t.Errorf("an idle transaction: %v", err)
	}
}
