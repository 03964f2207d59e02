package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skeinhq/skein"
)

// The shapes of --json are an interface, described in docs/json.md. Fields may
// be added to them; none changes its meaning.

type jsonTenant struct {
	Event   string     `json:"event"` // "tenant"
	Time    time.Time  `json:"time"`
	ID      string     `json:"id"`
	Slug    string     `json:"slug"`
	Target  string     `json:"target"`
	Result  string     `json:"result"`                // changed, unchanged, failed, interrupted
	State   string     `json:"state"`                 // before the run
	Source  string     `json:"source,omitempty"`      // how the state is known: connection, history, fingerprint
	Print   string     `json:"fingerprint,omitempty"` // of verify: right, missing, wrong, refused, needless
	Version string     `json:"version,omitempty"`
	Done    []jsonStep `json:"done,omitempty"`
	Plan    []jsonStep `json:"plan,omitempty"`
	// Migrations are told of a tenant whose status was asked for by name.
	Migrations []jsonMigration `json:"migrations,omitempty"`
	Pending    *int            `json:"pending,omitempty"`
	Warnings   []string        `json:"warnings,omitempty"`
	Error      *jsonError      `json:"error,omitempty"`
	DurationMS int64           `json:"duration_ms"`
}

type jsonStep struct {
	Migration  string `json:"migration"`
	Direction  string `json:"direction"`
	DurationMS *int64 `json:"duration_ms,omitempty"`
}

// A jsonMigration is how a migration stands in a tenant.
type jsonMigration struct {
	Migration  string     `json:"migration"`
	State      string     `json:"state"` // applied, pending, out of order, edited, missing, partial
	Batch      int        `json:"batch,omitempty"`
	AppliedAt  *time.Time `json:"applied_at,omitempty"`
	DurationMS *int64     `json:"duration_ms,omitempty"`
	By         string     `json:"by,omitempty"`
	Tool       string     `json:"tool,omitempty"`
	Done       *int       `json:"done,omitempty"` // statements of a partial one
	Statements *int       `json:"statements,omitempty"`

	// Where a partial one stopped:
	Direction      string `json:"direction,omitempty"`
	StatementIndex int    `json:"statement_index,omitempty"`
	File           string `json:"file,omitempty"`
	Line           int    `json:"line,omitempty"`
	Statement      string `json:"statement,omitempty"`
}

type jsonError struct {
	// Kind is statement, refused, locked, database, file or other.
	Kind    string `json:"kind"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`

	Class  string `json:"class,omitempty"` // of a database error
	Code   string `json:"code,omitempty"`
	Detail string `json:"detail,omitempty"`

	Migration      string `json:"migration,omitempty"`
	File           string `json:"file,omitempty"`
	Line           int    `json:"line,omitempty"`
	Statement      string `json:"statement,omitempty"`
	StatementIndex int    `json:"statement_index,omitempty"`
	Statements     int    `json:"statements,omitempty"`
	Partial        bool   `json:"partial,omitempty"`

	Undone []string `json:"undone,omitempty"` // migrations that shared its transaction

	Reason     string   `json:"reason,omitempty"` // of a refusal
	Migrations []string `json:"migrations,omitempty"`
}

type jsonSummary struct {
	Event       string `json:"event"` // "summary"
	Tenants     int    `json:"tenants"`
	Changed     int    `json:"changed"`
	Unchanged   int    `json:"unchanged"`
	Failed      int    `json:"failed"`
	Migrations  int    `json:"migrations"`
	Interrupted bool   `json:"interrupted"`
	DurationMS  int64  `json:"duration_ms"`
	ByPrint     int    `json:"by_fingerprint"`
	ByHistory   int    `json:"by_history"`
	GoOnWith    string `json:"go_on_with,omitempty"`
}

// A jsonFault is why a command could do nothing, or not go on.
type jsonFault struct {
	Event string     `json:"event"` // "error"
	Error *jsonError `json:"error"`
}

// writeJSON writes one object a line.
func (a *app) writeJSON(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	_, err = a.Out.Write(append(data, '\n'))
	return err
}

// jsonReport is for programs: one JSON object a line.
type jsonReport struct {
	app      *app
	failures failures
	err      error // the first that writing met
}

func (r *jsonReport) begin() {}

func (r *jsonReport) event(e skein.Event) {
	if e.Type != skein.TenantEnded {
		r.trouble(e)
		return
	}
	res := r.app.told(*e.Result)
	if res.Err != nil && !errors.Is(res.Err, skein.ErrInterrupted) {
		r.failures.add(res)
	}
	r.write(tenantJSON(res, false))
}

func (r *jsonReport) end(sum skein.Summary, next nextStep) error {
	s := jsonSummary{
		Event: "summary", Tenants: sum.Tenants, Changed: sum.Changed, Failed: sum.Failed,
		Unchanged:  sum.Unchanged,
		Migrations: sum.Steps, Interrupted: sum.Interrupted, DurationMS: sum.Duration.Milliseconds(),
		ByPrint: sum.ByFingerprint, ByHistory: sum.ByHistory,
	}
	if sum.Failed > 0 || sum.Interrupted {
		s.GoOnWith, _ = next(r.failures)
	}
	r.write(s)
	return r.err
}

func (r *jsonReport) write(v any) {
	if err := r.app.writeJSON(v); err != nil && r.err == nil {
		r.err = err
	}
}

// tenantJSON is what came of a tenant; with plan also what was not done.
func tenantJSON(r skein.Result, plan bool) jsonTenant {
	j := jsonTenant{
		Event: "tenant", Time: time.Now().UTC(), ID: r.Tenant.ID, Slug: r.Tenant.Slug, Target: r.Tenant.Target.String(),
		State: string(r.Standing.State), Source: string(r.Source), Print: string(r.Fingerprint), Warnings: r.Plan.Warnings, DurationMS: r.Duration.Milliseconds(), Result: "unchanged",
	}
	if r.Standing.Newest != nil {
		j.Version = r.Standing.Newest.Version
	}
	for _, d := range r.Done {
		ms := d.Duration.Milliseconds()
		j.Done = append(j.Done, jsonStep{Migration: d.Migration.Name, Direction: string(d.Direction), DurationMS: &ms})
	}
	if len(r.Done) > 0 {
		j.Result = "changed"
	}
	if plan {
		for _, m := range r.Plan.Steps {
			j.Plan = append(j.Plan, jsonStep{Migration: m.Name, Direction: string(r.Plan.Direction)})
		}
		if r.Standing.State != skein.StateUnreachable {
			n := len(r.Standing.Pending)
			j.Pending = &n
		}
	}
	switch {
	case errors.Is(r.Err, skein.ErrInterrupted):
		j.Result = "interrupted"
	case r.Err != nil:
		j.Result = "failed"
		j.Error = errorJSON(r.Err)
	}
	return j
}

func errorJSON(err error) *jsonError {
	j := &jsonError{Kind: "other", Message: err.Error(), Hint: skein.Hint(err)}
	if e, ok := errors.AsType[*skein.DatabaseError](err); ok {
		j.Kind, j.Class, j.Code, j.Detail, j.Message = "database", string(e.Class), e.Code, e.Detail, e.Message
	}
	if e, ok := errors.AsType[*skein.StatementError](err); ok {
		j.Kind, j.Migration, j.File, j.Line = "statement", e.Migration, e.Path, e.Line
		j.Statement, j.StatementIndex, j.Statements, j.Partial = e.Statement, e.Index, e.Total, e.Partial
		j.Undone = e.Undone
	}
	if e, ok := errors.AsType[*skein.RefusedError](err); ok {
		j.Kind, j.Reason, j.Migrations = "refused", string(e.Reason), e.Names
	}
	if _, ok := errors.AsType[*skein.LockedError](err); ok {
		j.Kind = "locked"
	}
	if e, ok := errors.AsType[*skein.FileError](err); ok {
		j.Kind, j.File, j.Line, j.Message = "file", e.Path, e.Line, e.Msg
	}
	return j
}
