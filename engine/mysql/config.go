package mysql

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/skeinhq/skein"
)

// byAttribute is the connection attribute that says who migrates.
const byAttribute = "skein_by"

// tlsOptions are the options that TLS is set up from.
type tlsOptions struct{ mode, ca, cert, key string }

// config is the driver's configuration for a target, and the time that
// connecting may take (0: any).
func (e *Engine) config(target skein.Target) (*mysql.Config, time.Duration, error) {
	c := mysql.NewConfig()
	c.User, c.Passwd, c.DBName = target.User, target.Password.Reveal(), target.Database
	c.Net, c.Addr = address(target)
	c.Logger = &mysql.NopLogger{}
	// Skein sends its own statements several at a time.
	c.MultiStatements = true
	// As much as any server can take, so that the server's own bound counts.
	// With 0 the driver would ask for that, which is a round trip.
	c.MaxAllowedPacket = 1 << 30
	c.ConnectionAttributes = "program_name:" + attribute(cmp.Or(e.opts.Tool, "skein")) + "," + byAttribute + ":" + attribute(e.opts.Caller())

	timeout := e.opts.ConnectTimeout
	var secure tlsOptions
	for name, value := range target.Options {
		var err error
		switch name {
		case "tls":
			secure.mode = value
			if !slices.Contains([]string{"true", "false", "skip-verify", "preferred"}, value) {
				err = fmt.Errorf("is one of true, false, skip-verify, preferred")
			}
		case "ssl-ca":
			secure.ca = value
		case "ssl-cert":
			secure.cert = value
		case "ssl-key":
			secure.key = value
		case "charset":
			if !strings.EqualFold(value, "utf8mb4") {
				err = fmt.Errorf("can only be utf8mb4: the migrations are read as UTF-8")
			}
		case "timeout":
			var limit time.Duration
			limit, err = duration(value)
			if limit > 0 && (timeout == 0 || limit < timeout) {
				timeout = limit
			}
		case "readTimeout":
			c.ReadTimeout, err = duration(value)
		case "writeTimeout":
			c.WriteTimeout, err = duration(value)
		case "allowCleartextPasswords":
			if c.AllowCleartextPasswords, err = strconv.ParseBool(value); err != nil {
				err = fmt.Errorf("is true or false")
			}
		default:
			return nil, 0, fmt.Errorf("the MySQL engine knows no option %q: it knows tls, ssl-ca, ssl-cert, ssl-key, charset, timeout, readTimeout, writeTimeout, allowCleartextPasswords", name)
		}
		if err != nil {
			return nil, 0, fmt.Errorf("option %s=%s of a MySQL target: %s %w", name, value, name, err)
		}
	}
	if c.Net == "unix" {
		return c, timeout, nil // it does not leave the machine
	}
	var err error
	if c.TLS, err = e.tlsConfig(secure); err != nil {
		return nil, 0, err
	}
	c.AllowFallbackToPlaintext = secure.mode == "preferred"
	return c, timeout, nil
}

func duration(value string) (time.Duration, error) {
	d, err := time.ParseDuration(value)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("is a duration like 30s or 1m30s")
	}
	return d, nil
}

// attribute makes a value fit for the driver's list of connection attributes.
func attribute(value string) string {
	return strings.NewReplacer(",", " ", ":", " ").Replace(value)
}

// address is where a target's server listens.
func address(t skein.Target) (network, address string) {
	if !strings.HasPrefix(t.Host, "/") {
		return "tcp", net.JoinHostPort(cmp.Or(t.Host, "localhost"), strconv.Itoa(port(t)))
	}
	if info, err := os.Stat(t.Host); err == nil && info.IsDir() {
		// The names that distributions give to the socket.
		for _, name := range []string{"mysqld.sock", "mysql.sock", "mariadb.sock"} {
			if path := filepath.Join(t.Host, name); exists(path) {
				return "unix", path
			}
		}
		return "unix", filepath.Join(t.Host, "mysqld.sock")
	}
	return "unix", t.Host
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func port(t skein.Target) int { return cmp.Or(t.Port, skein.DefaultPort(skein.MySQL)) }

// tlsConfig makes the configuration for options, nil for a connection that is
// not encrypted. Each is made once: a fleet would read the same files for every
// tenant otherwise, and with one configuration TLS sessions are resumed.
func (e *Engine) tlsConfig(o tlsOptions) (*tls.Config, error) {
	if o.mode == "" && o != (tlsOptions{}) {
		o.mode = "true"
	}
	if o.mode == "" || o.mode == "false" {
		return nil, nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if c, ok := e.tls[o]; ok {
		return c, nil
	}
	c := &tls.Config{
		ClientSessionCache: tls.NewLRUClientSessionCache(0),
		InsecureSkipVerify: o.mode != "true", //nolint:gosec // it is what was asked for
	}
	if o.ca != "" {
		pem, err := os.ReadFile(o.ca)
		if err != nil {
			return nil, fmt.Errorf("read ssl-ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ssl-ca %s holds no certificate in PEM form", o.ca)
		}
	}
	switch {
	case o.cert != "" && o.key != "":
		pair, err := tls.LoadX509KeyPair(o.cert, o.key)
		if err != nil {
			return nil, fmt.Errorf("read ssl-cert %s and ssl-key %s: %w", o.cert, o.key, err)
		}
		c.Certificates = []tls.Certificate{pair}
	case o.cert != "" || o.key != "":
		return nil, fmt.Errorf("ssl-cert and ssl-key belong together: one of them is not given")
	}
	e.tls[o] = c
	return c, nil
}
