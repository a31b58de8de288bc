package sched

// Plan is the work of one step, and what has become of sequences since the last
// one. It is the scheduler's: valid until the next one is planned, or while it is in
// flight until the next one after that has landed.
type Plan struct {
	// Work has an entry for each sequence with a part in the step: first those
	// with one row, then those with more. Empty: there is no step to run, and
	// none to report.
	Work []Work

	// Rows is the sum of the work's rows.
	Rows int

	// Preempted lost their blocks. The caller has nothing to do: they are
	// computed again, from position 0 or what can be found of them, when there
	// is room. What is computed again has the bits that it had.
	Preempted []ID

	// Expired are removed, as by Remove: their deadline has passed.
	Expired []ID

	// Wake is when the next deadline passes, 0 for none: without work, the
	// caller sleeps until then at most.
	Wake int64

	inFlight bool
}

// Work is one sequence's part in a step.
type Work struct {
	ID    ID
	Start int // position of the first row; in a sequence's first work, what was found in the cache
	Rows  int // tokens Start to Start+Rows of the sequence; of a step ahead, the last may be the one to come

	// Blocks are the sequence's KV blocks, for Start+Rows tokens at least.
	// Those before Start may be other sequences' too; the rest is its own.
	Blocks []int32

	// Logits says that the last row's logits are wanted: a token is to be
	// sampled from them, and given to Grow if the sequence goes on.
	Logits bool
}

// Next plans the next step. What the plan has work for is in flight until Done or
// Failed; meanwhile everything else may be called, and Next has nothing to plan.
func (s *Scheduler) Next(now int64) *Plan {
	s.tick(now)
	if s.flying > 0 {
		s.idle = Plan{Wake: s.deadlines.first()}
		return &s.idle
	}
	return s.planStep()
}

// planStep plans the step after those in flight.
func (s *Scheduler) planStep() *Plan {
	s.next = s.flight(s.flying)
	s.planned++
	s.next.number, s.next.begun, s.next.assumed, s.next.lost = s.planned, s.now, false, false
	p := &s.next.plan
	p.Work, p.Preempted, p.Expired, p.Rows = p.Work[:0], p.Preempted[:0], p.Expired[:0], 0
	s.expire()
	s.feed()
	if s.secure() { // otherwise, who came in now might be the next to go
		s.admit()
	}
	s.fill()
	p.Wake = s.deadlines.first()
	if p.inFlight = len(p.Work) > 0; p.inFlight {
		s.flying++
	}
	return p
}

// fill gives rows to those who run: one to each that has one to process, and the
// chunk's to the others.
func (s *Scheduler) fill() {
	single := 0
	s.prompts = s.prompts[:0]
	for _, q := range s.running {
		switch {
		case s.sitsOut(q) || q.rowsLeft() == 0:
		case q.rowsLeft() == 1:
			single++
		default:
			s.prompts = append(s.prompts, q)
		}
	}
	room := s.cfg.MaxRows
	if len(s.prompts) > 0 {
		room-- // a step full of other rows would never let the prompts go on
	}
	if room = min(room, single); single > 0 {
		s.fillSingle(room, room < single)
	}
	room = s.cfg.MaxRows - s.next.plan.Rows
	if s.next.plan.Rows > 0 {
		room = min(room, s.cfg.ChunkRows)
	}
	s.orderPrompts()
	for _, q := range s.prompts {
		if room == 0 {
			break
		}
		rows := min(q.rowsLeft(), room)
		s.work(q, rows)
		s.classOf(q).rowsAt = s.now
		room -= rows
	}
}

// fillSingle gives a row each to so many of those that have one to process. When
// these are not all, the others come first next time.
func (s *Scheduler) fillSingle(room int, turns bool) {
	if !turns || s.turn >= len(s.running) {
		s.turn = 0
	}
	for i := range s.running {
		at := (s.turn + i) % len(s.running)
		q := s.running[at]
		if s.sitsOut(q) || q.rowsLeft() != 1 {
			continue
		}
		if room == 0 {
			s.turn = at
			return
		}
		s.work(q, 1)
		room--
	}
}

// sitsOut says whether a sequence has no part in the step that is planned, because its
// reader does not read, or because its latest token is not known: but the step in
// flight may bring it where the device needs it.
func (s *Scheduler) sitsOut(q *sequence) bool {
	return q.paused || q.owed != 0 && q.owed != s.behind
}

func (s *Scheduler) work(q *sequence, rows int) {
	f := s.next
	f.plan.Work = append(f.plan.Work, Work{
		ID:     q.id,
		Start:  q.done,
		Rows:   rows,
		Blocks: q.blocks,
		Logits: rows == q.rowsLeft(),
	})
	f.plan.Rows += rows
	f.seqs, f.rows = append(f.seqs, q), append(f.rows, rows)
	q.inFlight++
}
