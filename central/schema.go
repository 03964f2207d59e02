package central

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
)

// A step changes Skein's own tables from one version to the next. Steps that
// were released are never edited.
type step struct {
	version    int
	statements []string
}

// Init makes Skein's own tables, or brings them up to date, and says in which
// database, without its password. It can be called by several processes at once,
// killed, and called again. A SQLite file and its folder are made if they do not
// exist; on a server the database must exist.
//
// With a mapping there is nothing of Skein's own to make. The mapping is then
// checked, as by [Open].
func Init(ctx context.Context, cfg Config) (where string, err error) {
	if cfg.Mapping != nil {
		s, err := Open(ctx, cfg)
		if err != nil {
			return "", err
		}
		if err := s.Close(); err != nil || !cfg.Mapping.Write {
			return s.Database(), err
		}
		cfg.Mapping = nil
		_, err = Init(ctx, cfg)
		return s.Database(), err
	}
	db, err := cfg.connect(ctx, true)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	err = db.exclusively(ctx, db, func(tx execer) error {
		const doing = "set up the central database"
		// The column types are understood by all of them.
		if _, err := tx.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS skein_schema (version integer PRIMARY KEY, applied_at varchar(64) NOT NULL)"); err != nil {
			return db.fail(doing, err)
		}
		done, err := doneSteps(ctx, tx)
		if err != nil {
			return db.fail(doing, err)
		}
		todo, err := missingSteps(db.steps(), done)
		if err != nil {
			return err
		}
		for _, step := range todo {
			doing := fmt.Sprintf("%s, version %d", doing, step.version)
			for _, statement := range step.statements {
				if _, err := tx.ExecContext(ctx, statement); err != nil {
					return db.fail(doing, err)
				}
			}
			q := db.newQuery("INSERT INTO skein_schema (version, applied_at) VALUES (")
			q.add(q.arg(step.version), ", ", db.now(), ")")
			if _, err := q.exec(ctx, tx); err != nil {
				return db.fail(doing, err)
			}
		}
		return nil
	})
	return db.target.String(), err
}

func doneSteps(ctx context.Context, tx execer) ([]int, error) {
	var done []int
	q := &query{}
	q.add("SELECT version FROM skein_schema")
	err := q.each(ctx, tx, func(rows *sql.Rows) error {
		var version int
		err := rows.Scan(&version)
		done = append(done, version)
		return err
	})
	return done, err
}

// missingSteps are the steps that are not done yet.
func missingSteps(steps []step, done []int) ([]step, error) {
	newest := steps[len(steps)-1].version
	for _, version := range done {
		if version > newest {
			return nil, &advice{
				fmt.Errorf("the central database is of version %d, and this Skein knows none after %d", version, newest),
				"use the version of Skein that set it up, or a newer one",
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(steps), func(s step) bool { return slices.Contains(done, s.version) }), nil
}

// checkSteps is whether Skein's own tables are there and up to date.
func checkSteps(ctx context.Context, db *database) error {
	const doing = "look for Skein's tables in the central database"
	columns, err := db.columns(ctx, db.DB, "", "skein_schema")
	if err != nil {
		return db.fail(doing, err)
	}
	var done []int
	if len(columns) > 0 {
		if done, err = doneSteps(ctx, db); err != nil {
			return db.fail(doing, err)
		}
	}
	todo, err := missingSteps(db.steps(), done)
	switch {
	case err != nil:
		return err
	case len(done) == 0:
		return &advice{
			fmt.Errorf("%w: %s has none of Skein's tables", ErrNotInitialized, db.target),
			"set it up with: skein init",
		}
	case len(todo) > 0:
		return &advice{
			fmt.Errorf("%w for this version of Skein: %s has the tables of an older one", ErrNotInitialized, db.target),
			"bring it up to date with: skein init",
		}
	}
	return nil
}
