package main

import (
	"cmp"
	"math"
	"slices"
)

// An operation is what is done to each tenant of a fleet.
type operation string

const (
	opFresh     operation = "fresh"     // six migrations in an empty tenant
	opNothing   operation = "nothing"   // a tenant that is up to date
	opColumn    operation = "column"    // one more migration, which adds a column
	opRollback  operation = "rollback"  // the way back from that one
	opProvision operation = "provision" // a new tenant: database, role, six migrations
	opStatus    operation = "status"    // where one tenant stands, a whole process
	opVersion   operation = "version"   // a process that says its version
)

// harmless says whether an operation can be repeated on the same tenants.
func (o operation) harmless() bool {
	return o == opNothing || o == opStatus || o == opVersion
}

// A sample is one timing: so many tenants in so many seconds.
type sample struct {
	Tenants int
	Seconds float64
	Client  float64 // seconds of CPU of the processes that were started
	Server  float64 // seconds of CPU of the database server meanwhile
	PeakKiB int64   // of memory; of all processes that run at once
}

// A row is what was measured of one contestant: a sample a round.
type row struct {
	Part   string    // of the benchmark
	Fleet  string    // what the tenants are
	Op     operation // what was done to them
	Who    string    // the contestant
	AtOnce int       // tenants at once
	Size   int       // what a cost depends on; 0: nothing
	Note   string    // why there are no samples, or what is particular

	Samples     []sample
	Flights     float64 // to the server and back, a tenant; not a number: not counted
	Connections float64 // likewise
}

// A rowKey names a row.
type rowKey struct {
	part, fleet string
	op          operation
	who         string
	atOnce      int
	size        int
}

// A record is all rows of a run, in the order in which they began.
type record struct {
	rows []*row
	at   map[rowKey]*row
}

func newRecord() *record {
	return &record{at: make(map[rowKey]*row)}
}

// row returns the row of a key, a new one the first time.
func (r *record) row(k rowKey) *row {
	if found := r.at[k]; found != nil {
		return found
	}
	made := &row{
		Part: k.part, Fleet: k.fleet, Op: k.op, Who: k.who, AtOnce: k.atOnce, Size: k.size,
		Flights: math.NaN(), Connections: math.NaN(),
	}
	r.at[k] = made
	r.rows = append(r.rows, made)
	return made
}

// find returns the row of a key if it has samples, nil otherwise.
func (r *record) find(k rowKey) *row {
	if found := r.at[k]; found != nil && len(found.Samples) > 0 {
		return found
	}
	return nil
}

// A spread is the median of a few values and the two ends.
type spread struct{ median, min, max float64 }

// spreadOf is of the finite values; where there is none, nothing of it is a number.
func spreadOf(values []float64) spread {
	values = slices.DeleteFunc(slices.Clone(values), func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) })
	if len(values) == 0 {
		return spread{math.NaN(), math.NaN(), math.NaN()}
	}
	slices.Sort(values)
	half := len(values) / 2
	median := values[half]
	if len(values)%2 == 0 {
		median = (values[half-1] + values[half]) / 2
	}
	return spread{median, values[0], values[len(values)-1]}
}

func (r *row) spread(of func(sample) float64) spread {
	values := make([]float64, len(r.Samples))
	for i, s := range r.Samples {
		values[i] = of(s)
	}
	return spreadOf(values)
}

// rate is in tenants a second.
func (r *row) rate() spread {
	return r.spread(func(s sample) float64 { return float64(s.Tenants) / s.Seconds })
}

// each is in milliseconds a tenant.
func (r *row) each() spread {
	return r.spread(func(s sample) float64 { return 1000 * s.Seconds / float64(s.Tenants) })
}

// clientCPU and serverCPU are in milliseconds a tenant.
func (r *row) clientCPU() spread {
	return r.spread(func(s sample) float64 { return 1000 * s.Client / float64(s.Tenants) })
}

func (r *row) serverCPU() spread {
	return r.spread(func(s sample) float64 { return 1000 * s.Server / float64(s.Tenants) })
}

// peak is in MiB.
func (r *row) peak() spread {
	return r.spread(func(s sample) float64 { return float64(s.PeakKiB) / 1024 })
}

// tenants is how many a sample has; they may differ by round only where one failed.
func (r *row) tenants() int {
	if len(r.Samples) == 0 {
		return 0
	}
	return slices.MaxFunc(r.Samples, func(a, b sample) int { return cmp.Compare(a.Tenants, b.Tenants) }).Tenants
}

// ratio of two rates, by the medians.
func ratio(of, to *row) float64 {
	if of == nil || to == nil {
		return math.NaN()
	}
	return of.rate().median / to.rate().median
}
