//go:build unix

package source_test

import (
	"path/filepath"
	"syscall"
	"testing"

	"github.com/skeinhq/skein/source"
)

func TestPipe(t *testing.T) {
	dir := write(t, map[string]string{"1_a.sql": up})
	if err := syscall.Mkfifo(filepath.Join(dir, "2_pipe.sql"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := source.Load([]string{dir}, nil)
	wantError(t, err, filepath.Join(dir, "2_pipe.sql"), 0, "not a regular file")
}
