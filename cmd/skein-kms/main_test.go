package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"gocloud.dev/secrets"
	_ "gocloud.dev/secrets/localsecrets" // base64key://, a key service for tests

	"github.com/skeinhq/skein/internal/cli"
	"github.com/skeinhq/skein/secret"
)

// A project is a folder with settings of its own.
type project struct {
	dir string
	key string // DB_ENCRYPTION_KEY
}

// run calls the command and returns what it wrote.
func (p *project) run(t *testing.T, code int, stdin string, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	got := cli.Run(append(args, "--config", filepath.Join(p.dir, "skein.yaml")), cli.System{
		In: strings.NewReader(stdin), Out: &out, Err: &out, Version: "test",
		LookupEnv: func(name string) (string, bool) {
			if name == "DB_ENCRYPTION_KEY" {
				return p.key, true
			}
			return "", false
		},
		KeyServices: services("base64key", "hashivault"),
	})
	if got != code {
		t.Fatalf("skein %s ended with %d, not %d:\n%s", strings.Join(args, " "), got, code, &out)
	}
	return out.String()
}

// newProject makes Skein's own table with one password in it, whose key is
// wrapped at an address.
func newProject(t *testing.T, address string) (p *project, key string) {
	t.Helper()
	p = &project{dir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(p.dir, "skein.yaml"), []byte("central: {url: \"sqlite:central.db\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	key = p.run(t, 0, "", "keys", "generate")
	p.key = strings.TrimSpace(p.run(t, 0, key, "keys", "wrap", address))
	key = strings.TrimSpace(key)
	if !strings.HasPrefix(p.key, address+"#") || strings.Contains(p.key, key) {
		t.Fatalf("the wrapped key is %q", p.key)
	}
	p.run(t, 0, "", "init")
	p.run(t, 0, "S3cret-word", "tenants", "add", "acme", "--url", "postgres://u@127.0.0.1:1/d", "--password-stdin")
	return p, key
}

func (p *project) wantOpen(t *testing.T, key string) {
	t.Helper()
	want := "1  skein:v1  " + secret.KeyID(secret.New(key)) + ", current"
	if out := p.run(t, 0, "", "keys", "status"); !strings.Contains(out, want) || strings.Contains(out, key) {
		t.Errorf("keys status says\n%s\nwant %s", out, want)
	}
}

func localAddress() string {
	random := make([]byte, 32)
	_, _ = rand.Read(random) // never fails
	return "base64key://" + base64.URLEncoding.EncodeToString(random)
}

func TestWrappedKey(t *testing.T) {
	p, key := newProject(t, localAddress())
	p.wantOpen(t, key)

	// The same in a file, as it was printed and as the wrapped key alone.
	wrapped := p.key
	address, text, _ := strings.Cut(wrapped, "#")
	for _, content := range []string{wrapped + "\n", text} {
		if err := os.WriteFile(filepath.Join(p.dir, "key.wrapped"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		p.key = address + "#file:key.wrapped"
		p.wantOpen(t, key)
	}

	for setting, want := range map[string]string{
		address:                        "behind the address there is no wrapped key",
		address + "#":                  "behind the address there is no wrapped key",
		address + "#" + text[1:]:       "the wrapped key is not base64",
		address + "#file:nowhere":      "read the wrapped key: open",
		localAddress() + "#" + text:    "unwrap the key",
		address + "#" + "AAAA" + text:  "unwrap the key",
		"awskms://alias/skein#" + text: "no key management services",
		"base64key://x#" + text:        "unwrap the key",
	} {
		p.key = setting
		if out := p.run(t, 2, "", "keys", "status"); !strings.Contains(out, want) || strings.Contains(out, key) {
			t.Errorf("%q says\n%s\nwant %s", setting, out, want)
		}
	}
}

func TestWrapRefuses(t *testing.T) {
	p := &project{dir: t.TempDir()}
	address := localAddress()
	for _, test := range []struct{ stdin, address, want string }{
		{"", address, "is not one key"},
		{"a\nb\n", address, "is not one key"},
		{strings.Repeat("k", 5000), address, "is not one key"},
		{"S3cret-word", address + "#x", "holds a #"},
		{"S3cret-word", "base64key://x", "wrap the key"},
		{"S3cret-word", "ftp://x", "begins with none of"},
	} {
		out := p.run(t, 2, test.stdin, "keys", "wrap", test.address)
		if !strings.Contains(out, test.want) || strings.Contains(out, "S3cret") {
			t.Errorf("%s: %s\nwant %s", test.address, out, test.want)
		}
	}
}

// TestVault goes the way to a key service over HTTP, with Vault's own driver.
// The requests and answers are those of Vault's transit engine:
// https://developer.hashicorp.com/vault/api-docs/secret/transit.
func TestVault(t *testing.T) {
	const token = "S3cret-token"
	var sealed atomic.Bool
	vault := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in, out map[string]string
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || r.Header.Get("X-Vault-Token") != token || sealed.Load() {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		switch r.URL.Path {
		case "/v1/transit/encrypt/skein":
			out = map[string]string{"ciphertext": "vault:v1:" + reversed(in["plaintext"])}
		case "/v1/transit/decrypt/skein":
			out = map[string]string{"plaintext": reversed(strings.TrimPrefix(in["ciphertext"], "vault:v1:"))}
		default:
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"data": out}) // the client says what is missing
	}))
	defer vault.Close()
	t.Setenv("VAULT_SERVER_URL", vault.URL)
	t.Setenv("VAULT_SERVER_TOKEN", token)

	p, key := newProject(t, "hashivault://skein")
	p.wantOpen(t, key)

	sealed.Store(true)
	if out := p.run(t, 2, "", "keys", "status"); !strings.Contains(out, "unwrap the key") || strings.Contains(out, "S3cret") {
		t.Errorf("without the right to decrypt: %s", out)
	}
}

func reversed(s string) string {
	b := []byte(s)
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
	return string(b)
}

// TestDrivers is that each scheme of main has a driver that takes its addresses.
func TestDrivers(t *testing.T) {
	for _, scheme := range []string{"awskms", "azurekeyvault", "gcpkms", "hashivault"} {
		if !secrets.DefaultURLMux().ValidKeeperScheme(scheme) {
			t.Errorf("there is no driver for %s://", scheme)
		}
	}
}
