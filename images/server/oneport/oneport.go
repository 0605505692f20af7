// Package oneport lets the control plane and the data plane share a listener, for
// platforms that have one port for everything.
//
// Handler tells requests apart, Split the connections that begin with TLS from those
// that do not.
//
// The control plane lives below a path of its own, which no upstream may have. Beside it
// three requests are recognised by what adit's own programs send and nobody sends by
// accident, so that a client finds its server under the same URL as with two ports: the
// websocket handshake of /connect by its subprotocol, the question for the CA by the proof
// in its head, and the one for the status by a field of its own. Everything else, such as
// an upstream's own /status, is a visitor's.
package oneport

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"github.com/adit-tunnel/adit/shared/autotls"
	"github.com/adit-tunnel/adit/shared/status"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// limit bounds reading and answering one request of the control plane, as its own server
// does where it has one.
const limit = 30 * time.Second

// Config is what a Handler needs.
type Config struct {
	Path    string       // below which the control plane lives: "/_adit"
	Control http.Handler // gets paths without it
	Data    http.Handler
	// Address returns where a request comes from, "ip:port", as the control plane is to
	// see it.
	Address func(*http.Request) string
	// Open says that the connections are not encrypted although the server has a
	// certificate: nobody may then send the token over them, and of the control plane only
	// health is answered.
	Open bool
}

// Handler returns what serves both planes. Its connections are those of the data plane.
func Handler(cfg Config) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to, ok := below(cfg.Path, r)
		if !ok {
			cfg.Data.ServeHTTP(w, r)
			return
		}
		if cfg.Open && to != "/healthz" && to != "/readyz" {
			insecure(w, to)
			return
		}
		rc := http.NewResponseController(w)
		deadline := time.Now().Add(limit)
		_ = rc.SetReadDeadline(deadline)
		_ = rc.SetWriteDeadline(deadline)
		taken := &controlWriter{ResponseWriter: w}
		defer func() {
			if !taken.hijacked { // the next request may be a visitor's; the server sets the other one anew
				_ = rc.SetWriteDeadline(time.Time{})
			}
		}()
		cfg.Control.ServeHTTP(taken, moved(r, to, cfg.Address(r)))
	})
}

// below returns the path within the control plane that a request is for, if it is.
func below(prefix string, r *http.Request) (string, bool) {
	if r.Method == http.MethodConnect {
		return "", false
	}
	if ours(r) {
		return r.URL.Path, true
	}
	p := r.URL.Path
	if strings.Contains(p, "//") || strings.Contains(p, "/.") {
		p = path.Clean("/" + p) // as the data plane reads it
	}
	if rest, ok := strings.CutPrefix(p, prefix); ok && (rest == "" || rest[0] == '/') {
		return "/" + strings.TrimPrefix(rest, "/"), true
	}
	return "", false
}

// ours recognises what adit's own programs ask for, who know nothing of the prefix.
func ours(r *http.Request) bool {
	switch r.URL.Path {
	case "/connect":
		return websocket.IsWebSocketUpgrade(r) && slices.Contains(websocket.Subprotocols(r), tunnel.Subprotocol)
	case "/status":
		return len(r.Header[status.Header]) > 0
	case autotls.Path:
		return autotls.Asks(r)
	}
	return false
}

// Reserved reports whether a request for a clean path may be for the control plane that
// lives below prefix: only Handler can tell.
func Reserved(prefix, path string) bool {
	switch path {
	case "/connect", "/status", autotls.Path:
		return true
	}
	rest, ok := strings.CutPrefix(path, prefix)
	return ok && (rest == "" || rest[0] == '/')
}

// moved returns the request as the control plane on a port of its own would get it.
func moved(r *http.Request, to, addr string) *http.Request {
	out := new(http.Request)
	*out = *r
	u := *r.URL
	u.Path, u.RawPath = to, ""
	out.URL, out.RemoteAddr = &u, addr
	return out
}

// insecure refuses what would send the token in clear text. Who asks for the CA over
// connections whose TLS ended in front of us is told so by 404, see package autotls.
func insecure(w http.ResponseWriter, to string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	code := http.StatusForbidden
	if to == autotls.Path {
		code = http.StatusNotFound
	}
	w.WriteHeader(code)
	_, _ = io.WriteString(w, "the control plane of this server speaks TLS only: use wss:// (or https://); if TLS ends in front of the server, set AUTO_TLS=false there\n")
}

// controlWriter hands the bare connection to a websocket: what the data plane puts
// around it reads along for requests.
type controlWriter struct {
	http.ResponseWriter
	hijacked bool
}

func (w *controlWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	w.hijacked = true
	around, ok := conn.(interface{ NetConn() net.Conn })
	if !ok || rw.Reader.Buffered() > 0 { // sent ahead of the answer, which the handshake refuses
		return conn, rw, nil
	}
	conn = around.NetConn()
	return conn, bufio.NewReadWriter(bufio.NewReaderSize(conn, rw.Reader.Size()), bufio.NewWriterSize(conn, 1<<10)), nil
}

func (w *controlWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
