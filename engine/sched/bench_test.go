package sched_test

import (
	"fmt"
	"testing"

	"kigo/engine/kv"
	"kigo/engine/sched"
)

// busy is a scheduler of 256 sequences that run, in 16 tenants, and a thousand that
// wait.
func busy(b testing.TB, reuse bool) (*sched.Scheduler, []sched.ID) {
	s, err := sched.New(sched.Config{
		MaxRunning: 256, MaxWaiting: 1024, MaxRows: 2048, ChunkRows: 512,
		Aging: 1e9, MaxTenants: 4096, Reuse: reuse, Salt: "model",
	}, kv.NewPool(40_000, 16))
	if err != nil {
		b.Fatal(err)
	}
	var running []sched.ID
	tokens := make([]int32, 100)
	for i := range 1256 {
		id := sched.ID(i + 1)
		tokens[0] = int32(i)
		r := &sched.Request{Tokens: tokens, Most: 1 << 19, Tenant: fmt.Sprint(i % 16), Deadline: 1 << 60}
		mustAdd(b, s, 0, *r, id)
		if i < 256 {
			running = append(running, id)
		}
	}
	for ready := 0; ready < len(running); {
		p := s.Next(0)
		for _, w := range p.Work {
			if w.Logits {
				ready++
			}
		}
		s.Done(p, 0)
	}
	return s, running
}

// round is a step in which everybody generates a token, and one of sixteen fills a
// block.
func round(b testing.TB, s *sched.Scheduler, running []sched.ID) {
	for _, id := range running {
		if err := s.Grow(id, 7); err != nil {
			b.Fatal(err)
		}
	}
	p := s.Next(0)
	if len(p.Work) != len(running) {
		b.Fatalf("%d sequences in a step", len(p.Work))
	}
	s.Done(p, 0)
}

// TestStepsAllocateNothing: not even when blocks fill and are published. A sequence's
// list of blocks, and that of their keys, doubles now and then while it grows: from 800 to
// 1,000 tokens, in blocks of 16, neither does.
func TestStepsAllocateNothing(t *testing.T) {
	for _, reuse := range []bool{false, true} {
		s, running := busy(t, reuse)
		for range 700 {
			round(t, s, running)
		}
		if n := testing.AllocsPerRun(180, func() { round(t, s, running) }); n != 0 {
			t.Errorf("reuse %t: %v allocations a step", reuse, n)
		}
	}
}

// BenchmarkStep is what the scheduler costs in a step of 256 sequences that generate,
// a thousand waiting: Grow for each of them, Next and Done.
func BenchmarkStep(b *testing.B) {
	for _, reuse := range []bool{false, true} {
		b.Run(fmt.Sprintf("reuse=%t", reuse), func(b *testing.B) {
			s, running := busy(b, reuse)
			b.ReportAllocs()
			steps := 0
			for b.Loop() {
				if steps++; steps%2000 == 0 { // the cache would be full
					b.StopTimer()
					s, running = busy(b, reuse)
					b.StartTimer()
				}
				round(b, s, running)
			}
		})
	}
}

// BenchmarkTurnover is a sequence's whole life beside 255 others: Add, a step with its
// prompt of 100 tokens, Remove.
func BenchmarkTurnover(b *testing.B) {
	s, running := busy(b, true)
	for id := sched.ID(257); id <= 1256; id++ {
		s.Remove(id)
	}
	tokens := make([]int32, 100)
	next := sched.ID(10_000)
	b.ReportAllocs()
	for b.Loop() {
		s.Remove(running[0])
		copy(running, running[1:])
		running[len(running)-1] = next
		tokens[0] = int32(next)
		mustAdd(b, s, 0, sched.Request{Tokens: tokens, Most: 1 << 19, Tenant: "ann"}, next)
		next++
		s.Done(s.Next(0), 0)
	}
}
