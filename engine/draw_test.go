package engine_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"kigo/engine"
	"kigo/engine/device/scripted"
)

// Sequences of one step whose tokens are found in different ways each get their own:
// the largest logit, one that the device draws, one that it leaves to the host, and one
// that only the host can draw.
func TestEachWayToChooseInOneStep(t *testing.T) {
	var mu sync.Mutex
	calls := map[string]int{}
	e := scriptedWaits(t, engine.Config{}, scripted.Pace{Step: time.Millisecond}, func(c string, _ int) error {
		mu.Lock()
		defer mu.Unlock()
		calls[c]++
		return nil
	})
	ways := []func(r *engine.Request){
		func(*engine.Request) {},
		func(r *engine.Request) { r.Sampling.Temperature = 0.001 },
		func(r *engine.Request) { r.Sampling.Temperature, r.Sampling.RepetitionPenalty = 0.001, 1.5 },
		func(r *engine.Request) { r.Sampling.Temperature, r.Sampling.TypicalP = 0.001, 0.5 },
		func(r *engine.Request) { r.Sampling.Temperature, r.Logprobs = 0.001, 0 },
	}
	var all sync.WaitGroup
	for i := range 40 {
		r := pacedRequest(i, 5+i, 0, 30)
		ways[i%len(ways)](&r)
		s := submit(t, e, r)
		all.Go(func() {
			w, err := readWhole(t.Context(), s)
			if err != nil || len(w.ids) == 0 || !slices.Equal(w.ids, pacedText(r.Tokens, len(w.ids))) {
				t.Errorf("stream %d: %v, %v", i, w.ids, err)
			}
		})
	}
	all.Wait()
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, c := range []string{"Largest", "Draw", "Fetch"} {
		if calls[c] == 0 {
			t.Errorf("the device was never asked for %s", c)
		}
	}
}
