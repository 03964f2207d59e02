package secret

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Scrub returns text with "[redacted]" in place of
//   - each of the secrets, as it stands, escaped for a URL, or quoted for Go,
//     JSON, SQL or a libpq connection string;
//   - passwords known by where they stand: in a URL's userinfo, in a DSN of
//     go-sql-driver, after the name of a setting (password=..., "pwd": "..."),
//     and in SQL (PASSWORD '...', IDENTIFIED BY '...').
//
// Where it is not certain where a password ends, more is taken out rather than
// less. A secret shorter than four bytes is taken out only where it stands as
// a word: removing every "a" would hide the text and show the secret.
func Scrub(text string, secrets ...Secret) string { return newCleaner(secrets).clean(text) }

// Clean returns an error whose text is err's, scrubbed as by [Scrub]; it
// returns nil for nil. It is meant for an engine's door: the driver's own error
// goes in, before it is wrapped in errors of one's own.
//
// A driver's error can hold the whole connection configuration, so there is no
// way back to it: the result has no Unwrap, and formatting or encoding it
// shows the scrubbed text alone. errors.Is answers as it does for err.
// errors.As reaches an error inside err if it is flat (a struct or pointer to
// a struct of strings, numbers and short byte arrays, such as *pgconn.PgError,
// *mysql.MySQLError or *sqlite.Error, or a number, such as syscall.Errno) and
// scrubbing changes neither its text nor any of its fields. It does not reach
// others, such as *pgconn.ConnectError, which carries the password, or
// *net.OpError. Whatever needs those is asked before cleaning.
func Clean(err error, secrets ...Secret) error {
	if err == nil {
		return nil
	}
	c := newCleaner(secrets)
	return &cleaned{
		text:  c.clean(err.Error()),
		cause: func() error { return err },
		safe:  c.safe,
	}
}

// cleaned keeps what it was made from behind funcs, for the reason that
// [Secret] does.
type cleaned struct {
	text  string
	cause func() error
	safe  func(reflect.Value) bool
}

func (e *cleaned) Error() string { return e.text }

// Is reports whether the error that was cleaned is target.
func (e *cleaned) Is(target error) bool { return errors.Is(e.cause(), target) }

// As sets target if [Clean] allows it.
func (e *cleaned) As(target any) bool {
	into := reflect.ValueOf(target).Elem() // errors.As has checked target
	found := reflect.New(into.Type())
	if !errors.As(e.cause(), found.Interface()) || !e.safe(found.Elem()) {
		return false
	}
	into.Set(found.Elem())
	return true
}

// cleaner finds secrets in texts.
type cleaner struct {
	forms []string // what is replaced wherever it stands
	words []string // what is replaced where it stands as a word
}

func newCleaner(secrets []Secret) *cleaner {
	c := &cleaner{}
	for _, s := range secrets {
		switch plain := s.Reveal(); {
		case len(plain) >= 4:
			c.forms = append(c.forms, forms(plain)...)
		case plain != "":
			c.words = append(c.words, forms(plain)...)
		}
	}
	return c
}

var percentEscape = regexp.MustCompile(`%[0-9A-F]{2}`)

// forms returns the ways in which drivers, parsers and loggers write plain.
func forms(plain string) []string {
	query := url.QueryEscape(plain)
	urls := []string{
		url.PathEscape(plain),
		query,
		strings.ReplaceAll(query, "+", "%20"),
		// encodeURIComponent of JavaScript.
		strings.NewReplacer("+", "%20", "%21", "!", "%27", "'", "%28", "(", "%29", ")", "%2A", "*").Replace(query),
		strings.TrimPrefix(url.UserPassword("", plain).String(), ":"),
	}
	all := []string{
		plain,
		strings.ReplaceAll(plain, `'`, `''`),
		strings.ReplaceAll(plain, `"`, `""`),
		strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(plain),
		jsonInner(plain, true),
		jsonInner(plain, false),
		unquoted(strconv.QuoteToASCII(plain)),
	}
	for _, form := range urls {
		all = append(all, form, percentEscape.ReplaceAllStringFunc(form, strings.ToLower))
	}
	// An error that quotes an error quotes twice.
	for range 2 {
		for _, form := range all {
			all = append(all, unquoted(strconv.Quote(form)), jsonInner(form, true))
		}
		slices.Sort(all)
		all = slices.Compact(all)
	}
	return all
}

func unquoted(s string) string { return s[1 : len(s)-1] }

func jsonInner(s string, escapeHTML bool) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(escapeHTML)
	_ = enc.Encode(s) // a string always encodes
	return unquoted(strings.TrimSuffix(b.String(), "\n"))
}

const (
	quotedValue = `\[redacted\]|\\*"(?:[^"\\]|\\.)*"?|\\*'(?:[^'\\]|\\.|'')*'?`
	bareValue   = `\S+?`
	nextSetting = `(?:[&;,]\w+[=:]|\s|$)`
	settingName = `(?:passw(?:or)?d|passphrase|pwd|secret|token|encryption_key(?:_previous)?|previous_key)`
)

// What a pattern's groups match has to go. A group reaches as far as the
// password may: people write passwords with @ and / into URLs unescaped.
var patterns = []*regexp.Regexp{
	// scheme://user:PASSWORD@host, and the same in quotes, where it may have spaces.
	regexp.MustCompile(`(?i)[a-z][a-z0-9+.-]*://[^\s:/]*:(\S*)@`),
	regexp.MustCompile(`(?i)"[a-z][a-z0-9+.-]*://[^":/]*:((?:[^"\\]|\\.)*)@`),
	// user:PASSWORD@tcp(host)/db and user:PASSWORD@/db of go-sql-driver.
	regexp.MustCompile(`[^\s:/]+:(/?[^\s/]\S*)@(?:[a-z]\w*)?[(/]`),
	// password=PASSWORD, password: 'PASS WORD', "password": "PASSWORD",
	// Password:PASSWORD. After a colon and a space the bare word is left, for
	// that is also how errors go on after a noun ...
	regexp.MustCompile(`(?is)` + settingName + `[\\"'` + "`" + `\]]*` +
		`(?:\s*(?:=>?|:)\s*(` + quotedValue + `)|(?:\s*=>?\s*|:)(` + bareValue + `)` + nextSetting + `)`),
	// ... except at the start of a line, where it is YAML.
	regexp.MustCompile(`(?im)^[\s-]*[\w.-]*` + settingName + `:[ \t]+(.+)$`),
	// CREATE ROLE x PASSWORD 'PASSWORD', IDENTIFIED BY 'PASSWORD', PASSWORD('PASSWORD').
	regexp.MustCompile(`(?is)\b(?:password|identified\s+(?:(?:with|via)\s+\S+\s+)?(?:by|as|using)(?:\s+password)?)(?:\s+|\s*\(\s*)` +
		`(E?(?:` + quotedValue + `)|\$\w*\$.*?\$\w*\$)`),
	// net/url quotes the part that it stumbled over, which may be half a password.
	regexp.MustCompile(`invalid (?:URL escape|port|userinfo|character) (\\*"(?:[^"\\]|\\.)*"?)`),
}

// clean returns text with the secrets replaced. What several secrets and
// patterns cover, overlapping or touching, is replaced by one mask.
func (c *cleaner) clean(text string) string {
	edges := make([]int, len(text)+1) // +1 where something to hide begins, -1 where it ends
	mark := func(from, to int) { edges[from]++; edges[to]-- }
	for _, form := range c.forms {
		for _, at := range indexes(text, form) {
			mark(at, at+len(form))
		}
	}
	for _, word := range c.words {
		for _, at := range indexes(text, word) {
			if before, after := text[:at], text[at+len(word):]; !wordEnd.MatchString(before) && !wordStart.MatchString(after) {
				mark(at, at+len(word))
			}
		}
	}
	for _, pattern := range patterns {
		for at := 0; at <= len(text); {
			m := pattern.FindStringSubmatchIndex(text[at:])
			if m == nil {
				break
			}
			next := at + m[0] + 1
			for group := 2; group < len(m); group += 2 {
				if m[group] < 0 {
					continue
				}
				from, to := at+m[group], at+m[group+1]
				if !saysWhetherSent(text[:from], text[from:]) {
					mark(from, to)
				}
				next = max(next, to)
			}
			// The separator after one value begins the next, so the search
			// goes on from the value's end, not from the match's.
			at = next
		}
	}

	var b strings.Builder
	hidden := 0 // by how many finds
	for i := range len(text) {
		before := hidden
		hidden += edges[i]
		switch {
		case hidden == 0:
			b.WriteByte(text[i])
		case before == 0:
			b.WriteString(mask)
		}
	}
	return b.String()
}

var (
	wordStart = regexp.MustCompile(`^[\pL\pN_]`)
	wordEnd   = regexp.MustCompile(`[\pL\pN_]$`)
)

// indexes returns where sub stands in s, overlapping included.
func indexes(s, sub string) (at []int) {
	for from := 0; ; {
		i := strings.Index(s[from:], sub)
		if i < 0 {
			return at
		}
		at = append(at, from+i)
		from += i + 1
	}
}

// saysWhetherSent recognises MySQL's "Access denied ... (using password: YES)",
// in which no password stands.
func saysWhetherSent(before, after string) bool {
	return strings.HasSuffix(before, "(using password: ") &&
		(strings.HasPrefix(after, "YES)") || strings.HasPrefix(after, "NO)"))
}

// safe reports whether v, a value found in an error's chain, can be handed out:
// a flat value in which scrubbing finds nothing.
func (c *cleaner) safe(v reflect.Value) bool {
	if err, ok := v.Interface().(error); ok && c.clean(err.Error()) != err.Error() {
		return false
	}
	for (v.Kind() == reflect.Interface || v.Kind() == reflect.Pointer) && !v.IsNil() {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return c.safeField("", v)
	}
	for i := range v.NumField() {
		if !c.safeField(v.Type().Field(i).Name, v.Field(i)) {
			return false
		}
	}
	return true
}

func (c *cleaner) safeField(name string, v reflect.Value) bool {
	switch v.Kind() {
	case reflect.String:
		// The name counts too: a field Password holds one, whatever it is.
		setting := name + "=" + v.String()
		return v.Len() == 0 || c.clean(setting) == setting && c.clean(v.String()) == v.String()
	case reflect.Array:
		return v.Type().Elem().Kind() == reflect.Uint8 && v.Len() <= 8
	case reflect.Slice, reflect.Map, reflect.Struct, reflect.Func, reflect.Chan, reflect.UnsafePointer,
		reflect.Interface, reflect.Pointer:
		return v.IsZero()
	default:
		return true // booleans and numbers
	}
}
