package secret

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
)

// GenerateKey returns a new key: 32 characters of A-Z a-z 0-9 - _, which fit
// the derivation utf8 as they stand, made from 192 random bits. That is less
// than the 256 that AES could use, and far beyond guessing.
func GenerateKey() Secret {
	random := make([]byte, 24)
	_, _ = rand.Read(random) // never fails
	return New(base64.RawURLEncoding.EncodeToString(random))
}

// KeySource fetches the key that a reference such as "vault://secret/skein"
// stands for: it reads it, or has it unwrapped by a key management service. Its
// errors must not hold the key.
type KeySource func(ctx context.Context, ref string) (Secret, error)

// maxKeyFile bounds what is read of a key file, in bytes.
const maxKeyFile = 4096

var keyScheme = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9+.-]*)://`)

// LoadKey returns the key that a setting gives. The setting is one of
//   - file:PATH: the text in the file, without one line end at its end;
//   - SCHEME://...: what the source registered for the scheme returns;
//   - anything else: the key itself.
//
// An empty setting is the empty key, without error. A scheme without a source
// is an error, lest the reference be taken for the key. A key file may be
// readable for others: that is how Docker and Kubernetes mount secrets.
func LoadKey(ctx context.Context, setting Secret, sources map[string]KeySource) (Secret, error) {
	text := setting.Reveal()
	if path, ok := strings.CutPrefix(text, "file:"); ok {
		return readKeyFile(strings.TrimPrefix(path, "//"))
	}
	m := keyScheme.FindStringSubmatch(text)
	if m == nil {
		return setting, nil
	}
	source, ok := sources[strings.ToLower(m[1])]
	if !ok {
		return Secret{}, fmt.Errorf("read key: %s:// is no known source of keys; give the key itself or file:PATH", m[1])
	}
	key, err := source(ctx, text)
	if err != nil {
		return Secret{}, fmt.Errorf("read key from %s: %w", m[1], err)
	}
	if key.IsZero() {
		return Secret{}, fmt.Errorf("read key from %s: it is empty", m[1])
	}
	return key, nil
}

func readKeyFile(path string) (Secret, error) {
	f, err := os.Open(path)
	if err != nil {
		return Secret{}, fmt.Errorf("read key: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return Secret{}, fmt.Errorf("read key: %w", err)
	}
	text, ok := strings.CutSuffix(string(b), "\n")
	if ok {
		text = strings.TrimSuffix(text, "\r")
	}
	switch {
	case text == "":
		err = errors.New("the file is empty")
	case len(b) > maxKeyFile:
		err = fmt.Errorf("the file is longer than %d bytes, so it is no key", maxKeyFile)
	case strings.ContainsAny(text, "\r\n"):
		err = errors.New("the file has more than one line; it must hold the key alone")
	default:
		return New(text), nil
	}
	return Secret{}, fmt.Errorf("read key from %s: %w", path, err)
}
