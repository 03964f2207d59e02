package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// provisioning reads where new tenants are made.
func provisioning(f file, at lines, errs *[]error) Provisioning {
	p := f.Provisioning
	out := Provisioning{Server: p.Server, Database: p.Database, Schema: p.Schema, User: p.User}
	for key, pattern := range map[string]string{"database": p.Database, "schema": p.Schema, "user": p.User} {
		// Two tenants must not have the same names.
		if pattern != "" && !strings.Contains(pattern, "{slug}") {
			*errs = append(*errs, at.errorf("provisioning."+key, "%q has no {slug}: all tenants would have the same", pattern))
		}
	}
	if p.Schema != "" && p.Database != "" {
		*errs = append(*errs, at.errorf("provisioning.schema", "tenants are either databases or schemas: give database or schema, and not both"))
	}
	if _, ok := f.Servers[p.Server]; p.Server != "" && !ok {
		*errs = append(*errs, at.errorf("provisioning.server", "%q is not under servers, where there is %s", p.Server,
			cmp.Or(strings.Join(slices.Sorted(maps.Keys(f.Servers)), ", "), "none")))
	}
	return out
}

// ProvisioningServer is the server on which tenants are made: the one that is
// named, or that provisioning.server names, or the only one.
func (c *Config) ProvisioningServer(name string) (string, Server, error) {
	name = cmp.Or(name, c.Provisioning.Server)
	names := slices.Sorted(maps.Keys(c.Servers))
	switch {
	case name == "" && len(names) == 1:
		name = names[0]
	case len(names) == 0:
		return "", Server{}, errors.New("no server is known to provision on: skein.yaml names it under servers, with the address of its administrator (see docs/provisioning.md)")
	case name == "":
		return "", Server{}, fmt.Errorf("on which server? Give --server, or provisioning.server: there are %s", strings.Join(names, ", "))
	}
	s, ok := c.Servers[name]
	if !ok {
		return "", Server{}, fmt.Errorf("no server is called %q: under servers there are %s", name, strings.Join(names, ", "))
	}
	return name, s, nil
}
