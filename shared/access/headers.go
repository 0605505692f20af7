package access

import (
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"strings"

	"golang.org/x/net/http/httpguts"
)

const (
	maxRules = 64
	maxValue = 4 << 10
)

// Rules is the value of REQUEST_HEADERS and RESPONSE_HEADERS: changes of a head, separated
// by commas or new lines, and made in their order.
//
//	X-Env: prod        set: in place of all fields of that name
//	+X-Env: prod       add: beside those that there are
//	-X-Env             remove
//
// A comma or a backslash within a value has a backslash before it. The zero Rules change
// nothing.
type Rules struct {
	text string
	// What all rules together come to: fields that go, and fields that come.
	drop map[string]bool
	add  []Field
}

// Field is one line of a head.
type Field struct{ Name, Value string }

// IsZero reports whether the rules change nothing.
func (r *Rules) IsZero() bool { return r.text == "" }

// String returns the rules in their canonical form, which Decode takes back.
func (r *Rules) String() string { return r.text }

// Drops reports whether fields of the name, which is canonical, are to go. Upstreams that
// turn names into variables (CGI, WSGI) take X_Env for X-Env, so that spelling counts too.
func (r *Rules) Drops(name string) bool {
	if r.drop == nil {
		return false
	}
	return r.drop[name] || strings.IndexByte(name, '_') >= 0 && r.drop[dashed(name)]
}

// Fields returns the fields that are to come, whose names are canonical. The slice is the
// rules'.
func (r *Rules) Fields() []Field { return r.add }

// Apply changes a head that is about to be written. What is removed stays as a key without
// values: the HTTP server then writes none of its own.
func (r *Rules) Apply(h http.Header) {
	if r.IsZero() {
		return
	}
	for name := range h {
		if r.Drops(name) {
			delete(h, name)
		}
	}
	for name := range r.drop {
		h[name] = nil
	}
	for _, f := range r.add {
		h[f.Name] = append(h[f.Name][:len(h[f.Name]):len(h[f.Name])], f.Value)
	}
}

// Decode implements envconfig.Decoder. It reports every fault. The word off is no rule, for
// one of several where all others have some.
func (r *Rules) Decode(value string) error {
	if value == "off" {
		*r = Rules{}
		return nil
	}
	var (
		errs  []error
		lines []string
		out   Rules
	)
	for _, item := range splitRules(value) {
		if strings.TrimSpace(item) == "" {
			continue
		}
		op, f, err := parseRule(strings.TrimSpace(item))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if len(lines) == maxRules {
			return fmt.Errorf("holds more than %d rules", maxRules)
		}
		out.take(op, f)
		lines = append(lines, ruleText(op, f))
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if len(lines) == 0 {
		return errors.New("holds no rule: write Name: value to set a field, +Name: value to add one, or -Name to remove one")
	}
	out.text = strings.Join(lines, ",")
	*r = out
	return nil
}

// take adds a rule to what the ones before come to.
func (r *Rules) take(op byte, f Field) {
	if r.drop == nil {
		r.drop = map[string]bool{}
	}
	if op != '+' {
		r.drop[f.Name] = true
		kept := r.add[:0]
		for _, other := range r.add {
			if other.Name != f.Name {
				kept = append(kept, other)
			}
		}
		r.add = kept
	}
	if op != '-' {
		r.add = append(r.add, f)
	}
}

// splitRules takes a list apart at new lines and at commas without a backslash, and takes the
// backslashes off.
func splitRules(s string) []string {
	var (
		items []string
		item  strings.Builder
	)
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s) && (s[i+1] == ',' || s[i+1] == '\\'):
			i++
			item.WriteByte(s[i])
		case c == ',' || c == '\n':
			items = append(items, item.String())
			item.Reset()
		default:
			item.WriteByte(c)
		}
	}
	return append(items, item.String())
}

var escape = strings.NewReplacer(`\`, `\\`, `,`, `\,`)

func ruleText(op byte, f Field) string {
	switch op {
	case '-':
		return "-" + f.Name
	case '+':
		return "+" + f.Name + ": " + escape.Replace(f.Value)
	}
	return f.Name + ": " + escape.Replace(f.Value)
}

// parseRule reads one rule. op is '=', '+' or '-'.
func parseRule(text string) (op byte, f Field, err error) {
	op, rest := '=', text
	if text[0] == '+' || text[0] == '-' {
		op, rest = text[0], text[1:]
	}
	name, value, hasValue := strings.Cut(rest, ":")
	name, value = strings.TrimSpace(name), strings.Trim(value, " \t\r")
	switch {
	case op == '-' && hasValue:
		return 0, f, fmt.Errorf("%q removes a field and has a value: write -%s", clip(text), clip(name))
	case op != '-' && !hasValue:
		return 0, f, fmt.Errorf("%q is no rule: write Name: value to set a field, +Name: value to add one, or -Name to remove one; a comma within a value is written \\,", clip(text))
	case !httpguts.ValidHeaderFieldName(name):
		return 0, f, fmt.Errorf("%q is no name of a field, in %q", clip(name), clip(text))
	case len(value) > maxValue:
		return 0, f, fmt.Errorf("the value of %s has %d bytes, more than %d", clip(name), len(value), maxValue)
	case !httpguts.ValidHeaderFieldValue(value):
		return 0, f, fmt.Errorf("the value of %s has a control character", clip(name))
	}
	name = textproto.CanonicalMIMEHeaderKey(name)
	if reason := protected(op, name); reason != "" {
		return 0, f, fmt.Errorf("%s cannot be changed: %s", clip(name), reason)
	}
	return op, Field{name, value}, nil
}

// reasons are why some fields are not for rules.
var reasons = map[string]string{
	"Host":          "it says where the request goes; write ?host=name behind the upstream to send another",
	"Authorization": "a credential does not belong into a setting that is printed; only -Authorization, which removes it, is allowed",

	"Content-Length": framing, "Transfer-Encoding": framing, "Trailer": framing, "Te": framing, "Expect": framing,
	"Connection": hop, "Proxy-Connection": hop, "Keep-Alive": hop, "Upgrade": hop, "Http2-Settings": hop,
	"Proxy-Authenticate": hop, "Proxy-Authorization": hop,
	"Forwarded": who, "X-Real-Ip": who,
	"Fly-Client-Ip": who, "Cf-Connecting-Ip": who, "Cf-Connecting-Ipv6": who, "Cf-Pseudo-Ipv4": who, "Cloudfront-Viewer-Address": who,
	"True-Client-Ip": who, "Client-Ip": who, "X-Client-Ip": who, "X-Cluster-Client-Ip": who, "Fastly-Client-Ip": who, "X-Remote-Ip": who,
	"X-Remote-Addr": who, "X-Originating-Ip": who, "X-Original-Forwarded-For": who, "X-Envoy-External-Address": who,
	"X-Azure-Clientip": who, "X-Azure-Socketip": who, "X-Appengine-User-Ip": who, "X-Appengine-Remote-Addr": who,
	"Proxy-Client-Ip": who, "Wl-Proxy-Client-Ip": who,
	"Www-Authenticate": "what visitors are asked for is said by BASIC_AUTH and BEARER_TOKEN",
}

const (
	framing = "it says where a message ends"
	hop     = "it is about one connection only"
	who     = "it says who the visitor is, which upstreams rely on"
)

// protected returns why a field is not for rules, "" if it is.
func protected(op byte, name string) string {
	name = dashed(name)
	if op == '-' && (name == "Authorization" || name == "Www-Authenticate") {
		return ""
	}
	switch {
	case strings.HasPrefix(name, "X-Forwarded-"):
		return who
	case strings.HasPrefix(name, "Sec-Websocket-"):
		return "it belongs to the handshake of a websocket"
	case strings.HasPrefix(name, "Adit-"):
		return "it is adit's own"
	}
	return reasons[name]
}

// dashed returns the name with dashes in place of underscores, canonical.
func dashed(name string) string {
	if strings.IndexByte(name, '_') < 0 {
		return name
	}
	return textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(name, "_", "-"))
}

// clip shortens text for an error.
func clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "…"
	}
	return s
}
