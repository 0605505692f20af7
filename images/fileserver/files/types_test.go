package files

import (
	"mime"
	"strings"
	"testing"
)

func TestContentType(t *testing.T) {
	utf8 := "; charset=utf-8"
	for _, c := range []struct{ name, content, want string }{
		{"index.html", "", "text/html" + utf8},
		{"INDEX.HTM", "", "text/html" + utf8},
		{"style.css", "", "text/css" + utf8},
		{"app.js", "", "text/javascript" + utf8},
		{"app.mjs", "", "text/javascript" + utf8},
		{"app.js.map", "", "application/json"},
		{"data.json", "", "application/json"},
		{"mod.wasm", "", "application/wasm"},
		{"logo.svg", "", "image/svg+xml"},
		{"a.webp", "", "image/webp"},
		{"a.avif", "", "image/avif"},
		{"a.JPG", "", "image/jpeg"},
		{"f.woff2", "", "font/woff2"},
		{"v.mp4", "", "video/mp4"},
		{"v.webm", "", "video/webm"},
		{"d.pdf", "", "application/pdf"},
		{"n.txt", "", "text/plain" + utf8},
		{"n.md", "", "text/markdown" + utf8},
		{"n.csv", "", "text/csv" + utf8},
		{"n.xml", "", "text/xml" + utf8},
		{"a.zip", "", "application/zip"},
		{"a.tar.gz", "", "application/gzip"},
		{"a.tar", "", "application/x-tar"},
		{"a.iso", "text", "application/octet-stream"},
		{"a.bin", "text", "application/octet-stream"},

		{"Makefile", "all:\n\tgo build\n", plainText},
		{"main.go", "package main\n", plainText},
		{"empty", "", plainText},
		{"page", "<html><script>alert(1)</script>", plainText},
		{"colours", "\x1b[31mred\x1b[0m\r\n", plainText},
		{"umlaut", "grüße", plainText},
		{"cut inside a character", strings.Repeat("x", sniffed-1) + "üü", plainText},
		{"ends inside a character", "x\xc3", octets},
		{"latin", "gr\xfc\xdfe", octets},
		{"image", "\x89PNG\r\n\x1a\n", octets},
		{"zero", "a\x00b", octets},
		{"deep.zero", strings.Repeat("x", sniffed) + "\x00", plainText},
		{"trailing.", "x", plainText},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := contentType(c.name, strings.NewReader(c.content)); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// TestTable holds that every type of the table is well formed and that text says its encoding.
func TestTable(t *testing.T) {
	for ext, typ := range types {
		family, params, err := mime.ParseMediaType(typ)
		if err != nil {
			t.Errorf("%s: %v", ext, err)
		}
		if strings.HasPrefix(family, "text/") && params["charset"] != "utf-8" {
			t.Errorf("%s: %s has no charset", ext, typ)
		}
		if ext != strings.ToLower(ext) || strings.HasPrefix(ext, ".") {
			t.Errorf("%s is never looked up", ext)
		}
	}
}
