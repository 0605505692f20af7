package license

import (
	"crypto"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func keys(t testing.TB, list ...PrivateKey) Keys {
	t.Helper()
	var lines []string
	for _, key := range list {
		lines = append(lines, key.Public())
	}
	k, err := ParseKeys(strings.Join(lines, "\n"))
	must(t, err)
	return k
}

// fuzzKey is the same in all processes of a fuzzer.
func fuzzKey() PrivateKey {
	key := ed25519.NewKeyFromSeed([]byte("a seed of exactly 32 bytes, yes!"))
	return PrivateKey{&key}
}

func segment(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// forge signs any header and claims.
func forge(key PrivateKey, header, claims string) string {
	text := segment(header) + "." + segment(claims)
	return text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(*key.key, []byte(text)))
}

const good = `{"sub":"acme","exp":1795600000}` // in November 2026, after now

func TestIssueAndVerify(t *testing.T) {
	key, other := NewPrivateKey(), NewPrivateKey()
	for _, c := range []struct {
		name string
		l    License
	}{
		{"least", License{Subject: "acme", Expires: now.Add(time.Hour)}},
		{"all", License{
			Subject: "acme, Inc.", Issuer: "us", ID: "42", Expires: now.AddDate(1, 0, 0), NotBefore: now, IssuedAt: now,
			Hosts: []string{"a.example.com", "*.example.org", "*", "10.0.0.1", "[::1]"}, Ports: []Ports{{22, 22}, {8000, 8999}}, MaxClients: 3,
		}},
		{"nothing allowed", License{Subject: "acme", Expires: now.Add(time.Hour), Hosts: []string{}, Ports: []Ports{}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			text, err := Issue(key, c.l)
			must(t, err)
			for _, k := range []Keys{keys(t, key), keys(t, other, key)} {
				got, err := k.Verify(text, now)
				must(t, err)
				want := c.l
				want.KeyID = key.ID()
				if !reflect.DeepEqual(got, want) {
					t.Errorf("got %+v, want %+v", got, want)
				}
			}
			got, err := Read(text)
			must(t, err)
			if !reflect.DeepEqual(got, c.l) {
				t.Errorf("read %+v, want %+v", got, c.l)
			}
		})
	}
}

// TestWithoutKeyID takes a licence from another issuer, whose tool writes no kid.
func TestWithoutKeyID(t *testing.T) {
	a, b := NewPrivateKey(), NewPrivateKey()
	for _, key := range []PrivateKey{a, b} {
		got, err := keys(t, a, b).Verify(forge(key, `{"alg":"EdDSA"}`, good), now)
		must(t, err)
		if got.KeyID != key.ID() || got.Subject != "acme" {
			t.Errorf("got %+v", got)
		}
	}
}

func TestRefused(t *testing.T) {
	key, other := NewPrivateKey(), NewPrivateKey()
	k := keys(t, key)
	const head = `{"alg":"EdDSA","typ":"JWT"}`
	valid := forge(key, head, good)
	_, err := k.Verify(valid, now)
	must(t, err)
	cut := strings.LastIndexByte(valid, '.')
	public := key.public()
	mac := func(secret []byte) string {
		text := segment(`{"alg":"HS256","typ":"JWT"}`) + "." + segment(good)
		h := hmac.New(sha256.New, secret)
		h.Write([]byte(text))
		return text + "." + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	must(t, err)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	rs := segment(`{"alg":"RS256","typ":"JWT"}`) + "." + segment(good)
	digest := sha256.Sum256([]byte(rs))
	rsSignature, err := rsa.SignPKCS1v15(rand.Reader, rsaKey, crypto.SHA256, digest[:])
	must(t, err)
	at := func(claim string, at time.Time) string {
		return forge(key, head, fmt.Sprintf(`{"sub":"acme","exp":1895600000,%q:%d}`, claim, at.Unix()))
	}
	expires := func(at time.Time) string {
		return forge(key, head, fmt.Sprintf(`{"sub":"acme","exp":%d}`, at.Unix()))
	}
	with := func(claims string) string { return forge(key, head, `{"sub":"acme","exp":1795600000,`+claims+`}`) }
	jwk := `"jwk":{"kty":"OKP","crv":"Ed25519","x":"` + base64.RawURLEncoding.EncodeToString(other.public()) + `"}`
	for _, c := range []struct{ name, text, claim, want string }{
		{"none", segment(`{"alg":"none"}`) + "." + segment(good) + ".", "header", "its alg is none"},
		{"none with a signature", segment(`{"alg":"none"}`) + "." + segment(good) + "." + valid[cut+1:], "header", "its alg is none"},
		{"None", segment(`{"alg":"nOnE"}`) + "." + segment(good) + ".", "header", "its alg is nOnE"},
		{"no alg", forge(key, `{"typ":"JWT"}`, good), "header", "only EdDSA counts"},
		{"alg is a list", forge(key, `{"alg":["EdDSA"]}`, good), "header", "only EdDSA counts"},
		{"alg in another case", forge(key, `{"alg":"eddsa"}`, good), "header", "its alg is eddsa"},
		{"HS256 with the public key", mac(public), "header", "its alg is HS256"},
		{"HS256 with the PEM", mac(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), "header", "its alg is HS256"},
		{"HS256 with the line", mac([]byte(key.Public())), "header", "its alg is HS256"},
		{"RS256", rs + "." + base64.RawURLEncoding.EncodeToString(rsSignature), "header", "its alg is RS256"},
		{"alg twice", forge(key, `{"alg":"none","alg":"EdDSA"}`, good), "header", "alg is there twice"},
		{"kid twice", forge(key, `{"kid":"x","alg":"EdDSA","kid":"`+key.ID()+`"}`, good), "header", "kid is there twice"},
		{"nested header", forge(key, `{"alg":{"alg":"EdDSA"}}`, good), "header", "only EdDSA counts"},
		{"something behind the header", forge(key, `{"alg":"EdDSA"}{}`, good), "", ""},
		{"another key", forge(other, head, good), "signature", "its signature is wrong"},
		{"another key by name", forge(other, `{"alg":"EdDSA","kid":"`+other.ID()+`"}`, good), "signature", "a key that this server does not have"},
		{"another key under our name", forge(other, `{"alg":"EdDSA","kid":"`+key.ID()+`"}`, good), "signature", "its signature is wrong"},
		{"empty kid", forge(key, `{"alg":"EdDSA","kid":""}`, good), "header", "its kid is not a text"},
		{"kid is a number", forge(key, `{"alg":"EdDSA","kid":1}`, good), "header", "its kid is not a text"},
		{"brings its key", forge(other, `{"alg":"EdDSA",`+jwk+`}`, good), "header", "the parameter jwk"},
		{"brings its key, ours", forge(key, `{"alg":"EdDSA",`+jwk+`}`, good), "header", "the parameter jwk"},
		{"jku", forge(key, `{"alg":"EdDSA","jku":"https://evil.test"}`, good), "header", "the parameter jku"},
		{"critical", forge(key, `{"alg":"EdDSA","crit":["exp"]}`, good), "header", "the parameter crit"},
		{"unencoded", forge(key, `{"alg":"EdDSA","b64":false}`, good), "header", "the parameter b64"},
		{"another kind", forge(key, `{"alg":"EdDSA","typ":"at+jwt"}`, good), "header", "its typ is not JWT"},
		{"changed", valid[:cut-4] + "AAAA" + valid[cut:], "", ""},
		{"changed claims", segment(head) + "." + segment(strings.Replace(good, "acme", "evil", 1)) + valid[cut:], "signature", "its signature is wrong"},
		{"cut off", valid[:len(valid)-10], "signature", "its signature is wrong"},
		{"without a signature", valid[:cut+1], "signature", "its signature is wrong"},
		{"two parts", valid[:cut], "format", "it is not three parts"},
		{"four parts", valid + ".AAAA", "format", "it is not three parts"},
		{"empty", "", "format", "there is none"},
		{"dots", "..", "format", "it is not a JWT"},
		{"oversized", valid + strings.Repeat("A", MaxSize), "format", "more than 4096"},
		{"line break", valid[:20] + "\n" + valid[20:], "format", "characters that no JWT has"},
		{"space", " " + valid, "format", "characters that no JWT has"},
		{"padding", valid + "==", "format", "characters that no JWT has"},
		{"two", valid + "," + valid, "format", "characters that no JWT has"},
		{"no object", forge(key, head, `[]`), "format", "not a JSON object"},
		{"null", forge(key, head, `null`), "exp", "does not say when it ends"},
		{"header null", forge(key, `null`, good), "format", ""},
		{"something behind", forge(key, head, good+`{}`), "format", ""},
		{"claim twice", with(`"sub":"evil"`), "format", "sub is there twice"},
		{"unknown claim", with(`"host":["a"]`), "unknown", `does not know the claim "host"`},
		{"claim in another case", with(`"Hosts":["a"]`), "unknown", `does not know the claim "Hosts"`},
		{"audience", with(`"aud":"somebody"`), "unknown", `does not know the claim "aud"`},
		{"nested hosts", with(`"hosts":[["a.test"]]`), "hosts", "not a text"},
		{"deeply nested", forge(key, head, `{"sub":"acme","exp":1795600000,"hosts":`+strings.Repeat("[", 1000)+strings.Repeat("]", 1000)+`}`), "hosts", "not a text"},
		{"nested and cut off", forge(key, head, `{"hosts":`+strings.Repeat(`{"hosts":`, 200)), "format", ""},
		{"nested claims", with(`"sub2":{"sub":"evil"}`), "unknown", "sub2"},
		{"claims in an escape", with(`"\u0073ub":"evil"`), "format", "sub is there twice"},
		{"no sub", forge(key, head, `{"exp":1795600000}`), "sub", "whom it is for"},
		{"empty sub", forge(key, head, `{"sub":"","exp":1795600000}`), "sub", "not a text"},
		{"unprintable sub", forge(key, head, `{"sub":"a\nb","exp":1795600000}`), "sub", "printable"},
		{"long sub", forge(key, head, `{"sub":"`+strings.Repeat("a", 129)+`","exp":1795600000}`), "sub", "1 to 128"},
		{"no exp", forge(key, head, `{"sub":"acme"}`), "exp", "does not say when it ends"},
		{"exp is a text", forge(key, head, `{"sub":"acme","exp":"1795600000"}`), "exp", "not a time"},
		{"exp is null", forge(key, head, `{"sub":"acme","exp":null}`), "exp", "not a time"},
		{"exp is far away", forge(key, head, `{"sub":"acme","exp":1e300}`), "exp", "not a time"},
		{"exp is negative", forge(key, head, `{"sub":"acme","exp":-1}`), "exp", "not a time"},
		{"expired", expires(now.Add(-Leeway - time.Second)), "exp", "the licence of acme expired at 2026-11-24T11:58:59Z: ask for a new one"},
		{"not yet", at("nbf", now.Add(Leeway+time.Second)), "nbf", "begins at 2026-11-24T12:01:01Z"},
		{"from the future", at("iat", now.Add(Leeway+time.Second)), "iat", "was issued at 2026-11-24T12:01:01Z"},
		{"hosts is a text", with(`"hosts":"*"`), "hosts", "not a list"},
		{"hosts is null", with(`"hosts":null`), "hosts", "not a list"},
		{"host with a star inside", with(`"hosts":["a.*.com"]`), "hosts", "is not a host"},
		{"host with a path", with(`"hosts":["example.com/api"]`), "hosts", "is not a host"},
		{"empty host", with(`"hosts":[""]`), "hosts", "not a text"},
		{"port 0", with(`"ports":[0]`), "ports", "neither a port"},
		{"port 65536", with(`"ports":[65536]`), "ports", "neither a port"},
		{"port as half", with(`"ports":[2.5]`), "ports", "neither a port"},
		{"range backwards", with(`"ports":["9-8"]`), "ports", "neither a port"},
		{"ports is null", with(`"ports":null`), "ports", "not a list"},
		{"no client", with(`"max_clients":0`), "max_clients", "whole number from 1"},
		{"clients is null", with(`"max_clients":null`), "max_clients", "whole number from 1"},
		{"clients overflow", with(`"max_clients":1e30`), "max_clients", "whole number from 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := k.Verify(c.text, now)
			var fault *Error
			if !errors.As(err, &fault) {
				t.Fatalf("got %+v, %v", l, err)
			}
			if c.claim != "" && fault.Claim != c.claim || !strings.Contains(fault.Reason, c.want) {
				t.Errorf("got %v, want %s %s", err, c.claim, c.want)
			}
			if !reflect.DeepEqual(l, License{}) {
				t.Errorf("%+v beside an error", l)
			}
			if len(c.text) > 40 && strings.Contains(err.Error(), c.text[len(c.text)-40:]) {
				t.Errorf("the licence is in the error: %v", err)
			}
		})
	}
	for _, c := range []struct{ name, text string }{
		{"expired within the leeway", expires(now.Add(-Leeway + time.Second))},
		{"begins within the leeway", at("nbf", now.Add(Leeway-time.Second))},
		{"issued within the leeway", at("iat", now.Add(Leeway-time.Second))},
		{"half a second", forge(key, head, `{"sub":"acme","exp":1795600000.5}`)},
		{"white space in the JSON", forge(key, " {\n\"alg\" :\t\"EdDSA\" }\r\n", " { \"sub\" : \"acme\" ,\n\"exp\":1795600000 } ")},
		{"small typ", forge(key, `{"alg":"EdDSA","typ":"jwt"}`, good)},
	} {
		if _, err := k.Verify(c.text, now); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := (Keys{}).Verify(valid, now); err == nil {
		t.Error("no key, and it is good")
	}
}

// TestReadIsNoVerification shows that a holder sees the claims of what nobody verifies.
func TestReadIsNoVerification(t *testing.T) {
	l, err := Read(forge(NewPrivateKey(), `{"alg":"EdDSA"}`, good))
	if err != nil || l.Subject != "acme" || l.KeyID != "" {
		t.Errorf("got %+v %v", l, err)
	}
	if _, err := Read(forge(NewPrivateKey(), `{"alg":"none"}`, good)); err == nil {
		t.Error("another alg is taken")
	}
}

func TestAllows(t *testing.T) {
	for _, c := range []struct {
		hosts, host string
		want        bool
	}{
		{"any", "*", true},
		{"any", "a.com", true},
		{"", "a.com", false},
		{"", "*", false},
		{"*", "*", true},
		{"*", "*.a.com", true},
		{"a.com", "a.com", true},
		{"a.com", "A.com.", true},
		{"a.com", "b.a.com", false},
		{"a.com", "*", false},
		{"a.com", "*.a.com", false},
		{"*.a.com", "a.com", false},
		{"*.a.com", ".a.com", false},
		{"*.a.com", "b.a.com", true},
		{"*.a.com", "c.b.a.com", true},
		{"*.a.com", "*.a.com", true},
		{"*.a.com", "*.b.a.com", true},
		{"*.a.com", "*.com", false},
		{"*.a.com", "*", false},
		{"*.a.com", "ba.com", false},
		{"*.b.a.com", "*.a.com", false},
		{"x.com,*.a.com", "b.a.com", true},
		{"10.0.0.1", "10.0.0.1", true},
	} {
		l := License{Hosts: []string{}}
		if c.hosts == "any" {
			l.Hosts = nil
		} else if c.hosts != "" {
			l.Hosts = strings.Split(c.hosts, ",")
		}
		if got := l.AllowsHost(c.host); got != c.want {
			t.Errorf("%q allows %s: %v", c.hosts, c.host, got)
		}
	}
	l := License{Ports: []Ports{{22, 22}, {8000, 8999}}}
	for port, want := range map[int]bool{22: true, 23: false, 7999: false, 8000: true, 8999: true, 9000: false} {
		if l.AllowsPort(port) != want {
			t.Errorf("port %d: %v", port, !want)
		}
	}
	if !(License{}).AllowsPort(1) || (License{Ports: []Ports{}}).AllowsPort(1) {
		t.Error("no list and an empty list are mixed up")
	}
}

func TestParseKeys(t *testing.T) {
	a, b := NewPrivateKey(), NewPrivateKey()
	der, err := x509.MarshalPKIXPublicKey(b.public())
	must(t, err)
	block := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	private, err := a.PEM()
	must(t, err)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	rsaDER, err := x509.MarshalPKIXPublicKey(&rsaKey.PublicKey)
	must(t, err)
	zeros := base64.StdEncoding.EncodeToString(make([]byte, 32))
	neutral := base64.StdEncoding.EncodeToString(append([]byte{1}, make([]byte, 31)...))
	for _, c := range []struct{ name, text, want string }{
		{"line", a.Public(), a.ID()},
		{"lines", "# old\n" + a.Public() + "\n\n# new\n" + b.Public() + "\n", a.ID() + " " + b.ID()},
		{"commas", a.Public() + ", " + b.Public(), a.ID() + " " + b.ID()},
		{"PEM", block, b.ID()},
		{"both", a.Public() + "\n" + block + a.Public(), a.ID() + " " + b.ID()},
	} {
		k, err := ParseKeys(c.text)
		if err != nil || strings.Join(k.IDs(), " ") != c.want {
			t.Errorf("%s: got %v %v", c.name, k.IDs(), err)
		}
	}
	for _, c := range []struct{ name, text, want string }{
		{"empty", " \n# nothing\n", "holds no public key"},
		{"private key", string(private), "holds a private key"},
		{"word", "secret", "key 1 is neither"},
		{"second", a.Public() + "\nsecret", "key 2 is neither"},
		{"short", a.Public()[:40], "key 1 is neither"},
		{"RSA", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: rsaDER})), "another kind than Ed25519"},
		{"certificate", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rsaDER})), "is a CERTIFICATE"},
		{"damaged", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der[:20]})), "is damaged"},
		{"zeros", zeros, "anybody can make"},
		{"neutral", neutral, "anybody can make"},
	} {
		k, err := ParseKeys(c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") || !k.IsZero() {
			t.Errorf("%s: got %v %v, want %s", c.name, k.IDs(), err, c.want)
		}
	}
	var many []string
	for range MaxKeys + 1 {
		many = append(many, NewPrivateKey().Public())
	}
	if _, err := ParseKeys(strings.Join(many, ",")); err == nil || !strings.Contains(err.Error(), "one too many") {
		t.Errorf("got %v", err)
	}
}

func TestPrivateKey(t *testing.T) {
	key := NewPrivateKey()
	text, err := key.PEM()
	must(t, err)
	again, err := ParsePrivateKey(string(text))
	if err != nil || again.ID() != key.ID() {
		t.Errorf("got %v %v", again, err)
	}
	for _, format := range []string{"%v", "%s", "%+v", "%x"} {
		if got := fmt.Sprintf(format, key); strings.Contains(got, fmt.Sprintf(format, []byte(*key.key))) {
			t.Errorf("%s prints the key", format)
		}
	}
	for _, bad := range []string{"", "x", strings.Replace(string(text), "PRIVATE", "PUBLIC", 2), "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n"} {
		if _, err := ParsePrivateKey(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// TestKeyID is the example of RFC 8037.
func TestKeyID(t *testing.T) {
	public, err := base64.RawURLEncoding.DecodeString("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
	must(t, err)
	if got := keyID(public); got != "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k" {
		t.Errorf("got %s", got)
	}
}

func TestIssueRefuses(t *testing.T) {
	key := NewPrivateKey()
	var hosts []string
	for i := range 250 {
		hosts = append(hosts, fmt.Sprintf("host-%d.of.a.customer.example.com", i))
	}
	for _, c := range []struct {
		l    License
		want string
	}{
		{License{Expires: now}, "sub"},
		{License{Subject: "a"}, "exp"},
		{License{Subject: "a", Expires: now, Hosts: hosts}, "more than 4096"},
		{License{Subject: "a", Expires: now, Hosts: []string{"a b"}}, "hosts"},
	} {
		if text, err := Issue(key, c.l); err == nil || !strings.Contains(err.Error(), c.want) || text != "" {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

// FuzzVerify never panics, and takes nothing but what the key has signed: the texts that it
// has are known.
func FuzzVerify(f *testing.F) {
	key := fuzzKey()
	k := keys(f, key)
	signed := map[string]bool{}
	for _, claims := range []string{good, `{"sub":"a","exp":1895600000,"hosts":["*.a.com"],"ports":[1,"2-3"],"max_clients":1}`} {
		for _, header := range []string{`{"alg":"EdDSA"}`, `{"alg":"EdDSA","typ":"JWT","kid":"` + key.ID() + `"}`} {
			text := forge(key, header, claims)
			signed[text] = true
			f.Add(text)
		}
	}
	for _, s := range []string{"", "..", "a.b.c", segment(`{"alg":"none"}`) + "." + segment(good) + ".", segment(`{"alg":"HS256"}`) + "." + segment(good) + ".AAAA"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := k.Verify(s, now)
		if err == nil && !signed[s] {
			t.Fatalf("took %q: %+v", s, l)
		}
		if err != nil {
			checkError(t, err)
		}
		_, _ = Read(s)
	})
}

func checkError(t testing.TB, err error) {
	var fault *Error
	if !errors.As(err, &fault) || fault.Claim == "" || len(err.Error()) > 1000 || strings.ContainsAny(err.Error(), "\r\n\x00") {
		t.Fatalf("got %q", err)
	}
}

// FuzzClaims signs whatever it gets as claims and header: what is taken has an end, and is
// safe to log, and means the same when it is issued again.
func FuzzClaims(f *testing.F) {
	key := fuzzKey()
	k := keys(f, key)
	f.Add(`{"alg":"EdDSA"}`, good)
	f.Add(`{"alg":"EdDSA","kid":"x"}`, `{"sub":"a","exp":1895600000.7,"hosts":[],"ports":[1,"2-3"],"max_clients":1,"iss":"i","jti":"j","nbf":1,"iat":1}`)
	f.Add(`{"alg":"none","crit":[]}`, `{"sub":"a","exp":1e300}`)
	f.Fuzz(func(t *testing.T, header, claims string) {
		l, err := k.Verify(forge(key, header, claims), now)
		if err != nil {
			checkError(t, err)
			return
		}
		var h map[string]any
		if json.Unmarshal([]byte(header), &h) != nil || h["alg"] != "EdDSA" || h["crit"] != nil {
			t.Fatalf("took the header %q", header)
		}
		if l.Ends().Before(now) || l.Subject == "" || printable(l.Subject, 1000) != l.Subject || l.MaxClients < 0 {
			t.Fatalf("took %q: %+v", claims, l)
		}
		text, err := Issue(key, l)
		if err != nil {
			if len(claims) > 1000 {
				return // kid makes it longer
			}
			t.Fatalf("%q: %v", claims, err)
		}
		again, err := k.Verify(text, now)
		if err != nil || !reflect.DeepEqual(again, l) {
			t.Fatalf("%q became %+v, %v, want %+v", claims, again, err, l)
		}
	})
}

// FuzzParseKeys takes anything for keys: it never panics, quotes nothing, and what it takes
// verifies what belongs to it.
func FuzzParseKeys(f *testing.F) {
	key := fuzzKey()
	private, err := key.PEM()
	must(f, err)
	public, err := key.PublicPEM()
	must(f, err)
	for _, s := range []string{key.Public(), "# old\n" + key.Public() + "," + key.Public(), string(public), string(private), string(public) + key.Public(), "-----BEGIN PUBLIC KEY-----\n", base64.StdEncoding.EncodeToString(make([]byte, 32))} {
		f.Add(s)
	}
	licence, err := Issue(key, License{Subject: "a", Expires: now.Add(time.Hour)})
	must(f, err)
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParseKeys(s)
		if _, parseErr := ParsePrivateKey(s); parseErr == nil && err == nil {
			t.Fatalf("%q is a private key and a public one", s)
		}
		if err != nil {
			if !k.IsZero() || len(err.Error()) > 300 || strings.ContainsAny(err.Error(), "\r\n\x00\x1b") {
				t.Fatalf("%q: %v %q", s, k.IDs(), err)
			}
			return
		}
		if n := len(k.IDs()); n == 0 || n > MaxKeys {
			t.Fatalf("%q: %d keys", s, n)
		}
		if _, err := k.Verify(licence, now); (err == nil) != k.Has(key.ID()) {
			t.Fatalf("%q: %v", s, err)
		}
	})
}
