//go:build linux

package e2e

import (
	be "encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	wire "github.com/adit-tunnel/adit/shared/tunnel"
)

// Types of frames of adit.v1, see the documentation of package tunnel.
const openFrame, dataFrame, resetFrame, pingFrame, goAwayFrame, unknownFrame = 1, 3, 5, 7, 9, 200

func frame(kind byte, stream uint32, payload string) []byte {
	b := be.BigEndian.AppendUint16([]byte{kind, 0}, uint16(len(payload)))
	return append(be.BigEndian.AppendUint32(b, stream), payload...)
}

// noise is garbage that is the same each time.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{5: 5}).Read(b)
	return b
}

// abuse is what a peer that has a session does with it.
type abuse struct {
	name   string
	kind   int // of websocket messages; 0: below the websocket
	bytes  []byte
	rude   bool   // never reads
	reason string // part of why the session ends; empty: it need not
}

// abuses are for either side; opens is the number of a stream that the abuser may open.
func abuses(opens uint32) []abuse {
	const message = websocket.BinaryMessage
	open := func(id uint32) []byte { return frame(openFrame, id, "\x00\x00\x00\x00\x10\x00") }
	large := strings.Repeat("x", 1<<15)
	return []abuse{
		{"noise", 0, append([]byte{0xff}, noise(4096)...), false, "websocket: "},
		{"noise in a message", message, noise(4096), false, "second byte of the header"},
		{"text", websocket.TextMessage, []byte("hello?"), false, "not binary"},
		{"a second byte", message, []byte{dataFrame, 1, 0, 0, 0, 0, 0, 2}, false, "second byte of the header"},
		{"a payload over the limit", message, []byte{unknownFrame, 0, 0xff, 0xff, 0, 0, 0, 0}, false, "over the limit"},
		{"data on the session", message, frame(dataFrame, 0, "x"), false, "DATA on stream 0"},
		{"a stream that is not its own", message, open(opens + 1), false, "a number of ours"},
		{"pings", message, slices.Repeat(frame(pingFrame, 0, "12345678"), 4000), true, "does not read"},
		{"pings of the websocket", websocket.PingMessage, noise(125), true, ""},
		{"streams opened and reset", message, slices.Repeat(slices.Concat(open(opens), frame(resetFrame, opens, "\x00\x00\x00\x00")), 2000), true, ""},
		{"streams, ever more", message, openMany(opens, 5000), true, ""},
		{"data of streams that do not exist", message, slices.Repeat(frame(dataFrame, opens+1000, large), 8), false, ""},
		{"unknown frames", message, slices.Repeat(frame(unknownFrame, 0, large), 8), false, ""},
		{"goodbyes", message, slices.Repeat(frame(goAwayFrame, 0, strings.Repeat("\x00", 12)+strings.Repeat("bye ", 100)), 50), false, ""},
	}
}

func openMany(first uint32, n int) (b []byte) {
	for i := range uint32(n) {
		b = append(b, frame(openFrame, first+2*i, "\x00\x00\x00\x00\x10\x00")...)
	}
	return b
}

// What an abuser does who is not to be cut off is bounded in time and in bytes; mostMemory is what any may cost.
const (
	mostTime   = 10 * time.Second
	mostMemory = 128 << 20
)

var mostBytes = pick(16<<20, 64<<20)

// commit abuses the session, and looks at what the other side says last.
func (a abuse) commit(t testing.TB, conn *websocket.Conn) {
	t.Helper()
	defer conn.Close()
	last := make(chan error, 1)
	go func() {
		for !a.rude {
			if _, _, err := conn.ReadMessage(); err != nil {
				last <- err
				return
			}
		}
	}()
	limit, stuck := time.Now().Add(mostTime), time.Second // the other side may not read any more, either
	if a.reason != "" {
		// To the end: if the abuser leaves before it is cut off, that is why the session ends.
		limit, stuck = time.Now().Add(patience), patience
	}
	for sent := 0; (sent < mostBytes || a.reason != "") && time.Now().Before(limit); sent += len(a.bytes) {
		_ = conn.NetConn().SetWriteDeadline(time.Now().Add(stuck))
		var err error
		if a.kind == 0 {
			_, err = conn.NetConn().Write(a.bytes)
		} else {
			err = conn.WriteMessage(a.kind, a.bytes)
		}
		if err != nil || a.reason != "" && !a.rude { // once is enough
			break
		}
	}
	if a.rude {
		return
	}
	if a.reason == "" {
		conn.Close()
	}
	var closed *websocket.CloseError
	if err := receive(t, last); a.reason != "" && (!errors.As(err, &closed) || closed.Code != websocket.CloseProtocolError || closed.Text == "") {
		t.Errorf("was cut off with %v, want code 1002 and a reason", err)
	}
}

// metric returns the value of a series of a program, by the address of its metrics.
func metric(t testing.TB, addr, name string) float64 {
	t.Helper()
	v, err := readMetric(addr, name)
	must(t, err)
	return v
}

func readMetric(addr, name string) (float64, error) {
	_, body, err := get("http://"+addr+"/metrics", "")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", addr, name)
}

// watchMemory samples the memory of a program until the function that it returns is called, which says how much more
// it became, and fails the test if that is too much. (With the race detector most of it is not the program's.)
func watchMemory(t testing.TB, addr string) func(name string) {
	t.Helper()
	const resident = "process_resident_memory_bytes"
	before := metric(t, addr, resident)
	most := before
	l := startTraffic(t, "memory", 1, 20*time.Millisecond, func(int, int) error {
		most = max(most, metric(t, addr, resident))
		return nil
	})
	return func(name string) {
		l.end()
		more := max(most, metric(t, addr, resident)) - before
		t.Logf("the %s has %.1f MB more", name, more/1e6)
		if more > mostMemory && !raceEnabled {
			t.Errorf("the %s has %.0f MB more", name, more/1e6)
		}
	}
}

// joinAs opens a websocket with a session to the server, which must not use TLS.
func (s *server) joinAs(t testing.TB, id string, upstreams ...string) *websocket.Conn {
	t.Helper()
	conn, err := s.tryJoin(id, upstreams...)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (s *server) tryJoin(id string, upstreams ...string) (*websocket.Conn, error) {
	lines, err := wire.Hello{Version: "1", ClientID: id, Epoch: uint64(time.Now().UnixNano()), Upstreams: upstreams}.Header()
	if err != nil {
		return nil, err
	}
	dialer := websocket.Dialer{Subprotocols: []string{wire.Subprotocol}, HandshakeTimeout: patience}
	conn, _, err := dialer.Dial("ws://"+s.control+"/connect", http.Header{"Authorization": {"Bearer " + s.token}, wire.HelloHeader: lines})
	return conn, err
}

// TestChaosGarbageFromClients has clients that know the token, and send what they should not.
func TestChaosGarbageFromClients(t *testing.T) {
	t.Parallel()
	s := startServer(t, chaosEnv("AUTO_TLS=false")...)
	startClient(t, s, "http://"+newApp(t), chaosEnv("AUTO_TLS=false", "URL=ws://"+s.control)...).await("connected")
	keep := newVisitor(t, true)
	visits := startTraffic(t, "GET", 2, 10*time.Millisecond, func(int, int) error { return fetch(keep, "GET", s.url("/hello"), "", "hello") })
	for _, a := range abuses(1) {
		t.Run(a.name, func(t *testing.T) {
			id := strings.NewReplacer(" ", "-", ",", "").Replace(a.name)
			memory := watchMemory(t, s.metrics)
			a.commit(t, s.joinAs(t, id, "abuse.test=http://localhost:1"))
			s.await("client disconnected", "client_id", id, "reason", a.reason)
			memory("server")
		})
	}
	visits.mustBeFlawless(visitTimeout)
}

// TestChaosGarbageFromServers has clients connect to what knows the token, and is no good server.
func TestChaosGarbageFromServers(t *testing.T) {
	t.Parallel()
	upgrader := websocket.Upgrader{Subprotocols: []string{wire.Subprotocol}}
	for _, a := range abuses(2) {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			joined := make(chan *websocket.Conn, 1)
			bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				lines, _ := wire.Hello{Version: "1"}.Header()
				conn, err := upgrader.Upgrade(w, r, http.Header{wire.HelloHeader: lines})
				if err != nil {
					return
				}
				select {
				case joined <- conn:
				default:
					conn.Close()
				}
			}))
			t.Cleanup(bad.Close)
			c := start(t, "client", environment(chaosEnv("AUTO_TLS=false", "URL=ws://"+bad.Listener.Addr().String(), "TOKEN="+newToken(), "UPSTREAMS=http://"+newApp(t))...)...)
			conn := receive(t, joined)
			c.await("connected")
			memory := watchMemory(t, c.addr("metrics"))
			a.commit(t, conn)
			if a.reason == "" && a.name == "goodbyes" {
				c.await("server is leaving")
			} else {
				c.await("connection lost", "reason", a.reason)
			}
			memory("client")
		})
	}
}
