package tunnel

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"github.com/adit-tunnel/adit/shared/rawio"
)

func TestMain(m *testing.M) {
	before := wideFree()
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if after := wideFree(); after != before && code == 0 {
			fmt.Fprintf(os.Stderr, "of %d wide buffers %d were given back\n", before, after)
			code = 1
		}
		os.Exit(code)
	}))
}

// wideFree returns how many wide buffers can be had.
func wideFree() (n int) {
	for rawio.TakeWide() {
		n++
	}
	for range n {
		rawio.GiveWide()
	}
	return n
}

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
	{"ws", func(tb testing.TB) (Carrier, Carrier) { return wsPair(tb, false, false) }},
	{"wss", func(tb testing.TB) (Carrier, Carrier) { return wsPair(tb, true, false) }},
	{"rawio ws", func(tb testing.TB) (Carrier, Carrier) { return wsPair(tb, false, true) }},
	{"rawio wss", func(tb testing.TB) (Carrier, Carrier) { return wsPair(tb, true, true) }},
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

// wsPair returns the two ends of a websocket, through TLS if secure, over sockets of package
// rawio if raw.
func wsPair(tb testing.TB, secure, raw bool) (Carrier, Carrier) {
	tb.Helper()
	upgraded := make(chan *websocket.Conn, 1)
	up := websocket.Upgrader{ReadBufferSize: ReadBufferSize, WriteBufferSize: WriteBufferSize, WriteBufferPool: WriteBufferPool, Subprotocols: []string{Subprotocol}}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := up.Upgrade(w, r, nil)
		if err != nil {
			tb.Error(err)
			return
		}
		upgraded <- c
	}))
	url := "ws://"
	dialer := websocket.Dialer{ReadBufferSize: ReadBufferSize, WriteBufferSize: WriteBufferSize, WriteBufferPool: WriteBufferPool,
		Subprotocols: []string{Subprotocol}, HandshakeTimeout: 10 * time.Second}
	if raw {
		srv.Listener = rawio.Listener(srv.Listener)
		dialer.NetDial = func(network, addr string) (net.Conn, error) {
			c, err := net.Dial(network, addr)
			return rawio.Wrap(c), err
		}
	}
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
