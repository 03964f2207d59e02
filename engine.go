package skein

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/skeinhq/skein/secret"
)

// HistoryTable is Skein's own table in each tenant's database.
const HistoryTable = "skein_migrations"

// DefaultKnexTable is Knex's table where its configuration names no other. Its
// lock table has the same name with "_lock" appended.
const DefaultKnexTable = "knex_migrations"

// An Engine is what a database must be able to do for Skein. The packages under
// engine/ implement it, and engine/enginetest is the suite that each passes.
//
// An Engine is safe for concurrent use. Every error that comes from a database
// or the way to it is a [*DatabaseError], cleaned of secrets.
type Engine interface {
	// Name is PostgreSQL, MySQL or SQLite.
	Name() string

	// Parse splits one side of a migration into the statements that the engine
	// will send, and checks them. What it refuses is a *FileError.
	Parse(section *Section) ([]Statement, error)

	// Open connects to a target. It does no work there beyond logging in and
	// setting up the session, in as few round trips as the engine can.
	Open(ctx context.Context, target Target) (Session, error)

	// SessionKey is equal for targets that one session can serve after another
	// (see [Session.Switch]), and empty for a target that needs its own.
	SessionKey(target Target) string
}

// A Session is one connection to a tenant's target. It is used by one goroutine
// at a time. A session whose context ended in the middle of a call, or that
// returned a connection error, can only be closed.
type Session interface {
	// History reads what has run in the tenant, in one round trip. A tenant
	// without the tables has an empty history.
	History(ctx context.Context) (History, error)

	// Lock takes the tenant's lock, waiting for at most wait (0: not at all),
	// and reads the history under it. The lock belongs to the session, so that
	// it ends with the process that holds it. The error is a *LockedError when
	// someone else kept it.
	Lock(ctx context.Context, wait time.Duration) (History, error)

	// Unlock gives the lock back. It is a mistake to call it without one.
	Unlock(ctx context.Context) error

	// Apply runs one step under the lock and records it. Where the engine can,
	// the migration and its record are one transaction, and an error means
	// that nothing of it stayed. Otherwise the step is recorded as begun before
	// its first statement and an error leaves it so (Partial is set in the
	// error). An error of the migration's own is a *StatementError.
	Apply(ctx context.Context, step Step) (StepResult, error)

	// Record writes records under the lock as they are, and runs nothing. A
	// record takes the place of what there was about its migration. By and Tool
	// are the session's where a record has none.
	Record(ctx context.Context, records []Record) error

	// Erase takes the records of these migrations out of skein_migrations under
	// the lock, and runs nothing. A name without a record is let pass.
	Erase(ctx context.Context, names []string) error

	// Switch points the session at another target with the same SessionKey,
	// without a round trip. False means that the session cannot go on there
	// and a new one is to be opened.
	Switch(target Target) bool

	// Close ends the session and whatever lock it holds. It does not wait for
	// a server that does not answer.
	Close() error
}

// SessionOptions are what every engine takes for its sessions. The zero value
// has no timeouts, and names no one.
type SessionOptions struct {
	// ConnectTimeout bounds connecting and logging in. 0: no bound.
	ConnectTimeout time.Duration
	// LockTimeout is how long a statement waits for another session's table
	// lock before it gives up. 0: the server's own setting.
	LockTimeout time.Duration
	// StatementTimeout is how long one statement may run. 0: the server's own
	// setting.
	StatementTimeout time.Duration
	// IdleTimeout is how long the server keeps a transaction in which nothing
	// happens, and the locks that it holds. 0: the server's own setting.
	IdleTimeout time.Duration
	// KnexTable is Knex's table. Defaults to DefaultKnexTable.
	KnexTable string
	// Password finds the password of a target that has none. What it returns is
	// used for one connection. Nil: there is none.
	Password func(ctx context.Context, target Target) (secret.Secret, error)
	// By and Tool are recorded with each migration: user@host, and the name and
	// version of what applies it.
	By, Tool string
}

// Authenticate is the target with its password, found by Password if it has none.
func (o SessionOptions) Authenticate(ctx context.Context, target Target) (Target, error) {
	if !target.Password.IsZero() || o.Password == nil {
		return target, nil
	}
	var err error
	target.Password, err = o.Password(ctx, target)
	return target, err
}

// Caller is what a session calls itself, for whoever looks who is at work:
// skein, who calls it, and its process. It is at most 63 bytes long, as
// PostgreSQL keeps no more of it.
func (o SessionOptions) Caller() string {
	if o.By == "" {
		return "skein"
	}
	pid := fmt.Sprintf(" pid %d", os.Getpid())
	by := strings.ToValidUTF8(o.By[:min(len(o.By), 63-len("skein ")-len(pid))], "")
	return "skein " + by + pid
}

// A Step is one migration to run in one direction.
type Step struct {
	Migration  *Migration
	Direction  Direction
	Statements []Statement // of the migration's side, as Engine.Parse returned them
	Batch      int         // recorded with an up
	// Began says that the step began before and did not end: the record of it
	// that is there is taken over, and left in its state if the step fails.
	Began bool
	// From is how many of the statements are left out because they have run
	// before, and Done how many have by the record that is taken over. Both are 0
	// unless Began is set.
	From, Done int
	// Fresh says that nothing has ever run in the tenant, where there is no data
	// and each statement is quick: a session may send several in one message,
	// even if what stops in the middle of it cannot say at which it stopped.
	Fresh bool
	// Last says that nothing but Unlock follows under the lock if the step
	// succeeds. A session may give the lock back in the same round trip then.
	Last bool
}

// A StepResult is what came of a step.
type StepResult struct {
	// Duration is the time that the statements and their record took.
	Duration time.Duration
}

// A TogetherApplier is a [Session] that can apply several steps for little more
// than one costs: in one round trip, or with one wait for the disk.
type TogetherApplier interface {
	// ApplyTogether does what Apply does with the first of the steps, and with as
	// many after it as it can at the same time. A step that fails takes back
	// nothing of those before it. There is a result for each that was applied. An
	// error is that of the step after them.
	ApplyTogether(ctx context.Context, steps []Step) ([]StepResult, error)
}

// A ServerReporter is a [Session] that can tell about the server it is on.
type ServerReporter interface {
	// Server asks the server, in one round trip.
	Server(ctx context.Context) (ServerInfo, error)
}

// A ServerInfo is what a database server says of itself.
type ServerInfo struct {
	// Version is the product and its version, as "PostgreSQL 15.4".
	Version string
	// Connections are open of at most MaxConnections that an ordinary role may
	// have; both 0 for an engine without a server.
	Connections, MaxConnections int
	// ReadOnly says that the server takes no changes: a standby, for instance.
	ReadOnly bool
}

// A ProcessorCounter is a [Session] that can tell how many processors its server
// has, which decides how much it can do at once.
type ProcessorCounter interface {
	// Processors asks the server, in one round trip; 0 if it does not say.
	Processors(ctx context.Context) (int, error)
}

// A LeftoverFinder is a [Session] that can tell what statements which failed in
// the tenant have left behind.
type LeftoverFinder interface {
	// Leftovers finds them in one round trip.
	Leftovers(ctx context.Context) ([]Leftover, error)
}

// A Leftover is something that a failed statement left behind.
type Leftover struct {
	// What says what it is, with its name and what is wrong with it.
	What string
	// Remove is the statement that takes it away.
	Remove string
}

// A LockKeeper is a [Session] that can show and take away its tenant's locks.
type LockKeeper interface {
	// Holder says who has the tenant's lock, nil if nobody has.
	Holder(ctx context.Context) (*Holder, error)
	// Break ends the session that Holder found, and with it its lock.
	Break(ctx context.Context, holder Holder) error
	// ClearKnexLock sets Knex's lock row back to what it is when nobody has it,
	// and says whether it had been set.
	ClearKnexLock(ctx context.Context) (bool, error)
}

// A Holder is who has a tenant's lock.
type Holder struct {
	// ID is the database's own name for the session, or the process id for
	// SQLite.
	ID    string
	User  string    // the database role
	Host  string    // where the session comes from
	Name  string    // what the session calls itself
	Since time.Time // when the session or the lock began; zero if not known
}

func (h Holder) String() string {
	s := "session " + h.ID
	if h.Name != "" {
		s = h.Name + ", " + s
	}
	if h.User != "" {
		s += " of " + h.User
	}
	if h.Host != "" {
		s += " from " + h.Host
	}
	if !h.Since.IsZero() {
		s += ", since " + h.Since.Format(time.DateTime)
	}
	return s
}
