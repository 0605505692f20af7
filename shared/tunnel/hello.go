package tunnel

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

const (
	// Subprotocol is the websocket subprotocol of this version of the wire format.
	Subprotocol = "adit.v1"
	// HelloHeader carries a Hello in the websocket handshake, in both directions.
	HelloHeader = "Adit-Hello"

	helloLine = 4 << 10  // longest piece of a Hello on one header line
	maxHello  = 48 << 10 // longest Hello in base64
)

// CapabilityAccess in the Hello of a server says that it heeds Access.
const CapabilityAccess = "access"

// Hello is what each peer says of itself when a session is established.
type Hello struct {
	Version      string     `json:"version"`
	Capabilities []string   `json:"capabilities,omitempty"`
	ClientID     string     `json:"clientID,omitempty"`
	Hostname     string     `json:"hostname,omitempty"`
	Epoch        uint64     `json:"epoch,omitempty"`      // grows with every session of a client
	Upstreams    []string   `json:"upstreams,omitempty"`  // in the grammar of package route; OPEN refers to them by index
	Waiting      Waiting    `json:"waiting,omitempty"`    // which of them wait now, see HEALTH
	ReturnOver   int        `json:"returnOver,omitempty"` // from the server: come back within a random part of so many ms if the session breaks
	Lanes        *LaneGrant `json:"lanes,omitempty"`      // from the server: lanes may be dialled
	MaxStreams   int        `json:"maxStreams,omitempty"` // streams that the sender accepts at once; 0: not said

	// Access says who may visit the upstreams, in the form of package access. A client that
	// sends it leaves a server whose Hello does not have CapabilityAccess, before it takes a
	// stream: such a server would let everybody in.
	Access json.RawMessage `json:"access,omitempty"`
}

// Header returns the values of the Adit-Hello lines that carry h.
func (h Hello) Header() ([]string, error) {
	doc, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode hello: %w", err)
	}
	text := base64.RawURLEncoding.EncodeToString(doc)
	if len(text) > maxHello {
		return nil, fmt.Errorf("hello of %d bytes is over the limit of %d: use fewer upstreams, or several clients", len(text), maxHello)
	}
	var lines []string
	for len(text) > helloLine {
		lines, text = append(lines, text[:helloLine]), text[helloLine:]
	}
	return append(lines, text), nil
}

// ParseHello reads the Hello from the values of the Adit-Hello lines. Lines that
// a proxy has joined with commas are taken apart again.
func ParseHello(lines []string) (Hello, error) {
	var h Hello
	if len(lines) == 0 {
		return h, errors.New("no " + HelloHeader + " header: the peer is no adit " + Subprotocol + ", or a proxy between removed it")
	}
	text := strings.NewReplacer(",", "", " ", "").Replace(strings.Join(lines, ""))
	text = strings.TrimRight(text, "=")
	if len(text) > maxHello {
		return h, fmt.Errorf("hello of %d bytes is over the limit of %d", len(text), maxHello)
	}
	doc, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return h, fmt.Errorf("decode hello: %w", err)
	}
	if err := json.Unmarshal(doc, &h); err != nil {
		return h, fmt.Errorf("decode hello: %w", err)
	}
	if h.Lanes != nil && !h.Lanes.valid() {
		h.Lanes = nil // only an optimisation lost
	}
	if h.MaxStreams < 0 {
		return h, fmt.Errorf("hello with maxStreams %d", h.MaxStreams)
	}
	return h, nil
}
