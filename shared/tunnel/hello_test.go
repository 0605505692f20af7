package tunnel

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

func encodeHello(doc string) string { return base64.RawURLEncoding.EncodeToString([]byte(doc)) }

func bigHello(upstreams int) Hello {
	h := Hello{Version: "1.2.3", Capabilities: []string{"lanes"}, ClientID: "c1", Hostname: "höst", Epoch: 1<<64 - 1, MaxStreams: 100}
	for i := range upstreams {
		h.Upstreams = append(h.Upstreams, fmt.Sprintf("host-%d.example.com=http://127.0.0.1:%d", i, 1024+i))
	}
	return h
}

func TestHelloRoundTrip(t *testing.T) {
	for _, c := range []struct {
		name  string
		hello Hello
		lines int
	}{
		{"empty", Hello{}, 1},
		{"small", bigHello(2), 1},
		{"several lines", bigHello(200), 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			lines, err := c.hello.Header()
			if err != nil {
				t.Fatal(err)
			}
			if len(lines) != c.lines {
				t.Errorf("%d lines, want %d", len(lines), c.lines)
			}
			header := http.Header{}
			for _, l := range lines {
				if len(l) > helloLine {
					t.Errorf("a line of %d bytes", len(l))
				}
				header.Add(HelloHeader, l)
			}
			for how, received := range map[string][]string{
				"as sent":            header.Values(HelloHeader),
				"joined by a proxy":  {strings.Join(lines, ", ")},
				"joined without gap": {strings.Join(lines, ",")},
			} {
				got, err := ParseHello(received)
				if err != nil {
					t.Errorf("%s: %v", how, err)
				} else if !reflect.DeepEqual(got, c.hello) {
					t.Errorf("%s: hello is %+v", how, got)
				}
			}
		})
	}
}

func TestHelloFromNewerPeer(t *testing.T) {
	doc := `{"version":"9.0","capabilities":["lanes","telepathy"],"shoeSize":{"eu":[43]},"clientID":"c"}`
	h, err := ParseHello([]string{encodeHello(doc)})
	if err != nil {
		t.Fatal(err)
	}
	if h.Version != "9.0" || h.ClientID != "c" || len(h.Capabilities) != 2 {
		t.Errorf("hello is %+v", h)
	}
}

func TestHelloPadding(t *testing.T) {
	text := base64.URLEncoding.EncodeToString([]byte(`{"version":"10"}`))
	if !strings.HasSuffix(text, "==") {
		t.Fatalf("%q has no padding", text)
	}
	if _, err := ParseHello([]string{text}); err != nil {
		t.Errorf("padding: %v", err)
	}
}

func TestHelloFaults(t *testing.T) {
	for _, c := range []struct {
		name  string
		lines []string
		want  string
	}{
		{"missing", nil, "no Adit-Hello header"},
		{"not base64", []string{"a*b"}, "decode hello"},
		{"not JSON", []string{encodeHello("version=1")}, "decode hello"},
		{"wrong type", []string{encodeHello(`{"version":1}`)}, "decode hello"},
		{"not an object", []string{encodeHello(`[]`)}, "decode hello"},
		{"negative limit", []string{encodeHello(`{"maxStreams":-1}`)}, "maxStreams"},
		{"too long", []string{strings.Repeat("A", maxHello+1)}, "over the limit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := ParseHello(c.lines); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q", err, c.want)
			}
		})
	}
	if _, err := bigHello(2000).Header(); err == nil {
		t.Error("a Hello that no peer takes is sent")
	}
}

func FuzzHello(f *testing.F) {
	for _, doc := range []string{`{}`, `{"version":"1","epoch":3,"upstreams":["a","b"]}`, `null`, `[]`, `{"version":`} {
		f.Add(encodeHello(doc))
	}
	lines, err := bigHello(80).Header()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(strings.Join(lines, "\n"))
	f.Add("a, b\n\n==")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := ParseHello(strings.Split(text, "\n"))
		if err != nil {
			return
		}
		lines, err := h.Header()
		if err != nil {
			return // JSON escapes made it longer than the limit
		}
		again, err := ParseHello(lines)
		if err != nil {
			t.Fatalf("its own header: %v", err)
		}
		if more, err := again.Header(); err != nil || !reflect.DeepEqual(more, lines) {
			t.Errorf("%+v came back as %+v", h, again)
		}
	})
}
