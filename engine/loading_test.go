package engine_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"kigo/engine"
	"kigo/engine/chat"
	"kigo/engine/gguf"
	"kigo/engine/model"
	"kigo/engine/tokenizer"
)

func loadTiny(t *testing.T, e *engine.Engine, name string, seed uint64, replace bool) {
	t.Helper()
	if _, err := e.Load(t.Context(), engine.LoadRequest{Name: name, File: tinyFile(t, seed), Replace: replace}, nil); err != nil {
		t.Fatal(err)
	}
}

func TestSecondLoadNeedsReplace(t *testing.T) {
	e := loaded(t, engine.Config{})
	_, err := e.Load(t.Context(), engine.LoadRequest{Name: "other", File: tinyFile(t, 2)}, nil)
	if !errors.Is(err, engine.ErrAlreadyLoaded) {
		t.Errorf("error %v", err)
	}
	if m := e.Models(); len(m) != 1 || m[0].Name != "tiny" {
		t.Errorf("models %+v", m)
	}
}

// The model that is replaced goes on with the streams it has.
func TestReplaceHarmsNoStream(t *testing.T) {
	e := loaded(t, engine.Config{})
	want := run(t, e, greedy("hello", 100)).ids
	s := submit(t, e, greedy("hello", 100)) // pauses when its buffer is full
	loadTiny(t, e, "new", 2, true)
	if got := run(t, e, greedy("hello", 100)).ids; slices.Equal(got, want) {
		t.Error("the new model says what the old one did")
	}
	got, err := collect(t, s)
	if err != nil || !slices.Equal(got.ids, want) {
		t.Errorf("the old model's stream: %v, %v", got.ids, err)
	}
	if _, err := e.Submit(t.Context(), engine.Request{Model: "tiny", Text: "x"}); !errors.Is(err, engine.ErrNoModel) {
		t.Errorf("a request for the old model: %v", err)
	}
	settled(t, e)
}

// A request that arrives while its model is being replaced is answered by one
// of the models. The template takes so long that the replacement falls, as a rule,
// between a request's arrival and its place in the queue.
func TestReplaceLosesNoArrivingRequest(t *testing.T) {
	e := newEngine(t, engine.Config{})
	slow := gguf.ValueOf("{% for i in range(100) %}{% for j in range(200) %}{% endfor %}{% endfor %}{{ messages[0].content }}")
	load := func(name string, replace bool) {
		t.Helper()
		file := rewritten(t, "tokenizer.chat_template", slow)
		if _, err := e.Load(t.Context(), engine.LoadRequest{Name: name, File: file, Replace: replace}, nil); err != nil {
			t.Fatal(err)
		}
	}
	load("first", false)
	r := greedy("", 3)
	r.Messages = []chat.Message{{Role: "user", Content: "hello"}}
	want := run(t, e, r)
	var wait sync.WaitGroup
	for i := range 4 {
		wait.Go(func() {
			s, err := e.Submit(t.Context(), r)
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := collect(t, s); err != nil || !slices.Equal(got.ids, want.ids) {
				t.Errorf("request %d: %v, want %v (%v)", i, got.ids, want.ids, err)
			}
		})
	}
	for i := range 3 {
		load([]string{"second", "third", "fourth"}[i], true)
	}
	wait.Wait()
	settled(t, e)
}

// spoilt is a tiny model with bytes changed at a tensor.
func spoilt(t *testing.T, tensor string, change func(b []byte)) *memoryFile {
	t.Helper()
	raw := tinyBytes(t, 3)
	f, err := gguf.Parse(bytes.NewReader(raw), int64(len(raw)), gguf.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	x, ok := f.Tensor(tensor)
	if !ok {
		t.Fatalf("no tensor %q", tensor)
	}
	change(raw[x.Offset : x.Offset+x.Size])
	return &memoryFile{Reader: bytes.NewReader(raw)}
}

func TestFailedLoadLeavesTheOldModelServing(t *testing.T) {
	e := loaded(t, engine.Config{})
	want := run(t, e, greedy("hello", 5)).ids
	whole := tinyBytes(t, 2)
	shrinking := tinyFile(t, 2)
	for _, tc := range []struct {
		name string
		file *memoryFile
		want error
	}{
		{"empty", &memoryFile{Reader: bytes.NewReader(nil)}, gguf.ErrTruncated},
		{"not a model", &memoryFile{Reader: bytes.NewReader([]byte(strings.Repeat("hello", 100)))}, gguf.ErrFormat},
		{"cut in the header", &memoryFile{Reader: bytes.NewReader(whole[:1000])}, gguf.ErrTruncated},
		{"cut in the data", &memoryFile{Reader: bytes.NewReader(whole[:len(whole)-100])}, gguf.ErrTruncated},
		{"NaN weights", spoilt(t, "output_norm.weight", func(b []byte) {
			binary.LittleEndian.PutUint32(b, math.Float32bits(float32(math.NaN())))
		}), model.ErrInvalid},
		{"infinite scale", spoilt(t, "blk.0.ffn_up.weight", func(b []byte) { b[0], b[1] = 0, 0x7c }), model.ErrInvalid},
		{"changed while it was read", shrinking, engine.ErrFileChanged},
	} {
		t.Run(tc.name, func(t *testing.T) {
			progress := func(p engine.LoadProgress) {
				if p.Stage == engine.StageVerify {
					tc.file.mtime.Add(boolToInt(tc.file == shrinking))
				}
			}
			_, err := e.Load(t.Context(), engine.LoadRequest{Name: "bad", File: tc.file, Replace: true}, progress)
			if !errors.Is(err, tc.want) {
				t.Errorf("error %v, want %v", err, tc.want)
			}
			if s := e.Status(); s.State != engine.StateReady || s.Model.Name != "tiny" {
				t.Errorf("status %+v", s)
			}
			if got := run(t, e, greedy("hello", 5)).ids; !slices.Equal(got, want) {
				t.Errorf("the old model now says %v", got)
			}
		})
	}
}

func boolToInt(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func TestCancelledLoadLeavesNothing(t *testing.T) {
	for _, stage := range []engine.LoadStage{engine.StageParse, engine.StageRead, engine.StageVerify, engine.StageCompile, engine.StageWarmUp} {
		e := newEngine(t, engine.Config{})
		ctx, cancel := context.WithCancel(t.Context())
		_, err := e.Load(ctx, engine.LoadRequest{Name: "x", File: tinyFile(t, 1)}, func(p engine.LoadProgress) {
			if p.Stage == stage {
				cancel()
			}
		})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled in stage %d: %v", stage, err)
		}
		if s := e.Status(); s.State != engine.StateEmpty || s.Model != nil {
			t.Errorf("cancelled in stage %d: %+v", stage, s)
		}
		loadTiny(t, e, "x", 1, false)
	}
}

func TestSameLoadTwiceSharesOne(t *testing.T) {
	e := newEngine(t, engine.Config{})
	path := filepath.Join(t.TempDir(), "tiny.gguf")
	if err := os.WriteFile(path, tinyBytes(t, 1), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func() *os.File { // the same file, each time anew
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	here, later := open(), open()
	inFlight, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	var wait sync.WaitGroup
	var first, second *engine.ModelInfo
	wait.Go(func() {
		var err error
		first, err = e.Load(t.Context(), engine.LoadRequest{Name: "x", File: here}, func(engine.LoadProgress) {
			once.Do(func() { close(inFlight); <-goOn })
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-inFlight
	if s := e.Status(); s.State != engine.StateLoading {
		t.Errorf("state %v", s.State)
	}
	if _, err := e.Load(t.Context(), engine.LoadRequest{Name: "y", File: open()}, nil); !errors.Is(err, engine.ErrLoadInProgress) {
		t.Errorf("another load meanwhile: %v", err)
	}
	// Another file is another load, also under the same name.
	if _, err := e.Load(t.Context(), engine.LoadRequest{Name: "x", File: tinyFile(t, 2)}, nil); !errors.Is(err, engine.ErrLoadInProgress) {
		t.Errorf("another file meanwhile: %v", err)
	}
	if err := e.Unload(t.Context(), "x"); !errors.Is(err, engine.ErrLoadInProgress) {
		t.Errorf("unload meanwhile: %v", err)
	}
	joined, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Load(joined, engine.LoadRequest{Name: "x", File: open()}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("joining with a cancelled context: %v", err)
	}
	wait.Go(func() {
		// It joins the load in flight, or finds it landed.
		var err error
		second, err = e.Load(t.Context(), engine.LoadRequest{Name: "x", File: later, Replace: true}, nil)
		if err != nil {
			t.Error(err)
		}
	})
	close(goOn)
	wait.Wait()
	if first == nil || second == nil || second.Name != "x" {
		t.Errorf("loads gave %+v and %+v", first, second)
	}
}

func TestUnloadEndsTheStreams(t *testing.T) {
	e := loaded(t, engine.Config{})
	s := submit(t, e, greedy("hello", 300))
	if err := e.Unload(t.Context(), "other"); !errors.Is(err, engine.ErrNoModel) {
		t.Errorf("unloading what is not there: %v", err)
	}
	if err := e.Unload(t.Context(), "tiny"); err != nil {
		t.Fatal(err)
	}
	if _, err := collect(t, s); !errors.Is(err, engine.ErrUnloaded) {
		t.Errorf("the stream ended with %v", err)
	}
	if s := e.Status(); s.State != engine.StateEmpty || s.KVTotal != 0 {
		t.Errorf("status %+v", s)
	}
	if _, err := e.Submit(t.Context(), greedy("x", 1)); !errors.Is(err, engine.ErrNoModel) {
		t.Errorf("a request afterwards: %v", err)
	}
	loadTiny(t, e, "tiny", 1, false)
	run(t, e, greedy("hello", 3))
}

func TestContextIsCappedAndCut(t *testing.T) {
	e := loaded(t, engine.Config{MaxContext: 100})
	if m := e.Models()[0]; m.ContextLength != 100 || m.TrainContext != 512 {
		t.Errorf("model %+v", m)
	}
	r := greedy("hello", 0) // as many as the context holds
	c := run(t, e, r)
	if c.end.PromptTokens+c.end.GeneratedTokens != 100 || c.end.Reason != engine.StopMaxTokens {
		t.Errorf("end %+v", c.end)
	}
}

func TestDrain(t *testing.T) {
	e := loaded(t, engine.Config{})
	finishing, endless := submit(t, e, greedy("a", 20)), submit(t, e, greedy("b", 400))
	ctx, cancel := context.WithCancel(t.Context())
	drained := make(chan error, 1)
	changed := e.Changed()
	go func() { drained <- e.Drain(ctx) }()
	<-changed
	if s := e.Status(); s.State != engine.StateDraining {
		t.Errorf("status %+v", s)
	}
	if _, err := e.Submit(t.Context(), greedy("c", 1)); !errors.Is(err, engine.ErrDraining) {
		t.Errorf("a request while draining: %v", err)
	}
	if _, err := e.Load(t.Context(), engine.LoadRequest{Name: "d", File: tinyFile(t, 1), Replace: true}, nil); !errors.Is(err, engine.ErrDraining) {
		t.Errorf("a load while draining: %v", err)
	}
	if c, err := collect(t, finishing); err != nil || len(c.ids) != 20 {
		t.Errorf("a stream that ends in time: %d tokens, %v", len(c.ids), err)
	}
	cancel()
	if err := <-drained; !errors.Is(err, context.Canceled) {
		t.Errorf("Drain: %v", err)
	}
	if _, err := collect(t, endless); !errors.Is(err, engine.ErrDraining) {
		t.Errorf("a stream that does not: %v", err)
	}
	if err := e.Drain(t.Context()); err != nil {
		t.Errorf("Drain of an idle engine: %v", err)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	e, err := engine.New(engine.Config{})
	if err != nil {
		t.Fatal(err)
	}
	loadTiny(t, e, "tiny", 1, false)
	s := submit(t, e, greedy("hello", 300))
	loading := make(chan error, 1)
	inFlight := make(chan struct{})
	var once sync.Once
	go func() {
		_, err := e.Load(context.Background(), engine.LoadRequest{Name: "x", File: tinyFile(t, 1), Replace: true}, func(p engine.LoadProgress) {
			once.Do(func() { close(inFlight) })
		})
		loading <- err
	}()
	<-inFlight
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if err := <-loading; err != nil && !errors.Is(err, engine.ErrDraining) {
		t.Errorf("the load ended with %v", err)
	}
	if _, err := collect(t, s); !errors.Is(err, engine.ErrDraining) && !errors.Is(err, engine.ErrUnloaded) {
		t.Errorf("the stream ended with %v", err)
	}
	if _, err := e.Submit(t.Context(), greedy("x", 1)); !errors.Is(err, engine.ErrDraining) {
		t.Errorf("a request afterwards: %v", err)
	}
	s.Cancel() // harmless
	if err := e.Unload(t.Context(), "tiny"); err == nil {
		t.Error("unload after Close succeeded")
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, cfg := range map[string]engine.Config{
		"device":      {Device: "tpu"},
		"threads":     {Device: "cpu", Threads: -1},
		"concurrent":  {MaxConcurrent: 1 << 20},
		"negative":    {MaxConcurrent: -1},
		"buffer":      {StreamBuffer: 1 << 30},
		"slow reader": {SlowReader: -1},
	} {
		if e, err := engine.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
			e.Close()
		}
	}
}

var _ engine.File = (*memoryFile)(nil)

// rewritten is the tiny model with one metadata value changed.
func rewritten(t *testing.T, key string, v gguf.Value) *memoryFile {
	t.Helper()
	raw := tinyBytes(t, 1)
	f, err := gguf.Parse(bytes.NewReader(raw), int64(len(raw)), gguf.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	kvs := slices.Clone(f.KVs)
	for i := range kvs {
		if kvs[i].Key == key {
			kvs[i].Value = v
		}
	}
	var b bytes.Buffer
	w, err := gguf.NewWriter(&b, kvs, f.Tensors)
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range w.File().Tensors {
		if err := w.Begin(x.Name); err != nil {
			t.Fatal(err)
		}
		from := f.Tensors[i]
		if _, err := w.Write(raw[from.Offset : from.Offset+from.Size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &memoryFile{Reader: bytes.NewReader(b.Bytes()), name: "rewritten"}
}

func TestUnusableChatTemplateCostsOnlyChat(t *testing.T) {
	e := newEngine(t, engine.Config{})
	file := rewritten(t, "tokenizer.chat_template", gguf.ValueOf("{% for m in messages %}{{ m.content"))
	info, err := e.Load(t.Context(), engine.LoadRequest{Name: "x", File: file}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if info.ChatTemplate || len(info.Warnings) != 1 || !strings.Contains(info.Warnings[0], "chat template") {
		t.Errorf("info %+v", info)
	}
	run(t, e, greedy("hello", 3))
	r := greedy("", 3)
	r.Messages = []chat.Message{{Role: "user", Content: "hello"}}
	var invalid *engine.InvalidError
	if _, err := e.Submit(t.Context(), r); !errors.As(err, &invalid) || invalid.Violations[0].Field != "prompt.messages" {
		t.Errorf("error %v", err)
	}
}

func TestUnknownPreTokenizerIsRefused(t *testing.T) {
	e := newEngine(t, engine.Config{})
	_, err := e.Load(t.Context(), engine.LoadRequest{Name: "x", File: rewritten(t, "tokenizer.ggml.pre", gguf.ValueOf("martian"))}, nil)
	if !errors.Is(err, tokenizer.ErrUnsupported) || !strings.Contains(err.Error(), "martian") {
		t.Errorf("error %v", err)
	}
	if s := e.Status(); s.State != engine.StateEmpty {
		t.Errorf("status %+v", s)
	}
}
