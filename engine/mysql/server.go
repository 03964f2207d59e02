package mysql

import (
	"context"
	"database/sql/driver"
	"fmt"
	"strings"

	"github.com/skeinhq/skein"
)

var (
	_ skein.ServerReporter   = (*session)(nil)
	_ skein.ProcessorCounter = (*session)(nil)
)

// Processors is the size of MariaDB's thread pool, used or not: it is made for
// the processors of the machine, unless someone has set it. MySQL does not say.
func (s *session) Processors(ctx context.Context) (int, error) {
	if !s.wire.mariaDB {
		return 0, nil
	}
	var n int
	err := s.flight(ctx, "SELECT @@GLOBAL.thread_pool_size", func(_ []string, row []driver.Value) {
		if row != nil {
			n = int(number(row[0]))
		}
	})
	if err != nil {
		return 0, fmt.Errorf("ask for the server's processors: %w", err)
	}
	return n, nil
}

// Server tells about the server. Without the right PROCESS the connections that
// are in use are counted all the same: they are a status variable.
func (s *session) Server(ctx context.Context) (skein.ServerInfo, error) {
	values := make(map[string]string)
	err := s.flight(ctx, "SELECT 'version', VERSION() UNION ALL SELECT 'max_connections', @@GLOBAL.max_connections"+
		" UNION ALL SELECT 'read_only', @@GLOBAL.read_only; SHOW GLOBAL STATUS LIKE 'Threads_connected'",
		func(_ []string, row []driver.Value) {
			if row != nil {
				values[text(row[0])] = text(row[1])
			}
		})
	if err != nil {
		return skein.ServerInfo{}, fmt.Errorf("ask about the server: %w", err)
	}
	info := skein.ServerInfo{
		Version:        "MySQL " + values["version"],
		MaxConnections: int(number(values["max_connections"])), Connections: int(number(values["Threads_connected"])),
		ReadOnly: values["read_only"] != "0",
	}
	if version, ok := strings.CutSuffix(values["version"], "-MariaDB"); ok || strings.Contains(version, "MariaDB") {
		info.Version = "MariaDB " + strings.ReplaceAll(version, "-MariaDB", "")
	}
	return info, nil
}
