package edge

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/images/server/routing"
)

// primedEnv has the tests of a process begin on the fast path.
const primedEnv = "ADIT_TEST_FAST_FIRST"

// prime has the connection take the fast path from its first request on if the process is
// told so.
func prime(c *guardConn) {
	if os.Getenv(primedEnv) != "" {
		c.fast.served = true
	}
}

// All tests of the package hold for requests that are not the first of their connection.
func TestAllOnFastPath(t *testing.T) {
	if os.Getenv(primedEnv) != "" {
		t.Skip("this is it")
	}
	if testing.Short() {
		t.Skip("runs all tests again")
	}
	cmd := exec.Command(os.Args[0], "-test.count=1", "-test.failfast")
	cmd.Env = append(os.Environ(), primedEnv+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

const post = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello"

// fast connects a visitor who has had a response, and leaves a stream to the upstream.
func (s *site) fast() *wire {
	s.tb.Helper()
	c := s.dial()
	c.send(get)
	c.want("GET", 200, "hello")
	eventually(s.tb, func() bool { return s.idleConns() == 1 })
	return c
}

// A visitor who leaves is noticed although the body of the request was read before.
func TestVisitorLeavesBehindBody(t *testing.T) {
	asked, gone := make(chan struct{}), make(chan struct{})
	s := rawSite(t, func(_ int, c *wire) {
		c.head()
		c.send(hello)
		c.head()
		c.bytes(5)
		close(asked)
		c.discard()
		close(gone)
	})
	c := s.fast()
	c.send(post)
	<-asked
	_ = c.Close()
	<-gone
	s.wantCount(1, "499", "*", "POST")
}

// The server forgives an empty line behind a POST.
func TestEmptyLineBehindPost(t *testing.T) {
	s := webSite(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "hello")
	})
	for _, tt := range []struct {
		name  string
		sends []string
		ok    bool
	}{
		{"at once", []string{post + "\r\n" + get}, true},
		{"with the next request", []string{post, "\r\n" + get}, true},
		{"on its own", []string{post + "\r\n", get}, true},
		{"behind a GET", []string{get, "\r\n" + get}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := s.fast()
			c.send(tt.sends[0])
			c.want("POST", 200, "hello")
			for _, text := range tt.sends[1:] {
				c.send(text)
			}
			if tt.ok {
				c.want("GET", 200, "hello")
			} else if resp, _ := c.response("GET"); resp.StatusCode != 400 {
				t.Errorf("response is %d", resp.StatusCode)
			}
		})
	}
}

// A stream with bytes that nobody asked for is not used again, however many of them came
// with the response.
func TestStreamIsNotReusedBehindMuch(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nContent-Length: 8151\r\n\r\n" // the response ends with a buffer
	body := strings.Repeat("x", 8151)
	if len(head)+len(body) != 2*readerSize {
		t.Fatal(len(head))
	}
	s := rawSite(t, func(n int, c *wire) {
		c.head()
		c.send(hello)
		if c.head() != "" && n == 0 {
			c.send(head + body + strings.Repeat(hello, 100))
			c.discard()
		}
	})
	c := s.fast()
	c.send(get)
	c.want("GET", 200, body)
	c.send(get)
	c.want("GET", 200, "hello")
	if n := s.idleConns(); n != 1 {
		t.Errorf("%d idle conns, want 1", n)
	}
}

// A response that comes in drops is passed on as it comes.
func TestTrickle(t *testing.T) {
	const size = 30000
	got := make(chan struct{})
	s := rawSite(t, func(_ int, c *wire) {
		c.head()
		c.send(hello)
		c.head()
		c.send("HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n")
		for n := 1; n <= size; n++ {
			c.send("x")
			select {
			default:
			case <-got:
				c.send(strings.Repeat("x", size-n))
				return
			}
		}
		t.Error("the response was held back")
	})
	c := s.fast()
	c.send(get)
	if head := c.head(); !strings.Contains(head, "200 OK") {
		t.Errorf("head is %q", head)
	}
	rest := c.bytes(1)
	close(got)
	if rest += c.bytes(size - 1); rest != strings.Repeat("x", size) {
		t.Errorf("the body has %d bytes", len(rest))
	}
}

// A drain waits for what is under way on the fast path, and ends its connection.
func TestDrain(t *testing.T) {
	for _, tt := range []struct{ name, response string }{
		{"plain", hello},
		{"handed over", "HTTP/1.1 103 Early Hints\r\n\r\n" + hello},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked, shut := make(chan struct{}), make(chan struct{})
			s := rawSite(t, func(_ int, c *wire) {
				c.head()
				c.send(hello)
				if c.head() == "" {
					return
				}
				close(asked)
				<-shut
				c.send(tt.response)
				c.discard()
			})
			c := s.fast()
			c.send(get)
			<-asked
			s.drain()
			eventually(t, s.gate.shut.Load)
			close(shut)
			resp, body := c.response("GET")
			for resp.StatusCode == http.StatusEarlyHints {
				resp, body = c.response("GET")
			}
			if resp.StatusCode != 200 || body != "hello" || tt.response == hello && !resp.Close {
				t.Errorf("response is %d %q, close %v", resp.StatusCode, body, resp.Close)
			}
			c.wantEOF()
			if n := s.gate.count.Load(); n != 0 {
				t.Errorf("%d are under way", n)
			}
		})
	}
}

// Only the request with which an exchange has begun takes it up.
func TestTakeUp(t *testing.T) {
	request := func(method, target, host string) *http.Request {
		r := httptest.NewRequest(method, "/", nil)
		r.RequestURI, r.Host = target, host
		return r
	}
	for _, tt := range []struct {
		name string
		r    *http.Request
		want bool
	}{
		{"the same", request("GET", "/a?b", "A.example"), true},
		{"another method", request("PUT", "/a?b", "A.example"), false},
		{"another target", request("GET", "/a", "A.example"), false},
		{"another host", request("GET", "/a?b", "a.example"), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := fuzzedConn()
			if !c.fast.request.parse([]byte("GET /a?b HTTP/1.1\r\nHost: A.example\r\n\r\n")) || !c.fast.gate.enter() {
				t.Fatal("not plain")
			}
			c.handOver(nil, new(routing.Route), nil, time.Now())
			if b := c.takeUp(tt.r); (b != nil) != tt.want {
				t.Errorf("taken up: %v", b)
			}
			if b := c.takeUp(tt.r); b != nil || c.fast.gate.count.Load() != 0 {
				t.Errorf("taken up again: %v, %d under way", b, c.fast.gate.count.Load())
			}
		})
	}
}

// Paths that may be for another handler do not take the fast path.
func TestReserved(t *testing.T) {
	s := newSite(t, func(cfg *Config) {
		cfg.Reserved = func(path string) bool { return path == "/ours" }
	})
	s.client("http://127.0.0.1:1")
	for path, want := range map[string]bool{"/": true, "/ours": false, "/x/../ours": false, "//ours": false, "/ours2": true} {
		c := fuzzedConn()
		c.fast.edge = s.edge
		if !c.fast.request.parse([]byte("GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n")) {
			t.Fatal("not plain")
		}
		if got := c.match() != nil; got != want {
			t.Errorf("%s takes the fast path: %v, want %v", path, got, want)
		}
	}
}
