package sched

import "kigo/engine/kv"

// where a sequence is. It is in exactly one place.
type where uint8

const (
	isQueued  where = iota // in its class's queue
	isHeld                 // a sample that waits for another one to compute their prompt
	isParked               // paused, and without blocks
	isStarved              // waits for more memory than there is for all blocks together
	isRunning              // has blocks and a part in the steps
	isGone                 // removed
)

type sequence struct {
	id       ID
	at       where
	order    uint64 // of arrival
	tenant   *tenant
	priority int
	level    int // its priority, raised by how long it waited: how strong it is once it runs
	most     int
	prompt   int
	known    int // tokens that exist: the prompt and what was generated
	done     int // tokens that are in the KV cache, or will be when the step has run whose end is assumed
	high     int // tokens that have been there at some time
	charged  int // tokens that its tenant has been charged for
	allRows  bool
	paused   bool
	back     bool // was admitted before: it comes before new ones

	queued int64  // when it came into the queue
	waited int64  // how long it was there before
	begun  uint64 // the step before which it was admitted
	steps  uint64 // that it was running for, before its latest admission

	rank   int64 // of its prompt: its priority, raised by how long its class has had no rows
	finish int64 // what its tenant will have had computed when its prompt is through

	deadline int64 // 0: none
	heapAt   int   // in deadlines

	blocks    []int32
	keys      []kv.Key // of its full blocks, as far as they are wanted
	tail      []int32  // the tokens after these
	hashed    bool     // keys and tail follow the generated tokens too
	published int      // blocks that are published, or found to be there already
	hits      int      // keys that may be found; a bound from above
	lookUp    uint64   // the step before which a long prompt is not looked up again
	fresh     int      // prompt tokens that were not found on arrival

	owed     uint64 // the number of the step that brings its latest token, if nobody has told that yet; 0: all are told
	group    *group
	inFlight int // steps in flight that have rows of it

	prev, next *sequence // neighbours in its tenant's queue
}

// rowsLeft is how many rows wait to be computed.
func (q *sequence) rowsLeft() int { return q.known - q.done }

func (s *Scheduler) newSequence(r *Request, id ID, t *tenant, keys []kv.Key, fresh int) *sequence {
	s.order++
	q := &sequence{
		id:       id,
		order:    s.order,
		tenant:   t,
		priority: r.Priority,
		most:     r.Most,
		prompt:   len(r.Tokens),
		known:    len(r.Tokens),
		allRows:  r.AllRows,
		queued:   s.now,
		deadline: r.Deadline,
		heapAt:   -1,
		keys:     keys[:len(keys):len(keys)], // samples share them until one of them grows
		hits:     len(keys),
		hashed:   s.cfg.Reuse,
		fresh:    fresh,
	}
	if q.hashed {
		q.tail = append(q.tail, r.Tokens[len(keys)*s.pool.BlockSize():]...)
	}
	return q
}
