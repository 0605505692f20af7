package agent

import (
	"strings"
	"testing"
)

func TestParseURL(t *testing.T) {
	for _, c := range []struct{ text, want, fault string }{
		{"wss://host:8123", "wss://host:8123", ""},
		{"ws://host", "ws://host", ""},
		{"https://Host.Test/Path", "wss://host.test/Path", ""},
		{"http://[::1]:8123", "ws://[::1]:8123", ""},
		{"WSS://host", "wss://host", ""},
		{"", "", "is no URL of a server: write wss://host:8123"},
		{"host", "", "is no URL of a server"},
		{"host:8123", "", "is no URL of a server"},
		{"wss://", "", "is no URL of a server"},
		{"wss://:8123", "", "is no URL of a server"},
		{"wss://h ost", "", "is no URL of a server"},
		{"ftp://host", "", "ftp://host has a scheme that is not known: use wss://"},
		{"wss://secret@host", "", "host has a user in it: the token goes into TOKEN"},
		{"wss://me:secret@host", "", "host has a user in it"},
		{"wss://me:secret%zz@host", "", "is no URL of a server"},
		{"wss://host?token=secret", "", "host has a query or a fragment behind it: write wss://host"},
		{"wss://host?", "", "host has a query"},
		{"wss://host#secret", "", "host has a query or a fragment"},
		{"ftp://me:secret@host?secret", "", "ftp://host has a scheme"},
	} {
		u, err := ParseURL(c.text)
		switch {
		case c.fault == "" && (err != nil || u.String() != c.want):
			t.Errorf("%s: got %v %v", c.text, u, err)
		case c.fault != "" && (err == nil || !strings.Contains(err.Error(), c.fault) || strings.Contains(err.Error(), "secret")):
			t.Errorf("%s: got %v, want %s", c.text, err, c.fault)
		}
	}
}
