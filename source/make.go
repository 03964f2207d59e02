package source

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/skeinhq/skein"
)

// A Language is what a new migration is to be written in. Its value is the
// extension without the dot.
type Language string

// The languages of new migrations.
const (
	SQL        Language = "sql" // dbmate's form
	JavaScript Language = "js"  // for Knex, as a CommonJS module
	TypeScript Language = "ts"  // for Knex
)

const (
	// versionLayout is how dbmate, goose and Knex number new migrations, in UTC.
	versionLayout = "20060102150405"
	// maxFileName is what file systems allow, in bytes.
	maxFileName = 255
)

// Make writes a new migration for someone to fill in and returns its path. The
// file's name is the time, in UTC and to the second, and the given name; where
// the folder has a migration of that second or a later one, the new one comes a
// second after it. The folder is made if it does not exist. No file is ever
// overwritten.
//
// Letters and digits of the name are kept, and what is between them becomes an
// underscore.
func Make(dir, name string, language Language, now time.Time) (string, error) {
	text, ok := stub(language)
	if !ok {
		return "", fmt.Errorf("a migration cannot be written in %q: give sql, js or ts", string(language))
	}
	ext := "." + string(language)
	slug, err := slugify(strings.TrimSuffix(name, ext))
	if err != nil {
		return "", err
	}
	//nolint:gosec // the umask says who may read a project's files
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return "", fmt.Errorf("make the folder of migrations: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("read the folder of migrations: %w", err)
	}
	version, err := nextVersion(entries, now)
	if err != nil {
		return "", err
	}
	file := version + "_" + slug + ext
	if len(file) > maxFileName {
		return "", fmt.Errorf("the name is too long: %s has %d bytes and may have %d", file, len(file), maxFileName)
	}
	if after := runsAfter(entries, file); after != "" {
		return "", fmt.Errorf("%s would run before %s, which is there already: make the file by hand, with a number that Knex's order puts last", file, after)
	}

	path := filepath.Join(dir, file)
	//nolint:gosec // as above
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return "", fmt.Errorf("make a migration: %w", err)
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("write a migration: %w", errors.Join(err, os.Remove(path)))
	}
	return path, nil
}

// slugify makes a name fit to be part of a file's name.
func slugify(name string) (string, error) {
	if strings.ContainsAny(name, `/\`) {
		return "", fmt.Errorf("the name %q holds a path: give the migration's name alone", name)
	}
	words := strings.FieldsFunc(name, func(r rune) bool {
		// Marks are parts of letters in many scripts.
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r) || r == unicode.ReplacementChar
	})
	if len(words) == 0 {
		return "", fmt.Errorf("%q is no name: say what the migration does, like add_contacts", name)
	}
	return strings.Join(words, "_"), nil
}

// nextVersion is the version of a migration that is made now in a folder.
func nextVersion(entries []fs.DirEntry, now time.Time) (string, error) {
	var newest, of string
	for _, e := range entries {
		if v := digits(e.Name()); isMigration(e) && compareVersions(v, newest) > 0 {
			newest, of = v, e.Name()
		}
	}
	version := now.UTC().Format(versionLayout)
	if compareVersions(version, newest) > 0 {
		return version, nil
	}
	last, err := time.Parse(versionLayout, newest)
	if err != nil {
		return "", fmt.Errorf("the number of %s is larger than any time: make the file by hand, with a larger one", of)
	}
	return last.Add(time.Second).Format(versionLayout), nil
}

// runsAfter is a numbered migration that Knex's order, if it holds here, puts
// after a new file.
func runsAfter(entries []fs.DirEntry, file string) string {
	knex, after := skein.KnexName(file), ""
	for _, e := range entries {
		if !isMigration(e) {
			continue
		}
		knex = knex || skein.KnexName(e.Name())
		if digits(e.Name()) != "" && CompareNames(e.Name(), file) > 0 {
			after = e.Name()
		}
	}
	if !knex {
		return ""
	}
	return after
}

func isMigration(e fs.DirEntry) bool {
	name := e.Name()
	return !e.IsDir() && !strings.HasPrefix(name, ".") && (path.Ext(name) == ".sql" || skein.KnexName(name))
}

// stub is what a new migration holds; false for a language that is none.
func stub(language Language) (string, bool) {
	switch language {
	case SQL:
		return `-- migrate:up
-- The statements that make the change, each with a semicolon at its end. They run
-- in one transaction where the database can do that. A statement that refuses to
-- (CREATE INDEX CONCURRENTLY) needs "transaction:false" after "migrate:up".


-- migrate:down
-- The statements that undo it. Left empty, the migration cannot be reverted.

`, true
	case JavaScript:
		return `/** @param {import("knex").Knex} knex */
exports.up = async function (knex) {
};

/** @param {import("knex").Knex} knex */
exports.down = async function (knex) {
};
`, true
	case TypeScript:
		return `import type { Knex } from "knex";

export async function up(knex: Knex): Promise<void> {
}

export async function down(knex: Knex): Promise<void> {
}
`, true
	}
	return "", false
}
