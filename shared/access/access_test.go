package access

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/adit-tunnel/adit/shared/config"
)

const token = "0123456789abcdef0123456789abcdef"

func networks(t testing.TB, text string) config.CIDRs {
	t.Helper()
	var c config.CIDRs
	if err := c.Decode(text); err != nil {
		t.Fatal(err)
	}
	return c
}

func basic(pair string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(pair))
}

func TestCheck(t *testing.T) {
	lan := networks(t, "10.0.0.0/8, 2001:db8::/32, ::ffff:192.0.2.0/120, fe80::/10")
	users := NewCredentials([]string{"ann:one", "bob:two:three"}, nil)
	tokens := NewCredentials(nil, []string{token, token + "2"})
	both := NewCredentials([]string{"ann:one", "ünï:paß"}, []string{token})
	for _, c := range []struct {
		name   string
		policy *Policy
		addr   string
		lines  []string
		reason string
		strips bool
	}{
		{name: "none", addr: "192.0.2.1"},
		{name: "zero", policy: &Policy{}, addr: "192.0.2.1"},
		{name: "none, with credentials", policy: &Policy{Allow: lan}, addr: "10.0.0.1", lines: []string{"Bearer x"}},
		{name: "IPv4", policy: &Policy{Allow: lan}, addr: "10.1.2.3"},
		{name: "IPv4 outside", policy: &Policy{Allow: lan}, addr: "11.1.2.3", reason: Address},
		{name: "IPv4 in IPv6", policy: &Policy{Allow: lan}, addr: "::ffff:10.1.2.3"},
		{name: "IPv4 in IPv6 outside", policy: &Policy{Allow: lan}, addr: "::ffff:11.1.2.3", reason: Address},
		{name: "network written as IPv4 in IPv6", policy: &Policy{Allow: lan}, addr: "192.0.2.77"},
		{name: "IPv6", policy: &Policy{Allow: lan}, addr: "2001:db8:1::1"},
		{name: "IPv6 outside", policy: &Policy{Allow: lan}, addr: "2001:db9::1", reason: Address},
		{name: "zone", policy: &Policy{Allow: lan}, addr: "fe80::1%eth0"},
		{name: "unknown address", policy: &Policy{Allow: lan}, reason: Address},
		{name: "empty list admits nobody", policy: &Policy{Allow: config.CIDRs{}}, addr: "10.0.0.1", reason: Address},
		{name: "address before credentials", policy: &Policy{Allow: lan, Creds: users}, addr: "11.0.0.1", lines: []string{basic("ann:one")}, reason: Address},
		{name: "address and credentials", policy: &Policy{Allow: lan, Creds: users}, addr: "10.0.0.1", lines: []string{basic("ann:one")}, strips: true},
		{name: "address without credentials", policy: &Policy{Allow: lan, Creds: users}, addr: "10.0.0.1", reason: Missing},

		{name: "first user", policy: &Policy{Creds: users}, lines: []string{basic("ann:one")}, strips: true},
		{name: "last user, colon in password", policy: &Policy{Creds: users}, lines: []string{basic("bob:two:three")}, strips: true},
		{name: "passed on", policy: &Policy{Creds: users, Pass: true}, lines: []string{basic("ann:one")}},
		{name: "any case, more space", policy: &Policy{Creds: users}, lines: []string{"bASIC   " + basic("ann:one")[6:] + " "}, strips: true},
		{name: "other password", policy: &Policy{Creds: users}, lines: []string{basic("ann:two")}, reason: Wrong},
		{name: "password of another", policy: &Policy{Creds: users}, lines: []string{basic("ann:two:three")}, reason: Wrong},
		{name: "longer password", policy: &Policy{Creds: users}, lines: []string{basic("ann:onee")}, reason: Wrong},
		{name: "empty password", policy: &Policy{Creds: users}, lines: []string{basic("ann:")}, reason: Wrong},
		{name: "user of another case", policy: &Policy{Creds: users}, lines: []string{basic("Ann:one")}, reason: Wrong},
		{name: "no header", policy: &Policy{Creds: users}, reason: Missing},
		{name: "empty header", policy: &Policy{Creds: users}, lines: []string{""}, reason: Malformed},
		{name: "scheme only", policy: &Policy{Creds: users}, lines: []string{"Basic"}, reason: Malformed},
		{name: "no base64", policy: &Policy{Creds: users}, lines: []string{"Basic ann:one"}, reason: Malformed},
		{name: "base64 without padding", policy: &Policy{Creds: users}, lines: []string{"Basic YW5uOm9uZQ"}, reason: Malformed},
		{name: "no colon", policy: &Policy{Creds: users}, lines: []string{basic("ann")}, reason: Malformed},
		{name: "twice", policy: &Policy{Creds: users}, lines: []string{basic("ann:one"), basic("ann:one")}, reason: Malformed},
		{name: "too long", policy: &Policy{Creds: users}, lines: []string{basic("ann:" + strings.Repeat("x", maxAuthorization))}, reason: Malformed},
		{name: "unknown scheme", policy: &Policy{Creds: users}, lines: []string{"Digest username=ann"}, reason: Malformed},
		{name: "bearer where a user is asked for", policy: &Policy{Creds: users}, lines: []string{"Bearer ann:one"}, reason: Wrong},

		{name: "token", policy: &Policy{Creds: tokens}, lines: []string{"Bearer " + token}, strips: true},
		{name: "last token", policy: &Policy{Creds: tokens}, lines: []string{"bearer " + token + "2"}, strips: true},
		{name: "wrong token", policy: &Policy{Creds: tokens}, lines: []string{"Bearer " + token[1:]}, reason: Wrong},
		{name: "two words", policy: &Policy{Creds: tokens}, lines: []string{"Bearer " + token + " " + token}, reason: Malformed},
		{name: "user where a token is asked for", policy: &Policy{Creds: tokens}, lines: []string{basic(token + ":")}, reason: Wrong},

		{name: "both: user", policy: &Policy{Creds: both}, lines: []string{basic("ann:one")}, strips: true},
		{name: "both: user, UTF-8", policy: &Policy{Creds: both}, lines: []string{basic("ünï:paß")}, strips: true},
		{name: "both: token", policy: &Policy{Creds: both}, lines: []string{"Bearer " + token}, strips: true},
		{name: "both: neither", policy: &Policy{Creds: both}, lines: []string{"Bearer " + token + "x"}, reason: Wrong},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr, _ := netip.ParseAddr(c.addr)
			v := c.policy.Check(addr, c.lines)
			if v.Reason != c.reason || v.Strips != c.strips || v.Admits() != (c.reason == "") {
				t.Errorf("got %+v, want %q, strips %v", v, c.reason, c.strips)
			}
		})
	}
}

func TestChallenges(t *testing.T) {
	users, tokens := []string{"ann:one"}, []string{token}
	for _, c := range []struct {
		name   string
		policy *Policy
		want   []string
	}{
		{"none", nil, nil},
		{"addresses", &Policy{Allow: networks(t, "::1")}, nil},
		{"users", &Policy{Creds: NewCredentials(users, nil)}, []string{`Basic realm="adit", charset="UTF-8"`}},
		{"tokens", &Policy{Creds: NewCredentials(nil, tokens)}, []string{`Bearer realm="adit"`}},
		{"both", &Policy{Creds: NewCredentials(users, tokens)}, []string{`Basic realm="adit", charset="UTF-8"`, `Bearer realm="adit"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.policy.Challenges("adit"); !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestNothingIsPrinted looks for credentials in whatever fmt makes of a policy.
func TestNothingIsPrinted(t *testing.T) {
	p := &Policy{Allow: networks(t, "10.0.0.0/8"), Creds: NewCredentials([]string{"ann:password-of-ann", "bob:b"}, []string{token})}
	if got, want := p.String(), "2 users or 1 bearer token from 10.0.0.0/8"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	raw, err := Encode([]*Policy{p})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprintf("%v %+v %#v %s", p, *p, p, p), string(raw)} {
		if strings.Contains(text, "password-of-ann") || strings.Contains(text, token) {
			t.Errorf("a credential is in %s", text)
		}
	}
}

func TestSame(t *testing.T) {
	rules := func(text string) (r Rules) {
		if err := r.Decode(text); err != nil {
			t.Fatal(err)
		}
		return r
	}
	lan := networks(t, "10.0.0.0/8")
	list := []*Policy{
		nil, {Allow: lan}, {Allow: networks(t, "10.0.0.0/9")}, {Creds: NewCredentials([]string{"a:b"}, nil)}, {Pass: true},
		{Creds: NewCredentials([]string{"a:b"}, []string{token})}, {Request: rules("X-A: 1")}, {Request: rules("X-A: 2")}, {Response: rules("X-A: 1")},
	}
	for i, p := range list {
		for j, other := range list {
			if p.Same(other) != (i == j) {
				t.Errorf("%d and %d: %v", i, j, p.Same(other))
			}
		}
	}
	if !list[3].Same(&Policy{Creds: NewCredentials([]string{"a:b"}, nil)}) || !list[0].Same(&Policy{}) {
		t.Error("the same differs")
	}
}

func TestParseUsers(t *testing.T) {
	many := strings.Repeat("a:b\n", MaxUsers+1)
	for _, c := range []struct {
		name, input string
		want        []string
		err         string // part of it
	}{
		{name: "one", input: "ann:one", want: []string{"ann:one"}},
		{name: "several", input: "# people\nann:one\r\n\nbob:two, three:#\nann:one\n", want: []string{"ann:one", "bob:two, three:#"}},
		{name: "space stays", input: "ann: one ", want: []string{"ann: one "}},
		{name: "empty", input: "", err: "holds no user"},
		{name: "comments", input: "# a:b\n", err: "holds no user"},
		{name: "no colon", input: "verysecret", err: "is not of the form user:password"},
		{name: "no user", input: ":verysecret", err: "is not of the form"},
		{name: "no password", input: "verysecret: ", err: "is not of the form"},
		{name: "second", input: "a:b\nverysecret\nc:d\n:verysecret", err: "user 2 is not of the form user:password, neither of them blank\nuser 4 is not"},
		{name: "htpasswd", input: "ann:$2y$10$verysecret", err: "write the password itself"},
		{name: "control character", input: "ann:very\x00secret", err: "control character"},
		{name: "not UTF-8", input: "ann:verysecret\xff", err: "not UTF-8"},
		{name: "long", input: "ann:verysecret" + strings.Repeat("x", maxUser), err: "more than 1024"},
		{name: "many", input: many, err: "more than 64 users"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseUsers(c.input)
			if c.err == "" {
				if err != nil || !slices.Equal(got, c.want) {
					t.Errorf("got %q %v, want %q", got, err, c.want)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.err) || got != nil || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %q %v, want %q", got, err, c.err)
			}
		})
	}
}

func FuzzParseUsers(f *testing.F) {
	for _, s := range []string{"", "a:b", "a:b\nc:d:e", "#\r\na:\x00", "a:$2y$x", ":b", "a:\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		users, err := ParseUsers(s)
		if (err == nil) != (len(users) > 0) {
			t.Fatalf("%q: %v", users, err)
		}
		for _, u := range users {
			p := &Policy{Creds: NewCredentials(users, nil)}
			if v := p.Check(netip.Addr{}, []string{basic(u)}); !v.Admits() {
				t.Fatalf("%q does not admit: %s", u, v.Reason)
			}
			if v := p.Check(netip.Addr{}, []string{basic(u + "x")}); v.Admits() && !slices.Contains(users, u+"x") {
				t.Fatalf("%q admits with one byte more", u)
			}
		}
	})
}

// FuzzAuthorization holds that only the two headers admit, up to the case of the scheme and
// blanks.
func FuzzAuthorization(f *testing.F) {
	for _, s := range []string{"", "Basic YW5uOm9uZQ==", "basic  YW5uOm9uZQ== ", "Basic YW5uOm9uZR==", "Bearer " + token, "Bearer\t" + token, "Basic \nYW5uOm9uZQ=="} {
		f.Add(s)
	}
	p := &Policy{Creds: NewCredentials([]string{"ann:one"}, []string{token})}
	f.Fuzz(func(t *testing.T, s string) {
		v := p.Check(netip.Addr{}, []string{s})
		scheme, value, _ := strings.Cut(s, " ")
		value = strings.Trim(value, " ")
		want := strings.EqualFold(scheme, "Basic") && value == "YW5uOm9uZQ==" || strings.EqualFold(scheme, "Bearer") && value == token
		if v.Admits() != want {
			t.Fatalf("%q: %+v", s, v)
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	p := &Policy{Allow: networks(b, "10.0.0.0/8"), Creds: NewCredentials([]string{"ann:one", "bob:two"}, []string{token})}
	d := NewDoor(nil, nil, nopLog)
	addr, lines := netip.MustParseAddr("10.0.0.1"), []string{basic("bob:two")}
	b.ReportAllocs()
	for b.Loop() {
		if v := d.Check(p, addr, lines); !v.Admits() {
			b.Fatal(v)
		}
	}
}
