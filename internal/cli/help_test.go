package cli

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestHelp holds each command's help to what a person needs of it.
func TestHelp(t *testing.T) {
	a := &app{}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(sub)
		}
		path := c.CommandPath()
		if !strings.Contains(c.Long, exitCodesHelp) {
			t.Errorf("%s --help has no exit codes", path)
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: its short description is %q", path, c.Short)
		}
		if c.HasParent() && !c.Parent().HasParent() && !c.Hidden && c.GroupID == "" {
			t.Errorf("%s is in no group", path)
		}
		for line := range strings.Lines(c.Long) {
			if len(line) > 85 {
				t.Errorf("%s --help has a line of %d characters: %s", path, len(line)-1, line)
			}
		}
	}
	walk(a.rootCommand())
}
