package cli

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/ui"
)

// A pause is a tenant that is tried again later.
type pause struct {
	slug  string
	until time.Time
}

// noteTrouble notes an event of trouble that may pass, and returns the line that
// stays, if there is one.
func (r *textReport) noteTrouble(e skein.Event) string {
	term, server := r.app.term, ui.Printable(e.Server)
	switch e.Type {
	case skein.TenantRetried:
		r.paused[e.Tenant.ID] = pause{slug: e.Tenant.Slug, until: e.Time.Add(e.Pause)}
		since := r.running[e.Tenant.ID].since
		if was, again := r.retried[e.Tenant.ID]; again {
			since = was.since
		}
		r.retried[e.Tenant.ID] = running{slug: e.Tenant.Slug, since: since, why: oneLine(e.Err)}
		delete(r.running, e.Tenant.ID)
		if r.each {
			return fmt.Sprintf("%s %s  %s; tried again in %s", term.OnErr(ui.Yellow, "↻"), ui.Printable(e.Tenant.Slug), ui.Printable(oneLine(e.Err)), ui.Took(e.Pause))
		}
	case skein.ServerCrowded:
		return fmt.Sprintf("%s %s  too many connections: at most %s at once there for a while (%s)", term.OnErr(ui.Yellow, "!"), server, ui.Plural(e.Bound, "tenant"), ui.Printable(e.Err.Error()))
	case skein.ServerDown:
		return fmt.Sprintf("%s %s  cannot be reached; its tenants are left for now (%s)", term.OnErr(ui.Red, "✗"), server, ui.Printable(e.Err.Error()))
	case skein.ServerBack:
		return fmt.Sprintf("%s %s  is back", term.OnErr(ui.Green, "✓"), server)
	case skein.ServerUnasked:
		return fmt.Sprintf("%s %s  cannot be asked about its tenants together, and each is connected to (%s)", term.OnErr(ui.Yellow, "!"), server, ui.Printable(e.Err.Error()))
	}
	return ""
}

// pausedText is the part of the live line about tenants that are tried again
// later.
func (r *textReport) pausedText() string {
	now := time.Now()
	var waiting []pause
	for _, p := range r.paused {
		if p.until.After(now) {
			waiting = append(waiting, p)
		}
	}
	if len(waiting) == 0 {
		return ""
	}
	slices.SortFunc(waiting, func(a, b pause) int { return cmp.Or(a.until.Compare(b.until), strings.Compare(a.slug, b.slug)) })
	slugs := make([]string, len(waiting))
	for i, p := range waiting {
		slugs[i] = p.slug
	}
	return "  tried again soon: " + ui.Printable(ui.Names(slugs, 2, len(slugs)))
}

// unreachable says whether a failure is that of a tenant's server.
func unreachable(err error) bool {
	_, broke := errors.AsType[*skein.StatementError](err)
	return !broke && skein.ErrorClass(err) == skein.Unreachable
}

// failureKey is equal for failures that are told as one.
func failureKey(r skein.Result) string {
	if unreachable(r.Err) {
		return "unreachable: " + r.Tenant.Target.Server()
	}
	if e, ok := errors.AsType[*skein.StatementError](r.Err); ok && e.Index > 0 {
		if d, ok := errors.AsType[*skein.DatabaseError](e.Err); ok && d.Code != "" {
			return fmt.Sprintf("%s %d %s %t %d %s", e.Path, e.Index, e.Direction, e.Partial, e.Kept, d.Code)
		}
	}
	return alike(r.Tenant, r.Err.Error())
}

// alike is a text without what it names of a tenant.
func alike(t skein.Tenant, text string) string {
	for _, own := range []string{t.Target.Database, t.Target.User, t.Target.Schema, t.Slug} {
		if len(own) > 2 { // what is shorter may be a part of any word
			text = strings.ReplaceAll(text, own, "…")
		}
	}
	return text
}

// A jsonRetry is a tenant that is tried again.
type jsonRetry struct {
	Event   string     `json:"event"` // "retry"
	Time    time.Time  `json:"time"`
	ID      string     `json:"id"`
	Slug    string     `json:"slug"`
	Error   *jsonError `json:"error"`
	PauseMS int64      `json:"pause_ms"`
}

// A jsonServer is a database server in trouble, or out of it.
type jsonServer struct {
	Event    string     `json:"event"` // "server"
	Time     time.Time  `json:"time"`
	Server   string     `json:"server"`
	Result   string     `json:"result"` // crowded, down, back, unasked
	Parallel int        `json:"parallel,omitempty"`
	Error    *jsonError `json:"error,omitempty"`
}

// trouble writes an event of trouble that may pass.
func (r *jsonReport) trouble(e skein.Event) {
	switch e.Type {
	case skein.TenantRetried:
		r.write(jsonRetry{Event: "retry", Time: e.Time.UTC(), ID: e.Tenant.ID, Slug: e.Tenant.Slug, Error: errorJSON(e.Err), PauseMS: e.Pause.Milliseconds()})
	case skein.ServerCrowded:
		r.write(jsonServer{Event: "server", Time: e.Time.UTC(), Server: e.Server, Result: "crowded", Parallel: e.Bound, Error: errorJSON(e.Err)})
	case skein.ServerDown:
		r.write(jsonServer{Event: "server", Time: e.Time.UTC(), Server: e.Server, Result: "down", Error: errorJSON(e.Err)})
	case skein.ServerBack:
		r.write(jsonServer{Event: "server", Time: e.Time.UTC(), Server: e.Server, Result: "back"})
	case skein.ServerUnasked:
		r.write(jsonServer{Event: "server", Time: e.Time.UTC(), Server: e.Server, Result: "unasked", Error: errorJSON(e.Err)})
	}
}
