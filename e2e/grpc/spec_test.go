//go:build unix

package grpc

import (
	"crypto/tls"
	"encoding/xml"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// TestH2spec wants the data plane to do as well in h2spec, a test of conformance with HTTP/2,
// as package net/http does alone in the same run.
func TestH2spec(t *testing.T) {
	program := filepath.Join(t.TempDir(), "h2spec")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/summerwind/h2spec/cmd/h2spec").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "some text to be read in small windows") })
	upstream := serve(t, handler, false)
	tun := newTunnel(t, "http://"+upstream)
	for _, test := range []struct {
		name   string
		secure bool
		addr   string
	}{{"h2c", false, tun.plain}, {"TLS", true, tun.secure}} {
		t.Run(test.name, func(t *testing.T) {
			alone := serve(t, handler, test.secure)
			var want, got []string
			for range 3 { // some cases are about time, which a busy machine has not
				var work sync.WaitGroup
				work.Go(func() { want = failures(t, program, alone, test.secure) })
				work.Go(func() { got = failures(t, program, test.addr, test.secure) })
				work.Wait()
				if slices.Equal(got, want) {
					t.Logf("net/http fails in %d cases, and so does the data plane: %q", len(want), want)
					return
				}
			}
			t.Errorf("the data plane fails in\n%s\nand net/http in\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		})
	}
}

// serve starts a server of package net/http for every version.
func serve(t testing.TB, handler http.Handler, secure bool) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	addr = l.Addr().String()
	srv := &http.Server{Handler: handler, Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetHTTP2(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	if secure {
		_, cert, key := newCertificate(t)
		pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
		must(t, err)
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}})
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() {
		_ = srv.Close()
		wg.Wait()
	})
	return addr
}

// failures returns the cases that a server fails in, in order.
func failures(t testing.TB, program, addr string, secure bool) (list []string) {
	t.Helper()
	report := filepath.Join(t.TempDir(), "report.xml")
	host, port, _ := net.SplitHostPort(addr)
	args := []string{"-h", host, "-p", port, "-j", report}
	if secure {
		args = append(args, "-t", "-k")
	}
	out, _ := exec.Command(program, args...).CombinedOutput() // fails if a case does
	content, err := os.ReadFile(report)
	if err != nil {
		t.Errorf("h2spec: %v\n%s", err, out)
		return nil
	}
	var doc struct {
		Suites []struct {
			Cases []struct {
				Package string    `xml:"package,attr"`
				Name    string    `xml:"classname,attr"`
				Failure *struct{} `xml:"failure"`
				Error   *struct{} `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(content, &doc); err != nil {
		t.Errorf("h2spec: %v", err)
	}
	cases := 0
	for _, suite := range doc.Suites {
		for _, c := range suite.Cases {
			if cases++; c.Failure != nil || c.Error != nil {
				list = append(list, c.Package+" "+c.Name)
			}
		}
	}
	if cases < 100 {
		t.Errorf("h2spec ran %d cases\n%s", cases, out)
	}
	slices.Sort(list)
	return list
}
