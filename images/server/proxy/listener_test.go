package proxy

import (
	"bufio"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"
)

// serve serves HTTP behind a listener, with the handler, and returns its address.
func serve(t testing.TB, trusted func(netip.Addr) bool, timeout time.Duration, handler http.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	wrapped := Listener(l, trusted).(*listener)
	wrapped.timeout = timeout
	srv := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(wrapped)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return l.Addr().String()
}

func TestListener(t *testing.T) {
	type endpoints struct{ from, to string }
	for _, c := range headers(t) {
		t.Run(c.name, func(t *testing.T) {
			seen := make(chan endpoints, 2)
			address := serve(t, everybody, patience, func(w http.ResponseWriter, r *http.Request) {
				seen <- endpoints{r.RemoteAddr, r.Context().Value(http.LocalAddrContextKey).(net.Addr).String()}
			})
			conn, err := net.Dial("tcp", address)
			must(t, err)
			defer conn.Close()
			must(t, conn.SetDeadline(time.Now().Add(patience)))
			sent := c.sent + "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
			go func() { _, _ = io.WriteString(conn, sent) }()
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if c.bad {
				if err == nil {
					t.Errorf("got %d %v", resp.StatusCode, <-seen)
				}
				if errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("the connection stays")
				}
				return
			}
			must(t, err)
			resp.Body.Close()
			want := endpoints{c.from, c.to}
			if c.from == "" {
				want = endpoints{conn.LocalAddr().String(), conn.RemoteAddr().String()}
			}
			got := <-seen
			if got.from != want.from || c.from == "" && got.to != want.to {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
	t.Run("from somebody", func(t *testing.T) {
		address := serve(t, nobody, patience, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RemoteAddr) })
		for sent, want := range map[string]int{"": 200, "PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\r\n": 400} {
			conn, err := net.Dial("tcp", address)
			must(t, err)
			defer conn.Close()
			must(t, second(io.WriteString(conn, sent+"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")))
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			must(t, err)
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != want || want == 200 && string(body) != conn.LocalAddr().String() {
				t.Errorf("after %q: %d %s", sent, resp.StatusCode, body)
			}
		}
	})
}

// TestListenerSlow has one proxy send no header: others are served meanwhile, and it is
// cut off.
func TestListenerSlow(t *testing.T) {
	address := serve(t, everybody, 300*time.Millisecond, func(w http.ResponseWriter, r *http.Request) {})
	slow, err := net.Dial("tcp", address)
	must(t, err)
	defer slow.Close()
	must(t, second(io.WriteString(slow, "PRO")))
	conn, err := net.Dial("tcp", address)
	must(t, err)
	defer conn.Close()
	must(t, second(io.WriteString(conn, header(t, 2, nil, nil)+"GET / HTTP/1.1\r\nHost: x\r\n\r\n")))
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	must(t, err)
	resp.Body.Close()
	must(t, slow.SetDeadline(time.Now().Add(patience)))
	if _, err := io.ReadAll(slow); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("it stays")
	}
}

// TestConn half-closes and resets what is behind a header.
func TestConn(t *testing.T) {
	accept := func(t *testing.T) (net.Conn, *net.TCPConn) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		defer l.Close()
		dialled, err := net.Dial("tcp", l.Addr().String())
		must(t, err)
		t.Cleanup(func() { dialled.Close() })
		must(t, dialled.SetDeadline(time.Now().Add(patience)))
		must(t, second(io.WriteString(dialled, header(t, 1, addr("192.0.2.1:1"), addr("192.0.2.2:2"))+"question")))
		accepted, err := Listener(l, everybody).Accept()
		must(t, err)
		t.Cleanup(func() { accepted.Close() })
		return accepted, dialled.(*net.TCPConn)
	}
	t.Run("half-close", func(t *testing.T) {
		accepted, dialled := accept(t)
		must(t, second(io.WriteString(accepted, "answer")))
		must(t, accepted.(interface{ CloseWrite() error }).CloseWrite())
		got, err := io.ReadAll(dialled)
		must(t, err)
		must(t, dialled.CloseWrite())
		asked, err := io.ReadAll(accepted)
		must(t, err)
		if string(got) != "answer" || string(asked) != "question" {
			t.Errorf("got %q and %q", got, asked)
		}
	})
	t.Run("reset", func(t *testing.T) {
		accepted, dialled := accept(t)
		below := accepted.(interface{ NetConn() net.Conn }).NetConn()
		must(t, below.(*net.TCPConn).SetLinger(0))
		must(t, below.Close())
		if _, err := io.ReadAll(dialled); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %v", err)
		}
	})
}
