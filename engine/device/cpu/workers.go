package cpu

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// workers is a fixed set of goroutines that share out the items of a loop. The
// goroutine that calls run is one of them, the first.
//
// A step is a few hundred loops of some ten microseconds, so a goroutine that
// has nothing to do keeps looking for the next loop for a while before it
// sleeps, and nobody waits for one that has not woken up: chunks are claimed
// one by one, and run ends when the claimed ones are done.
type workers struct {
	all   []*worker
	alive sync.WaitGroup

	// The loop at hand. Whoever has claimed a chunk of it may read these.
	task                 task
	count, chunk, chunks int

	_     [64]byte      // the words below change all the time
	claim atomic.Uint64 // number of the loop << 32 | chunks that nobody has claimed
	_     [64]byte
	done  atomic.Int64 // chunks done
	_     [64]byte
	ended atomic.Bool
}

// task is the body of a loop. do works on items [lo, hi); calls for different
// workers may overlap.
type task interface{ do(w *worker, lo, hi int) }

// worker is one of the goroutines, with its own scratch memory.
type worker struct {
	asleep atomic.Bool
	wake   chan struct{} // sent to by whoever turns asleep off

	product   product
	unpacked  unpacked
	tail      []float32 // results of a panel that is not whole
	up        []float32 // products that a gate multiplies
	attention attention
	queries   []float32 // tile x head dim
	mixed     []float32 // the same: weighted values
	scores    []float32 // tile x positions
	sums      [largestTile]float32
	squares   [8]float64
	reference referenceScratch
}

func newWorker() *worker {
	k := &worker{wake: make(chan struct{}, 1)}
	k.product.values = &k.unpacked
	return k
}

func startWorkers(n int) *workers {
	w := &workers{}
	for range n {
		w.all = append(w.all, newWorker())
	}
	for _, k := range w.all[1:] {
		w.alive.Go(func() { w.serve(k) })
	}
	return w
}

// Looking for work: so many rounds of so many pauses, about 100 microseconds.
const (
	spinRounds = 500
	spinPauses = 4
)

// serve works on one loop after another until stop.
func (w *workers) serve(k *worker) {
	seen := uint64(0) // the claim word when this worker last looked
	for {
		for round := 0; ; round++ {
			now := w.claim.Load()
			if now>>32 != seen>>32 {
				seen = now
				break
			}
			if round < spinRounds {
				pause(spinPauses)
				continue
			}
			k.asleep.Store(true)
			// What came before that store has woken nobody.
			if w.claim.Load()>>32 != seen>>32 && k.asleep.CompareAndSwap(true, false) {
				continue
			}
			<-k.wake
			round = 0
		}
		if w.ended.Load() {
			return
		}
		w.work(k, seen>>32)
	}
}

// work claims and does chunks of a loop while there are any.
func (w *workers) work(k *worker, loop uint64) {
	for {
		c := w.claim.Load()
		left := c & (1<<32 - 1)
		if c>>32 != loop || left == 0 {
			return
		}
		if !w.claim.CompareAndSwap(c, c-1) {
			continue
		}
		lo := (w.chunks - int(left)) * w.chunk
		w.task.do(k, lo, min(lo+w.chunk, w.count))
		w.done.Add(1)
	}
}

// run calls t.do for ranges that cover [0, count) once, each of chunk items
// but perhaps one.
func (w *workers) run(count, chunk int, t task) {
	if count <= 0 {
		return
	}
	first := w.all[0]
	chunk = max(chunk, 1)
	chunks := (count + chunk - 1) / chunk
	if len(w.all) == 1 || chunks == 1 {
		t.do(first, 0, count)
		return
	}
	w.task, w.count, w.chunk, w.chunks = t, count, chunk, chunks
	w.done.Store(0)
	loop := w.next(uint64(chunks))
	for _, k := range w.all[1:min(len(w.all), chunks)] {
		k.rouse()
	}
	w.work(first, loop)
	for round := 0; w.done.Load() != int64(chunks); round++ {
		if round < spinRounds {
			pause(spinPauses)
		} else {
			runtime.Gosched() // whoever has the last chunk may need this processor
		}
	}
}

// next opens a loop of so many chunks and returns its number.
func (w *workers) next(chunks uint64) uint64 {
	loop := (w.claim.Load()>>32 + 1) & (1<<32 - 1)
	w.claim.Store(loop<<32 | chunks)
	return loop
}

func (k *worker) rouse() {
	if k.asleep.Load() && k.asleep.CompareAndSwap(true, false) {
		k.wake <- struct{}{}
	}
}

// stop ends the goroutines and waits for them.
func (w *workers) stop() {
	w.ended.Store(true)
	w.next(0)
	for _, k := range w.all[1:] {
		k.rouse()
	}
	w.alive.Wait()
}
