package knex

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/secret"
)

// A Preview is the SQL of one side of a Knex migration, as far as it can be told
// without a database. It is approximate: it shows what the migration's code sends
// now, with today's values, if all goes well.
type Preview struct {
	// Statements are without semicolons, and have values in the place of their
	// placeholders, but for those that the environment has under names like
	// DB_PASSWORD or API_KEY.
	Statements []string
	// Transaction says that Knex runs the migration in a transaction.
	Transaction bool
	// Unknown is why what follows the statements is not known, a sentence without
	// its period. Empty: nothing follows.
	Unknown string
}

// previewTimeout bounds the preview of one migration, which waits for nothing,
// where Options.Timeout is not less.
const previewTimeout = 10 * time.Second

// Preview tells the SQL that migrations would send to an engine. Each is called
// with the Knex of the project and no database: the first thing in it that
// depends on a database, or that has an effect beside it, ends its preview. The
// previews are in the order of the migrations. The error is that of a project
// that cannot run any.
func (r *Runner) Preview(ctx context.Context, engine string, direction skein.Direction, migrations []*skein.Migration) ([]Preview, error) {
	free, err := r.slot(ctx)
	if err != nil {
		return nil, err
	}
	defer free()
	limit := previewTimeout
	if r.opts.Timeout > 0 {
		limit = min(limit, r.opts.Timeout)
	}
	typescript := slices.ContainsFunc(migrations, func(m *skein.Migration) bool { return isTypeScript(m.Path) })
	previews := make([]Preview, len(migrations))
	var w *worker
	defer func() {
		if w != nil {
			w.kill() // it is not fit to run migrations
		}
	}()
	for i, m := range migrations {
		file, err := locate(m)
		if err != nil {
			return nil, err
		}
		if w == nil {
			if w, err = r.newWorker(ctx, typescript); err != nil {
				return nil, err
			}
		}
		var whole bool
		if previews[i], whole = w.preview(ctx, limit, previewMessage{Type: "preview", Engine: engine, Direction: string(direction), File: file}); !whole {
			w.kill()
			w = nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return previews, nil
}

// preview asks for one preview. The second result says whether the worker can
// make another.
func (w *worker) preview(ctx context.Context, limit time.Duration, request previewMessage) (Preview, bool) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := w.send(request)
	var m *message
	if err == nil {
		m, err = w.next(ctx)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return Preview{Unknown: fmt.Sprintf("it did not end within %s", limit)}, false
	case err != nil:
		return Preview{Unknown: "its Node process ended: " + secret.Scrub(w.lastWords())}, false
	}
	p := Preview{Statements: m.Statements, Transaction: m.Transaction}
	if e := m.Error; e != nil {
		p.Unknown = e.why(request.File.Path)
	}
	return p, m.Type == "preview"
}

// why is the end of a preview as a sentence.
func (e *errorMessage) why(path string) string {
	where := "it"
	if e.Line > 0 {
		if where = fmt.Sprintf("line %d", e.Line); e.File != path {
			where = fmt.Sprintf("%s:%d", filepath.Base(e.File), e.Line)
		}
	}
	message := secret.Scrub(e.Message)
	if e.Ended {
		return where + " " + message
	}
	if e.Name != "" && e.Name != "Error" {
		message = e.Name + ": " + message
	}
	if e.Line > 0 {
		message += " (" + where + ")"
	}
	if e.Stripped {
		message += "; " + loaderHint
	}
	if e.Load {
		return "it cannot be loaded: " + message
	}
	return "its code fails without a database: " + message
}
