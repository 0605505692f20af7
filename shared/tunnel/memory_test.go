package tunnel

import (
	"context"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
)

// inUse returns the bytes of live objects and stacks.
func inUse() int64 {
	runtime.GC()
	runtime.GC() // what the first one took from the pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// BenchmarkIdleSession measures what a session without streams costs, both of its ends
// together.
func BenchmarkIdleSession(b *testing.B) {
	for _, c := range carriers {
		if c.name == "pipe" {
			continue
		}
		b.Run("carrier="+c.name, func(b *testing.B) {
			const count = 100
			var total int64
			rounds := 0
			for b.Loop() {
				var ends [2 * count]Carrier
				for i := range count {
					ends[2*i], ends[2*i+1] = c.pair(b)
				}
				before := inUse() // the connection itself is not the session's
				var all [2 * count]*Session
				for i, carrier := range ends {
					all[i] = New(carrier, Config{Client: i%2 == 1})
				}
				for _, s := range all {
					for s.RTT() == 0 { // until its first ping was answered
						runtime.Gosched()
					}
				}
				total += inUse() - before
				rounds++
				for _, s := range all {
					s.Close()
				}
			}
			b.ReportMetric(float64(total)/float64(rounds*count), "B/session")
		})
	}
}

// BenchmarkIdleStream measures what a stream costs over which nothing passes, both of its
// ends together; relayed, with a goroutine and a socket at each end.
func BenchmarkIdleStream(b *testing.B) {
	const count = 400
	measure := func(b *testing.B, handle func(*Stream), hold func(*Stream) (end func())) {
		var total int64
		rounds := 0
		for b.Loop() {
			srv, cli := sessions(b, carriers[1].pair, Config{Budget: 1 << 30}, Config{Budget: 1 << 30, Handle: handle})
			before := inUse()
			var ends []func()
			for range count {
				st, err := srv.Open(context.Background(), Target{})
				if err != nil {
					b.Fatal(err)
				}
				var one [1]byte // it has been in use
				write(b, st, one[:])
				if _, err := io.ReadFull(st, one[:]); err != nil {
					b.Fatal(err)
				}
				ends = append(ends, hold(st))
			}
			total += inUse() - before
			rounds++
			for _, end := range ends {
				end()
			}
			srv.Close()
			cli.Close()
		}
		b.ReportMetric(float64(total)/float64(rounds*count), "B/stream")
	}
	b.Run("bare", func(b *testing.B) {
		measure(b, func(st *Stream) {
			var one [1]byte
			_ = st.Accept()
			_, _ = io.ReadFull(st, one[:])
			_, _ = st.Write(one[:])
		}, func(st *Stream) func() { return func() { st.Reset(CodeCancelled, "") } })
	})
	b.Run("relayed", func(b *testing.B) {
		upstream := echoServer(b, 1)
		visitors := echoServer(b, 1)
		measure(b, relayTo(upstream), func(st *Stream) func() {
			c, err := net.Dial("tcp", visitors)
			if err != nil {
				b.Fatal(err)
			}
			var wg sync.WaitGroup
			wg.Go(func() { _ = Relay(st, c, 0) })
			return func() {
				st.Reset(CodeCancelled, "")
				wg.Wait()
			}
		})
	})
}
