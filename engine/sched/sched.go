// Package sched decides what the next step of the device works on. It is a
// pure state machine: requests and events in, a plan out; no device, clock,
// goroutine or randomness, so the same input always gives the same plan.
//
// Sequences take turns: a step belongs to one sequence, which processes one
// chunk of its prompt or generates one token, and the next step belongs to the
// next sequence. A sequence is admitted when blocks for all the tokens it can
// ever have are free, in the order of arrival; so whoever is admitted can
// finish, and nobody is overtaken.
package sched

import (
	"errors"
	"fmt"

	"kigo/engine/kv"
)

// ErrFull says that the queue has no room.
var ErrFull = errors.New("the queue is full")

// ErrTooLong says that a sequence could not be admitted even when alone.
var ErrTooLong = errors.New("more tokens than the KV cache holds")

// ID names a sequence. The caller chooses it and never uses it twice at a time.
type ID uint64

// Config bounds a scheduler.
type Config struct {
	MaxRunning int // sequences that take turns; more turns wait longer for each token
	MaxWaiting int // sequences that wait for their admission
	ChunkRows  int // prompt tokens in a step; larger is faster, smaller answers others sooner
}

// Plan is the work of one step.
type Plan struct {
	ID     ID
	Start  int     // position of the first row
	Rows   int     // tokens Start to Start+Rows of the sequence
	Blocks []int32 // the sequence's KV blocks; valid until it is removed
	Logits bool    // the last row's logits are wanted: a token is to be sampled
}

// Scheduler plans steps. Not for concurrent use.
type Scheduler struct {
	cfg     Config
	pool    *kv.Pool
	byID    map[ID]*sequence
	waiting []*sequence // in order of arrival
	running []*sequence // in order of admission
	turn    int         // index in running of whose turn it is
}

type sequence struct {
	id     ID
	known  int // tokens that exist: the prompt and what was generated
	done   int // tokens that are in the KV cache
	most   int // tokens that there can ever be
	blocks []int32
	paused bool
}

// New makes a scheduler over the blocks of pool, which it owns from then on.
func New(cfg Config, pool *kv.Pool) *Scheduler {
	return &Scheduler{cfg: cfg, pool: pool, byID: map[ID]*sequence{}}
}

// Add queues a sequence with a prompt of prompt tokens that may grow to most.
func (s *Scheduler) Add(id ID, prompt, most int) error {
	if s.byID[id] != nil {
		return fmt.Errorf("sequence %d is already known", id)
	}
	if prompt < 1 || most < prompt {
		return fmt.Errorf("sequence of %d tokens, at most %d", prompt, most)
	}
	if s.pool.BlocksFor(most) > s.pool.Total() {
		return fmt.Errorf("%w: %d tokens, room for %d", ErrTooLong, most, s.pool.Total()*s.pool.BlockSize())
	}
	s.admit()
	if len(s.running)+len(s.waiting) >= s.cfg.MaxRunning+s.cfg.MaxWaiting || len(s.waiting) > s.cfg.MaxWaiting {
		return ErrFull
	}
	q := &sequence{id: id, known: prompt, most: most}
	s.byID[id] = q
	s.waiting = append(s.waiting, q)
	return nil
}

// Grow says that one more token of a sequence exists, which a coming step
// will process.
func (s *Scheduler) Grow(id ID) error {
	q := s.byID[id]
	if q == nil {
		return fmt.Errorf("sequence %d is not known", id)
	}
	if q.known >= q.most {
		return fmt.Errorf("sequence %d has its %d tokens already", id, q.most)
	}
	q.known++
	return nil
}

// Pause takes a sequence out of the turns; it keeps its blocks.
func (s *Scheduler) Pause(id ID) {
	if q := s.byID[id]; q != nil {
		q.paused = true
	}
}

// Resume puts a paused sequence back.
func (s *Scheduler) Resume(id ID) {
	if q := s.byID[id]; q != nil {
		q.paused = false
	}
}

// Remove forgets a sequence in any state and frees its blocks.
func (s *Scheduler) Remove(id ID) {
	q := s.byID[id]
	if q == nil {
		return
	}
	delete(s.byID, id)
	for i, r := range s.running {
		if r != q {
			continue
		}
		s.running = append(s.running[:i], s.running[i+1:]...)
		if i < s.turn {
			s.turn--
		}
		if err := s.pool.Give(q.blocks); err != nil {
			// The blocks were taken by admit and by nobody else.
			panic(err)
		}
		return
	}
	for i, w := range s.waiting {
		if w == q {
			s.waiting = append(s.waiting[:i], s.waiting[i+1:]...)
			return
		}
	}
}

// Next plans the next step; false when there is nothing to do. The step's
// outcome is reported by Done before the next call.
func (s *Scheduler) Next() (Plan, bool) {
	s.admit()
	for range s.running {
		if s.turn >= len(s.running) {
			s.turn = 0
		}
		q := s.running[s.turn]
		s.turn++
		if q.paused || q.done == q.known {
			continue
		}
		rows := min(q.known-q.done, s.cfg.ChunkRows)
		return Plan{
			ID:     q.id,
			Start:  q.done,
			Rows:   rows,
			Blocks: q.blocks,
			Logits: q.done+rows == q.known,
		}, true
	}
	return Plan{}, false
}

// Done says that the planned step has run. It does nothing for a sequence
// that was removed meanwhile.
func (s *Scheduler) Done(p Plan) {
	if q := s.byID[p.ID]; q != nil {
		q.done = p.Start + p.Rows
	}
}

// Running is the number of sequences that take turns, paused ones included.
func (s *Scheduler) Running() int { return len(s.running) }

// Waiting is the number of sequences in the queue.
func (s *Scheduler) Waiting() int { return len(s.waiting) }

// Pool is the pool of blocks, for reading its counts. Who takes blocks of it
// gives them back before the next call of the scheduler.
func (s *Scheduler) Pool() *kv.Pool { return s.pool }

// admit moves sequences from the queue into the turns while there is room.
func (s *Scheduler) admit() {
	for len(s.waiting) > 0 && len(s.running) < s.cfg.MaxRunning {
		q := s.waiting[0]
		blocks, ok := s.pool.Take(s.pool.BlocksFor(q.most))
		if !ok {
			return
		}
		q.blocks = blocks
		s.waiting = s.waiting[1:]
		s.running = append(s.running, q)
	}
}
