package knex

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

//go:embed worker.cjs
var runSource string

//go:embed preview.cjs
var previewSource string

// bootstrap runs the worker's source, which comes on descriptor 5: there is no
// file to leave behind. It is named as if it lay in the project.
const bootstrap = `const m=new(require("module"))(require("path").resolve("skein-worker.cjs"));` +
	`m.filename=m.id;m._compile(require("fs").readFileSync(5,"utf8"),m.id)`

// A worker is a Node process that runs the migrations of one tenant after
// another. It is used by one goroutine at a time.
type worker struct {
	cmd        *exec.Cmd
	in         *os.File
	token      string
	typescript bool
	memory     int64 // after the last tenant

	events chan event    // closed when the process is gone and all it said is read
	quit   chan struct{} // closed when nobody reads events any more
	once   sync.Once
	ended  atomic.Bool // its number may be another process's

	mu   sync.Mutex
	tail tail // of what it wrote to standard error outside of runs
}

// An event is one thing that a worker said: a message, a line of output, or the
// end of the output of a run on one of its two streams.
type event struct {
	message *message
	line    string
	step    int // that the line is of, -1 for none
	mark    bool
}

// errGone is the end of a worker.
var errGone = errors.New("the Node process ended")

// start starts a worker and waits until it has loaded Knex and the knexfile. An
// error of the project's is a *projectError.
func start(ctx context.Context, p *project, opts *Options, typescript bool) (*worker, error) {
	typescript = typescript || p.knexfileIsTypeScript()
	var flags []string
	if typescript {
		var err error
		if flags, err = p.typeScriptFlags(ctx); err != nil {
			return nil, err
		}
	}
	w := &worker{token: "\x01" + rand.Text(), typescript: typescript, events: make(chan event, 16), quit: make(chan struct{})}
	if err := w.spawn(p, flags); err != nil {
		return nil, fmt.Errorf("start Node: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	err := w.send(openMessage{
		Type: "open", Token: w.token, Dir: p.dir, Knexfile: p.knexfile, Env: opts.Env,
	})
	var m *message
	if err == nil {
		m, err = w.next(ctx)
	}
	switch {
	case err == nil && m.Type == "ready":
		return w, nil
	case err == nil && m.Error != nil:
		err = openError(p, m.Error)
	case errors.Is(err, errGone):
		err = &projectError{msg: "Node ended before it had loaded Knex: " + w.lastWords()}
	case errors.Is(err, context.DeadlineExceeded):
		err = &projectError{msg: fmt.Sprintf("loading Knex and the knexfile took longer than %s", loadTimeout)}
	}
	w.kill()
	return nil, err
}

func (w *worker) spawn(p *project, flags []string) (err error) {
	var files []*os.File // of this process and of the worker, in turn
	defer func() {
		for i, f := range files {
			if i%2 == 1 || err != nil {
				_ = f.Close()
			}
		}
	}()
	pipe := func(mine func(r, w *os.File) (*os.File, *os.File)) (*os.File, *os.File, error) {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, nil, err
		}
		own, other := mine(r, w)
		files = append(files, own, other)
		return own, other, nil
	}
	reads := func(r, w *os.File) (*os.File, *os.File) { return r, w }
	writes := func(r, w *os.File) (*os.File, *os.File) { return w, r }

	stdout, childOut, err := pipe(reads)
	if err != nil {
		return err
	}
	stderr, childErr, err := pipe(reads)
	if err != nil {
		return err
	}
	in, childIn, err := pipe(writes)
	if err != nil {
		return err
	}
	out, childTo, err := pipe(reads)
	if err != nil {
		return err
	}
	source, childSource, err := pipe(writes)
	if err != nil {
		return err
	}

	w.cmd = exec.Command(p.node, append(flags, "-e", bootstrap)...) //nolint:noctx // it lives longer than the run that starts it
	w.cmd.Dir = p.dir
	w.cmd.Stdout, w.cmd.Stderr = childOut, childErr
	w.cmd.ExtraFiles = []*os.File{childIn, childTo, childSource}
	ownGroup(w.cmd)
	if err := w.cmd.Start(); err != nil {
		return err
	}
	w.in = in

	var readers sync.WaitGroup
	readers.Go(func() { w.readMessages(out) })
	readers.Go(func() { w.readOutput(stdout, nil) })
	readers.Go(func() { w.readOutput(stderr, &w.tail) })
	go func() {
		_, _ = io.WriteString(source, runSource+previewSource) // Node says it if it got less
		_ = source.Close()
	}()
	go func() {
		_ = w.cmd.Wait()
		w.end()
		w.ended.Store(true)
		// What it started may live on in a group of its own, with these pipes.
		let := time.AfterFunc(outputTimeout, func() {
			for _, pipe := range []*os.File{out, stdout, stderr} {
				_ = pipe.Close()
			}
		})
		readers.Wait()
		let.Stop()
		close(w.events)
	}()
	return nil
}

func (w *worker) say(e event) bool {
	select {
	case w.events <- e:
		return true
	case <-w.quit:
		return false
	}
}

func (w *worker) readMessages(from *os.File) {
	defer from.Close() //nolint:errcheck // it was only read
	lines := bufio.NewReaderSize(from, 64<<10)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		// A migration that writes to this descriptor does not know the token.
		text, ok := bytes.CutPrefix(line, []byte(w.token))
		if !ok {
			continue
		}
		var m message
		if json.Unmarshal(text, &m) == nil && !w.say(event{message: &m}) {
			return
		}
	}
}

// maxLine bounds a line of output, in bytes: what is longer comes in parts.
const maxLine = 64 << 10

// readOutput hands on what a stream brings during a run: marks say whose it is.
// What comes outside of runs, as from timers that an earlier tenant's migration
// has left, is nobody's.
func (w *worker) readOutput(from *os.File, outside io.Writer) {
	defer from.Close() //nolint:errcheck // it was only read
	lines := bufio.NewReaderSize(from, maxLine)
	inside, blank, step := false, false, -1
	for {
		// A part of a line that is too long is handed on like a line.
		text, _, err := lines.ReadLine()
		if err != nil {
			return
		}
		line := string(text)
		whose, marked := strings.CutPrefix(line, w.token)
		switch {
		case marked:
			blank = false // it began the mark
			inside, step = whose != "-", -1
			if n, err := strconv.Atoi(whose); err == nil {
				step = n
			}
			if !inside && !w.say(event{mark: true}) {
				return
			}
			continue
		case !inside:
			if outside != nil {
				w.mu.Lock()
				_, _ = io.WriteString(outside, line+"\n")
				w.mu.Unlock()
			}
			continue
		}
		if blank && !w.say(event{step: step}) {
			return
		}
		if blank = line == ""; !blank && !w.say(event{line: line, step: step}) {
			return
		}
	}
}

func (w *worker) send(m any) error {
	text, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("write to the worker: %w", err)
	}
	if _, err := w.in.Write(append(text, '\n')); err != nil {
		return errGone
	}
	return nil
}

// next is the next message, outside of a run.
func (w *worker) next(ctx context.Context) (*message, error) {
	for {
		select {
		case e, ok := <-w.events:
			if !ok {
				return nil, errGone
			}
			if e.message != nil {
				return e.message, nil
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (w *worker) describe(ctx context.Context) (Config, error) {
	if err := w.send(typeMessage{Type: "describe"}); err != nil {
		return Config{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	m, err := w.next(ctx)
	if err != nil {
		return Config{}, fmt.Errorf("read the knexfile: %w", err)
	}
	return m.Config, nil
}

// outputTimeout is how long what a worker wrote may be on its way once it has
// ended.
const outputTimeout = time.Second

// stopTimeout is how long a worker may take to see that it is not needed.
const stopTimeout = 2 * time.Second

// stop ends the worker and waits for it.
func (w *worker) stop() {
	_ = w.in.Close()
	timer := time.AfterFunc(stopTimeout, w.end)
	defer timer.Stop()
	w.abandon()
}

// kill ends the worker at once and waits for it.
func (w *worker) kill() {
	w.end()
	_ = w.in.Close()
	w.abandon()
}

// end makes the processes end.
func (w *worker) end() {
	if !w.ended.Load() {
		killGroup(w.cmd)
	}
}

// abandon waits for the end, and lets pass what the worker says until then.
func (w *worker) abandon() {
	w.once.Do(func() { close(w.quit) })
	for range w.events {
	}
}

// lastWords is how a worker that is gone ended, and the end of what it wrote to
// standard error.
func (w *worker) lastWords() string {
	w.kill() // it may have closed its pipe and not ended yet
	w.mu.Lock()
	defer w.mu.Unlock()
	state := "it said nothing"
	if w.cmd.ProcessState != nil {
		state = w.cmd.ProcessState.String()
	}
	if text := strings.TrimSpace(string(w.tail)); text != "" {
		return state + "\n" + text
	}
	return state
}

// A tail keeps the end of what is written to it.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	const kept = 4 << 10
	*t = append(*t, p...)
	if n := len(*t); n > kept {
		*t = append((*t)[:0], (*t)[n-kept:]...)
	}
	return len(p), nil
}
