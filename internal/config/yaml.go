package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/skeinhq/skein/internal/closest"
)

// lines says where each key of the file stands, by its dotted path.
type lines map[string]place

type place struct {
	path    string
	line    int
	written string // a single value as the file has it, with the names of variables
}

func (l lines) has(key string) bool { _, ok := l[key]; return ok }

// written is a value as the file has it: what a variable holds may be a secret
// in the wrong place, and is in no error.
func (l lines) written(key string) string { return l[key].written }

// errorf is an error about a key's value, which names the file and line if the
// value came from the file.
func (l lines) errorf(key, format string, args ...any) error {
	msg := key + ": " + fmt.Sprintf(format, args...)
	if p, ok := l[key]; ok {
		return fmt.Errorf("%s:%d: %s", p.path, p.line, msg)
	}
	return errors.New(msg)
}

// parse decodes a settings file into f. Unknown keys, values of the wrong kind
// and variables that are not set are errors with their line.
func parse(path string, data []byte, env Environment, f *file) (lines, error) {
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil // empty, or only comments
		}
		return nil, yamlError(path, err)
	}
	var second yaml.Node
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: holds more than one document: keep one", path)
	}
	p := parser{path: path, env: env, at: make(lines)}
	root := &doc
	if doc.Kind == yaml.DocumentNode {
		root = doc.Content[0]
	}
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil, nil
	}
	p.walk(root, reflect.TypeFor[file](), "")
	if len(p.errs) > 0 {
		return nil, errors.Join(p.errs...)
	}
	if err := root.Decode(f); err != nil {
		return nil, yamlError(path, err)
	}
	return p.at, nil
}

type parser struct {
	path string
	env  Environment
	at   lines
	errs []error
}

func (p *parser) errorf(n *yaml.Node, format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf("%s:%d: %s", p.path, n.Line, fmt.Sprintf(format, args...)))
}

// walk checks a node against the type that it will be decoded into, and puts in
// the variables that its values name.
func (p *parser) walk(n *yaml.Node, t reflect.Type, key string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if n.Kind == yaml.AliasNode {
		// It may lead to itself, and its variables would be put in twice.
		p.errorf(n, "%s: *%s stands for another value: write it out", key, n.Value)
		return
	}
	if key != "" {
		p.at[key] = place{p.path, n.Line, n.Value}
	}
	isNull := n.Kind == yaml.ScalarNode && n.Tag == "!!null"
	switch t.Kind() {
	case reflect.Struct:
		if isNull {
			return
		}
		if n.Kind != yaml.MappingNode {
			p.errorf(n, "%s holds keys and values, not a single value", cmp.Or(key, "the file"))
			return
		}
		fields := make(map[string]reflect.Type)
		var names []string
		for i := range t.NumField() {
			if tag := t.Field(i).Tag.Get("yaml"); tag != "-" {
				fields[tag] = t.Field(i).Type
				names = append(names, tag)
			}
		}
		p.pairs(n, key, func(k *yaml.Node, v *yaml.Node, child string) {
			ft, ok := fields[k.Value]
			if !ok {
				msg := fmt.Sprintf("unknown key %q", child)
				if near := closest.To(k.Value, names); near != "" {
					msg += fmt.Sprintf(": do you mean %q?", near)
				} else {
					msg += ": known here are " + strings.Join(names, ", ")
				}
				p.errorf(k, "%s", msg)
				return
			}
			p.walk(v, ft, child)
			p.at[child] = place{p.path, k.Line, p.at.written(child)}
		})
	case reflect.Map:
		if isNull {
			return
		}
		if n.Kind != yaml.MappingNode {
			p.errorf(n, "%s holds keys and values, not a single value", key)
			return
		}
		p.pairs(n, key, func(k *yaml.Node, v *yaml.Node, child string) {
			p.walk(v, t.Elem(), child)
			p.at[child] = place{p.path, k.Line, p.at.written(child)}
		})
	case reflect.Slice:
		switch n.Kind {
		case yaml.SequenceNode:
			for i, v := range n.Content {
				p.walk(v, t.Elem(), fmt.Sprintf("%s[%d]", key, i))
			}
		case yaml.ScalarNode:
			p.expand(n, key)
		default:
			p.errorf(n, "%s is a single value or a list of them", key)
		}
	default:
		if n.Kind != yaml.ScalarNode {
			p.errorf(n, "%s is a single value", key)
			return
		}
		p.expand(n, key)
		if err := fits(n, t); err != "" {
			p.errorf(n, "%s: %q %s", key, p.at.written(key), err)
		}
	}
}

func (p *parser) pairs(n *yaml.Node, key string, each func(k, v *yaml.Node, child string)) {
	seen := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		if first, ok := seen[k.Value]; ok {
			p.errorf(k, "key %q stands here a second time: the first is in line %d", k.Value, first)
			continue
		}
		seen[k.Value] = k.Line
		child := k.Value
		if key != "" {
			child = key + "." + child
		}
		each(k, n.Content[i+1], child)
	}
}

func fits(n *yaml.Node, t reflect.Type) string {
	switch {
	case n.Tag == "!!null":
	case t == reflect.TypeFor[duration]():
		if _, err := parseDuration(n.Value); err != nil {
			return err.Error()
		}
	case t.Kind() == reflect.Bool:
		if n.Value != "true" && n.Value != "false" {
			return "is not true or false"
		}
		n.Tag = "!!bool" // a variable made it a text
	case t.Kind() == reflect.Int:
		if !wholeNumber.MatchString(n.Value) {
			return "is not a whole number"
		}
	}
	return ""
}

var (
	wholeNumber = regexp.MustCompile(`^-?[0-9]{1,9}$`)
	variable    = regexp.MustCompile(`\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}|\$\{`)
)

// expand puts the values of variables into a scalar: ${NAME}, ${NAME:-default},
// and $$ for a dollar sign. A variable that is not set is an error, save for a
// key, which is only missed when a password has to be read.
func (p *parser) expand(n *yaml.Node, key string) {
	if !strings.Contains(n.Value, "$") {
		return
	}
	bare := n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) == 0
	n.Value = variable.ReplaceAllStringFunc(n.Value, func(found string) string {
		if found == "$$" {
			return "$"
		}
		m := variable.FindStringSubmatch(found)
		if m[1] == "" {
			p.errorf(n, "%s: a variable is written ${NAME} or ${NAME:-default}", key)
			return ""
		}
		if v, ok := p.env(m[1]); ok && (v != "" || m[2] == "") {
			return v
		}
		if m[2] == "" && !strings.HasPrefix(key, "encryption.") {
			p.errorf(n, "%s: the variable %s is not set: set it, or write ${%s:-default}", key, m[1], m[1])
		}
		return m[3]
	})
	if bare && wholeNumber.MatchString(n.Value) {
		n.Tag = "!!int"
	} else {
		n.Tag = "!!str"
	}
}

var yamlPrefix = regexp.MustCompile(`^yaml: (?:line ([0-9]+): )?`)

// yamlError is the parser's error with the file and line as all errors have
// them.
func yamlError(path string, err error) error {
	msg := strings.TrimSpace(err.Error())
	at := path
	if m := yamlPrefix.FindStringSubmatch(msg); m != nil && m[1] != "" {
		at += ":" + m[1]
	}
	return fmt.Errorf("%s: %s", at, yamlPrefix.ReplaceAllString(msg, ""))
}

// A stringList is one value or a list of them.
type stringList []string

func (l *stringList) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		*l = slices.DeleteFunc([]string{n.Value}, func(s string) bool { return s == "" || n.Tag == "!!null" })
		return nil
	}
	var all []string
	if err := n.Decode(&all); err != nil {
		return err
	}
	*l = all
	return nil
}

// A duration is a time with its unit, or 0.
type duration time.Duration

func (d *duration) UnmarshalYAML(n *yaml.Node) error {
	parsed, err := parseDuration(n.Value)
	*d = duration(parsed)
	return err
}

func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return 0, errors.New("is not a time with its unit, such as 500ms, 5s, 2m or 1h (0 for none)")
	case d < 0:
		return 0, errors.New("is less than 0")
	}
	return d, nil
}
