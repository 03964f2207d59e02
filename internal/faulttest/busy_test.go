package faulttest

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql" // the drivers
	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/skeinhq/skein"
)

// holdTable begins a transaction of somebody else's that has read the table of
// all effects, and so keeps everybody from altering it until it is released.
func holdTable(t *testing.T, k kind, target skein.Target) (release func()) {
	t.Helper()
	driver, dsn := "pgx", k.server.URL(target.Database, target.User, target.Password.Reveal())
	if k.name == skein.MySQL {
		driver, dsn = "mysql", fmt.Sprintf("%s:%s@tcp(%s)/%s", target.User, target.Password.Reveal(), k.address(), target.Database)
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.WithoutCancel(t.Context()) // it is released in the test's cleanup
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.ExecContext(ctx, "SELECT * FROM "+rows); err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() {
		if err := tx.Rollback(); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(release)
	return release
}

// A migration that waits for a table gives up, so as not to make the application
// queue behind it, and comes back until the table is free. On MariaDB it goes on
// with the statement that waited.
func TestBusyTable(t *testing.T) {
	for _, k := range kinds(t) {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			target := k.newTarget(t, k.server.Port())
			tenant := skein.Tenant{ID: "1", Target: target}
			sessions := skein.SessionOptions{LockTimeout: time.Second}
			first := changes[:1]
			migrate(t, k, set(t, k, first), skein.PlanOptions{}, patient, sessions, tenant)
			all := append(first[:1:1], change{"0002_late.sql", false, []effect{{"row", "2"}, {"column", "two"}, {"row", "3"}}})

			release := holdTable(t, k, target)
			bounds, retries := patient, 0
			bounds.Listener = func(e skein.Event) {
				if e.Type == skein.TenantRetried {
					if retries++; skein.ErrorClass(e.Err) != skein.Busy {
						t.Errorf("it is tried again because of %v", e.Err)
					}
					if retries == 2 {
						release()
					}
				}
			}
			results, _ := migrate(t, k, set(t, k, all), skein.PlanOptions{}, bounds, sessions, tenant)
			if r := results["1"]; r.Err != nil || len(r.Done) != 1 || retries != 2 {
				t.Errorf("after %d tries again: %d done, %v", retries, len(r.Done), r.Err)
			}
			wantWhole(t, k, target.Database, all)

			// It does not come back for ever.
			holdTable(t, k, target)
			all = append(all, change{"0003_never.sql", false, []effect{{"column", "three"}}})
			bounds.Retries, bounds.Listener = 1, nil
			results, _ = migrate(t, k, set(t, k, all), skein.PlanOptions{}, bounds, sessions, tenant)
			if r := results["1"]; skein.ErrorClass(r.Err) != skein.Busy || skein.Hint(r.Err) == "" {
				t.Errorf("a table that is never free: %v, hint %q", r.Err, skein.Hint(r.Err))
			}
		})
	}
}

// A role that may have two connections is enough for a fleet that would take
// eight.
func TestTooManyConnections(t *testing.T) {
	const tenants = 24
	for _, k := range kinds(t) {
		t.Run(k.name, func(t *testing.T) {
			target := k.newTarget(t, k.server.Port())
			all := make([]skein.Tenant, tenants)
			for i := range all {
				all[i] = skein.Tenant{ID: fmt.Sprint(i), Slug: fmt.Sprint(i), Target: target}
				name := fmt.Sprintf("%s_%d", target.Database, i)
				if k.name == skein.PostgreSQL {
					all[i].Target.Schema = name
					k.server.Exec(t, target.Database, fmt.Sprintf("CREATE SCHEMA %s AUTHORIZATION %s", name, target.User))
					continue
				}
				all[i].Target.Database = name
				k.server.Exec(t, "", fmt.Sprintf("CREATE DATABASE %s; GRANT ALL ON %[1]s.* TO '%s'@'%%'", name, target.User))
				t.Cleanup(func() { k.server.Exec(t, "", "DROP DATABASE "+name) })
			}
			limit := "ALTER ROLE " + target.User + " CONNECTION LIMIT 2"
			if k.name == skein.MySQL {
				limit = "ALTER USER '" + target.User + "'@'%' WITH MAX_USER_CONNECTIONS 2"
			}
			k.server.Exec(t, "", limit)

			var told []skein.Event
			bounds := skein.FleetOptions{Retries: 5, Parallel: 8, PerServer: 8, Listener: func(e skein.Event) {
				if e.Type == skein.ServerCrowded {
					told = append(told, e)
				}
			}}
			results, sum := migrate(t, k, set(t, k, changes[:2]), skein.PlanOptions{}, bounds, skein.SessionOptions{}, all...)
			if sum.Failed != 0 || sum.Steps != 2*tenants {
				for _, r := range results {
					if r.Err != nil {
						t.Errorf("%s: %v", r.Tenant.Slug, r.Err)
					}
				}
			}
			if len(told) != 1 || skein.ErrorClass(told[0].Err) != skein.Crowded {
				t.Errorf("it was told %d times that there are too many connections, want once: %v", len(told), told)
			}
		})
	}
}

// A hundred tenants of a server that says nothing do not take a hundred times
// the time for finding that out of one.
func TestSilentServer(t *testing.T) {
	k := kinds(t)[0]
	silent := listenSilently(t)
	var all []skein.Tenant
	for i := range 100 {
		all = append(all, skein.Tenant{ID: fmt.Sprint(i), Slug: fmt.Sprint(i), Target: skein.Target{
			Engine: k.name, Host: "127.0.0.1", Port: silent, Database: "d", User: "u",
		}})
	}
	target := k.newTarget(t, k.server.Port())
	all = append(all, skein.Tenant{ID: "fine", Slug: "fine", Target: target})
	start := time.Now()
	results, sum := migrate(t, k, set(t, k, changes[:1]), skein.PlanOptions{}, skein.FleetOptions{Retries: 2}, skein.SessionOptions{ConnectTimeout: time.Second}, all...)
	if took := time.Since(start); took > 12*time.Second {
		t.Errorf("it took %s", took)
	}
	if sum.Failed != 100 || results["fine"].Err != nil {
		t.Errorf("%d failed, and the tenant of the other server: %v", sum.Failed, results["fine"].Err)
	}
}
