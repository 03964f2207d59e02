package secret

import (
	"bytes"
	"sync"
)

// Finding names what opens a value.
type Finding struct {
	Format     Format
	Derivation Derivation
	KeyID      string
}

// Probe finds out which format and derivation would open values that the
// configured ones do not. It is for diagnosis: its findings are shown to a
// person, who sets them after comparing with the application's code. It is
// immutable and safe for concurrent use.
type Probe struct {
	keys func() []probeKey
}

type probeKey struct {
	Derivation
	cbcKey
	id string
}

// NewProbe returns a probe with these keys, of any length; empty ones are left
// out. It makes every derivation's AES key when it is first needed, which takes
// some 0.1 s a key.
func NewProbe(keys ...Secret) *Probe {
	return &Probe{sync.OnceValue(func() []probeKey { return probeKeys(keys) })}
}

func probeKeys(keys []Secret) (all []probeKey) {
	for _, key := range keys {
		if key.IsZero() {
			continue
		}
		var own []probeKey // of different AES keys
	next:
		for _, d := range derivations {
			text := key.Reveal()
			aesKey, ok := d.key(text)
			if !ok {
				continue
			}
			for _, k := range own {
				if bytes.Equal(k.aes, aesKey) {
					continue next
				}
			}
			own = append(own, probeKey{d.name, cbcKey{aesKey, text}, KeyID(key)})
		}
		all = append(all, own...)
	}
	return all
}

// Find returns what gives a plausible password for value, and nothing of the
// password. Of derivations that make the same AES key it names the first in
// [Derivations]: with a key of 32 bytes utf8, slice32 and pad32-zero are one.
//
// For each wrong combination there is a chance of about 1 in 40 million that
// it is among the findings, so two values that agree are as good as proof. A
// value sealed with GCM, whose key id says which key it needs, has no findings.
func (p *Probe) Find(value string) []Finding {
	var found []Finding
	for _, f := range formats {
		head, ciphertext, err := f.parse(value)
		if err != nil {
			continue
		}
		for _, key := range p.keys() {
			if f.salted() != (key.Derivation == evpMD5) {
				continue
			}
			if _, ok := key.open(head, ciphertext); ok {
				found = append(found, Finding{f.name, key.Derivation, key.id})
			}
		}
	}
	return found
}
