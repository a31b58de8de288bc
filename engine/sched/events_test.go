package sched_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"kigo/engine/kv"
	"kigo/engine/sched"
)

// episode plays events on a world of its own. Choices come from pick(n), which
// gives numbers from 0 to n-1.
type episode struct {
	*world
	pick  func(n int) int
	id    sched.ID   // the next one
	known []sched.ID // that were added, gone ones too
	ended int

	deadlines int  // one of so many sequences has one
	limits    bool // memory comes and goes
	starved   int  // sequences that were seen to starve
	eager     int  // of four steps so many are planned ahead where that is possible
}

func newEpisode(pick func(n int) int) (*episode, error) {
	scale := 1
	if pick(6) == 0 {
		scale = 4
	}
	cfg := sched.Config{
		MaxRunning: 1 + scale*pick(5),
		MaxWaiting: scale * pick(7),
		MaxRows:    2 + pick(8),
		ChunkRows:  1 + pick(8),
		Aging:      int64(1 + pick(200)),
		MaxTenants: 1 + pick(4),
		Reuse:      pick(3) > 0,
		Salt:       "model",
	}
	if pick(4) == 0 {
		cfg.MaxPerTenant = 1 + pick(4)
	}
	w, err := newWorld(cfg, 2+scale*pick(20), 1+pick(4))
	if err != nil {
		return nil, err
	}
	w.delay = func() bool { return pick(16) == 0 }
	w.miss = func(sched.ID) bool { return pick(12) == 0 }
	return &episode{world: w, pick: pick, id: 1, deadlines: 1 + pick(6), limits: pick(2) == 0, eager: pick(4)}, nil
}

// event plays one event, and checks everything.
func (e *episode) event() error {
	if err := e.play(); err != nil {
		return err
	}
	return e.check()
}

func (e *episode) play() error {
	if e.limits && e.pick(8) == 0 {
		from := e.pick(e.pool.Total())
		to, there := from+1+e.pick(e.pool.Total()-from), e.pick(2) == 0
		held := !there && e.pool.Held(from, to)
		if err := e.memory(from, to, there); held != errors.Is(err, kv.ErrHeld) || !held && err != nil {
			return fmt.Errorf("memory of blocks %d to %d, there: %t, held: %t: %w", from, to, there, held, err)
		}
	}
	switch what := e.pick(16); what {
	case 0, 1, 2:
		return e.submit()
	case 3:
		e.pause(e.someone(), true)
	case 4, 5:
		e.pause(e.someone(), false)
	case 6:
		if e.pick(3) == 0 {
			e.remove(e.someone())
		}
	case 7:
		if err := e.growLate(); err != nil {
			return err
		}
		e.now += int64(e.pick(100))
	case 8, 9:
		return e.step()
	case 10:
		return e.finish(e.pick(8) > 0)
	case 11:
		if err := e.goAhead(); !errors.Is(err, errNotAhead) {
			return err
		}
	default:
		if err := e.step(); err != nil {
			return err
		}
		if e.pick(4) < e.eager {
			if err := e.goAhead(); err != nil && !errors.Is(err, errNotAhead) {
				return err
			}
			if err := e.check(); err != nil {
				return err
			}
		}
		return e.finish(true)
	}
	return nil
}

// someone is a sequence that is there or was.
func (e *episode) someone() sched.ID {
	if len(e.known) == 0 {
		return 0
	}
	recent := min(len(e.known), 12)
	return e.known[len(e.known)-1-e.pick(recent)]
}

func (e *episode) submit() error {
	size, total := e.pool.BlockSize(), e.pool.Total()
	r := &sched.Request{
		Tenant:   []string{"", "ann", "bob", "eve", "joe"}[e.pick(5)],
		Priority: sched.MinPriority + e.pick(sched.MaxPriority-sched.MinPriority+1),
		AllRows:  e.pick(8) == 0,
	}
	// A few prompts that begin alike, of which most go on in their own way.
	own := fmt.Sprintf("own%d", e.id)
	for range 1 + e.pick(3*size+2) {
		r.Tokens = append(r.Tokens, token([]string{"x", "y"}[len(r.Tokens)/(2*size)%2], len(r.Tokens)))
	}
	for range e.pick(3) * e.pick(size+1) {
		r.Tokens = append(r.Tokens, token(own, len(r.Tokens)))
	}
	r.Most = len(r.Tokens) + e.pick(3*size+4)
	if e.pick(e.deadlines) == 0 {
		r.Deadline = e.now + int64(e.pick(300)) + 1
	}
	if e.pick(2) == 0 {
		r.Keys = e.s.Keys(r.Tenant, r.Tokens)
	}
	n := 1
	if e.pick(4) == 0 {
		n += e.pick(3)
	}
	var ids []sched.ID
	for range n {
		ids = append(ids, e.id)
		e.id++
	}
	ofTenant := 0
	for _, c := range e.seqs {
		if c.tenant == r.Tenant {
			ofTenant++
		}
	}
	full := len(e.seqs)+n > e.cfg.MaxRunning+e.cfg.MaxWaiting || e.cfg.MaxPerTenant > 0 && ofTenant+n > e.cfg.MaxPerTenant
	tooLong := e.pool.BlocksFor(r.Most) > total
	var after *sched.FullError
	switch err := e.add(r, ids...); {
	case err == nil:
		if full || tooLong {
			return fmt.Errorf("sequences %v were taken: full %t, too long %t", ids, full, tooLong)
		}
		e.known = append(e.known, ids...)
	case errors.Is(err, sched.ErrTooLong) && tooLong, errors.Is(err, sched.ErrLate) && r.Deadline != 0 && !full && !tooLong:
	case errors.As(err, &after) && errors.Is(err, sched.ErrFull) && full && !tooLong:
		if after.After < 1 || after.After > 60e9 {
			return fmt.Errorf("full for %d ns", after.After)
		}
	default:
		return fmt.Errorf("add of %v, full %t, too long %t: %w", ids, full, tooLong, err)
	}
	return nil
}

// step plans a step, and checks who came in.
func (e *episode) step() error {
	if len(e.flights) > 0 {
		if _, err := e.begin(); !errors.Is(err, errInFlight) {
			return err
		}
		return nil
	}
	before, count := e.places()
	enough, places := e.pool.Free() >= e.s.Wanted()-e.s.Later(), e.cfg.MaxRunning-e.s.Running()
	p, err := e.begin()
	if err != nil {
		return err
	}
	if err := e.overtaken(p); err != nil {
		return err
	}
	e.starved += e.s.Starved()
	// Where Wanted has counted all who may come in, all do, and nobody goes for them: what
	// Later counts is not missed. Whoever expired in this step was one of those that were
	// counted.
	if waiting := count["queued"] + count["starved"]; enough && waiting <= places && count["held"] == 0 {
		least := count["running"] + waiting - len(p.Expired)
		if e.s.Running() < least || len(p.Preempted) > 0 {
			return fmt.Errorf("%d run, %v were preempted, though there were the blocks that were wanted: %v", e.s.Running(), p.Preempted, count)
		}
	}
	return e.order(before)
}

// goAhead plans a step behind the one in flight, if that can be, and checks who came in.
func (e *episode) goAhead() error {
	before, _ := e.places()
	p, err := e.ahead()
	if err != nil {
		return err
	}
	if err := e.overtaken(p); err != nil {
		return err
	}
	return e.order(before)
}

// overtaken checks that prompts have their rows one after another.
func (e *episode) overtaken(p *sched.Plan) error {
	if id := e.s.Overtaken(); id != 0 {
		return fmt.Errorf("a later prompt has rows before sequence %d: %+v", id, p.Work)
	}
	return nil
}

// place is where a sequence is, and whether it was preempted and waits in front.
type place struct {
	at   string
	back bool
}

func (e *episode) places() (of map[sched.ID]place, count map[string]int) {
	of, count = map[sched.ID]place{}, map[string]int{}
	for id := range e.seqs {
		at, back := e.s.Place(id)
		of[id] = place{at, back}
		count[at]++
	}
	return of, count
}

// order checks that those who came in since then came in their order.
func (e *episode) order(before map[sched.ID]place) error {
	for id, c := range e.seqs {
		if at, _ := e.s.Place(id); at != "running" || before[id].at == "running" {
			continue
		}
		for other, o := range e.seqs {
			if at, _ := e.s.Place(other); at != "queued" || before[other].at != "queued" || o.priority != c.priority {
				continue
			}
			first, second := before[id].back, before[other].back
			if second && !first || first == second && (first || c.tenant == o.tenant) && o.order < c.order {
				return fmt.Errorf("sequence %d came in before %d", id, other)
			}
		}
	}
	return nil
}

func (e *episode) finish(ran bool) error {
	if len(e.flights) == 0 {
		return nil
	}
	want := map[sched.ID]int{}
	for id, c := range e.seqs {
		want[id] = max(c.most-c.prompt, 1)
	}
	ended, err := e.end(int64(1+e.pick(20)), ran)
	for _, id := range ended {
		if got := e.gone[id].sampled; got != want[id] {
			return fmt.Errorf("sequence %d ends with %d tokens, want %d", id, got, want[id])
		}
		e.ended++
	}
	return err
}

// drain lets everybody finish: nobody is left behind, and nothing is lost.
func (e *episode) drain() error {
	for len(e.flights) > 0 {
		if err := e.finish(true); err != nil {
			return err
		}
	}
	if err := e.growLate(); err != nil {
		return err
	}
	e.delay, e.miss = nil, nil
	left, work := len(e.seqs), 0
	for id, c := range e.seqs {
		e.pause(id, false)
		work += c.most
	}
	// At first with the memory that there is: whoever fits ends. Then the others do.
	for steps := 0; len(e.seqs) > 0; steps++ {
		if steps > 100*(work+left) {
			return fmt.Errorf("%d sequences do not end", len(e.seqs))
		}
		if err := e.step(); err != nil {
			return err
		}
		if len(e.flights) == 0 {
			if len(e.seqs) == 0 {
				break // the last ones expired
			}
			if e.pool.Limit() < e.pool.Total() {
				if err := e.world.starved(); err != nil {
					return err
				}
				if err := e.memory(0, e.pool.Total(), true); err != nil {
					return err
				}
				continue
			}
			return fmt.Errorf("%d sequences, %d of them running, and nothing to do", len(e.seqs), e.s.Running())
		}
		if err := e.finish(true); err != nil {
			return err
		}
		if err := e.check(); err != nil {
			return err
		}
	}
	if used := e.pool.Used(); used != 0 {
		return fmt.Errorf("%d blocks are in use by nobody", used)
	}
	if st := e.s.Stats(); st.Paused != 0 || st.Tenants > e.cfg.MaxTenants {
		return fmt.Errorf("at rest: %+v", st)
	}
	return nil
}

// TestRandomEvents plays 30,000 events, with KIGO_TEST_LONG a million, in episodes
// of a thousand at most.
func TestRandomEvents(t *testing.T) {
	events := 30_000
	if os.Getenv("KIGO_TEST_LONG") != "" {
		events = 1_000_000
	}
	var sum sched.Stats
	ended, starved, aheads, refused, missed, lost := 0, 0, 0, 0, 0, 0
	for seed := uint64(1); events > 0; seed++ {
		r := rand.New(rand.NewPCG(seed, 0))
		e, err := newEpisode(r.IntN)
		if err != nil {
			t.Fatal(err)
		}
		for n := range min(events, 50+r.IntN(950)) {
			if err := e.event(); err != nil {
				t.Fatalf("seed %d, event %d: %v; %+v", seed, n, err, e.cfg)
			}
			events--
		}
		if err := e.drain(); err != nil {
			t.Fatalf("seed %d, at the end: %v; %+v", seed, err, e.cfg)
		}
		st := e.s.Stats()
		sum.Steps += st.Steps
		sum.Rows += st.Rows
		sum.Again += st.Again
		sum.Reused += st.Reused
		sum.Preempted += st.Preempted
		sum.Expired += st.Expired
		ended += e.ended
		starved += e.starved
		aheads, refused, missed, lost = aheads+e.aheads, refused+e.refused, missed+e.missed, lost+e.lost
	}
	// What never happens is not tested.
	all := fmt.Sprintf("%+v, %d ended, %d starved; %d steps ahead, %d refused, %d tokens missed, %d failed with a step behind",
		sum, ended, starved, aheads, refused, missed, lost)
	if slices.Contains([]int{int(sum.Again), int(sum.Reused), int(sum.Preempted), int(sum.Expired), ended, starved, aheads, refused, missed, lost}, 0) {
		t.Error(all)
	}
	t.Log(all)
}

// FuzzEvents plays what the bytes say.
func FuzzEvents(f *testing.F) {
	for seed := range uint64(4) {
		r := rand.New(rand.NewPCG(seed, 1))
		b := make([]byte, 400)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		data = data[:min(len(data), 1<<12)]
		pick := func(n int) int {
			if len(data) == 0 {
				return 0
			}
			b := data[0]
			data = data[1:]
			return int(b) % n
		}
		e, err := newEpisode(pick)
		if err != nil {
			t.Fatal(err)
		}
		for len(data) > 0 {
			if err := e.event(); err != nil {
				t.Fatalf("%v; %+v", err, e.cfg)
			}
		}
		if err := e.drain(); err != nil {
			t.Fatalf("at the end: %v; %+v", err, e.cfg)
		}
	})
}
