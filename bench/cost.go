package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// shared is how many databases, schemas or files all registered tenants share: a
// hundred thousand of their own would take tens of gigabytes.
const shared = 1000

// comparedUpTo is the largest fleet on which Skein is compared with bare loops.
const comparedUpTo = 10_000

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
	for _, f := range b.fleets {
		if f.name() == postgres && !b.skein.fullCheck {
			continue // it would connect to databases that are not there
		}
		if err := b.register(ctx, f); err != nil {
			return fmt.Errorf("cost: %w\n%s", err, b.logged())
		}
		var all []costed
		for _, n := range b.opts.sizes {
			b.say("cost: registering %s tenants, %s", thousands(int64(n)), f.title())
			tenants, err := b.registered(ctx, f, n)
			if err != nil {
				return err
			}
			steps, err := b.costSteps(ctx, f, tenants)
			if err != nil {
				return err
			}
			for _, s := range steps {
				all = append(all, costed{f, s.who, n, s})
			}
		}
		if err := b.measureAll(ctx, partCost, all); err != nil {
			return err
		}
		if err := f.drop(ctx); err != nil {
			return err
		}
	}
	return nil
}

// real is how many of a fleet's registered tenants are there. Of databases on
// PostgreSQL it is one, and the others are rows of the server's catalog and nothing
// else. Skein reads there whose history is as it should be, and connects to no
// database of those; real ones would take seven megabytes each.
func (b *bench) real(f fleet) int {
	if f.name() == postgres {
		return 1
	}
	return min(shared, slices.Max(b.opts.sizes))
}

// register makes what is there of a fleet, with a history of six migrations. They
// are only recorded where it does not matter whether they have run: SQLite reads all
// tables of a file to open it, and PostgreSQL lists their owners for all databases.
func (b *bench) register(ctx context.Context, f fleet) error {
	n := b.real(f)
	if err := f.prepare(ctx, n); err != nil {
		return err
	}
	if err := f.create(ctx, n); err != nil {
		return err
	}
	dir, err := b.skein.project(ctx, f, f.tenants(n))
	if err != nil {
		return err
	}
	args := []string{"migrate", "--all"}
	if f.name() == schemaFleet || f.engine() == mysql {
		args = append(args, "--baseline", b.migrations[f.engine()][5].Name[:4])
	}
	return b.run(ctx, forAll("", n, b.skein.command(dir, opFresh, args...)))
}

// registered are n tenants, over what is there.
func (b *bench) registered(ctx context.Context, f fleet, n int) ([]tenant, error) {
	there := f.tenants(b.real(f))
	tenants := make([]tenant, n)
	for i := range tenants {
		tenants[i] = there[i%len(there)]
		tenants[i].Slug = fmt.Sprintf("t%06d", i)
	}
	if p, ok := f.(*postgresFleet); ok && !p.schemas {
		for i := range tenants {
			tenants[i].Database = catalogued(i)
		}
		return tenants, p.catalogue(ctx, there[0].Database, n)
	}
	return tenants, nil
}

// costSteps are Skein, and where there is something to compare it with that, too.
func (b *bench) costSteps(ctx context.Context, f fleet, tenants []tenant) ([]step, error) {
	n := len(tenants)
	dir, err := b.skein.project(ctx, f, tenants)
	if err != nil {
		return nil, err
	}
	steps := []step{forAll(whoSkein, n, b.skein.command(dir, opNothing, "migrate", "--all"))}
	if f.name() == postgres || n > comparedUpTo {
		return steps, nil
	}
	if b.skein.fullCheck {
		steps = append(steps, forAll(whoFullCheck, n, b.skein.command(dir, opNothing, "migrate", "--all", "--full-check")))
	}
	kinds := []bool{f.name() == schemaFleet} // whether connections are kept
	if f.engine() == mysql {
		kinds = append(kinds, true)
	}
	loop := &bareLoop{work: dir, migrations: b.migrations, atOnce: defaultAtOnce}
	for i, kept := range kinds {
		s, err := loop.step(f, loopJob{Op: opNothing, Tenants: tenants, Kept: kept, History: "skein_migrations"})
		if err != nil {
			return nil, err
		}
		s.who = []string{whoBare, whoBareKept}[i]
		steps = append(steps, s)
	}
	return steps, nil
}

// histories measures what long histories take when there is nothing to do.
func (b *bench) histories(ctx context.Context) error {
	n := b.opts.tenants
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
