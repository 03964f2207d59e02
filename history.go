package skein

import (
	"cmp"
	"slices"
	"time"
)

// A RecordState is how far a migration came in one tenant.
type RecordState string

// The states of a record.
const (
	Applied   RecordState = "applied"
	Applying  RecordState = "applying"  // its up began and did not end
	Reverting RecordState = "reverting" // its down began and did not end
)

// A Record is what a tenant's own database says of one migration.
type Record struct {
	Name  string
	State RecordState
	// Batch numbers the runs that applied something to this tenant, from 1.
	Batch int
	// Checksum is that of the file as it was applied; empty where only Knex
	// recorded the migration.
	Checksum string
	// Done of Total statements had run when this was written. They are only
	// kept for a migration that cannot be one transaction.
	Done, Total int
	// Fingerprints are those of the statements of a partial migration as it
	// began, see [Fingerprints]; empty for any other.
	Fingerprints string
	// AppliedAt is when the migration ended, or began if it is partial.
	AppliedAt time.Time
	Duration  time.Duration
	// By is who applied it, as user@host; Tool is what did, with its version.
	By, Tool string
	// InKnex says that knex_migrations has the migration.
	InKnex bool
}

// Partial says whether the migration began and did not end.
func (r Record) Partial() bool { return r.State == Applying || r.State == Reverting }

// noted says whether the record only tells that one transaction of Knex's was to
// decide about the migration: nothing of it is there before.
func (r Record) noted() bool { return r.State == Applying && r.Total == 0 }

// A KnexRow is a row of Knex's own table.
type KnexRow struct {
	ID    int64
	Name  string
	Batch int
	// Time is zero where the column is null or cannot be read as a time.
	Time time.Time
}

// A History is what has run in one tenant: skein_migrations and
// knex_migrations read together.
type History struct {
	// Records are in the order of their batches, and within a batch in the
	// order in which they were recorded.
	Records []Record
	// KnexLocked says that a row of knex_migrations_lock is set.
	KnexLocked bool
	// KnexOpen are the Knex migrations of which Skein noted that they began and
	// not what came of them, as they were noted, with the SQL migrations that were
	// to be recorded beside them: a Skein that had the tenant's lock died, and what
	// it left of Knex's lock is nobody's.
	KnexOpen []Record
}

// NewHistory reads the tables of a tenant together: the rows of skein_migrations
// and of knex_migrations, each in the order of their ids, and whether a row of
// Knex's lock table is set.
func NewHistory(own []Record, knex []KnexRow, knexLocked bool) History {
	h := History{Records: MergeHistory(own, knex), KnexLocked: knexLocked}
	for _, r := range own {
		if r.Partial() && KnexName(r.Name) || r.noted() {
			h.KnexOpen = append(h.KnexOpen, r)
		}
	}
	return h
}

// MergeHistory reads the two tables of a tenant together. own holds the rows of
// skein_migrations and knex those of knex_migrations, each in the order of
// their ids.
//
// knex_migrations is the truth about .js and .ts migrations, and what
// skein_migrations says of them is only added to it: one that Knex rolled back
// by itself is not applied, whatever Skein recorded before, and one that Knex
// applied again by itself is not the one that Skein recorded.
func MergeHistory(own []Record, knex []KnexRow) []Record {
	if len(knex) == 0 && !slices.ContainsFunc(own, func(r Record) bool { return KnexName(r.Name) }) {
		return sortRecords(own)
	}
	kept := make(map[string]Record, len(own))
	for _, r := range own {
		kept[r.Name] = r
	}
	records := make([]Record, 0, len(own)+len(knex))
	inKnex := make(map[string]bool, len(knex))
	for _, k := range knex {
		inKnex[k.Name] = true
		r, ok := kept[k.Name]
		if !ok || !r.Partial() && !r.of(k) {
			r = Record{Name: k.Name, State: Applied, Batch: k.Batch, AppliedAt: k.Time}
		}
		if r.State == Applying {
			// The row is written when all else has been.
			r.State, r.Done, r.Total, r.AppliedAt = Applied, 0, 0, k.Time
		}
		r.InKnex = true
		records = append(records, r)
	}
	for _, r := range own {
		if !inKnex[r.Name] && !r.noted() && (!KnexName(r.Name) || r.State == Applying) {
			records = append(records, r)
		}
	}
	return sortRecords(records)
}

// of says whether Skein's record is of the same application of a Knex migration
// as Knex's row, whose time was recorded. Some columns round it to the second,
// and in MySQL it is local time, to be read in another zone than it was written.
func (r Record) of(k KnexRow) bool {
	if k.Time.IsZero() || r.AppliedAt.IsZero() {
		return true
	}
	const zones, quarter = 26 * time.Hour, 15 * time.Minute
	apart := k.Time.Sub(r.AppliedAt).Abs()
	return apart <= time.Second || apart <= zones && (apart+time.Second)%quarter <= 2*time.Second
}

func sortRecords(records []Record) []Record {
	byBatch := func(a, b Record) int { return cmp.Compare(a.Batch, b.Batch) }
	if !slices.IsSortedFunc(records, byBatch) {
		slices.SortStableFunc(records, byBatch)
	}
	return records
}

// LastBatch is the number of the newest batch, 0 in a tenant where nothing has
// run.
func (h History) LastBatch() int {
	if len(h.Records) == 0 {
		return 0
	}
	return h.Records[len(h.Records)-1].Batch
}
