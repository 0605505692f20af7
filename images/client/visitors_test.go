package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/shared/access"
	"github.com/adit-tunnel/adit/shared/config"
)

const bearer = "0123456789abcdef-of-a-visitor"

// who returns what a visitor gets from the policy that a server reads for an upstream.
func who(t testing.TB, doc []byte, upstreams, i int, addr, authorization string) string {
	t.Helper()
	policies, err := access.Decode(doc, upstreams)
	must(t, err)
	var lines []string
	if authorization != "" {
		lines = []string{authorization}
	}
	v := policies[i].Check(netip.MustParseAddr(addr), lines)
	if v.Admits() {
		return "in"
	}
	return v.Reason
}

func basic(pair string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(pair))
}

// TestPolicies has settings for all upstreams and for some of them.
func TestPolicies(t *testing.T) {
	token2 := "Bearer " + bearer + "-2"
	cfg := load(t, "URL=ws://a", "UPSTREAMS=a.test=http://a,b.test=http://b?allow=192.0.2.0/24&allow=2001:db8::/32,c.test=http://c?pass_auth=true,22=app:22,23=app:23?allow=::1,d.test=http://d",
		"BASIC_AUTH=ann:one\nbob:two", "BASIC_AUTH_4=off", "BASIC_AUTH_5=off", "BEARER_TOKEN_3="+bearer+"-2", "BASIC_AUTH_6=off", "ALLOW_IPS=10.0.0.0/8",
		"ALLOW_IPS_6=0.0.0.0/0,::/0", "REQUEST_HEADERS=X-Env: prod", "REQUEST_HEADERS_2=off", "RESPONSE_HEADERS_3=-Server")
	doc, err := newVisitors(cfg).document(cfg)
	must(t, err)
	for _, c := range []struct {
		upstream            int
		addr, authorization string
		want                string
	}{
		{1, "10.0.0.1", basic("ann:one"), "in"},
		{1, "10.0.0.1", basic("bob:two"), "in"},
		{1, "10.0.0.1", "", access.Missing},
		{1, "10.0.0.1", token2, access.Wrong},
		{1, "192.0.2.1", basic("ann:one"), access.Address},
		{2, "192.0.2.1", basic("ann:one"), "in"},
		{2, "2001:db8::1", basic("ann:one"), "in"},
		{2, "10.0.0.1", basic("ann:one"), access.Address},
		{3, "10.0.0.1", basic("ann:one"), "in"},
		{3, "10.0.0.1", token2, "in"},
		{4, "10.0.0.1", "", "in"},
		{4, "11.0.0.1", "", access.Address},
		{5, "::1", "", "in"},
		{5, "10.0.0.1", "", access.Address},
		{6, "192.0.2.1", "", "in"},
	} {
		if got := who(t, doc, 6, c.upstream-1, c.addr, c.authorization); got != c.want {
			t.Errorf("%+v: got %s", c, got)
		}
	}
	policies, err := access.Decode(doc, 6)
	must(t, err)
	for i, want := range []struct {
		request, response string
		pass              bool
	}{{"X-Env: prod", "", false}, {"", "", false}, {"X-Env: prod", "-Server", true}, {}, {}, {"X-Env: prod", "", false}} {
		if p := policies[i]; p.Request.String() != want.request || p.Response.String() != want.response || p.Pass != want.pass {
			t.Errorf("upstream %d: %q %q %v", i+1, p.Request.String(), p.Response.String(), p.Pass)
		}
	}
	if strings.Contains(string(doc), "one") || strings.Contains(string(doc), bearer) {
		t.Errorf("a credential is in %s", doc)
	}
	// Nothing is declared when there is nothing to declare: an old server will do.
	cfg = load(t, "URL=ws://a")
	if doc, err := newVisitors(cfg).document(cfg); doc != nil || err != nil {
		t.Errorf("got %s %v", doc, err)
	}
	// A thousand upstreams with one policy fit into a Hello.
	many := make([]string, 1000)
	for i := range many {
		many[i] = fmt.Sprintf("h%d.test=http://a", i)
	}
	load(t, "URL=ws://a", "UPSTREAMS="+strings.Join(many, ","), "BASIC_AUTH=ann:one", "ALLOW_IPS=10.0.0.0/8")
}

func TestVisitorsFaults(t *testing.T) {
	for _, c := range []struct {
		name      string
		variables []string
		faults    []string // how each begins
	}{
		{"no user", []string{"BASIC_AUTH=verysecret"}, []string{"BASIC_AUTH: is not of the form user:password"}},
		{"several", []string{"BASIC_AUTH=verysecret\na:b\n:verysecret"}, []string{"BASIC_AUTH: user 1 is not of the form", "BASIC_AUTH: user 3 is not"}},
		{"short token", []string{"BEARER_TOKEN=verysecret"}, []string{"BEARER_TOKEN: token 1 has 10 bytes, fewer than 16"}},
		{"all off", []string{"BASIC_AUTH=off"}, []string{"BASIC_AUTH: is not of the form"}},
		{"one's", []string{"BASIC_AUTH_1=verysecret", "BEARER_TOKEN_1=verysecret"}, []string{"BASIC_AUTH_1: is not of", "BEARER_TOKEN_1: token 1 has"}},
		{"blank", []string{"BASIC_AUTH_1= "}, []string{"BASIC_AUTH_1: is blank"}},
		{"no upstream", []string{"BASIC_AUTH_2=a:b", "ALLOW_IPS_3=::1"}, []string{"BASIC_AUTH_2: there is no upstream 2: the last of UPSTREAMS is number 1", "ALLOW_IPS_3: there is no upstream 3"}},
		{"number 0", []string{"BASIC_AUTH_0=a:b"}, []string{"BASIC_AUTH_0: is no variable of this program"}},
		{"misspelt", []string{"BASIC_AUTH_1_FILES=/x", "REQUEST_HEADERS_ALL=A: b"}, []string{"BASIC_AUTH_1_FILES: is no variable", "REQUEST_HEADERS_ALL: is no variable"}},
		{"no file", []string{"BASIC_AUTH_1_FILE=/nope"}, []string{"BASIC_AUTH_1_FILE: open /nope"}},
		{"said twice", []string{"UPSTREAMS=http://a?allow=::1", "ALLOW_IPS_1=::1"}, []string{"ALLOW_IPS_1: the upstream * has ?allow= too"}},
		{"no network", []string{"UPSTREAMS=http://a?allow=10.0.0", "ALLOW_IPS=,"}, []string{"ALLOW_IPS: holds no network", `UPSTREAMS: allow of *: "10.0.0" is not a network`}},
		{"password for a port", []string{"UPSTREAMS=22=a:22", "BASIC_AUTH_1=a:b"}, []string{"BASIC_AUTH_1: the upstream 22 is a TCP port, which cannot ask for credentials: unset it"}},
		{"password for all, and a port", []string{"UPSTREAMS=http://a,22=a:22", "BASIC_AUTH=a:b", "BEARER_TOKEN=" + bearer}, []string{
			"BASIC_AUTH: the upstream 22 is a TCP port, which cannot ask for credentials: set BASIC_AUTH_2=off to serve it without", "BEARER_TOKEN: the upstream 22 is a TCP port"}},
		{"headers for a port", []string{"UPSTREAMS=22=a:22", "REQUEST_HEADERS_1=A: b", "PASS_AUTHORIZATION_1=true"}, []string{
			"PASS_AUTHORIZATION_1: the upstream 22 is a TCP port, which has no headers", "REQUEST_HEADERS_1: the upstream 22"}},
		{"protected headers", []string{"REQUEST_HEADERS=Host: x, X-Forwarded-For: y", "RESPONSE_HEADERS_1=Connection: close"}, []string{"REQUEST_HEADERS: Host cannot be changed", "X-Forwarded-For cannot be changed", "RESPONSE_HEADERS_1: Connection cannot"}},
		{"a word", []string{"PASS_AUTHORIZATION=yes"}, []string{"PASS_AUTHORIZATION: "}},
		{"headers for all, and a port", []string{"UPSTREAMS=22=a:22,http://a", "REQUEST_HEADERS=A: b", "PASS_AUTHORIZATION=true"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			environment(t, append([]string{"URL=wss://host:8123", "TOKEN=" + token, "UPSTREAMS=http://app"}, c.variables...)...)
			err := config.Load(&settings{})
			var got []string
			if err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if len(got) != len(c.faults) {
				t.Fatalf("got %q, want %q", got, c.faults)
			}
			for i, want := range c.faults {
				if !strings.HasPrefix(got[i], want) || strings.Contains(got[i], "verysecret") {
					t.Errorf("got %s, want %s", got[i], want)
				}
			}
		})
	}
}

// TestVisitorsFiles changes the file of one upstream, to something unusable first.
func TestVisitorsFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "users")
	must(t, os.WriteFile(file, []byte("ann:first-password\n"), 0o600))
	cfg := load(t, "URL=ws://a", "UPSTREAMS=a.test=http://a,b.test=http://b", "BASIC_AUTH=all:for-everybody", "BASIC_AUTH_2_FILE="+file)
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		c, err := newCredentials(cfg, prometheus.NewRegistry(), zerolog.New(&out))
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		watchers := c.watchVisitors()
		if len(watchers) != 1 {
			t.Errorf("%d files are watched", len(watchers))
		}
		for _, watch := range watchers {
			wg.Go(func() { _ = watch(ctx) })
		}
		want := func(upstream int, pair, result string) {
			t.Helper()
			if got := who(t, c.Access(), 2, upstream-1, "::1", basic(pair)); got != result {
				t.Errorf("%s: got %s, want %s", pair, got, result)
			}
		}
		change := func(content string) {
			t.Helper()
			must(t, os.WriteFile(file, []byte(content), 0o600))
			<-time.After(3 * rereadEvery)
			synctest.Wait()
		}
		want(1, "all:for-everybody", "in")
		want(2, "all:for-everybody", access.Wrong)
		want(2, "ann:first-password", "in")
		changed := c.Changed()
		change("ann-second-password")
		want(2, "ann:first-password", "in")
		select {
		case <-changed:
			t.Error("something unusable counts as a change")
		default:
		}
		change("ann:second-password")
		<-changed
		want(2, "ann:first-password", access.Wrong)
		want(2, "ann:second-password", "in")
		want(1, "all:for-everybody", "in")
		cancel()
		wg.Wait()
		for _, line := range []string{"the new credentials of visitors are not valid", `"variable":"BASIC_AUTH_2"`, "took up changed credentials of visitors", `"visitors":"1 user"`} {
			if !strings.Contains(out.String(), line) {
				t.Errorf("no %s in %s", line, out.String())
			}
		}
		if strings.Contains(out.String(), "-password") || strings.Contains(out.String(), "for-everybody") {
			t.Errorf("a password is in the log: %s", out.String())
		}
	})
}
