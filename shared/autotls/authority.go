package autotls

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Authority is the server's own CA together with the certificate that it signs for the control plane. It is safe
// for concurrent use.
type Authority struct {
	// Refused, if set, is called for every request to Handler whose proof belongs to no token: the client has
	// another token. It must be set before the handler is used.
	Refused func(r *http.Request)

	dir string
	dns []string
	ips []net.IP

	mu   sync.Mutex
	ca   *authority
	leaf *tls.Certificate
}

// New returns the CA that is kept in dir as ca.crt and ca.key, and makes it if neither file exists or it has
// expired; an empty dir keeps it in memory, so that each start has another. Only its owner may read ca.key, while
// ca.crt is for everyone who verifies the server. A CA in dir that cannot be read or used is an error and is left
// as it is.
//
// The certificate for the control plane is valid for names, each a host name, *.host name or IP address, for
// localhost, 127.0.0.1, ::1 and for the name of this machine. Clients that use Fetch do not look at the names;
// others, like curl --cacert, do.
func New(dir string, names []string) (*Authority, error) {
	a := &Authority{dir: dir}
	a.addName("localhost")
	a.addName("127.0.0.1")
	a.addName("::1")
	if host, err := os.Hostname(); err == nil {
		a.addName(host) // a name that cannot stand in a certificate is left out
	}
	for _, name := range names {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		if !a.addName(name) {
			return nil, fmt.Errorf("%q is neither a host name nor an IP address (no scheme or port; "+
				"international names in their xn-- form)", name)
		}
	}
	if err := a.open(time.Now()); err != nil {
		return nil, err
	}
	if _, err := a.certificate(nil); err != nil {
		return nil, err
	}
	return a, nil
}

// open loads the CA, or makes and keeps one.
func (a *Authority) open(now time.Time) (err error) {
	var old *authority
	if a.dir != "" {
		if old, err = load(a.dir); err != nil {
			return err
		}
		if old != nil && !old.expired(now) {
			a.ca = old
			return nil
		}
	}
	if a.ca, err = makeAuthority(now); err != nil || a.dir == "" {
		return err
	}
	return save(a.dir, a.ca, old != nil)
}

var hostName = regexp.MustCompile(`^(\*\.)?([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?$`)

// allDigits matches what would be taken for an IPv4 address, and is not a good one.
var allDigits = regexp.MustCompile(`(^|\.)[0-9]+$`)

func (a *Authority) addName(name string) bool {
	if ip := net.ParseIP(name); ip != nil {
		if !slices.ContainsFunc(a.ips, ip.Equal) {
			a.ips = append(a.ips, ip)
		}
		return true
	}
	if len(name) > 253 || !hostName.MatchString(name) || allDigits.MatchString(name) {
		return false
	}
	if name = strings.ToLower(name); !slices.Contains(a.dns, name) {
		a.dns = append(a.dns, name)
	}
	return true
}

// certificate is tls.Config.GetCertificate. Certificates are made here when they are due, so no goroutine is
// needed to keep them fresh: it takes well under a millisecond, and only one in two months.
func (a *Authority) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if a.ca.expired(now) {
		ca, err := makeAuthority(now)
		if err != nil {
			return nil, err
		}
		if a.dir != "" {
			// Better a CA that the next start will not find than none: New tells why it cannot be kept.
			_ = save(a.dir, ca, true)
		}
		a.ca, a.leaf = ca, nil
	}
	if a.leaf != nil {
		l := a.leaf.Leaf
		lasts := now.Add(leafMargin).Before(l.NotAfter) || l.NotAfter.Equal(a.ca.cert.NotAfter)
		if lasts && !now.Before(l.NotBefore) { // before: the clock was wrong when it was made
			return a.leaf, nil
		}
	}
	leaf, err := a.ca.issue(now, a.dns, a.ips)
	if err != nil {
		return nil, err
	}
	a.leaf = leaf
	return leaf, nil
}

// TLSConfig returns a configuration for the control plane: TLS 1.2 or later, HTTP/1.1 (which websockets need),
// and the certificate of the moment, which is renewed without a restart.
func (a *Authority) TLSConfig() *tls.Config { return serverConfig(a.certificate) }

func serverConfig(get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, GetCertificate: get}
}

// CertificatePEM returns the certificate of the CA.
func (a *Authority) CertificatePEM() []byte {
	return encode("CERTIFICATE", a.certOfCA().Raw)
}

// NotAfter returns when the CA expires. The certificates that it signs are renewed before they do.
func (a *Authority) NotAfter() time.Time { return a.certOfCA().NotAfter }

func (a *Authority) certOfCA() *x509.Certificate {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ca.cert
}
