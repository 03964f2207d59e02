package cli

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/config"
	"github.com/skeinhq/skein/internal/ui"
	"github.com/skeinhq/skein/knex"
)

// knexOptions say how the project's own Knex is run: from the folder of the
// settings, as its npm scripts run it.
func knexOptions(cfg *config.Config) *knex.Options {
	opts := &knex.Options{
		Dir: cfg.Dir, Env: cfg.Knex.Environment, Node: cfg.Knex.Node, Workers: cfg.Knex.Workers,
		Table:   cfg.Migrations.Table,
		Timeout: cfg.Limits.Timeout, LockTimeout: cfg.Limits.LockTimeout, StatementTimeout: cfg.Limits.StatementTimeout,
	}
	if cfg.Knex.File != "" {
		opts.Knexfile = cfg.Resolve(cfg.Knex.File)
	}
	return opts
}

// knexPreviews are the SQL of Knex migrations, asked for once.
type knexPreviews struct {
	w     *workspace
	known map[string]knex.Preview // by engine, direction and name
	err   error                   // why there are none
}

func (p *knexPreviews) of(ctx context.Context, g *planGroup, m *skein.Migration) (knex.Preview, error) {
	key := func(m *skein.Migration) string { return g.engine + " " + string(g.plan.Direction) + " " + m.Name }
	if p.known == nil {
		p.known = make(map[string]knex.Preview)
	}
	if _, ok := p.known[key(m)]; !ok && p.err == nil {
		// All that the plan has, since one process makes them.
		var wanted []*skein.Migration
		for _, step := range g.plan.Steps {
			if _, ok := p.known[key(step)]; !ok && step.Kind == skein.Knex {
				wanted = append(wanted, step)
			}
		}
		var made []knex.Preview
		made, p.err = p.w.knexProcesses().Preview(ctx, g.engine, g.plan.Direction, wanted)
		for i, preview := range made {
			p.known[key(wanted[i])] = preview
		}
	}
	return p.known[key(m)], p.err
}

// printKnexSQL shows, as far as it can be had, what a Knex migration would send.
func (a *app) printKnexSQL(ctx context.Context, previews *knexPreviews, g *planGroup, m *skein.Migration) error {
	name := ui.Printable(fmt.Sprintf("%s %s", m.Name, g.plan.Direction))
	preview, err := previews.of(ctx, g, m)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		fmt.Fprintf(a.Out, "\n-- %s (by Knex): its SQL cannot be shown\n", name)
		a.printComment(err.Error())
		if hint := skein.Hint(err); hint != "" {
			a.printComment("hint: " + hint)
		}
		return nil
	}
	how := "without a transaction"
	if preview.Transaction {
		how = "in a transaction"
	}
	switch {
	case len(preview.Statements) > 0:
		fmt.Fprintf(a.Out, "\n-- %s (by Knex, %s): approximate, from a call without a database\n", name, how)
		for _, s := range preview.Statements {
			fmt.Fprintf(a.Out, "%s;\n", s)
		}
		if preview.Unknown != "" {
			a.printComment("What follows cannot be known before it runs: " + preview.Unknown)
		}
	case preview.Unknown != "":
		fmt.Fprintf(a.Out, "\n-- %s (by Knex, %s): its SQL cannot be known before it runs\n", name, how)
		a.printComment(preview.Unknown)
	default:
		fmt.Fprintf(a.Out, "\n-- %s (by Knex, %s): approximate, from a call without a database: it sends no SQL\n", name, how)
	}
	return nil
}

// printComment shows a text as a comment of SQL.
func (a *app) printComment(text string) {
	for line := range strings.Lines(text) {
		fmt.Fprintf(a.Out, "-- %s\n", ui.Printable(strings.TrimRight(line, "\n")))
	}
}

// mappingStub is the part of the settings that a team with a table of tenants
// fills in.
const mappingStub = `
# Your application's table of tenants, in the database that central.url names.
# Take the # away, put in your names, and it is read instead of Skein's own.
#   (move these lines under central:)
#  tenants:
#    table: tenants
#    columns: {id: id, slug: slug, name: name, status: status, host: db_host, port: db_port,
#              database: db_name, user: db_username, password: db_password}
#    engine: %s
#    active: [active]
`

// settingsFromKnex loads the knexfile of the project in a folder, tells what it
// says, and returns the settings that say the same. The file is relative to the
// working directory, or foundKnexfile.
func (a *app) settingsFromKnex(ctx context.Context, dir, file string) (string, error) {
	opts := &knex.Options{Dir: dir}
	if file != foundKnexfile {
		var err error
		if opts.Knexfile, err = filepath.Abs(file); err != nil {
			return "", fmt.Errorf("find the knexfile: %w", err)
		}
	}
	found, err := knex.ReadConfig(ctx, opts)
	if err != nil {
		return "", err
	}
	if found.Knexfile == "" {
		return "", fmt.Errorf("no knexfile in %s or above it: call skein init where you call knex, or without --from-knex", dir)
	}
	about := found.Knexfile
	if here, err := os.Getwd(); err == nil {
		if relative, err := filepath.Rel(here, about); err == nil {
			about = relative
		}
	}
	if found.Environment != "" {
		about += ", environment " + found.Environment
	}
	a.notef("%s  read, with knex %s for %s", about, found.Knex, cmp.Or(found.Client, "no client"))

	directories := found.Directories
	if len(directories) == 0 {
		directories = []string{"./migrations"} // Knex's own default
	}
	var settings struct {
		Migrations struct {
			Dir        []string `yaml:"dir"`
			Table      string   `yaml:"table,omitempty"`
			Extensions []string `yaml:"extensions,omitempty"`
			Separately bool     `yaml:"sort_dirs_separately,omitempty"`
		} `yaml:"migrations"`
		Knex struct {
			File        string `yaml:"file,omitempty"`
			Environment string `yaml:"environment,omitempty"`
		} `yaml:"knex,omitempty"`
	}
	if opts.Knexfile != "" {
		if settings.Knex.File, err = relativeTo(dir, opts.Knexfile); err != nil {
			return "", err
		}
		// The knexfile's paths are relative to it, and those of the settings to dir.
		for i, d := range directories {
			if filepath.IsAbs(d) {
				continue
			}
			if directories[i], err = relativeTo(dir, filepath.Join(filepath.Dir(opts.Knexfile), d)); err != nil {
				return "", err
			}
		}
	}
	settings.Migrations.Dir, settings.Migrations.Extensions = directories, found.LoadExtensions
	settings.Migrations.Separately = found.SortDirsSeparately && len(directories) > 1
	if found.TableName != skein.DefaultKnexTable {
		settings.Migrations.Table = found.TableName
	}
	if env, _ := a.LookupEnv("NODE_ENV"); found.Environment != "" && env == "" && len(found.Environments) > 1 {
		settings.Knex.Environment = found.Environment
		a.notef("  of the environments %s this one is used: change knex.environment for another", strings.Join(found.Environments, ", "))
	}
	for _, dir := range directories {
		a.notef("  migrations in %s", dir)
	}
	if found.Extension == "ts" || found.Extension == "js" {
		a.notef("  new migrations in its form: skein make --%s NAME", found.Extension)
	}
	for _, trouble := range knexTroubles(found) {
		fmt.Fprintf(a.Err, "  ! %s\n", trouble)
	}
	text, err := yaml.Marshal(settings)
	if err != nil {
		return "", fmt.Errorf("write the settings: %w", err)
	}
	return strings.ReplaceAll(string(text), "$", "$$") +
		fmt.Sprintf(mappingStub, cmp.Or(found.Engine, skein.PostgreSQL)), nil
}

// relativeTo is a path as one writes it in a file in dir.
func relativeTo(dir, path string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err == nil {
		path, err = filepath.Rel(dir, path)
	}
	if err != nil {
		return "", fmt.Errorf("find the path from the settings: %w", err)
	}
	return filepath.ToSlash(path), nil
}

// knexTroubles are what a knexfile says that Skein does not do, or does in
// another way.
func knexTroubles(found knex.Config) []string {
	var out []string
	if found.OwnSource {
		out = append(out, "migrations.migrationSource is the project's own way to read migrations: Skein reads folders, so name them in migrations.dir")
	}
	if found.SchemaName != "" {
		out = append(out, fmt.Sprintf("migrations.schemaName is %s: Skein reads Knex's table in the tenant's own schema, so give the tenants this schema", found.SchemaName))
	}
	if found.Engine == "" && found.Client != "" {
		out = append(out, fmt.Sprintf("Skein has no engine for the client %s: it has PostgreSQL, MySQL, MariaDB and SQLite", found.Client))
	}
	return out
}
