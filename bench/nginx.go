//go:build linux

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// answerSize is what one request gets, in bytes.
const answerSize = 1 << 10

// nginxFrame is the part that both roles of nginx have in common: no logs, no files
// outside its folder, two workers, connections that are not closed for having served
// many requests.
const nginxFrame = `daemon off;
pid %[1]s/pid;
error_log stderr error;
worker_processes 2;
worker_rlimit_nofile 16384;
%[2]s
events { worker_connections 8192; }
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	default_type text/plain;
	sendfile on;
	keepalive_requests 100000000;
	client_max_body_size 0;
%[3]s
}
`

// originConfig answers small requests from memory and /big from a file.
const originConfig = `	server {
		listen 127.0.0.1:%[1]s;
		root %[2]s;
		location = / { return 200 "%[3]s"; }
		location = /big { }
	}`

// proxyConfig is a plain reverse proxy in front of the origin and of the sink, which
// keeps connections to both and buffers as little as adit does.
const proxyConfig = `	upstream origin { server %[2]s; keepalive 64; keepalive_requests 100000000; }
	upstream sink { server %[3]s; keepalive 64; keepalive_requests 100000000; }
	proxy_http_version 1.1;
	proxy_set_header Host $host;
	proxy_set_header X-Forwarded-For $remote_addr;
	proxy_set_header Connection "";
	proxy_max_temp_file_size 0;
	proxy_request_buffering off;
	server {
		listen 127.0.0.1:%[1]s;
		location / { proxy_pass http://origin; }
		location /sink/ { proxy_pass http://sink; }
		location = /sink/websocket {
			proxy_pass http://sink;
			proxy_set_header Upgrade $http_upgrade;
			proxy_set_header Connection upgrade;
			proxy_read_timeout 1h;
		}
	}`

// startNginx runs an nginx of its own, whose servers are configured by config, which
// gets the port to listen on as its first argument.
func (b *bed) startNginx(ctx context.Context, name, config string, args ...any) (*process, string, error) {
	dir, err := os.MkdirTemp(b.dir, "nginx-")
	if err != nil {
		return nil, "", err
	}
	port, err := freePort()
	if err != nil {
		return nil, "", err
	}
	who := ""
	if os.Geteuid() == 0 { // the workers must be allowed to read the file
		me, err := user.Current()
		if err != nil {
			return nil, "", err
		}
		who = "user " + me.Username + ";"
	}
	servers := fmt.Sprintf(config, append([]any{port}, args...)...)
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, fmt.Appendf(nil, nginxFrame, dir, who, servers), 0o600); err != nil {
		return nil, "", err
	}
	p, err := start(name, b.programs.nginx, []string{"-p", dir, "-c", path, "-e", "stderr"}, nil)
	if err != nil {
		return nil, "", err
	}
	b.running = append(b.running, p)
	addr := net.JoinHostPort("127.0.0.1", port)
	return p, addr, until(ctx, name+" on "+addr, func() bool { return answers(ctx, "http://"+addr+"/") }, p)
}

// startOrigin starts the private service: nginx, and the sink in this program.
func (b *bed) startOrigin(ctx context.Context) error {
	if b.opts.wants("transfer") {
		if err := createBig(filepath.Join(b.dir, "big"), b.opts.size); err != nil {
			return err
		}
	}
	var err error
	if _, b.origin, err = b.startNginx(ctx, "origin (nginx)", originConfig, b.dir, strings.Repeat("a", answerSize)); err != nil {
		return err
	}
	if b.sink, err = startSink(); err != nil || b.programs.iperf == "" {
		return err
	}
	return b.startIperf(ctx)
}

// createBig makes a file of zeros that occupies no disk, and reads it into the page
// cache.
func createBig(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	_, err = drain(f)
	return err
}

// freePort returns a port that nobody listens on, and that is none of those that connections
// get: thousands of them come and go here.
func freePort() (port string, err error) {
	for range 100 {
		port = strconv.Itoa(10_000 + rand.IntN(20_000)) // net.ipv4.ip_local_port_range begins with 32768
		var l net.Listener
		if l, err = net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			return port, l.Close()
		}
	}
	return "", err
}

// wait waits for d, or until ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
