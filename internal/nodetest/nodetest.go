// Package nodetest gives tests the Node packages that they run with.
//
// A test that needs Node and does not find it fails; it is never skipped.
package nodetest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gofrs/flock"
)

// CacheEnv names the folder that installed packages are kept in. Defaults to
// skein-test in the user's cache folder.
const CacheEnv = "SKEIN_TEST_CACHE"

const installTimeout = 15 * time.Minute

// Modules returns a node_modules folder with what a package.json asks for. npm
// installs it when it is first asked for; then it is kept, for this and for
// later runs. It must not be written to.
func Modules(t testing.TB, packageJSON string) string {
	t.Helper()
	text, err := os.ReadFile(packageJSON)
	if err != nil {
		t.Fatal(err)
	}
	// Drivers are compiled for one version of Node.
	node, err := exec.CommandContext(t.Context(), "node", "--version").Output()
	if err != nil {
		t.Fatalf("this test needs Node: %v: scripts/install-test-deps installs it", err)
	}
	sum := sha256.Sum256(append(text, node...))
	dir := filepath.Join(cache(t), "node-"+hex.EncodeToString(sum[:8]))
	modules := filepath.Join(dir, "node_modules")
	if exists(filepath.Join(dir, "installed")) {
		return modules
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	lock := flock.New(dir + ".lock")
	if err := lock.Lock(); err != nil {
		t.Fatalf("wait for another test that installs packages: %v", err)
	}
	defer lock.Unlock() //nolint:errcheck // it ends with the process
	if exists(filepath.Join(dir, "installed")) {
		return modules
	}
	if err := os.WriteFile(filepath.Join(dir, "package.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), installTimeout)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--no-progress", "--loglevel=error")
	npm.Dir = dir
	if out, err := npm.CombinedOutput(); err != nil {
		t.Fatalf("npm install: %v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "installed"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return modules
}

func cache(t testing.TB) string {
	if dir := os.Getenv(CacheEnv); dir != "" {
		dir, err := filepath.Abs(dir)
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatalf("%v: say with %s where installed packages are to be kept", err, CacheEnv)
	}
	return filepath.Join(dir, "skein-test")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Link puts the packages of a node_modules folder into that of a project, each
// under its own name, but for those that as gives another one: {"knex-2.5":
// "knex"} is the project with that Knex.
func Link(t testing.TB, modules, project string, as map[string]string) {
	t.Helper()
	to := filepath.Join(project, "node_modules")
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(modules)
	if err != nil {
		t.Fatal(err)
	}
	taken := make(map[string]bool)
	for _, name := range as {
		taken[name] = true
	}
	for _, e := range entries {
		name, renamed := as[e.Name()]
		switch {
		case renamed:
		case taken[e.Name()], strings.HasPrefix(e.Name(), "."):
			continue
		default:
			name = e.Name()
		}
		if name == "" {
			continue // as leaves it out
		}
		if err := os.Symlink(filepath.Join(modules, e.Name()), filepath.Join(to, name)); err != nil {
			t.Fatal(err)
		}
	}
}
