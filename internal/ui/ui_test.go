package ui

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTable(t *testing.T) {
	shout := func(s string) string { return "<b>" + s + "</b>" }
	var table Table
	table.RightAlign(1)
	table.Row("SLUG", "N", "WHAT", "")
	table.Row("acme", 12, Styled(shout, "fine"), "x")
	table.Row("你好", 3, "", "")
	table.Row("a\nb", 100, "end", "")
	table.Row("only")
	var out bytes.Buffer
	if err := table.Write(&out, "  "); err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		"  SLUG    N  WHAT",
		"  acme   12  <b>fine</b>  x",
		"  你好    3",
		"  a b   100  end",
		"  only",
		"",
	}, "\n")
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &out, want)
	}
	for line := range strings.Lines(out.String()) {
		if strings.TrimRight(line, " \n")+"\n" != line {
			t.Errorf("%q ends with spaces", line)
		}
	}
}

func TestEmptyTable(t *testing.T) {
	var table Table
	var out bytes.Buffer
	if err := table.Write(&out, ""); err != nil || out.Len() > 0 {
		t.Errorf("a table without rows wrote %q, %v", &out, err)
	}
}

func TestFit(t *testing.T) {
	for _, test := range []struct {
		text  string
		width int
		want  string
	}{
		{"short", 10, "short"},
		{"exactly", 7, "exactly"},
		{"one too many", 11, "one too ma…"},
		{"你好你好", 8, "你好你好"},
		{"你好你好", 7, "你好你…"},
		{"你好你好", 6, "你好…"},                       // half a character does not fit
		{"e\u0301e\u0301e\u0301", 2, "e\u0301…"}, // a letter keeps its accent
		{"👩‍👩‍👧👩‍👩‍👧", 3, "👩‍👩‍👧…"},
		{"", 0, ""},
		{"x", 1, "x"},
		{"xy", 1, "…"},
	} {
		got := Fit(test.text, test.width)
		if got != test.want {
			t.Errorf("Fit(%q, %d) = %q, want %q", test.text, test.width, got, test.want)
		}
		if Width(got) > test.width {
			t.Errorf("Fit(%q, %d) is %d wide", test.text, test.width, Width(got))
		}
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain, Ünï, 你好 👩‍👩‍👧":           "plain, Ünï, 你好 👩‍👩‍👧",
		"two\nlines\tand\r\n":            "two lines and  ",
		"\x1b[31mred\x1b[0m":             "\ufffd[31mred\ufffd[0m",
		"\x1b]0;title\x07":               "\ufffd]0;title\ufffd",
		"back\b\bspace":                  "back\ufffd\ufffdspace",
		"c1 \u009b31m":                   "c1 \ufffd31m",
		"not UTF-8 \xff\xfe":             "not UTF-8 \ufffd\ufffd",
		"turned \u202egnp.exe\u202c":     "turned \ufffdgnp.exe\ufffd",
		"isolated \u2066a\u2069":         "isolated \ufffda\ufffd",
		"nul \x00, delete \x7f, e\u0301": "nul \ufffd, delete \ufffd, e\u0301",
	} {
		if got := Printable(in); got != want {
			t.Errorf("Printable(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestNumbers(t *testing.T) {
	for n, want := range map[int]string{0: "0", 7: "7", 999: "999", 1000: "1,000", 123456: "123,456", 1234567: "1,234,567", -999: "-999", -1000: "-1,000"} {
		if got := Count(n); got != want {
			t.Errorf("Count(%d) = %q, want %q", n, got, want)
		}
	}
	for n, want := range map[int]string{0: "0 tenants", 1: "1 tenant", 2: "2 tenants", 1000: "1,000 tenants"} {
		if got := Plural(n, "tenant"); got != want {
			t.Errorf("Plural(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "<1ms", 999 * time.Microsecond: "<1ms", time.Millisecond: "1ms", 999 * time.Millisecond: "999ms",
		time.Second: "1.0s", 1450 * time.Millisecond: "1.4s", 59940 * time.Millisecond: "59.9s", 59960 * time.Millisecond: "59.9s",
		time.Minute: "1m00s", 125 * time.Second: "2m05s", time.Hour: "1h00m", 100*time.Hour + 59*time.Minute: "100h59m",
	} {
		if got := Took(d); got != want {
			t.Errorf("Took(%s) = %q, want %q", d, got, want)
		}
	}
}

func TestNames(t *testing.T) {
	all := []string{"a", "b", "c", "d"}
	for _, test := range []struct {
		limit, total int
		want         string
	}{
		{4, 4, "a, b, c, d"}, {3, 4, "a, b, c and 1 more"}, {2, 5000, "a, b and 4,998 more"}, {9, 6, "a, b, c, d and 2 more"},
	} {
		if got := Names(all, test.limit, test.total); got != test.want {
			t.Errorf("Names(%d, %d) = %q, want %q", test.limit, test.total, got, test.want)
		}
	}
	if got := Names(nil, 3, 0); got != "" {
		t.Errorf("Names of none = %q", got)
	}
}

// TestNoTerminal shows that what goes to a file or a pipe has neither colours
// nor a line that changes.
func TestNoTerminal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	term := NewTerminal(f, f, TerminalOptions{Term: "xterm"})
	if got := term.OnOut(Red, "x") + term.OnErr(Red, "x"); got != "xx" {
		t.Errorf("a file got colours: %q", got)
	}
	if term.Live() || Keyboard(f) != nil {
		t.Error("a file was taken for a terminal")
	}
	live := NewLive(term, func(int) string { return "never shown" })
	live.Print("one")
	live.Print("two")
	live.End()
	live.End()
	if got, err := os.ReadFile(f.Name()); err != nil || string(got) != "one\ntwo\n" {
		t.Errorf("the file has %q, %v", got, err)
	}
	if got := paint(true, Red, ""); got != "" {
		t.Errorf("nothing was painted: %q", got)
	}
}
