package main

import (
	"github.com/adit-tunnel/adit/shared/config"
	"github.com/adit-tunnel/adit/shared/systemd"
)

// needs is for the systemd command.
func needs(s any) (systemd.Needs, error) {
	cfg := s.(*settings)
	n := systemd.Needs{Grace: cfg.DrainDelay + cfg.DrainTimeout}
	for _, l := range cfg.listeners() {
		n.Ports = append(n.Ports, l.port)
	}
	if cfg.Mode.TCP {
		for _, r := range cfg.AllowPorts {
			n.Ports = append(n.Ports, r.First)
		}
	}
	if dir := cfg.AutoTLSDir; dir != "" && cfg.AutoTLS && !cfg.TLSCert.IsSet() {
		if _, ok := systemd.StateDirectory(dir); !ok {
			return n, config.Fault("AUTO_TLS_DIR", "%q is not in /var/lib, where systemd lets a service keep things: set it to a folder such as /var/lib/adit", dir)
		}
		n.State = append(n.State, dir)
	}
	return n, nil
}
