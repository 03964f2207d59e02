package secret

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Format names how IV and ciphertext of an AES-256-CBC value are written as
// text. [Formats] lists the names.
type Format string

// DefaultFormat is hex(iv):hex(ciphertext).
const DefaultFormat Format = "iv:ciphertext-hex"

// format is a row of the table of formats.
type format struct {
	name  Format
	alias string // the name in testdata/cbc-vectors.json
	head  int    // bytes of what stands beside the ciphertext: 16 of IV, 8 of salt, or none
	layout
}

// salted reports whether the IV is not in the value: evp-md5 derives it.
func (f format) salted() bool { return f.head != aes.BlockSize }

// layout is a way to write two byte strings as text.
type layout interface {
	split(value string) (head, ciphertext []byte, ok bool)
	join(head, ciphertext []byte) string
}

var formats = []format{
	{"iv:ciphertext-hex", "ivHex:ctHex", 16, pair{head: hexText{}, ciphertext: hexText{}}},
	{"ciphertext:iv-hex", "ctHex:ivHex", 16, pair{head: hexText{}, ciphertext: hexText{}, swapped: true}},
	{"enc:iv:ciphertext-hex", "enc:ivHex:ctHex", 16, pair{prefix: "enc:", head: hexText{}, ciphertext: hexText{}}},
	{"iv-hex:ciphertext-base64", "ivHex:ctBase64", 16, pair{head: hexText{}, ciphertext: base64.StdEncoding}},
	{"iv:ciphertext-base64", "ivB64:ctB64", 16, pair{head: base64.StdEncoding, ciphertext: base64.StdEncoding}},
	{"iv+ciphertext-base64", "base64(iv||ct)", 16, run{base64.StdEncoding, "", 16}},
	{"iv+ciphertext-hex", "hex(iv||ct)", 16, run{hexText{}, "", 16}},
	{"json-iv-encryptedData-hex", "json{iv,encryptedData}hex", 16, object{"encryptedData"}},
	{"json-iv-content-hex", "json{iv,content}hex", 16, object{"content"}},
	{"base64url-iv:ciphertext-hex", "base64url(ivHex:ctHex)", 16, wrapped{base64.RawURLEncoding, pair{head: hexText{}, ciphertext: hexText{}}}},
	{"openssl-base64", `OpenSSL/CryptoJS base64("Salted__"||salt8||ct)`, 8, run{base64.StdEncoding, "Salted__", 8}},
	{"ciphertext-hex", "ctHex (node createCipher)", 0, run{hexText{}, "", 0}},
}

// Formats returns the names that encryption.format takes, the usual ones
// first.
func Formats() []Format {
	var names []Format
	for _, f := range formats {
		names = append(names, f.name)
	}
	return names
}

func findFormat(name Format) (format, error) {
	if name == "" {
		name = DefaultFormat
	}
	for _, f := range formats {
		if f.name == name || f.alias == string(name) {
			return f, nil
		}
	}
	return format{}, fmt.Errorf("encryption.format: %q is not known; use one of %s", name, list(Formats()))
}

// parse splits value and checks the lengths. Its errors wrap [ErrFormat] and
// hold nothing of the value, which may be a password that was never encrypted.
func (f format) parse(value string) (head, ciphertext []byte, err error) {
	head, ciphertext, ok := f.split(value)
	switch {
	case value == "":
		return nil, nil, fmt.Errorf("%w %s: it is empty", ErrFormat, f.name)
	case !ok:
		return nil, nil, fmt.Errorf("%w %s; it may not be encrypted at all", ErrFormat, f.name)
	case len(head) != f.head && f.salted():
		return nil, nil, fmt.Errorf("%w %s: its salt has %d bytes instead of %d", ErrFormat, f.name, len(head), f.head)
	case len(head) != f.head:
		return nil, nil, fmt.Errorf("%w %s: its IV has %d bytes instead of %d", ErrFormat, f.name, len(head), f.head)
	case len(ciphertext) == 0 || len(ciphertext)%aes.BlockSize != 0:
		return nil, nil, fmt.Errorf("%w %s: its ciphertext has %d bytes, not a multiple of %d; it may have been cut short", ErrFormat, f.name, len(ciphertext), aes.BlockSize)
	}
	return head, ciphertext, nil
}

// encoding is what hexText and base64.Encoding have in common.
type encoding interface {
	EncodeToString([]byte) string
	DecodeString(string) ([]byte, error)
}

type hexText struct{}

func (hexText) EncodeToString(b []byte) string           { return hex.EncodeToString(b) }
func (hexText) DecodeString(text string) ([]byte, error) { return hex.DecodeString(text) }

// pair is prefix, head, a colon, ciphertext; or swapped.
type pair struct {
	prefix           string
	head, ciphertext encoding
	swapped          bool
}

func (p pair) split(value string) (head, ciphertext []byte, ok bool) {
	rest, ok := strings.CutPrefix(value, p.prefix)
	if !ok {
		return nil, nil, false
	}
	first, second, ok := strings.Cut(rest, ":")
	if p.swapped {
		first, second = second, first
	}
	head, err1 := p.head.DecodeString(first)
	ciphertext, err2 := p.ciphertext.DecodeString(second)
	return head, ciphertext, ok && err1 == nil && err2 == nil
}

func (p pair) join(head, ciphertext []byte) string {
	first, second := p.head.EncodeToString(head), p.ciphertext.EncodeToString(ciphertext)
	if p.swapped {
		first, second = second, first
	}
	return p.prefix + first + ":" + second
}

// run is magic, head and ciphertext encoded as one.
type run struct {
	encoding
	magic string
	head  int
}

func (r run) split(value string) (head, ciphertext []byte, ok bool) {
	all, err := r.DecodeString(value)
	if err != nil || len(all) < len(r.magic)+r.head || string(all[:len(r.magic)]) != r.magic {
		return nil, nil, false
	}
	all = all[len(r.magic):]
	return all[:r.head], all[r.head:], true
}

func (r run) join(head, ciphertext []byte) string {
	return r.EncodeToString([]byte(r.magic + string(head) + string(ciphertext)))
}

// object is JSON with the IV in iv and the ciphertext in a field, both hex.
type object struct{ field string }

func (o object) split(value string) (head, ciphertext []byte, ok bool) {
	var fields map[string]any
	if json.Unmarshal([]byte(value), &fields) != nil {
		return nil, nil, false
	}
	iv, ok1 := fields["iv"].(string)
	data, ok2 := fields[o.field].(string)
	head, err1 := hex.DecodeString(iv)
	ciphertext, err2 := hex.DecodeString(data)
	return head, ciphertext, ok1 && ok2 && err1 == nil && err2 == nil
}

func (o object) join(head, ciphertext []byte) string {
	return fmt.Sprintf(`{"iv":"%x","%s":"%x"}`, head, o.field, ciphertext)
}

// wrapped is a layout encoded once more.
type wrapped struct {
	encoding
	inner layout
}

func (w wrapped) split(value string) (head, ciphertext []byte, ok bool) {
	inner, err := w.DecodeString(value)
	if err != nil {
		return nil, nil, false
	}
	return w.inner.split(string(inner))
}

func (w wrapped) join(head, ciphertext []byte) string {
	return w.EncodeToString([]byte(w.inner.join(head, ciphertext)))
}

// cbcKey is a key for the CBC formats.
type cbcKey struct {
	aes  []byte // nil for evp-md5
	text string // for evp-md5
}

// cipher returns the cipher and IV for a value with this head.
func (k cbcKey) cipher(head []byte) (block cipher.Block, iv []byte) {
	key := k.aes
	iv = head
	if key == nil {
		key, iv = evpBytesToKey(k.text, head)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // every derivation's key was found to have 32 bytes
	}
	return block, iv
}

// open returns the plaintext, or false if the padding is wrong or the
// plaintext not [plausible], which it does not tell apart.
func (k cbcKey) open(head, ciphertext []byte) (string, bool) {
	block, iv := k.cipher(head)
	plain := make([]byte, len(ciphertext))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, ciphertext)
	n, ok := unpad(plain)
	if !ok || !plausible(plain[:n]) {
		return "", false
	}
	return string(plain[:n]), true
}

func (k cbcKey) seal(head []byte, plain string) (ciphertext []byte) {
	block, iv := k.cipher(head)
	pad := aes.BlockSize - len(plain)%aes.BlockSize
	ciphertext = []byte(plain + strings.Repeat(string(rune(pad)), pad))
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(ciphertext, ciphertext)
	return ciphertext
}

// unpad returns the length of plain, whose last block is padded as in PKCS #7
// (RFC 5652, section 6.3), without it. The time it takes does not depend on
// the padding.
func unpad(plain []byte) (int, bool) {
	last := plain[len(plain)-aes.BlockSize:]
	pad := int(last[aes.BlockSize-1])
	good := subtle.ConstantTimeLessOrEq(1, pad) & subtle.ConstantTimeLessOrEq(pad, aes.BlockSize)
	for i, c := range last {
		isPad := subtle.ConstantTimeLessOrEq(aes.BlockSize-i, pad)
		good &= subtle.ConstantTimeSelect(isPad, subtle.ConstantTimeByteEq(c, byte(pad)), 1)
	}
	return len(plain) - pad, good == 1
}

// maxPlain is longer than any password a database takes, in bytes.
const maxPlain = 4096

// plausible reports whether plain can be a password: up to 4096 bytes of
// UTF-8 without control characters. Empty is plausible: a password can be
// empty, and a whole block of padding is what a wrong key gives least of all.
//
// A wrong key gets past the padding once in 256 times. What it then gives, 15
// bytes or more, is plausible about once in 170,000, so that a wrong key opens
// a value about once in 40 million; less often the longer the value is.
func plausible(plain []byte) bool {
	if len(plain) > maxPlain || !utf8.Valid(plain) {
		return false
	}
	for _, r := range string(plain) {
		if unicode.IsControl(r) {
			return false
		}
	}
	return true
}
