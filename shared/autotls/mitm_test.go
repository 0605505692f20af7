package autotls

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/gorilla/websocket"
)

// These tests put someone between client and server who sees and may change every byte but does not know the
// token. Each first shows that the same client does reach a server without him, and sends the token there.

// A man in the middle who ends TLS with a CA of his own and answers in all the ways he can think of.
func TestManInTheMiddleForgesAnswer(t *testing.T) {
	t.Parallel()
	own := newAuthority(t, "")
	der := own.certOfCA().Raw
	tests := []struct {
		name  string
		macs  func(nonce []byte, proof string) []string
		text  string
		parts int // certificates in the answer; 0: one
	}{
		{name: "no HMAC", text: "no HMAC", macs: func([]byte, string) []string { return nil }},
		{name: "empty HMAC", text: "HMAC is wrong", macs: func([]byte, string) []string { return []string{""} }},
		{name: "not hexadecimal", text: "not hexadecimal", macs: func([]byte, string) []string { return []string{"zz"} }},
		{name: "random HMAC", text: "HMAC is wrong", macs: func([]byte, string) []string {
			b := make([]byte, sha256.Size)
			rand.Read(b)
			return []string{hex.EncodeToString(b)}
		}},
		{name: "HMAC with a guessed token", text: "HMAC is wrong", macs: func(nonce []byte, _ string) []string {
			return []string{hex.EncodeToString(answerOf("a-guess-at-the-token", nonce, der))}
		}},
		{name: "HMAC with an empty key", text: "HMAC is wrong", macs: func(nonce []byte, _ string) []string {
			return []string{hex.EncodeToString(answerOf("", nonce, der))}
		}},
		{name: "the client's proof turned back", text: "HMAC is wrong", macs: func(_ []byte, proof string) []string {
			return []string{proof}
		}},
		{name: "many guesses at once", text: "no HMAC", macs: func(nonce []byte, _ string) []string {
			return []string{hex.EncodeToString(answerOf("guess-1", nonce, der)), hex.EncodeToString(answerOf("guess-2", nonce, der))}
		}},
		{name: "more certificates", parts: 2, text: "not one certificate", macs: func([]byte, string) []string { return []string{"00"} }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			mitm := serve(t, own.TLSConfig(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				nonce, _ := hex.DecodeString(r.URL.Query().Get("nonce"))
				if len(nonce) != nonceSize {
					t.Errorf("nonce of %d bytes", len(nonce))
				}
				for _, mac := range tt.macs(nonce, r.Header.Get(proofHeader)) {
					w.Header().Add(hmacHeader, mac)
				}
				for range max(1, tt.parts) {
					w.Write(own.CertificatePEM())
				}
			}))
			config, err := Fetch(t.Context(), mitm.wss(), tokenA, nil)
			if !errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), tt.text) || config != nil {
				t.Fatalf("Fetch = %v, %v, want %v with %q", config, err, ErrUntrusted, tt.text)
			}
			if strings.Contains(mitm.saw(), tokenA) {
				t.Fatalf("he saw the token:\n%s", mitm.saw())
			}
		})
	}
	genuine(t)
}

// A man in the middle who ends TLS and passes the request for the CA on, so that the answer is the true one.
func TestManInTheMiddleRelaysAnswer(t *testing.T) {
	t.Parallel()
	real := serveCA(t, newAuthority(t, ""), tokenA)
	mitm := serve(t, newAuthority(t, "").TLSConfig(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := ask(t, real.URL+r.URL.RequestURI(), r.Header.Get(proofHeader))
		if answer.Code != http.StatusOK {
			t.Errorf("the server answered %d to the relayed request", answer.Code)
		}
		pass(w, answer)
	}))
	config, err := Fetch(t.Context(), mitm.wss(), tokenA, nil)
	if !errors.Is(err, ErrIntercepted) || config != nil {
		t.Fatalf("Fetch = %v, %v, want %v", config, err, ErrIntercepted)
	}
	if strings.Contains(mitm.saw(), tokenA) {
		t.Fatalf("he saw the token:\n%s", mitm.saw())
	}
	genuine(t)
}

// A man in the middle who lets the request for the CA through untouched and steps in for the session.
func TestManInTheMiddleTakesSession(t *testing.T) {
	t.Parallel()
	authority := newAuthority(t, "")
	real := serveCA(t, authority, tokenA)
	forger := newAuthority(t, "")
	tests := []struct {
		name string
		cert func(t *testing.T) *tls.Certificate
	}{
		{name: "with a CA of his own", cert: func(t *testing.T) *tls.Certificate {
			cert, err := forger.certificate(nil)
			if err != nil {
				t.Fatal(err)
			}
			return cert
		}},
		{name: "with the true CA in his chain", cert: func(t *testing.T) *tls.Certificate {
			cert, err := forger.certificate(nil)
			if err != nil {
				t.Fatal(err)
			}
			return &tls.Certificate{
				Certificate: [][]byte{cert.Certificate[0], authority.certOfCA().Raw},
				PrivateKey:  cert.PrivateKey,
			}
		}},
		{name: "with the true certificate but not its key", cert: func(t *testing.T) *tls.Certificate {
			his, err := forger.certificate(nil)
			if err != nil {
				t.Fatal(err)
			}
			genuine, err := authority.certificate(nil)
			if err != nil {
				t.Fatal(err)
			}
			return &tls.Certificate{Certificate: genuine.Certificate, PrivateKey: his.PrivateKey}
		}},
		{name: "with a CA of the same name", cert: func(t *testing.T) *tls.Certificate {
			ca, err := makeAuthority(authority.NotAfter().Add(-caLife))
			if err != nil {
				t.Fatal(err)
			}
			ca.cert.RawSubject = authority.certOfCA().RawSubject // the issuer that the leaf will name
			ca.cert.SubjectKeyId = authority.certOfCA().SubjectKeyId
			leaf, err := ca.issue(authority.NotAfter().Add(-caLife), nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			return leaf
		}},
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, tt := range tests {
			t.Run(tt.name+" "+tls.VersionName(version), func(t *testing.T) {
				t.Parallel()
				m := startMiddle(t, real.addr(), &tls.Config{Certificates: []tls.Certificate{*tt.cert(t)}, MaxVersion: version})
				config, err := Fetch(t.Context(), "wss://"+m.addr, tokenA, nil)
				if err != nil {
					t.Fatalf("Fetch through an honest relay: %v", err)
				}
				dialer := websocket.Dialer{TLSClientConfig: config}
				header := http.Header{"Authorization": {"Bearer " + tokenA}}
				conn, _, err := dialer.DialContext(t.Context(), "wss://"+m.addr+"/connect", header)
				if err == nil {
					conn.Close()
					t.Fatal("the session came about")
				}
				if !strings.Contains(tt.name, "not its key") && !errors.Is(err, ErrIntercepted) {
					t.Errorf("error %v, want %v", err, ErrIntercepted)
				}
				raw, plain := m.stop()
				if len(plain) > 0 {
					t.Errorf("he read %d bytes: %q", len(plain), plain)
				}
				if len(raw) == 0 {
					t.Error("the session was not dialled through him")
				}
				if bytes.Contains(raw, []byte(tokenA)) {
					t.Error("the token was on the wire")
				}
			})
		}
	}
	genuine(t)
}

// A man in the middle who recorded an answer earlier and plays it back to a client that asks with another nonce.
func TestManInTheMiddleReplaysAnswer(t *testing.T) {
	t.Parallel()
	real := serveCA(t, newAuthority(t, ""), tokenA)
	recorded := make(chan *httptest.ResponseRecorder, 1)
	// First he relays, which gives him a valid answer, HMAC and all.
	relay := serve(t, newAuthority(t, "").TLSConfig(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := ask(t, real.URL+r.URL.RequestURI(), r.Header.Get(proofHeader))
		pass(w, answer)
		recorded <- answer
	}))
	if _, err := Fetch(t.Context(), relay.wss(), tokenA, nil); !errors.Is(err, ErrIntercepted) {
		t.Fatalf("the recorded answer was not accepted as the server's: %v", err)
	}
	old := <-recorded
	if old.Header().Get(hmacHeader) == "" {
		t.Fatal("nothing recorded")
	}
	replay := serve(t, newAuthority(t, "").TLSConfig(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pass(w, old)
	}))
	if _, err := Fetch(t.Context(), replay.wss(), tokenA, nil); !errors.Is(err, ErrUntrusted) {
		t.Fatalf("Fetch: %v, want %v", err, ErrUntrusted)
	}
	if strings.Contains(relay.saw()+replay.saw(), tokenA) {
		t.Fatal("he saw the token")
	}
	genuine(t)
}

// A proof that was recorded gets an answer for its own nonce and no other, so it is good for nothing.
func TestProofIsBoundToNonce(t *testing.T) {
	t.Parallel()
	s := serveCA(t, newAuthority(t, ""), tokenA)
	one, other := make([]byte, nonceSize), make([]byte, nonceSize)
	rand.Read(one)
	rand.Read(other)
	proof := hex.EncodeToString(proofOf(tokenA, one))
	if got := ask(t, s.URL+Path+"?nonce="+hex.EncodeToString(one), proof); got.Code != http.StatusOK {
		t.Fatalf("its own nonce: %d", got.Code)
	}
	got := ask(t, s.URL+Path+"?nonce="+hex.EncodeToString(other), proof)
	if got.Code != http.StatusForbidden || got.Header().Get(hmacHeader) != "" {
		t.Fatalf("another nonce: %d, HMAC %q", got.Code, got.Header().Get(hmacHeader))
	}
}

// genuine shows that with nobody in the middle the client does connect and the token does travel: that the tests
// above can fail.
func genuine(t *testing.T) {
	t.Helper()
	s := serveCA(t, newAuthority(t, ""), tokenA)
	m := startMiddle(t, s.addr(), nil)
	config, err := Fetch(t.Context(), "wss://"+m.addr, tokenA, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := connect(t, m.addr, config, tokenA); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(s.saw(), tokenA) {
		t.Fatal("the token did not reach the server")
	}
	if raw, _ := m.stop(); bytes.Contains(raw, []byte(tokenA)) {
		t.Fatal("the token was on the wire")
	}
}

// ask makes a request for the CA as a man in the middle does who does not care who answers.
func ask(t testing.TB, url, proof string) *httptest.ResponseRecorder {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		DisableKeepAlives: true,
	}}
	rec := httptest.NewRecorder()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Error(err)
		return rec
	}
	req.Header.Set(proofHeader, proof)
	resp, err := client.Do(req)
	if err != nil {
		t.Error(err)
		return rec
	}
	defer resp.Body.Close()
	for name, values := range resp.Header {
		rec.Header()[name] = values
	}
	rec.WriteHeader(resp.StatusCode)
	if _, err := io.Copy(rec, resp.Body); err != nil {
		t.Error(err)
	}
	return rec
}

func pass(w http.ResponseWriter, answer *httptest.ResponseRecorder) {
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.Code)
	w.Write(answer.Body.Bytes())
}

// middle relays its first connection to the server byte by byte. With a configuration it ends TLS on all later
// ones and reads what it can; without one it relays them, too.
type middle struct {
	addr string
	stop func() (raw, plain []byte) // what came on the later connections, and what he could decrypt of it
}

func startMiddle(t *testing.T, server string, config *tls.Config) *middle {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var raw, plain bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		for first := true; ; first = false {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			tapped := conn
			if !first {
				tapped = tap{conn, io.TeeReader(conn, &raw)}
			}
			if first || config == nil {
				up, err := net.Dial("tcp", server)
				if err != nil {
					t.Error(err)
				} else {
					relay(tapped, bufio.NewReader(tapped), up)
				}
			} else {
				// The read ends with the handshake when the client breaks that off.
				b := make([]byte, 16<<10)
				n, _ := tls.Server(tapped, config).Read(b)
				plain.Write(b[:n])
			}
			conn.Close()
		}
	}()
	m := &middle{addr: l.Addr().String()}
	var once sync.Once
	m.stop = func() ([]byte, []byte) {
		once.Do(func() {
			l.Close()
			<-done
		})
		return raw.Bytes(), plain.Bytes()
	}
	t.Cleanup(func() { m.stop() })
	return m
}

type tap struct {
	net.Conn
	r io.Reader
}

func (t tap) Read(p []byte) (int, error) { return t.r.Read(p) }
