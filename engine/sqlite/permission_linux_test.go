package sqlite_test

import (
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/dbtest"
)

// asOrdinaryUser runs f with an ordinary user's rights to files, also where the
// tests run as root, for whom permissions do not count. f stays on its thread.
func asOrdinaryUser(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		f()
		return
	}
	const nobody = 65534
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, call := range []struct{ number, id uintptr }{{syscall.SYS_SETFSGID, nobody}, {syscall.SYS_SETFSUID, nobody}} {
		_, _, _ = syscall.RawSyscall(call.number, call.id, 0, 0)
	}
	defer func() {
		for _, call := range []uintptr{syscall.SYS_SETFSUID, syscall.SYS_SETFSGID} {
			_, _, _ = syscall.RawSyscall(call, 0, 0, 0)
		}
	}()
	f()
}

func TestPermissions(t *testing.T) {
	for name, test := range map[string]struct {
		file, folder os.FileMode
		class        skein.Class
		words        string
	}{
		"writable":         {0o666, 0o777, "", ""},
		"not readable":     {0o000, 0o777, skein.Denied, "cannot be read"},
		"read-only file":   {0o444, 0o777, skein.Denied, "can be read and not written"},
		"read-only folder": {0o666, 0o555, skein.Denied, "no file can be made in the folder"},
		"closed folder":    {0o666, 0o000, skein.Denied, "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			// The folders of t.TempDir are closed to others.
			top, err := os.MkdirTemp("", dbtest.UniqueName())
			if err != nil {
				t.Fatal(err)
			}
			folder := filepath.Join(top, "folder")
			db := target(filepath.Join(folder, "tenant.db"))
			t.Cleanup(func() {
				_ = os.Chmod(folder, 0o700)
				_ = os.RemoveAll(top)
			})
			if err := os.Mkdir(folder, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(db.Database, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			exec(t, db, "CREATE TABLE one (id integer)")
			for _, path := range []struct {
				name string
				mode os.FileMode
			}{{db.Database, test.file}, {folder, test.folder}, {top, 0o755}} {
				if err := os.Chmod(path.name, path.mode); err != nil {
					t.Fatal(err)
				}
			}
			asOrdinaryUser(t, func() { err = migrate(t, db.Database) })
			if test.class == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantAnswer(t, err, test.class, test.words)
		})
	}
}
