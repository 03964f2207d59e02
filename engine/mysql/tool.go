package mysql

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/secret"
)

// The programs of MariaDB, and of MySQL where those are not there.
var (
	dumpers = []string{"mariadb-dump", "mysqldump"}
	clients = []string{"mariadb", "mysql"}
)

// CheckCopy says whether the programs that copy are there, and can be used.
func (a *administrator) CheckCopy(context.Context, skein.Site) error {
	_, err := program(dumpers)
	if err == nil {
		_, err = program(clients)
	}
	return err
}

func program(names []string) (string, error) {
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is needed for this, and neither is installed here: install the server's client programs", strings.Join(names, " or "))
}

// tool makes the command of one of the server's programs. The password is in
// its environment, where the list of processes does not show it.
func tool(ctx context.Context, names []string, t skein.Target, args ...string) (*exec.Cmd, *strings.Builder, error) {
	path, err := program(names)
	if err != nil {
		return nil, nil, err
	}
	// No one's my.cnf has a say.
	all := []string{"--no-defaults", "--user=" + t.User, "--default-character-set=utf8mb4"}
	network, addr := address(t)
	if network == "unix" {
		all = append(all, "--protocol=socket", "--socket="+addr)
	} else {
		host := t.Host
		if host == "" {
			host = "localhost"
		}
		all = append(all, "--protocol=tcp", "--host="+host, fmt.Sprintf("--port=%d", port(t)))
	}
	for option, value := range t.Options {
		switch option {
		case "ssl-ca", "ssl-cert", "ssl-key":
			all = append(all, "--"+option+"="+value)
		case "tls":
			if value == "true" {
				all = append(all, "--loose-ssl", "--loose-ssl-verify-server-cert")
			}
		}
	}
	cmd := exec.CommandContext(ctx, path, append(all, args...)...)
	cmd.Env = append(os.Environ(), "MYSQL_PWD="+t.Password.Reveal())
	said := &strings.Builder{}
	cmd.Stderr = said
	return cmd, said, nil
}

func toolError(cmd *exec.Cmd, said *strings.Builder, password secret.Secret, err error) error {
	if err == nil {
		return nil
	}
	text := strings.TrimSpace(secret.Scrub(said.String(), password))
	if _, exited := errors.AsType[*exec.ExitError](err); !exited || text == "" {
		text = err.Error()
	}
	return fmt.Errorf("%s: %s", cmd.Path, text)
}

// dump writes a database as SQL, as it was at one moment where its tables are
// transactional.
func dump(ctx context.Context, t skein.Target, to io.Writer) error {
	cmd, said, err := tool(ctx, dumpers, t,
		"--single-transaction", "--quick", "--routines", "--triggers", "--events", "--hex-blob",
		"--no-tablespaces", "--skip-lock-tables", "--loose-set-gtid-purged=OFF", "--", t.Database)
	if err != nil {
		return err
	}
	cmd.Stdout = to
	return toolError(cmd, said, t.Password, cmd.Run())
}

// definer is whose rights a view, routine, trigger or event has, as a dump
// writes it.
var definer = regexp.MustCompile("DEFINER=`(?:[^`]|``)*`@`(?:[^`]|``)*` ?")

// copy copies one tenant's database into another's, as that tenant: views,
// routines, triggers and events become its own.
func (a *administrator) copy(ctx context.Context, from, to skein.Target) error {
	as := a.target
	as.Database = from.Database
	client, said, err := tool(ctx, clients, to, "--binary-mode", "--", to.Database)
	if err != nil {
		return err
	}
	in, out := io.Pipe()
	restored, pipe := io.Pipe()
	client.Stdin = restored
	done := make(chan error, 2)
	go func() {
		err := dump(ctx, as, out)
		_ = out.CloseWithError(err) // never fails
		done <- err
	}()
	go func() {
		err := stripDefiners(in, pipe)
		_ = in.CloseWithError(err)
		_ = pipe.CloseWithError(err)
		done <- nil
	}()
	err = toolError(client, said, to.Password, client.Run())
	_ = restored.CloseWithError(io.ErrClosedPipe)
	dumped := errors.Join(<-done, <-done)
	if err != nil {
		return err // the dump then failed for want of a reader
	}
	return dumped
}

// stripDefiners takes the DEFINER clauses out of a dump, but not out of what
// are a table's rows.
func stripDefiners(in io.Reader, out io.Writer) error {
	lines := bufio.NewReaderSize(in, 1<<20)
	for {
		line, err := lines.ReadBytes('\n')
		if bytes.HasPrefix(line, []byte("/*!")) || bytes.HasPrefix(line, []byte("CREATE DEFINER=")) {
			line = definer.ReplaceAll(line, nil)
		}
		if _, err := out.Write(line); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
