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
// one by one, and run ends when the claimed ones are done. Each worker begins
// with a share of its own, chunk after chunk, because memory is read best in
// order, and then helps the others with theirs.
type workers struct {
	all   []*worker
	alive sync.WaitGroup

	// The loop at hand. Whoever has claimed a chunk of it may read these.
	task         task
	count, chunk int

	_     [64]byte // the words below change all the time
	loop  atomic.Uint64
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
	share  atomic.Uint64 // number of the loop << 32 | chunks of the share that nobody has claimed
	_      [64]byte
	id     int
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
	for i := range n {
		w.all = append(w.all, newWorker())
		w.all[i].id = i
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
	seen := uint64(0) // the loop that this worker last looked at
	for {
		for round := 0; ; round++ {
			if now := w.loop.Load(); now != seen {
				seen = now
				break
			}
			if round < spinRounds {
				pause(spinPauses)
				continue
			}
			k.asleep.Store(true)
			// What came before that store has woken nobody.
			if w.loop.Load() != seen && k.asleep.CompareAndSwap(true, false) {
				continue
			}
			<-k.wake
			round = 0
		}
		if w.ended.Load() {
			return
		}
		w.work(k, seen)
	}
}

// work claims and does chunks of a loop while there are any: of the worker's own
// share, then of the others'.
func (w *workers) work(k *worker, loop uint64) {
	for i := range w.all {
		owner := k.id + i
		if owner >= len(w.all) {
			owner -= len(w.all)
		}
		share := &w.all[owner].share
		for {
			c := share.Load()
			left := int(c & (1<<32 - 1))
			if c>>32 != loop&(1<<32-1) || left == 0 {
				break
			}
			if !share.CompareAndSwap(c, c-1) {
				continue
			}
			first, end := w.shareOf(owner)
			lo := first + (chunksOf(end-first, w.chunk)-left)*w.chunk
			w.task.do(k, lo, min(lo+w.chunk, end))
			w.done.Add(1)
		}
	}
}

// shareOf are the items of a worker's share, [lo, hi).
func (w *workers) shareOf(worker int) (lo, hi int) {
	return w.count * worker / len(w.all), w.count * (worker + 1) / len(w.all)
}

func chunksOf(items, chunk int) int { return (items + chunk - 1) / chunk }

// run calls t.do for ranges that cover [0, count) once, each of chunk items
// at most.
func (w *workers) run(count, chunk int, t task) {
	if count <= 0 {
		return
	}
	first := w.all[0]
	if len(w.all) == 1 || count <= chunk {
		t.do(first, 0, count)
		return
	}
	w.task, w.count, w.chunk = t, count, max(chunk, 1)
	w.done.Store(0)
	loop, chunks := w.loop.Load()+1, 0
	for i, k := range w.all {
		lo, hi := w.shareOf(i)
		n := chunksOf(hi-lo, w.chunk)
		k.share.Store(loop<<32 | uint64(n))
		chunks += n
	}
	w.loop.Store(loop)
	for _, k := range w.all[1:] {
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

func (k *worker) rouse() {
	if k.asleep.Load() && k.asleep.CompareAndSwap(true, false) {
		k.wake <- struct{}{}
	}
}

// stop ends the goroutines and waits for them.
func (w *workers) stop() {
	w.ended.Store(true)
	w.loop.Add(1)
	for _, k := range w.all[1:] {
		k.rouse()
	}
	w.alive.Wait()
}
