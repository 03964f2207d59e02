package skein

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A State is where a tenant stands against the migrations.
type State string

// The states of a tenant, from the one that needs a person most.
const (
	StateUnreachable State = "unreachable" // its history could not be read
	StatePartial     State = "partial"     // a migration began and did not end
	StateEdited      State = "edited"      // an applied migration's file changed
	StateMissing     State = "missing"     // an applied migration's file is gone
	StateAhead       State = "ahead"       // it has migrations newer than all files
	StateBehind      State = "behind"      // migrations are pending
	StateUpToDate    State = "up to date"
)

// An EditedPolicy is what happens when the file of an applied migration changed.
type EditedPolicy string

// The policies for edited files.
const (
	EditedError  EditedPolicy = "error"
	EditedWarn   EditedPolicy = "warn"
	EditedIgnore EditedPolicy = "ignore"
)

// A Policy says which irregularities of a history are let pass. The zero value
// lets none.
type Policy struct {
	// Edited defaults to EditedError.
	Edited EditedPolicy
	// AllowMissing lets pass an applied migration that has no file.
	AllowMissing bool
	// AllowOutOfOrder lets a pending migration run that is older than the
	// newest applied one.
	AllowOutOfOrder bool
}

// A Standing is a tenant's history held against the migrations.
type Standing struct {
	State State
	// Newest is the last applied migration in the order of the files, nil if
	// none is applied.
	Newest *Migration
	// Applied counts the migrations that are applied, files or no files.
	Applied int
	Pending []*Migration
	// OutOfOrder are those of Pending that come before Newest.
	OutOfOrder []*Migration
	Edited     []*Migration
	Missing    []Record // applied, without a file
	Partial    []Record
	// KnexLocked says that Knex's lock row is set, and not by a Skein that died.
	KnexLocked bool
}

// Assess holds a history against the migrations.
func Assess(set *Set, history History, policy Policy) Standing {
	s := Standing{State: StateUpToDate, KnexLocked: history.KnexLocked && len(history.KnexOpen) == 0}
	applied := make([]bool, set.Len())
	newest, newestOf := -1, make(map[int]int) // the second by group
	for _, r := range history.Records {
		m, i := set.Find(r.Name)
		switch {
		case r.Partial():
			s.Partial = append(s.Partial, r)
			if m != nil {
				applied[i] = true // neither pending nor applied: it is named as partial
			}
			continue
		case m == nil:
			s.Missing = append(s.Missing, r)
			s.Applied++
			continue
		}
		s.Applied++
		applied[i] = true
		newest = max(newest, i)
		newestOf[m.Group] = max(newestOf[m.Group], i)
		if policy.Edited != EditedIgnore && r.Checksum != "" && r.Checksum != m.Checksum {
			s.Edited = append(s.Edited, m)
		}
	}
	if newest >= 0 {
		s.Newest = set.all[newest]
	}
	for i, m := range set.all {
		if applied[i] {
			continue
		}
		s.Pending = append(s.Pending, m)
		if i < newestOf[m.Group] {
			s.OutOfOrder = append(s.OutOfOrder, m)
		}
	}
	switch {
	case len(s.Partial) > 0:
		s.State = StatePartial
	case len(s.Edited) > 0 && policy.Edited != EditedWarn:
		s.State = StateEdited
	case len(s.Missing) > 0 && !policy.AllowMissing:
		s.State = StateMissing
		if len(s.Pending) == 0 && !slices.ContainsFunc(s.Missing, func(r Record) bool { return !set.newer(r.Name) }) {
			s.State = StateAhead
		}
	case len(s.Pending) > 0:
		s.State = StateBehind
	}
	return s
}

// newer says whether a name that the set does not have would come after all
// that it has.
func (s *Set) newer(name string) bool {
	for i, m := range s.all {
		if i < len(s.all)-1 && s.all[i+1].Group == m.Group {
			continue
		}
		if compareNames(name, m.Name) <= 0 {
			return false
		}
	}
	return true
}

// after is the place of the first migration that would come after one of a name
// that the set does not have.
func (s *Set) after(name string) int {
	i := slices.IndexFunc(s.all, func(m *Migration) bool { return compareNames(m.Name, name) > 0 })
	if i < 0 {
		return len(s.all)
	}
	return i
}

func compareNames(a, b string) int {
	return cmp.Or(compareDigits(leadingDigits(a), leadingDigits(b)), strings.Compare(a, b))
}

func leadingDigits(name string) string {
	end := 0
	for end < len(name) && name[end] >= '0' && name[end] <= '9' {
		end++
	}
	return name[:end]
}

// compareDigits compares two strings of digits as numbers of any size; the
// empty string equals every other.
func compareDigits(a, b string) int {
	if a == "" || b == "" {
		return 0
	}
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

// PlanOptions say which part of what could be done is wanted.
type PlanOptions struct {
	// Direction defaults to Up.
	Direction Direction
	Policy    Policy

	// To names the last migration to apply, or with Down the newest that
	// stays: a version or a name. Empty: no bound.
	To string
	// Steps bounds the number of migrations, 0: no bound.
	Steps int
	// Everything reverts all that is applied, and not just the last batch.
	Everything bool
	// Baseline names a migration up to which all are recorded as applied
	// without being run, on a tenant whose history is empty. Where all of these
	// are applied already there is nothing to do.
	Baseline string
	// Settle says what is to be done about a migration that began and did not
	// end, and that nothing else is: all but Policy and Knex is ignored then.
	// Empty: such a tenant is refused.
	Settle Settlement

	// Knex says that there is something to run Knex migrations with. A migrator
	// sets it itself.
	Knex bool

	// only bounds the steps to what is left of a plan that was begun, and from is
	// where one that has begun itself is to go on.
	only []*Migration
	from int
}

// A Plan is what is to be done in one tenant.
type Plan struct {
	Direction Direction
	Steps     []*Migration
	// RecordOnly says that the steps are recorded and not run.
	RecordOnly bool
	// Batch is the number that is recorded with what is applied.
	Batch int
	// Began says that the one step there is began before and did not end, and
	// From how many of its statements are left out because they have run.
	Began bool
	From  int
	// Warnings are what a person should know although the plan goes ahead.
	Warnings []string
}

// Names are the names of the plan's steps, in order.
func (p Plan) Names() []string { return names(p.Steps) }

// Key is equal for plans that do the same.
func (p Plan) Key() string {
	if len(p.Steps) == 0 {
		return ""
	}
	return fmt.Sprintf("%s %t %t %d %q", p.Direction, p.RecordOnly, p.Began, p.From, append(p.Names(), p.Warnings...))
}

func names(migrations []*Migration) []string {
	out := make([]string, len(migrations))
	for i, m := range migrations {
		out[i] = m.Name
	}
	return out
}

// MakePlan decides what is to be done in a tenant with this history. It has no
// effect, and the same arguments give the same plan. An error is a
// *RefusedError.
func MakePlan(set *Set, history History, opts PlanOptions) (Plan, error) {
	plan, err := makePlan(set, history, opts)
	if opts.only != nil && err == nil {
		plan.Steps = slices.DeleteFunc(slices.Clone(plan.Steps), func(m *Migration) bool {
			return !slices.Contains(opts.only, m) || plan.Began && plan.From != opts.from
		})
	}
	return plan, err
}

func makePlan(set *Set, history History, opts PlanOptions) (Plan, error) {
	standing := Assess(set, history, opts.Policy)
	if opts.Settle != "" {
		return planSettlement(set, standing, opts)
	}
	if len(standing.Partial) > 0 {
		r := standing.Partial[0]
		return Plan{}, &RefusedError{
			Reason: ReasonPartial, Names: recordNames(standing.Partial),
			Msg:  fmt.Sprintf("%s began and did not end (%s)", r.Name, progress(r)),
			hint: "look at what the database has of it, and settle it: nothing else runs in this tenant before",
		}
	}
	if opts.Baseline != "" {
		return planBaseline(set, history, standing, opts)
	}
	if opts.Direction == Down {
		return planDown(set, history, standing, opts)
	}
	return planUp(set, history, standing, opts)
}

func progress(r Record) string {
	doing := "while it was applied"
	if r.State == Reverting {
		doing = "while it was reverted"
	}
	if r.Total == 0 {
		return doing
	}
	return fmt.Sprintf("%s, %d of %d statements done", doing, r.Done, r.Total)
}

func recordNames(records []Record) []string {
	out := make([]string, len(records))
	for i, r := range records {
		out[i] = r.Name
	}
	return out
}

func planUp(set *Set, history History, standing Standing, opts PlanOptions) (Plan, error) {
	plan := Plan{Direction: Up, Batch: history.LastBatch() + 1}
	if len(standing.Missing) > 0 && !opts.Policy.AllowMissing {
		missing := recordNames(standing.Missing)
		return Plan{}, &RefusedError{
			Reason: ReasonMissing, Names: missing,
			Msg:  fmt.Sprintf("applied here, and not among the files: %s", list(missing)),
			hint: "bring the files back, or allow it with --allow-missing",
		}
	}
	if len(standing.Edited) > 0 {
		edited := names(standing.Edited)
		msg := fmt.Sprintf("edited since it was applied here: %s", list(edited))
		if opts.Policy.Edited != EditedWarn {
			return Plan{}, &RefusedError{
				Reason: ReasonEdited, Names: edited, Msg: msg,
				hint: "undo the edit and make a new migration, or set migrations.edited to warn or ignore",
			}
		}
		plan.Warnings = append(plan.Warnings, msg)
	}

	pending := standing.Pending
	if opts.To != "" {
		_, last, err := set.Resolve(opts.To)
		if err != nil {
			return Plan{}, &RefusedError{Reason: ReasonUnknownName, Msg: err.Error()}
		}
		pending = slices.DeleteFunc(slices.Clone(pending), func(m *Migration) bool {
			_, i := set.Find(m.Name)
			return i > last
		})
	}
	if opts.Steps > 0 && len(pending) > opts.Steps {
		pending = pending[:opts.Steps]
	}
	if len(pending) == 0 {
		return plan, nil
	}

	if !opts.Policy.AllowOutOfOrder {
		var older []string
		for _, m := range standing.OutOfOrder {
			if slices.Contains(pending, m) {
				older = append(older, m.Name)
			}
		}
		if len(older) > 0 {
			return Plan{}, &RefusedError{
				Reason: ReasonOutOfOrder, Names: older,
				Msg:  fmt.Sprintf("pending, and older than %s, which is applied: %s", standing.Newest.Name, list(older)),
				hint: "rename it to be the newest if it may run last, or allow it with --allow-out-of-order",
			}
		}
	}
	if err := refuseKnex(pending, standing, opts, "applied"); err != nil {
		return Plan{}, err
	}
	plan.Steps = pending
	return plan, nil
}

func knexNames(steps []*Migration) []string {
	var knex []string
	for _, m := range steps {
		if m.Kind == Knex {
			knex = append(knex, m.Name)
		}
	}
	return knex
}

// refuseKnex refuses steps that only Knex can take where there is no Knex, and
// any step while Knex holds its own lock.
func refuseKnex(steps []*Migration, standing Standing, opts PlanOptions, done string) error {
	if needKnex := knexNames(steps); len(needKnex) > 0 && !opts.Knex {
		return &RefusedError{
			Reason: ReasonNeedsKnex, Names: needKnex,
			Msg:  fmt.Sprintf("to be %s, and written for Knex, which this version of Skein does not run: %s", done, list(needKnex)),
			hint: "run these with knex in this tenant first; Skein goes on from there",
		}
	}
	if standing.KnexLocked && len(steps) > 0 {
		return refuseKnexLock()
	}
	return nil
}

func refuseKnexLock() error {
	return &RefusedError{
		Reason: ReasonKnexLocked,
		Msg:    "Knex's lock is set in this tenant (knex_migrations_lock): a Knex process is migrating it, or was killed while it did",
		hint:   "once no Knex process is at work, take the lock away with: skein unlock TENANT",
	}
}

func planDown(set *Set, history History, standing Standing, opts PlanOptions) (Plan, error) {
	// What was recorded last is reverted first; within a batch the files' order
	// decides, since Knex's ids and Skein's cannot be compared.
	type entry struct {
		Record
		file  int // place in the set, -1 without a file
		place int // twice that, and between the two where the file would be
	}
	entries := make([]entry, len(history.Records))
	for i, r := range history.Records {
		_, at := set.Find(r.Name)
		entries[i] = entry{r, at, 2 * at}
		if at < 0 {
			entries[i].place = 2*set.after(r.Name) - 1
		}
	}
	slices.SortStableFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(b.Batch, a.Batch), cmp.Compare(b.place, a.place))
	})

	switch {
	case opts.To != "":
		_, last, err := set.Resolve(opts.To)
		if err != nil {
			return Plan{}, &RefusedError{Reason: ReasonUnknownName, Msg: err.Error()}
		}
		entries = slices.DeleteFunc(entries, func(e entry) bool { return e.place <= 2*last })
	case opts.Everything:
	case opts.Steps > 0:
	default:
		batch := history.LastBatch()
		entries = slices.DeleteFunc(entries, func(e entry) bool { return e.Batch != batch })
	}
	if opts.Steps > 0 && len(entries) > opts.Steps {
		entries = entries[:opts.Steps]
	}

	plan := Plan{Direction: Down}
	var missing, noDown, edited []string
	for _, e := range entries {
		if e.file < 0 {
			missing = append(missing, e.Name)
			continue
		}
		m := set.all[e.file]
		if m.Kind == SQL && m.Down == nil {
			noDown = append(noDown, m.Name)
		}
		if slices.Contains(standing.Edited, m) {
			edited = append(edited, m.Name)
		}
		plan.Steps = append(plan.Steps, m)
	}
	switch {
	case len(missing) > 0:
		return Plan{}, &RefusedError{
			Reason: ReasonMissing, Names: missing,
			Msg:  fmt.Sprintf("to be reverted, and not among the files: %s", list(missing)),
			hint: "bring the files back: their down sections are needed",
		}
	case len(noDown) > 0:
		return Plan{}, &RefusedError{
			Reason: ReasonNoDown, Names: noDown,
			Msg:  fmt.Sprintf("to be reverted, and without a down section: %s", list(noDown)),
			hint: "write the down section, or a new migration that undoes the change",
		}
	case len(edited) > 0 && opts.Policy.Edited != EditedWarn:
		return Plan{}, &RefusedError{
			Reason: ReasonEdited, Names: edited,
			Msg:  fmt.Sprintf("to be reverted, and edited since it was applied here: %s", list(edited)),
			hint: "undo the edit, or set migrations.edited to warn or ignore",
		}
	case len(edited) > 0:
		plan.Warnings = append(plan.Warnings, fmt.Sprintf("edited since it was applied here: %s", list(edited)))
	}
	if err := refuseKnex(plan.Steps, standing, opts, "reverted"); err != nil {
		return Plan{}, err
	}
	return plan, nil
}

func planBaseline(set *Set, history History, standing Standing, opts PlanOptions) (Plan, error) {
	_, last, err := set.Resolve(opts.Baseline)
	if err != nil {
		return Plan{}, &RefusedError{Reason: ReasonUnknownName, Msg: err.Error()}
	}
	plan := Plan{Direction: Up, RecordOnly: true, Batch: 1, Steps: set.all[:last+1]}
	lacks := slices.DeleteFunc(slices.Clone(standing.Pending), func(m *Migration) bool { return !slices.Contains(plan.Steps, m) })
	switch {
	case len(lacks) == 0:
		return Plan{Direction: Up}, nil
	case len(history.Records) > 0 && !slices.ContainsFunc(history.KnexOpen, Record.noted): // or it is that of a baseline which did not end
		recorded := recordNames(history.Records)
		return Plan{}, &RefusedError{
			Reason: ReasonNotEmpty, Names: recorded,
			Msg:  fmt.Sprintf("a baseline is for a tenant without a history, and this one has %d migrations, the last %s", len(recorded), recorded[len(recorded)-1]),
			hint: "leave --baseline out: what this tenant lacks is known",
		}
	case !opts.Knex && len(knexNames(plan.Steps)) > 0:
		knex := knexNames(plan.Steps)
		return Plan{}, &RefusedError{
			Reason: ReasonNeedsKnex, Names: knex,
			Msg:  fmt.Sprintf("to be recorded by Knex, which is not to be had here: %s", list(knex)),
			hint: "write the rows of knex_migrations with Knex, or by hand",
		}
	case standing.KnexLocked:
		return Plan{}, refuseKnexLock()
	}
	return plan, nil
}
