package ui

import (
	"io"
	"sync"
	"time"
)

// redraw is how often a live line may change, often enough to look alive.
const redraw = 100 * time.Millisecond

// A Live is one line at the bottom of the terminal that changes, with lines
// above it that stay. Where there is no terminal only the lines that stay are
// written. It is safe for concurrent use.
type Live struct {
	term *Terminal
	line func(width int) string

	mu    sync.Mutex
	shown bool
	ended bool
	stop  chan struct{}
	done  chan struct{}
}

// NewLive begins a live line, whose text line returns, no wider than width but
// for its colours. End it with End.
func NewLive(t *Terminal, line func(width int) string) *Live {
	l := &Live{term: t, line: line, stop: make(chan struct{}), done: make(chan struct{})}
	if !t.Live() {
		close(l.done)
		return l
	}
	go func() {
		defer close(l.done)
		tick := time.NewTicker(redraw)
		defer tick.Stop()
		for {
			select {
			case <-l.stop:
				return
			case <-tick.C:
				text := line(t.Width() - 1)
				l.mu.Lock()
				l.write("\r\x1b[K" + text)
				l.shown = text != ""
				l.mu.Unlock()
			}
		}
	}()
	return l
}

// Print writes a line that stays, above the live line.
func (l *Live) Print(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clear()
	l.write(line + "\n")
}

// End takes the live line away. A second call does nothing.
func (l *Live) End() {
	l.mu.Lock()
	ended := l.ended
	l.ended = true
	l.mu.Unlock()
	if ended {
		return
	}
	close(l.stop)
	<-l.done
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clear()
}

func (l *Live) clear() {
	if l.shown {
		l.write("\r\x1b[K")
		l.shown = false
	}
}

// write ignores errors: a terminal that went away is no reason to stop a run.
func (l *Live) write(s string) { _, _ = io.WriteString(l.term.Err, s) }
