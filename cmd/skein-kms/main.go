// Command skein-kms is the skein command with key management services: its
// encryption.key may be wrapped by a key of AWS KMS, Google Cloud KMS, Azure
// Key Vault or HashiCorp Vault.
//
// It is a module of its own, since the libraries of these services are several
// times as large as Skein.
package main

import (
	"os"

	"github.com/skeinhq/skein/internal/cli"

	_ "gocloud.dev/secrets/awskms"
	_ "gocloud.dev/secrets/azurekeyvault"
	_ "gocloud.dev/secrets/gcpkms"
	_ "gocloud.dev/secrets/hashivault"
)

// version is set by the linker.
var version = "dev"

func main() {
	os.Exit(cli.Run(os.Args[1:], cli.System{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		LookupEnv: os.LookupEnv, Version: version,
		KeyServices: services("awskms", "azurekeyvault", "gcpkms", "hashivault"),
	}))
}
