package main

import (
	"net"
	"time"

	"github.com/adit-tunnel/adit/images/server/oneport"
	"github.com/adit-tunnel/adit/images/server/pending"
	"github.com/adit-tunnel/adit/images/server/proxy"
	"github.com/adit-tunnel/adit/shared/config"
	"github.com/adit-tunnel/adit/shared/rawio"
	"github.com/adit-tunnel/adit/shared/service"
)

// ports are the listeners of the server. All are bound before anything serves, so that
// a port in use fails at once.
type ports struct {
	control net.Listener // nil: shared with visitors
	data    []dataPort
	metrics net.Listener // nil: off
	pending *pending.List
}

const (
	// maxPending bounds the connections that are nobody's yet, on the ports that clients
	// come by, once they have been silent for pendingGrace.
	maxPending   = 1024
	pendingGrace = time.Second
)

// dataPort is a listener for visitors.
type dataPort struct {
	net.Listener
	name   string
	of     string // the variable
	secure bool   // speaks TLS
	shared bool   // with clients
}

func listen(cfg *settings) (p ports, err error) {
	p.pending = pending.New(maxPending, pendingGrace)
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if cfg.shared() == "" {
		if p.control, err = service.Listen("CONTROL_PORT", cfg.ControlAddr, int(cfg.controlPort())); err != nil {
			return p, err
		}
		p.control = rawio.Listener(p.control)
	}
	if cfg.Mode.HTTP {
		if err := p.listenHTTP(cfg); err != nil {
			return p, err
		}
	}
	if !cfg.MetricsPort.Off() {
		p.metrics, err = service.Listen("METRICS_PORT", cfg.MetricsAddr, int(cfg.MetricsPort))
	}
	return p, err
}

func (p *ports) listenHTTP(cfg *settings) error {
	listen := func(variable string, port config.Port, name string, secure bool) error {
		l, err := service.Listen(variable, cfg.DataAddr, int(port))
		if err != nil {
			return err
		}
		l = rawio.Listener(l)
		if cfg.ProxyProtocol {
			l = proxy.Listener(l, cfg.TrustedProxies.Contains)
		}
		d := dataPort{Listener: l, name: name, of: variable, secure: secure, shared: cfg.shared() == variable}
		if d.shared && !secure && (cfg.controlTLS() || cfg.Domains.isSet()) { // clients come with TLS, visitors as they like
			plain, tls := oneport.Split(l, p.pending)
			d.Listener = plain
			p.data = append(p.data, dataPort{Listener: tls, name: name + " TLS", of: variable, secure: true, shared: true})
		}
		p.data = append(p.data, d)
		return nil
	}
	if err := listen("PORT", cfg.port(), "data plane", false); err != nil || !cfg.https() {
		return err
	}
	return listen("HTTPS_PORT", cfg.HTTPSPort, "data plane TLS", true)
}

// number returns the port of visitors that a variable stands for, or else 0.
func (p ports) number(variable string) int {
	for _, d := range p.data {
		if addr, ok := d.Addr().(*net.TCPAddr); ok && d.of == variable {
			return addr.Port
		}
	}
	return 0
}

// https returns the port on which visitors come with TLS, 0 if there is none.
func (p ports) https() int {
	for _, d := range p.data {
		if addr, ok := d.Addr().(*net.TCPAddr); ok && d.secure && (d.of == "HTTPS_PORT" || p.number("HTTPS_PORT") == 0) {
			return addr.Port
		}
	}
	return 0
}

// numbers returns the ports that are taken.
func (p ports) numbers() (list []int) {
	for _, l := range p.all() {
		if addr, ok := l.Addr().(*net.TCPAddr); ok {
			list = append(list, addr.Port)
		}
	}
	return list
}

func (p ports) all() (list []net.Listener) {
	for _, l := range []net.Listener{p.control, p.metrics} {
		if l != nil {
			list = append(list, l)
		}
	}
	for _, d := range p.data {
		list = append(list, d.Listener)
	}
	return list
}

// close closes the listeners; those that a server has closed already do not mind.
func (p ports) close() {
	for _, l := range p.all() {
		_ = l.Close()
	}
}
