package compose

import (
	"archive/tar"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// An image holds its program and nothing else: no shell, no user but a number.
func TestImages(t *testing.T) {
	needImages(t)
	ports := map[string][]string{
		"server":     {"8000/tcp", "8123/tcp", "8124/tcp"},
		"client":     {"8125/tcp"},
		"fileserver": {"8080/tcp", "8126/tcp"},
	}
	for _, image := range images {
		t.Run(image, func(t *testing.T) {
			name := "adit-" + image + ":" + imageTag
			var inspected []struct {
				Size   int64
				Config struct {
					User         string
					Entrypoint   []string
					ExposedPorts map[string]struct{}
					Labels       map[string]string
					Healthcheck  struct{ Test []string }
				}
			}
			if err := json.Unmarshal([]byte(docker(t, "inspect", "--type=image", name)), &inspected); err != nil || len(inspected) != 1 {
				t.Fatalf("inspect: %v", err)
			}
			config := inspected[0].Config
			if config.User != "65532:65532" {
				t.Errorf("user %q", config.User)
			}
			if !slices.Equal(config.Entrypoint, []string{"/" + image}) {
				t.Errorf("entrypoint %q", config.Entrypoint)
			}
			if !slices.Equal(config.Healthcheck.Test, []string{"CMD", "/" + image, "healthcheck"}) {
				t.Errorf("health check %q", config.Healthcheck.Test)
			}
			if len(config.ExposedPorts) != len(ports[image]) {
				t.Errorf("exposed ports %v", config.ExposedPorts)
			}
			for _, port := range ports[image] {
				if _, ok := config.ExposedPorts[port]; !ok {
					t.Errorf("%s is not exposed", port)
				}
			}
			for _, label := range []string{"title", "description", "source", "licenses", "version", "revision"} {
				if config.Labels["org.opencontainers.image."+label] == "" {
					t.Errorf("no label %s", label)
				}
			}
			if size := inspected[0].Size; size > 15e6 {
				t.Errorf("%d bytes", size)
			}
			if version := docker(t, "run", "--rm", "--read-only", "--cap-drop=ALL", "--network=none", name, "version"); !strings.HasPrefix(version, "adit "+image+" ") {
				t.Errorf("version: %q", version)
			}
			if files := files(t, name); !slices.Equal(files, []string{image}) {
				t.Errorf("files %q", files)
			}
		})
	}
}

// files returns the regular files of an image that are not the engine's own.
func files(t *testing.T, image string) []string {
	t.Helper()
	id := docker(t, "create", image)
	defer docker(t, "rm", id)
	out, err := exec.CommandContext(t.Context(), "docker", "export", id).Output()
	if err != nil {
		t.Fatalf("export: %v", err)
	}
	var names []string
	archive := tar.NewReader(bytes.NewReader(out))
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		// The engine puts these into every container.
		engine := regexp.MustCompile(`^(\.dockerenv|etc/(hostname|hosts|resolv\.conf|mtab)|dev/.*)$`)
		if header.Typeflag != tar.TypeDir && !engine.MatchString(header.Name) {
			names = append(names, header.Name)
		}
	}
}

func TestQuickstartRuns(t *testing.T) {
	needImages(t)
	data, control := freeAddr(t), freeAddr(t)
	s := up(t, "quickstart", "TOKEN="+token, "PUBLISH_DATA="+data, "PUBLISH_CONTROL="+control)

	want, err := os.ReadFile("quickstart/webroot/hello.txt")
	if err != nil {
		t.Fatal(err)
	}
	visit := func() error {
		code, body, err := get(t.Context(), http.DefaultClient, "http://"+data+"/hello.txt", "")
		if err != nil || code != http.StatusOK || body != string(want) {
			return fmt.Errorf("%d %q %v", code, body, err)
		}
		return nil
	}
	eventually(t, 30*time.Second, visit)

	if table := s.compose(t, "exec", "-T", "server", "/server", "status"); !strings.Contains(table, "*=http://fileserver:8080") {
		t.Errorf("status:\n%s", table)
	}
	// As a user does it with curl -k: the certificate is the server's own.
	insecure := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer insecure.CloseIdleConnections()
	code, body, err := get(t.Context(), insecure, "https://"+control+"/status", token)
	if err != nil || code != http.StatusOK || !strings.Contains(body, "*=http://fileserver:8080") {
		t.Errorf("status: %d %s %v", code, body, err)
	}
	if code, _, err := get(t.Context(), insecure, "https://"+control+"/status", "another-token-than-that"); err != nil || code != http.StatusUnauthorized {
		t.Errorf("status with a wrong token: %d %v", code, err)
	}

	services := map[string]string{}
	for _, service := range images {
		services[service] = s.container(t, service)
	}
	for service, id := range services {
		eventually(t, 40*time.Second, func() error {
			if health := docker(t, "inspect", "--format={{.State.Health.Status}}", id); health != "healthy" {
				return fmt.Errorf("%s is %s: %s", service, health, docker(t, "inspect", "--format={{json .State.Health.Log}}", id))
			}
			return nil
		})
	}

	// The client finds its way back to a server that was replaced.
	s.compose(t, "restart", "server")
	eventually(t, 35*time.Second, visit)

	s.compose(t, "stop")
	for service, id := range services {
		if code := docker(t, "inspect", "--format={{.State.ExitCode}}", id); code != "0" {
			t.Errorf("%s stopped with exit code %s", service, code)
		}
	}
}

// TestMonitoringRuns watches the tunnel with a real Prometheus by the example's
// configuration as it stands: its image cannot be pulled by a test, so one is made
// of the machine's own program.
func TestMonitoringRuns(t *testing.T) {
	needImages(t)
	data, control, prometheus := freeAddr(t), freeAddr(t), freeAddr(t)
	up(t, "monitoring", "PUBLISH_DATA="+data, "PUBLISH_CONTROL="+control, "PUBLISH_PROMETHEUS="+prometheus,
		"PROMETHEUS_IMAGE="+prometheusImage(t))

	// query returns the value of an expression that gives one.
	query := func(expression string) (string, error) {
		_, body, err := get(t.Context(), http.DefaultClient, "http://"+prometheus+"/api/v1/query?"+url.Values{"query": {expression}}.Encode(), "")
		if err != nil {
			return "", err
		}
		var answer struct {
			Error string
			Data  struct{ Result []struct{ Value [2]any } }
		}
		if err := json.Unmarshal([]byte(body), &answer); err != nil || answer.Error != "" {
			return "", fmt.Errorf("%s %v", answer.Error, err)
		}
		if len(answer.Data.Result) != 1 {
			return "", fmt.Errorf("%s: %d results", expression, len(answer.Data.Result))
		}
		return fmt.Sprint(answer.Data.Result[0].Value[1]), nil
	}
	becomes := func(expression, want string) {
		t.Helper()
		eventually(t, 60*time.Second, func() error {
			if got, err := query(expression); err != nil || got != want {
				return fmt.Errorf("%s is %s, not %s: %v", expression, got, want, err)
			}
			return nil
		})
	}

	eventually(t, 30*time.Second, func() error {
		code, body, err := get(t.Context(), http.DefaultClient, "http://"+data+"/hello.txt", "")
		if err != nil || code != http.StatusOK {
			return fmt.Errorf("%d %q %v", code, body, err)
		}
		return nil
	})
	for range 7 {
		if code, body, err := get(t.Context(), http.DefaultClient, "http://"+data+"/missing", ""); err != nil || code != http.StatusNotFound {
			t.Errorf("missing file: %d %q %v", code, body, err)
		}
	}
	insecure := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer insecure.CloseIdleConnections()
	if code, _, err := get(t.Context(), insecure, "https://"+control+"/status", "another-token-than-that"); err != nil || code != http.StatusUnauthorized {
		t.Errorf("status with a wrong token: %d %v", code, err)
	}

	for _, job := range []string{"adit-server", "adit-client", "adit-fileserver"} {
		becomes(`up{job="`+job+`"}`, "1")
	}
	becomes(`sum(http_dataplane_requests_total{code="404",host="*",method="GET"})`, "7")
	becomes(`http_controlplane_connected_gauge`, "1")
	becomes(`sum(adit_auth_failures_total{job="adit-server"})`, "1")

	// An alert on a series that nobody exports would never fire.
	rules, err := os.ReadFile("monitoring/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, metric := range regexp.MustCompile(`\b(http|tcp|adit)_[a-z_]+[a-z]\b`).FindAllString(withoutComments(string(rules)), -1) {
		if _, err := query(`count({__name__="` + metric + `"})`); err != nil {
			t.Errorf("alerts.yml uses %s, which is not there: %v", metric, err)
		}
	}
}

// withoutComments leaves the expressions of a file of rules.
func withoutComments(rules string) string {
	return regexp.MustCompile(`(?m)^ *(#|summary:|description:).*$`).ReplaceAllString(rules, "")
}

// prometheusImage makes an image of the machine's own Prometheus, with the user
// and folders of the official one.
func prometheusImage(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("prometheus is absent (Debian: apt-get install prometheus)")
	}
	context := t.TempDir()
	files := []string{program}
	if out, err := exec.CommandContext(t.Context(), "ldd", program).Output(); err == nil {
		files = append(files, regexp.MustCompile(`/\S+\.so\S*`).FindAllString(string(out), -1)...)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if file == program {
			file = "/bin/prometheus"
		}
		copied := filepath.Join(context, "root", file)
		if err := os.MkdirAll(filepath.Dir(copied), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(copied, content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(context, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	dockerfile := "FROM scratch\nCOPY root /\nCOPY --chown=65534:65534 data /prometheus\nENTRYPOINT [\"/bin/prometheus\"]\n"
	if err := os.WriteFile(filepath.Join(context, "Dockerfile"), []byte(dockerfile), 0o644); err != nil {
		t.Fatal(err)
	}
	name := "adit-test-prometheus:" + imageTag
	docker(t, "build", "--tag", name, context)
	t.Cleanup(func() { exec.Command("docker", "rmi", "-f", name).Run() })
	return name
}
