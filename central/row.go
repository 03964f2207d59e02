package central

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/secret"
)

// A row is what a table or a file says of a tenant, as text; empty is what it
// does not say.
type row struct {
	fields [fieldCount]string
	labels map[string]string
}

// A FieldError is a part of a tenant that cannot be used. It does not repeat
// what it found there, which may be a password that slipped into a wrong column.
type FieldError struct {
	// Field is the column, or where there is none what it would hold.
	Field string
	Msg   string
	hint  string
	err   error // what Msg was made from, nil: nothing
}

func (e *FieldError) Unwrap() error { return e.err }

func (e *FieldError) Error() string { return e.Field + ": " + e.Msg }

// Hint says what to do.
func (e *FieldError) Hint() string { return e.hint }

func badField(f field, format string, args ...any) *FieldError {
	return &FieldError{Field: f.String(), Msg: fmt.Sprintf(format, args...)}
}

// hasEngine says whether an address begins with an engine that Skein knows.
// What does not may be anything, such as a password in the wrong column.
func hasEngine(address string) bool {
	scheme, _, ok := strings.Cut(address, ":")
	if ok {
		_, ok = skein.EngineName(scheme)
	}
	return ok
}

const conflict = "the URL says something else"

// target reads the target out of a row, all but its password column. A URL may
// be given beside other fields if the two do not say different things. Defaults
// fill in what is left.
func (r *row) target(defaults *Mapping) (skein.Target, *FieldError) {
	var t skein.Target
	if raw := r.fields[fieldURL]; raw != "" {
		var err error
		if t, err = parseURL(secret.New(raw)); err != nil {
			return t, badField(fieldURL, "%v", err)
		}
	}
	if word := r.fields[fieldEngine]; word != "" {
		engine, ok := skein.EngineName(word)
		if !ok {
			return t, badField(fieldEngine, "it is not one of postgres, mysql, sqlite")
		}
		r.fields[fieldEngine] = engine
	}
	port := 0
	if word := r.fields[fieldPort]; word != "" && word != "0" {
		var err error
		if port, err = strconv.Atoi(word); err != nil || port < 1 || port > 65535 {
			return t, badField(fieldPort, "it is not a number from 1 to 65535")
		}
	}
	for _, part := range []struct {
		field field
		into  *string
	}{
		{fieldEngine, &t.Engine}, {fieldHost, &t.Host}, {fieldDatabase, &t.Database}, {fieldSchema, &t.Schema}, {fieldUser, &t.User},
	} {
		value := r.fields[part.field]
		if value != "" && *part.into != "" && *part.into != value {
			return t, badField(part.field, conflict)
		}
		*part.into = or(value, *part.into)
	}
	if port != 0 && t.Port != 0 && t.Port != port {
		return t, badField(fieldPort, conflict)
	}
	t.Port = or(port, t.Port)
	if text := r.fields[fieldOptions]; text != "" {
		options, err := parseOptions(text)
		if err != nil {
			return t, badField(fieldOptions, "%v", err)
		}
		if t.Options == nil {
			t.Options = options
		} else {
			maps.Copy(t.Options, options)
		}
	}
	if defaults != nil {
		defaults.fill(&t, r.fields[fieldID], r.fields[fieldSlug])
	}
	switch {
	case t.Engine == "":
		return t, badField(fieldEngine, "no engine is given: it is one of postgres, mysql, sqlite")
	case t.Database == "":
		return t, badField(fieldDatabase, "no database is given")
	}
	if err := t.Validate(); err != nil {
		return t, &FieldError{Field: "target", Msg: err.Error()}
	}
	return t, nil
}

// fill sets what a row left out.
func (m *Mapping) fill(t *skein.Target, id, slug string) {
	own := strings.NewReplacer("{id}", id, "{slug}", slug)
	if t.Engine == "" {
		t.Engine, _ = skein.EngineName(m.Engine) // checked by Mapping.check
	}
	t.Database = or(t.Database, own.Replace(m.Database))
	if t.Engine == skein.SQLite {
		return // a file has none of the rest
	}
	t.Host, t.Port, t.User = or(t.Host, m.Host), or(t.Port, m.Port), or(t.User, own.Replace(m.User))
	if t.Engine == skein.PostgreSQL {
		t.Schema = or(t.Schema, own.Replace(m.Schema))
	}
	if t.Password.IsZero() {
		t.Password = m.Password
	}
	for name, value := range m.Options {
		if _, ok := t.Options[name]; !ok {
			if t.Options == nil {
				t.Options = make(map[string]string)
			}
			t.Options[name] = value
		}
	}
}

// or is the first of two values that is not zero.
func or[T comparable](a, b T) T {
	var zero T
	if a != zero {
		return a
	}
	return b
}

// parseOptions reads a JSON object of texts, numbers and booleans. Its errors
// repeat no value: an option may be a password.
func parseOptions(text string) (map[string]string, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		return nil, errors.New(`it is not a JSON object, such as {"sslmode": "require"}`)
	}
	options := make(map[string]string, len(raw))
	for name, value := range raw {
		word, ok := jsonText(value)
		if !ok {
			return nil, fmt.Errorf("the value of %q is not a text, a number, true or false", name)
		}
		options[name] = word
	}
	return options, nil
}

// jsonText is a JSON text, number or boolean as text, and null as none.
func jsonText(value json.RawMessage) (string, bool) {
	var v any
	if err := json.Unmarshal(value, &v); err != nil {
		return "", false
	}
	switch v := v.(type) {
	case nil:
		return "", true
	case string:
		return v, true
	case float64, bool:
		return string(value), true
	}
	return "", false
}

// tenant makes a tenant of a row of the table. What is wrong with the row is
// in its Err.
func (s *Store) tenant(r *row) skein.Tenant {
	t := skein.Tenant{
		ID: r.fields[fieldID], Slug: r.fields[fieldSlug], Name: r.fields[fieldName], Status: r.fields[fieldStatus],
		Active: s.table.isActive(r.fields[fieldStatus]), Labels: r.labels,
	}
	var problem *FieldError
	t.Target, problem = r.target(&s.table.defaults)
	if value := r.fields[fieldPassword]; value != "" && problem == nil {
		t.Target.Password, _, problem = s.open(value, t.ID)
	}
	if problem != nil {
		t.Err = s.table.locate(problem)
	}
	return t
}

// open opens a stored password, and says with which key.
func (s *Store) open(value, id string) (password secret.Secret, keyID string, problem *FieldError) {
	if s.keyring == nil {
		return secret.Secret{}, "", errNoKey("it is stored encrypted, and there is no key to open it with")
	}
	password, keyID, err := s.keyring.Open(value, passwordBinding(id))
	if err != nil {
		msg := err.Error()
		if s.explain != nil {
			if found := s.explain(value); found != "" {
				msg += "; " + found
			}
		}
		again := "have the application store this tenant's password again"
		if s.table.own {
			again = "store this tenant's password again, with skein tenants set"
		}
		return secret.Secret{}, "", &FieldError{
			Field: fieldPassword.String(), Msg: msg, err: err,
			hint: "check encryption.key and encryption.previous_key, or " + again,
		}
	}
	return password, keyID, nil
}

// seal encrypts a password to be stored.
func (s *Store) seal(password secret.Secret, id string) (string, *FieldError) {
	if password.IsZero() {
		return "", nil
	}
	if s.keyring == nil {
		return "", errNoKey("there is no key to encrypt it with before it is stored")
	}
	sealed, err := s.keyring.Seal(password, passwordBinding(id))
	if err != nil {
		return "", badField(fieldPassword, "%v", err)
	}
	return sealed, nil
}

func passwordBinding(id string) secret.Binding {
	return secret.Binding{Tenant: id, Field: fieldPassword.String()}
}

func errNoKey(msg string) *FieldError {
	return &FieldError{
		Field: fieldPassword.String(), Msg: msg,
		hint: "set encryption.key in skein.yaml, or DB_ENCRYPTION_KEY in the environment",
	}
}
