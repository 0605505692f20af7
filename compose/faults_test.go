package compose

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// within is how soon everything must be well again.
const within = 35 * time.Second

// fleet is a server with two clients in front of one file server, each client with a network of its own to the server,
// and a load from a network on which only the server is:
//
//	load ── visitors ── server ─┬─ tunnel-a ── client-a ─┬─ private ── fileserver
//	                            └─ tunnel-b ── client-b ─┘
//
// Everything is as in production but for the names.
type fleet struct {
	t      *testing.T
	prefix string

	mu      sync.Mutex
	reports []report // of the load, the newest last
	more    chan struct{}
}

// report is load's Report.
type report struct {
	OK, Failed, Refused int
	Last, Broke         string
	Oldest, Slowest     float64
	at                  time.Time
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	needImages(t)
	f := &fleet{t: t, prefix: "adit-faults-" + thisRun + "-", more: make(chan struct{})}
	image := loadImage(t)
	t.Cleanup(f.remove)
	for _, network := range []string{"visitors", "tunnel-a", "tunnel-b", "private"} {
		docker(t, "network", "create", "--internal", f.name(network))
	}
	webroot, err := filepath.Abs("quickstart/webroot")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("quickstart/webroot/hello.txt")
	if err != nil {
		t.Fatal(err)
	}
	f.run("fileserver", "adit-fileserver:"+imageTag, []string{"private"}, "WEBROOT=/srv", "--volume="+webroot+":/srv:ro")
	f.run("server", "adit-server:"+imageTag, []string{"visitors", "tunnel-a", "tunnel-b"}, "TOKEN="+token)
	for _, id := range []string{"a", "b"} {
		f.run("client-"+id, "adit-client:"+imageTag, []string{"tunnel-" + id, "private"},
			"TOKEN="+token, "URL=wss://server:8123", "UPSTREAMS=http://fileserver:8080", "CLIENT_ID=client-"+id)
	}
	f.connected("client-a", "client-b")
	f.run("load", image, []string{"visitors"}, "URL=http://server:8000/hello.txt", "WANT="+string(page))
	f.follow()
	return f
}

// loadImage is an image of the program in load/, for the engine's processor.
func loadImage(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "load")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", program, "./load")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+docker(t, "version", "--format={{.Server.Arch}}"))
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build load: %v\n%s", err, out)
	}
	return makeImage(t, "load", map[string]string{"/load": program}, "USER 65532:65532", `ENTRYPOINT ["/load"]`)
}

func (f *fleet) name(short string) string { return f.prefix + short }

// run starts a container on some networks, where it has its short name; settings are variables, or flags of docker run.
func (f *fleet) run(short, image string, networks []string, settings ...string) {
	f.t.Helper()
	args := []string{"run", "--detach", "--name=" + f.name(short), "--hostname=" + short, "--network=" + f.name(networks[0]), "--network-alias=" + short,
		"--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--memory=256m", "--pids-limit=256"}
	for _, s := range settings {
		if !strings.HasPrefix(s, "--") {
			s = "--env=" + s
		}
		args = append(args, s)
	}
	docker(f.t, append(args, image)...)
	for _, network := range networks[1:] {
		docker(f.t, "network", "connect", "--alias="+short, f.name(network), f.name(short))
	}
}

// remove removes all that there may be, also of a fleet that was never complete.
func (f *fleet) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, short := range []string{"load", "client-a", "client-b", "server", "fileserver"} {
		if f.t.Failed() {
			logs, _ := exec.CommandContext(ctx, "docker", "logs", "--tail=40", f.name(short)).CombinedOutput()
			f.t.Logf("%s:\n%s", short, logs)
		}
		_ = exec.CommandContext(ctx, "docker", "rm", "--force", f.name(short)).Run()
	}
	for _, network := range []string{"visitors", "tunnel-a", "tunnel-b", "private"} {
		_ = exec.CommandContext(ctx, "docker", "network", "rm", f.name(network)).Run()
	}
}

// follow reads the reports of the load until the test ends.
func (f *fleet) follow() {
	f.t.Helper()
	cmd := exec.CommandContext(f.t.Context(), "docker", "logs", "--follow", f.name("load"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			r := report{at: time.Now()}
			if json.Unmarshal(lines.Bytes(), &r) == nil {
				f.mu.Lock()
				f.reports = append(f.reports, r)
				close(f.more)
				f.more = make(chan struct{})
				f.mu.Unlock()
			}
		}
		_ = cmd.Wait()
	}()
	f.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
	})
}

// await returns the first report from now on that is good.
func (f *fleet) await(what string, good func(report) bool) report {
	f.t.Helper()
	deadline := time.After(2 * within)
	for {
		f.mu.Lock()
		more := f.more
		var last report
		if n := len(f.reports); n > 0 {
			last = f.reports[n-1]
		}
		f.mu.Unlock()
		if good(last) {
			return last
		}
		select {
		case <-more:
		case <-deadline:
			f.t.Fatalf("%s: in vain, the load says %+v", what, last)
		}
	}
}

// next returns a report that was made after now.
func (f *fleet) next() report {
	f.t.Helper()
	now := time.Now()
	return f.await("a report", func(r report) bool { return r.at.After(now) })
}

// settled waits until all that was under way at from has ended, and as many have been served since.
func (f *fleet) settled(from report) report {
	f.t.Helper()
	return f.await("all that was under way has ended", func(r report) bool {
		return r.OK >= from.OK+200 && time.Duration(r.Oldest*float64(time.Second)) < r.at.Sub(from.at)
	})
}

// unharmed checks that nothing failed since.
func (f *fleet) unharmed(during string, since report) {
	f.t.Helper()
	now := f.settled(since)
	if failed := now.Failed - since.Failed; failed > 0 {
		f.t.Errorf("%s: %d requests failed, the last: %s", during, failed, now.Last)
	}
	f.t.Logf("%s: %d requests, none failed; the slowest until now took %.1f s", during, now.OK-since.OK, now.Slowest)
}

// recovered waits until all is well, which must be soon enough, and then none may fail any more.
func (f *fleet) recovered(after string, from time.Time, clients ...string) {
	f.t.Helper()
	f.connected(clients...)
	was := f.next()
	f.await(after, func(r report) bool { return r.OK > was.OK })
	if took := time.Since(from); took > within {
		f.t.Errorf("%s: all was well only after %v", after, took)
	} else {
		f.t.Logf("%s: all was well after %.1f s", after, took.Seconds())
	}
	f.unharmed("after "+after, f.next())
}

// broken returns how many requests broke that had begun.
func (r report) broken() int { return r.Failed - r.Refused }

// connected waits until the server has just these clients.
func (f *fleet) connected(want ...string) {
	f.t.Helper()
	eventually(f.t, 2*within, func() error {
		out, err := exec.CommandContext(f.t.Context(), "docker", "exec", f.name("server"), "/server", "status", "--json").CombinedOutput()
		if err != nil {
			return fmt.Errorf("status: %w: %s", err, out)
		}
		var status struct{ Clients []struct{ ClientID string } }
		if err := json.Unmarshal(out, &status); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		var have []string
		for _, c := range status.Clients {
			have = append(have, c.ClientID)
		}
		if slices.Sort(have); !slices.Equal(have, want) {
			return fmt.Errorf("connected are %q, not %q", have, want)
		}
		return nil
	})
}

// TestContainersAgainstFaults takes a fleet's networks and containers away under load.
func TestContainersAgainstFaults(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.unharmed("before", f.await("the first report", func(r report) bool { return r.OK > 0 }))

	since := f.next()
	docker(t, "network", "disconnect", f.name("tunnel-a"), f.name("client-a"))
	f.unharmed("client-a without its network", since)
	f.connected("client-b")
	since = f.next()
	now := time.Now()
	docker(t, "network", "connect", f.name("tunnel-a"), f.name("client-a"))
	f.recovered("the network of client-a is back", now, "client-a", "client-b")
	f.unharmed("the return of client-a", since)

	since = f.next()
	docker(t, "pause", f.name("client-b"))
	f.unharmed("client-b frozen", since)
	f.connected("client-a")
	since = f.next()
	now = time.Now()
	docker(t, "unpause", f.name("client-b"))
	f.recovered("client-b thaws", now, "client-a", "client-b")
	f.unharmed("the return of client-b", since)

	// Nobody else serves now: who comes meanwhile is refused, but nothing breaks that has begun.
	since = f.next()
	docker(t, "stop", "--time=40", f.name("server"))
	if code := docker(t, "inspect", "--format={{.State.ExitCode}}", f.name("server")); code != "0" {
		t.Errorf("the server stopped with exit code %s", code)
	}
	now = time.Now()
	docker(t, "start", f.name("server"))
	f.recovered("the server is back", now, "client-a", "client-b")
	r := f.next()
	if r.Refused == since.Refused {
		t.Error("the load has not noticed that the server was gone: it would notice nothing else")
	}
	if r.broken() > since.broken() {
		t.Errorf("%d requests broke while the server was stopped and started, the last of them: %s", r.broken()-since.broken(), r.Broke)
	}

	docker(t, "kill", f.name("server"))
	now = time.Now()
	docker(t, "start", f.name("server"))
	f.recovered("the server was killed", now, "client-a", "client-b")

	for _, id := range []string{"a", "b"} {
		docker(t, "network", "disconnect", f.name("tunnel-"+id), f.name("client-"+id))
	}
	f.connected()
	now = time.Now()
	for _, id := range []string{"a", "b"} {
		docker(t, "network", "connect", f.name("tunnel-"+id), f.name("client-"+id))
	}
	f.recovered("both networks are back", now, "client-a", "client-b")

	docker(t, "kill", f.name("fileserver"))
	now = time.Now()
	docker(t, "start", f.name("fileserver"))
	f.recovered("the file server was killed", now, "client-a", "client-b")
}
