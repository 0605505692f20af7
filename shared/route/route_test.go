package route

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"default", "http://127.0.0.1:8080", "*=http://127.0.0.1:8080"},
		{"default port", "http://app", "*=http://app:80"},
		{"default tls port", "https://app/", "*=https://app:443"},
		{"ipv6 without port", "http://[::1]", "*=http://[::1]:80"},
		{"ipv6", "http://[::1]:8080", "*=http://[::1]:8080"},
		{"star", "*=http://app:80", "*=http://app:80"},
		{"host", "Example.COM=http://App:8000", "example.com=http://app:8000"},
		{"trailing dot", "example.com.=http://app:8000", "example.com=http://app:8000"},
		{"wildcard", "*.example.com=http://app:8000", "*.example.com=http://app:8000"},
		{"path", "example.com/api=http://api:9000", "example.com/api=http://api:9000"},
		{"path with slash", "example.com/api/=http://api:9000", "example.com/api=http://api:9000"},
		{"root path", "example.com/=http://api:9000", "example.com=http://api:9000"},
		{"path of every host", "*/api=http://api:9000", "*/api=http://api:9000"},
		{"unix", "unix:///run/app.sock", "*=unix:///run/app.sock"},
		{"unix host", "a.b=unix:///run/app.sock?host=x", "a.b=unix:///run/app.sock?host=x"},
		{"h2c", "grpc.example=h2c://grpc:50051", "grpc.example=h2c://grpc:50051"},
		{"h2c default port", "h2c://app", "*=h2c://app:80"},
		{"http2", "https://app?http2=true&insecure=true", "*=https://app:443?http2=true&insecure=true"},
		{"http2 unix", "unix:///run/app.sock?http2=true", "*=unix:///run/app.sock?http2=true"},
		{"http2 false", "https://app?http2=false", "*=https://app:443"},
		{"options", "https://app:8443?insecure=true&host=inner", "*=https://app:8443?host=inner&insecure=true"},
		{"insecure false", "https://app:8443?insecure=false", "*=https://app:8443"},
		{"tcp", "localhost:8001", "8001=localhost:8001"},
		{"tcp remapped", "2222=localhost:22", "2222=localhost:22"},
		{"tcp scheme", "2222=tcp://localhost:22", "2222=localhost:22"},
		{"tcp proxy", "2222=localhost:22?proxy=v2", "2222=localhost:22?proxy=v2"},
		{"http proxy", "http://app:80?proxy=v1", "*=http://app:80?proxy=v1"},
		{"tcp unix", "2222=unix:///run/ssh.sock", "2222=unix:///run/ssh.sock"},
		{"wait", "http://app:80?wait=tcp", "*=http://app:80?wait=tcp"},
		{"wait for a path", "http://app:80?wait=/healthz", "*=http://app:80?wait=/healthz"},
		{"wait for a status", "https://app:443?wait=/healthz=204&insecure=true", "*=https://app:443?insecure=true&wait=/healthz=204"},
		{"wait for statuses, escaped", "2222=app:80?wait=%2Fa%2Fb%3D200-204", "2222=app:80?wait=/a/b=200-204"},
		{"do not wait", "22=app:22?wait=false", "22=app:22?wait=off"},
		{"allow", "http://app:80?allow=10.0.0.0/8&host=x&allow=2001:db8::1", "*=http://app:80?host=x&allow=10.0.0.0/8&allow=2001:db8::1"},
		{"tcp allow", "22=app:22?allow=::ffff:10.0.0.0%2F104&wait=tcp", "22=app:22?wait=tcp&allow=::ffff:10.0.0.0/104"},
		{"pass auth", "http://app:80?pass_auth=1&allow=::1", "*=http://app:80?pass_auth=true&allow=::1"},
		{"address as host", "10.0.0.1=http://app:80", "10.0.0.1=http://app:80"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u, err := Parse(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if got := u.String(); got != tt.want {
				t.Errorf("Parse(%q) = %q, want %q", tt.in, got, tt.want)
			}
			again, err := Parse(u.String())
			if err != nil || again != u {
				t.Errorf("canonical form %q parses as %+v, %v; want %+v", u, again, err, u)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"no port", "localhost", "write http://"},
		{"no host", "http://", "no host"},
		{"empty host", ":8080", "no host before"},
		{"path", "http://app:80/base", "without a path"},
		{"user", "http://u:p@app:80", "user or password"},
		{"scheme", "ftp://app:21", "unknown scheme"},
		{"host to tcp", "example.com=app:8000", "write example.com=http://app:8000"},
		{"port to http", "8080=http://app:8000", "write 8080=app:8000"},
		{"port 0", "0=app:22", "not a number from 1"},
		{"port 65536", "http://app:65536", "not a number from 1"},
		{"target port 0", "app:0", "not a number from 1"},
		{"route with port", "example.com:80=http://app:8000", "without a port"},
		{"inner star", "a.*.com=http://app:8000", "* stands alone"},
		{"unicode", "bücher.de=http://app:8000", "xn--"},
		{"dots", "example.com/a/../b=http://app:8000", "write /b"},
		{"encoded path", "example.com/%2e=http://app:8000", "plain prefix"},
		{"unknown option", "http://app:80?inscure=true", "unknown option"},
		{"proxy version", "2222=localhost:22?proxy=v3", "v1 or v2"},
		{"insecure word", "https://app:80?insecure=maybe", "true or false"},
		{"insecure http", "http://app:80?insecure=true", "https upstreams only"},
		{"host on tcp", "22=app:22?host=x", "HTTP upstreams only"},
		{"http2 word", "https://app?http2=2", "true or false"},
		{"http2 with http", "http://app?http2=true", "write h2c://"},
		{"http2 on tcp", "22=unix:///run/app.sock?http2=true", "https and unix upstreams"},
		{"h2c on tcp", "22=h2c://app:80", "write 22=app:80"},
		{"h2c with proxy", "h2c://app:80?proxy=v2", "leave it out"},
		{"insecure h2c", "h2c://app:80?insecure=true", "https upstreams only"},
		{"wait for what", "http://app:80?wait=http", "write tcp, a path such as /healthz"},
		{"wait for nothing", "http://app:80?wait=", "write tcp"},
		{"allow whom", "http://app:80?allow=everyone", "allow=\"everyone\" is not a network"},
		{"allow nobody", "http://app:80?allow=", "is not a network"},
		{"allow a list", "http://app:80?allow=10.0.0.0/8%2C::1", "allow= again for another"},
		{"host twice", "http://app:80?host=a&host=b", "option host is there twice"},
		{"pass auth word", "http://app:80?pass_auth=maybe", "use true or false"},
		{"pass auth on tcp", "22=app:22?pass_auth=true", "HTTP upstreams only"},
		{"header injection", "http://app:80?host=a%0d%0ab", "not a host name"},
		{"relative socket", "unix://run/app.sock", "absolute path"},
		{"number with a dot", "0.=http://app:80", "is a number"},
		{"empty route", "=http://app:80", "no host before the ="},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u, err := Parse(tt.in)
			if err == nil {
				t.Fatalf("Parse(%q) = %+v, want an error", tt.in, u)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Parse(%q): %v, want it to say %q", tt.in, err, tt.want)
			}
		})
	}
}

func TestParseList(t *testing.T) {
	l, err := ParseList("a.com=http://x:1, b.com=http://y:2\n2222=localhost:22,")
	if err != nil || len(l) != 3 {
		t.Fatalf("got %v, %v; want three", l, err)
	}
	_, err = ParseList("a.com=http://x:1,bad,a.com=http://y:2")
	if err == nil || !strings.Contains(err.Error(), `"bad"`) || !strings.Contains(err.Error(), "twice") {
		t.Errorf("got %v, want both faults", err)
	}
	if _, err := ParseList(" , "); err == nil {
		t.Error("an empty list was taken")
	}
}

// FuzzParse checks that whatever is taken has a canonical form that means the same,
// and is safe to put into a header or a log line.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"a=http://b?allow=::1&allow=10.0.0.0/8&pass_auth=true", "a=http://b?wait=/c=200-299", "1=b:2?wait=tcp&proxy=v1", "http://127.0.0.1:8080", "*.example.com/a=https://b:1?insecure=1&host=c", "2222=localhost:22", "unix:///a", "[::1]=http://[::1]", "a=b=c?d=e"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := Parse(s)
		if err != nil {
			return
		}
		text := u.String()
		if strings.ContainsAny(text, "\r\n\t ,") {
			t.Fatalf("%q: canonical form %q breaks a list or a header", s, text)
		}
		again, err := Parse(text)
		if err != nil || again != u {
			t.Fatalf("%q: canonical form %q parses as %+v, %v; want %+v", s, text, again, err, u)
		}
	})
}
