package sqlite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/gofrs/flock"

	"github.com/skeinhq/skein"
)

// lockSuffix makes the name of a database's lock file.
const lockSuffix = ".skein-lock"

// A fileLock is a tenant's lock while this process has it.
//
// Whoever gives the lock back removes the file first. One who opened it before
// that then locks a file that is nobody's any more, finds that the name does not
// lead to it, and tries again.
type fileLock struct{ *flock.Flock }

// A lockNote is what a lock file says, as JSON, of who has the lock.
type lockNote struct {
	PID   int       `json:"pid"`
	Host  string    `json:"host"`
	By    string    `json:"by,omitempty"`
	Tool  string    `json:"tool,omitempty"`
	Since time.Time `json:"since"`
}

func (n lockNote) holder() skein.Holder {
	return skein.Holder{ID: strconv.Itoa(n.PID), User: n.By, Host: n.Host, Name: n.Tool, Since: n.Since}
}

// lockPath is the lock file of a database, one and the same for all paths that
// lead to it over symbolic links.
func lockPath(path string) (string, error) {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", fileError(path, err)
	}
	return resolved + lockSuffix, nil
}

const (
	firstPause   = 5 * time.Millisecond
	longestPause = 100 * time.Millisecond
	// Who looks at a lock has it for a moment, and who takes it says who they
	// are a moment later. Neither is a reason to give up.
	grace = 50 * time.Millisecond
)

// takeLock takes a database's lock, waiting for at most wait.
func takeLock(ctx context.Context, database string, opts skein.SessionOptions, wait time.Duration) (*fileLock, error) {
	path, err := lockPath(database)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		lock, err := tryLock(database, path, opts)
		if lock != nil || err != nil {
			return lock, err
		}
		note, err := readNote(path)
		if err != nil {
			return nil, err
		}
		waited := time.Since(start)
		if waited >= wait && (note != nil || waited >= grace) {
			locked := &skein.LockedError{Waited: min(waited, wait)}
			if note != nil {
				locked.Holder = note.holder().String()
			}
			return nil, locked
		}
		left := wait - waited
		if left <= 0 {
			left = firstPause
		}
		select {
		case <-ctx.Done():
		case <-time.After(min(pause, left)):
		}
	}
}

// tryLock takes the lock if nobody has it, and returns nil if somebody does.
func tryLock(database, path string, opts skein.SessionOptions) (*fileLock, error) {
	info, err := os.Stat(database)
	if err != nil {
		return nil, fileError(database, err)
	}
	// Whoever may use the database may use its lock.
	mode := info.Mode().Perm() | 0o600
	lock := flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(mode))
	for {
		ok, err := lock.TryLock()
		switch {
		case errors.Is(err, fs.ErrPermission):
			return nil, folderError(database)
		case err != nil:
			return nil, fileError(path, fmt.Errorf("lock: %w", err))
		case !ok:
			return nil, nil
		}
		if leadsTo(path, lock) {
			break
		}
		if err := lock.Unlock(); err != nil {
			return nil, fileError(path, fmt.Errorf("unlock: %w", err))
		}
	}
	host, _ := os.Hostname() // only for people to read
	note, err := json.Marshal(lockNote{PID: os.Getpid(), Host: host, By: opts.By, Tool: opts.Tool, Since: time.Now()})
	if err == nil {
		err = os.WriteFile(path, note, mode)
	}
	taken := &fileLock{lock}
	if err != nil {
		return nil, errors.Join(fileError(path, err), taken.release())
	}
	return taken, nil
}

// leadsTo says whether a path is still that of the file which is locked.
func leadsTo(path string, lock *flock.Flock) bool {
	locked, err := lock.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(locked, named)
}

func (l *fileLock) release() error {
	err := os.Remove(l.Path())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // somebody tidied up
	}
	if err = errors.Join(err, l.Unlock()); err != nil {
		return fileError(l.Path(), fmt.Errorf("give the lock back: %w", err))
	}
	return nil
}

// readNote reads who has a lock, nil if the file does not say.
func readNote(path string) (*lockNote, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fileError(path, err)
	}
	var note lockNote
	_ = json.Unmarshal(data, &note) // what is being written just now is not whole
	if note.PID == 0 {
		return nil, nil
	}
	return &note, nil
}

// Holder looks whether the lock file is locked, and reads it.
func (s *session) Holder(context.Context) (*skein.Holder, error) {
	path, err := lockPath(s.path)
	if err != nil {
		return nil, err
	}
	// The file is left as it is: not made, and not removed where a process that
	// was killed left it.
	lock := flock.New(path, flock.SetFlag(os.O_RDONLY))
	for end := time.Now().Add(grace); ; time.Sleep(firstPause) {
		free, err := lock.TryRLock()
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, nil
		case err != nil:
			return nil, fileError(path, fmt.Errorf("look at the lock: %w", err))
		case free:
			if err := lock.Unlock(); err != nil {
				return nil, fileError(path, fmt.Errorf("look at the lock: %w", err))
			}
			return nil, nil
		}
		note, err := readNote(path)
		if err != nil {
			return nil, err
		}
		if note != nil {
			holder := note.holder()
			return &holder, nil
		}
		if time.Now().After(end) {
			return &skein.Holder{ID: "unknown"}, nil
		}
	}
}

// Break cannot end another process, and says so if it still has the lock.
func (s *session) Break(ctx context.Context, holder skein.Holder) error {
	now, err := s.Holder(ctx)
	if err != nil {
		return err
	}
	if now == nil || now.ID != holder.ID || now.Host != holder.Host || !now.Since.Equal(holder.Since) {
		return nil
	}
	return &skein.DatabaseError{
		Class: skein.Permanent, Message: fmt.Sprintf("the lock of %s belongs to the running process %s on %s, and ends with it", s.path, holder.ID, holder.Host),
		Hint: fmt.Sprintf("end that process (on %s: kill %s)", holder.Host, holder.ID),
	}
}

// ClearKnexLock leaves one row in Knex's lock table, set to 0.
func (s *session) ClearKnexLock(ctx context.Context) (bool, error) {
	history, err := s.History(ctx)
	if err != nil || !history.KnexLocked {
		return false, err
	}
	if err := s.exec(ctx, s.engine.sql.clear); err != nil {
		return false, fmt.Errorf("clear Knex's lock: %w", err)
	}
	return true, nil
}
