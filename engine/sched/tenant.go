package sched

import "kigo/engine/kv"

// Tenants get equal shares of the rows that are computed, by the virtual token
// counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI
// 2024, arXiv 2401.00588): each tenant has a counter of the rows it was served;
// of those who wait, the one with the lowest counter comes next; and who comes
// back after a pause starts at the lowest counter of those who are there, so
// that nobody saves up. Who is alone gets everything. A row counts once, however
// often a preempted sequence computes it, and one that a block of the cache
// saves not at all.
type tenant struct {
	name      string
	root      kv.Key // of its sequences' first blocks
	served    int64  // rows
	sequences int    // that it has; with none it is idle
	at        int    // in tenants.active

	queues [classes]queue

	older, newer *tenant // neighbours among the idle ones
}

// tenants are those who have sequences, and some of those who had.
type tenants struct {
	salt   string
	byName map[string]*tenant
	active []*tenant // in no order
	floor  int64     // the counter of whoever was the last to be active

	oldest, newest *tenant // idle ones, in the order in which they became so
}

// arrive is the tenant of that name with n sequences more.
func (a *tenants) arrive(name string, n int) *tenant {
	t := a.byName[name]
	if t == nil {
		t = &tenant{name: name, root: kv.Root(a.salt, name)}
		a.byName[name] = t
	} else if t.sequences == 0 {
		a.unlink(t)
	}
	if t.sequences == 0 {
		t.served = max(t.served, a.least())
		t.at = len(a.active)
		a.active = append(a.active, t)
	}
	t.sequences += n
	return t
}

// depart takes one sequence away from a tenant.
func (a *tenants) depart(t *tenant) {
	if t.sequences--; t.sequences > 0 {
		return
	}
	last := len(a.active) - 1
	moved := a.active[last]
	a.active[t.at], moved.at = moved, t.at
	a.active[last] = nil
	a.active = a.active[:last]
	if last == 0 {
		a.floor = max(a.floor, t.served)
	}
	t.older, t.newer = a.newest, nil
	if a.newest == nil {
		a.oldest = t
	} else {
		a.newest.newer = t
	}
	a.newest = t
}

// forget drops idle tenants: while there are more than most in all, and those
// that would come back as new ones do.
func (a *tenants) forget(most int) {
	if a.oldest == nil {
		return
	}
	for least := a.least(); a.oldest != nil && (len(a.byName) > most || a.oldest.served <= least); {
		t := a.oldest
		a.unlink(t)
		delete(a.byName, t.name)
	}
}

// unlink takes a tenant out from among the idle ones.
func (a *tenants) unlink(t *tenant) {
	if t.older == nil {
		a.oldest = t.newer
	} else {
		t.older.newer = t.newer
	}
	if t.newer == nil {
		a.newest = t.older
	} else {
		t.newer.older = t.older
	}
	t.older, t.newer = nil, nil
}

// least is the counter at which a new tenant starts.
func (a *tenants) least() int64 {
	if len(a.active) == 0 {
		return a.floor
	}
	least := a.active[0].served
	for _, t := range a.active[1:] {
		least = min(least, t.served)
	}
	return least
}

// count is the number of a tenant's sequences; nil has none.
func (t *tenant) count() int {
	if t == nil {
		return 0
	}
	return t.sequences
}

// charge counts a sequence's rows up to a position, as far as they have not been.
func (t *tenant) charge(q *sequence, upTo int) {
	if upTo > q.charged {
		t.served += int64(upTo - q.charged)
		q.charged = upTo
	}
}

// refund takes back what a sequence was charged for and never got.
func (t *tenant) refund(q *sequence) {
	if q.charged > q.high {
		t.served -= int64(q.charged - q.high)
		q.charged = q.high
	}
}
