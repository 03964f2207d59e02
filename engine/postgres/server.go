package postgres

import (
	"context"
	"fmt"
	"strconv"

	"github.com/skeinhq/skein"
)

var _ skein.ServerReporter = (*session)(nil)

// Server tells about the server. The connections kept back for superusers do
// not count.
func (s *session) Server(ctx context.Context) (skein.ServerInfo, error) {
	var m script
	m.add(reading, "SELECT pg_catalog.current_setting('server_version')"+
		", pg_catalog.current_setting('max_connections')::integer - pg_catalog.current_setting('superuser_reserved_connections')::integer"+
		", (SELECT pg_catalog.sum(numbackends) FROM pg_catalog.pg_stat_database)"+
		", pg_catalog.pg_is_in_recovery() OR pg_catalog.current_setting('default_transaction_read_only')::boolean")
	results, err := s.run(ctx, &m)
	if err != nil {
		return skein.ServerInfo{}, fmt.Errorf("ask about the server: %w", s.fail(ctx, err))
	}
	row := results[0].row
	info := skein.ServerInfo{Version: "PostgreSQL " + string(row[0]), ReadOnly: string(row[3]) == "t"}
	for i, to := range []*int{&info.MaxConnections, &info.Connections} {
		if *to, err = strconv.Atoi(string(row[1+i])); err != nil {
			return skein.ServerInfo{}, fmt.Errorf("ask about the server: %w", err)
		}
	}
	return info, nil
}
