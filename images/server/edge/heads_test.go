package edge

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/net/http2"
)

// TestHeadsTogether has large heads come in halves until there is room for no more: further
// ones are turned away, small ones are not, and what a head took is given back when it has
// come, or will not.
func TestHeadsTogether(t *testing.T) {
	s := webSite(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") })
	const n = 8
	begin := "GET / HTTP/1.1\r\nHost: a.example\r\nCookie: " + strings.Repeat("x", 40<<10)
	all := int64(n * (len(begin) + fieldCost - freeHead)) // one line has its end
	s.edge.heads.most.Store(all)
	var under []*wire
	for range n {
		c := s.dial()
		c.send(begin)
		under = append(under, c)
	}
	eventually(t, func() bool { return s.edge.heads.cost.Load() == all })
	c := s.dial()
	c.send(begin)
	resp, body := c.response("GET")
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || !resp.Close || !strings.Contains(body, "large headers") {
		t.Errorf("one too many got %d %q", resp.StatusCode, body)
	}
	_ = c.Close()
	small := s.dial()
	for range 2 {
		small.send("GET / HTTP/1.1\r\nHost: a.example\r\nCookie: " + strings.Repeat("x", 5<<10) + "\r\n\r\n")
		if resp, body := small.response("GET"); resp.StatusCode != http.StatusOK || body != "hello" {
			t.Errorf("a small one got %d %q", resp.StatusCode, body)
		}
	}
	for i, c := range under {
		if i%2 == 0 {
			_ = c.Close()
			continue
		}
		c.send("\r\n\r\n")
		if resp, body := c.response("GET"); resp.StatusCode != http.StatusOK || body != "hello" {
			t.Errorf("head %d got %d %q", i, resp.StatusCode, body)
		}
	}
	eventually(t, func() bool { return s.edge.heads.cost.Load() == 0 })
}

// TestManyFields counts lines, which cost more than their bytes.
func TestManyFields(t *testing.T) {
	s := webSite(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, len(r.Header["X"])) })
	for fields, want := range map[int]int{maxFields - 2: 200, maxFields + 2: 431} {
		c := s.dial()
		c.send("GET / HTTP/1.1\r\nHost: a.example\r\n" + strings.Repeat("X: y\r\n", fields) + "\r\n")
		if resp, body := c.response("GET"); resp.StatusCode != want {
			t.Errorf("%d fields got %d %q", fields, resp.StatusCode, body)
		}
	}
	c := s.dial()
	var head strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&head, "X-%d: y\r\n", i)
	}
	c.send("GET / HTTP/1.1\r\nHost: a.example\r\n" + head.String())
	eventually(t, func() bool { return s.edge.heads.cost.Load() > 90<<10 })
	_ = c.Close()
	eventually(t, func() bool { return s.edge.heads.cost.Load() == 0 })
}

// TestSeriesAreBounded has more routes than there may be series.
func TestSeriesAreBounded(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	for i := range maxSeries + 1000 {
		m.count(200, fmt.Sprintf("%d.test", i), "GET", 0)
	}
	if n := testutil.CollectAndCount(m.requests); n != maxSeries+1 {
		t.Errorf("%d series, want %d", n, maxSeries+1)
	}
	if n := testutil.ToFloat64(m.requests.WithLabelValues("200", others, "GET")); n != 1000 {
		t.Errorf("%v requests of others", n)
	}
	if n := testutil.ToFloat64(m.requests.WithLabelValues("200", "0.test", "GET")); n != 1 {
		t.Errorf("%v requests of the first", n)
	}
}

// TestBlocksTogether is TestHeadsTogether for HTTP/2, where a head that is never ended has
// no deadline of its own.
func TestBlocksTogether(t *testing.T) {
	s := newSite(t, func(cfg *Config) { cfg.H2C = true })
	s.client("http://" + named(t, "hello"))
	const n = 4
	large := append(slices.Clone(getFields), "cookie", strings.Repeat("x", 8<<10))
	begin := func() *frames {
		f := s.dialFrames()
		f.must(nil, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true, BlockFragment: f.encode(large...)}))
		return f
	}
	all := int64(n * (blockCost*len(newFrames(t, nobody{}).encode(large...)) - freeHead))
	s.edge.heads.most.Store(all)
	var under []*frames
	for range n {
		under = append(under, begin())
	}
	eventually(t, func() bool { return s.edge.heads.cost.Load() == all })
	if got := begin().status(); got != "closed" {
		t.Errorf("one too many got %s", got)
	}
	small := s.dialFrames()
	for i := range 2 {
		f := small
		f.must(nil, f.request(uint32(2*i+1), true, large...)) // in one frame
		if got := f.status(); got != "200" {
			t.Errorf("a head in one frame got %s", got)
		}
		f.next() // its body
	}
	for i, f := range under {
		if i%2 == 0 {
			_ = f.Conn.Close()
			continue
		}
		f.must(nil, f.WriteContinuation(1, true, nil))
		if got := f.status(); got != "200" {
			t.Errorf("head %d got %s", i, got)
		}
	}
	eventually(t, func() bool { return s.edge.heads.cost.Load() == 0 })
}

// nobody is a connection that leads nowhere.
type nobody struct{ net.Conn }

func (nobody) SetDeadline(time.Time) error { return nil }
func (nobody) Close() error                { return nil }

// FuzzBlocks follows frames in pieces: what is found does not depend on the cuts, and is what
// golang.org/x/net/http2 finds.
func FuzzBlocks(f *testing.F) {
	f.Add([]byte("\x00\x00\x01\x01\x00\x00\x00\x00\x01x\x00\x00\x02\x09\x04\x00\x00\x00\x01yz\x00\x00\x00\x04\x00\x00\x00\x00\x00"), uint8(3))
	f.Add([]byte("\xff\xff\xff\x01\x00"), uint8(1))
	f.Fuzz(func(t *testing.T, input []byte, piece uint8) {
		var whole, cut blocks
		held := whole.check(input)
		for p := input; len(p) > 0; {
			n := min(int(piece)+1, len(p))
			held -= cut.check(p[:n])
			p = p[n:]
		}
		if held != 0 || whole != cut {
			t.Fatalf("%d bytes more, %+v in one piece, %+v in several", held, whole, cut)
		}
		open, r := false, bytes.NewReader(input)
		framer := http2.NewFramer(io.Discard, r)
		framer.AllowIllegalReads = true
		framer.SetMaxReadFrameSize(1<<24 - 1)
		for {
			at := len(input) - r.Len()
			if _, err := framer.ReadFrame(); err != nil {
				var conn http2.ConnectionError
				var stream http2.StreamError
				if !errors.As(err, &conn) && !errors.As(err, &stream) {
					return // cut off: the rest is not read
				}
			}
			if kind := input[at+3]; kind == frameHeaders || kind == frameContinuation {
				open = input[at+4]&endHeaders == 0
			}
			if r.Len() == 0 {
				break
			}
		}
		if open != whole.open {
			t.Fatalf("open: %v, want %v", whole.open, open)
		}
	})
}
