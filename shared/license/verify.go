package license

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// algorithm is the only one that counts, whatever a licence says.
const algorithm = "EdDSA"

// Verify returns what a licence says if one of the keys has signed it and it is good at the
// time now. Every error is an [*Error].
func (k Keys) Verify(licence string, now time.Time) (License, error) {
	if err := checkForm(licence); err != nil {
		return License{}, err
	}
	var c claims
	var header map[string]any
	token, err := parser(now).ParseWithClaims(licence, &c, func(t *jwt.Token) (any, error) {
		header = t.Header
		if err := checkHeader(t.Header); err != nil {
			return nil, err
		}
		return k.candidates(t.Header)
	})
	if err == nil {
		err = checkNames(licence)
	}
	if err != nil {
		return License{}, explain(err, c.License, token, now)
	}
	l := c.License
	l.KeyID = k.signer(header, licence)
	if l.KeyID == "" { // the parser has found a key that fits
		return License{}, faultf("signature", "it was not signed by a key of this server")
	}
	return l, nil
}

// Read returns what a licence says without a look at its signature or at the time: for its
// holder, who has no key. Every error is an [*Error].
func Read(licence string) (License, error) {
	if err := checkForm(licence); err != nil {
		return License{}, err
	}
	var c claims
	token, _, err := parser(time.Now()).ParseUnverified(licence, &c)
	if err == nil {
		err = errors.Join(checkHeader(token.Header), checkNames(licence))
	}
	if err != nil {
		return License{}, explain(err, c.License, token, time.Now())
	}
	if c.Expires.IsZero() {
		return License{}, faultf("exp", "it does not say when it ends")
	}
	return c.License, nil
}

func parser(now time.Time) *jwt.Parser {
	return jwt.NewParser(jwt.WithValidMethods([]string{algorithm}), jwt.WithStrictDecoding(), jwt.WithLeeway(Leeway),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithTimeFunc(func() time.Time { return now }))
}

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."

// checkForm bounds the work for what is none, and keeps out line breaks, which decoders of
// base64 skip.
func checkForm(licence string) error {
	switch {
	case licence == "":
		return faultf("format", "there is none")
	case len(licence) > MaxSize:
		return faultf("format", "it has %d bytes, more than %d", len(licence), MaxSize)
	case strings.ContainsFunc(licence, func(r rune) bool { return !strings.ContainsRune(alphabet, r) }):
		return faultf("format", "it has characters that no JWT has: take the one line that license issue prints")
	case strings.Count(licence, ".") != 2:
		return faultf("format", "it is not three parts with dots between them, as a JWT is: take the whole line that license issue prints")
	}
	return nil
}

// checkNames refuses a header that has a name twice, of which readers take one or the other.
func checkNames(licence string) error {
	segment, _, _ := strings.Cut(licence, ".")
	header, err := parser(time.Time{}).DecodeSegment(segment)
	if err == nil {
		_, err = object(header)
	}
	if err != nil {
		return faultf("header", "%v", err)
	}
	return nil
}

func checkHeader(header map[string]any) error {
	if alg, _ := header["alg"].(string); alg != algorithm {
		return faultf("header", "its alg is %s: only %s counts", printable(fmt.Sprintf("%v", header["alg"]), 32), algorithm)
	}
	for name, value := range header {
		switch name {
		case "alg":
		case "typ":
			if typ, _ := value.(string); !strings.EqualFold(typ, "JWT") {
				return faultf("header", "its typ is not JWT: it is a token of another kind")
			}
		case "kid":
			if kid, _ := value.(string); kid == "" {
				return faultf("header", "its kid is not a text")
			}
		default:
			return faultf("header", "it has the parameter %s, which this version does not know: issue it with license issue", printable(name, 32))
		}
	}
	return nil
}

// candidates returns the keys that may have signed a licence with this header.
func (k Keys) candidates(header map[string]any) (any, error) {
	if kid, ok := header["kid"].(string); ok {
		key, ok := k.byID(kid)
		if !ok {
			return nil, faultf("signature", "it was signed with a key that this server does not have: add the public key to LICENSE_PUBLIC_KEY on the server, or ask for a licence of a key that it has")
		}
		return key, nil
	}
	if len(k.list) == 0 {
		return nil, faultf("signature", "there is no key to verify it with")
	}
	var set jwt.VerificationKeySet
	for _, key := range k.list {
		set.Keys = append(set.Keys, key.public)
	}
	return set, nil
}

// signer returns the id of the key that has signed a licence.
func (k Keys) signer(header map[string]any, licence string) string {
	if kid, ok := header["kid"].(string); ok {
		return kid // the only candidate
	}
	i := strings.LastIndexByte(licence, '.')
	signature, err := parser(time.Time{}).DecodeSegment(licence[i+1:])
	if err != nil {
		return ""
	}
	for _, key := range k.list {
		if ed25519.Verify(key.public, []byte(licence[:i]), signature) {
			return key.id
		}
	}
	return ""
}

// explain says what is wrong, and what to do about it.
func explain(err error, l License, token *jwt.Token, now time.Time) error {
	var fault *Error
	const newer = "ask for a new one, and put it into LICENSE or LICENSE_FILE on the client"
	switch {
	case errors.As(err, &fault):
		return fault
	case errors.Is(err, jwt.ErrTokenSignatureInvalid) && token != nil && checkHeader(token.Header) != nil:
		return checkHeader(token.Header)
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return faultf("signature", "its signature is wrong: it was changed, cut off, or signed by somebody else")
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return faultf("exp", "it does not say when it ends: issue it with --exp")
	case errors.Is(err, jwt.ErrTokenExpired):
		return faultf("exp", "the licence of %s expired at %s: %s", l.Subject, l.Expires.Format(time.RFC3339), newer)
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return faultf("nbf", "the licence of %s begins at %s, and it is %s here: wait, or set the clock", l.Subject, l.NotBefore.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return faultf("iat", "the licence of %s was issued at %s, and it is %s here: wait, or set the clock", l.Subject, l.IssuedAt.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case token != nil && token.Header != nil && checkHeader(token.Header) != nil: // an alg that jwt does not know
		return checkHeader(token.Header)
	}
	return faultf("format", "it is not a JWT, or damaged: take the whole line that license issue prints")
}
