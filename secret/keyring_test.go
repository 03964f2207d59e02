package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
)

const (
	key32    = "0123456789abcdefghijklmnopqrstuv"
	otherKey = "vutsrqponmlkjihgfedcba9876543210"
)

var binding = Binding{Tenant: "42", Field: "password"}

func mustKeyring(t testing.TB, key string, opts KeyringOptions) *Keyring {
	t.Helper()
	k, err := NewKeyring(New(key), opts)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// vector is an entry of testdata/cbc-vectors.json, which Node 20 wrote.
type vector struct {
	ID         int
	KDF        string
	Layout     string
	EnvKey     string `json:"env_key"`
	DerivedKey string `json:"derived_key_hex"`
	DerivedIV  string `json:"derived_iv_hex"`
	Plaintext  string
	Stored     string
	NodeError  string `json:"node_error"`
	Bytes      int    `json:"derived_key_bytes"`
	Negative   string
	Garbage    string `json:"garbage_hex"`
}

func vectors(t testing.TB) []vector {
	t.Helper()
	b, err := os.ReadFile("testdata/cbc-vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Vectors []vector }
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	return file.Vectors
}

func TestVectors(t *testing.T) {
	count := map[string]int{}
	probes := map[string]*Probe{}
	for _, v := range vectors(t) {
		switch {
		case v.Negative != "":
			count["negative"]++
			checkNegative(t, v)
			continue
		case v.NodeError != "":
			count["refused"]++
			_, err := NewKeyring(New(v.EnvKey), KeyringOptions{Format: Format(v.Layout), Derivation: Derivation(v.KDF)})
			var keyErr *KeyError
			if !errors.As(err, &keyErr) || keyErr.Bytes != len(v.EnvKey) || strings.Contains(err.Error(), v.EnvKey) {
				t.Errorf("%d: the key is not refused as Node refuses it: %v", v.ID, err)
			}
			continue
		}
		count["positive"]++

		k, err := NewKeyring(New(v.EnvKey), KeyringOptions{Format: Format(v.Layout), Derivation: Derivation(v.KDF)})
		if err != nil {
			t.Errorf("%d: %v", v.ID, err)
			continue
		}
		got, id, err := k.Open(v.Stored, Binding{})
		if err != nil || got.Reveal() != v.Plaintext || id != k.Current() {
			t.Errorf("%d: got %q, %q, %v", v.ID, got.Reveal(), id, err)
		}
		if key := k.keys()[0].cbc.aes; key != nil && v.DerivedKey != "" && hex.EncodeToString(key) != v.DerivedKey {
			t.Errorf("%d: %s derives another key than Node", v.ID, v.KDF)
		}

		// Nothing else opens it than what makes the same key.
		if probes[v.EnvKey] == nil {
			probes[v.EnvKey] = NewProbe(New(v.EnvKey))
		}
		found := probes[v.EnvKey].Find(v.Stored)
		if len(found) != 1 || found[0].Format != k.format.name || found[0].KeyID != id {
			t.Errorf("%d: probe finds %v", v.ID, found)
			continue
		}
		if same, err := findDerivation(found[0].Derivation); err != nil {
			t.Errorf("%d: %v", v.ID, err)
		} else if key, _ := same.key(v.EnvKey); !bytes.Equal(key, k.keys()[0].cbc.aes) {
			t.Errorf("%d: the probe finds %s, which makes another key", v.ID, same.name)
		}
	}
	if count["positive"] != 97 || count["refused"] != 9 || count["negative"] != 5 {
		t.Errorf("vectors read: %v", count)
	}
}

func checkNegative(t *testing.T, v vector) {
	t.Helper()
	f, _ := findFormat("")
	if v.EnvKey == "" { // only the derived key is given
		head, ciphertext, err := f.parse(v.Stored)
		aesKey, _ := hex.DecodeString(v.DerivedKey)
		if err != nil {
			t.Errorf("%d: %v", v.ID, err)
		} else if _, ok := (cbcKey{aes: aesKey}).open(head, ciphertext); ok {
			t.Errorf("%d: opens with a wrong key", v.ID)
		}
		if garbage, _ := hex.DecodeString(v.Garbage); plausible(garbage) != (v.Garbage == "") {
			t.Errorf("%d: garbage is plausible", v.ID)
		}
		return
	}
	got, _, err := mustKeyring(t, v.EnvKey, KeyringOptions{}).Open(v.Stored, binding)
	if !errors.Is(err, ErrFormat) || !got.IsZero() || strings.Contains(err.Error(), v.Stored) {
		t.Errorf("%d (%s): got %v", v.ID, v.Negative, err)
	}
}

func TestWrongKeyGivesNoPassword(t *testing.T) {
	// The garbage with good padding, through the front door.
	k := mustKeyring(t, "wrong15", KeyringOptions{Derivation: "sha256"})
	for _, v := range vectors(t) {
		if v.Garbage != "" {
			if _, _, err := k.Open(v.Stored, binding); !errors.Is(err, ErrNotPlausible) {
				t.Errorf("garbage is taken for a password: %v", err)
			}
		}
	}

	// Bad padding is told apart by chance alone, and by no message.
	random := rand.New(rand.NewChaCha8([32]byte{}))
	ciphertext := cbcKey{aes: []byte(key32)}.seal(make([]byte, 16), "hunter2")
	padded, opened, wrong := 0, 0, make([]byte, 32)
	const tries = 100_000
	for range tries {
		for i := range wrong {
			wrong[i] = byte(random.Uint32())
		}
		block, _ := cbcKey{aes: wrong}.cipher(nil)
		plain := make([]byte, 16)
		block.Decrypt(plain, ciphertext) // the IV is zero
		if _, ok := unpad(plain); ok {
			padded++
		}
		if _, ok := (cbcKey{aes: wrong}).open(make([]byte, 16), ciphertext); ok {
			opened++
		}
	}
	if padded < tries/300 || padded > tries/220 || opened > 0 {
		t.Errorf("of %d wrong keys %d pass the padding and %d give a plausible password", tries, padded, opened)
	}
}

func TestUnpad(t *testing.T) {
	block := func(last ...byte) []byte {
		return append([]byte(strings.Repeat("x", 32-len(last))), last...)
	}
	for _, tt := range []struct {
		plain []byte
		n     int
		ok    bool
	}{
		{block(1), 31, true},
		{block(2, 2), 30, true},
		{block(slices.Repeat([]byte{15}, 15)...), 17, true},
		{block(slices.Repeat([]byte{16}, 16)...), 16, true},
		{block(slices.Repeat([]byte{16}, 15)...), 0, false},
		{block(slices.Repeat([]byte{17}, 17)...), 0, false},
		{block(0), 0, false},
		{block(3, 2), 0, false},
		{block(2, 3, 3), 0, false},
		{block(255), 0, false},
		{slices.Repeat([]byte{16}, 16), 0, true},
	} {
		n, ok := unpad(tt.plain)
		if ok != tt.ok || ok && n != tt.n {
			t.Errorf("unpad(%v) = %d, %v", tt.plain, n, ok)
		}
	}
}

func TestPlausible(t *testing.T) {
	for text, want := range map[string]bool{
		"": true, "a": true, "correct horse ": true, "pässwörd-密码-🔑": true, strings.Repeat("x", 4096): true,
		strings.Repeat("x", 4097): false, "a\x00b": false, "a\n": false, "tab\t": false, "\x7f": false,
		"\u0085": false, "a\xff": false, "\xed\xa0\x80": false,
	} {
		if plausible([]byte(text)) != want {
			t.Errorf("plausible(%q) is not %v", text, want)
		}
	}
}

func TestSealAndOpen(t *testing.T) {
	passwords := []string{"", "a", "hunter2", "fifteen-letters", "sixteen--letters", "pässwörd-密码-🔑", strings.Repeat("x", 300)}
	for _, f := range formats {
		for _, d := range []Derivation{"utf8", "sha256", "evp-md5"} {
			for _, write := range []WriteMode{WriteGCM, WriteCBC} {
				if f.salted() != (d == evpMD5) || f.head == 0 && write == WriteCBC {
					continue
				}
				k := mustKeyring(t, key32, KeyringOptions{Format: f.name, Derivation: d, Write: write})
				for _, pw := range passwords {
					one, err1 := k.Seal(New(pw), binding)
					two, err2 := k.Seal(New(pw), binding)
					if err1 != nil || err2 != nil || one == two || leaks(one) {
						t.Fatalf("%s %s: %v %v; equal %v", f.name, write, err1, err2, one == two)
					}
					if IsSealed(one) != (write == WriteGCM) {
						t.Errorf("%s: IsSealed(%s) is wrong", write, one)
					}
					got, id, err := k.Open(one, binding)
					if err != nil || got.Reveal() != pw || id != KeyID(New(key32)) {
						t.Errorf("%s %s: got %q, %s, %v", f.name, write, got.Reveal(), id, err)
					}
				}
			}
		}
	}
}

func TestSealRefusesWhatOpenWould(t *testing.T) {
	cbc := mustKeyring(t, key32, KeyringOptions{Write: WriteCBC})
	for _, pw := range []string{"a\nb", "\xff\xfe", strings.Repeat("x", 5000)} {
		if got, err := cbc.Seal(New(pw), binding); err == nil || strings.Contains(err.Error(), pw) {
			t.Errorf("%q is sealed as %q, which does not open: %v", pw, got, err)
		}
		gcm := mustKeyring(t, key32, KeyringOptions{})
		sealed, err := gcm.Seal(New(pw), binding)
		if err != nil {
			t.Error(err)
		}
		if got, _, err := gcm.Open(sealed, binding); err != nil || got.Reveal() != pw {
			t.Errorf("%q comes back as %q: %v", pw, got.Reveal(), err)
		}
	}
	for _, b := range []Binding{{}, {Tenant: "1"}, {Field: "password"}, {"1\x00", "x"}} {
		if _, err := cbc.Seal(New("x"), b); err == nil {
			t.Errorf("sealed with the binding %+v", b)
		}
	}
}

// The value was made with Node 20's crypto, by the steps that
// docs/encryption.md gives to applications, and a nonce of 00 01 02 ... 0b.
func TestSealedFormIsStable(t *testing.T) {
	const fromNode = "skein:v1:1705c13e:AAECAwQFBgcICQoLAskXciqzF3_09nOfttAAOxhda7cYLV9H2p3-gZJEVrC5i1rz7Q"
	k := mustKeyring(t, key32, KeyringOptions{})
	got, id, err := k.Open(fromNode, binding)
	if err != nil || got.Reveal() != "s3cr3t-P@ss:wörd/€" || id != "1705c13e" || k.Current() != id {
		t.Errorf("got %q, %s, %v", got.Reveal(), id, err)
	}
	sealed, err := k.Seal(New(strings.Repeat("x", 32)), binding)
	if err != nil || len(sealed) != 98 {
		t.Errorf("32 bytes become %d characters, not 98 as documented: %v", len(sealed), err)
	}
}

func TestSealedValueIsBound(t *testing.T) {
	k := mustKeyring(t, key32, KeyringOptions{})
	sealed, err := k.Seal(New("hunter2"), binding)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := base64.RawURLEncoding.DecodeString(sealed[18:])
	body[len(body)-20] ^= 1
	for name, tt := range map[string]struct {
		value string
		b     Binding
		want  error
	}{
		"another tenant":    {sealed, Binding{"43", "password"}, ErrNotAuthentic},
		"another field":     {sealed, Binding{"42", "url"}, ErrNotAuthentic},
		"shifted":           {sealed, Binding{"4", "2password"}, ErrNotAuthentic},
		"one bit":           {sealed[:18] + base64.RawURLEncoding.EncodeToString(body), binding, ErrNotAuthentic},
		"cut short":         {sealed[:len(sealed)-3], binding, ErrNotAuthentic},
		"no body":           {sealed[:18], binding, ErrNotAuthentic},
		"another key id":    {"skein:v1:00000000:" + sealed[18:], binding, ErrUnknownKey},
		"no key id":         {"skein:v1:" + sealed[18:], binding, ErrFormat},
		"not base64":        {sealed + "!", binding, ErrFormat},
		"prefix alone":      {"skein:v1:", binding, ErrFormat},
		"a later version":   {"skein:v2:x", binding, ErrFormat},
		"a prefix in vain":  {"skein:", binding, ErrFormat},
		"not of this world": {"Skein:v1:1705c13e:", binding, ErrFormat},
	} {
		got, _, err := k.Open(tt.value, tt.b)
		if !errors.Is(err, tt.want) || !got.IsZero() {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
	if _, _, err := k.Open(sealed, Binding{}); err == nil || errors.Is(err, ErrNotAuthentic) {
		t.Errorf("a missing binding is not named: %v", err)
	}
}

func TestPreviousKeys(t *testing.T) {
	for _, write := range []WriteMode{WriteGCM, WriteCBC} {
		old := mustKeyring(t, otherKey, KeyringOptions{Write: write})
		value, err := old.Seal(New("hunter2"), binding)
		if err != nil {
			t.Fatal(err)
		}
		ring := mustKeyring(t, key32, KeyringOptions{Write: write, Previous: []Secret{{}, New(key32), New(otherKey)}})
		if ids := ring.KeyIDs(); len(ids) != 2 || ids[0] != ring.Current() || ids[1] != old.Current() {
			t.Errorf("%s: key ids %v", write, ids)
		}
		got, id, err := ring.Open(value, binding)
		if err != nil || got.Reveal() != "hunter2" || id != old.Current() {
			t.Errorf("%s: got %q, %s, %v", write, got.Reveal(), id, err)
		}
		renewed, err := ring.Seal(got, binding)
		if err != nil {
			t.Fatal(err)
		}
		want := map[WriteMode]error{WriteGCM: ErrUnknownKey, WriteCBC: ErrNotPlausible}[write]
		if _, _, err := old.Open(renewed, binding); !errors.Is(err, want) {
			t.Errorf("%s: the old key alone opens what the new one wrote: %v", write, err)
		}
		if _, id, err := mustKeyring(t, key32, KeyringOptions{}).Open(renewed, binding); err != nil || id != ring.Current() {
			t.Errorf("%s: the new key alone does not open it: %v", write, err)
		}
	}
}

func TestChangingTheDerivationKeepsSealedValues(t *testing.T) {
	sealed, err := mustKeyring(t, key32, KeyringOptions{}).Seal(New("hunter2"), binding)
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := mustKeyring(t, key32, KeyringOptions{Derivation: "sha256"}).Open(sealed, binding); err != nil || got.Reveal() != "hunter2" {
		t.Errorf("got %q, %v", got.Reveal(), err)
	}
}

func TestKeyErrorsHelp(t *testing.T) {
	for _, tt := range []struct {
		key, previous string
		opts          KeyringOptions
		want          []string
	}{
		{key: "", want: []string{"encryption.key is empty"}},
		{key: "\xff\xfe", want: []string{"not text in UTF-8", "hex"}},
		{key: exampleKey, want: []string{"encryption.key has 30 bytes", "utf8 needs 32 bytes", "hex needs 64", "fit sha256", "pad32-zero", "30 characters whatever it says", "skein keys generate"}},
		{key: "short", want: []string{"has 5 bytes", "slice32 needs 32 or more", "skein keys generate"}},
		{key: key32, opts: KeyringOptions{Derivation: "hex"}, want: []string{"does not fit encryption.derivation hex", "fit utf8, sha256"}},
		{key: strings.Repeat("a1", 32), want: []string{"has 64 bytes", "fit hex"}},
		{key: key32, previous: "short", want: []string{"encryption.previous_key has 5 bytes"}},
		{key: key32, opts: KeyringOptions{Derivation: "md6"}, want: []string{"encryption.derivation", `"md6"`, "utf8, hex"}},
		{key: key32, opts: KeyringOptions{Format: "xml"}, want: []string{"encryption.format", `"xml"`, "iv:ciphertext-hex, "}},
		{key: key32, opts: KeyringOptions{Write: "ecb"}, want: []string{"encryption.write", "gcm or cbc"}},
		{key: key32, opts: KeyringOptions{Format: "openssl-base64"}, want: []string{"evp-md5"}},
		{key: key32, opts: KeyringOptions{Derivation: "evp-md5"}, want: []string{"evp-md5"}},
		{key: key32, opts: KeyringOptions{Format: "ciphertext-hex", Derivation: "evp-md5", Write: WriteCBC}, want: []string{"equal passwords"}},
	} {
		tt.opts.Previous = []Secret{New(tt.previous)}
		_, err := NewKeyring(New(tt.key), tt.opts)
		if err == nil {
			t.Errorf("%q %+v: no error", tt.key, tt.opts)
			continue
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %q is missing in: %v", tt.key, want, err)
			}
		}
		if tt.key != "" && strings.Contains(err.Error(), tt.key) {
			t.Errorf("the key is shown: %v", err)
		}
	}
}

func TestNothingOfAKeyringIsPrinted(t *testing.T) {
	k := mustKeyring(t, hidden+"-and-some-more", KeyringOptions{Derivation: "sha256", Previous: []Secret{New(otherKey)}})
	p := NewProbe(New(hidden), New(otherKey))
	holder := struct {
		k *Keyring
		p *Probe
		v Keyring
		w Probe
	}{k, p, *k, *p}
	d, _ := findDerivation("sha256")
	derived, _ := d.key(hidden + "-and-some-more")
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, value := range []any{k, *k, p, *p, holder, &holder} {
			got := fmt.Sprintf(format, value)
			if leaks(got) || strings.Contains(got, otherKey) || strings.Contains(got, strings.Trim(fmt.Sprint(derived), "[]")) ||
				strings.Contains(got, fmt.Sprintf("%x", derived)) || strings.Contains(got, strings.Trim(fmt.Sprint([]byte(otherKey)), "[]")) {
				t.Errorf("%s prints a key: %s", format, got)
			}
		}
	}
	exported := struct {
		K *Keyring
		P *Probe
	}{k, p}
	if encoded, err := json.Marshal(exported); err != nil || string(encoded) != `{"K":{},"P":{}}` {
		t.Errorf("JSON of a keyring: %s, %v", encoded, err)
	}
}

func TestProbeNamesWhatOpens(t *testing.T) {
	// The example key of the tutorials, which an application pads.
	app := mustKeyring(t, exampleKey, KeyringOptions{Derivation: "pad32-zero", Format: "iv:ciphertext-base64", Write: WriteCBC})
	value, err := app.Seal(New("hunter2"), binding)
	if err != nil {
		t.Fatal(err)
	}
	want := Finding{"iv:ciphertext-base64", "pad32-zero", KeyID(New(exampleKey))}
	if got := NewProbe(New(key32), Secret{}, New(exampleKey)).Find(value); len(got) != 1 || got[0] != want {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, value := range []string{"", "plain-password", "skein:v1:1705c13e:AAECAwQF", value[:len(value)-4]} {
		if got := NewProbe(New(exampleKey)).Find(value); len(got) != 0 {
			t.Errorf("%q: got %v", value, got)
		}
	}
	if got := NewProbe(New(key32)).Find(value); len(got) != 0 {
		t.Errorf("a wrong key finds %v", got)
	}
}

func TestDocumentationNamesEverything(t *testing.T) {
	b, err := os.ReadFile("../docs/encryption.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range Formats() {
		if !strings.Contains(string(b), "| `"+string(f)+"` |") {
			t.Errorf("docs/encryption.md does not explain the format %s", f)
		}
	}
	for _, d := range Derivations() {
		if !strings.Contains(string(b), "| `"+string(d)+"` |") {
			t.Errorf("docs/encryption.md does not explain the derivation %s", d)
		}
	}
}

func FuzzOpen(f *testing.F) {
	seen := map[string]bool{}
	for _, v := range vectors(f) {
		if v.Stored != "" && !seen[v.Layout+v.Negative] {
			seen[v.Layout+v.Negative] = true
			f.Add(v.Stored)
		}
	}
	for _, value := range []string{
		"", ":", "enc::", "{}", `{"iv":1,"content":null}`, "U2FsdGVkX18=", "skein:v1::", "skein:v1:1705c13e:",
		"skein:v1:1705c13e:AAECAwQFBgcICQoLAskXciqzF3_09nOfttAAOxhda7cYLV9H2p3-gZJEVrC5i1rz7Q",
	} {
		f.Add(value)
	}
	var rings []*Keyring
	for _, format := range formats {
		d := DefaultDerivation
		if format.salted() {
			d = evpMD5
		}
		rings = append(rings, mustKeyring(f, key32, KeyringOptions{Format: format.name, Derivation: d, Previous: []Secret{New(otherKey)}}))
	}
	probe := NewProbe(New(key32))
	f.Fuzz(func(t *testing.T, value string) {
		for _, k := range rings {
			plain, id, err := k.Open(value, binding)
			switch {
			case err == nil && (id == "" || !IsSealed(value) && !plausible([]byte(plain.Reveal()))):
				t.Errorf("%s opened as %q by %q", k.format.name, plain.Reveal(), id)
			case err != nil && (!plain.IsZero() || id != ""):
				t.Errorf("%s: a secret together with %v", k.format.name, err)
			case err != nil && !errors.Is(err, ErrFormat) && !errors.Is(err, ErrNotPlausible) &&
				!errors.Is(err, ErrUnknownKey) && !errors.Is(err, ErrNotAuthentic):
				t.Errorf("%s: an error of no kind: %v", k.format.name, err)
			}
			// What opens can be sealed again and is the same.
			if err == nil {
				sealed, err := k.Seal(plain, binding)
				again, _, err2 := k.Open(sealed, binding)
				if err != nil || err2 != nil || !again.Equal(plain) {
					t.Errorf("%s: does not survive sealing: %v, %v", k.format.name, err, err2)
				}
			}
		}
		probe.Find(value)
	})
}
