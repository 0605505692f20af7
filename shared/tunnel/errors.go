package tunnel

import (
	"errors"
	"fmt"
)

// Code says why a stream was reset or a session ended. The numbers are part of the
// wire format; a receiver treats one that it does not know as CodeInternal.
type Code uint32

const (
	CodeNone        Code = 0  // GOAWAY: a planned leave
	CodeCancelled   Code = 1  // whoever wanted the stream is gone
	CodeRefused     Code = 2  // the upstream refused the connection
	CodeTimeout     Code = 3  // the upstream did not answer the connection in time
	CodeUnreachable Code = 4  // the upstream could not be reached or found
	CodeBroken      Code = 5  // the connection behind the stream broke off
	CodeOverload    Code = 6  // a limit was reached
	CodeProtocol    Code = 7  // the peer broke the protocol
	CodeNoUpstream  Code = 8  // the client has no such upstream
	CodeTLS         Code = 9  // the upstream's certificate was not accepted
	CodeInternal    Code = 10 // a fault of the sender
	CodeDead        Code = 11 // the peer was silent for too long
	CodeDenied      Code = 12 // GOAWAY: the licence or the token of the session is no longer good; RESET: the server does not allow the forward
)

var codeNames = [...]string{"none", "cancelled", "refused", "timeout", "unreachable", "broken", "overload",
	"protocol", "no_upstream", "tls", "internal", "dead", "denied"}

// codeOf reads a code from the wire.
func codeOf(v uint32) Code {
	if v >= uint32(len(codeNames)) {
		return CodeInternal
	}
	return Code(v)
}

// String returns a short word, fit for a metric's label.
func (c Code) String() string {
	if c < Code(len(codeNames)) {
		return codeNames[c]
	}
	return "internal"
}

// ResetError is what Read and Write return on a stream that was reset.
type ResetError struct {
	Code   Code
	Reason string
	Remote bool // the peer sent the reset
}

func (e *ResetError) Error() string {
	who := "here"
	if e.Remote {
		who = "by the peer"
	}
	if e.Reason == "" {
		return fmt.Sprintf("stream reset %s: %s", who, e.Code)
	}
	return fmt.Sprintf("stream reset %s: %s: %s", who, e.Code, e.Reason)
}

// SessionError is why a session ended when it was not closed in good order.
type SessionError struct {
	Code   Code
	Reason string
	Err    error // the cause, if there is one
}

func (e *SessionError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("session ended: %s: %v", e.Reason, e.Err)
	}
	return "session ended: " + e.Reason
}

func (e *SessionError) Unwrap() error { return e.Err }

func protocolErrorf(format string, args ...any) error {
	return &SessionError{Code: CodeProtocol, Reason: "protocol error: " + fmt.Sprintf(format, args...)}
}

// Errors that callers branch on.
var (
	// ErrClosed is returned by every use of a session that was closed in good order.
	ErrClosed = errors.New("session closed")
	// ErrGoingAway is returned by Open after the peer has sent GOAWAY.
	ErrGoingAway = errors.New("session is going away")
	// ErrTooManyStreams is returned by Open when the session's limit is reached.
	ErrTooManyStreams = errors.New("too many streams on the session")
)
