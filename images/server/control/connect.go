package control

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/images/server/routing"
	"github.com/adit-tunnel/adit/images/server/tcp"
	"github.com/adit-tunnel/adit/shared/access"
	"github.com/adit-tunnel/adit/shared/route"
	"github.com/adit-tunnel/adit/shared/tunnel"
	"github.com/adit-tunnel/adit/shared/version"
)

const (
	// maxUpstreams bounds the upstreams of one client.
	maxUpstreams = 1000
	// maxTold bounds the lines of the log in a minute that a client can cause with its
	// upstreams' states.
	maxTold = 100
	// maxReason bounds the text of a refusal, which may repeat what the client sent.
	maxReason = 800
)

// client is one client: first admitted, then connected with a session.
type client struct {
	hello     tunnel.Hello
	upstreams []string           // in their canonical form
	backends  []*routing.Backend // by host
	ports     []*routing.Backend // by port
	lease     *tcp.Lease         // on the ports
	remote    string
	since     time.Time
	grant     // what lets it in

	toldSince time.Time // the minute in which told lines about states were logged
	told      int

	session  *tunnel.Session
	lanes    *tunnel.LaneGrant // what lets its lanes in; nil: it has none
	leaving  chan struct{}     // closed when the client has said that it leaves
	replaced chan struct{}     // closed when a newer connection of the same client took over
	newer    string            // where that is from; set before replaced is closed
	cut      chan struct{}     // closed when that one was replaced, too
	denied   chan denial       // why it may not stay; has room for one
	barred   atomic.Bool       // it may not stay, and gets no more forwards
}

// refusal is why a client may not connect, as a plain HTTP answer.
type refusal struct {
	code int
	text string
}

func (r *refusal) Error() string { return r.text }

// connect establishes the session of a client whose token is good. All that can be
// refused is refused before the upgrade, by a plain answer that says why.
func (c *Control) connect(w http.ResponseWriter, r *http.Request) {
	if len(r.Header[tunnel.LaneHeader]) > 0 {
		c.lane(w, r)
		return
	}
	cl, err := c.admit(r)
	if err != nil {
		var no *refusal
		if !errors.As(err, &no) {
			no = &refusal{http.StatusInternalServerError, err.Error()}
		}
		switch no.code {
		case http.StatusUpgradeRequired:
			w.Header().Set("Upgrade", "websocket")
			w.Header().Set("Connection", "Upgrade")
		case http.StatusServiceUnavailable:
			w.Header().Set("Retry-After", "5")
		}
		no.text = clip(no.text, maxReason)
		c.cfg.Log.Warn().Str("remote_addr", r.RemoteAddr).Int("code", no.code).Str("reason", no.text).Msg("client refused")
		refuse(w, no.code, no.text)
		return
	}
	if c.cfg.Lanes && slices.Contains(cl.hello.Capabilities, tunnel.CapabilityLanes) {
		cl.lanes = tunnel.NewLaneGrant()
	}
	lines, _ := tunnel.Hello{ // fails only for its length
		Version: version.Version, Capabilities: c.capabilities(), Lanes: cl.lanes, Hostname: c.hostname, MaxStreams: c.cfg.MaxStreams,
		ReturnOver: int(returnOver(c.most()).Milliseconds()),
	}.Header()
	held := &heldResponse{ResponseWriter: w}
	conn, err := c.upgrader.Upgrade(held, r, http.Header{tunnel.HelloHeader: lines})
	if err != nil {
		c.abandon(cl)
		c.work.Done()
		c.cfg.Log.Warn().Err(err).Str("remote_addr", r.RemoteAddr).Msg("websocket handshake broke off")
		return
	}
	c.serve(cl, conn, held.conn.release)
}

// admit decides whether a client may connect. It counts as joining then, and its ports
// are reserved, until it is registered or abandoned; and it is work until the caller is
// done with it.
func (c *Control) admit(r *http.Request) (*client, error) {
	if r.Method != http.MethodGet || !websocket.IsWebSocketUpgrade(r) || !slices.Contains(websocket.Subprotocols(r), tunnel.Subprotocol) {
		return nil, &refusal{http.StatusUpgradeRequired, fmt.Sprintf(
			"this server (version %s) speaks the websocket subprotocol %s here, which the request does not offer: connect with an adit client of the same major version", version.Version, tunnel.Subprotocol)}
	}
	cl, err := c.parse(r)
	if err != nil {
		return nil, err
	}
	id := cl.name()
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.clients[id]
	switch {
	case c.draining:
		return nil, &refusal{http.StatusServiceUnavailable, shuttingDown}
	case old != nil && old.hello.Epoch >= cl.hello.Epoch:
		return nil, &refusal{http.StatusConflict, fmt.Sprintf(
			"the client id %s is in use by a newer connection from %s: give each client a CLIENT_ID of its own", id.client, old.remote)}
	case old == nil && c.cfg.MaxClients > 0 && len(c.clients)+c.joining >= c.cfg.MaxClients:
		return nil, &refusal{http.StatusServiceUnavailable, fmt.Sprintf("the server has its limit of %d clients (MAX_CLIENTS)", c.cfg.MaxClients)}
	}
	if err := c.seatLocked(cl); err != nil {
		return nil, err
	}
	if cl.lease, err = c.reserve(cl.ports); err != nil {
		c.unseatLocked(cl)
		return nil, err
	}
	c.joining++
	c.work.Add(1)
	return cl, nil
}

// parse reads what the client says of itself.
func (c *Control) parse(r *http.Request) (*client, error) {
	hello, err := tunnel.ParseHello(r.Header.Values(tunnel.HelloHeader))
	if err != nil {
		return nil, &refusal{http.StatusBadRequest, err.Error()}
	}
	switch n := len(hello.Upstreams); {
	case !validID(hello.ClientID):
		return nil, &refusal{http.StatusBadRequest, "the client id is not 1 to 64 letters, digits, dots, dashes or underscores: set CLIENT_ID on the client, or leave it unset"}
	case n == 0 && c.noUpstreams(hello) != "":
		return nil, &refusal{http.StatusBadRequest, c.noUpstreams(hello)}
	case n > maxUpstreams:
		return nil, &refusal{http.StatusBadRequest, fmt.Sprintf("%d upstreams are more than the limit of %d: spread them over several clients", n, maxUpstreams)}
	}
	cl := &client{
		hello: hello, remote: r.RemoteAddr, since: time.Now(), upstreams: []string{},
		leaving: make(chan struct{}), replaced: make(chan struct{}), cut: make(chan struct{}), denied: make(chan denial, 1),
	}
	if cl.grant, err = c.grant(r); err != nil {
		return nil, err
	}
	policies, err := access.Decode(hello.Access, len(hello.Upstreams))
	if err != nil {
		return nil, &refusal{http.StatusBadRequest, "the client says who may visit in a way that this server (version " + version.Version +
			") does not understand: upgrade the server if the client is newer: " + err.Error()}
	}
	cl.hello.Access = nil // the policies are with the backends
	for i, text := range hello.Upstreams {
		u, err := route.Parse(text)
		if err != nil {
			return nil, &refusal{http.StatusBadRequest, "upstream " + err.Error()}
		}
		if err := checkPolicy(u, policies[i]); err != nil {
			return nil, err
		}
		if err := c.covered(cl.license, u); err != nil {
			return nil, err
		}
		b := &routing.Backend{ClientID: hello.ClientID, Index: i, Upstream: u, Access: policies[i]}
		switch {
		case u.IsTCP() && c.cfg.Ports == nil:
			return nil, &refusal{http.StatusForbidden, fmt.Sprintf(
				"upstream %s asks for a TCP port, but this server has MODE=%s: set MODE=http,tcp on the server, or write http://%s on the client", text, c.cfg.Mode, u.Address)}
		case !u.IsTCP() && c.cfg.Table == nil:
			return nil, &refusal{http.StatusForbidden, fmt.Sprintf(
				"upstream %s asks for a host, but this server has MODE=%s: set MODE=http,tcp on the server, or write 8080=%s on the client for a port", text, c.cfg.Mode, u.Address)}
		case !u.IsTCP() && !c.cfg.Hosts.Allows(u.Host):
			return nil, &refusal{http.StatusForbidden, fmt.Sprintf(
				"upstream %s asks for a host that this server lets no client have (ALLOW_HOSTS=%s): ask for another, or change ALLOW_HOSTS on the server", text, clip(c.cfg.Hosts.String(), 200))}
		case !u.IsTCP() && c.cfg.Reserved != "" && (u.Path == c.cfg.Reserved || strings.HasPrefix(u.Path, c.cfg.Reserved+"/")):
			return nil, &refusal{http.StatusForbidden, fmt.Sprintf(
				"upstream %s asks for the path %s, below which this server has its control plane: give the upstream another path, or set CONTROL_PATH on the server", text, c.cfg.Reserved)}
		case u.IsTCP():
			cl.ports = append(cl.ports, b)
		default:
			cl.backends = append(cl.backends, b)
		}
		b.SetWaiting(hello.Waiting.Has(i))
		cl.upstreams = append(cl.upstreams, u.String())
	}
	return cl, nil
}

// checkPolicy refuses what cannot be heeded for an upstream.
func checkPolicy(u route.Upstream, p *access.Policy) error {
	switch {
	case u.Allow != "" || u.PassAuth:
		return &refusal{http.StatusBadRequest, fmt.Sprintf("upstream %s says who may visit, which belongs into the member access of the hello", u)}
	case p != nil && u.IsTCP() && !p.OnlyAddresses():
		return &refusal{http.StatusBadRequest, fmt.Sprintf("upstream %s is a TCP port, which can neither ask for credentials nor change headers", u)}
	}
	return nil
}

// reserve opens the ports that a client asks for.
func (c *Control) reserve(ports []*routing.Backend) (*tcp.Lease, error) {
	if c.cfg.Ports == nil {
		return new(tcp.Lease), nil
	}
	lease, err := c.cfg.Ports.Reserve(ports)
	switch {
	case errors.Is(err, tcp.ErrNotAllowed):
		return nil, &refusal{http.StatusForbidden, err.Error()}
	case errors.Is(err, tcp.ErrInUse):
		return nil, &refusal{http.StatusConflict, err.Error()}
	case err != nil:
		return nil, &refusal{http.StatusServiceUnavailable, err.Error()}
	}
	return lease, nil
}

func validID(id string) bool {
	return id != "" && len(id) <= 64 && strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_") == ""
}

// clip shortens what came from a client to a length that is fit for a log.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// abandon undoes admit for a client that did not come as far as being registered.
func (c *Control) abandon(cl *client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.joining--
	c.unseatLocked(cl)
	cl.lease.Release()
}

// serve runs the session of an admitted client, and tells the client so once its routes
// lead to it. The websocket is the session's from now on; a goroutine takes the client out
// when it ends.
func (c *Control) serve(cl *client, conn *websocket.Conn, connected func()) {
	log := c.cfg.Log.With().Str("client_id", cl.hello.ClientID).Str("remote_addr", cl.remote).Logger()
	cl.session = tunnel.New(tunnel.NewWebsocket(conn), tunnel.Config{
		PingInterval: c.cfg.PingInterval, MaxStreams: c.maxStreams(cl), Counters: c.cfg.Counters, Lanes: c.lanesOf(cl), Handle: c.forwards(cl),
		GoAway: func(g tunnel.GoAway) {
			log.Info().Str("reason", g.Reason).Msg("client is leaving")
			close(cl.leaving)
			c.cfg.Leaving()
		},
		Health: func(w tunnel.Waiting) { cl.wait(w, log) },
	})
	for _, b := range slices.Concat(cl.backends, cl.ports) {
		b.Opener = cl.session
	}
	c.allowLanes(cl)
	old, err := c.register(cl)
	connected()
	if err != nil {
		log.Warn().Err(err).Msg("client refused")
		c.abandon(cl)
		// There is no status to say it with any more.
		cl.session.GoAway(tunnel.GoAway{Jitter: time.Second, Reason: err.Error()})
		_ = cl.session.Close()
		c.forbidLanes(cl)
		c.work.Done()
		return
	}
	if old != nil {
		log.Info().Str("old_remote_addr", old.remote).Msg("client took over from its older connection")
	}
	c.compare(cl, log)
	event := log.Info().Strs("upstreams", cl.upstreams)
	if waiting := cl.waiting(); waiting != nil {
		event = event.Strs("waiting", waiting)
	}
	event.Str("version", clip(cl.hello.Version, 64)).Str("hostname", clip(cl.hello.Hostname, 255)).Msg("client connected")
	go func() {
		defer c.work.Done()
		reason := c.attend(cl)
		c.unregister(cl)
		_ = cl.session.Close()
		c.forbidLanes(cl)
		log.Info().AnErr("reason", reason).Stringer("after", time.Since(cl.since).Round(time.Millisecond)).Msg("client disconnected")
	}()
}

// compare warns of hosts for which another client says something else of who may visit: a
// visitor gets to those that admit him.
func (c *Control) compare(cl *client, log zerolog.Logger) {
	if c.cfg.Table == nil {
		return
	}
	for _, b := range cl.backends {
		if other := c.cfg.Table.Differing(b); other != nil {
			log.Warn().Str("upstream", cl.upstreams[b.Index]).Stringer("visitors", b.Access).Str("other_client_id", other.ClientID).
				Stringer("other_visitors", other.Access).Msg("another client of the route says something else of who may visit, or of headers: visitors get to those that admit them")
			return // one will do
		}
	}
}

// wait takes what the client says of the services behind its upstreams. The data plane
// heeds it from the next visitor on. It is called by one goroutine at a time.
func (cl *client) wait(w tunnel.Waiting, log zerolog.Logger) {
	for _, b := range slices.Concat(cl.backends, cl.ports) {
		waiting := w.Has(b.Index)
		if !b.SetWaiting(waiting) {
			continue
		}
		level, message := zerolog.InfoLevel, "upstream answers"
		if waiting {
			level, message = zerolog.WarnLevel, "upstream does not answer any more, its visitors wait"
		}
		if now := time.Now(); now.Sub(cl.toldSince) > time.Minute {
			cl.toldSince, cl.told = now, 0
		}
		if cl.told++; cl.told > maxTold {
			level = zerolog.DebugLevel
		}
		log.WithLevel(level).Str("upstream", cl.upstreams[b.Index]).Msg(message)
	}
}

// waiting returns the upstreams that wait for the service behind them.
func (cl *client) waiting() (list []string) {
	for _, b := range slices.Concat(cl.backends, cl.ports) {
		if b.Waiting() {
			list = append(list, cl.upstreams[b.Index])
		}
	}
	return list
}

// maxStreams bounds the streams of a client by what it accepts, and by MAX_STREAMS.
func (c *Control) maxStreams(cl *client) int {
	if theirs := cl.hello.MaxStreams; theirs > 0 && (c.cfg.MaxStreams <= 0 || theirs < c.cfg.MaxStreams) {
		return theirs
	}
	return c.cfg.MaxStreams
}

var (
	errDrained  = errors.New("the client has left")
	errReplaced = errors.New("a newer connection of the client took over")
)

// attend waits until a session is to be closed, and returns why. A client that leaves
// stays until its last stream has ended: only who opens streams knows which is the last.
func (c *Control) attend(cl *client) error {
	s := cl.session
	select {
	case <-s.Done():
		return s.Err()
	case <-c.closing:
		return errors.New(shuttingDown)
	case <-cl.replaced:
		return c.retire(cl)
	case d := <-cl.denied:
		return c.dismiss(cl, d)
	case <-cl.leaving:
	}
	select {
	case <-s.Drained():
		return errDrained
	case <-s.Done():
		return s.Err()
	case <-c.closing:
		return errors.New(shuttingDown)
	case <-cl.replaced:
		return c.retire(cl)
	case d := <-cl.denied:
		return c.dismiss(cl, d)
	}
}

// retire waits for the end of a connection that was taken over. If it is dead, as after a
// cut of the network, that is now: its visitors have waited long enough. If it answers it
// belongs to a process that is being replaced, or to another client with the same id, and
// what is under way goes on. There is at most one such connection for each client.
func (c *Control) retire(cl *client) error {
	s := cl.session
	asked := time.Now()
	s.GoAway(tunnel.GoAway{
		Code: tunnel.CodeCancelled, After: time.Minute, Jitter: time.Minute, // not back and forth all the time
		Reason: fmt.Sprintf("another connection with the client id %s, from %s, took over: give each client a CLIENT_ID of its own", cl.hello.ClientID, cl.newer),
	})
	s.Nudge()
	answer := time.NewTimer(c.aliveAfter)
	defer answer.Stop()
	for {
		select {
		case <-answer.C:
			if s.LastHeard().After(asked) {
				continue
			}
		case <-s.Drained():
		case <-s.Done():
		case <-cl.cut:
		case <-c.closing:
		}
		return errReplaced
	}
}

// register makes the client's routes lead to it, in place of an older session of the
// same client.
func (c *Control) register(cl *client) (old *client, err error) {
	id := cl.name()
	c.mu.Lock()
	defer c.mu.Unlock()
	old = c.clients[id]
	switch {
	case c.draining:
		return nil, errors.New(shuttingDown)
	case old != nil && old.hello.Epoch >= cl.hello.Epoch:
		return nil, errors.New("a newer connection of the same client was faster")
	}
	if c.cfg.Table != nil {
		if err := c.cfg.Table.Add(cl.backends); err != nil {
			return nil, err
		}
	}
	cl.lease.Serve()
	c.joining--
	c.clients[id] = cl
	if reason := c.revoked(cl); reason != "" { // in the course of the handshake
		cl.denied <- denial{reason, returnGrace}
	}
	if old != nil {
		c.takeOut(old)
		if before := c.replaced[id]; before != nil {
			close(before.cut)
		}
		c.replaced[id] = old
		old.newer = cl.remote
		close(old.replaced)
	}
	return old, nil
}

// unregister takes out a client whose session is to be closed.
func (c *Control) unregister(cl *client) {
	id := cl.name()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.replaced[id] == cl {
		delete(c.replaced, id)
	}
	if c.clients[id] != cl {
		return // taken over, and with it out of the table
	}
	delete(c.clients, id)
	c.takeOut(cl)
}

// takeOut makes no route lead to the client any more.
func (c *Control) takeOut(cl *client) {
	if c.cfg.Table != nil {
		c.cfg.Table.Remove(cl.backends)
	}
	c.unseatLocked(cl)
	cl.lease.Release()
}
