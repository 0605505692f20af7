package tunnel

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// LaneHeader names a lane in its websocket handshake, see LaneName.
const LaneHeader = "Adit-Lane"

// LaneGrant is what a server says in its Hello to let the client dial lanes: how the
// session is found, and the key that proves that the lane belongs to it.
type LaneGrant struct {
	ID  string `json:"id"`  // 32 hex digits
	Key string `json:"key"` // 64 hex digits
}

// NewLaneGrant returns a grant for one session.
func NewLaneGrant() *LaneGrant {
	var b [48]byte
	_, _ = rand.Read(b[:]) // never fails
	return &LaneGrant{ID: hex.EncodeToString(b[:16]), Key: hex.EncodeToString(b[16:])}
}

// valid reports whether a grant that a server sent can be used.
func (g *LaneGrant) valid() bool {
	return g != nil && isHex(g.ID, 32) && isHex(g.Key, 64)
}

func isHex(s string, length int) bool {
	return len(s) == length && strings.Trim(s, "0123456789abcdef") == ""
}

// LaneName is the value of the Adit-Lane header: the session, its key, the stream whose
// bytes the lane is for and their direction, "up" from the client to the server or
// "down", in this order with a space in between.
type LaneName struct {
	Grant  LaneGrant
	Stream uint32
	Up     bool
}

func (n LaneName) String() string {
	direction := "down"
	if n.Up {
		direction = "up"
	}
	return fmt.Sprintf("%s %s %d %s", n.Grant.ID, n.Grant.Key, n.Stream, direction)
}

// ParseLaneName reads the value of the header. Its errors hold nothing of it.
func ParseLaneName(value string) (LaneName, error) {
	var n LaneName
	malformed := errors.New("the " + LaneHeader + " header is malformed")
	field := strings.Split(value, " ")
	if len(field) != 4 {
		return n, malformed
	}
	n.Grant = LaneGrant{ID: field[0], Key: field[1]}
	stream, err := strconv.ParseUint(field[2], 10, 32)
	if err != nil || stream == 0 || !n.Grant.valid() || field[2] != strconv.FormatUint(stream, 10) {
		return n, malformed
	}
	n.Stream = uint32(stream)
	switch field[3] {
	case "up":
		n.Up = true
	case "down":
	default:
		return n, malformed
	}
	return n, nil
}

// proves reports, in constant time, whether a lane belongs to the session of g.
func (g *LaneGrant) proves(n LaneName) bool {
	return g.ID == n.Grant.ID && subtle.ConstantTimeCompare([]byte(g.Key), []byte(n.Grant.Key)) == 1
}
