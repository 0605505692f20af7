package compose

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
)

func TestSidecarRuns(t *testing.T) {
	t.Parallel()
	data := freeport.Addr(t)
	s := up(t, "sidecar", nil, "TOKEN="+token, "PUBLISH_DATA="+data)
	visit := shows(t, "http://"+data)
	eventually(t, 30*time.Second, visit)

	// A new app has a new address, which the client finds by its name; meanwhile visitors are told to wait.
	s.compose(t, "stop", "app")
	eventually(t, 30*time.Second, answers(t, "http://"+data, http.StatusServiceUnavailable))
	s.compose(t, "rm", "--force", "app")
	s.compose(t, "up", "--detach", "--no-build", "app")
	eventually(t, 35*time.Second, visit)

	crash(t, s.container(t, "client"))
	eventually(t, 35*time.Second, visit)
	s.healthy(t, "server", "client", "app")
	s.stop(t, "server", "client", "app")
}

func TestSidecarElsewhereRuns(t *testing.T) {
	t.Parallel()
	s := up(t, "sidecar", []string{"client"}, "TOKEN="+token, "URL=wss://tunnel.example.com:8123")
	if services := strings.Fields(s.compose(t, "ps", "--services")); len(services) == 0 {
		t.Error("nothing runs")
	}
	if id := strings.TrimSpace(s.compose(t, "ps", "--quiet", "server")); id != "" {
		t.Errorf("a server runs, too: %s", id)
	}
	eventually(t, 30*time.Second, func() error {
		if logs := s.compose(t, "logs", "--no-color", "client"); !strings.Contains(logs, "tunnel.example.com:8123") {
			return fmt.Errorf("the client does not call tunnel.example.com: %s", logs)
		}
		return nil
	})
}

func TestSidecarLocalhostRuns(t *testing.T) {
	t.Parallel()
	data := freeport.Addr(t)
	s := up(t, "sidecar-localhost", nil, "TOKEN="+token, "PUBLISH_DATA="+data)
	visit := shows(t, "http://"+data)
	eventually(t, 30*time.Second, visit)

	app := s.container(t, "app")
	if mode, want := docker(t, "inspect", "--format={{.HostConfig.NetworkMode}}", s.container(t, "client")), "container:"+app; mode != want {
		t.Errorf("the client's network is %s, not %s", mode, want)
	}
	// Who is on the network of the app does not reach it: the server does not, for one.
	addr := docker(t, "inspect", "--format={{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", app)
	if conn, err := net.DialTimeout("tcp", net.JoinHostPort(addr, "8080"), 2*time.Second); err == nil {
		conn.Close()
		t.Errorf("the app answers on %s", addr)
	}

	crash(t, s.container(t, "client"))
	eventually(t, 35*time.Second, visit)
	// As the example says: the network is the app's, and goes with it.
	s.compose(t, "restart", "app")
	s.compose(t, "restart", "client")
	eventually(t, 35*time.Second, visit)
	s.healthy(t, "server", "client", "app")
	s.stop(t, "server", "client", "app")
}

// TestTCPHighAvailabilityRuns has one of two clients die, and the other replaced: no connection is refused, and those of
// the one that stays go on.
func TestTCPHighAvailabilityRuns(t *testing.T) {
	t.Parallel()
	public := freeport.Addr(t)
	s := up(t, "tcp-ha", nil, "TOKEN="+token, "PUBLISH_TCP="+public)
	visit := shows(t, "http://"+public)
	both := func() error {
		table := s.compose(t, "exec", "-T", "server", "/server", "status")
		for _, client := range []string{"client-a", "client-b"} {
			if strings.Count(table, client) != 1 {
				return fmt.Errorf("%s is not connected:\n%s", client, table)
			}
		}
		return nil
	}
	eventually(t, 35*time.Second, both)
	eventually(t, 35*time.Second, visit)

	// Connections that stay open, which the two share.
	var open []*bufio.ReadWriter
	for range 8 {
		conn, err := net.Dial("tcp", public)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
			t.Fatal(err)
		}
		rw := bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn))
		if err := ask(rw); err != nil {
			t.Fatal(err)
		}
		open = append(open, rw)
	}
	crash(t, s.container(t, "client-a"))
	for i := range 100 {
		if err := visit(); err != nil {
			t.Fatalf("connection %d after client-a has died: %v", i, err)
		}
	}
	alive := 0
	for _, rw := range open {
		if ask(rw) == nil {
			alive++
		}
	}
	if alive != 4 {
		t.Errorf("%d of 8 connections go on, and client-b had every other one", alive)
	}
	eventually(t, 35*time.Second, both)

	without(t, visit, func() {
		s.compose(t, "stop", "client-b")
		s.compose(t, "start", "client-b")
		eventually(t, 35*time.Second, both)
	})
	s.healthy(t, "server", "client-a", "client-b", "service")
	s.stop(t, "server", "client-a", "client-b", "service")
}

// ask sends a request over a connection that stays open.
func ask(rw *bufio.ReadWriter) error {
	if _, err := rw.WriteString("GET /hello.txt HTTP/1.1\r\nHost: service\r\n\r\n"); err != nil {
		return err
	}
	if err := rw.Flush(); err != nil {
		return err
	}
	resp, err := http.ReadResponse(rw.Reader, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%d %v", resp.StatusCode, err)
	}
	return nil
}

// answers returns what fails unless the answer has this code.
func answers(t *testing.T, url string, want int) func() error {
	return func() error {
		code, body, err := get(t.Context(), http.DefaultClient, url, "")
		if err == nil && code != want {
			err = fmt.Errorf("%d %q, want %d", code, body, want)
		}
		return err
	}
}

// TestSecretsRun replaces every secret while visits go on.
func TestSecretsRun(t *testing.T) {
	t.Parallel()
	data, control := freeport.Addr(t), freeport.Addr(t)
	s := up(t, "secrets", nil, "PUBLISH_DATA="+data, "PUBLISH_CONTROL="+control)
	visit := shows(t, "http://"+data, "me:"+token)
	eventually(t, 30*time.Second, visit)
	eventually(t, 10*time.Second, answers(t, "http://"+data+"/hello.txt", http.StatusUnauthorized))
	for _, service := range images {
		if env := docker(t, "inspect", "--format={{json .Config}}", s.container(t, service)); strings.Contains(env, token) {
			t.Errorf("the engine knows a secret of %s: %s", service, env)
		}
	}

	const next = "fedcba9876543210-for-tests"
	valid := func(token string, want int) func() error {
		return func() error {
			if code, _ := controlStatus(t, control, token); code != want {
				return fmt.Errorf("status is answered with %d, not %d", code, want)
			}
			return nil
		}
	}
	logged := func(service, message string) func() error {
		return func() error {
			if logs := s.compose(t, "logs", "--no-color", service); !strings.Contains(logs, message) {
				return fmt.Errorf("%s does not log %q: %s", service, message, logs)
			}
			return nil
		}
	}
	without(t, visit, func() {
		s.write(t, "tunnel/token", next+"\n"+token)
		eventually(t, 30*time.Second, valid(next, http.StatusOK))
		eventually(t, 30*time.Second, logged("client", "took up a changed token"))
		eventually(t, 30*time.Second, valid(token, http.StatusOK))
		s.write(t, "tunnel/token", next)
		eventually(t, 30*time.Second, valid(token, http.StatusUnauthorized))
	})
	s.write(t, "site/basic_auth", "me:"+next)
	eventually(t, 30*time.Second, shows(t, "http://"+data, "me:"+next))
	eventually(t, 10*time.Second, func() error {
		if visit() == nil {
			return fmt.Errorf("the old password is still taken")
		}
		return nil
	})
	crash(t, s.container(t, "client"))
	eventually(t, 35*time.Second, shows(t, "http://"+data, "me:"+next))
	s.healthy(t, images...)
	s.stop(t, images...)
}
