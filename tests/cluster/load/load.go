// Package load sends requests at a steady rate over kept connections, checks every answer, and remembers each request:
// when it was sent and answered, by which version, or why it was lost.
//
// The load is an open loop: a request is sent when it is due, however long others take, on another connection if need be.
// (When the machine is so busy that this process does not run for more than 50 ms, the requests of that time are left out.)
// Nothing is tried again and nothing is forgiven; a client that quietly repeats a request would hide what is looked for.
//
//   - load.go: what is sent when; connection.go: one request and its answer;
//   - book.go: what became of all of them, and what a scenario may ask about it.
package load

import (
	"math/rand/v2"
	"sync"
	"time"
)

// Settings of one load. Everything is required but Header and Path.
type Settings struct {
	Target  string        // address and port
	Rate    int           // requests per second
	Timeout time.Duration // for the whole of one request; then it is lost
	Header  string        // one more header line, if not empty: "x-tester: yes"
	Path    string        // with POST only: "/" and a mix of GET and POST if empty
}

const (
	// Opened in the beginning, so that a proxy with several workers has some on each.
	startConnections = 16
	// More requests than this at once are a proxy that hangs; the rest is lost without having been sent.
	mostConnections = 1000
)

// Load is one at work.
type Load struct {
	*Book
	Settings

	mu    sync.Mutex
	idle  []*connection // the one that has been idle for longest comes first
	count int           // connections, idle or not
	pause bool

	stop    chan struct{}
	stopped chan struct{}
	flying  sync.WaitGroup
}

func Start(settings Settings) *Load {
	l := &Load{Book: newBook(settings.Rate), Settings: settings, stop: make(chan struct{}), stopped: make(chan struct{})}
	go l.run()
	return l
}

// Stop returns when the last request has been answered or lost.
func (l *Load) Stop() {
	close(l.stop)
	<-l.stopped
	l.flying.Wait()
	l.Disconnect()
}

// Pause sends nothing until Resume, and returns when the last request has been answered or lost. The connections stay.
func (l *Load) Pause() {
	l.mu.Lock()
	l.pause = true
	l.mu.Unlock()
	l.flying.Wait()
}

// Resume goes on, on the same connections.
func (l *Load) Resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pause = false
}

// Disconnect is for a pause in which the other side is started again.
func (l *Load) Disconnect() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.idle {
		c.close()
	}
	l.count -= len(l.idle)
	l.idle = nil
}

func (l *Load) run() {
	defer close(l.stopped)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	begun, sent, number := time.Now(), 0, 0
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
		}
		due := int(time.Since(begun).Seconds() * float64(l.Rate))
		l.mu.Lock()
		if l.pause {
			sent = due
		}
		// This process itself had to wait for a processor: what it has missed is not made up for by a storm.
		sent = max(sent, due-max(1, l.Rate/20))
		for ; sent < due; sent++ {
			number++
			c := l.take()
			l.flying.Add(1)
			go l.one(c, l.request(number))
		}
		l.mu.Unlock()
	}
}

// take gives nil if there are too many. The caller holds the lock.
func (l *Load) take() *connection {
	if l.count < startConnections || len(l.idle) == 0 && l.count < mostConnections {
		l.count++
		return &connection{target: l.Target}
	}
	if len(l.idle) == 0 {
		return nil
	}
	c := l.idle[0]
	l.idle = l.idle[1:]
	return c
}

func (l *Load) one(c *connection, r request) {
	defer l.flying.Done()
	begun := l.begin()
	var outcome answer
	if c == nil {
		outcome.lost = "not sent: 1000 others wait for their answers"
	} else {
		outcome = c.exchange(r, l.Timeout)
	}
	l.end(begun, outcome)
	if c == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.open() {
		l.idle = append(l.idle, c)
	} else {
		l.count--
	}
}

type request struct {
	path   string
	header string
	body   []byte // nil: GET
}

// noise is what bodies are cut out of: two different pieces are never alike.
var noise = func() []byte {
	from := rand.NewChaCha8([32]byte{})
	bytes := make([]byte, 1<<17)
	_, _ = from.Read(bytes) // never fails, by its documentation
	return bytes
}()

// Lengths of bodies in bytes; 0 is a GET. One byte, a frame, more than what one read or one buffer holds.
var lengths = []int{0, 100, 0, 1, 0, 1000, 0, 20_000, 0, 300, 0, 64, 0, 5000, 0, 100}

func (l *Load) request(number int) request {
	if l.Path != "" {
		return request{path: l.Path, header: l.Header, body: noise[:100]}
	}
	length := lengths[number%len(lengths)]
	if length == 0 {
		return request{path: "/", header: l.Header}
	}
	from := number * 61 % (len(noise) - length)
	return request{path: "/", header: l.Header, body: noise[from : from+length]}
}
