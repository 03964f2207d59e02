package source_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skeinhq/skein/source"
)

var noon = time.Date(2026, 1, 31, 13, 0, 0, 999, time.FixedZone("CET", 3600))

func TestMake(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "migrations", "tenant")
	for _, c := range []struct {
		name     string
		language source.Language
		want     string
	}{
		{"create users", source.SQL, "20260131120000_create_users.sql"},
		{"add-index", source.SQL, "20260131120001_add_index.sql"}, // of the same second
		{"seed", source.JavaScript, "20260131120002_seed.js"},
		{"  Größe: v1.2.d ", source.TypeScript, "20260131120003_Größe_v1_2_d.ts"},
		{"with_extension.sql", source.SQL, "20260131120004_with_extension.sql"},
	} {
		path, err := source.Make(dir, c.name, c.language, noon)
		if err != nil {
			t.Fatal(err)
		}
		if want := filepath.Join(dir, c.want); path != want {
			t.Errorf("%q made %s, not %s", c.name, path, want)
		}
	}

	// What was made is a set once the SQL is filled in, and not before.
	_, err := source.Load([]string{dir}, nil)
	wantError(t, err, filepath.Join(dir, "20260131120000_create_users.sql"), 1, "the up section has no statement")
	for _, name := range []string{"20260131120000_create_users.sql", "20260131120001_add_index.sql", "20260131120004_with_extension.sql"} {
		path := filepath.Join(dir, name)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		filled := strings.Replace(string(data), "\n\n\n", "\nSELECT 1;\n\n", 1)
		if err := os.WriteFile(path, []byte(filled), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set := mustLoad(t, dir)
	if m := set.All()[0]; set.Len() != 5 || m.Down != nil || m.Up.NoTransaction {
		t.Errorf("not the set that was made:\n%s", describe(set))
	}
}

func TestMakeAfterTheNewest(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string // the new file, or what the error says
	}{
		{"numbers", map[string]string{"0009_a.sql": "", "0010_b.up.sql": ""}, "20260131120000_new.sql"},
		{"a clock that was ahead", map[string]string{"20260131235959_a.sql": ""}, "20260201000000_new.sql"},
		{"no migration", map[string]string{"20990101000000_notes.md": "", ".20990101000000_a.sql": ""}, "20260131120000_new.sql"},
		{"milliseconds", map[string]string{"1769860800000999_a.sql": ""}, "1769860800000999_a.sql is larger than any time"},
		{"no time", map[string]string{"20269999999999_a.sql": ""}, "20269999999999_a.sql is larger than any time"},
		{"short numbers of Knex's", map[string]string{"9_a.js": ""}, "would run before 9_a.js"},
		{"short numbers of SQL", map[string]string{"9_a.sql": ""}, "20260131120000_new.sql"},
		{"names of Knex's", map[string]string{"users.js": ""}, "20260131120000_new.sql"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := write(t, c.files)
			path, err := source.Make(dir, "new", source.SQL, noon)
			if err != nil {
				if !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, not %s", err, c.want)
				}
				if entries, _ := os.ReadDir(dir); len(entries) != len(c.files) {
					t.Error("a file was made all the same")
				}
				return
			}
			if got := filepath.Base(path); got != c.want {
				t.Errorf("made %s, not %s", got, c.want)
			}
		})
	}
}

func TestMakeRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name     string
		language source.Language
		part     string
	}{
		{"", source.SQL, "no name"},
		{" -_. ", source.SQL, "no name"},
		{".sql", source.SQL, "no name"},
		{"../users", source.SQL, "path"},
		{`a\b`, source.SQL, "path"},
		{"users", "go", `"go"`},
		{strings.Repeat("x", 237), source.SQL, "256 bytes"},
	} {
		if _, err := source.Make(dir, c.name, c.language, noon); err == nil || !strings.Contains(err.Error(), c.part) {
			t.Errorf("%q in %q: %v", c.name, c.language, err)
		}
	}
	if _, err := source.Make(dir, strings.Repeat("x", 236), source.SQL, noon); err != nil {
		t.Errorf("the longest name: %v", err)
	}

	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := source.Make(file, "users", source.SQL, noon); err == nil {
		t.Error("a file is taken for a folder")
	}
}
