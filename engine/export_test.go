package engine

import (
	"fmt"
	"time"

	"kigo/engine/sched"
)

// Running says whether a stream has not ended, as its reader would find out
// only by reading.
func (e *Engine) Running(s *Stream) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.streams[s.started.ID] != nil
}

// StepLimitAfter is the limit of a step after steps that took so long, each so
// many times.
func StepLimitAfter(took []time.Duration, times int, most time.Duration) time.Duration {
	var t stepTimes
	for _, d := range took {
		for range times {
			t.add(d)
		}
	}
	return t.limit(most)
}

// CheckSchedulers says what is wrong with the schedulers' books.
func (e *Engine) CheckSchedulers() error {
	return e.owner.call(func() error {
		for _, m := range e.owner.models {
			if err := m.sched.Check(); err != nil {
				return err
			}
			if len(m.seqs) != m.sched.Running()+m.sched.Waiting() {
				return fmt.Errorf("%d sequences, the scheduler has %d", len(m.seqs), m.sched.Running()+m.sched.Waiting())
			}
		}
		return nil
	})
}

// SchedulerStats are the counts of the model in service.
func (e *Engine) SchedulerStats() (s sched.Stats) {
	_ = e.owner.call(func() error {
		s = e.servingNow().sched.Stats()
		return nil
	})
	return s
}
