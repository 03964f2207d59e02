package enginetest

import (
	"testing"

	"github.com/skeinhq/skein"
)

var serverTests = []namedTest{
	{"Server", func(t *testing.T, s *suite) {
		session := s.open(t, s.engine(), s.NewTarget(t))
		info, err := session.(skein.ServerReporter).Server(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if info.Version == "" || info.ReadOnly {
			t.Errorf("the server says %+v of itself, want a version and that it takes changes", info)
		}
		if info.MaxConnections > 0 && (info.Connections < 1 || info.Connections > info.MaxConnections) {
			t.Errorf("%d of %d connections are in use, want at least this test's own", info.Connections, info.MaxConnections)
		}
	}},
	{"Processors", func(t *testing.T, s *suite) {
		session := s.open(t, s.engine(), s.NewTarget(t))
		counter, ok := session.(skein.ProcessorCounter)
		if !ok {
			return // a power that not every engine has
		}
		n, err := counter.Processors(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n < 0 || n > 4096 {
			t.Errorf("the server says that it has %d processors", n)
		}
	}},
}
