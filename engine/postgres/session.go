package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/skeinhq/skein"
)

type session struct {
	engine *Engine
	target skein.Target
	conn   *pgconn.PgConn

	// What must be set right before something of the tenant's runs: the search
	// path, and whatever a migration may have changed.
	needsPath, needsReset bool

	// backend is the number of the server's process that is this session.
	backend string
	// pooled says that there is a pooler before the server, and needsSettings
	// that what it did not take with the login is still to be set.
	pooled, needsSettings bool
	// bare says that the login went without the session's settings.
	bare bool

	// locked is set while the session has the tenant's lock; state is what was
	// read under it, and what the session has changed since.
	locked bool
	state  tenantState
	// owes says that Skein's table was made while the session has had the lock, so
	// that there was no fingerprint to be written with it.
	owes bool
	// released says that the lock was given back with the last step, and Unlock
	// has nothing left to do.
	released bool
}

var (
	_ skein.Session         = (*session)(nil)
	_ skein.TogetherApplier = (*session)(nil)
	_ skein.KnexRecorder    = (*session)(nil)
	_ skein.LockKeeper      = (*session)(nil)
	_ skein.Terminator      = (*session)(nil)
)

// A script is one message of several statements that knows what each of them is
// for.
type script struct {
	text  strings.Builder
	spans []span
	step  int // the number of the step that statements are added for, from 0
	// makes says that Skein's table is made, and made is then the number of the
	// statement that reads its oid, 0 if there is none.
	makes bool
	made  int
}

// A span is a statement's place in a script, in bytes.
type span struct {
	from, to int
	step     int
	part     part
}

// A part is what a statement of a script is for: the number of one of its
// step's statements, counted from 0, or one of Skein's own.
type part int

const (
	setup  part = -1 - iota // the session's settings and BEGIN
	create                  // Skein's table
	record                  // the history row
	commit
	reading
)

func (m *script) add(p part, statements ...string) {
	for _, sql := range statements {
		from := m.text.Len()
		m.text.WriteString(sql)
		m.spans = append(m.spans, span{from, m.text.Len(), m.step, p})
		m.text.WriteString(";\n")
	}
}

// A result is how a statement of a script ended: its command tag, and the first
// row that it returned.
type result struct {
	tag string
	row [][]byte
}

// run sends a script and waits for its end. The results are those of the
// statements that ended before the error, which is the driver's.
func (s *session) run(ctx context.Context, m *script) ([]result, error) {
	var results []result
	answers := s.conn.Exec(ctx, m.text.String())
	for answers.NextResult() {
		var r result
		rows := answers.ResultReader()
		if rows.NextRow() {
			for _, value := range rows.Values() {
				r.row = append(r.row, bytes.Clone(value))
			}
			for rows.NextRow() {
			}
		}
		tag, err := rows.Close()
		if err != nil {
			break // Close of all answers returns it
		}
		r.tag = tag.String()
		results = append(results, r)
	}
	return results, answers.Close()
}

// The statements that undo what a migration may have changed in its session, so
// that migrations applied in one run see what they would see in several. It is
// what DISCARD ALL does, which cannot share a message with other statements,
// but for advisory locks: the tenant's is one.
var resetSession = []string{
	"RESET SESSION AUTHORIZATION", "RESET ROLE", "RESET ALL",
	"CLOSE ALL", "UNLISTEN *", "DEALLOCATE ALL", "DISCARD TEMP", "DISCARD SEQUENCES",
}

// prepare adds what brings the session into the state in which the tenant's
// migrations are to find it. Once it has run, prepared is to be called.
func (s *session) prepare(m *script) {
	if s.needsReset {
		m.add(setup, resetSession...)
		if !s.locked {
			m.add(setup, "SELECT pg_catalog.pg_advisory_unlock_all()")
		}
	}
	if s.pooled && (s.needsSettings || s.needsReset) {
		s.applySettings(m, false)
	}
	if s.target.Schema != "" && (s.needsPath || s.needsReset) {
		m.add(setup, "SET search_path TO "+s.searchPath())
	}
}

func (s *session) prepared() { s.needsPath, s.needsReset, s.needsSettings = false, false, false }

// searchPath is that of a target with a schema.
func (s *session) searchPath() string {
	path := quoteIdent(s.target.Schema)
	rest, ok := s.target.Options["search_path"]
	if !ok {
		rest = "public"
	}
	if strings.TrimSpace(rest) != "" {
		path += ", " + rest
	}
	return path
}

// History reads what has run in the tenant.
func (s *session) History(ctx context.Context) (skein.History, error) {
	state, err := s.read(ctx)
	if err != nil {
		return skein.History{}, err
	}
	if s.locked {
		// Another session, of Knex, has changed what there is.
		s.state.own, s.state.lastID = state.own, state.lastID
		s.state.knex, s.state.knexLocked, s.state.kept = state.knex, state.knexLocked, state.kept
	}
	return state.history(), nil
}

func (s *session) read(ctx context.Context) (tenantState, error) {
	var m script
	// The query names all that it reads by its schema: a session that only looks
	// at one schema after the other has nothing to set.
	resets := s.needsReset
	if resets {
		s.prepare(&m)
	} else if s.bare && !s.pooled {
		// It may be on a connection that others use after it.
		s.applySettings(&m, true)
	}
	at := len(m.spans)
	m.add(reading, historyQuery(schemaExpr(s.target), s.engine.opts.KnexTable))
	if s.locked {
		m.add(reading, s.keptQuery())
	}
	results, err := s.run(ctx, &m)
	if err != nil {
		return tenantState{}, s.readError(ctx, err)
	}
	if resets {
		s.prepared()
	}
	state, err := s.readState(results[at].row)
	if s.locked && err == nil {
		state.kept = readKept(results[at+1].row)
	}
	return state, err
}

// readState reads the answer to historyQuery.
func (s *session) readState(row [][]byte) (tenantState, error) {
	state, err := readState(row, s.engine.opts.KnexTable)
	switch {
	case err != nil:
		return tenantState{}, fmt.Errorf("read history: %w", err)
	case state.schemaOID == "" && s.target.Schema != "":
		return tenantState{}, &skein.DatabaseError{
			Class: skein.NoDatabase, Code: "3F000",
			Message: fmt.Sprintf("schema %s does not exist in database %s", quoteIdent(s.target.Schema), quoteIdent(s.target.Database)),
		}
	case state.schemaOID == "":
		return tenantState{}, &skein.DatabaseError{
			Class: skein.NoDatabase, Code: "3F000",
			Message: fmt.Sprintf("database %s has none of the schemas in the search path of role %s", quoteIdent(s.target.Database), quoteIdent(s.target.User)),
		}
	}
	return state, nil
}

func (s *session) readError(ctx context.Context, err error) error {
	if answer, ok := errors.AsType[*pgconn.PgError](err); ok && answer.Code == "42703" { // undefined_column
		table := skein.HistoryTable
		if !strings.Contains(answer.InternalQuery, quoteIdent(table)) {
			table = s.engine.opts.KnexTable
			if strings.Contains(answer.InternalQuery, quoteIdent(knexLock(table))) {
				table = knexLock(table)
			}
		}
		return fmt.Errorf("read history: %w", foreignTable(table, answer.Message))
	}
	schema, role := s.target.Schema, quoteIdent(s.target.User)
	if schema == "" {
		schema = "public"
	}
	schema = quoteIdent(schema)
	return fmt.Errorf("read history: %w", withHint(s.fail(ctx, err),
		fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s; GRANT SELECT ON ALL TABLES IN SCHEMA %s TO %s", schema, role, schema, role)))
}

// table is Skein's table as SQL.
func (s *session) table() string { return s.state.schema + "." + skein.HistoryTable }

// Record writes records under the lock.
func (s *session) Record(ctx context.Context, records []skein.Record) error {
	if len(records) == 0 {
		return nil
	}
	if !s.locked {
		return errNotLocked
	}
	var m script
	m.add(setup, "BEGIN")
	s.prepare(&m)
	s.createHistory(&m)
	after := s.state.with(records...)
	m.add(record, upsertRecords(s.table(), s.state.lastID, s.engine.opts, records))
	s.keepFingerprint(&m, &after)
	m.add(commit, "COMMIT")
	if results, err := s.commit(ctx, &m, after); err != nil {
		return s.ownError(ctx, &m, results, err)
	}
	return nil
}

// Erase takes records out under the lock.
func (s *session) Erase(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	if !s.locked {
		return errNotLocked
	}
	var m script
	m.add(setup, "BEGIN")
	s.prepare(&m)
	s.createHistory(&m)
	after := s.state.without(names...)
	m.add(record, "DELETE FROM "+s.table()+" WHERE name IN ("+literals(names)+")")
	s.keepFingerprint(&m, &after)
	m.add(commit, "COMMIT")
	if results, err := s.commit(ctx, &m, after); err != nil {
		return s.ownError(ctx, &m, results, err)
	}
	return nil
}

// createHistory adds Skein's table if the tenant does not have it. It is called
// before it is worked out what the tenant's state will be.
func (s *session) createHistory(m *script) {
	if s.state.hasHistory {
		return
	}
	m.add(create, createHistory(s.table()))
	m.makes = true
	s.state.kept.table = "" // it is not known before the script has run
}

var errNotLocked = errors.New("the session does not have the tenant's lock")

// errRolledBack is the error of a transaction that was aborted although none of
// its statements failed: its COMMIT is answered with ROLLBACK.
var errRolledBack = errors.New("the server rolled the transaction back instead of committing it")

// transact sends a script that begins and commits one transaction. If it fails
// the transaction is rolled back, and the error is the driver's or
// errRolledBack.
func (s *session) transact(ctx context.Context, m *script) ([]result, error) {
	results, err := s.run(ctx, m)
	// A connection that ends right after the answer to COMMIT ends too late to
	// matter. One that ends before it leaves open what came of the transaction.
	if n := len(results); n > 0 && results[n-1].tag == "COMMIT" {
		s.prepared()
		return results, nil
	}
	if err == nil {
		return results, errRolledBack
	}
	s.rollBack(ctx)
	return results, err
}

// commit is transact for a script that changes the tenant's state.
func (s *session) commit(ctx context.Context, m *script, after tenantState) ([]result, error) {
	results, err := s.transact(ctx, m)
	if err != nil {
		return results, err
	}
	s.changed(m, results, after)
	return results, nil
}

// changed notes the state that a script has brought the tenant to.
func (s *session) changed(m *script, results []result, after tenantState) {
	s.state = after
	if m.made > 0 && len(results[m.made].row) == 1 {
		s.state.kept.table, s.owes = string(results[m.made].row[0]), true
	}
}

// rollBack ends a transaction that was left open. A session whose context ended
// is not used any more: closing it does the same.
func (s *session) rollBack(ctx context.Context) {
	if s.conn.IsClosed() || s.conn.TxStatus() == 'I' || ctx.Err() != nil {
		return
	}
	var m script
	m.add(setup, "ROLLBACK")
	// If this does not work the next call of the session says so.
	_, _ = s.run(ctx, &m)
}

// ownError is the error of a script that failed in a statement of Skein's own.
func (s *session) ownError(ctx context.Context, m *script, results []result, err error) error {
	doing, hint := "set up the session", ""
	role := quoteIdent(s.target.User)
	switch at, _ := s.locate(m, len(results), err); at.part {
	case create:
		doing, hint = "create "+skein.HistoryTable, fmt.Sprintf("GRANT CREATE, USAGE ON SCHEMA %s TO %s", s.state.schema, role)
	case record:
		doing, hint = "write history", fmt.Sprintf("GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %s", s.table(), role)
	case commit:
		doing = "commit"
	}
	if errors.Is(err, errRolledBack) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, withHint(s.fail(ctx, err), hint))
}

// Switch points the session at another schema of its database.
func (s *session) Switch(target skein.Target) bool {
	key := s.engine.SessionKey(s.target)
	if key == "" || s.engine.SessionKey(target) != key || s.locked || s.conn.IsClosed() || s.conn.TxStatus() != 'I' {
		return false
	}
	s.target, s.state = target, tenantState{}
	s.needsPath = true
	return true
}

// Close ends the session and with it its lock.
func (s *session) Close() error {
	s.locked = false
	return closeConn(s.conn)
}

// lockClass is the first of the two numbers of Skein's advisory locks, the ASCII
// codes of "SKEI"; the second is the oid of the schema that is locked.
// Advisory locks belong to a database, so together they name a tenant, and
// pg_locks shows them as classid and objid.
const lockClass = 'S'<<24 | 'K'<<16 | 'E'<<8 | 'I'

// The pauses between two attempts to take the lock. To wait in the server
// instead would keep a snapshot open all the while, and CREATE INDEX
// CONCURRENTLY in the lock's holder waits for old snapshots: a deadlock.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = time.Second
)

// Lock takes the tenant's lock and reads its history.
func (s *session) Lock(ctx context.Context, wait time.Duration) (skein.History, error) {
	if s.locked {
		return skein.History{}, errors.New("the session has the tenant's lock already")
	}
	start := time.Now()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		got, err := s.tryLock(ctx)
		if errors.Is(err, errPooled) && !s.pooled {
			if err = s.passPooler(ctx); err == nil {
				got, err = s.tryLock(ctx)
			}
		}
		if errors.Is(err, errPooled) {
			err = s.refusePooler("transactions")
		}
		if err != nil {
			return skein.History{}, err
		}
		if got {
			return s.state.history(), nil
		}
		waited := time.Since(start)
		if waited >= wait {
			return skein.History{}, s.lockedError(ctx, waited)
		}
		timer := time.NewTimer(min(pause, wait-waited))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return skein.History{}, fmt.Errorf("wait for the tenant's lock: %w", ctx.Err())
		}
	}
}

func (s *session) tryLock(ctx context.Context) (bool, error) {
	var m script
	// A message is one transaction: at an isolation level of the role's that
	// takes one snapshot for all of it, the history would be what it was before
	// the lock was taken.
	m.add(setup, "BEGIN ISOLATION LEVEL READ COMMITTED", s.guard())
	s.prepare(&m)
	m.add(setup, s.watchClient()...)
	at := len(m.spans)
	m.add(reading,
		"SELECT pg_catalog.pg_try_advisory_lock("+s.lockKey()+")",
		historyQuery(schemaExpr(s.target), s.engine.opts.KnexTable))
	m.add(reading, s.keptQuery())
	m.add(commit, "COMMIT")
	results, err := s.run(ctx, &m)
	got := len(results) > at && string(results[at].row[0]) == "t"
	if err == nil {
		s.prepared()
		s.state, err = s.readState(results[at+1].row)
		s.state.kept, s.owes = readKept(results[at+2].row), false
	} else {
		s.rollBack(ctx)
		switch {
		case guardFailed(err):
			return false, errPooled
		case lendsStatements(err):
			return false, s.refusePooler("statements")
		}
		err = s.readError(ctx, err)
	}
	if err != nil {
		if got && !s.conn.IsClosed() && ctx.Err() == nil {
			return false, errors.Join(err, s.release(ctx, s.lockKey()))
		}
		return false, err
	}
	s.locked, s.released = got, false
	return got, nil
}

// lockKey is SQL for the two numbers of the tenant's lock. The oid is null where
// there is no schema, and a lock on null is never taken.
func (s *session) lockKey() string {
	return strconv.Itoa(lockClass) + ", " + schemaExpr(s.target) + "::oid::integer"
}

// lockedKey is lockKey of the lock that the session has. It is the oid that was
// locked: a migration may have changed the search path, and with it which schema
// is the first.
func (s *session) lockedKey() string {
	return strconv.Itoa(lockClass) + ", " + s.state.schemaOID + "::oid::integer"
}

// watchClient makes the server see soon that this process, or its machine, is
// gone, so that the lock of a dead one does not stay while a statement of its
// runs on.
func (s *session) watchClient() []string {
	settings := []string{"SET tcp_keepalives_idle TO 20", "SET tcp_keepalives_interval TO 5", "SET tcp_keepalives_count TO 4"}
	if s.version() >= 14 {
		// It is an error where the operating system cannot tell.
		settings = append(settings, "SELECT pg_catalog.set_config('client_connection_check_interval', '2s', false) WHERE pg_catalog.version() LIKE '%linux%'")
	}
	return settings
}

// version is the server's major version, 0 if it does not say.
func (s *session) version() int { return majorVersion(s.conn) }

func majorVersion(conn *pgconn.PgConn) int {
	major, _, _ := strings.Cut(conn.ParameterStatus("server_version"), ".")
	// A development version is called 18devel, 18beta1.
	if end := strings.IndexFunc(major, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		major = major[:end]
	}
	n, _ := strconv.Atoi(major)
	return n
}

// Unlock gives the lock back.
func (s *session) Unlock(ctx context.Context) error {
	if s.released {
		s.released = false
		return nil
	}
	if !s.locked {
		return errNotLocked
	}
	s.locked = false
	key := s.lockedKey()
	if s.owes && s.conn.TxStatus() == 'I' {
		s.owes = false
		var m script
		m.add(setup, "BEGIN")
		before, after := len(m.spans), s.state
		if s.keepFingerprint(&m, &after); len(m.spans) > before {
			m.add(commit, "COMMIT")
			if err := s.releaseAfter(ctx, &m, key); err == nil || s.conn.IsClosed() || ctx.Err() != nil {
				return err
			}
			// What is done is done, and the next run writes the fingerprint.
			s.rollBack(ctx)
		}
	}
	return s.release(ctx, key)
}

func (s *session) release(ctx context.Context, key string) error {
	return s.releaseAfter(ctx, &script{}, key)
}

// releaseAfter gives the lock back when a script has run.
func (s *session) releaseAfter(ctx context.Context, m *script, key string) error {
	at := len(m.spans)
	m.add(setup, unlockQuery(key))
	results, err := s.run(ctx, m)
	if err != nil {
		return fmt.Errorf("give the lock back: %w", s.fail(ctx, err))
	}
	if string(results[at].row[0]) != "t" {
		return errors.New("give the lock back: the session had lost it: a migration must not call pg_advisory_unlock_all")
	}
	return nil
}

// unlockQuery is SQL that gives a lock back, and says whether the session had it.
func unlockQuery(key string) string { return "SELECT pg_catalog.pg_advisory_unlock(" + key + ")" }

func (s *session) lockedError(ctx context.Context, waited time.Duration) error {
	locked := &skein.LockedError{Waited: waited}
	holder, err := s.Holder(ctx)
	if err != nil {
		return err
	}
	if holder != nil {
		locked.Holder = holder.String()
	}
	return locked
}
