package sched

// Place is where a sequence is, and whether it was preempted and waits in front.
func (s *Scheduler) Place(id ID) (at string, back bool) {
	q := s.byID[id]
	if q == nil {
		return "gone", false
	}
	return [...]string{"queued", "held", "parked", "starved", "running"}[q.at], q.back
}

// Served is a tenant's counter; -1 when it is not remembered.
func (s *Scheduler) Served(tenant string) int64 {
	if t := s.tenants.byName[tenant]; t != nil {
		return t.served
	}
	return -1
}

// Overtaken is a sequence that has prompt rows left after the latest plan, though a
// later one of its tenant and priority has some in it; 0 if there is none.
func (s *Scheduler) Overtaken() ID {
	rows := map[ID]int{}
	for _, w := range s.next.plan.Work {
		rows[w.ID] = w.Rows
	}
	for _, w := range s.next.plan.Work {
		q := s.byID[w.ID]
		for _, o := range s.running {
			if q.rowsLeft() > 1 && o.order < q.order && o.tenant == q.tenant && o.priority == q.priority &&
				!o.paused && o.rowsLeft() > max(1, rows[o.id]) {
				return o.id
			}
		}
	}
	return 0
}

// StepTime is what a step of so many rows is expected to take after steps of rows
// and ns.
func StepTime(steps [][2]int64, rows int) int64 {
	var t times
	for _, s := range steps {
		t.step(int(s[0]), s[1])
	}
	return int64(t.of(rows) + 0.5)
}
