package main

import (
	"github.com/adit-tunnel/adit/shared/config"
	"github.com/adit-tunnel/adit/shared/route"
	"github.com/adit-tunnel/adit/shared/systemd"
)

// needs is for the systemd command.
func needs(s any) (systemd.Needs, error) {
	cfg := s.(*settings)
	n := systemd.Needs{
		Grace: cfg.DrainTimeout,
		Pass:  []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"},
	}
	if !cfg.MetricsPort.Off() {
		n.Ports = append(n.Ports, int(cfg.MetricsPort))
	}
	for _, f := range cfg.Forwards {
		n.Ports = append(n.Ports, f.Port)
	}
	for _, u := range cfg.Upstreams {
		if u.Scheme != route.Unix {
			continue
		}
		n.Unix = true
		if systemd.Hidden(u.Address) {
			return n, config.Fault("UPSTREAMS", "the socket %s is in a folder that a service under systemd does not see: have it in /run", u.Address)
		}
	}
	return n, nil
}
