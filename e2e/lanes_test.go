//go:build unix

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
)

// moves returns how often streams have moved to a lane as either end counts it, and wants no lane to have failed.
func moves(t testing.TB, s *server, client *program) (server, other float64) {
	t.Helper()
	for _, reason := range []string{"refused", "timeout", "broken"} {
		for _, addr := range []string{s.metrics, client.addr("metrics")} {
			if n := metric(t, addr, `adit_lane_errors_total{reason="`+reason+`"}`); n != 0 {
				t.Errorf("%v lanes failed: %s", n, reason)
			}
		}
	}
	return metric(t, s.metrics, "adit_lanes_total"), metric(t, client.addr("metrics"), "adit_lanes_total")
}

const (
	bulk     = 48 << 20
	bulkHash = "/hash"
)

// source has much to send. On a busy machine, where pings take long, only what lasts gets a lane: where every transfer
// is to have one, each sends its end a little at a time until it has, or a while has passed.
type source struct {
	metrics atomic.Pointer[string] // of the server that counts, if every transfer is to have a lane
}

func (s *source) data() io.Reader {
	metrics := s.metrics.Load()
	if metrics == nil {
		return testData(bulk)
	}
	moves := func() float64 {
		n, _ := readMetric(*metrics, "adit_lanes_total") // 0 if it fails: it did not move
		return n
	}
	before := moves()
	return &lasting{r: testData(bulk), hurry: bulk - 8<<20, moved: func() bool { return moves() > before }}
}

// lasting is in no hurry once so many bytes were read, until moved reports true.
type lasting struct {
	r     io.Reader
	hurry int
	moved func() bool
}

func (l *lasting) Read(p []byte) (int, error) {
	if l.hurry <= 0 && l.moved != nil {
		p = p[:min(len(p), 64<<10)]
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for range 5 {
			if l.moved() {
				l.moved = nil
				break
			}
			<-tick.C
		}
	}
	n, err := l.r.Read(p)
	l.hurry -= n
	return n, err
}

// newBulk is a private service with much to send and to take.
func newBulk(t testing.TB, from *source) string {
	t.Helper()
	s := newService(t)
	s.HandleFunc("/sized", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(bulk))
		_, _ = io.Copy(w, from.data())
	})
	s.HandleFunc("/chunked", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, from.data()) })
	return upstream(t, s.ServeHTTP)
}

// sender is a private TCP service that sends much to whoever comes.
func sender(t testing.TB, from *source) string {
	t.Helper()
	return newRelay(t, func(_ *relay, conn net.Conn) { _, _ = io.Copy(conn, from.data()) }).addr()
}

// transfers has visitors download and upload, one after the other, and checks every byte.
func transfers(t testing.TB, s *server, from *source, toSend, toTake int) {
	t.Helper()
	want := hashOf(testData(bulk))
	visitor := newVisitor(t, true)
	for _, path := range []string{"/sized", "/chunked"} {
		resp, err := visitor.Get(s.url(path))
		must(t, err)
		if got := hashOf(resp.Body); resp.StatusCode != http.StatusOK || got != want {
			t.Errorf("%s: %s, and not the bytes that were sent", path, resp.Status)
		}
		resp.Body.Close()
	}
	for _, length := range []int64{bulk, -1} {
		req, err := http.NewRequest(http.MethodPost, s.url(bulkHash), from.data())
		must(t, err)
		req.ContentLength = length
		resp, err := visitor.Do(req)
		must(t, err)
		got, err := io.ReadAll(resp.Body)
		must(t, err)
		resp.Body.Close()
		if text := fmt.Sprintf("%d %v %s", bulk, nil, want); string(got) != text {
			t.Errorf("an upload of length %d: %q, want %q", length, got, text)
		}
	}
	if toSend == 0 {
		return
	}
	conn, err := net.DialTimeout("tcp", fmt.Sprint("127.0.0.1:", toSend), patience)
	must(t, err)
	defer conn.Close()
	if got := hashOf(conn); got != want {
		t.Error("the TCP service's bytes are not those that it sent")
	}
	answer := fmt.Sprintf("taker %d %s", bulk, want)
	if got, err := askWith(fmt.Sprint("127.0.0.1:", toTake), from.data()); got != answer {
		t.Errorf("got %q %v, want %q", got, err, answer)
	}
}

// TestLanes has bulky streams get lanes on every way from a client to its server.
func TestLanes(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	_, cert, key := ca.issue(t, "127.0.0.1")
	from := new(source)
	app := newBulk(t, from)
	for _, c := range []struct {
		name  string
		start func(t *testing.T, upstreams string) (*server, *program)
		moves float64 // 0: none
		tcp   bool
	}{
		{"ws", func(t *testing.T, upstreams string) (*server, *program) {
			s := startServer(t, "MODE=http,tcp", "AUTO_TLS=false", "ACCESS_LOG=true")
			return s, connect(t, s, upstreams, "AUTO_TLS=false", "URL=ws://"+s.control)
		}, 6, true},
		{"auto-TLS", func(t *testing.T, upstreams string) (*server, *program) {
			s := startServer(t, "MODE=http,tcp", "ACCESS_LOG=true")
			return s, connect(t, s, upstreams)
		}, 6, true},
		{"one port behind a router", func(t *testing.T, upstreams string) (*server, *program) {
			ping := "PING_INTERVAL=" + between.String() // what is silent for longer the router cuts, soon
			s := startOnePort(t, "AUTO_TLS=false", "ACCESS_LOG=true", ping)
			secure, _ := startRouter(t, cert, key, "listen %[1]s ssl; listen %[2]s;", s.data)
			return s, connect(t, s, upstreams, "URL=wss://"+secure, "TLS_CA="+ca.pem, ping)
		}, 4, false},
		{"one port", func(t *testing.T, upstreams string) (*server, *program) {
			s := startOnePort(t, "AUTO_TLS=false", "ACCESS_LOG=true")
			return s, connect(t, s, upstreams, "AUTO_TLS=false", "URL=ws://"+s.control)
		}, 4, false},
		{"HTTPS_PROXY", func(t *testing.T, upstreams string) (*server, *program) {
			s := startServer(t, "ACCESS_LOG=true")
			proxy := newConnectProxy(t, "", map[string]string{"tunnel.test:443": s.control})
			return s, connect(t, s, upstreams, "URL=wss://tunnel.test", "HTTPS_PROXY=http://"+proxy.addr())
		}, 4, false},
		{"a client without", func(t *testing.T, upstreams string) (*server, *program) {
			s := startServer(t, "ACCESS_LOG=true")
			return s, connect(t, s, upstreams, "LANES=false")
		}, 0, false},
		{"a server without", func(t *testing.T, upstreams string) (*server, *program) {
			s := startServer(t, "LANES=false", "ACCESS_LOG=true")
			return s, connect(t, s, upstreams)
		}, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			upstreams, toSend, toTake := "http://"+app, 0, 0
			if c.tcp {
				toSend, toTake = freeport.New(t), freeport.New(t)
				upstreams += fmt.Sprintf(",%d=%s,%d=%s", toSend, sender(t, from), toTake, hashService(t, "taker"))
			}
			s, client := c.start(t, upstreams)
			if from.metrics.Store(nil); c.moves > 0 {
				from.metrics.Store(&s.metrics)
			}
			transfers(t, s, from, toSend, toTake)
			for path, field := range map[string]string{"/sized": "sent", "/chunked": "sent", bulkHash: "received"} {
				if got := s.await("request", "path", path).fields[field]; got != float64(bulk) {
					t.Errorf("%s: the access log has %.0f bytes %s, want %d", path, got, field, bulk)
				}
			}
			if server, other := moves(t, s, client); server != c.moves || other != c.moves {
				t.Errorf("streams moved to lanes %v times as the server counts it, and %v as the client does, want %v", server, other, c.moves)
			}
			for _, addr := range []string{s.metrics, client.addr("metrics")} {
				eventually(t, func() error {
					if n := metric(t, addr, "adit_lanes"); n != 0 {
						return fmt.Errorf("%v lanes are left behind", n)
					}
					return nil
				})
			}
			must(t, answers(s.url("/hello"), "hello"))
		})
	}
}

// TestLaneElsewhere has a client whose lanes come to a server that does not hold its session, as behind a load balancer.
func TestLaneElsewhere(t *testing.T) {
	t.Parallel()
	token := newToken()
	env := []string{"AUTO_TLS=false", "TOKEN=" + token}
	one, two := startServer(t, env...), startServer(t, env...)
	turn := make(chan string, 100)
	turn <- one.control
	for range 99 {
		turn <- two.control
	}
	balancer := newRelay(t, func(r *relay, conn net.Conn) {
		if to, err := net.Dial("tcp", <-turn); err == nil {
			r.join(conn, to, nil)
		}
	})
	from := new(source)
	client := connect(t, one, "http://"+newBulk(t, from), "AUTO_TLS=false", "URL=ws://"+balancer.addr())
	transfers(t, one, from, 0, 0)
	if n := metric(t, one.metrics, "adit_lanes_total") + metric(t, client.addr("metrics"), "adit_lanes_total"); n != 0 {
		t.Errorf("%v moves", n)
	}
	if n := metric(t, client.addr("metrics"), `adit_lane_errors_total{reason="refused"}`); n != 1 {
		t.Errorf("%v lanes were refused, want one and then a rest", n)
	}
	if dials := 99 - len(turn); dials != 1 {
		t.Errorf("%d lanes were dialled", dials)
	}
}

// TestLaneFrozen stops the client in the middle of a transfer, and has it go on.
func TestLaneFrozen(t *testing.T) {
	t.Parallel()
	s := startServer(t, "AUTO_TLS=false")
	client := connect(t, s, "http://"+newBulk(t, new(source)), "AUTO_TLS=false", "URL=ws://"+s.control)
	resp, err := newVisitor(t, true).Get(s.url("/sized"))
	must(t, err)
	defer resp.Body.Close()
	stopped := &stopAt{r: resp.Body, left: bulk / 2, stop: func() {
		client.signal(syscall.SIGSTOP)
		time.AfterFunc(2*time.Second, func() { client.signal(syscall.SIGCONT) })
	}}
	if got := hashOf(stopped); got != hashOf(testData(bulk)) {
		t.Error("not the bytes that were sent")
	}
	if server, _ := moves(t, s, client); server != 1 {
		t.Errorf("%v moves to lanes", server)
	}
}

// stopAt calls stop when so many bytes have come.
type stopAt struct {
	r    io.Reader
	left int
	stop func()
}

func (s *stopAt) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if s.left -= n; s.left <= 0 && s.stop != nil {
		s.stop()
		s.stop = nil
	}
	return n, err
}

// TestLaneDies kills the client in the middle of a transfer: nobody may take a part for the whole.
func TestLaneDies(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/sized", "/chunked"} {
		s := startServer(t, "AUTO_TLS=false")
		client := connect(t, s, "http://"+newBulk(t, new(source)), "AUTO_TLS=false", "URL=ws://"+s.control)
		resp, err := newVisitor(t, true).Get(s.url(path))
		must(t, err)
		defer resp.Body.Close()
		n, err := io.Copy(io.Discard, &stopAt{r: resp.Body, left: bulk / 2, stop: client.kill})
		if err == nil || strings.Contains(err.Error(), "timeout") {
			t.Errorf("%s: %d bytes, error %v", path, n, err)
		}
	}
}

// TestLaneDrain stops the server, or the client, in the middle of a transfer, which still comes to its end.
func TestLaneDrain(t *testing.T) {
	t.Parallel()
	for _, which := range []string{"server", "client"} {
		t.Run(which, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, "AUTO_TLS=false")
			client := connect(t, s, "http://"+newBulk(t, new(source)), "AUTO_TLS=false", "URL=ws://"+s.control)
			leaving := map[string]*program{"server": s.program, "client": client}[which]
			resp, err := newVisitor(t, true).Get(s.url("/sized"))
			must(t, err)
			defer resp.Body.Close()
			stopped := &stopAt{r: resp.Body, left: bulk / 2, stop: func() { leaving.signal(syscall.SIGTERM) }}
			if got := hashOf(stopped); got != hashOf(testData(bulk)) {
				t.Error("not the bytes that were sent")
			}
			if state := leaving.wait(); state.ExitCode() != 0 {
				t.Errorf("%s ended with %v", which, state)
			}
		})
	}
}
