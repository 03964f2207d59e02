package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// A proxy stands between a tool and a server, and counts flights: each time that
// something was sent to the server and an answer came.
type proxy struct {
	listener    net.Listener
	server      string
	flights     atomic.Int64
	connections atomic.Int64
}

// newProxy listens on a free port of 127.0.0.1 until it is closed.
func newProxy(ctx context.Context, server string) (*proxy, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for connections to count: %w", err)
	}
	p := &proxy{listener: listener, server: server}
	go p.serve(ctx)
	return p, nil
}

func (p *proxy) port() int { return p.listener.Addr().(*net.TCPAddr).Port }

func (p *proxy) close() error { return p.listener.Close() }

// take returns what was counted, and begins at nothing.
func (p *proxy) take() (flights, connections int64) {
	return p.flights.Swap(0), p.connections.Swap(0)
}

func (p *proxy) serve(ctx context.Context) {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		go p.pass(ctx, client)
	}
}

func (p *proxy) pass(ctx context.Context, client net.Conn) {
	defer client.Close() //nolint:errcheck // its peer is gone
	var dialer net.Dialer
	server, err := dialer.DialContext(ctx, "tcp", p.server)
	if err != nil {
		return
	}
	defer server.Close() //nolint:errcheck // likewise
	p.connections.Add(1)
	var asked flight
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(writerFunc(func(b []byte) (int, error) {
			asked.sent()
			return server.Write(b)
		}), client)
		_ = server.(*net.TCPConn).CloseWrite()
	})
	both.Go(func() {
		_, _ = io.Copy(writerFunc(func(b []byte) (int, error) {
			if asked.answered() {
				p.flights.Add(1)
			}
			return client.Write(b)
		}), server)
		_ = client.(*net.TCPConn).CloseWrite()
	})
	both.Wait()
}

// A flight is the state of a connection: whether something was sent that has not
// been answered.
type flight struct{ open atomic.Bool }

func (f *flight) sent() { f.open.Store(true) }

// answered says whether this answer is the first to what was sent.
func (f *flight) answered() bool { return f.open.Swap(false) }

// A writerFunc keeps io.Copy from moving the data inside of the kernel, unseen.
type writerFunc func([]byte) (int, error)

func (w writerFunc) Write(b []byte) (int, error) { return w(b) }
