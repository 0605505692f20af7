//go:build unix

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

// The carrier of the isolation tests: so many bytes a second in each direction, and so much time on the way.
const (
	carrierRate  = 10 << 20
	carrierDelay = 5 * time.Millisecond
	carrierPiece = 8 << 10 // what goes onto the cable at once
)

// cable is one direction of a carrier. Connections that share one take turns.
type cable struct {
	mu   sync.Mutex
	free time.Time // when the next piece may begin
}

// send waits until n bytes are on the cable.
func (w *cable) send(n int) {
	w.mu.Lock()
	now := time.Now()
	if w.free.Before(now) {
		w.free = now
	}
	w.free = w.free.Add(time.Duration(n) * time.Second / carrierRate)
	wait := w.free.Sub(now)
	w.mu.Unlock()
	<-time.After(wait)
}

// carry moves bytes from one connection to another over the cable. What it has not taken yet waits in the sockets.
func (w *cable) carry(to, from net.Conn) {
	type piece struct {
		due time.Time
		p   []byte
	}
	way := make(chan piece, int(2*carrierDelay*carrierRate/time.Second/carrierPiece)+1)
	var arrive sync.WaitGroup
	arrive.Go(func() {
		for p := range way {
			<-time.After(time.Until(p.due))
			if _, err := to.Write(p.p); err != nil {
				from.Close()
			}
		}
		to.Close()
	})
	for {
		p := make([]byte, carrierPiece)
		n, err := from.Read(p)
		if err != nil {
			break
		}
		w.send(n)
		way <- piece{time.Now().Add(carrierDelay), p[:n]}
	}
	close(way)
	arrive.Wait()
}

// newCarrier is a relay to addr over wires for each connection, or for all together.
func newCarrier(t testing.TB, addr string, each bool) string {
	var up, down cable
	return newRelay(t, func(r *relay, conn net.Conn) {
		to, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		r.track(to)
		up, down := &up, &down
		if each {
			up, down = new(cable), new(cable)
		}
		r.work.Go(func() { down.carry(conn, to) })
		up.carry(to, conn)
	}).addr()
}

// latency is how long small requests take.
type latency struct{ p50, p99 time.Duration }

func (l latency) String() string {
	return fmt.Sprintf("p50 %.1f ms, p99 %.1f ms", ms(l.p50), ms(l.p99))
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// askOften makes n small requests, one after the other.
func askOften(t testing.TB, visitor *http.Client, url string, n int) latency {
	t.Helper()
	var took []time.Duration
	for range n {
		begun := time.Now()
		must(t, fetch(visitor, http.MethodGet, url, "", "hello"))
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	return latency{took[len(took)/2], took[len(took)*99/100]}
}

// TestIsolation has small requests beside a bulk download over a slow carrier, with a reader who takes all and with one
// who takes nothing: they are as fast as when nothing else goes on.
func TestIsolation(t *testing.T) {
	for _, c := range []struct {
		name     string
		each     bool
		lanes    string
		requests int
	}{
		{"each connection has 10 MiB per second", true, "true", 200},
		{"all connections share 10 MiB per second in turns", false, "true", 200},
		{"without lanes", true, "false", 20}, // only to be seen
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startServer(t, "AUTO_TLS=false")
			app := http.NewServeMux()
			app.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
			app.HandleFunc("/endless", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", fmt.Sprint(int64(1)<<40))
				_, _ = io.Copy(w, zeros{})
			})
			client := connect(t, s, "http://"+upstream(t, app.ServeHTTP), "AUTO_TLS=false", "LANES="+c.lanes,
				"URL=ws://"+newCarrier(t, s.control, c.each))
			visitor, other := newVisitor(t, true), newVisitor(t, true)
			other.Timeout = 0
			moves := func() float64 { return metric(t, client.addr("metrics"), "adit_lanes_total") }
			bulk := func(left int) io.Closer {
				before := moves()
				resp, err := other.Get(s.url("/endless"))
				must(t, err)
				for read := 0; c.lanes == "true" && moves() == before; read++ {
					if read == 64 {
						t.Fatal("no lane after 64 MiB")
					}
					_, err := io.CopyN(io.Discard, resp.Body, 1<<20)
					must(t, err)
				}
				_, err = io.CopyN(io.Discard, resp.Body, 4<<20)
				must(t, err)
				if left > 0 {
					go func() { _, _ = io.Copy(io.Discard, resp.Body) }()
				}
				return resp.Body
			}
			for attempt := range 5 { // a busy machine has a p99 of its own
				askOften(t, visitor, s.url("/"), c.requests) // warm
				quiet := askOften(t, visitor, s.url("/"), c.requests)
				good := true
				for _, reader := range []int{1, 0} {
					body := bulk(reader)
					busy := askOften(t, visitor, s.url("/"), c.requests)
					what := map[int]string{1: "a bulk download", 0: "a reader who takes nothing"}[reader]
					if n := metric(t, client.addr("metrics"), "adit_lanes"); c.lanes == "true" && n != 1 {
						t.Errorf("%v lanes with %s", n, what)
					}
					body.Close()
					t.Logf("attempt %d: quiet %s; with %s %s: × %.2f and × %.2f", attempt+1, quiet, what, busy,
						ms(busy.p50)/ms(quiet.p50), ms(busy.p99)/ms(quiet.p99))
					good = good && 4*busy.p50 <= 5*quiet.p50 && 2*busy.p99 <= 3*quiet.p99
				}
				if good || c.lanes == "false" {
					return
				}
			}
			t.Error("small requests suffered from bulk in each attempt")
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
