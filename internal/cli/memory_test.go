//go:build linux || darwin

package cli_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestManyTenants holds the command to a memory that does not depend on how many
// tenants there are: it is measured with a thousand and with a hundred thousand.
// The command is built as it is installed, since the race detector's own memory
// would be measured otherwise.
func TestManyTenants(t *testing.T) {
	t.Parallel()
	const (
		few, many = 1_000, 100_000
		most      = 100 << 20 // of any command, in bytes
		growth    = 32 << 20  // from few tenants to many: what is read ahead
	)
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin+"/", "../../cmd/skein", "./testdata/peak")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the command: %v\n%s", err, out)
	}

	commands := []struct {
		args []string
		want func(tenants int) string // the output has it
	}{
		{[]string{"tenants", "import", "tenants.csv"}, func(n int) string { return fmt.Sprintf("Added %s tenants\n", thousands(n)) }},
		{[]string{"tenants", "list"}, func(n int) string { return fmt.Sprintf("\nt-%d ", n-1) }},
		{[]string{"tenants", "list", "--json"}, func(n int) string { return fmt.Sprintf(`"slug":"t-%d"`, n-1) }},
		{[]string{"tenants", "list", "--tenants", "t-9*", "--skip-tenants", "t-99*"}, func(int) string { return "\nt-98 " }},
		{[]string{"plan", "--where", "tier=internal"}, func(n int) string { return fmt.Sprintf("%s tenants (t-0, ", thousands(n/100)) }},
		{[]string{"plan", "--all"}, func(n int) string { return fmt.Sprintf("%s tenants (t-0, t-1, t-10 and ", thousands(n)) }},
	}
	memory := make(map[int][]int64)
	for _, n := range []int{few, many} {
		dir := t.TempDir()
		var list strings.Builder
		list.WriteString("slug,url,label:tier\n")
		for i := range n {
			tier := ""
			if i%100 == 0 {
				tier = "internal"
			}
			fmt.Fprintf(&list, "t-%d,sqlite:shared.db,%s\n", i, tier)
		}
		write(t, filepath.Join(dir, "tenants.csv"), list.String())
		write(t, filepath.Join(dir, "shared.db"), "")
		write(t, filepath.Join(dir, "migrations/tenant/1_one.sql"), "-- migrate:up\nCREATE TABLE one (id integer);\n")
		run := func(args ...string) (string, int64) {
			report := filepath.Join(dir, "peak")
			cmd := exec.Command(filepath.Join(bin, "peak"), append([]string{report, filepath.Join(bin, "skein")}, args...)...)
			cmd.Dir = dir
			for _, v := range os.Environ() {
				if !strings.HasPrefix(v, "SKEIN_") {
					cmd.Env = append(cmd.Env, v)
				}
			}
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			began := time.Now()
			if err := cmd.Run(); err != nil {
				t.Fatalf("skein %s: %v\n%s%s", strings.Join(args, " "), err, &stdout, &stderr)
			}
			text, err := os.ReadFile(report)
			if err != nil {
				t.Fatal(err)
			}
			peak, err := strconv.ParseInt(string(text), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			if runtime.GOOS == "linux" {
				peak <<= 10 // it counts in kilobytes there
			}
			t.Logf("%7d tenants: %6s, %3d MB: skein %s", n, time.Since(began).Round(10*time.Millisecond), peak>>20, strings.Join(args, " "))
			return stdout.String(), peak
		}
		run("init")
		for _, c := range commands {
			out, peak := run(c.args...)
			if want := c.want(n); !strings.Contains(out, want) {
				t.Errorf("skein %s with %d tenants: the output has no %q", strings.Join(c.args, " "), n, want)
			}
			if peak > most {
				t.Errorf("skein %s with %d tenants took %d MB, more than %d", strings.Join(c.args, " "), n, peak>>20, most>>20)
			}
			memory[n] = append(memory[n], peak)
		}
	}
	for i, c := range commands {
		if grown := memory[many][i] - memory[few][i]; grown > growth {
			t.Errorf("skein %s took %d MB more with %d tenants than with %d", strings.Join(c.args, " "), grown>>20, many, few)
		}
	}
}

func thousands(n int) string {
	s := fmt.Sprint(n)
	if len(s) > 3 {
		s = s[:len(s)-3] + "," + s[len(s)-3:]
	}
	return s
}
