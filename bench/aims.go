package main

import (
	"math"
	"strings"
)

// An aim is what Skein should reach, measured in the same run.
type aim struct {
	what   string
	of     func(r *record) float64
	atMost bool // the value is to be below
	aim    float64
}

// aims compares what was measured with what was meant to be reached.
func aims(r *record) string {
	var rows [][]string
	for _, a := range allAims() {
		v := a.of(r)
		if math.IsNaN(v) {
			continue
		}
		reached := v >= a.aim
		word := "at least"
		if a.atMost {
			reached, word = v <= a.aim, "at most"
		}
		verdict := "no"
		if reached {
			verdict = "yes"
		}
		rows = append(rows, []string{a.what, word + " " + digits(a.aim), digits(v), verdict})
	}
	if len(rows) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("## Aims\n\nWhat Skein is meant to reach beside the limit and the best other tool; with eight at once, unless it says otherwise.\n\n")
	table(&b, []string{"", "aim", "measured", "reached"}, rows)
	return b.String()
}

func allAims() []aim {
	limit := func(fleet string, o operation, who string) func(*record) float64 {
		return func(r *record) float64 { return ratio(r.of(who, fleet, o), r.limit(fleet, o)) }
	}
	best := func(fleet string, o operation, who string) func(*record) float64 {
		return func(r *record) float64 { return ratio(r.of(who, fleet, o), r.best(fleet, o)) }
	}
	made := func(who string, atOnce int) func(*record) float64 {
		key := rowKey{part: partFleets, fleet: postgres, op: opProvision, atOnce: atOnce}
		mine, bare := key, key
		mine.who, bare.who = who, whoBare
		return func(r *record) float64 { return ratio(r.find(mine), r.find(bare)) }
	}
	large := func(fleet, who, to string) func(*record) float64 {
		return func(r *record) float64 { return ratio(r.large(fleet, who), r.large(fleet, to)) }
	}
	rate := func(fleet, who string) func(*record) float64 {
		return func(r *record) float64 {
			if found := r.large(fleet, who); found != nil {
				return found.rate().median
			}
			return math.NaN()
		}
	}
	return []aim{
		{what: "PostgreSQL, nothing to do, connecting: of pgbench -C with trust", of: limit(postgres, opNothing, whoFullCheck), aim: 0.70},
		{what: "PostgreSQL, nothing to do, connecting: of the best other tool", of: best(postgres, opNothing, whoFullCheck), aim: 2},
		{what: "PostgreSQL, nothing to do, by fingerprint: seconds for 10,000 tenants", of: fingerprint, aim: 1, atMost: true},
		{what: "Schemas, nothing to do, 10,000 tenants: of the bare loop", of: large(schemaFleet, whoSkein, whoBare), aim: 0.55},
		{what: "MariaDB, nothing to do, connecting: of the best other tool", of: best(mysql, opNothing, whoFullCheck), aim: 12},
		{what: "MariaDB, nothing to do, connecting, 10,000 tenants: tenants/s", of: rate(mysql, whoFullCheck), aim: 3000},
		{what: "MariaDB, nothing to do, connections kept, 10,000 tenants: tenants/s", of: rate(mysql, whoSkein), aim: 10000},
		{what: "SQLite, nothing to do, 10,000 tenants: of the bare loop", of: large(sqlite, whoSkein, whoBare), aim: 0.83},
		{what: "SQLite, nothing to do: of the best other tool", of: best(sqlite, opNothing, whoFullCheck), aim: 8},
		{what: "PostgreSQL, fresh: CPU of client and server, of the bare loop's server", of: freshCPU, aim: 1.15, atMost: true},
		{what: "PostgreSQL, fresh: of the best other tool", of: best(postgres, opFresh, whoSkein), aim: 1.5},
		{what: "MariaDB, fresh: of the best other tool", of: best(mysql, opFresh, whoSkein), aim: 1.4},
		{what: "SQLite, fresh: of the best other tool", of: best(sqlite, opFresh, whoSkein), aim: 2},
		{what: "PostgreSQL, new tenants one by one, in a Go program: of bare CREATE DATABASE ... TEMPLATE", of: made(whoLibrary, 1), aim: 0.9},
		{what: "PostgreSQL, new tenants, eight at once, in a Go program: likewise", of: made(whoLibrary, defaultAtOnce), aim: 0.9},
		{what: "PostgreSQL, new tenants one by one, a process each: likewise", of: made(whoSkein, 1), aim: 0.9},
		{what: "PostgreSQL, new tenants, eight at once, a process each: likewise", of: made(whoSkein, defaultAtOnce), aim: 0.9},
	}
}

// large is a contestant's row of ten thousand registered tenants: with fewer of them
// the start of a process counts for much.
func (r *record) large(fleet, who string) *row {
	return r.find(rowKey{part: partCost, fleet: fleet, op: opNothing, who: who, atOnce: defaultAtOnce, size: comparedUpTo})
}

// fingerprint is the time for ten thousand tenants of a server, in seconds.
func fingerprint(r *record) float64 {
	if found := r.large(postgres, whoSkein); found != nil {
		return found.each().median * comparedUpTo / 1000
	}
	return math.NaN()
}

// freshCPU compares all CPU time of Skein's run with that of the server alone in
// the bare loop's.
func freshCPU(r *record) float64 {
	mine, bare := r.of(whoSkein, postgres, opFresh), r.of(whoBare, postgres, opFresh)
	if mine == nil || bare == nil {
		return math.NaN()
	}
	return (mine.clientCPU().median + mine.serverCPU().median) / bare.serverCPU().median
}
