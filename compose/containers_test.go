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
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
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
	t.Parallel()
	data, control := freeport.Addr(t), freeport.Addr(t)
	s := up(t, "quickstart", nil, "TOKEN="+token, "PUBLISH_DATA="+data, "PUBLISH_CONTROL="+control)
	visit := shows(t, "http://"+data)
	eventually(t, 30*time.Second, visit)

	if table := s.compose(t, "exec", "-T", "server", "/server", "status"); !strings.Contains(table, "*=http://fileserver:8080") {
		t.Errorf("status:\n%s", table)
	}
	if code, body := controlStatus(t, control, token); code != http.StatusOK || !strings.Contains(body, "*=http://fileserver:8080") {
		t.Errorf("status: %d %s", code, body)
	}
	if code, _ := controlStatus(t, control, "another-token-than-that"); code != http.StatusUnauthorized {
		t.Errorf("status with a wrong token: %d", code)
	}
	s.healthy(t, images...)

	// The client finds its way back to a server that was replaced, and to one that has crashed.
	s.compose(t, "restart", "server")
	eventually(t, 35*time.Second, visit)
	crash(t, s.container(t, "server"))
	eventually(t, 35*time.Second, visit)
	s.stop(t, images...)
}

// controlStatus asks the control plane for /status as a user does with curl -k: the certificate is the server's own.
func controlStatus(t *testing.T, addr, bearer string) (int, string) {
	t.Helper()
	insecure := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer insecure.CloseIdleConnections()
	code, body, err := get(t.Context(), insecure, "https://"+addr+"/status", bearer)
	if err != nil {
		t.Fatal(err)
	}
	return code, body
}

// TestMonitoringRuns watches the tunnel with a real Prometheus by the example's
// configuration as it stands: its image cannot be pulled by a test, so one is made
// of the machine's own program. Grafana, of which there is none, is left out.
func TestMonitoringRuns(t *testing.T) {
	t.Parallel()
	needImages(t)
	data, control, prometheus := freeport.Addr(t), freeport.Addr(t), freeport.Addr(t)
	s := up(t, "monitoring", []string{"server", "client", "fileserver", "prometheus"}, "PUBLISH_DATA="+data, "PUBLISH_CONTROL="+control, "PUBLISH_PROMETHEUS="+prometheus,
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

	eventually(t, 30*time.Second, shows(t, "http://"+data))
	for range 7 {
		if code, body, err := get(t.Context(), http.DefaultClient, "http://"+data+"/missing", ""); err != nil || code != http.StatusNotFound {
			t.Errorf("missing file: %d %q %v", code, body, err)
		}
	}
	if code, _ := controlStatus(t, control, "another-token-than-that"); code != http.StatusUnauthorized {
		t.Errorf("status with a wrong token: %d", code)
	}

	for _, job := range []string{"adit-server", "adit-client", "adit-fileserver"} {
		becomes(`up{job="`+job+`"}`, "1")
	}
	becomes(`sum(http_dataplane_requests_total{code="404",host="*",method="GET"})`, "7")
	becomes(`http_controlplane_connected_gauge`, "1")
	becomes(`sum(adit_auth_failures_total{job="adit-server"})`, "1")

	// Prometheus goes on where it was.
	crash(t, s.container(t, "prometheus"))
	becomes(`sum(http_dataplane_requests_total{code="404",host="*",method="GET"})`, "7")
	s.healthy(t, images...)
	s.stop(t, images...)
}

// prometheusImage makes an image of the machine's own Prometheus, with the user
// and folders of the official one.
func prometheusImage(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("prometheus is absent (Debian: apt-get install prometheus)")
	}
	files := map[string]string{"/bin/prometheus": program}
	if out, err := exec.CommandContext(t.Context(), "ldd", program).Output(); err == nil {
		for _, library := range regexp.MustCompile(`/\S+\.so\S*`).FindAllString(string(out), -1) {
			files[library] = library
		}
	}
	return makeImage(t, "prometheus", files, "COPY --chown=65534:65534 empty /prometheus", `ENTRYPOINT ["/bin/prometheus"]`)
}
