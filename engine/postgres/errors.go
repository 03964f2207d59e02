package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
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
		}
		return e
	}

	e := &skein.DatabaseError{Class: skein.Unreachable}
	if failed, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		err = failed.Unwrap() // its own text has the user and database only
	}
	// Each way that was tried has a line, and the same way may have two.
	lines := strings.Split(err.Error(), "\n")
	slices.Sort(lines)
	e.Message = secret.Scrub("connect to "+target.Server()+": "+strings.Join(slices.Compact(lines), "; "), target.Password)
	switch {
	case pgconn.Timeout(err):
		e.Message = fmt.Sprintf("connect to %s: no answer within %s", target.Server(), timeout)
	case !slices.ContainsFunc(lines, func(line string) bool { return !strings.Contains(line, "server refused TLS connection") }):
		e.Class = skein.Permanent
		e.Hint = "the server has no TLS, and the target's options (sslmode, channel_binding) demand it"
	case badCertificate(err):
		e.Class = skein.Permanent
		e.Hint = "the target's option sslrootcert names the file with the certificate of the authority that signed the server's"
	}
	return e
}

func badCertificate(err error) bool {
	_, verification := errors.AsType[*tls.CertificateVerificationError](err)
	_, authority := errors.AsType[x509.UnknownAuthorityError](err)
	_, name := errors.AsType[x509.HostnameError](err)
	_, invalid := errors.AsType[x509.CertificateInvalidError](err)
	return verification || authority || name || invalid
}

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

// serverError is an answer of the server.
func serverError(answer *pgconn.PgError, password secret.Secret) *skein.DatabaseError {
	return &skein.DatabaseError{
		Class:   classify(answer),
		Code:    answer.Code,
		Message: secret.Scrub(answer.Message, password),
		Detail:  secret.Scrub(answer.Detail, password),
		Hint:    secret.Scrub(answer.Hint, password),
	}
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
