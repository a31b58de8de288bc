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
	name string
	root kv.Key // of its sequences' first blocks
	counters
	ahead     int64 // rows of it that come before a prompt is through; 0 but for orderPrompts
	sequences int   // that it has; with none it is idle
	at        int   // in tenants.active

	queues [classes]queue

	older, newer *tenant // neighbours among the idle ones
}

// counters are the rows that a tenant was served: those of a prompt once from its
// admission on, by which those who wait take turns, and once as they are computed, by
// which prompts that run do.
type counters struct{ served, computed int64 }

// tenants are those who have sequences, and some of those who had.
type tenants struct {
	salt   string
	byName map[string]*tenant
	active []*tenant // in no order
	floor  counters  // of whoever was the last to be active

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
		least := a.least()
		t.served, t.computed = max(t.served, least.served), max(t.computed, least.computed)
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
		a.floor = counters{max(a.floor.served, t.served), max(a.floor.computed, t.computed)}
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
	for least := a.least(); a.oldest != nil && (len(a.byName) > most || a.oldest.served <= least.served && a.oldest.computed <= least.computed); {
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

// least is where a new tenant's counters start.
func (a *tenants) least() counters {
	if len(a.active) == 0 {
		return a.floor
	}
	least := a.active[0].counters
	for _, t := range a.active[1:] {
		least = counters{min(least.served, t.served), min(least.computed, t.computed)}
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
