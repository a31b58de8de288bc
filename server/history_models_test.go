package server_test

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kigo/engine"
	kigov1 "kigo/proto/kigo/v1"
	"kigo/server"
)

// Models are replaced, unloaded and loaded while requests come and run. A
// stream is answered by one model from its first token to its last; whom an
// unload meets is told so; and who comes when there is no model is told that.
// In the end there is memory for one model, and nothing else.
func TestHistoryOfReplacedModels(t *testing.T) {
	requests, clients := 120, 8
	if long() {
		requests = 4000
	}
	dir := t.TempDir()
	for i, name := range []string{"a.gguf", "b.gguf"} {
		if err := os.Rename(smallModelOf(t, uint64(i+1)), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	e := newPacedEngine(t, func(c *engine.Config) { c.MaxConcurrent, c.MaxContext = 4, 512 })
	f := start(t, nil, e, func(c *server.Config) { c.ModelDir = dir })
	load := func(name string) {
		t.Helper()
		if _, _, err := f.load(t, &kigov1.LoadRequest{Path: name + ".gguf", Replace: ptr(true)}); err != nil {
			t.Fatalf("load of %s: %v", name, err)
		}
	}
	const length = 60
	alone := map[string]map[string]*answer{}
	for _, name := range []string{"b", "a"} {
		load(name)
		alone[name] = map[string]*answer{}
		for _, p := range historyPrompts {
			alone[name][p] = f.mustExecute(t, historyRequest(p, length, 1))
		}
	}
	if slices.Equal(alone["a"]["x"].ids, alone["b"]["x"].ids) {
		t.Fatal("the two models say the same")
	}
	f.idle(t)
	blocks, goroutines := e.Status().KVTotal, runtime.NumGoroutine()

	wanted := []string{"a: MAX_TOKENS beside a replacement", "b: MAX_TOKENS beside a replacement", "a: MODEL_UNLOADED"}
	var replacements atomic.Int64
	var stop atomic.Bool
	var mu sync.Mutex
	tally := map[string]int{}
	served := 0
	enough := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return served >= requests && !slices.ContainsFunc(wanted, func(ending string) bool { return tally[ending] == 0 })
	}
	var all sync.WaitGroup
	for i := range clients {
		random := rand.New(rand.NewPCG(uint64(i), 5))
		all.Go(func() {
			for !stop.Load() {
				p := historyPrompts[random.IntN(len(historyPrompts))]
				h := history{request: historyRequest(p, length, 1), answer: &answer{}}
				before := replacements.Load()
				h.over(t.Context(), t, f.inference, -1, nil)
				ending := h.ending()
				switch {
				case h.started != nil:
					h.alone = alone[h.started.GetModel()][p]
					if err := h.check(); err != nil || ending != "MAX_TOKENS" && ending != "MODEL_UNLOADED" {
						t.Errorf("a stream of %s ended with %s: %v (%v)", h.started.GetModel(), ending, err, h.err)
					}
					if ending == "MAX_TOKENS" && replacements.Load() > before {
						ending = "MAX_TOKENS beside a replacement"
					}
					ending = h.started.GetModel() + ": " + ending
				case ending == "NO_MODEL_LOADED" || ending == "MODEL_LOADING":
					time.Sleep(time.Millisecond) // so that they are not all of this kind
				case ending != "MODEL_UNLOADED":
					t.Errorf("refused with %v", h.err)
				}
				mu.Lock()
				tally[ending]++
				if h.started != nil {
					served++
				}
				mu.Unlock()
			}
		})
	}
	random := rand.New(rand.NewPCG(3, 3))
	pause := func() { time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond) }
	for round := 0; round < requests && !enough(); round++ {
		pause()
		load("b")
		replacements.Add(1)
		pause()
		load("a")
		replacements.Add(1)
		pause()
		if _, err := f.models.Unload(t.Context(), &kigov1.UnloadRequest{Name: "a"}); err != nil {
			t.Errorf("unload: %v", err)
		}
		load("a")
	}
	stop.Store(true)
	all.Wait()
	f.leftNothing(t, goroutines)
	if got := e.Status().KVTotal; got != blocks {
		t.Errorf("%d KV blocks in all, %d before: a model was not freed", got, blocks)
	}
	for _, ending := range wanted {
		if tally[ending] == 0 {
			t.Errorf("no stream with %q", ending)
		}
	}
	for _, what := range slices.Sorted(maps.Keys(tally)) {
		t.Logf("%5d %s", tally[what], what)
	}
	if got := f.mustExecute(t, historyRequest("x", length, 1)); !sameStream(got, alone["a"]["x"]) {
		t.Errorf("afterwards: %q, before it was %q", got.text, alone["a"]["x"].text)
	}
}

// A server is shut down at a random moment of its work, with little time for
// what runs. Each stream, over gRPC and HTTP, comes to its end or is told;
// nobody is refused before readiness has turned; and nothing is left.
func TestHistoryOfShutdowns(t *testing.T) {
	rounds := 3
	if long() {
		rounds = 100
	}
	model := smallModel(t)
	random := rand.New(rand.NewPCG(4, 4))
	var mu sync.Mutex
	tally := map[string]int{}
	for round := range rounds {
		goroutines := runtime.NumGoroutine()
		e, err := engine.New(engine.Config{MaxConcurrent: 4, MaxContext: 1 << 15})
		if err != nil {
			t.Fatal(err)
		}
		loadFile(t, e, model)
		f := start(t, nil, e, func(c *server.Config) {
			c.DrainDelay, c.DrainTimeout = 500*time.Millisecond, 200*time.Millisecond
		})
		const length = 60
		alone := map[string]*answer{}
		for _, p := range historyPrompts {
			alone[p] = f.mustExecute(t, historyRequest(p, length, 1))
		}

		var all sync.WaitGroup
		var unready atomic.Bool
		begun := make(chan struct{}, 100)
		for i := range 8 {
			all.Go(func() {
				for n := 0; ; n++ {
					p := historyPrompts[(i+n)%len(historyPrompts)]
					h := history{request: historyRequest(p, length, 1), alone: alone[p], answer: &answer{}}
					endless := i < 2 // until the drain's deadline
					if endless {
						h.request.MaxTokens = nil
					}
					if i%4 == 1 {
						h.overHTTP(t.Context(), t, f, -1, nil)
					} else {
						h.over(t.Context(), t, f.inference, -1, nil)
					}
					select {
					case begun <- struct{}{}:
					default:
					}
					ending := h.ending()
					if endless { // beyond what was recorded
						for n := len(joined(h.tokens).Ids); n > length; {
							last := len(h.tokens) - 1
							n -= len(h.tokens[last].GetIds())
							h.tokens = h.tokens[:last]
						}
						if ending == "MAX_TOKENS" {
							t.Errorf("round %d: an endless stream has ended", round)
						}
					}
					if err := h.check(); err != nil {
						t.Errorf("round %d, client %d: %s: %v", round, i, ending, err)
					}
					mu.Lock()
					tally[ending]++
					mu.Unlock()
					switch ending {
					case "MAX_TOKENS":
						continue
					case "SHUTTING_DOWN", "Unavailable": // the second is a listener that has gone
						if h.started == nil && !unready.Load() {
							t.Errorf("round %d: refused while still ready", round)
						}
					default:
						t.Errorf("round %d, client %d: %s (%v)", round, i, ending, h.err)
					}
					return
				}
			})
		}
		<-begun
		time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
		down := make(chan error, 1)
		go func() { down <- f.Shutdown(context.Background()) }()
		eventually(t, "readiness to turn", func() bool {
			code, _ := f.get(t, "/readyz")
			return code == http.StatusServiceUnavailable
		})
		unready.Store(true)
		if err := <-down; err != nil {
			t.Error(err)
		}
		if err := <-f.served; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("round %d: Serve: %v", round, err)
		}
		all.Wait()
		if st := e.Status(); st.KVUsed != 0 || st.Running != 0 || st.Waiting != 0 || f.CallsInFlight() != 0 {
			t.Errorf("round %d left %d blocks, %d running, %d waiting, %d calls", round, st.KVUsed, st.Running, st.Waiting, f.CallsInFlight())
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		f.conn.Close()
		http.DefaultClient.CloseIdleConnections()
		eventually(t, "the goroutines' end", func() bool { return runtime.NumGoroutine() <= goroutines })
	}
	for _, what := range slices.Sorted(maps.Keys(tally)) {
		t.Logf("%5d %s", tally[what], what)
	}
}
