package source_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/source"
)

func files(named map[string]string) fstest.MapFS {
	fsys := make(fstest.MapFS)
	for name, text := range named {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fsys
}

func describeTimeouts(s *skein.Section) string {
	text := func(d *time.Duration) string {
		if d == nil {
			return "-"
		}
		return d.String()
	}
	if s == nil {
		return "none"
	}
	return fmt.Sprintf("%s %s %s", text(s.Timeouts.Lock), text(s.Timeouts.Statement), text(s.Timeouts.Idle))
}

func TestDirectives(t *testing.T) {
	for name, test := range map[string]struct {
		files map[string]string
		want  string // up, down
	}{
		"none":             {map[string]string{"1.sql": "-- migrate:up\nSELECT 1;\n-- migrate:down\nSELECT 2;\n"}, "- - - / - - -"},
		"of the file":      {map[string]string{"1.sql": "-- skein: lock_timeout=1s, statement_timeout=2h\n-- migrate:up\nSELECT 1;\n-- migrate:down\nSELECT 2;\n"}, "1s 2h0m0s - / 1s 2h0m0s -"},
		"of each side":     {map[string]string{"1.sql": "-- migrate:up\n-- why\n-- skein: lock_timeout=1s\nSELECT 1;\n-- migrate:down\n--skein:idle_timeout = 5m\nSELECT 2;\n"}, "1s - - / - - 5m0s"},
		"one over another": {map[string]string{"1.sql": "-- skein: lock_timeout=1s, idle_timeout=1m\n\n-- +goose Up\n-- skein: lock_timeout=250ms\n-- skein: statement_timeout=0\nSELECT 1;\n-- +goose Down\nSELECT 2;\n"}, "250ms 0s 1m0s / 1s - 1m0s"},
		"of a pair":        {map[string]string{"1.up.sql": "/* a */\n-- skein: lock_timeout=1s\nSELECT 1", "1.down.sql": "-- migrate:down\n-- skein: lock_timeout=2s\nSELECT 1"}, "1s - - / 2s - -"},
		"CRLF":             {map[string]string{"1.sql": "-- migrate:up\r\n-- skein: lock_timeout=1s\r\nSELECT 1;\r\n"}, "1s - - / none"},
		"prose":            {map[string]string{"1.sql": "-- migrate:up\n-- see skein: it is nice\n-- skeins: two=2\nSELECT 1; -- skein: x=1\n"}, "- - - / none"},
	} {
		t.Run(name, func(t *testing.T) {
			set, err := source.LoadFS(files(test.files), []string{"."}, nil)
			if err != nil {
				t.Fatal(err)
			}
			m := set.All()[0]
			if got := describeTimeouts(m.Up) + " / " + describeTimeouts(m.Down); got != test.want {
				t.Errorf("the timeouts are %s, not %s", got, test.want)
			}
		})
	}
}

func TestDirectiveErrors(t *testing.T) {
	const above = "-- migrate:up\n\n"
	for text, want := range map[string]string{
		above + "-- skein: lock_timeout\nSELECT 1":                         `1.sql:3: "lock_timeout" is not of the form name=value, as in -- skein: lock_timeout=1s, statement_timeout=2h`,
		above + "-- skein:\nSELECT 1":                                      `1.sql:3: "" is not of the form`,
		above + "-- skein: lock_timeout=1s,\nSELECT 1":                     `1.sql:3: "" is not of the form`,
		above + "-- skein: lock_timeout=1s statement_timeout=2h\nSELECT 1": `1.sql:3: lock_timeout=1s statement_timeout=2h is not a time with its unit`,
		above + "-- skein: locktimeout=1s\nSELECT 1":                       `1.sql:3: locktimeout is not known: there are lock_timeout, statement_timeout and idle_timeout`,
		above + "-- skein: lock_timeout=5\nSELECT 1":                       `1.sql:3: lock_timeout=5 is not a time with its unit, such as 500ms, 5s, 2m or 1h (0 for no bound)`,
		above + "-- skein: lock_timeout=-5s\nSELECT 1":                     `1.sql:3: lock_timeout=-5s is not a time`,
		above + "-- skein: statement_timeout=600h\nSELECT 1":               `1.sql:3: statement_timeout=600h is more than 24 days`,
		above + "-- skein: lock_timeout=1s\n-- skein: lock_timeout=2s\nX":  `1.sql:4: lock_timeout is given twice`,
		above + "-- Skein: lock_timeout=1s\nSELECT 1":                      `1.sql:3: write -- skein: like this, in small letters`,
		above + "-- skein : lock_timeout=1s\nSELECT 1":                     `1.sql:3: write -- skein: like this`,
		above + "SELECT 1;\n-- skein: lock_timeout=1s\nSELECT 2":           `1.sql:4: put this above the first statement`,
		above + "SELECT 1;\n-- skein: lock_timeout=1s\n-- migrate:down":    `1.sql:4: put this above the first statement`,
		above + "SELECT '\n-- skein: lock_timeout=1s\n'":                   `1.sql:4: put this above the first statement`,
	} {
		_, err := source.LoadFS(files(map[string]string{"1.sql": text}), []string{"."}, nil)
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: the error is %v, not %s", text, err, want)
		}
	}
	_, err := source.LoadFS(files(map[string]string{"1.up.sql": "SELECT 1;\n-- skein: lock_timeout=1s\n"}), []string{"."}, nil)
	if err == nil || !strings.HasPrefix(err.Error(), "1.up.sql:2: put this above") {
		t.Errorf("of a pair: %v", err)
	}
}

// A migration may be given more time after it has run in some tenants.
func TestDirectivesAreNoEdit(t *testing.T) {
	want := sum(t, map[string]string{"1.sql": "-- migrate:up\nSELECT 1;\n\n-- end\n"})
	for _, text := range []string{
		"-- skein: lock_timeout=1s\n-- migrate:up\nSELECT 1;\n\n-- end\n",
		"-- migrate:up\n-- skein: lock_timeout=1s\nSELECT 1;\n\n-- end\n",
		"-- migrate:up\n-- skein: lock_timeout=1s\n\n-- skein: idle_timeout=0\r\nSELECT 1;\n\n-- end\n",
	} {
		if got := sum(t, map[string]string{"1.sql": text}); got != want {
			t.Errorf("%q has another checksum", text)
		}
	}
}
