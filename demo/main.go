// Command demo shows adit at work on one machine: a file server that stands for a
// private web service, the public server, and the client that joins them, each the
// real program with a real environment, listening on loopback only. It prints what
// to try and stops all three on Ctrl-C.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// startTimeout bounds how long a program may take until it answers.
const startTimeout = 20 * time.Second

// The thread that starts the programs must live as long as they do: on Linux they
// end when it does.
func init() { runtime.LockOSThread() }

func main() {
	bin := flag.String("bin", "bin", "folder of the programs")
	webroot := flag.String("webroot", ".", "folder to serve")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := demo(ctx, *bin, *webroot, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// demo runs until ctx ends, or a program does.
func demo(ctx context.Context, bin, webroot string, out io.Writer) (err error) {
	ports, err := freePorts(8000, 8123, 8124, 8125, 8080, 8126)
	if err != nil {
		return err
	}
	data, control, serverMetrics, clientMetrics, files, filesMetrics := ports[0], ports[1], ports[2], ports[3], ports[4], ports[5]
	token := rand.Text()
	lines := &lines{w: out}
	var group group
	defer func() {
		if err = errors.Join(err, group.stop()); err == nil {
			lines.print("Stopped.\n")
		}
	}()

	visit := "http://127.0.0.1:" + data + "/"
	common := []string{"LOG_FORMAT=console", "METRICS_ADDR=127.0.0.1", "DRAIN_TIMEOUT=3s"}
	for _, p := range []struct {
		name  string
		env   []string
		ready string // what answers once the next may start
	}{
		{"fileserver", []string{"WEBROOT=" + webroot, "BROWSE=true", "DATA_ADDR=127.0.0.1", "PORT=" + files, "METRICS_PORT=" + filesMetrics},
			"http://127.0.0.1:" + files + "/"},
		{"server", []string{"TOKEN=" + token, "DATA_ADDR=127.0.0.1", "PORT=" + data, "CONTROL_ADDR=127.0.0.1", "CONTROL_PORT=" + control, "METRICS_PORT=" + serverMetrics},
			"http://127.0.0.1:" + serverMetrics + "/healthz"},
		{"client", []string{"TOKEN=" + token, "URL=wss://127.0.0.1:" + control, "UPSTREAMS=http://127.0.0.1:" + files, "METRICS_PORT=" + clientMetrics},
			visit},
	} {
		if err := group.start(p.name, filepath.Join(bin, p.name+exeSuffix()), append(p.env, common...), lines); err != nil {
			return err
		}
		if err := group.until(ctx, startTimeout, func() bool { return answers(ctx, p.ready) }); err != nil {
			if ctx.Err() != nil {
				return nil // Ctrl-C
			}
			return fmt.Errorf("%s: %w", p.ready, err)
		}
	}
	lines.print(fmt.Sprintf(`
The tunnel is up. Every program runs on this machine, and only the client knows the private service.

  private service    http://127.0.0.1:%[1]s/
  through the tunnel %[2]s
  control plane      https://127.0.0.1:%[3]s/   (TLS by a certificate of its own)
  metrics            http://127.0.0.1:%[4]s/metrics (server), http://127.0.0.1:%[5]s/metrics (client)
  token              %[6]s

Try, in another shell:

  curl %[2]shello.txt
  curl -ks https://127.0.0.1:%[3]s/status -H "Authorization: Bearer %[6]s"
  curl -s http://127.0.0.1:%[4]s/metrics | grep ^http_dataplane_requests_total

Ctrl-C stops everything.

`, files, visit, control, serverMetrics, clientMetrics, token))

	err = group.wait(ctx)
	lines.print("\nStopping.\n")
	return err
}

// freePorts returns the wanted ports, and another in place of each that is taken.
func freePorts(wanted ...int) ([]string, error) {
	var ports []string
	for _, port := range wanted {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
				return nil, err
			}
		}
		defer l.Close() // held until all are found, so that none is found twice
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	return ports, nil
}

// answers tells whether a visitor gets an answer from url.
func answers(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
