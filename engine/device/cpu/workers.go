package cpu

import (
	"sync"
	"sync/atomic"
)

// workers is a fixed set of goroutines that share out the items of a loop.
// The goroutine that calls run is one of them.
type workers struct {
	n     int
	jobs  chan *job
	alive sync.WaitGroup
}

// job is a loop over count items, handed out in chunks.
type job struct {
	count, chunk int
	next         atomic.Int64
	do           func(worker, lo, hi int)
	left         sync.WaitGroup
	ids          atomic.Int64
}

func startWorkers(n int) *workers {
	w := &workers{n: n, jobs: make(chan *job, n)}
	for range n - 1 {
		w.alive.Go(func() {
			for j := range w.jobs {
				j.work()
				j.left.Done()
			}
		})
	}
	return w
}

// run calls do for ranges that cover [0, count) once, from up to n goroutines
// at a time; worker is different for calls that may overlap, and below n.
func (w *workers) run(count, chunk int, do func(worker, lo, hi int)) {
	if count <= 0 {
		return
	}
	chunk = max(chunk, 1)
	helpers := min(w.n, (count+chunk-1)/chunk) - 1
	if helpers <= 0 {
		do(0, 0, count)
		return
	}
	j := &job{count: count, chunk: chunk, do: do}
	j.left.Add(helpers)
	for range helpers {
		w.jobs <- j
	}
	j.work()
	j.left.Wait()
}

func (j *job) work() {
	worker := int(j.ids.Add(1)) - 1
	for {
		lo := int(j.next.Add(int64(j.chunk))) - j.chunk
		if lo >= j.count {
			return
		}
		j.do(worker, lo, min(lo+j.chunk, j.count))
	}
}

// stop ends the goroutines and waits for them.
func (w *workers) stop() {
	close(w.jobs)
	w.alive.Wait()
}
