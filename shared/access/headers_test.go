package access

import (
	"net/http"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"
)

func TestRules(t *testing.T) {
	head := func() http.Header {
		return http.Header{"X-Env": {"a", "b"}, "Server": {"x"}, "X_env": {"c"}, "Vary": {"Cookie"}}
	}
	for _, c := range []struct {
		name, rules, text string
		want              http.Header // without what has no values
	}{
		{"set", "x-env: prod", "X-Env: prod", http.Header{"X-Env": {"prod"}, "Server": {"x"}, "Vary": {"Cookie"}}},
		{"set anew", "X-New:1", "X-New: 1", http.Header{"X-Env": {"a", "b"}, "Server": {"x"}, "X_env": {"c"}, "Vary": {"Cookie"}, "X-New": {"1"}}},
		{"set to nothing", "Server:", "Server: ", http.Header{"X-Env": {"a", "b"}, "Server": {""}, "X_env": {"c"}, "Vary": {"Cookie"}}},
		{"add", "+vary: Origin", "+Vary: Origin", http.Header{"X-Env": {"a", "b"}, "Server": {"x"}, "X_env": {"c"}, "Vary": {"Cookie", "Origin"}}},
		{"remove", "-X-ENV, -server", "-X-Env,-Server", http.Header{"Vary": {"Cookie"}}},
		{"several", "X-Env: 1\n +X-Env : 2 ,\r\n-Server\n\n", "X-Env: 1,+X-Env: 2,-Server", http.Header{"X-Env": {"1", "2"}, "Vary": {"Cookie"}}},
		{"the last counts", "X-Env: 1, +X-Env: 2, X-Env: 3, -Vary, +Vary: *", "X-Env: 1,+X-Env: 2,X-Env: 3,-Vary,+Vary: *",
			http.Header{"X-Env": {"3"}, "Server": {"x"}, "Vary": {"*"}}},
		{"escapes", `Server: a\, b\\, -Vary`, `Server: a\, b\\,-Vary`, http.Header{"X-Env": {"a", "b"}, "Server": {`a, b\`}, "X_env": {"c"}}},
		{"other backslashes", `Server: \d`, `Server: \\d`, http.Header{"X-Env": {"a", "b"}, "Server": {`\d`}, "X_env": {"c"}, "Vary": {"Cookie"}}},
		{"colons", "Server: a:b", "Server: a:b", http.Header{"X-Env": {"a", "b"}, "Server": {"a:b"}, "X_env": {"c"}, "Vary": {"Cookie"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r Rules
			if err := r.Decode(c.rules); err != nil {
				t.Fatal(err)
			}
			if r.String() != c.text || r.IsZero() {
				t.Errorf("canonical: %q, want %q", r.String(), c.text)
			}
			h := head()
			r.Apply(h)
			for name, values := range h {
				if values == nil {
					delete(h, name)
				}
			}
			if !reflect.DeepEqual(h, c.want) {
				t.Errorf("got %v, want %v", h, c.want)
			}
		})
	}
	var none Rules
	h := head()
	if none.Apply(h); !reflect.DeepEqual(h, head()) || none.Drops("X-Env") || none.Fields() != nil || !none.IsZero() {
		t.Errorf("the zero rules change %v", h)
	}
}

// TestRulesShare holds that values are added to a slice of their own.
func TestRulesShare(t *testing.T) {
	var r Rules
	if err := r.Decode("+Vary: Origin"); err != nil {
		t.Fatal(err)
	}
	values := append(make([]string, 0, 4), "Cookie")
	h := http.Header{"Vary": values}
	r.Apply(h)
	if got := values[:2][1]; got != "" {
		t.Errorf("%q is written behind a slice of others", got)
	}
}

func TestRulesFaults(t *testing.T) {
	for _, c := range []struct{ rules, want string }{
		{"", "holds no rule"},
		{" ,\n", "holds no rule"},
		{"Cache-Control: no-store, max-age=0", `"max-age=0" is no rule`},
		{"X-Env", `"X-Env" is no rule: write Name: value to set`},
		{"-X-Env: 1", "removes a field and has a value: write -X-Env"},
		{"X Env: 1", `"X Env" is no name of a field`},
		{": 1", `"" is no name of a field`},
		{"-", `"" is no name of a field`},
		{":path: /", `"" is no name of a field`},
		{"X-Env: a\x00b", "control character"},
		{"X-Env: a\rb", "control character"},
		{"X-Env: " + strings.Repeat("x", maxValue+1), "4097 bytes, more than 4096"},
		{"host: a", "?host=name"},
		{"Content-Length: 1", "Content-Length cannot be changed: it says where a message ends"},
		{"+Transfer-Encoding: chunked", "where a message ends"},
		{"-Transfer_Encoding", "where a message ends"},
		{"-Trailer", "where a message ends"},
		{"TE: trailers", "where a message ends"},
		{"Connection: close", "about one connection only"},
		{"Upgrade: h2c", "about one connection only"},
		{"HTTP2-Settings: x", "about one connection only"},
		{"keep-alive: 1", "about one connection only"},
		{"Proxy-Authorization: x", "about one connection only"},
		{"X-Forwarded-For: 1.2.3.4", "who the visitor is"},
		{"X_FORWARDED_FOR: 1.2.3.4", "who the visitor is"},
		{"-x-forwarded-proto", "who the visitor is"},
		{"-Forwarded", "who the visitor is"},
		{"cf-connecting-ip: 1", "who the visitor is"},
		{"X_CLIENT_IP: 1", "who the visitor is"},
		{"x-real-ip: 1", "who the visitor is"},
		{"Authorization: Basic YTpi", "a setting that is printed"},
		{"+Authorization: Basic YTpi", "a setting that is printed"},
		{"WWW-Authenticate: Basic", "BASIC_AUTH"},
		{"-Sec-WebSocket-Accept", "handshake of a websocket"},
		{"Adit-Hello: x", "adit's own"},
		{strings.Repeat("+X: 1,", maxRules+1), "more than 64 rules"},
		{"Host: a, X-Ok: 1, -Te", "Host cannot be changed"},
		{"Host: a, X-Ok: 1, -Te", "Te cannot be changed"}, // all of them
	} {
		t.Run(c.rules[:min(len(c.rules), 40)], func(t *testing.T) {
			var r Rules
			err := r.Decode(c.rules)
			if err == nil || !strings.Contains(err.Error(), c.want) || !r.IsZero() {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	var r Rules
	if err := r.Decode("-Authorization"); err != nil || !r.Drops("Authorization") {
		t.Errorf("-Authorization: %v", err)
	}
}

// FuzzRules holds that what is accepted is safe to write, and says the same when it is read
// again.
func FuzzRules(f *testing.F) {
	for _, s := range []string{"", "X-Env: prod, +X-Trace: 1, -Server", `A: b\, c\\`, "A:\nB: c", "-Host", "X_Forwarded_For: 1", `A: \`, "A: b\r\nC: d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var r Rules
		if r.Decode(s) != nil {
			return
		}
		for _, field := range r.Fields() {
			if !httpguts.ValidHeaderFieldName(field.Name) || !httpguts.ValidHeaderFieldValue(field.Value) || strings.ContainsAny(field.Value, "\r\n") {
				t.Fatalf("%q", field)
			}
		}
		for _, name := range []string{"Host", "Content-Length", "Transfer-Encoding", "Connection", "X-Forwarded-For", "X_forwarded_for", "Sec-Websocket-Key"} {
			if r.Drops(name) {
				t.Fatalf("%q drops %s", s, name)
			}
		}
		var again Rules
		if err := again.Decode(r.String()); err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("%q became %q, %+v, %v", s, r.String(), again, err)
		}
	})
}
