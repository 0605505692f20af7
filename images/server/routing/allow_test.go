package routing

import (
	"strings"
	"testing"
)

func TestHosts(t *testing.T) {
	for _, c := range []struct{ allow, yes, no string }{
		{"a.test", "a.test", "b.test,b.a.test,*.a.test,*"},
		{"A.test, *.b.test", "a.test,x.b.test,*.b.test,*.x.b.test", "b.test,*"},
		{"*", "a.test,*.a.test,*", ""},
	} {
		var h Hosts
		if err := h.Decode(c.allow); err != nil {
			t.Errorf("%s: %v", c.allow, err)
		}
		for want, list := range map[bool]string{true: c.yes, false: c.no} {
			for host := range strings.SplitSeq(list, ",") {
				if host != "" && h.Allows(host) != want {
					t.Errorf("%s allows %s: %v", c.allow, host, !want)
				}
			}
		}
		var again Hosts
		if err := again.Decode(h.String()); err != nil || again.String() != h.String() {
			t.Errorf("%s became %s, %v", h, again, err)
		}
	}
	if !(Hosts{}).Allows("*") {
		t.Error("no list, and not everything is allowed")
	}
	for _, text := range []string{"https://a.test", "a.*.test", "a.test,a/b", ","} {
		var h Hosts
		if err := h.Decode(text); err == nil {
			t.Errorf("%q is taken for %v", text, h)
		}
	}
}

// FuzzHosts takes anything for ALLOW_HOSTS: what is accepted means the same when it is written again, and does not
// allow more than it says.
func FuzzHosts(f *testing.F) {
	for _, s := range []string{"a.test", "*.a.test, b", "*", "[::1]", "a..b", "xn--nxasmq6b"} {
		f.Add(s, "x.a.test")
	}
	f.Fuzz(func(t *testing.T, text, host string) {
		var h, again Hosts
		if h.Decode(text) != nil {
			return
		}
		if err := again.Decode(h.String()); err != nil || again.String() != h.String() {
			t.Fatalf("%q became %q, %v", h, again, err)
		}
		if h.Allows(host) != again.Allows(host) || h.Allows("*") && !strings.Contains(text, "*") {
			t.Fatalf("%q allows %q: %v", text, host, h.Allows(host))
		}
	})
}
