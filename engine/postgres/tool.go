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

// tool runs one of PostgreSQL's own programs on a database. The password is in
// its environment, where the list of processes does not show it.
func (a *administrator) tool(ctx context.Context, name string, t skein.Target, args ...string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("%s is needed for this and is not installed here: install PostgreSQL's client programs", name)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(),
		"PGHOST="+cmp.Or(t.Host, "localhost"),
		"PGPORT="+strconv.Itoa(cmp.Or(t.Port, skein.DefaultPort(skein.PostgreSQL))),
		"PGDATABASE="+t.Database, "PGUSER="+t.User, "PGPASSWORD="+t.Password.Reveal(),
		"PGAPPNAME=skein", "PGCLIENTENCODING=UTF8",
	)
	for option, variable := range map[string]string{
		"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY",
		"channel_binding": "PGCHANNELBINDING", "target_session_attrs": "PGTARGETSESSIONATTRS",
	} {
		if value, ok := t.Options[option]; ok {
			cmd.Env = append(cmd.Env, variable+"="+value)
		}
	}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		text := strings.TrimSpace(secret.Scrub(said.String(), t.Password))
		if _, exited := errors.AsType[*exec.ExitError](err); !exited || text == "" {
			text = err.Error()
		}
		return fmt.Errorf("%s: %s", name, text)
	}
	return nil
}
