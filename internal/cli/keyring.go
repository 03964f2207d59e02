package cli

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/skeinhq/skein/internal/config"
	"github.com/skeinhq/skein/secret"
)

// A KeyService encrypts keys with a key that never leaves it: a key management
// service. An address names the service and the key there.
type KeyService interface {
	// Wrap encrypts a key.
	Wrap(ctx context.Context, address string, key []byte) (wrapped []byte, err error)
	// Unwrap decrypts what Wrap returned.
	Unwrap(ctx context.Context, address string, wrapped []byte) (key []byte, err error)
}

// keyServiceSchemes are those of the addresses that cmd/skein-kms knows.
var keyServiceSchemes = []string{"awskms", "gcpkms", "azurekeyvault", "hashivault"}

// errNoKeyServices is the error of a build without key services.
var errNoKeyServices = errors.New("this build of skein has no key management services: build cmd/skein-kms, as docs/encryption.md says")

// keys are encryption.key and encryption.previous_key, where they are.
type keys struct{ current, previous secret.Secret }

func (a *app) loadKeys(ctx context.Context, cfg *config.Config) (keys, error) {
	var k keys
	for _, setting := range []struct {
		name  string
		value secret.Secret
		to    *secret.Secret
	}{
		{"encryption.key", cfg.Encryption.Key, &k.current},
		{"encryption.previous_key", cfg.Encryption.PreviousKey, &k.previous},
	} {
		key, err := a.loadKey(ctx, cfg, setting.value)
		if err != nil {
			return keys{}, fmt.Errorf("%s: %w", setting.name, err)
		}
		*setting.to = key
	}
	return k, nil
}

// ring is what opens the tenants' passwords; nil if no key is set, which is only
// missed where there is a password to open.
func (k keys) ring(cfg *config.Config) (*secret.Keyring, error) {
	if k.current.IsZero() {
		return nil, nil
	}
	return secret.NewKeyring(k.current, secret.KeyringOptions{
		Previous:   []secret.Secret{k.previous},
		Format:     secret.Format(cfg.Encryption.Format),
		Derivation: secret.Derivation(cfg.Encryption.Derivation),
		Write:      secret.WriteMode(cfg.Encryption.Write),
	})
}

// explain says of a stored password that does not open what would open it, by
// names only.
func (k keys) explain() func(value string) string {
	probe := secret.NewProbe(k.current, k.previous)
	return func(value string) string {
		var found []string
		for _, f := range probe.Find(value) {
			found = append(found, fmt.Sprintf("encryption.format: %s with encryption.derivation: %s and key %s", f.Format, f.Derivation, f.KeyID))
		}
		if found == nil {
			return ""
		}
		return "it would open with " + strings.Join(found, ", or ")
	}
}

// A brokenKeyring opens nothing, for the reason that it is.
type brokenKeyring struct{ error }

func (k brokenKeyring) Open(string, secret.Binding) (secret.Secret, string, error) {
	return secret.Secret{}, "", k.error
}

func (k brokenKeyring) Seal(secret.Secret, secret.Binding) (string, error) { return "", k.error }

// loadKey reads a key where it is; a relative file is relative to the settings
// file.
func (a *app) loadKey(ctx context.Context, cfg *config.Config, setting secret.Secret) (secret.Secret, error) {
	if path, ok := strings.CutPrefix(setting.Reveal(), "file:"); ok && !strings.HasPrefix(path, "//") {
		setting = secret.New("file:" + cfg.Resolve(path))
	}
	sources := make(map[string]secret.KeySource)
	for _, scheme := range keyServiceSchemes {
		sources[scheme] = func(context.Context, string) (secret.Secret, error) { return secret.Secret{}, errNoKeyServices }
	}
	for scheme, service := range a.KeyServices {
		sources[scheme] = func(ctx context.Context, ref string) (secret.Secret, error) { return unwrapKey(ctx, cfg, service, ref) }
	}
	return secret.LoadKey(ctx, setting, sources)
}

// unwrapKey has a key decrypted. The reference is the address of the key that
// wraps it, #, and the wrapped key in base64 or the file: that holds it so.
func unwrapKey(ctx context.Context, cfg *config.Config, service KeyService, ref string) (secret.Secret, error) {
	address, text, ok := strings.Cut(ref, "#")
	if !ok || text == "" {
		return secret.Secret{}, errors.New("behind the address there is no wrapped key: write ADDRESS#WRAPPED or ADDRESS#file:PATH, as skein keys wrap prints it")
	}
	if path, ok := strings.CutPrefix(text, "file:"); ok {
		data, err := os.ReadFile(cfg.Resolve(path))
		if err != nil {
			return secret.Secret{}, fmt.Errorf("read the wrapped key: %w", err)
		}
		text = strings.TrimSpace(string(data))
		// What keys wrap prints may be in the file as it stands.
		text = strings.TrimPrefix(text, address+"#")
	}
	wrapped, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return secret.Secret{}, errors.New("the wrapped key is not base64: it may have been cut short")
	}
	key, err := service.Unwrap(ctx, address, wrapped)
	if err != nil {
		return secret.Secret{}, fmt.Errorf("unwrap the key: %w", secret.Clean(err))
	}
	return secret.New(string(key)), nil
}
