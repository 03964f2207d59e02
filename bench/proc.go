package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ticks are what /proc/PID/stat counts CPU time in: a hundred a second on every
// Linux, whatever the kernel itself counts in (proc(5)).
const ticks = 100

// A procStat is the part of /proc/PID/stat that says what a process took.
type procStat struct {
	parent int
	own    float64 // seconds of CPU of the process
	waited float64 // of its children that it has waited for
}

func readProcStat(pid int) (procStat, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return procStat{}, err
	}
	return parseProcStat(string(text))
}

// parseProcStat reads a line of /proc/PID/stat. The second field is the program's
// name in parentheses, which may have spaces and parentheses of its own.
func parseProcStat(line string) (procStat, error) {
	end := strings.LastIndexByte(line, ')')
	if end < 0 {
		return procStat{}, fmt.Errorf("read the state of a process: no name in %q", line)
	}
	fields := strings.Fields(line[end+1:]) // the third field on
	if len(fields) < 15 {
		return procStat{}, fmt.Errorf("read the state of a process: %d fields in %q", len(fields)+2, line)
	}
	var s procStat
	var err error
	if s.parent, err = strconv.Atoi(fields[1]); err != nil {
		return procStat{}, fmt.Errorf("read the state of a process: %w", err)
	}
	for i, to := range map[int]*float64{11: &s.own, 12: &s.own, 13: &s.waited, 14: &s.waited} {
		n, err := strconv.ParseFloat(fields[i], 64)
		if err != nil {
			return procStat{}, fmt.Errorf("read the state of a process: %w", err)
		}
		*to += n / ticks
	}
	return s, nil
}

// treeCPU is the CPU time in seconds of a server and all processes that it has
// started: those that have ended, which it has waited for, and those that are there.
func treeCPU(pid int) (float64, error) {
	top, err := readProcStat(pid)
	if err != nil {
		return 0, fmt.Errorf("read the server's CPU time: %w", err)
	}
	total := top.own + top.waited
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, fmt.Errorf("read the server's CPU time: %w", err)
	}
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		s, err := readProcStat(child)
		if err != nil || s.parent != pid {
			continue // no child of it, or it has just ended
		}
		total += s.own + s.waited
	}
	return total, nil
}
