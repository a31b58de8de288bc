package sched

// lookupsPerStep bounds what a prompt that does not fit costs while it waits: one
// of a million tokens has 60,000 blocks to look up.
const lookupsPerStep = 256

// admit lets those who wait in, one after another, while there is a place and
// room for the next one. When that does not fit, nobody overtakes it; but one that
// would not fit were it alone does not hold up the others.
func (s *Scheduler) admit() {
	for len(s.running) < s.cfg.MaxRunning {
		q := s.candidate()
		if q == nil {
			return
		}
		if s.starves(q) {
			s.dequeue(q)
			q.at = isStarved
			s.starved = append(s.starved, q)
			continue
		}
		found, ok := s.fits(q)
		if !ok {
			return
		}
		s.seat(q, found)
	}
}

// fits says whether there is room for the tokens that a sequence has now, and how
// many of its blocks are there already. Paused sequences lose theirs if that is
// what makes the room.
func (s *Scheduler) fits(q *sequence) (found int, ok bool) {
	limit := s.limit(q)
	for q.hits < limit && s.pool.Has(q.keys[q.hits]) {
		q.hits++
	}
	blocks := s.pool.BlocksFor(q.known)
	spare, paused := s.spare()
	// As if all that may be found would be, and be in use already.
	free := s.pool.Free()
	if free+paused < blocks-min(q.hits, limit)+spare {
		return 0, false
	}
	if free < blocks+spare && s.stats.Steps < q.lookUp && len(s.running) > 0 {
		return 0, false
	}
	found, cached := s.pool.Match(q.keys[:limit])
	if need := blocks - found + cached + spare; free < need && s.reclaim(need) {
		found, cached = s.pool.Match(q.keys[:limit]) // among them what others held until now
	}
	q.hits = found
	q.lookUp = s.stats.Steps + uint64(limit/lookupsPerStep)
	return found, s.pool.Free() >= blocks-found+cached+spare
}

// spare is how many blocks an admission leaves: one for each sequence that still
// grows, so that it does not have to go again at once. paused is how many blocks
// are with paused sequences that no step in flight has rows of.
func (s *Scheduler) spare() (spare, paused int) {
	for _, q := range s.running {
		switch {
		case q.paused && q.inFlight > 0:
		case q.paused:
			paused += len(q.blocks)
		case s.pool.BlocksFor(q.most-1) > len(q.blocks): // the last token is not processed
			spare++
		}
	}
	return spare, paused
}

// seat gives a sequence its blocks, of which so many are there already, and a part
// in the steps.
func (s *Scheduler) seat(q *sequence, found int) {
	s.dequeue(q)
	s.classOf(q).since = s.now
	blocks := s.pool.Share(q.blocks, q.keys[:found])
	blocks, ok := s.pool.Append(blocks, s.pool.BlocksFor(q.known)-found)
	if !ok || len(blocks) != s.pool.BlocksFor(q.known) {
		panic("sched: blocks that were counted are not there") // fits has counted them
	}
	q.blocks, q.published = blocks, found
	q.done = found * s.pool.BlockSize()
	s.stats.Reused += uint64(q.done)
	q.high = max(q.high, q.done)
	q.charged = max(q.charged, q.high) // what was found costs nothing
	q.tenant.charge(q, q.known)
	q.level = int(min(int64(q.priority)+q.waited/s.cfg.Aging, MaxPriority))
	q.at, q.back, q.begun = isRunning, true, s.stats.Steps
	s.running = append(s.running, q)
	s.lead(q)
}
