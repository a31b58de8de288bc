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

	plan     *sched.Plan // in flight
	flight   []*caller   // of each of its works
	late     []sched.ID  // whose latest token was sampled and not given to Grow yet
	delay    func() bool // whether a token is late; nil: never
	writes   map[int32]sched.ID
	computed map[sched.ID]map[int]int // rows, by sequence and position, of those that want all
	gone     map[sched.ID]*caller     // of whom the last step was the last
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
	paused   bool
}

func (c *caller) add(token int32) {
	sum := c.owner
	if n := len(c.sums); n > 0 {
		sum = c.sums[n-1]
	}
	sum = (sum^uint64(uint32(token)))*0xbf58476d1ce4e5b9 + 1
	c.tokens, c.sums = append(c.tokens, token), append(c.sums, sum^sum>>29)
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
	if w.plan != nil {
		if p := w.s.Next(w.now); len(p.Work)+len(p.Preempted)+len(p.Expired) > 0 {
			return nil, fmt.Errorf("a plan while a step is in flight: %+v", p)
		}
		return nil, errInFlight
	}
	p := w.s.Next(w.now)
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
	w.plan, w.flight = p, nil
	for _, work := range p.Work {
		w.flight = append(w.flight, w.seqs[work.ID])
	}
	return p, w.run(p)
}

var errInFlight = errors.New("a step is in flight")

func (w *world) run(p *sched.Plan) error {
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
		case work.Rows < 1 || work.Start+work.Rows > len(c.tokens) || w.pool.BlocksFor(work.Start+work.Rows) > len(work.Blocks):
			return fmt.Errorf("sequence %d of %d tokens: %+v", work.ID, len(c.tokens), work)
		case work.Logits != (work.Start+work.Rows == len(c.tokens)):
			return fmt.Errorf("sequence %d of %d tokens, logits: %+v", work.ID, len(c.tokens), work)
		case work.Logits && len(c.tokens)-c.prompt != c.sampled:
			return fmt.Errorf("sequence %d: the logits of token %d are wanted twice", work.ID, c.sampled)
		}
		seen[work.ID] = true
		rows += work.Rows
		if len(c.tokens)-work.Start == 1 {
			single++
		}
		for at := range work.Start {
			if got := w.cache[work.Blocks[at/size]][at%size]; got != c.sums[at] {
				return fmt.Errorf("sequence %d finds %#x at position %d in block %d, want %#x", work.ID, got, at, work.Blocks[at/size], c.sums[at])
			}
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

// end ends the step in flight after so many ns, with a token for each that wants one,
// and says which sequences have all theirs.
func (w *world) end(took int64, ran bool) (ended []sched.ID, err error) {
	p := w.plan
	w.plan = nil
	w.now += took
	size := w.pool.BlockSize()
	for i, work := range p.Work {
		c := w.flight[i]
		if w.seqs[work.ID] != c {
			c, w.flight[i] = nil, nil // removed; its name may be somebody else's by now
		}
		for at := work.Start; at < work.Start+work.Rows; at++ {
			value := uint64(0xbad)
			if c != nil && ran {
				value = c.sums[at]
			}
			w.cache[work.Blocks[at/size]][at%size] = value
			if c != nil && c.all && ran && at < c.prompt {
				w.computed[work.ID][at]++
			}
		}
	}
	// The plan's slices are not the caller's once Done has been called.
	works := slices.Clone(p.Work)
	w.gone = map[sched.ID]*caller{}
	if !ran {
		w.s.Failed(p)
		return nil, nil
	}
	w.s.Done(p, w.now)
	for i, work := range works {
		c := w.flight[i]
		if c == nil || !work.Logits {
			continue
		}
		for at := 0; c.all && at < c.prompt; at++ {
			if w.computed[work.ID][at] == 0 {
				return nil, fmt.Errorf("sequence %d has a token, and row %d of its prompt was never computed for it", work.ID, at)
			}
		}
		c.sampled++
		if len(c.tokens)+1 >= c.most {
			w.gone[work.ID] = c
			w.remove(work.ID)
			ended = append(ended, work.ID)
			continue
		}
		if w.delay != nil && w.delay() {
			w.late = append(w.late, work.ID)
		} else if err := w.grow(work.ID); err != nil {
			return nil, err
		}
	}
	return ended, nil
}

func (w *world) grow(id sched.ID) error {
	c := w.seqs[id]
	if c == nil {
		return nil
	}
	c.add(token(fmt.Sprintf("g%d", id), len(c.tokens)))
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
	if w.plan != nil {
		for _, work := range w.plan.Work {
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
