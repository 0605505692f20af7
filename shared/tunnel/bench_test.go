package tunnel

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
)

// relayTo serves streams by a relay to a new connection to addr.
func relayTo(addr string) func(*Stream) {
	return func(st *Stream) {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			st.Reset(CodeRefused, err.Error())
			return
		}
		if st.Accept() != nil {
			c.Close()
			return
		}
		_ = Relay(st, c, 0)
	}
}

// echoServer answers each message of size bytes with one of the same size.
func echoServer(tb testing.TB, size int) string {
	return tcpServer(tb, func(c net.Conn) {
		buf := make([]byte, size)
		for {
			if _, err := io.ReadFull(c, buf); err != nil {
				return
			}
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	})
}

func tcpServer(tb testing.TB, serve func(net.Conn)) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	tb.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String()
}

// BenchmarkThroughput measures one direction of bulk: a TCP server behind the client
// sends without end, the reader at the server's side takes it.
func BenchmarkThroughput(b *testing.B) {
	for _, c := range carriers {
		if c.name == "pipe" {
			continue
		}
		for _, streams := range []int{1, 16} {
			b.Run(fmt.Sprintf("carrier=%s/streams=%d", c.name, streams), func(b *testing.B) {
				const payload = 64 << 10
				source := tcpServer(b, func(c net.Conn) {
					buf := make([]byte, payload)
					for {
						if _, err := c.Write(buf); err != nil {
							return
						}
					}
				})
				srv, _ := sessions(b, c.pair, Config{}, Config{Handle: relayTo(source)})
				var open []*Stream
				for range streams {
					st, err := srv.Open(context.Background(), Target{})
					if err != nil {
						b.Fatal(err)
					}
					open = append(open, st)
				}
				b.SetBytes(payload)
				b.ReportAllocs()
				b.ResetTimer()
				var wg sync.WaitGroup
				for _, st := range open {
					wg.Go(func() {
						buf := make([]byte, payload)
						for range b.N/streams + 1 {
							if _, err := io.ReadFull(st, buf); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				for _, st := range open {
					st.Reset(CodeCancelled, "")
				}
			})
		}
	}
}

// BenchmarkRequest measures small exchanges, as an HTTP request and its answer.
func BenchmarkRequest(b *testing.B) {
	for _, c := range carriers {
		if c.name == "pipe" {
			continue
		}
		for _, streams := range []int{1, 64} {
			b.Run(fmt.Sprintf("carrier=%s/payload=1KiB/streams=%d", c.name, streams), func(b *testing.B) {
				const payload = 1 << 10
				echo := echoServer(b, payload)
				srv, _ := sessions(b, c.pair, Config{}, Config{Handle: relayTo(echo)})
				b.ReportAllocs()
				b.ResetTimer()
				var wg sync.WaitGroup
				for range streams {
					wg.Go(func() {
						st, err := srv.Open(context.Background(), Target{})
						if err != nil {
							b.Error(err)
							return
						}
						defer st.Close()
						buf := make([]byte, payload)
						for range b.N/streams + 1 {
							if _, err := st.Write(buf); err != nil {
								b.Error(err)
								return
							}
							if _, err := io.ReadFull(st, buf); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				srv.w.mu.Lock()
				b.ReportMetric(float64(srv.w.batch)/float64(b.N), "msgs/op")
				srv.w.mu.Unlock()
			})
		}
	}
}

// BenchmarkOpen measures a new stream with its dial, one byte each way, and its end.
func BenchmarkOpen(b *testing.B) {
	echo := echoServer(b, 1)
	srv, _ := sessions(b, carriers[2].pair, Config{}, Config{Handle: relayTo(echo)})
	b.ReportAllocs()
	for b.Loop() {
		st, err := srv.Open(context.Background(), Target{})
		if err != nil {
			b.Fatal(err)
		}
		var one [1]byte
		if _, err := st.Write(one[:]); err != nil {
			b.Fatal(err)
		}
		if _, err := st.Read(one[:]); err != nil {
			b.Fatal(err)
		}
		st.CloseWrite()
		st.Read(one[:])
		st.Close()
	}
}
