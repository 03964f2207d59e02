package main

import (
	"encoding/csv"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// fleetTitles are the fleets as readers know them, in the order of the results.
var fleetTitles = []struct{ name, title string }{
	{postgres, (&postgresFleet{}).title()},
	{schemaFleet, (&postgresFleet{schemas: true}).title()},
	{mysql, (&mysqlFleet{}).title()},
	{sqlite, (&sqliteFleet{}).title()},
}

var operationTitles = []struct {
	op    operation
	title string
}{
	{opNothing, "Nothing to do"},
	{opFresh, "Six migrations in empty tenants"},
	{opColumn, "One more column"},
	{opRollback, "The way back from that column"},
	{opProvision, "New tenants"},
}

// limit is the row that others are compared with: what the server, or the disk,
// allows at all.
func (r *record) limit(fleet string, o operation) *row {
	if found := r.find(rowKey{part: partFleets, fleet: fleet, op: o, who: whoPgbench, atOnce: defaultAtOnce}); found != nil {
		return found
	}
	return r.find(rowKey{part: partFleets, fleet: fleet, op: o, who: whoBare, atOnce: defaultAtOnce})
}

// of returns the row of a contestant on a fleet, at the usual number at once.
func (r *record) of(who, fleet string, o operation) *row {
	return r.find(rowKey{part: partFleets, fleet: fleet, op: o, who: who, atOnce: defaultAtOnce})
}

// isPeer says whether a row is of another tool.
func (r *row) isPeer() bool {
	switch r.Who {
	case whoBare, whoBareKept, whoPgbench, whoSkein, whoFullCheck, whoSkeinJS, whoLibrary:
		return false
	}
	return true
}

// best is the fastest other tool, at the usual number at once.
func (r *record) best(fleet string, o operation) *row {
	var best *row
	for _, found := range r.rows {
		if found.Part == partFleets && found.Fleet == fleet && found.Op == o && found.AtOnce == defaultAtOnce && found.isPeer() && len(found.Samples) > 0 &&
			(best == nil || found.rate().median > best.rate().median) {
			best = found
		}
	}
	return best
}

// markdown is the page with all results.
func markdown(f facts, r *record) string {
	var b strings.Builder
	b.WriteString("# Results\n\nWritten by `make bench`; [the page on performance](../../docs/performance.md) says what they mean.\n\n")
	fmt.Fprintf(&b, "Measured on %s, in %s: %s tenants a fleet where Skein has nothing to do, %d where they are changed and for other tools, %d for anything one by one but the script with Knex; median of %d rounds. Everything ran on one machine.\n\n",
		f.Day, f.Took.Truncate(time.Second), thousands(int64(f.Tenants)), f.Sample, f.One, f.Rounds)
	for _, list := range [][]string{f.Machine, f.Versions, f.Settings} {
		if len(list) > 0 {
			b.WriteString("- " + strings.Join(list, "; ") + "\n")
		}
	}
	for _, m := range f.Missing {
		b.WriteString("- Not in the run: " + m + "\n")
	}
	b.WriteString("\n" + legend)
	b.WriteString(aims(r))
	for _, fleet := range fleetTitles {
		for _, o := range operationTitles {
			b.WriteString(operationTable(r, fleet.name, fleet.title, o.op, o.title))
		}
	}
	b.WriteString(knexTable(r))
	b.WriteString(costTable(r, partCost, "Cost by fleet", "Registered tenants with nothing to do. Time should grow with their number, and memory should not. They share a thousand databases, schemas or files; on PostgreSQL all but one of the databases are rows of the server's catalog alone, which is where Skein looks.", "tenants"))
	b.WriteString(costTable(r, partHistory, "Cost by history", "Applied migrations of tenants with nothing to do.", "applied"))
	b.WriteString(startTable(r))
	return b.String()
}

const legend = `In the tables: *tenants/s* is the median of the rounds, with the least and the most; *of the limit* compares with the
row in italics; *Skein is* says how many times as fast as the row Skein is with its eight at once. CPU is in
milliseconds a tenant, of the tool's processes and of the database server. Memory is the peak of the processes that run
at once. A round trip is something sent to the server and its answer; they are counted over ten tenants, apart from
what is timed.

`

func table(b *strings.Builder, header []string, rows [][]string) {
	b.WriteString("| " + strings.Join(header, " | ") + " |\n|")
	for i := range header {
		if i == 0 {
			b.WriteString("---|")
		} else {
			b.WriteString("--:|")
		}
	}
	b.WriteString("\n")
	for _, r := range rows {
		b.WriteString("| " + strings.Join(r, " | ") + " |\n")
	}
	b.WriteString("\n")
}

// rated writes a rate with its ends.
func rated(s spread) string {
	if math.IsNaN(s.median) {
		return "-"
	}
	return fmt.Sprintf("%s (%s–%s)", digits(s.median), digits(s.min), digits(s.max))
}

// times writes a ratio.
func times(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "-"
	}
	return digits(v)
}

func operationTable(r *record, fleet, title string, o operation, what string) string {
	var shown []*row
	for _, found := range r.rows {
		if found.Part == partFleets && found.Fleet == fleet && found.Op == o && (len(found.Samples) > 0 || found.Note != "") {
			shown = append(shown, found)
		}
	}
	if len(shown) == 0 {
		return ""
	}
	slices.SortStableFunc(shown, func(a, b *row) int {
		if d := b.AtOnce - a.AtOnce; d != 0 {
			return d
		}
		return rank(a) - rank(b)
	})
	limit, skeins := r.limit(fleet, o), []string{whoSkein}
	if r.of(whoFullCheck, fleet, o) != nil {
		skeins = []string{whoFullCheck, whoSkein}
	}
	header := []string{"", "at once", "tenants/s", "of the limit"}
	for _, who := range skeins {
		if r.of(who, fleet, o) != nil {
			header = append(header, who+" is")
		}
	}
	header = append(header, "client CPU", "server CPU", "memory, MiB", "round trips", "connections")
	var rows [][]string
	for _, found := range shown {
		name := found.Who
		if found == limit {
			name = "*" + name + "*"
		}
		if found.Note != "" {
			name += " (" + found.Note + ")"
		}
		cells := []string{name, fmt.Sprint(found.AtOnce), rated(found.rate()), times(ratio(found, limit))}
		for _, who := range skeins {
			if of := r.of(who, fleet, o); of != nil {
				cells = append(cells, times(ratio(of, found)))
			}
		}
		server := digits(found.serverCPU().median)
		if fleet == sqlite {
			server = "-"
		}
		cells = append(cells, digits(found.clientCPU().median), server, digits(found.peak().median), counts(found.Flights), counts(found.Connections))
		rows = append(rows, cells)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "## %s: %s\n\n", title, lowerFirst(what))
	table(&b, header, rows)
	return b.String()
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }

// counts writes a number that was counted.
func counts(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
}

// rank is where a contestant stands in a table: the limits, Skein, the others.
func rank(r *row) int {
	for i, who := range []string{whoPgbench, whoBareKept, whoBare, whoFullCheck, whoSkein, whoLibrary, whoSkeinJS} {
		if r.Who == who {
			return i
		}
	}
	return 100
}

func knexTable(r *record) string {
	script := (&knexScript{}).name()
	var rows [][]string
	for _, fleet := range fleetTitles {
		for _, o := range []operation{opFresh, opNothing} {
			usual := r.find(rowKey{part: partFleets, fleet: fleet.name, op: o, who: script, atOnce: 1})
			if usual == nil {
				continue
			}
			cells := []string{fleet.title + ", " + string(o), rated(usual.rate())}
			for _, who := range []string{script, whoSkeinJS, whoSkein} {
				found := r.of(who, fleet.name, o)
				if found == nil && who == whoSkein {
					found = r.of(whoFullCheck, fleet.name, o)
				}
				if found == nil {
					cells = append(cells, "-")
					continue
				}
				cells = append(cells, fmt.Sprintf("%s, %s times", digits(found.rate().median), times(ratio(found, usual))))
			}
			rows = append(rows, cells)
		}
	}
	if len(rows) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("## Knex\n\nThe usual script (one knex instance for each tenant, `migrate.latest()`, one after the other) against the same with eight in flight, Skein with the same .js files, and Skein with the same migrations in SQL; tenants/s.\n\n")
	table(&b, []string{"", "the script", "eight in flight", "Skein, .js", "Skein, SQL"}, rows)
	return b.String()
}

func costTable(r *record, part, title, text, size string) string {
	header := []string{"", size, "tenants/s", "ms a tenant", "client CPU", "server CPU", "memory, MiB"}
	if part == partCost {
		header = append(header, "seconds a run")
	}
	var rows [][]string
	for _, fleet := range fleetTitles {
		for _, found := range r.rows {
			if found.Part != part || found.Fleet != fleet.name || len(found.Samples) == 0 {
				continue
			}
			server := digits(found.serverCPU().median)
			if fleet.name == sqlite {
				server = "-"
			}
			cells := []string{
				fleet.title + ": " + found.Who, thousands(int64(found.Size)), rated(found.rate()), digits(found.each().median),
				digits(found.clientCPU().median), server, digits(found.peak().median),
			}
			if part == partCost {
				cells = append(cells, digits(found.each().median*float64(found.Size)/1000))
			}
			rows = append(rows, cells)
		}
	}
	if len(rows) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n%s\n\n", title, text)
	table(&b, header, rows)
	return b.String()
}

func startTable(r *record) string {
	var rows [][]string
	for _, version := range r.rows {
		if version.Part != partStart || version.Op != opVersion {
			continue
		}
		cells := []string{version.Who, fmt.Sprintf("%.1f", float64(version.Size)/(1<<20)), rated(version.each()), digits(version.peak().median), "-", "-", "-"}
		status := r.find(rowKey{part: partStart, fleet: version.Fleet, op: opStatus, who: version.Who, atOnce: 1, size: version.Size})
		if status != nil {
			cells[4], cells[5], cells[6] = rated(status.each()), digits(status.clientCPU().median), digits(status.peak().median)
		}
		rows = append(rows, cells)
	}
	if len(rows) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("## Start-up\n\nWhole processes, one after the other: what says its version, and where one tenant stands (`status`). The size is the program's; of Knex it is the packages', without Node.\n\n")
	table(&b, []string{"", "size, MiB", "version, ms", "memory, MiB", "status, ms", "client CPU", "memory, MiB"}, rows)
	return b.String()
}

// csvOf is all that was measured, a line a row.
func csvOf(r *record) string {
	var b strings.Builder
	w := csv.NewWriter(&b)
	write := func(cells ...string) {
		_ = w.Write(cells) // to memory
	}
	write("part", "fleet", "operation", "contestant", "at_once", "size", "tenants", "rounds",
		"tenants_per_second", "tenants_per_second_min", "tenants_per_second_max", "client_cpu_ms", "server_cpu_ms", "peak_mib",
		"round_trips", "connections", "of_the_limit", "note")
	for _, found := range r.rows {
		if len(found.Samples) == 0 && found.Note == "" {
			continue
		}
		rate := found.rate()
		limited := math.NaN()
		if found.Part == partFleets {
			limited = ratio(found, r.limit(found.Fleet, found.Op))
		}
		write(found.Part, found.Fleet, string(found.Op), found.Who, fmt.Sprint(found.AtOnce), fmt.Sprint(found.Size), fmt.Sprint(found.tenants()), fmt.Sprint(len(found.Samples)),
			number(rate.median), number(rate.min), number(rate.max), number(found.clientCPU().median), number(found.serverCPU().median), number(found.peak().median),
			number(found.Flights), number(found.Connections), number(limited), found.Note)
	}
	w.Flush()
	return b.String()
}

// number is for programs; nothing where there is none.
func number(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return ""
	}
	return strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.3f", v), "0"), ".")
}
