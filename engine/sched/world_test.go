package sched_test

import (
	"errors"
	"fmt"
	"hash/fnv"
	"slices"

	"kigo/engine/kv"
	"kigo/engine/sched"
)

// world is a scheduler with what it needs around it: a caller who keeps the
// tokens, and a device whose KV cache really holds something. What a position's
// entry must be is a function of all tokens up to it, and of whose they are where
// nothing may be shared; so a step that finds anything else where a sequence's
// earlier tokens should be has been given a wrong block.
type world struct {
	s    *sched.Scheduler
	pool *kv.Pool
	cfg  sched.Config
	now  int64

	seqs  map[sched.ID]*caller
	added int
	cache [][]uint64 // by block and offset: what was written there last

	absent map[int]bool // blocks without memory

	flights  []*step                // the steps in flight
	late     []sched.ID             // whose latest token was sampled and not given to Grow yet
	delay    func() bool            // whether a token is late; nil: never
	miss     func(id sched.ID) bool // whether a token that was assumed is another one; nil: never
	writes   map[int32]sched.ID
	computed map[sched.ID]map[int]int // rows, by sequence and position, of those that want all
	gone     map[sched.ID]*caller     // of whom the last step was the last

	aheads, refused, missed, lost int // steps that were planned ahead, or not for want of blocks, tokens that were missed, steps that failed with a step behind
}

// step is a step in flight.
type step struct {
	plan  *sched.Plan
	works []sched.Work
	of    []*caller // whose each of the works is
	void  []bool    // works whose results mean nothing
	lost  bool      // the step before it has failed
	ahead bool      // what comes after it was planned already
}

// caller is what the caller keeps of a sequence.
type caller struct {
	tokens   []int32
	sums     []uint64 // of the tokens up to each position
	owner    uint64   // those who may share blocks have the same
	prompt   int
	most     int
	priority int
	tenant   string
	deadline int64
	all      bool // wants every row of its prompt
	order    int
	sampled  int // tokens that were sampled
	coming   int // tokens that steps in flight are to bring
	paused   bool

	// The scheduler counts one token more: that of a step in flight behind which
	// another one was planned, or of one that is late.
	pending bool
}

func (c *caller) add(token int32) {
	c.tokens, c.sums = append(c.tokens, token), append(c.sums, c.sum(token))
}

// sum is that of all tokens and one more.
func (c *caller) sum(token int32) uint64 {
	sum := c.owner
	if n := len(c.sums); n > 0 {
		sum = c.sums[n-1]
	}
	sum = (sum^uint64(uint32(token)))*0xbf58476d1ce4e5b9 + 1
	return sum ^ sum>>29
}

// known is how many tokens the scheduler counts.
func (c *caller) known() int {
	if c.pending {
		return len(c.tokens) + 1
	}
	return len(c.tokens)
}

func newWorld(cfg sched.Config, blocks, size int) (*world, error) {
	w := &world{cfg: cfg, pool: kv.NewPool(blocks, size), seqs: map[sched.ID]*caller{}, writes: map[int32]sched.ID{}}
	var err error
	if w.s, err = sched.New(cfg, w.pool); err != nil {
		return nil, err
	}
	w.cache = make([][]uint64, blocks)
	for i := range w.cache {
		w.cache[i] = make([]uint64, size)
	}
	w.computed, w.absent = map[sched.ID]map[int]int{}, map[int]bool{}
	return w, nil
}

// token is the token at a position of a text.
func token(text string, at int) int32 {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s/%d", text, at)
	return int32(h.Sum32() & 0x7fffffff)
}

func (w *world) add(r *sched.Request, ids ...sched.ID) error {
	if err := w.s.Add(w.now, r, ids...); err != nil {
		return err
	}
	owner := fnv.New64a()
	fmt.Fprintf(owner, "tenant %q", r.Tenant)
	if !w.cfg.Reuse {
		fmt.Fprintf(owner, "request %d", w.added)
	}
	for i, id := range ids {
		w.added++
		c := &caller{
			prompt: len(r.Tokens), most: r.Most, priority: r.Priority, tenant: r.Tenant,
			deadline: r.Deadline, all: r.AllRows && i == 0, order: w.added, owner: owner.Sum64(),
		}
		for _, t := range r.Tokens {
			c.add(t)
		}
		w.seqs[id] = c
		if c.all {
			w.computed[id] = map[int]int{}
		}
	}
	return nil
}

func (w *world) remove(id sched.ID) {
	w.s.Remove(id)
	w.forget(id)
}

func (w *world) forget(id sched.ID) {
	delete(w.seqs, id)
	delete(w.computed, id)
}

func (w *world) pause(id sched.ID, paused bool) {
	if paused {
		w.s.Pause(id)
	} else {
		w.s.Resume(id)
	}
	if c := w.seqs[id]; c != nil {
		c.paused = paused
	}
}

// memory says whether there is memory for the blocks from one on and before another.
// What was in those without is lost.
func (w *world) memory(from, to int, there bool) error {
	if err := w.pool.SetMemory(from, to, there); err != nil {
		return err
	}
	for b := from; b < to; b++ {
		w.absent[b] = !there
		for i := range w.cache[b] {
			if !there {
				w.cache[b][i] = 0xbad
			}
		}
	}
	return nil
}

// starved is nil if all who are there would not fit even alone.
func (w *world) starved() error {
	for id, c := range w.seqs {
		if w.pool.BlocksFor(len(c.tokens)) <= w.pool.Limit() {
			return fmt.Errorf("sequence %d of %d tokens waits, and there is memory for %d blocks", id, len(c.tokens), w.pool.Limit())
		}
	}
	return nil
}

// begin plans a step and does what a device does with it, up to its end. All that
// a plan must be is checked here.
func (w *world) begin() (*sched.Plan, error) {
	if len(w.flights) > 0 {
		if p := w.s.Next(w.now); len(p.Work)+len(p.Preempted)+len(p.Expired) > 0 {
			return nil, fmt.Errorf("a plan while a step is in flight: %+v", p)
		}
		return nil, errInFlight
	}
	return w.planned(w.s.Next(w.now))
}

var (
	errInFlight = errors.New("a step is in flight")
	errNotAhead = errors.New("no step can be planned ahead")
)

// ahead plans a step behind the one in flight. When it must be possible it is.
func (w *world) ahead() (*sched.Plan, error) {
	free, wanted := w.pool.Free(), w.s.Wanted()-w.s.Later()
	p, ok := w.s.Ahead(w.now)
	if !ok {
		if len(w.flights) == 1 && !w.flights[0].lost && len(w.late) == 0 {
			if w.refused++; wanted <= free {
				return nil, fmt.Errorf("no step is planned ahead, with %d blocks free and %d wanted soon", free, wanted)
			}
		}
		return nil, errNotAhead
	}
	if len(w.flights) != 1 || w.flights[0].lost {
		return nil, fmt.Errorf("a step is planned ahead of %d", len(w.flights))
	}
	w.aheads++
	f := w.flights[0]
	f.ahead = true
	for i, work := range f.works {
		if c := f.of[i]; work.Logits && !f.void[i] && w.seqs[work.ID] == c && len(c.tokens)+1 < c.most {
			c.pending = true
		}
	}
	for _, id := range p.Preempted {
		if c := w.seqs[id]; c == nil || !c.paused || slices.Contains(f.of, c) {
			return nil, fmt.Errorf("sequence %d was preempted for a step that is planned ahead", id)
		}
	}
	return w.planned(p)
}

// planned checks a plan.
func (w *world) planned(p *sched.Plan) (*sched.Plan, error) {
	for _, id := range p.Expired {
		if c := w.seqs[id]; c == nil || c.deadline == 0 || c.deadline > w.now {
			return nil, fmt.Errorf("sequence %d expired at %d: %+v", id, w.now, c)
		}
		w.forget(id)
	}
	wake := int64(0)
	for id, c := range w.seqs {
		if c.deadline != 0 && c.deadline <= w.now {
			return nil, fmt.Errorf("sequence %d has not expired at %d", id, w.now)
		}
		if c.deadline != 0 && (wake == 0 || c.deadline < wake) {
			wake = c.deadline
		}
	}
	if p.Wake != wake {
		return nil, fmt.Errorf("wake at %d, want %d", p.Wake, wake)
	}
	for _, id := range p.Preempted {
		c := w.seqs[id]
		if c == nil {
			return nil, fmt.Errorf("sequence %d was preempted and is unknown", id)
		}
	}
	if len(p.Work) == 0 {
		return p, nil
	}
	f := &step{plan: p, works: slices.Clone(p.Work), void: make([]bool, len(p.Work))}
	for i, work := range p.Work {
		f.of = append(f.of, w.seqs[work.ID])
		f.works[i].Blocks = slices.Clone(work.Blocks)
	}
	if err := w.valid(p); err != nil {
		return nil, err
	}
	for i, c := range f.of {
		if f.works[i].Logits {
			c.coming++
		}
	}
	if w.flights = append(w.flights, f); len(w.flights) == 1 {
		return p, w.reads(f)
	}
	return p, nil
}

// reads checks that a step finds what it must, once all before it have run.
func (w *world) reads(f *step) error {
	size := w.pool.BlockSize()
	for i, work := range f.works {
		c := f.of[i]
		if f.void[i] || f.lost || w.seqs[work.ID] != c {
			continue
		}
		for at := range work.Start {
			if got := w.cache[work.Blocks[at/size]][at%size]; got != c.sums[at] {
				return fmt.Errorf("sequence %d finds %#x at position %d in block %d, want %#x", work.ID, got, at, work.Blocks[at/size], c.sums[at])
			}
		}
	}
	return nil
}

// brings says whether the step in flight has a token for a caller.
func (w *world) brings(c *caller) bool {
	for _, f := range w.flights {
		for i, work := range f.works {
			if f.of[i] == c && work.Logits && !f.void[i] {
				return true
			}
		}
	}
	return false
}

// valid checks what is to be done in a step.
func (w *world) valid(p *sched.Plan) error {
	clear(w.writes)
	seen, rows, single := map[sched.ID]bool{}, 0, 0
	size := w.pool.BlockSize()
	for _, work := range p.Work {
		c := w.seqs[work.ID]
		switch {
		case c == nil || seen[work.ID] || c.paused:
			return fmt.Errorf("work for sequence %d, which is unknown, has work already, or is paused: %+v", work.ID, c)
		case slices.ContainsFunc(work.Blocks, func(b int32) bool { return w.absent[int(b)] }):
			return fmt.Errorf("sequence %d has blocks %v, and there is memory for %d", work.ID, work.Blocks, w.pool.Limit())
		case work.Rows < 1 || work.Start+work.Rows > c.known() || w.pool.BlocksFor(work.Start+work.Rows) > len(work.Blocks):
			return fmt.Errorf("sequence %d of %d tokens: %+v", work.ID, len(c.tokens), work)
		case work.Start+work.Rows > len(c.tokens) && !w.brings(c):
			return fmt.Errorf("a row of sequence %d for a token that is known nowhere: %+v", work.ID, work)
		case work.Logits != (work.Start+work.Rows == c.known()):
			return fmt.Errorf("sequence %d of %d tokens, logits: %+v", work.ID, len(c.tokens), work)
		case work.Logits && c.known()-c.prompt != c.sampled+c.coming:
			return fmt.Errorf("sequence %d: the logits of token %d are wanted twice", work.ID, c.sampled)
		}
		seen[work.ID] = true
		rows += work.Rows
		if c.known()-work.Start == 1 {
			single++
		}
		for at := work.Start; at < work.Start+work.Rows; at++ {
			b := work.Blocks[at/size]
			if other, taken := w.writes[b]; taken && other != work.ID {
				return fmt.Errorf("sequences %d and %d write to block %d in one step", other, work.ID, b)
			}
			w.writes[b] = work.ID
		}
	}
	for _, work := range p.Work {
		for _, b := range work.Blocks[:w.pool.BlocksFor(work.Start+work.Rows)] {
			if writer, taken := w.writes[b]; taken && writer != work.ID {
				return fmt.Errorf("sequence %d reads block %d, to which %d writes", work.ID, b, writer)
			}
		}
	}
	if rows != p.Rows || rows > w.cfg.MaxRows || single > 0 && rows-single > w.cfg.ChunkRows {
		return fmt.Errorf("%d rows, %d of them single, in a step of %d: %+v", rows, single, p.Rows, w.cfg)
	}
	return nil
}

// end ends the oldest step in flight after so many ns, with a token for each that wants
// one, and says which sequences have all theirs.
func (w *world) end(took int64, ran bool) (ended []sched.ID, err error) {
	f := w.flights[0]
	w.flights = w.flights[1:]
	w.now += took
	w.gone = map[sched.ID]*caller{}
	for i, work := range f.works {
		c := f.of[i]
		if w.seqs[work.ID] != c {
			f.of[i] = nil // removed; its name may be somebody else's by now
		}
		if work.Logits && !f.void[i] {
			c.coming--
		}
	}
	if !ran || f.lost {
		w.write(f, false)
		w.fail(f)
		if ran {
			w.s.Done(f.plan, w.now) // which changes nothing
		} else {
			w.s.Failed(f.plan)
		}
		return nil, nil
	}
	if err := w.misses(f); err != nil {
		return nil, err
	}
	w.write(f, true)
	w.s.Done(f.plan, w.now)
	if len(w.flights) > 0 {
		if err := w.reads(w.flights[0]); err != nil {
			return nil, err
		}
	}
	for i, work := range f.works {
		c := f.of[i]
		if c == nil || !work.Logits || f.void[i] {
			continue
		}
		for at := 0; c.all && at < c.prompt; at++ {
			if w.computed[work.ID][at] == 0 {
				return nil, fmt.Errorf("sequence %d has a token, and row %d of its prompt was never computed for it", work.ID, at)
			}
		}
		c.sampled++
		if c.prompt+c.sampled >= c.most {
			w.gone[work.ID] = c
			w.remove(work.ID)
			ended = append(ended, work.ID)
			continue
		}
		if slices.Contains(w.late, work.ID) || w.delay != nil && w.delay() {
			w.late = append(w.late, work.ID)
		} else if err := w.grow(work.ID); err != nil {
			return nil, err
		}
	}
	return ended, nil
}

// write puts what a step has computed in the cache.
func (w *world) write(f *step, ran bool) {
	size := w.pool.BlockSize()
	for i, work := range f.works {
		c := f.of[i]
		for at := work.Start; at < work.Start+work.Rows; at++ {
			value := uint64(0xbad)
			switch {
			case c == nil || !ran || f.void[i] && at == work.Start+work.Rows-1:
			case at < len(c.sums):
				value = c.sums[at]
			default: // the token is late, but for the device
				value = c.sum(w.token(work.ID, c))
			}
			w.cache[work.Blocks[at/size]][at%size] = value
			if c != nil && c.all && ran && at < c.prompt {
				w.computed[work.ID][at]++
			}
		}
	}
}

// fail takes back what was assumed of a step that has not run.
func (w *world) fail(f *step) {
	for i, work := range f.works {
		if c := f.of[i]; c != nil && work.Logits && !f.void[i] && !f.lost && !slices.Contains(w.late, work.ID) {
			c.pending = false
		}
	}
	if len(w.flights) > 0 {
		w.lost++
		w.flights[0].lost = true
	}
}

// misses has tokens of a step be other ones than those that the step behind it goes
// on with.
func (w *world) misses(f *step) error {
	for i, work := range f.works {
		c := f.of[i]
		if w.miss == nil || !work.Logits || f.void[i] || c == nil || !w.miss(work.ID) {
			continue
		}
		if err := w.s.Miss(f.plan, work.ID); (err == nil) != f.ahead {
			return fmt.Errorf("a token of sequence %d is missed, a step was planned ahead: %t: %w", work.ID, f.ahead, err)
		}
		if !f.ahead {
			continue
		}
		w.missed++
		f.void[i], c.pending = true, false
		for _, after := range w.flights {
			for j, work := range after.works {
				if after.of[j] == c {
					if after.void[j] = true; work.Logits {
						c.coming--
					}
				}
			}
		}
	}
	return nil
}

// token is the next token of a sequence.
func (w *world) token(id sched.ID, c *caller) int32 {
	return token(fmt.Sprintf("g%d", id), len(c.tokens))
}

func (w *world) grow(id sched.ID) error {
	c := w.seqs[id]
	if c == nil {
		return nil
	}
	c.add(w.token(id, c))
	c.pending = false
	return w.s.Grow(id, c.tokens[len(c.tokens)-1])
}

// growLate gives the tokens to Grow that are late.
func (w *world) growLate() error {
	late := w.late
	w.late = nil
	for _, id := range late {
		if err := w.grow(id); err != nil {
			return err
		}
	}
	return nil
}

// check is the scheduler's own check, that it knows who the caller knows, and that
// nobody else can have the blocks that a step in flight uses.
func (w *world) check() error {
	for _, f := range w.flights {
		for _, work := range f.works {
			for _, b := range work.Blocks {
				if w.pool.Owners(b) == 0 {
					return fmt.Errorf("block %d of sequence %d is nobody's while a step uses it", b, work.ID)
				}
			}
		}
	}
	if n := w.s.Running() + w.s.Waiting(); n != len(w.seqs) {
		return fmt.Errorf("%d sequences, want %d", n, len(w.seqs))
	}
	return w.s.Check()
}
