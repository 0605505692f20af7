package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/gorilla/websocket"

	"github.com/adit-tunnel/adit/shared/autotls"
	"github.com/adit-tunnel/adit/shared/license"
	"github.com/adit-tunnel/adit/shared/route"
	"github.com/adit-tunnel/adit/shared/tunnel"
	"github.com/adit-tunnel/adit/shared/version"
)

const (
	// handshakeTimeout bounds everything from the look-up of the server's name to the
	// websocket.
	handshakeTimeout = 15 * time.Second
	// mostStreams bounds the streams of a session whatever the server says.
	mostStreams = 1 << 16
)

// RefusedError is the server's plain answer to a client that may not connect.
type RefusedError struct {
	Status     int
	Text       string
	RetryAfter time.Duration
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the server refused with %d: %s", e.Status, e.Text)
}

// errOldServer is a server that would let everybody in.
var errOldServer = errors.New("the server is too old to heed who may visit")

// Hello returns the lines that announce a client. The error says what to do when its
// upstreams are too many for them.
func Hello(clientID string, epoch uint64, upstreams route.List, waiting tunnel.Waiting, access json.RawMessage, capabilities ...string) ([]string, error) {
	hostname, _ := os.Hostname()
	return tunnel.Hello{
		Version: version.Version, Capabilities: capabilities, ClientID: clientID, Hostname: hostname, Epoch: epoch, Upstreams: upstreams.Announced(), Waiting: waiting, Access: access,
	}.Header()
}

// connect makes one attempt at a session. What the server says of leaving arrives on
// goAway, which has room for it, before the session is done.
func (a *Agent) connect(ctx context.Context) (*tunnel.Session, <-chan tunnel.GoAway, error) {
	handshake, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	token := a.cfg.Token()
	config, err := TLSConfig(handshake, a.cfg.TLS, a.cfg.Server, token, []byte(a.cfg.CA()))
	if err != nil {
		return nil, nil, err
	}
	a.epoch++
	waiting, _ := a.cfg.Health.Waiting()
	access := a.access()
	lines, err := Hello(a.cfg.ClientID, a.epoch, a.cfg.Upstreams, waiting, access, a.capabilities()...)
	if err != nil {
		return nil, nil, err
	}
	head := http.Header{"Authorization": {"Bearer " + token}, tunnel.HelloHeader: lines}
	if l := a.license(); l != "" {
		head.Set(license.Header, l)
	}
	conn, resp, err := a.handshake(handshake, config, head)
	if err != nil {
		return nil, nil, err
	}
	hello, err := tunnel.ParseHello(resp.Header.Values(tunnel.HelloHeader))
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	if len(access) > 0 && !slices.Contains(hello.Capabilities, tunnel.CapabilityAccess) {
		_ = conn.Close() // no stream of its visitors is taken
		return nil, nil, fmt.Errorf("%w (it is version %s): upgrade the server, or remove what restricts visitors and changes headers (%s)",
			errOldServer, oneLine(hello.Version), "BASIC_AUTH, BEARER_TOKEN, ALLOW_IPS, REQUEST_HEADERS, RESPONSE_HEADERS, PASS_AUTHORIZATION, ?allow= and ?pass_auth=")
	}
	a.returnOver = time.Duration(max(hello.ReturnOver, 0)) * time.Millisecond
	goAway := make(chan tunnel.GoAway, 1)
	session := tunnel.New(tunnel.NewWebsocket(conn), tunnel.Config{
		Client:       true,
		PingInterval: a.cfg.PingInterval,
		MaxStreams:   min(hello.MaxStreams, mostStreams),
		Counters:     a.cfg.Counters,
		Handle:       a.serve,
		Lanes:        a.lanes(config, hello.Lanes),
		GoAway:       func(g tunnel.GoAway) { goAway <- g },
	})
	if a.cfg.Health.Watches() {
		if !slices.Contains(hello.Capabilities, tunnel.CapabilityHealth) {
			a.log.Warn().Str("server_version", oneLine(hello.Version)).Msg("the server is too old to have visitors wait for upstreams: they get 502 until those answer")
		}
		a.reports.Go(func() { a.report(session) })
	}
	a.offers = slices.Contains(hello.Capabilities, tunnel.CapabilityForward)
	if a.cfg.Forwards && !a.offers {
		a.log.Warn().Str("server_version", oneLine(hello.Version)).Msg("the server does no forwards: set FORWARD_ALLOW there, or update it if it is too old")
	}
	return session, goAway, nil
}

// report tells the server which upstreams wait, until the session has ended.
func (a *Agent) report(s *tunnel.Session) {
	for {
		waiting, changed := a.cfg.Health.Waiting()
		s.Health(waiting)
		select {
		case <-changed:
		case <-s.Done():
			return
		}
	}
}

// handshake opens a websocket, within the deadline of ctx.
func (a *Agent) handshake(ctx context.Context, config *tls.Config, header http.Header) (*websocket.Conn, *http.Response, error) {
	way, err := wayTo(a.cfg.Server, a.proxy)
	if err != nil {
		return nil, nil, err
	}
	defer way.release()
	dialer := websocket.Dialer{
		Proxy:           way.socks,
		NetDialContext:  way.dial, // gets ctx, since there is no HandshakeTimeout
		TLSClientConfig: config,
		Subprotocols:    []string{tunnel.Subprotocol},
		ReadBufferSize:  tunnel.ReadBufferSize,
		WriteBufferSize: tunnel.WriteBufferSize,
		WriteBufferPool: tunnel.WriteBufferPool,
	}
	conn, resp, err := dialer.DialContext(ctx, a.cfg.Server.JoinPath("connect").String(), header)
	if err != nil {
		return nil, nil, a.refusal(ctx, resp, err)
	}
	if !way.release() { // ctx ended just now, and with it the connection
		_ = conn.Close()
		return nil, nil, context.Cause(ctx)
	}
	if conn.Subprotocol() != tunnel.Subprotocol {
		_ = conn.Close()
		return nil, nil, errors.New("the websocket at this address is not that of an adit server: check URL")
	}
	return conn, resp, nil
}

// TLSConfig returns how to verify a server, nil for ws://.
func TLSConfig(ctx context.Context, mode TLSMode, server *url.URL, token string, ca []byte) (*tls.Config, error) {
	if server.Scheme == "ws" {
		return nil, nil
	}
	switch mode {
	case TLSAuto:
		return autotls.Fetch(ctx, server.String(), token, &http.Transport{Proxy: http.ProxyFromEnvironment})
	case TLSCustom:
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(ca) {
			return nil, errors.New("TLS_CA holds no certificate in PEM form")
		}
		return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
	}
	return &tls.Config{MinVersion: tls.VersionTLS12}, nil
}

// refusal makes the error of a failed handshake say what to do.
func (a *Agent) refusal(ctx context.Context, resp *http.Response, err error) error {
	if resp != nil {
		return refused(resp)
	}
	host := a.cfg.Server.Host
	var (
		verification *tls.CertificateVerificationError
		record       tls.RecordHeaderError
		inner        *url.Error
	)
	switch {
	case ctx.Err() == context.DeadlineExceeded:
		return fmt.Errorf("connect to %s: no answer within %s: %w", host, handshakeTimeout, err)
	case errors.As(err, &verification) && a.cfg.TLS == TLSCustom:
		return fmt.Errorf("%w: the server's certificate does not fit TLS_CA and the name in URL", err)
	case errors.As(err, &verification) && a.cfg.TLS == TLSPublic:
		return fmt.Errorf("%w: the server's certificate is not from a public authority: set AUTO_TLS=true if the server has its own CA, or TLS_CA to the authority that signed it", err)
	case errors.As(err, &record):
		return fmt.Errorf("connect to %s: the server does not speak TLS on this port: write ws:// together with AUTO_TLS=false, or use the port with TLS: %w", host, err)
	case errors.As(err, &inner):
		err = inner.Err
	}
	return fmt.Errorf("connect to %s: %w", host, err)
}

// refused reads the server's plain answer.
func refused(resp *http.Response) error {
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	e := &RefusedError{Status: resp.StatusCode, Text: oneLine(string(body)), RetryAfter: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	if e.Text == "" {
		e.Text = http.StatusText(resp.StatusCode)
	}
	switch resp.StatusCode {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusConflict,
		http.StatusUpgradeRequired, http.StatusTooManyRequests, http.StatusServiceUnavailable:
	case http.StatusSwitchingProtocols:
		return errors.New("the answer at this address is not that of a websocket: check URL, and what stands in front of the server")
	default: // no answer of ours
		e.Text += " (is URL the address of the server's control plane, usually port 8123?)"
		if to, err := resp.Location(); err == nil {
			e.Text += fmt.Sprintf(" (it sends us on to %s://%s)", to.Scheme, to.Host)
		}
	}
	return e
}

// retryAfter reads the header of that name, seconds or a date; 0 if there is none.
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

// oneLine makes a peer's text fit for a log and a terminal: without controls, and without
// what turns the direction of a line.
func oneLine(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s))
}
