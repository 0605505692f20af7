package edge

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Calls of gRPC (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md) are requests
// like any other, but for their failures: clients look for grpc-status, and what an upstream
// answers late is no fault of its.

// Statuses of gRPC that stand for answers of ours.
const (
	grpcCancelled        = 1
	grpcUnknown          = 2
	grpcDeadlineExceeded = 4
	grpcPermissionDenied = 7
	grpcExhausted        = 8
	grpcUnimplemented    = 12
	grpcInternal         = 13
	grpcUnavailable      = 14
	grpcUnauthenticated  = 16
)

// grpcStatus returns the status that gRPC has for an HTTP status
// (https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md).
func grpcStatus(code int) int {
	switch code {
	case http.StatusBadRequest, http.StatusRequestHeaderFieldsTooLarge:
		return grpcInternal
	case http.StatusUnauthorized:
		return grpcUnauthenticated
	case http.StatusForbidden:
		return grpcPermissionDenied
	case http.StatusNotFound:
		return grpcUnimplemented
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return grpcUnavailable
	}
	return grpcUnknown
}

// grpcFailure returns the status of a call that failed with err, which a refusal with the
// HTTP status code stands for. A service whose call runs into its deadline just resets the
// stream, which the visitor must not take for anything else.
func (x *exchange) grpcFailure(code int, err error) int {
	var reset streamError
	switch broke := errors.As(err, &reset); {
	case err != nil && x.grpcTimeout() <= time.Since(x.start):
		return grpcDeadlineExceeded
	case broke && reset.Code == 0x7: // the codes of RFC 9113 section 7
		return grpcUnavailable
	case broke && reset.Code == 0x8:
		return grpcCancelled
	case broke && reset.Code == 0xb:
		return grpcExhausted
	case broke && reset.Code == 0xc:
		return grpcPermissionDenied
	case broke:
		return grpcInternal
	}
	return grpcStatus(code)
}

// grpcTimeout returns how long the call may take, for ever if it does not say.
func (x *exchange) grpcTimeout() time.Duration {
	text := x.r.Header.Get("Grpc-Timeout")
	if len(text) < 2 || len(text) > 9 {
		return math.MaxInt64
	}
	n, ok := plainNumber([]byte(text[:len(text)-1]), 10)
	unit := map[byte]time.Duration{
		'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond,
	}[text[len(text)-1]]
	if !ok || unit == 0 || n > int64(math.MaxInt64/unit) {
		return math.MaxInt64
	}
	return time.Duration(n) * unit
}

// isGRPC reports whether the fields are those of a gRPC message. What browsers send
// (application/grpc-web) is something else.
func isGRPC(h http.Header) bool {
	if len(h["Content-Type"]) != 1 {
		return false
	}
	rest, ok := strings.CutPrefix(strings.ToLower(h["Content-Type"][0]), "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// isGRPC reports whether the exchange is a call of gRPC, which exists with HTTP/2 only.
func (x *exchange) isGRPC() bool {
	return x.r.ProtoMajor == 2 && x.r.Method == http.MethodPost && isGRPC(x.r.Header)
}

// refuseGRPC sends an answer of our own to a call. The metrics have its HTTP status.
func (x *exchange) refuseGRPC(f refusal, err error) {
	h := x.w.Header()
	h["Content-Type"] = []string{"application/grpc"}
	h["Grpc-Status"] = []string{strconv.Itoa(x.grpcFailure(f.code, err))}
	h["Grpc-Message"] = []string{grpcMessage(f.text)}
	x.w.WriteHeader(http.StatusOK)
}

// endGRPC ends a call whose upstream broke off in the middle of the answer, with a status
// that says so: the reset of a stream would look like a fault of its own to the visitor. It
// reports whether it could.
func (x *exchange) endGRPC(resp *http.Response, err error) bool {
	if !x.isGRPC() || !isGRPC(resp.Header) || resp.ContentLength >= 0 || x.left() {
		return false
	}
	h := x.w.Header()
	h[http.TrailerPrefix+"Grpc-Status"] = []string{strconv.Itoa(x.grpcFailure(http.StatusBadGateway, err))}
	h[http.TrailerPrefix+"Grpc-Message"] = []string{grpcMessage(brokeOffLate)}
	return true
}

const brokeOffLate = "the upstream broke off in the middle of its answer"

// grpcMessage encodes a message as the protocol wants it.
func grpcMessage(text string) string {
	var b strings.Builder
	for _, c := range []byte(text) {
		if c < ' ' || c > '~' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
