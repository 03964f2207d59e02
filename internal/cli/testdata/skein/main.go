// The command as the scripts run it where the tests run with the race detector,
// with which starting a process takes some tenths of a second.
package main

import (
	"os"

	"github.com/skeinhq/skein/internal/cli"
)

func main() {
	os.Exit(cli.Run(os.Args[1:], cli.System{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		LookupEnv: os.LookupEnv, Version: "test",
	}))
}
