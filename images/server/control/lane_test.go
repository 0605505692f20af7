package control

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/adit-tunnel/adit/shared/tunnel"
)

func withLanes(cfg *Config) { cfg.Lanes = true }

func able(h tunnel.Hello) tunnel.Hello {
	h.Capabilities = []string{tunnel.CapabilityLanes}
	return h
}

// dialLane makes the handshake of a lane.
func (s *server) dialLane(ctx context.Context, value, token string) (*websocket.Conn, int, string, error) {
	dialer := websocket.Dialer{Subprotocols: []string{tunnel.Subprotocol}, HandshakeTimeout: patience}
	conn, resp, err := dialer.DialContext(ctx, "ws://"+s.addr+"/connect", http.Header{
		"Authorization": {"Bearer " + token}, tunnel.LaneHeader: {value},
	})
	if err == nil || resp == nil {
		return conn, 0, "", err
	}
	body, _ := io.ReadAll(resp.Body)
	return nil, resp.StatusCode, string(body), err
}

// connectWithLanes connects a client that dials lanes.
func (s *server) connectWithLanes(t testing.TB, h tunnel.Hello, handle func(*tunnel.Stream)) *peer {
	t.Helper()
	conn, resp, err := s.dial(t, able(h))
	must(t, err)
	p := &peer{}
	p.hello, err = tunnel.ParseHello(resp.Header.Values(tunnel.HelloHeader))
	must(t, err)
	if p.hello.Lanes == nil {
		t.Fatal("the server grants no lanes")
	}
	p.Session = tunnel.New(tunnel.NewWebsocket(conn), tunnel.Config{
		Client: true, PingInterval: patience, Handle: handle,
		Lanes: &tunnel.Lanes{Grant: p.hello.Lanes, Dial: func(ctx context.Context, name string) (net.Conn, error) {
			conn, code, text, err := s.dialLane(ctx, name, token)
			if err != nil {
				t.Errorf("lane refused: %d %s", code, text)
				return nil, err
			}
			return conn.NetConn(), nil
		}},
	})
	t.Cleanup(func() { p.Close() })
	s.log.await(t, "client connected", "client_id", h.ClientID)
	return p
}

// A bulky stream gets a lane in each direction through the control plane.
func TestLanes(t *testing.T) {
	s := start(t, withLanes)
	s.connectWithLanes(t, hello("a", "a.test=http://x"), echo)
	st := s.open(t, "a.test")
	moves := &s.cfg.Counters.Moves
	sent, got := sha256.New(), sha256.New()
	var writer sync.WaitGroup
	writer.Go(func() { // until both directions have moved, in time or never
		chunk := make([]byte, 1<<20)
		for i := 0; i < 16 || moves.Load() < 2 && i < 4096; i++ {
			_, _ = rand.Read(chunk)
			if _, err := st.Write(chunk); err != nil {
				t.Error(err)
				break
			}
			sent.Write(chunk)
		}
		_ = st.CloseWrite()
	})
	n, err := io.Copy(got, struct{ io.Reader }{st})
	writer.Wait()
	if err != nil || !bytes.Equal(got.Sum(nil), sent.Sum(nil)) {
		t.Errorf("%d bytes came back, others than were sent; error %v", n, err)
	}
	if n := moves.Load(); n != 2 {
		t.Errorf("%d moves to lanes, want one in each direction", n)
	}
	if c := s.metric(t, "http_controlplane_connected_gauge"); c != "1" {
		t.Errorf("%s clients", c)
	}
}

// Who may not have a lane is told why.
func TestLaneRefusals(t *testing.T) {
	s := start(t, withLanes, func(cfg *Config) { cfg.MaxLanes = 1 })
	handle := func(st *tunnel.Stream) {
		_ = st.Accept()
		_, _ = io.Copy(io.Discard, st)
		st.Close()
	}
	p := s.connectWithLanes(t, hello("a", "a.test=http://x"), handle)
	other := s.connectWithLanes(t, hello("b", "b.test=http://x"), handle)
	s.open(t, "a.test") // stream 2
	s.open(t, "a.test") // stream 4
	name := func(g tunnel.LaneGrant, stream uint32) string {
		return tunnel.LaneName{Grant: g, Stream: stream, Up: true}.String()
	}
	conn, _, _, err := s.dialLane(t.Context(), name(*p.hello.Lanes, 2), token)
	must(t, err)
	defer conn.Close()
	mixed := tunnel.LaneGrant{ID: p.hello.Lanes.ID, Key: other.hello.Lanes.Key}
	for _, c := range []struct {
		name, value, token string
		code               int
		text               string
	}{
		{"no token", name(*p.hello.Lanes, 4), "", 401, ""},
		{"a wrong token", name(*p.hello.Lanes, 4), "wrong-wrong-wrong-wrong", 401, ""},
		{"nonsense", "nonsense", token, 400, "malformed"},
		{"another server's session", name(*tunnel.NewLaneGrant(), 4), token, 404, "another replica"},
		{"another session's key", name(mixed, 4), token, 404, "does not belong"},
		{"no such stream", name(*p.hello.Lanes, 6), token, 410, "the stream of the lane is over"},
		{"too many", name(*p.hello.Lanes, 4), token, 503, "as many lanes as there may be"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, code, text, err := s.dialLane(t.Context(), c.value, c.token)
			if err == nil {
				conn.Close()
			}
			if code != c.code || !strings.Contains(text, c.text) || strings.Contains(text, p.hello.Lanes.Key) {
				t.Errorf("answered %d %q, want %d %q", code, text, c.code, c.text)
			}
		})
	}
	if strings.Contains(s.log.String(), p.hello.Lanes.Key) {
		t.Error("the key of a lane is logged")
	}
	p.Close()
	s.log.await(t, "client disconnected", "client_id", "a")
	if _, code, _, _ := s.dialLane(t.Context(), name(*p.hello.Lanes, 4), token); code != 404 {
		t.Errorf("a session that is over: %d", code)
	}
}

// Peers that know nothing of lanes, or have them switched off, do without.
func TestNoLanes(t *testing.T) {
	for _, c := range []struct {
		name  string
		hello tunnel.Hello
		lanes bool
	}{{"the client", hello("a", "a.test=http://x"), true}, {"the server", able(hello("a", "a.test=http://x")), false}} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t, func(cfg *Config) { cfg.Lanes = c.lanes })
			p := s.connect(t, c.hello, echo)
			if p.hello.Lanes != nil || slices.Contains(p.hello.Capabilities, tunnel.CapabilityLanes) != c.lanes {
				t.Errorf("the server says %+v", p.hello)
			}
			st := s.open(t, "a.test")
			go func() {
				_, _ = st.Write(make([]byte, 4<<20))
				_ = st.CloseWrite()
			}()
			if n, err := io.Copy(io.Discard, st); n != 4<<20 || err != nil {
				t.Errorf("%d bytes came back, error %v", n, err)
			}
			if n := s.cfg.Counters.Moves.Load(); n != 0 {
				t.Errorf("%d moves", n)
			}
		})
	}
}
