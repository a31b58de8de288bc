package sched

import "slices"

// The pool may have memory for fewer blocks than there are, its limit: the caller may
// change it between two calls. A sequence that needs more even when alone starves: it
// is put aside, so that others can go on, and comes back to its place in the queue when
// there is memory for it. All others find room sooner or later, as if the limit were
// all there is.

// starves says whether the tokens that a sequence has now take more blocks than there
// is memory for.
func (s *Scheduler) starves(q *sequence) bool { return s.pool.BlocksFor(q.known) > s.pool.Limit() }

// feed puts those back into the queue who starve no more.
func (s *Scheduler) feed() {
	s.starved = slices.DeleteFunc(s.starved, func(q *sequence) bool {
		if s.starves(q) {
			return false
		}
		s.enqueue(q)
		return true
	})
}

// unstarve takes a sequence out from among those put aside.
func (s *Scheduler) unstarve(q *sequence) {
	at := slices.Index(s.starved, q)
	s.starved = slices.Delete(s.starved, at, at+1)
}

// Starved is the number of sequences that wait for more memory than there is for all
// blocks together. They are among the waiting.
func (s *Scheduler) Starved() int { return len(s.starved) }

// Wanted is how many blocks the next plan has a use for, beyond those that are held:
// what those lack who run, what those need who wait as far as there are places for
// them, and one for each that will grow. What may be found in the cache counts as if
// it were not there.
func (s *Scheduler) Wanted() int {
	wanted := 0
	for _, q := range s.running {
		if !q.paused {
			wanted += s.need(q) - len(q.blocks)
		}
	}
	places := s.cfg.MaxRunning - len(s.running)
	for i := len(s.classes) - 1; i >= 0 && places > 0; i-- {
		for _, q := range s.classes[i].back {
			if places == 0 {
				break
			}
			wanted += s.need(q)
			places--
		}
		for _, t := range s.classes[i].tenants {
			for q := t.queues[i].head; q != nil && places > 0; q = q.next {
				wanted += s.need(q)
				places--
			}
		}
	}
	for _, q := range s.starved[:min(places, len(s.starved))] {
		wanted += s.need(q)
	}
	return wanted
}

// Later is how many of the blocks that are wanted need not be there for the next two
// plans: sequences will grow into them afterwards. None while somebody waits who could
// come in.
func (s *Scheduler) Later() int {
	if s.Waiting() > 0 && len(s.running) < s.cfg.MaxRunning {
		return 0
	}
	later := 0
	for _, q := range s.running {
		if !q.paused {
			soon := max(len(q.blocks), s.pool.BlocksFor(min(q.known+2, q.most)))
			later += max(0, s.need(q)-soon)
		}
	}
	return later
}

// need is how many blocks a sequence has or its tokens take, and one more if it is to
// grow: the last token is not processed.
func (s *Scheduler) need(q *sequence) int {
	now := max(s.pool.BlocksFor(q.known), len(q.blocks))
	return min(now+1, max(now, s.pool.BlocksFor(q.most-1)))
}
