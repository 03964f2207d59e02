package mysql

import (
	"context"
	"database/sql/driver"
	"path/filepath"
	"strconv"
	"testing"

	mysqldriver "github.com/go-sql-driver/mysql"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/internal/dbtest"
)

// BenchmarkCheck is what a tenant costs that is up to date, beside the least
// that a connection costs, with four at once on each core.
func BenchmarkCheck(b *testing.B) {
	target := newTarget(b)
	e := New(skein.SessionOptions{})
	s := open(b, e, target)
	var records []skein.Record
	for i := range 6 {
		records = append(records, skein.Record{Name: strconv.Itoa(i) + "_migration.sql", State: skein.Applied, Batch: 1})
	}
	if err := s.Record(b.Context(), records); err != nil {
		b.Fatal(err)
	}

	perSecond := func(b *testing.B, f func() error) {
		b.SetParallelism(4)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := f(); err != nil {
					b.Error(err)
					return
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tenants/s")
	}
	b.Run("connect and ping", func(b *testing.B) {
		config := mysqldriver.NewConfig()
		config.User, config.Passwd, config.DBName = target.User, target.Password.Reveal(), target.Database
		config.Net, config.Addr = address(target)
		connector, err := mysqldriver.NewConnector(config)
		if err != nil {
			b.Fatal(err)
		}
		perSecond(b, func() error {
			conn, err := connector.Connect(context.Background())
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
			return conn.(driver.Pinger).Ping(context.Background())
		})
	})
	check := func(e *Engine) func() error {
		return func() error {
			s, err := e.Open(b.Context(), target)
			if err != nil {
				return err
			}
			defer func() { _ = s.Close() }()
			_, err = s.History(b.Context())
			return err
		}
	}
	b.Run("open and read", func(b *testing.B) { perSecond(b, check(e)) })
	b.Run("open and read as MySQL", func(b *testing.B) { perSecond(b, check(asMySQL(New(skein.SessionOptions{})))) })

	other := newTarget(b)
	other.User, other.Password = target.User, target.Password
	dbtest.MySQL(b).Exec(b, "", "GRANT ALL PRIVILEGES ON "+quoteName(other.Database)+".* TO "+quoteName(other.User))
	if err := open(b, e, other).Record(b.Context(), records); err != nil {
		b.Fatal(err)
	}
	kept := func(b *testing.B, e *Engine) {
		b.SetParallelism(4)
		b.RunParallel(func(pb *testing.PB) {
			s, err := e.Open(b.Context(), target)
			if err != nil {
				b.Error(err)
				return
			}
			defer func() { _ = s.Close() }()
			for i := 0; pb.Next(); i++ {
				s.Switch([]skein.Target{other, target}[i%2])
				if _, err := s.History(b.Context()); err != nil {
					b.Error(err)
					return
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tenants/s")
	}
	b.Run("switch and read", func(b *testing.B) { kept(b, e) })
	b.Run("switch and read as MySQL", func(b *testing.B) { kept(b, asMySQL(New(skein.SessionOptions{}))) })
}

// BenchmarkApply is a tenant from nothing to six migrations.
func BenchmarkApply(b *testing.B) {
	e := New(skein.SessionOptions{})
	paths, err := filepath.Glob("testdata/crm/*.up.sql")
	if err != nil || len(paths) != 6 {
		b.Fatalf("%d migrations, %v", len(paths), err)
	}
	var steps []skein.Step
	for _, path := range paths {
		steps = append(steps, step(b, e, migration(filepath.Base(path), read(b, path), ""), skein.Up))
	}
	for b.Loop() {
		b.StopTimer()
		target := newTarget(b)
		b.StartTimer()
		s := open(b, e, target)
		if _, err := s.History(b.Context()); err != nil {
			b.Fatal(err)
		}
		lock(b, s)
		for _, work := range steps {
			if _, err := s.Apply(b.Context(), work); err != nil {
				b.Fatal(err)
			}
		}
		if err := s.Unlock(b.Context()); err != nil {
			b.Fatal(err)
		}
		_ = s.Close()
	}
}
