//go:build unix

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
)

// sample is one element of the answer to a query.
type sample struct {
	Metric map[string]string
	Value  [2]any
}

// prometheus is a running Prometheus.
type prometheus struct{ addr string }

// startPrometheus runs the configuration of compose/monitoring, in which replacements, pairs of old and new, stand
// for what differs here: addresses, files and the time between scrapes.
func startPrometheus(t testing.TB, replacements ...string) *prometheus {
	t.Helper()
	path := needProgram(t, "prometheus", "prometheus")
	dir := t.TempDir()
	for _, name := range []string{"prometheus.yml", "alerts.yml"} {
		content, err := os.ReadFile(filepath.Join("../compose/monitoring", name))
		must(t, err)
		text := string(content)
		for i := 0; name == "prometheus.yml" && i < len(replacements); i += 2 {
			if !strings.Contains(text, replacements[i]) {
				t.Fatalf("%s has no %q", name, replacements[i])
			}
			text = strings.ReplaceAll(text, replacements[i], replacements[i+1])
		}
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	p := &program{t: t, name: "prometheus", foreign: true, cmd: exec.Command(path, "--log.format=json",
		"--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0")}
	p.run()
	var addr string
	eventually(t, func() error {
		m := regexp.MustCompile(`"address":"?(127\.0\.0\.1:[1-9]\d*)`).FindStringSubmatch(p.log.String())
		if m == nil {
			return fmt.Errorf("prometheus does not say where it listens")
		}
		addr = m[1]
		return nil
	})
	eventually(t, func() error { return answers("http://"+addr+"/-/ready", "") })
	return &prometheus{addr}
}

// query returns what an expression is now.
func (p *prometheus) query(expr string) ([]sample, error) {
	code, body, err := get("http://"+p.addr+"/api/v1/query?query="+url.QueryEscape(expr), "")
	if err != nil || code != 200 {
		return nil, fmt.Errorf("%s: %d %s %w", expr, code, body, err)
	}
	var answer struct{ Data struct{ Result []sample } }
	err = json.Unmarshal([]byte(body), &answer)
	return answer.Data.Result, err
}

// want waits until the expression is a single number that is good.
func (p *prometheus) want(t testing.TB, expr string, good func(float64) bool) {
	t.Helper()
	eventually(t, func() error {
		samples, err := p.query(expr)
		if err == nil && len(samples) != 1 {
			err = fmt.Errorf("%s: %v", expr, samples)
		}
		if err != nil {
			return err
		}
		if value, err := strconv.ParseFloat(fmt.Sprint(samples[0].Value[1]), 64); err != nil || !good(value) {
			return fmt.Errorf("%s: %v", expr, samples)
		}
		return nil
	})
}

func is(want float64) func(float64) bool { return func(got float64) bool { return got == want } }
func positive(got float64) bool          { return got > 0 }

// TestPrometheus has a real Prometheus scrape the three programs, the server's control plane over TLS with the
// token, and asks it what curl has caused.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	needProgram(t, "prometheus", "prometheus")
	dir, root := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(root, "index.html"), []byte("hello"), 0o600))
	files := start(t, "fileserver", environment("WEBROOT="+root)...)
	tun := newTunnel(t, "files.test=http://"+files.addr("data plane")+",*.down.test=http://127.0.0.1:1", "AUTO_TLS_DIR="+dir)
	visits := func() {
		t.Helper()
		for _, v := range []struct {
			host, method, path string
			code, times        int
		}{
			{"files.test", "GET", "/", 200, 3}, {"FILES.test:80", "HEAD", "/", 200, 1}, {"files.test", "GET", "/missing", 404, 2},
			{"a.down.test", "GET", "/", 502, 1}, {"b.down.test", "GET", "/", 502, 1},
			{"elsewhere.test", "GET", "/", 404, 1}, {"somewhere.test", "GET", "/", 404, 1},
		} {
			for range v.times {
				args := []string{"-H", "Host: " + v.host, tun.url(v.path)}
				if v.method == "HEAD" {
					args = append(args, "-I")
				}
				curl(t, args...).want(t, v.code, "")
			}
		}
	}
	visits()

	p := startPrometheus(t,
		"scrape_interval: 15s", "scrape_interval: 1s", "scrape_timeout: 10s", "scrape_timeout: 1s", "evaluation_interval: 15s", "evaluation_interval: 1s",
		"/run/secrets/token", write(t, "token", tun.token), "/etc/adit/ca.crt", filepath.Join(dir, "ca.crt"),
		"server:8123", tun.control, "client:8125", tun.client.addr("metrics"), "fileserver:8126", files.addr("metrics"))
	for _, job := range []string{"adit-server", "adit-client", "adit-fileserver"} {
		p.want(t, `up{job="`+job+`"}`, is(1))
		p.want(t, `adit_build_info{job="`+job+`",image="`+strings.TrimPrefix(job, "adit-")+`",version="`+testVersion+`"}`, is(1))
	}
	p.want(t, `http_controlplane_connected_gauge`, is(1))
	p.want(t, `adit_connected{server="`+tun.control+`"}`, is(1))
	for series, want := range map[string]float64{
		`{code="200",host="files.test",method="GET"}`:  3,
		`{code="200",host="files.test",method="HEAD"}`: 1,
		`{code="404",host="files.test",method="GET"}`:  2,
		`{code="502",host="*.down.test",method="GET"}`: 2,
		`{code="404",host="unmatched",method="GET"}`:   2,
	} {
		p.want(t, `http_dataplane_requests_total`+series, is(want))
		p.want(t, `http_dataplane_request_duration_seconds_count`+series, is(want))
	}
	p.want(t, `sum(http_dataplane_requests_total)`, is(10))
	p.want(t, `sum by (code) (http_dataplane_requests_total{code="200"})`, is(4))
	p.want(t, `http_controlplane_requests_total{code="101",path="/connect"}`, is(1))

	visits() // for rates it takes some that Prometheus has seen happen
	p.want(t, `sum(http_dataplane_requests_total)`, is(20))
	readme, err := os.ReadFile("../README.md")
	must(t, err)
	block := regexp.MustCompile("(?s)```promql\n(.*?)```").FindSubmatch(readme)
	if block == nil {
		t.Fatal("the README has no queries")
	}
	for line := range strings.Lines(string(block[1])) {
		expr, _, _ := strings.Cut(line, "  #")
		p.want(t, "max("+strings.TrimSpace(expr)+")", positive)
	}
	t.Run("alert rules", func(t *testing.T) {
		code, body, err := get("http://"+p.addr+"/api/v1/rules", "")
		if err != nil || code != 200 || !strings.Contains(body, `"name":"AditDown"`) || strings.Contains(body, `"health":"err"`) {
			t.Errorf("%d %s %v", code, body, err)
		}
		if firing, err := p.query(`ALERTS{alertstate="firing"}`); len(firing) > 0 {
			t.Errorf("firing: %v %v", firing, err)
		}
	})
}

// dashboards matches what promtool has against names that existing dashboards use and that therefore stay.
var dashboards = regexp.MustCompile(`(?m)^(http|tcp)_(controlplane_connected|dataplane_connections)_gauge metric name should not include type 'gauge'\n`)

// TestPromtool checks what each program exports, once its series are there.
func TestPromtool(t *testing.T) {
	t.Parallel()
	promtool := needProgram(t, "promtool", "prometheus")
	files := start(t, "fileserver", environment("WEBROOT="+t.TempDir())...)
	public := freeport.New(t)
	tun := newTunnel(t, fmt.Sprintf("http://%s,down.test=http://127.0.0.1:1,%d=%s", files.addr("data plane"), public, hashService(t, "")), "MODE=http,tcp")
	_, err := ask(fmt.Sprint("127.0.0.1:", public), 10)
	must(t, err)
	for _, host := range []string{"", "down.test"} {
		_, _, err := get(tun.url("/"), host)
		must(t, err)
	}
	_, _, err = get("https://"+tun.control+"/status", "")
	must(t, err)
	for name, addr := range map[string]string{
		"server": "http://" + tun.metrics, "control plane": "https://" + tun.control, "client": "http://" + tun.client.addr("metrics"), "fileserver": "http://" + files.addr("metrics"),
	} {
		t.Run(name, func(t *testing.T) {
			code, body, err := get(addr+"/metrics", "", tun.bearer()...)
			if err != nil || code != 200 {
				t.Fatalf("%d %s %v", code, body, err)
			}
			cmd := exec.Command(promtool, "check", "metrics")
			cmd.Stdin = strings.NewReader(body)
			out, err := cmd.CombinedOutput()
			if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
				t.Fatal(err)
			}
			if problems := dashboards.ReplaceAllString(string(out), ""); problems != "" {
				t.Errorf("promtool check metrics:\n%s", problems)
			}
		})
	}
}
