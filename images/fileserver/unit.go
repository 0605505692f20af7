package main

import (
	"path/filepath"

	"github.com/adit-tunnel/adit/shared/config"
	"github.com/adit-tunnel/adit/shared/systemd"
)

// needs is for the systemd command.
func needs(s any) (systemd.Needs, error) {
	cfg := s.(*settings)
	n := systemd.Needs{Grace: cfg.DrainTimeout, Ports: []int{int(cfg.Port)}}
	if !cfg.MetricsPort.Off() {
		n.Ports = append(n.Ports, int(cfg.MetricsPort))
	}
	root, err := filepath.Abs(cfg.Webroot)
	if err != nil {
		return n, config.Fault("WEBROOT", "%w: set it to an absolute path", err)
	}
	if !systemd.PlainPath(root) {
		return n, config.Fault("WEBROOT", "%q has blanks, colons, quotes or backslashes, which a unit cannot have there: move or link the folder", root)
	}
	n.Serve = []string{root}
	n.Set = map[string]string{"WEBROOT": root}
	return n, nil
}
