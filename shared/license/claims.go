package license

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
)

// claims is a License on its way from and to JSON. It implements jwt.Claims.
type claims struct{ License }

// latest is a time that every part of a program can still count with.
const latest = 253402300799 // the end of the year 9999

// UnmarshalJSON reads the claims of a licence and refuses what it does not know.
func (c *claims) UnmarshalJSON(data []byte) error {
	fields, err := object(data)
	if err != nil {
		return faultf("format", "its claims are not a JSON object: %v", err)
	}
	*c = claims{}
	for _, f := range fields {
		var err error
		switch f.name {
		case "sub":
			c.Subject, err = text(f.value, maxSubject)
		case "iss":
			c.Issuer, err = text(f.value, maxSubject)
		case "jti":
			c.ID, err = text(f.value, maxSubject)
		case "exp":
			c.Expires, err = date(f.value)
		case "nbf":
			c.NotBefore, err = date(f.value)
		case "iat":
			c.IssuedAt, err = date(f.value)
		case "hosts":
			c.Hosts, err = list(f.value, maxHosts, host)
		case "ports":
			c.Ports, err = list(f.value, maxPorts, ports)
		case "max_clients":
			c.MaxClients, err = number(f.value, 1, maxMaximum)
		default:
			return faultf("unknown", "this version does not know the claim %q, which may be a restriction: update adit, or issue the licence without it", printable(f.name, 32))
		}
		if err != nil {
			return faultf(f.name, "%v", err)
		}
	}
	if c.Subject == "" {
		return faultf("sub", "it does not say whom it is for: issue it with --sub")
	}
	return nil
}

// MarshalJSON writes what UnmarshalJSON reads.
func (c claims) MarshalJSON() ([]byte, error) {
	seconds := func(t time.Time) *int64 {
		if t.IsZero() {
			return nil
		}
		s := t.Unix()
		return &s
	}
	var portList any
	if c.Ports != nil {
		items := []any{}
		for _, p := range c.Ports {
			if p.First == p.Last {
				items = append(items, p.First)
			} else {
				items = append(items, p.String())
			}
		}
		portList = items
	}
	var hosts any
	if c.Hosts != nil {
		hosts = c.Hosts
	}
	return json.Marshal(struct {
		Issuer     string `json:"iss,omitempty"`
		ID         string `json:"jti,omitempty"`
		Subject    string `json:"sub"`
		Issued     *int64 `json:"iat,omitempty"`
		NotBefore  *int64 `json:"nbf,omitempty"`
		Expires    *int64 `json:"exp"`
		Hosts      any    `json:"hosts,omitempty"`
		Ports      any    `json:"ports,omitempty"`
		MaxClients int    `json:"max_clients,omitempty"`
	}{c.Issuer, c.ID, c.Subject, seconds(c.IssuedAt), seconds(c.NotBefore), seconds(c.Expires), hosts, portList, c.MaxClients})
}

type field struct {
	name  string
	value json.RawMessage
}

// object takes a JSON object apart, with its names as they are written: encoding/json takes
// Hosts for hosts, and of two values for one name the last.
func object(data []byte) ([]field, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if start, err := dec.Token(); err != nil || start != json.Delim('{') {
		return nil, errors.New("it does not begin with {")
	}
	var fields []field
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, errors.New("it is damaged")
		}
		f := field{name: fmt.Sprint(name)} // always a string there
		if slices.ContainsFunc(fields, func(other field) bool { return other.name == f.name }) {
			return nil, fmt.Errorf("%s is there twice", printable(f.name, 32))
		}
		if err := dec.Decode(&f.value); err != nil {
			return nil, errors.New("it is damaged")
		}
		fields = append(fields, f)
	}
	if _, err := dec.Token(); err != nil {
		return nil, errors.New("it does not end with }")
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("there is something behind it")
	}
	return fields, nil
}

func text(value json.RawMessage, most int) (string, error) {
	var s *string
	if json.Unmarshal(value, &s) != nil || s == nil || *s == "" {
		return "", errors.New("it is not a text")
	}
	if len(*s) > most || printable(*s, most) != *s || strings.TrimSpace(*s) != *s {
		return "", fmt.Errorf("it is not 1 to %d printable characters, without space around them", most)
	}
	return *s, nil
}

// date reads a NumericDate; a fraction of a second does not count.
func date(value json.RawMessage) (time.Time, error) {
	var seconds *float64
	if json.Unmarshal(value, &seconds) != nil || seconds == nil || !(*seconds >= 1 && *seconds <= latest) {
		return time.Time{}, errors.New("it is not a time in seconds since 1970")
	}
	return time.Unix(int64(math.Floor(*seconds)), 0).UTC(), nil
}

func number(value json.RawMessage, least, most int) (int, error) {
	var n *int
	if json.Unmarshal(value, &n) != nil || n == nil || *n < least || *n > most {
		return 0, fmt.Errorf("it is not a whole number from %d to %d", least, most)
	}
	return *n, nil
}

// list never returns nil for a list, which would mean that there is none.
func list[T any](value json.RawMessage, most int, item func(json.RawMessage) (T, error)) ([]T, error) {
	var items []json.RawMessage
	if json.Unmarshal(value, &items) != nil || items == nil {
		return nil, errors.New("it is not a list")
	}
	if len(items) > most {
		return nil, fmt.Errorf("it has %d items, more than %d", len(items), most)
	}
	out := make([]T, len(items))
	for i, raw := range items {
		var err error
		if out[i], err = item(raw); err != nil {
			return nil, err
		}
	}
	return out, nil
}

var hostName = regexp.MustCompile(`^(\*|(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*|\[?[0-9a-f:.]*:[0-9a-f:.]*\]?)$`)

func host(value json.RawMessage) (string, error) {
	s, err := text(value, 255)
	if err != nil {
		return "", err
	}
	return ParseHost(s)
}

// ParseHost reads a pattern of hosts and returns it in small letters.
func ParseHost(s string) (string, error) {
	if s = strings.ToLower(s); !hostName.MatchString(s) || len(s) > 253 {
		return "", fmt.Errorf("%q is not a host: write example.com, *.example.com, or * for all", printable(s, 64))
	}
	return s, nil
}

func ports(value json.RawMessage) (Ports, error) {
	if n, err := number(value, 1, 65535); err == nil {
		return Ports{n, n}, nil
	}
	s, err := text(value, 32)
	if err != nil {
		return Ports{}, fmt.Errorf("%s is neither a port nor a range of them, such as 2222 or \"8000-8999\"", printable(string(value), 32))
	}
	return ParsePorts(s)
}

// ParsePorts reads a port or a range: "2222", "8000-8999".
func ParsePorts(s string) (Ports, error) {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	a, b := port(first), port(last)
	if a == 0 || b == 0 || a > b {
		return Ports{}, fmt.Errorf("%q is neither a port nor a range of them, such as 2222 or 8000-8999", printable(s, 32))
	}
	return Ports{a, b}, nil
}

// port returns 0 for what is no port in its usual form.
func port(s string) int {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0
	}
	return int(n)
}

// printable makes a text fit for a log line and an HTTP answer.
func printable(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// What follows is what jwt's validator asks for.

func (c *claims) GetExpirationTime() (*jwt.NumericDate, error) { return numeric(c.Expires), nil }
func (c *claims) GetNotBefore() (*jwt.NumericDate, error)      { return numeric(c.NotBefore), nil }
func (c *claims) GetIssuedAt() (*jwt.NumericDate, error)       { return numeric(c.IssuedAt), nil }
func (c *claims) GetIssuer() (string, error)                   { return c.Issuer, nil }
func (c *claims) GetSubject() (string, error)                  { return c.Subject, nil }
func (c *claims) GetAudience() (jwt.ClaimStrings, error)       { return nil, nil }

func numeric(t time.Time) *jwt.NumericDate {
	if t.IsZero() {
		return nil
	}
	return jwt.NewNumericDate(t)
}
