package skein

import "time"

// An EventType is what happened.
type EventType string

// The events of a run, in the order in which a tenant meets them.
const (
	TenantStarted    EventType = "tenant_started" // not of one that is not connected to
	MigrationStarted EventType = "migration_started"
	MigrationOutput  EventType = "migration_output" // a line that a Knex migration printed
	MigrationEnded   EventType = "migration_ended"
	TenantRetried    EventType = "tenant_retried" // it met Err, and is tried again after Pause
	TenantEnded      EventType = "tenant_ended"
)

// The events of a database server, which are about no single tenant.
const (
	// ServerCrowded tells, once in a run, that a server has too many connections
	// (Err): at most Bound of its tenants are worked on at once until it has had
	// fewer for a while.
	ServerCrowded EventType = "server_crowded"
	// ServerDown tells that a server was given up on (Err). Its tenants are
	// reported without being tried; one of them is tried now and then.
	ServerDown EventType = "server_down"
	// ServerBack tells that a server which had been given up on answered.
	ServerBack EventType = "server_back"
	// ServerUnasked tells that a server could not be asked about its tenants
	// together at its own address (Err), so that each is connected to.
	ServerUnasked EventType = "server_unasked"
)

// An Event is one thing that happened in a run. Whoever shows or keeps what a
// run does learns it from these and from nothing else.
type Event struct {
	Type   EventType
	Time   time.Time
	Tenant Tenant

	// Of MigrationStarted, MigrationOutput and MigrationEnded. Several Knex
	// migrations that are one transaction have ended when all have. The migration
	// of an output is nil for what its file printed when it was loaded.
	Migration *Migration
	Direction Direction
	Duration  time.Duration
	Err       error

	Pause  time.Duration
	Server string // as Target.Server names it
	Bound  int

	// Output is the line, without its end, of a MigrationOutput.
	Output string

	// Result is what came of the tenant, in TenantEnded.
	Result *Result
}

// A Listener receives events. A fleet calls it from one goroutine at a time,
// and waits for it.
type Listener func(Event)

// A Result is what came of one tenant.
type Result struct {
	Tenant Tenant
	// Standing is how the tenant stood when its history was first read. Its
	// State is StateUnreachable if it could not be.
	Standing Standing
	// Source is how Standing is known.
	Source Source
	// Fingerprint is what Verify found.
	Fingerprint FingerprintState
	// History is empty if Source is FromFingerprint.
	History History
	// Stops are where the partial ones of Standing stopped, in their order.
	Stops []Stop
	// Holder is who is at work in the tenant right now, of one that was only
	// looked at and has a partial migration or Knex's lock set: what looks as if it
	// had stopped is then under way. Nil otherwise.
	Holder *Holder
	// Plan is what was, or would be, done.
	Plan Plan
	// Done are the steps that were carried out, in order.
	Done []DoneStep
	// Err is why the plan could not be made or carried out whole.
	Err      error
	Duration time.Duration
}

// A DoneStep is a migration that was applied, reverted or recorded.
type DoneStep struct {
	Migration *Migration
	Direction Direction
	Duration  time.Duration
}

// A Summary is what came of a run over many tenants.
type Summary struct {
	Tenants   int // that were begun
	Changed   int // that had something done, failed or not
	Unchanged int // that had nothing to do
	Failed    int
	// ByHistory and ByFingerprint are how many were not connected to, by Source.
	ByHistory, ByFingerprint int
	Steps                    int // migrations applied, reverted or recorded
	Duration                 time.Duration
	// Interrupted says that the run was asked to stop before its end.
	Interrupted bool
}
