//go:build unix

package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
)

// pebble is an ACME directory of the makers of Let's Encrypt's, for which every name leads to this machine.
type pebble struct {
	*program
	t          testing.TB
	ca         *authority // of the directory's own certificate
	addr       string
	management string
	config     string
	resolver   string
	ocsp       string // where the certificates' revocation is answered, "" for nowhere
	http, tls  int    // the ports on which it looks for who asks for a certificate
}

// newPebble returns a directory that has not been started. Certificates are valid for so many seconds.
func newPebble(t testing.TB, validity int, change ...func(*pebble)) *pebble {
	t.Helper()
	needProgram(t, "pebble", "pebble")
	p := &pebble{t: t, ca: newAuthority(t), http: freeport.New(t), tls: freeport.New(t), resolver: resolver(t)}
	_, p.addr = privatePort(t)
	_, p.management = privatePort(t)
	for _, f := range change {
		f(p)
	}
	_, cert, key := p.ca.issue(t, "127.0.0.1")
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": p.addr, "managementListenAddress": p.management,
		"certificate": write(t, "pebble.crt", cert), "privateKey": write(t, "pebble.key", key),
		"httpPort": p.http, "tlsPort": p.tls, "certificateValidityPeriod": validity, "ocspResponderURL": p.ocsp,
	}})
	must(t, err)
	p.config = write(t, "pebble.json", string(config))
	return p
}

// startPebble returns a directory whose certificates are valid for a month.
func startPebble(t testing.TB) *pebble {
	t.Helper()
	p := newPebble(t, 30*24*3600)
	p.start()
	return p
}

// start starts the directory, with new authorities and nothing in its memory.
func (p *pebble) start() {
	p.t.Helper()
	path := needProgram(p.t, "pebble", "pebble")
	p.program = &program{
		t: p.t, name: "pebble", foreign: true, cmd: exec.Command(path, "-config", p.config, "-dnsserver", p.resolver),
		// No waiting, a nonce in twenty refused, and challenges always looked at.
		env: []string{"PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=5", "PEBBLE_AUTHZREUSE=0", "PEBBLE_VA_ALWAYS_VALID=0"},
	}
	p.run()
	running := p.program
	p.t.Cleanup(func() { // it has no way to end well
		select {
		case <-running.done:
		default:
			running.kill()
		}
	})
	eventually(p.t, func() error {
		conn, err := net.Dial("tcp", p.addr)
		if err == nil {
			conn.Close()
		}
		return err
	})
}

// env is the environment of a server that gets its certificates here and keeps them in dir.
func (p *pebble) env(dir, domains string, more ...string) []string {
	return append([]string{
		"LETSENCRYPT_DOMAINS=" + domains, "LETSENCRYPT_ISSUER=https://" + p.addr + "/dir", "LETSENCRYPT_EMAIL=admin@example.com",
		"LETSENCRYPT_DIR=" + dir, "ACME_CA=" + p.ca.pem, fmt.Sprint("PORT=", p.http), fmt.Sprint("HTTPS_PORT=", p.tls),
	}, more...)
}

// roots returns a file with the authority of the certificates that are issued.
func (p *pebble) roots() string {
	p.t.Helper()
	return write(p.t, "roots.pem", p.manage("roots"))
}

// manage returns the first thing of a kind that the directory has.
func (p *pebble) manage(kind string) string {
	p.t.Helper()
	code, body, err := get("https://"+p.management+"/"+kind+"/0", "")
	if err != nil || code != 200 {
		p.t.Fatalf("%s of pebble: %d %v", kind, code, err)
	}
	return body
}

// orders returns how many certificates were asked for.
func (p *pebble) orders() int { return strings.Count(p.log.String(), "Added order ") }

// resolver answers every question for an address with 127.0.0.1, until the test ends.
func resolver(t testing.TB) (addr string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	done := make(chan struct{})
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	go func() {
		defer close(done)
		buf := make([]byte, 4<<10)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.Authoritative, m.Additionals = true, true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1}, Body: &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
				}}
			}
			if b, err := m.Pack(); err == nil {
				_, _ = conn.WriteTo(b, from)
			}
		}
	}()
	return conn.LocalAddr().String()
}

// leafFor returns the certificate that who asks for the name gets, or why there is none.
func leafFor(addr, name string) (*x509.Certificate, error) {
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, ServerName: name})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0], nil
}

// refusesName returns nil if the TLS port has no certificate for who asks for the name, and says so.
func refusesName(addr, name string) error {
	leaf, err := leafFor(addr, name)
	if err == nil {
		return fmt.Errorf("%q gets a certificate for %v", name, leaf.DNSNames)
	}
	if !strings.Contains(err.Error(), "unrecognized name") {
		return fmt.Errorf("%q: %w", name, err)
	}
	return nil
}

// metric returns the value of a series of the server, "" if there is none.
func (s *server) metric(t testing.TB, series string) string {
	t.Helper()
	_, body, err := get("http://"+s.metrics+"/metrics", "")
	must(t, err)
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// private reports what in the folder others than its owner may read.
func private(dir string) error {
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && strings.HasSuffix(path, ".key") && info.Mode().Perm()&0o077 != 0 {
			err = fmt.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
}
