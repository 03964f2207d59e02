package secret

import (
	"context"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"
)

func TestScrubTakesOutKnownSecrets(t *testing.T) {
	const awkward = `p@s/s:w%rd "it's" <ü>\`
	for name, text := range map[string]string{
		"plain":             awkward,
		"path escaped":      url.PathEscape(awkward),
		"query escaped":     url.QueryEscape(awkward),
		"userinfo":          url.UserPassword("", awkward).String()[1:],
		"lower case":        "p%40s%2fs%3aw%25rd%20%22it%27s%22%20%3c%c3%bc%3e%5c",
		"javascript":        "p%40s%2Fs%3Aw%25rd%20%22it's%22%20%3C%C3%BC%3E%5C",
		"quoted":            fmt.Sprintf("%q", awkward),
		"quoted twice":      fmt.Sprintf("%q", fmt.Sprintf("%q", awkward)),
		"quoted, ascii":     fmt.Sprintf("%+q", awkward),
		"json":              func() string { b, _ := json.Marshal(awkward); return string(b) }(),
		"json in json":      func() string { b, _ := json.Marshal(fmt.Sprintf(`{"p": %q}`, awkward)); return string(b) }(),
		"sql":               `'` + strings.ReplaceAll(awkward, "'", "''") + `'`,
		"libpq":             `'p@s/s:w%rd "it\'s" <ü>\\'`,
		"twice in one text": awkward + " and " + awkward,
	} {
		got := Scrub("before "+text+" after", New("other"), New(awkward))
		for _, part := range []string{"p@s", "p%40s", "w%rd", "w%25rd", "it", "ü", "u00fc", "C3%BC"} {
			if strings.Contains(got, part) {
				t.Errorf("%s: %q of the secret is left: %s", name, part, got)
			}
		}
		if !strings.HasPrefix(got, "before ") || !strings.HasSuffix(got, " after") {
			t.Errorf("%s: too much is gone: %s", name, got)
		}
	}
}

func TestScrubAtTheEdges(t *testing.T) {
	for _, tt := range []struct {
		text    string
		secrets []string
		want    string
	}{
		{"", []string{"abcd"}, ""},
		{"nothing here", []string{"abcd", ""}, "nothing here"},
		{"abcd", []string{"abcd"}, "[redacted]"},
		{"xabcdx", []string{"abcd"}, "x[redacted]x"},
		{"one abcdXwxyz two", []string{"abcdX", "Xwxyz"}, "one [redacted] two"},
		{"aaaaaa b", []string{"aaaa"}, "[redacted] b"},
		{"longer-secret secret", []string{"secret", "longer-secret"}, "[redacted] [redacted]"},
		{"a cat sat, user a", []string{"a"}, "[redacted] cat sat, user [redacted]"},
		{"pw: 'é' née é", []string{"é"}, "pw: '[redacted]' née [redacted]"},
	} {
		var secrets []Secret
		for _, s := range tt.secrets {
			secrets = append(secrets, New(s))
		}
		if got := Scrub(tt.text, secrets...); got != tt.want {
			t.Errorf("Scrub(%q, %q) = %q, want %q", tt.text, tt.secrets, got, tt.want)
		}
	}
}

func TestScrubKnowsWherePasswordsStand(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"dial postgres://u:pw1@db:5432/x: refused", "dial postgres://u:[redacted]@db:5432/x: refused"},
		{"postgres://u:p@w/1@db/x", "postgres://u:[redacted]@db/x"},
		{"postgres://u@db:5432/x and http://h:80/y", "postgres://u@db:5432/x and http://h:80/y"},
		{"redis://:pw1@db", "redis://:[redacted]@db"},
		{`parse "postgres://u:my pw1@db/x": net/url: invalid`, `parse "postgres://u:[redacted]@db/x": net/url: invalid`},
		{`parse "mysql://u:p%w1@db": invalid URL escape "%w1"`, `parse "mysql://u:[redacted]@db": invalid URL escape [redacted]`},
		{"root:pw1@tcp(db:3306)/x?tls=true", "root:[redacted]@tcp(db:3306)/x?tls=true"},
		{"root:pw1@/x", "root:[redacted]@/x"},
		{"root:pw1@unix(/tmp/s)/x", "root:[redacted]@unix(/tmp/s)/x"},
		{"host=h password=pw1 dbname=x", "host=h password=[redacted] dbname=x"},
		{"host=h password = 'p w\\'1' dbname=x", "host=h password = [redacted] dbname=x"},
		{"PASSWORD=pw1;Database=x", "PASSWORD=[redacted];Database=x"},
		{"?sslmode=off&password=pw1&sslpassword=pw2&user=u", "?sslmode=off&password=[redacted]&sslpassword=[redacted]&user=u"},
		{"password=a&b;c,d host=h", "password=[redacted] host=h"},
		{`{"user":"u","password":"p\"w1","port":1}`, `{"user":"u","password":[redacted],"port":1}`},
		{`got "{\"password\":\"pw1\"}"`, `got "{\"password\":[redacted]`},
		{"{ user: 'u', password: 'pw1', port: 1 }", "{ user: 'u', password: [redacted], port: 1 }"},
		{"{User:u Password:pw1 Port:1}", "{User:u Password:[redacted] Port:1}"},
		{"user: u\n  password: p w 1\nport: 1", "user: u\n  password: [redacted]\nport: 1"},
		{"DB_ENCRYPTION_KEY=pw1 DB_ENCRYPTION_KEY_PREVIOUS=pw2", "DB_ENCRYPTION_KEY=[redacted] DB_ENCRYPTION_KEY_PREVIOUS=[redacted]"},
		{`CREATE ROLE "u" LOGIN PASSWORD 'p''w1' VALID`, `CREATE ROLE "u" LOGIN PASSWORD [redacted] VALID`},
		{"ALTER ROLE u ENCRYPTED PASSWORD $x$p'w1$x$;", "ALTER ROLE u ENCRYPTED PASSWORD [redacted];"},
		{"CREATE USER u@h IDENTIFIED BY 'pw1' REQUIRE SSL", "CREATE USER u@h IDENTIFIED BY [redacted] REQUIRE SSL"},
		{"IDENTIFIED VIA ed25519 USING PASSWORD('pw1')", "IDENTIFIED VIA ed25519 USING PASSWORD([redacted])"},
		{"identified with caching_sha2_password by 'pw1'", "identified with caching_sha2_password by [redacted]"},
		// What a person needs to read stays.
		{`FATAL: password authentication failed for user "u" (SQLSTATE 28P01)`, `FATAL: password authentication failed for user "u" (SQLSTATE 28P01)`},
		{"Access denied for user 'u'@'h' (using password: YES)", "Access denied for user 'u'@'h' (using password: YES)"},
		{"open tenant password: the value was cut short", "open tenant password: the value was cut short"},
		{`syntax error at or near "token"`, `syntax error at or near "token"`},
	} {
		got := Scrub(tt.text)
		if got != tt.want {
			t.Errorf("Scrub(%q)\n got %q\nwant %q", tt.text, got, tt.want)
		}
		if again := Scrub(got); again != got {
			t.Errorf("scrubbing again changes %q to %q", got, again)
		}
	}
}

func FuzzScrub(f *testing.F) {
	f.Add("dial postgres://u:", "hunter2", "@db")
	f.Add("password='", `it's`, "' host=x")
	f.Add("", "aaaa", "aaa")
	f.Add("\"", "\xff\x00\"\\", "\"")
	f.Fuzz(func(t *testing.T, before, plain, after string) {
		if len(plain) < 4 || strings.Contains(mask, plain) {
			return
		}
		got := Scrub(before+plain+after, New(plain))
		// The mask may complete the secret with what stands around it.
		for _, part := range strings.Split(got, mask) {
			if strings.Contains(part, plain) {
				t.Fatalf("%q is left in %q", plain, got)
			}
		}
	})
}

type structError struct{ Code, Text string }

func (e structError) Error() string { return e.Code }

type credentialError struct{ User, Password string }

func (e *credentialError) Error() string { return "denied " + e.User }

func TestCleanKeepsWhatCannotLeak(t *testing.T) {
	pw := New(hidden)
	pg := &pgconn.PgError{Severity: "ERROR", Code: "42P07", Message: "relation exists", Line: 7}
	my := &mysql.MySQLError{Number: 1045, SQLState: [5]byte{'2', '8', '0', '0', '0'}, Message: "Access denied for user 'u'@'h' (using password: YES)"}
	err := Clean(fmt.Errorf("apply with %s: %w", hidden, errors.Join(pg, my, context.DeadlineExceeded, driver.ErrBadConn,
		&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)})), pw)

	if got := err.Error(); !strings.HasPrefix(got, "apply with [redacted]: ERROR: relation exists") {
		t.Errorf("got %s", got)
	}
	for _, target := range []error{context.DeadlineExceeded, driver.ErrBadConn, syscall.ECONNREFUSED, pg} {
		if !errors.Is(err, target) {
			t.Errorf("errors.Is no longer finds %v", target)
		}
	}
	if errors.Is(err, context.Canceled) {
		t.Error("errors.Is finds what is not there")
	}
	var gotPg *pgconn.PgError
	var gotMy *mysql.MySQLError
	var errno syscall.Errno
	var state interface{ SQLState() string }
	if !errors.As(err, &gotPg) || gotPg != pg || !errors.As(err, &gotMy) || gotMy != my ||
		!errors.As(err, &errno) || errno != syscall.ECONNREFUSED || !errors.As(err, &state) || state.SQLState() != "42P07" {
		t.Errorf("errors.As no longer finds flat errors: %v %v %v", gotPg, gotMy, errno)
	}
	if Clean(nil, pw) != nil {
		t.Error("nil is cleaned to an error")
	}
}

func TestCleanHidesWhatCanLeak(t *testing.T) {
	dsn := "postgres://u:" + url.PathEscape(hidden) + "@127.0.0.1:1/x?connect_timeout=1"
	_, refused := pgconn.Connect(context.Background(), dsn)
	_, badDSN := pgconn.ParseConfig("postgres://u:" + hidden + "%zz@127.0.0.1/x?sslmode=off")
	_, badURL := url.Parse(dsn + " %zz\x00")
	inMessage := &pgconn.PgError{Code: "42601", Message: "near " + hidden}
	inField := &pgconn.PgError{Code: "42601", InternalQuery: "ALTER ROLE u PASSWORD '" + hidden + "'"}
	inFields := structError{"a", hidden}
	byName := &credentialError{"u", "unknown to the cleaner"}

	for name, dirty := range map[string]error{
		"refused": refused, "bad dsn": badDSN, "bad url": badURL, "message": inMessage, "field": inField, "struct": inFields,
		"field name": byName, "wrapped": fmt.Errorf("%s: %w", hidden, inMessage), "plain": errors.New(dsn),
	} {
		if dirty == nil {
			t.Fatalf("%s: no error to clean", name)
		}
		err := Clean(dirty, New(hidden))
		encoded, _ := json.Marshal(err)
		nested := struct{ err error }{err}
		for _, text := range []string{
			err.Error(), fmt.Sprintf("%+v %#v %q %x", err, err, err, err), fmt.Sprintf("%+v %#v", nested, nested), string(encoded),
		} {
			if leaks(text) || name == "bad dsn" && strings.Contains(text, "%zz") {
				t.Errorf("%s: shows %s", name, text)
			}
		}
		if errors.Unwrap(err) != nil {
			t.Errorf("%s: can be unwrapped", name)
		}
		var (
			connect *pgconn.ConnectError
			parse   *pgconn.ParseConfigError
			uerr    *url.Error
			pg      *pgconn.PgError
			own     structError
			cred    *credentialError
			wrapper interface{ Unwrap() error }
		)
		if errors.As(err, &connect) || errors.As(err, &parse) || errors.As(err, &uerr) || errors.As(err, &pg) ||
			errors.As(err, &own) || errors.As(err, &cred) || errors.As(err, &wrapper) {
			t.Errorf("%s: errors.As hands out an error that holds a secret", name)
		}
		if !errors.Is(err, dirty) {
			t.Errorf("%s: errors.Is no longer answers", name)
		}
	}
	if !errors.Is(Clean(refused), syscall.ECONNREFUSED) {
		t.Errorf("a refused connection is no longer known as one: %v", refused)
	}
}
