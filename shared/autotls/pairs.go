package autotls

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

const encrypted = "is encrypted: decrypt it first, with: openssl pkey -in KEY -out PLAIN"

// publicKey is what all public keys of the standard library can do.
type publicKey interface{ Equal(crypto.PublicKey) bool }

// privateKey is a key of the operator's.
type privateKey struct {
	crypto.Signer
	used bool
}

// parsePairs puts certificates and keys together. A certificate that a key belongs to begins a chain, and those behind
// it are the rest of the chain. It returns all faults joined, none of which has anything of a key in it.
func parsePairs(certPEM, keyPEM []byte) ([]tls.Certificate, error) {
	certs, errs := parseCertificates(certPEM)
	keys, faults := parseKeys(keyPEM)
	if errs = append(errs, faults...); len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	var pairs []tls.Certificate
	for _, cert := range certs {
		key := keyOf(keys, cert)
		switch {
		case key != nil:
			key.used = true
			pairs = append(pairs, tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key.Signer, Leaf: cert})
		case len(pairs) == 0:
			return nil, fmt.Errorf("the first certificate (subject %q) does not match any of the keys: a server's own "+
				"certificate must be the first in its file, before those that lead to its CA", cert.Subject)
		default:
			chain := &pairs[len(pairs)-1]
			chain.Certificate = append(chain.Certificate, cert.Raw)
			if !cert.IsCA {
				errs = append(errs, fmt.Errorf("no key matches the certificate with the subject %q: add its key", cert.Subject))
			}
		}
	}
	for i, key := range keys {
		if !key.used {
			errs = append(errs, fmt.Errorf("key %d matches none of the certificates: add its certificate, or remove the key", i+1))
		}
	}
	return pairs, errors.Join(errs...)
}

// keyOf returns the key of the certificate, or nil.
func keyOf(keys []*privateKey, cert *x509.Certificate) *privateKey {
	for _, key := range keys {
		if public, ok := key.Public().(publicKey); ok && public.Equal(cert.PublicKey) {
			return key
		}
	}
	return nil
}

func parseCertificates(text []byte) (certs []*x509.Certificate, errs []error) {
	for block := range blocks(text) {
		if block.Type != "CERTIFICATE" {
			errs = append(errs, fmt.Errorf("there is a block of type %q among the certificates: only CERTIFICATE belongs there", block.Type))
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			errs = append(errs, fmt.Errorf("certificate %d cannot be read: %w", len(certs)+1, err))
			continue
		}
		certs = append(certs, cert)
	}
	if len(certs)+len(errs) == 0 {
		errs = append(errs, errors.New("there is no certificate in PEM form: it begins with -----BEGIN CERTIFICATE-----"))
	}
	return certs, errs
}

func parseKeys(text []byte) (keys []*privateKey, errs []error) {
	n := 0
	for block := range blocks(text) {
		if block.Type == "EC PARAMETERS" { // openssl ecparam writes them in front of the key
			continue
		}
		n++
		key, err := parseKey(block)
		if err != nil {
			errs = append(errs, fmt.Errorf("key %d %w", n, err))
			continue
		}
		keys = append(keys, &privateKey{Signer: key})
	}
	if n == 0 {
		err := errors.New("there is no private key in PEM form: it begins with -----BEGIN PRIVATE KEY-----")
		if strings.Contains(string(text), "ENCRYPTED") {
			err = errors.New("the private key " + encrypted)
		}
		errs = append(errs, err)
	}
	return keys, errs
}

// parseKey reads a key in one of the forms that are about. Errors of the parsers are left out: they may quote.
func parseKey(block *pem.Block) (crypto.Signer, error) {
	if strings.Contains(block.Type, "ENCRYPTED") || block.Headers["DEK-Info"] != "" {
		return nil, errors.New(encrypted)
	}
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("is a block of type %q: only PRIVATE KEY, EC PRIVATE KEY and RSA PRIVATE KEY belong among the keys", block.Type)
	}
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil, errors.New("cannot be read: it is damaged, or of a kind that TLS does not use")
	}
	return signer, nil
}

// blocks yields the PEM blocks of a text.
func blocks(text []byte) func(yield func(*pem.Block) bool) {
	return func(yield func(*pem.Block) bool) {
		for {
			block, rest := pem.Decode(text)
			if block == nil || !yield(block) {
				return
			}
			text = rest
		}
	}
}
