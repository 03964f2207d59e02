package sqlite

import (
	"context"
	"database/sql/driver"
	"fmt"

	"github.com/skeinhq/skein"
)

var _ skein.ServerReporter = (*session)(nil)

// Server tells which SQLite this program has in it.
func (s *session) Server(ctx context.Context) (skein.ServerInfo, error) {
	info := skein.ServerInfo{}
	err := s.query(ctx, "SELECT sqlite_version()", 1, func(row []driver.Value) error {
		info.Version = fmt.Sprint("SQLite ", row[0])
		return nil
	})
	return info, err
}
