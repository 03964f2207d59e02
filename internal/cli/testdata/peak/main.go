//go:build unix

// Command peak runs a command and writes the most memory that it had, in the
// unit of the system's rusage, to its first argument. A child that is started by
// a large process is counted with that one's memory, so that it takes a small
// one to measure.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

func main() {
	cmd := exec.Command(os.Args[2], os.Args[3:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	if cmd.ProcessState != nil {
		usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		if writeErr := os.WriteFile(os.Args[1], []byte(fmt.Sprint(usage.Maxrss)), 0o600); err == nil {
			err = writeErr
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
