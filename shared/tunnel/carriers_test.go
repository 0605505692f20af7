package tunnel

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// carriers are the connections that every session test runs over.
var carriers = []struct {
	name string
	pair func(testing.TB) (server, client Carrier)
}{
	{"pipe", pipePair},
	{"tcp", func(tb testing.TB) (Carrier, Carrier) {
		a, b := tcpPair(tb)
		return NewConn(a), NewConn(b)
	}},
	{"ws", func(tb testing.TB) (Carrier, Carrier) { return wsPair(tb, false) }},
	{"wss", func(tb testing.TB) (Carrier, Carrier) { return wsPair(tb, true) }},
}

func pipePair(testing.TB) (Carrier, Carrier) {
	a, b := net.Pipe()
	return NewConn(a), NewConn(b)
}

// tcpPair returns the two ends of a loopback connection.
func tcpPair(tb testing.TB) (accepted, dialled *net.TCPConn) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	a, err := l.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { a.Close(); c.Close() })
	return a.(*net.TCPConn), c.(*net.TCPConn)
}

func wsPair(tb testing.TB, secure bool) (Carrier, Carrier) {
	tb.Helper()
	upgraded := make(chan *websocket.Conn, 1)
	up := websocket.Upgrader{WriteBufferSize: WriteBufferSize, WriteBufferPool: WriteBufferPool, Subprotocols: []string{Subprotocol}}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := up.Upgrade(w, r, nil)
		if err != nil {
			tb.Error(err)
			return
		}
		upgraded <- c
	}))
	url := "ws://"
	dialer := websocket.Dialer{WriteBufferSize: WriteBufferSize, WriteBufferPool: WriteBufferPool,
		Subprotocols: []string{Subprotocol}, HandshakeTimeout: 10 * time.Second}
	if secure {
		srv.StartTLS()
		url = "wss://"
		dialer.TLSClientConfig = &tls.Config{RootCAs: srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
	} else {
		srv.Start()
	}
	tb.Cleanup(srv.Close)
	c, resp, err := dialer.Dial(url+srv.Listener.Addr().String(), nil)
	if err != nil {
		tb.Fatal(err)
	}
	resp.Body.Close()
	return NewWebsocket(<-upgraded), NewWebsocket(c)
}

// sessions joins a server and a client session; the client serves streams with handle.
func sessions(tb testing.TB, pair func(testing.TB) (Carrier, Carrier), server, client Config) (srv, cli *Session) {
	tb.Helper()
	a, b := pair(tb)
	client.Client = true
	srv, cli = New(a, server), New(b, client)
	tb.Cleanup(func() {
		srv.Close()
		cli.Close()
	})
	return srv, cli
}
