package sched_test

import (
	"errors"
	"fmt"
	"testing"

	"kigo/engine/kv"
	"kigo/engine/sched"
)

func config() sched.Config {
	return sched.Config{MaxRunning: 2, MaxWaiting: 2, MaxRows: 8, ChunkRows: 8, Aging: 100, MaxTenants: 4, Salt: "model"}
}

func newScheduler(t testing.TB, cfg sched.Config, blocks, size int) *sched.Scheduler {
	t.Helper()
	s, err := sched.New(cfg, kv.NewPool(blocks, size))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustAdd(t testing.TB, s *sched.Scheduler, now int64, r sched.Request, ids ...sched.ID) {
	t.Helper()
	if err := s.Add(now, &r, ids...); err != nil {
		t.Fatal(err)
	}
}

func TestConfigsThatAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(*sched.Config){
		"MaxRunning":   func(c *sched.Config) { c.MaxRunning = 0 },
		"MaxWaiting":   func(c *sched.Config) { c.MaxWaiting = -1 },
		"MaxPerTenant": func(c *sched.Config) { c.MaxPerTenant = -1 },
		"MaxRows":      func(c *sched.Config) { c.MaxRows = 1 },
		"ChunkRows":    func(c *sched.Config) { c.ChunkRows = 0 },
		"Aging":        func(c *sched.Config) { c.Aging = 0 },
		"MaxTenants":   func(c *sched.Config) { c.MaxTenants = 0 },
	} {
		cfg := config()
		spoil(&cfg)
		if _, err := sched.New(cfg, kv.NewPool(4, 4)); err == nil {
			t.Errorf("a bad %s was taken", name)
		}
	}
	if _, err := sched.New(config(), kv.NewPool(0, 4)); err == nil {
		t.Error("a pool without blocks was taken")
	}
}

// Only the plan that is in flight can be done, and only once.
func TestDoneCountsOnce(t *testing.T) {
	s := newScheduler(t, config(), 4, 4)
	mustAdd(t, s, 0, sched.Request{Tokens: make([]int32, 16), Most: 16}, 1)
	s.Done(s.Next(0), 1)
	p := s.Next(2)
	if len(p.Work) != 1 || p.Work[0].Start != 8 || !p.Work[0].Logits {
		t.Fatalf("%+v", p)
	}
	foreign := &sched.Plan{Work: p.Work, Rows: p.Rows}
	s.Done(foreign, 3)
	if q := s.Next(3); len(q.Work) != 0 {
		t.Errorf("the plan of somebody else was done: %+v", q)
	}
	s.Done(p, 4)
	s.Done(p, 5)
	s.Failed(p)
	if st := s.Stats(); st.Steps != 2 || st.Rows != 16 {
		t.Errorf("%+v", st)
	}
	if q := s.Next(6); len(q.Work) != 0 {
		t.Errorf("its token is not known, and there is work: %+v", q)
	}
	if err := s.Check(); err != nil {
		t.Error(err)
	}
}

// A clock that goes back stands still.
func TestTimeDoesNotGoBack(t *testing.T) {
	s := newScheduler(t, config(), 4, 4)
	mustAdd(t, s, 100, sched.Request{Tokens: make([]int32, 1), Most: 9}, 1)
	p := s.Next(10)
	s.Done(p, 5)
	if err := s.Add(0, &sched.Request{Tokens: make([]int32, 1), Most: 2, Deadline: 100}, 2); !errors.Is(err, sched.ErrLate) {
		t.Errorf("a deadline that had passed: %v", err)
	}
}

func TestCallsThatAreRefused(t *testing.T) {
	cfg := config()
	cfg.Reuse = true
	s := newScheduler(t, cfg, 4, 4)
	mustAdd(t, s, 0, sched.Request{Tokens: make([]int32, 3), Most: 4}, 1)
	for name, err := range map[string]error{
		"no sequence":         s.Add(0, &sched.Request{Tokens: make([]int32, 3), Most: 4}),
		"too few keys":        s.Add(0, &sched.Request{Tokens: make([]int32, 8), Most: 9, Keys: make([]kv.Key, 1)}, 2),
		"a negative deadline": s.Add(0, &sched.Request{Tokens: make([]int32, 1), Most: 9, Deadline: -1}, 2),
		"an unknown one":      s.Grow(2, 0),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := s.Grow(1, 7); err != nil {
		t.Error(err)
	}
	if err := s.Grow(1, 7); err == nil {
		t.Error("a sequence has grown beyond its most")
	}
	s.Pause(2)
	s.Resume(2)
	s.Remove(2)
	if err := s.Check(); err != nil || s.Running()+s.Waiting() != 1 {
		t.Errorf("%v, %d sequences", err, s.Running()+s.Waiting())
	}
}

// Keys that the caller has made do what those that Add makes do, and the caller's
// tokens are not needed any more.
func TestKeysOfTheCaller(t *testing.T) {
	cfg := config()
	if s := newScheduler(t, cfg, 8, 4); s.Keys("ann", make([]int32, 9)) != nil {
		t.Error("keys where nothing is reused")
	}
	cfg.Reuse = true
	s := newScheduler(t, cfg, 8, 4)
	tokens := []int32{1, 2, 3, 4, 5, 6, 7, 8, 9}
	keys := s.Keys("ann", tokens)
	mustAdd(t, s, 0, sched.Request{Tokens: tokens, Most: 9, Tenant: "ann", Keys: keys}, 1)
	again := append([]int32(nil), tokens...)
	clear(tokens)
	for range 2 {
		s.Done(s.Next(0), 0)
	}
	s.Remove(1)
	mustAdd(t, s, 0, sched.Request{Tokens: again, Most: 9, Tenant: "ann"}, 2)
	if p := s.Next(0); len(p.Work) != 1 || p.Work[0].Start != 8 {
		t.Errorf("%+v", p)
	}
}

// A prompt of so many blocks that it is not looked up in every step is still found
// soon after there is room for it.
func TestLongPromptIsLookedUpAgain(t *testing.T) {
	cfg := config()
	cfg.Reuse, cfg.MaxRows, cfg.ChunkRows = true, 100, 100
	s := newScheduler(t, cfg, 1200, 1)
	tokens := make([]int32, 1001)
	for i := range tokens {
		tokens[i] = int32(i)
	}
	mustAdd(t, s, 0, sched.Request{Tokens: tokens[:1000], Most: 1100}, 1)
	mustAdd(t, s, 0, sched.Request{Tokens: tokens, Most: 1100}, 2)
	done := 0 // steps since the first prompt was complete
	for step := 0; ; step++ {
		p := s.Next(0)
		for _, w := range p.Work {
			if w.ID == 2 {
				// 1,001 blocks, of which 199 fit beside the first prompt's.
				if w.Start < 700 || step < 8 {
					t.Errorf("in step %d, from row %d", step, w.Start)
				}
				return
			}
		}
		s.Done(p, 0)
		if p.Work[0].Logits {
			if err := s.Grow(1, 0); err != nil {
				t.Fatal(err)
			}
			if done++; done > 1001/256+1 {
				t.Fatalf("not found in %d steps", done)
			}
		}
	}
}

// Two tenants who always have more to do than there is room for get the same rows,
// whatever their requests look like and however many they are.
func TestTenantsGetEqualShares(t *testing.T) {
	cfg := config()
	cfg.MaxRunning, cfg.MaxWaiting, cfg.MaxRows, cfg.ChunkRows = 4, 60, 16, 8
	w, err := newWorld(cfg, 200, 4)
	if err != nil {
		t.Fatal(err)
	}
	kinds := []struct {
		tenant          string
		prompt, most, n int
	}{{"ann", 40, 44, 30}, {"bob", 3, 9, 20}}
	next := sched.ID(1)
	rows := map[string]int{}
	for range 4000 {
		there := map[string]int{}
		for _, c := range w.seqs {
			there[c.tenant]++
		}
		for _, k := range kinds {
			for range k.n - there[k.tenant] {
				r := &sched.Request{Tenant: k.tenant, Most: k.most}
				for i := range k.prompt {
					r.Tokens = append(r.Tokens, token(fmt.Sprint(next), i))
				}
				if err := w.add(r, next); err != nil {
					t.Fatal(err)
				}
				next++
			}
		}
		p, err := w.begin()
		if err != nil {
			t.Fatal(err)
		}
		for _, work := range p.Work {
			rows[w.seqs[work.ID].tenant] += work.Rows
		}
		if _, err := w.end(1, true); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := rows["ann"], rows["bob"]; a < b*95/100 || b < a*95/100 || a+b < 4000*5 {
		t.Errorf("ann got %d rows, bob %d", a, b)
	}
}
