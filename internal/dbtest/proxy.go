package dbtest

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// A Proxy stands between clients and a server, and can cut, halve and delay what
// goes through it. It knows nothing of what is said, only whose turn it is: what
// the client sends until the server answers is a flight, and so is what the
// server answers until the client goes on.
//
// That is what sets it apart from toxiproxy and its like, which work by time and
// by bytes: here "after the server has committed and before the client hears of
// it" is a point that a test can name, and visit each of.
type Proxy struct {
	listener net.Listener
	server   string
	meddle   func(Flight) Trouble
	ending   chan struct{}
	serving  sync.WaitGroup

	mu      sync.Mutex
	conns   map[net.Conn]bool
	flights int
}

// A Flight is about to be passed on.
type Flight struct {
	// Number counts the flights of both directions over all connections of the
	// proxy, from 1.
	Number int
	// Answer says that it comes from the server.
	Answer bool
	// Text is its beginning.
	Text []byte
}

// Trouble is what happens to a flight.
type Trouble int

// What can happen to a flight.
const (
	Pass  Trouble = iota
	Cut           // the connection ends before it
	Halve         // the connection ends in its middle
	Delay         // it comes half a second late
)

// NewProxy starts a proxy in front of a server. It asks meddle what is to happen
// to each flight, from several goroutines; nil lets all pass. It ends with the test.
func NewProxy(t testing.TB, server string, meddle func(Flight) Trouble) *Proxy {
	t.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("start a proxy: %v", err)
	}
	if meddle == nil {
		meddle = func(Flight) Trouble { return Pass }
	}
	p := &Proxy{listener: listener, server: server, meddle: meddle, ending: make(chan struct{}), conns: make(map[net.Conn]bool)}
	p.serving.Go(p.accept)
	t.Cleanup(p.end)
	return p
}

// Port is where the proxy listens on 127.0.0.1.
func (p *Proxy) Port() int { return p.listener.Addr().(*net.TCPAddr).Port }

// Flights is how many flights there were.
func (p *Proxy) Flights() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.flights
}

// CutAll ends all connections there are.
func (p *Proxy) CutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		_ = conn.Close()
	}
}

func (p *Proxy) end() {
	close(p.ending)
	_ = p.listener.Close()
	p.CutAll()
	p.serving.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := p.dial()
		if err != nil {
			_ = client.Close() // as good as a server that refuses
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = true, true
		p.mu.Unlock()
		select {
		case <-p.ending:
			_ = client.Close()
			_ = server.Close()
		default:
		}
		c := &conversation{proxy: p, client: client, server: server}
		p.serving.Go(func() { c.pass(server, client, false) })
		p.serving.Go(func() { c.pass(client, server, true) })
	}
}

func (p *Proxy) dial() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return new(net.Dialer).DialContext(ctx, "tcp", p.server)
}

// A conversation is one connection through the proxy.
type conversation struct {
	proxy          *Proxy
	client, server net.Conn

	mu       sync.Mutex
	begun    bool
	answered bool // the last flight was the server's
}

// pass passes on what one side says, until one of the two is gone.
func (c *conversation) pass(to, from net.Conn, answer bool) {
	defer func() {
		_ = c.client.Close()
		_ = c.server.Close()
		c.proxy.mu.Lock()
		defer c.proxy.mu.Unlock()
		delete(c.proxy.conns, c.client)
		delete(c.proxy.conns, c.server)
	}()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && !c.forward(to, buffer[:n], answer) {
			return
		}
		if err != nil {
			return
		}
	}
}

// forward passes a piece on. Where it begins a flight it may meet trouble.
func (c *conversation) forward(to io.Writer, piece []byte, answer bool) bool {
	c.mu.Lock()
	begins := !c.begun || c.answered != answer
	c.begun, c.answered = true, answer
	c.mu.Unlock()
	trouble := Pass
	if begins {
		c.proxy.mu.Lock()
		c.proxy.flights++
		number := c.proxy.flights
		c.proxy.mu.Unlock()
		trouble = c.proxy.meddle(Flight{Number: number, Answer: answer, Text: piece})
	}
	switch trouble {
	case Cut:
		return false
	case Halve:
		_, _ = to.Write(piece[:len(piece)/2])
		return false
	case Delay:
		select {
		case <-time.After(500 * time.Millisecond):
		case <-c.proxy.ending:
			return false
		}
	}
	_, err := to.Write(piece)
	return err == nil
}
