package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// starts is how often a process is started for one sample.
const starts = 20

// startup measures whole processes: what says its version, and where one tenant
// stands that is up to date.
func (b *bench) startup(ctx context.Context) error {
	f := b.fleets[0]
	for round := range b.opts.rounds {
		for _, c := range b.contestants {
			if c.parallel() > 1 || b.dropped[f.name()+" "+c.name()] {
				continue
			}
			if err := b.start(ctx, f, c); err != nil {
				return fmt.Errorf("start %s: %w\n%s", c.name(), err, b.logged())
			}
		}
		b.say("startup, round %d of %d", round+1, b.opts.rounds)
	}
	return f.drop(ctx)
}

func (b *bench) start(ctx context.Context, f fleet, c contestant) error {
	tenants := f.tenants(1)
	fresh, err := c.steps(ctx, f, opFresh, tenants)
	if err != nil || len(fresh) == 0 {
		return err
	}
	for _, o := range []operation{opVersion, opStatus} {
		steps, err := c.steps(ctx, f, o, tenants)
		if err != nil {
			return err
		}
		for _, s := range steps {
			if o == opStatus {
				if err := f.create(ctx, 1); err != nil {
					return err
				}
				if err := b.run(ctx, fresh[0]); err != nil {
					return err
				}
			}
			for len(s.commands) < starts {
				s.commands = append(s.commands, s.commands[0])
			}
			s.tenants = starts
			done, err := b.measure(ctx, f, o, s)
			if err != nil {
				return err
			}
			size, err := sizeOf(c)
			if err != nil {
				return err
			}
			r := b.record.row(rowKey{part: partStart, fleet: f.name(), op: o, who: c.name(), atOnce: 1, size: size})
			r.Samples = append(r.Samples, done)
		}
	}
	return nil
}

// sizeOf is what of a contestant has to be there, in bytes: a program, or the
// packages that Node runs, without Node.
func sizeOf(c contestant) (int, error) {
	var path string
	switch c := c.(type) {
	case *skeinCommand:
		path = c.bin
	case *peer:
		path = c.bin
	case *knexScript:
		path = filepath.Join(c.dir, "node_modules")
	default:
		return 0, errors.New("it has no program of its own")
	}
	var total int64
	err := filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return int(total), err
}
