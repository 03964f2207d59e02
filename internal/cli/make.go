package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/skeinhq/skein/internal/config"
	"github.com/skeinhq/skein/internal/ui"
	"github.com/skeinhq/skein/source"
)

func (a *app) makeCommand() *cobra.Command {
	var js, ts bool
	cmd := &cobra.Command{
		Use:     "make NAME",
		Aliases: []string{"migrate:make"},
		GroupID: "set",
		Short:   "Make a migration file to fill in",
		Long: `Make a migration file to fill in, named by the time (UTC) and NAME, in the last
folder of migrations.dir: SQL with an up and a down section, or Knex's form with
--js or --ts. Its path is printed.

` + exitCodesHelp,
		Example: `  skein make create_contacts
  skein make add_email_to_contacts --js`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("make takes one NAME, with underscores for spaces; it got %d", len(args))
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(_ *cobra.Command, args []string) error {
			if js && ts {
				return errors.New("--js and --ts contradict each other: give one of them")
			}
			cfg, err := config.Load(a.configPath, a.LookupEnv)
			if err != nil {
				return err
			}
			dirs := cfg.MigrationDirs()
			form := source.SQL
			switch {
			case js:
				form = source.JavaScript
			case ts:
				form = source.TypeScript
			}
			path, err := source.Make(dirs[len(dirs)-1], args[0], form, time.Now())
			if err != nil {
				return err
			}
			fmt.Fprintln(a.Out, ui.Printable(path))
			return nil
		},
	}
	cmd.Flags().BoolVar(&js, "js", false, "make a Knex migration in JavaScript")
	cmd.Flags().BoolVar(&ts, "ts", false, "make a Knex migration in TypeScript")
	return cmd
}
