package main

import (
	"context"
	"net"
	"net/http"
	"strings"

	"github.com/adit-tunnel/adit/images/server/acme"
	"github.com/adit-tunnel/adit/images/server/control"
	"github.com/adit-tunnel/adit/images/server/edge"
	"github.com/adit-tunnel/adit/images/server/oneport"
	"github.com/adit-tunnel/adit/images/server/proxy"
	"github.com/adit-tunnel/adit/images/server/tcp"
)

// dataServer returns the server of a port of visitors. On a shared one clients come to the
// control plane by it, and the challenges of an ACME directory are answered on all.
func dataServer(ctx context.Context, cfg *settings, bound ports, p dataPort, web *edge.Edge, plane *control.Control, certs *certificates) *http.Server {
	srv := web.Server(ctx, p.secure)
	if certs.acme != nil {
		srv.Handler = certs.acme.Handler(srv.Handler)
	}
	if p.shared {
		data := srv.Handler
		srv.ConnState = bound.pending.Track
		srv.Handler = oneport.Handler(oneport.Config{
			Path: cfg.ControlPath, Control: plane, Address: web.Address, Open: cfg.controlTLS() && !p.secure,
			Data: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				bound.pending.Release(web.Conn(r)) // a visitor's
				data.ServeHTTP(w, r)
			}),
		})
	}
	return srv
}

// reservedPaths tells the paths that requests may have which are not, or not all, for
// upstreams: those to the control plane on a shared port, and challenges. It is nil if
// there are none.
func reservedPaths(cfg *settings) func(path string) bool {
	prefix, challenges := cfg.reservedPath(), cfg.Domains.isSet()
	if prefix == "" && !challenges {
		return nil
	}
	return func(path string) bool {
		return challenges && strings.HasPrefix(path, acme.ChallengePath) || prefix != "" && oneport.Reserved(prefix, path)
	}
}

// visitorReader returns what reads the PROXY headers of TCP connections, or nil.
func visitorReader(cfg *settings) func(net.Conn) (tcp.Visitor, error) {
	if !cfg.ProxyProtocol {
		return nil
	}
	return proxy.Reader(cfg.TrustedProxies.Contains)
}
