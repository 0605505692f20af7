package control

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/images/server/pending"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// request is a client's handshake as the handler gets it.
func request(t testing.TB, h tunnel.Hello) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/connect", nil)
	r.Header = header(t, h)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	r.Header.Set("Sec-Websocket-Protocol", tunnel.Subprotocol)
	return r
}

// TestMaxClients counts clients whose handshake is under way.
func TestMaxClients(t *testing.T) {
	s := start(t, func(cfg *Config) { cfg.MaxClients = 2 })
	first := s.connect(t, hello("a", "http://a"), echo)
	joining, err := s.admit(request(t, hello("b", "http://a")))
	must(t, err)
	s.refused(t, hello("c", "http://a"), http.StatusServiceUnavailable)

	// One that is connected already may always come back.
	s.connect(t, epoch(hello("a", "http://a"), 2), echo)
	within(t, first.Done())
	s.refused(t, hello("c", "http://a"), http.StatusServiceUnavailable)

	s.abandon(joining)
	s.work.Done()
	last := s.connect(t, hello("c", "http://a"), echo)
	s.refused(t, hello("d", "http://a"), http.StatusServiceUnavailable)
	must(t, last.Close())
	s.log.await(t, "client disconnected", "client_id", "c")
	s.connect(t, hello("d", "http://a"), echo)
}

// TestRushOfClients has many come at the same time.
func TestRushOfClients(t *testing.T) {
	const most, n = 5, 40
	s := start(t, func(cfg *Config) { cfg.MaxClients = most })
	results := make(chan int, n)
	for i := range n {
		go func() {
			conn, resp, err := s.dial(t, hello(fmt.Sprint("c", i), "http://a"))
			if err == nil {
				t.Cleanup(func() { conn.Close() })
			}
			code := 0
			if resp != nil {
				code = resp.StatusCode
			}
			results <- code
		}()
	}
	got := map[int]int{}
	for range n {
		got[within(t, results)]++
	}
	if fmt.Sprint(got) != fmt.Sprint(map[int]int{101: most, 503: n - most}) {
		t.Errorf("got %v", got)
	}
}

// TestFlood opens more connections than may be pending: the oldest are dropped, and a
// good client gets in.
func TestFlood(t *testing.T) {
	const most = 8
	for _, c := range []struct {
		name string
		sent string // on each connection
		wait string // for this
	}{
		{"silent", "", ""},
		{"half a request", "GET /connect HTTP/1.1\r\nHost: x\r\nX-", ""},
		{"idle", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "ok\n"},
		{"half a body", "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t, func(cfg *Config) { cfg.Pending = pending.New(most, 0) })
			client := s.connect(t, hello("before", "http://a"), echo)
			var flood []net.Conn
			for range 3 * most {
				conn, err := net.Dial("tcp", s.addr)
				must(t, err)
				t.Cleanup(func() { conn.Close() })
				must(t, conn.SetDeadline(time.Now().Add(patience)))
				_, _ = io.WriteString(conn, c.sent)
				if c.wait != "" {
					br := bufio.NewReader(conn)
					for line := ""; !strings.HasSuffix(line, c.wait); {
						line, err = br.ReadString('\n')
						must(t, err)
					}
				}
				flood = append(flood, conn)
			}
			for _, conn := range flood[:2*most-1] { // accepted and dropped
				if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("an old connection stays: %v", err)
				}
			}
			good := s.connect(t, hello("after", "http://good.test"), echo)
			alive(t, s.open(t, "any"))
			if client.Err() != nil || good.Err() != nil {
				t.Errorf("a client was dropped: %v %v", client.Err(), good.Err())
			}
			if got := s.metric(t, "adit_dropped_handshakes_total"); got == "" || got == "0" {
				t.Errorf("dropped: %q", got)
			}
		})
	}
}

// TestGarbage sends frames that are none: the client is cut off with a reason.
func TestGarbage(t *testing.T) {
	s := start(t)
	conn, _, err := s.dial(t, hello("a", "http://a"))
	must(t, err)
	defer conn.Close()
	must(t, conn.WriteMessage(2, []byte(strings.Repeat("garbage", 1000))))
	must(t, conn.SetReadDeadline(time.Now().Add(patience)))
	for err == nil {
		_, _, err = conn.ReadMessage()
	}
	if !strings.Contains(err.Error(), "1002") || !strings.Contains(err.Error(), "protocol error") {
		t.Errorf("cut off with %v", err)
	}
	s.log.await(t, "client disconnected", "reason", "protocol error")
	eventually(t, func() bool { return len(s.table.Match("any", "/").Backends()) == 0 })
}
