package knex

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/secret"
)

// clean takes the target's password out of a text, also as Knex writes it into
// SQL: for PostgreSQL as E'...', for MySQL with a backslash before each quote.
func clean(text string, target skein.Target) string {
	password := target.Password.Reveal()
	secrets := []secret.Secret{target.Password}
	for _, form := range []string{
		password,
		strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(password),
		strings.NewReplacer(`\`, `\\`, `'`, `\'`, `"`, `\"`).Replace(password),
	} {
		// A ? that is not for a value has a backslash before it.
		secrets = append(secrets, secret.New(form), secret.New(strings.ReplaceAll(form, "?", `\?`)))
	}
	return secret.Scrub(text, secrets...)
}

// A goneError is a worker that ended by itself, and not by a call that could be
// seen.
type goneError struct{ words string }

func (e *goneError) Error() string { return "its Node process ended in the middle of it: " + e.words }

func (e *goneError) Hint() string {
	return "out of memory is the usual reason: load large data in parts"
}

// A timeoutError is a migration that took too long.
type timeoutError struct{ limit time.Duration }

func (e *timeoutError) Error() string {
	return fmt.Sprintf("it ran for longer than %s, and was ended together with its sessions at the server", e.limit)
}

func (e *timeoutError) Hint() string {
	return "a promise that never settles is the usual reason; where the migration needs longer, allow it more"
}

// A scriptError is what a migration's own code threw.
type scriptError struct{ msg, hint string }

func (e *scriptError) Error() string { return e.msg }
func (e *scriptError) Hint() string  { return e.hint }

// openError is why Knex or the knexfile could not be loaded.
func openError(p *project, e *errorMessage) error {
	if len(e.Looked) > 0 {
		return &projectError{
			msg:  fmt.Sprintf("there are Knex migrations to run, and %s: looked in %s", e.Message, strings.Join(e.Looked, ", ")),
			hint: "in the project's folder: npm install (or npm install knex); if this is not the project's folder, name it",
		}
	}
	msg := secret.Scrub(e.Message)
	if e.File != "" && e.Line > 0 {
		msg += fmt.Sprintf(" (%s:%d)", relativeTo(p.dir, e.File), e.Line)
	}
	if e.Stripped {
		return &projectError{msg: msg, hint: loaderHint}
	}
	return &projectError{msg: msg}
}

// loaderHint is for TypeScript that is more than JavaScript with types.
const loaderHint = "Node by itself only takes types out of TypeScript; for enums, imports without an extension, path aliases and types that are imported like values: npm install --save-dev tsx"

func relativeTo(dir, file string) string {
	if rel, err := filepath.Rel(dir, file); err == nil && !strings.HasPrefix(rel, "..") {
		return rel
	}
	return file
}

// fail is the error that a run ended with.
func (a *attempt) fail(m *message) error {
	e := m.Error
	switch {
	case e.Refused && a.refusal != nil:
		return a.refusal
	case e.Name == "MigrationLocked", e.Message == "Migration table is already locked":
		return fmt.Errorf("%w (Knex says: %s)", skein.ErrKnexLocked, e.Message)
	}
	err := a.cause(m)
	if a.knex.RecordOnly {
		return err
	}
	step := -1
	for i, f := range a.request.Files {
		if e.File == f.Path {
			step = i
		}
	}
	if step < 0 && m.Last >= 0 && m.Last < len(a.steps) && !a.steps[m.Last].Ended {
		step = m.Last
	}
	if step < 0 {
		return err
	}
	s := a.statementError(step, err)
	s.Statement = clean(e.Statement, a.target)
	if e.File == a.request.Files[step].Path {
		s.Line = e.Line
	}
	return s
}

// statementError is the error of a step.
func (a *attempt) statementError(step int, err error) *skein.StatementError {
	m := a.knex.Steps[step]
	return &skein.StatementError{Migration: m.Name, Direction: a.knex.Direction, Path: m.Path, Err: err}
}

// cause is what broke, in Skein's words.
func (a *attempt) cause(m *message) error {
	e := m.Error
	message := clean(e.Message, a.target)
	if e.Database {
		return &skein.DatabaseError{
			Class: classify(a.target.Engine, e), Code: e.Code, Message: message,
			Detail: clean(e.Detail, a.target), Hint: clean(e.Hint, a.target),
		}
	}
	if e.Name != "" && e.Name != "Error" && !strings.HasPrefix(message, e.Name) {
		message = e.Name + ": " + message
	}
	own := false
	for _, f := range a.request.Files {
		own = own || f.Path == e.File
	}
	if e.File != "" && e.Line > 0 && !own {
		message += fmt.Sprintf(" (%s:%d)", e.File, e.Line)
	}
	if e.Stripped {
		return &scriptError{msg: message, hint: loaderHint}
	}
	switch m.Kind {
	case "exit":
		return &scriptError{msg: message, hint: "a migration ends by returning, or by throwing an error: take the call out"}
	case "rejection":
		return &scriptError{msg: "a promise was rejected and nobody waited for it: " + message, hint: "await every query, or return its promise"}
	case "exception":
		return &scriptError{msg: "an exception was thrown outside of the migration's promise: " + message, hint: "errors in callbacks and timers have to reach the promise that up or down returns"}
	}
	return &scriptError{msg: message}
}

// classify says what can be done about an error of a database, or of the way to
// it, by its code: a SQLSTATE, a MySQL error number, the name of a SQLite result
// code, or what Node calls an error of the network.
func classify(engine string, e *errorMessage) skein.Class {
	switch e.Code {
	case "ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "EHOSTUNREACH", "ENETUNREACH", "ETIMEDOUT", "ENOENT":
		return skein.Unreachable
	case "ECONNRESET", "EPIPE", "PROTOCOL_CONNECTION_LOST":
		return skein.ConnectionLost
	}
	switch engine {
	case skein.PostgreSQL:
		switch {
		case e.Code == "42501", strings.HasPrefix(e.Code, "28"):
			return skein.Denied
		case e.Code == "3D000":
			return skein.NoDatabase
		case e.Code == "55P03":
			return skein.Busy
		case e.Code == "53300":
			return skein.Crowded
		case e.Code == "40001", e.Code == "40P01", e.Code == "57P03":
			return skein.Transient
		case e.Code == "57P01", e.Code == "57P02", strings.HasPrefix(e.Code, "08"):
			return skein.ConnectionLost
		}
	case skein.MySQL:
		switch e.Code {
		case "1044", "1045", "1142", "1143", "1227", "1370", "1698":
			return skein.Denied
		case "1049":
			return skein.NoDatabase
		case "1205", "3572":
			return skein.Busy
		case "1040", "1203":
			return skein.Crowded
		case "1213", "1226":
			return skein.Transient
		case "1927", "2006", "2013", "4031":
			return skein.ConnectionLost
		}
	case skein.SQLite:
		if strings.HasPrefix(e.Code, "SQLITE_BUSY") || strings.HasPrefix(e.Code, "SQLITE_LOCKED") {
			return skein.Busy
		}
		if strings.HasPrefix(e.Code, "SQLITE_CANTOPEN") {
			return skein.NoDatabase
		}
	}
	return skein.Permanent
}
