package skein_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/skeinhq/skein"
)

func TestSettle(t *testing.T) {
	partial := func(name string, state skein.RecordState, inKnex bool) skein.History {
		return skein.History{Records: []skein.Record{
			{Name: "1_a.sql", State: skein.Applied, Batch: 1, Checksum: "sum of 1_a.sql"},
			{Name: name, State: state, Batch: 7, Checksum: "recorded", Done: 1, Total: 3, InKnex: inKnex},
		}}
	}
	up, down := partial("2_b.sql", skein.Applying, false), partial("2_b.sql", skein.Reverting, false)
	gone := partial("9_z.sql", skein.Applying, false)
	locked := partial("2_b.sql", skein.Applying, false)
	locked.KnexLocked = true
	tests := []struct {
		name    string
		history skein.History
		settle  skein.Settlement
		want    string // the plan
		refused skein.Reason
	}{
		{"nothing to settle", history("1:1_a.sql"), skein.Continue, "", ""},
		{"continue an up", up, skein.Continue, "up of 2_b.sql from 1, batch 7", ""},
		{"redo an up", up, skein.Redo, "up of 2_b.sql from 0, batch 7", ""},
		{"continue a down", down, skein.Continue, "down of 2_b.sql from 1, batch 7", ""},
		{"redo a down", down, skein.Redo, "down of 2_b.sql from 0, batch 7", ""},
		{"an up is applied", up, skein.MarkApplied, "recorded up of 2_b.sql (sum of 2_b.sql), batch 7", ""},
		{"an up is reverted", up, skein.MarkReverted, "recorded down of 2_b.sql (sum of 2_b.sql), batch 7", ""},
		{"a down is applied", down, skein.MarkApplied, "recorded up of 2_b.sql (recorded), batch 7", ""},
		{"a down is reverted", down, skein.MarkReverted, "recorded down of 2_b.sql (recorded), batch 7", ""},
		{"continue without the file", gone, skein.Continue, "", skein.ReasonMissing},
		{"redo without the file", gone, skein.Redo, "", skein.ReasonMissing},
		{"applied without the file", gone, skein.MarkApplied, "recorded up of 9_z.sql (recorded), batch 7", ""},
		{"reverted without the file", gone, skein.MarkReverted, "recorded down of 9_z.sql (recorded), batch 7", ""},
		{"continue without a down", partial("4_d.sql", skein.Reverting, false), skein.Continue, "", skein.ReasonNoDown},
		{"continue beside Knex", locked, skein.Continue, "", skein.ReasonKnexLocked},
		{"a record beside Knex", locked, skein.MarkReverted, "recorded down of 2_b.sql (sum of 2_b.sql), batch 7", ""},
		{"continue a Knex migration", partial("3_c.js", skein.Applying, false), skein.Continue, "", skein.ReasonPartial},
		{"redo a Knex migration", partial("3_c.js", skein.Applying, false), skein.Redo, "up of 3_c.js from 0, batch 7", ""},
		{"redo a Knex migration's down", partial("3_c.js", skein.Reverting, true), skein.Redo, "down of 3_c.js from 0, batch 7", ""},
		{"redo a Knex migration without its file", partial("9_z.js", skein.Applying, false), skein.Redo, "", skein.ReasonMissing},
		{"applied, and not in Knex's table", partial("3_c.js", skein.Applying, false), skein.MarkApplied, "recorded up of 3_c.js (sum of 3_c.js), batch 7", ""},
		{"applied in Knex's table, without the file", partial("9_z.js", skein.Applying, false), skein.MarkApplied, "recorded up of 9_z.js (recorded), batch 7", ""},
		{"reverted, and not in Knex's table", partial("3_c.js", skein.Applying, false), skein.MarkReverted, "recorded down of 3_c.js (sum of 3_c.js), batch 7", ""},
		{"applied, and in Knex's table", partial("3_c.js", skein.Reverting, true), skein.MarkApplied, "recorded up of 3_c.js (recorded), batch 7", ""},
		{"reverted, and in Knex's table", partial("3_c.js", skein.Reverting, true), skein.MarkReverted, "recorded down of 3_c.js (recorded), batch 7", ""},
		{"no settlement", up, "give up", "", skein.ReasonPartial},
	}
	set := migrations(t, "1_a.sql", "2_b.sql", "3_c.js", "4_d.sql!")
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			plan, err := skein.MakePlan(set, test.history, skein.PlanOptions{Settle: test.settle, Knex: true})
			if test.refused != "" {
				refused, ok := errors.AsType[*skein.RefusedError](err)
				if !ok || refused.Reason != test.refused {
					t.Fatalf("error %v, want a refusal for %q", err, test.refused)
				}
				if test.refused != skein.ReasonPartial && refused.Hint() == "" {
					t.Error("it does not say what to do")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, m := range plan.Steps {
				if got = fmt.Sprintf("%s of %s from %d", plan.Direction, m.Name, plan.From); plan.RecordOnly {
					got = fmt.Sprintf("recorded %s of %s (%s)", plan.Direction, m.Name, m.Checksum)
				}
				got += fmt.Sprintf(", batch %d", plan.Batch)
			}
			if got != test.want || plan.Began != strings.Contains(got, "from") {
				t.Errorf("plan %q (began: %t), want %q", got, plan.Began, test.want)
			}
		})
	}
}

func TestStopWays(t *testing.T) {
	flags := func(s skein.Stop) string {
		var all []string
		for _, w := range s.Ways() {
			all = append(all, w.Flag)
		}
		return strings.Join(all, " ")
	}
	for _, test := range []struct {
		name string
		stop skein.Stop
		want string
	}{
		{"as it was", skein.Stop{Direction: skein.Up, Index: 2, Total: 3, Path: "m/1"}, "--continue --redo --mark-applied --mark-reverted"},
		{"changed", skein.Stop{Direction: skein.Up, Index: 2, Total: 3, Path: "m/1", Changed: 1}, "--redo --mark-applied --mark-reverted"},
		{"no file", skein.Stop{Direction: skein.Down, Index: 2, Total: 3}, "--mark-applied --mark-reverted"},
		{"Knex's", skein.Stop{Direction: skein.Up, Path: "m/1"}, "--redo --mark-applied --mark-reverted"},
		{"Knex's, no file", skein.Stop{Direction: skein.Down}, "--mark-applied --mark-reverted"},
	} {
		if got := flags(test.stop); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

// Without a Knex its table cannot be made to say what is to be recorded.
func TestSettleWithoutKnex(t *testing.T) {
	set := migrations(t, "3_c.js")
	for _, settle := range []skein.Settlement{skein.Redo, skein.MarkApplied, skein.MarkReverted} {
		record := skein.Record{Name: "3_c.js", State: skein.Applying, Batch: 1, Total: 1}
		_, err := skein.MakePlan(set, skein.History{Records: []skein.Record{record}}, skein.PlanOptions{Settle: settle})
		refused, ok := errors.AsType[*skein.RefusedError](err)
		if needs := settle != skein.MarkReverted; ok != needs || needs && refused.Reason != skein.ReasonNeedsKnex {
			t.Errorf("%s: %v", settle, err)
		}
	}
}

func TestFingerprints(t *testing.T) {
	a, b := skein.Statement{Text: "SELECT 1", Line: 1}, skein.Statement{Text: "SELECT 2", Line: 2}
	if got := skein.Fingerprints(nil); got != "" {
		t.Errorf("of nothing: %q", got)
	}
	// Kept in tenants' databases: it may not change.
	if got, want := skein.Fingerprints([]skein.Statement{a, b}), "e004ebd5b5532a4b ebbb5b332060a3ed"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	a.Line = 9
	if skein.Fingerprints([]skein.Statement{a})[:16] != skein.Fingerprints([]skein.Statement{a, b})[:16] {
		t.Error("the line counts")
	}
}
