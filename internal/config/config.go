// Package config reads Skein's settings: skein.yaml, the environment and an
// .env file beside it. Flags are the command line's and are laid over what this
// package returns.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/joho/godotenv"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/secret"
)

// FileName is the settings file that is read when none is named.
const FileName = "skein.yaml"

// DefaultCentralURL is the central database where no other is named.
const DefaultCentralURL = "sqlite:.skein/central.db"

// A Config is all settings, with defaults filled in. Relative paths in it are
// relative to Dir.
type Config struct {
	// Path is the file that was read, empty if there was none.
	Path string
	// Dir is the folder of the file, or the working directory.
	Dir string

	Central      Central
	Encryption   Encryption
	Migrations   Migrations
	Knex         Knex
	Servers      map[string]Server
	Limits       Limits
	Provisioning Provisioning
}

// Central says where the tenants are listed.
type Central struct {
	URL       secret.Secret
	RecordURL secret.Secret // zero: URL
	Tenants   *Mapping      // nil: Skein's own table
}

// A Mapping describes a table of tenants that exists already.
type Mapping struct {
	Table    string            `yaml:"table"`
	Columns  map[string]string `yaml:"columns"`
	Labels   map[string]string `yaml:"labels"`
	Engine   string            `yaml:"engine"`
	Host     string            `yaml:"host"`
	Port     int               `yaml:"port"`
	Database string            `yaml:"database"`
	Schema   string            `yaml:"schema"`
	User     string            `yaml:"user"`
	Password string            `yaml:"password"`
	Options  map[string]string `yaml:"options"`
	Active   []string          `yaml:"active"`
	Write    bool              `yaml:"write"` // Skein may change the table
	// Line is where the mapping begins in the file.
	Line int `yaml:"-"`
}

// Encryption says how tenants' passwords are kept.
type Encryption struct {
	Key, PreviousKey   secret.Secret
	Format, Derivation string
	Write              string
}

// Migrations says where the migrations are and what is let pass.
type Migrations struct {
	Dirs  []string
	Table string // Knex's
	// KnexHistory has SQL migrations recorded in Knex's table too.
	KnexHistory bool
	Policy      skein.Policy
	// Extensions are those of Knex migrations, with the dot; empty: all that
	// Knex knows.
	Extensions []string
	// SortDirsSeparately has Dirs run one after the other.
	SortDirsSeparately bool
}

// Knex says how Knex migrations are run.
type Knex struct {
	// File is the knexfile; empty: the one that Knex finds beside the settings.
	File string
	// Environment is the knexfile's; empty: NODE_ENV, or development.
	Environment string
	// Node is the program; empty: node.
	Node string
	// Workers bounds the Node processes, 0: as many as fit.
	Workers int
}

// A Server is a database server that holds tenants.
type Server struct {
	URL      secret.Secret
	Target   skein.Target // what URL means
	Parallel int          // 0: Limits.PerServer
	// Direct is Target at the address that migrations go to instead of URL's,
	// nil where they go to that.
	Direct *skein.Target
	// Options are the connections' other settings, where neither a tenant nor
	// URL has its own.
	Options map[string]string
	// PasswordCommand is a program and its arguments, which prints the password
	// of whom has none. Nil: there is no such program.
	PasswordCommand []string
	// PasswordTTL is how long a password that it printed is good for.
	PasswordTTL time.Duration
}

// Provisioning says where new tenants are made, and what they are called.
type Provisioning struct {
	// Server is the name of one of Servers; empty: the only one there is.
	Server string
	// Database, Schema and User are names with {slug} in them. With Schema,
	// tenants are schemas of the server's database.
	Database, Schema, User string
	// From is auto, template or replay.
	From string
}

// Limits bound the work.
type Limits struct {
	Parallel         int // 0: as the fleet has it
	PerServer        int // likewise
	LockWait         time.Duration
	Retries          int
	Timeout          time.Duration // of a migration, 0: none
	LockTimeout      time.Duration
	StatementTimeout time.Duration
	IdleTimeout      time.Duration // of a transaction
	ConnectTimeout   time.Duration
}

// file is skein.yaml.
type file struct {
	Central struct {
		URL       string   `yaml:"url"`
		RecordURL string   `yaml:"record_url"`
		Tenants   *Mapping `yaml:"tenants"`
	} `yaml:"central"`
	Encryption struct {
		Key         string `yaml:"key"`
		PreviousKey string `yaml:"previous_key"`
		Format      string `yaml:"format"`
		Derivation  string `yaml:"derivation"`
		Write       string `yaml:"write"`
	} `yaml:"encryption"`
	Migrations struct {
		Dir        stringList `yaml:"dir"`
		Table      string     `yaml:"table"`
		History    string     `yaml:"history"`
		Edited     string     `yaml:"edited"`
		Missing    string     `yaml:"missing"`
		OutOfOrder string     `yaml:"out_of_order"`
		Extensions stringList `yaml:"extensions"`
		Separately bool       `yaml:"sort_dirs_separately"`
	} `yaml:"migrations"`
	Knex struct {
		File        string `yaml:"file"`
		Environment string `yaml:"environment"`
		Node        string `yaml:"node"`
		Workers     int    `yaml:"workers"`
	} `yaml:"knex"`
	Servers map[string]struct {
		URL             string            `yaml:"url"`
		Parallel        int               `yaml:"parallel"`
		Direct          string            `yaml:"direct"`
		Options         map[string]string `yaml:"options"`
		PasswordCommand stringList        `yaml:"password_command"`
		PasswordTTL     *duration         `yaml:"password_ttl"`
	} `yaml:"servers"`
	Provisioning struct {
		Server   string `yaml:"server"`
		Database string `yaml:"database"`
		Schema   string `yaml:"schema"`
		User     string `yaml:"user"`
		From     string `yaml:"from"`
	} `yaml:"provisioning"`
	Limits struct {
		Parallel         int       `yaml:"parallel"`
		PerServer        int       `yaml:"per_server"`
		LockWait         *duration `yaml:"lock_wait"`
		Retries          *int      `yaml:"retries"`
		Timeout          *duration `yaml:"timeout"`
		LockTimeout      *duration `yaml:"lock_timeout"`
		StatementTimeout *duration `yaml:"statement_timeout"`
		IdleTimeout      *duration `yaml:"idle_timeout"`
		ConnectTimeout   *duration `yaml:"connect_timeout"`
	} `yaml:"limits"`
}

// An Environment looks up a variable, as os.LookupEnv does.
type Environment func(name string) (string, bool)

// Path is the settings file that is meant by path, where empty means
// SKEIN_CONFIG or, if that is not set either, skein.yaml in the working
// directory. Named says that it is not the last, and so has to exist.
func Path(path string, environ Environment) (resolved string, named bool) {
	if path == "" {
		path, _ = environ("SKEIN_CONFIG")
	}
	if path == "" {
		return FileName, false
	}
	return path, true
}

// Variables are those of the environment and, behind them, of the .env file
// beside the settings file, if there is one.
func Variables(path string, environ Environment) (Environment, error) {
	path, _ = Path(path, environ)
	return withDotEnv(filepath.Join(filepath.Dir(path), ".env"), environ)
}

// Load reads the settings from the file that Path finds. A variable in the
// environment goes before the same one in the .env file beside the settings
// file.
func Load(path string, environ Environment) (*Config, error) {
	env, err := Variables(path, environ)
	if err != nil {
		return nil, err
	}
	path, named := Path(path, environ)
	c := &Config{Path: path, Dir: filepath.Dir(path)}

	var f file
	var lines lines
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !named:
		c.Path = ""
	case err != nil:
		return nil, fmt.Errorf("read the settings: %w", err)
	default:
		if lines, err = parse(path, data, env, &f); err != nil {
			return nil, err
		}
	}
	if err := c.fill(f, lines, env); err != nil {
		return nil, err
	}
	return c, nil
}

// withDotEnv adds a file of variables to the environment, if it exists.
func withDotEnv(path string, environ Environment) (Environment, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return environ, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the environment file: %w", err)
	}
	vars, err := godotenv.UnmarshalBytes(data)
	if err != nil {
		// The parser's message quotes the line, which may hold a password.
		return nil, fmt.Errorf("%s: a line is not of the form NAME=value", path)
	}
	return func(name string) (string, bool) {
		if v, ok := environ(name); ok {
			return v, true
		}
		v, ok := vars[name]
		return v, ok
	}, nil
}

// fill lays the environment over the file and the file over the defaults.
func (c *Config) fill(f file, at lines, env Environment) error {
	text := func(name, value, fallback string) string {
		if v, ok := env(name); ok && v != "" {
			return v
		}
		if value != "" {
			return value
		}
		return fallback
	}
	var errs []error
	number := func(name, key string, value, fallback int) int {
		if v, ok := env(name); ok && v != "" {
			n, err := strconv.Atoi(v)
			if err != nil || n < 1 {
				errs = append(errs, fmt.Errorf("%s=%q is not a number from 1 up", name, v))
			}
			return n
		}
		switch {
		case value < 0, value == 0 && at.has(key):
			errs = append(errs, at.errorf(key, "%d is not a number from 1 up", value))
		case value > 0:
			return value
		}
		return fallback
	}
	period := func(name string, value *duration, fallback time.Duration) time.Duration {
		if v, ok := env(name); ok && v != "" {
			d, err := parseDuration(v)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s=%q %w", name, v, err))
			}
			return d
		}
		if value != nil {
			return time.Duration(*value)
		}
		return fallback
	}
	choice := func(name, key, value string, choices ...string) string {
		v := text(name, value, choices[0])
		switch {
		case slices.Contains(choices, v):
		case v == value:
			errs = append(errs, at.errorf(key, "%q is not one of %s", at.written(key), strings.Join(choices, ", ")))
		default:
			errs = append(errs, fmt.Errorf("%s=%q is not one of %s", name, v, strings.Join(choices, ", ")))
		}
		return v
	}

	c.Central.URL = secret.New(text("SKEIN_CENTRAL_URL", f.Central.URL, DefaultCentralURL))
	c.Central.RecordURL = secret.New(text("SKEIN_RECORD_URL", f.Central.RecordURL, ""))
	if c.Central.Tenants = f.Central.Tenants; c.Central.Tenants != nil {
		c.Central.Tenants.Line = at["central.tenants"].line
	}

	c.Encryption = Encryption{
		Key:         secret.New(text("DB_ENCRYPTION_KEY", f.Encryption.Key, "")),
		PreviousKey: secret.New(text("DB_ENCRYPTION_KEY_PREVIOUS", f.Encryption.PreviousKey, "")),
		Format:      f.Encryption.Format,
		Derivation:  f.Encryption.Derivation,
		Write:       f.Encryption.Write,
	}
	// A key that the file names goes before the environment's of another name.
	if f.Encryption.Key != "" {
		c.Encryption.Key = secret.New(f.Encryption.Key)
	}
	if f.Encryption.PreviousKey != "" {
		c.Encryption.PreviousKey = secret.New(f.Encryption.PreviousKey)
	}

	if v, ok := env("SKEIN_MIGRATIONS_DIR"); ok && v != "" {
		c.Migrations.Dirs = filepath.SplitList(v)
	} else if c.Migrations.Dirs = f.Migrations.Dir; len(c.Migrations.Dirs) == 0 {
		c.Migrations.Dirs = []string{filepath.FromSlash("migrations/tenant")}
	}
	c.Migrations.Table = text("SKEIN_MIGRATIONS_TABLE", f.Migrations.Table, skein.DefaultKnexTable)
	c.Migrations.KnexHistory = choice("SKEIN_HISTORY", "migrations.history", f.Migrations.History, "skein", "knex") == "knex"
	c.Migrations.Policy.Edited = skein.EditedPolicy(choice("SKEIN_EDITED", "migrations.edited", f.Migrations.Edited, "error", "warn", "ignore"))
	c.Migrations.Policy.AllowMissing = choice("SKEIN_MISSING", "migrations.missing", f.Migrations.Missing, "error", "allow") == "allow"
	c.Migrations.Policy.AllowOutOfOrder = choice("SKEIN_OUT_OF_ORDER", "migrations.out_of_order", f.Migrations.OutOfOrder, "error", "allow") == "allow"

	c.Migrations.Extensions, c.Migrations.SortDirsSeparately = f.Migrations.Extensions, f.Migrations.Separately
	for _, ext := range c.Migrations.Extensions {
		if !skein.KnexName("x" + ext) {
			errs = append(errs, at.errorf("migrations.extensions", "%q is not an extension of Knex migrations, such as .js or .ts", ext))
		}
	}
	c.Knex = Knex{
		File: f.Knex.File, Environment: text("SKEIN_KNEX_ENVIRONMENT", f.Knex.Environment, ""),
		Node: f.Knex.Node, Workers: number("SKEIN_KNEX_WORKERS", "knex.workers", f.Knex.Workers, 0),
	}

	c.Servers = make(map[string]Server, len(f.Servers))
	connecting := make(map[string]string) // those that say how to connect
	for _, name := range slices.Sorted(maps.Keys(f.Servers)) {
		s := f.Servers[name]
		key := "servers." + name
		if s.Parallel < 0 || s.Parallel == 0 && at.has(key+".parallel") {
			errs = append(errs, at.errorf(key+".parallel", "%d is not a number from 1 up", s.Parallel))
		}
		if s.URL == "" {
			errs = append(errs, at.errorf(key, "a server needs its url"))
			continue
		}
		target, err := skein.ParseTarget(s.URL)
		if err != nil {
			errs = append(errs, at.errorf(key+".url", "%v", err))
			continue
		}
		server := Server{
			URL: secret.New(s.URL), Target: target, Parallel: s.Parallel,
			Options: s.Options, PasswordCommand: s.PasswordCommand, PasswordTTL: defaultPasswordTTL,
		}
		if s.PasswordTTL != nil {
			server.PasswordTTL = time.Duration(*s.PasswordTTL)
		}
		if at.has(key + ".direct") {
			if server.Direct, err = direct(target, s.Direct); err != nil {
				errs = append(errs, at.errorf(key+".direct", "%v", err))
			}
		}
		errs = append(errs, server.check(key, at)...)
		if other, ok := connecting[target.Server()]; ok && server.connects() {
			errs = append(errs, at.errorf(key, "it is the same server as %s: give options, password_command and direct in one of them", other))
		}
		if server.connects() {
			connecting[target.Server()] = name
		}
		c.Servers[name] = server
	}

	c.Provisioning = provisioning(f, at, &errs)
	c.Provisioning.From = choice("SKEIN_PROVISIONING_FROM", "provisioning.from", f.Provisioning.From, "auto", "template", "replay")

	c.Limits = Limits{
		Parallel:         number("SKEIN_PARALLEL", "limits.parallel", f.Limits.Parallel, 0),
		PerServer:        number("SKEIN_PER_SERVER", "limits.per_server", f.Limits.PerServer, 0),
		LockWait:         period("SKEIN_LOCK_WAIT", f.Limits.LockWait, time.Minute),
		Retries:          retries(f, at, env, &errs),
		Timeout:          period("SKEIN_TIMEOUT", f.Limits.Timeout, 0),
		LockTimeout:      period("SKEIN_LOCK_TIMEOUT", f.Limits.LockTimeout, 5*time.Second),
		StatementTimeout: period("SKEIN_STATEMENT_TIMEOUT", f.Limits.StatementTimeout, 0),
		IdleTimeout:      period("SKEIN_IDLE_TIMEOUT", f.Limits.IdleTimeout, time.Minute),
		ConnectTimeout:   period("SKEIN_CONNECT_TIMEOUT", f.Limits.ConnectTimeout, 10*time.Second),
	}
	return errors.Join(errs...)
}

// retries is limits.retries, which unlike other numbers may be 0.
func retries(f file, at lines, env Environment, errs *[]error) int {
	if v, ok := env("SKEIN_RETRIES"); ok && v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			*errs = append(*errs, fmt.Errorf("SKEIN_RETRIES=%q is not a number from 0 up", v))
		}
		return n
	}
	n := f.Limits.Retries
	switch {
	case n == nil:
		return 5
	case *n < 0:
		*errs = append(*errs, at.errorf("limits.retries", "%d is not a number from 0 up", *n))
	}
	return *n
}

// Resolve is a path of the settings as this process can open it.
func (c *Config) Resolve(path string) string {
	if filepath.IsAbs(path) || c.Dir == "." {
		return path
	}
	return filepath.Join(c.Dir, path)
}

// MigrationDirs are the folders of migrations as this process can open them.
func (c *Config) MigrationDirs() []string {
	dirs := make([]string, len(c.Migrations.Dirs))
	for i, d := range c.Migrations.Dirs {
		dirs[i] = c.Resolve(d)
	}
	return dirs
}
