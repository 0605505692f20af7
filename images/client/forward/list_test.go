package forward

import (
	"strings"
	"testing"
)

func TestListDecodes(t *testing.T) {
	for value, want := range map[string]string{
		"3000:10.0.0.2:3000":                "127.0.0.1:3000:10.0.0.2:3000",
		"0.0.0.0:3000:db.Internal:5432":     "0.0.0.0:3000:db.internal:5432",
		"[::1]:3000:[FD00:0::2]:80":         "[::1]:3000:[fd00::2]:80",
		"[::1]:3000:db:80":                  "[::1]:3000:db:80",
		"3000:[fd00::2]:80":                 "127.0.0.1:3000:[fd00::2]:80",
		"0:db:80, 0:db:80\n 0:db:81":        "127.0.0.1:0:db:80,127.0.0.1:0:db:80,127.0.0.1:0:db:81",
		"80:a:80,127.0.0.2:80:a:80,81:a:80": "127.0.0.1:80:a:80,127.0.0.2:80:a:80,127.0.0.1:81:a:80",
	} {
		var l List
		if err := l.Decode(value); err != nil || l.String() != want {
			t.Errorf("%q: got %q, %v, want %q", value, l, err, want)
			continue
		}
		if err := l.Decode(want); err != nil || l.String() != want {
			t.Errorf("%q: got %q, %v", want, l, err)
		}
	}
}

func TestListRefuses(t *testing.T) {
	for value, want := range map[string]string{
		" , ":                       "holds nothing: write port:host:port",
		"3000":                      `"3000" is not a forward: write port:host:port`,
		"10.0.0.2":                  "is not a forward",
		"127.0.0.1:3000":            "is not a forward",
		"3000:db":                   `leads to "db", which is not host:port`,
		"3000:db:":                  "has no port from 1 to 65535",
		"3000:db:0":                 "has no port from 1 to 65535",
		"3000::80":                  "has neither a name nor an address",
		"3000:0x7f.1:80":            "has neither a name nor an address",
		"3000:fd00::2:80":           "which is not host:port, with IPv6 in brackets",
		"http:db:80":                `has "http" where the local port is to be`,
		"65536:db:80":               `has "65536" where the local port is to be`,
		"localhost:3000:db:80":      `has "localhost" where the local port is to be`,
		"::1:3000:db:80":            `has "" where the local port is to be`,
		"3000:http://db:80":         "which is not host:port",
		"127.0.0.1:x:db:80":         `has "x" where the local port is to be`,
		"80:a:1,127.0.0.1:80:b:2":   "127.0.0.1:80 is there twice",
		"[::1]:80:a:1,[::1]:80:b:2": "[::1]:80 is there twice",
	} {
		var l List
		if err := l.Decode(value); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q in it", value, err, want)
		}
	}
	var l List
	if err := l.Decode("a,80:db:80,b"); err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("not both faults: %v", err)
	}
}

func FuzzList(f *testing.F) {
	f.Add("3000:10.0.0.2:3000,0.0.0.0:1:db:2,[::1]:3:[fd00::2]:4")
	f.Fuzz(func(t *testing.T, value string) {
		var l, again List
		if l.Decode(value) != nil {
			return
		}
		if err := again.Decode(l.String()); err != nil || again.String() != l.String() {
			t.Errorf("%q became %q, and that %q, %v", value, l, again, err)
		}
	})
}
