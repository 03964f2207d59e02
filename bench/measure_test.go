package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseProcStat(t *testing.T) {
	line := "4242 (a) b (c)) S 17 4242 4242 0 -1 4194560 100 200 0 0 150 50 1000 25 20 0 1 0 12345 1000 200"
	got, err := parseProcStat(line)
	if err != nil {
		t.Fatal(err)
	}
	if want := (procStat{parent: 17, own: 2, waited: 10.25}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, bad := range []string{"", "1 (x) S 2", "1 (x) S x 1 1 0 -1 0 0 0 0 0 1 1 1 1 0", "1 (x) S 2 1 1 0 -1 0 0 0 0 0 1 x 1 1 0"} {
		if _, err := parseProcStat(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestTreeCPU(t *testing.T) {
	if _, err := treeCPU(os.Getpid()); err != nil {
		t.Error(err)
	}
	if _, err := treeCPU(-1); err == nil {
		t.Error("a process that does not exist has taken CPU time")
	}
}

// echo answers each line with it, and hello before the first.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = c.Write([]byte("hello"))
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

func TestProxyCountsFlights(t *testing.T) {
	p, err := newProxy(t.Context(), echo(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.close() })
	for range 2 {
		c, err := net.Dial("tcp", p.listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		read := func(n int) {
			if _, err := io.ReadFull(c, make([]byte, n)); err != nil {
				t.Fatal(err)
			}
		}
		read(len("hello")) // which nobody asked for
		for range 3 {
			if _, err := c.Write([]byte("question")); err != nil {
				t.Fatal(err)
			}
			read(len("question"))
		}
		_ = c.Close()
	}
	if flights, connections := p.take(); flights != 6 || connections != 2 {
		t.Errorf("%d flights over %d connections, want 6 over 2", flights, connections)
	}
	if flights, connections := p.take(); flights != 0 || connections != 0 {
		t.Errorf("%d flights, %d connections after they were taken", flights, connections)
	}
}

func TestSpawn(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	run := func(commands ...command) spawned {
		input, err := json.Marshal(spawnJob{Commands: commands, AtOnce: 2, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		if err := spawnMain(strings.NewReader(string(input)), &out); err != nil {
			t.Fatal(err)
		}
		var result spawned
		if err := json.Unmarshal([]byte(out.String()), &result); err != nil {
			t.Fatal(err)
		}
		return result
	}
	say := command{Args: []string{"sh", "-c", "echo $WORD"}, Env: []string{"WORD=said"}}
	if got := run(say, say, say); got.Err != "" || got.Seconds <= 0 || got.PeakKiB <= 0 {
		t.Errorf("got %+v", got)
	}
	if text, err := os.ReadFile(log); err != nil || string(text) != "said\nsaid\nsaid\n" {
		t.Errorf("printed %q, %v", text, err)
	}
	if got := run(say, command{Args: []string{"sh", "-c", "exit 3"}}, say); got.Err != "sh: exit status 3" {
		t.Errorf("got %+v", got)
	}
}

func TestInParallel(t *testing.T) {
	done := make([]bool, 20)
	if err := inParallel(t.Context(), len(done), func(_ context.Context, i int) error {
		done[i] = true
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for i, d := range done {
		if !d {
			t.Errorf("%d was left out", i)
		}
	}
	err := inParallel(t.Context(), 1000, func(_ context.Context, i int) error {
		if i == 5 {
			return io.ErrUnexpectedEOF
		}
		return nil
	})
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}

// The layouts are made from one source, which is in order and has a way back.
func TestMigrations(t *testing.T) {
	for _, dir := range []string{"pg", "my", "sqlite"} {
		all, err := readMigrations(filepath.Join("migrations", dir))
		if err != nil {
			t.Fatal(err)
		}
		if len(all) != 7 {
			t.Fatalf("%s has %d migrations, want 7", dir, len(all))
		}
		to := t.TempDir()
		if err := writeMigrations(all, to); err != nil {
			t.Fatal(err)
		}
		for layout, want := range map[string]string{
			"pairs/six/0001_users.up.sql":            all[0].Up,
			"pairs/seven/0007_add_nickname.down.sql": all[6].Down,
			"goose/six/0006_add_columns.sql":         "-- +goose Up\n" + all[5].Up + "\n-- +goose Down\n" + all[5].Down,
			"dbmate/six/0001_users.sql":              "-- migrate:up\n" + all[0].Up + "\n-- migrate:down\n" + all[0].Down,
			"tern/six/0001_users.sql":                all[0].Up + "\n---- create above / drop below ----\n\n" + all[0].Down,
			"ups/seven/0007_add_nickname.sql":        all[6].Up,
		} {
			got, err := os.ReadFile(filepath.Join(to, layout))
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != want {
				t.Errorf("%s: %s is\n%s\nwant\n%s", dir, layout, got, want)
			}
		}
		if _, err := os.Stat(filepath.Join(to, "pairs/six/0007_add_nickname.up.sql")); err == nil {
			t.Error("the seventh migration is among the six")
		}
	}
}

func TestOptions(t *testing.T) {
	o, err := parseOptions(nil)
	if err != nil {
		t.Fatal(err)
	}
	if o.tenants != 200 || o.rounds != 3 || o.out != "results" || !o.wants(opFresh) {
		t.Errorf("got %+v", o)
	}
	o, err = parseOptions([]string{"-only", "nothing", "-engines", "postgres,mysql", "-peers", ""})
	if err != nil {
		t.Fatal(err)
	}
	if o.out != "results/partial" || o.wants(opFresh) || len(o.fleets) != 2 || len(o.peers) != 0 {
		t.Errorf("got %+v", o)
	}
	for _, args := range [][]string{{"-engines", "oracle"}, {"-only", "all"}, {"-peers", "flyway"}, {"-rounds", "0"}, {"-sizes", "many"}, {"fresh"}} {
		if _, err := parseOptions(args); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}

// Each operation finds the state that those before it leave.
func TestOperations(t *testing.T) {
	for only, want := range map[string]string{
		"nothing":                       "fresh nothing",
		"fresh":                         "fresh",
		"rollback":                      "fresh column rollback",
		"nothing,column":                "fresh nothing column",
		"nothing,fresh,column,rollback": "fresh nothing column rollback",
	} {
		o, err := parseOptions([]string{"-only", only})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, operation := range (&bench{opts: o}).operations() {
			got = append(got, string(operation))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("-only %s: %q, want %q", only, got, want)
		}
	}
}
