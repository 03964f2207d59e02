// Package secret keeps passwords and keys from being seen: a string that
// cannot be printed, a cleaner for texts and errors, and the keyring that
// opens and seals the passwords kept in a table of tenants.
//
// Two kinds of encrypted value are read. A value that begins with
// "skein:v1:" was sealed by [Keyring.Seal]: AES-256-GCM, authenticated, and
// bound to its tenant and field. Any other value is read as AES-256-CBC in
// the [Format] and with the [Derivation] that the keyring was made with, as
// Node applications write it. Nothing is guessed: [Probe] says what would
// have opened a value, and a person decides.
package secret

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// mask stands in a text where a secret was.
const mask = "[redacted]"

// Secret is a string that no formatting verb, logger, encoder or panic prints.
// A secret prints as "[redacted]", the empty secret as "". The zero value is
// the empty secret.
//
// Secrets are compared with [Secret.Equal]; == does not compile, and
// reflect.DeepEqual calls no two secrets equal unless both are empty. A Secret
// is immutable and safe for concurrent use.
type Secret struct {
	// fmt calls no methods on the unexported fields of other people's
	// structs, and printers built on reflection follow pointers. They stop
	// at a func, which is also what makes == a compile error.
	reveal func() string
}

// New hides value.
func New(value string) Secret {
	if value == "" {
		return Secret{}
	}
	return Secret{reveal: func() string { return value }}
}

// Reveal returns the hidden string, for the one place that needs it.
func (s Secret) Reveal() string {
	if s.reveal == nil {
		return ""
	}
	return s.reveal()
}

// IsZero reports whether the secret is empty. Encoders ask it for omitzero.
func (s Secret) IsZero() bool { return s.reveal == nil }

// Equal reports whether both hide the same string. The time it takes depends
// on the lengths alone. go-cmp finds and uses this method.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

// String returns "[redacted]", or "" for the empty secret.
func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return mask
}

// Format prints what [Secret.String] returns, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue logs what [Secret.String] returns.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText writes what [Secret.String] returns; JSON, XML and YAML encoders
// use it.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText hides text. It refuses "[redacted]", which is a secret that
// was marshalled, and so lost, before.
func (s *Secret) UnmarshalText(text []byte) error {
	if string(text) == mask {
		return errors.New("read secret: it was replaced by " + mask + " when it was written; enter it again")
	}
	*s = New(string(text))
	return nil
}
