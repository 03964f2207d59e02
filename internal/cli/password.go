package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/secret"
)

const (
	// passwordTimeout bounds how long a password_command may take.
	passwordTimeout = 30 * time.Second
	// maxPassword bounds what it may print, in bytes. Tokens have some thousand.
	maxPassword = 64 << 10
)

// password is that of a target which has none of its own, from its server's
// password_command; the empty one if there is no such command.
func (w *workspace) password(ctx context.Context, target skein.Target) (secret.Secret, error) {
	server, ok := w.cfg.Connecting(target)
	if !ok || len(server.PasswordCommand) == 0 {
		return secret.Secret{}, nil
	}
	port := target.Port
	if port == 0 {
		port = skein.DefaultPort(target.Engine)
	}
	host := target.Host
	if host == "" {
		host = "localhost"
	}
	fill := strings.NewReplacer("{host}", host, "{port}", strconv.Itoa(port), "{user}", target.User, "{database}", target.Database)
	command := make([]string, len(server.PasswordCommand))
	for i, word := range server.PasswordCommand {
		command[i] = fill.Replace(word)
	}
	return w.passwords.get(ctx, command, w.cfg.Dir, server.PasswordTTL)
}

// withPasswords is a runner of Knex migrations that finds passwords as the
// engines do.
type withPasswords struct {
	skein.KnexRunner
	w *workspace
}

// Run runs them with the tenant's password.
func (k withPasswords) Run(ctx context.Context, target skein.Target, run skein.KnexRun) (skein.KnexResult, error) {
	target, err := skein.SessionOptions{Password: k.w.password}.Authenticate(ctx, target)
	if err != nil {
		return skein.KnexResult{}, err
	}
	return k.KnexRunner.Run(ctx, target, run)
}

// passwordCommands run commands that print passwords, and keep what they print
// for a while. The zero value is ready. They are safe for concurrent use: who
// asks for the same at the same time waits for one run.
type passwordCommands struct {
	mu   sync.Mutex
	runs map[string]*passwordRun // by command
}

// A passwordRun is one run of a command. Its fields are read after done.
type passwordRun struct {
	done     chan struct{}
	password secret.Secret
	err      error
	good     time.Time // until when it may be used
}

func (p *passwordCommands) get(ctx context.Context, command []string, dir string, ttl time.Duration) (secret.Secret, error) {
	key := strings.Join(command, "\x00")
	p.mu.Lock()
	run := p.runs[key]
	if run != nil {
		select {
		case <-run.done:
			if run.err != nil || time.Now().After(run.good) {
				run = nil
			}
		default: // under way
		}
	}
	if run == nil {
		run = &passwordRun{done: make(chan struct{})}
		if p.runs == nil {
			p.runs = make(map[string]*passwordRun)
		}
		p.runs[key] = run
		// One who gives up must not take it from the others.
		go func() {
			run.password, run.err = runPasswordCommand(context.WithoutCancel(ctx), command, dir)
			run.good = time.Now().Add(ttl)
			close(run.done)
		}()
	}
	p.mu.Unlock()
	select {
	case <-run.done:
		return run.password, run.err
	case <-ctx.Done():
		return secret.Secret{}, ctx.Err()
	}
}

// ownVariables are what a password_command does not need to know.
var ownVariables = []string{"DB_ENCRYPTION_KEY", "DB_ENCRYPTION_KEY_PREVIOUS", "SKEIN_CENTRAL_URL", "SKEIN_RECORD_URL"}

func runPasswordCommand(ctx context.Context, command []string, dir string) (secret.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, passwordTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = dir
	cmd.WaitDelay = time.Second // what it started may keep the pipes open
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(ownVariables, name)
	})
	out, complaint := &bounded{max: maxPassword}, &bounded{max: 2000}
	cmd.Stdout, cmd.Stderr = out, complaint
	err := cmd.Run()
	password := strings.TrimSpace(out.String())
	fail := func(format string, args ...any) (secret.Secret, error) {
		what := fmt.Sprintf("password_command %s: ", command[0]) + fmt.Sprintf(format, args...)
		// It may say on standard error what it should only print.
		if text := strings.Join(strings.Fields(secret.Scrub(complaint.String(), secret.New(password))), " "); text != "" {
			what += ": " + text
		}
		return secret.Secret{}, errors.New(what)
	}
	switch {
	case ctx.Err() != nil:
		return fail("no end within %s", passwordTimeout)
	case err != nil:
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return fail("%s", exit.ProcessState)
		}
		return fail("%v", err)
	case out.cut:
		return fail("it printed more than %d bytes, which is no password", maxPassword)
	case password == "":
		return fail("it printed nothing")
	case strings.ContainsAny(password, "\r\n"):
		return fail("it printed more than one line")
	}
	return secret.New(password), nil
}

// bounded keeps the first bytes that are written to it.
type bounded struct {
	kept []byte
	max  int
	cut  bool
}

func (b *bounded) Write(p []byte) (int, error) {
	fits := min(len(p), b.max-len(b.kept))
	b.kept, b.cut = append(b.kept, p[:fits]...), b.cut || fits < len(p)
	return len(p), nil
}

func (b *bounded) String() string { return string(b.kept) }
