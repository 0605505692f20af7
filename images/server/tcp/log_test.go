package tcp

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
)

// lines keeps what was logged.
type lines struct {
	mu   sync.Mutex
	text []string
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, string(p))
	return len(p), nil
}

// next waits for the nth line and returns it without the time that the connection took.
func (l *lines) next(t *testing.T, n int) string {
	t.Helper()
	text := ""
	eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.text) > n {
			text = l.text[n]
		}
		return text != ""
	})
	fields := map[string]any{}
	must(t, json.Unmarshal([]byte(text), &fields))
	if seconds, ok := fields["seconds"].(float64); !ok || seconds < 0 || seconds > patience.Seconds() {
		t.Errorf("seconds are %v", fields["seconds"])
	}
	delete(fields, "seconds")
	sorted, err := json.Marshal(fields)
	must(t, err)
	return string(sorted)
}

func TestAccessLog(t *testing.T) {
	log := new(lines)
	to := zerolog.New(log)
	s := start(t, func(cfg *Config) {
		cfg.AccessLog, cfg.MaxConns = &to, 1
		cfg.Visitor = func(conn net.Conn) (Visitor, error) {
			return Visitor{Addr: &net.TCPAddr{IP: net.ParseIP("2001:db8::7"), Port: 4711}, Local: conn.LocalAddr(), Early: []byte("hel")}, nil
		}
	})
	port := freeport.New(t)
	c := s.connect(t, func(conn net.Conn) {
		got, _ := io.ReadAll(conn)
		_, _ = fmt.Fprintf(conn, "%s yourself", got)
		_ = conn.Close()
	}, port)
	v := visit(t, port)
	_, err := io.WriteString(v, "lo")
	must(t, err)
	must(t, v.CloseWrite())
	if got, err := io.ReadAll(v); string(got) != "hello yourself" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	want := fmt.Sprintf(`{"client_id":"CLIENT","message":"connection","port":%d,"protocol":"tcp","reason":"end","received":5,"sent":14,"upstream":"UPSTREAM","visitor":"2001:db8::7"}`, port)
	got := log.next(t, 0)
	for _, name := range []string{"client_id", "upstream"} { // as the tests have them
		_, rest, _ := strings.Cut(got, `"`+name+`":"`)
		value, _, _ := strings.Cut(rest, `"`)
		if value == "" {
			t.Errorf("no %s in %s", name, got)
		}
		want = strings.Replace(want, strings.ToUpper(strings.TrimSuffix(name, "_id")), value, 1)
	}
	if got != want {
		t.Errorf("logged\n%s\nwant\n%s", got, want)
	}
	first := visit(t, port)
	_, err = io.WriteString(first, "x")
	must(t, err)
	eventually(t, func() bool { return s.metric(t, "tcp_dataplane_connections_gauge", fmt.Sprint(port)) == 1 })
	wantRefused(t, port)
	if got, want := log.next(t, 1), fmt.Sprintf(`{"message":"connection","port":%d,"protocol":"tcp","reason":"max_connections","received":0,"sent":0,"visitor":"127.0.0.1"}`, port); got != want {
		t.Errorf("logged\n%s\nwant\n%s", got, want)
	}
	must(t, first.SetLinger(0))
	must(t, first.Close())
	if got := log.next(t, 2); !strings.Contains(got, `"reason":"broken"`) {
		t.Errorf("logged %s", got)
	}
	c.there.Close()
	eventually(t, func() bool { return c.Leaving() })
	wantRefused(t, port)
	if got, want := log.next(t, 3), fmt.Sprintf(`{"message":"connection","port":%d,"protocol":"tcp","reason":"no_client","received":0,"sent":0,"visitor":"2001:db8::7"}`, port); got != want {
		t.Errorf("logged\n%s\nwant\n%s", got, want)
	}
}
