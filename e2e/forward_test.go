//go:build unix

package e2e

import (
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startForwards starts a client that has nothing but forwards, and returns the address of the first local port.
func startForwards(t testing.TB, s *server, forwards string, env ...string) (client *program, local string) {
	t.Helper()
	client = start(t, "client", environment(append([]string{"URL=wss://" + s.control, "TOKEN=" + s.token, "FORWARDS=" + forwards}, env...)...)...)
	return client, client.await("forwarding").field("addr")
}

// TestForwards reaches services of the server's network from the client's side, as far as the server allows.
func TestForwards(t *testing.T) {
	t.Parallel()
	service, forbidden := says(t, "hello"), says(t, "secret")
	s := startServer(t, "FORWARD_ALLOW="+service+",localhost:"+port(service)+",10.0.0.0/8:*,0.0.0.0/0:"+port(forbidden), "ACCESS_LOG=true")
	client, local := startForwards(t, s, "0:"+service+",0:"+forbidden+",0:localhost:"+port(forbidden)+",0:localhost:"+port(service))
	client.await("connected")
	addr := func(destination string) string {
		t.Helper()
		return client.await("forwarding", "forward", destination).field("addr")
	}
	for range 3 {
		curl(t, "http://"+local+"/").want(t, 200, "hello")
	}
	curl(t, "http://"+addr("localhost:"+port(service))+"/").want(t, 200, "hello")
	s.await("forward", "client_id", client.await("connected").field("client_id"), "destination", service, "reason", "end")

	// Loopback is allowed where it is named, not by a network that it is in; and so is a name that leads there.
	for _, destination := range []string{forbidden, "localhost:" + port(forbidden)} {
		if got := curl(t, "http://"+addr(destination)+"/"); got.exit != 56 && got.exit != 52 && got.exit != 7 {
			t.Errorf("%s: got %d %q, want the connection to be reset (curl: %d)", destination, got.code, got.body, got.exit)
		}
		client.await("cannot forward", "level", "warn", "forward", destination, "error", "the server does not allow "+destination+": FORWARD_ALLOW there has no pattern for it")
		s.await("forward refused", "level", "warn", "destination", destination)
	}
	mark := s.mark()
	if got := curl(t, "http://"+addr(forbidden)+"/"); got.exit == 0 {
		t.Errorf("got %d %q", got.code, got.body)
	}
	for _, e := range s.log.from(mark) {
		if e.is("forward refused") {
			t.Errorf("the client asks again for what was denied: %s", e.text)
		}
	}
	must(t, answers("http://"+s.metrics+"/metrics", "adit_forward_connections_total 4"))
	must(t, answers("http://"+s.metrics+"/metrics", `adit_forward_refused_total{reason="denied"} 2`))
	must(t, answers("http://"+client.addr("metrics")+"/metrics", `adit_forward_connections_total{forward="127.0.0.1:0:`+service+`"} 3`))
	must(t, answers("http://"+client.addr("metrics")+"/metrics", `adit_forward_refused_total{reason="denied"} 3`))
}

// TestForwardRedis has a program that people know use a forward in the same way as the service itself.
func TestForwardRedis(t *testing.T) {
	t.Parallel()
	redis, cli := needProgram(t, "redis-server", "redis-server"), needProgram(t, "redis-cli", "redis-tools")
	private, addr := privatePort(t)
	serve(t, syscall.SIGTERM, addr, redis, "--port", private, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", t.TempDir())
	s := startServer(t, "FORWARD_ALLOW="+addr)
	client, local := startForwards(t, s, "0:"+addr)
	client.await("connected")
	value := strings.Repeat("a value of many bytes, ", 200_000)
	ask := func(port, in string, words ...string) string {
		t.Helper()
		return visitor{in: strings.NewReader(in)}.run(t, append([]string{cli, "-h", "127.0.0.1", "-p", port}, words...)...)
	}
	ask(port(local), value, "-x", "SET", "large")
	for _, port := range []string{private, port(local)} {
		if got := ask(port, "", "--raw", "GET", "large"); got != value+"\n" {
			t.Errorf("port %s: got %d bytes back, want %d", port, len(got), len(value)+1)
		}
	}
}

// TestNoForwards has a server that does none.
func TestNoForwards(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	client, local := startForwards(t, s, "0:10.0.0.2:80", "UPSTREAMS=http://"+says(t, "hello"))
	client.await("the server does no forwards: set FORWARD_ALLOW there, or update it if it is too old")
	client.await("connected")
	if got := curl(t, "http://"+local+"/"); got.exit == 0 {
		t.Errorf("got %d %q", got.code, got.body)
	}
	must(t, answers(s.url("/"), "hello"))
	only, _ := startForwards(t, s, "0:10.0.0.2:80")
	only.await("cannot connect", "error", "set FORWARD_ALLOW on the server, or UPSTREAMS on the client")
}

// TestForwardReturns restarts the server: the local port stays, a connection meanwhile waits, and what the new server
// does not allow is refused.
func TestForwardReturns(t *testing.T) {
	t.Parallel()
	service := says(t, "hello")
	s := startServer(t, "FORWARD_ALLOW="+service)
	client, local := startForwards(t, s, "0:"+service)
	client.await("connected")
	curl(t, "http://"+local+"/").want(t, 200, "hello")
	s.kill()
	client.await("connection lost")
	waiting := make(chan string, 1)
	go func() {
		code, body, err := get("http://"+local+"/", "")
		waiting <- fmt.Sprint(code, " ", body, " ", err)
	}()
	again := startServer(t, "TOKEN="+s.token, "CONTROL_PORT="+port(s.control), "FORWARD_ALLOW="+service)
	if got := receive(t, waiting); got != "200 hello <nil>" {
		t.Errorf("a connection in between got %s", got)
	}
	again.stop()
	mark := client.mark()
	startServer(t, "TOKEN="+s.token, "CONTROL_PORT="+port(s.control), "FORWARD_ALLOW=10.0.0.2:80")
	client.awaitFrom(mark, "connected")
	if got := curl(t, "http://"+local+"/"); got.exit == 0 {
		t.Errorf("got %d %q", got.code, got.body)
	}
	client.awaitFrom(mark, "cannot forward", "error", "does not allow")
}

// TestForwardSeveralServers has a client of two servers, of which one allows it.
func TestForwardSeveralServers(t *testing.T) {
	t.Parallel()
	service := says(t, "hello")
	first := startServer(t, "FORWARD_ALLOW=10.0.0.2:80")
	second := startServer(t, "FORWARD_ALLOW="+service, "TOKEN="+first.token)
	client, local := startForwards(t, first, "0:"+service, "URL=wss://"+first.control+",wss://"+second.control)
	client.await("connected", "url", second.control)
	curl(t, "http://"+local+"/").want(t, 200, "hello")
	first.kill()
	curl(t, "http://"+local+"/").want(t, 200, "hello")
}

// TestForwardDrains stops either side with a connection under way, which is finished; the local port is closed at once
// where the client stops.
func TestForwardDrains(t *testing.T) {
	t.Parallel()
	for _, who := range []string{"client", "server"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			service, addr := newHeld(t)
			s := startServer(t, "FORWARD_ALLOW="+addr)
			client, local := startForwards(t, s, "0:"+addr)
			client.await("connected")
			done := service.visit(t, "http://"+local+"/")
			stopped := client
			if who == "server" {
				stopped = s.program
			}
			stopped.signal(syscall.SIGTERM)
			if who == "client" {
				client.await("draining", "streams", "1")
				eventually(t, func() error {
					conn, err := net.Dial("tcp", local)
					if err == nil {
						conn.Close()
						return fmt.Errorf("the local port is open")
					}
					return nil
				})
			} else {
				client.await("server is leaving")
			}
			close(service.release)
			if got := receive(t, done); got != whole {
				t.Errorf("the connection got %s", got)
			}
			if state := stopped.wait(); state.ExitCode() != 0 {
				t.Errorf("ended with %v", state)
			}
			stopped.never("drain cut off")
		})
	}
	t.Run("up to a limit", func(t *testing.T) {
		t.Parallel()
		service, addr := newHeld(t)
		s := startServer(t, "FORWARD_ALLOW="+addr)
		client, local := startForwards(t, s, "0:"+addr, "DRAIN_TIMEOUT=200ms")
		client.await("connected")
		done := service.visit(t, "http://"+local+"/")
		begun := time.Now()
		client.stop()
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("took %s", took)
		}
		if got := receive(t, done); got == whole || !strings.Contains(got, "first part") {
			t.Errorf("the connection got %s", got)
		}
		close(service.release)
	})
}

// TestForwardBulk carries much both ways, whichever way it takes, and every byte is in the access log.
func TestForwardBulk(t *testing.T) {
	t.Parallel()
	const size = 48 << 20
	want := hashOf(testData(size))
	sender := newRelay(t, func(_ *relay, conn net.Conn) { _, _ = io.Copy(conn, testData(size)) }).addr()
	taker := hashService(t, "taker")
	s := startServer(t, "FORWARD_ALLOW="+sender+","+taker, "ACCESS_LOG=true")
	client, _ := startForwards(t, s, "0:"+sender+",0:"+taker)
	client.await("connected")
	conn, err := net.DialTimeout("tcp", client.await("forwarding", "forward", sender).field("addr"), patience)
	must(t, err)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if got := hashOf(conn); got != want {
		t.Error("what came is not what was sent")
	}
	_ = conn.Close()
	answer := fmt.Sprintf("taker %d %s", size, want)
	if got, err := ask(client.await("forwarding", "forward", taker).field("addr"), size); got != answer {
		t.Errorf("got %q %v, want %q", got, err, answer)
	}
	for destination, bytes := range map[string][2]int{sender: {0, size}, taker: {size, len(answer)}} {
		e := s.await("forward", "destination", destination, "reason", "end")
		if got, want := fmt.Sprintf("%.0f %.0f", e.fields["received"], e.fields["sent"]), fmt.Sprint(bytes[0], " ", bytes[1]); got != want {
			t.Errorf("%s: logged %s bytes, want %s", destination, got, want)
		}
	}
}
