package central

import (
	"testing"
	"time"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/secret"
)

func TestJournal(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		s := f.own(t)
		j, err := s.Journal()
		if err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		look := func() *skein.Reservation {
			t.Helper()
			r, err := j.Look(ctx, "acme")
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		if r := look(); r != nil {
			t.Fatalf("of no tenant there is %+v", r)
		}
		since := time.Now().UTC().Truncate(time.Millisecond)
		wanted := skein.Reservation{
			Tenant: skein.Tenant{Slug: "acme", Name: "Acme", Labels: map[string]string{"tier": "gold"}, Target: skein.Target{
				Engine: skein.PostgreSQL, Host: "db1", Database: "tenant_acme", User: "tenant_acme", Password: secret.New("generated"),
			}},
			Server: "eu-1", Step: skein.StepRole, Source: "globex", Place: "postgres://tenant_acme@db1:5432/tenant_acme", Since: since,
		}
		tenant, err := j.Reserve(ctx, wanted)
		if err != nil || tenant.ID == "" || tenant.Active || tenant.Status != skein.StatusProvisioning {
			t.Fatalf("it was reserved as %+v, %v", tenant, err)
		}
		if _, err := j.Reserve(ctx, wanted); err == nil {
			t.Error("it was reserved twice")
		}
		r := look()
		if r == nil || r.Tenant.ID != tenant.ID || r.Server != "eu-1" || r.Step != skein.StepRole || r.Source != "globex" || r.Place != wanted.Place || !r.Since.Equal(since) ||
			!r.Tenant.Target.Password.Equal(secret.New("generated")) || r.Tenant.Labels["tier"] != "gold" {
			t.Errorf("the record is %+v", r)
		}
		if stored := f.value(t, "SELECT password FROM skein_tenants"); !secret.IsSealed(stored) {
			t.Error("the password is not sealed")
		}
		if got := slugs(t, s, Filter{Active: true}); got != "" {
			t.Errorf("active are %q", got)
		}
		for _, change := range []func() error{
			func() error { _, err := s.SetStatus(ctx, []string{"acme"}, skein.StatusActive); return err },
			func() error { _, err := s.Remove(ctx, []string{"acme"}); return err },
		} {
			wantError(t, change(), "acme is not provisioned to its end", "skein provision acme")
		}

		if err := j.Begin(ctx, tenant, skein.StepMigrate); err != nil || look().Step != skein.StepMigrate {
			t.Errorf("the step is %q, %v", look().Step, err)
		}
		if err := j.Begin(ctx, skein.Tenant{ID: "nobody", Slug: "nobody"}, skein.StepMigrate); err == nil {
			t.Error("a step of no tenant was recorded")
		}
		if err := j.Activate(ctx, tenant); err != nil {
			t.Fatal(err)
		}
		if r := look(); r.Step != skein.StepDone || !r.Tenant.Active {
			t.Errorf("active it is %+v", r)
		}
		if err := j.Retire(ctx, tenant, skein.StepDropDatabase); err != nil {
			t.Fatal(err)
		}
		if r := look(); r.Step != skein.StepDropDatabase || r.Tenant.Status != skein.StatusDeprovisioning || r.Tenant.Active {
			t.Errorf("retired it is %+v", r)
		}
		_, err = s.SetStatus(ctx, []string{"acme"}, skein.StatusActive)
		wantError(t, err, "acme is being taken away", "skein deprovision acme")
		if err := j.Forget(ctx, tenant); err != nil {
			t.Fatal(err)
		}
		if r := look(); r != nil {
			t.Errorf("forgotten it is %+v", r)
		}
		if n := f.value(t, "SELECT COUNT(*) FROM skein_provisioning"); n != "0" {
			t.Errorf("%s records are left", n)
		}

		// One that was added by hand has no step.
		add(t, s, at("acme", "db1"))
		if r := look(); r == nil || r.Step != "" {
			t.Errorf("added by hand it is %+v", r)
		}
	})
}
