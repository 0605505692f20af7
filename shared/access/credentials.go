package access

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/adit-tunnel/adit/shared/auth"
)

const (
	// MaxUsers is how many pairs of user and password there may be in one policy.
	MaxUsers = 64
	// maxUser bounds user:password in bytes.
	maxUser = 1024
	// maxAuthorization bounds an Authorization header that is looked at, in bytes.
	maxAuthorization = 8 << 10

	saltSize = 16
)

type digest [sha256.Size]byte

// Credentials are what admits a visitor: one of any number of pairs of user and password,
// or one of any number of tokens. The zero value asks for none.
type Credentials struct {
	salt          []byte
	users, tokens []digest
}

// NewCredentials returns those of pairs, as ParseUsers returns them, and tokens, as
// auth.ParseTokens does, under a salt that nobody else has.
func NewCredentials(users, tokens []string) Credentials {
	if len(users) == 0 && len(tokens) == 0 {
		return Credentials{}
	}
	c := Credentials{salt: make([]byte, saltSize)}
	_, _ = rand.Read(c.salt) // never fails
	for _, u := range users {
		c.users = append(c.users, c.digest('u', []byte(u)))
	}
	for _, t := range tokens {
		c.tokens = append(c.tokens, c.digest('t', []byte(t)))
	}
	return c
}

// IsZero reports whether nobody is asked for credentials.
func (c *Credentials) IsZero() bool { return len(c.users) == 0 && len(c.tokens) == 0 }

// digest is SHA-256 of the salt, the kind ('u' or 't') and the credential.
func (c *Credentials) digest(kind byte, credential []byte) digest {
	var room [512]byte
	b := append(room[:0], c.salt...)
	b = append(b, kind)
	return sha256.Sum256(append(b, credential...))
}

// holds reports whether the credential is one of ours.
func (c *Credentials) holds(kind byte, credential []byte) bool {
	list := c.users
	if kind == 't' {
		list = c.tokens
	}
	got, found := c.digest(kind, credential), 0
	for i := range list {
		found |= subtle.ConstantTimeCompare(got[:], list[i][:])
	}
	return found == 1
}

// parseAuthorization takes apart what is to be exactly one Authorization line: 'u' and
// user:password, or 't' and a token; or it returns the reason why not.
func parseAuthorization(lines []string) (kind byte, credential []byte, reason string) {
	if len(lines) == 0 {
		return 0, nil, Missing
	}
	if len(lines) > 1 || len(lines[0]) > maxAuthorization {
		return 0, nil, Malformed
	}
	scheme, value, _ := strings.Cut(lines[0], " ")
	value = strings.Trim(value, " ")
	if value == "" {
		return 0, nil, Malformed
	}
	switch {
	case strings.EqualFold(scheme, "Basic"):
		pair, err := base64.StdEncoding.Strict().DecodeString(value)
		if err != nil || bytes.IndexByte(pair, ':') < 0 || strings.ContainsAny(value, "\r\n") {
			return 0, nil, Malformed
		}
		return 'u', pair, ""
	case strings.EqualFold(scheme, "Bearer"):
		for i := range len(value) {
			if value[i] <= ' ' || value[i] > '~' {
				return 0, nil, Malformed
			}
		}
		return 't', []byte(value), ""
	}
	return 0, nil, Malformed
}

// ParseUsers reads pairs of the form user:password, one per line. Blank lines and lines that
// begin with # are dropped. A password may hold everything that a line may, colons and
// commas too. Errors give the number of a bad pair, never the pair; all of them are joined.
func ParseUsers(s string) ([]string, error) {
	var (
		users []string
		errs  []error
		n     int
	)
	for line := range strings.Lines(s) {
		line = strings.TrimRight(line, "\r\n")
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if n++; n > MaxUsers {
			return nil, fmt.Errorf("holds more than %d users", MaxUsers)
		}
		if err := checkUser(line); err != nil {
			if strings.Count(strings.TrimSpace(s), "\n") > 0 {
				err = fmt.Errorf("user %d %w", n, err)
			}
			errs = append(errs, err)
			continue
		}
		if !slices.Contains(users, line) {
			users = append(users, line)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if len(users) == 0 {
		return nil, errors.New("holds no user: write user:password, one per line (lines that begin with # are comments)")
	}
	return users, nil
}

// hashes are how the passwords in a file of htpasswd begin.
var hashes = []string{"$2y$", "$2a$", "$2b$", "$apr1$", "$1$", "$5$", "$6$", "{SHA}"}

func checkUser(pair string) error {
	user, password, ok := strings.Cut(pair, ":")
	switch {
	case !ok || strings.TrimSpace(user) == "" || strings.TrimSpace(password) == "":
		return errors.New("is not of the form user:password, neither of them blank")
	case len(pair) > maxUser:
		return fmt.Errorf("has %d bytes, more than %d", len(pair), maxUser)
	case !utf8.ValidString(pair) || strings.ContainsFunc(pair, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return errors.New("has a control character, or is not UTF-8")
	}
	for _, hash := range hashes {
		if strings.HasPrefix(password, hash) {
			return errors.New("has a hash, as htpasswd makes them, in place of the password: write the password itself")
		}
	}
	return nil
}

// ParseTokens reads tokens as auth.ParseTokens does.
func ParseTokens(s string) ([]string, error) { return auth.ParseTokens(s) }
