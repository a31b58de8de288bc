package server_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"kigo/engine"
	kigov1 "kigo/proto/kigo/v1"
	"kigo/server"
)

// A device that is lost turns health, ends every stream with one status, and
// ends Serve with an error that the process can exit with.
func TestLesson_HealthTurnsWithALostDevice(t *testing.T) {
	t.Parallel()
	lost := make(chan struct{})
	b := newFake()
	submits(b, func() server.TokenStream {
		return &fakeStream{next: func(ctx context.Context, n int) (engine.Event, error) {
			if n < 3 {
				return tokenEvent(n, "x"), nil
			}
			<-lost
			return engine.Event{}, engine.ErrDeviceLost
		}}
	})
	f := start(t, b, nil, func(c *server.Config) { c.HealthAddress = "127.0.0.1:0" })

	watch, err := f.health.Watch(t.Context(), &healthpb.HealthCheckRequest{Service: "liveness"})
	if err != nil {
		t.Fatal(err)
	}
	if res, err := watch.Recv(); err != nil || res.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("liveness before: %v, %v", res, err)
	}
	stream, err := f.inference.Execute(t.Context(), textRequest("a", 10))
	if err != nil {
		t.Fatal(err)
	}
	for range 4 { // started and three tokens
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	b.set(func(s *engine.Status) { s.State, s.Failure = engine.StateFailed, engine.ErrDeviceLost })
	close(lost)

	if res, err := watch.Recv(); err != nil || res.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("liveness after: %v, %v", res, err)
	}
	_, err = stream.Recv()
	if r := refusalOf(t, err); r.code != codes.Unavailable || r.reason != "DEVICE_LOST" {
		t.Errorf("the stream ended with %v %s", r.code, r.reason)
	}
	if err := <-f.served; !errors.Is(err, engine.ErrDeviceLost) {
		t.Errorf("Serve returned %v", err)
	}
}

func TestFullQueueSaysWhenToRetry(t *testing.T) {
	t.Parallel()
	b := newFake()
	b.submit = func(context.Context, engine.Request) (server.TokenStream, error) {
		return nil, &engine.RetryError{Err: engine.ErrQueueFull, After: 3 * time.Second}
	}
	f := start(t, b, nil)
	_, err := f.execute(t, textRequest("a", 1))
	if r := refusalOf(t, err); r.code != codes.ResourceExhausted || r.reason != "QUEUE_FULL" || r.retry != 3*time.Second {
		t.Errorf("over gRPC: %+v", r)
	}
	res := f.post(t, `{"prompt": "a"}`)
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	if res.StatusCode != 429 || res.Header.Get("Retry-After") != "3" || !strings.Contains(string(body), "QUEUE_FULL") {
		t.Errorf("over HTTP: %d, retry after %q: %s", res.StatusCode, res.Header.Get("Retry-After"), body)
	}
	// A full queue is no reason to be taken out of service.
	if got := f.check(t, "readiness"); got != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("readiness with a full queue: %v", got)
	}
}

// A panic ends its own call with INTERNAL; the server goes on, and the panic's
// text stays in the log.
func TestPanicsAreRecovered(t *testing.T) {
	t.Parallel()
	b := newFake()
	b.load = func(context.Context, engine.LoadRequest, func(engine.LoadProgress)) (*engine.ModelInfo, error) {
		panic("boom in load")
	}
	dir := t.TempDir()
	writeFile(t, dir, "a.gguf", "x")
	f := start(t, b, nil, func(c *server.Config) { c.ModelDir = dir })

	for name, submit := range map[string]func(context.Context, engine.Request) (server.TokenStream, error){
		"boom in submit": func(context.Context, engine.Request) (server.TokenStream, error) { panic("boom in submit") },
		"boom in next": func(context.Context, engine.Request) (server.TokenStream, error) {
			return &fakeStream{next: func(context.Context, int) (engine.Event, error) { panic("boom in next") }}, nil
		},
	} {
		b.submit = submit
		_, err := f.execute(t, textRequest("a", 1))
		if r := refusalOf(t, err); r.code != codes.Internal || strings.Contains(r.text, "boom") {
			t.Errorf("%s over gRPC: %+v", name, r)
		}
		res := f.post(t, `{"prompt": "a"}`)
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if !strings.Contains(string(body), "INTERNAL") || strings.Contains(string(body), "boom") {
			t.Errorf("%s over HTTP: %d %s", name, res.StatusCode, body)
		}
		if !strings.Contains(f.log.String(), name) {
			t.Errorf("%s is not in the log", name)
		}
	}
	stream, err := f.models.Load(t.Context(), &kigov1.LoadRequest{Path: "a.gguf"})
	if err == nil {
		_, err = stream.Recv()
	}
	if r := refusalOf(t, err); r.code != codes.Internal || strings.Contains(r.text, "boom") {
		t.Errorf("load: %+v", r)
	}
	if !strings.Contains(f.log.String(), "faults_test.go") {
		t.Error("the log has no stack that leads to the panic")
	}

	submits(b, func() server.TokenStream { return scripted("fine") })
	if a := f.mustExecute(t, textRequest("a", 1)); a.text != "fine" {
		t.Errorf("after the panics: %q", a.text)
	}
}

// An engine that breaks its promise never makes a stream look well ended.
func TestStreamWithoutEndIsAnError(t *testing.T) {
	t.Parallel()
	f := start(t, submits(newFake(), func() server.TokenStream { return failing(1, io.EOF) }), nil)
	_, err := f.execute(t, textRequest("a", 1))
	if r := refusalOf(t, err); r.code != codes.Internal {
		t.Errorf("a stream without an end: %+v", r)
	}
}

// A client that does not read holds nothing for longer than SendTimeout: the
// engine's request is cancelled, and the call ends with a status.
func TestStalledClientIsLetGo(t *testing.T) {
	t.Parallel()
	cancelled := make(chan struct{})
	b := newFake()
	chunk := strings.Repeat("x", 32<<10)
	b.submit = func(ctx context.Context, _ engine.Request) (server.TokenStream, error) {
		context.AfterFunc(ctx, func() { close(cancelled) })
		return &fakeStream{next: func(ctx context.Context, n int) (engine.Event, error) {
			return tokenEvent(n, chunk), ctx.Err()
		}}, nil
	}
	f := start(t, b, nil, func(c *server.Config) { c.SendTimeout = 200 * time.Millisecond })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := f.inference.Execute(ctx, textRequest("a", 10))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-cancelled:
	case <-ctx.Done():
		t.Fatal("the engine's request was never cancelled")
	}
	eventually(t, "the call's place", func() bool { return f.CallsInFlight() == 0 })
	for err == nil {
		_, err = stream.Recv()
	}
	if r := refusalOf(t, err); r.code != codes.ResourceExhausted || r.reason != "SLOW_READER" {
		t.Errorf("the stream ended with %v %s", r.code, r.reason)
	}
}

// The limit of calls holds over gRPC and HTTP together, and probes are not
// counted.
func TestCallsAreLimited(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	b := newFake()
	submits(b, func() server.TokenStream {
		return &fakeStream{next: func(ctx context.Context, n int) (engine.Event, error) {
			select {
			case <-release:
			case <-ctx.Done():
				return engine.Event{}, ctx.Err()
			}
			return engine.Event{End: &engine.End{Reason: engine.StopEnd, StopID: -1}}, nil
		}}
	})
	f := start(t, b, nil, func(c *server.Config) { c.MaxStreams = 1 })
	first, err := f.inference.Execute(t.Context(), textRequest("a", 1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Recv(); err != nil {
		t.Fatal(err)
	}
	_, err = f.execute(t, textRequest("a", 1))
	if r := refusalOf(t, err); r.code != codes.ResourceExhausted || r.reason != "TOO_MANY_CALLS" || r.retry == 0 {
		t.Errorf("over gRPC: %+v", r)
	}
	res := f.post(t, `{"prompt": "a"}`)
	res.Body.Close()
	if res.StatusCode != 429 {
		t.Errorf("over HTTP: %d", res.StatusCode)
	}
	if got := f.check(t, "readiness"); got != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("readiness while busy: %v", got)
	}
	close(release)
	if res, err := first.Recv(); err != nil || res.GetEnd() == nil {
		t.Errorf("the first stream: %v, %v", res, err)
	}
	if _, err := first.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the first stream's end: %v", err)
	}
	eventually(t, "the place", func() bool { return f.CallsInFlight() == 0 })
	f.mustExecute(t, textRequest("a", 1))
}

// A request that has not arrived takes no place, over gRPC or HTTP.
func TestUnfinishedRequestsTakeNoPlace(t *testing.T) {
	t.Parallel()
	f := start(t, submits(newFake(), func() server.TokenStream { return scripted("x") }), nil,
		func(c *server.Config) { c.MaxStreams = 1 })
	w, err := dialWire(f.GRPCAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	w.shakeHands()
	for range 10 {
		w.data(w.headers("/kigo.v1.InferenceService/Execute", false), false, []byte{0, 0, 0, 0, 9})
	}
	slow, err := net.Dial("tcp", f.HTTPAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	if _, err := io.WriteString(slow, "POST /execute HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	// The streams above have come when one of the same connection is answered.
	if got := w.call("/kigo.v1.HealthService/Health", nil).String(); got != "OK" {
		t.Fatal(got)
	}
	for range 3 {
		f.mustExecute(t, textRequest("a", 1))
		eventually(t, "the place", func() bool { return f.CallsInFlight() == 0 })
	}
}

// An error in mid-stream is an event over HTTP, since the code has been sent.
func TestErrorAfterTokensOverHTTP(t *testing.T) {
	t.Parallel()
	f := start(t, submits(newFake(), func() server.TokenStream { return failing(2, engine.ErrSlowReader) }), nil)
	res := f.post(t, `{"prompt": "a"}`)
	defer res.Body.Close()
	events := readEvents(t, res.Body)
	if res.StatusCode != 200 || len(events) != 4 || events[3].name != "error" || !strings.Contains(events[3].data, "SLOW_READER") {
		t.Errorf("%d: %v", res.StatusCode, events)
	}
}

// An expired deadline and a cancelled call never reach the engine's queue.
func TestExpiredOnArrival(t *testing.T) {
	t.Parallel()
	var submitted atomic.Int32
	b := newFake()
	b.submit = func(context.Context, engine.Request) (server.TokenStream, error) {
		submitted.Add(1)
		return scripted("x"), nil
	}
	f := start(t, b, nil)
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	stream, err := f.inference.Execute(ctx, textRequest("a", 1))
	if err == nil {
		_, err = stream.Recv()
	}
	if r := refusalOf(t, err); r.code != codes.DeadlineExceeded || submitted.Load() != 0 {
		t.Errorf("%v after %d submits", r.code, submitted.Load())
	}
}
