package faulttest

import (
	"errors"
	"fmt"
	"iter"
	"net"
	"testing"
	"time"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/dbtest"
)

func only(tenants ...skein.Tenant) iter.Seq2[skein.Tenant, error] {
	return func(yield func(skein.Tenant, error) bool) {
		for _, t := range tenants {
			if !yield(t, nil) {
				return
			}
		}
	}
}

// migrate runs a fleet over tenants, and returns how each ended.
func migrate(t testing.TB, k kind, set *skein.Set, opts skein.PlanOptions, fleetOpts skein.FleetOptions, sessions skein.SessionOptions, tenants ...skein.Tenant) (map[string]skein.Result, skein.Summary) {
	t.Helper()
	results := make(map[string]skein.Result)
	listen := fleetOpts.Listener
	fleetOpts.Listener = func(e skein.Event) {
		if e.Type == skein.TenantEnded {
			results[e.Tenant.ID] = *e.Result
		}
		if listen != nil {
			listen(e)
		}
	}
	sum, err := skein.NewFleet([]skein.Engine{k.engine(sessions)}, set, &fleetOpts).Migrate(t.Context(), only(tenants...), opts)
	if err != nil {
		t.Fatal(err)
	}
	return results, sum
}

var patient = skein.FleetOptions{Retries: 5, LockWait: time.Minute}

// A connection may end at any point of the conversation with the server: before
// the server hears something, while it does, after it has done what was asked and
// before that is known.
func TestCutAnywhere(t *testing.T) {
	for _, k := range kinds(t) {
		t.Run(k.name, func(t *testing.T) {
			migrations := set(t, k, changes)
			whole := dbtest.NewProxy(t, k.address(), nil)
			target := k.newTarget(t, whole.Port())
			results, _ := migrate(t, k, migrations, skein.PlanOptions{}, patient, skein.SessionOptions{}, skein.Tenant{ID: "1", Target: target})
			if r := results["1"]; r.Err != nil {
				t.Fatal(r.Err)
			}
			wantWhole(t, k, target.Database, changes)
			flights := whole.Flights()
			if flights < 12 {
				t.Fatalf("a run has %d flights: the proxy does not see them", flights)
			}
			for number := 1; number <= flights; number++ {
				trouble := dbtest.Cut
				if number%4 >= 2 { // so that both directions meet both
					trouble = dbtest.Halve
				}
				t.Run(fmt.Sprintf("%d", number), func(t *testing.T) {
					t.Parallel()
					var hit string
					proxy := dbtest.NewProxy(t, k.address(), func(f dbtest.Flight) dbtest.Trouble {
						if f.Number != number {
							return dbtest.Pass
						}
						hit = fmt.Sprintf("answer %t, %.60q", f.Answer, f.Text)
						return trouble
					})
					target := k.newTarget(t, proxy.Port())
					tenant := skein.Tenant{ID: "1", Target: target}
					results, _ := migrate(t, k, migrations, skein.PlanOptions{}, patient, skein.SessionOptions{}, tenant)
					r := results["1"]
					stopped := putRight(t, k, target.Database, changes)
					if stopped {
						broken, ok := errors.AsType[*skein.StatementError](r.Err)
						refused, isRefused := errors.AsType[*skein.RefusedError](r.Err)
						if (!ok || !broken.Partial) && (!isRefused || refused.Reason != skein.ReasonPartial) {
							t.Errorf("the tenant is partial, and the error is %v", r.Err)
						}
						results, _ = migrate(t, k, migrations, skein.PlanOptions{Settle: skein.Continue}, patient, skein.SessionOptions{}, tenant)
						if r := results["1"]; r.Err != nil {
							t.Errorf("going on: %v", r.Err)
						}
						results, _ = migrate(t, k, migrations, skein.PlanOptions{}, patient, skein.SessionOptions{}, tenant)
						if r = results["1"]; r.Err != nil {
							t.Errorf("and with the rest: %v", r.Err)
						}
					} else if r.Err != nil || len(r.Done) != len(changes) {
						t.Errorf("%d migrations are reported, and %v", len(r.Done), r.Err)
					}
					wantWhole(t, k, target.Database, changes)
					if t.Failed() {
						t.Logf("trouble %d at flight %d: %s", trouble, number, hit)
					}
				})
			}
		})
	}
}

// What comes late is not lost.
func TestDelayed(t *testing.T) {
	for _, k := range kinds(t) {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			proxy := dbtest.NewProxy(t, k.address(), func(f dbtest.Flight) dbtest.Trouble {
				if f.Number%5 == 0 {
					return dbtest.Delay
				}
				return dbtest.Pass
			})
			target := k.newTarget(t, proxy.Port())
			results, _ := migrate(t, k, set(t, k, changes), skein.PlanOptions{}, patient, skein.SessionOptions{}, skein.Tenant{ID: "1", Target: target})
			if r := results["1"]; r.Err != nil || len(r.Done) != len(changes) {
				t.Errorf("%d migrations are reported, and %v", len(r.Done), r.Err)
			}
			wantWhole(t, k, target.Database, changes)
		})
	}
}

// listenSilently takes connections until the test ends, and says nothing.
func listenSilently(t *testing.T) (port int) {
	t.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conns = append(conns, conn)
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
		for _, conn := range conns {
			_ = conn.Close()
		}
	})
	return listener.Addr().(*net.TCPAddr).Port
}
