package autotls

import (
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"strconv"
)

// Handler hands out the CA as the package comment specifies. It belongs to Path of the control plane and needs
// no authentication in front of it. It calls tokens for the tokens that are valid at the time of each request;
// those under 16 bytes count for nothing.
func (a *Authority) Handler(tokens func() []string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "the CA can only be read: use GET", http.StatusMethodNotAllowed)
			return
		}
		nonce, err := nonceOf(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		cert := a.certOfCA()
		if nonce != nil {
			token, ok := proven(tokens(), nonce, r.Header.Get(proofHeader))
			if !ok {
				if a.Refused != nil {
					a.Refused(r)
				}
				http.Error(w, "the proof belongs to none of the server's tokens", http.StatusForbidden)
				return
			}
			h.Set(hmacHeader, hex.EncodeToString(answerOf(token, nonce, cert.Raw)))
		}
		body := encode("CERTIFICATE", cert.Raw)
		h.Set("Content-Type", "application/x-pem-file")
		h.Set("Content-Length", strconv.Itoa(len(body)))
		h.Set("X-Content-Type-Options", "nosniff")
		w.Write(body)
	})
}

// Asks reports whether a request is one of Fetch, wherever it came from: nobody else sends its proof.
func Asks(r *http.Request) bool { return r.URL.Path == Path && len(r.Header[proofHeader]) > 0 }

// nonceOf returns the nonce of a request, nil if it has none.
func nonceOf(r *http.Request) ([]byte, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, errors.New("the query is malformed")
	}
	values, ok := query["nonce"]
	if !ok {
		return nil, nil
	}
	nonce, err := hex.DecodeString(values[0])
	if err != nil || len(nonce) != nonceSize || len(values) > 1 {
		return nil, errors.New("nonce must be given once, as 64 hexadecimal digits")
	}
	return nonce, nil
}
