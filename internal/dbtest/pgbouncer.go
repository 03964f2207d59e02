package dbtest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// PgBouncer starts a PgBouncer before the PostgreSQL test server, which ends
// with the test, and returns its port on 127.0.0.1. mode is its pool_mode; users
// are the accounts that it lets in with their passwords, and settings are lines
// of its configuration, as "default_pool_size = 3".
func PgBouncer(t testing.TB, mode string, users map[string]string, settings ...string) (port int) {
	t.Helper()
	server := Postgres(t)
	dir, err := os.MkdirTemp("", "skein-pgbouncer-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // the account below reads what is in it
		t.Fatal(err)
	}
	var list strings.Builder
	quote := strings.NewReplacer(`"`, `""`)
	for user, password := range users {
		fmt.Fprintf(&list, "\"%s\" \"%s\"\n", quote.Replace(user), quote.Replace(password))
	}
	port = freePort(t)
	lines := append([]string{
		"[databases]", "* = host=" + server.Host() + " port=" + strconv.Itoa(server.Port()),
		"[pgbouncer]", "listen_addr = 127.0.0.1", "listen_port = " + strconv.Itoa(port), "unix_socket_dir =",
		"auth_type = scram-sha-256", "auth_file = " + filepath.Join(dir, "users"), "pool_mode = " + mode,
	}, settings...)
	for name, text := range map[string]string{"users": list.String(), "pgbouncer.ini": strings.Join(lines, "\n") + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil { //nolint:gosec // likewise; it is a test's
			t.Fatal(err)
		}
	}

	args := []string{"-q", filepath.Join(dir, "pgbouncer.ini")}
	if os.Getuid() == 0 {
		args = append([]string{"-u", "nobody"}, args...) // it refuses to run as root
	}
	cmd := exec.Command(lookPath("pgbouncer"), args...) //nolint:noctx // it is ended below
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatalf("start PgBouncer, which scripts/install-test-deps installs: %v", err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	for end := time.Now().Add(timeout); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil { //nolint:noctx // to this machine
			_ = conn.Close()
			return port
		}
		select {
		case <-ended:
			t.Fatalf("PgBouncer ended: %s", said.String())
		default:
		}
		if time.Now().After(end) {
			t.Fatal("PgBouncer does not listen")
		}
	}
}

// freePort is a port of 127.0.0.1 on which nobody listens at this moment.
func freePort(t testing.TB) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // to this machine
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // nothing was done with it
	return listener.Addr().(*net.TCPAddr).Port
}
