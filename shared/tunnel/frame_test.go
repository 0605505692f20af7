package tunnel

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestParseHeader(t *testing.T) {
	for _, c := range []struct {
		name string
		head [headerSize]byte
		want string // part of the error, or "" for none
	}{
		{"data", [8]byte{3, 0, 0x12, 0x34, 0, 0, 0, 5}, ""},
		{"longest data", [8]byte{3, 0, 0xff, 0xf8, 0, 0, 0, 5}, ""},
		{"data over the limit", [8]byte{3, 0, 0xff, 0xf9, 0, 0, 0, 5}, "over the limit"},
		{"data on the session", [8]byte{3, 0, 0, 1, 0, 0, 0, 0}, "DATA on stream 0"},
		{"second byte", [8]byte{3, 1, 0, 1, 0, 0, 0, 5}, "not zero"},
		{"short open", [8]byte{1, 0, 0, 5, 0, 0, 0, 5}, "want 6 to"},
		{"long open", [8]byte{1, 0, 4, 1, 0, 0, 0, 5}, "want 6 to"},
		{"short accept", [8]byte{2, 0, 0, 3, 0, 0, 0, 5}, "want 4 to 4"},
		{"long accept", [8]byte{2, 0, 0, 5, 0, 0, 0, 5}, "want 4 to 4"},
		{"fin with payload", [8]byte{4, 0, 0, 1, 0, 0, 0, 5}, "want 0 to 0"},
		{"short reset", [8]byte{5, 0, 0, 3, 0, 0, 0, 5}, "want 4 to"},
		{"long reset", [8]byte{5, 0, 2, 5, 0, 0, 0, 5}, "want 4 to 516"},
		{"short credit", [8]byte{6, 0, 0, 0, 0, 0, 0, 5}, "want 4 to 4"},
		{"ping", [8]byte{7, 0, 0, 8, 0, 0, 0, 0}, ""},
		{"ping on a stream", [8]byte{7, 0, 0, 8, 0, 0, 0, 1}, "PING on stream 1"},
		{"short ping", [8]byte{7, 0, 0, 7, 0, 0, 0, 0}, "want 8 to 8"},
		{"long pong", [8]byte{8, 0, 0, 9, 0, 0, 0, 0}, "want 8 to 8"},
		{"short goaway", [8]byte{9, 0, 0, 11, 0, 0, 0, 0}, "want 12 to"},
		{"goaway on a stream", [8]byte{9, 0, 0, 12, 0, 0, 0, 2}, "GOAWAY on stream 2"},
		{"health", [8]byte{10, 0, 4, 0, 0, 0, 0, 0}, ""},
		{"health of nobody", [8]byte{10, 0, 0, 0, 0, 0, 0, 0}, ""},
		{"long health", [8]byte{10, 0, 4, 1, 0, 0, 0, 0}, "want 0 to 1024"},
		{"health on a stream", [8]byte{10, 0, 0, 1, 0, 0, 0, 2}, "HEALTH on stream 2"},
		{"unknown type", [8]byte{200, 0, 0x40, 0, 0, 0, 0, 0}, ""},
		{"unknown type over the limit", [8]byte{200, 0, 0xff, 0xff, 0, 0, 0, 0}, "over the limit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, err := parseHeader(&c.head)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if b := appendHeader(nil, h.typ, h.length, h.stream); !bytes.Equal(b, c.head[:]) {
					t.Errorf("header is %x again, want %x", b, c.head)
				}
				return
			}
			var ended *SessionError
			if !errors.As(err, &ended) || ended.Code != CodeProtocol || !strings.Contains(ended.Reason, c.want) {
				t.Errorf("error is %v, want one of the protocol with %q", err, c.want)
			}
		})
	}
}

func TestOpenFrame(t *testing.T) {
	for _, c := range []struct {
		name   string
		target Target
	}{
		{"bare", Target{}},
		{"last upstream", Target{Upstream: 1<<16 - 1}},
		{"visitor", Target{Upstream: 3, Visitor: "[2001:db8::1]:4711"}},
		{"a forward", Target{Forward: "[fd00::1]:5432"}},
		{"all addresses", Target{Upstream: 1, Visitor: "192.0.2.1:4711", Local: "198.51.100.7:443", Forward: "db.internal:5432"}},
		{"both addresses", Target{Visitor: "192.0.2.1:4711", Local: "198.51.100.7:443"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := appendOpen(nil, 7, 4242, c.target)
			f, err := readFrame(bytes.NewReader(b))
			if err != nil || f.typ != frameOpen || f.stream != 7 {
				t.Fatalf("frame is %+v, error %v", f, err)
			}
			window, target, err := parseOpen(f.payload)
			if err != nil || window != 4242 || target != c.target {
				t.Errorf("open is %d %+v, error %v, want %+v", window, target, err, c.target)
			}
		})
	}
}

func TestOpenAttributes(t *testing.T) {
	base := []byte{0, 1, 0, 0, 1, 0}
	with := func(more ...byte) []byte { return append(bytes.Clone(base), more...) }
	if _, target, err := parseOpen(with(99, 0, 2, 'x', 'y', 1, 0, 1, 'v')); err != nil || target.Visitor != "v" {
		t.Errorf("behind an unknown attribute the visitor is %q, error %v", target.Visitor, err)
	}
	for name, p := range map[string][]byte{
		"head cut off":  with(1, 0),
		"value cut off": with(1, 0, 5, 'a', 'b'),
		"long":          with(2, 0xff, 0xff),
	} {
		if _, _, err := parseOpen(p); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestTargetCheck(t *testing.T) {
	for name, target := range map[string]Target{
		"negative upstream": {Upstream: -1},
		"large upstream":    {Upstream: 1 << 16},
		"long address":      {Visitor: strings.Repeat("a", maxControl)},
	} {
		if target.check() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestGoAwayFrame(t *testing.T) {
	for _, want := range []GoAway{
		{},
		{Code: CodeOverload, After: 1500 * time.Millisecond, Jitter: time.Minute, Reason: "moving, à bientôt"},
	} {
		f, err := readFrame(bytes.NewReader(appendGoAway(nil, want)))
		if err != nil {
			t.Fatal(err)
		}
		if got := parseGoAway(f.payload); got != want {
			t.Errorf("goaway is %+v, want %+v", got, want)
		}
	}
	f, _ := readFrame(bytes.NewReader(appendGoAway(nil, GoAway{Code: 77, After: -time.Second, Jitter: 1 << 62})))
	got := parseGoAway(f.payload)
	if got.Code != CodeInternal || got.After != 0 || got.Jitter != (1<<32-1)*time.Millisecond {
		t.Errorf("out of range it is %+v", got)
	}
}

func TestReasons(t *testing.T) {
	long := strings.Repeat("é", maxReason)
	if got := clip("x"+long, maxReason); len(got) != maxReason-1 || !utf8.ValidString(got) {
		t.Errorf("a long reason has %d bytes, valid: %t", len(got), utf8.ValidString(got))
	}
	if got := clip("a\xffb", maxReason); got != "a?b" {
		t.Errorf("an invalid reason is %q", got)
	}
	if got := printable([]byte("a\r\n\x1b[31mb\x7f\xff")); got != "a   [31mb \ufffd" {
		t.Errorf("a hostile reason is %q", got)
	}
}

func TestCodes(t *testing.T) {
	for c := CodeNone; c <= CodeDenied; c++ {
		if codeOf(uint32(c)) != c || c.String() == "" {
			t.Errorf("code %d is %d %q", c, codeOf(uint32(c)), c)
		}
	}
	for _, v := range []uint32{uint32(CodeDenied) + 1, 1 << 31, 1<<32 - 1} {
		if c := codeOf(v); c != CodeInternal {
			t.Errorf("unknown code %d is %s", v, c)
		}
		if s := Code(v).String(); s != "internal" {
			t.Errorf("unknown code %d prints %q", v, s)
		}
	}
}
