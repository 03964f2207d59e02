package secret

import (
	"crypto/md5" //nolint:gosec // old values were encrypted with it; nothing new relies on it
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"

	"golang.org/x/crypto/scrypt"
)

// Derivation names how the 32-byte AES key of the CBC formats is made from the
// text of DB_ENCRYPTION_KEY. [Derivations] lists the names.
type Derivation string

// DefaultDerivation takes the text's 32 bytes as they stand.
const DefaultDerivation Derivation = "utf8"

// evpMD5 makes the IV together with the key, from a salt that stands in the
// value: the EVP_BytesToKey of OpenSSL, MD5, one round.
const evpMD5 Derivation = "evp-md5"

// derivation is a row of the table of derivations.
type derivation struct {
	name  Derivation
	alias []string // the names in testdata/cbc-vectors.json
	needs string   // what the key's text has to be; empty: anything

	// derive returns the AES key. A result that is not 32 bytes long means
	// that the text does not fit, as it means to Node. It is nil for evp-md5.
	derive func(text string) []byte
}

// derivations is the table. Where several give the same key, the first is the
// one that [Probe] names.
var derivations = []derivation{
	{"utf8", []string{"raw_utf8"}, "32 bytes", func(s string) []byte { return []byte(s) }},
	{"hex", []string{"hex64"}, "64 hexadecimal digits", fromHex},
	{"base64", []string{"base64_32"}, "32 bytes in base64 (44 characters)", fromBase64},
	{"sha256", nil, "", func(s string) []byte { sum := sha256.Sum256([]byte(s)); return sum[:] }},
	{"sha256-hex-slice32", []string{"sha256_hex_slice32"}, "", func(s string) []byte {
		return []byte(fmt.Sprintf("%x", sha256.Sum256([]byte(s)))[:32])
	}},
	{"sha256-base64-slice32", []string{"sha256_base64_substr32"}, "", func(s string) []byte {
		sum := sha256.Sum256([]byte(s))
		return []byte(base64.StdEncoding.EncodeToString(sum[:])[:32])
	}},
	{"md5-hex", []string{"md5_hex32"}, "", func(s string) []byte { return fmt.Appendf(nil, "%x", md5.Sum([]byte(s))) }},
	{"scrypt", []string{"scrypt_salt32"}, "", func(s string) []byte {
		key, _ := scrypt.Key([]byte(s), []byte("salt"), 16384, 8, 1, 32) // Node's defaults; errors are of the parameters
		return key
	}},
	{"pbkdf2", []string{"pbkdf2_sha256_salt_100000"}, "", func(s string) []byte {
		key, _ := pbkdf2.Key(sha256.New, s, []byte("salt"), 100_000, 32) // errors are of the parameters
		return key
	}},
	{"pad32-zero", []string{"padEnd32_zero_slice32"}, "first 32 characters of one byte each", padEnd('0')},
	{"pad32-space", []string{"padEnd32_space_slice32"}, "first 32 characters of one byte each", padEnd(' ')},
	{"pad32-bang", []string{"padEnd32_bang_slice32"}, "first 32 characters of one byte each", padEnd('!')},
	{"pad32-nul", []string{"zero_bytes_pad32"}, "", func(s string) []byte {
		key := make([]byte, 32)
		copy(key, s)
		return key
	}},
	{"slice32", []string{"chars_slice32"}, "32 or more characters, the first 32 of one byte each", func(s string) []byte { return slice32(utf16.Encode([]rune(s))) }},
	{"slice32-bytes", []string{"raw_utf8_slice32_bytes"}, "32 or more bytes", func(s string) []byte { return []byte(s)[:min(len(s), 32)] }},
	{evpMD5, []string{"evp_md5_nosalt", "evp_md5_salted"}, "", nil},
}

// Derivations returns the names that encryption.derivation takes, the usual
// ones first.
func Derivations() []Derivation {
	var names []Derivation
	for _, d := range derivations {
		names = append(names, d.name)
	}
	return names
}

func findDerivation(name Derivation) (derivation, error) {
	if name == "" {
		name = DefaultDerivation
	}
	for _, d := range derivations {
		if d.name == name || slices.Contains(d.alias, string(name)) {
			return d, nil
		}
	}
	return derivation{}, fmt.Errorf("encryption.derivation: %q is not known; use one of %s", name, list(Derivations()))
}

// key returns the AES key of text, or false if text does not fit.
func (d derivation) key(text string) ([]byte, bool) {
	if d.derive == nil {
		return nil, true
	}
	key := d.derive(text)
	return key, len(key) == 32
}

func fromHex(s string) []byte {
	key, err := hex.DecodeString(s)
	if err != nil {
		return nil
	}
	return key
}

// fromBase64 takes both alphabets, padded or not, as Buffer.from does.
func fromBase64(s string) []byte {
	s = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(s, "="))
	key, err := base64.RawStdEncoding.DecodeString(s)
	if err != nil {
		return nil
	}
	return key
}

// padEnd is text.padEnd(32, pad).slice(0, 32).
func padEnd(pad uint16) func(string) []byte {
	return func(s string) []byte {
		units := utf16.Encode([]rune(s))
		for len(units) < 32 {
			units = append(units, pad)
		}
		return slice32(units)
	}
}

// slice32 cuts where JavaScript does, after 32 UTF-16 units. Half of a
// surrogate pair becomes U+FFFD, as in Node.
func slice32(units []uint16) []byte {
	return []byte(string(utf16.Decode(units[:min(len(units), 32)])))
}

// evpBytesToKey is EVP_BytesToKey of OpenSSL with MD5 and one round, which
// createCipher of Node (without salt) and CryptoJS (with) use. It returns a
// 32-byte key and a 16-byte IV.
func evpBytesToKey(text string, salt []byte) (key, iv []byte) {
	var all, block []byte
	for len(all) < 48 {
		sum := md5.Sum(slices.Concat(block, []byte(text), salt))
		block = sum[:]
		all = append(all, block...)
	}
	return all[:32], all[32:]
}

// exampleKey stands in tutorials and .env.example files as if it had 32
// characters. It has 30.
const exampleKey = "your-32-character-secret-key!!"

// KeyError says that a key does not fit the configured derivation. It holds
// nothing of the key but its length.
type KeyError struct {
	Setting    string       // encryption.key or encryption.previous_key
	Derivation Derivation   // the configured one
	Bytes      int          // the key's length
	Fitting    []Derivation // the derivations that take this key
	Example    bool         // it is the well-known "your-32-character-secret-key!!"
}

func newKeyError(setting string, d derivation, text string) *KeyError {
	e := &KeyError{Setting: setting, Derivation: d.name, Bytes: len(text), Example: text == exampleKey}
	for _, other := range derivations {
		if other.derive == nil {
			continue
		}
		fits := other.needs == "" // not tried: some take a while by intention
		if !fits {
			_, fits = other.key(text)
		}
		if fits {
			e.Fitting = append(e.Fitting, other.name)
		}
	}
	return e
}

// Error names the length, what the derivation needs, and the derivations that
// would take the key.
func (e *KeyError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s has %d bytes and does not fit encryption.derivation %s", e.Setting, e.Bytes, e.Derivation)
	sep := ": "
	for _, d := range derivations {
		if d.needs != "" && !slices.Contains(e.Fitting, d.name) {
			fmt.Fprintf(&b, "%s%s needs %s", sep, d.name, d.needs)
			sep = ", "
		}
	}
	fmt.Fprintf(&b, ". This key would fit %s; set the one that your application uses, it is not guessed.", list(e.Fitting))
	if e.Example {
		b.WriteString(" It is the example key of many tutorials, which has 30 characters whatever it says:" +
			" Node refuses it too unless the application pads or hashes it. Everyone knows it: rotate to a key made by `skein keys generate`.")
	} else {
		b.WriteString(" `skein keys generate` makes a key that fits utf8.")
	}
	return b.String()
}

func list[T ~string](names []T) string {
	var b strings.Builder
	for i, name := range names {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(name))
	}
	return b.String()
}
