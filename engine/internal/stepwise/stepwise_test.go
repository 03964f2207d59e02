package stepwise

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
)

// fake notes what is called, and fails where told.
type fake struct {
	calls         []string
	fail          map[string]error
	nothingStayed bool
	after         func(call string)
}

func (f *fake) call(ctx context.Context, call string) error {
	f.calls = append(f.calls, call)
	if f.after != nil {
		defer f.after(call)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return f.fail[call]
}

func (f *fake) Begin(ctx context.Context) error { return f.call(ctx, "begin") }
func (f *fake) Exec(ctx context.Context, i int) (int, error) {
	if err := f.call(ctx, fmt.Sprint("exec ", i)); err != nil {
		return i, err
	}
	return i + 1, nil
}

func (f *fake) Progress(ctx context.Context, done int) error {
	return f.call(ctx, fmt.Sprint("progress ", done))
}
func (f *fake) Finish(ctx context.Context) error   { return f.call(ctx, "finish") }
func (f *fake) TakeBack(ctx context.Context) error { return f.call(ctx, "take back") }
func (f *fake) NothingStayed(int, error) bool      { return f.nothingStayed }

func TestRun(t *testing.T) {
	broken := &skein.DatabaseError{Class: skein.Permanent, Message: "broken"}
	at := func(index, line int, statement string, partial bool) *skein.StatementError {
		return &skein.StatementError{
			Migration: "1_a.sql", Direction: skein.Up, Path: "dir/1_a.sql", Total: 3,
			Index: index, Line: line, Statement: statement, Partial: partial,
		}
	}
	exact := func(e *skein.StatementError) *skein.StatementError {
		e.Exact = true
		return e
	}
	tests := []struct {
		name          string
		fail          string
		nothingStayed bool
		calls         []string
		want          *skein.StatementError // without Err
	}{
		{"all run", "", true, []string{"begin", "exec 0", "progress 1", "exec 1", "progress 2", "exec 2", "finish"}, nil},
		{"the first fails and left nothing", "exec 0", true, []string{"begin", "exec 0", "take back"}, at(1, 4, "one", false)},
		{"the first fails and may have left something", "exec 0", false, []string{"begin", "exec 0"}, at(1, 4, "one", true)},
		{"a later one fails", "exec 1", true, []string{"begin", "exec 0", "progress 1", "exec 1"}, exact(at(2, 5, "two", true))},
		{"progress is not recorded", "progress 1", true, []string{"begin", "exec 0", "progress 1"}, at(1, 4, "one", true)},
		{"the end is not recorded", "finish", true, []string{"begin", "exec 0", "progress 1", "exec 1", "progress 2", "exec 2", "finish"}, at(3, 9, "three", true)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := &fake{fail: map[string]error{test.fail: broken}, nothingStayed: test.nothingStayed}
			err := Run(t.Context(), step(), f)
			if diff := cmp.Diff(test.calls, f.calls); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
			if test.want == nil {
				if err != nil {
					t.Errorf("error %v, want none", err)
				}
				return
			}
			got, ok := errors.AsType[*skein.StatementError](err)
			if !ok {
				t.Fatalf("error %v (%T), want a *skein.StatementError", err, err)
			}
			if !errors.Is(got, broken) {
				t.Errorf("error %v does not wrap the cause", got)
			}
			got.Err = nil
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRunBeginFails(t *testing.T) {
	denied := &skein.DatabaseError{Class: skein.Denied, Message: "permission denied"}
	f := &fake{fail: map[string]error{"begin": denied}}
	err := Run(t.Context(), step(), f)
	if _, ok := errors.AsType[*skein.StatementError](err); ok || !errors.Is(err, denied) {
		t.Errorf("error %v (%T), want the cause, and not as the migration's own", err, err)
	}
	if diff := cmp.Diff([]string{"begin"}, f.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestRunTakeBackFails(t *testing.T) {
	f := &fake{fail: map[string]error{"exec 0": errors.New("broken"), "take back": errors.New("lost")}, nothingStayed: true}
	got, ok := errors.AsType[*skein.StatementError](Run(t.Context(), step(), f))
	if !ok || !got.Partial || got.Err.Error() != "broken" {
		t.Errorf("error %+v, want a partial one with the first cause", got)
	}
}

func TestRunInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f := &fake{nothingStayed: true, after: func(call string) {
		if call == "exec 0" {
			cancel()
		}
	}}
	err := Run(ctx, step(), f)
	got, ok := errors.AsType[*skein.StatementError](err)
	if !ok || !got.Partial || got.Index != 2 || !errors.Is(err, context.Canceled) {
		t.Errorf("error %+v, want a partial one at statement 2 that is context.Canceled", err)
	}
	if diff := cmp.Diff([]string{"begin", "exec 0", "progress 1"}, f.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestRunBegan(t *testing.T) {
	for _, test := range []struct {
		name  string
		from  int
		fail  string
		calls []string
		at    int // number of the statement that fails
	}{
		{"from the first", 0, "", []string{"begin", "exec 0", "progress 1", "exec 1", "progress 2", "exec 2", "finish"}, 0},
		{"from the last", 2, "", []string{"begin", "exec 2", "finish"}, 0},
		{"with nothing left", 3, "", []string{"begin", "finish"}, 0},
		{"with fewer left than were done", 4, "", []string{"begin", "finish"}, 0},
		{"fails again", 1, "exec 1", []string{"begin", "exec 1"}, 2},
		{"fails at the first, which may have run before", 0, "exec 0", []string{"begin", "exec 0"}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := &fake{fail: map[string]error{test.fail: errors.New("broken")}, nothingStayed: true}
			s := step()
			s.Began, s.From = true, test.from
			err := Run(t.Context(), s, f)
			if diff := cmp.Diff(test.calls, f.calls); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
			if test.at == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if got, ok := errors.AsType[*skein.StatementError](err); !ok || !got.Partial || got.Index != test.at {
				t.Errorf("error %+v, want a partial one at statement %d", err, test.at)
			}
		})
	}
}

func TestRunNoStatements(t *testing.T) {
	f := &fake{}
	s := step()
	s.Statements = nil
	if err := Run(t.Context(), s, f); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"begin", "finish"}, f.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestFail(t *testing.T) {
	exact := Fail(step(), 1, errors.New("broken"))
	exact.Line = 7
	if got := Fail(step(), 1, exact); got != exact {
		t.Errorf("Fail wrapped an error that says where already: %+v", got)
	}
	s := step()
	s.Statements[0].Text = "CREATE ROLE app PASSWORD 'hunter2'"
	if got := Fail(s, 0, errors.New("broken")).Statement; strings.Contains(got, "hunter2") || !strings.Contains(got, "CREATE ROLE app") {
		t.Errorf("the statement is %q", got)
	}
	unknown := Fail(step(), -1, errors.New("broken"))
	if unknown.Index != 0 || unknown.Line != 0 || unknown.Statement != "" || unknown.Total != 3 {
		t.Errorf("Fail(-1) = %+v, want no statement", unknown)
	}
}

func step() skein.Step {
	section := &skein.Section{SQL: "one;two;three", Path: "dir/1_a.sql", Line: 4, NoTransaction: true}
	return skein.Step{
		Migration:  &skein.Migration{Name: "1_a.sql", Path: "dir/1_a.sql", Kind: skein.SQL, Up: section},
		Direction:  skein.Up,
		Statements: []skein.Statement{{Text: "one", Line: 4}, {Text: "two", Line: 5}, {Text: "three", Line: 9}},
		Batch:      1,
	}
}
