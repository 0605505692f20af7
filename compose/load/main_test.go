package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// What breaks must not be taken for a refusal, nor the other way round.
func TestGet(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/page":
			_, _ = w.Write([]byte("page"))
		case "/waits":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/fails":
			w.WriteHeader(http.StatusBadGateway)
		case "/short":
			w.Header().Set("Content-Length", "9")
			_, _ = w.Write([]byte("page"))
		case "/breaks":
			panic(http.ErrAbortHandler)
		}
	}))
	defer srv.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	queued := queue(t)
	for url, want := range map[string]struct{ refused, failed bool }{
		srv.URL + "/page":   {},
		srv.URL + "/other":  {failed: true},
		srv.URL + "/waits":  {true, true},
		srv.URL + "/fails":  {false, true},
		srv.URL + "/short":  {false, true},
		srv.URL + "/breaks": {false, true},
		gone.URL:            {true, true},
		queued:              {true, true},
	} {
		l := &load{url: url, want: "page"}
		refused, err := l.get(srv.Client())
		if refused != want.refused || (err != nil) != want.failed {
			t.Errorf("%s: refused %t, %v", url, refused, err)
		}
		l.count(refused, 0, err)
		if r := l.now(); r.OK+r.Failed != 1 || (r.Refused == 1) != want.refused || (r.Last != "") != want.failed {
			t.Errorf("%s: %+v", url, r)
		}
	}
}

// queue returns the URL of a listener that does to a request what one does that is closed while
// the request waits in its queue.
func queue(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		// With something unread the system resets it, as it does with those in the queue.
		_, _ = conn.Read(make([]byte, 1))
		conn.Close()
	}()
	return "http://" + l.Addr().String()
}
