//go:build unix

package e2e

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// quiet is for servers of the tests whose clients misbehave on purpose.
var quiet = log.New(io.Discard, "", 0)

// service is what an application may do with HTTP.
type service struct {
	*http.ServeMux
	next chan string // what /events is to send
}

func newService(t testing.TB) *service {
	t.Helper()
	s := &service{http.NewServeMux(), make(chan string)}
	s.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s: %s", r.Proto, r.Method, strings.Repeat("hello ", 10))
	})
	s.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) { _ = r.Header.Write(w) })
	s.HandleFunc("/hash", func(w http.ResponseWriter, r *http.Request) {
		hash := sha256.New()
		n, err := io.Copy(hash, r.Body)
		fmt.Fprintf(w, "%d %v %x", n, err, hash.Sum(nil))
	})
	s.HandleFunc("/data", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, testData(100<<20)) })
	s.HandleFunc("/trailers", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Announced")
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%d bytes, then %s", len(body), r.Trailer.Get("X-Sum"))
		w.Header().Set("X-Announced", "yes")
		w.Header().Set(http.TrailerPrefix+"X-Late", "too")
	})
	s.HandleFunc("/hints", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		fmt.Fprint(w, "after hints")
	})
	s.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush()
		for {
			select {
			case text := <-s.next:
				fmt.Fprintf(w, "data: %s\n\n", text)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				s.next <- "gone"
				return
			}
		}
	})
	s.HandleFunc("/break", func(w http.ResponseWriter, r *http.Request) {
		if length := r.URL.Query().Get("length"); length != "" {
			w.Header().Set("Content-Length", length)
		}
		fmt.Fprint(w, "the first part")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	s.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		conn, err := (&websocket.Upgrader{Subprotocols: []string{"chat.v2"}}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		for {
			kind, message, err := conn.ReadMessage()
			if err != nil {
				return // gorilla has answered a close with a close
			}
			if err := conn.WriteMessage(kind, message); err != nil {
				return
			}
		}
	})
	return s
}

// testData is n bytes that look random and are always the same.
func testData(n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{1: 7}), n)
}

func hashOf(r io.Reader) string {
	hash := sha256.New()
	_, _ = io.Copy(hash, r)
	return hex.EncodeToString(hash.Sum(nil))
}

// TestHTTP does through a tunnel what applications do.
func TestHTTP(t *testing.T) {
	t.Parallel()
	app := newService(t)
	tun := newTunnel(t, "http://"+upstream(t, app.ServeHTTP))
	hello := strings.Repeat("hello ", 10)
	t.Run("GET", func(t *testing.T) {
		curl(t, tun.url("/hello")).want(t, 200, "HTTP/1.1 GET: "+hello)
	})
	t.Run("HEAD", func(t *testing.T) {
		r := curl(t, "-I", tun.url("/hello"))
		r.want(t, 200, "")
		if got := r.header.Get("Content-Length"); got != fmt.Sprint(len("HTTP/1.1 HEAD: "+hello)) {
			t.Errorf("Content-Length %q", got)
		}
	})
	t.Run("keep-alive", func(t *testing.T) {
		r := curl(t, "-w", "%{num_connects}", tun.url("/hello"), tun.url("/hello"))
		if want := "HTTP/1.1 GET: " + hello; r.body != want+"1"+want+"0" {
			t.Errorf("got %q", r.body)
		}
	})
	t.Run("HTTP/1.0", func(t *testing.T) {
		r := curl(t, "-0", tun.url("/hello"))
		r.want(t, 200, hello)
		if strings.Contains(strings.ToLower(r.header.Get("Transfer-Encoding")), "chunked") {
			t.Error("chunked for HTTP/1.0")
		}
	})
	t.Run("forwarding headers", func(t *testing.T) {
		r := curl(t, tun.url("/headers"), "-H", "X-Forwarded-For: 1.2.3.4", "-H", "x_forwarded_for: 1.2.3.4", "-H", "X-Forwarded-Proto: https",
			"-H", "Forwarded: for=1.2.3.4", "-H", "X-Real-Ip: 1.2.3.4", "-H", "Authorization: Basic YTpi", "-H", "Connection: X-Mine", "-H", "X-Mine: 1")
		r.want(t, 200, "X-Forwarded-For: 127.0.0.1\r\n")
		for _, line := range []string{"X-Forwarded-Proto: http\r\n", "X-Real-Ip: 127.0.0.1\r\n", "Authorization: Basic YTpi\r\n", "Forwarded: for=127.0.0.1;"} {
			if !strings.Contains(r.body, line) {
				t.Errorf("no %q in\n%s", line, r.body)
			}
		}
		for _, line := range []string{"1.2.3.4", "X-Mine", "Bearer"} {
			if strings.Contains(r.body, line) {
				t.Errorf("%q in\n%s", line, r.body)
			}
		}
	})
	t.Run("early hints", func(t *testing.T) {
		r := curl(t, tun.url("/hints"))
		r.want(t, 200, "after hints")
		if fmt.Sprint(r.interim) != "[103]" {
			t.Errorf("interim answers %v", r.interim)
		}
	})
	t.Run("trailers of the answer", func(t *testing.T) {
		r := curl(t, tun.url("/trailers"))
		r.want(t, 200, "0 bytes, then ")
		if r.trailer.Get("X-Announced") != "yes" || r.trailer.Get("X-Late") != "too" {
			t.Errorf("got %v", r.trailer)
		}
	})
	t.Run("trailers of the request", func(t *testing.T) { // which curl cannot send
		req, err := http.NewRequest("POST", tun.url("/trailers"), io.MultiReader(strings.NewReader("12345")))
		must(t, err)
		req.Trailer = http.Header{"X-Sum": {"five"}}
		transport := &http.Transport{DisableKeepAlives: true}
		resp, err := transport.RoundTrip(req)
		must(t, err)
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); string(body) != "5 bytes, then five" {
			t.Errorf("got %q %v", body, err)
		}
	})
	t.Run("broken bodies", func(t *testing.T) {
		for _, query := range []string{"", "?length=1000"} {
			r := curl(t, tun.url("/break"+query))
			if r.code != 200 || r.body != "the first part" || r.exit != 18 { // CURLE_PARTIAL_FILE
				t.Errorf("%q: got %+v", query, r)
			}
		}
		r := curl(t, "-0", tun.url("/break"))
		if r.exit == 0 {
			t.Errorf("HTTP/1.0: looks complete: %+v", r)
		}
	})
	t.Run("download", func(t *testing.T) {
		hash := sha256.New()
		r := curlWith(t, nil, hash, tun.url("/data"))
		if got, want := hex.EncodeToString(hash.Sum(nil)), hashOf(testData(100<<20)); r.code != 200 || r.exit != 0 || got != want {
			t.Errorf("got %+v %s, want %s", r, got, want)
		}
	})
	t.Run("upload in chunks", func(t *testing.T) {
		r := curlWith(t, testData(100<<20), nil, "-T", "-", tun.url("/hash"))
		r.want(t, 200, fmt.Sprintf("%d <nil> %s", 100<<20, hashOf(testData(100<<20))))
	})
	t.Run("upload with a length", func(t *testing.T) {
		r := curlWith(t, testData(8<<20), nil, "--data-binary", "@-", "-H", "Expect: 100-continue", tun.url("/hash"))
		r.want(t, 200, fmt.Sprintf("%d <nil> %s", 8<<20, hashOf(testData(8<<20))))
		if fmt.Sprint(r.interim) != "[100]" {
			t.Errorf("interim answers %v", r.interim)
		}
	})
	t.Run("events", func(t *testing.T) { events(t, tun.url("/events"), app.next) })
	t.Run("websocket", func(t *testing.T) { echoes(t, "ws://"+tun.data+"/echo") })
}

// events has a visitor wait for events: each comes before the next is made, and the service hears when he leaves.
func events(t *testing.T, url string, next chan string) {
	cmd := exec.Command(needProgram(t, "curl", "curl"), "-sSN", "--noproxy", "*", url)
	cmd.Env, cmd.SysProcAttr = inherited(), processAttributes()
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := make(chan string)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			if scanner.Text() != "" {
				lines <- scanner.Text()
			}
		}
	}()
	for i := range 3 {
		text := fmt.Sprint("event ", i)
		select {
		case next <- text:
		case <-time.After(patience):
			t.Fatal("the service was not asked")
		}
		if got := receive(t, lines); got != "data: "+text {
			t.Errorf("got %q", got)
		}
	}
	must(t, cmd.Process.Kill())
	for range lines {
	}
	_ = cmd.Wait()
	if got := receive(t, next); got != "gone" {
		t.Errorf("got %q", got)
	}
}

// echoes talks over a websocket as a browser does.
func echoes(t *testing.T, url string) {
	dialer := websocket.Dialer{Subprotocols: []string{"chat.v1", "chat.v2"}, HandshakeTimeout: patience}
	conn, resp, err := dialer.Dial(url, http.Header{"Origin": {strings.Replace(url[:strings.LastIndex(url, "/")], "ws", "http", 1)}})
	must(t, err)
	defer conn.Close()
	must(t, conn.SetReadDeadline(time.Now().Add(patience)))
	if resp.StatusCode != http.StatusSwitchingProtocols || conn.Subprotocol() != "chat.v2" {
		t.Errorf("got %d %q", resp.StatusCode, conn.Subprotocol())
	}
	large, err := io.ReadAll(testData(1 << 20))
	must(t, err)
	for _, message := range [][]byte{[]byte("hello"), {}, large} {
		must(t, conn.WriteMessage(websocket.BinaryMessage, message))
		kind, got, err := conn.ReadMessage()
		must(t, err)
		if kind != websocket.BinaryMessage || !bytes.Equal(got, message) {
			t.Errorf("got %d bytes of kind %d, want %d", len(got), kind, len(message))
		}
	}
	must(t, conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4001, "bye"), time.Now().Add(time.Second)))
	if _, _, err := conn.ReadMessage(); !websocket.IsCloseError(err, 4001) {
		t.Errorf("the close is not answered: %v", err)
	}
}
