package sched

import (
	"fmt"
	"slices"
)

// Check is nil if the scheduler's own records agree with each other and with the
// pool's. It looks at everything, for tests and for when nothing else is to be
// done.
func (s *Scheduler) Check() error {
	if err := s.pool.Check(); err != nil {
		return err
	}
	for _, check := range []func() error{s.checkPlaces, s.checkFlights, s.checkBlocks, s.checkQueues, s.checkTenants, s.checkDeadlines} {
		if err := check(); err != nil {
			return fmt.Errorf("sched: %w", err)
		}
	}
	return nil
}

// checkPlaces: every sequence is where it says, and nowhere else.
func (s *Scheduler) checkPlaces() error {
	if n := len(s.byID); n > s.cfg.MaxRunning+s.cfg.MaxWaiting {
		return fmt.Errorf("%d sequences, at most %d and %d", n, s.cfg.MaxRunning, s.cfg.MaxWaiting)
	}
	if len(s.running) > s.cfg.MaxRunning {
		return fmt.Errorf("%d sequences run, at most %d", len(s.running), s.cfg.MaxRunning)
	}
	found := map[*sequence]where{}
	var twice error
	put := func(q *sequence, at where) {
		if _, there := found[q]; there || q.at != at || s.byID[q.id] != q {
			twice = fmt.Errorf("sequence %d is in place %d, says %d, in two places: %t", q.id, at, q.at, there)
		}
		found[q] = at
	}
	for _, q := range s.running {
		put(q, isRunning)
	}
	for i := range s.classes {
		for _, q := range s.classes[i].back {
			put(q, isQueued)
		}
		for _, t := range s.classes[i].tenants {
			for q := t.queues[i].head; q != nil; q = q.next {
				put(q, isQueued)
			}
		}
	}
	for _, q := range s.starved {
		put(q, isStarved)
	}
	paused := 0
	for id, q := range s.byID {
		if q.paused {
			paused++
		}
		if g := q.group; g != nil && g.leader != q && !slices.Contains(g.held, q) {
			return fmt.Errorf("sequence %d is in a group that does not know it", id)
		}
		switch {
		case q.at == isParked && q.paused:
		case q.at == isHeld && q.group != nil && (q.paused || q.group.leader != nil) && slices.Contains(q.group.held, q):
			if l := q.group.leader; l != nil && (s.byID[l.id] != l || l.at != isQueued && l.at != isStarved && l.at != isRunning) {
				return fmt.Errorf("sequence %d is held by %d, which does not run or wait", id, l.id)
			}
		case ((q.at == isQueued || q.at == isStarved) && !q.paused || q.at == isRunning) && found[q] == q.at && hasKey(found, q):
		default:
			return fmt.Errorf("sequence %d, paused: %t, is not in place %d", id, q.paused, q.at)
		}
		if there := s.landed(q); there < 0 || there > q.high || q.high > q.known || q.known > q.most || q.done > q.known || q.done > 0 && q.at != isRunning {
			return fmt.Errorf("sequence %d in place %d: %d tokens there, %d done, %d at some time, %d known, %d at most",
				id, q.at, there, q.done, q.high, q.known, q.most)
		}
	}
	if paused != s.stats.Paused {
		return fmt.Errorf("%d sequences are paused, counted as %d", paused, s.stats.Paused)
	}
	return twice
}

func hasKey(m map[*sequence]where, q *sequence) bool {
	_, ok := m[q]
	return ok
}

// landed is how many tokens of a sequence are in the KV cache, whatever is assumed.
func (s *Scheduler) landed(q *sequence) int {
	f := s.flight(0)
	if at := slices.Index(f.seqs, q); at >= 0 && s.flying > 0 && f.assumed {
		return q.done - f.rows[at]
	}
	return q.done
}

// checkFlights: what sequences have in flight is what the steps say, and only of the
// oldest step is the end assumed.
func (s *Scheduler) checkFlights() error {
	parts := map[*sequence]int{}
	for n := range s.flying {
		f := s.flight(n)
		if !f.plan.inFlight || len(f.seqs) != len(f.plan.Work) || len(f.rows) != len(f.seqs) || n > 0 && (f.assumed || !s.flight(0).assumed) {
			return fmt.Errorf("step %d in flight: %d sequences for %d works, assumed: %t", n, len(f.seqs), len(f.plan.Work), f.assumed)
		}
		for i, q := range f.seqs {
			if parts[q]++; f.rows[i] < 0 || f.rows[i] > f.plan.Work[i].Rows {
				return fmt.Errorf("step %d in flight: %d rows of %d count", n, f.rows[i], f.plan.Work[i].Rows)
			}
		}
	}
	for id, q := range s.byID {
		if q.inFlight != parts[q] {
			return fmt.Errorf("sequence %d is in flight %d times, not %d", id, parts[q], q.inFlight)
		}
		if q.owed != 0 && (q.at != isRunning || q.known <= q.prompt) {
			return fmt.Errorf("sequence %d in place %d, of %d tokens, is owed one of them", id, q.at, q.known)
		}
	}
	return nil
}

// checkBlocks: each block has exactly the owners that the pool says, and what a
// sequence is going to write to is its own and has no key.
func (s *Scheduler) checkBlocks() error {
	owners := make([]int, s.pool.Total())
	count := func(q *sequence) {
		for _, b := range q.blocks {
			owners[b]++
		}
	}
	for _, q := range s.byID {
		if q.at != isRunning && len(q.blocks) > 0 {
			return fmt.Errorf("sequence %d does not run and has blocks", q.id)
		}
		if q.at == isRunning && len(q.blocks) < s.pool.BlocksFor(q.done) {
			return fmt.Errorf("sequence %d has %d blocks for %d tokens", q.id, len(q.blocks), q.done)
		}
		count(q)
	}
	counted := map[*sequence]bool{}
	for n := range s.flying {
		for _, q := range s.flight(n).seqs {
			if q.at == isGone && !counted[q] {
				counted[q] = true
				count(q)
			}
		}
	}
	for b, n := range owners {
		if n != s.pool.Owners(int32(b)) {
			return fmt.Errorf("block %d is with %d sequences and has %d owners", b, n, s.pool.Owners(int32(b)))
		}
	}
	for _, q := range s.running {
		there := s.landed(q)
		for i, b := range q.blocks {
			if written := (i+1)*s.pool.BlockSize() > there; written && (owners[b] != 1 || s.pool.Keyed(b)) {
				return fmt.Errorf("sequence %d will write to block %d, of %d owners, with a key: %t", q.id, b, owners[b], s.pool.Keyed(b))
			}
		}
	}
	return nil
}

// checkQueues: the order of arrival within a class, and the counts.
func (s *Scheduler) checkQueues() error {
	for i := range s.classes {
		c := &s.classes[i]
		waiting, rows := len(c.back), 0
		for j, q := range c.back {
			rows += q.fresh
			if !q.back || q.priority-MinPriority != i || j > 0 && c.back[j-1].order >= q.order {
				return fmt.Errorf("sequence %d is out of order in class %d", q.id, i)
			}
		}
		for at, t := range c.tenants {
			l := &t.queues[i]
			if l.head == nil || l.at != at {
				return fmt.Errorf("tenant %q is in class %d without a queue, or elsewhere", t.name, i)
			}
			var prev *sequence
			for q := l.head; q != nil; prev, q = q, q.next {
				waiting++
				rows += q.fresh
				if q.back || q.tenant != t || q.priority-MinPriority != i || q.prev != prev || prev != nil && prev.order >= q.order {
					return fmt.Errorf("sequence %d is out of order in class %d", q.id, i)
				}
			}
			if l.tail != prev {
				return fmt.Errorf("tenant %q's queue in class %d does not end where it says", t.name, i)
			}
		}
		if waiting != c.waiting || rows != c.rows {
			return fmt.Errorf("class %d has %d waiting with %d rows, counted as %d and %d", i, waiting, rows, c.waiting, c.rows)
		}
	}
	return nil
}

// checkTenants: who has sequences is active, and nobody is remembered for too long.
func (s *Scheduler) checkTenants() error {
	count := map[*tenant]int{}
	for _, q := range s.byID {
		count[q.tenant]++
		if s.tenants.byName[q.tenant.name] != q.tenant {
			return fmt.Errorf("the tenant of sequence %d was forgotten", q.id)
		}
	}
	for name, t := range s.tenants.byName {
		active := t.at < len(s.tenants.active) && s.tenants.active[t.at] == t
		if t.sequences != count[t] || active != (t.sequences > 0) {
			return fmt.Errorf("tenant %q has %d sequences, counted as %d, active: %t", name, count[t], t.sequences, active)
		}
		if most := s.cfg.MaxPerTenant; most > 0 && t.sequences > most {
			return fmt.Errorf("tenant %q has %d sequences, at most %d", name, t.sequences, most)
		}
	}
	idle := 0
	for t := s.tenants.oldest; t != nil; t = t.newer {
		if idle++; s.tenants.byName[t.name] != t || t.sequences > 0 || t.newer == nil && s.tenants.newest != t {
			return fmt.Errorf("tenant %q is not idle, or the list of those is broken", t.name)
		}
	}
	if n := len(s.tenants.byName); len(s.tenants.active) != len(count) || idle != n-len(count) {
		return fmt.Errorf("%d tenants, of whom %d are active and %d idle", n, len(s.tenants.active), idle)
	}
	if n := len(s.tenants.byName); n > max(s.cfg.MaxTenants, len(count)) {
		return fmt.Errorf("%d tenants, %d of them active, at most %d", n, len(count), s.cfg.MaxTenants)
	}
	return nil
}

// checkDeadlines: everybody with a deadline is in the heap, the earliest first.
func (s *Scheduler) checkDeadlines() error {
	n := 0
	for _, q := range s.byID {
		if q.deadline != 0 {
			n++
		}
	}
	if n != len(s.deadlines) {
		return fmt.Errorf("%d sequences have deadlines, %d are known", n, len(s.deadlines))
	}
	for i, q := range s.deadlines {
		if q.heapAt != i || s.byID[q.id] != q || s.deadlines.before(i, (i-1)/2) && i > 0 {
			return fmt.Errorf("the deadline of sequence %d is out of place", q.id)
		}
	}
	return nil
}
