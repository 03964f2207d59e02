package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	driversqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/engine/internal/stepwise"
)

// codes are the names of https://www.sqlite.org/rescode.html for the codes that
// one meets. An extended code that is not here goes by its primary one's name.
var codes = map[int]string{
	sqlite3.SQLITE_ERROR: "SQLITE_ERROR", sqlite3.SQLITE_INTERNAL: "SQLITE_INTERNAL", sqlite3.SQLITE_PERM: "SQLITE_PERM",
	sqlite3.SQLITE_ABORT: "SQLITE_ABORT", sqlite3.SQLITE_BUSY: "SQLITE_BUSY", sqlite3.SQLITE_LOCKED: "SQLITE_LOCKED",
	sqlite3.SQLITE_NOMEM: "SQLITE_NOMEM", sqlite3.SQLITE_READONLY: "SQLITE_READONLY", sqlite3.SQLITE_INTERRUPT: "SQLITE_INTERRUPT",
	sqlite3.SQLITE_IOERR: "SQLITE_IOERR", sqlite3.SQLITE_CORRUPT: "SQLITE_CORRUPT", sqlite3.SQLITE_FULL: "SQLITE_FULL",
	sqlite3.SQLITE_CANTOPEN: "SQLITE_CANTOPEN", sqlite3.SQLITE_PROTOCOL: "SQLITE_PROTOCOL", sqlite3.SQLITE_SCHEMA: "SQLITE_SCHEMA",
	sqlite3.SQLITE_TOOBIG: "SQLITE_TOOBIG", sqlite3.SQLITE_CONSTRAINT: "SQLITE_CONSTRAINT", sqlite3.SQLITE_MISMATCH: "SQLITE_MISMATCH",
	sqlite3.SQLITE_MISUSE: "SQLITE_MISUSE", sqlite3.SQLITE_AUTH: "SQLITE_AUTH", sqlite3.SQLITE_RANGE: "SQLITE_RANGE",
	sqlite3.SQLITE_NOTADB: "SQLITE_NOTADB",

	sqlite3.SQLITE_BUSY_SNAPSHOT: "SQLITE_BUSY_SNAPSHOT", sqlite3.SQLITE_BUSY_RECOVERY: "SQLITE_BUSY_RECOVERY",
	sqlite3.SQLITE_CONSTRAINT_CHECK: "SQLITE_CONSTRAINT_CHECK", sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY: "SQLITE_CONSTRAINT_FOREIGNKEY",
	sqlite3.SQLITE_CONSTRAINT_NOTNULL: "SQLITE_CONSTRAINT_NOTNULL", sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: "SQLITE_CONSTRAINT_PRIMARYKEY",
	sqlite3.SQLITE_CONSTRAINT_TRIGGER: "SQLITE_CONSTRAINT_TRIGGER", sqlite3.SQLITE_CONSTRAINT_UNIQUE: "SQLITE_CONSTRAINT_UNIQUE",
	sqlite3.SQLITE_CONSTRAINT_ROWID: "SQLITE_CONSTRAINT_ROWID", sqlite3.SQLITE_CONSTRAINT_DATATYPE: "SQLITE_CONSTRAINT_DATATYPE",
	sqlite3.SQLITE_READONLY_DIRECTORY: "SQLITE_READONLY_DIRECTORY", sqlite3.SQLITE_READONLY_DBMOVED: "SQLITE_READONLY_DBMOVED",
	sqlite3.SQLITE_IOERR_READ: "SQLITE_IOERR_READ", sqlite3.SQLITE_IOERR_WRITE: "SQLITE_IOERR_WRITE", sqlite3.SQLITE_IOERR_FSYNC: "SQLITE_IOERR_FSYNC",
}

func codeName(code int) string {
	if name, ok := codes[code]; ok {
		return name
	}
	if name, ok := codes[code&0xff]; ok {
		return name
	}
	return fmt.Sprintf("SQLITE_%d", code)
}

// databaseError makes a skein.DatabaseError of what the driver says about a
// file. One that is such an error already, and the errors of a context, stay
// what they are.
func databaseError(path string, err error) error {
	if _, ok := errors.AsType[*skein.DatabaseError](err); ok {
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	answer, ok := errors.AsType[*driversqlite.Error](err)
	if !ok {
		// The driver's own words: it wants values for parameters.
		msg := err.Error()
		if strings.HasPrefix(msg, "missing ") && strings.Contains(msg, "argument") {
			return &skein.DatabaseError{
				Class: skein.Permanent, Code: "SQLITE_RANGE", Message: "the statement has a parameter (?, :name, @name or $name), and a migration has no values for one",
				Hint: "if it is meant as text, quote it: '...'",
			}
		}
		return &skein.DatabaseError{Class: skein.Permanent, Message: msg}
	}
	e := &skein.DatabaseError{Class: skein.Permanent, Code: codeName(answer.Code()), Message: message(answer)}
	switch answer.Code() & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		e.Class = skein.Busy
		e.Hint = "somebody else writes to the file: try again, or give a longer lock_timeout"
	case sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_SCHEMA:
		e.Class = skein.Transient
	case sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH:
		e.Class = skein.Denied
	case sqlite3.SQLITE_READONLY:
		e.Class = skein.Denied
		explain(e, path)
	case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR:
		explain(e, path)
	case sqlite3.SQLITE_NOTADB:
		e.Message = path + " is not a SQLite database, or an encrypted one"
	case sqlite3.SQLITE_FULL:
		e.Hint = "make room on the disk that holds " + path
	}
	return e
}

// message is what SQLite says, without the name of the code before it and the
// number after it that the driver adds.
func message(e *driversqlite.Error) string {
	msg := strings.TrimSuffix(e.Error(), " (SQLITE_BUSY)")
	msg = strings.TrimSuffix(msg, fmt.Sprintf(" (%d)", e.Code()))
	for _, prefix := range []string{"SQL logic error: ", "constraint failed: "} {
		msg = strings.TrimPrefix(msg, prefix)
	}
	return msg
}

// explain puts into an error about a file that could not be opened, read or
// written what is the matter with it, as far as can be seen. SQLite itself does
// not say.
func explain(e *skein.DatabaseError, path string) {
	become := func(found *skein.DatabaseError) { e.Class, e.Message, e.Hint = found.Class, found.Message, found.Hint }
	info, err := os.Stat(path)
	switch {
	case err != nil:
		become(fileError(path, err))
		return
	case info.IsDir():
		become(&skein.DatabaseError{Class: skein.Permanent, Message: path + " is a folder, and not a SQLite file"})
		return
	case !info.Mode().IsRegular():
		become(&skein.DatabaseError{Class: skein.Permanent, Message: path + " is not a regular file"})
		return
	}
	if err := tryOpen(path, os.O_RDONLY); err != nil {
		become(fileError(path, err))
	} else if tryOpen(path, os.O_RDWR) != nil {
		become(&skein.DatabaseError{
			Class: skein.Denied, Message: path + " can be read and not written",
			Hint: "it must be writable for the user who migrates, and so must its folder",
		})
	} else if e.Class == skein.Denied || e.Code == codeName(sqlite3.SQLITE_CANTOPEN) {
		// What can be opened by itself lacks the files beside it.
		become(folderError(path))
	}
}

func tryOpen(path string, flag int) error {
	file, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return err
	}
	return file.Close()
}

// folderError is the error of a file beside which no other can be made.
func folderError(path string) *skein.DatabaseError {
	return &skein.DatabaseError{
		Class: skein.Denied, Message: "no file can be made in the folder " + filepath.Dir(path),
		Hint: "SQLite keeps a journal, and Skein its lock, beside the database: make the folder writable for the user who migrates",
	}
}

// fileError is the error of a file that the operating system refused.
func fileError(path string, err error) *skein.DatabaseError {
	e := &skein.DatabaseError{Class: skein.Permanent}
	// The path is said once.
	if inner, ok := errors.AsType[*fs.PathError](err); ok {
		err = inner.Err
	}
	e.Message = path + ": " + err.Error()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.Class, e.Message = skein.NoDatabase, "there is no file "+path
		e.Hint = "a tenant's file is not made by migrating it: skein provision makes a tenant with its file; or make an empty one, or correct the path"
	case errors.Is(err, fs.ErrPermission):
		e.Class, e.Message = skein.Denied, path+" cannot be read: permission denied"
		e.Hint = "it must belong to, or be readable and writable for, the user who migrates"
	}
	return e
}

var near = regexp.MustCompile(`^near "(.+)": syntax error`)

// fail is the error of a step's statement, counted from 0. Where SQLite names
// the word that it did not expect, and the statement has it once, the error has
// the line of that word.
func fail(step skein.Step, i int, err error) error {
	e := stepwise.Fail(step, i, err)
	answer, ok := errors.AsType[*skein.DatabaseError](err)
	if !ok {
		return e
	}
	if found := near.FindStringSubmatch(answer.Message); found != nil {
		text := step.Statements[i].Text
		if before, after, ok := strings.Cut(text, found[1]); ok && !strings.Contains(after, found[1]) {
			e.Line += strings.Count(before, "\n")
		}
	}
	return e
}
