package server_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"kigo/engine"
	kigov1 "kigo/proto/kigo/v1"
	"kigo/server"
)

// stillServes checks that the model of before is in service, alone on the
// device, and says what it said.
func (f *fixture) stillServes(t testing.TB, after string, alone *answer, before engine.Status) {
	t.Helper()
	f.idle(t)
	list, err := f.models.List(t.Context(), &kigov1.ListRequest{})
	if err != nil || len(list.GetModels()) != 1 || list.GetModels()[0].GetName() != before.Model.Name {
		t.Errorf("%s: the models are %v (%v)", after, list.GetModels(), err)
	}
	// The KV cache's memory comes and goes with the requests.
	rest := func(st engine.Status) uint64 { return st.Device.MemoryUsed - st.Model.Memory.KV }
	// A model that was replaced is freed after its last stream has ended.
	eventually(t, after+": the KV cache as before", func() bool { return f.engine.Status().KVTotal == before.KVTotal })
	if st := f.engine.Status(); st.State != engine.StateReady || rest(st) != rest(before) {
		t.Errorf("%s: status %+v, before %+v", after, st, before)
	}
	if got, err := f.execute(t, historyRequest("x", 30, 1)); err != nil || !sameStream(got, alone) {
		t.Errorf("%s: the model now says %v (%v)", after, got, err)
	}
}

// gatedEngine is the engine, whose loads stop at each step of their progress
// for at to look at them.
type gatedEngine struct {
	*engine.Engine
	mu sync.Mutex
	at func(context.Context, engine.LoadProgress)
}

func (g *gatedEngine) Submit(ctx context.Context, r engine.Request) (server.TokenStream, error) {
	s, err := g.Engine.Submit(ctx, r)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (g *gatedEngine) Load(ctx context.Context, r engine.LoadRequest, progress func(engine.LoadProgress)) (*engine.ModelInfo, error) {
	g.mu.Lock()
	at := g.at
	g.mu.Unlock()
	return g.Engine.Load(ctx, r, func(p engine.LoadProgress) {
		progress(p)
		if at != nil {
			at(ctx, p)
		}
	})
}

func (g *gatedEngine) gate(at func(context.Context, engine.LoadProgress)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.at = at
}

// startGated serves a small model as "demo", and has "next.gguf" in its folder.
func startGated(t *testing.T) (*fixture, *gatedEngine, string) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "next.gguf")
	if err := os.Rename(smallModelOf(t, 2), path); err != nil {
		t.Fatal(err)
	}
	g := &gatedEngine{Engine: newPacedEngine(t, func(c *engine.Config) { c.MaxContext = 512 })}
	loadFile(t, g.Engine, smallModel(t))
	f := start(t, g, nil, func(c *server.Config) { c.ModelDir = dir })
	f.engine = g.Engine
	return f, g, path
}

// loadStages are those that a load can be ended in.
var loadStages = []engine.LoadStage{
	engine.StageParse, engine.StageRead, engine.StageVerify, engine.StageCompile, engine.StageWarmUp,
}

// A load that its caller gives up, in whatever way and at whatever stage, ends
// then, and the model that is there goes on.
func TestAbandonedLoadsLeaveTheOldModelServing(t *testing.T) {
	t.Parallel()
	f, g, _ := startGated(t)
	alone := f.mustExecute(t, historyRequest("x", 30, 1))
	before := g.Status()
	for _, stage := range loadStages {
		for name, end := range map[string]func(*struckConn, context.CancelFunc) string{
			"cancel": func(_ *struckConn, cancel context.CancelFunc) string { cancel(); return "Canceled" },
			"close":  func(c *struckConn, _ context.CancelFunc) string { c.tcp().Close(); return "Unavailable" },
			"reset": func(c *struckConn, _ context.CancelFunc) string {
				_ = c.tcp().SetLinger(0)
				c.tcp().Close()
				return "Unavailable"
			},
			"deadline": nil,
		} {
			name = fmt.Sprintf("%s in stage %d", name, stage)
			reached, ended := make(chan struct{}), make(chan struct{})
			var once sync.Once
			g.gate(func(ctx context.Context, p engine.LoadProgress) {
				if p.Stage == stage {
					once.Do(func() { // a stage may tell of itself more than once
						close(reached)
						<-ctx.Done() // by its caller alone
						close(ended)
					})
				}
			})
			conn := dialStruck(t, f)
			ctx, cancel := context.WithCancel(t.Context())
			if end == nil {
				ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
			}
			result := make(chan string, 1)
			go func() {
				stream, err := kigov1.NewModelServiceClient(conn).Load(ctx, &kigov1.LoadRequest{Path: "next.gguf", Replace: ptr(true)})
				for err == nil {
					_, err = stream.Recv()
				}
				result <- outcome(err)
			}()
			want := "DeadlineExceeded"
			if end != nil {
				<-reached
				// Meanwhile, another one is refused, and requests are answered.
				_, _, err := f.load(t, &kigov1.LoadRequest{Path: "next.gguf", Name: ptr("third"), Replace: ptr(true)})
				if got := outcome(err); got != "FailedPrecondition LOAD_IN_PROGRESS" {
					t.Errorf("%s: a second load: %s", name, got)
				}
				if got, err := f.execute(t, historyRequest("x", 30, 1)); err != nil || !sameStream(got, alone) {
					t.Errorf("%s: during the load the model says %v (%v)", name, got, err)
				}
				want = end(conn, cancel)
			}
			<-ended
			if got := <-result; got != want && got != want+" DEADLINE_EXCEEDED" {
				t.Errorf("%s: the load ended with %s, want %s", name, got, want)
			}
			cancel()
			conn.Close()
			g.gate(nil)
			eventually(t, "the load's end", func() bool { return f.CallsInFlight() == 0 })
			f.stillServes(t, name, alone, before)
		}
	}
}

// A file that changes or shrinks under a load costs the load alone.
func TestFileThatChangesLeavesTheOldModelServing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, want string
		stage      engine.LoadStage
		change     func(path string) error
	}{
		{"another time", "Aborted FILE_CHANGED", engine.StageVerify, func(path string) error {
			return os.Chtimes(path, time.Now(), time.Now().Add(time.Hour))
		}},
		{"another byte", "Aborted FILE_CHANGED", engine.StageCompile, func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.Write([]byte{0})
			return err
		}},
		{"cut off", "DataLoss FILE_TRUNCATED", engine.StageRead, func(path string) error { return os.Truncate(path, 100_000) }},
	} {
		f, g, path := startGated(t)
		alone := f.mustExecute(t, historyRequest("x", 30, 1))
		before := g.Status()
		var once sync.Once
		g.gate(func(_ context.Context, p engine.LoadProgress) {
			if p.Stage == c.stage {
				once.Do(func() {
					if err := c.change(path); err != nil {
						t.Error(err)
					}
				})
			}
		})
		_, _, err := f.load(t, &kigov1.LoadRequest{Path: "next.gguf", Replace: ptr(true)})
		if got := outcome(err); got != c.want {
			t.Errorf("%s: %s, want %s: %v", c.name, got, c.want, err)
		}
		f.stillServes(t, c.name, alone, before)
	}
}

// A shutdown ends a load at whatever stage, and the streams of the model that
// is there come to their own end.
func TestShutdownEndsLoads(t *testing.T) {
	t.Parallel()
	for _, stage := range loadStages {
		f, g, _ := startGated(t)
		alone := f.mustExecute(t, historyRequest("x", 30, 1))
		reached := make(chan struct{})
		var once sync.Once
		g.gate(func(ctx context.Context, p engine.LoadProgress) {
			if p.Stage == stage {
				once.Do(func() { close(reached) })
				<-ctx.Done()
			}
		})
		result := make(chan error, 1)
		go func() {
			_, _, err := f.load(t, &kigov1.LoadRequest{Path: "next.gguf", Replace: ptr(true)})
			result <- err
		}()
		<-reached
		stream, err := f.inference.Execute(t.Context(), historyRequest("x", 30, 1))
		if err != nil {
			t.Fatal(err)
		}
		res, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if r := refusalOf(t, <-result); r.code != codes.Unavailable || r.reason != "SHUTTING_DOWN" {
			t.Errorf("stage %d: the load ended with %v %s", stage, r.code, r.reason)
		}
		got := &answer{}
		for got.add(t, res); got.end == nil; got.add(t, res) {
			if res, err = stream.Recv(); err != nil {
				t.Fatalf("stage %d: the stream ended with %v", stage, err)
			}
		}
		if !slices.Equal(got.ids, alone.ids) {
			t.Errorf("stage %d: the stream has %v, alone %v", stage, got.ids, alone.ids)
		}
		if err := <-f.served; err != nil {
			t.Errorf("stage %d: Serve: %v", stage, err)
		}
	}
}

// Loads that fail, are refused, given up or cut off at random moments, one
// after another, beside streams that notice nothing. Those that come too late
// to be ended put the same model in the place of the old one.
func TestLoadsComeAndGo(t *testing.T) {
	loads := 60
	if long() {
		loads = 1000
	}
	dir := t.TempDir()
	bad := map[string]string{}
	for i, c := range badFiles(t) {
		name := fmt.Sprintf("%d %s", i, c.name)
		writeFile(t, dir, name, string(c.data))
		bad[name] = c.code.String() + " " + c.reason
	}
	same := smallModel(t)
	if err := os.Link(same, filepath.Join(dir, "same.gguf")); err != nil {
		t.Fatal(err)
	}
	e := newPacedEngine(t, func(c *engine.Config) { c.MaxContext = 512 })
	loadFile(t, e, same)
	f := start(t, nil, e, func(c *server.Config) { c.ModelDir = dir })
	alone := f.mustExecute(t, historyRequest("x", 30, 1))
	f.idle(t)
	before, goroutines := e.Status(), runtime.NumGoroutine()

	over := make(chan struct{})
	var neighbours sync.WaitGroup
	for range 4 {
		neighbours.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				if got, err := f.execute(t, historyRequest("x", 30, 1)); err != nil || !sameStream(got, alone) {
					t.Errorf("a stream beside the loads ended with %v", err)
					return
				}
			}
		})
	}
	random := rand.New(rand.NewPCG(8, 9))
	names := make([]string, 0, len(bad))
	for name := range bad {
		names = append(names, name)
	}
	slices.Sort(names)
	tally := map[string]int{}
	for i := range loads {
		conn := dialStruck(t, f)
		ctx, cancel := context.WithCancel(t.Context())
		r := &kigov1.LoadRequest{Path: "same.gguf", Name: ptr("demo"), Replace: ptr(true)}
		allowed := []string{"OK"}
		after := time.Duration(random.IntN(20_000)) * time.Microsecond
		strike := func() {}
		switch i % 5 {
		case 0:
			r.Path = names[random.IntN(len(names))]
			allowed = []string{bad[r.Path]}
		case 1:
			r.Name, r.Replace = ptr("other"), nil
			allowed = []string{"FailedPrecondition MODEL_ALREADY_LOADED"}
		case 2:
			strike = cancel
			allowed = append(allowed, "Canceled")
		case 3:
			strike = func() {
				if c := conn.tcp(); c != nil {
					_ = c.SetLinger(0)
					c.Close()
				}
			}
			allowed = append(allowed, "Unavailable")
		case 4:
			ctx, cancel = context.WithTimeout(t.Context(), after)
			allowed = append(allowed, "DeadlineExceeded", "DeadlineExceeded DEADLINE_EXCEEDED")
		}
		timer := time.AfterFunc(after, strike)
		got := "FailedPrecondition LOAD_IN_PROGRESS"
		for got == "FailedPrecondition LOAD_IN_PROGRESS" { // the one before is ending
			stream, err := kigov1.NewModelServiceClient(conn).Load(ctx, r)
			for err == nil {
				_, err = stream.Recv()
			}
			got = outcome(err)
		}
		timer.Stop()
		cancel()
		conn.Close()
		tally[got]++
		if !slices.Contains(allowed, got) {
			t.Errorf("load %d of %s: %s, want one of %q", i, r.GetPath(), got, allowed)
		}
	}
	close(over)
	neighbours.Wait()
	f.stillServes(t, "all loads", alone, before)
	f.leftNothing(t, goroutines)
	t.Logf("%v", tally)
}
