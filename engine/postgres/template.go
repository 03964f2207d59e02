package postgres

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/secret"
)

var _ skein.Templater = (*administrator)(nil)

// A template is a database that nobody can connect to, with a role of the same
// name that cannot log in and owns what is in it. Comments say that they are
// templates, and of which project. While it is made the database has another
// name; it gets its own when it was verified.
const (
	templateMark   = "skein template" // begins the comments
	templatePrefix = "skein_template_"
	// templateFormat changes when templates are made in another way.
	templateFormat = "1"
)

type template struct {
	name string
	mark string // of the database and its role
	// Those that are there while it is made.
	making, replay, copied string
	checker                string // the role of a tenant that is none
}

func (a *administrator) template(key skein.TemplateKey) template {
	sum := sha256.Sum256([]byte(strings.Join([]string{templateFormat, key.Project, key.Digest, a.facts, createHistory("")}, "\x00")))
	name := templatePrefix + hex.EncodeToString(sum[:8])
	return template{
		name: name, mark: templateMark + " of project " + key.Project,
		making: name + "_new", replay: name + "_replay", copied: name + "_copy", checker: name + "_check",
	}
}

// Template looks for the template's database.
func (a *administrator) Template(ctx context.Context, key skein.TemplateKey) (string, error) {
	t := a.template(key)
	row, err := a.row(ctx, "SELECT 1 FROM pg_catalog.pg_database d WHERE d.datname = "+quoteLiteral(t.name)+
		" AND pg_catalog.shobj_description(d.oid, 'pg_database') = "+quoteLiteral(t.mark))
	if err != nil {
		return "", fmt.Errorf("look for a template: %w", err)
	}
	if row == nil {
		return "", nil
	}
	return t.name, nil
}

// refused begins what the comment of a template's role says of why there is no
// template, after the mark.
const refused = ": none, since "

// MakeTemplate runs the migrations twice, in the database that is to be the
// template and in that of a tenant which is none, and compares a copy of the one
// with the other.
func (a *administrator) MakeTemplate(ctx context.Context, key skein.TemplateKey, migrate func(context.Context, skein.Target) error) (name string, err error) {
	t := a.template(key)
	release, err := a.advisory(ctx, "template "+t.name, 0)
	if err != nil {
		return "", err
	}
	defer func() { err = cmp.Or(err, release(context.WithoutCancel(ctx))) }()
	if found, err := a.Template(ctx, key); found != "" || err != nil {
		return found, err
	}
	if row, err := a.row(ctx, "SELECT pg_catalog.shobj_description(oid, 'pg_authid') FROM pg_catalog.pg_roles WHERE rolname = "+quoteLiteral(t.name)); err != nil {
		return "", fmt.Errorf("look for a template: %w", err)
	} else if row != nil {
		if why, ok := strings.CutPrefix(row[0], t.mark+refused); ok {
			return "", &skein.TemplateError{Msg: why}
		}
	}
	// Under the lock, what is there was left by a process that is gone.
	if err := a.dropTemplate(ctx, t); err != nil {
		return "", err
	}
	why, err := a.makeTemplate(ctx, t, migrate)
	switch {
	case err != nil:
		return "", errors.Join(err, a.dropTemplate(context.WithoutCancel(ctx), t))
	case why != "":
		if err := a.dropTemplate(ctx, t); err != nil {
			return "", err
		}
		role := quoteIdent(t.name)
		err := a.transaction(ctx, "record why there is no template", "CREATE ROLE "+role+" NOLOGIN", "COMMENT ON ROLE "+role+" IS "+quoteLiteral(t.mark+refused+why))
		return "", cmp.Or[error](err, a.dropOthers(ctx, t), &skein.TemplateError{Msg: why})
	}
	return t.name, a.dropOthers(ctx, t)
}

// makeTemplate makes a template, or says why there cannot be one.
func (a *administrator) makeTemplate(ctx context.Context, t template, migrate func(context.Context, skein.Target) error) (why string, err error) {
	targets := make(map[string]skein.Target)
	for _, site := range []struct{ database, role, mark string }{
		{t.making, t.name, t.mark}, {t.replay, t.checker, t.mark + ", check"},
	} {
		target := a.target
		target.Database, target.User, target.Password = site.database, site.role, secret.GenerateKey()
		if err := a.createRole(ctx, site.role, target.Password, site.mark); err != nil {
			return "", err
		}
		if err := a.createDatabase(ctx, site.database, site.role, "", holdWait); err != nil {
			return "", err
		}
		if err := a.openDatabase(ctx, site.database, site.mark); err != nil {
			return "", err
		}
		if err := migrate(ctx, target); err != nil {
			return "", err
		}
		targets[site.database] = target
	}
	making, role := quoteIdent(t.making), quoteIdent(t.name)
	settings, err := a.row(ctx, "SELECT 1 FROM pg_catalog.pg_db_role_setting s WHERE s.setdatabase IN (SELECT oid FROM pg_catalog.pg_database WHERE datname IN ("+
		quoteLiteral(t.making)+", "+quoteLiteral(t.replay)+")) OR s.setrole IN (SELECT oid FROM pg_catalog.pg_roles WHERE rolname IN ("+quoteLiteral(t.name)+", "+quoteLiteral(t.checker)+"))")
	if err != nil {
		return "", err
	}
	if settings != nil {
		return "the migrations change settings of the database or the role, which copies do not have", nil
	}
	if err := a.endSessions(ctx, "datname IN ("+quoteLiteral(t.making)+", "+quoteLiteral(t.replay)+")"); err != nil {
		return "", err
	}
	if err := a.transaction(ctx, "close the template",
		"ALTER DATABASE "+making+" OWNER TO CURRENT_USER",
		"COMMENT ON DATABASE "+making+" IS "+quoteLiteral(t.mark), // without the fingerprint
		"ALTER DATABASE "+making+" ALLOW_CONNECTIONS false",
		"ALTER ROLE "+role+" NOLOGIN PASSWORD NULL"); err != nil {
		return "", err
	}

	// From here on as any tenant is made.
	copied := targets[t.replay]
	copied.Database = t.copied
	if err := a.createDatabase(ctx, t.copied, t.checker, t.making, holdWait); err != nil {
		return "", err
	}
	if err := a.openDatabase(ctx, t.copied, t.mark+", check"); err != nil {
		return "", err
	}
	if err := a.settle(ctx, skein.Site{Target: copied}); err != nil {
		return "", err
	}
	var prints [2]map[string]string
	for i, database := range []string{t.replay, t.copied} {
		if prints[i], err = a.fingerprint(ctx, database); err != nil {
			return "", err
		}
	}
	for _, part := range slices.Sorted(maps.Keys(prints[0])) {
		if prints[0][part] != prints[1][part] {
			return "a copy would differ from a replay (" + part + ")", nil
		}
	}
	if len(prints[0]) != len(prints[1]) {
		return "a copy would have other tables than a replay", nil
	}
	for _, database := range []string{t.copied, t.replay} {
		if err := a.dropDatabase(ctx, database); err != nil {
			return "", err
		}
	}
	if _, err := a.rows(ctx, "DROP ROLE "+quoteIdent(t.checker)); err != nil {
		return "", fmt.Errorf("drop the role of the check: %w", err)
	}
	return "", a.transaction(ctx, "name the template", "ALTER DATABASE "+making+" RENAME TO "+role)
}

// dropTemplate drops what there is of a template and is marked so.
func (a *administrator) dropTemplate(ctx context.Context, t template) error {
	for _, database := range []string{t.copied, t.replay, t.making, t.name} {
		row, err := a.row(ctx, `SELECT 1 FROM pg_catalog.pg_database d JOIN pg_catalog.pg_roles r ON r.oid = d.datdba WHERE d.datname = `+quoteLiteral(database)+
			" AND ("+begins("pg_catalog.shobj_description(d.oid, 'pg_database')", t.mark)+" OR "+begins("pg_catalog.shobj_description(r.oid, 'pg_authid')", t.mark)+")")
		if err != nil {
			return fmt.Errorf("look for a template: %w", err)
		}
		if row != nil {
			if err := a.dropDatabase(ctx, database); err != nil {
				return err
			}
		}
	}
	for _, role := range []string{t.checker, t.name} {
		row, err := a.row(ctx, "SELECT 1 FROM pg_catalog.pg_roles r WHERE r.rolname = "+quoteLiteral(role)+
			" AND "+begins("pg_catalog.shobj_description(r.oid, 'pg_authid')", t.mark)+"")
		if err != nil {
			return fmt.Errorf("look for a template: %w", err)
		}
		if row != nil {
			if _, err := a.rows(ctx, "DROP ROLE "+quoteIdent(role)); err != nil {
				return fmt.Errorf("drop role %s: %w", quoteIdent(role), err)
			}
		}
	}
	return nil
}

// begins is the condition that a text begins with another.
func begins(expr, text string) string {
	return fmt.Sprintf("pg_catalog.left(%s, %d) = %s", expr, utf8.RuneCountInString(text), quoteLiteral(text))
}

// stillOwns is the code of a role that cannot be dropped, here since a tenant is
// being copied at this moment.
const stillOwns = "2BP01"

// dropOthers drops the project's other templates, which other migrations made.
func (a *administrator) dropOthers(ctx context.Context, t template) error {
	rows, err := a.rows(ctx, "SELECT r.rolname FROM pg_catalog.pg_roles r WHERE r.rolname LIKE "+quoteLiteral(strings.ReplaceAll(templatePrefix, "_", `\_`)+"%")+
		" AND r.rolname <> "+quoteLiteral(t.name)+" AND (pg_catalog.shobj_description(r.oid, 'pg_authid') = "+quoteLiteral(t.mark)+
		" OR "+begins("pg_catalog.shobj_description(r.oid, 'pg_authid')", t.mark+refused)+")")
	if err != nil {
		return fmt.Errorf("look for old templates: %w", err)
	}
	for _, row := range rows {
		old := template{name: row[0], mark: t.mark, making: row[0] + "_new", replay: row[0] + "_replay", copied: row[0] + "_copy", checker: row[0] + "_check"}
		// One that another process is making just now, for other migrations, is
		// left to it.
		release, err := a.advisory(ctx, "template "+old.name, 0)
		if _, locked := errors.AsType[*skein.LockedError](err); locked {
			continue
		}
		if err == nil {
			err = errors.Join(a.dropTemplate(ctx, old), release(ctx))
		}
		if err != nil && code(err) != stillOwns && code(err) != inUse {
			return fmt.Errorf("drop an old template: %w", err)
		}
	}
	return nil
}
