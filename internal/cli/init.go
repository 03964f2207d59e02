package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/central"
	"github.com/skeinhq/skein/internal/config"
)

// settingsStub is the skein.yaml that init writes.
const settingsStub = `# Skein's settings. Every key is optional; ${NAME} is a variable of the
# environment or of an .env file beside this one. All keys: docs/settings.md

central:
  # The database that lists the tenants: postgres://, mysql:// or sqlite:PATH
  url: %s

%s
# encryption:
#   key: ${DB_ENCRYPTION_KEY}      # what the tenants' passwords are encrypted with
`

// migrationsStub is what stands for the migrations of a new project.
const migrationsStub = `migrations:
  dir: migrations/tenant
`

// foundKnexfile is the value of --from-knex without one: the knexfile that Knex
// finds by itself. No file is called so.
const foundKnexfile = "the one found"

func (a *app) initCommand() *cobra.Command {
	var url, fromKnex string
	cmd := &cobra.Command{
		Use:     "init",
		GroupID: "set",
		Short:   "Make skein.yaml, the migrations folder and the list of tenants",
		Long: `Make what is missing of: skein.yaml, migrations/tenant/ and Skein's own tables
in the central database. What exists is kept; calling it again, or from several
machines at once, does no harm. After an update of Skein it brings Skein's own
tables up to date.

The central database is a SQLite file, .skein/central.db, unless --central or
SKEIN_CENTRAL_URL names another.

With --from-knex the knexfile in this folder, or the nearest above it, is loaded
with Node, and the settings say what it says: folders, table, extensions. What is
found is told, and the mapping of the table that lists the tenants is there to be
filled in. --from-knex=FILE is for one that is elsewhere, as knex --knexfile FILE.

` + exitCodesHelp,
		Example: `  skein init
  skein init --from-knex
  skein init --from-knex=src/db/knexfile.ts
  SKEIN_CENTRAL_URL=postgres://skein@db1/central skein init`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			if err := a.writeSettings(ctx, url, fromKnex); err != nil {
				return err
			}
			cfg, err := config.Load(a.configPath, a.LookupEnv)
			if err != nil {
				return err
			}
			for _, dir := range cfg.MigrationDirs() {
				//nolint:gosec // the umask says who may read a project's files
				if err := os.MkdirAll(dir, 0o777); err != nil {
					return fmt.Errorf("make the folder of migrations: %w", err)
				}
				a.notef("%s  migrations", dir)
			}
			cc, err := a.centralConfig(ctx, cfg)
			if err != nil {
				return err
			}
			where, err := central.Init(ctx, cc)
			if err != nil {
				return err
			}
			a.notef("%s  tenants", where)
			if cfg.Central.Tenants != nil {
				changes := "which Skein does not change"
				if cfg.Central.Tenants.Write {
					changes = "which Skein changes where it provisions tenants and rotates keys"
				}
				a.notef("The tenants are read from the table %s, %s.", cfg.Central.Tenants.Table, changes)
				fmt.Fprintln(a.Out, "Ready. Next:\n  skein tenants list\n  skein plan --all")
				return nil
			}
			fmt.Fprintln(a.Out, "Ready. Next:\n  skein tenants add SLUG --url sqlite:PATH    (or postgres://..., mysql://...)\n  skein make NAME\n  skein migrate --all")
			return nil
		},
	}
	cmd.Flags().StringVar(&url, "central", "", "`address` of the central database to write into a new skein.yaml (one with a password belongs in SKEIN_CENTRAL_URL)")
	cmd.Flags().StringVar(&fromKnex, "from-knex", "", "take folders, table and extensions from the project's knexfile, or from `FILE`")
	cmd.Flags().Lookup("from-knex").NoOptDefVal = foundKnexfile
	return cmd
}

// writeSettings makes the settings file if it does not exist.
func (a *app) writeSettings(ctx context.Context, url, fromKnex string) error {
	path, _ := config.Path(a.configPath, a.LookupEnv)
	kept := func() error {
		if fromKnex != "" {
			return fmt.Errorf("%s exists already: take it away to have one made by --from-knex, or leave --from-knex out", path)
		}
		if url != "" {
			return fmt.Errorf("%s exists already: set central.url there, or leave --central out", path)
		}
		a.notef("%s  kept as it is", path)
		return nil
	}
	if _, err := os.Stat(path); err == nil {
		return kept()
	}
	variables, err := config.Variables(path, a.LookupEnv)
	if err != nil {
		return err
	}
	value := config.DefaultCentralURL
	if url != "" {
		if value, err = centralSetting(url); err != nil {
			return err
		}
	} else if set, _ := variables("SKEIN_CENTRAL_URL"); set != "" {
		value = "${SKEIN_CENTRAL_URL}"
	}
	folder := filepath.Dir(path)
	migrations := migrationsStub
	if fromKnex != "" {
		if migrations, err = a.settingsFromKnex(ctx, folder, fromKnex); err != nil {
			return err
		}
	}
	//nolint:gosec // as above
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return fmt.Errorf("make the folder of the settings: %w", err)
	}
	// Whoever begins at the same time finds the whole file or none.
	f, err := os.CreateTemp(folder, ".skein-*.yaml")
	if err != nil {
		return fmt.Errorf("make the settings file: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // it has another name by then
	_, err = fmt.Fprintf(f, settingsStub, value, migrations)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return fmt.Errorf("write the settings file: %w", err)
	}
	err = os.Link(f.Name(), path)
	if errors.Is(err, fs.ErrExist) {
		return kept()
	}
	if err != nil {
		return fmt.Errorf("make the settings file: %w", err)
	}
	a.notef("%s  settings", path)
	return nil
}

// centralSetting is an address as the settings file has it.
func centralSetting(url string) (string, error) {
	target, err := skein.ParseTarget(url)
	if err != nil {
		return "", fmt.Errorf("--central: %w", err)
	}
	if !target.Password.IsZero() {
		return "", errors.New("--central holds a password, which does not belong in a file: set SKEIN_CENTRAL_URL, and leave --central out")
	}
	text, err := yaml.Marshal(strings.ReplaceAll(url, "$", "$$"))
	if err != nil {
		return "", fmt.Errorf("--central: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}
