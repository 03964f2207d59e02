package main

import (
	"context"
	"fmt"
	"path/filepath"
)

// newTenants is how many tenants are provisioned at a time.
const newTenants = 24

// A provisioner makes new tenants, with all six migrations, in one way.
type provisioner struct {
	who    string
	atOnce int

	// prepare makes what is to be there before, on a server without tenants.
	prepare func(ctx context.Context) error

	// step makes them.
	step func(slugs []string) (step, error)

	// tenant is where a new one's data lives.
	tenant func(slug string) tenant
}

// provisioning measures how new tenants are made.
func (b *bench) provisioning(ctx context.Context) error {
	slugs := make([]string, min(newTenants, b.opts.tenants))
	for i := range slugs {
		slugs[i] = fmt.Sprintf("new%04d", i+1)
	}
	for _, f := range b.fleets {
		for round := range b.opts.rounds {
			for _, p := range b.provisioners(f) {
				if err := b.provision(ctx, f, p, slugs, round); err != nil {
					return fmt.Errorf("%s, provisioning by %s: %w\n%s", f.name(), p.who, err, b.logged())
				}
			}
		}
		if err := f.drop(ctx); err != nil {
			return err
		}
		if err := b.write(); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) provision(ctx context.Context, f fleet, p provisioner, slugs []string, round int) error {
	if err := f.drop(ctx); err != nil {
		return err
	}
	if err := p.prepare(ctx); err != nil {
		return err
	}
	s, err := p.step(slugs)
	if err != nil {
		return err
	}
	done, err := b.measure(ctx, f, opProvision, s)
	if err != nil {
		return err
	}
	made := []tenant{p.tenant(slugs[0]), p.tenant(slugs[len(slugs)-1])}
	if err := b.verify(ctx, f, opProvision, made); err != nil {
		return err
	}
	r := b.record.row(rowKey{part: partFleets, fleet: f.name(), op: opProvision, who: p.who, atOnce: p.atOnce})
	r.Samples = append(r.Samples, done)
	b.say("%s, round %d of %d: %s of %s, %d at once: %s tenants/s", f.name(), round+1, b.opts.rounds, opProvision, p.who, p.atOnce,
		digits(r.rate().median))
	return nil
}

// provisioners are none where tenants are schemas, which no other tool makes.
func (b *bench) provisioners(f fleet) []provisioner {
	if f.name() == schemaFleet {
		return nil
	}
	var all []provisioner
	for _, atOnce := range []int{1, defaultAtOnce} {
		all = append(all, b.provisionBare(f, atOnce), b.provisionSkein(f, atOnce), b.provisionLibrary(f, atOnce))
		for _, c := range b.contestants {
			if p, ok := c.(*peer); ok && p.atOnce == atOnce && !b.dropped[f.name()+" "+p.name()] {
				if args, _ := p.tool.call(opProvision, tenant{}, ""); args != nil {
					all = append(all, b.provisionPeer(f, p))
				}
			}
		}
	}
	return all
}

// owned is a tenant that the administrator makes for himself.
func owned(f fleet, slug string) tenant {
	t := f.tenants(1)[0]
	t.Slug = slug
	if admin := f.administrator(); admin != nil {
		t.User, t.Password, t.Database = admin.User, admin.Password, slug
	} else {
		t.Database = filepath.Join(filepath.Dir(t.Database), slug+".db")
	}
	return t
}

// provisionBare copies a database that has the migrations; on MariaDB, which
// copies none, it runs them.
func (b *bench) provisionBare(f fleet, atOnce int) provisioner {
	loop := &bareLoop{work: b.work, migrations: b.migrations, atOnce: atOnce}
	template := f.tenants(1)
	return provisioner{
		who: whoBare, atOnce: atOnce,
		prepare: func(ctx context.Context) error {
			if err := f.create(ctx, 1); err != nil {
				return err
			}
			s, err := loop.step(f, loopJob{Op: opFresh, Tenants: template})
			if err != nil {
				return err
			}
			return b.run(ctx, s)
		},
		step: func(slugs []string) (step, error) {
			job := loopJob{Op: opProvision, Template: template[0].Database}
			for _, slug := range slugs {
				job.Tenants = append(job.Tenants, owned(f, slug))
			}
			return loop.step(f, job)
		},
		tenant: func(slug string) tenant { return owned(f, slug) },
	}
}

func (b *bench) provisionSkein(f fleet, atOnce int) provisioner {
	var dir string
	return provisioner{
		who: whoSkein, atOnce: atOnce,
		prepare: func(ctx context.Context) (err error) {
			if dir, err = b.skein.provisioningProject(ctx, f); err != nil || f.engine() == mysql {
				return err
			}
			return b.run(ctx, forAll("", 1, b.skein.command(dir, opProvision, "provision", "--prepare")))
		},
		step: func(slugs []string) (step, error) {
			s := step{atOnce: atOnce, tenants: len(slugs)}
			for _, slug := range slugs {
				s.commands = append(s.commands, b.skein.command(dir, opProvision, "provision", slug))
			}
			return s, nil
		},
		tenant: func(slug string) tenant { return provisioned(f, slug) },
	}
}

// provisioned is a tenant that Skein has made.
func provisioned(f fleet, slug string) tenant {
	if f.engine() == sqlite {
		return owned(f, slug) // {slug}.db
	}
	return owned(f, "tenant_"+slug)
}

// provisionPeer makes databases for the administrator, without roles.
func (b *bench) provisionPeer(f fleet, p *peer) provisioner {
	return provisioner{
		who: p.name(), atOnce: p.atOnce,
		prepare: func(context.Context) error { return nil },
		step: func(slugs []string) (step, error) {
			var tenants []tenant
			for _, slug := range slugs {
				tenants = append(tenants, owned(f, slug))
			}
			return p.step(f, opProvision, tenants), nil
		},
		tenant: func(slug string) tenant { return owned(f, slug) },
	}
}

// run runs a step that is not timed.
func (b *bench) run(ctx context.Context, s step) error {
	_, err := spawn(ctx, spawnJob{Commands: s.commands, AtOnce: s.atOnce, Log: b.log()})
	return err
}
