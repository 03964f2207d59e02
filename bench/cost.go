package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// sharedFiles is how many SQLite files all registered tenants share: a hundred
// thousand files of their own would take tens of gigabytes.
const sharedFiles = 1000

// applied are the lengths of histories that the part history measures.
var applied = []int{10, 100, 1000}

// A costed is a project whose tenants have nothing to do, of a size.
type costed struct {
	fleet fleet
	who   string
	size  int
	step  step
}

// measureAll measures projects in turn.
func (b *bench) measureAll(ctx context.Context, part string, all []costed) error {
	for round := range b.opts.rounds {
		for _, c := range all {
			done, err := b.measure(ctx, c.fleet, opNothing, c.step)
			if err != nil {
				return fmt.Errorf("%s: %w\n%s", part, err, b.logged())
			}
			r := b.record.row(rowKey{part: part, fleet: c.fleet.name(), op: opNothing, who: c.who, atOnce: defaultAtOnce, size: c.size})
			r.Samples = append(r.Samples, done)
			b.say("%s, round %d of %d: %s, %s, %s: %s tenants/s", part, round+1, b.opts.rounds, c.fleet.name(), c.who, thousands(int64(c.size)),
				digits(float64(done.Tenants)/done.Seconds))
		}
	}
	return nil
}

// costs measures what fleets of many registered tenants take when there is nothing
// to do.
func (b *bench) costs(ctx context.Context) error {
	var all []costed
	for _, f := range b.fleets {
		var tenants func(ctx context.Context, n int) ([]tenant, error)
		switch f := f.(type) {
		case *sqliteFleet:
			tenants = func(ctx context.Context, n int) ([]tenant, error) { return b.registerFiles(ctx, f, n) }
		case *postgresFleet:
			if f.schemas || !b.skein.fullCheck {
				continue
			}
			defer f.forget(context.WithoutCancel(ctx)) //nolint:errcheck // the server goes as well
			tenants = func(ctx context.Context, n int) ([]tenant, error) { return b.registerDatabases(ctx, f, n) }
		default:
			continue
		}
		if err := b.migrateOne(ctx, f); err != nil {
			return err
		}
		for _, n := range b.opts.sizes {
			b.say("cost: registering %s tenants, %s", thousands(int64(n)), f.title())
			ts, err := tenants(ctx, n)
			if err != nil {
				return err
			}
			dir, err := b.skein.project(ctx, f, ts)
			if err != nil {
				return err
			}
			all = append(all, costed{f, whoSkein, n, forAll("", n, b.skein.command(dir, opNothing, "migrate", "--all"))})
		}
	}
	return b.measureAll(ctx, partCost, all)
}

// migrateOne makes the first tenant of a fleet, and has Skein migrate it.
func (b *bench) migrateOne(ctx context.Context, f fleet) error {
	if err := f.create(ctx, 1); err != nil {
		return err
	}
	steps, err := b.skein.steps(ctx, f, opFresh, f.tenants(1))
	if err != nil {
		return err
	}
	if err := b.run(ctx, steps[0]); err != nil {
		return fmt.Errorf("migrate the first tenant: %w\n%s", err, b.logged())
	}
	return nil
}

// registerFiles returns n tenants over at most sharedFiles files.
func (b *bench) registerFiles(_ context.Context, f *sqliteFleet, n int) ([]tenant, error) {
	from := f.tenants(1)[0].Database
	files := make([]string, min(n, sharedFiles))
	for i := range files {
		files[i] = filepath.Join(f.dir, fmt.Sprintf("shared%04d.db", i))
		if _, err := os.Stat(files[i]); err == nil {
			continue
		}
		if err := copyFile(from, files[i]); err != nil {
			return nil, err
		}
	}
	tenants := make([]tenant, n)
	for i := range tenants {
		tenants[i] = tenant{Slug: fmt.Sprintf("t%06d", i), Engine: sqlite, Database: files[i%len(files)]}
	}
	return tenants, nil
}

// registerDatabases returns n tenants whose databases are rows of the server's
// catalog and nothing else. Skein reads there which histories are as they should be,
// and connects to no database of those; real ones would take seven megabytes each.
func (b *bench) registerDatabases(ctx context.Context, f *postgresFleet, n int) ([]tenant, error) {
	first := f.tenants(1)[0]
	if err := f.catalogue(ctx, first.Database, n); err != nil {
		return nil, err
	}
	tenants := make([]tenant, n)
	for i := range tenants {
		tenants[i] = first
		tenants[i].Slug = fmt.Sprintf("t%06d", i)
		tenants[i].Database = catalogued(i)
	}
	return tenants, nil
}

// histories measures what long histories take when there is nothing to do.
func (b *bench) histories(ctx context.Context) error {
	n := min(b.opts.sample, b.opts.tenants)
	for _, f := range b.fleets {
		// Tenants of different histories stand side by side, to be measured in turn.
		if err := f.create(ctx, n); err != nil {
			return err
		}
		tenants := f.tenants(n)
		var all []costed
		for i, length := range applied {
			b.say("history: %s, %s migrations", f.name(), thousands(int64(length)))
			share := tenants[i*n/len(applied) : (i+1)*n/len(applied)]
			if len(share) == 0 {
				continue
			}
			dir, err := b.skein.project(ctx, f, share)
			if err != nil {
				return err
			}
			last, err := writeNotes(filepath.Join(dir, "notes"), length)
			if err != nil {
				return err
			}
			skein := func(args ...string) step {
				c := b.skein.command(dir, opNothing, append([]string{"migrate", "--all"}, args...)...)
				c.Env = append(slices.Clone(c.Env), "SKEIN_MIGRATIONS_DIR=notes") // the last one counts
				return forAll("", len(share), c)
			}
			if err := b.run(ctx, skein("--baseline", last)); err != nil {
				return fmt.Errorf("record a history: %w\n%s", err, b.logged())
			}
			if b.skein.fullCheck {
				all = append(all, costed{f, whoFullCheck, length, skein("--full-check")}, costed{f, whoSkein, length, skein()})
			} else {
				all = append(all, costed{f, whoFullCheck, length, skein()})
			}
		}
		if err := b.measureAll(ctx, partHistory, all); err != nil {
			return err
		}
		if err := f.drop(ctx); err != nil {
			return err
		}
	}
	return nil
}

// writeNotes writes so many migrations that are only recorded, and returns the
// version of the last.
func writeNotes(dir string, n int) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	version := ""
	for i := range n {
		version = fmt.Sprintf("%04d", i+1)
		text := "-- migrate:up\nINSERT INTO notes (id) VALUES (" + version + ");\n\n-- migrate:down\nDELETE FROM notes WHERE id = " + version + ";\n"
		if err := os.WriteFile(filepath.Join(dir, version+"_note.sql"), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	return version, nil
}
