package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/adit-tunnel/adit/shared/config"
	"github.com/adit-tunnel/adit/shared/status"
	"github.com/adit-tunnel/adit/shared/telemetry"
	"github.com/adit-tunnel/adit/shared/version"
)

// newInstance returns the handler of METRICS_PORT: metrics, health and the status document of this process. It is
// ready as long as the root answers, which that of a network file system may cease to do.
func newInstance(reg *prometheus.Registry, root *os.Root) http.Handler {
	hostname, _ := os.Hostname() // unknown is shown as such
	doc := status.Document{Info: status.Info{Version: version.Version, SHA: version.SHA, Mode: "fileserver",
		StartTime: time.Now(), Hostname: hostname}}
	mux := http.NewServeMux()
	mux.Handle("/", telemetry.Handler(reg, func() error {
		if _, err := root.Stat("."); err != nil {
			return errors.New("WEBROOT cannot be read: " + err.Error())
		}
		return nil
	}))
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		json.NewEncoder(w).Encode(doc) // an error means that the asker is gone
	})
	return mux
}

// probe tells where the running instance answers, seen from inside its container.
func probe(s any) (string, *http.Client, error) {
	cfg := s.(*settings)
	if cfg.MetricsPort.Off() || cfg.MetricsPort == 0 {
		return "", nil, config.Fault("METRICS_PORT", "%s leaves nothing to ask: set it to a port", cfg.MetricsPort)
	}
	host := cfg.MetricsAddr
	if host == "" || host == "0.0.0.0" {
		host = "127.0.0.1"
	} else if addr, err := netip.ParseAddr(host); err == nil && addr.IsUnspecified() {
		host = "::1"
	}
	return "http://" + net.JoinHostPort(host, strconv.Itoa(int(cfg.MetricsPort))), nil, nil
}

func fetchStatus(ctx context.Context, s any) (status.Document, error) {
	url, _, err := probe(s)
	if err != nil {
		return status.Document{}, err
	}
	// No proxy: what is asked is in the same container.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return status.Fetch(ctx, client, url+"/status", "")
}
