package enginetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/secret"
)

// A ProvisionConfig tells the suite how to reach a server on which tenants are
// provisioned. All fields are required unless they say otherwise.
type ProvisionConfig struct {
	// New makes the engine.
	New func(skein.SessionOptions) skein.Provisioner

	// Admin is a server's administrator. For SQLite it is a new folder.
	Admin func(testing.TB) skein.Target

	// Naming is what tenants are called. Slugs are unique.
	Naming skein.Naming

	// Exec runs SQL in a target as its role, Query one statement with its rows.
	Exec  func(t testing.TB, target skein.Target, sql string)
	Query func(t testing.TB, target skein.Target, sql string) [][]string

	// Exists says what there is of a target on its server: the keys of Foreign.
	Exists func(t testing.TB, target skein.Target) []string
	// Foreign makes something under a target's names, as somebody else does. It
	// goes with the test.
	Foreign map[string]func(t testing.TB, target skein.Target)

	// Dump is all that is in a target, its rights and owners included, with
	// the same names for all targets, and without the times in the history.
	Dump func(t testing.TB, target skein.Target) string
	// Templates says what templates there are, or are being made, for a project
	// on a server. Nil for an engine without.
	Templates func(t testing.TB, admin skein.Target, project string) []string

	// Clean drops the templates of a project, and the notes about them. Optional.
	Clean func(t testing.TB, admin skein.Target, project string)

	// Brief leaves out what another call of RunProvision on the same server tests:
	// being killed.
	Brief bool

	// CannotCopy says that tenants cannot be cloned.
	CannotCopy bool

	// Volatile is SQL that makes a table and does not make the same twice.
	Volatile string

	// Slugs have whatever characters the engine's names may have, but for a
	// unique part that replaces {unique}.
	Slugs []string
	// TooLong is a slug that makes a name which the server cannot have.
	TooLong string
}

const provisionEnv = "SKEIN_ENGINETEST_PROVISION"

// RunProvision runs the suite for provisioning.
func RunProvision(t *testing.T, c ProvisionConfig) {
	if order := os.Getenv(provisionEnv); order != "" {
		provisionChild(t, c)
		return
	}
	s := &provisionSuite{ProvisionConfig: c, test: t.Name()}
	for _, test := range []namedProvisionTest{
		{"Whole", (*provisionSuite).whole},
		{"Names", (*provisionSuite).names},
		{"Foreign", (*provisionSuite).foreign},
		{"Isolated", (*provisionSuite).isolated},
		{"TwoAtOnce", (*provisionSuite).twoAtOnce},
		{"FailingMigration", (*provisionSuite).failing},
		{"Killed", func(s *provisionSuite, t *testing.T) { s.killed(t, skein.FromReplay) }},
		{"KilledCopying", func(s *provisionSuite, t *testing.T) { s.killed(t, skein.FromTemplate) }},
		{"KilledDropping", (*provisionSuite).killedDropping},
		{"Template", (*provisionSuite).template},
		{"TemplateInKnex", (*provisionSuite).templateInKnex},
		{"TemplateKilled", (*provisionSuite).templateKilled},
		{"Backup", (*provisionSuite).backup},
		{"Clone", (*provisionSuite).clone},
	} {
		if c.Brief && strings.Contains(test.name, "Killed") {
			continue
		}
		t.Run(test.name, func(t *testing.T) { test.run(s, t) })
	}
}

type namedProvisionTest struct {
	name string
	run  func(*provisionSuite, *testing.T)
}

type provisionSuite struct {
	ProvisionConfig
	test string
}

// provisionSet is what tenants get.
func provisionSet(t testing.TB, more ...*skein.Migration) *skein.Set {
	t.Helper()
	set, err := skein.NewSet(append([]*skein.Migration{
		migration("1.sql", table("one")+";\nINSERT INTO one VALUES (1, 'first')", ""),
		noTransaction(migration("2.sql", table("two")+";\nCREATE INDEX two_note ON two (note)", "")),
		migration("3.sql", "UPDATE one SET note = 'second'", ""),
	}, more...))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

var (
	uniqueMutex sync.Mutex
	uniqueCount int
)

// unique is a short text that no other test has.
func unique() string {
	uniqueMutex.Lock()
	defer uniqueMutex.Unlock()
	uniqueCount++
	return fmt.Sprintf("%x%02x", time.Now().UnixNano()%(1<<32), uniqueCount)
}

// A site is one tenant that a test provisions.
type provisionSite struct {
	s       *provisionSuite
	admin   skein.Target
	journal *fileJournal
	slug    string
	project string
	origin  skein.Origin
	set     *skein.Set
	wrap    func(skein.Administrator) skein.Administrator
	source  *skein.Tenant
	inKnex  bool // SQL migrations are recorded in Knex's table too
}

func (s *provisionSuite) site(t *testing.T) *provisionSite {
	t.Helper()
	p := &provisionSite{
		s: s, admin: s.Admin(t), slug: "t" + unique(), project: "test" + unique(), origin: skein.FromReplay, set: provisionSet(t),
		journal: &fileJournal{path: filepath.Join(t.TempDir(), "journal.json")},
	}
	t.Cleanup(func() { p.dropAll(t) })
	return p
}

// beside is another tenant of the same server and journal.
func (p *provisionSite) beside() *provisionSite {
	q := *p
	q.slug = "t" + unique()
	return &q
}

func (p *provisionSite) target() skein.Target { return p.s.Naming.Target(p.admin, p.slug) }

func (p *provisionSite) provisioning(opts skein.ProvisioningOptions) *skein.Provisioning {
	opts.Project, opts.Origin, opts.LockWait, opts.KnexHistory = p.project, p.origin, 30*time.Second, p.inKnex
	return skein.NewProvisioning(p.s.New(skein.SessionOptions{ConnectTimeout: 20 * time.Second, By: by, Tool: tool}), p.set, p.journal, opts)
}

func (p *provisionSite) connect(t testing.TB) skein.Administrator {
	t.Helper()
	admin, err := p.s.New(skein.SessionOptions{ConnectTimeout: 20 * time.Second, By: by, Tool: tool}).Administer(context.WithoutCancel(t.Context()), p.admin)
	if err != nil {
		t.Fatalf("connect as the administrator: %v", err)
	}
	if p.wrap != nil {
		admin = p.wrap(admin)
	}
	return admin
}

func (p *provisionSite) provision(t testing.TB) (skein.Provisioned, error) {
	t.Helper()
	admin := p.connect(t)
	defer func() { _ = admin.Close() }()
	return p.provisioning(skein.ProvisioningOptions{}).Provision(t.Context(), admin, skein.ProvisionRequest{
		Tenant: skein.Tenant{Slug: p.slug, Target: p.target()}, Server: "test", Source: p.source,
	})
}

func (p *provisionSite) mustProvision(t *testing.T) skein.Provisioned {
	t.Helper()
	out, err := p.provision(t)
	if err != nil {
		t.Fatalf("provision %s: %v", p.slug, err)
	}
	return out
}

func (p *provisionSite) deprovision(t testing.TB, backup string) error {
	t.Helper()
	admin := p.connect(t)
	defer func() { _ = admin.Close() }()
	_, err := p.provisioning(skein.ProvisioningOptions{}).Deprovision(context.WithoutCancel(t.Context()), admin, skein.DeprovisionRequest{Slug: p.slug, Backup: backup})
	return err
}

func (p *provisionSite) prepare(t testing.TB) error {
	t.Helper()
	admin := p.connect(t)
	defer func() { _ = admin.Close() }()
	used, err := p.provisioning(skein.ProvisioningOptions{}).Prepare(t.Context(), admin, p.target())
	if err == nil && !used {
		t.Fatal("no template is used")
	}
	return err
}

// dropAll takes all tenants of the journal away, and the templates with them.
func (p *provisionSite) dropAll(t *testing.T) {
	q := *p
	q.wrap = nil
	for _, slug := range p.journal.slugs() {
		q.slug = slug
		if err := q.deprovision(t, ""); err != nil {
			t.Errorf("deprovision %s: %v", slug, err)
		}
	}
	if p.s.Clean != nil {
		p.s.Clean(t, p.admin, p.project)
	}
}

// want checks a tenant that was provisioned.
func (p *provisionSite) want(t *testing.T) skein.Tenant {
	t.Helper()
	r := p.journal.get(p.slug)
	if r == nil || r.Status != skein.StatusActive || r.Step != skein.StepDone {
		t.Fatalf("the record is %+v", r)
	}
	tenant := r.tenant()
	s := &suite{Config: Config{New: func(o skein.SessionOptions) skein.Engine { return p.s.New(o) }}}
	if records := s.records(t, tenant.Target); len(records) != p.set.Len() {
		t.Errorf("the history has %d migrations, not %d", len(records), p.set.Len())
	}
	if rows := p.s.Query(t, tenant.Target, "SELECT note FROM one"); len(rows) != 1 || rows[0][0] != "second" {
		t.Errorf("the rows are %q", rows)
	}
	p.s.Exec(t, tenant.Target, "CREATE TABLE mine (id integer)")
	p.s.Exec(t, tenant.Target, "ALTER TABLE one ADD COLUMN more integer")
	return tenant
}

// wantNothing checks that nothing is left of a tenant.
func (p *provisionSite) wantNothing(t *testing.T) {
	t.Helper()
	if there := p.s.Exists(t, p.target()); len(there) > 0 {
		t.Errorf("of %s there is left: %q", p.slug, there)
	}
	if r := p.journal.get(p.slug); r != nil {
		t.Errorf("the record is %+v", r)
	}
}

func (s *provisionSuite) whole(t *testing.T) {
	p := s.site(t)
	out := p.mustProvision(t)
	if out.Resumed || out.Already || len(out.Migrated) != 3 || out.Applied != 3 || !out.Tenant.Active {
		t.Errorf("it was made as %+v", out)
	}
	tenant := p.want(t)
	if out, err := p.provision(t); err == nil {
		t.Errorf("a second tenant of that slug: %+v", out)
	}
	admin := p.connect(t)
	defer func() { _ = admin.Close() }()
	again := func(id string) (skein.Provisioned, error) {
		return p.provisioning(skein.ProvisioningOptions{}).Provision(t.Context(), admin, skein.ProvisionRequest{
			Tenant: skein.Tenant{ID: id, Slug: p.slug, Target: p.target()}, Server: "test",
		})
	}
	if out, err := again(tenant.ID); err != nil || !out.Already {
		t.Errorf("with the same id: %+v, %v", out, err)
	}
	if out, err := again("another"); err == nil {
		t.Errorf("with another id: %+v", out)
	}
	if err := p.deprovision(t, ""); err != nil {
		t.Fatal(err)
	}
	p.wantNothing(t)
	p.mustProvision(t) // the slug is free
	p.want(t)
}

func (s *provisionSuite) names(t *testing.T) {
	for _, slug := range s.Slugs {
		t.Run(slug, func(t *testing.T) {
			p := s.site(t)
			p.slug = strings.ReplaceAll(slug, "{unique}", unique())
			if long, ok := strings.CutSuffix(p.slug, "..."); ok {
				// As long as the slug of a tenant can be.
				p.slug = long + strings.Repeat("x", 63-len(long))
			}
			p.mustProvision(t)
			p.want(t)
			if err := p.deprovision(t, ""); err != nil {
				t.Fatal(err)
			}
			p.wantNothing(t)
		})
	}
	p := s.site(t)
	p.slug = s.TooLong
	_, err := p.provision(t)
	if _, ok := errors.AsType[*skein.NameError](err); !ok {
		t.Errorf("with a name that is too long: %v", err)
	}
	p.wantNothing(t)
}

func (s *provisionSuite) foreign(t *testing.T) {
	for what, make := range s.Foreign {
		t.Run(what, func(t *testing.T) {
			p := s.site(t)
			make(t, p.target())
			_, err := p.provision(t)
			if _, ok := errors.AsType[*skein.ExistsError](err); !ok {
				t.Errorf("the error is %v", err)
			}
			if there := s.Exists(t, p.target()); !slices.Equal(there, []string{what}) {
				t.Errorf("there is %q", there)
			}
			if r := p.journal.get(p.slug); r != nil {
				t.Errorf("the record is %+v", r)
			}
		})
		t.Run(what+" that comes in between", func(t *testing.T) {
			p := s.site(t)
			admin := p.connect(t)
			defer func() { _ = admin.Close() }()
			at := skein.StepDatabase
			if what == "role" || what == "user" {
				at = skein.StepRole
			}
			_, err := p.provisioning(skein.ProvisioningOptions{Began: func(_ skein.Tenant, step skein.ProvisionStep) {
				if step == at { // which is recorded, and not taken
					make(t, p.target())
				}
			}}).Provision(t.Context(), admin, skein.ProvisionRequest{Tenant: skein.Tenant{Slug: p.slug, Target: p.target()}, Server: "test"})
			for range 2 {
				if _, ok := errors.AsType[*skein.ExistsError](err); !ok {
					t.Errorf("the error is %v", err)
				}
				_, err = p.provision(t)
			}
			if err := p.deprovision(t, ""); err != nil {
				t.Error(err)
			}
			if there := s.Exists(t, p.target()); !slices.Equal(there, []string{what}) {
				t.Errorf("there is left %q", there)
			}
			if r := p.journal.get(p.slug); r != nil {
				t.Errorf("the record is %+v", r)
			}
		})
	}
}

func (s *provisionSuite) isolated(t *testing.T) {
	a := s.site(t)
	if a.admin.Engine == skein.SQLite {
		return // files have no roles
	}
	b := a.beside()
	a.mustProvision(t)
	b.mustProvision(t)
	as, in := a.want(t).Target, b.want(t).Target
	as.Database, as.Schema = in.Database, in.Schema
	e := s.New(skein.SessionOptions{ConnectTimeout: 20 * time.Second})
	session, err := e.Open(t.Context(), as)
	if err == nil {
		defer func() { _ = session.Close() }()
		_, err = session.History(t.Context())
	}
	if class := skein.ErrorClass(err); class != skein.Denied && class != skein.NoDatabase {
		t.Errorf("tenant %s in the database of %s: %v", a.slug, b.slug, err)
	}
}

func (s *provisionSuite) twoAtOnce(t *testing.T) {
	p := s.site(t)
	const n = 3
	results := make(chan error, n)
	for range n {
		go func() {
			_, err := p.provision(t)
			results <- err
		}()
	}
	made := 0
	for range n {
		if err := <-results; err == nil {
			made++
		} else {
			t.Logf("refused: %v", err)
		}
	}
	if made != 1 {
		t.Errorf("%d of %d made the tenant", made, n)
	}
	p.want(t)
}

func (s *provisionSuite) failing(t *testing.T) {
	p := s.site(t)
	good := p.set
	p.set = provisionSet(t, migration("4.sql", table("four")+";\nINSERT INTO missing VALUES (1)", ""))
	_, err := p.provision(t)
	unfinished, ok := errors.AsType[*skein.UnfinishedError](err)
	if !ok || !strings.Contains(skein.Hint(unfinished), "skein deprovision "+p.slug) {
		t.Fatalf("the error is %v, with the hint %q", err, skein.Hint(err))
	}
	r := p.journal.get(p.slug)
	if r == nil || r.Status != skein.StatusProvisioning || r.Step != skein.StepMigrate {
		t.Fatalf("the record is %+v", r)
	}
	wantNoSecret(t, r.tenant().Target, err)
	// Also where half of the migration has stayed, the same call ends right once
	// it is mended.
	p.set = good
	if out := p.mustProvision(t); !out.Resumed {
		t.Error("it was not gone on with")
	}
	p.want(t)
}

// killed kills a process at each point of provisioning, and goes on.
func (s *provisionSuite) killed(t *testing.T, origin skein.Origin) {
	if origin == skein.FromTemplate && s.Templates == nil {
		return // all are made by replay
	}
	p := s.site(t)
	p.origin = origin
	if origin == skein.FromTemplate {
		if err := p.prepare(t); err != nil {
			t.Fatal(err)
		}
	}
	count := &killer{}
	dry := p.beside()
	dry.wrap = count.wrap
	dry.journal.hit = count.hit
	if out := dry.mustProvision(t); out.Origin != origin {
		t.Fatalf("it was made from %q", out.Origin)
	}
	dry.journal.hit = nil
	if len(count.points) < 12 {
		t.Fatalf("the points are %q", count.points)
	}
	for i, point := range count.points {
		t.Run(fmt.Sprintf("%02d after %s", i+1, point), func(t *testing.T) {
			q := p.beside()
			q.kill(t, provisionOrder{Do: "provision", At: i + 1})
			// When it was killed at the very end there is nothing to go on with.
			if r := q.journal.get(q.slug); r == nil || r.Step != skein.StepDone {
				q.mustProvision(t)
			}
			tenant := q.want(t)
			if tenant.Status != skein.StatusActive {
				t.Errorf("it is %s", tenant.Status)
			}
			if err := q.deprovision(t, ""); err != nil {
				t.Fatal(err)
			}
			q.wantNothing(t)
		})
	}
}

func (s *provisionSuite) killedDropping(t *testing.T) {
	p := s.site(t)
	count := &killer{}
	dry := p.beside()
	dry.mustProvision(t)
	dry.wrap = count.wrap
	dry.journal.hit = count.hit
	if err := dry.deprovision(t, ""); err != nil {
		t.Fatal(err)
	}
	dry.journal.hit = nil
	for i, point := range count.points {
		t.Run(fmt.Sprintf("%02d after %s", i+1, point), func(t *testing.T) {
			q := p.beside()
			q.mustProvision(t)
			q.kill(t, provisionOrder{Do: "deprovision", At: i + 1})
			if r := q.journal.get(q.slug); r != nil {
				if err := q.deprovision(t, ""); err != nil {
					t.Fatal(err)
				}
			}
			q.wantNothing(t)
		})
	}
}

func (s *provisionSuite) template(t *testing.T) {
	if s.Templates == nil {
		return
	}
	p := s.site(t)
	p.mustProvision(t)
	copied := p.beside()
	copied.origin = skein.FromTemplate
	if err := copied.prepare(t); err != nil {
		t.Fatal(err)
	}
	if err := copied.prepare(t); err != nil { // it is there
		t.Fatal(err)
	}
	if out := copied.mustProvision(t); out.Origin != skein.FromTemplate || len(out.Migrated) != 0 || out.Applied != 3 {
		t.Errorf("it was made as %+v", out)
	}
	replayed, made := p.journal.get(p.slug).tenant().Target, copied.journal.get(copied.slug).tenant().Target
	if diff := cmp.Diff(s.Dump(t, replayed), s.Dump(t, made)); diff != "" {
		t.Errorf("a replay and a copy differ (-replay +copy):\n%s", diff)
	}
	copied.want(t)

	// Other migrations make another template, and the old one goes.
	before := s.Templates(t, p.admin, p.project)
	copied.set = provisionSet(t, migration("4.sql", table("four"), ""))
	if err := copied.prepare(t); err != nil {
		t.Fatal(err)
	}
	after := s.Templates(t, p.admin, p.project)
	if len(before) != 1 || len(after) != 1 || before[0] == after[0] {
		t.Errorf("before there was %q, and after %q", before, after)
	}

	// What does not come out the same twice is not copied.
	volatile := copied.beside()
	volatile.set = provisionSet(t, migration("4.sql", s.Volatile, ""))
	for range 2 {
		err := volatile.prepare(t)
		if _, ok := errors.AsType[*skein.TemplateError](err); !ok {
			t.Fatalf("the error is %v", err)
		}
	}
	if out := volatile.mustProvision(t); out.Origin != skein.FromReplay {
		t.Errorf("it was made from %s", out.Origin)
	}
	volatile.want(t)
}

// templateInKnex copies a template whose migrations Knex's table has too: both
// tables speak of the tenant's own beginning.
func (s *provisionSuite) templateInKnex(t *testing.T) {
	if s.Templates == nil {
		return
	}
	p := s.site(t)
	p.origin, p.inKnex = skein.FromTemplate, true
	if err := p.prepare(t); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second) // by which the template is older, to a second
	began := time.Now().Add(-time.Second)
	if out := p.mustProvision(t); out.Origin != skein.FromTemplate {
		t.Errorf("it was made as %+v", out)
	}
	session, err := s.New(skein.SessionOptions{}).Open(t.Context(), p.journal.get(p.slug).tenant().Target)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = session.Close() }()
	history, err := session.History(t.Context())
	if err != nil || len(history.Records) == 0 {
		t.Fatal(history, err)
	}
	for _, r := range history.Records {
		if !r.InKnex || r.By != by || r.Checksum == "" || r.AppliedAt.Before(began) {
			t.Errorf("recorded is %+v", r)
		}
	}
}

// templateKilled kills a process while it makes a template.
func (s *provisionSuite) templateKilled(t *testing.T) {
	if s.Templates == nil {
		return
	}
	p := s.site(t)
	p.origin = skein.FromTemplate
	start := time.Now()
	if err := p.prepare(t); err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	const times = 8
	for i := range times {
		q := p.beside()
		q.project = "test" + unique()
		q.kill(t, provisionOrder{Do: "prepare", After: took * time.Duration(i) / times})
		var err error
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			err = q.prepare(t)
			if _, locked := errors.AsType[*skein.LockedError](err); !locked {
				break // the server has noticed by now
			}
		}
		if err != nil {
			t.Fatalf("after %s: %v", took*time.Duration(i)/times, err)
		}
		if there := s.Templates(t, p.admin, q.project); len(there) != 1 {
			t.Errorf("after %s there is %q", took*time.Duration(i)/times, there)
		}
		q.dropAll(t)
	}
}

func (s *provisionSuite) backup(t *testing.T) {
	p := s.site(t)
	p.mustProvision(t)
	file := filepath.Join(t.TempDir(), "backup")
	if err := p.deprovision(t, file); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Size() < 1000 {
		t.Errorf("the backup is %v, %v", info, err)
	}
	p.wantNothing(t)
	p.mustProvision(t)
	if err := p.deprovision(t, file); err == nil {
		t.Error("a backup was overwritten")
	}
	p.want(t)
}

func (s *provisionSuite) clone(t *testing.T) {
	p := s.site(t)
	p.mustProvision(t)
	source := p.want(t)
	s.Exec(t, source.Target, "INSERT INTO two VALUES (7, 'it''s 100% \\ data')")
	before := s.Dump(t, source.Target)
	c := p.beside()
	c.source = &source
	if s.CannotCopy {
		if _, err := c.provision(t); err == nil || !strings.Contains(err.Error(), "cannot be copied") {
			t.Errorf("the error is %v", err)
		}
		c.wantNothing(t)
		return
	}
	if out := c.mustProvision(t); out.Origin != skein.FromTenant || out.Applied != 3 {
		t.Errorf("it was made as %+v", out)
	}
	cloned := c.journal.get(c.slug).tenant()
	if diff := cmp.Diff(before, s.Dump(t, cloned.Target)); diff != "" {
		t.Errorf("the copy differs (-source +copy):\n%s", diff)
	}
	if diff := cmp.Diff(before, s.Dump(t, source.Target)); diff != "" {
		t.Errorf("the source has changed:\n%s", diff)
	}
	if source.Target.User != "" && cloned.Target.Password.Equal(source.Target.Password) {
		t.Error("the passwords are the same")
	}
	s.Exec(t, cloned.Target, "DROP TABLE two")
	if rows := s.Query(t, source.Target, "SELECT id FROM two"); len(rows) != 1 {
		t.Errorf("the source's rows are %q", rows)
	}
	if err := c.deprovision(t, ""); err != nil {
		t.Fatal(err)
	}
	c.wantNothing(t)
}

// A provisionOrder is what a child is to do, and when it is to be killed.
type provisionOrder struct {
	Do            string
	At            int           // the point, counted from 1
	After         time.Duration // or the time
	Admin         skein.Target
	Password      string
	Slug, Project string
	Origin        skein.Origin
	Journal       string
}

// kill has a child do something and be killed.
func (p *provisionSite) kill(t *testing.T, o provisionOrder) {
	t.Helper()
	o.Admin, o.Password, o.Slug, o.Project, o.Origin, o.Journal = p.admin, p.admin.Password.Reveal(), p.slug, p.project, p.origin, p.journal.path
	o.Admin.Password = secret.Secret{}
	parts := strings.Split(p.s.test, "/")
	for i, part := range parts {
		parts[i] = "^" + regexp.QuoteMeta(part) + "$"
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+strings.Join(parts, "/"), "-test.count=1")
	cmd.Env = append(os.Environ(), provisionEnv+"=1")
	data, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin = strings.NewReader(string(data))
	out, err := cmd.CombinedOutput()
	if err == nil && o.At > 0 {
		t.Fatalf("the child was not killed:\n%s", out)
	}
	if strings.Contains(string(out), "--- FAIL") {
		t.Fatalf("the child failed:\n%s", out)
	}
}

func provisionChild(t *testing.T, c ProvisionConfig) {
	var o provisionOrder
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		t.Fatal(err)
	}
	o.Admin.Password = secret.New(o.Password)
	k := &killer{at: o.At}
	p := &provisionSite{
		s: &provisionSuite{ProvisionConfig: c}, admin: o.Admin, slug: o.Slug, project: o.Project, origin: o.Origin, set: provisionSet(t),
		journal: &fileJournal{path: o.Journal, hit: k.hit}, wrap: k.wrap,
	}
	if o.At == 0 {
		p.wrap, p.journal.hit = nil, nil
		time.AfterFunc(o.After, killSelf)
	}
	var err error
	switch o.Do {
	case "provision":
		_, err = p.provision(t)
	case "deprovision":
		err = p.deprovision(t, "")
	case "prepare":
		err = p.prepare(t)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// killSelf ends the process as a power failure would.
func killSelf() {
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Kill()
	}
	if err != nil {
		panic(err)
	}
	select {}
}

// A killer ends the process at a point, or only counts them.
type killer struct {
	at     int
	points []string
}

func (k *killer) hit(point string) {
	k.points = append(k.points, point)
	if len(k.points) == k.at {
		killSelf()
	}
}

func (k *killer) wrap(admin skein.Administrator) skein.Administrator {
	plain := &killAdministrator{admin, k}
	if t, ok := admin.(skein.Templater); ok {
		return &killTemplater{plain, t}
	}
	return plain
}

// A killAdministrator hits a point after each call.
type killAdministrator struct {
	skein.Administrator
	k *killer
}

type killTemplater struct {
	*killAdministrator
	skein.Templater
}

func (a *killAdministrator) Hold(ctx context.Context, site skein.Site) (func(context.Context) error, error) {
	release, err := a.Administrator.Hold(ctx, site)
	a.k.hit("taking the lock")
	return func(ctx context.Context) error {
		err := release(ctx)
		a.k.hit("giving the lock back")
		return err
	}, err
}

func (a *killAdministrator) Find(ctx context.Context, site skein.Site) ([]skein.Found, error) {
	found, err := a.Administrator.Find(ctx, site)
	a.k.hit("looking")
	return found, err
}

func (a *killAdministrator) CreateRole(ctx context.Context, site skein.Site) error {
	err := a.Administrator.CreateRole(ctx, site)
	a.k.hit("creating the role")
	return err
}

func (a *killAdministrator) CreateDatabase(ctx context.Context, site skein.Site) error {
	err := a.Administrator.CreateDatabase(ctx, site)
	a.k.hit("creating the database")
	return err
}

func (a *killAdministrator) GrantRights(ctx context.Context, site skein.Site) error {
	err := a.Administrator.GrantRights(ctx, site)
	a.k.hit("giving rights")
	return err
}

func (a *killAdministrator) Open(ctx context.Context, site skein.Site) (skein.Session, error) {
	s, err := a.Administrator.Open(ctx, site)
	a.k.hit("connecting")
	if err != nil {
		return nil, err
	}
	return &killSession{s, a.k}, nil
}

func (a *killAdministrator) DropDatabase(ctx context.Context, site skein.Site) error {
	err := a.Administrator.DropDatabase(ctx, site)
	a.k.hit("dropping the database")
	return err
}

func (a *killAdministrator) DropRole(ctx context.Context, site skein.Site) error {
	err := a.Administrator.DropRole(ctx, site)
	a.k.hit("dropping the role")
	return err
}

type killSession struct {
	skein.Session
	k *killer
}

func (s *killSession) Apply(ctx context.Context, step skein.Step) (skein.StepResult, error) {
	r, err := s.Session.Apply(ctx, step)
	s.k.hit("applying " + step.Migration.Name)
	return r, err
}

// A fileJournal records provisioning in a file.
type fileJournal struct {
	mu   sync.Mutex
	path string
	hit  func(string)
}

type fileRecord struct {
	skein.Reservation
	ID, Status string
	Target     skein.Target
	Password   string
}

func (r *fileRecord) tenant() skein.Tenant {
	t := r.Tenant
	t.ID, t.Status, t.Active, t.Target = r.ID, r.Status, r.Status == skein.StatusActive, r.Target
	t.Target.Password = secret.New(r.Password)
	return t
}

func (j *fileJournal) read() map[string]*fileRecord {
	records := make(map[string]*fileRecord)
	data, err := os.ReadFile(j.path)
	if err == nil {
		err = json.Unmarshal(data, &records)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		panic(err)
	}
	return records
}

func (j *fileJournal) get(slug string) *fileRecord {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.read()[slug]
}

func (j *fileJournal) slugs() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Sorted(maps.Keys(j.read()))
}

// change changes the file, and hits a point after that.
func (j *fileJournal) change(point string, f func(map[string]*fileRecord) error) error {
	j.mu.Lock()
	records := j.read()
	err := f(records)
	if err == nil {
		var data []byte
		if data, err = json.Marshal(records); err == nil {
			err = os.WriteFile(j.path+".new", data, 0o600)
		}
		if err == nil {
			err = os.Rename(j.path+".new", j.path)
		}
	}
	j.mu.Unlock()
	if j.hit != nil && err == nil {
		j.hit(point)
	}
	return err
}

func (j *fileJournal) Look(_ context.Context, slug string) (*skein.Reservation, error) {
	r := j.get(slug)
	if r == nil {
		return nil, nil
	}
	out := r.Reservation
	out.Tenant = r.tenant()
	return &out, nil
}

func (j *fileJournal) Reserve(_ context.Context, r skein.Reservation) (skein.Tenant, error) {
	record := &fileRecord{Reservation: r, ID: r.Tenant.ID, Status: skein.StatusProvisioning, Target: r.Tenant.Target, Password: r.Tenant.Target.Password.Reveal()}
	if record.ID == "" {
		record.ID = unique()
	}
	record.Tenant.Target, record.Target.Password = skein.Target{}, secret.Secret{}
	err := j.change("reserving", func(records map[string]*fileRecord) error {
		if records[r.Tenant.Slug] != nil {
			return fmt.Errorf("the slug %s is taken", r.Tenant.Slug)
		}
		records[r.Tenant.Slug] = record
		return nil
	})
	return record.tenant(), err
}

func (j *fileJournal) set(point, slug, status string, step skein.ProvisionStep) error {
	return j.change(point, func(records map[string]*fileRecord) error {
		r := records[slug]
		if r == nil {
			return fmt.Errorf("no tenant %s", slug)
		}
		r.Step = step
		if status != "" {
			r.Status = status
		}
		return nil
	})
}

func (j *fileJournal) Begin(_ context.Context, t skein.Tenant, step skein.ProvisionStep) error {
	return j.set("recording "+string(step), t.Slug, "", step)
}

func (j *fileJournal) Activate(_ context.Context, t skein.Tenant) error {
	return j.set("activating", t.Slug, skein.StatusActive, skein.StepDone)
}

func (j *fileJournal) Retire(_ context.Context, t skein.Tenant, step skein.ProvisionStep) error {
	return j.set("retiring", t.Slug, skein.StatusDeprovisioning, step)
}

func (j *fileJournal) Forget(_ context.Context, t skein.Tenant) error {
	return j.change("forgetting", func(records map[string]*fileRecord) error {
		delete(records, t.Slug)
		return nil
	})
}
