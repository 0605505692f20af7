package config

import (
	"net/netip"
	"testing"
)

func TestOptionalPortString(t *testing.T) {
	for _, test := range []struct{ value, want string }{{"off", "off"}, {"OFF", "off"}, {"0", "0"}, {"8124", "8124"}} {
		var p OptionalPort
		if err := p.Decode(test.value); err != nil || p.String() != test.want {
			t.Errorf("%s: got %s, %v", test.value, p, err)
		}
	}
}

func TestPortRefuses(t *testing.T) {
	for _, value := range []string{"", "-1", "65536", "http", "80 81", ":80", "0x50", "8_0", "+80", "tcp://10.0.0.1:80", "off"} {
		var p Port
		if err := p.Decode(value); err == nil {
			t.Errorf("%q became %d", value, p)
		}
	}
}

func TestLogLevels(t *testing.T) {
	for _, value := range []string{"trace", "debug", "info", "warn", "error", "disabled"} {
		var l LogLevel
		if err := l.Decode(value); err != nil || l.String() != value {
			t.Errorf("%s: got %s, %v", value, l, err)
		}
	}
	for _, value := range []string{"", "fatal", "1", "warning"} {
		var l LogLevel
		if err := l.Decode(value); err == nil {
			t.Errorf("%q became %s", value, l)
		}
	}
}

func TestCIDRsContains(t *testing.T) {
	for _, test := range []struct {
		list, addr string
		want       bool
	}{
		{"10.0.0.0/8", "10.255.255.255", true},
		{"10.0.0.0/8", "11.0.0.0", false},
		{"10.9.9.9/8", "10.0.0.1", true},
		{"10.0.0.0/8", "::ffff:10.0.0.1", true},
		{"::ffff:10.0.0.0/104", "10.0.0.1", true},
		{"::ffff:10.0.0.0/104", "11.0.0.1", false},
		{"::ffff:10.0.0.1", "10.0.0.1", true},
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1, fd00::/8", "fd12::1", true},
		{"fe80::/10", "fe80::1%eth0", true},
		{"0.0.0.0/0", "2001:db8::1", false},
		{"::/0", "192.0.2.1", false},
		{"0.0.0.0/0,::/0", "192.0.2.1", true},
	} {
		var c CIDRs
		if err := c.Decode(test.list); err != nil {
			t.Errorf("%s: %v", test.list, err)
		} else if got := c.Contains(netip.MustParseAddr(test.addr)); got != test.want {
			t.Errorf("%s contains %s: got %v", test.list, test.addr, got)
		}
	}
}

func TestCIDRsRefuse(t *testing.T) {
	for _, value := range []string{"", " , ", "lan", "10.0.0.0/33", "10.0.0.0/", "10.0.0", "10.0.0.1:80", "fe80::1%eth0", "10.0.0.1-10.0.0.9"} {
		var c CIDRs
		if err := c.Decode(value); err == nil {
			t.Errorf("%q became %s", value, c)
		}
	}
}
