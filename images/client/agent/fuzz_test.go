package agent

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"
)

// FuzzParseURL takes anything for a URL: what is accepted means the same when it is written
// again, has nothing in it that could be a secret, and fits a log line.
func FuzzParseURL(f *testing.F) {
	for _, s := range []string{"wss://host:8123", "https://HOST/path/", "ws://[::1]:1", "wss://u:p@host", "wss://a?b#c", "http://a%41", "wss://host:8123/%2e%2e/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURL(s)
		if err != nil {
			return
		}
		again, err := ParseURL(u.String())
		if err != nil || again.String() != u.String() {
			t.Fatalf("%q became %q, and that %v, %v", s, u, again, err)
		}
		if u.Scheme != "ws" && u.Scheme != "wss" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Hostname() == "" {
			t.Fatalf("%q became %#v", s, u)
		}
		if strings.ContainsFunc(u.String(), unicode.IsControl) {
			t.Fatalf("%q became %q", s, u)
		}
	})
}

// FuzzRefused has a hostile server answer anything to the handshake: the error is short, on
// one line, and waits no longer than it may.
func FuzzRefused(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 403 No\r\nContent-Length: 5\r\n\r\na\x1b[3m",
		"HTTP/1.1 302 Found\r\nLocation: https://evil.test/\x7f\r\nRetry-After: 99999999999\r\n\r\n",
		"HTTP/1.1 503 x\r\nRetry-After: Wed, 21 Oct 2099 07:28:00 GMT\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello",
		"HTTP/1.0 101 x\r\n\r\n", "HTTP/1.1 429 x\r\nRetry-After: -1\r\n\r\n\u202ereversed\u0085",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(s)), &http.Request{Method: http.MethodGet})
		if err != nil {
			return
		}
		err = refused(resp)
		text := err.Error()
		if len(text) > 5000 || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Fatalf("%q: the error is not fit for a terminal: %q", s, text)
		}
		b := backoff{delays: defaultDelays}
		if wait := b.after(err); wait < 0 || wait > maxHint+time.Minute {
			t.Fatalf("%q: waits %s", s, wait)
		}
	})
}
