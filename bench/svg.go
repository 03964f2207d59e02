package main

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// A drawing is an SVG that is legible on light and on dark pages: it has a
// background of its own, and follows the reader's colour scheme.
type drawing struct {
	body          strings.Builder
	width, height float64
}

const style = `
  .ground { fill: #ffffff; stroke: #d0d7de }
  text { font: 11px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
  .title { font-size: 13px; font-weight: 600 }
  .head { font-size: 15px; font-weight: 600 }
  .faint { fill: #59636e }
  .end { text-anchor: end }
  .middle { text-anchor: middle }
  .skein { fill: #0969da; stroke: #0969da }
  .check { fill: #54aeff; stroke: #54aeff }
  .other { fill: #afb8c1; stroke: #afb8c1 }
  .limit { stroke: #cf222e; stroke-width: 1.5; stroke-dasharray: 4 3 }
  .axis { stroke: #d0d7de }
  .number { paint-order: stroke; stroke: #ffffff; stroke-width: 4px }
  .one { fill: #0969da; stroke: #0969da }
  .two { fill: #bc4c00; stroke: #bc4c00 }
  .three { fill: #1a7f37; stroke: #1a7f37 }
  .four { fill: #8250df; stroke: #8250df }
  path { stroke-width: 2 }
  .gap { stroke: #ffffff; stroke-width: 2.5 }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117; stroke: #3d444d }
    text { fill: #f0f6fc }
    .faint { fill: #9198a1 }
    .skein { fill: #4493f8; stroke: #4493f8 }
    .check { fill: #1f6feb; stroke: #1f6feb; opacity: 0.75 }
    .other { fill: #656c76; stroke: #656c76 }
    .limit { stroke: #f85149 }
    .axis { stroke: #3d444d }
    .number { stroke: #0d1117 }
    .one { fill: #4493f8; stroke: #4493f8 }
    .two { fill: #db6d28; stroke: #db6d28 }
    .three { fill: #3fb950; stroke: #3fb950 }
    .four { fill: #ab7df8; stroke: #ab7df8 }
    .gap { stroke: #0d1117 }
  }
`

func newDrawing(width, height float64) *drawing { return &drawing{width: width, height: height} }

// String is the finished SVG; alt says in words what it shows.
func (d *drawing) svg(alt string) string {
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%[1]g" height="%[2]g" viewBox="0 0 %[1]g %[2]g" role="img" aria-label="%[3]s">
<style>%[4]s</style>
<rect class="ground" x="0.5" y="0.5" width="%[5]g" height="%[6]g" rx="6"/>
%[7]s</svg>
`, d.width, d.height, html.EscapeString(alt), style, d.width-1, d.height-1, d.body.String())
}

func (d *drawing) text(x, y float64, class, s string) {
	fmt.Fprintf(&d.body, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\">%s</text>\n", x, y, class, html.EscapeString(s))
}

func (d *drawing) bar(x, y, width, height float64, class string) {
	fmt.Fprintf(&d.body, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" class=\"%s\"/>\n", x, y, max(width, 0.5), height, class)
}

func (d *drawing) line(x1, y1, x2, y2 float64, class string) {
	fmt.Fprintf(&d.body, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" class=\"%s\"/>\n", x1, y1, x2, y2, class)
}

// A bar of a chart.
type bar struct {
	label string
	value float64
	class string
}

// barHeight is from one bar to the next.
const barHeight = 16

// barsHeight is the height of a panel with so many bars.
func barsHeight(n int) float64 { return 46 + barHeight*float64(n) }

// bars draws a panel. Bars that are far longer than the limit are broken off, so
// that the others can be compared.
func (d *drawing) bars(x, y, width float64, title string, all []bar, limit float64, limitLabel string) {
	const labels, numbers = 130, 62
	room := width - labels - numbers
	scale := room / limit
	for _, b := range all {
		if beyond(b.value, limit) {
			scale = min(scale, 0.88*room/limit)
		} else {
			scale = min(scale, room/b.value)
		}
	}
	d.text(x, y+12, "title", title)
	top, at := y+36, x+labels+limit*scale
	d.text(at, top-8, "faint end", limitLabel+" "+digits(limit))
	for i, b := range all {
		row := top + barHeight*float64(i)
		long := min(b.value*scale, room)
		d.text(x+labels-6, row+10, "end", b.label)
		d.bar(x+labels, row+1, long, barHeight-5, b.class)
		if beyond(b.value, limit) {
			cut := x + labels + long - 16
			d.line(cut, row+barHeight-2, cut+6, row-1, "gap")
			d.line(cut+5, row+barHeight-2, cut+11, row-1, "gap")
		}
	}
	d.line(at, top-4, at, top+barHeight*float64(len(all)), "limit")
	for i, b := range all {
		d.text(x+labels+min(b.value*scale, room)+5, top+barHeight*float64(i)+10, "number", digits(b.value))
	}
}

// beyond says whether a bar is broken off.
func beyond(value, limit float64) bool { return value > 2*limit }

// A point of a line, on an axis of powers of ten.
type point struct{ x, y float64 }

// A curve is a line through points.
type curve struct {
	label, class string
	points       []point
}

// lines draws a panel that reaches from zero to what the curves need.
func (d *drawing) lines(x, y, width, height float64, title, unit string, curves []curve) {
	d.text(x, y+12, "title", title)
	d.text(x, y+28, "faint", unit)
	left, right, top, bottom := x+46, x+width-14, y+62, y+height-22
	var xs []float64
	highest := 0.0
	for _, c := range curves {
		for _, p := range c.points {
			highest = max(highest, p.y)
			if !slices.Contains(xs, p.x) {
				xs = append(xs, p.x)
			}
		}
	}
	if highest == 0 {
		return
	}
	slices.Sort(xs)
	step := niceStep(highest)
	highest = step * math.Ceil(highest*1.02/step)
	across := func(v float64) float64 {
		if len(xs) == 1 {
			return (left + right) / 2
		}
		return left + (right-left)*(math.Log10(v)-math.Log10(xs[0]))/(math.Log10(xs[len(xs)-1])-math.Log10(xs[0]))
	}
	up := func(v float64) float64 { return bottom - (bottom-top)*v/highest }
	for v := 0.0; v <= highest*1.001; v += step {
		d.line(left, up(v), right, up(v), "axis")
		d.text(left-6, up(v)+4, "faint end", strings.TrimSuffix(fmt.Sprintf("%.4g", v), ".0"))
	}
	for _, v := range xs {
		d.text(across(v), bottom+16, "faint middle", thousands(int64(v)))
	}
	legend := x
	for _, c := range curves {
		var path strings.Builder
		for j, p := range c.points {
			fmt.Fprintf(&path, "%s%.1f %.1f ", map[bool]string{true: "M", false: "L"}[j == 0], across(p.x), up(p.y))
			d.bar(across(p.x)-3, up(p.y)-3, 6, 6, c.class)
		}
		fmt.Fprintf(&d.body, "<path d=\"%s\" class=\"%s\" style=\"fill: none\"/>\n", strings.TrimSpace(path.String()), c.class)
		d.bar(legend, y+38, 9, 9, c.class)
		d.text(legend+13, y+46, "", c.label)
		legend += 21 + 6*float64(len(c.label)) // about as wide as it is written
	}
}

// niceStep is a distance of lines such that two to five of them reach a height.
func niceStep(height float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(height)))
	for _, step := range []float64{0.2, 0.5, 1, 2} {
		if height/(step*power) <= 5 {
			return step * power
		}
	}
	return 5 * power
}

// plots are all drawings of a record, by file name.
func plots(r *record) map[string]string {
	all := make(map[string]string)
	if svg := barPlot(r, []operation{opNothing, opFresh}); svg != "" {
		all["fleets.svg"] = svg
	}
	if svg := barPlot(r, []operation{opColumn, opRollback, opProvision}); svg != "" {
		all["changes.svg"] = svg
	}
	if svg := costPlot(r); svg != "" {
		all["cost.svg"] = svg
	}
	return all
}

// barPlot is a column for each operation, and a row for each fleet.
func barPlot(r *record, operations []operation) string {
	const margin, between = 18, 28
	type panel struct {
		title, limitLabel string
		all               []bar
		limit             float64
	}
	var rows [][]panel
	for _, fleet := range fleetTitles {
		var row []panel
		filled := false
		for _, o := range operations {
			p := panel{title: fleet.title}
			if limit := r.limit(fleet.name, o); limit != nil {
				p.limit, p.limitLabel = limit.rate().median, limit.Who
			}
			p.all = barsOf(r, fleet.name, o)
			filled = filled || len(p.all) > 0
			row = append(row, p)
		}
		if filled {
			rows = append(rows, row)
		}
	}
	if len(rows) == 0 {
		return ""
	}
	width := 430.0*float64(len(operations)) + 2*margin
	if len(operations) > 2 {
		width = 390*float64(len(operations)) + 2*margin
	}
	height := 62.0
	heights := make([]float64, len(rows))
	for i, row := range rows {
		for _, p := range row {
			heights[i] = max(heights[i], barsHeight(len(p.all)))
		}
		height += heights[i] + 8
	}
	d := newDrawing(width, height+8)
	each := (width - 2*margin - between*float64(len(operations)-1)) / float64(len(operations))
	for i, o := range operations {
		for _, t := range operationTitles {
			if t.op == o {
				d.text(margin+(each+between)*float64(i), 28, "head", t.title)
				d.text(margin+(each+between)*float64(i), 45, "faint", "tenants a second, 8 at once; longer is better")
			}
		}
	}
	y := 62.0
	for i, row := range rows {
		for j, p := range row {
			if len(p.all) > 0 {
				d.bars(margin+(each+between)*float64(j), y, each, p.title, p.all, p.limit, p.limitLabel)
			}
		}
		y += heights[i] + 8
	}
	return d.svg("Tenants a second of Skein and of other tools, beside the limit")
}

// barsOf are Skein and the other tools, the fastest first.
func barsOf(r *record, fleet string, o operation) []bar {
	var all []bar
	for _, found := range r.rows {
		if found.Part != partFleets || found.Fleet != fleet || found.Op != o || found.AtOnce != defaultAtOnce || len(found.Samples) == 0 {
			continue
		}
		b := bar{label: found.Who, value: found.rate().median, class: "other"}
		switch found.Who {
		case whoBare, whoBareKept, whoPgbench, whoSkeinJS, whoLibrary:
			continue
		case whoSkein:
			b.class = "skein"
		case whoFullCheck:
			b.class = "check"
		}
		all = append(all, b)
	}
	slices.SortStableFunc(all, func(a, b bar) int { return cmp.Compare(b.value, a.value) })
	return all
}

// costPlot shows what grows with the fleet and with the history.
func costPlot(r *record) string {
	curves := func(part, of string, value func(*row) float64) []curve {
		var all []curve
		at := make(map[string]int)
		for _, found := range r.rows {
			if found.Part != part || len(found.Samples) == 0 {
				continue
			}
			label := map[string]string{postgres: "PostgreSQL", schemaFleet: schemaFleet, mysql: "MariaDB", sqlite: "SQLite"}[found.Fleet]
			if found.Who != of {
				continue
			}
			i, ok := at[label]
			if !ok {
				i = len(all)
				at[label] = i
				all = append(all, curve{label: label, class: []string{"one", "two", "three", "four"}[i%4]})
			}
			all[i].points = append(all[i].points, point{float64(found.Size), value(found)})
		}
		for _, c := range all {
			slices.SortFunc(c.points, func(a, b point) int { return cmp.Compare(a.x, b.x) })
		}
		return all
	}
	type panel struct {
		title, unit string
		curves      []curve
	}
	var panels []panel
	for _, p := range []panel{
		{"Time by fleet", "seconds a 1,000 registered tenants", curves(partCost, whoSkein, func(r *row) float64 { return r.each().median })},
		{"Memory by fleet", "peak MiB, by registered tenants", curves(partCost, whoSkein, func(r *row) float64 { return r.peak().median })},
		{"Time by history", "ms a tenant, by applied migrations", curves(partHistory, whoFullCheck, func(r *row) float64 { return r.each().median })},
	} {
		if len(p.curves) > 0 {
			panels = append(panels, p)
		}
	}
	if len(panels) == 0 {
		return ""
	}
	const margin, each, height = 18, 280, 236
	d := newDrawing(2*margin+each*float64(len(panels))+20*float64(len(panels)-1), height+40)
	for i, p := range panels {
		d.lines(margin+(each+20)*float64(i), 16, each, height, p.title, p.unit, p.curves)
	}
	return d.svg("What Skein takes when there is nothing to do, by the number of tenants and of applied migrations")
}
