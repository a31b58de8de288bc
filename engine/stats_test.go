package engine

import (
	"context"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"
)

// A bucket holds what is at most its bound, and more than the one before.
func TestDistributions(t *testing.T) {
	var sizes Sizes
	if d := sizes.Read(); d.Count != 0 || d.Sum != 0 || len(d.Buckets) != sizeBounds {
		t.Errorf("of nothing: %+v", d)
	}
	want := map[float64]uint64{}
	var sum float64
	var all sync.WaitGroup
	for _, n := range []int{-3, 0, 1, 2, 3, 4, 5, 8, 9, 16384, 16385, 1 << 40} {
		all.Go(func() { sizes.add(n) })
		sum += float64(max(n, 0))
		for bound := 1.0; bound <= 16384; bound *= 2 {
			if float64(n) <= bound {
				want[bound]++
			}
		}
	}
	all.Wait()
	d := sizes.Read()
	if d.Count != 12 || d.Sum != sum || fmt.Sprint(d.Buckets) != fmt.Sprint(want) {
		t.Errorf("%+v, want %d buckets %v and the sum %v", d, len(want), want, sum)
	}

	var times Durations
	for _, c := range []struct {
		took  time.Duration
		bound float64 // of the first bucket that has it
	}{
		{0, 50e-6}, {50 * time.Microsecond, 50e-6}, {50*time.Microsecond + 1, 100e-6}, {100 * time.Microsecond, 100e-6},
		{time.Millisecond, 1.6e-3}, {time.Second, 1.6384}, {200 * time.Second, 209.7152}, {time.Hour, math.Inf(1)}, {-time.Second, 50e-6},
	} {
		before := times.Read()
		times.add(c.took)
		after := times.Read()
		if len(after.Buckets) != durationBounds || after.Count != before.Count+1 || math.Abs(after.Sum-before.Sum-max(c.took, 0).Seconds()) > 1e-9 {
			t.Errorf("%v: %+v", c.took, after)
		}
		for bound, n := range after.Buckets {
			has := n == before.Buckets[bound]+1
			if want := bound >= c.bound*(1-1e-12); has != want {
				t.Errorf("%v is in the bucket up to %v s: %t", c.took, bound, has)
			}
		}
	}
}

func TestStepPhases(t *testing.T) {
	var s Stats
	s.step(time.Millisecond, 16, 0, 1)
	s.step(2*time.Millisecond, 0, 3, 3)
	s.step(4*time.Millisecond, 10, 2, 3)
	for _, c := range []struct {
		phase     StepPhase
		rows, sec float64
	}{{StepPrefill, 16, 0.001}, {StepDecode, 3, 0.002}, {StepMixed, 12, 0.004}} {
		rows, took := s.StepRows[c.phase].Read(), s.StepTime[c.phase].Read()
		if rows.Count != 1 || rows.Sum != c.rows || took.Count != 1 || took.Sum != c.sec {
			t.Errorf("%v: %+v, %+v", c.phase, rows, took)
		}
	}
	if seqs := s.StepSeqs.Read(); seqs.Sum != 7 || s.ComputedTokens.Load() != 26 {
		t.Errorf("%v sequences, %d tokens of prompts", seqs.Sum, s.ComputedTokens.Load())
	}
}

// Each end of a request has an outcome of its own.
func TestOutcomes(t *testing.T) {
	seen := map[RequestOutcome]string{}
	for _, c := range []struct {
		end  *End
		err  error
		name string
	}{
		{&End{Reason: StopMaxTokens}, nil, "max_tokens"},
		{&End{Reason: StopEnd}, nil, "end"},
		{&End{Reason: StopSequence}, nil, "sequence"},
		{&End{Reason: StopCancelled}, nil, "cancelled"},
		{nil, context.Canceled, "left"},
		{nil, context.DeadlineExceeded, "deadline"},
		{nil, fmt.Errorf("%w: nothing read", ErrSlowReader), "slow_reader"},
		{nil, ErrUnloaded, "unloaded"},
		{nil, ErrDraining, "draining"},
		{nil, ErrDeviceHung, "device"},
		{nil, fmt.Errorf("%w: sampling panicked", ErrInternal), "internal"},
	} {
		o := outcomeOf(c.end, c.err)
		if o.String() != c.name || seen[o] != "" {
			t.Errorf("%v, %v: %v", c.end, c.err, o)
		}
		seen[o] = c.name
	}
	if len(seen) != int(RequestOutcomes) {
		t.Errorf("%d outcomes of %d", len(seen), RequestOutcomes)
	}
}

func BenchmarkStats(b *testing.B) {
	var s Stats
	for b.Loop() {
		s.step(time.Millisecond, 0, 64, 64)
		s.BetweenTokens.add(17 * time.Millisecond)
	}
}
