package source

import (
	"cmp"
	"strings"
)

// CompareNames is Knex's order of migrations, and so that of every folder which
// has one of its files: names are compared by UTF-16 code units, as JavaScript
// compares strings (10_x, 9_x, B, a). It returns a negative number, 0 or a
// positive number.
//
// Source: lib/migrations/migrate/sources/fs-migrations.js of Knex sorts with
// lodash's sortBy, which compares with < and >.
func CompareNames(a, b string) int {
	n := min(len(a), len(b))
	i := 0
	for i < n && a[i] == b[i] {
		i++
	}
	if i == n {
		return cmp.Compare(len(a), len(b))
	}
	// UTF-8 sorts as code points do, and UTF-16 differs from that in one thing:
	// the surrogates that encode U+10000 and above (first byte 0xF0 to 0xF4) are
	// smaller than U+E000 to U+FFFF (0xEE and 0xEF). No byte within a character
	// is as large.
	x, y := a[i], b[i]
	if x >= 0xEE && y >= 0xEE && (x >= 0xF0) != (y >= 0xF0) {
		return cmp.Compare(y, x)
	}
	return cmp.Compare(x, y)
}

// digits are those that begin a name.
func digits(name string) string {
	end := 0
	for end < len(name) && name[end] >= '0' && name[end] <= '9' {
		end++
	}
	return name[:end]
}

// compareVersions compares strings of digits as numbers of any size.
func compareVersions(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}
