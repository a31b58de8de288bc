package server_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"kigo/engine"
	"kigo/engine/gguf"
	kigov1 "kigo/proto/kigo/v1"
	"kigo/server"
)

// badModels are files that no load survives, with what Load says of them.
func badModels(t *testing.T, dir string) map[string]string {
	t.Helper()
	whole, err := os.ReadFile(smallModel(t))
	if err != nil {
		t.Fatal(err)
	}
	file, err := gguf.Parse(bytes.NewReader(whole), int64(len(whole)), gguf.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string]string{}
	put := func(name, want string, content []byte) {
		writeFile(t, dir, name, string(content))
		bad[name] = want
	}
	// changed has bytes at an offset written over.
	changed := func(at int64, b ...byte) []byte {
		c := slices.Clone(whole)
		copy(c[at:], b)
		return c
	}
	made := func(name, want string, edit func(*smallParts)) {
		if err := os.Rename(smallModelWith(t, 1, edit), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		bad[name] = want
	}
	data := func(tensor string) int64 {
		x, ok := file.Tensor(tensor)
		if !ok {
			t.Fatalf("no tensor %q", tensor)
		}
		return x.Offset
	}
	// The type stands after the name, the number of dimensions and the one
	// dimension that a norm has.
	norm := int64(bytes.Index(whole, []byte("output_norm.weight"))) + int64(len("output_norm.weight")) + 4 + 8

	put("empty", "DataLoss FILE_TRUNCATED", nil)
	put("text", "InvalidArgument INVALID_FILE", []byte("not a model at all, but long enough to be one"))
	put("cut in the header", "DataLoss FILE_TRUNCATED", whole[:1000])
	put("cut in the data", "DataLoss FILE_TRUNCATED", whole[:len(whole)-1000])
	put("version 99", "InvalidArgument UNSUPPORTED_FILE", changed(4, 99))
	put("more metadata than bytes", "DataLoss FILE_TRUNCATED", changed(16, 0, 0, 1))
	put("an unknown format", "Unimplemented UNSUPPORTED_QUANTIZATION", changed(norm, 77))
	put("a norm that is NaN", "InvalidArgument INVALID_MODEL",
		changed(data("output_norm.weight"), binary.LittleEndian.AppendUint32(nil, math.Float32bits(float32(math.NaN())))...))
	put("an infinite scale", "InvalidArgument INVALID_MODEL", changed(data("blk.0.ffn_up.weight"), 0, 0x7c))
	made("another architecture", "Unimplemented UNSUPPORTED_MODEL", func(p *smallParts) {
		p.set("general.architecture", gguf.ValueOf("perceptron"))
	})
	made("another tokenizer", "Unimplemented UNSUPPORTED_TOKENIZER", func(p *smallParts) {
		p.set("tokenizer.ggml.model", gguf.ValueOf("abacus"))
	})
	made("a word for a number", "InvalidArgument INVALID_MODEL", func(p *smallParts) {
		p.set("llama.block_count", gguf.ValueOf("two"))
	})
	made("no heads", "InvalidArgument INVALID_MODEL", func(p *smallParts) {
		p.set("llama.attention.head_count", gguf.ValueOf(uint32(0)))
	})
	made("a vocabulary without types", "InvalidArgument INVALID_VOCABULARY", func(p *smallParts) {
		p.set("tokenizer.ggml.token_type", gguf.ArrayOf([]int32{1}))
	})
	made("merges of what is not there", "InvalidArgument INVALID_VOCABULARY", func(p *smallParts) {
		p.set("tokenizer.ggml.merges", gguf.ArrayOf([]string{"qqqq zzzz"}))
	})
	made("a tensor that is missing", "InvalidArgument INVALID_MODEL", func(p *smallParts) {
		p.tensors = p.tensors[:len(p.tensors)-1]
	})
	made("a matrix of another shape", "InvalidArgument INVALID_MODEL", func(p *smallParts) {
		p.tensors[0].Dims = []uint64{32, 2048}
	})
	made("larger than the machine", "ResourceExhausted DOES_NOT_FIT", func(p *smallParts) {
		// 876 GB, which take no place on the disk.
		const layers, hidden = 4096, 1 << 20
		p.sparse = true
		p.set("llama.block_count", gguf.ValueOf(uint32(layers)))
		p.set("llama.feed_forward_length", gguf.ValueOf(uint32(hidden)))
		var tensors []gguf.Tensor
		for _, x := range p.tensors {
			name, isLayer := strings.CutPrefix(x.Name, "blk.0.")
			if !isLayer && strings.HasPrefix(x.Name, "blk.") {
				continue
			}
			x.Dims = slices.Clone(x.Dims)
			for j, d := range x.Dims {
				if d == 128 {
					x.Dims[j] = hidden
				}
			}
			if !isLayer {
				tensors = append(tensors, x)
				continue
			}
			for i := range layers {
				x.Name = fmt.Sprintf("blk.%d.%s", i, name)
				tensors = append(tensors, x)
			}
		}
		p.tensors = tensors
	})
	return bad
}

// Every file that cannot be loaded is refused by its own name, and the model
// that is there goes on, with the streams that run.
func TestBadFilesLeaveTheOldModelServing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bad := badModels(t, dir)
	e := newEngine(t, func(c *engine.Config) { c.MaxContext = 512 })
	loadFile(t, e, smallModel(t))
	f := start(t, nil, e, func(c *server.Config) { c.ModelDir = dir })
	alone := f.mustExecute(t, historyRequest("x", 30, 1))
	before := e.Status()
	for name, want := range bad {
		var all sync.WaitGroup
		for range 2 { // beside the load
			all.Go(func() {
				if got, err := f.execute(t, historyRequest("x", 30, 1)); err != nil || !sameStream(got, alone) {
					t.Errorf("%s: a stream beside it ended with %v", name, err)
				}
			})
		}
		_, _, err := f.load(t, &kigov1.LoadRequest{Path: name, Name: ptr("bad"), Replace: ptr(true)})
		if got := outcome(err); got != want {
			t.Errorf("%s: %s, want %s: %v", name, got, want, err)
		}
		if bytes.Contains([]byte(fmt.Sprint(err)), []byte(dir)) {
			t.Errorf("%s: the error names the folder: %v", name, err)
		}
		all.Wait()
		f.stillServes(t, name, alone, before)
	}
}

// stillServes checks that the model of before is in service, alone on the
// device, and says what it said.
func (f *fixture) stillServes(t testing.TB, after string, alone *answer, before engine.Status) {
	t.Helper()
	f.idle(t)
	list, err := f.models.List(t.Context(), &kigov1.ListRequest{})
	if err != nil || len(list.GetModels()) != 1 || list.GetModels()[0].GetName() != before.Model.Name {
		t.Errorf("%s: the models are %v (%v)", after, list.GetModels(), err)
	}
	if st := f.engine.Status(); st.State != engine.StateReady || st.KVTotal != before.KVTotal || st.Device.MemoryUsed != before.Device.MemoryUsed {
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
	g := &gatedEngine{Engine: newEngine(t, func(c *engine.Config) { c.MaxContext = 512 })}
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
					once.Do(func() { close(reached) })
					<-ctx.Done() // by its caller alone
					close(ended)
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
	bad := badModels(t, dir)
	same := smallModel(t)
	if err := os.Link(same, filepath.Join(dir, "same.gguf")); err != nil {
		t.Fatal(err)
	}
	e := newEngine(t, func(c *engine.Config) { c.MaxContext = 512 })
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
