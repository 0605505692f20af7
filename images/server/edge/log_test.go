package edge

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

// logged has exchanges be logged, and returns the lines.
func logged() (func(*Config), *lines) {
	l := new(lines)
	log := zerolog.New(l)
	return func(cfg *Config) { cfg.AccessLog = &log }, l
}

// visits waits for n lines of the access log.
func (l *lines) visits(t *testing.T, n int) (list []map[string]any) {
	t.Helper()
	eventually(t, func() bool { return len(l.all()) >= n })
	for _, text := range l.all() {
		v := map[string]any{}
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		if seconds, ok := v["seconds"].(float64); !ok || seconds < 0 || seconds > patience.Seconds() {
			t.Errorf("seconds are %v", v["seconds"])
		}
		delete(v, "seconds")
		list = append(list, v)
	}
	if len(list) != n {
		t.Fatalf("%d lines, want %d:\n%s", len(list), n, strings.Join(l.all(), ""))
	}
	return list
}

func wantVisit(t *testing.T, got map[string]any, want string) {
	t.Helper()
	text, err := json.Marshal(got) // in the order of the names
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != want {
		t.Errorf("logged\n%s\nwant\n%s", text, want)
	}
}

func TestAccessLog(t *testing.T) {
	on, log := logged()
	s := newSite(t, on, trustProxies("127.0.0.1"))
	address := rawUpstream(t, func(_ int, c *wire) {
		for head := c.head(); head != ""; head = c.head() {
			switch {
			case strings.HasPrefix(head, "POST"):
				c.bytes(5)
				c.send("HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n4\r\nsir!\r\n0\r\n\r\n")
			case strings.HasPrefix(head, "HEAD"):
				c.send("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
			default:
				c.send(hello)
			}
		}
	})
	s.client("shop.example/a=http://" + address)
	const secrets = "Cookie: secret\r\nAuthorization: Basic secret\r\nProxy-Authorization: secret\r\nReferer: http://x/?secret\r\nX-Forwarded-For: 203.0.113.7\r\n"
	c := s.dial()
	for _, request := range []string{
		"GET /a/b%20c?token=secret HTTP/1.1\r\nHost: shop.example:80\r\nUser-Agent: curl/8\r\n" + secrets + "\r\n",
		"GET /a/d?token=secret HTTP/1.1\r\nuser-AGENT: curl/8\r\nHost: shop.example:80\r\n" + secrets + "\r\n", // plain
		"GET http://user:secret@shop.example/a?secret HTTP/1.1\r\nHost: shop.example\r\n\r\n",
	} {
		c.send(request)
		c.want("GET", 200, "hello")
	}
	for range 2 {
		c.send("POST /a HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 5\r\n\r\nhello")
		c.want("POST", 201, "yessir!")
	}
	c.send("HEAD /a HTTP/1.1\r\nHost: shop.example\r\n\r\n")
	c.want("HEAD", 200, "")
	c.send("BREW /other HTTP/1.1\r\nHost: shop.example\r\n\r\n")
	refusal := "404 Not Found: nothing is exposed under this host and path\n"
	c.want("BREW", 404, refusal)
	list := log.visits(t, 7)
	common := func(agent bool, method, path string, received, sent, status int) string {
		user, visitor := "", "127.0.0.1"
		if agent {
			user, visitor = `,"user_agent":"curl/8"`, "203.0.113.7"
		}
		return fmt.Sprintf(`{"client_id":"test","host":"shop.example/a","message":"request","method":"%s","path":"%s","protocol":"HTTP/1.1","received":%d,"scheme":"http","sent":%d,"status":%d,"upstream":"shop.example/a=http://%s"%s,"visitor":"%s"}`,
			method, path, received, sent, status, address, user, visitor)
	}
	wantVisit(t, list[0], common(true, "GET", "/a/b%20c", 0, 5, 200))
	wantVisit(t, list[1], common(true, "GET", "/a/d", 0, 5, 200))
	wantVisit(t, list[2], common(false, "GET", "/a", 0, 5, 200))
	wantVisit(t, list[3], common(false, "POST", "/a", 5, 7, 201))
	wantVisit(t, list[4], common(false, "POST", "/a", 5, 7, 201))
	wantVisit(t, list[5], common(false, "HEAD", "/a", 0, 0, 200))
	wantVisit(t, list[6], fmt.Sprintf(`{"host":"unmatched","message":"request","method":"BREW","path":"/other","protocol":"HTTP/1.1","received":0,"scheme":"http","sent":%d,"status":404,"visitor":"127.0.0.1"}`, len(refusal)))
	if text := strings.Join(log.all(), ""); strings.Contains(text, "secret") {
		t.Errorf("the access log has secrets:\n%s", text)
	}
}

// Whatever visitors send makes no line that is long, or more than one.
func TestAccessLogIsBounded(t *testing.T) {
	on, log := logged()
	s := newSite(t, on)
	s.client("http://" + httpUpstream(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "hello") }))
	c := s.dial()
	for range 2 {
		c.send("GET /%0A%1b[31m" + strings.Repeat("x", 20_000) + " HTTP/1.1\r\nHost: a\r\nUser-Agent: \x80\"" + strings.Repeat("y", 20_000) + "\r\n\r\n")
		c.want("GET", 200, "hello")
	}
	for _, text := range log.all() {
		if len(text) > 1500 || strings.Count(text, "\n") != 1 || strings.ContainsAny(strings.TrimSuffix(text, "\n"), "\x1b\x00\n\r") {
			t.Errorf("logged %d bytes: %.200q", len(text), text)
		}
	}
	log.visits(t, 2)
}

// A connection that has changed its protocol is logged when it ends, with what it carried.
func TestAccessLogOfUpgraded(t *testing.T) {
	on, log := logged()
	s := newSite(t, on)
	address := rawUpstream(t, func(_ int, c *wire) {
		if c.head() == "" {
			return
		}
		c.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		c.bytes(5)
		c.send("welcome")
		c.discard()
	})
	s.client("http://" + address)
	c := s.dial()
	c.send("GET /ws?secret HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	c.head()
	c.send("hello")
	if got := c.bytes(7); got != "welcome" {
		t.Errorf("got %q", got)
	}
	if n := len(log.all()); n != 0 {
		t.Errorf("%d lines before the end", n)
	}
	_ = c.Close()
	wantVisit(t, log.visits(t, 1)[0], `{"client_id":"test","host":"*","message":"request","method":"GET","path":"/ws","protocol":"HTTP/1.1","received":5,"scheme":"http","sent":7,"status":101,"upstream":"*=http://`+address+`","visitor":"127.0.0.1"}`)
}

// BenchmarkAccessLog is BenchmarkRequest with and without an access log.
func BenchmarkAccessLog(b *testing.B) {
	file, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0) // each line is a call of the system
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	log := zerolog.New(file)
	for name, access := range map[string]*zerolog.Logger{"off": nil, "on": &log} {
		b.Run("payload=1KiB/visitors=16/log="+name, func(b *testing.B) {
			benchmarkRequest(b, 16, 1<<10, nil, func(cfg *Config) { cfg.AccessLog = access })
		})
	}
}
