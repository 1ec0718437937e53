package load

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

const connectWithin = 3 * time.Second

// The longest answer that is read; no right one is longer.
const mostAnswerBytes = 1 << 20

// connection is made when it is first used, and is not made again.
type connection struct {
	target string
	stream net.Conn
	reader *bufio.Reader
}

// answer is what became of one request.
type answer struct {
	version string // of the application, as its answer says; empty if the application has not answered
	status  int    // 0: no answer
	lost    string // why it does not count as answered; empty if all is well
}

func (c *connection) open() bool { return c.stream != nil }

func (c *connection) close() {
	if c.stream != nil {
		_ = c.stream.Close()
		c.stream = nil
	}
}

// exchange leaves the connection open only if it can be used again.
func (c *connection) exchange(r request, within time.Duration) answer {
	deadline := time.Now().Add(within)
	first := c.stream == nil
	if first {
		stream, err := net.DialTimeout("tcp", c.target, min(connectWithin, within))
		if err != nil {
			return answer{lost: "cannot connect: " + plain(err)}
		}
		c.stream, c.reader = stream, bufio.NewReader(stream)
	}
	_ = c.stream.SetDeadline(deadline)
	keep := false
	defer func() {
		if !keep {
			c.close()
		}
	}()
	on := "kept"
	if first {
		on = "new"
	}
	if _, err := c.stream.Write(r.bytes()); err != nil {
		return answer{lost: fmt.Sprintf("cannot send on a %s connection: %s", on, plain(err))}
	}
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return answer{lost: fmt.Sprintf("no answer on a %s connection: %s", on, plain(err))}
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, mostAnswerBytes))
	a := answer{version: response.Header.Get("app-version"), status: response.StatusCode}
	switch {
	case err != nil:
		a.lost = "the answer was cut: " + plain(err)
		return a
	case a.status != http.StatusOK:
		a.lost = fmt.Sprintf("%d %s: %s", a.status, response.Header.Get("x-splitway-reason"), bytes.TrimSpace(body[:min(len(body), 100)]))
	case a.version == "":
		a.lost = "the answer names no version"
	case !bytes.Equal(body, r.wanted(a.version)):
		a.lost = fmt.Sprintf("a wrong body of %d bytes, expected %d", len(body), len(r.wanted(a.version)))
	}
	keep = !response.Close
	return a
}

func (r request) bytes() []byte {
	more := ""
	if r.header != "" {
		more = r.header + "\r\n"
	}
	if r.body == nil {
		return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nhost: frontend.example\r\n%s\r\n", r.path, more)
	}
	head := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nhost: frontend.example\r\n%scontent-length: %d\r\n\r\n", r.path, more, len(r.body))
	return append(head, r.body...)
}

func (r request) wanted(version string) []byte {
	if r.body == nil {
		return fmt.Appendf(nil, "hello from the %s version\n", version)
	}
	return r.body
}

// plain leaves addresses out: they would make each loss a kind of its own.
func plain(err error) string {
	var on *net.OpError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "time is up"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed"
	case errors.As(err, &on):
		return on.Err.Error()
	}
	return err.Error()
}
