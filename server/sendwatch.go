package server

import (
	"sync"
	"sync/atomic"
	"time"
)

// sendWatch finds a send that takes too long. There is one send for each token, so
// that one that begins and ends costs no timer: the watch looks by itself when one that
// has just begun would have taken too long.
type sendWatch struct {
	stalled chan struct{} // closed when a send has taken longer than limit

	limit time.Duration
	born  time.Time
	since atomic.Int64 // nanoseconds after born when the send under way began; 0: none is

	mu    sync.Mutex
	timer *time.Timer // nil when the watch is over
}

// start begins the watch. It is no function that makes one, so that a watch can be part of
// what it watches.
func (w *sendWatch) start(limit time.Duration) {
	w.stalled, w.limit, w.born = make(chan struct{}), limit, time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(limit, w.look)
}

func (w *sendWatch) begin(now time.Time) { w.since.Store(max(int64(now.Sub(w.born)), 1)) }
func (w *sendWatch) end()                { w.since.Store(0) }

// look closes stalled, or looks again when the send under way, or one that begins now,
// has had its time.
func (w *sendWatch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer == nil {
		return
	}
	left := w.limit
	if since := w.since.Load(); since != 0 {
		left -= time.Since(w.born) - time.Duration(since)
	}
	if left <= 0 {
		close(w.stalled)
		w.timer = nil
		return
	}
	w.timer.Reset(left)
}

func (w *sendWatch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
}
