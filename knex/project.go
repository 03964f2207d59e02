package knex

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// A project is where a Knex and its migrations are.
type project struct {
	dir      string // absolute
	knexfile string // absolute, or empty: Knex's rule
	node     string // the program's path
}

// A projectError is something that the project, or the machine, lacks. It is
// the same for all tenants.
type projectError struct{ msg, hint string }

func (e *projectError) Error() string { return e.msg }

// Hint says what to do.
func (e *projectError) Hint() string { return e.hint }

func findProject(opts *Options) (*project, error) {
	dir := opts.Dir
	if dir == "" {
		dir = "."
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find the project's folder: %w", err)
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return nil, &projectError{
			msg:  fmt.Sprintf("the folder of the Knex project, %s, does not exist", dir),
			hint: "name the folder that has the package.json",
		}
	}
	// A program that was found by a path through a link finds itself by it.
	if resolved, err := filepath.EvalSymlinks(dir); err == nil {
		dir = resolved
	}
	p := &project{dir: dir}
	if opts.Knexfile != "" {
		p.knexfile = absolute(dir, opts.Knexfile)
		if _, err := os.Stat(p.knexfile); err != nil {
			return nil, &projectError{msg: fmt.Sprintf("the knexfile %s cannot be read: %v", p.knexfile, cause(err)), hint: "name the file, or leave the setting out to have it found"}
		}
		p.dir = filepath.Dir(p.knexfile) // where Knex goes
	}
	node := opts.Node
	if node == "" {
		node = "node"
	}
	if p.node, err = exec.LookPath(node); err != nil {
		where := node
		if !strings.ContainsRune(node, filepath.Separator) {
			where = fmt.Sprintf("%s on the PATH (%s)", node, os.Getenv("PATH"))
		}
		return nil, &projectError{
			msg:  "there are Knex migrations to run, and no Node to run them: looked for " + where,
			hint: "install Node.js 18 or later where Skein runs",
		}
	}
	return p, nil
}

func cause(err error) error {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		return e.Err
	}
	return err
}

func isTypeScript(file string) bool {
	switch filepath.Ext(file) {
	case ".ts", ".mts", ".cts":
		return true
	}
	return false
}

// knexfileIsTypeScript says whether the knexfile that Knex finds is TypeScript.
func (p *project) knexfileIsTypeScript() bool {
	if p.knexfile != "" {
		return isTypeScript(p.knexfile)
	}
	for dir := p.dir; ; dir = filepath.Dir(dir) {
		// In the order in which the worker looks for it.
		for _, ext := range []string{"js", "cjs", "mjs", "ts", "cts", "mts"} {
			if _, err := os.Stat(filepath.Join(dir, "knexfile."+ext)); err == nil {
				return strings.HasSuffix(ext, "ts")
			}
		}
		if dir == filepath.Dir(dir) {
			return false
		}
	}
}

// typeScriptFlags are what Node is started with to load TypeScript: the loader
// that the project has, since it is the one that its own Knex runs with and its
// files may need it, and otherwise Node by itself.
func (p *project) typeScriptFlags(ctx context.Context) ([]string, error) {
	switch {
	case p.installed("tsx"):
		return []string{"--import", "tsx"}, nil
	case p.installed("ts-node"):
		return []string{"--require", "ts-node/register/transpile-only"}, nil
	}
	out, err := exec.CommandContext(ctx, p.node, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("ask %s for its version: %w", p.node, err)
	}
	version := strings.TrimSpace(string(out))
	if stripsTypes(version) {
		return nil, nil
	}
	return nil, &projectError{
		msg:  fmt.Sprintf("there are TypeScript files to load, and Node %s cannot by itself: neither tsx nor ts-node is in %s or a node_modules above it", version, filepath.Join(p.dir, "node_modules")),
		hint: "npm install --save-dev tsx, or use Node 22.18 or later",
	}
}

// stripsTypes says whether a Node of this version loads TypeScript without a
// flag: https://nodejs.org/api/typescript.html.
func stripsTypes(version string) bool {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) < 2 {
		return false
	}
	major, err := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	if err != nil || err2 != nil {
		return false
	}
	return major > 23 || major == 23 && minor >= 6 || major == 22 && minor >= 18
}

// installed says whether Node would find a package from the project.
func (p *project) installed(name string) bool {
	for dir := p.dir; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "node_modules", name, "package.json")); err == nil {
			return true
		}
		if dir == filepath.Dir(dir) {
			return false
		}
	}
}

// meminfo is MemAvailable of /proc/meminfo, in bytes.
func meminfo(text string) int64 {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kb << 10
		}
	}
	return 0
}

// readNumber is the number that a file holds, 0 where it is none.
func readNumber(path string) int64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n
}
