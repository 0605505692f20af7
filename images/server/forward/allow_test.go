package forward

import (
	"strings"
	"testing"
)

func decode(tb testing.TB, value string) Allow {
	tb.Helper()
	var a Allow
	if err := a.Decode(value); err != nil {
		tb.Fatal(err)
	}
	return a
}

func TestAllowDecodes(t *testing.T) {
	a := decode(t, " 10.0.0.2:3000,*.Internal:443\n10.0.0.0/8:5432 [fd00::/8]:80-89\tlocalhost:*,[::1]:1,169.254.169.254:80,0.0.0.0/0:25,[::/0]:25,")
	if got, want := a.String(), "10.0.0.2:3000,*.Internal:443,10.0.0.0/8:5432,[fd00::/8]:80-89,localhost:*,[::1]:1,169.254.169.254:80,0.0.0.0/0:25,[::/0]:25"; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if again := decode(t, a.String()); again.String() != a.String() {
		t.Errorf("%s became %s", a, again)
	}
}

func TestAllowRefuses(t *testing.T) {
	for value, want := range map[string]string{
		" , ":                      "holds no pattern: write host:port",
		"10.0.0.2":                 "has no port",
		"db":                       "has no port",
		"fd00::2:80":               "more than one colon: IPv6 goes in brackets",
		"::1":                      "more than one colon",
		"10.0.0.2:":                "neither a port nor a range",
		"10.0.0.2:0":               "neither a port nor a range",
		"10.0.0.2:0-80":            "neither a port nor a range",
		"10.0.0.2:90-80":           "neither a port nor a range",
		"10.0.0.2:http":            "neither a port nor a range",
		"10.0.0.2:80-":             "neither a port nor a range",
		"10.0.0.2:65536":           "neither a port nor a range",
		":80":                      "no address, network or name",
		"*:80":                     "no address, network or name",
		"*.:80":                    "no address, network or name",
		"*.10.0.0.2:80":            "no address, network or name",
		"a.*.example:80":           "no address, network or name",
		"10.0.0.0/33:80":           "no address, network or name",
		"10.0.0:80":                "no address, network or name",
		"0x7f.1:80":                "no address, network or name",
		"http://a:80":              "more than one colon",
		"127.0.0.0/8:80":           "have to be named one by one",
		"127.0.0.0/31:80":          "have to be named one by one",
		"169.254.0.0/16:80":        "have to be named one by one",
		"[fe80::/10]:80":           "have to be named one by one",
		"224.0.0.0/8:80":           "have to be named one by one",
		"[64:ff9b::a9fe:0/112]:80": "have to be named one by one",
		"[fe80::1%eth0]:80":        "has a zone",
		"[::ffff:10.0.0.0/104]:80": "IPv4 written as IPv6",
	} {
		var a Allow
		if err := a.Decode(value); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q in it", value, err, want)
		}
	}
	var a Allow
	err := a.Decode("db,10.0.0.2:80,:1")
	if err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("not both faults: %v", err)
	}
}

func FuzzAllow(f *testing.F) {
	f.Add("10.0.0.2:3000,*.internal:443,10.0.0.0/8:5432,[fd00::/8]:80-89,localhost:*", "10.0.0.2:3000")
	f.Add("[64:ff9b::/96]:80", "[64:ff9b::a9fe:a9fe]:80")
	f.Add("0.0.0.0/0:*,[::/0]:*", "[::ffff:127.0.0.1]:80")
	f.Fuzz(func(t *testing.T, value, destination string) {
		var a Allow
		if a.Decode(value) != nil {
			return
		}
		if again := decode(t, a.String()); again.String() != a.String() {
			t.Fatalf("%s became %s", a, again)
		}
		p := plane(t, a, nil, nil)
		addrs, err := p.decide(t.Context(), destination)
		if err != nil {
			return
		}
		for _, addr := range addrs {
			ok, exact := a.address(addr.Addr(), addr.Port())
			if !ok || !exact && (addr.Addr().IsLoopback() || addr.Addr().IsLinkLocalUnicast() || addr.Addr().IsUnspecified() || addr.Addr().Is4In6()) {
				t.Errorf("%s lets %s reach %s", a, destination, addr)
			}
		}
	})
}
