package compose

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func promtool(t *testing.T, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is absent: install Prometheus (Debian: apt-get install prometheus)")
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir = "monitoring"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestPrometheusConfiguration(t *testing.T) {
	// promtool wants the files that the configuration names: those of the containers are stood in for.
	dir := t.TempDir()
	content, err := os.ReadFile("monitoring/prometheus.yml")
	if err != nil {
		t.Fatal(err)
	}
	config := string(content)
	for _, file := range []string{"/run/secrets/token", "/etc/adit/ca.crt"} {
		if !strings.Contains(config, file) {
			t.Fatalf("prometheus.yml does not name %s", file)
		}
		local := filepath.Join(dir, filepath.Base(file))
		if err := os.WriteFile(local, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		config = strings.ReplaceAll(config, file, local)
	}
	rules, err := filepath.Abs("monitoring/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	config = strings.Replace(config, "- alerts.yml", "- "+rules, 1)
	path := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "config", "--lint=all", "--lint-fatal", path)
}

func TestAlertRules(t *testing.T) {
	promtool(t, "check", "rules", "--lint=all", "--lint-fatal", "alerts.yml")
}

// Each alert has a unit test in which it fires.
func TestAlertsFire(t *testing.T) {
	rules, err := os.ReadFile("monitoring/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	tests, err := os.ReadFile("monitoring/alerts_test.yml")
	if err != nil {
		t.Fatal(err)
	}
	alerts := regexp.MustCompile(`(?m)^ *- alert: (\w+)$`).FindAllStringSubmatch(string(rules), -1)
	if len(alerts) == 0 {
		t.Fatal("alerts.yml has no alerts")
	}
	for _, alert := range alerts {
		if !regexp.MustCompile(`alertname: ` + alert[1] + `\n +exp_alerts:\n +- exp_labels:`).Match(tests) {
			t.Errorf("no unit test in which %s fires", alert[1])
		}
	}
	promtool(t, "test", "rules", "alerts_test.yml")
}
