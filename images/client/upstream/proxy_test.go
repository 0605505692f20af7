package upstream

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"

	"github.com/adit-tunnel/adit/shared/tunnel"
)

// heard is what an upstream that wants a PROXY header gets.
type heard struct {
	header *proxyproto.Header
	rest   string
}

// reads returns a handler that reads a header, and what follows, over TLS or not.
func reads(into chan<- heard, secure bool) func(net.Conn) {
	return func(c net.Conn) {
		br := bufio.NewReader(c)
		h, _ := proxyproto.Read(br)
		behind := net.Conn(&buffered{c, br})
		if secure {
			behind = tls.Server(behind, &tls.Config{Certificates: []tls.Certificate{private.certificate("127.0.0.1")}})
		}
		rest, _ := io.ReadAll(behind)
		into <- heard{h, string(rest)}
	}
}

// buffered is a connection of which something was read.
type buffered struct {
	net.Conn
	r io.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

func TestProxyHeader(t *testing.T) {
	four := tunnel.Target{Visitor: "192.0.2.1:1000", Local: "192.0.2.2:443"}
	six := tunnel.Target{Visitor: "[2001:db8::1]:1000", Local: "[2001:db8::2]:443"}
	for _, c := range []struct {
		name     string
		target   tunnel.Target
		from, to string
	}{
		{"IPv4", four, four.Visitor, four.Local},
		{"IPv6", six, six.Visitor, six.Local},
		{"a visitor without a port", tunnel.Target{Visitor: "192.0.2.1:0", Local: four.Local}, "192.0.2.1:0", four.Local},
		{"nothing known", tunnel.Target{}, "", ""},
		{"only the visitor known", tunnel.Target{Visitor: four.Visitor}, "", ""},
		{"no address", tunnel.Target{Visitor: "/run/visitor", Local: "@"}, "", ""},
	} {
		for _, version := range []string{"v1", "v2"} {
			for _, way := range []struct {
				text, network string
			}{
				{"2222=ADDR?proxy=", "tcp"},
				{"http://ADDR?proxy=", "tcp"},
				{"unix://ADDR?proxy=", "unix"},
				{"https://ADDR?insecure=true&proxy=", "tcp"}, // before TLS
			} {
				t.Run(c.name+" "+version+" "+way.text[:5], func(t *testing.T) {
					got := make(chan heard, 1)
					secure := strings.HasPrefix(way.text, "https")
					text := strings.Replace(way.text, "ADDR", listen(t, way.network, reads(got, secure)), 1) + version
					conn, err := Dialer{Timeout: patience}.Dial(t.Context(), parse(t, text), c.target)
					must(t, err)
					must(t, second(io.WriteString(conn, "hello")))
					must(t, conn.Close())
					h := within(t, got)
					if h.header == nil || h.rest != "hello" || "v"+string('0'+h.header.Version) != version {
						t.Fatalf("got %+v", h)
					}
					if c.from == "" {
						if !h.header.Command.IsLocal() || h.header.TransportProtocol != proxyproto.UNSPEC {
							t.Errorf("got %+v", h.header)
						}
						return
					}
					if h.header.Command.IsLocal() || h.header.SourceAddr.String() != c.from || h.header.DestinationAddr.String() != c.to {
						t.Errorf("got %+v", h.header)
					}
				})
			}
		}
	}
}
