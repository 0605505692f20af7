package license

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// MaxKeys is how many public keys may be valid at once.
const MaxKeys = 16

// Keys are public keys whose licences count. The zero value admits nobody; it is never
// changed, so any goroutine may use it.
type Keys struct{ list []publicKey }

type publicKey struct {
	id     string
	public ed25519.PublicKey
}

// ParseKeys reads one or several public keys: each in PEM form ("PUBLIC KEY"), or as the
// line that license keygen prints, 32 bytes in base64; those are separated by commas or line
// breaks. Lines that begin with # are comments.
func ParseKeys(s string) (Keys, error) {
	var k Keys
	if strings.Contains(s, "PRIVATE KEY-----") {
		return k, errors.New("holds a private key, which belongs to whoever issues licences and never on a server: set it to the public key")
	}
	rest := []byte(s)
	for {
		block, after := pem.Decode(rest)
		if block == nil {
			break
		}
		i := bytes.Index(rest, []byte("-----BEGIN"))
		if err := k.addLines(string(rest[:max(i, 0)])); err != nil {
			return Keys{}, err
		}
		if err := k.addPEM(block); err != nil {
			return Keys{}, err
		}
		rest = after
	}
	if err := k.addLines(string(rest)); err != nil {
		return Keys{}, err
	}
	if len(k.list) == 0 {
		return Keys{}, errors.New("holds no public key: make one with: server license keygen")
	}
	return k, nil
}

func (k *Keys) addPEM(block *pem.Block) error {
	n := len(k.list) + 1
	if block.Type != "PUBLIC KEY" {
		return fmt.Errorf("key %d is a %s: a PEM block PUBLIC KEY with an Ed25519 key is needed", n, printable(block.Type, 32))
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return fmt.Errorf("key %d is damaged: copy it again", n)
	}
	public, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return fmt.Errorf("key %d is of another kind than Ed25519: make one with: server license keygen", n)
	}
	return k.add(public)
}

func (k *Keys) addLines(s string) error {
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "#") {
			continue
		}
		for item := range strings.SplitSeq(line, ",") {
			if item = strings.TrimSpace(item); item == "" {
				continue
			}
			raw, err := base64.StdEncoding.Strict().DecodeString(item)
			if err != nil || len(raw) != ed25519.PublicKeySize {
				return fmt.Errorf("key %d is neither a PEM block PUBLIC KEY nor 32 bytes in base64: make one with: server license keygen", len(k.list)+1)
			}
			if err := k.add(raw); err != nil {
				return err
			}
		}
	}
	return nil
}

func (k *Keys) add(public ed25519.PublicKey) error {
	n := len(k.list) + 1
	switch {
	case n > MaxKeys:
		return fmt.Errorf("key %d is one too many: at most %d may be valid at once", n, MaxKeys)
	case weak(public):
		return fmt.Errorf("key %d is one whose signatures anybody can make: make one with: server license keygen", n)
	}
	id := keyID(public)
	if !k.Has(id) {
		k.list = append(k.list, publicKey{id, public})
	}
	return nil
}

// weak reports whether a key is a point of small order, such as 32 zeros: with the
// probability of at least 1/8 it verifies one and the same signature of any text.
func weak(public ed25519.PublicKey) bool {
	signature := make([]byte, ed25519.SignatureSize)
	signature[0] = 1 // R is the neutral element, S is 0
	for i := range 128 {
		if ed25519.Verify(public, []byte{byte(i)}, signature) {
			return true
		}
	}
	return false
}

// IsZero reports whether there is no key.
func (k Keys) IsZero() bool { return len(k.list) == 0 }

// Has reports whether the key with this id is one of them.
func (k Keys) Has(id string) bool {
	_, ok := k.byID(id)
	return ok
}

// IDs returns the thumbprints of the keys.
func (k Keys) IDs() []string {
	var ids []string
	for _, key := range k.list {
		ids = append(ids, key.id)
	}
	return ids
}

func (k Keys) byID(id string) (ed25519.PublicKey, bool) {
	i := slices.IndexFunc(k.list, func(key publicKey) bool { return key.id == id })
	if i < 0 {
		return nil, false
	}
	return k.list[i].public, true
}

// keyID is the thumbprint of a key by RFC 7638 and RFC 8037.
func keyID(public ed25519.PublicKey) string {
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + base64.RawURLEncoding.EncodeToString(public) + `"}`))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// PrivateKey signs licences. It prints as nothing.
type PrivateKey struct{ key *ed25519.PrivateKey }

// NewPrivateKey makes a key.
func NewPrivateKey() PrivateKey {
	_, key, _ := ed25519.GenerateKey(rand.Reader) // never fails
	return PrivateKey{&key}
}

// ParsePrivateKey reads a key in PEM form (PKCS #8, "PRIVATE KEY"). Errors never quote it.
func ParsePrivateKey(s string) (PrivateKey, error) {
	block, _ := pem.Decode([]byte(s))
	if block == nil || block.Type != "PRIVATE KEY" {
		return PrivateKey{}, errors.New("holds no PEM block PRIVATE KEY: make one with: server license keygen")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return PrivateKey{}, errors.New("holds a private key that is damaged: copy it again")
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return PrivateKey{}, errors.New("holds a private key of another kind than Ed25519: make one with: server license keygen")
	}
	return PrivateKey{&key}, nil
}

// PEM returns the key as ParsePrivateKey takes it.
func (p PrivateKey) PEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(*p.key)
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// PublicPEM returns the public key as a PEM block, which LICENSE_PUBLIC_KEY takes as well.
func (p PrivateKey) PublicPEM() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(p.public())
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// Public returns the line for LICENSE_PUBLIC_KEY.
func (p PrivateKey) Public() string { return base64.StdEncoding.EncodeToString(p.public()) }

// ID returns the thumbprint of the public key.
func (p PrivateKey) ID() string { return keyID(p.public()) }

func (p PrivateKey) public() ed25519.PublicKey { return p.key.Public().(ed25519.PublicKey) }

// String implements fmt.Stringer.
func (PrivateKey) String() string { return "[private key]" }
