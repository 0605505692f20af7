package license

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// TestOtherLibraryVerifies has another implementation of JWT read what we issue.
func TestOtherLibraryVerifies(t *testing.T) {
	key := NewPrivateKey()
	l := License{Subject: "acme", Expires: now.Add(time.Hour), Hosts: []string{"a.test"}, Ports: []Ports{{22, 22}, {8000, 8999}}, MaxClients: 2}
	text, err := Issue(key, l)
	must(t, err)
	token, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.EdDSA})
	must(t, err)
	var standard jwt.Claims
	var ours struct {
		Hosts      []string `json:"hosts"`
		Ports      []any    `json:"ports"`
		MaxClients int      `json:"max_clients"`
	}
	must(t, token.Claims(key.public(), &standard, &ours))
	must(t, standard.Validate(jwt.Expected{Subject: "acme", Time: now}))
	if token.Headers[0].KeyID != key.ID() || !standard.Expiry.Time().Equal(l.Expires) {
		t.Errorf("got %+v %+v", token.Headers, standard)
	}
	if !reflect.DeepEqual(ours.Hosts, l.Hosts) || !reflect.DeepEqual(ours.Ports, []any{22.0, "8000-8999"}) || ours.MaxClients != 2 {
		t.Errorf("got %+v", ours)
	}
	if err := token.Claims(NewPrivateKey().public(), &standard); err == nil {
		t.Error("it verifies with another key, too")
	}
	thumbprint, err := (&jose.JSONWebKey{Key: key.public()}).Thumbprint(crypto.SHA256)
	must(t, err)
	if got := base64.RawURLEncoding.EncodeToString(thumbprint); got != key.ID() {
		t.Errorf("the thumbprint is %s, ours %s", got, key.ID())
	}
}

// TestOtherLibraryIssues takes what another implementation of JWT issues.
func TestOtherLibraryIssues(t *testing.T) {
	key := NewPrivateKey()
	claims := map[string]any{"sub": "acme", "exp": jwt.NewNumericDate(now.Add(time.Hour)), "hosts": []string{"a.test"}, "ports": []any{22, "8000-8999"}, "max_clients": 2}
	want := License{Subject: "acme", Expires: now.Add(time.Hour), Hosts: []string{"a.test"}, Ports: []Ports{{22, 22}, {8000, 8999}}, MaxClients: 2, KeyID: key.ID()}
	for name, options := range map[string]*jose.SignerOptions{
		"plain": {}, "with typ": (&jose.SignerOptions{}).WithType("JWT"), "with kid": (&jose.SignerOptions{}).WithHeader("kid", key.ID()),
	} {
		t.Run(name, func(t *testing.T) {
			signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: *key.key}, options)
			must(t, err)
			text, err := jwt.Signed(signer).Claims(claims).Serialize()
			must(t, err)
			got, err := keys(t, NewPrivateKey(), key).Verify(text, now)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	// One that brings its key along, which some libraries do unless told otherwise.
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: *key.key}, &jose.SignerOptions{EmbedJWK: true})
	must(t, err)
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	must(t, err)
	if _, err := keys(t, key).Verify(text, now); err == nil || !strings.Contains(err.Error(), "the parameter jwk") {
		t.Errorf("got %v", err)
	}
}

// TestOpenSSL signs and verifies with openssl alone, with our keys and with its own.
func TestOpenSSL(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is absent")
	}
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, content, 0o600))
		return path
	}
	openssl := func(args ...string) []byte {
		t.Helper()
		out, err := exec.Command("openssl", args...).Output()
		if err != nil {
			t.Fatalf("openssl %q: %v", args, err)
		}
		return out
	}

	key := NewPrivateKey()
	public, err := key.PublicPEM()
	must(t, err)
	text, err := Issue(key, License{Subject: "acme", Expires: now.Add(time.Hour)})
	must(t, err)
	cut := strings.LastIndexByte(text, '.')
	signature, err := base64.RawURLEncoding.DecodeString(text[cut+1:])
	must(t, err)
	openssl("pkeyutl", "-verify", "-pubin", "-inkey", file("public.pem", public), "-rawin", "-in", file("text", []byte(text[:cut])), "-sigfile", file("signature", signature))

	theirs := openssl("genpkey", "-algorithm", "ed25519")
	key, err = ParsePrivateKey(string(theirs))
	must(t, err)
	path := file("theirs.pem", theirs)
	k, err := ParseKeys(string(openssl("pkey", "-in", path, "-pubout")))
	must(t, err)
	claims, err := json.Marshal(map[string]any{"sub": "acme", "exp": now.Unix() + 60})
	must(t, err)
	text = segment(`{"typ":"JWT","alg":"EdDSA"}`) + "." + segment(string(claims))
	text += "." + base64.RawURLEncoding.EncodeToString(openssl("pkeyutl", "-sign", "-inkey", path, "-rawin", "-in", file("text", []byte(text))))
	if l, err := k.Verify(text, now); err != nil || l.Subject != "acme" || l.KeyID != key.ID() {
		t.Errorf("got %+v, %v", l, err)
	}
}
