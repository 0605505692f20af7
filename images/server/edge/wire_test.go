package edge

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// wire is one end of a connection whose bytes a test scripts: a visitor's or an
// upstream's.
type wire struct {
	net.Conn
	tb testing.TB
	r  *bufio.Reader
}

func newWire(tb testing.TB, conn net.Conn) *wire {
	_ = conn.SetDeadline(soon())
	return &wire{Conn: conn, tb: tb, r: bufio.NewReader(conn)}
}

// send writes text. An error is not the test's failure: the peer may be gone by design.
func (c *wire) send(text string) bool {
	_, err := io.WriteString(c.Conn, text)
	return err == nil
}

// head reads up to the empty line behind a head, and returns it without that, or "" at
// the end of the connection.
func (c *wire) head() string {
	var b strings.Builder
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return ""
		}
		if line == "\r\n" {
			return b.String()
		}
		b.WriteString(line)
	}
}

// bytes reads n bytes.
func (c *wire) bytes(n int) string {
	p := make([]byte, n)
	n, err := io.ReadFull(c.r, p)
	if err != nil {
		return string(p[:n]) + "<" + err.Error() + ">"
	}
	return string(p)
}

// rest reads to the end of the connection.
func (c *wire) rest() (string, error) {
	p, err := io.ReadAll(c.r)
	return string(p), err
}

// discard reads to the end of the connection, or of patience.
func (c *wire) discard() { _, _ = io.Copy(io.Discard, c.r) }

// response reads the response to a request with the method.
func (c *wire) response(method string) (*http.Response, string) {
	c.tb.Helper()
	resp, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.tb.Fatalf("response: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.tb.Fatalf("response body after %q: %v", body, err)
	}
	return resp, string(body)
}

// want reads a response and wants this status and body.
func (c *wire) want(method string, code int, body string) *http.Response {
	c.tb.Helper()
	resp, got := c.response(method)
	if resp.StatusCode != code || got != body {
		c.tb.Errorf("response is %d %q, want %d %q", resp.StatusCode, got, code, body)
	}
	return resp
}

// wantEOF wants the connection to end here, cleanly.
func (c *wire) wantEOF() {
	c.tb.Helper()
	if rest, err := c.rest(); rest != "" || err != nil {
		c.tb.Errorf("there is %q and %v, want the end", rest, err)
	}
}

// field returns the values of a header field in a head, in any spelling of its name.
func field(head, name string) []string {
	var values []string
	for line := range strings.Lines(head) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.EqualFold(key, name) {
			values = append(values, strings.TrimSpace(value))
		}
	}
	return values
}

const (
	get   = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
	hello = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
)
