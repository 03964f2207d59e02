package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/secret"
)

// command makes a call of one of PostgreSQL's own programs on a database. The
// password is in its environment, where the list of processes does not show it.
func command(ctx context.Context, name string, t skein.Target, args ...string) (*program, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, fmt.Errorf("%s is needed for this and is not installed here: install PostgreSQL's client programs", name)
	}
	p := &program{Cmd: exec.CommandContext(ctx, path, args...), name: name, password: t.Password}
	p.Env = append(os.Environ(),
		"PGHOST="+cmp.Or(t.Host, "localhost"),
		"PGPORT="+strconv.Itoa(cmp.Or(t.Port, skein.DefaultPort(skein.PostgreSQL))),
		"PGDATABASE="+t.Database, "PGUSER="+t.User, "PGPASSWORD="+t.Password.Reveal(),
		"PGAPPNAME=skein", "PGCLIENTENCODING=UTF8", "PGOPTIONS=",
	)
	for option, variable := range map[string]string{
		"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY",
		"channel_binding": "PGCHANNELBINDING", "target_session_attrs": "PGTARGETSESSIONATTRS",
	} {
		if value, ok := t.Options[option]; ok {
			p.Env = append(p.Env, variable+"="+value)
		}
	}
	p.Stderr = &p.said
	return p, nil
}

type program struct {
	*exec.Cmd
	name     string
	password secret.Secret
	said     strings.Builder
}

// run runs it, and its error is what it said.
func (p *program) run() error {
	err := p.Run()
	if err == nil {
		return nil
	}
	text := strings.TrimSpace(secret.Scrub(p.said.String(), p.password))
	if _, exited := errors.AsType[*exec.ExitError](err); !exited || text == "" {
		text = err.Error()
	}
	return fmt.Errorf("%s: %s", p.name, text)
}
