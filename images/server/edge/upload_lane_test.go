package edge

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/adit-tunnel/adit/shared/route"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// bulky is the size of a body that goes by lane.
const bulky = 2 << 20

// tricky returns n bytes that are requests themselves, and differ from place to place.
func tricky(n int) string { return manyRequests()[:n] }

var manyRequests = sync.OnceValue(func() string {
	var b strings.Builder
	for b.Len() < 2*bulky {
		fmt.Fprintf(&b, "GET /%d HTTP/1.1\r\nHost: a.example\r\n\r\n", b.Len())
	}
	return b.String()
})

// sendOnLane sends as much of a body as it takes for the rest to go by lane, and returns the
// rest.
func (s *site) sendOnLane(c *wire, body string) (rest string) {
	s.tb.Helper()
	before := s.counters.Moves.Load()
	send := func(n int) {
		c.send(body[:n])
		body = body[n:]
	}
	send(4 * laneAfter) // what came before may be in the way of the first half
	eventually(s.tb, func() bool {
		send(1)
		return s.counters.Moves.Load() > before
	})
	return body
}

// wantSpliced wants so many bytes of bodies to have been spliced at least, where that goes.
func (s *site) wantSpliced(least int) {
	s.tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var n int64
	for _, c := range s.conns {
		n += c.spliced
		if c.spliced != c.told {
			s.tb.Errorf("of %d bytes that were spliced the server knows %d", c.spliced, c.told)
		}
	}
	if runtime.GOOS == "linux" && n < int64(least) {
		s.tb.Errorf("%d bytes were spliced, want %d or more", n, least)
	}
}

// TestUploadsByLane sends requests with large bodies one behind the other, without waiting
// for the answers: each upstream gets its body, all of it and nothing behind it.
func TestUploadsByLane(t *testing.T) {
	on, log := logged()
	s := newSite(t, on)
	s.client("http://" + httpUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %d %v %v\n", r.URL.Path, len(b), err, string(b) == tricky(len(b)))
	}))
	sizes := []int{bulky, 1, bulky + 1, 0, 4096, bulky + 4095, bulky, 200 << 10}
	c := s.dial()
	next, spliced := "", 0
	for i, n := range sizes {
		next += fmt.Sprintf("POST /n%d HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n", i, n)
		if n < bulky {
			next += tricky(n)
			continue
		}
		c.send(next)
		next = s.sendOnLane(c, tricky(n))
		spliced += len(next) - 1
	}
	c.send(next)
	for i, n := range sizes {
		if resp := c.want("POST", 200, fmt.Sprintf("/n%d %d <nil> true\n", i, n)); resp.Close {
			t.Errorf("the connection ends behind upload %d", i)
		}
	}
	for i, v := range log.visits(t, len(sizes)) {
		if v["received"] != float64(sizes[i]) {
			t.Errorf("upload %d: %v bytes in the access log, want %d", i, v["received"], sizes[i])
		}
	}
	s.wantSpliced(spliced)
}

// TestSlowUploadByLane has nothing more sent before the upstream has got all that was.
func TestSlowUploadByLane(t *testing.T) {
	body, sent, got := tricky(bulky), make(chan int), make(chan struct{})
	s := rawSite(t, func(_ int, c *wire) {
		c.head()
		at := 0
		for n := range sent {
			if c.bytes(n-at) != body[at:n] {
				t.Errorf("the upstream did not get bytes %d to %d", at, n)
			}
			at = n
			got <- struct{}{}
		}
		c.send(hello)
	})
	c := s.dial()
	c.send(fmt.Sprintf("PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n", len(body)))
	onLane := len(s.sendOnLane(c, body))
	for at, size := len(body)-onLane, 0; at < len(body); size = size*7%100_003 + 1 {
		n := min(at+size, len(body))
		c.send(body[at:n])
		sent <- n
		<-got
		at = n
	}
	close(sent)
	if resp := c.want("PUT", 200, "hello"); resp.Close {
		t.Error("the connection ends")
	}
	s.wantSpliced(onLane - 1)
}

// uploadOnLane begins an upload that is on a lane, and returns how much of it was sent.
func (s *site) uploadOnLane(c *wire) int {
	s.tb.Helper()
	c.send(upload)
	c.send(s.sendOnLane(c, strings.Repeat("x", bulky)))
	return bulky
}

// TestUploadByLaneBreaks ends an upload in its middle, in all ways: nobody takes what came
// for all of it, and nobody takes the rest for a request.
func TestUploadByLaneBreaks(t *testing.T) {
	sendOn := func(c *wire) {
		for c.send(strings.Repeat(get, 1000)) {
		}
	}
	for _, tt := range []struct {
		name string
		end  func(s *site, c *wire)
		code string // of the answer
	}{
		{"the visitor leaves", func(_ *site, c *wire) { _ = c.Close() }, "499"},
		{"the visitor resets", func(_ *site, c *wire) { resetConn(c.Conn) }, "499"},
		{"the visitor says no more", func(_ *site, c *wire) { _ = c.Conn.(interface{ CloseWrite() error }).CloseWrite() }, "499"},
		{"the lane breaks", func(s *site, c *wire) {
			s.mu.Lock()
			resetConn(s.lanes[0])
			s.mu.Unlock()
			sendOn(c)
		}, "502"},
		{"the upstream goes", func(_ *site, c *wire) { sendOn(c) }, "502"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ended := make(chan int), make(chan error, 1)
			s := rawSite(t, func(n int, c *wire) {
				if n > 0 {
					t.Error("there is another request")
				}
				c.head()
				if p := c.bytes(<-got); p != strings.Repeat("x", len(p)) {
					t.Error("the upstream did not get what was sent")
				}
				got <- 0
				if tt.name == "the upstream goes" {
					ended <- errors.New("on purpose")
					return
				}
				_, err := c.rest()
				ended <- err
			})
			c := s.dial()
			got <- s.uploadOnLane(c)
			<-got
			tt.end(s, c)
			if err := <-ended; err == nil {
				t.Error("the upstream saw a clean end")
			}
			s.wantCount(1, tt.code, "*", "POST")
			s.wantSpliced(1)
		})
	}
}

// TestEarlyResponseToUploadByLane has the upstream answer in the middle of a body, and read
// on, or not.
func TestEarlyResponseToUploadByLane(t *testing.T) {
	for _, reads := range []bool{true, false} {
		t.Run(fmt.Sprint("reads on: ", reads), func(t *testing.T) {
			got, over := make(chan int), make(chan struct{})
			s := rawSite(t, func(_ int, c *wire) {
				c.head()
				c.bytes(<-got)
				c.send("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno\n")
				if reads {
					c.discard()
				}
				<-over
			})
			c := s.dial()
			got <- s.uploadOnLane(c)
			var sending sync.WaitGroup
			sending.Go(func() {
				for c.send(strings.Repeat(get, 1000)) {
				}
			})
			if resp := c.want("POST", 413, "no\n"); !resp.Close {
				t.Error("the visitor is not told that the connection will be closed")
			}
			sending.Wait()
			close(over)
			s.wantCount(1, "413", "*", "POST")
			s.wantSpliced(1)
		})
	}
}

// TestAnswerAtTheEndOfUploadByLane wants the connection kept by an upstream that answers as
// soon as it has the body.
func TestAnswerAtTheEndOfUploadByLane(t *testing.T) {
	s := newSite(t)
	s.clientOf([]route.Upstream{{Host: "*", Scheme: route.HTTP}}, func(st *tunnel.Stream) {
		_ = st.Accept()
		c := newWire(t, st)
		c.head()
		c.bytes(bulky)
		c.send(hello)
		c.discard()
		_ = st.Close()
	})
	c := s.dial()
	for range 20 {
		c.send(fmt.Sprintf("PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n", bulky))
		c.send(s.sendOnLane(c, strings.Repeat("x", bulky)))
		if resp := c.want("PUT", 200, "hello"); resp.Close {
			t.Fatal("the visitor is told that the connection will be closed")
		}
	}
	s.wantSpliced(1)
}
