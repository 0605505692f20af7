package main

import (
	"errors"
	"slices"

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
	keep := func(variable, dir string) error {
		if _, ok := systemd.StateDirectory(dir); !ok {
			return config.Fault(variable, "%q is not in /var/lib, where systemd lets a service keep things: set it to a folder such as /var/lib/adit", dir)
		}
		if !slices.Contains(n.State, dir) {
			n.State = append(n.State, dir)
		}
		return nil
	}
	var errs []error
	if dir := cfg.AutoTLSDir; dir != "" && cfg.AutoTLS && !cfg.TLSCert.IsSet() {
		errs = append(errs, keep("AUTO_TLS_DIR", dir))
	}
	if cfg.Domains.isSet() {
		errs = append(errs, keep("LETSENCRYPT_DIR", cfg.ACMEDir))
		n.Pass = []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"} // to the directory
	}
	return n, errors.Join(errs...)
}
