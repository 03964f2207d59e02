//go:build unix

package cli_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/skeinhq/skein/internal/dbtest"
	"github.com/skeinhq/skein/secret"
)

// TestKilledRotation rotates the key of a table that the application goes on
// using, with the old key and with the new one, and kills Skein again and again.
// Whenever one looks, every password can be opened with the two keys and is the
// one that the application stored last.
func TestKilledRotation(t *testing.T) {
	const tenants = 1500
	newKey, oldKey := "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
	t.Setenv("DB_ENCRYPTION_KEY_PREVIOUS", oldKey) // the current one is set by start
	options := secret.KeyringOptions{Previous: []secret.Secret{secret.New(oldKey)}, Write: secret.WriteCBC}
	both, err := secret.NewKeyring(secret.New(newKey), options)
	if err != nil {
		t.Fatal(err)
	}
	old, err := secret.NewKeyring(secret.New(oldKey), secret.KeyringOptions{Write: secret.WriteCBC})
	if err != nil {
		t.Fatal(err)
	}
	seal := func(ring *secret.Keyring, plain string) string {
		value, err := ring.Seal(secret.New(plain), secret.Binding{Tenant: "any", Field: "password"})
		if err != nil {
			t.Fatal(err)
		}
		return value
	}

	server := dbtest.Postgres(t)
	name, user, password := server.CreateDatabase(t)
	last := make([]string, tenants) // what the application stored last
	var rows strings.Builder
	for i := range tenants {
		last[i] = fmt.Sprintf("password-%d", i)
		fmt.Fprintf(&rows, "%s(%d, '%s')", strings.Repeat(", ", min(i, 1)), i, seal(old, last[i]))
	}
	server.Exec(t, name, "CREATE TABLE clients (id integer PRIMARY KEY, pw varchar(120)); INSERT INTO clients VALUES "+rows.String())
	server.Exec(t, name, `GRANT SELECT, UPDATE (pw) ON clients TO "`+user+`"`)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "skein.yaml"), `
central:
  url: `+quoteYAML(server.URL(name, user, password))+`
  tenants:
    table: clients
    columns: {id: id, password: pw}
    engine: postgres
    host: 127.0.0.1
    database: "d{id}"
    user: u
    write: true
encryption: {key: "${DB_ENCRYPTION_KEY}", previous_key: "${DB_ENCRYPTION_KEY_PREVIOUS}", write: cbc}
`)
	// check returns how many are under the new key.
	check := func() (rotated int) {
		t.Helper()
		for _, row := range server.Query(t, name, "SELECT id, pw FROM clients ORDER BY id") {
			plain, keyID, err := both.Open(row[1], secret.Binding{})
			var i int
			if _, scanErr := fmt.Sscan(row[0], &i); scanErr != nil {
				t.Fatal(scanErr)
			}
			if err != nil || plain.Reveal() != last[i] {
				t.Fatalf("tenant %d: %v, or not what the application stored last", i, err)
			}
			if keyID == both.Current() {
				rotated++
			}
		}
		return rotated
	}

	// application changes a few rows for as long as run says.
	application := func(run func() bool) {
		for n := 0; run(); n++ {
			i := rand.IntN(tenants)
			last[i] = fmt.Sprintf("changed-%d-%d", n, rand.Int())
			ring := old
			if n%3 == 0 {
				ring = both
			}
			server.Exec(t, name, fmt.Sprintf("UPDATE clients SET pw = '%s' WHERE id = %d", seal(ring, last[i]), i))
		}
	}
	kills := 0
	for wait := 60 * time.Millisecond; kills < 12; wait += 15 * time.Millisecond {
		p := start(t, dir, nil, "keys", "rotate", "--no-connect")
		end := time.Now().Add(wait)
		application(func() bool { return time.Now().Before(end) })
		_ = p.cmd.Process.Signal(syscall.SIGKILL) // it may have ended
		<-p.ended
		if p.cmd.ProcessState.Exited() && kills > 5 {
			break // whole runs fit in, so that there is nothing new to be met
		}
		kills++
		t.Logf("killed after %s with %d under the new key", wait, check())
	}
	if rotated := check(); rotated == 0 {
		t.Error("nothing was rotated in all these runs")
	}

	// While it runs to its end, and after it.
	p := start(t, dir, nil, "keys", "rotate", "--no-connect")
	application(func() bool {
		select {
		case <-p.ended:
			return false
		default:
			return true
		}
	})
	check()
	out := skein(t, dir, 0, "", "keys", "rotate", "--no-connect")
	if rotated := check(); rotated != tenants {
		t.Errorf("%d of %d are under the new key\n%s", rotated, tenants, out)
	}
	if !strings.Contains(out, "No password needs the previous key any more") {
		t.Errorf("it ends with\n%s", out)
	}
}

func quoteYAML(text string) string {
	return "'" + strings.ReplaceAll(strings.ReplaceAll(text, "$", "$$"), "'", "''") + "'"
}

// TestInterruptedRotation sends signals.
func TestInterruptedRotation(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "skein.yaml"), "central: {url: \"sqlite:central.db\"}\n")
	skein(t, dir, 0, "", "init", "-q")
	silent, connected := silentServer(t)
	skein(t, dir, 0, "pw", "tenants", "add", "acme", "--url", "postgres://u@"+silent+"/d", "--password-stdin")
	skein(t, dir, 0, "", "keys", "rotate", "--to", "cbc", "--no-connect")
	before := passwords(t, filepath.Join(dir, "central.db"))

	p := start(t, dir, nil, "keys", "rotate")
	until(t, "connecting", func() bool { return connected.Load() > 0 })
	p.signal(t, syscall.SIGTERM)
	time.Sleep(300 * time.Millisecond) // two alike at once are one
	p.signal(t, syscall.SIGTERM)
	p.wait(t, 143, 5*time.Second) // less than connecting may take
	if after := passwords(t, filepath.Join(dir, "central.db")); after != before {
		t.Error("it was changed")
	}
	if !strings.Contains(p.stdout.String(), "Interrupted: nothing was changed") {
		t.Errorf("it says\n%s%s", &p.stdout, &p.stderr)
	}
}

func passwords(t *testing.T, path string) string {
	t.Helper()
	rows, err := querySQLite(path, "SELECT id, password FROM skein_tenants ORDER BY id")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(rows)
}

// silentServer accepts connections and says nothing.
func silentServer(t *testing.T) (address string, connections *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	connections = new(atomic.Int64)
	var all []net.Conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all = append(all, c)
			connections.Add(1)
		}
	}()
	t.Cleanup(func() {
		_ = l.Close() // it ends Accept
		<-done
		for _, c := range all {
			_ = c.Close() // nobody listens
		}
	})
	return l.Addr().String(), connections
}
