package central

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/closest"
	"github.com/skeinhq/skein/secret"
)

// A Mapping describes a table, or view, of tenants that the application owns.
// Skein reads it, and changes nothing in it but passwords that are encrypted
// anew, where Write allows that.
type Mapping struct {
	// Table may be qualified with a schema: app.tenants. For MySQL that is the
	// database.
	Table string
	// Columns are the columns that hold the parts of a tenant. Slug or ID is
	// needed; where only one of them is named it is both. No two rows may have
	// the same id.
	Columns Columns
	// Labels are the columns that labels are read from, by label.
	Labels map[string]string

	// Engine, Host, Port, Database, Schema, User, Password and Options are what
	// holds for a row whose columns, or URL, leave it out. In Database, Schema
	// and User {slug} and {id} stand for the tenant's own.
	Engine   string
	Host     string
	Port     int
	Database string
	Schema   string
	User     string
	Password secret.Secret
	Options  map[string]string

	// Active are the statuses with which a tenant is active, upper and lower
	// case being the same, and also true and 1, and false and 0. Defaults to
	// active and true. Without a status column every tenant is active.
	Active []string

	// Write says that Skein may change the table: see [Store.NewRotation] and
	// [Store.Journal].
	Write bool
}

// Columns name the columns of a mapped table. An empty name is a column that
// the table does not have.
type Columns struct {
	ID, Slug, Name, Status string
	// URL is a column with whole addresses, as skein.ParseTarget reads them.
	URL                                                  string
	Engine, Host, Port, Database, Schema, User, Password string
	// Options is a column with a JSON object of the connection's other settings.
	Options string
}

// A field is a part of a tenant as it stands in a table or a file.
type field int

const (
	fieldID field = iota
	fieldSlug
	fieldName
	fieldStatus
	fieldURL
	fieldEngine
	fieldHost
	fieldPort
	fieldDatabase
	fieldSchema
	fieldUser
	fieldPassword
	fieldOptions
	fieldCount
)

// fieldNames are what the fields are called in settings and files.
var fieldNames = [fieldCount]string{
	"id", "slug", "name", "status", "url", "engine", "host", "port", "database", "schema", "user", "password", "options",
}

func (f field) String() string { return fieldNames[f] }

func (c Columns) list() [fieldCount]string {
	return [fieldCount]string{
		c.ID, c.Slug, c.Name, c.Status, c.URL, c.Engine, c.Host, c.Port, c.Database, c.Schema, c.User, c.Password, c.Options,
	}
}

// A table is where tenants are read from: Skein's own or a mapped one.
type table struct {
	own  bool
	name string // for people
	from string // quoted
	// columns are the columns' names, and expr how to read them as text; both
	// are empty for what the table does not have.
	columns, expr [fieldCount]string
	types         [fieldCount]string // of a mapped table's columns
	labels        []label            // of a mapped table
	defaults      Mapping            // for what a row leaves out
	active        map[string]bool
}

type label struct{ name, expr string }

const (
	ownTenants = "skein_tenants"
	ownLabels  = "skein_tenant_labels"
)

// The names are longer than the fields' because user, schema and database mean
// something else where they are not quoted.
var ownColumns = Columns{
	ID: "id", Slug: "slug", Name: "name", Status: "status", Engine: "engine", Host: "host", Port: "port",
	Database: "database_name", Schema: "schema_name", User: "user_name", Password: "password", Options: "options",
}

func ownTable(db *database) *table {
	t := &table{
		own: true, name: ownTenants, from: ownTenants, columns: ownColumns.list(),
		active: map[string]bool{skein.StatusActive: true},
	}
	for f, column := range t.columns {
		if column != "" {
			t.expr[f] = db.quote(column) // never NULL, and compared byte by byte
		}
	}
	t.expr[fieldPort] = db.text(t.expr[fieldPort], "", false)
	return t
}

// settingPrefix is where a mapping stands in the configuration.
const settingPrefix = "central.tenants."

// mapTable checks a mapping against the table that it describes.
func mapTable(ctx context.Context, db *database, m *Mapping) (*table, error) {
	t := &table{name: m.Table, columns: m.Columns.list(), defaults: *m, active: make(map[string]bool)}
	active := m.Active
	if len(active) == 0 {
		active = []string{skein.StatusActive, "true"}
	}
	for _, status := range active {
		t.active[foldStatus(status)] = true
	}
	if err := m.check(); err != nil {
		return nil, err
	}

	schema, name, ok := strings.Cut(m.Table, ".")
	if !ok {
		schema, name = "", m.Table
	}
	t.from = db.quote(name)
	if schema != "" {
		t.from = db.quote(schema) + "." + t.from
	}
	columns, err := db.columns(ctx, db.DB, schema, name)
	if err != nil {
		return nil, db.fail("look for the columns of table "+m.Table, err)
	}
	if len(columns) == 0 {
		return nil, &advice{
			fmt.Errorf("%stable: %s has no table %q, or its columns cannot be seen by this user", settingPrefix, db.target, m.Table),
			"correct the name, qualify it with its schema, or GRANT SELECT on it",
		}
	}

	var problems []error
	expr := func(setting, name string, hex bool) (e, columnType string) {
		for _, c := range columns {
			if db.sameName(c.name, name) {
				return db.text(db.quote(c.name), c.typ, hex), c.typ
			}
		}
		problems = append(problems, unknownColumn(m.Table, settingPrefix+setting, name, columns))
		return "", ""
	}
	for f, column := range t.columns {
		if column != "" {
			t.expr[f], t.types[f] = expr("columns."+field(f).String(), column, field(f) == fieldID)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Labels)) {
		e, _ := expr("labels."+name, m.Labels[name], false)
		t.labels = append(t.labels, label{name, e})
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	for f, other := range map[field]field{fieldID: fieldSlug, fieldSlug: fieldID} {
		if t.expr[f] == "" {
			t.expr[f] = t.expr[other]
		}
	}

	// The catalog shows columns to users who may not read them.
	q := db.newQuery("SELECT ")
	for i, e := range t.read(allFields...) {
		if i > 0 {
			q.add(", ")
		}
		q.add(e)
	}
	q.add(" FROM ", t.from, " WHERE 1 = 0")
	if err := q.each(ctx, db, nil); err != nil {
		return nil, db.fail("read table "+m.Table, err)
	}
	return t, nil
}

// check finds what is wrong with a mapping before anyone looks at the table.
func (m *Mapping) check() error {
	var problems []error
	problem := func(setting, format string, args ...any) {
		problems = append(problems, fmt.Errorf(settingPrefix+setting+": "+format, args...))
	}
	c := m.Columns
	if m.Table == "" {
		problem("table", "no table is given")
	}
	if c.ID == "" && c.Slug == "" {
		problem("columns", "slug or id must be given: tenants are named by it")
	}
	if c.URL == "" {
		if c.Engine == "" && m.Engine == "" {
			problem("engine", "give one of postgres, mysql, sqlite, or a column that says it (columns.engine or columns.url)")
		}
		if c.Database == "" && m.Database == "" {
			problem("columns", "give database, the column with the name of each tenant's database (for SQLite the file), or url")
		}
	}
	if m.Engine != "" {
		if _, ok := skein.EngineName(m.Engine); !ok {
			problem("engine", "%q is not one of postgres, mysql, sqlite", m.Engine)
		}
	}
	if m.Port < 0 || m.Port > 65535 {
		problem("port", "%d is not a number from 1 to 65535", m.Port)
	}
	return errors.Join(problems...)
}

func unknownColumn(table, setting, name string, columns []column) error {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.name
	}
	hint := "it has " + strings.Join(names, ", ")
	if near := closest.To(name, names); near != "" {
		hint = fmt.Sprintf("is it %s? ", near) + hint
	}
	// The hint is in the text: several of these are reported together.
	return fmt.Errorf("%s: table %s has no column %q: %s", setting, table, name, hint)
}

var allFields = []field{
	fieldID, fieldSlug, fieldName, fieldStatus, fieldURL, fieldEngine, fieldHost, fieldPort, fieldDatabase, fieldSchema,
	fieldUser, fieldPassword, fieldOptions,
}

// read is how to read fields, and after them the labels that are columns.
func (t *table) read(fields ...field) []string {
	var exprs []string
	for _, f := range fields {
		if t.expr[f] == "" {
			exprs = append(exprs, "''")
		} else {
			exprs = append(exprs, t.expr[f])
		}
	}
	for _, l := range t.labels {
		exprs = append(exprs, l.expr)
	}
	return exprs
}

// refuseMapped is the error of changing a table that is not Skein's.
func (t *table) refuseMapped(doing string) error {
	if t.own {
		return nil
	}
	return &advice{
		fmt.Errorf("%s: the application owns table %s, and Skein does not change it", doing, t.name),
		"let the application change its tenants, or leave central.tenants out to keep them in Skein's own table",
	}
}

// isActive says whether a tenant with a status is active.
func (t *table) isActive(status string) bool {
	return t.expr[fieldStatus] == "" || t.active[foldStatus(status)]
}

// foldStatus makes what means the same status the same word: databases write
// booleans in several ways.
func foldStatus(status string) string {
	switch s := strings.ToLower(strings.TrimSpace(status)); s {
	case "1", "t", "true":
		return "true"
	case "0", "f", "false":
		return "false"
	default:
		return s
	}
}
