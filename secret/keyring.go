package secret

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

var (
	// ErrFormat says that a value is not in the configured format: it was
	// cut short, was never encrypted, or was written in another format.
	ErrFormat = errors.New("the value is not in the format")

	// ErrNotPlausible says that no key of the ring turns an AES-256-CBC value
	// into a plausible password: the key or the derivation is wrong. CBC
	// cannot tell more.
	ErrNotPlausible = errors.New("the value does not decrypt to a plausible password: wrong encryption.key, or wrong encryption.derivation")

	// ErrUnknownKey says that a value was sealed with a key that is not in
	// the ring.
	ErrUnknownKey = errors.New("the value was sealed with a key that is not given")

	// ErrNotAuthentic says that a value was altered since it was sealed, or
	// was sealed for another tenant or field.
	ErrNotAuthentic = errors.New("the value was altered, or sealed for another tenant or field")
)

// WriteMode names what [Keyring.Seal] writes.
type WriteMode string

// The write modes.
const (
	WriteGCM WriteMode = "gcm" // authenticated and bound to tenant and field
	WriteCBC WriteMode = "cbc" // in the configured CBC format, for applications that read no other
)

// KeyringOptions are the settings under encryption in skein.yaml, but for the
// key itself.
type KeyringOptions struct {
	// Previous are keys that values may still be encrypted with, most recent
	// first. Empty ones are left out.
	Previous []Secret

	// Format is that of CBC values. Defaults to [DefaultFormat].
	Format Format

	// Derivation makes the AES key of CBC values, from the previous keys as
	// from the current. Defaults to [DefaultDerivation]. It has no part in
	// values sealed with GCM.
	Derivation Derivation

	// Write is what Seal writes. Defaults to [WriteGCM].
	Write WriteMode
}

// Binding says where a value belongs. A value sealed with GCM opens with the
// same binding only, so that it is of no use in another tenant's row. Both
// parts are needed.
type Binding struct {
	Tenant string // the tenant's id, which never changes
	Field  string // the column, such as password
}

func (b Binding) check() error {
	if b.Tenant == "" || b.Field == "" || strings.Contains(b.Tenant+b.Field, "\x00") {
		return fmt.Errorf("bind encrypted value: tenant %q and field %q must be given, without NUL", b.Tenant, b.Field)
	}
	return nil
}

// Keyring opens and seals passwords. It is immutable, safe for concurrent use,
// and prints as little as a [Secret] does.
type Keyring struct {
	format  format
	write   WriteMode
	current string
	keys    func() []ringKey // current first; behind a func, as in Secret
}

type ringKey struct {
	id  string
	cbc cbcKey
	gcm cipher.AEAD
}

// NewKeyring returns a keyring that seals with key and opens with key and the
// previous keys. The error is a [*KeyError] if a key does not fit the
// derivation. With the derivations scrypt and pbkdf2 it takes some 50 ms a key.
func NewKeyring(key Secret, opts KeyringOptions) (*Keyring, error) {
	f, err := findFormat(opts.Format)
	if err != nil {
		return nil, err
	}
	d, err := findDerivation(opts.Derivation)
	if err != nil {
		return nil, err
	}
	if f.salted() != (d.name == evpMD5) {
		return nil, fmt.Errorf("encryption.format %s does not go with encryption.derivation %s: %s is for the formats without an IV, openssl-base64 and ciphertext-hex, and they need it", f.name, d.name, evpMD5)
	}
	switch opts.Write {
	case "":
		opts.Write = WriteGCM
	case WriteGCM:
	case WriteCBC:
		if f.head == 0 {
			return nil, fmt.Errorf("encryption.write: cbc cannot write the format %s, in which equal passwords look equal; use gcm", f.name)
		}
	default:
		return nil, fmt.Errorf("encryption.write: %q is not known; use gcm or cbc", opts.Write)
	}

	current, err := newRingKey("encryption.key", key, d)
	if err != nil {
		return nil, err
	}
	keys := []ringKey{current}
	for _, previous := range opts.Previous {
		if previous.IsZero() || previous.Equal(key) {
			continue
		}
		k, err := newRingKey("encryption.previous_key", previous, d)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return &Keyring{f, opts.Write, current.id, func() []ringKey { return keys }}, nil
}

func newRingKey(setting string, key Secret, d derivation) (ringKey, error) {
	text := key.Reveal()
	switch {
	case text == "":
		return ringKey{}, fmt.Errorf("%s is empty: set it to the key that the passwords are encrypted with", setting)
	case !utf8.ValidString(text):
		return ringKey{}, fmt.Errorf("%s is not text in UTF-8: give a binary key in hex or base64, with encryption.derivation to match", setting)
	}
	aesKey, ok := d.key(text)
	if !ok {
		return ringKey{}, newKeyError(setting, d, text)
	}
	gcm, err := newGCM(text)
	if err != nil {
		return ringKey{}, fmt.Errorf("derive key: %w", err)
	}
	return ringKey{KeyID(key), cbcKey{aesKey, text}, gcm}, nil
}

// KeyID names a key in 8 hexadecimal digits: the first of
// HMAC-SHA256(key, "skein key id"). It tells keys apart and says nothing of a
// key that cannot be guessed.
func KeyID(key Secret) string {
	mac := hmac.New(sha256.New, []byte(key.Reveal()))
	mac.Write([]byte("skein key id"))
	return hex.EncodeToString(mac.Sum(nil)[:4])
}

// Writes returns what Seal writes.
func (k *Keyring) Writes() WriteMode { return k.write }

// Format returns the format of CBC values.
func (k *Keyring) Format() Format { return k.format.name }

// Current returns the id of the key that Seal uses.
func (k *Keyring) Current() string { return k.current }

// KeyIDs returns the ids of all keys, the current one first.
func (k *Keyring) KeyIDs() []string {
	var ids []string
	for _, key := range k.keys() {
		ids = append(ids, key.id)
	}
	return ids
}

// Open decrypts a value and returns the id of the key that opened it.
//
// A value sealed with GCM is proven to be what was sealed for this binding;
// the errors are [ErrFormat], [ErrUnknownKey] and [ErrNotAuthentic]. Any other
// value is read in the configured CBC format, which has no binding, with the
// current key and then the previous ones; the errors are [ErrFormat] and
// [ErrNotPlausible]. That CBC gave a plausible password proves nothing: for
// each wrong key tried there is a chance of about 1 in 40 million that it does.
// Whoever goes on to overwrite the value has to connect with the password
// first.
//
// No error holds anything of the value or of the plaintext.
func (k *Keyring) Open(value string, b Binding) (plain Secret, keyID string, err error) {
	if strings.HasPrefix(value, sealedFamily) {
		return k.openSealed(value, b)
	}
	head, ciphertext, err := k.format.parse(value)
	if err != nil {
		return Secret{}, "", err
	}
	for _, key := range k.keys() {
		if plain, ok := key.cbc.open(head, ciphertext); ok {
			return New(plain), key.id, nil
		}
	}
	return Secret{}, "", ErrNotPlausible
}

// Seal encrypts plain with the current key, with a random nonce or IV. A
// password of n bytes becomes 18 + (28+n)*4/3 characters, 98 for 32 bytes.
//
// With [WriteCBC] a password that Open would not find plausible is refused.
func (k *Keyring) Seal(plain Secret, b Binding) (string, error) {
	if err := b.check(); err != nil {
		return "", err
	}
	key := k.keys()[0]
	if k.write == WriteGCM {
		sealed := key.gcm.Seal(nil, nil, []byte(plain.Reveal()), sealedAAD(key.id, b))
		return sealedPrefix + key.id + ":" + base64.RawURLEncoding.EncodeToString(sealed), nil
	}
	text := plain.Reveal()
	if !plausible([]byte(text)) {
		return "", errors.New("seal password: it has control characters, is not UTF-8 or is longer than 4096 bytes; with encryption.write: cbc it could not be told from what a wrong key gives")
	}
	head := make([]byte, k.format.head)
	_, _ = rand.Read(head) // never fails
	return k.format.join(head, key.cbc.seal(head, text)), nil
}

// The form of a sealed value is skein:v1:<key id>:<base64url of nonce,
// ciphertext and tag>, without padding.
const (
	sealedFamily = "skein:"
	sealedPrefix = sealedFamily + "v1:"
)

// IsSealed reports whether value is in the form that [Keyring.Seal] writes with
// [WriteGCM]. It does not open it.
func IsSealed(value string) bool { return strings.HasPrefix(value, sealedPrefix) }

func (k *Keyring) openSealed(value string, b Binding) (Secret, string, error) {
	rest, ok := strings.CutPrefix(value, sealedPrefix)
	if !ok {
		return Secret{}, "", fmt.Errorf("%w skein:v1; a newer Skein may have written it", ErrFormat)
	}
	id, body, ok := strings.Cut(rest, ":")
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if _, badID := hex.DecodeString(id); !ok || err != nil || badID != nil || len(id) != 8 {
		return Secret{}, "", fmt.Errorf("%w skein:v1; it may have been cut short", ErrFormat)
	}
	if err := b.check(); err != nil {
		return Secret{}, "", err
	}
	known := false
	for _, key := range k.keys() { // two keys can share an id, once in 4 billion
		if key.id != id {
			continue
		}
		known = true
		if plain, err := key.gcm.Open(nil, nil, sealed, sealedAAD(id, b)); err == nil {
			return New(string(plain)), id, nil
		}
	}
	if !known {
		return Secret{}, "", fmt.Errorf("%w: it has the id %s; given are %s", ErrUnknownKey, id, list(k.KeyIDs()))
	}
	return Secret{}, "", ErrNotAuthentic
}

// sealedAAD ties a value to its form, key, tenant and field. None of them holds
// NUL, so no two bindings give the same bytes.
func sealedAAD(keyID string, b Binding) []byte {
	return []byte(strings.Join([]string{"skein:v1", keyID, b.Tenant, b.Field}, "\x00"))
}

// newGCM returns AES-256-GCM with random nonces. Its key comes from the key's
// text by HKDF-SHA256 (RFC 5869) with a name of its own, so that it is never
// one that CBC is used with, and does not change with the derivation.
func newGCM(text string) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, []byte(text), nil, "skein aes-256-gcm v1", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
