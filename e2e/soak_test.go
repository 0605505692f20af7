//go:build linux

package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
)

// soakTime is how long TestSoak takes: SOAK, which "make soak" sets, or a few seconds.
func soakTime(t testing.TB) time.Duration {
	t.Helper()
	text := os.Getenv("SOAK")
	if text == "" {
		return 4 * time.Second
	}
	d, err := time.ParseDuration(text)
	must(t, err)
	return d
}

// soakApp serves /bytes?n=, of which the visitor knows the hash, /hash for what is posted, and /websocket, which sends
// back every message.
func soakApp(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/bytes":
		n, _ := strconv.ParseInt(r.URL.Query().Get("n"), 10, 64)
		if r.URL.Query().Get("chunked") == "" {
			w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		}
		_, _ = io.Copy(w, testData(n))
	case "/websocket":
		conn, err := new(websocket.Upgrader).Upgrade(w, r, nil)
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
	default:
		app(w, r)
	}
}

// TestSoak has all kinds of visitors for a while, some of whom leave in the middle, over ws and over auto-TLS. Not one
// byte is wrong, no visit fails, and in the end the programs hold no more memory, descriptors and goroutines than they
// did when all of it had just begun.
func TestSoak(t *testing.T) {
	t.Parallel()
	for _, auto := range []string{"false", "true"} {
		t.Run("AUTO_TLS="+auto, func(t *testing.T) {
			t.Parallel()
			soak(t, auto)
		})
	}
}

func soak(t *testing.T, auto string) {
	env := chaosEnv("AUTO_TLS=" + auto)
	s := startServer(t, env...)
	if auto == "false" {
		env = append(env, "URL=ws://"+s.control)
	}
	port := freeport.New(t)
	c := connect(t, s, fmt.Sprintf("http://%s,%d=%s", upstream(t, soakApp), port, newEcho(t)), env...)
	sizes := []int64{1, 1000, 70_000, 300_000, 5_000_000}
	hashes := map[int64]string{}
	for _, n := range sizes {
		hashes[n] = hashOf(testData(n))
	}
	keep, once := newVisitor(t, true), newVisitor(t, false)
	traffic := []*traffic{
		startTraffic(t, "GET", 4, 10*time.Millisecond, func(worker, n int) error {
			size := sizes[(worker+n)%len(sizes)]
			return soakGet(keep, s.url(fmt.Sprintf("/bytes?n=%d", size)), hashes[size])
		}),
		startTraffic(t, "GET in chunks, a connection each", 2, 20*time.Millisecond, func(worker, n int) error {
			size := sizes[(worker+n)%len(sizes)]
			return soakGet(once, s.url(fmt.Sprintf("/bytes?chunked=yes&n=%d", size)), hashes[size])
		}),
		startTraffic(t, "POST", 2, 20*time.Millisecond, func(worker, n int) error {
			size := sizes[(worker+n)%len(sizes)]
			return soakPost(keep, s.url("/hash"), size, hashes[size])
		}),
		startTraffic(t, "TCP", 2, 20*time.Millisecond, func(int, int) error {
			return stream(dialer(fmt.Sprint("127.0.0.1:", port)), 10*time.Millisecond)
		}),
		startTraffic(t, "websocket", 2, 20*time.Millisecond, func(_, n int) error { return soakWebsocket(s, n) }),
		startTraffic(t, "visitors who leave", 2, 50*time.Millisecond, func(_, n int) error { return soakLeave(once, s, n) }),
	}
	awaitAll(traffic)

	names := []string{"go_goroutines", "process_open_fds", "process_resident_memory_bytes"}
	look := func(addr string) (values []float64) {
		for _, name := range names {
			values = append(values, metric(t, addr, name))
		}
		return values
	}
	// What is most over a part of the time is compared: a moment says little under load.
	most := func(addr string, until time.Duration) (high []float64) {
		high = look(addr)
		tick := time.NewTicker(max(until/20, 50*time.Millisecond))
		defer tick.Stop()
		for end := time.After(until); ; {
			select {
			case <-tick.C:
				for i, v := range look(addr) {
					high[i] = max(high[i], v)
				}
			case <-end:
				return high
			}
		}
	}
	type held struct{ server, client []float64 }
	phase := func(d time.Duration) (h held) {
		done := make(chan []float64)
		go func() { done <- most(c.addr("metrics"), d) }()
		h.server = most(s.metrics, d)
		h.client = <-done
		return h
	}
	total := soakTime(t)
	first := phase(total / 4)
	phase(total / 2)
	last := phase(total / 4)
	for _, l := range traffic {
		l.mustBeFlawless(visitTimeout)
	}
	for i, name := range names {
		for _, of := range []struct {
			program     string
			first, last float64
		}{{"server", first.server[i], last.server[i]}, {"client", first.client[i], last.client[i]}} {
			t.Logf("%s of the %s: at most %.0f in the first quarter, %.0f in the last", name, of.program, of.first, of.last)
			// Memory of a program under load breathes: the collector lets it double between two collections.
			if allowance := map[string]float64{"go_goroutines": 60, "process_open_fds": 60, "process_resident_memory_bytes": 24e6}[name]; of.last > of.first*1.25+allowance {
				t.Errorf("%s of the %s grew from %.0f to %.0f", name, of.program, of.first, of.last)
			}
		}
	}
}

func soakGet(client *http.Client, url, want string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	hash := sha256.New()
	n, err := io.Copy(hash, resp.Body)
	if got := fmt.Sprintf("%x", hash.Sum(nil)); err == nil && (resp.StatusCode != 200 || got != want) {
		err = fmt.Errorf("%d, %d bytes with another hash", resp.StatusCode, n)
	}
	return err
}

func soakPost(client *http.Client, url string, size int64, want string) error {
	req, err := http.NewRequest(http.MethodPost, url, testData(size))
	if err != nil {
		return err
	}
	req.ContentLength = size
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err == nil && string(got) != want {
		err = fmt.Errorf("%d %.100q", resp.StatusCode, got)
	}
	return err
}

func soakWebsocket(s *server, n int) error {
	dialer := websocket.Dialer{HandshakeTimeout: visitTimeout}
	conn, _, err := dialer.Dial("ws://"+s.data+"/websocket", nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(visitTimeout))
	for i := range 5 {
		message := bytes.Repeat([]byte{byte(n), byte(i)}, 1+1000*i*i)
		if err := conn.WriteMessage(websocket.BinaryMessage, message); err != nil {
			return err
		}
		_, got, err := conn.ReadMessage()
		if err != nil {
			return err
		}
		if !bytes.Equal(got, message) {
			return fmt.Errorf("%d bytes came back, or others", len(got))
		}
	}
	return nil
}

// soakLeave is a visitor who goes before the answer, or the request, has ended.
func soakLeave(client *http.Client, s *server, n int) error {
	if n%2 == 0 {
		resp, err := client.Get(s.url("/bytes?n=5000000"))
		if err != nil {
			return err
		}
		_, err = io.CopyN(io.Discard, resp.Body, 100_000)
		resp.Body.Close()
		return err
	}
	conn, err := dialer(s.data)()
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.WriteString(conn, "POST /hash HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"+strings.Repeat("x", 50_000))
	return err
}
