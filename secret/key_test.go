package secret

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestGenerateKey(t *testing.T) {
	count := map[rune]int{}
	for range 1000 {
		key := GenerateKey()
		for _, r := range key.Reveal() {
			count[r]++
		}
		if _, err := NewKeyring(key, KeyringOptions{}); err != nil {
			t.Fatalf("the key does not fit utf8: %v", err)
		}
	}
	entropy := 0.0
	for r, n := range count {
		if !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", r) {
			t.Errorf("%q is in a key", r)
		}
		p := float64(n) / 32000
		entropy -= 32 * p * math.Log2(p)
	}
	if entropy < 190 {
		t.Errorf("32 characters of these have %.1f bits", entropy)
	}
}

func TestLoadKey(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o444); err != nil {
			t.Fatal(err)
		}
		return path
	}
	denied := errors.New("denied by the service")
	sources := map[string]KeySource{
		"vault": func(_ context.Context, ref string) (Secret, error) {
			switch ref {
			case "vault://key", "VAULT://key":
				return New("unwrapped"), nil
			case "vault://none":
				return Secret{}, nil
			}
			return Secret{}, denied
		},
	}
	for name, tt := range map[string]struct{ setting, want, problem string }{
		"plain":               {setting: key32, want: key32},
		"plain with a colon":  {setting: "abc:def", want: "abc:def"},
		"plain with a line":   {setting: "abc\n", want: "abc\n"},
		"empty":               {},
		"file":                {setting: "file:" + file("plain", key32), want: key32},
		"file with a line":    {setting: "file:" + file("lf", key32+"\n"), want: key32},
		"file from Windows":   {setting: "file:" + file("crlf", key32+"\r\n"), want: key32},
		"file with spaces":    {setting: "file:" + file("spaces", " a \n"), want: " a "},
		"file as a URL":       {setting: "file://" + file("url", key32), want: key32},
		"file with two lines": {setting: "file:" + file("two", "a\n\n"), problem: "more than one line"},
		"empty file":          {setting: "file:" + file("empty", "\n"), problem: "is empty"},
		"large file":          {setting: "file:" + file("large", strings.Repeat("x", 5000)), problem: "longer than 4096"},
		"folder":              {setting: "file:" + dir, problem: "is a directory"},
		"no file":             {setting: "file:" + dir + "/none", problem: "no such file"},
		"source":              {setting: "vault://key", want: "unwrapped"},
		"source in capitals":  {setting: "VAULT://key", want: "unwrapped"},
		"source, no key":      {setting: "vault://none", problem: "is empty"},
		"source, denied":      {setting: "vault://other", problem: "denied by the service"},
		"no source":           {setting: "awskms://alias/skein", problem: "awskms:// is no known source"},
	} {
		got, err := LoadKey(t.Context(), New(tt.setting), sources)
		if got.Reveal() != tt.want || (err == nil) != (tt.problem == "") || err != nil && !strings.Contains(err.Error(), tt.problem) {
			t.Errorf("%s: got %q, %v", name, got.Reveal(), err)
		}
	}
	if _, err := LoadKey(t.Context(), New("vault://other"), sources); !errors.Is(err, denied) {
		t.Errorf("the source's error is lost: %v", err)
	}
}
