//go:build unix

package grpc

import (
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// TestInterop runs the tests that the implementations of gRPC share; one that fails ends
// the process.
func TestInterop(t *testing.T) {
	_, cert, key := newCertificate(t)
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	must(t, err)
	_, plain := service(t, ":0", interop.NewTestServer())
	_, secure := service(t, ":0", interop.NewTestServer(), grpc.Creds(credentials.NewServerTLSFromCert(&pair)))
	for _, upstream := range []string{"h2c://" + plain, "https://" + secure + "?http2=true&insecure=true"} {
		tun := newTunnel(t, upstream)
		for name, overTLS := range map[string]bool{"TLS": true, "h2c": false} {
			cc := tun.dial(overTLS)
			client := testgrpc.NewTestServiceClient(cc)
			for test, do := range map[string]func(context.Context){
				"empty unary":                 func(ctx context.Context) { interop.DoEmptyUnaryCall(ctx, client) },
				"large unary":                 func(ctx context.Context) { interop.DoLargeUnaryCall(ctx, client) },
				"client streaming":            func(ctx context.Context) { interop.DoClientStreaming(ctx, client) },
				"server streaming":            func(ctx context.Context) { interop.DoServerStreaming(ctx, client) },
				"ping pong":                   func(ctx context.Context) { interop.DoPingPong(ctx, client) },
				"empty stream":                func(ctx context.Context) { interop.DoEmptyStream(ctx, client) },
				"timeout on sleeping server":  func(ctx context.Context) { interop.DoTimeoutOnSleepingServer(ctx, client) },
				"cancel after begin":          func(ctx context.Context) { interop.DoCancelAfterBegin(ctx, client) },
				"cancel after first response": func(ctx context.Context) { interop.DoCancelAfterFirstResponse(ctx, client) },
				"custom metadata":             func(ctx context.Context) { interop.DoCustomMetadata(ctx, client) },
				"status code and message":     func(ctx context.Context) { interop.DoStatusCodeAndMessage(ctx, client) },
				"special status message":      func(ctx context.Context) { interop.DoSpecialStatusMessage(ctx, client) },
				"unimplemented method":        func(ctx context.Context) { interop.DoUnimplementedMethod(ctx, cc) },
				"unimplemented service": func(ctx context.Context) {
					interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(cc))
				},
			} {
				t.Run(strings.SplitN(upstream, ":", 2)[0]+"/"+name+"/"+test, func(t *testing.T) { do(call(t)) })
			}
		}
	}
}

// echo is a service whose streams answer each message with its own, and which tells what it
// is told.
type echo struct {
	testgrpc.UnimplementedTestServiceServer
	begun chan context.Context // nil: nobody wants to know
}

func (e *echo) note(ctx context.Context) {
	if e.begun != nil {
		e.begun <- ctx
	}
}

func (e *echo) UnaryCall(ctx context.Context, req *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	e.note(ctx)
	if req.GetResponseSize() < 0 { // never
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &testgrpc.SimpleResponse{Payload: req.GetPayload()}, nil
}

func (e *echo) FullDuplexCall(stream testgrpc.TestService_FullDuplexCallServer) error {
	e.note(stream.Context())
	for {
		req, err := stream.Recv()
		if err != nil {
			return nil
		}
		if s := req.GetResponseStatus(); s != nil {
			return status.Error(codes.Code(s.GetCode()), s.GetMessage())
		}
		if err := stream.Send(&testgrpc.StreamingOutputCallResponse{Payload: req.GetPayload()}); err != nil {
			return err
		}
	}
}

func message(text string) *testgrpc.StreamingOutputCallRequest {
	return &testgrpc.StreamingOutputCallRequest{Payload: &testgrpc.Payload{Body: []byte(text)}}
}

// exchange sends a message on a stream and wants it back.
func exchange(stream testgrpc.TestService_FullDuplexCallClient, text string) error {
	if err := stream.Send(message(text)); err != nil {
		return err
	}
	resp, err := stream.Recv()
	if err == nil && string(resp.GetPayload().GetBody()) != text {
		err = fmt.Errorf("%q has come back for %q", resp.GetPayload().GetBody(), text)
	}
	return err
}

// connections counts the connections of a server.
type connections struct{ begun atomic.Int64 }

func (*connections) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*connections) HandleRPC(context.Context, stats.RPCStats)                         {}
func (*connections) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (c *connections) HandleConn(_ context.Context, s stats.ConnStats) {
	if _, ok := s.(*stats.ConnBegin); ok {
		c.begun.Add(1)
	}
}

// TestManyStreams has 1,000 streams open at once over one connection of a visitor.
func TestManyStreams(t *testing.T) {
	const many = 1000
	var conns connections
	_, addr := service(t, ":0", &echo{}, grpc.StatsHandler(&conns))
	tun := newTunnel(t, "h2c://"+addr, fmt.Sprint("H2_MAX_REQUESTS=", many))
	client := testgrpc.NewTestServiceClient(tun.dial(true))
	var open sync.WaitGroup
	var work sync.WaitGroup
	open.Add(many)
	ctx := call(t)
	for i := range many {
		work.Go(func() {
			stream, err := client.FullDuplexCall(ctx)
			if err == nil {
				err = exchange(stream, fmt.Sprint("first ", i))
			}
			open.Done()
			open.Wait() // all are open now
			if err == nil {
				err = exchange(stream, fmt.Sprint("second ", i))
			}
			if err == nil {
				_ = stream.CloseSend()
				if _, err = stream.Recv(); err.Error() == "EOF" {
					err = nil
				}
			}
			if err != nil {
				t.Errorf("stream %d: %v", i, err)
			}
		})
	}
	work.Wait()
	if n := conns.begun.Load(); n != 1 {
		t.Errorf("the service had %d connections, want 1", n)
	}
}

// TestManyCalls has more calls at once than a connection may have under way: the rest wait
// in the visitor.
func TestManyCalls(t *testing.T) {
	_, addr := service(t, ":0", &echo{})
	tun := newTunnel(t, "h2c://"+addr)
	client := testgrpc.NewTestServiceClient(tun.dial(true))
	var work sync.WaitGroup
	ctx := call(t)
	for range 2000 {
		work.Go(func() {
			if _, err := client.UnaryCall(ctx, &testgrpc.SimpleRequest{Payload: &testgrpc.Payload{Body: make([]byte, 1000)}}); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
}

func TestLargeMessages(t *testing.T) {
	_, addr := service(t, ":0", &echo{})
	tun := newTunnel(t, "h2c://"+addr)
	body := []byte(strings.Repeat("0123456789abcdef", 1<<20))
	for _, overTLS := range []bool{true, false} {
		client := testgrpc.NewTestServiceClient(tun.dial(overTLS))
		resp, err := client.UnaryCall(call(t), &testgrpc.SimpleRequest{Payload: &testgrpc.Payload{Body: body}})
		must(t, err)
		if string(resp.GetPayload().GetBody()) != string(body) {
			t.Error("another message has come back")
		}
	}
}

// TestContext wants deadlines, metadata and the end of the visitor's interest to arrive.
func TestContext(t *testing.T) {
	slow := &echo{begun: make(chan context.Context, 1)}
	_, addr := service(t, ":0", slow)
	tun := newTunnel(t, "h2c://"+addr)
	client := testgrpc.NewTestServiceClient(tun.dial(true))
	for _, test := range []struct {
		name string
		end  func(ctx context.Context) (context.Context, context.CancelFunc)
		code codes.Code
	}{
		{"deadline", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 300*time.Millisecond)
		}, codes.DeadlineExceeded},
		{"cancelled", context.WithCancel, codes.Canceled},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := test.end(metadata.AppendToOutgoingContext(call(t), "x-text", "a", "x-text", "b", "x-bytes-bin", "\x00\xff"))
			defer cancel()
			result := make(chan error, 1)
			go func() {
				_, err := client.UnaryCall(ctx, &testgrpc.SimpleRequest{ResponseSize: -1})
				result <- err
			}()
			there := <-slow.begun
			md, _ := metadata.FromIncomingContext(there)
			if strings.Join(md["x-text"], ",") != "a,b" || strings.Join(md["x-bytes-bin"], ",") != "\x00\xff" {
				t.Errorf("metadata is %v", md)
			}
			if md["x-forwarded-proto"][0] != "https" || md["x-forwarded-for"][0] != "127.0.0.1" {
				t.Errorf("the visitor is %v", md)
			}
			if _, ok := there.Deadline(); !ok {
				t.Error("no deadline has arrived")
			}
			if test.code == codes.Canceled {
				cancel()
			}
			if err := <-result; status.Code(err) != test.code {
				t.Errorf("the visitor got %v", err)
			}
			select {
			case <-there.Done():
			case <-time.After(patience):
				t.Error("the service does not hear of it")
			}
		})
	}
}

// TestUpstreamDies wants the codes that clients of gRPC try again on.
func TestUpstreamDies(t *testing.T) {
	s, addr := service(t, ":0", &echo{})
	tun := newTunnel(t, "grpc.test=h2c://"+addr)
	for _, overTLS := range []bool{true, false} {
		if _, err := testgrpc.NewTestServiceClient(tun.dial(overTLS)).EmptyCall(call(t), &testgrpc.Empty{}); status.Code(err) != codes.Unimplemented ||
			!strings.Contains(err.Error(), "nothing is exposed under this host") {
			t.Errorf("a host that nobody serves: %v", err)
		}
	}
	tun = newTunnel(t, "h2c://"+addr)
	client := testgrpc.NewTestServiceClient(tun.dial(true))
	stream, err := client.FullDuplexCall(call(t))
	must(t, err)
	must(t, exchange(stream, "hello"))
	waiting, err := client.FullDuplexCall(call(t)) // which has no head yet
	must(t, err)
	must(t, waiting.Send(message("unread")))
	_, err = waiting.Recv()
	must(t, err)

	s.Stop()
	for range 2 {
		if _, err = stream.Recv(); status.Code(err) != codes.Unavailable {
			t.Errorf("in the middle of a stream: %v", err)
		}
		stream = waiting
	}
	if _, err = client.UnaryCall(call(t), &testgrpc.SimpleRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("while it is gone: %v", err)
	}
	service(t, port(addr), &echo{})
	if _, err = client.UnaryCall(call(t), &testgrpc.SimpleRequest{}); err != nil {
		t.Errorf("when it is back: %v", err)
	}

	tun.client.stop()
	if _, err = client.UnaryCall(call(t), &testgrpc.SimpleRequest{}); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "not connected") {
		t.Errorf("without a client: %v", err)
	}
}

// TestUpstreamLeaves has a service end in good order under load: no call is lost, since
// another one serves the route.
func TestUpstreamLeaves(t *testing.T) {
	leaving, first := service(t, ":0", &echo{})
	_, second := service(t, ":0", &echo{})
	tun := newTunnel(t, "h2c://"+first)
	tun.join("h2c://" + second)
	client := testgrpc.NewTestServiceClient(tun.dial(true))
	var calls atomic.Int64
	stop := make(chan struct{})
	var work sync.WaitGroup
	for range 8 {
		work.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := client.UnaryCall(call(t), &testgrpc.SimpleRequest{}); err != nil {
					t.Errorf("a call failed with %v", err)
					return
				}
				calls.Add(1)
			}
		})
	}
	more := func() { // calls are made before what follows
		for until := calls.Load() + 200; calls.Load() < until && !t.Failed(); {
			_, err := client.UnaryCall(call(t), &testgrpc.SimpleRequest{})
			must(t, err)
		}
	}
	more()
	leaving.GracefulStop()
	more()
	close(stop)
	work.Wait()
}

// TestServerDrains has the tunnel's server end while a stream is open: that finishes.
func TestServerDrains(t *testing.T) {
	_, addr := service(t, ":0", &echo{})
	tun := newTunnel(t, "h2c://"+addr)
	client := testgrpc.NewTestServiceClient(tun.dial(true))
	stream, err := client.FullDuplexCall(call(t))
	must(t, err)
	must(t, exchange(stream, "before"))
	must(t, tun.server.cmd.Process.Signal(syscall.SIGTERM))
	tun.server.await("draining", "data plane TLS", "server")
	must(t, exchange(stream, "meanwhile"))
	must(t, stream.Send(&testgrpc.StreamingOutputCallRequest{ResponseStatus: &testgrpc.EchoStatus{Code: 42, Message: "the end"}}))
	if _, err := stream.Recv(); status.Code(err) != 42 || status.Convert(err).Message() != "the end" {
		t.Errorf("the end is %v", err)
	}
	<-tun.server.done
}
