package enginetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
)

// What a Glancer tells of a target is what a session there would read, or
// nothing. It may lack what came about behind Skein, but never a change of its
// own, wherever that was cut off.

// glancer is the engine as one, nil if it is none.
func (s *suite) glancer(t *testing.T) skein.Glancer {
	t.Helper()
	glancer, ok := s.engine().(skein.Glancer)
	if ok != (s.Together != nil) {
		t.Fatalf("the engine is a skein.Glancer: %t; there are targets that can be looked at together: %t", ok, s.Together != nil)
	}
	return glancer
}

// glance looks at targets from the first of them, or from their server's own
// address.
func (s *suite) glance(t *testing.T, server *skein.Target, targets []skein.Target) []skein.Glimpse {
	t.Helper()
	e := s.engine()
	glancer := e.(skein.Glancer)
	from, key := glancer.Vantage(targets[0], server)
	for _, target := range targets {
		if _, k := glancer.Vantage(target, server); k != key || k == "" {
			t.Fatalf("the keys of %s and %s are %q and %q", targets[0], target, key, k)
		}
	}
	session := s.open(t, e, from)
	defer func() { _ = session.Close() }()
	glimpses, err := glancer.Glance(t.Context(), session, targets)
	if err != nil {
		t.Fatalf("look at %d targets: %v", len(targets), err)
	}
	if len(glimpses) != len(targets) {
		t.Fatalf("%d glimpses of %d targets", len(glimpses), len(targets))
	}
	return glimpses
}

// wantTold wants a glimpse of a target to be what its history says. A kept
// fingerprint may be missing if that is said, but not another one.
func (s *suite) wantTold(t *testing.T, when string, target skein.Target, g skein.Glimpse, missing bool) {
	t.Helper()
	h := s.history(t, target)
	if g.History == nil {
		want := h.Fingerprint()
		switch {
		case g.Fingerprint == want && g.Wanting == (want == ""):
		case g.Fingerprint == "" && missing:
		case g.Fingerprint == "" && !g.Wanting && len(h.Records) == 0 && !s.keeps(t, target):
			// A target without a table may as well not exist.
		default:
			t.Errorf("%s: the fingerprint that is told is %q (wanting: %t), and that of the history %q", when, g.Fingerprint, g.Wanting, want)
		}
		return
	}
	type record struct {
		Name     string
		State    skein.RecordState
		Batch    int
		Checksum string
		InKnex   bool
	}
	type told struct {
		Records, Open []record
		KnexLocked    bool
		Fingerprint   string
	}
	brief := func(records []skein.Record) (all []record) {
		for _, r := range records {
			all = append(all, record{r.Name, r.State, r.Batch, r.Checksum, r.InKnex})
		}
		return all
	}
	tell := func(h skein.History) told {
		return told{brief(h.Records), brief(h.KnexOpen), h.KnexLocked, h.Fingerprint()}
	}
	if h.Fingerprint() == "" && g.History.Fingerprint() == "" {
		return // something is open, and that is all that is to be told
	}
	if diff := cmp.Diff(tell(h), tell(*g.History)); diff != "" {
		t.Errorf("%s: what is told is not what the history says (-history +told):\n%s", when, diff)
	}
}

// keeps says whether fingerprints are kept of targets like this one.
func (s *suite) keeps(t *testing.T, target skein.Target) bool {
	t.Helper()
	session := s.open(t, s.engine(), target)
	defer func() { _ = session.Close() }()
	keeper, ok := session.(skein.FingerprintKeeper)
	if !ok {
		return false
	}
	kept, err := keeper.Kept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return !kept.Needless
}

// wantGlance wants what can be told of a target by itself to be what its history
// says; nothing is wanted of an engine that is no Glancer.
func (s *suite) wantGlance(t *testing.T, when string, target skein.Target, missing bool) {
	t.Helper()
	if s.glancer(t) == nil {
		return
	}
	if _, key := s.glancer(t).Vantage(target, nil); key != "" {
		s.wantTold(t, when, target, s.glance(t, nil, []skein.Target{target})[0], missing)
	}
}

// keep brings what is kept of a target into line, as a run does that finds
// nothing to do there.
func (s *suite) keep(t *testing.T, target skein.Target) {
	t.Helper()
	session := s.open(t, s.engine(), target)
	defer func() { _ = session.Close() }()
	if keeper, ok := session.(skein.FingerprintKeeper); ok {
		lock(t, session)
		if err := keeper.Keep(t.Context()); err != nil {
			t.Fatal(err)
		}
		unlock(t, session)
	}
}

// aState is a state in which a target can be.
type aState struct {
	name string
	make func(t *testing.T, s *suite, target skein.Target)
}

var (
	glanceOne = migration("1.sql", "SELECT 1", "SELECT 2")
	glanceTwo = noTransaction(migration("2 o'brien's.sql", "SELECT 3", "SELECT 4"))
)

// record writes records as they are.
func (s *suite) record(t *testing.T, target skein.Target, records ...skein.Record) {
	t.Helper()
	session := s.open(t, s.engine(), target)
	defer func() { _ = session.Close() }()
	lock(t, session)
	if err := session.Record(t.Context(), records); err != nil {
		t.Fatal(err)
	}
	unlock(t, session)
}

func (s *suite) knexRows(t *testing.T, target skein.Target, rows string) {
	t.Helper()
	s.Exec(t, target, s.Knex)
	if rows != "" {
		s.Exec(t, target, "INSERT INTO knex_migrations (name, batch, migration_time) VALUES "+rows)
	}
}

var glanceStates = []aState{
	{"nothing", func(*testing.T, *suite, skein.Target) {}},
	{"some", func(t *testing.T, s *suite, target skein.Target) { s.applyAll(t, target, glanceOne) }},
	{"all", func(t *testing.T, s *suite, target skein.Target) { s.applyAll(t, target, glanceOne, glanceTwo) }},
	{"reverted", func(t *testing.T, s *suite, target skein.Target) {
		s.applyAll(t, target, glanceOne, glanceTwo)
		e := s.engine()
		session := s.open(t, e, target)
		lock(t, session)
		apply(t, e, session, glanceOne, skein.Down, 0)
		unlock(t, session)
		closes(t, session)
	}},
	{"Knex's tables alone", func(t *testing.T, s *suite, target skein.Target) { s.knexRows(t, target, "") }},
	{"Knex's rows alone", func(t *testing.T, s *suite, target skein.Target) {
		s.knexRows(t, target, "('1.js', 1, "+s.KnexTime+"), ('3.js', 2, NULL), ('2.ts', NULL, "+s.KnexTime+"), (NULL, 1, NULL)")
	}},
	{"both", func(t *testing.T, s *suite, target skein.Target) {
		s.knexRows(t, target, "('1.js', 1, "+s.KnexTime+"), ('2.js', 2, "+s.KnexTime+")")
		s.applyAll(t, target, glanceOne)
		s.record(t, target,
			skein.Record{Name: "1.js", State: skein.Applied, Batch: 1, Checksum: checksum("1"), AppliedAt: s.KnexTimeMeans},
			// One that Knex applied again by itself, and one that it reverted.
			skein.Record{Name: "2.js", State: skein.Applied, Batch: 1, Checksum: checksum("2"), AppliedAt: s.KnexTimeMeans.AddDate(0, 0, -7)},
			skein.Record{Name: "3.js", State: skein.Applied, Batch: 1, Checksum: checksum("3"), AppliedAt: s.KnexTimeMeans})
	}},
	{"Knex's lock is set", func(t *testing.T, s *suite, target skein.Target) {
		s.knexRows(t, target, "('1.js', 1, "+s.KnexTime+")")
		s.Exec(t, target, "UPDATE knex_migrations_lock SET is_locked = 1")
		s.applyAll(t, target, glanceOne)
	}},
	{"Knex's lock twice", func(t *testing.T, s *suite, target skein.Target) {
		s.knexRows(t, target, "")
		s.Exec(t, target, "INSERT INTO knex_migrations_lock (is_locked) VALUES (0)")
	}},
	{"Knex's lock is null", func(t *testing.T, s *suite, target skein.Target) {
		s.knexRows(t, target, "")
		s.Exec(t, target, "UPDATE knex_migrations_lock SET is_locked = NULL")
	}},
	{"applying", func(t *testing.T, s *suite, target skein.Target) {
		s.applyAll(t, target, glanceOne)
		s.record(t, target, skein.Record{Name: "2.sql", State: skein.Applying, Batch: 2, Checksum: checksum("2"), Done: 1, Total: 3, AppliedAt: time.Now()})
	}},
	{"reverting", func(t *testing.T, s *suite, target skein.Target) {
		s.applyAll(t, target, glanceOne)
		s.record(t, target, skein.Record{Name: "1.sql", State: skein.Reverting, Batch: 1, Checksum: glanceOne.Checksum, Total: 1, AppliedAt: time.Now()})
	}},
	{"a Knex migration that was noted", func(t *testing.T, s *suite, target skein.Target) {
		s.knexRows(t, target, "")
		s.record(t, target, skein.Record{Name: "1.js", State: skein.Applying, Batch: 1, Total: 1, AppliedAt: time.Now()})
	}},
	{"a Knex migration that was noted and has run", func(t *testing.T, s *suite, target skein.Target) {
		s.knexRows(t, target, "('1.js', 1, "+s.KnexTime+")")
		s.record(t, target, skein.Record{Name: "1.js", State: skein.Applying, Batch: 1, Checksum: checksum("1"), Total: 1, AppliedAt: time.Now()})
	}},
	{"no checksum, no time", func(t *testing.T, s *suite, target skein.Target) {
		s.record(t, target, skein.Record{Name: "1.sql", State: skein.Applied, Batch: 1})
	}},
	{"an empty history", func(t *testing.T, s *suite, target skein.Target) {
		s.applyAll(t, target, glanceOne)
		session := s.open(t, s.engine(), target)
		lock(t, session)
		if err := session.Erase(t.Context(), []string{glanceOne.Name}); err != nil {
			t.Fatal(err)
		}
		unlock(t, session)
		closes(t, session)
	}},
}

var glanceTests = []namedTest{
	{"States", func(t *testing.T, s *suite) {
		if s.glancer(t) == nil {
			return
		}
		targets := s.Together(t, len(glanceStates))
		for i, state := range glanceStates {
			state.make(t, s, targets[i])
		}
		address := s.Address(t, targets[0])
		look := func(when string, missing bool) {
			t.Helper()
			for whose, server := range map[string]*skein.Target{"a target's": nil, "the server's": &address} {
				for i, g := range s.glance(t, server, targets) {
					s.wantTold(t, glanceStates[i].name+", "+when+", from "+whose+" own address", targets[i], g, missing)
				}
			}
		}
		// What Knex did alone has no fingerprint yet.
		look("as it was made", true)
		for _, target := range targets {
			s.keep(t, target)
		}
		look("when it was kept", false)
	}},

	{"Many", func(t *testing.T, s *suite) {
		if s.glancer(t) == nil {
			return
		}
		few := s.Together(t, 7)
		s.applyAll(t, few[1], glanceOne)
		s.knexRows(t, few[2], "('1.js', 1, "+s.KnexTime+")")
		s.applyAll(t, few[3], glanceTwo)
		s.knexRows(t, few[4], "")
		s.keep(t, few[2])
		var targets []skein.Target
		for i := range 500 {
			targets = append(targets, few[i%len(few)])
		}
		first := make([]skein.Glimpse, len(few))
		for i, g := range s.glance(t, nil, targets) {
			if i < len(few) {
				s.wantTold(t, fmt.Sprint("number ", i), targets[i], g, true)
				first[i] = g
			} else if diff := cmp.Diff(first[i%len(few)], g); diff != "" {
				t.Fatalf("number %d is told otherwise (-first +this):\n%s", i, diff)
			}
		}
		if glimpses := s.glance(t, nil, targets[:1]); len(glimpses) != 1 {
			t.Errorf("%d glimpses of one target", len(glimpses))
		}
	}},

	{"Tables", func(t *testing.T, s *suite) {
		// More tables than are named in one statement.
		if s.glancer(t) == nil {
			return
		}
		targets := s.Together(t, 45)
		for i, target := range targets {
			if i%3 == 0 {
				s.knexRows(t, target, fmt.Sprintf("('%d.js', 1, NULL)", i))
			}
		}
		session := s.open(t, s.engine(), targets[44])
		lock(t, session)
		apply(t, s.engine(), session, glanceOne, skein.Up, 1)
		unlock(t, session)
		for i, g := range s.glance(t, nil, targets) {
			s.wantTold(t, fmt.Sprint("number ", i), targets[i], g, true)
			if g.History != nil && i%3 == 0 && (len(g.History.Records) != 1 || g.History.Records[0].Name != fmt.Sprintf("%d.js", i)) {
				t.Errorf("of number %d it is told: %+v", i, g.History)
			}
		}
	}},

	{"Missing", func(t *testing.T, s *suite) {
		if s.glancer(t) == nil {
			return
		}
		targets := s.Together(t, 3)
		for _, target := range targets {
			s.applyAll(t, target, glanceOne)
		}
		nowhere := targets[1]
		if nowhere.Schema != "" {
			nowhere.Schema = `no"where`
		} else {
			nowhere.Database = "skein_test_no'where"
		}
		all := []skein.Target{targets[0], nowhere, targets[1], nowhere, targets[2]}
		glimpses := s.glance(t, nil, all)
		for i, g := range glimpses {
			if all[i].String() != nowhere.String() {
				s.wantTold(t, all[i].String(), all[i], g, false)
			} else if diff := cmp.Diff(skein.Glimpse{}, g); diff != "" {
				t.Errorf("of one that does not exist it is told (-want +got):\n%s", diff)
			}
		}
	}},

	{"NothingChanges", func(t *testing.T, s *suite) {
		if s.glancer(t) == nil {
			return
		}
		targets := s.Together(t, 2)
		s.knexRows(t, targets[1], "('1.js', 1, NULL)")
		before := [][]string{s.Tables(t, targets[0]), s.Tables(t, targets[1])}
		first := s.glance(t, nil, targets)
		if diff := cmp.Diff(first, s.glance(t, nil, targets)); diff != "" {
			t.Errorf("the second look is another (-first +second):\n%s", diff)
		}
		if diff := cmp.Diff(before, [][]string{s.Tables(t, targets[0]), s.Tables(t, targets[1])}); diff != "" {
			t.Errorf("looking changed the tables (-before +after):\n%s", diff)
		}
	}},

	{"EachChange", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		if s.glancer(t) == nil {
			return
		}
		e := s.engine()
		session := s.open(t, e, target)
		change := func(when string, f func() error) {
			t.Helper()
			if err := f(); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			s.wantGlance(t, when, target, false)
		}
		up := func(m *skein.Migration) func() error {
			return func() error {
				_, err := session.Apply(t.Context(), step(t, e, m, skein.Up, 1))
				return err
			}
		}
		down := func(m *skein.Migration) func() error {
			return func() error {
				_, err := session.Apply(t.Context(), step(t, e, m, skein.Down, 1))
				return err
			}
		}
		fails := func(f func() error, partial bool) func() error {
			return func() error {
				err := f()
				broke, ok := errors.AsType[*skein.StatementError](err)
				if !ok || broke.Partial != partial {
					return fmt.Errorf("it ends with %w", err)
				}
				return nil
			}
		}
		whole := migration("1.sql", table("one"), "DROP TABLE one")
		bare := noTransaction(migration("2.sql", table("two")+";\n"+table("three"), "DROP TABLE three;\nDROP TABLE two"))
		empty := noTransaction(migration("3.sql", "/* nothing */", "/* nothing */"))
		breaks := noTransaction(migration("4.sql", table("four")+";\nINSERT INTO missing VALUES (1)", "DROP TABLE four;\nDROP TABLE missing"))
		refused := noTransaction(migration("5.sql", "INSERT INTO missing VALUES (1)", ""))
		broken := migration("6.sql", "INSERT INTO missing VALUES (1)", "")

		lock(t, session)
		// The first transaction makes Skein's table, and may leave what is kept for
		// the next or for giving the lock back.
		if err := up(whole)(); err != nil {
			t.Fatal(err)
		}
		s.wantGlance(t, "the first migration", target, true)
		change("it is reverted", down(whole))
		change("it is applied again", up(whole))
		change("one without a transaction", up(bare))
		change("one without a transaction is reverted", down(bare))
		change("one without statements", up(empty))
		change("one without statements is reverted", down(empty))
		change("one whose first statement fails", fails(up(refused), false))
		change("one that fails in a transaction", fails(up(broken), false))
		change("one that breaks in its middle", fails(up(breaks), true))
		record := func(records ...skein.Record) func() error {
			return func() error { return session.Record(t.Context(), records) }
		}
		erase := func(names ...string) func() error {
			return func() error { return session.Erase(t.Context(), names) }
		}
		applied := skein.Record{Name: "4.sql", State: skein.Applied, Batch: 1, Checksum: breaks.Checksum, AppliedAt: time.Now()}
		change("it is recorded as applied", record(applied))
		change("it breaks when it is reverted", fails(down(breaks), true))
		change("it is erased", erase("4.sql"))
		change("what is not there is erased", erase("4.sql", "7.sql"))
		change("others are recorded", record(applied, skein.Record{Name: "7.sql", State: skein.Applied, Batch: 2, AppliedAt: time.Now()}))
		change("one of them gets another checksum", record(skein.Record{Name: "7.sql", State: skein.Applied, Batch: 2, Checksum: checksum("7"), AppliedAt: time.Now()}))
		change("nothing is recorded", record())

		// As Knex migrations go: noted, run by Knex, read, recorded.
		s.knexRows(t, target, "")
		change("Knex migrations are noted", record(
			skein.Record{Name: "8.js", State: skein.Applying, Batch: 3, Checksum: checksum("8"), Total: 1, AppliedAt: time.Now()},
			skein.Record{Name: "9.js", State: skein.Applying, Batch: 3, Checksum: checksum("9"), AppliedAt: time.Now()}))
		s.Exec(t, target, "INSERT INTO knex_migrations (name, batch, migration_time) VALUES ('8.js', 3, "+s.KnexTime+"), ('9.js', 3, "+s.KnexTime+")")
		s.wantGlance(t, "Knex has run them", target, false)
		change("that is read", func() error {
			_, err := session.History(t.Context())
			return err
		})
		change("that is recorded", record(
			skein.Record{Name: "8.js", State: skein.Applied, Batch: 3, Checksum: checksum("8"), AppliedAt: s.KnexTimeMeans},
			skein.Record{Name: "9.js", State: skein.Applied, Batch: 3, Checksum: checksum("9"), AppliedAt: s.KnexTimeMeans}))
		unlock(t, session)
		s.wantGlance(t, "the lock is given back", target, false)

		// By Knex alone, which writes no fingerprint.
		s.Exec(t, target, "DELETE FROM knex_migrations WHERE name = '9.js'")
		s.keep(t, target)
		s.wantGlance(t, "Knex reverted one, and it was kept", target, false)

		session = s.open(t, e, target)
		lock(t, session)
		change("one more in another session", up(migration("92.sql", table("later"), "")))
		unlock(t, session)
	}},

	{"FirstOne", func(t *testing.T, s *suite) {
		// A tenant that is migrated in one step is told of when the lock is back.
		target := s.NewTarget(t)
		if s.glancer(t) == nil {
			return
		}
		s.applyAll(t, target, migration("1.sql", table("one"), ""))
		s.wantGlance(t, "one step", target, false)
		other := s.NewTarget(t)
		s.applyAll(t, other, noTransaction(migration("1.sql", table("one"), "")))
		s.wantGlance(t, "one step without a transaction", other, false)
		third := s.NewTarget(t)
		s.record(t, third, skein.Record{Name: "1.sql", State: skein.Applied, Batch: 1, AppliedAt: time.Now()})
		s.wantGlance(t, "a baseline", third, false)
	}},

	{"Kept", func(t *testing.T, s *suite) {
		target := s.NewTarget(t)
		session := s.open(t, s.engine(), target)
		keeper, ok := session.(skein.FingerprintKeeper)
		if !ok {
			return // a power that not every engine has
		}
		if err := keeper.Keep(t.Context()); err == nil {
			t.Error("it is written without the lock")
		}
		if !s.keeps(t, target) {
			lock(t, session)
			if err := keeper.Keep(t.Context()); err != nil {
				t.Error(err)
			}
			unlock(t, session)
			return
		}
		kept := func() skein.Kept {
			t.Helper()
			k, err := keeper.Kept(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return k
		}
		if got, want := kept(), (skein.Kept{Writable: true}); got != want {
			t.Errorf("in a new target it is %+v", got)
		}
		s.applyAll(t, target, glanceOne)
		want := skein.Kept{Writable: true, Fingerprint: s.history(t, target).Fingerprint()}
		if got := kept(); got != want {
			t.Errorf("after a migration it is %+v, want %+v", got, want)
		}
		// What somebody else changed shows when it is compared, and is mended.
		s.Exec(t, target, "DELETE FROM "+skein.HistoryTable)
		if got := kept(); got != want {
			t.Errorf("after a row was deleted it is %+v, want that it is what it was", got)
		}
		s.keep(t, target)
		want.Fingerprint = s.history(t, target).Fingerprint()
		if got := kept(); got != want {
			t.Errorf("when it was mended it is %+v, want %+v", got, want)
		}
	}},

	{"Waits", func(t *testing.T, s *suite) {
		// A target whose tables somebody has locked keeps nobody for longer than
		// they have time.
		if s.glancer(t) == nil {
			return
		}
		targets := s.Together(t, 2)
		for _, target := range targets {
			s.applyAll(t, target, glanceOne)
		}
		release := s.LockTable(t, targets[1], skein.HistoryTable)
		defer release()
		e := s.engine()
		from, _ := e.(skein.Glancer).Vantage(targets[0], nil)
		session := s.open(t, e, from)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		var glimpses []skein.Glimpse
		var err error
		within(t, prompt, "looking", func() { glimpses, err = e.(skein.Glancer).Glance(ctx, session, targets) })
		switch {
		case err == nil && !s.keeps(t, targets[0]):
			t.Errorf("of a target that is locked it is told: %+v", glimpses)
		case err != nil && (s.keeps(t, targets[0]) || ctx.Err() == nil):
			t.Errorf("looking ended with %v", err)
		}
		closes(t, session)
	}},

	{"Keys", func(t *testing.T, s *suite) {
		glancer := s.glancer(t)
		if glancer == nil {
			return
		}
		targets := s.Together(t, 2)
		address := s.Address(t, targets[0])
		elsewhere := targets[0]
		elsewhere.Host = "elsewhere.example"
		elsewhereAddress := address
		elsewhereAddress.Host = elsewhere.Host
		for name, servers := range map[string][2]*skein.Target{"own": {nil, nil}, "the server's": {&address, &elsewhereAddress}} {
			_, one := glancer.Vantage(targets[0], servers[0])
			_, two := glancer.Vantage(targets[1], servers[0])
			_, three := glancer.Vantage(elsewhere, servers[1])
			if one == "" || one != two || one == three {
				t.Errorf("%s address: the keys of two targets of a server are %q and %q, and of another server's %q", name, one, two, three)
			}
		}
		if from, _ := glancer.Vantage(targets[0], &address); from.User != address.User || slices.Contains([]string{"", targets[0].User}, from.User) {
			t.Errorf("from the server's address it is looked as %q", from.User)
		}
	}},
}
