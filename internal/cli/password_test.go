package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/config"
)

// counting is a command that notes each run in a file and prints a password.
func counting(t *testing.T, script string) (dir string, runs func() int) {
	t.Helper()
	dir = t.TempDir()
	text := "#!/bin/sh\necho \"$@\" >>runs\n" + script + "\n"
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir, func() int {
		data, err := os.ReadFile(filepath.Join(dir, "runs"))
		if err != nil {
			return 0
		}
		return strings.Count(string(data), "\n")
	}
}

func TestPasswordCommand(t *testing.T) {
	t.Setenv("DB_ENCRYPTION_KEY", "S3cret-key")
	dir, runs := counting(t, `sleep 0.2; echo "  for $2 at $1 $3 ($4)${DB_ENCRYPTION_KEY}  "`)
	w := &workspace{cfg: &config.Config{Dir: dir, Servers: map[string]config.Server{"eu-1": {
		Target:          skein.Target{Engine: skein.PostgreSQL, Host: "db1", Port: 5432},
		PasswordCommand: []string{"./token", "{host}:{port}", "{user}", "{database}", "$HOME; {other}"},
		PasswordTTL:     time.Hour,
	}}}}
	target := skein.Target{Engine: skein.PostgreSQL, Host: "db1", Database: "d; rm -rf x", User: "o'neil"}

	// Many who ask for the same at once wait for one run.
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			got, err := w.password(t.Context(), target)
			if want := "for o'neil at db1:5432 d; rm -rf x ($HOME; {other})"; err != nil || got.Reveal() != want {
				t.Errorf("%q, %v, want %q", got.Reveal(), err, want)
			}
		})
	}
	all.Wait()
	if n := runs(); n != 1 {
		t.Errorf("%d runs, want 1", n)
	}
	target.User = "other"
	if got, err := w.password(t.Context(), target); err != nil || !strings.HasPrefix(got.Reveal(), "for other") || runs() != 2 {
		t.Errorf("%q, %v after %d runs", got.Reveal(), err, runs())
	}
	target.Host = "db2"
	if got, err := w.password(t.Context(), target); err != nil || !got.IsZero() || runs() != 2 {
		t.Errorf("a server without the command has the password %q, %v", got.Reveal(), err)
	}
}

func TestPasswordIsKeptForATime(t *testing.T) {
	dir, runs := counting(t, "echo p")
	var p passwordCommands
	for range 3 {
		if _, err := p.get(t.Context(), []string{"./token"}, dir, 0); err != nil {
			t.Fatal(err)
		}
	}
	if n := runs(); n != 3 {
		t.Errorf("%d runs, want 3: they are not to be kept", n)
	}
	for range 3 {
		if _, err := p.get(t.Context(), []string{"./token", "x"}, dir, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if n := runs(); n != 4 {
		t.Errorf("%d runs, want one more", n)
	}
	// One who does not wait any longer does not take it from the others.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.get(ctx, []string{"./token", "y"}, dir, time.Hour); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if got, err := p.get(t.Context(), []string{"./token", "y"}, dir, time.Hour); err != nil || got.Reveal() != "p" {
		t.Errorf("%q, %v", got.Reveal(), err)
	}
}

func TestPasswordCommandFailures(t *testing.T) {
	for script, want := range map[string]string{
		"echo S3cret-word; echo 'no session for S3cret-word' >&2; exit 3": "password_command ./token: exit status 3: no session for [redacted]",
		"echo S3cret-word; kill -9 $$":                                    "password_command ./token: signal: killed",
		"true":                                                            "password_command ./token: it printed nothing",
		"echo S3cret-word; echo S3cret-2":                                 "password_command ./token: it printed more than one line",
		"yes S3cret-word | head -c 100000":                                "password_command ./token: it printed more than 65536 bytes",
		"echo; echo 'password: S3cret-word' >&2; exit 1":                  "password_command ./token: exit status 1: password: [redacted]",
	} {
		dir, _ := counting(t, script)
		var p passwordCommands
		_, err := p.get(t.Context(), []string{"./token"}, dir, time.Hour)
		if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "S3cret") {
			t.Errorf("%s\n%v, want %s", script, err, want)
		}
		// It is run again, not remembered.
		if _, again := p.get(t.Context(), []string{"./token"}, dir, time.Hour); again == nil || errors.Is(again, err) {
			t.Errorf("%s: the failure was remembered", script)
		}
	}
	var p passwordCommands
	if _, err := p.get(t.Context(), []string{"no-such-program"}, t.TempDir(), 0); err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("error %v", err)
	}
	// What a command starts may outlive it, and keep its pipe open.
	dir, _ := counting(t, "sleep 20 & echo p")
	start := time.Now()
	if _, err := p.get(t.Context(), []string{"./token"}, dir, 0); err == nil || time.Since(start) > 10*time.Second {
		t.Errorf("%v after %s", err, time.Since(start))
	}
}
