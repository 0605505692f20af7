package main

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"github.com/adit-tunnel/adit/shared/access"
	"github.com/adit-tunnel/adit/shared/config"
)

type settings struct {
	config.Common
	Webroot     string              `default:"." desc:"Folder whose files are served. Links are followed as long as they stay inside."`
	Browse      bool                `default:"false" desc:"List folders that have no index.html."`
	Port        config.Port         `default:"8080" desc:"Where visitors connect."`
	DataAddr    string              `split_words:"true" desc:"Address to listen on for visitors. Empty: all interfaces."`
	BasicAuth   config.Secret       `split_words:"true" desc:"user:password that visitors must give; several, one per line, are valid at once. A file is read again when it changes."`
	AllowIPs    config.CIDRs        `envconfig:"ALLOW_IPS" desc:"Addresses and CIDRs that may connect, as the connection has them: behind a tunnel that is its client. Empty: all."`
	MetricsPort config.OptionalPort `split_words:"true" default:"8126" desc:"Port of /metrics, /healthz, /readyz and /status; off for none."`
}

// Validate checks what the types do not.
func (s *settings) Validate() error {
	root, err := openWebroot(s.Webroot)
	if err == nil {
		root.Close()
	}
	if s.BasicAuth.IsSet() {
		if _, fault := access.ParseUsers(s.BasicAuth.Value()); fault != nil {
			err = errors.Join(err, config.Fault("BASIC_AUTH", "%w", fault))
		}
	}
	if s.Port != 0 && int(s.Port) == int(s.MetricsPort) && (s.DataAddr == s.MetricsAddr || s.DataAddr == "" || s.MetricsAddr == "") {
		err = errors.Join(err, config.Fault("METRICS_PORT", "%d is PORT too: set one of them to another, or METRICS_PORT to off", s.Port))
	}
	return err
}

// openWebroot opens the folder as it is now: when a link is later moved to another folder, the old one is served on.
func openWebroot(path string) (*os.Root, error) {
	root, err := os.OpenRoot(path)
	switch {
	case err == nil:
		// To open a folder one need not be allowed to read it.
		if _, err = root.Stat("."); err == nil {
			return root, nil
		}
		root.Close()
		return nil, config.Fault("WEBROOT", "%s cannot be entered: give this user (id %d) permission to: %w", path, os.Getuid(), err)
	case errors.Is(err, fs.ErrNotExist):
		return nil, config.Fault("WEBROOT", "%s does not exist: create or mount it, or set WEBROOT to the folder to serve", path)
	case errors.Is(err, fs.ErrPermission):
		return nil, config.Fault("WEBROOT", "%s may not be read by this user (id %d): change its permissions or the user", path, os.Getuid())
	case isNoFolder(path, err):
		return nil, config.Fault("WEBROOT", "%s is not a folder: set WEBROOT to the folder that the file is in", path)
	}
	return nil, config.Fault("WEBROOT", "%w", err)
}

func isNoFolder(path string, err error) bool {
	if errors.Is(err, syscall.ENOTDIR) {
		return true
	}
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}
