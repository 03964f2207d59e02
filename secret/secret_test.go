package secret

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"
)

const hidden = "hunter2-Ünïcode/§"

// The fields are deliberately of every kind that fmt treats differently.
type inner struct {
	secret Secret
	Shown  Secret
}

type holder struct {
	Shown   Secret
	secret  Secret
	pointer *Secret
	inner   inner
	Inner   *inner
	list    []Secret
	array   [2]Secret
	table   map[string]Secret
	boxed   any
	nested  map[string][]*inner
}

func newHolder() holder {
	s := New(hidden)
	in := inner{s, s}
	return holder{
		s, s, &s, in, &in,
		[]Secret{s},
		[2]Secret{s, s},
		map[string]Secret{"k": s},
		s,
		map[string][]*inner{"k": {&in}},
	}
}

type holderError struct{ holder holder }

func (e holderError) Error() string { return fmt.Sprintf("%+v", e.holder) }

// leaks reports whether text shows the secret, in any form that fmt's verbs
// can give it.
func leaks(text string) bool {
	low := strings.ToLower(text)
	for _, form := range []string{
		hidden, "hunter2", fmt.Sprintf("%q", hidden), fmt.Sprintf("%+q", hidden),
		fmt.Sprintf("%x", hidden), fmt.Sprintf("% x", hidden),
		strings.Trim(fmt.Sprint([]byte(hidden)), "[]"), // a byte slice under %v and %d
		strings.Trim(fmt.Sprintf("%#v", []byte(hidden)), "[]byte{}"),
	} {
		if strings.Contains(low, strings.ToLower(form)) {
			return true
		}
	}
	return false
}

func TestLeaksFindsLeaks(t *testing.T) {
	for _, text := range []string{
		hidden, fmt.Sprintf("%q %x", "", hidden), fmt.Sprintf("% X", hidden), fmt.Sprintf("%v", []byte(hidden)),
		fmt.Sprintf("%#v", struct{ s string }{hidden}), fmt.Sprintf("%#v", []byte(hidden)),
	} {
		if !leaks(text) {
			t.Errorf("the test is blind to %s", text)
		}
	}
}

func TestNoVerbPrintsASecret(t *testing.T) {
	s, h := New(hidden), newHolder()
	values := map[string]any{
		"secret": s, "pointer": &s, "struct": h, "struct pointer": &h, "slice": []Secret{s}, "map": map[string]Secret{"k": s},
		"slice of structs": []holder{h}, "map of structs": map[int]holder{1: h}, "anonymous": struct{ a, B any }{s, h},
		"error": holderError{h}, "error pointer": &holderError{h}, "wrapped": fmt.Errorf("x: %w", holderError{h}),
		"channel of": [1]any{h}, "reflect": reflect.ValueOf(h), "reflect field": reflect.ValueOf(h).Field(1),
	}
	for name, value := range values {
		for _, flags := range []string{"", "+", "#", "-20", "020", ".3", "+#", " "} {
			for verb := 'A'; verb <= 'z'; verb++ {
				format := "%" + flags + string(verb)
				if got := fmt.Sprintf(format, value); leaks(got) {
					t.Fatalf("%s with %s prints the secret: %s", name, format, got)
				}
			}
		}
	}
	if got := fmt.Sprintf("%s|%v|%d|%#v|%x|%q", s, s, s, s, s, s); got != strings.Repeat(mask+"|", 5)+mask {
		t.Errorf("got %s", got)
	}
	if got := fmt.Sprintf("%v%+v%s%d", Secret{}, Secret{}, New(""), Secret{}); got != "" {
		t.Errorf("the empty secret prints %q", got)
	}
}

func TestNoEncoderOrLoggerPrintsASecret(t *testing.T) {
	type exported struct {
		Secret  Secret
		Pointer *Secret
		Table   map[string]Secret
		Any     any
		hidden  Secret
	}
	s := New(hidden)
	value := exported{s, &s, map[string]Secret{"k": s}, s, s}

	var out bytes.Buffer
	encode := map[string]func() error{
		"json": func() error { return json.NewEncoder(&out).Encode(value) },
		"yaml": func() error { return yaml.NewEncoder(&out).Encode(value) },
		"xml":  func() error { return xml.NewEncoder(&out).Encode([]Secret{s}) },
		"html": func() error {
			return template.Must(template.New("").Parse(`<p id={{.Secret}}>{{.Secret}}{{.}}</p><script>x({{.}}, {{.Secret}})</script>`)).Execute(&out, value)
		},
		"slog text": func() error {
			slog.New(slog.NewTextHandler(&out, nil)).Info("m", "s", s, "v", value, "p", &value, "h", newHolder(), "e", error(holderError{newHolder()}))
			return nil
		},
		"slog json": func() error {
			slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "s", s, "v", value, "p", &value, "h", newHolder(), "e", error(holderError{newHolder()}))
			return nil
		},
	}
	for name, encode := range encode {
		out.Reset()
		if err := encode(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !strings.Contains(out.String(), "redacted") || leaks(out.String()) {
			t.Errorf("%s writes %s", name, out.String())
		}
	}
}

// TestPanicsPrintNoSecret runs itself in a process of its own, because what
// the runtime prints of a panic cannot be caught.
func TestPanicsPrintNoSecret(t *testing.T) {
	thrown := map[string]func(){
		"secret":  func() { panic(New(hidden)) },
		"struct":  func() { panic(newHolder()) },
		"pointer": func() { h := newHolder(); panic(&h) },
		"error":   func() { panic(holderError{newHolder()}) },
		"text":    func() { panic(fmt.Sprintf("%#v", newHolder())) },
		"cleaned": func() { panic(Clean(errors.New("x "+hidden), New(hidden))) },
	}
	if name := os.Getenv("SKEIN_TEST_PANIC"); name != "" {
		thrown[name]()
	}
	for name := range thrown {
		cmd := exec.Command(os.Args[0], "-test.run=^TestPanicsPrintNoSecret$")
		cmd.Env = append(os.Environ(), "SKEIN_TEST_PANIC="+name, "GOTRACEBACK=all")
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "panic: ") {
			t.Fatalf("%s: no panic: %v\n%s", name, err, out)
		}
		if leaks(string(out)) {
			t.Errorf("a panic with a %s prints the secret:\n%s", name, out)
		}
	}
}

func TestSecretIsReadAndCompared(t *testing.T) {
	a, b, other := New(hidden), New(hidden), New("hunter3")
	if a.Reveal() != hidden || !a.Equal(b) || a.Equal(other) || a.Equal(Secret{}) || !New("").Equal(Secret{}) {
		t.Error("Reveal or Equal is wrong")
	}
	if a.IsZero() || !New("").IsZero() || !(Secret{}).IsZero() || (Secret{}).Reveal() != "" {
		t.Error("IsZero is wrong")
	}
	type config struct{ Key Secret }
	if !cmp.Equal(config{a}, config{b}) || cmp.Equal(config{a}, config{other}) {
		t.Error("go-cmp does not use Equal")
	}
	if diff := cmp.Diff(config{a}, config{other}); leaks(diff) || strings.Contains(diff, "hunter3") {
		t.Errorf("go-cmp prints a secret: %s", diff)
	}
	if reflect.TypeFor[Secret]().Comparable() {
		t.Error("== compiles, and would compare something else than the secret")
	}
}

func TestSecretIsDecoded(t *testing.T) {
	type config struct {
		Key   Secret `json:"key,omitzero" yaml:"key"`
		Other Secret `json:"other,omitzero" yaml:"other"`
	}
	decode := map[string]func(string, any) error{
		"json": func(text string, into any) error { return json.Unmarshal([]byte(text), into) },
		"yaml": func(text string, into any) error { return yaml.Unmarshal([]byte(text), into) },
	}
	for name, decode := range decode {
		var c config
		if err := decode(`{"key": "`+hidden+`", "other": ""}`, &c); err != nil || c.Key.Reveal() != hidden || !c.Other.IsZero() {
			t.Errorf("%s: got %q, %v", name, c.Key.Reveal(), err)
		}
		if err := decode(`{"key": "[redacted]"}`, &c); err == nil || !strings.Contains(err.Error(), "enter it again") {
			t.Errorf("%s: a lost secret is taken for a secret: %v", name, err)
		}
	}
	if got, _ := json.Marshal(config{}); string(got) != "{}" {
		t.Errorf("omitzero keeps the empty secret: %s", got)
	}
}
