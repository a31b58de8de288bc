package sched

import "slices"

// secure sees to it that everybody who runs has the blocks for the tokens that it
// has; the weakest ones go until that is so, and then there is not enough. One that
// starves goes itself, and says nothing about the others.
func (s *Scheduler) secure() (enough bool) {
	enough = true
	for i := 0; i < len(s.running); i++ {
		q := s.running[i]
		if s.sitsOut(q) {
			continue
		}
		for q.at == isRunning {
			var ok bool
			if q.blocks, ok = s.pool.Append(q.blocks, s.lacks(q)); ok {
				break
			}
			weakest := q
			if !s.starves(q) {
				weakest, enough = s.weakest(false), false
			}
			if at := s.preempt(weakest); at <= i {
				i--
			}
		}
	}
	return enough
}

// lacks is how many blocks a sequence does not have for the tokens that it has. One
// whose latest token was taken back may have one too many.
func (s *Scheduler) lacks(q *sequence) int { return max(0, s.pool.BlocksFor(q.known)-len(q.blocks)) }

// mayGo says whether a sequence's blocks can be taken: a step in flight may use them,
// and if its last logits are out and its next token is not known yet, these would have
// to be computed, and given out, a second time.
func (q *sequence) mayGo() bool { return q.rowsLeft() > 0 && q.owed == 0 && q.inFlight == 0 }

// weakest is who has to go first: a paused sequence before all others, then the
// one of least priority, of those the latest to arrive.
func (s *Scheduler) weakest(pausedOnly bool) *sequence {
	var w *sequence
	for _, q := range s.running {
		if !q.mayGo() || pausedOnly && !q.paused {
			continue
		}
		if w == nil || weaker(q, w) {
			w = q
		}
	}
	return w
}

func weaker(a, b *sequence) bool {
	switch {
	case a.paused != b.paused:
		return a.paused
	case a.level != b.level:
		return a.level < b.level
	}
	return a.order > b.order
}

// reclaim takes paused sequences' blocks until so many can be had, if that is
// possible at all.
func (s *Scheduler) reclaim(blocks int) bool {
	if _, paused := s.spare(); s.pool.Free()+paused < blocks {
		return false
	}
	for s.pool.Free() < blocks {
		q := s.weakest(true)
		if q == nil {
			return false
		}
		s.preempt(q)
	}
	return true
}

// preempt takes a sequence's blocks and its part in the steps, and says where in
// running it was. Its full blocks may still be there when it comes back.
func (s *Scheduler) preempt(q *sequence) int {
	at := s.leave(q)
	s.giveBack(q)
	q.done, q.published, q.lookUp = 0, 0, 0
	if q.fresh = 0; !q.hashed { // otherwise what it has computed is likely to be found
		q.fresh = q.known
	}
	s.next.plan.Preempted = append(s.next.plan.Preempted, q.id)
	s.stats.Preempted++
	if q.paused {
		s.park(q)
	} else {
		s.enqueue(q)
	}
	return at
}

// leave takes a sequence out of those who run, and says where it was.
func (s *Scheduler) leave(q *sequence) int {
	at := slices.Index(s.running, q)
	s.running = slices.Delete(s.running, at, at+1)
	if at < s.turn {
		s.turn--
	}
	q.steps += s.stats.Steps - q.begun
	return at
}
