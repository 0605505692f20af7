//go:build linux

package main

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/gorilla/websocket"
)

// sink is the part of the private service that takes uploads and websockets, both of
// which nginx does not. It runs in this program.
type sink struct {
	addr string
	echo string // address of the plain echo service
	srv  *http.Server
	tcp  net.Listener
	done chan struct{}
}

// startSink serves /sink/upload, which answers with the number of bytes that it got,
// and /sink/websocket, which sends back every message, and an echo of bare connections.
func startSink() (*sink, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /sink/upload", func(w http.ResponseWriter, r *http.Request) {
		n, err := drain(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, strconv.FormatInt(n, 10))
	})
	upgrader := websocket.Upgrader{ReadBufferSize: 512, WriteBufferSize: 512}
	mux.HandleFunc("GET /sink/websocket", func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		for {
			kind, message, err := conn.ReadMessage()
			if err != nil || conn.WriteMessage(kind, message) != nil {
				return
			}
		}
	})
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		l.Close()
		return nil, err
	}
	go echo(tcp)
	s := &sink{addr: l.Addr().String(), echo: tcp.Addr().String(), tcp: tcp, srv: &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		_ = s.srv.Serve(l)
	}()
	return s, nil
}

// stop closes the listener; websockets end with their visitors.
func (s *sink) stop() {
	_ = s.tcp.Close()
	_ = s.srv.Close()
	<-s.done
}

// echo sends back what comes, on each connection of its own, which end with their visitors.
func echo(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			buf := make([]byte, 64)
			for {
				n, err := conn.Read(buf)
				if err != nil {
					return
				}
				if _, err := conn.Write(buf[:n]); err != nil {
					return
				}
			}
		}()
	}
}

// drain reads to the end, a lot at once, and returns how much that was.
func drain(r io.Reader) (total int64, err error) {
	buf := make([]byte, 256<<10)
	for {
		n, err := r.Read(buf)
		total += int64(n)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}
