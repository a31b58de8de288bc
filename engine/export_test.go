package engine

import "time"

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
