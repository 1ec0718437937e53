package main

import (
	"errors"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// connectWithin bounds the way to one endpoint.
const connectWithin = 3 * time.Second

// door is one address and port that takes connections.
type door struct {
	owner    string // the Service's UID
	listener net.Listener
}

func newDoor(at, owner string, ready func() []string) (*door, error) {
	listener, err := net.Listen("tcp", at)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				log.Printf("%s: %v", at, err)
				continue
			}
			go pass(connection.(*net.TCPConn), ready())
		}
	}()
	return &door{owner, listener}, nil
}

func (d *door) close() { _ = d.listener.Close() }

// pass copies both ways until both sides have said their last. No endpoint: a reset, as the nearest to a refusal.
func pass(client *net.TCPConn, endpoints []string) {
	defer client.Close()
	if len(endpoints) == 0 {
		_ = client.SetLinger(0)
		return
	}
	connection, err := net.DialTimeout("tcp", endpoints[rand.IntN(len(endpoints))], connectWithin)
	if err != nil {
		_ = client.SetLinger(0)
		return
	}
	server := connection.(*net.TCPConn)
	defer server.Close()
	var both sync.WaitGroup
	both.Go(func() { copyTo(server, client) })
	both.Go(func() { copyTo(client, server) })
	both.Wait()
}

// copyTo hands on the end of a stream as an end, and a failure as a reset.
func copyTo(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		_ = to.SetLinger(0)
		_ = from.SetLinger(0)
		_ = to.Close()
		_ = from.Close()
		return
	}
	_ = to.CloseWrite()
}
