package status

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func TestWriteTable(t *testing.T) {
	info := Info{Version: "0.1.0", SHA: "4e35edf", Mode: "http", StartTime: now.Add(-30 * time.Hour), Hostname: "creative-pine6"}
	const head = `Hostname: creative-pine6
Started:  1 day
Mode:     http
Version:  0.1.0

`
	for _, test := range []struct {
		name    string
		clients []Client
		want    string
	}{
		{"none", nil, "No clients are connected.\n"},
		{"one", []Client{{
			ClientID:   "4e35edf5c6a646b79cc580984eac4ea9",
			RemoteAddr: "192.168.0.19:34988",
			Since:      now.Add(-5*time.Minute - time.Second),
			Upstreams:  []string{"example.com=http://localhost:8000", "prometheus.example.com=http://localhost:9090"},
		}}, `Client ID                         Remote Address      Connected   Upstreams
4e35edf5c6a646b79cc580984eac4ea9  192.168.0.19:34988  5 minutes   example.com=http://localhost:8000, prometheus.example.com=http://localhost:9090
`},
		{"waiting", []Client{
			{ClientID: "a", Since: now, Upstreams: []string{"*=http://a:1", "22=b:22"}, Waiting: []string{"22=b:22"}},
		}, `Client ID  Remote Address  Connected   Upstreams
a                          just now    *=http://a:1, 22=b:22 (waiting)
`},
		{"licences", []Client{
			{ClientID: "a", Since: now, Upstreams: []string{"*=http://a:1"}, License: &License{Subject: "acme\x1b", Expires: now.Add(24 * time.Hour)}},
			{ClientID: "b", Since: now, Upstreams: []string{"22=b:22"}},
		}, `Client ID  Remote Address  Connected   Licence                 Upstreams
a                          just now    acme� until 2026-05-05  *=http://a:1
b                          just now    none                    22=b:22
`},
		{"several", []Client{
			{ClientID: "a", RemoteAddr: "[2001:db8::1]:34988", Since: now.Add(-59 * time.Minute), Upstreams: []string{"*=http://127.0.0.1:8080"}},
			{ClientID: "büro", RemoteAddr: "192.0.2.1:1", Since: now.Add(time.Minute), Upstreams: nil},
			{ClientID: "\x1b[2Jc\n", Upstreams: []string{"x\ty"}},
		}, `Client ID  Remote Address       Connected   Upstreams
a          [2001:db8::1]:34988  59 minutes  *=http://127.0.0.1:8080
büro       192.0.2.1:1          just now    
�[2Jc�                          unknown     x�y
`},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out strings.Builder
			if err := (Document{info, test.clients}).WriteTable(&out, now); err != nil {
				t.Fatal(err)
			}
			if out.String() != head+test.want {
				t.Errorf("got\n%s\nwant\n%s", out.String(), head+test.want)
			}
		})
	}
}

func TestSince(t *testing.T) {
	for _, test := range []struct {
		ago  time.Duration
		want string
	}{
		{-time.Hour, "just now"},
		{0, "just now"},
		{999 * time.Millisecond, "just now"},
		{time.Second, "1 second"},
		{10 * time.Second, "10 seconds"},
		{59*time.Second + 999*time.Millisecond, "59 seconds"},
		{time.Minute, "1 minute"},
		{5 * time.Minute, "5 minutes"},
		{time.Hour, "1 hour"},
		{23*time.Hour + 59*time.Minute, "23 hours"},
		{24 * time.Hour, "1 day"},
		{400 * 24 * time.Hour, "400 days"},
	} {
		if got := since(now.Add(-test.ago), now); got != test.want {
			t.Errorf("%v ago: got %q, want %q", test.ago, got, test.want)
		}
	}
}

func TestJSON(t *testing.T) {
	for _, test := range []struct {
		name string
		doc  Document
		want string
	}{
		{"empty", Document{},
			`{"info":{"version":"","sha":"","mode":"","startTime":"0001-01-01T00:00:00Z","hostname":""},"clients":[]}`},
		{"full", Document{
			Info{Version: "0.1.0", SHA: "4e35edf", Mode: "http", StartTime: now, Hostname: "pine"},
			[]Client{{ClientID: "id", RemoteAddr: "192.0.2.1:1", Since: now, Upstreams: []string{"*=http://127.0.0.1:8080"}}, {ClientID: "id2", RemoteAddr: "192.0.2.1:2", Since: now, Upstreams: nil}},
		},
			`{"info":{"version":"0.1.0","sha":"4e35edf","mode":"http","startTime":"2026-05-04T12:00:00Z","hostname":"pine"},` +
				`"clients":[{"clientID":"id","remoteAddr":"192.0.2.1:1","since":"2026-05-04T12:00:00Z","upstreams":["*=http://127.0.0.1:8080"]},` +
				`{"clientID":"id2","remoteAddr":"192.0.2.1:2","since":"2026-05-04T12:00:00Z","upstreams":[]}]}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := json.Marshal(test.doc)
			if err != nil || string(got) != test.want {
				t.Errorf("got  %s, %v\nwant %s", got, err, test.want)
			}
		})
	}
}
