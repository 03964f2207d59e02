package secret_test

import (
	"errors"
	"fmt"

	"github.com/skeinhq/skein/secret"
)

func ExampleSecret() {
	type target struct {
		User     string
		password secret.Secret
	}
	t := target{"tenant_7", secret.New("hunter2")}
	fmt.Println(t.password, len(t.password.Reveal()))
	fmt.Println(secret.Clean(errors.New("dial tenant_7:hunter2@tcp(db:3306)/x: refused"), t.password))
	// Output:
	// [redacted] 7
	// dial tenant_7:[redacted]@tcp(db:3306)/x: refused
}

// A value that a Node application encrypted is opened and sealed anew, as when
// keys are rotated.
func ExampleKeyring() {
	ring, err := secret.NewKeyring(secret.New("k0Zt3yFhY0b7P5r-o2J1n8XvQ4m6LwSd"), secret.KeyringOptions{
		Previous: []secret.Secret{secret.New("0123456789abcdefghijklmnopqrstuv")},
		Format:   "iv:ciphertext-hex",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	row := secret.Binding{Tenant: "7", Field: "password"}
	const stored = "000102030405060708090a0b0c0d0e0f:e1bc70fc555e586ca6a9531114e2806e39c5efa5fcf64ebee5a9554f48f2e25d"

	password, keyID, err := ring.Open(stored, row)
	fmt.Println(password, keyID == ring.Current(), err)

	sealed, err := ring.Seal(password, row)
	fmt.Println(sealed[:len("skein:v1:")], err)

	_, keyID, err = ring.Open(sealed, row)
	fmt.Println(keyID == ring.Current(), err)

	_, _, err = ring.Open(sealed, secret.Binding{Tenant: "8", Field: "password"})
	fmt.Println(err)
	// Output:
	// [redacted] false <nil>
	// skein:v1: <nil>
	// true <nil>
	// the value was altered, or sealed for another tenant or field
}

func ExampleProbe() {
	probe := secret.NewProbe(secret.New("your-32-character-secret-key!!"))
	for _, f := range probe.Find("000102030405060708090a0b0c0d0e0f:cbe09e70e95a600079827c946561faea593ccfdf918f4d285f9fb4c08c2594b1") {
		fmt.Printf("opens with encryption.format %s and encryption.derivation %s\n", f.Format, f.Derivation)
	}
	// Output:
	// opens with encryption.format iv:ciphertext-hex and encryption.derivation sha256
}
