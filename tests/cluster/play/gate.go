package main

import (
	"net"
	"sync"
	"time"
)

// gate is a way to the API server for one client, which can be held (nothing passes, and nobody is told) or cut
// (connections end, and new ones are refused).
type gate struct {
	at, to string

	mu       sync.Mutex
	listener net.Listener
	streams  map[net.Conn]bool
	held     chan struct{} // closed while it is open
}

func openGate(at, to string) (*gate, error) {
	g := &gate{at: at, to: to, streams: map[net.Conn]bool{}, held: make(chan struct{})}
	close(g.held)
	return g, g.listen()
}

func (g *gate) listen() error {
	listener, err := net.Listen("tcp", g.at)
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.listener = listener
	g.mu.Unlock()
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go g.pass(client)
		}
	}()
	return nil
}

func (g *gate) hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = make(chan struct{})
}

// release lets through whatever has come meanwhile.
func (g *gate) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.held)
}

func (g *gate) cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	_ = g.listener.Close()
	for stream := range g.streams {
		_ = stream.Close()
	}
}

// mend is for a gate that was cut.
func (g *gate) mend() error { return g.listen() }

func (g *gate) pass(client net.Conn) {
	defer client.Close()
	server, err := net.DialTimeout("tcp", g.to, 3*time.Second)
	if err != nil {
		return
	}
	defer server.Close()
	g.mu.Lock()
	g.streams[client], g.streams[server] = true, true
	g.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { g.copy(server, client) })
	both.Go(func() { g.copy(client, server) })
	both.Wait()
	g.mu.Lock()
	delete(g.streams, client)
	delete(g.streams, server)
	g.mu.Unlock()
}

// copy ends both streams when one ends: no client of the API goes on with half of a connection.
func (g *gate) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		g.mu.Lock()
		held := g.held
		g.mu.Unlock()
		<-held
		if _, failed := to.Write(buffer[:n]); failed != nil || err != nil {
			return
		}
	}
}
