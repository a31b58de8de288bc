package sched

import (
	"fmt"
	"slices"
)

// flight is a step that was planned and has not landed: neither Done nor Failed was
// called. There are two at most, and the first one's end is what the second assumes.
type flight struct {
	plan    Plan
	number  uint64      // of all steps that were planned
	seqs    []*sequence // whose the works are
	rows    []int       // of each of them: how many count when the step lands
	begun   int64
	assumed bool // sequences are where it will have brought them
	lost    bool // the step before it has failed, so that its results mean nothing
}

// flight is a step in flight, by age, or the place for the one that comes after all.
func (s *Scheduler) flight(n int) *flight { return &s.flights[(s.oldest+n)%len(s.flights)] }

// Ahead plans the step after the one in flight, as if that had run to its end and
// brought each sequence a token whose logits it gives and which does not end with it:
// the last row of such a sequence's work is that of this token. What the step brings is
// told afterwards, as always, with Done and Grow, or with Miss where the token is not
// the one that the device goes on with.
//
// It is false, and nothing has changed, unless exactly one step is in flight; while a
// token of the step before that was not told; and where somebody might have to go to
// make room: who has rows in flight cannot, and comes to no harm by waiting for Next.
// A plan without work is no step, as that of Next.
func (s *Scheduler) Ahead(now int64) (p *Plan, ok bool) {
	s.tick(now)
	f := s.flight(0)
	if s.flying != 1 || f.lost || !s.foreseeable(f) {
		return nil, false
	}
	s.assume(f)
	s.behind = f.number
	p = s.planStep()
	s.behind = 0
	return p, true
}

// foreseeable says whether it is known what all sequences need once a step has run, and
// whether there are the blocks for it.
func (s *Scheduler) foreseeable(f *flight) bool {
	lack := 0
	for i, q := range f.seqs {
		if q.at == isGone || !f.brings(i) || q.owed == f.number {
			continue
		}
		if q.owed != 0 {
			return false
		}
		if !q.paused && q.known+1 < q.most && s.pool.BlocksFor(q.known+1) > max(s.pool.BlocksFor(q.known), len(q.blocks)) {
			lack++
		}
	}
	for _, q := range s.running {
		if !q.paused {
			lack += s.lacks(q)
		}
	}
	return lack <= s.pool.Free()
}

// brings says whether a step gives the sequence of one of its works a token.
func (f *flight) brings(i int) bool { return f.plan.Work[i].Logits && f.rows[i] == f.plan.Work[i].Rows }

// assume puts sequences where a step will have brought them.
func (s *Scheduler) assume(f *flight) {
	if f.assumed {
		return
	}
	f.assumed = true
	for i, q := range f.seqs {
		if q.at == isGone {
			continue
		}
		q.done += f.rows[i]
		if f.brings(i) && q.known+1 < q.most { // else it ends with that token
			q.known++
			q.owed = f.number
		}
	}
}

// Miss says, before Done, that the token that a step brings a sequence is not the one
// that the step after it, planned by Ahead, goes on with, and cannot be told any more. The
// row that gives its logits is computed again in a coming step, with the same bits, and
// what was planned of the sequence after it counts for nothing.
func (s *Scheduler) Miss(p *Plan, id ID) error {
	f := s.flight(0)
	q := s.byID[id]
	if q == nil || s.flying == 0 || p != &f.plan || !f.assumed {
		return fmt.Errorf("sched: a token of sequence %d was missed, of which nobody has assumed one", id)
	}
	at := slices.Index(f.seqs, q)
	if at < 0 || !f.brings(at) {
		return fmt.Errorf("sched: a token of sequence %d was missed that no step was to bring", id)
	}
	if q.owed == f.number {
		q.known--
		q.owed = 0
	}
	f.rows[at]--
	q.done--
	if s.flying == 1 {
		return nil
	}
	after := s.flight(1)
	if at = slices.Index(after.seqs, q); at >= 0 {
		after.rows[at] = 0
	}
	return nil
}

// Done says that the step has run, and when it ended: its rows are in the KV
// cache. For sequences that were removed meanwhile it gives the blocks back. Steps land
// in the order in which they were planned; a plan whose turn it is not is ignored.
func (s *Scheduler) Done(p *Plan, now int64) {
	f := s.flight(0)
	if s.flying == 0 || p != &f.plan {
		return
	}
	s.tick(now)
	if f.lost {
		s.land(false)
		return
	}
	s.times.step(p.Rows, s.now-max(f.begun, s.ended))
	s.stats.Steps++
	s.stats.Rows += uint64(p.Rows)
	s.land(true)
}

// Failed says that the step has not run to its end: what it should have written
// is unknown, and the sequences are where they were before. Those that cannot go
// on are for the caller to remove. What was planned after it has failed with it, and
// lands as failed, too.
func (s *Scheduler) Failed(p *Plan) {
	if s.flying == 0 || p != &s.flight(0).plan {
		return
	}
	s.land(false)
	s.flight(0).lost = s.flying > 0
}

// land takes the oldest step out of flight.
func (s *Scheduler) land(ran bool) {
	f := s.flight(0)
	for i, q := range f.seqs {
		q.inFlight--
		if q.at == isGone {
			if q.inFlight == 0 {
				s.giveBack(q)
			}
			continue
		}
		if ran != f.assumed {
			q.move(f, i)
		}
		if ran {
			s.commit(q, f.rows[i])
		}
	}
	clear(f.seqs)
	f.seqs, f.rows, f.plan.inFlight = f.seqs[:0], f.rows[:0], false
	s.oldest = (s.oldest + 1) % len(s.flights)
	s.flying--
	s.ended = s.now
}

// move puts a sequence where a step has brought it, if nobody has assumed that, or back
// if somebody has.
func (q *sequence) move(f *flight, i int) {
	if !f.assumed {
		q.done += f.rows[i]
		return
	}
	q.done -= f.rows[i]
	if q.owed == f.number {
		q.known--
		q.owed = 0
	}
}

// commit notes that so many rows of a sequence are in the KV cache.
func (s *Scheduler) commit(q *sequence, rows int) {
	s.stats.Again += uint64(min(q.done, q.high) - min(q.done-rows, q.high))
	q.tenant.computed += int64(max(q.done-q.high, 0))
	q.high = max(q.high, q.done)
	q.tenant.charge(q, q.done)
	s.publish(q)
	s.lead(q)
}
