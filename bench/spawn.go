package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A command is a process to be started.
type command struct {
	Args []string // the program first
	Env  []string // beside the few variables that all have
	Dir  string
}

// A spawnJob is commands to be run, so many at once.
type spawnJob struct {
	Commands []command
	AtOnce   int
	Log      string // takes what they print
}

// A spawned is what came of a job.
type spawned struct {
	Seconds float64
	CPU     float64 // of all processes, in seconds
	PeakKiB int64   // of the largest process
	Err     string  // of the first that failed
}

// spawn runs a job in a process of its own. A process's peak of memory is never
// below that of the one that started it, so the one that starts them is small.
func spawn(ctx context.Context, job spawnJob) (spawned, error) {
	self, err := os.Executable()
	if err != nil {
		return spawned{}, fmt.Errorf("find this program: %w", err)
	}
	input, err := json.Marshal(job)
	if err != nil {
		return spawned{}, err
	}
	cmd := exec.CommandContext(ctx, self, "spawn")
	cmd.Stdin = bytes.NewReader(input)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return spawned{}, ctx.Err()
	}
	if err != nil {
		return spawned{}, fmt.Errorf("start processes: %w", err)
	}
	var result spawned
	if err := json.Unmarshal(out, &result); err != nil {
		return spawned{}, fmt.Errorf("read what the processes took: %w", err)
	}
	if result.Err != "" {
		return result, errors.New(result.Err)
	}
	return result, nil
}

// spawnMain is the process that spawn starts.
func spawnMain(in io.Reader, out io.Writer) error {
	var job spawnJob
	if err := json.NewDecoder(in).Decode(&job); err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	log, err := os.OpenFile(job.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // nothing is buffered
	var (
		mu     sync.Mutex
		result spawned
		wait   sync.WaitGroup
	)
	next := make(chan command)
	begin := time.Now()
	for range job.AtOnce {
		wait.Go(func() {
			for c := range next {
				state, err := c.run(log)
				mu.Lock()
				if err != nil && result.Err == "" {
					result.Err = err.Error()
				}
				if state != nil {
					result.CPU += (state.UserTime() + state.SystemTime()).Seconds()
					if usage, ok := state.SysUsage().(*syscall.Rusage); ok {
						result.PeakKiB = max(result.PeakKiB, usage.Maxrss)
					}
				}
				mu.Unlock()
			}
		})
	}
	for _, c := range job.Commands {
		next <- c
	}
	close(next)
	wait.Wait()
	result.Seconds = time.Since(begin).Seconds()
	return json.NewEncoder(out).Encode(result)
}

// run runs a command to its end.
func (c command) run(log *os.File) (*os.ProcessState, error) {
	//nolint:noctx // the group of processes is ended as one
	cmd := exec.Command(c.Args[0], c.Args[1:]...)
	cmd.Dir = c.Dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir(), "LANG=C.UTF-8", "NO_COLOR=1"}, c.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s: %w", filepath.Base(c.Args[0]), err)
	}
	return cmd.ProcessState, err
}

// output runs a command outside of what is timed, and returns what it printed on
// standard output.
func (c command) output(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Dir = c.Dir
	cmd.Env = append(os.Environ(), c.Env...)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", filepath.Base(c.Args[0]), err, tail(errOut.String()+string(out), 20))
	}
	return strings.TrimSpace(string(out)), nil
}

// tail is the last lines of a text.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
