package sqlite

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gofrs/flock"

	"github.com/skeinhq/skein"
)

var _ skein.Provisioner = (*Engine)(nil)

// An administrator makes files in a folder.
//
// A file is made whole under a name that has the tenant's id in it, and is then
// linked to its own name, which fails where there is a file already. As long as
// the first name is there, it shows that the file behind the second is this
// tenant's: it goes when the file has been handed over, by GrantRights.
type administrator struct {
	engine *Engine
	folder string
}

var (
	_ skein.Administrator = (*administrator)(nil)
	_ skein.Backuper      = (*administrator)(nil)
	_ skein.Copier        = (*administrator)(nil)
	_ skein.Templater     = (*administrator)(nil)
)

// Administer finds the folder that the target's database names. It is made if
// it does not exist.
func (e *Engine) Administer(_ context.Context, admin skein.Target) (skein.Administrator, error) {
	folder, err := filepath.Abs(admin.Database)
	if err != nil {
		return nil, fileError(admin.Database, err)
	}
	info, err := os.Stat(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, fileError(folder, err)
		}
	case err != nil:
		return nil, fileError(folder, err)
	case !info.IsDir():
		return nil, &skein.DatabaseError{
			Class: skein.Permanent, Message: folder + " is a file",
			Hint: "the address of a server for SQLite names the folder in which tenants' files are made: sqlite:FOLDER/",
		}
	}
	return &administrator{e, folder}, nil
}

// maxFileName leaves room for the suffixes of SQLite's and Skein's own files in
// the 255 bytes that file systems have for a name.
const maxFileName = 180

// Check looks at the file's name, which has to be one in the folder.
func (a *administrator) Check(_ context.Context, site skein.Site) error {
	path, err := filepath.Abs(site.Target.Database)
	if err != nil {
		return fileError(site.Target.Database, err)
	}
	name := filepath.Base(path)
	problem := ""
	switch {
	case filepath.Dir(path) != a.folder:
		problem = "is not in the folder " + a.folder
	case strings.HasPrefix(name, "."):
		problem = "begins with a dot, as Skein's own files do"
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || strings.ContainsRune(`/\:*?"<>|`, r) }):
		problem = `has a character that not every file system knows: / \ : * ? " < > |`
	case !utf8.ValidString(name):
		problem = "is not text in UTF-8"
	case len(name) > maxFileName:
		problem = fmt.Sprintf("has %d bytes, and %d are allowed", len(name), maxFileName)
	}
	if problem != "" {
		return &skein.NameError{What: "file", Name: site.Target.Database, Msg: problem}
	}
	return nil
}

// beside is a name of Skein's own in the folder.
func (a *administrator) beside(file, what string) string {
	return filepath.Join(a.folder, "."+filepath.Base(file)+".skein-"+what)
}

// made is the first name of a site's file.
func (a *administrator) made(site skein.Site) string {
	// The id may be anything.
	sum := sha256.Sum256([]byte(site.TenantID))
	return a.beside(site.Target.Database, "new-"+hex.EncodeToString(sum[:8]))
}

// Hold locks a file beside the one that is made. It is removed when the lock is
// given back; one that a killed process left does no harm.
func (a *administrator) Hold(ctx context.Context, site skein.Site) (func(context.Context) error, error) {
	return hold(ctx, a.beside(site.Target.Database, "provision"), 2*time.Second)
}

func hold(ctx context.Context, path string, wait time.Duration) (func(context.Context) error, error) {
	lock := flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o600))
	for start := time.Now(); ; {
		ok, err := lock.TryLock()
		if err != nil {
			return nil, fileError(path, fmt.Errorf("lock: %w", err))
		}
		if ok && leadsTo(path, lock) {
			return func(context.Context) error { return (&fileLock{lock}).release() }, nil
		}
		if ok {
			if err := lock.Unlock(); err != nil {
				return nil, fileError(path, fmt.Errorf("unlock: %w", err))
			}
		} else if waited := time.Since(start); waited >= wait {
			return nil, &skein.LockedError{Waited: waited}
		}
		select {
		case <-time.After(firstPause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Find looks for the file.
func (a *administrator) Find(_ context.Context, site skein.Site) ([]skein.Found, error) {
	path := site.Target.Database
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fileError(path, err)
	}
	ours := site.TenantID != "" && site.Made
	if !ours && site.TenantID != "" {
		first, err := os.Lstat(a.made(site))
		ours = err == nil && os.SameFile(first, info)
	}
	return []skein.Found{{What: "file", Name: path, Ours: ours}}, nil
}

// CreateRole has nothing to do: files have no roles.
func (a *administrator) CreateRole(context.Context, skein.Site) error { return nil }

// CreateDatabase makes the file.
func (a *administrator) CreateDatabase(ctx context.Context, site skein.Site) error {
	path, first := site.Target.Database, a.made(site)
	found, err := a.Find(ctx, site)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		if !found[0].Ours {
			return &skein.ExistsError{Found: found[0]}
		}
		return nil
	}
	// What is there under the first name may be half of a copy.
	if err := remove(first); err != nil {
		return err
	}
	switch {
	case site.Template != "":
		err = copyFile(filepath.Join(a.folder, site.Template), first)
		if err == nil {
			err = a.touchHistory(ctx, first)
		}
	case site.Source != nil:
		err = a.vacuumInto(ctx, site.Source.Database, first)
	default:
		err = createEmpty(first)
	}
	if err != nil {
		return fmt.Errorf("create file %s: %w", path, err)
	}
	if err := os.Link(first, path); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return &skein.ExistsError{Found: skein.Found{What: "file", Name: path}}
		}
		return fileError(path, fmt.Errorf("create file: %w", err))
	}
	return syncFolder(a.folder)
}

// GrantRights takes the first name away. The file is its owner's alone since it
// was made.
func (a *administrator) GrantRights(_ context.Context, site skein.Site) error {
	if err := remove(a.made(site)); err != nil {
		return err
	}
	return syncFolder(a.folder)
}

// Open opens the file.
func (a *administrator) Open(ctx context.Context, site skein.Site) (skein.Session, error) {
	return a.engine.Open(ctx, site.Target)
}

// DropDatabase removes the file and those that SQLite keeps beside it. A
// process that has it open keeps what it has until it closes it.
func (a *administrator) DropDatabase(ctx context.Context, site skein.Site) error {
	found, err := a.Find(ctx, site)
	if err != nil {
		return err
	}
	if len(found) > 0 && !found[0].Ours {
		return &skein.ExistsError{Found: found[0]}
	}
	// The file goes last: without it, what is left beside it would be another's.
	for _, path := range []string{
		a.made(site), a.made(site) + "-journal",
		site.Target.Database + lockSuffix, site.Target.Database + "-wal", site.Target.Database + "-shm", site.Target.Database + "-journal",
		site.Target.Database,
	} {
		if err := remove(path); err != nil {
			return err
		}
	}
	return syncFolder(a.folder)
}

// DropRole has nothing to do.
func (a *administrator) DropRole(context.Context, skein.Site) error { return nil }

// Close has nothing to do.
func (a *administrator) Close() error { return nil }

// Backup writes a copy of the file as it is at one moment.
func (a *administrator) Backup(ctx context.Context, site skein.Site, file string) error {
	if _, err := os.Lstat(file); err == nil {
		return fmt.Errorf("the file %s exists already", file)
	}
	if err := a.vacuumInto(ctx, site.Target.Database, file); err != nil {
		return errors.Join(err, remove(file))
	}
	return nil
}

// CheckCopy finds nothing in the way of a copy.
func (a *administrator) CheckCopy(_ context.Context, site skein.Site) error {
	if _, err := os.Stat(site.Source.Database); err != nil {
		return fileError(site.Source.Database, err)
	}
	return nil
}

// vacuumInto copies a database that may be in use.
func (a *administrator) vacuumInto(ctx context.Context, from, to string) error {
	from, err := filepath.Abs(from)
	if err != nil {
		return fileError(from, err)
	}
	if err := createEmpty(to); err != nil { // for its owner alone
		return err
	}
	conn, err := a.engine.connect(ctx, from)
	if err != nil {
		return err
	}
	_, err = conn.ExecContext(ctx, "VACUUM INTO ?1", []driver.NamedValue{{Ordinal: 1, Value: to}})
	if err := errors.Join(err, conn.Close()); err != nil {
		return databaseError(from, err)
	}
	return syncFile(to)
}

// touchHistory makes a copied history one of now and of this process, as a
// replay would have written it. Knex's times change with Skein's: by them the two
// tables are told to speak of the same.
func (a *administrator) touchHistory(ctx context.Context, path string) error {
	s, err := a.session(ctx, path)
	if err != nil {
		return err
	}
	now := time.Now()
	err = s.transaction(ctx, func() error {
		err := s.exec(ctx, "UPDATE skein_migrations SET started_at = ?1, applied_at = ?1, applied_by = ?2, tool = ?3",
			stamp(now), orNull(a.engine.opts.By), orNull(a.engine.opts.Tool))
		if err != nil {
			return err
		}
		knex := false
		err = s.query(ctx, s.engine.sql.tables, 3, func(row []driver.Value) error {
			knex = integer(row[knexTable]) > 0
			return nil
		})
		if err != nil || !knex {
			return err
		}
		return s.exec(ctx, "UPDATE "+identifier(s.engine.opts.KnexTable)+" SET migration_time = ?1", now.UnixMilli())
	})
	return cmp.Or(err, s.Close())
}

func (a *administrator) session(ctx context.Context, path string) (*session, error) {
	conn, err := a.engine.connect(ctx, path)
	if err != nil {
		return nil, err
	}
	return &session{engine: a.engine, path: path, conn: conn}, nil
}

const templatePrefix = ".skein-template-"

// templateName is a template's file: of a project, its migrations, and Skein's
// own table.
func templateName(key skein.TemplateKey) string {
	sum := sha256.Sum256([]byte(key.Digest + createTable))
	return templatePrefix + key.Project + "-" + hex.EncodeToString(sum[:8])
}

// Template finds the template. It has its name since it was verified.
func (a *administrator) Template(_ context.Context, key skein.TemplateKey) (string, error) {
	name := templateName(key)
	_, err := os.Stat(filepath.Join(a.folder, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fileError(name, err)
	}
	return name, nil
}

// MakeTemplate migrates two files, compares them, and keeps one.
func (a *administrator) MakeTemplate(ctx context.Context, key skein.TemplateKey, migrate func(context.Context, skein.Target) error) (_ string, err error) {
	name := templateName(key)
	release, err := hold(ctx, filepath.Join(a.folder, templatePrefix+key.Project+".lock"), 0)
	if err != nil {
		return "", err
	}
	defer func() { err = cmp.Or(err, release(context.WithoutCancel(ctx))) }()
	if found, err := a.Template(ctx, key); found != "" || err != nil {
		return found, err
	}
	why := filepath.Join(a.folder, name+".none") // says why there is no template
	if text, err := os.ReadFile(why); err == nil && len(text) > 0 {
		return "", &skein.TemplateError{Msg: string(text)}
	}
	refuse := func(msg string) error {
		// Made anew each time that it is asked for, it would come to the same.
		if err := os.WriteFile(why, []byte(msg), 0o600); err != nil {
			return fileError(why, err)
		}
		return &skein.TemplateError{Msg: msg}
	}
	// Under the lock, whatever is being made belongs to a process that is gone.
	clean := func(keep string) error {
		names, err := filepath.Glob(filepath.Join(a.folder, templatePrefix+key.Project+"-*"))
		if err != nil {
			return err
		}
		for _, path := range names {
			if filepath.Base(path) != keep {
				err = errors.Join(err, remove(path))
			}
		}
		return err
	}
	replay, copied := filepath.Join(a.folder, name+".replay"), filepath.Join(a.folder, name+".copy")
	making := filepath.Join(a.folder, name+".new")
	for _, path := range []string{making, replay, copied} {
		if err := errors.Join(remove(path), remove(path+"-journal"), remove(path+"-wal"), remove(path+"-shm")); err != nil {
			return "", err
		}
	}
	defer func() {
		for _, path := range []string{making, replay, copied} {
			err = errors.Join(err, remove(path))
		}
	}()
	for _, path := range []string{making, replay} {
		if err := createEmpty(path); err != nil {
			return "", err
		}
		if err := migrate(ctx, skein.Target{Engine: skein.SQLite, Database: path}); err != nil {
			return "", err
		}
		for _, suffix := range []string{"-wal", "-journal"} {
			if _, err := os.Stat(path + suffix); err == nil {
				return "", refuse("the migrations leave the file in a state that is not one file")
			}
		}
	}
	if err := copyFile(making, copied); err != nil {
		return "", err
	}
	if err := a.touchHistory(ctx, copied); err != nil {
		return "", err
	}
	want, err := a.fingerprint(ctx, replay)
	if err != nil {
		return "", err
	}
	got, err := a.fingerprint(ctx, copied)
	if err != nil {
		return "", err
	}
	for _, part := range want.parts {
		if want.digest[part] != got.digest[part] {
			return "", refuse("a copy would differ from a replay (" + part + ")")
		}
	}
	if len(want.parts) != len(got.parts) {
		return "", refuse("a copy would have other tables than a replay")
	}
	if err := os.Rename(making, filepath.Join(a.folder, name)); err != nil {
		return "", fileError(name, err)
	}
	if err := syncFolder(a.folder); err != nil {
		return "", err
	}
	return name, clean(name)
}

// A fingerprint is what is in a file: its settings, its schema, and the rows of
// each table, those of the history without their times.
type fingerprint struct {
	parts  []string
	digest map[string]string
}

func (a *administrator) fingerprint(ctx context.Context, path string) (fingerprint, error) {
	f := fingerprint{digest: make(map[string]string)}
	s, err := a.session(ctx, path)
	if err != nil {
		return f, err
	}
	defer func() { _ = s.Close() }()
	add := func(part, query string) error {
		h := sha256.New()
		err := s.query(ctx, query, 1, func(row []driver.Value) error {
			_, _ = fmt.Fprintf(h, "%q\n", fmt.Sprint(row[0])) // never fails
			return nil
		})
		f.parts = append(f.parts, part)
		f.digest[part] = hex.EncodeToString(h.Sum(nil))
		return err
	}
	for _, pragma := range []string{"encoding", "page_size", "auto_vacuum", "journal_mode", "user_version", "application_id"} {
		if err := add("pragma "+pragma, "PRAGMA "+pragma); err != nil {
			return f, err
		}
	}
	// Parts of a statement's text, and rows, are told apart by quoting.
	if err := add("schema", "SELECT quote(type) || quote(name) || quote(tbl_name) || quote(sql) FROM sqlite_schema ORDER BY type, name"); err != nil {
		return f, err
	}
	var tables []string
	err = s.query(ctx, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'sqlite_sequence' AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name", 1, func(row []driver.Value) error {
		tables = append(tables, text(row[0]))
		return nil
	})
	if err != nil {
		return f, err
	}
	for _, table := range tables {
		columns, sep := "", ""
		err := s.query(ctx, "SELECT name FROM pragma_table_xinfo("+literal(table)+") ORDER BY cid", 1, func(row []driver.Value) error {
			name := text(row[0])
			switch {
			case table == skein.HistoryTable && slices.Contains([]string{"started_at", "applied_at", "duration_ms"}, name),
				table == a.engine.opts.KnexTable && name == "migration_time":
				return nil
			}
			columns += sep + "quote(" + identifier(name) + ")"
			sep = " || ',' || "
			return nil
		})
		if err == nil {
			err = add("table "+table, "SELECT "+columns+" FROM "+identifier(table)+" ORDER BY 1")
		}
		if err != nil {
			return f, err
		}
	}
	sequences := 0
	err = s.query(ctx, "SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_sequence'", 1, func(row []driver.Value) error {
		sequences = int(integer(row[0]))
		return nil
	})
	if err == nil && sequences > 0 {
		err = add("sequences", "SELECT quote(name) || quote(seq) FROM sqlite_sequence ORDER BY 1")
	}
	return f, err
}

// createEmpty makes an empty file for its owner alone.
func createEmpty(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fileError(path, err)
	}
	return f.Close()
}

// copyFile copies a file that nobody writes to, and waits until it is on disk.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return fileError(from, err)
	}
	defer func() { _ = in.Close() }() // it was only read
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fileError(to, err)
	}
	_, err = io.Copy(out, in)
	if err = cmp.Or(err, out.Sync(), out.Close()); err != nil {
		return fileError(to, err)
	}
	return nil
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fileError(path, err)
	}
	if err := cmp.Or(f.Sync(), f.Close()); err != nil {
		return fileError(path, err)
	}
	return nil
}

// syncFolder makes names in a folder durable, where the system can.
func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fileError(path, err)
	}
	_ = f.Sync() // Windows cannot
	return f.Close()
}

// remove removes a file if it is there.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fileError(path, err)
	}
	return nil
}
