package cli_test

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// A documented is the objects that docs/json.md describes, by its headings.
type documented map[string]map[string]documentedField

type documentedField struct {
	kind     string
	always   bool
	one      string   // for kind [error](#error): the object
	listOf   string   // for a list: of what
	literals []string // the values that a text may have, nil: any
}

var (
	fieldRow = regexp.MustCompile("^\\| `([a-z_]+)` \\| ([^|]+) \\| (yes)? ?\\| ?(.*)\\|$")
	objectOf = regexp.MustCompile(`^\[([a-z ]+)\]\(#[a-z-]+\)$`)
	literal  = regexp.MustCompile("`([a-z ]+)`")
)

// closedSets are the fields whose values the page lists completely.
var closedSets = []string{"event", "result", "state", "source", "fingerprint", "kind", "class", "direction", "reason"}

func readDocumented(path string) (documented, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	all := make(documented)
	var object map[string]documentedField
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "## "); ok {
			object = make(map[string]documentedField)
			all[name] = object
			continue
		}
		m := fieldRow.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		f := documentedField{kind: m[2], always: m[3] != ""}
		if of, ok := strings.CutPrefix(f.kind, "list of "); ok {
			f.kind, f.listOf = "list", of
			if m := objectOf.FindStringSubmatch(of); m != nil {
				f.listOf = m[1]
			}
		} else if m := objectOf.FindStringSubmatch(f.kind); m != nil {
			f.kind, f.one = "one", m[1]
		}
		if slices.Contains(closedSets, m[1]) {
			for _, l := range literal.FindAllStringSubmatch(m[4], -1) {
				if l[1] != "reason" {
					f.literals = append(f.literals, l[1])
				}
			}
		}
		object[m[1]] = f
	}
	return all, nil
}

// check says what of some lines of output is not as the page has it.
func (d documented) check(lines string) error {
	n := 0
	for line := range strings.Lines(lines) {
		n++
		var object map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			return fmt.Errorf("line %d is not a JSON object: %w", n, err)
		}
		event, _ := object["event"].(string)
		name := map[string]string{"tenant": "tenant", "summary": "summary", "error": "fault", "retry": "retry", "server": "server", "check": "check", "provisioned": "provisioned", "deprovisioned": "deprovisioned", "keys": "keys", "rotation": "rotation", "": "listed tenant"}[event]
		if err := d.checkObject(name, object); err != nil {
			return fmt.Errorf("line %d: %w\n%s", n, err, line)
		}
	}
	if n == 0 {
		return fmt.Errorf("there is no line")
	}
	return nil
}

func (d documented) checkObject(name string, object map[string]any) error {
	fields, ok := d[name]
	if !ok {
		return fmt.Errorf("no object %q is documented", name)
	}
	for field, f := range fields {
		if _, ok := object[field]; f.always && !ok {
			return fmt.Errorf("%s has no %s", name, field)
		}
	}
	for field, value := range object {
		f, ok := fields[field]
		if !ok {
			return fmt.Errorf("%s has a field %s, which is not documented", name, field)
		}
		if err := d.checkValue(f, value); err != nil {
			return fmt.Errorf("%s.%s: %w", name, field, err)
		}
	}
	return nil
}

func (d documented) checkValue(f documentedField, value any) error {
	ok := false
	switch f.kind {
	case "text":
		var s string
		if s, ok = value.(string); ok && f.literals != nil && !slices.Contains(f.literals, s) {
			return fmt.Errorf("%q is not one of %q", s, f.literals)
		}
	case "number":
		_, ok = value.(float64)
	case "true or false":
		_, ok = value.(bool)
	case "object":
		_, ok = value.(map[string]any)
	case "time":
		s, _ := value.(string)
		t, err := time.Parse(time.RFC3339, s)
		ok = err == nil && t.Location() == time.UTC
	case "one":
		object, isObject := value.(map[string]any)
		if !isObject {
			break
		}
		return d.checkObject(f.one, object)
	case "list":
		list, isList := value.([]any)
		if !isList || len(list) == 0 {
			break
		}
		for _, item := range list {
			of := documentedField{kind: f.listOf}
			if f.listOf != "text" {
				of = documentedField{kind: "one", one: f.listOf}
			}
			if err := d.checkValue(of, item); err != nil {
				return err
			}
		}
		return nil
	}
	if !ok {
		return fmt.Errorf("%v is not of the type %s", value, f.kind)
	}
	return nil
}

// TestDocumentedCheck holds the check itself to account: it is what the scripts
// rely on.
func TestDocumentedCheck(t *testing.T) {
	d, err := readDocumented("../../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	good := `{"event":"tenant","time":"2026-01-31T12:00:00Z","id":"1","slug":"acme","target":"sqlite:a.db","result":"failed","state":"behind","done":[{"migration":"1_a.sql","direction":"up","duration_ms":3}],"error":{"kind":"other","message":"m"},"duration_ms":1}`
	if err := d.check(good); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []struct{ old, new, want string }{
		{`"slug":"acme",`, ``, "has no slug"},
		{`"slug"`, `"slag":"x","slug"`, "slag, which is not documented"},
		{`"failed"`, `"broken"`, `"broken" is not one of`},
		{`"duration_ms":1`, `"duration_ms":"1"`, "not of the type number"},
		{`"kind":"other",`, ``, "error has no kind"},
		{`"direction":"up",`, ``, "step has no direction"},
		{`12:00:00Z`, `12:00:00+02:00`, "not of the type time"},
	} {
		line := strings.Replace(good, bad.old, bad.new, 1)
		if err := d.check(line); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("check(%s) = %v, want an error with %q", line, err, bad.want)
		}
	}
}
