package faulttest

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"

	_ "modernc.org/sqlite" // the driver
)

// wantSQLite wants the files t0, t1 and so on to have each migration once.
func wantSQLite(t *testing.T, w workspace, files, migrations int) {
	t.Helper()
	for i := range files {
		name := fmt.Sprintf("t%d.db", i)
		db, err := sql.Open("sqlite", filepath.Join(w.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for m := 1; m <= migrations; m++ {
			for what, want := range map[string]int{
				fmt.Sprintf("SELECT count(*) FROM notes WHERE n = %d", m):                                               1,
				fmt.Sprintf("SELECT count(*) FROM notes WHERE n = %d", 1000*m):                                          1500,
				fmt.Sprintf("SELECT count(*) FROM notes WHERE n = %d", -m):                                              1,
				fmt.Sprintf("SELECT count(*) FROM skein_migrations WHERE name = '%04d_x.sql' AND state = 'applied'", m): 1,
				fmt.Sprintf("SELECT count(*) FROM pragma_table_info('notes') WHERE name = 'c%d'", m):                    1,
				"SELECT count(*) FROM skein_migrations":                                                                 migrations,
			} {
				var got int
				if err := db.QueryRowContext(t.Context(), what).Scan(&got); err != nil || got != want {
					t.Errorf("%s: %s: %d, %v, want %d", name, what, got, err, want)
				}
			}
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}
