package ui

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/rivo/uniseg"
)

// A Table is rows of cells that line up. Colours in cells do not count as
// width.
type Table struct {
	rows  [][]cell
	right map[int]bool
}

type cell struct {
	text  string
	style func(string) string
}

// Styled is a cell with a style, which is applied after its width was taken.
func Styled(style func(string) string, text string) any { return cell{text, style} }

// RightAlign makes columns, counted from 0, line up on their right.
func (t *Table) RightAlign(columns ...int) {
	t.right = make(map[int]bool)
	for _, c := range columns {
		t.right[c] = true
	}
}

// Row adds a row. A cell is a value of Styled or anything that fmt.Sprint takes.
func (t *Table) Row(cells ...any) {
	row := make([]cell, len(cells))
	for i, c := range cells {
		switch c := c.(type) {
		case cell:
			row[i] = c
		default:
			row[i] = cell{text: fmt.Sprint(c)}
		}
		row[i].text = Printable(row[i].text)
	}
	t.rows = append(t.rows, row)
}

// Write writes the rows, each behind indent, with two spaces between columns.
func (t *Table) Write(w io.Writer, indent string) error {
	var widths []int
	for _, row := range t.rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], Width(c.text))
		}
	}
	var b strings.Builder
	for _, row := range t.rows {
		b.WriteString(indent)
		last := len(row) - 1
		for last > 0 && row[last].text == "" {
			last--
		}
		for i, c := range row[:last+1] {
			if i > 0 {
				b.WriteString("  ")
			}
			pad := strings.Repeat(" ", widths[i]-Width(c.text))
			text := c.text
			if c.style != nil {
				text = c.style(text)
			}
			switch {
			case t.right[i]:
				b.WriteString(pad + text)
			case i == last:
				b.WriteString(text)
			default:
				b.WriteString(text + pad)
			}
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Width is how many columns of a terminal a text takes.
func Width(s string) int { return uniseg.StringWidth(s) }

// Fit cuts a text to a width, with an ellipsis where something was cut.
func Fit(s string, width int) string {
	if Width(s) <= width {
		return s
	}
	var b strings.Builder
	used, state := 0, -1
	for s != "" {
		var cluster string
		var w int
		cluster, s, w, state = uniseg.FirstGraphemeClusterInString(s, state)
		if used+w > width-1 {
			break
		}
		b.WriteString(cluster)
		used += w
	}
	return b.String() + "…"
}

// Count is a number with its thousands apart.
func Count(n int) string {
	s := strconv.Itoa(n)
	start := 0
	if n < 0 {
		start = 1
	}
	for i := len(s) - 3; i > start; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Plural is a count with its noun: "1 tenant", "2 tenants".
func Plural(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return Count(n) + " " + noun
}

// Took is a duration as a person reads it: 8ms, 1.4s, 2m05s, 3h10m.
func Took(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return "<1ms"
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Truncate(100*time.Millisecond).Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}

// Names is at most limit names, and how many more there are. total may be more
// than len(names).
func Names(names []string, limit, total int) string {
	shown := names
	if len(shown) > limit {
		shown = shown[:limit]
	}
	s := strings.Join(shown, ", ")
	if more := total - len(shown); more > 0 {
		s += fmt.Sprintf(" and %s more", Count(more))
	}
	return s
}
