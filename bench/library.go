package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/central"
	enginemysql "github.com/skeinhq/skein/engine/mysql"
	enginepostgres "github.com/skeinhq/skein/engine/postgres"
	enginesqlite "github.com/skeinhq/skein/engine/sqlite"
	"github.com/skeinhq/skein/secret"
	"github.com/skeinhq/skein/source"
)

const whoLibrary = "Skein, in a Go program"

// A libraryJob is what a program does that has Skein's packages in it, and makes new
// tenants without starting another process: those of the slugs, or with none the
// template that they are copies of.
type libraryJob struct {
	Dir        string // a project with a central database
	Migrations string
	Admin      tenant
	Slugs      []string
	AtOnce     int
}

// libraryMain is the process of such a program.
func libraryMain(ctx context.Context, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var job libraryJob
	if err := json.Unmarshal(text, &job); err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	return job.run(ctx)
}

func (j *libraryJob) run(ctx context.Context) (err error) {
	set, err := source.Load([]string{j.Migrations}, nil)
	if err != nil {
		return err
	}
	keyring, err := secret.NewKeyring(secret.New(benchKey[:32]), secret.KeyringOptions{})
	if err != nil {
		return err
	}
	store, err := central.Open(ctx, central.Config{URL: secret.New("sqlite:" + filepath.Join(j.Dir, "central.db")), Keyring: keyring})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	journal, err := store.Journal(ctx)
	if err != nil {
		return err
	}
	engine := j.engine()
	provisioning := skein.NewProvisioning(engine, set, journal, skein.ProvisioningOptions{Project: "bench"})
	if len(j.Slugs) == 0 {
		return j.with(ctx, engine, func(admin skein.Administrator) error {
			_, err := provisioning.Prepare(ctx, admin, j.target("template"))
			return err
		})
	}

	next := make(chan string)
	failed := make(chan error, j.AtOnce)
	var wait sync.WaitGroup
	for range j.AtOnce {
		wait.Go(func() {
			err := j.with(ctx, engine, func(admin skein.Administrator) error {
				var err error
				for slug := range next {
					if err == nil {
						_, err = provisioning.Provision(ctx, admin, skein.ProvisionRequest{Tenant: skein.Tenant{Slug: slug, Target: j.target(slug)}, Server: "main"})
					}
				}
				return err
			})
			if err != nil {
				failed <- err
			}
			for range next {
			}
		})
	}
	for _, slug := range j.Slugs {
		next <- slug
	}
	close(next)
	wait.Wait()
	close(failed)
	return <-failed
}

func (j *libraryJob) engine() skein.Provisioner {
	opts := skein.SessionOptions{By: "bench", Tool: "bench"}
	switch j.Admin.Engine {
	case postgres:
		return enginepostgres.New(opts)
	case mysql:
		return enginemysql.New(opts)
	}
	return enginesqlite.New(opts)
}

// with calls do with a connection of the administrator's.
func (j *libraryJob) with(ctx context.Context, engine skein.Provisioner, do func(skein.Administrator) error) error {
	admin, err := engine.Administer(ctx, j.admin())
	if err != nil {
		return err
	}
	return errors.Join(do(admin), admin.Close())
}

func (j *libraryJob) admin() skein.Target {
	a := j.Admin
	t := skein.Target{Engine: a.Engine, Host: a.Host, Port: a.Port, Database: a.Database, User: a.User, Password: secret.New(a.Password)}
	if a.Engine == postgres {
		t.Options = map[string]string{"sslmode": "disable"}
	}
	return t
}

func (j *libraryJob) target(slug string) skein.Target {
	if j.Admin.Engine == sqlite {
		return skein.Naming{Database: "{slug}.db"}.Target(j.admin(), slug)
	}
	return skein.Naming{Database: "tenant_{slug}", User: "tenant_{slug}"}.Target(j.admin(), slug)
}

// provisionLibrary makes tenants in one process, as a program in Go does.
func (b *bench) provisionLibrary(f fleet, atOnce int) provisioner {
	var job libraryJob
	return provisioner{
		who: whoLibrary, atOnce: atOnce,
		prepare: func(ctx context.Context) error {
			dir, err := b.skein.provisioningProject(ctx, f)
			if err != nil {
				return err
			}
			job = libraryJob{Dir: dir, Migrations: filepath.Join(dir, six), Admin: administratorOf(f), AtOnce: atOnce}
			if f.engine() == mysql {
				return nil
			}
			s, err := b.libraryStep(f, job)
			if err != nil {
				return err
			}
			return b.run(ctx, s)
		},
		step: func(slugs []string) (step, error) {
			job.Slugs = slugs
			return b.libraryStep(f, job)
		},
		tenant: func(slug string) tenant { return provisioned(f, slug) },
	}
}

func (b *bench) libraryStep(f fleet, job libraryJob) (step, error) {
	self, err := os.Executable()
	if err != nil {
		return step{}, fmt.Errorf("find this program: %w", err)
	}
	text, err := json.Marshal(job)
	if err != nil {
		return step{}, err
	}
	file := filepath.Join(b.work, fmt.Sprintf("library-%s-%d-%t.json", f.name(), job.AtOnce, len(job.Slugs) == 0))
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return step{}, fmt.Errorf("write a job: %w", err)
	}
	return forAll("", len(job.Slugs), command{Args: []string{self, "library", file}, Dir: b.work}), nil
}

// administratorOf is who makes tenants: of SQLite files, their folder.
func administratorOf(f fleet) tenant {
	admin := f.administrator()
	switch {
	case admin == nil:
		return tenant{Engine: sqlite, Database: filepath.Dir(f.tenants(1)[0].Database)}
	case f.engine() == postgres:
		return tenant{Engine: postgres, Host: admin.Host, Port: admin.Port, User: admin.User, Password: admin.Password, Database: "postgres"}
	}
	return tenant{Engine: f.engine(), Host: admin.Host, Port: admin.Port, User: admin.User, Password: admin.Password}
}
