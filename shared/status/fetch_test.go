package status

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
)

const token = "0123456789abcdef"

func serve(t testing.TB, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	return srv
}

func TestFetch(t *testing.T) {
	want := Document{
		Info{Version: "0.1.0", SHA: "4e35edf", Mode: "http", StartTime: now, Hostname: "pine"},
		[]Client{{ClientID: "id", RemoteAddr: "192.0.2.1:1", Since: now, Upstreams: []string{"*=http://127.0.0.1:8080"}}},
	}
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer "+token || r.Method != http.MethodGet || r.URL.Path != "/status" {
			t.Errorf("got %s %s with %q", r.Method, r.URL, got)
		}
		json.NewEncoder(w).Encode(want)
	})
	got, err := Fetch(t.Context(), srv.Client(), srv.URL+"/status", token)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestFetchErrors(t *testing.T) {
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	answer := func(code int, body string) string {
		return serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			fmt.Fprint(w, body)
		}).URL
	}
	for _, test := range []struct{ name, url, want string }{
		{"no server", closed.URL, "is the server running"},
		{"bad url", "http://[::1", "fetch status: parse"},
		{"token", answer(401, "who?"), "set TOKEN or TOKEN_FILE to a token that the server has"},
		{"not there", answer(404, "?"), "use the address of the control plane"},
		{"throttled", answer(429, "?"), "try again later"},
		{"other", answer(502, "bad\x1b[31m day\nsecond line"), "the server answered 502 Bad Gateway: bad\uFFFD[31m day"},
		{"html", answer(200, "<html>"), "is that a control plane: invalid character"},
		{"cut", answer(200, `{"info":`), "unexpected EOF"},
		{"endless", serve(t, func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"x":"`)
			chunk := []byte(strings.Repeat("x", 1<<20))
			for {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}).URL, "longer than 16777216 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			_, err := Fetch(t.Context(), client, test.url, token)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %q in it", err, test.want)
			}
			if strings.Contains(err.Error(), token) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %q", err)
			}
		})
	}
}
