package postgres

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/dbtest"
)

// A tlsFront speaks TLS in front of the test server, which does not.
type tlsFront struct {
	port      int
	authority string // a file with the certificate that signed the server's, for 127.0.0.1
	encrypted atomic.Int64
}

func newTLSFront(t *testing.T) *tlsFront {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "skein test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	f := &tlsFront{authority: filepath.Join(t.TempDir(), "authority's.crt")}
	if err := os.WriteFile(f.authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.port = listener.Addr().(*net.TCPAddr).Port
	t.Cleanup(func() { _ = listener.Close() })
	server := dbtest.Postgres(t)
	behind := (&net.TCPAddr{IP: net.ParseIP(server.Host()), Port: server.Port()}).String()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go f.serve(conn, config, behind)
		}
	}()
	return f
}

func (f *tlsFront) serve(conn net.Conn, config *tls.Config, behind string) {
	defer conn.Close()
	to, err := net.Dial("tcp", behind)
	if err != nil {
		return
	}
	defer to.Close()
	head := make([]byte, 8)
	if _, err := io.ReadFull(conn, head); err != nil {
		return
	}
	if string(head) == "\x00\x00\x00\x08\x04\xd2\x16\x2f" {
		if _, err := conn.Write([]byte("S")); err != nil {
			return
		}
		conn = tls.Server(conn, config)
		f.encrypted.Add(1)
	} else if _, err := to.Write(head); err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(to, conn)
		_ = to.Close()
	}()
	_, _ = io.Copy(conn, to)
}

func TestTLS(t *testing.T) {
	front := newTLSFront(t)
	target := newDatabase(t)
	tests := []struct {
		server    string // tls or plain
		options   map[string]string
		encrypted bool
		class     skein.Class // of the error
		hint      string
	}{
		{server: "tls", options: nil, encrypted: true},
		{server: "tls", options: map[string]string{"sslmode": "disable"}},
		{server: "tls", options: map[string]string{"sslmode": "allow"}},
		{server: "tls", options: map[string]string{"sslmode": "prefer"}, encrypted: true},
		{server: "tls", options: map[string]string{"sslmode": "require"}, encrypted: true},
		{server: "tls", options: map[string]string{"sslmode": "verify-ca", "sslrootcert": front.authority}, encrypted: true},
		{server: "tls", options: map[string]string{"sslmode": "verify-full", "sslrootcert": front.authority}, encrypted: true},
		{server: "tls", options: map[string]string{"sslmode": "verify-full"}, encrypted: true, class: skein.Permanent, hint: "sslrootcert"},
		{server: "tls", options: map[string]string{"sslmode": "verify-ca"}, encrypted: true, class: skein.Permanent, hint: "sslrootcert"},
		{server: "plain", options: nil},
		{server: "plain", options: map[string]string{"sslmode": "allow"}},
		{server: "plain", options: map[string]string{"sslmode": "require"}, class: skein.Permanent, hint: "sslmode"},
		{server: "plain", options: map[string]string{"sslmode": "verify-full"}, class: skein.Permanent, hint: "sslmode"},
		{server: "plain", options: map[string]string{"channel_binding": "require"}, class: skein.Permanent, hint: "channel_binding"},
	}
	for _, test := range tests {
		t.Run(test.server+" "+optionsKey(test.options), func(t *testing.T) {
			target := target
			target.Options = test.options
			if test.server == "tls" {
				target.Port = front.port
			}
			front.encrypted.Store(0)
			s, err := New(skein.SessionOptions{}).Open(t.Context(), target)
			if skein.ErrorClass(err) != test.class || !strings.Contains(skein.Hint(err), test.hint) {
				t.Fatalf("class %q: %v, hint %q", skein.ErrorClass(err), err, skein.Hint(err))
			}
			if got := front.encrypted.Load() > 0; got != test.encrypted {
				t.Errorf("encrypted is %t", got)
			}
			if err != nil {
				return
			}
			defer s.Close()
			if _, err := s.History(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}

	t.Run("cancel", func(t *testing.T) {
		target := target
		target.Port = front.port
		s := open(t, New(skein.SessionOptions{}), target)
		lock(t, s)
		front.encrypted.Store(0)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(300*time.Millisecond, cancel)
		start := time.Now()
		if _, err := s.Apply(ctx, step(t, "1.sql", "SELECT pg_sleep(60)", false)); err == nil {
			t.Error("the migration was not cancelled")
		}
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("it took %s", took)
		}
		if front.encrypted.Load() != 1 {
			t.Error("the request to cancel went unencrypted")
		}
	})
}

func TestServerWithoutTLSIsRemembered(t *testing.T) {
	target := newDatabase(t)
	e, w := countedEngine()
	for i, want := range []int64{2, 1, 1} {
		open(t, e, target)
		if got := w.dials.Swap(0); got != want {
			t.Errorf("opening session %d dialled %d times instead of %d", i+1, got, want)
		}
	}
	// Each set of options decides for itself.
	required := target
	required.Options = map[string]string{"sslmode": "require"}
	if _, err := e.Open(t.Context(), required); err == nil {
		t.Error("sslmode=require was content with no TLS")
	}
	// After an error the server is asked again: it may have learnt TLS.
	w.dials.Store(0)
	nobody := target
	nobody.User = "skein_nobody"
	if _, err := e.Open(t.Context(), nobody); err == nil {
		t.Error("a role that does not exist logged in")
	}
	open(t, e, target)
	if got := w.dials.Load(); got != 1+2 {
		t.Errorf("after an error the server was dialled %d times instead of 3", got)
	}

	// A server with TLS is never remembered without.
	front := newTLSFront(t)
	target.Port = front.port
	for range 2 {
		open(t, e, target)
	}
	if got := front.encrypted.Load(); got != 2 {
		t.Errorf("%d of 2 sessions were encrypted", got)
	}
}

func TestEnvironmentDoesNotDecide(t *testing.T) {
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, ".postgresql"), 0o700); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{
		".postgresql/root.crt": "no certificate", ".pgpass": "*:*:*:*:wrong\n",
		".pg_service.conf": "[other]\nhost=192.0.2.1\nport=1\ndbname=other\nuser=other\nsslmode=verify-full\nwork_mem=64\n",
	} {
		if err := os.WriteFile(filepath.Join(home, path), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	target := newDatabase(t)
	for name, value := range map[string]string{
		"HOME": home, "PGHOST": "192.0.2.1", "PGHOSTADDR": "192.0.2.1", "PGPORT": "1", "PGDATABASE": "other", "PGUSER": "other",
		"PGPASSWORD": "wrong", "PGSSLMODE": "verify-full", "PGSSLROOTCERT": "/nowhere", "PGSSLCERT": "/nowhere", "PGSSLKEY": "/nowhere",
		"PGSSLNEGOTIATION": "direct", "PGSSLCERTMODE": "require", "PGSSLSNI": "0", "PGAPPNAME": "other", "PGOPTIONS": "-c work_mem=64", "PGTZ": "Asia/Tokyo",
		"PGCONNECT_TIMEOUT": "x", "PGTARGETSESSIONATTRS": "standby", "PGSERVICE": "other", "PGCHANNELBINDING": "require",
		"PGREQUIREAUTH": "none", "PGMINPROTOCOLVERSION": "3.2", "PGMAXPROTOCOLVERSION": "3.2",
	} {
		t.Setenv(name, value)
	}
	s := open(t, New(skein.SessionOptions{}), target)
	if _, err := s.History(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := settings(t, s, "application_name", "work_mem", "TimeZone")
	if got[0] != "skein" || got[1] == "64kB" || got[2] == "Asia/Tokyo" {
		t.Errorf("the settings are %q", got)
	}
}

// settings reads settings of a session.
func settings(t *testing.T, s *session, names ...string) []string {
	t.Helper()
	var m script
	for _, name := range names {
		m.add(reading, "SHOW "+name)
	}
	results, err := s.run(t.Context(), &m)
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	for _, r := range results {
		values = append(values, string(r.row[0]))
	}
	return values
}

func TestOptions(t *testing.T) {
	target := newDatabase(t)
	opts := skein.SessionOptions{LockTimeout: 1500 * time.Millisecond, StatementTimeout: time.Microsecond * 10}
	target.Options = map[string]string{"application_name": "it's \\ me", "options": "-c work_mem=128kB", "deadlock_timeout": "2s", "connect_timeout": "7", "target_session_attrs": "read-write"}
	if _, err := New(opts).Open(t.Context(), target); err == nil {
		t.Error("a role without the right to it has set deadlock_timeout")
	}
	delete(target.Options, "deadlock_timeout")
	opts.StatementTimeout = 2 * time.Minute
	got := settings(t, open(t, New(opts), target), "application_name", "work_mem", "lock_timeout", "statement_timeout", "client_encoding", "standard_conforming_strings")
	want := []string{`it's \ me`, "128kB", "1500ms", "2min", "UTF8", "on"}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("setting %d is %q, not %q", i, got[i], want[i])
		}
	}
	config, err := newConfig(opts, target)
	if err != nil || config.ConnectTimeout != 7*time.Second {
		t.Errorf("the connect timeout is %v, %v", config.ConnectTimeout, err)
	}

	for name, value := range map[string]string{
		"sslmode": "on", "channel_binding": "maybe", "target_session_attrs": "any-other", "connect_timeout": "7s", "sslrootcert": "/nowhere/root.crt",
		"host": "elsewhere", "password": "x", "service": "other", "client_encoding": "LATIN1", "replication": "database",
	} {
		target.Options = map[string]string{name: value}
		_, err := New(skein.SessionOptions{}).Open(t.Context(), target)
		if err == nil || !strings.Contains(err.Error(), name) && !strings.Contains(err.Error(), value) {
			t.Errorf("%s=%s: the error is %v", name, value, err)
		}
	}
	target.Options = map[string]string{"pool_max_conns": "3"}
	_, err = New(skein.SessionOptions{}).Open(t.Context(), target)
	if err == nil || !strings.Contains(err.Error(), "pool_max_conns") || !strings.Contains(skein.Hint(err), "take it out") {
		t.Errorf("an unknown option: %v, hint %q", err, skein.Hint(err))
	}
	target.Options, target.User = nil, ""
	if _, err = New(skein.SessionOptions{}).Open(t.Context(), target); err == nil || !strings.Contains(err.Error(), "no user") {
		t.Errorf("without a user: %v", err)
	}
}

func TestSessionKeyTellsOptionsApart(t *testing.T) {
	e := New(skein.SessionOptions{})
	key := func(change func(*skein.Target)) string {
		target := skein.Target{Engine: skein.PostgreSQL, Host: "h", Database: "d", User: "u", Schema: "s", Options: map[string]string{"a": "1", "b": "2"}}
		change(&target)
		return e.SessionKey(target)
	}
	same := key(func(*skein.Target) {})
	for name, change := range map[string]func(*skein.Target){
		"options": func(t *skein.Target) { t.Options = map[string]string{"a": "1"} },
		"a value": func(t *skein.Target) { t.Options["a"] = "2" },
		"a quote": func(t *skein.Target) { t.Options = map[string]string{"a": `1" "b"="2`} },
	} {
		if key(change) == same {
			t.Errorf("the same key with other %s", name)
		}
	}
	if key(func(t *skein.Target) { t.Schema, t.Port = "other", 5432 }) != same {
		t.Error("another key for another schema")
	}
}

// BenchmarkCheck is a tenant that is looked at and is up to date, against the
// least that one can do with a connection.
func BenchmarkCheck(b *testing.B) {
	target := newDatabase(b)
	e := New(skein.SessionOptions{})
	s := open(b, e, target)
	lock(b, s)
	for _, name := range []string{"1.sql", "2.sql", "3.sql", "4.sql", "5.sql", "6.sql"} {
		apply(b, s, step(b, name, "SELECT 1", false))
	}
	unlock(b, s)

	b.Run("select 1", func(b *testing.B) {
		config, err := pgconn.ParseConfig("sslmode=disable")
		if err != nil {
			b.Fatal(err)
		}
		config.Host, config.Port, config.Database = target.Host, uint16(target.Port), target.Database
		config.User, config.Password, config.Fallbacks = target.User, target.Password.Reveal(), nil
		for b.Loop() {
			conn, err := pgconn.ConnectConfig(b.Context(), config)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := conn.Exec(b.Context(), "SELECT 1").ReadAll(); err != nil {
				b.Fatal(err)
			}
			_ = conn.Close(b.Context())
		}
	})
	b.Run("open and history", func(b *testing.B) {
		for b.Loop() {
			s, err := e.Open(b.Context(), target)
			if err != nil {
				b.Fatal(err)
			}
			if h, err := s.History(b.Context()); err != nil || len(h.Records) != 6 {
				b.Fatal(h, err)
			}
			_ = s.Close()
		}
	})
	b.Run("history alone", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.History(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
