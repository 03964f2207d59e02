package sqlite_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/engine/sqlite"
)

// tenants makes n files with some tables and a history of six migrations.
func tenants(b *testing.B, n int) []skein.Target {
	b.Helper()
	e := sqlite.New(skein.SessionOptions{By: "deploy@example", Tool: "skein 1.0.0"})
	first := newTarget(b)
	session, err := e.Open(b.Context(), first)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := session.Lock(b.Context(), 0); err != nil {
		b.Fatal(err)
	}
	for _, step := range steps(b, e) {
		if _, err := session.Apply(b.Context(), step); err != nil {
			b.Fatal(err)
		}
	}
	if err := session.Close(); err != nil {
		b.Fatal(err)
	}
	content, err := os.ReadFile(first.Database)
	if err != nil {
		b.Fatal(err)
	}
	folder := b.TempDir()
	targets := make([]skein.Target, n)
	for i := range targets {
		targets[i] = target(filepath.Join(folder, fmt.Sprintf("tenant-%d.db", i)))
		if err := os.WriteFile(targets[i].Database, content, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	return targets
}

func steps(b *testing.B, e *sqlite.Engine) []skein.Step {
	b.Helper()
	var steps []skein.Step
	for i := range 6 {
		m := migration(fmt.Sprintf("2024010%d090000_create_things.sql", i), fmt.Sprintf(
			"CREATE TABLE t%da (id integer PRIMARY KEY, name text NOT NULL, note text, created_at datetime DEFAULT CURRENT_TIMESTAMP);"+
				"CREATE TABLE t%[1]db (id integer PRIMARY KEY, a integer NOT NULL REFERENCES t%[1]da, kind text NOT NULL);"+
				"CREATE INDEX t%[1]db_a ON t%[1]db (a, kind)", i))
		statements, err := e.Parse(m.Up)
		if err != nil {
			b.Fatal(err)
		}
		steps = append(steps, skein.Step{Migration: m, Direction: skein.Up, Statements: statements, Batch: i + 1})
	}
	return steps
}

// BenchmarkCheck is what a tenant costs that is up to date: opening its file,
// reading its history, and closing it.
func BenchmarkCheck(b *testing.B) {
	targets := tenants(b, 500)
	e := sqlite.New(skein.SessionOptions{})
	check := func(b *testing.B, i int) {
		session, err := e.Open(b.Context(), targets[i%len(targets)])
		if err != nil {
			b.Fatal(err)
		}
		history, err := session.History(b.Context())
		if err != nil || len(history.Records) != 6 {
			b.Fatal(len(history.Records), err)
		}
		if err := session.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("OneByOne", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			check(b, i)
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tenants/s")
	})
	b.Run("Parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				check(b, i)
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tenants/s")
	})
}

// BenchmarkFresh is what an empty tenant costs: six migrations under the lock.
func BenchmarkFresh(b *testing.B) {
	e := sqlite.New(skein.SessionOptions{})
	work := steps(b, e)
	folder := b.TempDir()
	for i := 0; b.Loop(); i++ {
		path := filepath.Join(folder, fmt.Sprintf("tenant-%d.db", i))
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			b.Fatal(err)
		}
		session, err := e.Open(b.Context(), target(path))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := session.Lock(b.Context(), 0); err != nil {
			b.Fatal(err)
		}
		for left := work; len(left) > 0; {
			results, err := session.(skein.TogetherApplier).ApplyTogether(b.Context(), left)
			if err != nil {
				b.Fatal(err)
			}
			left = left[len(results):]
		}
		if err := session.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tenants/s")
}
