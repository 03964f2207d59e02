package dbtest

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A Private server is one that a test has to itself, to stop it, to make it a
// standby, or to take its disk away. It ends with the test.
type Private struct {
	*Server
	t       testing.TB
	dir     string
	program string
	args    []string
	limit   int // of the size of a file in kilobytes, 0: none
	running *running
}

// running is a server's process.
type running struct {
	cmd   *exec.Cmd
	said  bytes.Buffer
	ended chan struct{}
}

// PrivatePostgres makes a PostgreSQL server and starts it. settings are lines of
// its configuration.
func PrivatePostgres(t testing.TB, settings ...string) *Private {
	t.Helper()
	bin := ""
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err == nil && len(found) > 0 {
		bin = slices.MaxFunc(found, func(a, b string) int { return len(a) - len(b) + strings.Compare(a, b) })
	}
	p := newPrivate(t, "postgres", postgres{})
	data, password := filepath.Join(p.dir, "data"), p.admin.User
	secret, _ := password.Password()
	p.write("password", secret)
	p.run(filepath.Join(bin, "initdb"), "--pgdata="+data, "--username=postgres", "--pwfile="+filepath.Join(p.dir, "password"),
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")
	p.append("data/postgresql.conf", strings.Join(append([]string{
		"listen_addresses = '127.0.0.1'", "unix_socket_directories = ''", "fsync = off", "shared_buffers = 16MB", "max_connections = 20",
	}, settings...), "\n")+"\n")
	p.program, p.args = filepath.Join(bin, "postgres"), []string{"-D", data, "-p", p.admin.Port()}
	p.Start()
	return p
}

// PrivateMySQL makes a MariaDB server and starts it. options are of its command
// line.
func PrivateMySQL(t testing.TB, options ...string) *Private {
	t.Helper()
	p := newPrivate(t, "mysql", mySQL{})
	data := filepath.Join(p.dir, "data")
	p.run("mariadb-install-db", "--no-defaults", "--datadir="+data, "--auth-root-authentication-method=normal", "--skip-test-db")
	password, _ := p.admin.User.Password()
	p.write("init.sql", "DELETE FROM mysql.global_priv WHERE User IN ('root', '');\nFLUSH PRIVILEGES;\n"+
		"CREATE USER 'root'@'127.0.0.1' IDENTIFIED BY '"+password+"';\nGRANT ALL PRIVILEGES ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION;\n")
	p.program = lookPath("mariadbd")
	p.args = append([]string{
		"--no-defaults", "--datadir=" + data, "--pid-file=pid", "--bind-address=127.0.0.1", "--port=" + p.admin.Port(), "--socket=socket",
		"--skip-name-resolve", "--init-file=" + filepath.Join(p.dir, "init.sql"), "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=16M",
	}, options...)
	p.Start()
	return p
}

func newPrivate(t testing.TB, scheme string, d dialect) *Private {
	t.Helper()
	dir, err := os.MkdirTemp("", "skein-private-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &Private{t: t, dir: dir}
	if account := p.account(); account != nil {
		if err := os.Chown(dir, int(account.Uid), int(account.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	users := map[string]string{"postgres": "postgres", "mysql": "root"}
	p.Server = &Server{dialect: d, admin: &url.URL{
		Scheme: scheme, User: url.UserPassword(users[scheme], rand.Text()), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(freePort(t))), Path: "/",
	}}
	if scheme == "postgres" {
		p.admin.Path = "/postgres"
	}
	t.Cleanup(func() { p.Kill(syscall.SIGKILL) })
	return p
}

// account is who runs the servers where root must not, nil for the test's own.
func (p *Private) account() *syscall.Credential {
	if os.Getuid() != 0 {
		return nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		p.t.Fatalf("as root, servers run as the account that scripts/install-test-deps makes: %v", err)
	}
	uid, _ := strconv.ParseUint(account.Uid, 10, 32)
	gid, _ := strconv.ParseUint(account.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// lookPath is a program's path. Debian keeps servers off an ordinary user's PATH.
func lookPath(name string) string {
	if path, err := exec.LookPath(name); err == nil || filepath.IsAbs(name) {
		return path
	}
	return "/usr/sbin/" + name
}

// command is a program of the servers' account.
func (p *Private) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(lookPath(program), args...) //nolint:noctx // it is ended by the test's end
	if p.limit > 0 {
		cmd = exec.Command("/bin/sh", append([]string{"-c", "trap '' XFSZ; ulimit -f " + strconv.Itoa(2*p.limit) + `; exec "$0" "$@"`, cmd.Path}, args...)...) //nolint:noctx // likewise
	}
	cmd.Dir = p.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.account(), Setpgid: true}
	return cmd
}

func (p *Private) run(program string, args ...string) {
	p.t.Helper()
	if out, err := p.command(program, args...).CombinedOutput(); err != nil {
		p.t.Fatalf("%s: %v\n%s", program, err, out)
	}
}

// write writes a file of the server, which is its account's.
func (p *Private) write(name, text string) {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	if account := p.account(); account != nil {
		if err := os.Chown(path, int(account.Uid), int(account.Gid)); err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p *Private) append(name, text string) {
	p.t.Helper()
	old, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(name, string(old)+text)
}

// File writes a file in the server's data folder while it is stopped.
func (p *Private) File(name, text string) { p.write(filepath.Join("data", name), text) }

// Remove removes a file from the server's data folder while it is stopped.
func (p *Private) Remove(name string) {
	p.t.Helper()
	if err := os.Remove(filepath.Join(p.dir, "data", name)); err != nil {
		p.t.Fatal(err)
	}
}

// LimitFiles makes the server unable to let a file grow beyond so many kilobytes
// from its next start on, as a disk that is full does.
func (p *Private) LimitFiles(kilobytes int) { p.limit = kilobytes }

// Begin starts the server and does not wait until it can be used.
func (p *Private) Begin() {
	p.t.Helper()
	r := &running{cmd: p.command(p.program, p.args...), ended: make(chan struct{})}
	r.cmd.Stdout, r.cmd.Stderr = &r.said, &r.said
	if err := r.cmd.Start(); err != nil {
		p.t.Fatalf("start %s: %v", p.program, err)
	}
	go func() {
		_ = r.cmd.Wait()
		close(r.ended)
	}()
	p.running = r
}

// Start starts the server and waits until it can be used.
func (p *Private) Start() {
	p.t.Helper()
	p.Begin()
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		select {
		case <-p.running.ended:
			p.t.Fatalf("%s ended: %s", p.program, p.running.said.String())
		default:
		}
		var s session
		if s, err = p.connect(p.t.Context(), p.admin, ""); err == nil {
			if err = s.close(p.t.Context()); err == nil {
				return
			}
		}
	}
	p.t.Fatalf("%s cannot be used: %v", p.program, err)
}

// Signal sends the server a signal.
func (p *Private) Signal(signal syscall.Signal) {
	p.t.Helper()
	if err := p.running.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatal(err)
	}
}

// Kill sends the server a signal and waits for its end. SIGKILL is sent to all of
// its processes.
func (p *Private) Kill(signal syscall.Signal) {
	if p.running == nil {
		return
	}
	if signal == syscall.SIGKILL {
		_ = syscall.Kill(-p.running.cmd.Process.Pid, signal) // it may have ended
	} else {
		p.Signal(signal)
	}
	select {
	case <-p.running.ended:
	case <-time.After(time.Minute):
		p.t.Fatal(fmt.Errorf("%s does not end", p.program))
	}
	p.running = nil
}
