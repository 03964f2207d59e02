package cli

import (
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// Commands are the commands that do something, by their path without the
// program's name, with the names of their flags.
func Commands() map[string][]string {
	a := &app{System: System{Out: io.Discard, Err: io.Discard, LookupEnv: func(string) (string, bool) { return "", false }}}
	a.setTerminal()
	root := a.rootCommand()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	all := make(map[string][]string)
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(sub)
		}
		if c.HasSubCommands() {
			return // it shows its help
		}
		path := strings.TrimPrefix(c.CommandPath(), root.Name()+" ")
		for _, name := range []string{"json", "sql", "dry-run", "force", "yes"} {
			if c.Flags().Lookup(name) != nil {
				all[path] = append(all[path], name)
			}
		}
		all[path] = slices.Clip(append(all[path], []string{}...))
	}
	walk(root)
	return all
}
