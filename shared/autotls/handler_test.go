package autotls

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// The bytes of version 1, computed the way the package comment says it, by hand.
func byHand(token string, parts ...string) string {
	mac := hmac.New(sha256.New, []byte(token))
	mac.Write([]byte(strings.Join(parts, "")))
	return hex.EncodeToString(mac.Sum(nil))
}

func TestHandler(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "")
	refused := 0
	a.Refused = func(*http.Request) { refused++ }
	handler := a.Handler(func() []string { return []string{tokenA, tokenB, "", "short"} })
	block, _ := pem.Decode(a.CertificatePEM())
	der := string(block.Bytes)
	nonce := strings.Repeat("\x07", 31) + "\xff"
	n := hex.EncodeToString([]byte(nonce))
	proof := func(token string) string { return byHand(token, "adit ca proof v1\n", nonce) }

	tests := []struct {
		name    string
		method  string
		query   string
		proof   string
		code    int
		hmac    string
		refused bool
	}{
		{name: "bare", code: 200},
		{name: "other parameters", query: "?v=2&x", code: 200},
		{name: "head", method: http.MethodHead, code: 200},
		{name: "first token", query: "?nonce=" + n, proof: proof(tokenA), code: 200, hmac: byHand(tokenA, "adit ca v1\n", nonce, der)},
		{name: "second token", query: "?nonce=" + n, proof: proof(tokenB), code: 200, hmac: byHand(tokenB, "adit ca v1\n", nonce, der)},
		{name: "upper case", query: "?nonce=" + strings.ToUpper(n), proof: strings.ToUpper(proof(tokenA)), code: 200, hmac: byHand(tokenA, "adit ca v1\n", nonce, der)},
		{name: "no proof", query: "?nonce=" + n, code: 403, refused: true},
		{name: "unknown token", query: "?nonce=" + n, proof: proof("a-token-nobody-has"), code: 403, refused: true},
		{name: "empty token", query: "?nonce=" + n, proof: proof(""), code: 403, refused: true},
		{name: "short token", query: "?nonce=" + n, proof: proof("short"), code: 403, refused: true},
		{name: "the answer as a proof", query: "?nonce=" + n, proof: byHand(tokenA, "adit ca v1\n", nonce), code: 403, refused: true},
		{name: "half a proof", query: "?nonce=" + n, proof: proof(tokenA)[:32], code: 403, refused: true},
		{name: "proof is not hexadecimal", query: "?nonce=" + n, proof: strings.Repeat("z", 64), code: 403, refused: true},
		{name: "empty nonce", query: "?nonce=", proof: proof(tokenA), code: 400},
		{name: "short nonce", query: "?nonce=" + n[2:], proof: proof(tokenA), code: 400},
		{name: "long nonce", query: "?nonce=" + n + "00", proof: proof(tokenA), code: 400},
		{name: "nonce is not hexadecimal", query: "?nonce=" + strings.Repeat("z", 64), proof: proof(tokenA), code: 400},
		{name: "two nonces", query: "?nonce=" + n + "&nonce=" + n, proof: proof(tokenA), code: 400},
		{name: "malformed query", query: "?nonce=%zz", proof: proof(tokenA), code: 400},
		{name: "post", method: http.MethodPost, code: 405},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			refused = 0
			method := tt.method
			if method == "" {
				method = http.MethodGet
			}
			r := httptest.NewRequest(method, Path, nil)
			r.URL.RawQuery = strings.TrimPrefix(tt.query, "?")
			if tt.proof != "" {
				r.Header.Set("Adit-Ca-Proof", tt.proof)
			}
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			if w.Code != tt.code || w.Header().Get("Adit-Ca-Hmac") != tt.hmac {
				t.Fatalf("%d with HMAC %q, want %d with %q", w.Code, w.Header().Get("Adit-Ca-Hmac"), tt.code, tt.hmac)
			}
			if isPEM := bytes.Equal(w.Body.Bytes(), a.CertificatePEM()); isPEM != (tt.code == 200) {
				t.Errorf("body %q", w.Body.String())
			}
			if got := w.Header().Get("Content-Type"); tt.code == 200 && got != "application/x-pem-file" {
				t.Errorf("content type %q", got)
			}
			if (refused == 1) != tt.refused {
				t.Errorf("reported as refused %d times", refused)
			}
		})
	}
}

func TestHandlerFollowsTokens(t *testing.T) {
	t.Parallel()
	tokens := []string{tokenA}
	a := newAuthority(t, "")
	handler := a.Handler(func() []string { return tokens })
	nonce := make([]byte, nonceSize)
	get := func(token string) int {
		r := httptest.NewRequest(http.MethodGet, Path+"?nonce="+hex.EncodeToString(nonce), nil)
		r.Header.Set(proofHeader, hex.EncodeToString(proofOf(token, nonce)))
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w.Code
	}
	if a, b := get(tokenA), get(tokenB); a != 200 || b != 403 {
		t.Fatalf("before: %d, %d", a, b)
	}
	tokens = []string{tokenB}
	if a, b := get(tokenA), get(tokenB); a != 403 || b != 200 {
		t.Fatalf("after: %d, %d", a, b)
	}
}

// What a client reads from a server that it does not know yet. With signed, the bytes come from one that knows
// the token, which shows what is behind the HMAC to the fuzzer.
func FuzzReadAnswer(f *testing.F) {
	a, err := New("", nil)
	if err != nil {
		f.Fatal(err)
	}
	nonce := bytes.Repeat([]byte{7}, nonceSize)
	der := a.certOfCA().Raw
	good := hex.EncodeToString(answerOf(tokenA, nonce, der))
	leaf, err := a.certificate(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, a.CertificatePEM(), false)
	f.Add("", a.CertificatePEM(), true)
	f.Add("", encode("CERTIFICATE", leaf.Certificate[0]), true)
	f.Add("zz", []byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----"), true)
	f.Add("00", append(a.CertificatePEM(), a.CertificatePEM()...), true)
	f.Add("", []byte(nil), true)
	f.Fuzz(func(t *testing.T, mac string, body []byte, signed bool) {
		block, _ := pem.Decode(body)
		if signed && block != nil {
			mac = hex.EncodeToString(answerOf(tokenA, nonce, block.Bytes))
		}
		cert, err := readAnswer(tokenA, nonce, []string{mac}, body)
		if err != nil {
			if cert != nil {
				t.Fatal("a certificate beside an error")
			}
			if strings.Contains(err.Error(), tokenA) {
				t.Fatalf("the token is in the error %q", err)
			}
			return
		}
		if !strings.EqualFold(mac, byHand(tokenA, "adit ca v1\n", string(nonce), string(cert.Raw))) || !cert.IsCA {
			t.Fatalf("accepted %q", body)
		}
		if _, err := readAnswer(tokenB, nonce, []string{mac}, body); err == nil {
			t.Fatal("accepted with another token")
		}
		nonce2 := bytes.Repeat([]byte{8}, nonceSize)
		if _, err := readAnswer(tokenA, nonce2, []string{mac}, body); err == nil {
			t.Fatal("accepted with another nonce")
		}
	})
}

// What a server reads from a client that it does not know.
func FuzzHandler(f *testing.F) {
	a, err := New("", nil)
	if err != nil {
		f.Fatal(err)
	}
	handler := a.Handler(func() []string { return []string{tokenA} })
	n := strings.Repeat("07", nonceSize)
	f.Add("nonce="+n, byHand(tokenA, "adit ca proof v1\n", strings.Repeat("\x07", nonceSize)))
	f.Add("nonce="+n+"&nonce="+n, "")
	f.Add("", "zz")
	f.Add("%zz", "")
	f.Fuzz(func(t *testing.T, query, proof string) {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, &http.Request{
			Method: http.MethodGet,
			URL:    &url.URL{Path: Path, RawQuery: query},
			Header: http.Header{proofHeader: {proof}},
		})
		if w.Code != 200 && w.Code != 400 && w.Code != 403 {
			t.Fatalf("status %d", w.Code)
		}
		if w.Header().Get(hmacHeader) == "" {
			return
		}
		values, err := url.ParseQuery(query)
		if err != nil || len(values["nonce"]) != 1 {
			t.Fatalf("an HMAC for the query %q", query)
		}
		nonce, _ := hex.DecodeString(values.Get("nonce"))
		if len(nonce) != nonceSize || !strings.EqualFold(proof, byHand(tokenA, "adit ca proof v1\n", string(nonce))) {
			t.Fatalf("an HMAC for the query %q with the proof %q", query, proof)
		}
	})
}
