package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A peerTool is another tool: how it is had, and how it is called.
type peerTool struct {
	name    string
	module  string
	version string
	pkg     string   // below the module
	tags    []string // which leave out databases that are not in the benchmark
	cgo     bool     // needs a C compiler
	engines []string
	layout  string

	// call is the arguments and environment for one tenant, without the program;
	// nil arguments: it has no such thing.
	call func(o operation, t tenant, dir string) (args, env []string)

	// sums is called once for a folder of migrations, before they are used; nil:
	// not needed.
	sums func(dir string) (args []string)
}

var peerTools = []peerTool{
	{
		name: "goose", module: "github.com/pressly/goose/v3", version: "v3.29.0", pkg: "/cmd/goose",
		tags:    []string{"no_azuresql", "no_clickhouse", "no_libsql", "no_mssql", "no_turso", "no_vertica", "no_ydb"},
		engines: []string{postgres, mysql, sqlite}, layout: "goose",
		call: func(o operation, t tenant, dir string) (args, env []string) {
			driver, dsn := "postgres", t.url()
			switch t.Engine {
			case mysql:
				driver, dsn = "mysql", t.mysqlDSN("parseTime=true")
			case sqlite:
				driver, dsn = "sqlite3", t.Database
			}
			args = map[operation][]string{
				opFresh: {"up"}, opNothing: {"up"}, opColumn: {"up"}, opRollback: {"down"}, opStatus: {"status"}, opVersion: {"-version"},
			}[o]
			return args, []string{"GOOSE_DRIVER=" + driver, "GOOSE_DBSTRING=" + dsn, "GOOSE_MIGRATION_DIR=" + dir}
		},
	},
	{
		name: "golang-migrate", module: "github.com/golang-migrate/migrate/v4", version: "v4.20.1", pkg: "/cmd/migrate",
		tags:    []string{"postgres", "mysql", "sqlite"},
		engines: []string{postgres, mysql, sqlite}, layout: "pairs",
		call: func(o operation, t tenant, dir string) (args, env []string) {
			url := t.url()
			switch t.Engine {
			case mysql:
				url = "mysql://" + t.mysqlDSN("multiStatements=true")
			case sqlite:
				url = "sqlite://" + t.Database
			}
			args = map[operation][]string{
				opFresh: {"up"}, opNothing: {"up"}, opColumn: {"up"}, opRollback: {"down", "1"}, opStatus: {"version"}, opVersion: {"-version"},
			}[o]
			if args != nil && o != opVersion {
				args = append([]string{"-path", dir, "-database", url}, args...)
			}
			return args, nil
		},
	},
	{
		name: "tern", module: "github.com/jackc/tern/v2", version: "v2.3.4",
		engines: []string{postgres}, layout: "tern",
		call: func(o operation, t tenant, dir string) (args, env []string) {
			args = map[operation][]string{
				opFresh: {"migrate"}, opNothing: {"migrate"}, opColumn: {"migrate"}, opRollback: {"migrate", "--destination", "-1"},
				opStatus: {"status"}, opVersion: {"version"},
			}[o]
			if args != nil && o != opVersion {
				args = append(args, "--migrations", dir, "--conn-string", t.url())
				if t.Schema != "" {
					args = append(args, "--version-table", t.Schema+".schema_version")
				}
			}
			return args, nil
		},
	},
	{
		name: "dbmate", module: "github.com/amacneil/dbmate/v2", version: "v2.33.0", cgo: true,
		engines: []string{postgres, mysql, sqlite}, layout: "dbmate",
		call: func(o operation, t tenant, dir string) (args, env []string) {
			args = map[operation][]string{
				opFresh: {"migrate"}, opNothing: {"migrate"}, opColumn: {"migrate"}, opRollback: {"rollback"}, opProvision: {"up"},
				opStatus: {"status"}, opVersion: {"--version"},
			}[o]
			return args, []string{"DATABASE_URL=" + t.url(), "DBMATE_MIGRATIONS_DIR=" + dir, "DBMATE_NO_DUMP_SCHEMA=true"}
		},
	},
	{
		name:    "Atlas",
		engines: []string{postgres, mysql, sqlite}, layout: "ups",
		sums: func(dir string) []string { return []string{"migrate", "hash", "--dir", "file://" + dir} },
		call: func(o operation, t tenant, dir string) (args, env []string) {
			url := t.url()
			switch {
			case t.Engine == sqlite:
				url = "sqlite://" + t.Database
			case t.Engine == postgres && t.Schema == "":
				url = t.url("search_path=public")
			}
			args = map[operation][]string{
				opFresh: {"apply"}, opNothing: {"apply"}, opColumn: {"apply"}, opStatus: {"status"}, opVersion: {"version"},
			}[o]
			if args != nil && o != opVersion {
				args = append([]string{"migrate"}, append(args, "--dir", "file://"+dir, "--url", url)...)
			}
			return args, nil
		},
	},
}

// install builds a tool, unless it is there in that version, and returns its
// program.
func (p peerTool) install(ctx context.Context, tools string) (string, error) {
	bin := filepath.Join(tools, p.name+"-"+p.version)
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	if p.cgo && exec.CommandContext(ctx, "gcc", "--version").Run() != nil {
		return "", errors.New("there is no C compiler (gcc)")
	}
	// A module of its own, whose one requirement is the tool in this version: the
	// versions of all else are those that the tool names.
	dir := filepath.Join(tools, "build-"+p.name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	mod := fmt.Sprintf("module build\n\ngo 1.26.0\n\nrequire %s %s\n", p.module, p.version)
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(mod), 0o600); err != nil {
		return "", err
	}
	build := command{Args: []string{"go", "build", "-mod=mod", "-trimpath", "-tags", strings.Join(p.tags, ","), "-o", bin, p.module + p.pkg}, Dir: dir, Env: []string{"GOWORK=off"}}
	if _, err := build.output(ctx); err != nil {
		return "", err
	}
	return bin, nil
}

// ready prepares the migrations that a tool reads.
func (p peerTool) ready(ctx context.Context, bin, migrations string) error {
	if p.sums == nil {
		return nil
	}
	for _, engine := range p.engines {
		for _, set := range []string{six, seven} {
			args := p.sums(filepath.Join(migrations, engine, p.layout, set))
			if _, err := (command{Args: append([]string{bin}, args...)}).output(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// A peer is a tool as teams use it: a process for each tenant.
type peer struct {
	tool       peerTool
	bin        string
	migrations string // folder with those of all engines
	atOnce     int
}

func (p *peer) name() string { return p.tool.name }

func (p *peer) parallel() int { return p.atOnce }

func (p *peer) whole() bool { return false }

func (p *peer) steps(_ context.Context, f fleet, o operation, tenants []tenant) ([]step, error) {
	if !slices.Contains(p.tool.engines, f.engine()) {
		return nil, nil
	}
	if args, _ := p.tool.call(o, tenants[0], ""); args == nil {
		return nil, nil
	}
	return []step{p.step(f, o, tenants)}, nil
}

// step is a process for each tenant.
func (p *peer) step(f fleet, o operation, tenants []tenant) step {
	dir := filepath.Join(p.migrations, f.engine(), p.tool.layout, o.set())
	s := step{atOnce: p.atOnce, tenants: len(tenants)}
	for _, t := range tenants {
		args, env := p.tool.call(o, t, dir)
		s.commands = append(s.commands, command{Args: append([]string{p.bin}, args...), Env: env, Dir: p.migrations})
	}
	return s
}

// A knexScript is the script that goes over the tenants with Knex.
type knexScript struct {
	dir    string // with fleet.js and node_modules
	node   string
	work   string
	atOnce int
}

func (k *knexScript) name() string { return "Knex, one script" }

func (k *knexScript) parallel() int { return k.atOnce }

func (k *knexScript) whole() bool { return false }

func (k *knexScript) steps(_ context.Context, f fleet, o operation, tenants []tenant) ([]step, error) {
	action := map[operation]string{opFresh: "latest", opNothing: "latest", opColumn: "latest", opRollback: "down", opStatus: "list"}[o]
	args := []string{k.node, filepath.Join(k.dir, "fleet.js"), action}
	switch {
	case o == opVersion:
		args = []string{k.node, filepath.Join(k.dir, "node_modules/knex/bin/cli.js"), "--version"}
	case action == "":
		return nil, nil
	default:
		list, err := writeTenants(k.work, f, tenants)
		if err != nil {
			return nil, err
		}
		args = append(args, list, filepath.Join(k.work, "knex-migrations", o.set()), strconv.Itoa(k.atOnce))
	}
	return []step{forAll("", len(tenants), command{Args: args, Dir: k.dir})}, nil
}

// installKnex installs what knex/package-lock.json names.
func installKnex(ctx context.Context, from, tools string) (string, error) {
	dir := filepath.Join(tools, "knex")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	for _, name := range []string{"package.json", "package-lock.json", "fleet.js", "knexfile.js"} {
		text, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return "", err
		}
		to := filepath.Join(dir, name)
		old, err := os.ReadFile(to)
		if err == nil && string(old) == string(text) {
			continue
		}
		if name == "package-lock.json" {
			if err := os.RemoveAll(filepath.Join(dir, "node_modules")); err != nil {
				return "", err
			}
		}
		if err := os.WriteFile(to, text, 0o600); err != nil {
			return "", err
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules/.package-lock.json")); err == nil {
		return dir, nil // npm writes it last
	}
	npm := command{Args: []string{"npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"}, Dir: dir}
	if _, err := npm.output(ctx); err != nil {
		return "", err
	}
	return dir, nil
}
