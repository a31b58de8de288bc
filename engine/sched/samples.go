package sched

import "slices"

// group is what samples of one prompt are in until the prompt is computed. One of
// them leads: it computes the prompt. The others are held until it has, and then
// share its blocks.
type group struct {
	leader *sequence // nil: all are paused
	held   []*sequence
	upTo   int // tokens of the prompt in blocks that can be shared
}

// newGroup is nil when there is nothing to share.
func (s *Scheduler) newGroup(samples, keys, prompt int) *group {
	size := s.pool.BlockSize()
	upTo := min(keys, (prompt-1)/size) * size
	if samples == 1 || upTo == 0 {
		return nil
	}
	return &group{upTo: upTo}
}

// join takes a sequence in, and says whether it may be queued: the first one is.
func (g *group) join(q *sequence) bool {
	if g == nil {
		return true
	}
	q.group = g
	if g.leader == nil {
		g.leader = q
		return true
	}
	q.at = isHeld
	q.allRows = false // one of them gives all the prompt's logits
	g.held = append(g.held, q)
	return false
}

// lead lets the others go when the one that leads has computed what they share.
func (s *Scheduler) lead(q *sequence) {
	g := q.group
	if g == nil || g.leader != q || q.done < g.upTo {
		return
	}
	q.group = nil
	for _, other := range g.held {
		other.group = nil
		other.fresh = min(other.fresh, other.prompt-g.upTo)
		if other.paused {
			other.at = isParked
		} else {
			s.enqueue(other)
		}
	}
	g.leader, g.held = nil, nil
}

// passOn takes a sequence out of its group. If it has led, the next one does.
func (s *Scheduler) passOn(q *sequence) {
	g := q.group
	if g == nil {
		return
	}
	q.group = nil
	if g.leader != q {
		g.drop(q)
		return
	}
	g.leader = nil
	for _, other := range g.held {
		if !other.paused {
			g.takeLead(other)
			s.enqueue(other)
			return
		}
	}
}

// takeLead makes a held sequence the one that leads, unless there is one.
func (g *group) takeLead(q *sequence) bool {
	if g.leader != nil {
		return false
	}
	g.drop(q)
	g.leader = q
	return true
}

func (g *group) drop(q *sequence) {
	if at := slices.Index(g.held, q); at >= 0 {
		g.held = slices.Delete(g.held, at, at+1)
	}
}
