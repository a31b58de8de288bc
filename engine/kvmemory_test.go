package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"kigo/engine"
	"kigo/engine/device"
	"kigo/engine/device/cpu"
	"kigo/engine/device/scripted"
)

// sizedEngine is an engine on a paced device with so much memory. The caller closes
// it. Its cache's memory comes and goes by sizedChunk blocks of sizedBlock bytes.
func sizedEngine(t *testing.T, cfg engine.Config, bytes uint64, script func(call string, n int) error) (*engine.Engine, *scripted.Sized) {
	t.Helper()
	on, err := cpu.New(cpu.Config{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = on.Close() })
	dev := scripted.NewSized(scripted.NewPaced(on, scripted.Pace{Step: time.Millisecond, Chunk: sizedChunk, Next: pacedNext}), bytes)
	cfg.MaxContext = 512
	e, err := engine.NewOn(cfg, scripted.New(dev, script))
	if err != nil {
		t.Fatal(err)
	}
	return e, dev
}

const (
	sizedBlock = 4 * 16
	sizedChunk = 4
)

func noScript(string, int) error { return nil }

// says checks that a stream says what follows its prompt, to the end.
func says(t *testing.T, what string, s *engine.Stream, r engine.Request) {
	t.Helper()
	c, err := collect(t, s)
	if err != nil {
		t.Errorf("%s ended with %v after %d tokens", what, err, len(c.ids))
	} else if want := pacedText(r.Tokens, r.MaxTokens); !slices.Equal(c.ids, want) {
		t.Errorf("%s says other tokens, %d of %d", what, len(c.ids), len(want))
	}
}

// Another process takes the memory that the KV cache would grow into. No request
// fails: those that fit what there is go on, some of them computed again; those that
// do not fit it even alone wait until there is more. Each says what it says alone.
func TestMemoryIsTakenInService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		e, dev := sizedEngine(t, engine.Config{MaxConcurrent: 30, MaxQueue: 60, CacheTokens: 900 * 16, Log: zerolog.New(&log)}, 64<<20, noScript)
		loadTiny(t, e, "tiny", 1, false)
		if s := e.Status(); s.KVTotal != 900 || s.KVMapped != sizedChunk || s.Model.Memory.KV != sizedChunk*sizedBlock || s.Model.Memory.KVReserved != 900*sizedBlock {
			t.Errorf("after the load: %+v, model %+v", s, s.Model)
		}
		const room = 20 // blocks
		taken := dev.Free() - (room-sizedChunk)*sizedBlock
		dev.Take(taken)

		var all sync.WaitGroup
		const requests = 60
		for i := range requests {
			prompt, n := 5+i*37%150, 10+i*11%140
			if i%10 == 3 {
				prompt, n = 100, 300 // outgrows what there is
			}
			if i%10 == 7 {
				prompt = 350 // does not fit from the start
			}
			r := pacedRequest(i, prompt, 40, n)
			s := submit(t, e, r)
			all.Go(func() { says(t, fmt.Sprintf("request %d", i), s, r) })
		}
		time.Sleep(time.Minute)
		s := e.Status()
		if s.Running != 0 || s.Waiting != requests/5 || s.KVMapped != room || s.KVTotal != 900 || !s.KVShort || s.State != engine.StateReady {
			t.Errorf("when all have ended that fit: %+v", s)
		}
		if refused := e.Stats().KVRefused.Load(); refused < 30 || refused > 70 {
			t.Errorf("asked for memory %d times in vain in a minute", refused)
		}
		if e.Stats().Preemptions.Load() == 0 {
			t.Error("nobody was preempted")
		}
		r := pacedRequest(0, 10, 0, 5)
		says(t, "a small request beside those that wait", submit(t, e, r), r)
		if err := e.CheckSchedulers(); err != nil {
			t.Error(err)
		}

		dev.Take(-taken)
		all.Wait()
		if s := settled(t, e); s.KVShort || s.KVTotal != 900 || s.KVMapped <= room || s.KVMapped > 900 {
			t.Errorf("with memory: %+v", s)
		}
		for text, times := range map[string]int{"no more memory for the KV cache": 1, "there is memory for the KV cache again": 1} {
			if n := strings.Count(log.String(), text); n != times {
				t.Errorf("the log says %d times %q", n, text)
			}
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		if free := dev.Free(); free != 64<<20 {
			t.Errorf("%d bytes are free at the end", free)
		}
	})
}

// A model without requests gives its cache's memory back after a while, once, and
// takes it again.
func TestIdleModelGivesMemoryBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var gone atomic.Int64
		e, dev := sizedEngine(t, engine.Config{CacheTokens: 900 * 16}, 64<<20, func(call string, n int) error {
			if call == "Unmap" {
				gone.Add(1)
			}
			return nil
		})
		loadTiny(t, e, "tiny", 1, false)
		free := dev.Free()
		r := pacedRequest(1, 300, 0, 100)
		for round := range 3 {
			says(t, "a request", submit(t, e, r), r)
			time.Sleep(4 * time.Minute)
			says(t, "another one before the time is over", submit(t, e, r), r)
			time.Sleep(4 * time.Minute)
			s := e.Status()
			if s.KVMapped < 25 || dev.Free() != free-int64(s.KVMapped-sizedChunk)*sizedBlock || s.Model.Memory.KV != uint64(s.KVMapped)*sizedBlock {
				t.Errorf("round %d, at work: %d bytes free, %d at first, %+v", round, dev.Free(), free, s)
			}
			time.Sleep(2 * time.Minute)
			s = e.Status()
			if s.KVMapped != 0 || s.KVTotal != 900 || dev.Free() != free+sizedChunk*sizedBlock || s.Model.Memory.KV != 0 || s.Device.MemoryUsed != s.Model.Memory.Weights {
				t.Errorf("round %d, idle: %d bytes free, %d at first, %+v", round, dev.Free(), free, s)
			}
			before := gone.Load()
			time.Sleep(time.Hour)
			if n := gone.Load(); n != before || n == 0 {
				t.Errorf("round %d: %d chunks were given back, and later %d more", round, before, n-before)
			}
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A model that replaces another has room in what that one's cache does not hold, and
// becomes as large as the first was. One that does not fit even so leaves the old one
// as it was, but for what its cache had kept.
func TestReplacementHasWhatIsGivenBack(t *testing.T) {
	e, _ := sizedEngine(t, engine.Config{}, 64<<20, noScript)
	loadTiny(t, e, "tiny", 1, false)
	weights := e.Status().Model.Memory.Weights
	if err := errors.Join(e.Unload(t.Context(), "tiny"), e.Close()); err != nil {
		t.Fatal(err)
	}

	// Weights, and a cache of up to three quarters of them: two models fit, but not
	// beside a cache that is full.
	e, dev := sizedEngine(t, engine.Config{CacheTokens: 1 << 30, SlowReader: time.Hour}, weights*5/2, noScript)
	loadTiny(t, e, "a", 1, false)
	total := e.Status().KVTotal
	fill := func() {
		t.Helper()
		for i := 0; e.Status().KVMapped < total; i++ {
			if i > total {
				t.Fatalf("the cache has %d blocks of %d", e.Status().KVMapped, total)
			}
			r := pacedRequest(i, 510, 0, 1)
			says(t, "a request", submit(t, e, r), r)
		}
	}
	fill()
	if free := dev.Free(); free >= int64(weights) {
		t.Fatalf("%d bytes are free beside weights of %d", free, weights)
	}
	held := pacedRequest(7, 100, 0, 400)
	s := submit(t, e, held) // waits for its reader from some token on
	for e.Status().KVUsed == 0 {
		time.Sleep(time.Millisecond)
	}
	loadTiny(t, e, "b", 2, true)
	for e.Status().KVMapped > 100 { // the old one gives back all that its stream does not hold
		time.Sleep(time.Millisecond)
	}
	if !e.Running(s) {
		t.Error("the old model's stream has ended")
	}
	says(t, "a stream of the old model", s, held)
	for e.Status().KVMapped > sizedChunk { // until the old one is gone
		time.Sleep(time.Millisecond)
	}
	if got := e.Status().KVTotal; got < total-64 || got > total {
		t.Errorf("%d blocks in the second model's cache, %d in the first's", got, total)
	}
	total = e.Status().KVTotal
	fill()

	dev.Take(int64(weights))
	used := e.Status().Model.Memory.Weights
	_, err := e.Load(t.Context(), engine.LoadRequest{Name: "c", File: tinyFile(t, 3), Replace: true}, nil)
	if !errors.Is(err, engine.ErrDoesNotFit) {
		t.Errorf("a model that does not fit: %v", err)
	}
	if s := e.Status(); s.Model.Name != "b" || s.Model.Memory.Weights != used || s.KVMapped > sizedChunk || s.KVTotal != total {
		t.Errorf("after it: %+v", s)
	}
	dev.Take(-int64(weights))
	fill()
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if free := dev.Free(); free != int64(weights*5/2) {
		t.Errorf("%d bytes are free at the end", free)
	}
}

// A device that fails while its cache grows, or is trimmed, fails like one that fails
// in a step; an error that is no failure leaves it as it is.
func TestCacheFails(t *testing.T) {
	for _, call := range []string{"Map", "Unmap"} {
		for _, c := range append(failures, struct {
			name string
			err  error
			want error
		}{"an error", errors.New("odd"), nil}) {
			t.Run(call+" "+c.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var fail atomic.Bool
					e, _ := sizedEngine(t, engine.Config{}, 64<<20, func(name string, _ int) error {
						if name == call && fail.Load() {
							return c.err
						}
						return nil
					})
					loadTiny(t, e, "tiny", 1, false)
					r := pacedRequest(1, 100, 0, 50)
					says(t, "a request before", submit(t, e, r), r)
					fail.Store(true)
					var s *engine.Stream
					if call == "Map" {
						r = pacedRequest(2, 300, 0, 50)
						s = submit(t, e, r)
					}
					time.Sleep(10 * time.Minute)
					if got := e.Status().Failure; !errors.Is(got, c.want) {
						t.Errorf("the device's state is %v", got)
					}
					fail.Store(false)
					switch {
					case c.want == nil && s == nil:
						says(t, "a request afterwards", submit(t, e, r), r)
					case c.want == nil:
						says(t, "a request that had to wait", s, r)
					case s != nil:
						if _, err := collect(t, s); !errors.Is(err, c.want) || !errors.Is(err, c.err) {
							t.Errorf("a request ended with %v", err)
						}
					}
					if err := e.Close(); err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

// A cache that hangs while it grows is found like a step.
func TestCacheHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hanging{call: "Map", release: make(chan struct{})}
		e, _ := sizedEngine(t, engine.Config{}, 64<<20, h.script)
		loadTiny(t, e, "tiny", 1, false)
		h.stuck.Store(true)
		if _, err := collect(t, submit(t, e, pacedRequest(1, 300, 0, 5))); !errors.Is(err, engine.ErrDeviceHung) {
			t.Errorf("the stream ended with %v", err)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		close(h.release)
	})
}

var _ device.Device = (*scripted.Sized)(nil)

// Requests that began together want a block at the same time. The memory for it comes a
// chunk with each step, before they do: none has several chunks to wait for.
func TestMemoryComesStepByStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const requests, prompt = 16, 20
		var mu sync.Mutex
		maps := []int{0} // before each step
		script := func(call string, _ int) error {
			mu.Lock()
			defer mu.Unlock()
			switch call {
			case "Map":
				maps[len(maps)-1]++
			case "Run":
				maps = append(maps, 0)
			}
			return nil
		}
		e, _ := sizedEngine(t, engine.Config{MaxConcurrent: requests, CacheTokens: 900 * 16, ChunkRows: 512}, 64<<20, script)
		loadTiny(t, e, "tiny", 1, false)
		var all sync.WaitGroup
		for i := range requests {
			r := pacedRequest(i, prompt, 0, 200)
			s := submit(t, e, r)
			all.Go(func() { says(t, fmt.Sprintf("request %d", i), s, r) })
		}
		all.Wait()
		if s := settled(t, e); s.KVMapped < requests*(prompt+200)/16 {
			t.Errorf("%+v", s)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		const began = 10 // steps, and all prompts are processed
		if len(maps) < 200 || slices.Max(maps[:began]) < 2 || slices.Max(maps[began:]) != 1 {
			t.Errorf("chunks that were mapped before each step: %d", maps)
		}
	})
}
