package edge

import (
	"bytes"
	"net/http"

	"golang.org/x/net/http/httpguts"

	"github.com/adit-tunnel/adit/images/server/trust"
)

// What is plain: requests and responses that the fast path takes. The parsers here read
// a part of HTTP/1.1 about which there are no two opinions, and take nothing that package
// net/http would refuse or read in another way; all else is left to that.

// span is a part of a head.
type span struct{ from, to int }

// spans are the lines of a head that are passed on, neighbours in one. Lines that are
// not are few.
type spans struct {
	list [12]span
	n    int
}

// add reports whether there was room.
func (s *spans) add(from, to int) bool {
	if s.n > 0 && s.list[s.n-1].to == from {
		s.list[s.n-1].to = to
		return true
	}
	if s.n == len(s.list) {
		return false
	}
	s.list[s.n] = span{from, to}
	s.n++
	return true
}

// appendTo appends the lines from the head that they are in.
func (s *spans) appendTo(to, head []byte) []byte {
	for _, line := range s.list[:s.n] {
		to = append(to, head[line.from:line.to]...)
	}
	return to
}

// fieldKind is what a field means to us.
type fieldKind uint8

const (
	fieldPassed  fieldKind = iota
	fieldDropped           // ends at this hop
	fieldUnusual           // for the HTTP server to look at
	fieldHost
	fieldConnection
	fieldLength
	fieldCoding
	fieldDate
	fieldType
	fieldAuthorization
	fieldHSTS
)

// kinds are the fields that are not just passed on, by the length of their names.
var kinds = func() (byLength [26][]struct {
	name string
	kind fieldKind
}) {
	for name, kind := range map[string]fieldKind{
		"host": fieldHost, "connection": fieldConnection, "content-length": fieldLength,
		"transfer-encoding": fieldCoding, "date": fieldDate, "content-type": fieldType, "authorization": fieldAuthorization, "strict-transport-security": fieldHSTS,
		"keep-alive": fieldDropped, "proxy-connection": fieldDropped,
		"proxy-authenticate": fieldDropped, "proxy-authorization": fieldDropped,
		"te": fieldUnusual, "trailer": fieldUnusual, "upgrade": fieldUnusual, "http2-settings": fieldUnusual,
		"expect": fieldUnusual, "pragma": fieldUnusual, // net/http adds Cache-Control
		"close": fieldUnusual, // if Connection names it
	} {
		n := len(name)
		byLength[n] = append(byLength[n], struct {
			name string
			kind fieldKind
		}{name, kind})
	}
	return byLength
}()

func kindOf(name []byte) fieldKind {
	if len(name) >= len(kinds) {
		return fieldPassed
	}
	for _, k := range kinds[len(name)] {
		if equalFold(name, k.name) {
			return k.kind
		}
	}
	return fieldPassed
}

// Bytes that may stand in a field's name, in its value, and in a request target.
var nameByte, valueByte, targetByte = func() (name, value, target [256]bool) {
	for c := range 256 {
		name[c] = c < 0x80 && httpguts.IsTokenRune(rune(c))
		value[c] = c == '\t' || c >= ' ' && c != 0x7f
		target[c] = c > ' ' && c < 0x7f
	}
	return name, value, target
}()

// cutField splits the first line off b, which ends in an empty line. It returns how long
// the line is with its end, 0 if it is malformed or unusual.
func cutField(b []byte) (name, value []byte, size int) {
	i := 0
	for nameByte[b[i]] { // CR is none
		i++
	}
	if i == 0 || b[i] != ':' {
		return nil, nil, 0
	}
	name = b[:i]
	from := i + 1
	for i = from; valueByte[b[i]]; {
		i++
	}
	if b[i] != '\r' || b[i+1] != '\n' {
		return nil, nil, 0
	}
	return name, bytes.Trim(b[from:i], " \t"), i + 2
}

// plainMethods are those of plain requests: a response to HEAD is framed in its own way,
// and all others are rare.
var plainMethods = [...]string{
	http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions,
}

// plainRequest is a request with HTTP/1.1 that is complete, its body included. Its parts
// are those of the bytes that it was parsed from.
type plainRequest struct {
	method string
	line   []byte // with its end
	target []byte
	path   []byte // of the target
	host   []byte
	lines  spans // of the head, to be passed on
	head   []byte
	body   []byte
	close  bool // the last one on its connection

	authorization     []byte // a value
	authorizationLine []byte // with its name and end, nil if there is none; not in lines

	told told
}

// told is what the fields say in which a proxy tells who the visitor is.
type told struct {
	proto, host, chain []byte
	own                [trust.NumFields][]byte
	seen               [trust.NumFields]bool
}

// platform notes a field of a platform's; one that is there twice is nobody's.
func (t *told) platform(name, value []byte) {
	f, ok := trust.FieldOf(name)
	if !ok {
		return
	}
	if t.own[f] = value; t.seen[f] {
		t.own[f] = nil
	}
	t.seen[f] = true
}

func (t *told) said() *trust.Said {
	s := &trust.Said{For: string(t.chain), Proto: string(t.proto), Host: string(t.host)}
	for f, value := range t.own {
		s.Own[f] = string(value)
	}
	return s
}

// parse reads the request at the beginning of b, and reports false if it is not plain.
// The parts of a request that was parsed before must not be in use any more.
func (q *plainRequest) parse(b []byte) bool {
	*q = plainRequest{told: told{chain: q.told.chain[:0]}}
	if !q.parseLine(b) {
		return false
	}
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		return false
	}
	q.head = b[:end+4]
	length, lengths, connections := int64(0), 0, 0
	for i := len(q.line); i < end+2; {
		name, value, size := cutField(q.head[i:])
		if size == 0 {
			return false
		}
		kind := kindOf(name)
		switch kind {
		case fieldUnusual, fieldCoding:
			return false
		case fieldHost:
			if q.host != nil || len(value) == 0 {
				return false
			}
			q.host = value
		case fieldConnection:
			q.close = equalFold(value, "close")
			if connections++; connections > 1 || !q.close && !equalFold(value, "keep-alive") {
				return false
			}
		case fieldLength:
			var ok bool
			if length, ok = plainLength(value); !ok || lengths > 0 {
				return false
			}
			lengths++
			kind = fieldPassed
		case fieldDate, fieldType, fieldHSTS:
			kind = fieldPassed
		case fieldAuthorization:
			if q.authorizationLine != nil {
				return false
			}
			q.authorization, q.authorizationLine = value, q.head[i:i+size]
		case fieldPassed:
			forwarding, ok := q.forwarding(name, value)
			if !ok {
				return false
			}
			if forwarding {
				kind = fieldDropped
			}
		}
		if kind == fieldPassed && !q.lines.add(i, i+size) {
			return false
		}
		i += size
	}
	if q.host == nil || length > int64(len(b)-len(q.head)) {
		return false
	}
	q.body = b[len(q.head) : len(q.head)+int(length)]
	return true
}

// replayable is what isReplayable says.
func (q *plainRequest) replayable() bool {
	return len(q.body) == 0 && q.method != http.MethodPost && q.method != http.MethodPatch
}

// field returns the value of the first field with that name, which is in lower case.
func (q *plainRequest) field(name string) string {
	for i := len(q.line); i < len(q.head)-2; {
		got, value, size := cutField(q.head[i:])
		if equalFold(got, name) {
			return string(value)
		}
		i += size
	}
	return ""
}

// parseLine reads the request line. A path with escapes is not plain: it has to be
// unescaped to be matched.
func (q *plainRequest) parseLine(b []byte) bool {
	space := bytes.IndexByte(b[:min(len(b), len("OPTIONS "))], ' ')
	if space < 0 {
		return false
	}
	for _, method := range plainMethods {
		if string(b[:space]) == method {
			q.method = method
		}
	}
	from := space + 1
	if q.method == "" || from == len(b) || b[from] != '/' {
		return false
	}
	i, path := from, 0
	for ; i < len(b) && targetByte[b[i]]; i++ {
		switch {
		case path > 0:
		case b[i] == '?':
			path = i
		case b[i] == '%':
			return false
		}
	}
	const rest = " HTTP/1.1\r\n"
	if path == 0 {
		path = i
	}
	q.target, q.path = b[from:i], b[from:path]
	if !bytes.HasPrefix(b[i:], []byte(rest)) {
		return false
	}
	q.line = b[:i+len(rest)]
	return true
}

// forwarding notes what a field says about the visitor, if that is what it is for, see
// isForwarding, and reports false if it is spelled in an unusual way.
func (q *plainRequest) forwarding(name, value []byte) (yes, ok bool) {
	const prefix = "x-forwarded-"
	if trust.NamesVisitor(name) {
		q.told.platform(name, value)
		return true, true
	}
	switch name[0] | 0x20 {
	default:
		return false, true
	case 'x', 'f':
	}
	switch {
	case bytes.IndexByte(name, '_') >= 0:
		return false, false
	case equalFold(name, "forwarded"), equalFold(name, "x-real-ip"):
		return true, true
	case len(name) < len(prefix) || !equalFold(name[:len(prefix)], prefix):
		return false, true
	}
	switch what := name[len(prefix):]; {
	case len(value) == 0:
		return false, false
	case equalFold(what, "proto") && q.told.proto == nil:
		q.told.proto = value
	case equalFold(what, "host") && q.told.host == nil:
		q.told.host = value
	case equalFold(what, "for"):
		if len(q.told.chain) > 0 {
			q.told.chain = append(q.told.chain, ',')
		}
		q.told.chain = append(q.told.chain, value...)
	}
	return true, true
}

// plainLength reads a Content-Length without leading zeros.
func plainLength(value []byte) (int64, bool) {
	n, ok := plainNumber(value, 10)
	return n, ok && (value[0] != '0' || len(value) == 1)
}

// plainResponse is the head of a response with HTTP/1.1 whose end is known.
type plainResponse struct {
	code    int
	text    string // of the code
	lines   spans
	size    int // of the head
	length  int // of the body; -1: it is in chunks
	content int // bytes of the body, when it is complete
	hasDate bool
	hasHSTS bool
}

// completeness is how much of a message is there.
type completeness uint8

const (
	unusual completeness = iota // for the HTTP server
	partial
	complete
)

// parse reads the head at the beginning of b.
func (p *plainResponse) parse(b []byte) completeness {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		return partial
	}
	const version = "HTTP/1.1 "
	*p = plainResponse{size: end + 4}
	if end < len(version)+3 || string(b[:len(version)]) != version {
		return unusual
	}
	head, i := b[:p.size], len(version)
	for ; i < len(version)+3; i++ {
		if b[i] < '0' || b[i] > '9' {
			return unusual
		}
		p.code = 10*p.code + int(b[i]-'0')
	}
	if p.text = http.StatusText(p.code); p.text == "" || p.code < 200 || b[i] != ' ' && b[i] != '\r' {
		return unusual
	}
	for valueByte[b[i]] {
		i++
	}
	if b[i] != '\r' || b[i+1] != '\n' {
		return unusual
	}
	i += 2
	connections, lengths, codings := 0, 0, 0
	for i < end+2 {
		name, value, size := cutField(head[i:])
		if size == 0 {
			return unusual
		}
		kind := kindOf(name)
		switch kind {
		case fieldUnusual:
			return unusual
		case fieldConnection:
			if connections++; connections > 1 || !equalFold(value, "keep-alive") {
				return unusual
			}
		case fieldLength:
			n, ok := plainLength(value)
			if lengths++; lengths > 1 || !ok || n > copySize {
				return unusual
			}
			p.length = int(n)
			kind = fieldPassed
		case fieldCoding:
			if codings++; codings > 1 || !equalFold(value, "chunked") {
				return unusual
			}
			p.length = -1
			kind = fieldPassed
		case fieldDate:
			p.hasDate = true
			kind = fieldPassed
		case fieldHSTS:
			p.hasHSTS = true
			kind = fieldPassed
		case fieldType:
			if p.code != http.StatusNotModified { // net/http, like others, does not send it
				kind = fieldPassed
			}
		case fieldHost, fieldAuthorization:
			kind = fieldPassed
		}
		if kind == fieldPassed && !p.lines.add(i, i+size) {
			return unusual
		}
		i += size
	}
	if p.size+p.length > copySize-fastRoom {
		return unusual
	}
	switch p.code {
	case http.StatusNoContent, http.StatusNotModified: // have no body, whatever they say
		if lengths+codings > 0 {
			return unusual
		}
	default:
		if lengths+codings != 1 {
			return unusual
		}
	}
	return complete
}

// bodyOf reports whether the body, of which b is all that has come, is complete, and
// nothing but the body.
func (p *plainResponse) bodyOf(b []byte) completeness {
	if p.length < 0 {
		var state completeness
		state, p.content = chunksOf(b)
		return state
	}
	p.content = p.length
	switch {
	case len(b) < p.length:
		return partial
	case len(b) > p.length:
		return unusual
	}
	return complete
}

// chunksOf reports whether b is a complete body in chunks, and of how many bytes. Extensions
// and trailers are not plain.
func chunksOf(b []byte) (state completeness, content int) {
	for {
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			if len(b) > len("ffffffff\r") {
				return unusual, content
			}
			return partial, content
		}
		if end == 0 || b[end-1] != '\r' {
			return unusual, content
		}
		size, ok := plainNumber(b[:end-1], 16)
		if !ok || size > copySize {
			return unusual, content
		}
		b = b[end+1:]
		if int64(len(b)) < size+2 {
			return partial, content
		}
		if b[size] != '\r' || b[size+1] != '\n' {
			return unusual, content
		}
		content += int(size)
		if b = b[size+2:]; size == 0 {
			if len(b) > 0 {
				return unusual, content
			}
			return complete, content
		}
	}
}
