package autotls

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// What a client may want to tell apart. None of them is a reason to send the token anyway.
var (
	// ErrNoCA is returned by Fetch when the server has no CA of its own: auto-TLS is off there, or something in
	// front of it ends TLS and does not know the path.
	ErrNoCA = errors.New("the server has no auto-TLS CA")
	// ErrUntrusted is returned by Fetch when the answer does not prove that the server knows the token: it has
	// another, or the answer is from someone else.
	ErrUntrusted = errors.New("the server's CA is not proven by the token")
	// ErrIntercepted is returned by Fetch and, through the handshake, by connections that use the configuration
	// it returned, when the certificate presented is not signed by the server's CA. After a server without
	// AUTO_TLS_DIR has been restarted that is so until the CA is fetched again.
	ErrIntercepted = errors.New("the certificate is not signed by the server's CA")
	// ErrPlainHTTP is returned by Fetch when the server speaks plain HTTP on the port.
	ErrPlainHTTP = errors.New("the server speaks plain http on this port")
)

// fetchTimeout bounds all of Fetch, whatever the context allows.
const fetchTimeout = 15 * time.Second

// Fetch asks the server at serverURL (wss://host:port/path or https://…) for its CA and returns a configuration
// for connections to it, on which the token may be sent once the handshake is done: the handshake succeeds only
// with a certificate signed by that CA, for any host name. The configuration has no ServerName; tls.Dial and
// websocket dialers set it. It is good until the server's CA changes, so fetch it anew for every session.
//
// Connections are made as base says: its Proxy, DialContext and time limits are used, its connections are not.
// A nil base connects through the proxy that the environment names. An https proxy is verified as base says.
//
// Errors wrap ErrNoCA, ErrUntrusted, ErrIntercepted and ErrPlainHTTP where they apply and never hold the token.
func Fetch(ctx context.Context, serverURL, token string, base *http.Transport) (*tls.Config, error) {
	target, err := caURL(serverURL)
	if err != nil {
		return nil, err
	}
	config, err := fetch(ctx, target, token, base)
	if err != nil {
		return nil, fmt.Errorf("fetch the CA of %s: %w", target.Host, err)
	}
	return config, nil
}

func fetch(ctx context.Context, target *url.URL, token string, base *http.Transport) (*tls.Config, error) {
	if len(token) < minToken { // an HMAC with an empty key is one that anybody can make
		return nil, fmt.Errorf("the token has %d bytes, fewer than %d", len(token), minToken)
	}
	nonce := make([]byte, nonceSize)
	rand.Read(nonce)
	target.RawQuery = "nonce=" + hex.EncodeToString(nonce)

	within, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(within, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set(proofHeader, hex.EncodeToString(proofOf(token, nonce)))
	transport, err := openTransport(req, base)
	if err != nil {
		return nil, err
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, explain(ctx, within, err)
	}
	defer resp.Body.Close()
	if err := checkStatus(resp.StatusCode); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, explain(ctx, within, err)
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("%w: the answer is longer than %d bytes", ErrUntrusted, maxAnswer)
	}
	ca, err := readAnswer(token, nonce, resp.Header.Values(hmacHeader), body)
	if err != nil {
		return nil, err
	}
	verify := verifier(ca)
	if resp.TLS == nil {
		return nil, fmt.Errorf("%w: the answer did not come over TLS", ErrIntercepted)
	}
	if err := verify(*resp.TLS); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		// Verification by host name is replaced by verification by CA, in VerifyConnection, which unlike
		// VerifyPeerCertificate also runs when a session is resumed.
		InsecureSkipVerify: true, // #nosec G402 -- see above
		VerifyConnection:   verify,
	}, nil
}

// caURL returns the address of the CA, without anything that should not be sent to someone unknown. Errors do not
// repeat the URL: it may hold a password.
func caURL(serverURL string) (*url.URL, error) {
	u, err := url.Parse(serverURL)
	if err != nil || u.Host == "" {
		return nil, errors.New("the server's URL is malformed: give it as wss://host:port")
	}
	switch strings.ToLower(u.Scheme) {
	case "wss", "https":
	case "ws", "http":
		return nil, fmt.Errorf("auto-TLS needs a server URL that begins with wss://, not %s://: "+
			"change URL, or set AUTO_TLS=false to connect without encryption", u.Scheme)
	default:
		return nil, fmt.Errorf("the server's URL begins with %q: give it as wss://host:port", u.Scheme+"://")
	}
	return &url.URL{Scheme: "https", Host: u.Host, Path: strings.TrimRight(u.Path, "/") + Path}, nil
}

// openTransport returns a transport for this one request that accepts any certificate of the server.
func openTransport(req *http.Request, base *http.Transport) (*http.Transport, error) {
	if base == nil {
		base = &http.Transport{Proxy: http.ProxyFromEnvironment}
	}
	t := base.Clone()
	t.DisableKeepAlives = true
	t.DisableCompression = true
	t.MaxResponseHeaderBytes = maxAnswer
	t.ForceAttemptHTTP2 = false
	t.HTTP2 = nil
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
	t.TLSNextProto = nil
	//lint:ignore SA1019 deprecated, and yet what a base may have
	t.DialTLS = nil
	t.DialTLSContext = nil
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true} // #nosec G402 -- the CA is not known yet, and nothing secret is sent
	if base.Proxy == nil {
		return t, nil
	}
	proxy, err := base.Proxy(req)
	if err != nil { // its text may hold the proxy's password
		return nil, errors.New("the proxy's address is not a URL: look at HTTPS_PROXY")
	}
	t.Proxy = http.ProxyURL(proxy)
	if proxy != nil && proxy.Scheme == "https" {
		// The connection to the proxy may carry a password for it, and would be as unverified as the one to the
		// server. With a proxy this function dials the proxy and nothing else.
		t.DialTLSContext = verifiedDialer(base, proxy.Hostname())
	}
	return t, nil
}

func verifiedDialer(base *http.Transport, host string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	config := base.TLSClientConfig.Clone()
	if config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	config.ServerName = host
	config.NextProtos = nil
	dial := base.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		secure := tls.Client(conn, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, fmt.Errorf("proxy: %w", err)
		}
		return secure, nil
	}
}

func checkStatus(code int) error {
	switch code {
	case http.StatusOK:
		return nil
	case http.StatusNotFound:
		return fmt.Errorf("%w: is this the URL of the control plane? If so, turn AUTO_TLS on there, or set "+
			"AUTO_TLS=false here to verify its certificate as browsers do", ErrNoCA)
	case http.StatusForbidden:
		return fmt.Errorf("%w: the server has another TOKEN", ErrUntrusted)
	default:
		return fmt.Errorf("the server answered with status %d", code)
	}
}

// explain says what an error of the HTTP client means to an operator.
func explain(ctx, within context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if within.Err() != nil {
		return fmt.Errorf("no answer within %v: %w", fetchTimeout, within.Err())
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err // the URL says nothing new
	}
	var record tls.RecordHeaderError
	switch {
	case errors.Is(err, http.ErrSchemeMismatch):
		return fmt.Errorf("%w: turn AUTO_TLS on there, or use ws:// and AUTO_TLS=false here "+
			"(the token then travels without encryption)", ErrPlainHTTP)
	case errors.As(err, &record):
		return fmt.Errorf("the server does not speak TLS on this port: %w", err)
	}
	return err
}

// verifier accepts connections whose certificate is signed by ca.
func verifier(ca *x509.Certificate) func(tls.ConnectionState) error {
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	return func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return fmt.Errorf("%w: there is none", ErrIntercepted)
		}
		between := x509.NewCertPool()
		for _, cert := range state.PeerCertificates[1:] {
			between.AddCert(cert)
		}
		_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{
			Roots:         roots,
			Intermediates: between,
			KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		})
		var invalid x509.CertificateInvalidError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
			return fmt.Errorf("the server's certificate: %w: is the clock right, here and there?", err)
		default:
			return fmt.Errorf("%w: the server was restarted with a new CA, something in front of it ends TLS "+
				"(with a platform that does, set AUTO_TLS=false), or someone is in the middle", ErrIntercepted)
		}
	}
}
