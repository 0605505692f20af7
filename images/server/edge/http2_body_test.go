package edge

import (
	"io"
	"testing"
	"testing/iotest"
)

// TestHeldBodyLast wants the last attempt to get all of the body, whenever it is known to be
// the last, and nothing to be kept when that has read it.
func TestHeldBodyLast(t *testing.T) {
	for _, test := range []struct {
		name   string
		before int // what the last attempt has read before it is known to be the last
		taken  int // what the first attempt has
	}{
		{name: "nothing read yet", before: 0, taken: 5},
		{name: "in the middle of what is kept", before: 3, taken: 5},
		{name: "all that is kept", before: 5, taken: 5},
		{name: "more", before: 7, taken: 5},
		{name: "nothing was kept", before: 0, taken: 0},
		{name: "to the end", before: 11, taken: 11},
	} {
		t.Run(test.name, func(t *testing.T) {
			const text = "hello world"
			b := new(heldBody)
			b.moved.L = &b.mu
			put := make(chan bool, 1)
			go func() {
				put <- b.put([]byte(text))
				b.end(io.EOF, nil)
			}()
			read := func(r io.Reader, n int) string {
				t.Helper()
				p := make([]byte, n)
				if _, err := io.ReadFull(iotest.OneByteReader(r), p); err != nil {
					t.Fatal(err)
				}
				return string(p)
			}
			first := b.newReader(nil, nil)
			read(first, test.taken)
			_ = first.Close()
			r := b.newReader(nil, nil)
			got := read(r, test.before)
			b.last()
			if b.whole() {
				t.Error("another attempt could have all of it")
			}
			if unread := max(test.taken-test.before, 0); unread == 0 && b.kept != nil {
				t.Errorf("%q is kept, which was read", b.kept)
			}
			rest, err := io.ReadAll(r)
			if got += string(rest); got != text || err != nil {
				t.Errorf("body is %q, %v", got, err)
			}
			if !<-put {
				t.Error("it was not taken")
			}
			if b.kept != nil {
				t.Errorf("%q is kept at the end", b.kept)
			}
		})
	}
}

// TestHeldBodyClosed wants nothing to be kept for a last attempt that wants no more, be it
// known before or after.
func TestHeldBodyClosed(t *testing.T) {
	for name, end := range map[string]func(*heldBody, *heldReader){
		"closed, then last": func(b *heldBody, r *heldReader) { _ = r.Close(); b.last() },
		"last, then closed": func(b *heldBody, r *heldReader) { b.last(); _ = r.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			b := &heldBody{kept: []byte("hello")}
			b.moved.L = &b.mu
			r := b.newReader(nil, nil)
			end(b, r)
			if b.kept != nil {
				t.Errorf("%q is kept", b.kept)
			}
			if n, err := r.Read(make([]byte, 8)); n != 0 || err != errNotWanted {
				t.Errorf("read %d bytes, %v", n, err)
			}
		})
	}
}
