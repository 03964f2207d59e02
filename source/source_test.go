package source_test

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"unicode/utf16"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/source"
)

// archives calls f with each archive of a folder: what its comment says, and
// its files.
func archives(t *testing.T, pattern string, f func(t *testing.T, want string, files fstest.MapFS)) {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("no archive is at %s (%v)", pattern, err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			files := fstest.MapFS{}
			for _, file := range archive.Files {
				files[file.Name] = &fstest.MapFile{Data: file.Data}
			}
			f(t, string(archive.Comment), files)
		})
	}
}

// describe writes a set as the archives in testdata/sets do.
func describe(set *skein.Set) string {
	var b strings.Builder
	for _, m := range set.All() {
		fmt.Fprintf(&b, "%s %s %s\n", m.Name, m.Version, m.Kind)
		for _, d := range []skein.Direction{skein.Up, skein.Down} {
			if s := m.Section(d); s != nil {
				no := ""
				if s.NoTransaction {
					no = "no transaction "
				}
				fmt.Fprintf(&b, "  %s %s:%d %s%q\n", d, s.Path, s.Line, no, s.SQL)
			}
		}
	}
	return b.String()
}

func TestSets(t *testing.T) {
	archives(t, "testdata/sets/*.txtar", func(t *testing.T, want string, files fstest.MapFS) {
		set, err := source.LoadFS(files, []string{"."}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(want, describe(set)); diff != "" {
			t.Errorf("the set is another (-want +got):\n%s", diff)
		}
		for _, m := range set.All() {
			for _, s := range []*skein.Section{m.Up, m.Down} {
				if s == nil {
					continue
				}
				if got := fromLine(string(files[s.Path].Data), s.Line); !strings.HasPrefix(got, s.SQL) {
					t.Errorf("%s does not begin on line %d of %s", m.Name, s.Line, s.Path)
				}
			}
		}
	})
}

// fromLine is a text without the lines above the given one.
func fromLine(text string, line int) string {
	for range line - 1 {
		_, text, _ = strings.Cut(text, "\n")
	}
	return text
}

func TestErrors(t *testing.T) {
	archives(t, "testdata/errors/*.txtar", func(t *testing.T, want string, files fstest.MapFS) {
		set, err := source.LoadFS(files, []string{"."}, nil)
		if err == nil {
			t.Fatalf("no error, and this set:\n%s", describe(set))
		}
		if diff := gocmp.Diff(sortedLines(want), sortedLines(err.Error())); diff != "" {
			t.Errorf("the errors are others (-want +got):\n%s", diff)
		}
		errs, ok := errors.AsType[source.Errors](err)
		if !ok {
			t.Fatalf("the error is a %T", err)
		}
		if !slices.IsSortedFunc(errs, func(a, b *skein.FileError) int {
			return cmp.Or(strings.Compare(a.Path, b.Path), cmp.Compare(a.Line, b.Line))
		}) {
			t.Errorf("the errors are not sorted:\n%v", err)
		}
		if first, ok := errors.AsType[*skein.FileError](err); !ok || first != errs[0] {
			t.Errorf("a *skein.FileError cannot be found in the error")
		}
	})
}

func sortedLines(text string) []string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	slices.Sort(lines)
	return lines
}

// write puts files into a new folder.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const up = "-- migrate:up\nSELECT 1;\n"

func mustLoad(t *testing.T, dirs ...string) *skein.Set {
	t.Helper()
	set, err := source.Load(dirs, nil)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// wantError checks that an error says something of a file or folder.
func wantError(t *testing.T, err error, path string, line int, part string) {
	t.Helper()
	errs, _ := errors.AsType[source.Errors](err)
	for _, e := range errs {
		if e.Path == path && e.Line == line && strings.Contains(e.Msg, part) {
			return
		}
	}
	t.Errorf("no error for %s, line %d, with %q:\n%v", path, line, part, err)
}

func TestPairsOfACRM(t *testing.T) {
	dir := filepath.Join("testdata", "pairs")
	set := mustLoad(t, dir)
	if set.Len() != 6 {
		t.Fatalf("%d migrations, not 6", set.Len())
	}
	for _, m := range set.All() {
		if m.Kind != skein.SQL || m.Path != filepath.Join(dir, m.Name) || m.Down == nil {
			t.Errorf("%s: kind %s, path %s, down %v", m.Name, m.Kind, m.Path, m.Down)
			continue
		}
		for _, s := range []*skein.Section{m.Up, m.Down} {
			data, err := os.ReadFile(s.Path)
			if err != nil {
				t.Fatal(err)
			}
			if s.SQL != string(data) || s.Line != 1 {
				t.Errorf("%s is not the whole of %s", m.Name, s.Path)
			}
		}
	}
	if m, i, err := set.Resolve("0003"); err != nil || i != 2 || m.Name != "0003_object_definitions.up.sql" {
		t.Errorf("0003 is %v at %d (%v)", m, i, err)
	}
}

func TestKnexOfACRM(t *testing.T) {
	set := mustLoad(t, filepath.Join("testdata", "knex"))
	want := []string{
		"20240105090000_create_users_and_rbac.js",
		"20240105090100_create_object_definitions.js",
		"20240105090200_create_field_definitions.js",
		"20240110120000_create_contacts.js",
		"20240112080000_add_contact_indexes.js",
		"20240120101530_add_custom_fields.js",
	}
	var got []string
	for _, m := range set.All() {
		got = append(got, m.Name)
		if m.Kind != skein.Knex || m.Up != nil || m.Down != nil || len(m.Checksum) != 64 || m.Version != m.Name[:14] {
			t.Errorf("%+v", m)
		}
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("another order (-want +got):\n%s", diff)
	}
}

func TestFolders(t *testing.T) {
	core := write(t, map[string]string{"1_a.sql": up, "10_b.sql": up})
	billing := write(t, map[string]string{"9_c.sql": up})
	set := mustLoad(t, core, billing)
	var got []string
	for _, m := range set.All() {
		got = append(got, m.Path)
	}
	want := []string{filepath.Join(core, "1_a.sql"), filepath.Join(billing, "9_c.sql"), filepath.Join(core, "10_b.sql")}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("another order (-want +got):\n%s", diff)
	}

	// One Knex file anywhere, and its order holds everywhere.
	app := write(t, map[string]string{"a.js": "", "11_d.sql": up})
	_, err := source.Load([]string{core, billing, app}, nil)
	wantError(t, err, filepath.Join(billing, "9_c.sql"), 0, "puts 11_d.sql before 9_c.sql")
}

func TestSortDirsSeparately(t *testing.T) {
	core := write(t, map[string]string{"5_a.js": "", "9_b.js": "", "10_c.js": ""})
	billing := write(t, map[string]string{"1_d.js": "", "2_e.sql": up})
	set, err := source.Load([]string{core, billing}, &source.Options{SortDirsSeparately: true})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range set.All() {
		got = append(got, fmt.Sprintf("%d %s", m.Group, m.Name))
	}
	if diff := gocmp.Diff([]string{"0 10_c.js", "0 5_a.js", "0 9_b.js", "1 1_d.js", "1 2_e.sql"}, got); diff != "" {
		t.Errorf("another order (-want +got):\n%s", diff)
	}

	sql := write(t, map[string]string{"10_b.sql": up, "9_a.sql": up})
	set, err = source.Load([]string{sql, write(t, map[string]string{"1_c.sql": up})}, &source.Options{SortDirsSeparately: true})
	if err != nil || set.All()[0].Name != "9_a.sql" || set.All()[2].Name != "1_c.sql" {
		t.Errorf("of SQL alone the order is %v, %v", set.All(), err)
	}

	// Two files of one name would be one.
	same := write(t, map[string]string{"5_a.js": ""})
	_, err = source.Load([]string{core, same}, &source.Options{SortDirsSeparately: true})
	wantError(t, err, filepath.Join(same, "5_a.js"), 0, filepath.Join(core, "5_a.js")+" has the same name")
	wantError(t, err, filepath.Join(same, "5_a.js"), 0, "Knex runs both and writes the name twice")
}

func TestFolderErrors(t *testing.T) {
	dir := write(t, map[string]string{"1_a.sql": up})
	same := write(t, map[string]string{"1_a.sql": up})
	file, none := filepath.Join(dir, "1_a.sql"), filepath.Join(dir, "none")

	_, err := source.Load([]string{dir, same, file, none, dir + "/"}, nil)
	wantError(t, err, filepath.Join(same, "1_a.sql"), 0, filepath.Join(dir, "1_a.sql")+" has the same name")
	wantError(t, err, file, 0, "cannot be read: not a directory")
	wantError(t, err, none, 0, "mkdir -p "+none)
	wantError(t, err, dir, 0, "named twice")
	if errs, _ := errors.AsType[source.Errors](err); len(errs) != 4 {
		t.Errorf("%d errors, not 4:\n%v", len(errs), err)
	}

	if _, err := source.Load(nil, nil); err == nil {
		t.Error("no folder is no error")
	}
	_, err = source.LoadFS(fstest.MapFS{}, []string{"migrations"}, nil)
	wantError(t, err, "migrations", 0, "no such folder")
	if set := mustLoad(t, t.TempDir()); set.Len() != 0 {
		t.Errorf("an empty folder has %d migrations", set.Len())
	}
}

func TestNames(t *testing.T) {
	longest := "1_" + strings.Repeat("ü", 249) + ".sql"
	tooLong := "2_" + strings.Repeat("ü", 250) + ".sql"
	files := fstest.MapFS{
		longest:                                {Data: []byte(up)},
		tooLong:                                {Data: []byte(up)},
		"3_a\nb.sql":                           {Data: []byte(up)},
		"4_\x1b[2J.js":                         {},
		"5_Users.js":                           {},
		"5_users.js":                           {}, // Knex's names differ in case
		strings.Repeat("9", 200) + "_last.sql": {Data: []byte(up)},
	}
	_, err := source.LoadFS(files, []string{"."}, nil)
	wantError(t, err, tooLong, 0, "256 characters")
	wantError(t, err, `"3_a\nb.sql"`, 0, "rename")
	wantError(t, err, `"4_\x1b[2J.js"`, 0, "rename")
	if errs, _ := errors.AsType[source.Errors](err); len(errs) != 3 {
		t.Errorf("%d errors, not 3:\n%v", len(errs), err)
	}
}

func TestText(t *testing.T) {
	for _, c := range []struct {
		name, text string
		line       int
		part       string
	}{
		{"not UTF-8", "-- migrate:up\nSELECT 1;\nSELECT 'f\xfcr';\n", 3, "0xfc"},
		{"not UTF-8, lines ending in CR", "-- migrate:up\rSELECT 1;\r\nSELECT 'f\xfcr';\n", 3, "0xfc"},
		{"a replacement character before it", "-- migrate:up\n-- \ufffd\nSELECT '\xff';\n", 3, "0xff"},
		{"UTF-16", "\xff\xfe-\x00-\x00", 0, "UTF-16"},
		{"zero byte", "-- migrate:up\nSELECT '\x00';\n", 2, "zero byte"},
		{"too large", up + strings.Repeat(" ", 16<<20), 0, "16 MB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := fstest.MapFS{"1_a.sql": {Data: []byte(c.text)}}
			_, err := source.LoadFS(files, []string{"."}, nil)
			wantError(t, err, "1_a.sql", c.line, c.part)
			if errs, _ := errors.AsType[source.Errors](err); len(errs) != 1 {
				t.Errorf("%d errors, not 1:\n%v", len(errs), err)
			}
		})
	}
	largest := up + strings.Repeat(" ", 16<<20-len(up))
	if _, err := source.LoadFS(fstest.MapFS{"1_a.sql": {Data: []byte(largest)}}, []string{"."}, nil); err != nil {
		t.Errorf("16 MB: %v", err)
	}
}

func TestFilesThatCannotBeRead(t *testing.T) {
	elsewhere := write(t, map[string]string{"users": up, "roles": "SELECT 2;"})
	dir := write(t, map[string]string{"1_a.sql": up, "2_secret.sql": up})
	if err := errors.Join(
		os.Symlink(filepath.Join(elsewhere, "users"), filepath.Join(dir, "3_link.sql")),
		os.Symlink(filepath.Join(elsewhere, "roles"), filepath.Join(dir, "4_link.up.sql")),
		os.Symlink(elsewhere, filepath.Join(dir, "5_folder.sql")),
		os.Chmod(filepath.Join(dir, "2_secret.sql"), 0),
	); err != nil {
		t.Fatal(err)
	}
	_, err := source.Load([]string{dir}, nil)
	if os.Geteuid() == 0 { // who can read everything
		if err != nil {
			t.Fatal(err)
		}
	} else {
		wantError(t, err, filepath.Join(dir, "2_secret.sql"), 0, "cannot be read: permission denied")
	}
	if err := os.Remove(filepath.Join(dir, "2_secret.sql")); err != nil {
		t.Fatal(err)
	}
	set := mustLoad(t, dir)
	if m, _ := set.Find("3_link.sql"); set.Len() != 3 || m == nil || m.Up.SQL != "SELECT 1;\n" {
		t.Errorf("links are not followed:\n%s", describe(set))
	}

	if err := os.Symlink(filepath.Join(elsewhere, "gone"), filepath.Join(dir, "6_gone.js")); err != nil {
		t.Fatal(err)
	}
	_, err = source.Load([]string{dir}, nil)
	wantError(t, err, filepath.Join(dir, "6_gone.js"), 0, "leads nowhere")
}

// brokenFS answers with an error when a file is read.
type brokenFS struct{ fstest.MapFS }

func (f brokenFS) Open(name string) (fs.File, error) {
	file, err := f.MapFS.Open(name)
	if err == nil && name == "1_a.sql" {
		return brokenFile{file}, nil
	}
	return file, err
}

type brokenFile struct{ fs.File }

func (brokenFile) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: "1_a.sql", Err: syscall.EIO}
}

func TestReadError(t *testing.T) {
	_, err := source.LoadFS(brokenFS{fstest.MapFS{"1_a.sql": {Data: []byte(up)}}}, []string{"."}, nil)
	wantError(t, err, "1_a.sql", 0, "cannot be read: input/output error")
}

func TestExtensions(t *testing.T) {
	files := fstest.MapFS{"1_a.ts": {}, "1_a.js": {}, "2_b.ts": {}, "2_b.js": {}, "3_c.sql": {Data: []byte(up)}}
	set, err := source.LoadFS(files, []string{"."}, &source.Options{Extensions: []string{".js"}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := describe(set), "1_a.js 1 knex\n2_b.js 2 knex\n3_c.sql 3 sql\n  up 3_c.sql:2 \"SELECT 1;\\n\"\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	for _, wrong := range []string{"", "js", ".sql", ".json"} {
		if _, err := source.LoadFS(files, []string{"."}, &source.Options{Extensions: []string{wrong}}); err == nil {
			t.Errorf("the extension %q is no error", wrong)
		}
	}
}

// sum is the checksum of the first migration of a set.
func sum(t *testing.T, files map[string]string) string {
	t.Helper()
	fsys := fstest.MapFS{}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	set, err := source.LoadFS(fsys, []string{"."}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return set.All()[0].Checksum
}

func TestChecksum(t *testing.T) {
	const file = "-- migrate:up\nCREATE TABLE a (\n  id int\n);\n\n-- migrate:down\nDROP TABLE a;\n"
	want := sum(t, map[string]string{"1_a.sql": file})
	if plain := fmt.Sprintf("%x", sha256.Sum256([]byte("CREATE TABLE a (\n  id int\n);"))); want != plain {
		t.Errorf("the checksum is %s, and the SHA-256 of the up section %s", want, plain)
	}
	for name, files := range map[string]map[string]string{
		"line endings of Windows":        {"1_a.sql": strings.ReplaceAll(file, "\n", "\r\n")},
		"line endings of old":            {"1_a.sql": strings.ReplaceAll(file, "\n", "\r")},
		"byte order mark":                {"1_a.sql": "\ufeff" + file},
		"a comment above":                {"1_a.sql": "-- Of the product.\n" + file},
		"another down":                   {"1_a.sql": strings.Replace(file, "DROP TABLE", "DROP TABLE IF EXISTS", 1)},
		"no down":                        {"1_a.sql": strings.Split(file, "\n-- migrate:down")[0]},
		"another name":                   {"2_b.sql": file},
		"no transaction":                 {"1_a.sql": strings.Replace(file, "up", "up transaction:false", 1)},
		"goose's form":                   {"1_a.sql": strings.NewReplacer("migrate:up", "+goose Up", "migrate:down", "+goose Down").Replace(file)},
		"a pair":                         {"1_a.up.sql": "CREATE TABLE a (\n  id int\n);", "1_a.down.sql": "DROP TABLE a;"},
		"a pair whose down is not there": {"1_a.up.sql": "CREATE TABLE a (\n  id int\n);\n"},
	} {
		if got := sum(t, files); got != want {
			t.Errorf("%s: the checksum changes", name)
		}
	}
	for name, text := range map[string]string{
		"another type":    strings.Replace(file, "int", "bigint", 1),
		"another indent":  strings.Replace(file, "  id", "    id", 1),
		"another comment": strings.Replace(file, "CREATE", "-- Better.\nCREATE", 1),
	} {
		if got := sum(t, map[string]string{"1_a.sql": text}); got == want {
			t.Errorf("%s: the checksum stays", name)
		}
	}

	js := map[string]string{"1_a.js": "exports.up = async () => {\n};\n"}
	crlf := map[string]string{"1_a.js": "\ufeffexports.up = async () => {\r\n};\r\n"}
	if sum(t, js) != sum(t, crlf) {
		t.Error("the checksum of a Knex file changes with its line endings")
	}
	js["1_a.js"] += "exports.down = null;\n"
	if sum(t, js) == sum(t, crlf) {
		t.Error("the checksum of a Knex file does not change with its text")
	}
}

func TestLineEndings(t *testing.T) {
	files := fstest.MapFS{"1_a.sql": {Data: []byte("\ufeff-- migrate:up\r\nSELECT 1,\r\n  2;\r\n-- migrate:down\r\nSELECT 3;")}}
	set, err := source.LoadFS(files, []string{"."}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := "1_a.sql 1 sql\n  up 1_a.sql:2 \"SELECT 1,\\n  2;\\n\"\n  down 1_a.sql:5 \"SELECT 3;\"\n"
	if got := describe(set); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestCompareNames(t *testing.T) {
	// U+10437 is D801 DC37 in UTF-16, less than U+E000 and U+FF21.
	order := []string{"", "1", "10_x", "9_x", "9_x.js", "9_xa", "B", "a", "ab", "b", "é", "\ud7ff", "\U00010437", "\U00010437a", "\U00010438", "\U0010ffff", "\ue000", "\uf000", "\uff21", "\uffff"}
	for i, a := range order {
		for j, b := range order {
			if got, want := source.CompareNames(a, b), cmp.Compare(i, j); got != want {
				t.Errorf("CompareNames(%q, %q) = %d, not %d", a, b, got, want)
			}
		}
	}
}

func FuzzCompareNames(f *testing.F) {
	f.Add("10_x", "9_x")
	f.Add("\U00010437", "\ue000")
	f.Add("a\U00010437", "a\uffff")
	f.Fuzz(func(t *testing.T, a, b string) {
		a, b = strings.ToValidUTF8(a, ""), strings.ToValidUTF8(b, "")
		want := slices.Compare(utf16.Encode([]rune(a)), utf16.Encode([]rune(b)))
		if got := source.CompareNames(a, b); got != want {
			t.Errorf("CompareNames(%q, %q) = %d, not %d", a, b, got, want)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/sets/*.txtar", "testdata/errors/*.txtar"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, path := range paths {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				f.Fatal(err)
			}
			for _, file := range archive.Files {
				f.Add(file.Data)
			}
		}
	}
	f.Add([]byte("\ufeff-- migrate:up\r\nSELECT 1;\r-- migrate:down\nSELECT 2"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, names := range [][]string{{"1_a.sql"}, {"1_a.up.sql", "1_a.down.sql"}} {
			files := fstest.MapFS{}
			for _, name := range names {
				files[name] = &fstest.MapFile{Data: data}
			}
			text := string(bytes.TrimPrefix(data, []byte("\ufeff")))
			text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\r", "\n")
			set, err := source.LoadFS(files, []string{"."}, nil)
			if err != nil {
				errs, ok := errors.AsType[source.Errors](err)
				if !ok || len(errs) == 0 {
					t.Fatalf("the error is a %T: %v", err, err)
				}
				for _, e := range errs {
					if _, ok := files[e.Path]; !ok || e.Msg == "" || e.Line < 0 || e.Line > 1+strings.Count(text, "\n") {
						t.Errorf("an error names no place in the file: %q", e.Error())
					}
				}
				continue
			}
			m := set.All()[0]
			if set.Len() != 1 || m.Up == nil || len(m.Checksum) != 64 {
				t.Fatalf("not one whole migration:\n%s", describe(set))
			}
			for _, s := range []*skein.Section{m.Up, m.Down} {
				if s != nil && (s.Line < 1 || !strings.HasPrefix(fromLine(text, s.Line), s.SQL)) {
					t.Errorf("%q does not begin on line %d", s.SQL, s.Line)
				}
			}
			if m.Down != nil && len(names) == 1 && !strings.HasPrefix(fromLine(text, m.Down.Line-1), "--") {
				t.Errorf("no annotation is above line %d", m.Down.Line)
			}
		}
	})
}

func BenchmarkLoad(b *testing.B) {
	dir := b.TempDir()
	text := up + strings.Repeat("-- What follows makes the file of the usual size.\nCREATE TABLE t (id int);\n", 27)
	for i := range 1000 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%04d_x.sql", i)), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(1000 * len(text)))
	for b.Loop() {
		if _, err := source.Load([]string{dir}, nil); err != nil {
			b.Fatal(err)
		}
	}
}
