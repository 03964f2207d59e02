package postgres

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/dbtest"
	"github.com/skeinhq/skein/secret"
)

// BenchmarkProvision makes tenants with six migrations, in turn: by the
// statements that it takes at least, which is what the rest is measured against,
// from a template, and by replay. It reports the medians. The record of what is
// done is kept in memory.
func BenchmarkProvision(b *testing.B) {
	server := dbtest.Postgres(b)
	set := benchSet(b)
	e := New(skein.SessionOptions{By: "bench", Tool: "bench"})
	admin := administratorOf(b)
	project := dbtest.UniqueName()
	conn, err := e.Administer(b.Context(), admin)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	a := conn.(*administrator)
	target := skein.Naming{Database: "{slug}", User: "{slug}"}.Target(admin, "x")
	provisioning := func(from skein.Origin) func(context.Context, string) error {
		p := skein.NewProvisioning(e, set, memoryJournal{}, skein.ProvisioningOptions{Project: project, Origin: from})
		return func(ctx context.Context, name string) error {
			target.Database, target.User = name, name
			_, err := p.Provision(ctx, a, skein.ProvisionRequest{Tenant: skein.Tenant{ID: name, Slug: name, Target: target}})
			return err
		}
	}
	p := skein.NewProvisioning(e, set, memoryJournal{}, skein.ProvisioningOptions{Project: project})
	if _, err := p.Prepare(b.Context(), a, target); err != nil {
		b.Fatal(err)
	}
	template := a.template(p.TemplateKey()).name
	ways := []struct {
		name string
		make func(context.Context, string) error
		took []time.Duration
	}{
		{name: "bare", make: func(ctx context.Context, name string) error { return bare(ctx, a, name, template) }},
		{name: "template", make: provisioning(skein.FromTemplate)},
		{name: "replay", make: provisioning(skein.FromReplay)},
	}
	for b.Loop() {
		for i := range ways {
			name := dbtest.UniqueName()
			start := time.Now()
			if err := ways[i].make(b.Context(), name); err != nil {
				b.Fatal(err)
			}
			ways[i].took = append(ways[i].took, time.Since(start))
			server.Exec(b, "", "DROP DATABASE "+name)
			server.Exec(b, "", "DROP ROLE "+name)
		}
	}
	b.ReportMetric(0, "ns/op")
	median := make(map[string]float64)
	for _, w := range ways {
		slices.Sort(w.took)
		median[w.name] = float64(w.took[len(w.took)/2].Microseconds()) / 1000
		b.ReportMetric(median[w.name], w.name+"-ms")
	}
	b.ReportMetric(median["template"]/median["bare"], "template/bare")
	provisionConfig(administratorOf).Clean(b, admin, project)
}

func bare(ctx context.Context, a *administrator, name, template string) error {
	if err := a.createRole(ctx, name, secret.GenerateKey(), "bench"); err != nil {
		return err
	}
	if _, err := a.rows(ctx, "CREATE DATABASE "+name+" OWNER "+name+" TEMPLATE "+template); err != nil {
		return err
	}
	return a.transaction(ctx, "grant", "REVOKE ALL ON DATABASE "+name+" FROM PUBLIC", "GRANT CONNECT ON DATABASE "+name+" TO "+name)
}

func benchSet(b *testing.B) *skein.Set {
	b.Helper()
	files, err := filepath.Glob("testdata/crm/*.up.sql")
	if err != nil || len(files) == 0 {
		b.Fatal("there are no migrations", err)
	}
	var all []*skein.Migration
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, &skein.Migration{
			Name: filepath.Base(file), Path: file, Kind: skein.SQL, Checksum: fmt.Sprintf("%064d", len(text)),
			Up: &skein.Section{SQL: string(text), Path: file, Line: 1},
		})
	}
	set, err := skein.NewSet(all)
	if err != nil {
		b.Fatal(err)
	}
	return set
}

// A memoryJournal forgets at once.
type memoryJournal struct{}

func (memoryJournal) Look(context.Context, string) (*skein.Reservation, error) { return nil, nil }
func (memoryJournal) Reserve(_ context.Context, r skein.Reservation) (skein.Tenant, error) {
	return r.Tenant, nil
}
func (memoryJournal) Begin(context.Context, skein.Tenant, skein.ProvisionStep) error  { return nil }
func (memoryJournal) Activate(context.Context, skein.Tenant) error                    { return nil }
func (memoryJournal) Retire(context.Context, skein.Tenant, skein.ProvisionStep) error { return nil }
func (memoryJournal) Forget(context.Context, skein.Tenant) error                      { return nil }
