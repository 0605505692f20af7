package route

import (
	"slices"
	"strings"
	"testing"
)

func TestParseWait(t *testing.T) {
	for _, c := range []struct {
		text string
		want Wait
		form string // canonical, "" for the text itself
	}{
		{"off", Wait{Kind: WaitOff}, ""},
		{"FALSE", Wait{Kind: WaitOff}, "off"},
		{"tcp", Wait{Kind: WaitTCP}, ""},
		{"true", Wait{Kind: WaitTCP}, "tcp"},
		{"/", Wait{WaitHTTP, "/", 200, 399}, ""},
		{"/healthz", Wait{WaitHTTP, "/healthz", 200, 399}, ""},
		{"/up/", Wait{WaitHTTP, "/up/", 200, 399}, ""},
		{"/healthz=200-399", Wait{WaitHTTP, "/healthz", 200, 399}, "/healthz"},
		{"/healthz=204", Wait{WaitHTTP, "/healthz", 204, 204}, ""},
		{"/healthz=200-499", Wait{WaitHTTP, "/healthz", 200, 499}, ""},
	} {
		w, err := ParseWait(c.text)
		if err != nil || w != c.want {
			t.Errorf("%q is %+v, %v, want %+v", c.text, w, err, c.want)
			continue
		}
		if c.form == "" {
			c.form = c.text
		}
		if again, err := ParseWait(w.String()); w.String() != c.form || err != nil || again != w {
			t.Errorf("%q is written %q, which is %+v, %v", c.text, w, again, err)
		}
	}
	for text, want := range map[string]string{
		"":                  "is no way to wait",
		"http":              "write tcp, a path",
		"healthz":           "is no way to wait",
		"http://app/health": "is no way to wait",
		"/a b":              "is no way to wait",
		"/a%20b":            "is no way to wait",
		"//a":               "is no way to wait",
		"/a/../b":           "is no way to wait",
		"/a=ok":             "neither a status",
		"/a=":               "neither a status",
		"/a=99":             "neither a status",
		"/a=600":            "neither a status",
		"/a=300-200":        "neither a status",
		"/a=+20":            "neither a status",
		"/a=200-":           "neither a status",
		"/a=200=300":        "neither a status",
	} {
		if w, err := ParseWait(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is %+v, %v, want an error with %q", text, w, err, want)
		}
	}
}

func TestWaitOr(t *testing.T) {
	var (
		none = Wait{}
		tcp  = Wait{Kind: WaitTCP}
		off  = Wait{Kind: WaitOff}
		path = Wait{WaitHTTP, "/healthz", 200, 399}
	)
	for _, c := range []struct {
		upstream     string
		others, want Wait
	}{
		{"http://app", none, none},
		{"http://app", tcp, tcp},
		{"http://app", path, path},
		{"http://app?wait=off", path, off},
		{"http://app?wait=tcp", path, tcp},
		{"http://app?wait=/healthz", none, path},
		{"22=app:22", path, tcp},
		{"22=app:22", tcp, tcp},
		{"80=app:80?wait=/healthz", none, path},
	} {
		u, err := Parse(c.upstream)
		if err != nil {
			t.Fatal(err)
		}
		if got := u.WaitOr(c.others); got != c.want {
			t.Errorf("%s, others %q: %q, want %q", c.upstream, c.others, got, c.want)
		}
	}
}

// A server that knows nothing of waiting, or of who may visit, takes what it is told.
func TestAnnounced(t *testing.T) {
	l, err := ParseList("http://app?wait=/healthz&allow=::1&pass_auth=true,22=app:22?wait=tcp&proxy=v1")
	if err != nil {
		t.Fatal(err)
	}
	if got := l.Announced(); !slices.Equal(got, []string{"*=http://app:80", "22=app:22?proxy=v1"}) {
		t.Errorf("announced are %q", got)
	}
	if l[0].Wait.Kind != WaitHTTP {
		t.Error("the list was changed")
	}
}
