package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// facts are what one has to know to judge the results.
type facts struct {
	Day      string
	Took     time.Duration
	Tenants  int
	Sample   int // of them, where they are changed, and for other tools
	One      int // of them, for anything one by one
	Rounds   int
	Machine  []string
	Versions []string
	Settings []string // that matter to durability
	Missing  []string // contestants that are not in the run, and why
}

func (f *facts) missing(who, why string) { f.Missing = append(f.Missing, who+" "+why) }

// tmpfs is what statfs(2) says of a file system in memory.
const tmpfs = 0x01021994

// lookAround notes machine, versions and settings.
func (b *bench) lookAround(ctx context.Context) error {
	f := &b.facts
	f.Day = b.begin.UTC().Format(time.DateOnly)
	f.Tenants, f.Sample, f.One, f.Rounds = b.opts.tenants, b.opts.sampled(), b.opts.oneByOne(), b.opts.rounds

	f.Machine = append(f.Machine, fmt.Sprintf("%d cores (%s), %s of memory", runtime.NumCPU(), fieldOf("/proc/cpuinfo", "model name"), memory()))
	var system syscall.Utsname
	if err := syscall.Uname(&system); err == nil {
		release, _, _ := strings.Cut(text(system.Release[:]), "-")
		f.Machine = append(f.Machine, "Linux "+release)
	}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		f.Machine = append(f.Machine, "load before the run: "+strings.Join(strings.Fields(string(load))[:3], " "))
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(b.work, &disk); err == nil && int64(disk.Type) == tmpfs {
		f.Machine = append(f.Machine, "THE DATA WAS IN MEMORY (tmpfs), so nothing waited for a disk: set TMPDIR to a folder on a disk")
	}

	version, err := b.skein.command(b.work, opVersion, "--version").output(ctx)
	if err != nil {
		return err
	}
	f.Versions = append(f.Versions, strings.TrimSpace(strings.Replace(version, "skein", "Skein", 1)))
	seen := make(map[string]bool)
	for _, c := range b.contestants {
		switch c := c.(type) {
		case *peer:
			if name := c.name() + " " + cmp.Or(c.tool.version, "(open build)"); !seen[name] {
				seen[name] = true
				f.Versions = append(f.Versions, name)
			}
		case *knexScript:
			if !seen["Knex"] {
				seen["Knex"] = true
				node, err := command{Args: []string{c.node, "--version"}}.output(ctx)
				if err != nil {
					return err
				}
				f.Versions = append(f.Versions, "Knex "+packageVersion(filepath.Join(c.dir, "package.json"), "knex"), "Node "+node)
			}
		}
	}
	f.Versions = append(f.Versions, runtime.Version())
	for _, fl := range b.fleets {
		s, ok := fl.(interface {
			version(ctx context.Context) (string, error)
			durability(ctx context.Context) (string, error)
		})
		if !ok {
			continue
		}
		version, err := s.version(ctx)
		if err != nil {
			return err
		}
		durability, err := s.durability(ctx)
		if err != nil {
			return err
		}
		if !seen[version] {
			seen[version] = true
			f.Versions = append(f.Versions, version)
			f.Settings = append(f.Settings, version+": "+durability)
		}
	}
	return nil
}

// fieldOf is the first value of a name in a file of "name : value" lines.
func fieldOf(file, name string) string {
	content, err := os.ReadFile(file)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(content)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func memory() string {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return "an unknown amount"
	}
	return fmt.Sprintf("%d GiB", (info.Totalram*uint64(info.Unit)+(1<<29))>>30)
}

// text is a C string.
func text(c []int8) string {
	var b strings.Builder
	for _, r := range c {
		if r == 0 {
			break
		}
		b.WriteByte(byte(r))
	}
	return b.String()
}

// packageVersion is what a package.json asks for.
func packageVersion(file, name string) string {
	return strings.Trim(fieldOf(file, `"`+name+`"`), `", `)
}
