package edge

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/net/http2"

	"github.com/adit-tunnel/adit/shared/route"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// hangingSite is a site whose upstream never answers. It counts the streams that are open,
// the most that were so at once, and all.
type hangingSite struct {
	*site
	open, most, total atomic.Int64
}

func newHangingSite(t *testing.T, change ...func(*Config)) *hangingSite {
	t.Helper()
	s := &hangingSite{site: newSite(t, append(change, withH2C)...)}
	s.clientOf([]route.Upstream{{Host: "*", Scheme: route.HTTP}}, func(st *tunnel.Stream) {
		s.total.Add(1)
		n := s.open.Add(1)
		defer s.open.Add(-1)
		for most := s.most.Load(); n > most && !s.most.CompareAndSwap(most, n); most = s.most.Load() {
		}
		if st.Accept() == nil {
			_, _ = io.Copy(io.Discard, st)
		}
	})
	return s
}

// flood sends at most so many times, and reports how often before the server had enough: it
// closed the connection or stopped reading.
// What comes back is not read if unread.
func (f *frames) flood(most int, unread bool, send func(i int) error) (sent int) {
	if unread {
		_ = f.Conn.(*net.TCPConn).SetReadBuffer(1)                   // as little as there is
		_ = f.Conn.SetWriteDeadline(time.Now().Add(2 * time.Second)) // the server may stop reading, too
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer f.ended.Store(true)
		if !unread {
			_, _ = io.Copy(io.Discard, f.Conn)
		}
	}()
	for sent < most && send(sent) == nil {
		sent++
	}
	_ = f.Close()
	<-done
	return sent
}

// allocated returns what is on the heap.
func allocated() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// cancelled sends a request and cancels it.
func (f *frames) cancelled(i int) error {
	id := uint32(2*i + 1)
	if err := f.request(id, true, getFields...); err != nil {
		return err
	}
	return f.WriteRSTStream(id, http2.ErrCodeCancel)
}

// TestRapidReset is CVE-2023-44487: requests that are cancelled as soon as they are sent.
func TestRapidReset(t *testing.T) {
	const atOnce = 50
	s := newHangingSite(t, func(cfg *Config) { cfg.MaxRequests = atOnce })
	before, goroutines, begun := allocated(), runtime.NumGoroutine(), time.Now()
	const connections = 3
	for range connections {
		f := s.dialFrames()
		sent := f.flood(100*cancelBurst, false, f.cancelled)
		t.Logf("%d requests were cancelled", sent)
	}
	eventually(t, func() bool { return s.open.Load() == 0 && runtime.NumGoroutine() <= goroutines+10 })
	if total, may := s.total.Load(), connections*(cancelBurst+atOnce)+int64(time.Since(begun).Seconds()*cancelRate); total > may {
		t.Errorf("%d streams were opened, want no more than %d", total, may)
	}
	// A connection has so many at work at once; the client may hear late that one is over.
	if most := s.most.Load(); most > connections*2*atOnce {
		t.Errorf("%d streams were open at once", most)
	}
	if grown := allocated() - before; grown > 16<<20 {
		t.Errorf("%d bytes are left on the heap", grown)
	}
}

// TestCancelsAreCounted wants the connection of a visitor to be closed who cancels more than
// anybody has reason to, however slowly the server takes it: no request is cancelled before it
// is at work, so that it is never net/http that has enough first.
func TestCancelsAreCounted(t *testing.T) {
	const atOnce, most = 50, 100 * cancelBurst
	s := newHangingSite(t)
	f := s.dialFrames()
	sent := f.flood(most, false, func(i int) error {
		if err := f.request(uint32(2*i+1), true, getFields...); err != nil {
			return err
		}
		if (i+1)%atOnce != 0 {
			return nil
		}
		eventually(t, func() bool { return s.total.Load() == int64(i+1) || f.ended.Load() })
		for j := i + 1 - atOnce; j <= i; j++ {
			if err := f.WriteRSTStream(uint32(2*j+1), http2.ErrCodeCancel); err != nil {
				return err
			}
		}
		return nil
	})
	if sent < cancelBurst-atOnce || sent == most {
		t.Errorf("the connection ended after %d requests", sent)
	}
	if n := testutil.ToFloat64(s.edge.metrics.http2Errors.WithLabelValues("too_many_cancelled")); n == 0 {
		t.Error("it is not counted")
	}
}

// TestConcurrentRequests wants a connection to have no more requests under way than it may.
func TestConcurrentRequests(t *testing.T) {
	const atOnce = 10
	s := newHangingSite(t, func(cfg *Config) { cfg.MaxRequests = atOnce })
	f := s.dialFrames()
	for i := range 3 * atOnce {
		f.must(nil, f.request(uint32(2*i+1), true, getFields...))
	}
	for range 2 * atOnce {
		if reset, ok := f.next().(*http2.RSTStreamFrame); !ok || reset.StreamID <= 2*atOnce {
			t.Fatalf("got %v, want the streams beyond the limit reset", reset)
		}
	}
	eventually(t, func() bool { return s.open.Load() == atOnce })
	if most := s.most.Load(); most != atOnce {
		t.Errorf("%d streams were open", most)
	}
}

// maxFlood is how many frames are sent at most.
const maxFlood = 1 << 19

// TestFloods is about frames that cost the server more than those who send them. All are
// held off by net/http; this is to see that it does.
func TestFloods(t *testing.T) {
	for _, test := range []struct {
		name string
		ends bool // the server closes the connection; or it may take it all, but keeps nothing
		send func(f *frames, i int) error
	}{
		{"continuation", true, func(f *frames, i int) error { // CVE-2023-45288: a head without an end
			block := f.encode("x-filler", strings.Repeat("x", 8<<10))
			if i == 0 {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block})
			}
			return f.WriteContinuation(1, false, block)
		}},
		{"small continuations", true, func(f *frames, i int) error {
			if i == 0 {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.encode(getFields...)})
			}
			return f.WriteContinuation(1, false, f.encode("a", "b"))
		}},
		{"settings unread", false, func(f *frames, _ int) error {
			return f.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 14})
		}},
		{"pings unread", false, func(f *frames, i int) error { return f.WritePing(false, [8]byte{byte(i)}) }},
		{"resets unread", false, func(f *frames, i int) error { // CVE-2019-9514: each is answered by RST_STREAM
			return f.request(uint32(2*i+1), true, ":method", "GET", ":scheme", "http", ":path", "no-slash")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newHangingSite(t)
			f := s.dialFrames()
			before, goroutines := allocated(), runtime.NumGoroutine()
			grown := int64(0)
			sent := f.flood(maxFlood, strings.HasSuffix(test.name, "unread"), func(i int) error {
				err := test.send(f, i)
				if err != nil || i == maxFlood-1 {
					grown = allocated() - before
				}
				return err
			})
			t.Logf("after %d frames there are %d bytes more on the heap", sent, grown)
			if test.ends && sent == maxFlood {
				t.Error("the server never had enough")
			}
			if grown > 16<<20 {
				t.Errorf("%d bytes are on the heap", grown)
			}
			eventually(t, func() bool { return runtime.NumGoroutine() <= goroutines })
		})
	}
}

// TestHeaderListTooLarge wants a head over the limit to be refused, in whatever frames and
// codes it comes.
func TestHeaderListTooLarge(t *testing.T) {
	s := newHangingSite(t)
	f := s.dialFrames()
	var fields []string
	for i := range 20 {
		fields = append(fields, fmt.Sprint("x-", i), strings.Repeat("x", 8<<10))
	}
	block := f.encode(append(append([]string(nil), getFields...), fields...)...)
	f.must(nil, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true, BlockFragment: block[:16<<10]}))
	for block = block[16<<10:]; len(block) > 0; {
		n := min(len(block), 16<<10)
		if f.WriteContinuation(1, n == len(block), block[:n]) != nil {
			break
		}
		block = block[n:]
	}
	if got := f.status(); got != "431" && !strings.HasPrefix(got, "GOAWAY") {
		t.Errorf("answer is %s", got)
	}
	if s.most.Load() > 0 {
		t.Error("it was passed on")
	}
}

// TestSlowReaders wants visitors who take nothing to hold back their own responses only, and
// little memory.
func TestSlowReaders(t *testing.T) {
	const size, slow = 8 << 20, 40
	s := h2cSite(t, "http://"+httpUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/small" {
			_, _ = io.WriteString(w, "small")
			return
		}
		_, _ = io.CopyN(w, zeros{}, size)
	}))
	before := allocated()
	f := s.dialFrames()
	for i := range slow {
		f.must(nil, f.request(uint32(2*i+1), true, getFields...))
	}
	got := map[uint32]int{}
	for total := 0; total < 65535; { // what the window of the connection has room for
		frame := f.next()
		if frame == nil {
			t.Fatal("the connection ended")
		}
		if data, ok := frame.(*http2.DataFrame); ok {
			got[data.StreamID] += len(data.Data())
			total += len(data.Data())
		}
	}
	if grown := allocated() - before; grown > slow*(1<<20) {
		t.Errorf("%d bytes are on the heap", grown)
	}
	if _, body := s.get("http://a.example/small"); body != "small" {
		t.Errorf("another visitor gets %q", body)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
