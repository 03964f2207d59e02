package main

import (
	"encoding/csv"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"
)

// exampleRecord has all fleets, operations and contestants, with rates that are
// known: each contestant makes its rate of tenants in a second.
func exampleRecord() *record {
	r := newRecord()
	add := func(k rowKey, rates ...float64) *row {
		found := r.row(k)
		for _, rate := range rates {
			found.Samples = append(found.Samples, sample{Tenants: int(rate), Seconds: 1, Client: 0.5, Server: 1, PeakKiB: 20 << 10})
		}
		return found
	}
	scale := map[operation]float64{opNothing: 1, opFresh: 0.2, opColumn: 0.8, opRollback: 0.7, opProvision: 0.1}
	for _, fleet := range fleetTitles {
		for o, s := range scale {
			for who, rate := range map[string]float64{whoBare: 250, whoSkein: 220, "goose": 80, "golang-migrate": 100, "dbmate": 60, "tern": 85, "Atlas": 20, "Knex, one script": 40} {
				add(rowKey{part: partFleets, fleet: fleet.name, op: o, who: who, atOnce: defaultAtOnce}, rate*s*0.9, rate*s, rate*s*1.1)
			}
		}
		add(rowKey{part: partFleets, fleet: fleet.name, op: opNothing, who: whoFullCheck, atOnce: defaultAtOnce}, 230)
		add(rowKey{part: partFleets, fleet: fleet.name, op: opFresh, who: "Knex, one script", atOnce: 1}, 11)
		add(rowKey{part: partFleets, fleet: fleet.name, op: opFresh, who: whoSkeinJS, atOnce: defaultAtOnce}, 33)
		for size, rate := range map[int]float64{10: 900, 100: 600, 1000: 150} {
			add(rowKey{part: partHistory, fleet: fleet.name, op: opNothing, who: whoFullCheck, atOnce: defaultAtOnce, size: size}, rate)
		}
	}
	for _, o := range []operation{opNothing} {
		add(rowKey{part: partFleets, fleet: postgres, op: o, who: whoPgbench, atOnce: defaultAtOnce}, 320)
	}
	for _, size := range []int{1000, 10000, 100000} {
		add(rowKey{part: partCost, fleet: sqlite, op: opNothing, who: whoSkein, atOnce: defaultAtOnce, size: size}, 2500)
		add(rowKey{part: partCost, fleet: postgres, op: opNothing, who: whoSkein, atOnce: defaultAtOnce, size: size}, 20000)
	}
	add(rowKey{part: partStart, fleet: postgres, op: opVersion, who: whoSkein, atOnce: 1, size: 30 << 20}, 100)
	add(rowKey{part: partStart, fleet: postgres, op: opStatus, who: whoSkein, atOnce: 1, size: 30 << 20}, 50)
	fast := r.row(rowKey{part: partFleets, fleet: postgres, op: opNothing, who: whoSkein, atOnce: defaultAtOnce})
	fast.Samples = []sample{{Tenants: 20000, Seconds: 1}}
	fast.Flights, fast.Connections = 0.4, 0.1
	return r
}

func TestSpread(t *testing.T) {
	nan := math.NaN()
	for _, tc := range []struct {
		values []float64
		want   spread
	}{
		{[]float64{3}, spread{3, 3, 3}},
		{[]float64{9, 1, 5}, spread{5, 1, 9}},
		{[]float64{4, 1, 3, 2}, spread{2.5, 1, 4}},
		{[]float64{nan, 2, math.Inf(1)}, spread{2, 2, 2}},
	} {
		if got := spreadOf(tc.values); got != tc.want {
			t.Errorf("spread of %v = %v, want %v", tc.values, got, tc.want)
		}
	}
	if got := spreadOf(nil); !math.IsNaN(got.median) || !math.IsNaN(got.min) || !math.IsNaN(got.max) {
		t.Errorf("spread of nothing = %v, want no numbers", got)
	}
}

func TestRow(t *testing.T) {
	r := &row{Samples: []sample{
		{Tenants: 10, Seconds: 2, Client: 0.1, Server: 0.2, PeakKiB: 2048},
		{Tenants: 20, Seconds: 1, Client: 0.4, Server: 0.1, PeakKiB: 1024},
		{Tenants: 10, Seconds: 1, Client: 0.3, Server: 0.3, PeakKiB: 4096},
	}}
	for what, got := range map[string][2]spread{
		"rate":       {r.rate(), {10, 5, 20}},
		"each":       {r.each(), {100, 50, 200}},
		"client CPU": {r.clientCPU(), {20, 10, 30}},
		"server CPU": {r.serverCPU(), {20, 5, 30}},
		"peak":       {r.peak(), {2, 1, 4}},
	} {
		if !near(got[0].median, got[1].median) || !near(got[0].min, got[1].min) || !near(got[0].max, got[1].max) {
			t.Errorf("%s = %v, want %v", what, got[0], got[1])
		}
	}
	if got := ratio(r, &row{Samples: []sample{{Tenants: 4, Seconds: 1}}}); got != 2.5 {
		t.Errorf("ratio = %v, want 2.5", got)
	}
	if got := ratio(r, nil); !math.IsNaN(got) {
		t.Errorf("ratio to nothing = %v, want no number", got)
	}
}

func near(a, b float64) bool { return math.Abs(a-b) < 1e-9 }

func TestDigits(t *testing.T) {
	for v, want := range map[float64]string{
		0.123: "0.12", 9.994: "9.99", 9.996: "10.0", 12.34: "12.3", 99.94: "99.9", 99.96: "100", 1234.5: "1,235", 12345678: "12,345,678", math.NaN(): "-",
	} {
		if got := digits(v); got != want {
			t.Errorf("digits(%v) = %q, want %q", v, got, want)
		}
	}
}

func TestMarkdown(t *testing.T) {
	r := exampleRecord()
	r.row(rowKey{part: partFleets, fleet: mysql, op: opFresh, who: "broken", atOnce: defaultAtOnce}).Note = "failed"
	text := markdown(facts{Day: "2026-01-05", Took: 90 * time.Second, Tenants: 1200, Sample: 40, Rounds: 3, Missing: []string{"Atlas is not here"}}, r)
	for _, want := range []string{
		"in 1m30s: 1,200 tenants a fleet where Skein has nothing to do, 40 where",
		"Not in the run: Atlas is not here",
		"| *pgbench -C, trust* | 8 | 320 (320–320) | 1.00 |",               // the limit is in italics
		"| goose | 8 | 80.0 (72.0–88.0) | 0.25 | 2.88 | 250 |",             // of pgbench; Skein --full-check; Skein
		"| goose | 8 | 16.0 (14.0–17.0) | 0.32 | 2.75 |",                   // of the bare loop
		"| broken (failed) | 8 | - | - | - |",                              // where there is nothing to compare
		"fresh | 11.0 (11.0–11.0) | 8.00, 0.73 times | 33.0, 3.00 times |", // Knex
		"| SQLite, a file a tenant: Skein | 100,000 | 2,500",
		"| Skein | 30.0 | 10.0 (10.0–10.0) | 20.0 | 20.0 (20.0–20.0) |",
		"| PostgreSQL, nothing to do, connecting: of the best other tool | at least 2.00 | 2.30 | yes |",
		"| PostgreSQL, nothing to do, by fingerprint: seconds for 10,000 tenants | at most 1.00 | 0.50 | yes |",
		"| MariaDB, fresh: of the best other tool | at least 1.40 | 2.20 | yes |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
	columns := 0
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "|") {
			columns = 0
			continue
		}
		if n := strings.Count(line, "|"); columns != 0 && n != columns {
			t.Errorf("a line of a table has %d columns and not %d: %s", n-1, columns-1, line)
		} else {
			columns = n
		}
	}
}

func TestMarkdownOfNothing(t *testing.T) {
	text := markdown(facts{}, newRecord())
	if strings.Contains(text, "##") || strings.Contains(text, "NaN") {
		t.Errorf("a page without results has tables:\n%s", text)
	}
}

func TestCSV(t *testing.T) {
	rows, err := csv.NewReader(strings.NewReader(csvOf(exampleRecord()))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	at := make(map[string]int)
	for i, name := range rows[0] {
		at[name] = i
	}
	found := false
	for _, r := range rows[1:] {
		if r[at["fleet"]] != postgres || r[at["operation"]] != "nothing" || r[at["contestant"]] != whoSkein || r[at["part"]] != partFleets {
			continue
		}
		found = true
		for name, want := range map[string]string{"tenants_per_second": "20000", "round_trips": "0.4", "of_the_limit": "62.5", "at_once": "8", "client_cpu_ms": "0"} {
			if got := r[at[name]]; got != want {
				t.Errorf("%s = %q, want %q", name, got, want)
			}
		}
	}
	if !found {
		t.Error("the row of Skein is not there")
	}
}

func TestPlots(t *testing.T) {
	all := plots(exampleRecord())
	for name, want := range map[string][]string{
		"fleets.svg":  {"PostgreSQL, a database a tenant", "MariaDB, a database a tenant", "golang-migrate", "20,000", "pgbench -C, trust 320"},
		"changes.svg": {"One more column", "New tenants"},
		"cost.svg":    {"100,000", "PostgreSQL", "Time by history"},
	} {
		svg := all[name]
		texts := textsOf(t, name, svg)
		for _, w := range want {
			if !strings.Contains(texts, w) {
				t.Errorf("%s does not say %q", name, w)
			}
		}
		if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
			t.Errorf("%s has something that is no number", name)
		}
	}
	if got := plots(newRecord()); len(got) != 0 {
		t.Errorf("%d drawings of nothing", len(got))
	}
}

// textsOf reads an SVG, which has to be well formed, and returns what it says.
func textsOf(t *testing.T, name, svg string) string {
	t.Helper()
	var texts strings.Builder
	d := xml.NewDecoder(strings.NewReader(svg))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return texts.String()
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if text, ok := token.(xml.CharData); ok {
			texts.Write(text)
		}
	}
}

func TestBarsAreBrokenOff(t *testing.T) {
	for _, tc := range []struct {
		value float64
		gaps  int
	}{{90, 0}, {190, 0}, {20000, 2}} {
		d := newDrawing(400, 100)
		d.bars(0, 0, 400, "", []bar{{"Skein", tc.value, "skein"}, {"other", 50, "other"}}, 100, "limit")
		if got := strings.Count(d.body.String(), `class="gap"`); got != tc.gaps {
			t.Errorf("a bar of %v where the limit is 100 has %d gaps, want %d", tc.value, got, tc.gaps)
		}
	}
}

func TestNiceStep(t *testing.T) {
	for height, want := range map[float64]float64{0.7: 0.2, 1: 0.2, 3: 1, 49: 10, 51: 20, 240: 50, 1000: 200} {
		if got := niceStep(height); !near(got, want) {
			t.Errorf("niceStep(%v) = %v, want %v", height, got, want)
		}
	}
}
