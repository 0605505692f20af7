//go:build unix

package e2e

import (
	"bufio"
	"crypto"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
)

// TestACMEChallenges gets a certificate by one kind of challenge, with the port of the other out of reach, and has
// visitors with curl verify it. A second start finds it.
func TestACMEChallenges(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		hide   func(*pebble) string
		plane  string
		scheme string
	}{
		{"http-01", func(p *pebble) string { return fmt.Sprint("HTTPS_PORT=", freeport.New(p.t)) }, "data plane", "http"},
		{"tls-alpn-01", func(p *pebble) string { return fmt.Sprint("PORT=", freeport.New(p.t)) }, "data plane TLS", "https"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := startPebble(t)
			dir := t.TempDir()
			env := p.env(dir, "One.test,two.test", tt.hide(p))
			s := startServer(t, env...)
			connect(t, s, "http://"+says(t, "hello"))
			for _, name := range []string{"one.test", "two.test"} {
				s.await("certificate issued", "host", name)
			}
			roots := p.roots()
			visit := func(s *server) {
				t.Helper()
				addr := s.addr("data plane TLS")
				for _, name := range []string{"one.test", "two.test"} {
					curl(t, "--cacert", roots, "--connect-to", name+":443:"+addr, "https://"+name+"/").want(t, 200, "hello")
				}
				leaf, err := leafFor(addr, "") // as a load balancer asks
				if err != nil || leaf.VerifyHostname("one.test") != nil {
					t.Errorf("without a name: %v %v", leaf, err)
				}
				must(t, refusesName(addr, "three.test"))
				curl(t, s.url("/")).want(t, 200, "hello")
			}
			visit(s)
			must(t, private(dir))
			leaf, err := leafFor(s.addr("data plane TLS"), "two.test")
			must(t, err)
			if got := s.metric(t, `adit_certificate_expiry_timestamp_seconds{name="two.test"}`); got != fmt.Sprint(float64(leaf.NotAfter.Unix())) {
				t.Errorf("the metric of the expiry says %s, the certificate %v", got, leaf.NotAfter)
			}
			for series, want := range map[string]string{"adit_acme_issued_total": "2", "adit_acme_failing": "0", `adit_acme_failures_total{reason="challenge"}`: "0"} {
				if got := s.metric(t, series); got != want {
					t.Errorf("%s = %q, want %s", series, got, want)
				}
			}
			orders := p.orders()
			s.stop()

			again := startServer(t, env...)
			connect(t, again, "http://"+says(t, "hello"))
			again.await("certificate loaded", "host", "one.test")
			again.await("certificate loaded", "host", "two.test")
			visit(again)
			must(t, presents(again.addr("data plane TLS"), "two.test", leaf))
			if got := p.orders(); got != orders {
				t.Errorf("%d certificates were asked for by the second start", got-orders)
			}
		})
	}
}

// TestACMERenewal has certificates that live for seconds renewed under a visitor who stays.
func TestACMERenewal(t *testing.T) {
	t.Parallel()
	p := newPebble(t, 12)
	p.start()
	s := startServer(t, p.env(t.TempDir(), "one.test")...)
	connect(t, s, "http://"+says(t, "hello"))
	s.await("certificate issued", "host", "one.test")
	addr := s.addr("data plane TLS")
	first, err := leafFor(addr, "one.test")
	must(t, err)
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, ServerName: "one.test"})
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(2*patience)))
	s.await("certificate renewed", "host", "one.test")
	eventually(t, func() error {
		leaf, err := leafFor(addr, "one.test")
		if err == nil && (leaf.Equal(first) || !leaf.NotAfter.After(first.NotAfter)) {
			err = fmt.Errorf("the certificate is that of %v, still", first.NotAfter)
		}
		return err
	})
	_, err = fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: one.test\r\n\r\n")
	must(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	must(t, err)
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("the visitor who stayed got %d", resp.StatusCode)
	}

	// Without its directory the server goes on with what it has, and says so once for each attempt.
	p.kill()
	e := s.await("certificate could not be renewed, the one before stays in use", "host", "one.test", "reason", "unreachable")
	if !strings.Contains(e.field("hint"), "LETSENCRYPT_ISSUER") {
		t.Errorf("logged %s", e.text)
	}
	must(t, answers(s.url("/"), "hello"))
	if got := s.metric(t, `adit_acme_failures_total{reason="unreachable"}`); got == "0" {
		t.Error("the failure is not counted")
	}
}

// TestACMEOnDemand has clients decide who gets a certificate, and visitors not.
func TestACMEOnDemand(t *testing.T) {
	t.Parallel()
	p := startPebble(t)
	dir := t.TempDir()
	s := startServer(t, p.env(dir, "on-demand")...)
	addr := s.addr("data plane TLS")
	must(t, refusesName(addr, "app.test"))
	up := "http://" + says(t, "hello")
	c := connect(t, s, fmt.Sprintf("app.test=%s,app.test/api=%[1]s,*.wild.test=%[1]s,*=%[1]s,127.0.0.1=%[1]s,under_score.test=%[1]s", up))
	s.await("certificate issued", "host", "app.test")
	roots := p.roots()
	curl(t, "--cacert", roots, "--connect-to", "app.test:443:"+addr, "https://app.test/").want(t, 200, "hello")
	mark := s.mark()
	for _, name := range []string{"other.test", "a.wild.test", "wild.test", "nobody.test", "", "x.app.test"} {
		must(t, refusesName(addr, name))
		must(t, answers(s.url("/"), "hello"))
		// Nor does asking as a directory would.
		if conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, ServerName: name, NextProtos: []string{"acme-tls/1"}}); err == nil {
			conn.Close()
			t.Errorf("%q: a challenge is answered", name)
		}
		code, body, err := get(s.url("/.well-known/acme-challenge/x"), name)
		if err != nil || code != 200 || body != "hello" {
			t.Errorf("%q: a challenge of somebody else's: %d %q %v", name, code, body, err)
		}
	}
	if more := s.log.from(mark); len(more) > 0 {
		t.Errorf("visitors make the server log: %s", more[0].text)
	}

	// Another client, another host; the first client leaves and is missed by nobody's certificate.
	connect(t, s, "late.test="+up)
	s.await("certificate issued", "host", "late.test")
	must(t, refusesName(addr, "other.test"))
	if got := p.orders(); got != 2 {
		t.Errorf("%d certificates were asked for, want 2", got)
	}
	c.stop()
	curl(t, "--cacert", roots, "--connect-to", "app.test:443:"+addr, "https://app.test/").want(t, 503, "")
	s.stop()

	// A server that starts again takes what it has when the client comes.
	again := startServer(t, p.env(dir, "on-demand")...)
	must(t, refusesName(again.addr("data plane TLS"), "app.test"))
	connect(t, again, "app.test="+up)
	again.await("certificate loaded", "host", "app.test")
	if got := p.orders(); got != 2 {
		t.Errorf("%d certificates were asked for after the start, want 2", got)
	}
}

// TestACMEHostNotAllowed has clients serve more hosts than there are to be certificates for.
func TestACMEHostNotAllowed(t *testing.T) {
	t.Parallel()
	p := startPebble(t)
	s := startServer(t, p.env(t.TempDir(), "one.test")...)
	up := "http://" + says(t, "hello")
	connect(t, s, fmt.Sprintf("one.test=%s,two.test=%[1]s", up))
	s.await("certificate issued", "host", "one.test")
	addr := s.addr("data plane TLS")
	mark := s.mark()
	for range 5 {
		must(t, refusesName(addr, "two.test"))
	}
	if more := s.log.from(mark); len(more) > 0 {
		t.Errorf("visitors make the server log: %s", more[0].text)
	}
	code, body, err := get(s.url("/"), "two.test")
	if err != nil || code != 200 || body != "hello" {
		t.Errorf("without TLS: %d %q %v", code, body, err)
	}
	if got := p.orders(); got != 1 {
		t.Errorf("%d certificates were asked for, want 1", got)
	}
}

// TestACMEDirectoryDown starts a server before its directory.
func TestACMEDirectoryDown(t *testing.T) {
	t.Parallel()
	p := newPebble(t, 30*24*3600)
	s := startServer(t, p.env(t.TempDir(), "one.test")...)
	connect(t, s, "http://"+says(t, "hello"))
	must(t, answers(s.url("/"), "hello"))
	must(t, refusesName(s.addr("data plane TLS"), "one.test"))
	e := s.await("certificate could not be had", "host", "one.test", "reason", "unreachable")
	if e.field("retry_in") == "" || !strings.Contains(e.field("error"), "connection refused") || !strings.Contains(e.field("hint"), "LETSENCRYPT_ISSUER") {
		t.Errorf("logged %s", e.text)
	}
	if got := s.metric(t, "adit_acme_failing"); got != "1" {
		t.Errorf("adit_acme_failing = %q", got)
	}
	if code, body, err := get("http://"+s.metrics+"/readyz", ""); err != nil || code != 200 {
		t.Errorf("readyz: %d %s %v", code, body, err)
	}
	p.start()
	s.await("certificate issued", "host", "one.test")
	curl(t, "--cacert", p.roots(), "--connect-to", "one.test:443:"+s.addr("data plane TLS"), "https://one.test/").want(t, 200, "hello")
	if got := s.metric(t, "adit_acme_failing"); got != "0" {
		t.Errorf("adit_acme_failing = %q", got)
	}
	if got := s.metric(t, `adit_acme_failures_total{reason="unreachable"}`); got == "0" {
		t.Error("the failure is not counted")
	}
}

// TestACMEFailures names what is wrong.
func TestACMEFailures(t *testing.T) {
	t.Parallel()
	p := startPebble(t)
	elsewhere := newAuthority(t)
	for _, tt := range []struct {
		name   string
		env    []string
		reason string
		hint   string
	}{
		{"another ACME_CA", []string{"ACME_CA=" + elsewhere.pem}, "untrusted", "ACME_CA"},
		{"no ACME_CA", []string{"ACME_CA="}, "untrusted", "ACME_CA"},
		{"ports that do not arrive", nil, "challenge", "DNS"},
		{"no directory at all", []string{"LETSENCRYPT_ISSUER=https://" + p.addr + "/nowhere"}, "other", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, append(p.env(t.TempDir(), "one.test", "PORT=0", "HTTPS_PORT=0"), tt.env...)...)
			connect(t, s, "http://"+says(t, "hello"))
			e := s.await("certificate could not be had")
			if e.field("reason") != tt.reason || !strings.Contains(e.field("hint"), tt.hint) {
				t.Errorf("logged %s", e.text)
			}
			must(t, answers(s.url("/"), "hello"))
			must(t, refusesName(s.addr("data plane TLS"), "one.test"))
			if got := s.metric(t, `adit_acme_failures_total{reason="`+tt.reason+`"}`); got == "0" || got == "" {
				t.Errorf("counted %q", got)
			}
		})
	}
}

// TestACMEFolder loses the folder under a running server, and gives it back.
func TestACMEFolder(t *testing.T) {
	t.Parallel()
	p := startPebble(t)
	dir := filepath.Join(t.TempDir(), "made", "for", "it")
	s := startServer(t, p.env(dir, "on-demand")...)
	must(t, os.Rename(dir, dir+"-away"))
	must(t, os.WriteFile(dir, nil, 0o600))
	connect(t, s, "one.test=http://"+says(t, "hello"))
	e := s.await("certificate could not be had", "host", "one.test", "reason", "storage")
	if !strings.Contains(e.field("hint"), "LETSENCRYPT_DIR") {
		t.Errorf("logged %s", e.text)
	}
	if got := p.orders(); got != 0 {
		t.Errorf("%d certificates were asked for that could not be kept", got)
	}
	must(t, os.Remove(dir))
	must(t, os.Rename(dir+"-away", dir))
	s.await("certificate issued", "host", "one.test")
	s.stop()

	// One that is cut off, as by a full disk, is got again.
	kept, err := filepath.Glob(filepath.Join(dir, "certificates", "*", "one.test", "one.test.key"))
	if err != nil || len(kept) != 1 {
		t.Fatalf("the key is in %q %v", kept, err)
	}
	must(t, os.Truncate(kept[0], 20))
	again := startServer(t, p.env(dir, "one.test")...)
	again.await("the certificate that was kept cannot be used, another one is got", "host", "one.test")
	again.await("certificate issued", "host", "one.test")
	if _, err := leafFor(again.addr("data plane TLS"), "one.test"); err != nil {
		t.Error(err)
	}
}

// TestACMEStaple has the server say that its certificate has not been revoked.
func TestACMEStaple(t *testing.T) {
	t.Parallel()
	var p *pebble
	responder := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		request, err := ocsp.ParseRequest(body)
		if err != nil {
			t.Error(err)
			return
		}
		pair, err := tls.X509KeyPair([]byte(p.manage("intermediates")), []byte(p.manage("intermediate-keys")))
		if err != nil {
			t.Error(err)
			return
		}
		answer, err := ocsp.CreateResponse(pair.Leaf, pair.Leaf, ocsp.Response{
			Status: ocsp.Good, SerialNumber: request.SerialNumber, ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(72 * time.Hour),
		}, pair.PrivateKey.(crypto.Signer))
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(answer)
	})
	p = newPebble(t, 30*24*3600, func(p *pebble) { p.ocsp = "http://" + responder })
	p.start()
	s := startServer(t, p.env(t.TempDir(), "one.test")...)
	s.await("certificate issued", "host", "one.test")
	out, err := exec.Command(needProgram(t, "openssl", "openssl"), "s_client", "-connect", s.addr("data plane TLS"), "-servername", "one.test",
		"-CAfile", p.roots(), "-verify_return_error", "-verify_hostname", "one.test", "-status").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "OCSP Response Status: successful") || !strings.Contains(string(out), "Cert Status: good") {
		t.Errorf("openssl s_client: %v\n%s", err, out)
	}
}

// TestACMERedirect has visitors sent to HTTPS once there is a certificate, and not before.
func TestACMERedirect(t *testing.T) {
	t.Parallel()
	p := newPebble(t, 30*24*3600)
	s := startServer(t, p.env(t.TempDir(), "one.test", "HSTS=24h")...)
	connect(t, s, "http://"+upstream(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s over %s", r.Method, r.URL, body, r.Header.Get("X-Forwarded-Proto"))
	}))
	plain, secure := s.data, s.addr("data plane TLS")
	to := []string{"--connect-to", "one.test:80:" + plain, "--connect-to", "one.test:443:" + secure, "--connect-to", "one.test:" + port(secure) + ":" + secure}
	curl(t, append(to, "http://one.test/a")...).want(t, 200, "GET /a  over http")
	p.start()
	s.await("certificate issued", "host", "one.test")

	answer := curl(t, append(to, "http://one.test/a?b")...)
	answer.want(t, 308, "this is served with HTTPS")
	if got := answer.header.Get("Location"); got != "https://one.test/a?b" {
		t.Errorf("sent to %s", got)
	}
	if answer.header.Get("Strict-Transport-Security") != "" {
		t.Error("HSTS is sent without TLS")
	}
	follow := append(to, "-L", "--cacert", p.roots())
	answer = curl(t, append(follow, "-d", "form", "http://one.test/a?b")...)
	answer.want(t, 200, "POST /a?b form over https")
	if got := answer.header.Get("Strict-Transport-Security"); got != "max-age=86400" {
		t.Errorf("HSTS: %q", got)
	}
	curl(t, append(follow, "--connect-to", "one.test:"+port(plain)+":"+plain, "http://one.test:"+port(plain)+"/a")...).want(t, 200, "GET /a  over https")
	curl(t, append(to, "http://one.test/.well-known/acme-challenge/of-the-upstream")...).want(t, 308, "")
	curl(t, s.url("/a")).want(t, 200, "GET /a  over http") // of this host there is none
}

// TestACMEAndOwn has certificates from both.
func TestACMEAndOwn(t *testing.T) {
	t.Parallel()
	p := startPebble(t)
	ca := newAuthority(t)
	own, cert, key := ca.issue(t, "own.test", "127.0.0.1")
	s := startServer(t, p.env(t.TempDir(), "own.test,one.test", "TLS_CERT="+cert, "TLS_KEY="+key)...)
	connect(t, s, "http://"+says(t, "hello"), "TLS_CA="+ca.pem)
	s.await("certificate issued", "host", "one.test")
	addr := s.addr("data plane TLS")
	curl(t, "--cacert", p.roots(), "--connect-to", "one.test:443:"+addr, "https://one.test/").want(t, 200, "hello")
	for _, name := range []string{"own.test", "other.test", ""} {
		must(t, presents(addr, name, own))
	}
	if got := p.orders(); got != 1 {
		t.Errorf("%d certificates were asked for, want 1", got)
	}
}

// TestACMEOnePort has clients and visitors share the port of HTTPS.
func TestACMEOnePort(t *testing.T) {
	t.Parallel()
	p := startPebble(t)
	port, token := fmt.Sprint(p.tls), newToken()
	s := &server{program: start(t, "server", environment(p.env(t.TempDir(), "localhost", "TOKEN="+token, "CONTROL_PORT="+port)...)...), token: token}
	s.data, s.control, s.metrics = s.addr("data plane"), s.addr("data plane TLS"), s.addr("metrics")
	s.await("certificate issued", "host", "localhost")
	up := "http://" + says(t, "hello")
	roots := p.roots()
	pem, err := os.ReadFile(roots)
	must(t, err)
	c := startClient(t, s, up, "URL=wss://localhost:"+port, "TLS_CA="+string(pem)) // by the name, with the public certificate
	c.await("connected")
	c = startClient(t, s, up) // by the address, with auto-TLS
	c.await("connected")
	curl(t, "--cacert", roots, "https://localhost:"+port+"/").want(t, 200, "hello")
}

// TestACMEOnlyPort has clients and visitors, with TLS and without, on a single port.
func TestACMEOnlyPort(t *testing.T) {
	t.Parallel()
	for name, auto := range map[string]string{"auto-TLS": "AUTO_TLS=true", "AUTO_TLS=false": "AUTO_TLS=false"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPebble(t, 30*24*3600, func(p *pebble) { p.tls = p.http })
			p.start()
			port, token := fmt.Sprint(p.http), newToken()
			env := environment(p.env(t.TempDir(), "localhost", "TOKEN="+token, "CONTROL_PORT=PORT", "HTTPS_PORT=", auto)...)
			s := &server{program: start(t, "server", env...), token: token}
			s.control = s.addr("data plane TLS")
			s.await("certificate issued", "host", "localhost")
			roots := p.roots()
			startClient(t, s, "http://"+says(t, "hello"), "URL=wss://localhost:"+port, "TLS_CA_FILE="+roots).await("connected")
			curl(t, "--cacert", roots, "https://localhost:"+port+"/").want(t, 200, "hello")
			curl(t, "--cacert", roots, "-L", "http://localhost:"+port+"/").want(t, 200, "hello") // sent to the same port
			curl(t, "http://127.0.0.1:"+port+"/").want(t, 200, "hello")
		})
	}
}

// TestACMEDirectoryForgets has the directory lose the account.
func TestACMEDirectoryForgets(t *testing.T) {
	t.Parallel()
	p := startPebble(t)
	s := startServer(t, p.env(t.TempDir(), "on-demand")...)
	up := "http://" + says(t, "hello")
	connect(t, s, "one.test="+up)
	s.await("certificate issued", "host", "one.test")
	p.kill()
	p.start()
	connect(t, s, "two.test="+up)
	s.await("certificate issued", "host", "two.test")
	if got := p.orders(); got != 1 {
		t.Errorf("%d certificates were asked for of the new directory, want 1", got)
	}
}
