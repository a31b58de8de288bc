package server_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"kigo/engine"
	"kigo/engine/device/devices"
	paced "kigo/engine/device/scripted"
	"kigo/engine/testenv"
	kigov1 "kigo/proto/kigo/v1"
	"kigo/server"
)

const demoModel = "SmolLM2-135M-Instruct.Q4_1.gguf"

// patience bounds every wait of a test; nothing takes nearly as long unless it
// hangs.
const patience = 2 * time.Minute

// fixture is a running server on ports of its own, and clients of it.
type fixture struct {
	*server.Server
	backend   server.Backend
	engine    *engine.Engine // nil with a fake behind
	conn      *grpc.ClientConn
	inference kigov1.InferenceServiceClient
	models    kigov1.ModelServiceClient
	kigo      kigov1.HealthServiceClient
	health    healthpb.HealthClient
	http      string // URL of the HTTP port
	log       *logBuffer

	served chan error // Serve's result, once
}

// logBuffer collects the log; lines come from many goroutines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// testConfig is the default configuration on free ports, without the wait for
// load balancers.
func testConfig() server.Config {
	cfg := server.DefaultConfig()
	cfg.GRPCAddress, cfg.HTTPAddress = "127.0.0.1:0", "127.0.0.1:0"
	cfg.DrainDelay = 0
	return cfg
}

// start serves b until the test ends.
func start(t *testing.T, b server.Backend, e *engine.Engine, set ...func(*server.Config)) *fixture {
	t.Helper()
	f := &fixture{backend: b, engine: e, log: &logBuffer{}, served: make(chan error, 1)}
	cfg := testConfig()
	cfg.Log = zerolog.New(f.log)
	for _, s := range set {
		s(&cfg)
	}
	var err error
	if e != nil {
		f.Server, err = server.New(cfg, e)
	} else {
		f.Server, err = server.NewWithBackend(cfg, b)
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() { f.served <- f.Serve(context.Background()) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := f.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})

	if f.conn, err = grpc.NewClient(f.GRPCAddr().String(), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.conn.Close() })
	f.inference = kigov1.NewInferenceServiceClient(f.conn)
	f.models = kigov1.NewModelServiceClient(f.conn)
	f.kigo = kigov1.NewHealthServiceClient(f.conn)
	f.health = healthpb.NewHealthClient(f.conn)
	if a := f.HTTPAddr(); a != nil {
		f.http = "http://" + a.String()
	}
	return f
}

// newEngine is a real engine without a model on the tests' device, closed when
// the test ends.
func newEngine(t testing.TB, set ...func(*engine.Config)) *engine.Engine {
	t.Helper()
	if raceDetector {
		return newPacedEngine(t, set...) // the demo model is a small one
	}
	cfg := engine.Config{Device: testenv.Device(t), MaxContext: 2048}
	if testenv.OnGPU() {
		cfg.MaxContext = 8192 // 2,048 tokens are over before a test looks at what it began
	}
	return opened(t, cfg, engine.New, set)
}

// newPacedEngine is newEngine for small models: their steps take a while, as a real
// one's do. Hundreds of their tokens are over otherwise before a client looks at
// the first, and nobody is met by what happens in mid-stream.
func newPacedEngine(t testing.TB, set ...func(*engine.Config)) *engine.Engine {
	t.Helper()
	return opened(t, engine.Config{Device: testenv.Device(t), MaxContext: smallContext}, func(cfg engine.Config) (*engine.Engine, error) {
		dev, _, err := devices.Open(devices.Options{Name: cfg.Device, Threads: cfg.Threads})
		if err != nil {
			return nil, err
		}
		return engine.NewOn(cfg, paced.New(dev, func(call string, _ int) error {
			if call == "Run" {
				time.Sleep(time.Millisecond)
			}
			return nil
		}))
	}, set)
}

func opened(t testing.TB, cfg engine.Config, open func(engine.Config) (*engine.Engine, error), set []func(*engine.Config)) *engine.Engine {
	t.Helper()
	for _, s := range set {
		s(&cfg)
	}
	e, err := open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return e
}

// demoFile is the demo model, or under the race detector a small one in its
// place.
func demoFile(t testing.TB) string {
	t.Helper()
	if raceDetector {
		return smallModel(t)
	}
	return testenv.Model(t, demoModel)
}

// loadFile loads a model under the name "demo".
func loadFile(t testing.TB, e *engine.Engine, path string) *engine.ModelInfo {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	info, err := e.Load(t.Context(), engine.LoadRequest{Name: "demo", File: file}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// startDemo serves demoFile.
func startDemo(t *testing.T, set ...func(*server.Config)) *fixture {
	t.Helper()
	e := newEngine(t)
	loadFile(t, e, demoFile(t))
	return start(t, nil, e, set...)
}

// eventually polls until ok, without a fixed wait.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// answer is a whole stream of Execute.
type answer struct {
	started *kigov1.Started
	tokens  []*kigov1.Tokens
	metrics []*kigov1.Metrics
	end     *kigov1.End
	ids     []int32
	text    string
}

// receive reads a stream to its end and checks its shape: started first, then
// tokens without a gap, then one end.
func receive(t testing.TB, stream grpc.ServerStreamingClient[kigov1.ExecuteResponse]) (*answer, error) {
	t.Helper()
	a := &answer{}
	for {
		res, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if a.end == nil {
				t.Error("the stream ended well without an end event")
			}
			return a, nil
		}
		if err != nil {
			if a.end != nil {
				t.Errorf("two terminal statuses: %v and %v", a.end, err)
			}
			return a, err
		}
		a.add(t, res)
	}
}

func (a *answer) add(t testing.TB, res *kigov1.ExecuteResponse) {
	t.Helper()
	if a.end != nil {
		t.Errorf("an event after the end: %v", res)
	}
	if (a.started == nil) != (res.GetStarted() != nil) {
		t.Errorf("started is not the first event, or not the only one: %v", res)
	}
	switch e := res.GetEvent().(type) {
	case *kigov1.ExecuteResponse_Started:
		a.started = e.Started
	case *kigov1.ExecuteResponse_Tokens:
		if len(e.Tokens.GetIds()) > 0 && int(e.Tokens.GetIndex()) != len(a.ids) {
			t.Errorf("tokens at index %d after %d tokens", e.Tokens.GetIndex(), len(a.ids))
		}
		a.tokens = append(a.tokens, e.Tokens)
		a.ids = append(a.ids, e.Tokens.GetIds()...)
		a.text += e.Tokens.GetText()
	case *kigov1.ExecuteResponse_Metrics:
		a.metrics = append(a.metrics, e.Metrics)
	case *kigov1.ExecuteResponse_End:
		a.end = e.End
		if int(e.End.GetGeneratedTokens()) != len(a.ids) {
			t.Errorf("the end counts %d tokens, %d arrived", e.End.GetGeneratedTokens(), len(a.ids))
		}
	default:
		t.Errorf("an event of no kind: %v", res)
	}
}

// execute runs one request to its end.
func (f *fixture) execute(t testing.TB, r *kigov1.ExecuteRequest) (*answer, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := f.inference.Execute(ctx, r)
	if err != nil {
		return nil, err
	}
	return receive(t, stream)
}

// mustExecute is execute for what must succeed.
func (f *fixture) mustExecute(t testing.TB, r *kigov1.ExecuteRequest) *answer {
	t.Helper()
	a, err := f.execute(t, r)
	if err != nil {
		t.Fatalf("%v: %v", r, err)
	}
	return a
}

// ready asks grpc.health.v1 about readiness.
func (f *fixture) check(t testing.TB, service string) healthpb.HealthCheckResponse_ServingStatus {
	t.Helper()
	res, err := f.health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
	if err != nil {
		t.Fatalf("health check of %q: %v", service, err)
	}
	return res.GetStatus()
}

// get fetches a route of the HTTP port.
func (f *fixture) get(t testing.TB, path string) (int, string) {
	t.Helper()
	res, err := http.Get(f.http + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// refusal is an error as a client sees it.
type refusal struct {
	code   codes.Code
	reason string
	fields map[string]string
	retry  time.Duration
	text   string // all of it
}

func refusalOf(t testing.TB, err error) refusal {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	st := status.Convert(err)
	r := refusal{code: st.Code(), fields: map[string]string{}, text: st.Proto().String()}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			r.reason = d.GetReason()
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				r.fields[v.GetField()] = v.GetDescription()
			}
		case *errdetails.RetryInfo:
			r.retry = d.GetRetryDelay().AsDuration()
		}
	}
	return r
}

// errorInfo is the detail that carries a reason.
func errorInfo(reason string) *errdetails.ErrorInfo { return &errdetails.ErrorInfo{Reason: reason} }

// detailsText is the reason and the fields of a status, the fields in order
// and each once.
func detailsText(st *status.Status) (reason string, fields []string) {
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			reason = d.GetReason()
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				fields = append(fields, v.GetField())
			}
		}
	}
	return reason, slices.Compact(sorted(fields))
}

func textRequest(text string, maxTokens int32) *kigov1.ExecuteRequest {
	return &kigov1.ExecuteRequest{
		Prompt:    &kigov1.ExecuteRequest_Text{Text: text},
		MaxTokens: &maxTokens,
		Sampling:  &kigov1.Sampling{Temperature: ptr[float32](0)},
	}
}

func ptr[T any](v T) *T { return &v }

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}

func durationpbZero() *durationpb.Duration { return durationpb.New(0) }
