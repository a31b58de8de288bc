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

// StepTime is what a step of so many rows is expected to take after steps of rows
// and ns.
func StepTime(steps [][2]int64, rows int) int64 {
	var t times
	for _, s := range steps {
		t.step(int(s[0]), s[1])
	}
	return int64(t.of(rows) + 0.5)
}
