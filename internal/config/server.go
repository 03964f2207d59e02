package config

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skeinhq/skein"
)

// defaultPasswordTTL is less than the shortest that services give: the tokens
// of AWS last for 15 minutes.
const defaultPasswordTTL = 5 * time.Minute

// connects says whether the server has settings of how to connect to it.
func (s Server) connects() bool {
	return len(s.Options) > 0 || len(s.PasswordCommand) > 0 || s.Direct != nil
}

// is says whether a target is on the server, at either of its addresses.
func (s Server) is(target skein.Target) bool {
	return s.Target.Server() == target.Server() || s.Direct != nil && s.Direct.Server() == target.Server()
}

// Reached is the server as migrations reach it.
func (s Server) Reached() skein.Target {
	if s.Direct != nil {
		return *s.Direct
	}
	return s.Target
}

// direct is a server's target at another address, HOST or HOST:PORT.
func direct(target skein.Target, address string) (*skein.Target, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil && !strings.Contains(address, ":") {
		host, port, err = address, "0", nil
	}
	number, numberErr := strconv.Atoi(port)
	if err != nil || host == "" || numberErr != nil || number < 0 || number > 65535 {
		return nil, fmt.Errorf("%q is not of the form HOST:PORT", address)
	}
	target.Host, target.Port = host, number
	return &target, nil
}

// check finds what is wrong with a server's settings of how to connect.
func (s Server) check(key string, at lines) (errs []error) {
	if s.Target.Engine == skein.SQLite && s.connects() {
		return []error{at.errorf(key, "SQLite files are connected to without options, password_command and direct")}
	}
	if c := s.PasswordCommand; len(c) > 0 {
		if c[0] == "" {
			errs = append(errs, at.errorf(key+".password_command", "it names no program"))
		}
		if len(c) == 1 && strings.ContainsAny(c[0], " \t") {
			errs = append(errs, at.errorf(key+".password_command", "it is run without a shell: give the program and its arguments as a list, [program, argument, ...]"))
		}
	}
	for name := range s.Options {
		if slices.Contains([]string{"host", "port", "user", "password", "database", "dbname"}, name) {
			errs = append(errs, at.errorf(key+".options."+name, "it is no option: it is each tenant's own, and in the url the administrator's"))
		}
	}
	return errs
}

// fileOptions are those that name files.
var fileOptions = []string{"sslrootcert", "sslcert", "sslkey", "ssl-ca", "ssl-cert", "ssl-key"}

// Connecting is the server that a target is on, if it has settings of how to
// connect to it.
func (c *Config) Connecting(target skein.Target) (Server, bool) {
	for _, s := range c.Servers {
		if s.connects() && s.is(target) {
			return s, true
		}
	}
	return Server{}, false
}

// WithOptions is a target with the options of its server added, at the address
// that migrations go to. Files that options name are as this process can open
// them.
func (c *Config) WithOptions(target skein.Target) skein.Target {
	s, ok := c.Connecting(target)
	if ok && s.Direct != nil {
		target.Host, target.Port = s.Direct.Host, s.Direct.Port
	}
	if !ok || len(s.Options) == 0 {
		return target
	}
	options := make(map[string]string, len(s.Options)+len(target.Options))
	for name, value := range s.Options {
		if slices.Contains(fileOptions, name) && value != "" {
			value = c.Resolve(value)
		}
		options[name] = value
	}
	for name, value := range target.Options {
		options[name] = value
	}
	target.Options = options
	return target
}
