package sched

// deadlines is a heap of the sequences that have one, the earliest first.
type deadlines []*sequence

// first is the earliest deadline; 0 when there is none.
func (d deadlines) first() int64 {
	if len(d) == 0 {
		return 0
	}
	return d[0].deadline
}

func (d *deadlines) add(q *sequence) {
	if q.deadline == 0 {
		return
	}
	q.heapAt = len(*d)
	*d = append(*d, q)
	d.up(q.heapAt)
}

// drop takes a sequence out, if it is in.
func (d *deadlines) drop(q *sequence) {
	if q.heapAt < 0 {
		return
	}
	at, last := q.heapAt, len(*d)-1
	d.swap(at, last)
	(*d)[last] = nil
	*d = (*d)[:last]
	q.heapAt = -1
	if at < last {
		d.down(at)
		d.up(at)
	}
}

func (d deadlines) up(i int) {
	for parent := (i - 1) / 2; i > 0 && d.before(i, parent); i, parent = parent, (parent-1)/2 {
		d.swap(i, parent)
	}
}

func (d deadlines) down(i int) {
	for {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(d); child++ {
			if d.before(child, least) {
				least = child
			}
		}
		if least == i {
			return
		}
		d.swap(i, least)
		i = least
	}
}

func (d deadlines) before(i, j int) bool {
	return d[i].deadline < d[j].deadline || d[i].deadline == d[j].deadline && d[i].order < d[j].order
}

func (d deadlines) swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].heapAt, d[j].heapAt = i, j
}

// expire removes the sequences whose deadline has passed.
func (s *Scheduler) expire() {
	for len(s.deadlines) > 0 && s.deadlines[0].deadline <= s.now {
		q := s.deadlines[0]
		s.next.plan.Expired = append(s.next.plan.Expired, q.id)
		s.stats.Expired++
		s.remove(q)
	}
}
