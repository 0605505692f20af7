package routing

import (
	"strings"
	"testing"
)

func TestCleanHost(t *testing.T) {
	for _, tt := range []struct {
		host, want string
		bad        bool
	}{
		{host: "example.com", want: "example.com"},
		{host: "EXAMPLE.Com", want: "example.com"},
		{host: "example.com:8000", want: "example.com"},
		{host: "example.com:", want: "example.com"},
		{host: "example.com.", want: "example.com"},
		{host: "Example.com.:80", want: "example.com"},
		{host: "my_host-1", want: "my_host-1"},
		{host: "192.0.2.1:80", want: "192.0.2.1"},
		{host: "[::1]", want: "[::1]"},
		{host: "[::1]:80", want: "[::1]"},
		{host: "[::1]:", want: "[::1]"},
		{host: "[2001:DB8:0:0::1]:80", want: "[2001:db8::1]"},
		{host: "[fe80::1%25eth0]", want: "[fe80::1]"},
		{host: "", want: ""},
		{host: ":80", want: ""},
		{host: ".", want: ""},
		{host: "::1", bad: true},
		{host: `[::1%x", for=6.6.6.6;host="]`, bad: true},
		{host: "[::1%a,b]", bad: true},
		{host: "[::1%a b]", bad: true},
		{host: "::", bad: true},
		{host: "example.com::", bad: true},
		{host: "example.com::80", bad: true},
		{host: "example.com:http", bad: true},
		{host: "example.com:80x", bad: true},
		{host: "example.com:-1", bad: true},
		{host: "[::1", bad: true},
		{host: "::1]", bad: true},
		{host: "[::1]x", bad: true},
		{host: "[::1]x:80", bad: true},
		{host: "[::1].:80", bad: true},
		{host: "[example.com]", bad: true},
		{host: "[192.0.2.1]", bad: true},
		{host: "[]", bad: true},
		{host: "[[::1]]", bad: true},
		{host: ".example.com", bad: true},
		{host: "example.com..", bad: true},
		{host: "example..com", bad: true},
		{host: "*", bad: true},
		{host: "*.example.com", bad: true},
		{host: "user@example.com", bad: true},
		{host: "example.com/x", bad: true},
		{host: "example.com\\x", bad: true},
		{host: "a, b", bad: true},
		{host: "a b", bad: true},
		{host: "a%2eb", bad: true},
		{host: "bücher.example", bad: true},
		{host: "a\"b", bad: true},
		{host: "a\x00b", bad: true},
	} {
		got, err := CleanHost(tt.host)
		if (err != nil) != tt.bad || got != tt.want {
			t.Errorf("CleanHost(%q) is %q and %v, want %q", tt.host, got, err, tt.want)
		}
	}
}

// FuzzCleanHost requires that a clean host is clean: in lower case, of bytes that mean
// nothing in a head, and the same again with and without a port.
func FuzzCleanHost(f *testing.F) {
	for _, host := range []string{"example.com:80", "A.example.", "[::1]:80", "[fe80::1%25eth0]", "::1", ".", "", "a..b", "192.0.2.1"} {
		f.Add(host)
	}
	f.Fuzz(func(t *testing.T, host string) {
		clean, err := CleanHost(host)
		if err != nil {
			if clean != "" {
				t.Errorf("%q with an error", clean)
			}
			return
		}
		for _, c := range []byte(clean) {
			if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-_.:[]", rune(c)) {
				t.Errorf("CleanHost(%q) is %q", host, clean)
			}
		}
		for _, again := range []string{clean, clean + ":", clean + ":80", strings.ToUpper(clean)} {
			if got, err := CleanHost(again); err != nil || got != clean {
				t.Errorf("CleanHost(%q) is %q, and CleanHost(%q) is %q and %v", host, clean, again, got, err)
			}
		}
		if strings.HasPrefix(clean, ".") || hostKey(clean) != clean {
			t.Errorf("CleanHost(%q) is %q, found under %q", host, clean, hostKey(clean))
		}
	})
}
