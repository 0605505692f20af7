package hostport

import (
	"net"
	"strconv"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"db:5432": "db:5432", "DB.Internal.:1": "db.internal:1", "_srv.a-b.example:65535": "_srv.a-b.example:65535", "3com.example:1": "3com.example:1",
		"10.0.0.2:3000": "10.0.0.2:3000", "[::1]:80": "[::1]:80", "[FD00:0::2]:80": "[fd00::2]:80", "[::ffff:10.0.0.2]:80": "10.0.0.2:80",
		"": "", "db": "", ":80": "", "db:": "", "db:0": "", "db:080": "", "db:65536": "", "db:+80": "", "db:http": "", "db:80:80": "", "::1:80": "",
		"[::1]": "", "[fe80::1%eth0]:80": "", "fe80::1%eth0": "", "127.1:80": "", "2130706433:80": "", "0x7f000001:80": "", "a.0x7f:80": "", "0177.0.0.1:80": "",
		"a..b:80": "", "-a:80": "", "a-:80": "", "a b:80": "", "a/b:80": "", "a\n:80": "", "*.a:80": "", "ä:80": "",
		strings.Repeat("a", 64) + ":80": "", strings.Repeat("a.", 127) + "a:80": "", "a@b:80": "", "[a]:80": "a:80",
	} {
		host, port, err := Parse(text)
		got := ""
		if err == nil {
			got = net.JoinHostPort(host, strconv.Itoa(int(port)))
		}
		if got != want {
			t.Errorf("%q: got %q, %v, want %q", text, got, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("db.internal:5432")
	f.Add("[fd00::2]:3000")
	f.Add("0x7f.1:80")
	f.Fuzz(func(t *testing.T, text string) {
		host, port, err := Parse(text)
		if err != nil {
			return
		}
		again := net.JoinHostPort(host, strconv.Itoa(int(port)))
		if h, p, err := Parse(again); err != nil || h != host || p != port {
			t.Errorf("%q became %q, and that %s:%d, %v", text, again, h, p, err)
		}
		if strings.ContainsAny(host, "%/ \n") || len(host) > 253 {
			t.Errorf("%q became the host %q", text, host)
		}
	})
}
