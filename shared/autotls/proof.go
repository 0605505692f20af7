package autotls

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

const (
	// Path is where the server hands out its CA, below the path of its URL.
	Path = "/.well-known/ca.crt"

	proofHeader = "Adit-Ca-Proof"
	hmacHeader  = "Adit-Ca-Hmac"

	proofText  = "adit ca proof v1\n"
	answerText = "adit ca v1\n"

	nonceSize = 32
	// minToken is the least length of a token: an empty or a guessable one proves nothing.
	minToken = 16
	// maxAnswer bounds what a client reads from a server that it has no reason to trust.
	maxAnswer = 64 << 10
)

func sign(token, text string, parts ...[]byte) []byte {
	mac := hmac.New(sha256.New, []byte(token))
	mac.Write([]byte(text))
	for _, p := range parts {
		mac.Write(p)
	}
	return mac.Sum(nil)
}

func proofOf(token string, nonce []byte) []byte       { return sign(token, proofText, nonce) }
func answerOf(token string, nonce, der []byte) []byte { return sign(token, answerText, nonce, der) }

// proven returns which of the tokens the proof, in hexadecimal, belongs to. All are tried, whichever matches.
func proven(tokens []string, nonce []byte, proof string) (string, bool) {
	got, err := hex.DecodeString(proof)
	if err != nil || len(got) != sha256.Size {
		return "", false
	}
	match := ""
	for _, token := range tokens {
		if len(token) >= minToken && hmac.Equal(got, proofOf(token, nonce)) {
			match = token
		}
	}
	return match, match != ""
}

// readAnswer returns the CA certificate of an answer: its body and all its Adit-Ca-Hmac lines. The bytes may
// come from anybody, so the certificate is not parsed before the HMAC is found to be right.
func readAnswer(token string, nonce []byte, macs []string, body []byte) (*x509.Certificate, error) {
	if len(macs) != 1 {
		return nil, fmt.Errorf("%w: the answer has no HMAC: is this the URL of a server's control plane?", ErrUntrusted)
	}
	got, err := hex.DecodeString(macs[0])
	if err != nil {
		return nil, fmt.Errorf("%w: the HMAC is not hexadecimal", ErrUntrusted)
	}
	block, rest := pem.Decode(body)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%w: the answer is not one certificate", ErrUntrusted)
	}
	if !hmac.Equal(got, answerOf(token, nonce, block.Bytes)) {
		return nil, fmt.Errorf("%w: the HMAC is wrong: the server has another TOKEN, or someone is in the middle", ErrUntrusted)
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse the CA: %w", err)
	}
	if err := checkCA(ca); err != nil {
		return nil, err
	}
	return ca, nil
}

func checkCA(cert *x509.Certificate) error {
	if !cert.BasicConstraintsValid || !cert.IsCA || cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return errors.New("the certificate is not that of a CA")
	}
	return nil
}
