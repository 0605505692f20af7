//go:build unix

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metricsql"
	"go.yaml.in/yaml/v4"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
	"github.com/adit-tunnel/adit/shared/license"
)

const monitoring = "../compose/monitoring"

// exports are the names that are exported, each with the labels that it has.
type exports map[string]map[string]bool

// add takes what a program answers to a scrape.
func (s exports) add(text string) {
	for _, m := range regexp.MustCompile(`(?m)^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? \S+$`).FindAllStringSubmatch(text, -1) {
		labels := s[m[1]]
		if labels == nil {
			labels = map[string]bool{"job": true, "instance": true} // Prometheus adds them
			s[m[1]] = labels
		}
		for _, label := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(m[2], -1) {
			labels[label[1]] = true
		}
	}
}

// expressions returns every query of the dashboard, with its variables filled in, by where it is; and those of the alerts.
func expressions(t testing.TB) map[string]string {
	t.Helper()
	found := map[string]string{}
	content, err := os.ReadFile(filepath.Join(monitoring, "grafana/dashboards/adit.json"))
	must(t, err)
	var dashboard any
	must(t, json.Unmarshal(content, &dashboard))
	fill := strings.NewReplacer("$job", "adit-.*", "$instance", ".*", "$host", ".*", "$__rate_interval", "10s")
	var walk func(title string, v any)
	walk = func(title string, v any) {
		switch v := v.(type) {
		case []any:
			for i, e := range v {
				walk(fmt.Sprint(title, " ", i), e)
			}
		case map[string]any:
			if name, ok := v["title"].(string); ok {
				title = name
			}
			for key, e := range v {
				text, ok := e.(string)
				switch {
				case ok && key == "expr":
					found[fmt.Sprintf("dashboard: %s #%d", title, len(found))] = fill.Replace(text)
				case ok && key == "definition":
					query := regexp.MustCompile(`^label_values\((.+), (\w+)\)$`).FindStringSubmatch(text)
					if query == nil {
						t.Fatalf("%s: %s is no label_values(metric, label)", title, text)
					}
					found[fmt.Sprintf("dashboard: %s #%d", title, len(found))] = fmt.Sprintf("count by (%s) (%s)", query[2], fill.Replace(query[1]))
				case !ok:
					walk(title, e)
				}
			}
		}
	}
	walk("", dashboard)

	content, err = os.ReadFile(filepath.Join(monitoring, "alerts.yml"))
	must(t, err)
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	must(t, yaml.Unmarshal(content, &rules))
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			found["alert: "+rule.Alert] = rule.Expr
		}
	}
	if len(found) < 50 {
		t.Fatalf("only %d expressions: %v", len(found), found)
	}
	return found
}

// faults returns what is wrong with an expression: series that nobody exports, labels that they do not have, and
// counters that are shown as they are instead of by their rate.
func (s exports) faults(expr string) (all []string) {
	parsed, err := metricsql.Parse(expr)
	if err != nil {
		return []string{err.Error()}
	}
	rated, counted := map[string]bool{}, map[string]bool{}
	grows := regexp.MustCompile(`_(total|bucket|sum|count)$`)
	metricsql.VisitAll(parsed, func(e metricsql.Expr) {
		if f, ok := e.(*metricsql.FuncExpr); ok && (f.Name == "rate" || f.Name == "increase") {
			for _, name := range names(f) {
				rated[name] = true
			}
		}
		if f, ok := e.(*metricsql.AggrFuncExpr); ok && f.Name == "count" {
			for _, name := range names(f) {
				counted[name] = true
			}
		}
	})
	metricsql.VisitAll(parsed, func(e metricsql.Expr) {
		switch e := e.(type) {
		case *metricsql.MetricExpr:
			for _, filters := range e.LabelFilterss {
				name := filters[0].Value
				if filters[0].Label != "__name__" || filters[0].IsRegexp || s[name] == nil {
					all = append(all, fmt.Sprintf("nobody exports %s", e.AppendString(nil)))
					continue
				}
				for _, f := range filters[1:] {
					if !s[name][f.Label] {
						all = append(all, fmt.Sprintf("%s has no label %s", name, f.Label))
					}
				}
				if grows.MatchString(name) != rated[name] && !counted[name] {
					all = append(all, fmt.Sprintf("rate() is for counters, and counters are for rate(): %s", name))
				}
			}
		case *metricsql.AggrFuncExpr:
			for _, label := range e.Modifier.Args {
				if !slices.ContainsFunc(names(e), func(name string) bool { return s[name][label] }) {
					all = append(all, fmt.Sprintf("by %s, which nothing in it has", label))
				}
			}
		}
	})
	return all
}

// names returns the series in an expression.
func names(e metricsql.Expr) (list []string) {
	metricsql.VisitAll(e, func(e metricsql.Expr) {
		if m, ok := e.(*metricsql.MetricExpr); ok {
			for _, filters := range m.LabelFilterss {
				list = append(list, filters[0].Value)
			}
		}
	})
	return list
}

// TestDashboard has the programs export all that they can, holds every query of the dashboard and of the alerts
// against it, and has a real Prometheus answer those of the dashboard: each panel shows something.
func TestDashboard(t *testing.T) {
	t.Parallel()
	key := license.NewPrivateKey()
	issued, err := license.Issue(key, license.License{Subject: "test", Expires: time.Now().Add(time.Hour)})
	must(t, err)
	dir := t.TempDir()
	files := start(t, "fileserver", environment("WEBROOT="+t.TempDir())...)
	s := startServer(t, "MODE=http,tcp", "AUTO_TLS_DIR="+dir, "LICENSE_PUBLIC_KEY="+key.Public(),
		"LETSENCRYPT_DOMAINS=cert.test", "LETSENCRYPT_EMAIL=admin@example.com", "LETSENCRYPT_DIR="+t.TempDir(),
		"LETSENCRYPT_ISSUER=https://127.0.0.1:1/dir", "HTTPS_PORT=0")
	s.await("certificate could not be had")
	echo, refused := freeport.New(t), freeport.New(t)
	c := connect(t, s, fmt.Sprintf("http://%s,down.test=http://127.0.0.1:1,%d=%s,%d=127.0.0.1:1", files.addr("data plane"), echo, hashService(t, ""), refused), "LICENSE="+issued)
	stranger := startClient(t, s, "http://"+says(t, ""))
	stranger.await("cannot connect")

	visits := func() {
		t.Helper()
		for _, host := range []string{"", "down.test"} {
			_, _, err := get(s.url("/"), host)
			must(t, err)
		}
		_, err = ask(fmt.Sprint("127.0.0.1:", echo), 10)
		must(t, err)
		if _, err := ask(fmt.Sprint("127.0.0.1:", refused), 10); err == nil {
			t.Error("a connection without an upstream was served")
		}
		_, _, err = get("https://"+s.control+"/status", "")
		must(t, err)
	}
	visits()

	exported := exports{
		"up":     {"job": true, "instance": true},
		"ALERTS": {"alertname": true, "alertstate": true, "severity": true, "job": true, "instance": true},
	}
	for _, addr := range []string{"http://" + s.metrics, "http://" + c.addr("metrics"), "http://" + stranger.addr("metrics"), "http://" + files.addr("metrics")} {
		code, body, err := get(addr+"/metrics", "", s.bearer()...)
		if err != nil || code != 200 {
			t.Fatalf("%d %s %v", code, body, err)
		}
		exported.add(body)
	}
	queries := expressions(t)
	for where, expr := range queries {
		for _, fault := range exported.faults(expr) {
			t.Errorf("%s: %s", where, fault)
		}
	}
	t.Run("objects", func(t *testing.T) {
		for expr, want := range map[string]string{
			`adit_connected_total`:                                 "nobody exports",
			`{job="adit-server"}`:                                  "nobody exports",
			`rate(http_dataplane_requests_total{status="2"}[5m])`:  "no label status",
			`sum by (path) (rate(adit_streams_total[5m]))`:         "by path",
			`adit_streams_total`:                                   "counters",
			`rate(adit_streams[5m])`:                               "counters",
			`sum(rate(http_dataplane_requests_total[5m])`:          "unexpected token",
			`rate(http_dataplane_request_duration_seconds_p9[5m])`: "nobody exports",
		} {
			if found := exported.faults(expr); !strings.Contains(strings.Join(found, "\n"), want) {
				t.Errorf("%s: %q, want %q", expr, found, want)
			}
		}
	})

	t.Run("prometheus", func(t *testing.T) {
		p := startPrometheus(t,
			"scrape_interval: 15s", "scrape_interval: 1s", "scrape_timeout: 10s", "scrape_timeout: 1s",
			"/run/secrets/token", write(t, "token", s.token), "/etc/adit/ca.crt", filepath.Join(dir, "ca.crt"),
			"server:8123", s.control, "client:8125", c.addr("metrics")+`", "`+stranger.addr("metrics"), "fileserver:8126", files.addr("metrics"))
		p.want(t, `count(up == 1)`, is(4))
		visits() // for rates it takes some that Prometheus has seen happen
		for _, where := range slices.Sorted(maps.Keys(queries)) {
			if !strings.HasPrefix(where, "dashboard: ") || strings.Contains(queries[where], "ALERTS") || strings.Contains(queries[where], "process_max_fds") {
				continue // what is there in an emergency only
			}
			eventually(t, func() error {
				samples, err := p.query(queries[where])
				if err == nil && len(samples) == 0 {
					err = fmt.Errorf("nothing")
				}
				if err != nil {
					err = fmt.Errorf("%s: %s: %w", where, queries[where], err)
				}
				return err
			})
		}
	})
}
