package edge

import (
	"net/http"
	"strings"

	"github.com/adit-tunnel/adit/images/server/routing"
)

// HTTPS is what visitors are told about it.
type HTTPS struct {
	// Redirect reports whether visitors of a clean host who come without TLS are sent to HTTPS; told says that it is
	// a trusted proxy who says so. nil: they are served.
	Redirect func(host string, told bool) bool
	// Port is where HTTPS is for visitors who name the port of HTTP: without one they come to the usual port, and
	// are sent to the usual port. "" or "443" is that, too.
	Port string
	// HSTS is the Strict-Transport-Security of responses over HTTPS, unless the upstream has its own; "": none.
	HSTS string
}

// toHTTPS answers a visitor who is to come back with HTTPS (RFC 9110 section 15.4.9). It reports false if he is to be
// served. The answer is not kept by anybody (no-store): what is wrong today may be right tomorrow.
func (x *exchange) toHTTPS(host string) bool {
	e := x.e
	if e.https.Redirect == nil || host == "" || !strings.HasPrefix(x.r.URL.Path, "/") {
		return false
	}
	v := e.visitorOf(x.r, x.conn.secure)
	if v.proto != "http" || !e.https.Redirect(host, v.told) {
		return false
	}
	public := v.host
	if clean, err := routing.CleanHost(public); err == nil && clean != "" {
		host = clean
	}
	if port := e.https.Port; port != "" && port != "443" && strings.LastIndexByte(public, ':') > strings.LastIndexByte(public, ']') {
		host += ":" + port
	}
	x.location = "https://" + host + x.r.URL.RequestURI()
	x.refuse(onlyHTTPS)
	return true
}

// setHSTS has the visitor's browser come with HTTPS from now on. Without TLS the field must not be sent (RFC 6797
// section 7.2).
func (x *exchange) setHSTS(to http.Header) {
	if x.e.https.HSTS == "" || len(to["Strict-Transport-Security"]) > 0 {
		return
	}
	if v := x.e.visitorOf(x.r, x.conn.secure); v.proto == "https" {
		to["Strict-Transport-Security"] = []string{x.e.https.HSTS}
	}
}
