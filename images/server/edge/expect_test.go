package edge

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

const expecting = "POST / HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"

func TestExpectContinue(t *testing.T) {
	const goAhead = "HTTP/1.1 100 Continue\r\n\r\n"
	s := rawSite(t, func(_ int, c *wire) {
		for head := c.head(); head != ""; head = c.head() {
			if field(head, "Expect") == nil {
				t.Errorf("the upstream is not asked: %q", head)
			}
			c.send("HTTP/1.1 103 Early Hints\r\nLink: first\r\n\r\n" + goAhead + "HTTP/1.1 103 Early Hints\r\nLink: second\r\n\r\n")
			if body := c.bytes(5); body != "hello" {
				t.Errorf("body at the upstream is %q", body)
			}
			c.send(hello)
		}
	})
	c := s.dial()
	for range 10 {
		c.send(expecting)
		var went, hints int
		for went+hints < 3 {
			switch head := c.head(); {
			case head == "HTTP/1.1 100 Continue\r\n":
				went++
			case strings.HasPrefix(head, "HTTP/1.1 103 Early Hints\r\nLink: "):
				hints++
			default:
				t.Fatalf("head is %q", head)
			}
		}
		if went != 1 {
			t.Errorf("%d times 100 and %d times 103", went, hints)
		}
		c.send("hello")
		c.want("POST", 200, "hello")
	}
}

func TestExpectContinueRefused(t *testing.T) {
	s := rawSite(t, func(_ int, c *wire) {
		c.head()
		c.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 3\r\n\r\nno\n")
		if rest, _ := c.rest(); rest != "" {
			t.Errorf("the upstream got a body that it refused: %q", rest)
		}
	})
	c := s.dial()
	c.send(expecting)
	if resp := c.want("POST", 401, "no\n"); !resp.Close {
		t.Error("the visitor is not told that the connection will be closed")
	}
	c.send("hello")
	c.wantEOF()
	s.wantCount(1, "401", "*", "POST")
}

func TestUpstreamDiesBeforeItWantsTheBody(t *testing.T) {
	s := rawSite(t, func(_ int, c *wire) { c.head() })
	c := s.dial()
	c.send(expecting)
	resp := c.want("POST", 502, "502 Bad Gateway: the upstream broke off before it answered\n") // and no 100
	if !resp.Close {
		t.Error("the visitor is not told that the connection will be closed")
	}
}

func TestUpstreamThatKnowsNoExpectations(t *testing.T) {
	s := rawSite(t, func(_ int, c *wire) {
		for c.head() != "" {
			if body := c.bytes(5); body != "hello" {
				t.Errorf("body at the upstream is %q", body)
			}
			c.send(hello)
		}
	})
	t.Run("HTTP/1.1", func(t *testing.T) { // waits a second
		c := s.dial()
		c.send(expecting)
		if head := c.head(); head != "HTTP/1.1 100 Continue\r\n" {
			t.Errorf("head is %q", head)
		}
		c.send("hello")
		c.want("POST", 200, "hello")
	})
	t.Run("HTTP/1.0", func(t *testing.T) { // which has no 100
		c := s.dial()
		c.send(strings.Replace(expecting, "HTTP/1.1", "HTTP/1.0", 1) + "hello")
		c.want("POST", 200, "hello")
	})
	t.Run("without a body", func(t *testing.T) {
		s := webSite(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
		c := s.dial()
		c.send("GET / HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\n\r\n")
		c.want("GET", 200, "hello")
	})
}

func TestExpectContinueWhereNothingServes(t *testing.T) {
	c := newSite(t).dial()
	c.send(expecting)
	if resp, _ := c.response("POST"); resp.StatusCode != 404 || !resp.Close {
		t.Errorf("response is %d and Close %t", resp.StatusCode, resp.Close)
	}
}
