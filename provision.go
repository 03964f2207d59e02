package skein

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/skeinhq/skein/secret"
)

// A ProvisionStep is a step of making a tenant's place or of taking it away. It
// is recorded before it is taken, so that whoever goes on after a process was
// killed takes it again: each does nothing where it was taken already.
type ProvisionStep string

// The steps of provisioning, and those of deprovisioning, in their order.
const (
	StepRole     ProvisionStep = "role"     // the role is created
	StepDatabase ProvisionStep = "database" // the database, schema or file
	StepRights   ProvisionStep = "rights"   // the role gets its rights there, everyone else loses theirs
	StepMigrate  ProvisionStep = "migrate"  // all migrations run
	StepActivate ProvisionStep = "activate" // the tenant becomes active
	StepAnew     ProvisionStep = "anew"     // a database with half a migration is dropped, before StepDatabase
	StepDone     ProvisionStep = "done"

	StepDropDatabase ProvisionStep = "drop database"
	StepDropRole     ProvisionStep = "drop role"
	StepForget       ProvisionStep = "forget" // the tenant's row is removed

	// Of a tenant whose database was not yet recorded as made: what is there and
	// is not provably the tenant's is left alone.
	StepUndoDatabase ProvisionStep = "undo database"
	StepUndoRole     ProvisionStep = "undo role"
)

var (
	provisionSteps = []ProvisionStep{StepRole, StepAnew, StepDatabase, StepRights, StepMigrate, StepActivate}
	dropSteps      = []ProvisionStep{StepDropDatabase, StepDropRole, StepForget}
	undoSteps      = []ProvisionStep{StepUndoDatabase, StepUndoRole, StepForget}
)

// A Site is the place on a database server that is being made for a tenant, or
// taken away.
type Site struct {
	TenantID string
	// Target is the place, with the role and its password.
	Target Target
	// Made says that the record is past the creation of the database.
	Made bool

	// Template is a template's name, as [Templater.Template] returned it, that
	// the database is made a copy of. Empty: the database begins empty.
	Template string
	// Source is a tenant's target that the database is made a copy of.
	Source *Target
}

// Mark is the text that says, in comments of the databases that have them, whose
// a role or database is.
func (s Site) Mark() string { return "skein tenant " + s.TenantID }

// A Provisioner is an [Engine] that can make and remove what tenants live in.
type Provisioner interface {
	Engine

	// Administer connects to a server as a role that may create databases and
	// roles. For SQLite the target's database is the folder of the files.
	Administer(ctx context.Context, admin Target) (Administrator, error)
}

// An Administrator is the connection of a server's administrator. It is used by
// one goroutine at a time, for one tenant after another.
//
// Creating is idempotent: what is there already and provably the site's is left
// as it is, and what is there and is not is an *ExistsError. Each method but
// Open changes the server in one statement or transaction, or in steps that it
// takes again when it is called again.
type Administrator interface {
	// Check says why names, or other parts of a site, cannot be used on this
	// server. It changes nothing.
	Check(ctx context.Context, site Site) error

	// Hold takes the lock of the site's database, without waiting: while one
	// process is provisioning there no other is. The lock ends with the
	// process. The error is a *LockedError when someone else has it.
	Hold(ctx context.Context, site Site) (release func(context.Context) error, err error)

	// Find says what there is under the site's names.
	Find(ctx context.Context, site Site) ([]Found, error)

	// CreateRole creates the role, which can log in with the site's password.
	CreateRole(ctx context.Context, site Site) error
	// CreateDatabase creates the database, schema or file.
	CreateDatabase(ctx context.Context, site Site) error
	// GrantRights makes the site the role's own and keeps others out.
	GrantRights(ctx context.Context, site Site) error
	// Open opens a session as the tenant, when what was copied from elsewhere is
	// wholly the tenant's.
	Open(ctx context.Context, site Site) (Session, error)

	// DropDatabase ends all sessions in the site's database (or schema, or
	// file) and drops it. It does nothing where there is none.
	DropDatabase(ctx context.Context, site Site) error
	// DropRole ends the role's sessions and drops the role. It does nothing
	// where there is none.
	DropRole(ctx context.Context, site Site) error

	// Close ends the connection, and with it the locks.
	Close() error
}

// Found is something that exists under a site's names.
type Found struct {
	What string // role, database, schema or file
	Name string
	Ours bool // provably made for the site's tenant
}

// A Backuper is an [Administrator] that can write a copy of a tenant's data to
// a file, which must not exist.
type Backuper interface {
	// Backup writes the copy, and leaves no file behind if it fails.
	Backup(ctx context.Context, site Site, file string) error
}

// A Copier is an [Administrator] whose sites may be copies of another tenant's.
type Copier interface {
	// CheckCopy says why a copy cannot be made. It changes nothing.
	CheckCopy(ctx context.Context, site Site) error
}

// A TemplateKey says for what a template is.
type TemplateKey struct {
	// Project tells the templates of projects on one server apart.
	Project string
	// Digest is that of the migrations.
	Digest string
}

// A Templater is an [Administrator] that can make databases as copies of one
// that has all migrations.
type Templater interface {
	// Template finds the verified template of a key, empty if there is none.
	Template(ctx context.Context, key TemplateKey) (string, error)

	// MakeTemplate makes the template of a key if there is none, and drops the
	// others of the project. migrate runs all migrations in a target. A
	// template whose copies would not be what a replay makes is not kept: that
	// is a *TemplateError. The error is a *LockedError when another process is
	// making it.
	MakeTemplate(ctx context.Context, key TemplateKey, migrate func(context.Context, Target) error) (string, error)
}

// A TemplateError is why tenants cannot be made from a template: they are made
// by replay then, which takes longer and is as good.
type TemplateError struct{ Msg string }

func (e *TemplateError) Error() string { return e.Msg }

// An ExistsError is a name that is taken by what Skein did not make for this
// tenant. Nothing was changed.
type ExistsError struct{ Found Found }

func (e *ExistsError) Error() string {
	return fmt.Sprintf("there is a %s %q already, and Skein did not make it for this tenant", e.Found.What, e.Found.Name)
}

// Hint says what to do.
func (e *ExistsError) Hint() string {
	return "choose another slug, or other names with provisioning.database and provisioning.user; to have Skein migrate a database that exists, use: skein tenants add"
}

// A NameError is a name that a server cannot have.
type NameError struct {
	What, Name, Msg string
}

func (e *NameError) Error() string { return fmt.Sprintf("the %s %q %s", e.What, e.Name, e.Msg) }

// Hint says what to do.
func (e *NameError) Hint() string {
	return "choose another slug, or other names with provisioning.database and provisioning.user"
}

// A Reservation is what is recorded of a tenant that is being provisioned or
// was.
type Reservation struct {
	Tenant Tenant
	Server string // the name of its server in the settings
	Step   ProvisionStep
	// Source is the slug of the tenant that this one is a copy of, if it is one.
	Source string
	// Place is what Tenant.Target.String was when it was reserved.
	Place string
	// Since is when it was reserved.
	Since time.Time
}

// A ProvisionJournal records what provisioning does. Every change is durable
// when the method returns.
type ProvisionJournal interface {
	// Look finds what is recorded of a tenant by its slug: nil if there is no
	// such tenant. One that was not provisioned has no Step.
	Look(ctx context.Context, slug string) (*Reservation, error)

	// Reserve records a new tenant with the status provisioning, its target with
	// the password, and its first step, and returns the tenant with its id. A
	// slug or an id that is taken is an error.
	Reserve(ctx context.Context, r Reservation) (Tenant, error)

	// Begin records that a step is about to be taken.
	Begin(ctx context.Context, tenant Tenant, step ProvisionStep) error

	// Activate makes the tenant active and its step done.
	Activate(ctx context.Context, tenant Tenant) error

	// Retire gives the tenant the status deprovisioning, and records the first
	// step of it.
	Retire(ctx context.Context, tenant Tenant, step ProvisionStep) error

	// Forget removes the tenant and what is recorded of it.
	Forget(ctx context.Context, tenant Tenant) error
}

// An Origin is what a tenant's database is made from.
type Origin string

// The origins.
const (
	FromTemplate Origin = "template"
	FromReplay   Origin = "replay"
	FromTenant   Origin = "tenant" // a copy of another tenant's
)

// ProvisioningOptions are optional.
type ProvisioningOptions struct {
	// Project tells this project's templates from others' on the same servers.
	Project string
	// Origin is FromTemplate, where the engine can and one is there, or FromReplay.
	// Defaults to FromTemplate where all migrations are SQL: the code of others runs
	// for a template, and not for the tenants that are made from it.
	Origin Origin
	// LockWait is how long the tenant's lock for migrating is waited for.
	LockWait time.Duration
	// Knex runs the Knex migrations. Nil: a tenant that needs one is refused
	// before anything is made.
	Knex KnexRunner
	// KnexHistory has SQL migrations recorded in Knex's table too.
	KnexHistory bool
	// Timeout is how long one migration may run. 0: no bound.
	Timeout time.Duration
	// Stop, when closed, begins no further step.
	Stop <-chan struct{}
	// Listener receives the migrations' events.
	Listener Listener
	// Began is called before each step is taken.
	Began func(Tenant, ProvisionStep)
	// Locate is the target as this process finds it. Defaults to the target
	// itself.
	Locate func(Target) Target
}

// Provisioning makes tenants and takes them away. It is safe for concurrent use
// with different administrators.
type Provisioning struct {
	engine   Provisioner
	migrator *Migrator
	set      *Set
	journal  ProvisionJournal
	opts     ProvisioningOptions
}

// NewProvisioning makes the provisioning of one engine's tenants.
func NewProvisioning(engine Provisioner, set *Set, journal ProvisionJournal, opts ProvisioningOptions) *Provisioning {
	if opts.Listener == nil {
		opts.Listener = func(Event) {}
	}
	if opts.Began == nil {
		opts.Began = func(Tenant, ProvisionStep) {}
	}
	if opts.Locate == nil {
		opts.Locate = func(t Target) Target { return t }
	}
	migrator := NewMigrator(engine, set, opts.LockWait).WithKnex(opts.Knex).WithKnexHistory(opts.KnexHistory).WithTimeout(opts.Timeout)
	return &Provisioning{engine: engine, migrator: migrator, set: set, journal: journal, opts: opts}
}

// A ProvisionRequest is a tenant that is wanted.
type ProvisionRequest struct {
	// Tenant has the slug, and the target without a password. Its id, name and
	// labels are optional. When a tenant that was begun is gone on with, those
	// that are given must be the ones that it was begun with.
	Tenant Tenant
	Server string
	// Source is a tenant that the new one is to be a copy of.
	Source *Tenant
}

// A Provisioned is what came of a request.
type Provisioned struct {
	Tenant Tenant
	Origin Origin
	// Resumed says that the tenant had been begun before, Already that it was
	// active before.
	Resumed, Already bool
	// Migrated are the migrations that ran.
	Migrated []DoneStep
	// Applied counts the migrations that the tenant has.
	Applied  int
	Duration time.Duration
}

// Provision makes a tenant: its role, its database, its rights and its schema,
// and at last makes it active. When it was interrupted or killed, or failed,
// the same call goes on where it was. A tenant that is active already is only
// let pass if the request has its id.
func (p *Provisioning) Provision(ctx context.Context, admin Administrator, req ProvisionRequest) (out Provisioned, err error) {
	start := time.Now()
	defer func() { out.Duration = time.Since(start) }()
	if err := p.Ready(); err != nil {
		return out, err
	}
	site := Site{Target: p.opts.Locate(req.Tenant.Target)}
	if err := admin.Check(ctx, site); err != nil {
		return out, err
	}
	release, err := admin.Hold(ctx, site)
	if err != nil {
		return out, held(err, req.Tenant.Slug)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if e := release(ctx); err == nil {
			err = e
		}
	}()

	r, err := p.journal.Look(ctx, req.Tenant.Slug)
	if err != nil {
		return out, err
	}
	step := StepRole
	if r == nil {
		r, err = p.reserve(ctx, admin, req)
	} else {
		out.Already, err = resumes(*r, req)
		out.Resumed = err == nil && !out.Already
		step = r.Step
	}
	if err != nil || out.Already {
		out.Tenant = req.Tenant
		if r != nil {
			out.Tenant = r.Tenant
		}
		return out, err
	}
	out.Tenant = r.Tenant
	if r.Tenant.Err != nil {
		return out, r.Tenant.Err
	}

	site = Site{TenantID: r.Tenant.ID, Target: p.opts.Locate(r.Tenant.Target)}
	out.Origin = FromReplay
	if r.Source != "" {
		source := p.opts.Locate(req.Source.Target)
		site.Source, out.Origin = &source, FromTenant
	}
	at := slices.Index(provisionSteps, step)
	if at < 0 {
		return out, fmt.Errorf("tenant %s is recorded at the step %q, which this version of Skein does not know: use the one that began it", r.Tenant.Slug, step)
	}
	for anew := false; at < len(provisionSteps); at++ {
		step := provisionSteps[at]
		if step == StepAnew && r.Step != StepAnew {
			continue
		}
		if p.stopped() {
			return out, ErrInterrupted
		}
		site.Made = step != StepRole && step != StepDatabase
		if step != r.Step {
			if err := p.journal.Begin(ctx, r.Tenant, step); err != nil {
				return out, err
			}
			r.Step = step
		}
		p.opts.Began(r.Tenant, step)
		err := p.take(ctx, admin, step, &site, &out)
		if step == StepMigrate && halfMigrated(err) && out.Resumed && !anew {
			// Nobody has used this database: it may as well be made again.
			anew = true
			at = slices.Index(provisionSteps, StepAnew) - 1
			if err := p.journal.Begin(ctx, r.Tenant, StepAnew); err != nil {
				return out, err
			}
			r.Step = StepAnew
			continue
		}
		if err != nil {
			return out, err
		}
	}
	out.Tenant.Status, out.Tenant.Active = StatusActive, true
	return out, nil
}

// Ready says why tenants cannot be provisioned with these migrations, before
// anything is created.
func (p *Provisioning) Ready() error {
	if err := p.migrator.Parse(); err != nil {
		return err
	}
	_, err := MakePlan(p.set, History{}, PlanOptions{Knex: p.opts.Knex != nil})
	return err
}

func held(err error, slug string) error {
	if locked, ok := errors.AsType[*LockedError](err); ok {
		who := ""
		if locked.Holder != "" {
			who = " (" + locked.Holder + ")"
		}
		return &busyError{fmt.Sprintf("another process is provisioning %s, or a tenant with the same database name,%s right now: nothing was done here", slug, who)}
	}
	return err
}

type busyError struct{ msg string }

func (e *busyError) Error() string { return e.msg }

func (e *busyError) Hint() string { return "wait for it to end; should it fail, run this again" }

// halfMigrated says whether a migration began, in an earlier call, and did not
// end.
func halfMigrated(err error) bool {
	refused, ok := errors.AsType[*RefusedError](err)
	return ok && refused.Reason == ReasonPartial
}

// reserve records a new tenant, when nothing is in its way.
func (p *Provisioning) reserve(ctx context.Context, admin Administrator, req ProvisionRequest) (*Reservation, error) {
	r := Reservation{Tenant: req.Tenant, Server: req.Server, Step: StepRole, Since: time.Now()}
	site := Site{Target: p.opts.Locate(r.Tenant.Target)}
	if req.Source != nil {
		r.Source = req.Source.Slug
		source := p.opts.Locate(req.Source.Target)
		site.Source = &source
		copier, ok := admin.(Copier)
		if !ok {
			return nil, fmt.Errorf("a copy of a tenant cannot be made on %s", p.engine.Name())
		}
		if err := copier.CheckCopy(ctx, site); err != nil {
			return nil, err
		}
	}
	found, err := admin.Find(ctx, site)
	if err != nil {
		return nil, err
	}
	if len(found) > 0 {
		return nil, &ExistsError{found[0]}
	}
	if r.Tenant.Target.Engine != SQLite {
		r.Tenant.Target.Password = newPassword()
	}
	r.Place = r.Tenant.Target.String()
	if r.Tenant, err = p.journal.Reserve(ctx, r); err != nil {
		return nil, err
	}
	return &r, nil
}

// newPassword has 192 random bits, and each kind of character that a server's
// rules for passwords may ask for.
func newPassword() secret.Secret { return secret.New(secret.GenerateKey().Reveal() + "-aZ9") }

// resumes says whether a request means what is recorded, and whether that is
// done already.
func resumes(r Reservation, req ProvisionRequest) (already bool, err error) {
	t := r.Tenant
	differs := func(what, was string) error {
		return fmt.Errorf("tenant %s was begun with another %s (%q): give the same, or leave it out, to go on; or take it back with: skein deprovision %s", t.Slug, what, was, t.Slug)
	}
	switch {
	case t.Status == StatusDeprovisioning:
		return false, fmt.Errorf("tenant %s is being taken away: end that first with: skein deprovision %s", t.Slug, t.Slug)
	case req.Tenant.ID != "" && req.Tenant.ID != t.ID:
		return false, fmt.Errorf("there is a tenant %s already, with another id (%s)", t.Slug, t.ID)
	case r.Step == StepDone && req.Tenant.ID != "":
		return true, nil
	case r.Step == StepDone:
		return false, fmt.Errorf("there is a tenant %s already (id %s, %s): it was provisioned %s", t.Slug, t.ID, t.Status, r.Since.UTC().Format(time.DateTime+" UTC"))
	case r.Step == "" || t.Status != StatusProvisioning:
		return false, fmt.Errorf("there is a tenant %s already (id %s, %s)", t.Slug, t.ID, t.Status)
	case req.Tenant.Name != "" && req.Tenant.Name != t.Name:
		return false, differs("name", t.Name)
	case len(req.Tenant.Labels) > 0 && !maps.Equal(req.Tenant.Labels, t.Labels):
		return false, differs("set of labels", labelText(t.Labels))
	case req.Server != r.Server:
		return false, differs("server", r.Server)
	case req.Source == nil && r.Source != "":
		return false, fmt.Errorf("tenant %s was begun as a copy of %s: go on with: skein tenants clone %s %s", t.Slug, r.Source, r.Source, t.Slug)
	case req.Source != nil && req.Source.Slug != r.Source:
		return false, differs("source", r.Source)
	case req.Tenant.Target.String() != r.Place:
		return false, fmt.Errorf("tenant %s was begun as %s, and the settings now say %s: set provisioning back to go on, or take the tenant back with: skein deprovision %s", t.Slug, r.Place, req.Tenant.Target, t.Slug)
	}
	return false, nil
}

func labelText(labels map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, name+"="+labels[name])
	}
	return strings.Join(parts, " ")
}

func (p *Provisioning) stopped() bool {
	select {
	case <-p.opts.Stop:
		return true
	default:
		return false
	}
}

// take takes one step of provisioning.
func (p *Provisioning) take(ctx context.Context, admin Administrator, step ProvisionStep, site *Site, out *Provisioned) error {
	switch step {
	case StepRole:
		return admin.CreateRole(ctx, *site)
	case StepAnew:
		return admin.DropDatabase(ctx, *site)
	case StepDatabase:
		var err error
		if site.Source == nil {
			if site.Template, err = p.template(ctx, admin, site.Target); err != nil {
				return err
			}
		}
		if site.Template != "" {
			out.Origin = FromTemplate
		}
		return admin.CreateDatabase(ctx, *site)
	case StepRights:
		return admin.GrantRights(ctx, *site)
	case StepMigrate:
		return p.migrate(ctx, admin, *site, out)
	case StepActivate:
		return p.journal.Activate(ctx, out.Tenant)
	}
	return nil
}

func (p *Provisioning) migrate(ctx context.Context, admin Administrator, site Site, out *Provisioned) (err error) {
	session, err := admin.Open(ctx, site)
	if err != nil {
		return fmt.Errorf("connect as the new tenant: %w", err)
	}
	defer func() { _ = session.Close() }() // what there was to say was said by then
	tenant := out.Tenant
	tenant.Target = site.Target
	var opts PlanOptions
	if site.Source != nil {
		// The copy is what its source is; what is pending there is pending here.
		r := p.migrator.Assess(ctx, session, tenant, opts.Policy)
		out.Applied = r.Standing.Applied
		return r.Err
	}
	r := p.migrator.Migrate(ctx, session, tenant, opts, p.opts.Stop, p.opts.Listener)
	out.Migrated, out.Applied = r.Done, r.Standing.Applied+len(r.Done)
	if r.Err != nil && !errors.Is(r.Err, ErrInterrupted) {
		return &UnfinishedError{Slug: tenant.Slug, Err: r.Err}
	}
	return r.Err
}

// An UnfinishedError is a tenant whose migrations failed: its database is there,
// and the tenant is not active.
type UnfinishedError struct {
	Slug string
	Err  error
}

func (e *UnfinishedError) Error() string { return e.Err.Error() }

func (e *UnfinishedError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *UnfinishedError) Hint() string {
	hint := fmt.Sprintf("the tenant stays in provisioning: mend the migration and run the same command again, or take it back with: skein deprovision %s", e.Slug)
	if inner := Hint(e.Err); inner != "" {
		hint = inner + "; " + hint
	}
	return hint
}

// TemplateKey is that of this project and its migrations.
func (p *Provisioning) TemplateKey() TemplateKey {
	h := sha256.New()
	for _, m := range p.set.All() {
		noTransaction := m.Up != nil && m.Up.NoTransaction
		_, _ = fmt.Fprintf(h, "%q %s %t\n", m.Name, m.Checksum, noTransaction) // never fails
	}
	return TemplateKey{Project: p.opts.Project, Digest: hex.EncodeToString(h.Sum(nil))}
}

// templater is the administrator's power to make templates, nil if it is not to
// be used.
func (p *Provisioning) templater(admin Administrator, target Target) Templater {
	if p.opts.Origin == FromReplay || target.Schema != "" || p.set.Len() == 0 {
		return nil
	}
	code := func(m *Migration) bool { return m.Kind != SQL }
	if p.opts.Origin != FromTemplate && slices.ContainsFunc(p.set.All(), code) {
		return nil
	}
	t, _ := admin.(Templater)
	return t
}

func (p *Provisioning) template(ctx context.Context, admin Administrator, target Target) (string, error) {
	templater := p.templater(admin, target)
	if templater == nil {
		return "", nil
	}
	return templater.Template(ctx, p.TemplateKey())
}

// Prepare makes the template that tenants are made from, if there is none, and
// drops the project's others. The first result is false where none is used: the
// engine has none, or the settings or the migrations rule them out.
func (p *Provisioning) Prepare(ctx context.Context, admin Administrator, target Target) (bool, error) {
	templater := p.templater(admin, target)
	if templater == nil {
		return false, nil
	}
	if err := p.Ready(); err != nil {
		return true, err
	}
	_, err := templater.MakeTemplate(ctx, p.TemplateKey(), func(ctx context.Context, t Target) error {
		session, err := p.engine.Open(ctx, t)
		if err != nil {
			return err
		}
		defer func() { _ = session.Close() }()
		r := p.migrator.Migrate(ctx, session, Tenant{Target: t}, PlanOptions{}, p.opts.Stop, func(Event) {})
		return r.Err
	})
	return true, err
}

// A DeprovisionRequest is a tenant that is to go.
type DeprovisionRequest struct {
	Slug string
	// Backup is the file that its data is written to first; empty: none.
	Backup string
}

// Lookup finds a tenant that Skein provisioned, or began to. The error says what
// else it may be.
func (p *Provisioning) Lookup(ctx context.Context, slug string) (*Reservation, error) {
	return FindProvisioned(ctx, p.journal, slug)
}

// FindProvisioned finds a tenant that Skein provisioned, or began to provision.
func FindProvisioned(ctx context.Context, journal ProvisionJournal, slug string) (*Reservation, error) {
	r, err := journal.Look(ctx, slug)
	switch {
	case err != nil:
		return nil, err
	case r == nil:
		return nil, fmt.Errorf("no tenant has the slug %q", slug)
	case r.Step == "":
		return nil, &notOursError{slug}
	}
	return r, nil
}

type notOursError struct{ slug string }

func (e *notOursError) Error() string {
	return fmt.Sprintf("tenant %s was not provisioned by Skein, which drops only what it made", e.slug)
}

func (e *notOursError) Hint() string {
	return "to forget the tenant and leave its database: skein tenants remove " + e.slug
}

// Deprovision takes a tenant away: its sessions, its database, its role, and
// then its row, with which the slug is free again. When it was killed, the same
// call goes on.
func (p *Provisioning) Deprovision(ctx context.Context, admin Administrator, req DeprovisionRequest) (tenant Tenant, err error) {
	r, err := p.Lookup(ctx, req.Slug)
	if err != nil {
		return Tenant{}, err
	}
	site := Site{TenantID: r.Tenant.ID, Target: p.opts.Locate(r.Tenant.Target), Made: true}
	release, err := admin.Hold(ctx, site)
	if err != nil {
		return r.Tenant, held(err, req.Slug)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if e := release(ctx); err == nil {
			err = e
		}
	}()
	if r, err = p.Lookup(ctx, req.Slug); err != nil { // as it is under the lock
		return Tenant{}, err
	}
	tenant = r.Tenant
	if place := tenant.Target.String(); place != r.Place {
		return tenant, fmt.Errorf("tenant %s was provisioned as %s, and its row now names %s: Skein drops only what it made", tenant.Slug, r.Place, place)
	}
	site.Made = r.Step != StepRole && r.Step != StepDatabase && r.Step != StepUndoDatabase && r.Step != StepUndoRole
	if tenant.Status == StatusDeprovisioning {
		if req.Backup != "" {
			return tenant, fmt.Errorf("tenant %s is being taken away already: its database may be gone, and is not backed up any more; leave --backup out", tenant.Slug)
		}
	} else if r.Step, err = p.retire(ctx, admin, tenant, site, req); err != nil {
		return tenant, err
	}
	steps := dropSteps
	if !site.Made {
		steps = undoSteps
	}
	begun := false
	for _, s := range steps {
		begun = begun || s == r.Step
		if !begun {
			continue
		}
		if p.stopped() {
			return tenant, ErrInterrupted
		}
		if s != r.Step {
			if err := p.journal.Begin(ctx, tenant, s); err != nil {
				return tenant, err
			}
		}
		p.opts.Began(tenant, s)
		switch s {
		case StepDropDatabase, StepUndoDatabase:
			err = admin.DropDatabase(ctx, site)
		case StepDropRole, StepUndoRole:
			err = admin.DropRole(ctx, site)
		case StepForget:
			err = p.journal.Forget(ctx, tenant)
		}
		if _, exists := errors.AsType[*ExistsError](err); exists && !site.Made {
			err = nil // somebody else's
		}
		if err != nil {
			return tenant, err
		}
	}
	if !begun {
		return tenant, fmt.Errorf("tenant %s is recorded at the step %q, which this version of Skein does not know", tenant.Slug, r.Step)
	}
	return tenant, nil
}

// retire checks that what is to be dropped is the tenant's, backs it up where
// that is wanted, and records that it is going to go.
func (p *Provisioning) retire(ctx context.Context, admin Administrator, tenant Tenant, site Site, req DeprovisionRequest) (ProvisionStep, error) {
	found, err := admin.Find(ctx, site)
	if err != nil {
		return "", err
	}
	for _, f := range found {
		if !f.Ours && site.Made {
			return "", &ExistsError{f}
		}
	}
	if req.Backup != "" {
		b, ok := admin.(Backuper)
		if !ok || !site.Made {
			return "", fmt.Errorf("there is nothing of tenant %s that could be backed up: leave --backup out", tenant.Slug)
		}
		if err := b.Backup(ctx, site, req.Backup); err != nil {
			return "", fmt.Errorf("back up before anything is dropped: %w", err)
		}
	}
	if p.stopped() {
		return "", ErrInterrupted
	}
	step := StepDropDatabase
	if !site.Made {
		step = StepUndoDatabase
	}
	return step, p.journal.Retire(ctx, tenant, step)
}

func fillName(pattern, slug string) string { return strings.ReplaceAll(pattern, "{slug}", slug) }

// A Naming is how a tenant's place is called, each with {slug} where the slug
// goes.
type Naming struct {
	Database, Schema, User string
}

// Target is the place of a slug on an administrator's server. The options that
// are about the administrator's own login are left out.
func (n Naming) Target(admin Target, slug string) Target {
	t := Target{Engine: admin.Engine, Host: admin.Host, Port: admin.Port}
	if admin.Engine == SQLite {
		t.Database = strings.TrimRight(admin.Database, "/") + "/" + fillName(n.Database, slug)
		if admin.Database == "" {
			t.Database = fillName(n.Database, slug)
		}
		return t
	}
	t.Database, t.User = fillName(n.Database, slug), fillName(n.User, slug)
	if n.Schema != "" {
		t.Schema = fillName(n.Schema, slug)
		t.Database = admin.Database
	}
	for name, value := range admin.Options {
		switch name {
		case "sslcert", "sslkey", "sslpassword", "ssl-cert", "ssl-key", "application_name", "search_path", "role":
			continue
		}
		if t.Options == nil {
			t.Options = make(map[string]string)
		}
		t.Options[name] = value
	}
	return t
}
