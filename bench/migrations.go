package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The sets of migrations: the six of a fresh tenant, and those with one more.
const (
	six   = "six"
	seven = "seven"
)

// A migration is one of the benchmark's own, as it stands in migrations/.
type migration struct{ Name, Up, Down string }

// readMigrations reads the pairs NAME.up.sql and NAME.down.sql of a folder, in order.
func readMigrations(dir string) ([]migration, error) {
	ups, err := filepath.Glob(filepath.Join(dir, "*.up.sql")) // sorted
	if err != nil || len(ups) == 0 {
		return nil, fmt.Errorf("read migrations: none in %s: is this the folder bench?", dir)
	}
	all := make([]migration, len(ups))
	for i, path := range ups {
		up, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read migrations: %w", err)
		}
		down, err := os.ReadFile(strings.TrimSuffix(path, ".up.sql") + ".down.sql")
		if err != nil {
			return nil, fmt.Errorf("read migrations: %w", err)
		}
		all[i] = migration{Name: strings.TrimSuffix(filepath.Base(path), ".up.sql"), Up: string(up), Down: string(down)}
	}
	return all, nil
}

// A layout is the files that a tool reads one migration from, by name.
type layout func(migration) map[string]string

// pairs is the layout of golang-migrate, which Skein reads too.
func pairs(m migration) map[string]string {
	return map[string]string{m.Name + ".up.sql": m.Up, m.Name + ".down.sql": m.Down}
}

func sections(up, down string) layout {
	return func(m migration) map[string]string {
		return map[string]string{m.Name + ".sql": up + m.Up + down + m.Down}
	}
}

// layouts are those of the tools.
var layouts = map[string]layout{
	"pairs":  pairs,
	"goose":  sections("-- +goose Up\n", "\n-- +goose Down\n"),
	"dbmate": sections("-- migrate:up\n", "\n-- migrate:down\n"),
	"tern":   sections("", "\n---- create above / drop below ----\n\n"),
	"ups":    func(m migration) map[string]string { return map[string]string{m.Name + ".sql": m.Up} },
}

// writeMigrations writes folders with the migrations in all layouts,
// DIR/LAYOUT/six and DIR/LAYOUT/seven.
func writeMigrations(all []migration, dir string) error {
	for name, files := range layouts {
		for set, migrations := range map[string][]migration{six: all[:6], seven: all} {
			to := filepath.Join(dir, name, set)
			if err := os.MkdirAll(to, 0o700); err != nil {
				return fmt.Errorf("write migrations: %w", err)
			}
			for _, m := range migrations {
				for file, text := range files(m) {
					if err := os.WriteFile(filepath.Join(to, file), []byte(text), 0o600); err != nil {
						return fmt.Errorf("write migrations: %w", err)
					}
				}
			}
		}
	}
	return nil
}

// set is the migrations that an operation runs with.
func (o operation) set() string {
	if o == opColumn || o == opRollback {
		return seven
	}
	return six
}

// copyKnexMigrations copies the .js files of a folder into six and seven.
func copyKnexMigrations(from, dir string) error {
	files, err := filepath.Glob(filepath.Join(from, "*.js")) // sorted
	if err != nil || len(files) != 7 {
		return fmt.Errorf("read Knex migrations: %d in %s, and not 7", len(files), from)
	}
	for set, files := range map[string][]string{six: files[:6], seven: files} {
		if err := os.MkdirAll(filepath.Join(dir, set), 0o700); err != nil {
			return fmt.Errorf("write migrations: %w", err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return fmt.Errorf("read Knex migrations: %w", err)
			}
			if err := os.WriteFile(filepath.Join(dir, set, filepath.Base(file)), text, 0o600); err != nil {
				return fmt.Errorf("write migrations: %w", err)
			}
		}
	}
	return nil
}
