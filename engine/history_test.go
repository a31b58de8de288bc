package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"kigo/engine"
)

// A thousand requests (ten thousand of them in the long run) beside each other on
// fewer KV blocks than they want, ended at random points in every way
// there is: by themselves, by cancel, by the request id, by context, by a
// deadline, or by a reader that goes away. What each stream delivers is a
// beginning of what the same request gets alone, without gap or repetition,
// with exactly one terminal status; and no block stays behind.
func TestHistoryUnderCancels(t *testing.T) {
	requests, readers := 1000, 24
	switch {
	case raceEnabled:
		requests = 200
	case long():
		requests = 10000
	}
	e := loaded(t, engine.Config{MaxConcurrent: 16, StreamBuffer: 4, CacheTokens: 34 * 16, SlowReader: 20 * time.Millisecond})
	prompts := []string{"the", "other one", "a much longer prompt, which takes more than one chunk to process", "x"}
	alone := map[string][]int32{}
	const length = 40
	for _, p := range prompts {
		alone[p] = run(t, e, greedy(p, length)).ids
	}
	var next sync.Mutex
	rng := rand.New(rand.NewPCG(11, 12))
	draw := func() (n int, how int, after int, prompt string) {
		next.Lock()
		defer next.Unlock()
		requests--
		return requests, rng.IntN(6), rng.IntN(length + 5), prompts[rng.IntN(len(prompts))]
	}
	var wait sync.WaitGroup
	for range readers {
		wait.Go(func() {
			for {
				n, how, after, prompt := draw()
				if n < 0 {
					return
				}
				if err := one(t, e, how, after, prompt, alone[prompt]); err != nil {
					t.Errorf("request %d, way %d after %d events of %q: %v", n, how, after, prompt, err)
				}
			}
		})
	}
	wait.Wait()
	if s := settled(t, e); s.KVUsed != 0 {
		t.Errorf("%d blocks are still in use", s.KVUsed)
	}
	if err := e.CheckSchedulers(); err != nil {
		t.Error(err)
	}
	if stats := e.SchedulerStats(); stats.Preempted == 0 || stats.Reused == 0 {
		t.Errorf("stats %+v", stats)
	}
	if got := run(t, e, greedy("the", length)).ids; !slices.Equal(got, alone["the"]) {
		t.Errorf("afterwards the model says %v", got)
	}
}

// one sends a request, ends it one way after so many events, and checks what it
// delivered.
func one(t *testing.T, e *engine.Engine, how, after int, prompt string, want []int32) error {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if how == 4 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(after)*time.Millisecond/4)
		defer cancel()
	}
	s, err := e.Submit(ctx, greedy(prompt, len(want)))
	if err != nil {
		if how == 4 && errors.Is(err, context.DeadlineExceeded) {
			return nil
		}
		return err
	}
	var ids []int32
	terminal := 0
	for events := 0; ; events++ {
		if events == after {
			switch how {
			case 1:
				s.Cancel()
			case 2:
				if err := e.Cancel(s.Started().ID); err != nil && !errors.Is(err, engine.ErrUnknownRequest) {
					return err
				}
			case 3:
				cancel()
			case 5: // reads nothing until the engine has given it up or is done
				for e.Running(s) {
					time.Sleep(time.Millisecond)
				}
			}
		}
		ev, err := s.Next(t.Context())
		switch {
		case errors.Is(err, io.EOF):
			if terminal != 1 {
				return fmt.Errorf("%d terminal statuses", terminal)
			}
			return nil
		case err != nil:
			if terminal != 0 {
				return fmt.Errorf("%w after an end", err)
			}
			// On a busy machine every reader may come too late.
			allowed := map[int]error{3: context.Canceled, 4: context.DeadlineExceeded}[how]
			if !errors.Is(err, engine.ErrSlowReader) && (allowed == nil || !errors.Is(err, allowed)) {
				return err
			}
			return nil
		case ev.End != nil:
			terminal++
			if ev.End.GeneratedTokens != len(ids) || ev.End.Reason == engine.StopMaxTokens && len(ids) != len(want) {
				return fmt.Errorf("end %+v after %d tokens", ev.End, len(ids))
			}
		default:
			if terminal != 0 || ev.Tokens.Index != len(ids) {
				return fmt.Errorf("tokens at %d after %d, %d ends", ev.Tokens.Index, len(ids), terminal)
			}
			if ids = append(ids, ev.Tokens.IDs...); !slices.Equal(ids, want[:min(len(ids), len(want))]) {
				return fmt.Errorf("tokens %v, alone %v", ids, want)
			}
		}
	}
}
