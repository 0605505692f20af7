package edge

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/adit-tunnel/adit/shared/access"
)

// benchUpstream answers every request with so many bytes and does nothing else: its own
// cost is to be small.
func benchUpstream(b *testing.B, size int) string {
	response := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: " + strconv.Itoa(size) + "\r\n\r\n" + strings.Repeat("x", size))
	return rawUpstream(b, func(_ int, c *wire) {
		_ = c.SetDeadline(noDeadline)
		for {
			if err := skipHead(c.r); err != nil {
				return
			}
			if _, err := c.Conn.Write(response); err != nil {
				return
			}
		}
	})
}

// skipHead reads up to the empty line, without allocating.
func skipHead(r *bufio.Reader) error {
	for {
		line, err := r.ReadSlice('\n')
		if err != nil || len(line) == 2 {
			return err
		}
	}
}

// BenchmarkRequest has visitors with keep-alive who ask again and again, over TCP on both
// sides; what the visitors, the client and the upstream cost is in it.
func BenchmarkRequest(b *testing.B) {
	for _, visitors := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("payload=1KiB/visitors=%d", visitors), func(b *testing.B) { benchmarkRequest(b, visitors, 1<<10, nil) })
	}
	b.Run("payload=64KiB/visitors=16", func(b *testing.B) { benchmarkRequest(b, 16, 64<<10, nil) })
	for name, p := range map[string]*access.Policy{
		"password": {Creds: access.NewCredentials([]string{"ann:one"}, nil)},
		"address":  {Allow: networks(b, "127.0.0.0/8")},
	} {
		b.Run("payload=1KiB/visitors=16/ask="+name, func(b *testing.B) { benchmarkRequest(b, 16, 1<<10, p) })
	}
}

// benchmarkRequest asks an upstream with a policy, nil for none.
func benchmarkRequest(b *testing.B, visitors, size int, p *access.Policy, change ...func(*Config)) {
	s := newSite(b, change...)
	s.access = p
	s.client("http://" + benchUpstream(b, size))
	request := []byte("GET /path?query HTTP/1.1\r\nHost: bench.example.com\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\nAccept-Encoding: gzip\r\nAuthorization: Basic YW5uOm9uZQ==\r\n\r\n")
	var conns []net.Conn
	for range visitors {
		c := s.dial()
		_ = c.SetDeadline(noDeadline)
		conns = append(conns, c.Conn)
	}
	turns := make(chan struct{}, 1024)
	var wg sync.WaitGroup
	for _, conn := range conns {
		wg.Go(func() {
			r := bufio.NewReaderSize(conn, 4<<10)
			for range turns {
				if _, err := conn.Write(request); err != nil {
					b.Error(err)
					return
				}
				if err := skipHead(r); err != nil {
					b.Error(err)
					return
				}
				if _, err := r.Discard(size); err != nil && err != io.EOF {
					b.Error(err)
					return
				}
			}
		})
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		turns <- struct{}{}
	}
	close(turns)
	wg.Wait()
}
