package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"

	"github.com/mholt/acmez/v3/acme"
)

// Why a certificate could not be had. They are a metric's label.
const (
	reasonUnreachable = "unreachable" // the directory does not answer
	reasonUntrusted   = "untrusted"   // the directory's own certificate is not trusted
	reasonLimited     = "limited"     // the directory's limits are reached
	reasonChallenge   = "challenge"   // the directory did not find us under the host
	reasonRefused     = "refused"     // the directory does not want to
	reasonStorage     = "storage"     // the folder cannot be used
	reasonOther       = "other"
)

var reasons = []string{reasonUnreachable, reasonUntrusted, reasonLimited, reasonChallenge, reasonRefused, reasonStorage, reasonOther}

// hints say what to do.
var hints = map[string]string{
	reasonUnreachable: "see that this machine can reach the directory (LETSENCRYPT_ISSUER)",
	reasonUntrusted:   "set ACME_CA to the authority that signed the directory's own certificate",
	reasonLimited:     "wait, or use LETSENCRYPT_ISSUER=staging to try things out",
	reasonChallenge:   "see that the host's DNS leads here, and that ports 80 or 443 of it arrive at PORT and HTTPS_PORT",
	reasonRefused:     "the error says what the directory does not accept",
	reasonStorage:     "see that LETSENCRYPT_DIR can be written to and has room",
	reasonOther:       "the error is all there is to tell",
}

// reasonOf tells failures apart.
func reasonOf(err error) string {
	var (
		problem   acme.Problem
		untrusted *tls.CertificateVerificationError
		unknown   x509.UnknownAuthorityError
		network   net.Error
		request   *url.Error
		path      *fs.PathError
		link      *os.LinkError
	)
	switch { // error numbers of the system, too, are errors of the network by their methods: these come late
	case errors.As(err, &problem):
		return reasonOfProblem(problem)
	case errors.As(err, &untrusted), errors.As(err, &unknown):
		return reasonUntrusted
	case errors.As(err, &path), errors.As(err, &link), strings.Contains(err.Error(), "failed storage check"):
		return reasonStorage
	case errors.As(err, &network), errors.As(err, &request), errors.Is(err, context.DeadlineExceeded):
		return reasonUnreachable
	}
	// Some errors come to us as text only.
	for _, number := range []syscall.Errno{syscall.ENOSPC, syscall.EROFS, syscall.EACCES} {
		if strings.Contains(err.Error(), number.Error()) {
			return reasonStorage
		}
	}
	return reasonOther
}

// reasonOfProblem tells apart what a directory says (RFC 8555 section 6.7).
func reasonOfProblem(p acme.Problem) string {
	switch p.Type {
	case acme.ProblemTypeRateLimited:
		return reasonLimited
	case acme.ProblemTypeConnection, acme.ProblemTypeDNS, acme.ProblemTypeIncorrectResponse, acme.ProblemTypeTLS:
		return reasonChallenge
	case acme.ProblemTypeServerInternal:
		return reasonUnreachable
	case acme.ProblemTypeCAA, acme.ProblemTypeRejectedIdentifier:
		return reasonRefused
	}
	if _, ok := p.Resource.(acme.Authorization); ok {
		return reasonChallenge
	}
	if p.Status >= 500 {
		return reasonUnreachable
	}
	return reasonRefused
}
