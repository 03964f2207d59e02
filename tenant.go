package skein

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/skeinhq/skein/secret"
)

// The engines that Skein knows.
const (
	PostgreSQL = "postgres"
	MySQL      = "mysql" // MariaDB too
	SQLite     = "sqlite"
)

// Statuses of a tenant in Skein's own central table. A mapped table may have
// others; which of them count as active is its mapping's matter.
const (
	StatusActive    = "active"
	StatusSuspended = "suspended"
	// A tenant has these while Skein is making it, and taking it away.
	StatusProvisioning   = "provisioning"
	StatusDeprovisioning = "deprovisioning"
)

// A Tenant is one customer of the product, as the central database lists it.
type Tenant struct {
	ID     string
	Slug   string
	Name   string
	Status string
	// Active says whether "all tenants" includes this one.
	Active bool
	Labels map[string]string
	Target Target

	// Err is why Target cannot be used although the tenant could be read, for
	// instance a password that cannot be decrypted. A tenant that has one is
	// reported as failed with it and is never connected to.
	Err error
}

// A Target is where a tenant's data lives: a database, a schema in a database
// that tenants share, or a SQLite file.
type Target struct {
	Engine   string // PostgreSQL, MySQL or SQLite
	Host     string // name, address, or the folder of a Unix socket
	Port     int    // 0: the engine's default
	Database string // for SQLite the file
	Schema   string // PostgreSQL only; empty: the role's own search path
	User     string
	Password secret.Secret
	// Options are the connection's other settings, named as in the driver's
	// URL (sslmode, sslrootcert, tls, ...).
	Options map[string]string
}

// Server names the database server that holds the target, without user or
// password: the key by which work is bounded per server. All SQLite files are
// one server, the machine's disk.
func (t Target) Server() string {
	if t.Engine == SQLite {
		return SQLite
	}
	return t.Engine + "://" + t.address()
}

// String is the target as a person names it. It never holds the password.
func (t Target) String() string {
	if t.Engine == SQLite {
		return "sqlite:" + t.Database
	}
	var b strings.Builder
	b.WriteString(t.Engine + "://")
	if t.User != "" {
		b.WriteString(url.User(t.User).String() + "@")
	}
	b.WriteString(t.address() + "/" + url.PathEscape(t.Database))
	if t.Schema != "" {
		b.WriteString("?schema=" + url.QueryEscape(t.Schema))
	}
	return b.String()
}

func (t Target) address() string {
	host, port := t.Host, t.Port
	if host == "" {
		host = "localhost"
	}
	if strings.HasPrefix(host, "/") {
		host = url.PathEscape(host)
	}
	if port == 0 {
		port = DefaultPort(t.Engine)
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// local says whether the target's server is on this machine, or its address is.
func (t Target) local() bool {
	return t.Engine == SQLite || t.Host == "" || t.Host == "localhost" || strings.HasPrefix(t.Host, "/") || net.ParseIP(t.Host).IsLoopback()
}

// DefaultPort is the port on which an engine's servers usually listen; 0 for
// SQLite, which has none.
func DefaultPort(engine string) int {
	switch engine {
	case PostgreSQL:
		return 5432
	case MySQL:
		return 3306
	}
	return 0
}

// EngineName is the engine that a word from a table or a URL means: the names
// that Knex, ORMs and URLs use for it are accepted. The second result is false
// for a word that means none.
func EngineName(word string) (string, bool) {
	switch strings.ToLower(word) {
	case "postgres", "postgresql", "pg", "pgsql", "pgx":
		return PostgreSQL, true
	case "mysql", "mysql2", "mariadb":
		return MySQL, true
	case "sqlite", "sqlite3", "better-sqlite3", "file":
		return SQLite, true
	}
	return "", false
}

// ParseTarget reads a target from a URL: postgres://user:password@host:port/db,
// mysql://..., sqlite:PATH. The query may hold schema=NAME (PostgreSQL) and the
// driver's options. Its errors never repeat the URL, which holds a password.
func ParseTarget(raw string) (Target, error) {
	scheme, rest, ok := strings.Cut(raw, ":")
	if !ok {
		return Target{}, fmt.Errorf("the address of a database starts with postgres://, mysql:// or sqlite:PATH")
	}
	engine, ok := EngineName(scheme)
	if !ok {
		return Target{}, fmt.Errorf("no engine is called %q: an address starts with postgres://, mysql:// or sqlite:PATH", scheme)
	}
	if engine == SQLite {
		path := rest
		if strings.HasPrefix(path, "///") {
			path = path[2:]
		} else {
			path = strings.TrimPrefix(path, "//")
		}
		path, _, _ = strings.Cut(path, "?")
		if path == "" {
			return Target{}, fmt.Errorf("a SQLite address names its file: sqlite:path/to/tenant.db")
		}
		return Target{Engine: SQLite, Database: path}, nil
	}

	u, err := url.Parse(raw)
	if err != nil {
		// url.Error repeats the whole URL.
		return Target{}, fmt.Errorf("the address of the %s database is not a URL: special characters in its user or password must be percent-encoded", engine)
	}
	t := Target{Engine: engine, Host: u.Hostname(), Database: strings.TrimPrefix(u.Path, "/")}
	if u.User != nil {
		t.User = u.User.Username()
		if p, ok := u.User.Password(); ok {
			t.Password = secret.New(p)
		}
	}
	if p := u.Port(); p != "" {
		if t.Port, err = strconv.Atoi(p); err != nil || t.Port < 1 || t.Port > 65535 {
			return Target{}, fmt.Errorf("port %q is not a number from 1 to 65535", p)
		}
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Target{}, fmt.Errorf("the options of the %s address (after the question mark) are not of the form name=value", engine)
	}
	for name := range query {
		switch value := query.Get(name); {
		case name == "schema" && engine == PostgreSQL:
			t.Schema = value
		case name == "host" && strings.HasPrefix(value, "/"):
			t.Host = value
		case name == "user":
			t.User = value
		case name == "password":
			t.Password = secret.New(value)
		default:
			if t.Options == nil {
				t.Options = make(map[string]string)
			}
			t.Options[name] = value
		}
	}
	return t, nil
}

// Validate says what is missing or out of range in a target, nil if it can be
// connected to as far as anyone can tell without trying.
func (t Target) Validate() error {
	switch t.Engine {
	case PostgreSQL, MySQL, SQLite:
	case "":
		return fmt.Errorf("no engine is given: it is one of postgres, mysql, sqlite")
	default:
		return fmt.Errorf("engine %q is not one of postgres, mysql, sqlite", t.Engine)
	}
	switch {
	case t.Database == "" && t.Engine == SQLite:
		return fmt.Errorf("no file is given for the SQLite database")
	case t.Database == "":
		return fmt.Errorf("no database is given")
	case strings.ContainsRune(t.Database+t.Schema+t.User+t.Host, 0):
		return fmt.Errorf("a name with a zero byte cannot be used")
	case t.Schema != "" && t.Engine != PostgreSQL:
		return fmt.Errorf("a schema (%q) can only be given for PostgreSQL", t.Schema)
	case t.Port < 0 || t.Port > 65535:
		return fmt.Errorf("port %d is not between 1 and 65535", t.Port)
	}
	return nil
}
