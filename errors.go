package skein

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// A FileError is something wrong with a migration's file.
type FileError struct {
	Path string
	Line int // counted from 1; 0 where no single line is meant
	Msg  string
}

func (e *FileError) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("%s:%d: %s", e.Path, e.Line, e.Msg)
	}
	return e.Path + ": " + e.Msg
}

// A Class says what kind of trouble a database error is, and so what can be
// done about it.
type Class string

// The classes of database errors.
const (
	// Permanent errors come back however often one tries: SQL that is wrong.
	Permanent Class = "permanent"
	// Transient errors may go away by themselves: a deadlock, a server that
	// starts up.
	Transient Class = "transient"
	// Crowded is a server, or a role, that has as many connections as it may.
	Crowded Class = "too many connections"
	// Busy is a lock on a table or file that someone else held too long.
	Busy Class = "busy"
	// Denied is a wrong user or password, or a right that the role lacks.
	Denied Class = "denied"
	// NoDatabase is a database, schema or file that does not exist.
	NoDatabase Class = "no database"
	// Unreachable is a server that cannot be connected to.
	Unreachable Class = "unreachable"
	// ConnectionLost is a connection that ended while it was in use.
	ConnectionLost Class = "connection lost"
)

// A DatabaseError is what a database, or the way to it, answered. Its texts are
// cleaned of passwords.
type DatabaseError struct {
	Class Class
	// Code is the database's own: a SQLSTATE, a MySQL error number, the name
	// of a SQLite result code; empty where there was no answer.
	Code    string
	Message string
	// Detail and Hint are the server's own additions; Hint may be Skein's
	// where the server has none.
	Detail, Hint string
}

func (e *DatabaseError) Error() string {
	msg := e.Message
	if e.Detail != "" {
		msg += ": " + e.Detail
	}
	if e.Code != "" {
		msg += " (" + e.Code + ")"
	}
	return msg
}

// ErrorClass is the class of the database error in a chain of errors; Permanent
// for any other error, empty for nil.
func ErrorClass(err error) Class {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*DatabaseError](err); ok {
		return e.Class
	}
	return Permanent
}

// A StatementError is a migration that broke.
type StatementError struct {
	Migration string // its name
	Direction Direction
	Path      string // the file
	Line      int    // of the file, counted from 1; 0 where the database did not say
	Statement string // the statement's text
	Index     int    // of the statement in its section, counted from 1; 0 where it is not known
	Total     int    // statements in the section
	// Partial says that the statements before this one have stayed, and that
	// the tenant's history says so.
	Partial bool
	// Exact says of a partial migration that nothing of this statement has stayed,
	// so that it can go on with it.
	Exact bool
	// Kept is how many statements had run before a migration was begun anew, of
	// which its first left nothing now: so they have stayed. 0 otherwise.
	Kept int
	// Undone are the migrations that had run before this one and were undone
	// with it: Knex migrations can be one transaction.
	Undone []string
	Err    error
}

func (e *StatementError) Error() string {
	where := e.Path
	if e.Line > 0 {
		where = fmt.Sprintf("%s:%d", e.Path, e.Line)
	}
	return fmt.Sprintf("%s: %v", where, e.Err)
}

func (e *StatementError) Unwrap() error { return e.Err }

// A LockedError is a tenant whose lock someone else has.
type LockedError struct {
	// Holder says who has it, as far as the database can tell: process, host,
	// since when.
	Holder string
	Waited time.Duration
}

func (e *LockedError) Error() string {
	msg := "another process is migrating this tenant"
	if e.Holder != "" {
		msg += " (" + e.Holder + ")"
	}
	if e.Waited > 0 {
		msg += fmt.Sprintf(": waited %s for it", e.Waited.Round(time.Millisecond))
	}
	return msg
}

// Hint says what to do.
func (e *LockedError) Hint() string {
	return "wait for it to end, or give a longer --lock-wait"
}

// A RefusedError is a plan that cannot be made: nothing was run.
type RefusedError struct {
	Reason Reason
	// Names are the migrations that the refusal is about, in order.
	Names []string
	Msg   string
	hint  string
}

// A Reason is why a plan is refused.
type Reason string

// The reasons for refusing a plan.
const (
	ReasonEdited      Reason = "edited"       // applied, and its file changed since
	ReasonMissing     Reason = "missing"      // applied, and its file is gone
	ReasonOutOfOrder  Reason = "out of order" // pending, and older than one that is applied
	ReasonPartial     Reason = "partial"      // began and did not end
	ReasonNoDown      Reason = "no down"      // to be reverted, and has no down
	ReasonNeedsKnex   Reason = "needs knex"   // a .js or .ts file
	ReasonNotEmpty    Reason = "not empty"    // a baseline on a tenant with a history
	ReasonKnexLocked  Reason = "knex locked"  // Knex's lock row is set
	ReasonUnknownName Reason = "unknown name" // --to names no migration, or not one that fits
)

func (e *RefusedError) Error() string { return e.Msg }

// Hint says what to do.
func (e *RefusedError) Hint() string { return e.hint }

// ErrInterrupted is the error of a tenant that was left before its plan was
// done, because the run was asked to stop. What it had begun is done.
var ErrInterrupted = errors.New("interrupted before the rest was begun")

// Hint is the advice that an error carries for the person who meets it, empty
// if it has none.
func Hint(err error) string {
	if h, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		return h.Hint()
	}
	if e, ok := errors.AsType[*DatabaseError](err); ok {
		return e.Hint
	}
	return ""
}

// list is at most five names as a person writes them, and how many more.
func list(names []string) string {
	const limit = 5
	if len(names) <= limit {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:limit], ", "), len(names)-limit)
}
