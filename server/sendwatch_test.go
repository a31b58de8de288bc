package server

import (
	"testing"
	"testing/synctest"
	"time"
)

// A send is found when it has taken its time, whenever it began, and no other is: not
// one of many that follow each other, and not the wait between two.
func TestSendsThatTakeTooLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const limit = 10 * time.Second
		var w sendWatch
		w.start(limit)
		defer w.stop()
		stalled := func() bool {
			synctest.Wait()
			select {
			case <-w.stalled:
				return true
			default:
				return false
			}
		}
		for range 10 {
			w.begin(time.Now())
			time.Sleep(limit - time.Second)
			w.end()
			w.begin(time.Now())
			w.end()
			time.Sleep(3 * time.Second)
		}
		time.Sleep(3 * limit)
		if stalled() {
			t.Fatal("no send took so long")
		}
		w.begin(time.Now())
		time.Sleep(limit - time.Nanosecond)
		if stalled() {
			t.Error("found too early")
		}
		time.Sleep(time.Nanosecond)
		if !stalled() {
			t.Error("not found")
		}
	})
}
