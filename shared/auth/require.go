package auth

import (
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
)

// The reasons for which a request is refused: values of the reason field in logs and of the label of the counter
// that a caller of Require or Recorder keeps.
const (
	Missing   = "missing"   // no Authorization header
	Malformed = "malformed" // not one "Bearer TOKEN"
	Wrong     = "wrong"     // a token that is not valid
	Throttled = "throttled" // any of the above from an address that has failed too often
)

// Bearer returns the token of the request's Authorization header; ok is false unless there is exactly one such
// header and it consists of the scheme Bearer, in any case, and one token of visible ASCII characters, at most
// MaxToken of them.
func Bearer(r *http.Request) (token string, ok bool) {
	token, reason := bearer(r)
	return token, reason == ""
}

func bearer(r *http.Request) (token, reason string) {
	values := r.Header.Values("Authorization")
	if len(values) == 0 {
		return "", Missing
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	token = strings.Trim(token, " ")
	if len(values) > 1 || !strings.EqualFold(scheme, "Bearer") ||
		token == "" || len(token) > MaxToken || !visible(token) {
		return "", Malformed
	}
	return token, ""
}

// Recorder returns the function that accounts for a request whose authentication failed with one of the reasons
// above: it counts the failure against the request's address in throttle, hands the reason to count (which may
// be nil) and logs a warning with remote_addr, path and reason. When the address has failed too often already it
// does none of that except to count it as Throttled, and returns how long the address has to wait; otherwise it
// returns 0. The address is r.RemoteAddr.
func Recorder(throttle *Throttle, count func(reason string), log zerolog.Logger) func(r *http.Request, reason string) time.Duration {
	return func(r *http.Request, reason string) time.Duration {
		delay := throttle.Fail(remoteAddr(r))
		if delay > 0 {
			reason = Throttled
		} else {
			path := r.URL.Path
			log.Warn().Str("remote_addr", r.RemoteAddr).Str("path", path[:min(len(path), 128)]).
				Str("reason", reason).Msg("authentication failed")
		}
		if count != nil {
			count(reason)
		}
		return delay
	}
}

// Require lets only requests with a valid token through to next. Others are answered 401 with what to do as
// plain text, or 429 with Retry-After when their address has failed too often, and are recorded as Recorder
// says. A request with a valid token passes whatever its address has done before.
func Require(tokens *Tokens, throttle *Throttle, count func(reason string), log zerolog.Logger, next http.Handler) http.Handler {
	record := Recorder(throttle, count, log)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, reason := bearer(r)
		if reason == "" {
			if tokens.Valid(token) {
				next.ServeHTTP(w, r)
				return
			}
			reason = Wrong
		}
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		if delay := record(r, reason); delay > 0 {
			h.Set("Retry-After", strconv.Itoa(int(math.Ceil(delay.Seconds()))))
			http.Error(w, "too many failed authentications from this address, wait before the next; in this one "+advice[reason],
				http.StatusTooManyRequests)
			return
		}
		h.Set("WWW-Authenticate", `Bearer realm="adit"`)
		http.Error(w, advice[reason], http.StatusUnauthorized)
	})
}

var advice = map[string]string{
	Missing:   "a token is needed: send the header \"Authorization: Bearer TOKEN\" with the TOKEN of the server",
	Malformed: "the Authorization header is not understood: send exactly one, \"Authorization: Bearer TOKEN\"",
	Wrong:     "the token is not one of the server's: compare TOKEN here with TOKEN of the server",
}

// remoteAddr returns the address the request came from, the zero Addr if that is not known.
func remoteAddr(r *http.Request) netip.Addr {
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		return ap.Addr()
	}
	addr, _ := netip.ParseAddr(r.RemoteAddr)
	return addr
}
