// Package sched decides what the next step of the device works on. It is a
// pure state machine: requests, events and times in, a plan out; no device,
// clock, goroutine or randomness, so the same input always gives the same plan.
//
// Batching is continuous: a step holds one row of every sequence that
// generates, and beside them a chunk of the prompts of those that do not yet;
// sequences come and go between steps. A sequence is admitted when there is
// room for the tokens that it has now. When the blocks run out while others
// grow, the weakest sequence is preempted: it gives its blocks up, waits at the
// front of its class, and is computed again later from the tokens, which the
// caller keeps.
//
// A step can be planned while the one before it runs, so that the device need not wait:
// as if that one had ended, with a token for each sequence that nobody has seen yet.
//
// By subject: queue.go has the order of those who wait, tenant.go the fairness
// between tenants, admit.go and preempt.go who gets in and who has to go, memory.go
// what happens while there is memory for few blocks, pause.go the readers that do not
// read, prefix.go and samples.go what is not computed twice, plan.go the step, ahead.go
// the one after it, prompts.go whose prompt comes next, estimate.go and deadline.go the
// times.
package sched

import (
	"errors"
	"fmt"

	"kigo/engine/kv"
)

// Why Add refuses a request, to be matched with errors.Is. Anything else that it
// returns is a bug of the caller's.
var (
	// ErrFull says that the queue has no room; it comes in a *FullError.
	ErrFull = errors.New("the queue is full")

	// ErrTooLong says that a sequence could not be finished even when alone.
	ErrTooLong = errors.New("more tokens than the KV cache holds")

	// ErrLate says that the first token could not come before the deadline.
	ErrLate = errors.New("the first token would come after the deadline")
)

// FullError is an ErrFull that says when to ask again.
type FullError struct {
	After int64 // ns from now until there should be room, by what steps took so far
}

func (e *FullError) Error() string { return ErrFull.Error() }

// Unwrap makes it an ErrFull.
func (e *FullError) Unwrap() error { return ErrFull }

// ID names a sequence. The caller chooses it and never uses it twice at a time.
type ID uint64

// The priorities, of which 0 is everybody's. Each is a class of its own in the
// queue.
const (
	MinPriority = -4
	MaxPriority = 3
)

// Config bounds a scheduler. New says what is wrong with one.
type Config struct {
	// MaxRunning is how many sequences have a part in the steps. More of them
	// use the device better and wait longer for each token.
	MaxRunning int

	// MaxWaiting is how many there may be beside those: Add refuses what would
	// be more than MaxRunning+MaxWaiting in all. A long queue refuses less, and
	// what it accepts waits longer.
	MaxWaiting int

	// MaxPerTenant is how many of all these one tenant may have; 0: all.
	MaxPerTenant int

	// MaxRows is how many rows a step may have: the device's limit, at least 2.
	// With fewer than MaxRunning, sequences that generate take turns.
	MaxRows int

	// ChunkRows is how many of a step's rows may be of prompts while other
	// sequences generate, all prompts together. More rows bring a first token
	// sooner and make the others wait longer for their next one. When nobody
	// generates, MaxRows is the only limit.
	ChunkRows int

	// Aging is after how many ns a class of which nobody was admitted counts as
	// one priority higher, and one whose running prompts have had no rows. A short
	// one makes priorities mean little, a long one lets low priorities wait long.
	Aging int64

	// MaxTenants is how many tenants are remembered. One that has no sequence
	// is forgotten when there are more, the longest idle first; it then comes
	// back as a new one does, which costs it nothing.
	MaxTenants int

	// Reuse finds blocks that an earlier sequence of the same tenant has filled
	// with the same tokens. Off, only the samples of one request share blocks.
	Reuse bool

	// Salt is part of every block's key. It names the model, and whatever else
	// decides the contents of its blocks.
	Salt string
}

func (c *Config) check(pool *kv.Pool) error {
	for _, f := range []struct {
		name        string
		value, from int64
	}{
		{"MaxRunning", int64(c.MaxRunning), 1},
		{"MaxWaiting", int64(c.MaxWaiting), 0},
		{"MaxPerTenant", int64(c.MaxPerTenant), 0},
		{"MaxRows", int64(c.MaxRows), 2}, // for who generates, and for a prompt
		{"ChunkRows", int64(c.ChunkRows), 1},
		{"Aging", c.Aging, 1},
		{"MaxTenants", int64(c.MaxTenants), 1},
		{"blocks", int64(pool.Total()), 1},
		{"tokens in a block", int64(pool.BlockSize()), 1},
	} {
		if f.value < f.from {
			return fmt.Errorf("sched: %s is %d, want at least %d", f.name, f.value, f.from)
		}
	}
	return nil
}

// Request is what Add takes in: a prompt, and what is to become of it.
type Request struct {
	// Tokens are the prompt, at least one. The scheduler keeps no reference.
	Tokens []int32

	// Most is how many tokens there can ever be, the prompt's included.
	Most int

	// Tenant is who asks. Tenants get equal shares of the rows, and find no
	// blocks of each other.
	Tenant string

	// Priority is from MinPriority to MaxPriority.
	Priority int

	// Deadline is when the sequence is of no use any more; 0: never. It is
	// refused if its first token could not come before, and expires then.
	Deadline int64

	// AllRows has every row of the prompt computed for this sequence, because
	// the logits of all of them are wanted: it reuses no block of others.
	AllRows bool

	// Keys are what Scheduler.Keys gives for Tenant and Tokens. The hashing of a
	// long prompt takes a millisecond, which the caller can so spend elsewhere;
	// nil has Add do it.
	Keys []kv.Key
}

// Scheduler plans steps. Not for concurrent use, but for Keys.
//
// Times are nanoseconds of any clock that does not go back; one that does is
// taken to stand still.
type Scheduler struct {
	cfg  Config
	pool *kv.Pool

	now    int64 // the latest time that was handed in
	order  uint64
	groups uint64
	byID   map[ID]*sequence

	classes [classes]class
	tenants tenants

	running []*sequence // in the order of their admission
	starved []*sequence // put aside until there is more memory
	turn    int         // where in running the decoding rows begin, if they don't all fit a step

	deadlines deadlines
	times     times
	stats     Stats

	// The steps in flight, and what is reused from one to the next.
	flights [2]flight
	oldest  int     // of flights: whose step runs
	flying  int     // how many are in flight, from the oldest on
	next    *flight // that is being planned, or was last
	planned uint64  // steps
	behind  uint64  // the number of the step whose end the one that is planned assumes; 0: none
	ended   int64   // when a step has landed last
	idle    Plan    // handed out while a step is in flight
	prompts []*sequence
}

// Stats are counts since New, but for Paused and Tenants, which are of now.
type Stats struct {
	Paused    int    // sequences whose reader does not read
	Tenants   int    // tenants that are remembered
	Steps     uint64 // steps that were done
	Rows      uint64 // rows that were computed
	Again     uint64 // of these, rows that had been computed before and were lost
	Reused    uint64 // rows that were not computed, because a block held them
	Preempted uint64 // times that a sequence lost its blocks
	Expired   uint64 // sequences whose deadline passed
}

// New makes a scheduler over the blocks of pool, which it owns from then on.
func New(cfg Config, pool *kv.Pool) (*Scheduler, error) {
	if err := cfg.check(pool); err != nil {
		return nil, err
	}
	return &Scheduler{
		cfg:     cfg,
		pool:    pool,
		byID:    map[ID]*sequence{},
		tenants: tenants{salt: cfg.Salt, byName: map[string]*tenant{}},
	}, nil
}

// Add queues one sequence for each id, all of them samples of one prompt, which is
// computed once; or none, with an error. ErrFull, ErrTooLong and ErrLate are the
// ones to expect.
func (s *Scheduler) Add(now int64, r *Request, ids ...ID) error {
	s.tick(now)
	if err := s.valid(r, ids); err != nil {
		return err
	}
	keys := s.keysFor(r, len(ids))
	fresh := len(r.Tokens)
	if s.cfg.Reuse && !r.AllRows {
		found, _ := s.pool.Match(keys[:reusable(keys, len(r.Tokens), s.pool.BlockSize())])
		fresh -= found * s.pool.BlockSize()
	}
	if r.Deadline != 0 {
		if first := s.now + s.firstToken(fresh, r.Priority); first >= r.Deadline {
			return fmt.Errorf("%w, by %d ns", ErrLate, first-r.Deadline)
		}
	}
	t := s.tenants.arrive(r.Tenant, len(ids))
	g := s.newGroup(len(ids), len(keys), len(r.Tokens))
	for _, id := range ids {
		q := s.newSequence(r, id, t, keys, fresh)
		s.byID[id] = q
		s.deadlines.add(q)
		if g.join(q) {
			s.enqueue(q)
		}
	}
	s.tenants.forget(s.cfg.MaxTenants)
	return nil
}

func (s *Scheduler) valid(r *Request, ids []ID) error {
	prompt := len(r.Tokens)
	switch {
	case len(ids) == 0:
		return errors.New("sched: no sequence")
	case prompt < 1 || r.Most < prompt:
		return fmt.Errorf("sched: a sequence of %d tokens, at most %d", prompt, r.Most)
	case r.Priority < MinPriority || r.Priority > MaxPriority:
		return fmt.Errorf("sched: priority %d", r.Priority)
	case r.Deadline < 0:
		return fmt.Errorf("sched: deadline %d", r.Deadline)
	case r.Keys != nil && len(r.Keys) != prompt/s.pool.BlockSize():
		return fmt.Errorf("sched: %d keys for %d tokens", len(r.Keys), prompt)
	}
	for i, id := range ids {
		known := s.byID[id] != nil
		for _, other := range ids[:i] {
			known = known || other == id
		}
		if known {
			return fmt.Errorf("sched: sequence %d is known already", id)
		}
	}
	if s.pool.BlocksFor(r.Most) > s.pool.Total() {
		return fmt.Errorf("%w: %d tokens, room for %d", ErrTooLong, r.Most, s.pool.Total()*s.pool.BlockSize())
	}
	if s.full(r.Tenant, len(ids)) {
		return &FullError{After: s.retry(len(ids))}
	}
	return nil
}

// full says whether n sequences more of a tenant are too many.
func (s *Scheduler) full(tenant string, n int) bool {
	if len(s.byID)+n > s.cfg.MaxRunning+s.cfg.MaxWaiting {
		return true
	}
	t := s.tenants.byName[tenant]
	return s.cfg.MaxPerTenant > 0 && n+t.count() > s.cfg.MaxPerTenant
}

// Grow says that one more token of a sequence exists, which a coming step will
// process, or which one of it is that the step in flight processes already.
func (s *Scheduler) Grow(id ID, token int32) error {
	q := s.byID[id]
	if q == nil {
		return fmt.Errorf("sched: sequence %d is not known", id)
	}
	switch {
	case q.owed != 0:
		q.owed = 0
	case q.known >= q.most:
		return fmt.Errorf("sched: sequence %d has its %d tokens already", id, q.most)
	default:
		q.known++
	}
	s.hash(q, token)
	return nil
}

// Remove forgets a sequence in any phase and gives its blocks back; those that a step
// in flight uses, when that has landed.
func (s *Scheduler) Remove(id ID) {
	if q := s.byID[id]; q != nil {
		s.remove(q)
	}
}

func (s *Scheduler) remove(q *sequence) {
	delete(s.byID, q.id)
	s.deadlines.drop(q)
	if q.paused {
		s.stats.Paused--
	}
	switch q.at {
	case isQueued:
		s.dequeue(q)
	case isStarved:
		s.unstarve(q)
	case isRunning:
		s.leave(q)
		s.times.life(float64(q.steps))
	}
	q.at = isGone
	if q.inFlight == 0 {
		s.giveBack(q)
	}
	s.passOn(q)
	q.tenant.refund(q)
	s.tenants.depart(q.tenant)
	s.tenants.forget(s.cfg.MaxTenants)
}

// giveBack gives a sequence's blocks to the pool.
func (s *Scheduler) giveBack(q *sequence) {
	if err := s.pool.Give(q.blocks); err != nil {
		panic(err) // they were taken for q by admit and grow, and by nobody else
	}
	q.blocks = q.blocks[:0]
}

// tick takes in what time it is.
func (s *Scheduler) tick(now int64) { s.now = max(s.now, now) }

// Running is the number of sequences with a part in the steps, paused ones
// included.
func (s *Scheduler) Running() int { return len(s.running) }

// Waiting is the number of all others.
func (s *Scheduler) Waiting() int { return len(s.byID) - len(s.running) }

// Stats are the scheduler's counts.
func (s *Scheduler) Stats() Stats {
	st := s.stats
	st.Tenants = len(s.tenants.byName)
	return st
}

// Pool is the pool of blocks, for reading its counts. Who takes blocks of it
// gives them back before the next call of the scheduler.
func (s *Scheduler) Pool() *kv.Pool { return s.pool }
