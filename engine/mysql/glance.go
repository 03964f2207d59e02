package mysql

import (
	"context"
	"database/sql/driver"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skeinhq/skein"
)

var _ skein.Glancer = (*Engine)(nil)

// Vantage is the server's own address, or any tenant's session for those with
// the same server, user and password.
func (e *Engine) Vantage(target skein.Target, server *skein.Target) (skein.Target, string) {
	if server != nil {
		return *server, target.Server()
	}
	return target, e.SessionKey(target)
}

// Glance reads the histories themselves: which tables there are in a first
// flight, and then what is in them.
func (e *Engine) Glance(ctx context.Context, on skein.Session, targets []skein.Target) ([]skein.Glimpse, error) {
	s := on.(*session)
	knexTable := s.engine.opts.KnexTable
	lockTable := knexTable + "_lock"
	// Names may differ in their collation from table to table.
	const name, none = "CONVERT(name USING utf8mb4) COLLATE utf8mb4_bin", "CONVERT(NULL USING utf8mb4) COLLATE utf8mb4_bin"
	columns := map[string]string{
		skein.HistoryTable: "0,id," + name + ",state,batch,checksum,CAST(applied_at AS char)",
		knexTable:          "1,id," + name + "," + none + ",batch," + none + ",CAST(migration_time AS char)",
		lockTable:          "2,0," + none + "," + none + ",is_locked," + none + "," + none,
	}
	var databases []string
	at := make(map[string]int, len(targets))
	for _, t := range targets {
		if _, ok := at[t.Database]; !ok {
			at[t.Database] = len(databases)
			databases = append(databases, quote(t.Database))
		}
	}
	var query []string
	histories := make([]*skein.History, len(databases))
	odd := make([]bool, len(databases))
	// A database without any of the tables may as well not exist: only whoever
	// connects learns that.
	err := s.flight(ctx, "SELECT TABLE_SCHEMA,TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA IN ("+strings.Join(databases, ",")+
		") AND TABLE_NAME IN ("+quote(skein.HistoryTable)+","+quote(knexTable)+","+quote(lockTable)+")", func(_ []string, row []driver.Value) {
		if row == nil {
			return
		}
		database, table := text(row[0]), text(row[1])
		i, ok := at[database]
		if ok && columns[table] == "" {
			// A name in other letters may be the same table's to the server, or
			// another's: whoever connects learns which.
			odd[i] = true
		} else if ok {
			histories[i] = &skein.History{}
			query = append(query, fmt.Sprintf("SELECT %d,%s FROM %s.%s", i, columns[table], quoteName(database), quoteName(table)))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("look for histories: %w", err)
	}
	glimpses := make([]skein.Glimpse, len(targets))
	if len(query) == 0 {
		return glimpses, nil
	}
	found := make([]reading, len(databases))
	locks := make([]int, len(databases))
	read := func(_ []string, row []driver.Value) {
		if row == nil {
			return
		}
		i, batch := number(row[0]), int(number(row[5]))
		r := &found[i]
		switch number(row[1]) {
		case 0:
			r.own = append(r.own, skein.Record{
				Name: text(row[3]), State: skein.RecordState(text(row[4])), Batch: batch, Checksum: text(row[6]), AppliedAt: parseTime(text(row[7]), time.UTC),
			})
		case 1:
			if row[3] != nil { // Knex takes a row without a name for nothing it knows
				r.knex = append(r.knex, skein.KnexRow{ID: number(row[2]), Name: text(row[3]), Batch: batch, Time: parseTime(text(row[7]), time.Local)})
			}
		case 2:
			locks[i]++
			r.locked = r.locked || batch != 0 || locks[i] > 1
		}
	}
	const atOnce = 100 // tables that a statement names are open while it runs
	for some := range slices.Chunk(query, atOnce) {
		if err := s.flight(ctx, strings.Join(some, " UNION ALL ")+" ORDER BY 1,2,3", read); err != nil {
			return nil, fmt.Errorf("read histories: %w", err)
		}
	}
	for i, h := range histories {
		if odd[i] {
			histories[i] = nil
		} else if h != nil {
			*h = found[i].history()
		}
	}
	for i, t := range targets {
		glimpses[i].History = histories[at[t.Database]]
	}
	return glimpses, nil
}
