// Package source reads migrations from files.
//
// It knows four forms: dbmate's (-- migrate:up), goose's (-- +goose Up),
// golang-migrate's pairs (.up.sql and .down.sql), and Knex's .js and .ts files,
// which it only names, orders and sums: Knex runs them.
package source

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/skeinhq/skein"
)

const (
	// maxSize bounds a file, in bytes. What is larger is data, to be loaded in
	// another way than as one migration in each tenant.
	maxSize = 16 << 20
	// maxName is the width in characters of the column that holds names, in
	// Knex's table and in Skein's.
	maxName = 255
)

// Options change what is read. A nil *Options is the zero value.
type Options struct {
	// Extensions are those of the Knex migrations, as loadExtensions in a
	// knexfile: ".js", for a folder where .ts files lie beside what they were
	// compiled to. Files with other extensions of Knex's are left out. Defaults
	// to all that [skein.KnexName] knows.
	Extensions []string
	// SortDirsSeparately has the folders run one after the other, in the order in
	// which they are given, and sorts the files of each by themselves, as
	// sortDirsSeparately in a knexfile. Otherwise the files of all are sorted
	// together.
	SortDirsSeparately bool
}

// Errors are all that is wrong with the files of a set, sorted by path and line.
// It is never empty where it is returned.
type Errors []*skein.FileError

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap makes each of the errors visible to errors.As.
func (e Errors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, err := range e {
		errs[i] = err
	}
	return errs
}

// Load reads the migrations of one or more folders of the file system into one
// set. Sub-folders, dot-files, .d.ts files and files of other kinds are left
// out; a link to a file is followed. Each file is read once. A folder without
// migrations is an empty set.
//
// Where every migration is a .sql file they run in the order of their versions
// as numbers. Where any is Knex's, Knex's order holds for all: see
// [CompareNames] and Options.SortDirsSeparately.
//
// What is wrong with files and folders is an error of type [Errors], which holds
// everything that was found.
func Load(dirs []string, opts *Options) (*skein.Set, error) {
	folders := make([]folder, len(dirs))
	for i, dir := range dirs {
		dir := filepath.Clean(dir)
		folders[i] = folder{
			fsys: os.DirFS(dir), dir: ".", shown: dir, join: filepath.Join,
			missing: "the folder does not exist: make it (mkdir -p " + dir + "), or name the one with the migrations in migrations.dir",
		}
	}
	return load(folders, opts)
}

// LoadFS is [Load] for migrations that are part of a program (package embed) or
// of another file system. The folders are paths in fsys, "." for its root.
func LoadFS(fsys fs.FS, dirs []string, opts *Options) (*skein.Set, error) {
	folders := make([]folder, len(dirs))
	for i, dir := range dirs {
		dir := path.Clean(dir)
		folders[i] = folder{
			fsys: fsys, dir: dir, shown: dir, join: path.Join,
			missing: "the file system has no such folder",
		}
	}
	return load(folders, opts)
}

// A folder is where files are read from.
type folder struct {
	fsys    fs.FS
	dir     string // in fsys
	shown   string // as errors name it
	join    func(...string) string
	missing string // what to say where it does not exist
}

func (f folder) path(name string) string { return f.join(f.shown, name) }

// A loader gathers migrations, and what is wrong with them.
type loader struct {
	extensions []string // of Knex's; nil: all
	separately bool     // folders are sorted each by itself
	group      int      // of the migrations of the folder that is read
	found      []*skein.Migration
	errs       Errors
}

func (l *loader) fail(path string, line int, format string, args ...any) {
	l.errs = append(l.errs, &skein.FileError{Path: path, Line: line, Msg: fmt.Sprintf(format, args...)})
}

func load(folders []folder, opts *Options) (*skein.Set, error) {
	var l loader
	if opts != nil {
		for _, ext := range opts.Extensions {
			if !skein.KnexName("x" + ext) {
				return nil, fmt.Errorf("%q is not an extension of Knex migrations: .js and .ts are", ext)
			}
		}
		l.extensions, l.separately = opts.Extensions, opts.SortDirsSeparately
	}
	if len(folders) == 0 {
		return nil, errors.New("no folder of migrations is given")
	}
	for i, f := range folders {
		if slices.ContainsFunc(folders[:i], func(g folder) bool { return g.shown == f.shown }) {
			l.fail(f.shown, 0, "the folder is named twice")
			continue
		}
		if l.separately {
			l.group = i
		}
		l.readFolder(f)
	}
	l.checkNames()
	l.sort()
	if len(l.errs) > 0 {
		slices.SortStableFunc(l.errs, func(a, b *skein.FileError) int {
			return cmp.Or(strings.Compare(a.Path, b.Path), cmp.Compare(a.Line, b.Line))
		})
		return nil, l.errs
	}
	return skein.NewSet(l.found)
}

func (l *loader) readFolder(f folder) {
	entries, err := fs.ReadDir(f.fsys, f.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		l.fail(f.shown, 0, "%s", f.missing)
		return
	case err != nil:
		l.fail(f.shown, 0, "the folder cannot be read: %v", cause(err))
		return
	}

	var ups []*skein.Migration
	downs := make(map[string]string) // text by the name without .down.sql
	var singles []string             // .sql files that are not of a pair
	for _, entry := range entries {
		name := entry.Name()
		kind := l.classify(name)
		if kind == ignored || entry.IsDir() {
			continue
		}
		path := f.path(name)
		if !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
			l.fail(f.path(strconv.Quote(name)), 0, "the name holds a character that cannot be printed: rename the file")
			continue
		}
		text, ok := l.readFile(f, entry, kind)
		if !ok {
			continue
		}
		switch kind {
		case refused:
			l.refuse(path, name)
		case knexFile:
			l.add(&skein.Migration{Name: name, Path: path, Kind: skein.Knex, Checksum: checksum(text)})
		case downFile:
			downs[strings.TrimSuffix(name, ".down.sql")] = text
		case upFile:
			m := &skein.Migration{Name: name, Path: path, Kind: skein.SQL}
			if up, ok := l.readSide(path, text, skein.Up); ok {
				m.Up, m.Checksum = up, checksum(withoutDirectives(up.SQL))
			}
			ups = append(ups, m)
			l.add(m)
		case sqlFile:
			singles = append(singles, name)
			m := &skein.Migration{Name: name, Path: path, Kind: skein.SQL}
			if up, down, ok := l.readBoth(path, text); ok {
				m.Up, m.Down, m.Checksum = up, down, checksum(withoutDirectives(up.SQL))
			}
			l.add(m)
		}
	}

	for _, m := range ups {
		stem := strings.TrimSuffix(m.Name, ".up.sql")
		if text, ok := downs[stem]; ok {
			m.Down, _ = l.readSide(f.path(stem+".down.sql"), text, skein.Down)
			delete(downs, stem)
		}
	}
	for stem := range downs {
		path := f.path(stem + ".down.sql")
		if slices.Contains(singles, stem+".sql") {
			l.fail(path, 0, "%s.sql is not one of a pair: move this into it, under a line -- migrate:down", stem)
			continue
		}
		msg := fmt.Sprintf("there is no %s.up.sql that it belongs to", stem)
		for _, m := range ups {
			if v := digits(stem); v != "" && compareVersions(v, m.Version) == 0 {
				msg += fmt.Sprintf(": if it belongs to %s, name it %s", m.Name, strings.TrimSuffix(m.Name, ".up.sql")+".down.sql")
			}
		}
		l.fail(path, 0, "%s", msg)
	}
}

// What a file is, by its name.
type fileKind int

const (
	ignored fileKind = iota
	refused
	sqlFile
	upFile
	downFile
	knexFile
)

func (l *loader) classify(name string) fileKind {
	ext := path.Ext(name)
	stem := strings.TrimSuffix(name, ext)
	switch {
	case strings.HasPrefix(name, "."):
		return ignored
	case strings.HasSuffix(name, ".up.sql"):
		return upFile
	case strings.HasSuffix(name, ".down.sql"):
		return downFile
	case ext == ".sql":
		return sqlFile
	case strings.EqualFold(ext, ".sql"), ext == ".go" && digits(name) != "":
		return refused
	case !skein.KnexName(name), strings.HasSuffix(stem, ".d") && strings.HasSuffix(ext, "ts"):
		return ignored
	case l.extensions != nil && !slices.Contains(l.extensions, ext):
		return ignored
	case stem == "knexfile":
		return refused
	}
	return knexFile
}

// refuse says why a file that looks like a migration is none.
func (l *loader) refuse(file, name string) {
	switch path.Ext(name) {
	case ".go":
		l.fail(file, 0, "a migration in Go cannot be run: write it in SQL")
	default:
		if strings.HasPrefix(name, "knexfile.") {
			l.fail(file, 0, "this is Knex's configuration: name the folder that holds the migrations, and nothing else of the project")
			return
		}
		l.fail(file, 0, "the extension must be in small letters: name it %s.sql", strings.TrimSuffix(name, path.Ext(name)))
	}
}

// add takes a migration whose name, path and kind are set, and checks its name.
func (l *loader) add(m *skein.Migration) {
	if n := utf8.RuneCountInString(m.Name); n > maxName {
		l.fail(m.Path, 0, "the name has %d characters, and the history has room for %d: shorten it", n, maxName)
	}
	m.Version, m.Group = digits(m.Name), l.group
	if m.Version == "" && m.Kind == skein.SQL {
		l.fail(m.Path, 0, "the name must begin with a number, the migration's version: 0001_%[1]s or 20260131120000_%[1]s, for instance", m.Name)
	}
	if m.Version == "" {
		m.Version = strings.TrimSuffix(m.Name, path.Ext(m.Name))
	}
	l.found = append(l.found, m)
}

// readFile returns a file's text with line endings and byte order mark taken
// out of account.
func (l *loader) readFile(f folder, entry fs.DirEntry, kind fileKind) (text string, ok bool) {
	shown, name := f.path(entry.Name()), path.Join(f.dir, entry.Name())
	mode := entry.Type()
	if mode&fs.ModeSymlink != 0 {
		info, err := fs.Stat(f.fsys, name)
		if err != nil {
			l.fail(shown, 0, "the link leads nowhere: %v", cause(err))
			return "", false
		}
		mode = info.Mode().Type()
	}
	switch {
	case mode.IsDir():
		return "", false
	case !mode.IsRegular():
		// Opening a pipe would wait for someone to write to it.
		l.fail(shown, 0, "this is not a regular file")
		return "", false
	case kind == refused:
		return "", true
	}
	data, err := readAll(f.fsys, name)
	switch {
	case err != nil:
		l.fail(shown, 0, "the file cannot be read: %v", cause(err))
		return "", false
	case len(data) > maxSize:
		l.fail(shown, 0, "the file is larger than %d MB: a migration runs in every tenant, so load this much data in another way", maxSize>>20)
		return "", false
	}
	text = normalize(string(data))
	if kind == knexFile {
		return text, true // Knex's business
	}
	if strings.HasPrefix(text, "\xff\xfe") || strings.HasPrefix(text, "\xfe\xff") {
		l.fail(shown, 0, "the file is UTF-16: save it as UTF-8")
		return "", false
	}
	if at := invalidUTF8(text); at >= 0 {
		l.fail(shown, lineAt(text, at), "the byte 0x%02x here is not UTF-8: save the file as UTF-8", text[at])
		return "", false
	}
	if at := strings.IndexByte(text, 0); at >= 0 {
		l.fail(shown, lineAt(text, at), "there is a zero byte here, which no database takes in a statement")
		return "", false
	}
	return text, true
}

// readAll reads a file, or a little more than maxSize of it.
func readAll(fsys fs.FS, name string) ([]byte, error) {
	file, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // it was only read
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	size := min(max(info.Size(), 0), maxSize)
	data := make([]byte, 0, size+1) // one more, so that the end is seen without growing
	r := io.LimitReader(file, maxSize+1)
	for {
		n, err := r.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if err == io.EOF {
			return data, nil
		}
		if err != nil {
			return nil, err
		}
		if len(data) == cap(data) {
			data = slices.Grow(data, len(data))
		}
	}
}

// cause is an error without the path, which is named beside it.
func cause(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// normalize takes away what a checkout on another system or an editor changes by
// itself: a byte order mark, and line endings other than LF.
func normalize(text string) string {
	text = strings.TrimPrefix(text, "\ufeff")
	if strings.IndexByte(text, '\r') < 0 {
		return text
	}
	return strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text)
}

func invalidUTF8(text string) int {
	if utf8.ValidString(text) {
		return -1
	}
	for i, r := range text {
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(text[i:]); size == 1 {
				return i
			}
		}
	}
	return -1
}

// lineAt is the line, counted from 1, of a place in a text.
func lineAt(text string, at int) int { return 1 + strings.Count(text[:at], "\n") }

// checksum is what tells an edited migration. White space at the end does not
// count: a down section that is added later leaves an empty line there.
func checksum(text string) string {
	sum := sha256.Sum256([]byte(strings.TrimSpace(text)))
	return hex.EncodeToString(sum[:])
}

// readBoth reads a file that holds both sides.
func (l *loader) readBoth(path, text string) (up, down *skein.Section, ok bool) {
	f := parse(path, text)
	l.errs = append(l.errs, f.errs...)
	switch {
	case len(f.errs) > 0:
	case strings.TrimSpace(text) == "":
		l.fail(path, 0, "the file is empty: put the SQL of the change under a line -- migrate:up")
	case f.up == nil && f.down == nil:
		l.fail(path, 0, "it is not said what is up and what is down: put a line -- migrate:up above the SQL that makes the change, and a line -- migrate:down above the SQL that undoes it")
	case f.up == nil:
		l.fail(path, 0, "there is no up section: put a line -- migrate:up above the SQL that makes the change")
	case firstStatement(f.up.SQL) < 0:
		l.fail(path, f.up.Line-1, "the up section has no statement")
	default:
		return f.up, withStatements(f.down), true
	}
	return nil, nil, false
}

// readSide reads one file of a pair. It needs no annotations; the one of its own
// direction can give options.
func (l *loader) readSide(path, text string, side skein.Direction) (*skein.Section, bool) {
	f := parse(path, text)
	if len(f.errs) > 0 {
		l.errs = append(l.errs, f.errs...)
		return nil, false
	}
	section, other := f.up, f.down
	if side == skein.Down {
		section, other = f.down, f.up
	}
	if other != nil {
		l.fail(path, other.Line-1, "by its name the file is one of a pair, and holds the %s only: move the other section to the other file", side)
		return nil, false
	}
	if section == nil {
		section = &skein.Section{SQL: text, Path: path, Line: 1, NoTransaction: f.noTransaction, Timeouts: f.timeouts}
	}
	if side == skein.Down {
		return withStatements(section), true
	}
	if firstStatement(section.SQL) < 0 {
		l.fail(path, 0, "the file has no statement")
		return nil, false
	}
	return section, true
}

// withStatements is a down section, or nil where there is nothing in it: a stub
// that was never filled in would be reverted by forgetting it.
func withStatements(down *skein.Section) *skein.Section {
	if down == nil || firstStatement(down.SQL) < 0 {
		return nil
	}
	return down
}

// checkNames finds migrations that cannot be told apart.
func (l *loader) checkNames() {
	byName := make(map[string]*skein.Migration, len(l.found))
	byVersion := make(map[string][]*skein.Migration, len(l.found))
	byStem := make(map[string]*skein.Migration)
	for _, m := range l.found {
		if first, ok := byName[m.Name]; ok {
			advice := ""
			if m.Kind == skein.Knex {
				advice = " (Knex runs both and writes the name twice; where that has happened, rename one of the files and one of the two rows)"
			}
			l.fail(m.Path, 0, "%s has the same name: a history keeps names without folders, so rename the one that has run nowhere%s", first.Path, advice)
			continue
		}
		byName[m.Name] = m

		if m.Kind == skein.Knex {
			stem := strings.TrimSuffix(m.Name, path.Ext(m.Name))
			if first, ok := byStem[stem]; ok {
				l.fail(m.Path, 0, "%s is the same migration in another language, and both would run: keep the compiled files in a folder of their own", first.Path)
			}
			byStem[stem] = m
		}
		if digits(m.Name) == "" {
			continue
		}
		number := strings.TrimLeft(m.Version, "0")
		for _, first := range byVersion[number] {
			// Knex tells its migrations apart by their names alone.
			if m.Kind == skein.SQL || first.Kind == skein.SQL {
				l.fail(m.Path, 0, "%s has the version %s too: give the newer one another number", first.Path, first.Version)
				break
			}
		}
		byVersion[number] = append(byVersion[number], m)
	}
}

// sort puts the migrations in the order in which they run.
func (l *loader) sort() {
	if !slices.ContainsFunc(l.found, func(m *skein.Migration) bool { return m.Kind == skein.Knex }) {
		slices.SortStableFunc(l.found, func(a, b *skein.Migration) int {
			return cmp.Or(cmp.Compare(a.Group, b.Group), compareVersions(a.Version, b.Version), strings.Compare(a.Name, b.Name))
		})
		return
	}
	slices.SortStableFunc(l.found, func(a, b *skein.Migration) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), CompareNames(a.Name, b.Name))
	})

	// Knex's order is not to be had for SQL files that count 9, 10: run first
	// with Knex's files about them and then without, they would change places.
	var highest, highestSQL *skein.Migration
	for i, m := range l.found {
		if i > 0 && m.Group != l.found[i-1].Group {
			highest, highestSQL = nil, nil
		}
		if digits(m.Name) == "" {
			continue
		}
		above := highestSQL
		if m.Kind == skein.SQL {
			above = highest
		}
		if above != nil && compareVersions(above.Version, m.Version) > 0 {
			l.fail(m.Path, 0, "Knex's order, which holds where .js or .ts files are, puts %s before %s, and their numbers say the contrary: "+
				"give the SQL files numbers of as many digits as the others", above.Name, m.Name)
		}
		if highest == nil || compareVersions(highest.Version, m.Version) < 0 {
			highest = m
		}
		if m.Kind == skein.SQL && (highestSQL == nil || compareVersions(highestSQL.Version, m.Version) < 0) {
			highestSQL = m
		}
	}
}
