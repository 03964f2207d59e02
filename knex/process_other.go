//go:build !unix

package knex

import "os/exec"

func ownGroup(*exec.Cmd) {}

func killGroup(cmd *exec.Cmd) {
	// It is an error if it is gone.
	_ = cmd.Process.Kill()
}
