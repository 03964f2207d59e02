package mysql

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skeinhq/skein"
)

// Times are written as UTC into datetime columns, which no time zone touches.
const createTable = " (" +
	"id int unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY," +
	"name varchar(255) NOT NULL," +
	"state varchar(16) NOT NULL," +
	"batch int NOT NULL," +
	"checksum char(64) NULL," +
	"done int NOT NULL DEFAULT 0," +
	"total int NOT NULL DEFAULT 0," +
	"fingerprints mediumtext NULL," +
	"started_at datetime(6) NULL," +
	"applied_at datetime(6) NULL," +
	"duration_ms bigint NULL," +
	"applied_by varchar(255) NULL," +
	"tool varchar(64) NULL," +
	"UNIQUE KEY name (name)" +
	") ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;"

// The first columns of the results that a history is read from say which each
// is.
const (
	ownRow   = "skein_name"
	knexRow  = "knex_id"
	knexLock = "knex_locked"
	gotLock  = "skein_got"
)

// historyQuery reads the three tables that there may be, in one flight.
//
// A table that does not exist is an error, and an error ends the rest of a
// flight. Skein's own table comes last, where that does no harm: the error then
// says that the table is not there. Before Knex's two something has to stand.
// Looking into information_schema first and preparing the statement that fits
// works on every server, and is what MySQL gets (it was written from MySQL's
// manual, and tried on MariaDB only). MariaDB knows a block with a handler for
// the error outside of stored routines too. Where Skein's table is the only one
// the first takes 195 µs of a server's time and the second 105, beside 50 for
// the plain select.
func (s *session) historyQuery() string {
	database, knexTable := s.target.Database, s.engine.opts.KnexTable
	own := s.ownQuery()
	knex := "SELECT id AS " + knexRow + ",name,batch,migration_time FROM " + s.name + "." + quoteName(knexTable) + " ORDER BY id"
	locks := s.name + "." + quoteName(knexTable+"_lock")
	locks = "SELECT 1 AS " + knexLock + " FROM " + locks + " WHERE is_locked<>0 OR (SELECT COUNT(*) FROM " + locks + ")>1 LIMIT 1"
	if s.wire.mariaDB && !s.guarded {
		return "BEGIN NOT ATOMIC DECLARE CONTINUE HANDLER FOR 1146 BEGIN END;" + knex + ";" + locks + ";END;" + own
	}
	guard := func(table, query string) string {
		return "IF(EXISTS(SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA=" + quote(database) +
			" AND TABLE_NAME=" + quote(table) + ")," + quote(query) + ",'DO 0')"
	}
	return "SET @skein_knex=" + guard(knexTable, knex) + ",@skein_lock=" + guard(knexTable+"_lock", locks) + ";" +
		"PREPARE skein FROM @skein_knex;EXECUTE skein;PREPARE skein FROM @skein_lock;EXECUTE skein;DEALLOCATE PREPARE skein;" + own
}

// ownQuery reads Skein's own table.
func (s *session) ownQuery() string {
	return "SELECT name AS " + ownRow + ",state,batch,checksum,done,total,started_at,applied_at,duration_ms,applied_by,tool,fingerprints FROM " + s.table + " ORDER BY id"
}

// A reading collects what a history's flight answers.
type reading struct {
	own      []skein.Record
	knex     []skein.KnexRow
	locked   bool
	recorded bool  // the history table exists
	got      int64 // what GET_LOCK answered
}

func (r *reading) answer(columns []string, row []driver.Value) {
	switch columns[0] {
	case gotLock:
		if row != nil {
			r.got = number(row[0])
		}
	case ownRow:
		r.recorded = true
		if row != nil {
			r.own = append(r.own, ownRecord(row))
		}
	case knexRow:
		// Knex takes a row without a name for nothing it knows.
		if row != nil && row[1] != nil {
			r.knex = append(r.knex, skein.KnexRow{
				ID: number(row[0]), Name: text(row[1]), Batch: int(number(row[2])),
				// Knex's driver writes its own local time.
				Time: parseTime(text(row[3]), time.Local),
			})
		}
	case knexLock:
		r.locked = r.locked || row != nil
	}
}

func ownRecord(row []driver.Value) skein.Record {
	r := skein.Record{
		Name: text(row[0]), State: skein.RecordState(text(row[1])), Batch: int(number(row[2])),
		Checksum: text(row[3]), Done: int(number(row[4])), Total: int(number(row[5])),
		AppliedAt: parseTime(text(row[7]), time.UTC), Duration: time.Duration(number(row[8])) * time.Millisecond,
		By: text(row[9]), Tool: text(row[10]), Fingerprints: text(row[11]),
	}
	if r.Partial() || row[7] == nil {
		r.AppliedAt = parseTime(text(row[6]), time.UTC)
	}
	return r
}

// parseTime reads a date and time as the server writes them. What is none is
// the zero time: a column can hold 0000-00-00.
func parseTime(text string, zone *time.Location) time.Time {
	t, err := time.ParseInLocation("2006-01-02 15:04:05.999999", text, zone)
	if err != nil {
		return time.Time{}
	}
	return t
}

// timestamp is a time as SQL.
func timestamp(t time.Time) string {
	if t.IsZero() {
		return "NULL"
	}
	return "'" + t.UTC().Format("2006-01-02 15:04:05.000000") + "'"
}

// History reads what has run in the tenant. Times in Knex's table are taken to
// be local ones: Knex writes those of its own process, and not the zone.
func (s *session) History(ctx context.Context) (skein.History, error) {
	r, err := s.history(ctx, "")
	if err != nil {
		return skein.History{}, fmt.Errorf("read history: %w", err)
	}
	return r.history(), nil
}

func (r *reading) history() skein.History {
	return skein.NewHistory(r.own, r.knex, r.locked)
}

// history sends what comes before, which may take the lock, and the query for
// the history.
func (s *session) history(ctx context.Context, before string) (*reading, error) {
	var r reading
	err := s.flight(ctx, s.use()+before+s.historyQuery(), r.answer)
	if answer, ok := errors.AsType[*skein.DatabaseError](err); ok {
		switch {
		case answer.Code == strconv.Itoa(errNoTable):
			err = nil // Skein's own: the others are guarded
		case answer.Code == strconv.Itoa(errNoColumn):
			return nil, s.foreignTable(ctx, answer)
		case answer.Code == strconv.Itoa(errSyntax) && s.wire.mariaDB && !s.guarded:
			// sql_mode=ORACLE has other blocks, and what claims to be MariaDB
			// may be something else.
			s.guarded = true
			if before != "" {
				// What comes before has run already, and locks are counted.
				before = "DO RELEASE_LOCK(" + s.lockName() + ");" + before
			}
			return s.history(ctx, before)
		}
	}
	if err != nil {
		return nil, err
	}
	s.database, s.recorded = s.target.Database, r.recorded
	return &r, nil
}

// foreignTable is the error of a table that has the name of one that is read
// and lacks a column, which is all that the server says of it.
func (s *session) foreignTable(ctx context.Context, answer *skein.DatabaseError) error {
	table, whose := skein.HistoryTable, "Skein's"
	hint := "if it is another program's, rename it: Skein keeps its history under this name"
	again := s.flight(ctx, s.ownQuery(), func([]string, []driver.Value) {})
	if e, ok := errors.AsType[*skein.DatabaseError](again); !ok || e.Code != answer.Code {
		table, whose = s.engine.opts.KnexTable, "Knex's"
		if strings.Contains(answer.Message, "'is_locked'") {
			table += "_lock"
		}
		hint = "migrations.table in skein.yaml is the name of Knex's table"
	}
	return &skein.DatabaseError{
		Class: skein.Permanent, Code: answer.Code, Hint: hint,
		Message: fmt.Sprintf("the table %s is there and is not %s: %s", table, whose, answer.Message),
	}
}

// create is what a flight begins with that writes into the history.
func (s *session) create() string {
	if s.recorded {
		return ""
	}
	return "CREATE TABLE IF NOT EXISTS " + s.table + createTable
}

// recordsAFlight bounds how much is sent at once.
const recordsAFlight = 500

// Record writes records as they are, in one transaction.
func (s *session) Record(ctx context.Context, records []skein.Record) error {
	if len(records) == 0 {
		return nil
	}
	before := s.create() + "START TRANSACTION;"
	for chunk := range slices.Chunk(records, recordsAFlight) {
		if err := s.flight(ctx, before+s.insert(chunk), nil); err != nil {
			return fmt.Errorf("record migrations: %w", s.rollback(ctx, err))
		}
		before = ""
	}
	if err := s.flight(ctx, "COMMIT", nil); err != nil {
		return fmt.Errorf("record migrations: %w", err)
	}
	s.recorded = true
	return nil
}

// Erase takes records out, in one statement.
func (s *session) Erase(ctx context.Context, names []string) error {
	if len(names) == 0 || !s.recorded {
		return nil
	}
	if err := s.flight(ctx, s.use()+"DELETE FROM "+s.table+" WHERE name IN ("+quoteAll(names)+")", nil); err != nil {
		return fmt.Errorf("erase records: %w", err)
	}
	return nil
}

// insert writes records, or puts them in the place of those with their names.
func (s *session) insert(records []skein.Record) string {
	var b strings.Builder
	b.WriteString("INSERT INTO " + s.table + " (name,state,batch,checksum,done,total,started_at,applied_at,duration_ms,applied_by,tool,fingerprints) VALUES ")
	for i, r := range records {
		if i > 0 {
			b.WriteString(",")
		}
		started, applied := r.AppliedAt.Add(-r.Duration), r.AppliedAt
		if r.Partial() || r.AppliedAt.IsZero() {
			started, applied = r.AppliedAt, time.Time{}
		}
		by, tool := truncate(r.By, 255), truncate(r.Tool, 64)
		if by == "" {
			by = s.engine.opts.By
		}
		if tool == "" {
			tool = s.engine.opts.Tool
		}
		fmt.Fprintf(&b, "(%s,%s,%d,NULLIF(%s,''),%d,%d,%s,%s,%d,NULLIF(%s,''),NULLIF(%s,''),NULLIF(%s,''))",
			quote(r.Name), quote(string(r.State)), r.Batch, quote(r.Checksum), r.Done, r.Total,
			timestamp(started), timestamp(applied), r.Duration.Milliseconds(), quote(by), quote(tool), quote(r.Fingerprints))
	}
	b.WriteString(replaceRecord)
	return b.String()
}

// replaceRecord is the end of an INSERT that takes the place of what there was
// about its migration.
const replaceRecord = " ON DUPLICATE KEY UPDATE state=VALUES(state),batch=VALUES(batch),checksum=VALUES(checksum),done=VALUES(done),total=VALUES(total)," +
	"started_at=VALUES(started_at),applied_at=VALUES(applied_at),duration_ms=VALUES(duration_ms),applied_by=VALUES(applied_by),tool=VALUES(tool)," +
	"fingerprints=VALUES(fingerprints)"

// rollback ends a transaction after err, and returns err. If it cannot be
// ended here it ends with the session.
func (s *session) rollback(ctx context.Context, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	_ = s.flight(ctx, "ROLLBACK", nil)
	return err
}
