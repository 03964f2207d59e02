package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	whoSkein     = "Skein"
	whoFullCheck = "Skein --full-check"
	whoSkeinJS   = "Skein, the .js files"
)

// benchKey encrypts the passwords in the list of tenants; 32 bytes, as they are used.
const benchKey = "a key for the benchmark, 32 bytes"

// A skeinCommand is Skein as it is used from a shell: a project with skein.yaml and a
// list of tenants, and one process for all of them.
type skeinCommand struct {
	bin       string
	work      string
	atOnce    int // 1, or what it does by default
	js        bool
	knex      string // folder with node_modules, for js
	fullCheck bool   // this Skein has --full-check
	projects  map[string]string
}

// newSkein looks at what a Skein can do.
func newSkein(ctx context.Context, bin, work string) (*skeinCommand, error) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	help, err := command{Args: []string{bin, "migrate", "--help"}}.output(ctx)
	if err != nil {
		return nil, fmt.Errorf("run Skein (make build makes it): %w", err)
	}
	return &skeinCommand{
		bin: bin, work: work, atOnce: defaultAtOnce, fullCheck: strings.Contains(help, "--full-check"),
		projects: make(map[string]string),
	}, nil
}

func (s *skeinCommand) name() string {
	if s.js {
		return whoSkeinJS
	}
	return whoSkein
}

func (s *skeinCommand) parallel() int { return s.atOnce }

func (s *skeinCommand) whole() bool { return s.atOnce > 1 && !s.js }

func (s *skeinCommand) steps(ctx context.Context, f fleet, o operation, tenants []tenant) ([]step, error) {
	if o == opVersion {
		return []step{forAll("", 1, s.command(s.work, o, "--version"))}, nil
	}
	dir, err := s.project(ctx, f, tenants)
	if err != nil {
		return nil, err
	}
	one := func(who string, args ...string) step {
		if s.atOnce == 1 && o != opStatus {
			args = append(args, "--parallel", "1")
		}
		return forAll(who, len(tenants), s.command(dir, o, args...))
	}
	switch o {
	case opStatus:
		return []step{one("", "status", tenants[0].Slug)}, nil
	case opRollback:
		return []step{one("", "rollback", "--all", "--steps", "1", "--yes")}, nil
	case opNothing:
		if s.js {
			break
		}
		if !s.fullCheck {
			// A Skein from before the flag, which connects to each.
			return []step{one(whoFullCheck, "migrate", "--all")}, nil
		}
		return []step{one(whoFullCheck, "migrate", "--all", "--full-check"), one("", "migrate", "--all")}, nil
	}
	return []step{one("", "migrate", "--all")}, nil
}

// command is a call of Skein in a project.
func (s *skeinCommand) command(dir string, o operation, args ...string) command {
	return command{Args: append([]string{s.bin}, args...), Env: s.env(o.set()), Dir: dir}
}

func (s *skeinCommand) env(migrations string) []string {
	return []string{"DB_ENCRYPTION_KEY=" + benchKey[:32], "SKEIN_MIGRATIONS_DIR=" + migrations}
}

// project makes a project for tenants, the first time they are asked for, and
// returns its folder.
func (s *skeinCommand) project(ctx context.Context, f fleet, tenants []tenant) (string, error) {
	first := tenants[0]
	key := fmt.Sprintf("%s-%s-%d-%d", f.name(), first.Slug, len(tenants), first.Port)
	if s.js {
		key += "-js"
	}
	if dir, ok := s.projects[key]; ok {
		return dir, nil
	}
	dir := filepath.Join(s.work, "skein", key)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	from := filepath.Join(s.work, "migrations", f.engine(), "pairs")
	if s.js {
		from = filepath.Join(s.work, "knex-migrations")
		for _, name := range []string{"knexfile.js", "node_modules"} {
			if err := os.Symlink(filepath.Join(s.knex, name), filepath.Join(dir, name)); err != nil {
				return "", err
			}
		}
	}
	for _, set := range []string{six, seven} {
		if err := os.Symlink(filepath.Join(from, set), filepath.Join(dir, set)); err != nil {
			return "", err
		}
	}
	if err := s.fill(ctx, dir, f, tenants); err != nil {
		return "", err
	}
	s.projects[key] = dir
	return dir, nil
}

// fill writes the settings of a project and lists its tenants.
func (s *skeinCommand) fill(ctx context.Context, dir string, f fleet, tenants []tenant) error {
	settings := settingsOf(f, tenants[0].Port)
	if err := os.WriteFile(filepath.Join(dir, "skein.yaml"), []byte(settings), 0o600); err != nil {
		return err
	}
	list, err := os.Create(filepath.Join(dir, "tenants.csv"))
	if err != nil {
		return err
	}
	if err := errors.Join(writeCSV(list, tenants), list.Close()); err != nil {
		return err
	}
	for _, args := range [][]string{{"init"}, {"tenants", "import", "tenants.csv"}} {
		if _, err := s.command(dir, opFresh, args...).output(ctx); err != nil {
			return fmt.Errorf("list tenants: %w", err)
		}
	}
	return nil
}

// settingsOf is skein.yaml for a fleet whose server listens on a port.
func settingsOf(f fleet, port int) string {
	settings := "central: {url: \"sqlite:central.db\"}\nencryption: {key: \"${DB_ENCRYPTION_KEY}\"}\n"
	if admin := f.administrator(); admin != nil {
		server := tenant{Engine: f.engine(), Host: admin.Host, Port: port, User: admin.User, Password: admin.Password}
		options := ""
		if f.engine() == postgres {
			server.Database, options = "postgres", ", options: {sslmode: disable}"
		}
		address, _, _ := strings.Cut(server.url(), "?")
		settings += fmt.Sprintf("servers:\n  main: {url: %q%s}\n", address, options)
	}
	return settings
}

// provisioningProject makes a project without tenants, anew each time, and returns
// its folder.
func (s *skeinCommand) provisioningProject(ctx context.Context, f fleet) (string, error) {
	dir := filepath.Join(s.work, "skein", f.name()+"-provision")
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if err := os.Symlink(filepath.Join(s.work, "migrations", f.engine(), "pairs", six), filepath.Join(dir, six)); err != nil {
		return "", err
	}
	var settings string
	if admin := f.administrator(); admin != nil {
		settings = settingsOf(f, admin.Port)
	} else {
		settings = settingsOf(f, 0) + fmt.Sprintf("servers:\n  main: {url: %q}\n", "sqlite:"+filepath.Dir(f.tenants(1)[0].Database)+"/")
	}
	if err := os.WriteFile(filepath.Join(dir, "skein.yaml"), []byte(settings), 0o600); err != nil {
		return "", err
	}
	_, err := s.command(dir, opFresh, "init").output(ctx)
	return dir, err
}

// writeCSV writes the list that `skein tenants import` reads.
func writeCSV(to *os.File, tenants []tenant) error {
	w := csv.NewWriter(to)
	rows := [][]string{{"slug", "engine", "host", "port", "database", "schema", "user", "password", "options"}}
	for _, t := range tenants {
		row := []string{t.Slug, t.Engine, t.Host, "", t.Database, t.Schema, t.User, t.Password, ""}
		if t.Port != 0 {
			row[3] = strconv.Itoa(t.Port)
		}
		if t.Engine == postgres {
			row[8] = `{"sslmode": "disable"}`
		}
		rows = append(rows, row)
	}
	return w.WriteAll(rows)
}

// writeTenants writes the list that knex/fleet.js reads.
func writeTenants(work string, f fleet, tenants []tenant) (string, error) {
	file := filepath.Join(work, fmt.Sprintf("tenants-%s-%d-%d.json", f.name(), len(tenants), tenants[0].Port))
	text, err := json.Marshal(tenants)
	if err != nil {
		return "", err
	}
	return file, os.WriteFile(file, text, 0o600)
}
