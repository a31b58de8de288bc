package server_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"kigo/engine"
	kigov1 "kigo/proto/kigo/v1"
	"kigo/server"
)

func TestListensOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	def := server.DefaultConfig()
	for _, addr := range []string{def.GRPCAddress, def.HTTPAddress} {
		host, _, err := net.SplitHostPort(addr)
		if err != nil || !net.ParseIP(host).IsLoopback() || def.Insecure || def.HealthAddress != "" || def.AdminAddress != "" {
			t.Errorf("the default listens on %q", addr)
		}
	}
	for _, c := range []struct {
		name    string
		set     func(*server.Config)
		refused bool
	}{
		{"loopback", func(*server.Config) {}, false},
		{"localhost", func(c *server.Config) { c.GRPCAddress = "localhost:0" }, false},
		{"all interfaces, gRPC", func(c *server.Config) { c.GRPCAddress = "0.0.0.0:0" }, true},
		{"no host, gRPC", func(c *server.Config) { c.GRPCAddress = ":0" }, true},
		{"all interfaces, HTTP", func(c *server.Config) { c.HTTPAddress = "[::]:0" }, true},
		{"all interfaces, admin", func(c *server.Config) { c.AdminAddress = ":0" }, true},
		{"insecure, admin", func(c *server.Config) { c.AdminAddress, c.Insecure = ":0", true }, false},
		{"insecure", func(c *server.Config) { c.GRPCAddress, c.HTTPAddress, c.Insecure = "0.0.0.0:0", ":0", true }, false},
		{"health alone", func(c *server.Config) { c.HealthAddress = "0.0.0.0:0" }, false},
	} {
		cfg := testConfig()
		c.set(&cfg)
		s, err := server.NewWithBackend(cfg, newFake())
		if s != nil {
			s.Close()
		}
		if errors.Is(err, server.ErrNotLoopback) != c.refused || (err != nil) != c.refused {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.refused && !strings.Contains(err.Error(), "--insecure") {
			t.Errorf("%s: the error does not say how to allow it: %v", c.name, err)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	_, err := server.NewWithBackend(server.Config{DrainDelay: -1}, newFake())
	if err == nil {
		t.Fatal("an empty configuration was accepted")
	}
	for _, name := range []string{"GRPCAddress", "MaxStreams", "MaxMessageBytes", "KeepaliveTime", "DrainTimeout", "DrainDelay"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("the error does not name %s: %v", name, err)
		}
	}
	cfg := testConfig()
	cfg.ModelDir = "/no/such/folder"
	if s, err := server.NewWithBackend(cfg, newFake()); err == nil {
		s.Close()
		t.Error("a model directory that is not there was accepted")
	}
	cfg = testConfig()
	cfg.GRPCAddress = "127.0.0.1:notaport"
	if s, err := server.NewWithBackend(cfg, newFake()); err == nil {
		s.Close()
		t.Error("an address that is none was accepted")
	}
}

// The health listener serves health and nothing else.
func TestHealthListenerServesHealthOnly(t *testing.T) {
	t.Parallel()
	f := start(t, newFake(), nil, func(c *server.Config) { c.HealthAddress = "127.0.0.1:0" })
	conn, err := grpc.NewClient(f.HealthAddr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	res, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: "readiness"})
	if err != nil || res.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("Check: %v, %v", res, err)
	}
	if _, err := kigov1.NewHealthServiceClient(conn).Health(t.Context(), &kigov1.HealthRequest{}); err != nil {
		t.Errorf("Health: %v", err)
	}
	_, err = kigov1.NewModelServiceClient(conn).List(t.Context(), &kigov1.ListRequest{})
	if refusalOf(t, err).code != codes.Unimplemented {
		t.Errorf("List on the health listener: %v", err)
	}
}

// Health goes false before anything is refused, streams that are running are
// finished, and Serve waits for them.
func TestDrainFinishesStreams(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	drained := make(chan struct{})
	b := newFake()
	submits(b, func() server.TokenStream {
		return &fakeStream{next: func(ctx context.Context, n int) (engine.Event, error) {
			if n == 0 {
				return tokenEvent(0, "x"), nil
			}
			select {
			case <-release:
			case <-ctx.Done():
				return engine.Event{}, ctx.Err()
			}
			return engine.Event{End: &engine.End{Reason: engine.StopEnd, StopID: -1, GeneratedTokens: 1}}, nil
		}}
	})
	b.drain = func(ctx context.Context) error {
		close(drained)
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	f := start(t, b, nil)
	watch, err := f.health.Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if res, err := watch.Recv(); err != nil || res.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("before: %v, %v", res, err)
	}
	stream, err := f.inference.Execute(t.Context(), textRequest("a", 2))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}

	down := make(chan error, 1)
	go func() { down <- f.Shutdown(context.Background()) }()
	if res, err := watch.Recv(); err != nil || res.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("while draining: %v, %v", res, err)
	}
	<-drained
	if res, err := f.kigo.Health(t.Context(), &kigov1.HealthRequest{}); err != nil || res.GetReady() || !res.GetLive() ||
		res.GetStatus() != kigov1.HealthStatus_HEALTH_STATUS_DRAINING {
		t.Errorf("Health while draining: %v, %v", res, err)
	}
	select {
	case err := <-f.served:
		t.Fatalf("Serve returned with a stream running: %v", err)
	default:
	}
	close(release)
	if res, err := stream.Recv(); err != nil || res.GetEnd() == nil {
		t.Errorf("the stream: %v, %v", res, err)
	}
	if err := <-down; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if err := <-f.served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err := watch.Recv(); refusalOf(t, err).code != codes.Unavailable {
		t.Errorf("the watch ended with %v", err)
	}
	if _, err := net.Dial("tcp", f.GRPCAddr().String()); err == nil {
		t.Error("the listener is still open")
	}
}

// What does not end by its deadline is ended, and Serve says so.
func TestDrainHasADeadline(t *testing.T) {
	t.Parallel()
	b := newFake()
	ended := make(chan struct{})
	submits(b, func() server.TokenStream {
		return &fakeStream{next: func(ctx context.Context, _ int) (engine.Event, error) {
			select {
			case <-ended:
				return engine.Event{}, engine.ErrDraining
			case <-ctx.Done():
				return engine.Event{}, ctx.Err()
			}
		}}
	})
	b.drain = func(ctx context.Context) error {
		<-ctx.Done() // streams run on until then
		close(ended)
		return ctx.Err()
	}
	f := start(t, b, nil, func(c *server.Config) { c.DrainTimeout = 50 * time.Millisecond })
	stream, err := f.inference.Execute(t.Context(), textRequest("a", 1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if err := f.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	if r := refusalOf(t, err); r.code != codes.Unavailable || r.reason != "SHUTTING_DOWN" {
		t.Errorf("the stream ended with %v %s", r.code, r.reason)
	}
	if err := <-f.served; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Serve: %v", err)
	}
}

// The delay before draining is for load balancers: requests are still served.
func TestDrainDelayStillServes(t *testing.T) {
	t.Parallel()
	f := start(t, submits(newFake(), func() server.TokenStream { return scripted("x") }), nil,
		func(c *server.Config) { c.DrainDelay = 2 * time.Second })
	down := make(chan error, 1)
	go func() { down <- f.Shutdown(context.Background()) }()
	eventually(t, "not ready", func() bool {
		code, _ := f.get(t, "/readyz")
		return code == http.StatusServiceUnavailable
	})
	f.mustExecute(t, textRequest("a", 1))
	if err := <-down; err != nil {
		t.Error(err)
	}
}

func TestServeOnce(t *testing.T) {
	t.Parallel()
	f := start(t, newFake(), nil)
	f.mustBeUp(t)
	if err := f.Serve(t.Context()); err == nil {
		t.Error("a second Serve was accepted")
	}
	if err := f.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	f.Close() // nothing left to do
}

// mustBeUp waits for the server's first answer.
func (f *fixture) mustBeUp(t testing.TB) {
	t.Helper()
	if _, err := f.kigo.Health(t.Context(), &kigov1.HealthRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
}

func TestReflectionCanBeOff(t *testing.T) {
	t.Parallel()
	on := start(t, newFake(), nil)
	off := start(t, newFake(), nil, func(c *server.Config) { c.Reflection = false })
	if out, err := grpcurl(t, "-plaintext", on.GRPCAddr().String(), "list"); err != nil || !strings.Contains(out, "kigo.v1.InferenceService") {
		t.Errorf("with reflection: %v: %s", err, out)
	}
	if out, err := grpcurl(t, "-plaintext", off.GRPCAddr().String(), "list"); err == nil || !strings.Contains(out, "reflection") {
		t.Errorf("without reflection: %v: %s", err, out)
	}
}
