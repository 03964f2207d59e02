package main

import (
	"context"
	"errors"

	"gocloud.dev/secrets"

	"github.com/skeinhq/skein/internal/cli"
)

// services are the key services whose drivers are linked in, by the scheme of
// their addresses.
func services(schemes ...string) map[string]cli.KeyService {
	all := make(map[string]cli.KeyService, len(schemes))
	for _, scheme := range schemes {
		all[scheme] = keeper{}
	}
	return all
}

// keeper encrypts and decrypts with the key that an address names, see
// https://gocloud.dev/howto/secrets/.
type keeper struct{}

// Wrap encrypts a key.
func (keeper) Wrap(ctx context.Context, address string, key []byte) (wrapped []byte, err error) {
	return use(ctx, address, func(k *secrets.Keeper) ([]byte, error) { return k.Encrypt(ctx, key) })
}

// Unwrap decrypts a key.
func (keeper) Unwrap(ctx context.Context, address string, wrapped []byte) (key []byte, err error) {
	return use(ctx, address, func(k *secrets.Keeper) ([]byte, error) { return k.Decrypt(ctx, wrapped) })
}

func use(ctx context.Context, address string, f func(*secrets.Keeper) ([]byte, error)) (_ []byte, err error) {
	k, err := secrets.OpenKeeper(ctx, address)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	return f(k)
}
