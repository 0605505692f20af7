package tcp

import (
	"net"
	"time"

	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/images/server/routing"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// record is what the access log has of a connection.
type record struct {
	visitor        Visitor
	port           int
	backend        *routing.Backend // nil: none took it
	start          time.Time
	received, sent int64
	// reason is "end", "broken", or why the connection was refused, as the metric has it.
	reason string
}

func newRecord(pt *port, conn net.Conn) *record {
	return &record{port: pt.number, start: time.Now(), visitor: Visitor{Addr: conn.RemoteAddr(), Local: conn.LocalAddr()}}
}

// ended notes the end of a connection that was carried.
func (v *record) ended(st *tunnel.Stream, err error) {
	v.sent, v.received = st.Carried()
	if v.reason = "end"; err != nil {
		v.reason = "broken"
	}
}

// write logs the connection, which has ended now, if there is an access log.
func (v *record) write(log *zerolog.Logger) {
	if log == nil {
		return
	}
	host := v.visitor.Addr.String()
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	e := log.Log().Str("visitor", host).Int("port", v.port).Int64("received", v.received).Int64("sent", v.sent).
		Float64("seconds", time.Since(v.start).Round(time.Microsecond).Seconds()).Str("protocol", "tcp").Str("reason", v.reason)
	if v.backend != nil {
		e = e.Str("client_id", v.backend.ClientID).Str("upstream", v.backend.Upstream.String())
	}
	e.Msg("connection")
}
