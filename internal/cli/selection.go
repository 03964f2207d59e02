package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skeinhq/skein/central"
	"github.com/skeinhq/skein/internal/config"
)

// A selection is the flags that choose tenants.
type selection struct {
	all   bool
	only  []string
	skip  []string
	where []string
}

func (s *selection) register(cmd *cobra.Command, a *app) {
	flags := cmd.Flags()
	flags.BoolVar(&s.all, "all", false, "all active tenants")
	flags.StringArrayVar(&s.only, "tenants", nil, "tenants by slug or id: `a,b*,@file` (a file has one a line, - is standard input)")
	flags.StringArrayVar(&s.skip, "skip-tenants", nil, "leave these out: `a,b*,@file`")
	flags.StringArrayVar(&s.where, "where", nil, "active tenants with this `label=value` (several: all must hold)")
	complete := func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return a.completeSlugs(cmd, word)
	}
	_ = cmd.RegisterFlagCompletionFunc("tenants", complete)
	_ = cmd.RegisterFlagCompletionFunc("skip-tenants", complete)
	_ = cmd.RegisterFlagCompletionFunc("where", cobra.NoFileCompletions)
}

// given says whether anything chooses tenants.
func (s *selection) given(words []string) bool {
	return s.all || len(words) > 0 || len(s.only) > 0 || len(s.where) > 0
}

// filter is what the words and flags select. Nothing given is an error, never
// all tenants.
func (s *selection) filter(a *app, words []string) (central.Filter, error) {
	if !s.given(words) {
		return central.Filter{}, errNoSelection
	}
	if s.all && (len(words) > 0 || len(s.only) > 0) {
		return central.Filter{}, errors.New("--all and named tenants contradict each other: give one of them")
	}
	f := central.Filter{Active: true}
	for _, w := range words {
		switch {
		case w == "":
			return f, errors.New("a tenant's name is empty: a variable of your script may not be set")
		case strings.HasPrefix(w, "@"), strings.Contains(w, ","):
			return f, fmt.Errorf("%q names more than one tenant: give it as --tenants %s", w, shellQuote(w))
		}
	}
	only, err := a.words("--tenants", s.only)
	if err != nil {
		return f, err
	}
	if len(s.only) > 0 && len(only) == 0 {
		return f, errors.New("--tenants names no tenant")
	}
	f.Only = append(only, words...)
	if f.Skip, err = a.words("--skip-tenants", s.skip); err != nil {
		return f, err
	}
	for _, w := range s.where {
		label, value, ok := strings.Cut(w, "=")
		if !ok || label == "" {
			return f, fmt.Errorf("--where %q is not of the form label=value", w)
		}
		if f.Labels == nil {
			f.Labels = make(map[string]string)
		}
		if old, ok := f.Labels[label]; ok && old != value {
			return f, fmt.Errorf("--where asks for two values of %s, %q and %q: no tenant has both", label, old, value)
		}
		f.Labels[label] = value
	}
	return f, nil
}

// again is a command that works on the same tenants.
func (s *selection) again(command string, words []string) string {
	args := []string{"skein", command}
	if s.all {
		args = append(args, "--all")
	}
	for _, f := range []struct {
		flag   string
		values []string
	}{{"--tenants", s.only}, {"--skip-tenants", s.skip}, {"--where", s.where}} {
		for _, v := range f.values {
			args = append(args, f.flag, v)
		}
	}
	return shellCommand(args, words)
}

// words splits what a flag was given, with the lines of its @files.
func (a *app) words(flag string, given []string) ([]string, error) {
	readFile := func(name string) ([]byte, error) {
		if name == "-" {
			return io.ReadAll(a.stdin())
		}
		return os.ReadFile(name)
	}
	var out []string
	for _, text := range given {
		words, err := central.Words(text, readFile)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", flag, err)
		}
		out = append(out, words...)
	}
	return out, nil
}

// maxCompletions bounds what a shell is offered.
const maxCompletions = 200

// completeSlugs offers the slugs that begin with a word.
func (a *app) completeSlugs(cmd *cobra.Command, word string) ([]string, cobra.ShellCompDirective) {
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	w, err := a.open(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer w.close()
	filter := central.Filter{Order: central.BySlug}
	if word != "" {
		filter.Only = []string{word + "*"}
	}
	var slugs []string
	for t, err := range w.store.Tenants(ctx, filter) {
		if err != nil || len(slugs) == maxCompletions {
			break
		}
		slugs = append(slugs, t.Slug)
	}
	return slugs, cobra.ShellCompDirectiveNoFileComp
}

// migrationNames completes a flag with the migrations that begin with a word.
func (a *app) migrationNames(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	var names []string
	if cfg, err := config.Load(a.configPath, a.LookupEnv); err == nil {
		w := &workspace{app: a, cfg: cfg}
		if set, err := w.migrations(); err == nil {
			for _, m := range set.All() {
				if strings.HasPrefix(m.Name, word) && len(names) < maxCompletions {
					names = append(names, m.Name)
				}
			}
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// slugArgs completes a command's arguments with slugs.
func (a *app) slugArgs(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.completeSlugs(cmd, word)
}
