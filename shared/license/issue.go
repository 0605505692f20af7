package license

import (
	"fmt"

	"github.com/golang-jwt/jwt/v5"
)

// Issue signs a licence, and returns it only if it is one that Verify takes while it lasts.
func Issue(key PrivateKey, l License) (string, error) {
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, &claims{l})
	token.Header["kid"] = key.ID()
	text, err := token.SignedString(*key.key)
	if err != nil {
		return "", fmt.Errorf("sign licence: %w", err)
	}
	if len(text) > MaxSize {
		return "", fmt.Errorf("the licence would have %d bytes, more than %d: name fewer hosts and ports, with patterns and ranges", len(text), MaxSize)
	}
	if _, err := Read(text); err != nil {
		return "", err
	}
	return text, nil
}
