package mysql

import (
	"context"
	"crypto/sha256"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/skeinhq/skein"
)

// The pauses between attempts to take a lock grow from the first to the last.
const (
	firstPause = 10 * time.Millisecond
	lastPause  = 500 * time.Millisecond
)

// lockName is an SQL expression of the name of the tenant's lock.
//
// GET_LOCK takes names of 64 characters on MySQL, and does not tell upper from
// lower case. The names of databases it may or may not, as the server's
// lower_case_table_names says: where it does not, all ways to write the name
// have to mean one lock, and where it does, they must not.
func (s *session) lockName() string {
	exact := lockName(s.target.Database)
	folded := lockName(strings.ToLower(s.target.Database))
	if exact == folded {
		return quote(exact)
	}
	return "IF(@@lower_case_table_names=0," + quote(exact) + "," + quote(folded) + ")"
}

// lockName is plain for a short name of lower-case ASCII characters, so that a
// person who looks for the lock finds it, and a hash for every other.
func lockName(database string) string {
	const prefix, longest = "skein:", 64
	plain := len(prefix)+len(database) <= longest
	for i := range len(database) {
		c := database[i]
		plain = plain && c > ' ' && c <= '~' && (c < 'A' || c > 'Z')
	}
	if plain {
		return prefix + database
	}
	sum := sha256.Sum256([]byte(database))
	return "skein#" + hex.EncodeToString(sum[:24])
}

// Lock takes the tenant's lock and reads the history under it, in one round
// trip when the lock is free.
func (s *session) Lock(ctx context.Context, wait time.Duration) (skein.History, error) {
	start := time.Now()
	for pause := firstPause; ; pause = min(pause*3/2, lastPause) {
		r, err := s.history(ctx, s.settings()+"SELECT GET_LOCK("+s.lockName()+",0) AS "+gotLock+";")
		if err != nil {
			s.release(ctx)
			return skein.History{}, fmt.Errorf("take the lock: %w", err)
		}
		s.prepared = true
		if r.got == 1 {
			return r.history(), nil
		}
		waited := time.Since(start)
		if waited >= wait {
			return skein.History{}, s.lockedError(ctx, waited, wait)
		}
		select {
		case <-time.After(min(pause, wait-waited)):
		case <-ctx.Done():
			return skein.History{}, fmt.Errorf("wait for the lock: %w", ctx.Err())
		}
	}
}

// release gives back a lock that was taken in a flight which failed after that.
func (s *session) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	_ = s.flight(ctx, "DO RELEASE_LOCK("+s.lockName()+")", nil)
}

func (s *session) lockedError(ctx context.Context, waited, wait time.Duration) error {
	e := &skein.LockedError{}
	if wait > 0 {
		e.Waited = waited
	}
	// The holder may be gone meanwhile, or not to be seen: that does not make
	// the lock ours.
	if holder, err := s.Holder(ctx); err == nil && holder != nil {
		e.Holder = holder.String()
	}
	return e
}

// Unlock gives the lock back.
func (s *session) Unlock(ctx context.Context) error {
	var released int64
	err := s.flight(ctx, "SELECT RELEASE_LOCK("+s.lockName()+")", func(_ []string, row []driver.Value) {
		if row != nil {
			released = number(row[0])
		}
	})
	if err != nil {
		return fmt.Errorf("give the lock back: %w", err)
	}
	if released != 1 {
		return errors.New("give the lock back: the session did not have it, perhaps because a migration called RELEASE_ALL_LOCKS")
	}
	return nil
}

// Holder says who has the tenant's lock. Without the right PROCESS the server
// shows user and host for sessions of the same account only. The name, that of
// whoever migrates, is known of these too, if the server has its performance
// schema on (MySQL has as it comes, MariaDB has not).
func (s *session) Holder(ctx context.Context) (*skein.Holder, error) {
	var holder *skein.Holder
	err := s.flight(ctx, "SELECT l.id,p.USER,p.HOST,a.ATTR_VALUE FROM (SELECT IS_USED_LOCK("+s.lockName()+") AS id) l"+
		" LEFT JOIN information_schema.PROCESSLIST p ON p.ID=l.id"+
		" LEFT JOIN performance_schema.session_account_connect_attrs a ON a.PROCESSLIST_ID=l.id AND a.ATTR_NAME='"+byAttribute+"'",
		func(_ []string, row []driver.Value) {
			if row != nil && row[0] != nil {
				holder = &skein.Holder{ID: text(row[0]), User: text(row[1]), Host: text(row[2]), Name: text(row[3])}
			}
		})
	if err != nil {
		return nil, fmt.Errorf("look for the lock's holder: %w", err)
	}
	return holder, nil
}

// Break ends the session that has the lock, and waits until the lock is free.
// If another session has it by now it does nothing.
func (s *session) Break(ctx context.Context, holder skein.Holder) error {
	id, err := strconv.ParseUint(holder.ID, 10, 64)
	if err != nil {
		return fmt.Errorf("break the lock: %q is not a session's id", holder.ID)
	}
	for killed := false; ; {
		now, err := s.Holder(ctx)
		if err != nil {
			return fmt.Errorf("break the lock: %w", err)
		}
		if now == nil || now.ID != holder.ID {
			return nil
		}
		if !killed {
			err := s.flight(ctx, "KILL "+strconv.FormatUint(id, 10), nil)
			if answer, ok := errors.AsType[*skein.DatabaseError](err); ok && answer.Code == strconv.Itoa(errNoThread) {
				err = nil // it ended by itself
			}
			if err != nil {
				return fmt.Errorf("break the lock: %w", err)
			}
			killed = true
		}
		// A session that undoes a large change has its lock until that is done.
		select {
		case <-time.After(firstPause):
		case <-ctx.Done():
			return fmt.Errorf("wait for the session that was killed to end: %w", ctx.Err())
		}
	}
}

// terminateTimeout is how long sessions that were told to end may take.
const terminateTimeout = 30 * time.Second

// Terminate ends sessions, and waits until they are gone: one that undoes a
// large change takes its time.
func (s *session) Terminate(ctx context.Context, ids []string) error {
	numbers := make([]string, len(ids))
	for i, id := range ids {
		n, err := strconv.ParseUint(id, 10, 64)
		if err != nil {
			return fmt.Errorf("end the session %q: it is not a session's id", id)
		}
		numbers[i] = strconv.FormatUint(n, 10)
	}
	if len(numbers) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, terminateTimeout)
	defer cancel()
	for {
		var left []string
		// Without the right PROCESS these are the sessions of the same user.
		err := s.flight(ctx, "SELECT ID FROM information_schema.PROCESSLIST WHERE ID<>CONNECTION_ID() AND ID IN ("+strings.Join(numbers, ",")+")",
			func(_ []string, row []driver.Value) {
				if row != nil {
					left = append(left, text(row[0]))
				}
			})
		if err == nil && len(left) == 0 {
			return nil
		}
		for _, id := range left {
			err = s.flight(ctx, "KILL "+id, nil)
			if answer, ok := errors.AsType[*skein.DatabaseError](err); ok && answer.Code == strconv.Itoa(errNoThread) {
				err = nil // it ended by itself
			}
			if err != nil {
				break
			}
		}
		if err != nil {
			return fmt.Errorf("end the sessions %s: %w", strings.Join(ids, ", "), err)
		}
		select {
		case <-time.After(firstPause):
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of the sessions %s: %w", strings.Join(ids, ", "), ctx.Err())
		}
	}
}

// ClearKnexLock leaves one row in Knex's lock table, set to 0.
func (s *session) ClearKnexLock(ctx context.Context) (bool, error) {
	table := s.knexTable("_lock")
	var cleared int64
	err := s.flight(ctx, s.use()+"DELETE FROM "+table+" WHERE `index`>(SELECT first FROM (SELECT MIN(`index`) AS first FROM "+table+") x);SELECT ROW_COUNT();"+
		"UPDATE "+table+" SET is_locked=0 WHERE is_locked<>0;SELECT ROW_COUNT()", func(_ []string, row []driver.Value) {
		if row != nil {
			cleared += number(row[0])
		}
	})
	if answer, ok := errors.AsType[*skein.DatabaseError](err); ok && answer.Code == strconv.Itoa(errNoTable) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("clear Knex's lock: %w", err)
	}
	s.database = s.target.Database
	return cleared > 0, nil
}
