package tunnel

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
)

// writeInPieces writes p in pieces of odd sizes.
func writeInPieces(tb testing.TB, w io.Writer, p []byte, seed uint64) {
	tb.Helper()
	rnd := rand.New(rand.NewPCG(seed, 1))
	sizes := []int{1, 2, 7, 100, 1023, smallData, smallData + 1, bulkData - 1, bulkData, bulkData + 1, MaxPayload, 200_000}
	for len(p) > 0 {
		n := min(len(p), sizes[rnd.IntN(len(sizes))])
		if _, err := w.Write(p[:n]); err != nil {
			tb.Errorf("write with %d bytes left: %v", len(p), err)
			return
		}
		p = p[n:]
	}
}

// readInPieces reads with buffers of odd sizes up to the end.
func readInPieces(r io.Reader, seed uint64) ([]byte, error) {
	rnd := rand.New(rand.NewPCG(seed, 2))
	var got []byte
	buf := make([]byte, 100_000)
	for {
		n, err := r.Read(buf[:1+rnd.IntN([]int{1, 10, 3000, 40_000, 99_999}[rnd.IntN(5)])])
		got = append(got, buf[:n]...)
		if err == io.EOF {
			return got, nil
		}
		if err != nil {
			return got, err
		}
	}
}

// Several streams at once carry different bytes in both directions, cut in all sizes.
func TestDataBothWays(t *testing.T) {
	overEach(t, func(t *testing.T, pair carrierPair) {
		const streams, size = 3, 300_000
		var wg sync.WaitGroup
		exchange := func(st *Stream, out, in uint64) {
			wg.Go(func() {
				writeInPieces(t, st, pattern(size, out), out)
				_ = st.CloseWrite()
			})
			wg.Go(func() {
				got, err := readInPieces(st, in)
				if err != nil || sha256.Sum256(got) != sha256.Sum256(pattern(size, in)) {
					t.Errorf("stream %d: got %d bytes, error %v, with digest %s, want %s", st.id, len(got), err, digest(got), digest(pattern(size, in)))
				}
			})
		}
		handle, accepted := accepted(t)
		srv, _ := sessions(t, pair, Config{}, Config{Handle: handle})
		for i := range uint64(streams) {
			here := open(t, srv)
			there := <-accepted
			exchange(here, 2*i, 2*i+1)
			exchange(there, 2*i+1, 2*i)
			t.Cleanup(func() { there.Close() })
		}
		wg.Wait()
	})
}

// A peer that has ended its bytes still gets the whole answer, and the other way round.
func TestHalfClose(t *testing.T) {
	overEach(t, func(t *testing.T, pair carrierPair) {
		request, answer := pattern(100_000, 1), pattern(3<<20, 2)
		serve := func(st *Stream) {
			defer st.Close()
			_ = st.Accept()
			wantAll(t, st, request)
			write(t, st, answer)
			_ = st.CloseWrite()
		}
		srv, cli := sessions(t, pair, Config{Handle: serve}, Config{Handle: serve})
		for _, s := range []*Session{srv, cli} {
			st := open(t, s)
			write(t, st, request)
			if err := st.CloseWrite(); err != nil {
				t.Error(err)
			}
			if n, err := st.Write([]byte("more")); n != 0 || err != io.ErrClosedPipe {
				t.Errorf("wrote %d bytes behind the end, error %v", n, err)
			}
			wantAll(t, st, answer)
			if n, err := st.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("behind the end: %d bytes, error %v", n, err)
			}
			if err := st.Err(); err != nil {
				t.Errorf("a clean end is %v", err)
			}
		}
	})
}

func TestWriteTo(t *testing.T) {
	overEach(t, func(t *testing.T, pair carrierPair) {
		want := pattern(2<<20, 3)
		srv, _ := sessions(t, pair, Config{}, Config{Handle: func(st *Stream) {
			defer st.Close()
			_ = st.Accept()
			writeInPieces(t, st, want, 3)
			_ = st.CloseWrite()
		}})
		st := open(t, srv)
		var got bytes.Buffer
		n, err := st.WriteTo(&got)
		if err != nil || n != int64(len(want)) || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("got %d bytes with digest %s, error %v, want %s", n, digest(got.Bytes()), err, digest(want))
		}
	})
}

func TestReady(t *testing.T) {
	s, p := script(t, Config{})
	st := p.openTo(s, 10)
	if st.Ready() {
		t.Error("ready with nothing there")
	}
	p.send(dataFrame(st.id, nil), dataFrame(st.id, []byte("ab")), finFrame(st.id))
	wantBytes(t, st, []byte("a"))
	if !st.Ready() {
		t.Error("not ready with a byte there")
	}
	wantAll(t, st, []byte("b"))
	if !st.Ready() {
		t.Error("not ready at the end")
	}
}

// Small DATA must never overtake the bulk of its own stream, nor FIN either of them.
func TestOrderWithinStream(t *testing.T) {
	overEach(t, func(t *testing.T, pair carrierPair) {
		_, _, here, there := join(t, pair, Config{}, Config{})
		var want []byte
		rnd := rand.New(rand.NewPCG(5, 5))
		for i := range 400 {
			size := 1 + rnd.IntN(smallData)
			if i%3 == 0 {
				size = smallData + rnd.IntN(2*bulkData)
			}
			want = append(want, bytes.Repeat([]byte{byte(i)}, size)...)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			last, start := byte(0), 0
			for i, b := range append(want[:len(want):len(want)], 0) {
				if b != last || i == len(want) {
					write(t, here, want[start:i])
					last, start = b, i
				}
			}
			_ = here.CloseWrite()
		})
		wantAll(t, there, want)
		wg.Wait()
	})
}

// While one stream sends without end, another one's small exchanges go through.
func TestSmallOvertakesBulk(t *testing.T) {
	overEach(t, func(t *testing.T, pair carrierPair) {
		srv, _ := sessions(t, pair, Config{}, Config{Handle: echo})
		bulk, small := open(t, srv), open(t, srv)
		var wg sync.WaitGroup
		wg.Go(func() {
			buf := make([]byte, 100_000)
			for {
				if _, err := bulk.Write(buf); err != nil {
					return
				}
			}
		})
		wg.Go(func() { _, _ = io.Copy(io.Discard, bulk) })
		for i := range 50 {
			p := pattern(10, uint64(i))
			write(t, small, p)
			wantBytes(t, small, p)
		}
		bulk.Reset(CodeCancelled, "enough")
		wg.Wait()
	})
}
