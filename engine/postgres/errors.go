package postgres

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/secret"
)

// connectError is what came of connecting to a target.
func connectError(ctx context.Context, target skein.Target, timeout time.Duration, err error) error {
	if cause := ctx.Err(); cause != nil {
		return fmt.Errorf("connect to %s: %w", target.Server(), cause)
	}
	if answer, ok := errors.AsType[*pgconn.PgError](err); ok {
		e := serverError(answer, target.Password)
		switch {
		case refusesSettings(err):
			e.Hint = "a pooler like PgBouncer does not take this with the login: take it out of the target's options, or " + poolerHint
		case strings.HasPrefix(e.Code, "08"): // connection exception, of a pooler
			e.Class = skein.Unreachable
		case strings.HasPrefix(e.Code, "57P"): // operator intervention: it shuts down, or was told to end this
			e.Class = skein.Transient
		case e.Code == "42704" && e.Hint == "":
			e.Hint = "the target has an option that this server does not know: take it out"
		case strings.HasPrefix(e.Code, "28") && e.Hint == "":
			e.Hint = "check the tenant's user and password, and the server's pg_hba.conf"
		case e.Code == "3D000" && e.Hint == "":
			e.Hint = "check the name of the tenant's database: it is not made by migrating it, but by skein provision"
		}
		return e
	}

	e := &skein.DatabaseError{Class: skein.Unreachable, Hint: unreachableHint}
	if failed, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		err = failed.Unwrap() // its own text has the user and database only
	}
	// Each way that was tried has a line, and the same way may have two.
	lines := strings.Split(err.Error(), "\n")
	for i, line := range lines {
		if m := dialError.FindStringSubmatch(line); m != nil {
			lines[i] = m[2]
			if !strings.HasSuffix(target.Server(), "//"+m[1]) {
				lines[i] = m[1] + ": " + m[2]
			}
		}
	}
	slices.Sort(lines)
	e.Message = secret.Scrub("connect to "+target.Server()+": "+strings.Join(slices.Compact(lines), "; "), target.Password)
	switch {
	case pgconn.Timeout(err):
		e.Message = fmt.Sprintf("connect to %s: no answer within %s", target.Server(), timeout)
	case !slices.ContainsFunc(lines, func(line string) bool {
		return !strings.Contains(line, "server refused TLS connection") && !strings.Contains(line, "channel binding required")
	}):
		e.Class = skein.Permanent
		e.Hint = "the server has no TLS, and the target's options (sslmode, channel_binding) demand it"
	case badCertificate(err):
		e.Class = skein.Permanent
		e.Hint = "the target's option sslrootcert names the file with the certificate of the authority that signed the server's"
	}
	return e
}

// dialError is what pgconn says of an address that cannot be reached: the
// address twice, and the steps that led to it.
var dialError = regexp.MustCompile(`^\S+ \(.*?\): dial error: dial \w+ (\S+): (?:connect: )?(.+)$`)

func badCertificate(err error) bool {
	_, verification := errors.AsType[*tls.CertificateVerificationError](err)
	_, authority := errors.AsType[x509.UnknownAuthorityError](err)
	_, name := errors.AsType[x509.HostnameError](err)
	_, invalid := errors.AsType[x509.CertificateInvalidError](err)
	return verification || authority || name || invalid
}

const unreachableHint = "see whether the server runs there, and can be reached from this machine"

// fail is an error of a session as the engine returns it: cleaned, and also the
// context's if that has ended.
func (s *session) fail(ctx context.Context, err error) error {
	cause := ctx.Err()
	answer, ok := errors.AsType[*pgconn.PgError](err)
	switch {
	case !ok && cause != nil:
		return cause
	case !ok:
		return &skein.DatabaseError{
			Class:   skein.ConnectionLost,
			Message: secret.Scrub("the connection ended: "+err.Error(), s.target.Password),
			Hint:    "the server, or the network to it, ended the connection: see the server's log, and try again",
		}
	}
	e := serverError(answer, s.target.Password)
	if fatal(answer) {
		e.Class = skein.ConnectionLost
	}
	if cause != nil {
		return fmt.Errorf("%w: %w", cause, e)
	}
	return e
}

// fatal says whether the server ends the session after an answer.
func fatal(answer *pgconn.PgError) bool {
	return answer.SeverityUnlocalized == "FATAL" || answer.SeverityUnlocalized == "PANIC"
}

// hints say what to do about answers to which the server itself adds nothing.
var hints = map[string]string{
	"55P03": "another session holds the table: try again later, or raise limits.lock_timeout",
	"40P01": "it and another session waited for each other again and again: try when less is going on",
	"40001": "another session changed the same rows again and again: try when less is going on",
	"53300": "lower limits.per_server, or this server's own limit under servers; or let the server, or the role, have more connections",
	"57P03": "the server starts, stops or recovers: try again when it is up",
	"57P01": "the server, or an administrator, ended the session: try again",
	"57P02": "the server restarts after a crash: try again",
	"53100": "make room on the disk of the server",

	readOnlyTransaction: "the server is a standby, or default_transaction_read_only is on for it, its database or the role: migrate where changes are taken",
}

// serverError is an answer of the server.
func serverError(answer *pgconn.PgError, password secret.Secret) *skein.DatabaseError {
	return &skein.DatabaseError{
		Class:   classify(answer),
		Code:    answer.Code,
		Message: secret.Scrub(answer.Message, password),
		Detail:  secret.Scrub(answer.Detail, password),
		Hint:    cmp.Or(secret.Scrub(answer.Hint, password), hints[answer.Code]),
	}
}

const readOnlyTransaction = "25006"

// What a role lacks, as far as the server says it in English.
var (
	notOwner   = regexp.MustCompile(`^must be owner of (\S+) (.+)$`)
	notGranted = regexp.MustCompile(`^permission denied for (\S+) (.+)$`)
)

// rightHint says how the role could be given the right that a statement lacks.
func rightHint(message, role string) string {
	role = quoteIdent(role)
	if m := notOwner.FindStringSubmatch(message); m != nil {
		return fmt.Sprintf("only its owner may do this: an administrator can make the role one (ALTER %s %s OWNER TO %s), or a member of the owner (GRANT the owner TO %[3]s)",
			strings.ToUpper(m[1]), m[2], role)
	}
	if m := notGranted.FindStringSubmatch(message); m != nil {
		right := "ALL"
		if m[1] == "schema" {
			right = "CREATE, USAGE"
		}
		kind := strings.ToUpper(m[1])
		if kind == "VIEW" {
			kind = "TABLE"
		}
		return fmt.Sprintf("an administrator can give the right: GRANT %s ON %s %s TO %s", right, kind, m[2], role)
	}
	return fmt.Sprintf("the role %s lacks a right that an administrator, or the owner of what the statement names, can GRANT", role)
}

// A foreignTable is the error of a table that has the name of one that is read
// and is not that.
func foreignTable(table, what string) error {
	e := &skein.DatabaseError{
		Class: skein.Permanent, Code: "42703",
		Message: fmt.Sprintf("the table %s is there and is not Skein's: %s", table, what),
		Hint:    "if it is another program's, rename it: Skein keeps its history under this name",
	}
	if table != skein.HistoryTable {
		e.Message = fmt.Sprintf("the table %s is there and is not Knex's: %s", table, what)
		e.Hint = "migrations.table in skein.yaml is the name of Knex's table"
	}
	return e
}

// classify says what can be done about an answer. The codes are in
// https://www.postgresql.org/docs/current/errcodes-appendix.html.
func classify(answer *pgconn.PgError) skein.Class {
	switch answer.Code {
	case "42501": // insufficient_privilege
		return skein.Denied
	case "3D000": // invalid_catalog_name
		return skein.NoDatabase
	case "55P03": // lock_not_available, which is also lock_timeout
		return skein.Busy
	case "40001", "40P01", // serialization_failure, deadlock_detected
		"57P03": // cannot_connect_now
		return skein.Transient
	case "53300": // too_many_connections
		return skein.Crowded
	}
	if strings.HasPrefix(answer.Code, "28") { // invalid authorization
		return skein.Denied
	}
	return skein.Permanent
}

// withHint gives a Denied answer without a hint one.
func withHint(err error, hint string) error {
	if e, ok := errors.AsType[*skein.DatabaseError](err); ok && e.Class == skein.Denied && e.Hint == "" {
		e.Hint = hint
	}
	return err
}
