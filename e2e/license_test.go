//go:build unix

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/license"
)

// vendor has a key that signs licences.
type vendor struct{ key string }

func newVendor(t testing.TB) *vendor {
	t.Helper()
	v := &vendor{key: filepath.Join(t.TempDir(), "vendor.key")}
	if r := command(t, "server", "license keygen "+v.key); r.code != 0 {
		t.Fatalf("got %+v", r)
	}
	return v
}

func (v *vendor) public() string { return v.key + ".pub" }

// issue returns what `server license issue` prints for the flags.
func (v *vendor) issue(t testing.TB, flags string) string {
	t.Helper()
	r := command(t, "server", "license issue "+flags, "LICENSE_PRIVATE_KEY_FILE="+v.key)
	if r.code != 0 || strings.Count(r.stdout, "\n") != 1 {
		t.Fatalf("got %+v", r)
	}
	return r.stdout
}

// TestLicensedCustomers is a vendor with two customers, from nothing to a tunnel for each.
func TestLicensedCustomers(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	s := startServer(t, "MODE=http,tcp", "LICENSE_PUBLIC_KEY_FILE="+v.public())
	acmeFile := write(t, "licence", v.issue(t, "--sub acme --exp 90d --hosts acme.test,*.acme.test --max-clients 1"))
	zenith := v.issue(t, "--sub zenith --exp 1y --hosts zenith.test --ports 20000-21999")
	acme := connect(t, s, "acme.test=http://"+says(t, "acme")+",a.acme.test=http://"+says(t, "a"), "LICENSE_FILE="+acmeFile)
	connect(t, s, "zenith.test=http://"+says(t, "zenith"), "LICENSE="+zenith)
	visit := func(host, want string) {
		t.Helper()
		code, body, err := get(s.url("/"), host)
		if err != nil || !strings.HasPrefix(fmt.Sprint(code, " ", body), want) {
			t.Errorf("%s: %d %s %v, want %s", host, code, body, err, want)
		}
	}
	visit("acme.test", "200 acme")
	visit("a.acme.test", "200 a")
	visit("zenith.test", "200 zenith")

	// What a licence does not cover is refused, with the claim that says so, in the logs of both.
	for _, c := range []struct{ upstreams, licence, reason string }{
		{"acme.test=http://127.0.0.1:1", zenith, "the licence of zenith does not cover the host acme.test"},
		{"http://127.0.0.1:1", zenith, "the licence of zenith does not cover every host (*)"},
		{"1234=127.0.0.1:1", zenith, "the licence of zenith does not cover port 1234"},
		{"20001=127.0.0.1:1", v.issue(t, "--sub other --exp 1d --hosts *"), "the licence of other does not cover port 20001"},
		{"acme.test=http://127.0.0.1:1", v.issue(t, "--sub acme --exp 1d --hosts acme.test --max-clients 1"), "for 1 clients at once (max_clients)"},
		{"acme.test=http://127.0.0.1:1", newVendor(t).issue(t, "--sub acme --exp 1d --hosts *"), "a key that this server does not have"},
		{"acme.test=http://127.0.0.1:1", "", "admits only clients with a licence"},
	} {
		thief := startClient(t, s, c.upstreams, "LICENSE="+c.licence)
		s.await("client refused", "code", "403", "reason", c.reason)
		thief.await("cannot connect", "level", "error", "error", "refused with 403: ", "error", c.reason)
		thief.stop()
	}
	visit("acme.test", "200 acme")

	// An edge device gets its next licence without a restart, and nobody notices.
	acme.await("the licence is good", "sub", "acme")
	must(t, os.WriteFile(acmeFile, []byte(v.issue(t, "--sub acme --exp 20d --hosts acme.test,*.acme.test --max-clients 1")), 0o600))
	acme.await("took up a changed licence")
	acme.await("the licence expires soon: ask for a new one and put it into LICENSE or LICENSE_FILE", "level", "warn")
	s.await("client took over from its older connection")
	visit("a.acme.test", "200 a")
	ends := time.Now().Add(20 * 24 * time.Hour)
	for name, addr := range map[string]string{"server": s.metrics, "client": acme.addr("metrics")} {
		eventually(t, func() error {
			got := metric(t, addr, "adit_license_expiry_timestamp_seconds")
			if d := got - float64(ends.Unix()); d < -600 || d > 600 {
				return fmt.Errorf("the metric of the %s is %v, want %v", name, got, ends.Unix())
			}
			return nil
		})
	}
	_, body, err := get("https://"+s.control+"/status", "", "Authorization", "Bearer "+s.token)
	must(t, err)
	var doc struct {
		Clients []struct {
			License struct {
				Sub     string
				KeyID   string
				Expires time.Time
			}
		}
	}
	must(t, json.Unmarshal([]byte(body), &doc))
	if len(doc.Clients) != 2 || doc.Clients[0].License.Sub == "" || doc.Clients[0].License.KeyID != doc.Clients[1].License.KeyID || doc.Clients[0].License.KeyID == "" {
		t.Errorf("got %s", body)
	}
	if r := command(t, "server", "status", s.here()...); !strings.Contains(r.stdout, "acme until "+ends.UTC().Format(time.DateOnly)) {
		t.Errorf("got %+v", r)
	}
}

// TestLicenseRunsOut has one end, in the minute that clocks may differ by, while its client is served.
func TestLicenseRunsOut(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	content, err := os.ReadFile(v.key)
	must(t, err)
	key, err := license.ParsePrivateKey(string(content))
	must(t, err)
	text, err := license.Issue(key, license.License{Subject: "acme", Expires: time.Now().Add(12*time.Second - license.Leeway)})
	must(t, err)
	s := startServer(t, "LICENSE_PUBLIC_KEY_FILE="+v.public())
	file := write(t, "licence", text)
	c := connect(t, s, "http://"+says(t, "hello"), "LICENSE_FILE="+file)
	c.await("the licence has expired: ask for a new one and put it into LICENSE or LICENSE_FILE", "level", "error")
	must(t, answers(s.url("/"), "hello"))
	s.await("client may not stay", "reason", "the licence of acme expired at")
	c.await("the server does not let this connection stay", "level", "warn", "reason", "the licence of acme expired at")
	s.await("client disconnected")
	s.await("client refused", "reason", "(exp)")
	c.await("cannot connect", "level", "error", "error", "(exp): the licence of acme expired at")
	must(t, os.WriteFile(file, []byte(v.issue(t, "--sub acme --exp 1d --hosts *")), 0o600))
	eventually(t, func() error { return answers(s.url("/"), "hello") })
}

// TestLicenseRevoked takes the key away that signed the licence of a client.
func TestLicenseRevoked(t *testing.T) {
	t.Parallel()
	old, next := newVendor(t), newVendor(t)
	public := func(list ...*vendor) string {
		var all strings.Builder
		for _, v := range list {
			content, err := os.ReadFile(v.public())
			must(t, err)
			all.Write(content)
		}
		return all.String()
	}
	keys := write(t, "keys", public(old, next))
	s := startServer(t, "LICENSE_PUBLIC_KEY_FILE="+keys)
	revoked := connect(t, s, "a.test=http://"+says(t, "a"), "LICENSE="+old.issue(t, "--sub a --exp 1y --hosts a.test"))
	stays := connect(t, s, "b.test=http://"+says(t, "b"), "LICENSE="+next.issue(t, "--sub b --exp 1y --hosts b.test"))
	must(t, os.WriteFile(keys, []byte(public(next)), 0o600))
	s.await("took up changed keys of licences")
	revoked.await("the server does not let this connection stay", "reason", "the key that signed the licence of a is no longer in LICENSE_PUBLIC_KEY")
	s.await("client disconnected", "client_id", revoked.await("connected").field("client_id"))
	if code, body, err := get(s.url("/"), "b.test"); err != nil || code != 200 || body != "b" {
		t.Errorf("got %d %s %v", code, body, err)
	}
	if code, body, err := get(s.url("/"), "a.test"); err != nil || code < 400 {
		t.Errorf("still served: %d %s %v", code, body, err)
	}
	stays.never("the server does not let this connection stay")
}
