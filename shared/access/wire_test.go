package access

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func fullPolicy(t testing.TB) *Policy {
	t.Helper()
	p := &Policy{Allow: networks(t, "10.0.0.0/8,2001:db8::/32"), Creds: NewCredentials([]string{"ann:one"}, []string{token}), Pass: true}
	if err := p.Request.Decode(`X-Env: a\, b, -Cookie`); err != nil {
		t.Fatal(err)
	}
	if err := p.Response.Decode("+Vary: Origin"); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestWire(t *testing.T) {
	full, small := fullPolicy(t), &Policy{Allow: networks(t, "::1")}
	policies := []*Policy{nil, full, small, {}, full}
	raw, err := Encode(policies)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(raw, len(policies))
	if err != nil {
		t.Fatal(err)
	}
	if want := []*Policy{nil, full, small, nil, full}; !reflect.DeepEqual(got, want) || got[1] != got[4] {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if v := got[1].Check(netip.MustParseAddr("10.0.0.1"), []string{basic("ann:one")}); !v.Admits() {
		t.Errorf("not admitted: %s", v.Reason)
	}
	for _, none := range [][]*Policy{nil, {nil, nil}, {{}, nil}} {
		raw, err := Encode(none)
		if raw != nil || err != nil {
			t.Errorf("%v: %s %v", none, raw, err)
		}
	}
	if got, err := Decode(nil, 2); err != nil || !reflect.DeepEqual(got, []*Policy{nil, nil}) {
		t.Errorf("nothing: %v %v", got, err)
	}
}

// TestSalt holds that two clients with one password do not say so.
func TestSalt(t *testing.T) {
	a, b := NewCredentials([]string{"ann:one"}, nil), NewCredentials([]string{"ann:one"}, nil)
	if a.users[0] == b.users[0] {
		t.Error("the same digest twice")
	}
}

// TestDecodeIsStrict has documents that say what this version does not know, or nothing.
func TestDecodeIsStrict(t *testing.T) {
	const digest = `"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="`
	const salt = `"salt":"AAAAAAAAAAAAAAAAAAAAAA=="`
	for _, c := range []struct{ name, doc, want string }{
		{"no JSON", `{`, "decode"},
		{"null", `null`, "for 0 upstreams"},
		{"empty", `{}`, "for 0 upstreams"},
		{"two documents", `{"policies":[],"upstreams":[0]}{}`, "something behind"},
		{"too few", `{"policies":[{"allow":["::1/128"]}],"upstreams":[]}`, "for 0 upstreams and not for 1"},
		{"too many", `{"policies":[{"allow":["::1/128"]}],"upstreams":[1,1]}`, "for 2 upstreams and not for 1"},
		{"more policies than upstreams", `{"policies":[{"pass":true},{"pass":true}],"upstreams":[1]}`, "2 policies for 1 upstreams"},
		{"no such policy", `{"policies":[{"allow":["::1/128"]}],"upstreams":[2]}`, "policy 2 of 1"},
		{"negative", `{"policies":[{"allow":["::1/128"]}],"upstreams":[-1]}`, "policy -1 of 1"},
		{"unknown field", `{"policies":[{"allow":["::1/128"],"deny":["10.0.0.0/8"]}],"upstreams":[1]}`, "unknown field"},
		{"unknown field of all", `{"policies":[{"allow":["::1/128"]}],"upstreams":[1],"realm":"x"}`, "unknown field"},
		{"says nothing", `{"policies":[{}],"upstreams":[1]}`, "says nothing"},
		{"a salt for nothing", `{"policies":[{"allow":["::1/128"],` + salt + `}],"upstreams":[1]}`, "salt of 16 bytes"},
		{"null policy", `{"policies":[null],"upstreams":[1]}`, "says nothing"},
		{"no networks", `{"policies":[{"allow":[]}],"upstreams":[1]}`, "empty list"},
		{"no users", `{"policies":[{"allow":["::1/128"],"users":[]}],"upstreams":[1]}`, "empty list"},
		{"no tokens", `{"policies":[{"allow":["::1/128"],"tokens":[]}],"upstreams":[1]}`, "empty list"},
		{"no network", `{"policies":[{"allow":["everyone"]}],"upstreams":[1]}`, "decode"},
		{"empty network", `{"policies":[{"allow":[""]}],"upstreams":[1]}`, "not a network"},
		{"bits behind the network", `{"policies":[{"allow":["10.0.0.1/8"]}],"upstreams":[1]}`, "not a network"},
		{"no salt", `{"policies":[{"users":[` + digest + `]}],"upstreams":[1]}`, "salt of 0 bytes"},
		{"short digest", `{"policies":[{` + salt + `,"users":["AAAA"]}],"upstreams":[1]}`, "digest of 3 bytes"},
		{"null digest", `{"policies":[{` + salt + `,"tokens":[null]}],"upstreams":[1]}`, "digest of 0 bytes"},
		{"other type", `{"policies":[{` + salt + `,"users":"ann"}],"upstreams":[1]}`, "decode"},
		{"bad header", `{"policies":[{"request":"Host: x"}],"upstreams":[1]}`, "Host cannot be changed"},
		{"bad header back", `{"policies":[{"response":"Content-Length: 1"}],"upstreams":[1]}`, "Content-Length cannot be changed"},
		{"header with an end", `{"policies":[{"request":"X: a\rb"}],"upstreams":[1]}`, "control character"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Decode(json.RawMessage(c.doc), 1)
			if err == nil || !strings.Contains(err.Error(), c.want) || got != nil {
				t.Errorf("got %v %v, want %q", got, err, c.want)
			}
		})
	}
	if _, err := Decode(json.RawMessage(`{"policies":[{`+salt+`,"users":[`+digest+`]}],"upstreams":[1]}`), 1); err != nil {
		t.Errorf("the parts of the table are not good: %v", err)
	}
}

// FuzzDecode holds that what is accepted says the same when it is written and read again,
// and that a policy that was asked for is there.
func FuzzDecode(f *testing.F) {
	raw, err := Encode([]*Policy{fullPolicy(f), nil})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(raw))
	f.Add([]byte(`{"policies":[{"allow":["::1/128"]}],"upstreams":[1,0]}`))
	f.Add([]byte(`{"policies":[{"allow":["::1/128"],"salt":""}],"upstreams":[1,0]}`))
	f.Add([]byte(`{"policies":[{"pass":true,"request":"A: b"}],"upstreams":[1,1]}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		policies, err := Decode(doc, 2)
		if err != nil {
			return
		}
		again, err := Encode(policies)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Decode(again, 2)
		if err != nil || !reflect.DeepEqual(back, policies) {
			t.Fatalf("%s became %s, %v", doc, again, err)
		}
	})
}
