package server_test

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"kigo/engine/testenv"
	kigov1 "kigo/proto/kigo/v1"
	"kigo/server"
)

// These tests are named after the failures in the predecessor's records that
// they guard against. They drive the real engine from outside, over TCP.

// Health answered while every request failed. Here the client that sees ready
// succeeds at once, over gRPC and over HTTP, and before that it is told that
// there is no model.
func TestLesson_ReadyMeansExecuteSucceeds(t *testing.T) {
	t.Parallel()
	path := demoFile(t)
	f := start(t, nil, newEngine(t), func(c *server.Config) { c.ModelDir = filepath.Dir(path) })

	if _, err := f.execute(t, textRequest("Hello", 1)); refusalOf(t, err).reason != "NO_MODEL_LOADED" {
		t.Errorf("without a model: %v", err)
	}
	if code, _ := f.get(t, "/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("/readyz without a model: %d", code)
	}

	// Clients that wait for readiness, each in its own way, and then execute.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	results := make(chan error, 3)
	watch, err := f.health.Watch(ctx, &healthpb.HealthCheckRequest{Service: "readiness"})
	if err != nil {
		t.Fatal(err)
	}
	if res, err := watch.Recv(); err != nil || res.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Fatalf("without a model: %v, %v", res, err)
	}
	executeOnce := func() error {
		stream, err := f.inference.Execute(ctx, textRequest("Hello", 1))
		for err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.OK && err.Error() != "EOF" {
			return err
		}
		return nil
	}
	go func() {
		res, err := watch.Recv()
		if err != nil || res.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			results <- errors.Join(errors.New("watch"), err)
			return
		}
		results <- executeOnce()
	}()
	go func() {
		for {
			res, err := f.health.Check(ctx, &healthpb.HealthCheckRequest{Service: kigov1.InferenceService_ServiceDesc.ServiceName})
			if err != nil {
				results <- err
				return
			}
			if res.GetStatus() == healthpb.HealthCheckResponse_SERVING {
				break
			}
		}
		results <- executeOnce()
	}()
	go func() {
		for {
			res, err := http.Get(f.http + "/readyz")
			if err != nil {
				results <- err
				return
			}
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				break
			}
		}
		res, err := http.Post(f.http+"/execute", "application/json", strings.NewReader(`{"prompt": "Hello", "max_tokens": 1}`))
		if err != nil {
			results <- err
			return
		}
		defer res.Body.Close()
		if events := readEvents(t, res.Body); res.StatusCode != http.StatusOK || events[len(events)-1].name != "end" {
			err = errors.New(res.Status)
		}
		results <- err
	}()

	stream, err := f.models.Load(ctx, &kigov1.LoadRequest{Path: filepath.Base(path)})
	if err != nil {
		t.Fatal(err)
	}
	var model *kigov1.Model
	for model == nil {
		res, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		model = res.GetModel()
	}
	if !model.GetVerified() || model.GetArchitecture() != "llama" {
		t.Errorf("loaded %v", model)
	}
	// Whoever saw the load succeed is never told that the server is not ready.
	if got := f.check(t, "readiness"); got != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("readiness after the load: %v", got)
	}
	for range 3 {
		if err := <-results; err != nil {
			t.Errorf("ready, but the first request failed: %v", err)
		}
	}
}

// Execute buffered everything and then streamed it. Here the first token
// arrives when the device has run fewer steps than the request takes: the
// engine's own count of steps says so, and the last token is only made because
// the client lets it be.
func TestLesson_FirstTokenArrivesBeforeLastIsGenerated(t *testing.T) {
	t.Parallel()
	f := startDemo(t)
	endless := func() *kigov1.ExecuteRequest {
		r := textRequest("Once upon a time", 500)
		r.Sampling.IgnoreEnd = ptr(true)
		return r
	}

	t.Run("gRPC", func(t *testing.T) {
		before := f.engine.Status().Steps
		stream, err := f.inference.Execute(t.Context(), endless())
		if err != nil {
			t.Fatal(err)
		}
		a := &answer{}
		for len(a.ids) == 0 {
			res, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			a.add(t, res)
		}
		if steps := f.engine.Status().Steps - before; steps >= 500 {
			t.Errorf("%d steps had run when the first token arrived", steps)
		}
		if _, err := f.inference.Cancel(t.Context(), &kigov1.CancelRequest{RequestId: a.started.GetRequestId()}); err != nil {
			t.Fatal(err)
		}
		for a.end == nil {
			res, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			a.add(t, res)
		}
		if a.end.GetStopReason() != kigov1.StopReason_STOP_REASON_CANCELLED || len(a.ids) >= 500 {
			t.Errorf("ended with %v after %d tokens", a.end.GetStopReason(), len(a.ids))
		}
	})

	t.Run("HTTP", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.http+"/execute",
			strings.NewReader(`{"prompt": "Once upon a time", "max_tokens": 500, "ignore_end": true}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		before := f.engine.Status().Steps
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		scanner := bufio.NewScanner(res.Body)
		for scanner.Scan() && scanner.Text() != "event: tokens" {
		}
		if steps := f.engine.Status().Steps - before; scanner.Err() != nil || steps >= 500 {
			t.Errorf("%d steps had run when the first token arrived: %v", steps, scanner.Err())
		}
	})
	f.idle(t)
}

// idle waits until the engine has nothing to do.
func (f *fixture) idle(t testing.TB) {
	t.Helper()
	eventually(t, "the engine at rest", func() bool {
		st := f.engine.Status()
		return st.Running == 0 && st.Waiting == 0 && st.BusySince.IsZero()
	})
}

// Cancel was a no-op. Here each way of ending a request stops the steps: after
// it, a request of known length takes exactly its own steps, and no others run.
func TestLesson_CancelStopsTheSteps(t *testing.T) {
	t.Parallel()
	f := startDemo(t)
	probe := textRequest("a b c", 4)
	probe.Sampling.IgnoreEnd = ptr(true)
	f.mustExecute(t, probe)
	f.idle(t)
	before := f.engine.Status().Steps
	f.mustExecute(t, probe)
	f.idle(t)
	alone := f.engine.Status().Steps - before

	endless := textRequest("Once upon a time", 0)
	endless.MaxTokens = nil
	endless.Sampling.IgnoreEnd = ptr(true)

	// begin starts an endless request and returns with its first token.
	begin := func(t *testing.T, ctx context.Context, c kigov1.InferenceServiceClient) (grpc.ServerStreamingClient[kigov1.ExecuteResponse], *answer) {
		t.Helper()
		stream, err := c.Execute(ctx, endless)
		if err != nil {
			t.Fatal(err)
		}
		a := &answer{}
		for len(a.ids) == 0 {
			res, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			a.add(t, res)
		}
		return stream, a
	}
	// ending reads on to the terminal status.
	ending := func(t *testing.T, stream grpc.ServerStreamingClient[kigov1.ExecuteResponse], a *answer) error {
		t.Helper()
		for {
			res, err := stream.Recv()
			if err != nil {
				return err
			}
			a.add(t, res)
		}
	}

	for _, c := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"Cancel", func(t *testing.T) {
			stream, a := begin(t, t.Context(), f.inference)
			if _, err := f.inference.Cancel(t.Context(), &kigov1.CancelRequest{RequestId: a.started.GetRequestId()}); err != nil {
				t.Fatal(err)
			}
			if err := ending(t, stream, a); err.Error() != "EOF" || a.end.GetStopReason() != kigov1.StopReason_STOP_REASON_CANCELLED {
				t.Errorf("ended with %v, %v", a.end, err)
			}
			// It is gone.
			_, err := f.inference.Cancel(t.Context(), &kigov1.CancelRequest{RequestId: a.started.GetRequestId()})
			if r := refusalOf(t, err); r.code != codes.NotFound || r.reason != "REQUEST_NOT_FOUND" {
				t.Errorf("a second Cancel: %+v", r)
			}
		}},
		{"client cancels", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			stream, a := begin(t, ctx, f.inference)
			cancel()
			if err := ending(t, stream, a); status.Code(err) != codes.Canceled {
				t.Errorf("ended with %v", err)
			}
		}},
		{"deadline", func(t *testing.T) {
			patient := 3 * time.Second
			if testenv.OnGPU() {
				patient = 300 * time.Millisecond // a GPU is through the whole context in 3 s
			}
			ctx, cancel := context.WithTimeout(t.Context(), patient)
			defer cancel()
			stream, a := begin(t, ctx, f.inference)
			if err := ending(t, stream, a); status.Code(err) != codes.DeadlineExceeded {
				t.Errorf("ended with %v", err)
			}
		}},
		{"gRPC connection closed", func(t *testing.T) {
			conn, err := grpc.NewClient(f.GRPCAddr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				t.Fatal(err)
			}
			begin(t, t.Context(), kigov1.NewInferenceServiceClient(conn))
			conn.Close()
		}},
		{"TCP connection reset", func(t *testing.T) {
			var raw net.Conn
			conn, err := grpc.NewClient(f.GRPCAddr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
					c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
					raw = c
					return c, err
				}))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			begin(t, t.Context(), kigov1.NewInferenceServiceClient(conn))
			_ = raw.(*net.TCPConn).SetLinger(0) // a reset instead of an orderly end
			raw.Close()
		}},
		{"HTTP connection closed", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.http+"/execute", strings.NewReader(`{"prompt": "a", "ignore_end": true}`))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			scanner := bufio.NewScanner(res.Body)
			for scanner.Scan() && scanner.Text() != "event: tokens" {
			}
			cancel()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.run(t)
			f.idle(t)
			st := f.engine.Status()
			if st.KVUsed != 0 {
				t.Errorf("%d KV blocks are still in use", st.KVUsed)
			}
			f.mustExecute(t, probe)
			f.idle(t)
			if steps := f.engine.Status().Steps - st.Steps; steps != alone {
				t.Errorf("%d steps for a request that takes %d alone: something still runs", steps, alone)
			}
		})
	}
}

// Temperature was hard-coded and the seed replaced: the same seed says the same
// again, another one something else.
func TestLesson_SameSeedSameText(t *testing.T) {
	t.Parallel()
	f := startDemo(t)
	run := func(seed uint64, temperature float32) *answer {
		r := textRequest("My favourite animal is", 6)
		r.Sampling = &kigov1.Sampling{
			Seed: &seed, Temperature: &temperature, TopK: ptr[int32](0), TopP: ptr[float32](1), MinP: ptr[float32](0), IgnoreEnd: ptr(true),
		}
		a := f.mustExecute(t, r)
		if a.started.GetSeed() != seed {
			t.Errorf("asked for seed %d, used %d", seed, a.started.GetSeed())
		}
		return a
	}
	same := run(7, 1.5)
	if again := run(7, 1.5); again.text != same.text {
		t.Errorf("seed 7 said %q and then %q", same.text, again.text)
	}
	if other := run(8, 1.5); other.text == same.text {
		t.Errorf("seeds 7 and 8 both said %q", other.text)
	}
	if a, b := run(7, 0), run(8, 0); a.text != b.text || a.text == same.text {
		t.Errorf("greedy said %q and %q, sampled %q", a.text, b.text, same.text)
	}
}

// Stop strings were never matched. Here the text ends before one, however the
// tokens cut it.
func TestLesson_StopStringsEndTheText(t *testing.T) {
	t.Parallel()
	f := startDemo(t)
	r := textRequest("One two three", 12)
	r.Sampling.IgnoreEnd = ptr(true)
	whole := f.mustExecute(t, r)
	runes := []rune(whole.text)
	if len(runes) < 4 {
		t.Fatalf("too short a text to stop in: %q", whole.text)
	}
	stop := string(runes[len(runes)/2 : len(runes)/2+2])
	want, _, _ := strings.Cut(whole.text, stop)
	r.Stop = []string{"never in the text at all", stop}
	a := f.mustExecute(t, r)
	if a.text != want || a.end.GetStopReason() != kigov1.StopReason_STOP_REASON_SEQUENCE || a.end.GetStopText() != stop {
		t.Errorf("stopped at %q: %q and %v; the whole is %q", stop, a.text, a.end, whole.text)
	}
	if len(a.ids) >= len(whole.ids) {
		t.Errorf("all %d tokens were generated", len(a.ids))
	}
	r.Stop, r.StopIds = nil, []int32{whole.ids[3]}
	a = f.mustExecute(t, r)
	if a.end.StopId == nil || a.end.GetStopId() != whole.ids[3] || a.end.GetStopReason() != kigov1.StopReason_STOP_REASON_SEQUENCE {
		t.Errorf("stopped at id %d: %v", whole.ids[3], a.end)
	}
}
