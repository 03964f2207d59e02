// Command skein migrates every tenant database of a multi-tenant product.
package main

import (
	"os"

	"github.com/skeinhq/skein/internal/cli"
)

// version is set by the linker.
var version = "dev"

func main() {
	os.Exit(cli.Run(os.Args[1:], cli.System{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		LookupEnv: os.LookupEnv, Version: version,
	}))
}
