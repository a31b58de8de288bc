package sched

// Pause takes a sequence out of the steps, because its reader does not read. It
// keeps its blocks until somebody else needs them, and its place among those who
// run as long as it has blocks.
func (s *Scheduler) Pause(id ID) {
	q := s.byID[id]
	if q == nil || q.paused {
		return
	}
	q.paused = true
	s.stats.Paused++
	switch q.at {
	case isQueued:
		s.dequeue(q)
		s.park(q)
	case isStarved:
		s.unstarve(q)
		s.park(q)
	case isRunning:
		s.passOn(q) // the other samples don't wait for this one's reader
	}
}

// Resume puts a paused sequence back. If it has lost its blocks, it comes before
// new ones.
func (s *Scheduler) Resume(id ID) {
	q := s.byID[id]
	if q == nil || !q.paused {
		return
	}
	q.paused = false
	s.stats.Paused--
	if q.at == isParked || q.at == isHeld && q.group.takeLead(q) {
		s.enqueue(q)
	}
}

// park puts a paused sequence without blocks aside.
func (s *Scheduler) park(q *sequence) {
	q.at = isParked
	s.passOn(q)
}
