package tunnel

import (
	"bytes"
	"testing"
)

func TestWaiting(t *testing.T) {
	var w Waiting
	in := map[int]bool{0: true, 7: true, 8: true, 1000: true}
	for i := range in {
		w.Add(i)
	}
	for i := -1; i < 2000; i++ {
		if w.Has(i) != in[i] {
			t.Errorf("upstream %d: %t", i, w.Has(i))
		}
	}
	if !bytes.Equal(w[:2], []byte{0x81, 1}) {
		t.Errorf("the first bytes are %x", w[:2])
	}
	lines, err := Hello{Waiting: w}.Header()
	if err != nil {
		t.Fatal(err)
	}
	if h, err := ParseHello(lines); err != nil || !bytes.Equal(h.Waiting, w) {
		t.Errorf("hello has %x, error %v", h.Waiting, err)
	}
}

// Health arrives over every carrier, in the order in which it was sent, also when nothing waits any more.
func TestHealth(t *testing.T) {
	overEach(t, func(t *testing.T, pair carrierPair) {
		got := make(chan Waiting, 10)
		_, cli := sessions(t, pair, Config{Health: func(w Waiting) { got <- w }}, Config{})
		long := make(Waiting, maxControl+1)
		long.Add(8 * maxControl)
		for _, w := range []Waiting{{1}, nil, {0, 0x80}, long} {
			cli.Health(w)
		}
		for _, want := range []Waiting{{1}, {}, {0, 0x80}, make(Waiting, maxControl)} {
			if w := <-got; !bytes.Equal(w, want) {
				t.Errorf("got %x, want %x", w, want)
			}
		}
	})
}

// A session that does not care, as each did before there was HEALTH, goes on.
func TestHealthIgnored(t *testing.T) {
	s, p := script(t, Config{})
	p.send(appendHeader(nil, frameHealth, 2, 0), []byte{1, 2}, appendHeader(nil, framePing, 8, 0), make([]byte, 8))
	p.want(framePong)
	if s.Err() != nil {
		t.Errorf("the session ended with %v", s.Err())
	}
}
