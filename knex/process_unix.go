//go:build unix

package knex

import (
	"os/exec"
	"syscall"
)

// ownGroup gives a process a group of its own: the terminal's interrupt is for
// Skein, which lets what has begun end.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// killGroup ends a process and those that it has started.
func killGroup(cmd *exec.Cmd) {
	// It is an error if they are gone.
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
}
