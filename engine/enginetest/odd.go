package enginetest

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/skeinhq/skein"
)

// oddTests are about tenants whose tables are not what they should be.
var oddTests = []namedTest{
	{"ForeignTable", func(t *testing.T, s *suite) {
		for _, test := range []struct{ table, sql, whose, hint string }{
			{"skein_migrations", "CREATE TABLE skein_migrations (id integer, name varchar(200))", "Skein's", "rename it"},
			{"skein_migrations", "CREATE TABLE skein_migrations (version varchar(200))", "Skein's", "rename it"},
			{"knex_migrations", "CREATE TABLE knex_migrations (version varchar(200))", "Knex's", "migrations.table"},
			{"knex_migrations_lock", "CREATE TABLE knex_migrations_lock (locked integer)", "Knex's", "migrations.table"},
		} {
			target := s.NewTarget(t)
			s.Exec(t, target, test.sql)
			session := s.open(t, s.engine(), target)
			_, historyErr := session.History(t.Context())
			_, lockErr := session.Lock(t.Context(), 0)
			for _, err := range []error{historyErr, lockErr} {
				wantClass(t, target, err, skein.Permanent)
				answer, ok := errors.AsType[*skein.DatabaseError](err)
				if ok && (!strings.HasPrefix(answer.Message, "the table "+test.table+" is there and is not "+test.whose+": ") || !strings.Contains(answer.Hint, test.hint)) {
					t.Errorf("%s: the error is %v, with the hint: %s", test.sql, answer, answer.Hint)
				}
			}
			if tables := s.Tables(t, target); !slices.Equal(tables, []string{test.table}) {
				t.Errorf("the tables are %q", tables)
			}
			// The lock was not kept.
			lock := s.open(t, s.engine(), target)
			if _, err := lock.Lock(t.Context(), 0); skein.ErrorClass(err) != skein.Permanent {
				t.Errorf("the next one meets %v", err)
			}
		}
	}},
}
