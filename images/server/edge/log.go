package edge

import (
	"net/http"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/images/server/routing"
)

const (
	// maxLoggedPath, maxLoggedAgent and maxLoggedMethod bound what a visitor can have
	// written to the access log, in bytes.
	maxLoggedPath   = 512
	maxLoggedAgent  = 256
	maxLoggedMethod = 16
)

// visit is what the access log has of an exchange. There is nothing in it that a visitor
// may want to keep to themselves but what they came for: no query, no cookie, no credential.
type visit struct {
	visitor, method, path string
	proto, scheme, agent  string
	route                 string
	code                  int
	backend               *routing.Backend // nil: it did not come so far
	start                 time.Time
	received, sent        int64 // bytes of the bodies
}

// write logs the exchange, which has ended now.
func (v *visit) write(log *zerolog.Logger) {
	e := log.Log().Str("visitor", v.visitor).Str("method", clip(v.method, maxLoggedMethod)).Str("host", v.route).
		Str("path", clip(v.path, maxLoggedPath)).Int("status", v.code).Int64("received", v.received).Int64("sent", v.sent).
		Float64("seconds", time.Since(v.start).Round(time.Microsecond).Seconds()).Str("protocol", v.proto).Str("scheme", v.scheme)
	if v.agent != "" {
		e = e.Str("user_agent", clip(v.agent, maxLoggedAgent))
	}
	if v.backend != nil {
		e = e.Str("client_id", v.backend.ClientID).Str("upstream", v.backend.Upstream.String())
	}
	e.Msg("request")
}

// visit returns the exchange as it is now.
func (x *exchange) visit() *visit {
	if x.visitor.first == "" { // it was refused before anybody asked
		x.visitor = x.e.visitorOf(x.r, x.conn.secure)
	}
	return &visit{
		visitor: x.visitor.first, method: x.r.Method, path: x.r.URL.EscapedPath(), proto: x.r.Proto, scheme: x.visitor.proto,
		agent: x.r.UserAgent(), route: x.name, code: x.code, backend: x.backend, start: x.start,
		received: x.body.read.Load(), sent: x.written,
	}
}

// visit returns the exchange that the fast path has just carried.
func (c *guardConn) visit(route *routing.Route, backend *routing.Backend, start time.Time) *visit {
	q, p := &c.fast.request, &c.fast.response
	return &visit{
		visitor: c.fast.visitor, method: q.method, path: string(q.path), proto: "HTTP/1.1", scheme: c.fast.scheme,
		agent: q.field("user-agent"), route: route.Name(), code: p.code, backend: backend, start: start,
		received: int64(len(q.body)), sent: int64(p.content),
	}
}

// clip shortens what a visitor has sent.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// write writes to the visitor's body, and counts.
func (x *exchange) write(p []byte) (int, error) {
	n, err := x.w.Write(p)
	if x.r.Method != http.MethodHead {
		x.written += int64(n)
	}
	return n, err
}
