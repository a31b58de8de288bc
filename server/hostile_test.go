package server_test

import (
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"kigo/engine"
	kigov1 "kigo/proto/kigo/v1"
	"kigo/server"
)

// attacker sends what nobody should, on connections of its own. Its methods
// may be called from many goroutines.
type attacker struct {
	grpc, http net.Addr
	inference  kigov1.InferenceServiceClient
	models     kigov1.ModelServiceClient
	kigo       kigov1.HealthServiceClient
	health     healthpb.HealthClient
	client     *http.Client
}

// hostile is one hostile request and its exact outcome: over gRPC the code, the
// reason and the fields as [outcome] writes them, over HTTP the status code
// before the reason, on the wire what [wireAnswer] says.
type hostile struct {
	name string
	want string
	send func(ctx context.Context, a *attacker) string
}

// hostileConfig has times that a test can wait for.
func hostileConfig(dir string) func(*server.Config) {
	return func(c *server.Config) {
		c.ModelDir = dir
		c.ConnectionTimeout = 2 * time.Second
		c.KeepaliveTime, c.KeepaliveTimeout = time.Second, time.Second
	}
}

// hostileDir is a model directory in which nothing but "good.gguf" is a model.
func hostileDir(t *testing.T, model string) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, dir, "text.gguf", "not a model at all")
	writeFile(t, dir, "short.gguf", "GGUF\x03\x00\x00\x00")
	for _, err := range []error{
		os.Mkdir(filepath.Join(dir, "folder"), 0o755),
		syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o644),
		os.Symlink("/etc/hostname", filepath.Join(dir, "link")),
		os.Rename(model, filepath.Join(dir, "good.gguf")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func newAttacker(t *testing.T, f *fixture) (a *attacker, leave func()) {
	t.Helper()
	conn, err := grpc.NewClient(f.GRPCAddr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	a = &attacker{
		grpc: f.GRPCAddr(), http: f.HTTPAddr(),
		inference: kigov1.NewInferenceServiceClient(conn),
		models:    kigov1.NewModelServiceClient(conn),
		kigo:      kigov1.NewHealthServiceClient(conn),
		health:    healthpb.NewHealthClient(conn),
		client:    &http.Client{Transport: transport},
	}
	return a, func() {
		conn.Close()
		transport.CloseIdleConnections()
	}
}

// Hostile requests of every kind, each answered with its own code and reason,
// beside 16 good streams that get, bit for bit, what they get alone. Afterwards
// no block, no stream, no call and no goroutine is left.
func TestHostileRequestsHarmNobody(t *testing.T) {
	table := append(append(hostileCalls(), hostileWires()...), hostileBodies()...)
	requests := max(100, len(table))
	if long() {
		requests = 1000
	}
	e := newPacedEngine(t, func(c *engine.Config) { c.MaxConcurrent, c.MaxQueue, c.MaxContext = 24, 1024, badContext })
	model := smallModel(t)
	loadFile(t, e, model)
	f := start(t, nil, e, hostileConfig(hostileDir(t, model)))

	good := goodRequests()
	alone := make([]*answer, len(good))
	for i, r := range good {
		alone[i] = f.mustExecute(t, r)
	}
	f.idle(t)
	goroutines := runtime.NumGoroutine()

	ctx, cancel := context.WithTimeout(t.Context(), 5*patience)
	defer cancel()
	a, leave := newAttacker(t, f)
	over := make(chan struct{})
	var neighbours, attack sync.WaitGroup
	for i, r := range good {
		neighbours.Go(func() {
			for rounds := 0; ; rounds++ {
				select {
				case <-over:
					if rounds == 0 {
						t.Errorf("neighbour %d was not there during the attack", i)
					}
					return
				default:
				}
				got, err := f.execute(t, r)
				if err != nil {
					t.Errorf("neighbour %d, round %d: %v", i, rounds, err)
					return
				}
				if !sameStream(got, alone[i]) {
					t.Errorf("neighbour %d, round %d: %q, alone %q", i, rounds, got.text, alone[i].text)
				}
			}
		})
	}
	work := make(chan hostile)
	for range 8 {
		attack.Go(func() {
			for h := range work {
				if got := h.send(ctx, a); got != h.want {
					t.Errorf("%s: %s, want %s", h.name, got, h.want)
				}
			}
		})
	}
	random := rand.New(rand.NewPCG(7, 1))
	for sent := 0; sent < requests; {
		for _, i := range random.Perm(len(table))[:min(len(table), requests-sent)] {
			work <- table[i]
			sent++
		}
	}
	close(work)
	attack.Wait()
	close(over)
	neighbours.Wait()
	leave()

	for i, r := range good {
		if got := f.mustExecute(t, r); !sameStream(got, alone[i]) {
			t.Errorf("afterwards neighbour %d gets %q, before it was %q", i, got.text, alone[i].text)
		}
	}
	f.leftNothing(t, goroutines)
	t.Logf("%d hostile requests of %d kinds", requests, len(table))
}

// leftNothing checks that the server is as it was when it had so many
// goroutines.
func (f *fixture) leftNothing(t testing.TB, goroutines int) {
	t.Helper()
	f.idle(t)
	eventually(t, "the calls' places", func() bool { return f.CallsInFlight() == 0 })
	if st := f.engine.Status(); st.KVUsed != 0 || st.Running != 0 || st.Waiting != 0 {
		t.Errorf("left behind: %d blocks, %d running, %d waiting", st.KVUsed, st.Running, st.Waiting)
	}
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > goroutines; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), goroutines, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// goodRequests is 16 requests that differ in all that matters.
func goodRequests() []*kigov1.ExecuteRequest {
	var all []*kigov1.ExecuteRequest
	for i := range 16 {
		r := textRequest([]string{"The sea is", "Once upon a time, in a land far away,", "x", "1, 2, 3,"}[i%4], int32(20+i))
		r.Sampling = &kigov1.Sampling{Temperature: ptr(float32(i%3) / 2), Seed: ptr(uint64(i)), IgnoreEnd: ptr(true)}
		r.Logprobs = ptr(int32(i % 5))
		r.CorrelationId = ptr("good")
		all = append(all, r)
	}
	return all
}

// sameStream compares all of two streams but the request's id and the times.
func sameStream(a, b *answer) bool {
	if !proto.Equal(joined(a.tokens), joined(b.tokens)) || a.started.GetSeed() != b.started.GetSeed() ||
		a.started.GetPromptTokens() != b.started.GetPromptTokens() {
		return false
	}
	x, y := proto.Clone(a.end).(*kigov1.End), proto.Clone(b.end).(*kigov1.End)
	x.Timings, y.Timings = nil, nil
	return proto.Equal(x, y)
}
