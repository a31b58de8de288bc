package sched

import "slices"

// classes is the number of priorities.
const classes = MaxPriority - MinPriority + 1

// class has those who wait with one priority: who was preempted, in the order of
// arrival, before all others; and those by their tenants, of whom the one that
// was served least comes next.
type class struct {
	back    []*sequence
	tenants []*tenant // with a queue in the class, in no order
	waiting int
	rows    int   // prompt rows that they need
	since   int64 // when somebody was admitted, or the first one came

	prompts bool  // some of those who run had a prompt left at the latest plan
	rowsAt  int64 // when one of these had rows, or the first one came
}

func (s *Scheduler) classOf(q *sequence) *class { return &s.classes[q.priority-MinPriority] }

// enqueue puts a sequence in its place among those who wait.
func (s *Scheduler) enqueue(q *sequence) {
	c := s.classOf(q)
	if c.waiting == 0 {
		c.since = s.now
	}
	c.waiting++
	c.rows += q.fresh
	q.at, q.queued = isQueued, s.now
	if q.back {
		at, _ := slices.BinarySearchFunc(c.back, q, byArrival)
		c.back = slices.Insert(c.back, at, q)
		return
	}
	queue := &q.tenant.queues[q.priority-MinPriority]
	if queue.head == nil {
		queue.at = len(c.tenants)
		c.tenants = append(c.tenants, q.tenant)
	}
	queue.insert(q)
}

// dequeue takes a sequence out from among those who wait.
func (s *Scheduler) dequeue(q *sequence) {
	c := s.classOf(q)
	c.waiting--
	c.rows -= q.fresh
	q.waited += s.now - q.queued
	if q.back {
		at, _ := slices.BinarySearchFunc(c.back, q, byArrival)
		c.back = slices.Delete(c.back, at, at+1)
		return
	}
	i := q.priority - MinPriority
	queue := &q.tenant.queues[i]
	queue.remove(q)
	if queue.head != nil {
		return
	}
	last := len(c.tenants) - 1
	moved := c.tenants[last]
	c.tenants[queue.at] = moved
	moved.queues[i].at = queue.at
	c.tenants[last] = nil
	c.tenants = c.tenants[:last]
}

func byArrival(a, b *sequence) int {
	switch {
	case a.order < b.order:
		return -1
	case a.order > b.order:
		return 1
	}
	return 0
}

// candidate is who is to be admitted next; nil when nobody waits. Every Aging in
// which a class has somebody waiting and nobody is admitted from it raises it by
// one priority, so no class waits forever for higher ones, and a long queue of
// low priority does not overtake a short one of high priority as a whole.
func (s *Scheduler) candidate() *sequence {
	best, bestLevel := -1, int64(0)
	for i := range s.classes {
		c := &s.classes[i]
		if c.waiting == 0 {
			continue
		}
		level := int64(i) + (s.now-c.since)/s.cfg.Aging
		if best < 0 || level > bestLevel || level == bestLevel && c.since <= s.classes[best].since {
			best, bestLevel = i, level
		}
	}
	if best < 0 {
		return nil
	}
	c := &s.classes[best]
	if len(c.back) > 0 {
		return c.back[0]
	}
	var next *sequence
	for _, t := range c.tenants {
		head := t.queues[best].head
		if next == nil || t.served < next.tenant.served ||
			t.served == next.tenant.served && head.order < next.order {
			next = head
		}
	}
	return next
}

// queue is a list of sequences in the order of arrival.
type queue struct {
	head, tail *sequence
	at         int // the tenant's place in class.tenants
}

// insert puts a sequence in its place. Nearly all come last, and nearly all
// others, samples that another one held up, first.
func (l *queue) insert(q *sequence) {
	after := l.tail
	if after != nil && after.order > q.order {
		after = nil
		for next := l.head; next.order < q.order; next = next.next {
			after = next
		}
	}
	q.prev = after
	if after == nil {
		q.next, l.head = l.head, q
	} else {
		q.next, after.next = after.next, q
	}
	if q.next == nil {
		l.tail = q
	} else {
		q.next.prev = q
	}
}

func (l *queue) remove(q *sequence) {
	if q.prev == nil {
		l.head = q.next
	} else {
		q.prev.next = q.next
	}
	if q.next == nil {
		l.tail = q.prev
	} else {
		q.next.prev = q.prev
	}
	q.prev, q.next = nil, nil
}
