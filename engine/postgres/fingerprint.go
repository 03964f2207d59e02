package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/skeinhq/skein"
)

// own is the condition that a namespace n is neither the system's nor temporary.
const own = "n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'"

// described is a set of catalog rows as text: what kind they are, and what tells
// them apart and defines them. Numbers that differ from database to database
// (oids) are in none. A row as JSON has whatever columns the server's version
// knows; oids, and expressions in the server's inner form, are taken out.
var described = []struct{ part, query string }{
	{"schemas", "SELECT n.nspname, n.nspowner::regrole, n.nspacl, obj_description(n.oid, 'pg_namespace') FROM pg_namespace n WHERE " + own},
	{"tables", `SELECT c.oid::regclass, c.relkind, c.relowner::regrole, c.relacl, c.relpersistence, c.reloptions, c.relrowsecurity, c.relforcerowsecurity,
		c.relreplident, c.reltablespace, obj_description(c.oid, 'pg_class'), pg_get_expr(c.relpartbound, c.oid), pg_get_partkeydef(c.oid),
		CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END, (SELECT array_agg(i.inhparent::regclass ORDER BY i.inhseqno) FROM pg_inherits i WHERE i.inhrelid = c.oid)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind <> 'i' AND c.relkind <> 't' AND ` + own},
	{"columns", `SELECT a.attrelid::regclass, row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum), a.attname, format_type(a.atttypid, a.atttypmod),
		(SELECT l.collname FROM pg_collation l WHERE l.oid = a.attcollation), col_description(a.attrelid, a.attnum), pg_get_expr(d.adbin, d.adrelid),
		to_jsonb(a) - '{attrelid,atttypid,attcollation,attnum,attmissingval,attcacheoff}'::text[]
		FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
		WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind <> 't' AND ` + own},
	{"indexes", `SELECT i.indexrelid::regclass, pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisready, i.indisclustered, i.indisreplident, c.relowner::regrole,
		obj_description(c.oid, 'pg_class') FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE ` + own},
	{"constraints", `SELECT k.conname, k.conrelid::regclass, k.contypid::regtype, pg_get_constraintdef(k.oid), k.convalidated, k.condeferrable, k.condeferred,
		obj_description(k.oid, 'pg_constraint') FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace WHERE ` + own},
	{"triggers", `SELECT t.tgname, t.tgrelid::regclass, pg_get_triggerdef(t.oid), t.tgenabled, obj_description(t.oid, 'pg_trigger') FROM pg_trigger t WHERE NOT t.tgisinternal`},
	{"rules", `SELECT r.rulename, r.ev_class::regclass, pg_get_ruledef(r.oid), r.ev_enabled FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
		JOIN pg_namespace n ON n.oid = c.relnamespace WHERE ` + own},
	{"policies", `SELECT p.polname, p.polrelid::regclass, p.polcmd, p.polpermissive, p.polroles::regrole[], pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid) FROM pg_policy p`},
	{"functions", `SELECT p.oid::regprocedure, p.proowner::regrole, p.proacl, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), l.lanname, obj_description(p.oid, 'pg_proc'),
		to_jsonb(p) - '{oid,pronamespace,proowner,proacl,prolang,provariadic,prosupport,prorettype,proargtypes,proallargtypes,proargdefaults,protrftypes,prosqlbody}'::text[],
		(SELECT aggtransfn::text || aggfinalfn || aggtranstype::regtype || COALESCE(agginitval, '') FROM pg_aggregate g WHERE g.aggfnoid = p.oid)
		FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang WHERE ` + own},
	{"types", `SELECT t.oid::regtype, t.typtype, t.typowner::regrole, t.typacl, format_type(t.typbasetype, t.typtypmod), t.typnotnull, t.typdefault, (SELECT l.collname FROM pg_collation l WHERE l.oid = t.typcollation),
		obj_description(t.oid, 'pg_type'), (SELECT array_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
		(SELECT r.rngsubtype::regtype || '' || COALESCE((SELECT l.collname FROM pg_collation l WHERE l.oid = r.rngcollation), '') FROM pg_range r WHERE r.rngtypid = t.oid)
		FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE ` + own},
	{"sequences", `SELECT to_jsonb(s) FROM pg_sequences s JOIN pg_namespace n ON n.nspname = s.schemaname WHERE ` + own},
	{"extensions", `SELECT e.extname, e.extversion, e.extowner::regrole, e.extnamespace::regnamespace FROM pg_extension e`},
	{"default privileges", `SELECT d.defaclrole::regrole, d.defaclnamespace::regnamespace, d.defaclobjtype, d.defaclacl FROM pg_default_acl d`},
	{"the database", `SELECT d.datdba::regrole, d.datacl, d.datconnlimit, pg_encoding_to_char(d.encoding), d.datcollate, d.datctype, ` + withoutTag("shobj_description(d.oid, 'pg_database')") + `
		FROM pg_database d WHERE d.datname = current_database()`},
	// Of what follows it is only known whether there is any: then there is no
	// telling whether they are the same.
	{"large objects", "SELECT md5(random()::text) FROM pg_largeobject_metadata"},
	{"kinds of objects that are not compared", `SELECT d.classid::regclass, md5(random()::text) FROM pg_depend d
		WHERE d.objid >= 16384 AND d.deptype <> 'e' AND d.classid NOT IN ('pg_class'::regclass, 'pg_type'::regclass, 'pg_proc'::regclass, 'pg_constraint'::regclass,
			'pg_trigger'::regclass, 'pg_rewrite'::regclass, 'pg_policy'::regclass, 'pg_attrdef'::regclass, 'pg_namespace'::regclass, 'pg_extension'::regclass, 'pg_default_acl'::regclass)
		AND NOT EXISTS (SELECT 1 FROM pg_depend e WHERE e.classid = d.classid AND e.objid = d.objid AND e.deptype = 'e')`},
}

// fingerprint is what is in a database, as a digest for each kind of object and
// for the rows of each table. The times in the history, and in Knex's, are left
// out.
func (a *administrator) fingerprint(ctx context.Context, database string) (map[string]string, error) {
	target := a.target
	target.Database = database
	s, err := a.engine.inside(ctx, target)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	prints := make(map[string]string)
	add := func(part, query string) error {
		rows, err := queryRows(ctx, s, "SET search_path TO pg_catalog", "SET extra_float_digits TO 3", "SET row_security TO off",
			"SELECT pg_catalog.md5(q::text) FROM ("+query+") q ORDER BY 1")
		if err != nil {
			return fmt.Errorf("compare %s: %w", part, err)
		}
		h := sha256.New()
		for _, row := range rows {
			h.Write([]byte(row[0]))
		}
		prints[part] = hex.EncodeToString(h.Sum(nil))
		return nil
	}
	for _, d := range described {
		if err := add(d.part, d.query); err != nil {
			return nil, err
		}
	}
	tables, err := queryRows(ctx, s, "SET search_path TO pg_catalog", "SELECT c.oid::regclass, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm') AND "+own)
	if err != nil {
		return nil, fmt.Errorf("compare tables: %w", err)
	}
	for _, table := range tables {
		columns := "t.*"
		switch table[1] {
		case s.engine.opts.KnexTable:
			columns = "id, name, batch"
		case skein.HistoryTable:
			columns = strings.Join([]string{"id", "name", "state", "batch", "checksum", "done", "total", "applied_by", "tool"}, ", ")
		}
		if err := add("rows of "+table[0], "SELECT "+columns+" FROM ONLY "+table[0]+" t"); err != nil {
			return nil, err
		}
	}
	return prints, nil
}
