package agent

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// ParseURL reads the URL of a server and brings it into the form that Config wants: ws
// or wss. Errors say what to write, and quote no part that may be a secret by mistake.
func ParseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" {
		return nil, errors.New("is no URL of a server: write wss://host:8123")
	}
	u.Host = strings.ToLower(u.Host)
	switch u.Scheme {
	case "http":
		u.Scheme = "ws"
	case "https":
		u.Scheme = "wss"
	case "ws", "wss":
	default:
		return nil, fmt.Errorf("%s://%s has a scheme that is not known: use wss:// (or ws:// together with AUTO_TLS=false)", u.Scheme, u.Host)
	}
	if u.User != nil {
		return nil, fmt.Errorf("%s has a user in it: the token goes into TOKEN", u.Host)
	}
	if u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return nil, fmt.Errorf("%s has a query or a fragment behind it: write wss://%[1]s", u.Host)
	}
	return u, nil
}
