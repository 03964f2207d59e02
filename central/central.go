// Package central is the central database: the list of tenants, in Skein's own
// table or in a table that the application has already.
//
// The central database is PostgreSQL, MySQL, MariaDB or SQLite, whatever the
// tenants are on. [Init] makes Skein's own tables, [Open] gives a [Store] that
// reads the tenants. A table that the application owns is described by a
// [Mapping]; it is read with plain SELECT, and changed by a [Rotation] alone.
package central

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/secret"
)

// Config says where the tenants are listed.
type Config struct {
	// URL is the address of the central database, as [skein.ParseTarget] reads
	// it.
	URL secret.Secret
	// RecordURL is the address of the database that holds Skein's own tables.
	// Defaults to URL.
	RecordURL secret.Secret
	// Mapping describes the application's own table of tenants, in URL. Nil:
	// Skein's own table skein_tenants.
	Mapping *Mapping
	// Keyring opens and seals the tenants' passwords. Nil: tenants without a
	// stored password can be used, and no others.
	Keyring Keyring
	// Explain says, by names only, what would open a stored password that
	// Keyring does not open; empty for nothing. It may be nil.
	Explain func(value string) string
	// ConnectTimeout bounds connecting and logging in. Defaults to 10 s.
	ConnectTimeout time.Duration
}

// A Keyring opens and seals stored passwords, each bound to its tenant's id and
// the field that it stands in. [secret.Keyring] is one. Its errors hold no
// secrets.
type Keyring interface {
	// Open decrypts a value, and returns the id of the key that it was sealed with.
	Open(value string, binding secret.Binding) (secret.Secret, string, error)
	// Seal encrypts a password.
	Seal(plain secret.Secret, binding secret.Binding) (string, error)
}

// ErrNotInitialized is the error of a central database without Skein's own
// tables, or with those of an older version.
var ErrNotInitialized = errors.New("the central database is not set up")

const defaultConnectTimeout = 10 * time.Second

// pageRows is how many rows are asked for at once, a few times as many where
// that costs no more memory in all.
const pageRows = 1000

// A Store reads the list of tenants, and changes it where it is Skein's own. It
// is safe for concurrent use.
type Store struct {
	db      *database
	table   *table
	keyring Keyring
	config  Config
	record  *database // Skein's own tables, where the tenants are in a mapped one and are provisioned
	explain func(value string) string
	page    int // pageRows; tests make it small
}

// Open connects to the central database and checks that the tenants can be
// read from it. Where Skein's own tables are missing the error wraps
// [ErrNotInitialized]; where a mapping names a table or a column that does not
// exist it says which ones do. Errors hold no passwords.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	db, err := cfg.connect(ctx, false)
	if err != nil {
		return nil, err
	}
	s := &Store{db: db, keyring: cfg.Keyring, config: cfg, explain: cfg.Explain, page: pageRows}
	if cfg.Mapping != nil {
		s.table, err = mapTable(ctx, db, cfg.Mapping)
	} else {
		s.table = ownTable(db)
		err = checkSteps(ctx, db)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

// connect opens the database that the tenants are in. With create, a SQLite
// file is made if it does not exist.
func (cfg Config) connect(ctx context.Context, create bool) (*database, error) {
	setting, address := "central.url", cfg.URL
	if cfg.Mapping == nil && !cfg.RecordURL.IsZero() {
		setting, address = "central.record_url", cfg.RecordURL
	}
	target, err := parseURL(address)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", setting, err)
	}
	timeout := cfg.ConnectTimeout
	if timeout <= 0 {
		timeout = defaultConnectTimeout
	}
	return connect(ctx, target, connectOptions{
		timeout:  timeout,
		create:   create,
		readOnly: cfg.Mapping != nil && !cfg.Mapping.Write,
	})
}

// Close ends the connections.
func (s *Store) Close() error {
	err := s.db.Close()
	if s.record != nil {
		err = errors.Join(err, s.record.Close())
	}
	return err
}

// Database is the central database without its password, for people.
func (s *Store) Database() string { return s.db.target.String() }

// Mapped says whether the tenants are in a table of the application's, which
// Skein does not change.
func (s *Store) Mapped() bool { return !s.table.own }

// advice is an error with what to do about it.
type advice struct {
	error
	hint string
}

func (e *advice) Unwrap() error { return e.error }

// Hint says what to do.
func (e *advice) Hint() string { return e.hint }

var errNotAnAddress = errors.New("it is not the address of a database: that starts with postgres://, mysql:// or sqlite:PATH")

// parseURL is skein.ParseTarget for text that may be anything, such as a
// password: nothing of it is repeated.
func parseURL(address secret.Secret) (skein.Target, error) {
	if !hasEngine(address.Reveal()) {
		return skein.Target{}, errNotAnAddress
	}
	target, err := skein.ParseTarget(address.Reveal())
	if err != nil {
		return skein.Target{}, err
	}
	return target, target.Validate()
}
