package status

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"
)

// FuzzTable prints any document, as a hostile server or client makes it: nothing but text
// comes out, and no more lines than there are clients.
func FuzzTable(f *testing.F) {
	f.Add(`{"info":{"version":"1","hostname":"\u001b[31mred"},"clients":[{"clientID":"a\nb","upstreams":["*=http://a\r","\t"],"waiting":["\t"],"license":{"sub":"\u0007"}}]}`)
	f.Add(`{"clients":[null,{},{"since":"9999-12-31T23:59:59Z","license":{"expires":"0001-01-01T00:00:00Z"}}]}`)
	f.Add(`{"clients":null}`)
	f.Fuzz(func(t *testing.T, text string) {
		var doc Document
		if json.Unmarshal([]byte(text), &doc) != nil {
			return
		}
		var out strings.Builder
		if err := doc.WriteTable(&out, now); err != nil {
			t.Fatal(err)
		}
		for _, r := range out.String() {
			if r != '\n' && !unicode.IsPrint(r) && r != unicode.ReplacementChar {
				t.Fatalf("%q prints %q", text, out.String())
			}
		}
		if lines := strings.Count(out.String(), "\n"); lines != 6+len(doc.Clients) {
			t.Fatalf("%q has %d lines: %q", text, lines, out.String())
		}
	})
}
