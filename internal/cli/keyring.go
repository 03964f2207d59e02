package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/skeinhq/skein/internal/config"
	"github.com/skeinhq/skein/secret"
)

// keyring is what opens the tenants' passwords; nil if no key is set, which is
// only missed where there is a password to open.
func keyring(ctx context.Context, cfg *config.Config) (*secret.Keyring, error) {
	key, err := loadKey(ctx, cfg, cfg.Encryption.Key)
	if err != nil {
		return nil, fmt.Errorf("encryption.key: %w", err)
	}
	if key.IsZero() {
		return nil, nil
	}
	previous, err := loadKey(ctx, cfg, cfg.Encryption.PreviousKey)
	if err != nil {
		return nil, fmt.Errorf("encryption.previous_key: %w", err)
	}
	return secret.NewKeyring(key, secret.KeyringOptions{
		Previous:   []secret.Secret{previous},
		Format:     secret.Format(cfg.Encryption.Format),
		Derivation: secret.Derivation(cfg.Encryption.Derivation),
		Write:      secret.WriteMode(cfg.Encryption.Write),
	})
}

// loadKey reads a key where it is; a relative file is relative to the settings
// file.
func loadKey(ctx context.Context, cfg *config.Config, setting secret.Secret) (secret.Secret, error) {
	if path, ok := strings.CutPrefix(setting.Reveal(), "file:"); ok && !strings.HasPrefix(path, "//") {
		setting = secret.New("file:" + cfg.Resolve(path))
	}
	return secret.LoadKey(ctx, setting, nil)
}
