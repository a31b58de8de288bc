package sched

import (
	"cmp"
	"slices"
)

// Prompts that run have their rows one after another: to give each a few in turn would
// bring all first tokens at the end, where the last one comes in any case, and none
// before. Priorities come first. What ages is a class, as in the queue, and not a
// sequence: otherwise those that wait for the oldest one would overtake it as soon as
// it has had rows, and it them.

// orderPrompts puts the prompts in the order in which they have rows. Every Aging in
// which a class has none raises it by one priority. Among equals that one comes first
// which would be through first if each tenant had the same share of the rows, and its
// own prompts in the order of their arrival. So tenants take turns by whole prompts,
// and a short one does not wait for all of another tenant's long one.
func (s *Scheduler) orderPrompts() {
	var there [classes]bool
	for _, q := range s.prompts {
		i := q.priority - MinPriority
		c := &s.classes[i]
		if !there[i] && !c.prompts {
			c.rowsAt = s.now
		}
		there[i] = true
		q.rank = int64(q.priority) + (s.now-c.rowsAt)/s.cfg.Aging
	}
	for i := range s.classes {
		s.classes[i].prompts = there[i]
	}
	slices.SortFunc(s.prompts, byRank)
	var assumed []*sequence // of the step whose end is: its rows are not in computed yet
	if s.behind != 0 {
		assumed = s.flight(0).seqs
	}
	for _, q := range assumed {
		if q.at != isGone {
			q.tenant.ahead += int64(max(q.done-q.high, 0))
		}
	}
	for _, q := range s.prompts {
		q.tenant.ahead += int64(q.rowsLeft())
		q.finish = q.tenant.computed + q.tenant.ahead
	}
	for _, q := range assumed {
		q.tenant.ahead = 0
	}
	for _, q := range s.prompts {
		q.tenant.ahead = 0
	}
	slices.SortFunc(s.prompts, promptOrder)
}

func byRank(a, b *sequence) int {
	return cmp.Or(-cmp.Compare(a.rank, b.rank), cmp.Compare(a.order, b.order))
}

func promptOrder(a, b *sequence) int {
	return cmp.Or(-cmp.Compare(a.rank, b.rank), cmp.Compare(a.finish, b.finish), cmp.Compare(a.order, b.order))
}
