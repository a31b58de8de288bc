package cuda_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"kigo/engine/device"
	"kigo/engine/device/cuda"
	"kigo/engine/device/cuda/driver"
	"kigo/engine/device/cuda/driver/fakedriver"
	"kigo/engine/quant"
)

// These tests need no GPU: the device runs on a scripted driver, which counts what
// is taken and given back, and fails where it is told to.

// session does all that a device is for, and closes what it has made, whatever
// happens.
type session struct {
	cfg  cuda.Config
	prog *device.Program
	s    *tensors
}

func newSession(t *testing.T, cfg cuda.Config) *session {
	t.Helper()
	p, s := layerOf(t, quant.Q8_0, 40, 64, 2, 1, 32, 96)
	return &session{cfg, p, s}
}

// closing closes twice: a Close that failed can be called again.
func closing(err *error, c interface{ Close() error }) {
	if e := c.Close(); e != nil {
		*err = errors.Join(*err, e, c.Close())
	}
}

func (s *session) run(g *fakeGPU) (err error) {
	d, err := g.open(s.cfg)
	if err != nil {
		return err
	}
	defer closing(&err, d)
	w, err := d.NewWeights(s.prog.Tensors)
	if err != nil {
		return err
	}
	defer closing(&err, w)
	if err := s.upload(w); err != nil {
		return err
	}
	shape := s.prog.Cache
	shape.BlockSize = 16
	c, err := d.NewCache(shape, twoChunks)
	if err != nil {
		return err
	}
	defer closing(&err, c)
	x, err := d.Compile(s.prog, w, c, device.CompileOptions{MaxRows: 32})
	if err != nil {
		return err
	}
	defer closing(&err, x)
	if err := steps(x, s.prog.Vocab); err != nil {
		return err
	}
	return comeAndGo(c, x)
}

// upload loads the tensors in one goroutine, so that the order of calls is always
// the same, and proves them.
func (s *session) upload(w device.Weights) (err error) {
	up, err := w.NewUploader()
	if err != nil {
		return err
	}
	defer closing(&err, up)
	for i := range s.s.declared {
		raw := s.s.bytes(i)
		for at := 0; at < len(raw); at += 4096 {
			buf, err := up.Buffer(i, at, min(4096, len(raw)-at))
			if err != nil {
				return err
			}
			copy(buf, raw[at:])
			if err := up.Commit(); err != nil {
				return err
			}
		}
	}
	if err := up.Close(); err != nil {
		return err
	}
	some := min(3, len(s.s.declared)-1)
	one, err := w.Hash(some)
	if err != nil {
		return err
	}
	all, err := w.(interface{ Hashes() ([]uint64, error) }).Hashes()
	if err != nil {
		return err
	}
	for i, got := range all {
		var want device.Hash
		want.Add(0, s.s.bytes(i))
		if got != uint64(want) || i == some && one != got {
			return fmt.Errorf("hash of tensor %d is %x, want %x", i, got, want)
		}
	}
	return nil
}

// steps are a prompt, tokens that are recorded and replayed, more logits than are
// kept at hand, more block tables than there was room for, the largest logit, and steps
// of which one begins behind the other, with more tables again.
func steps(x device.Executable, vocab int) error {
	prompt := &device.Step{Tokens: make([]int32, 20), Seqs: []device.SeqRows{{Rows: 20, Blocks: []int32{1, 0}}}}
	for i := range 20 {
		prompt.Logits = append(prompt.Logits, i)
	}
	if _, err := x.Run(prompt); err != nil {
		return err
	}
	token := &device.Step{Tokens: []int32{3}, Seqs: []device.SeqRows{{Rows: 1, Start: 20, Blocks: []int32{1, 0}}}, Logits: []int{0}}
	for range 5 {
		if _, err := x.Run(token); err != nil {
			return err
		}
	}
	wide := &device.Step{Tokens: []int32{1, 2, 3}, Logits: []int{0, 1, 2}}
	for range 3 {
		wide.Seqs = append(wide.Seqs, device.SeqRows{Rows: 1, Start: 5, Blocks: []int32{0, 1, 2, 3, 4, 5}})
	}
	if _, err := x.Run(wide); err != nil {
		return err
	}
	c := x.(device.Chooser)
	if err := c.Begin(token); err != nil {
		return err
	}
	if _, err := c.Largest(); err != nil {
		return err
	}
	for _, p := range plans(vocab) {
		if _, err := c.Draw([]device.Draw{{Row: 0, Plan: p}}); err != nil {
			return err
		}
	}
	if _, err := c.Fetch([]int{0}); err != nil {
		return err
	}
	wide.Tokens = []int32{-1, 4, -1}
	for range 3 {
		for range 5 {
			wide.Seqs[0].Blocks = append(wide.Seqs[0].Blocks, 6)
		}
		wide.Seqs[0].Start = 16*len(wide.Seqs[0].Blocks) - 1
		if err := c.Begin(token); err != nil {
			return err
		}
		wide.Draws = nil
		for row, p := range plans(vocab) {
			wide.Draws = append(wide.Draws, device.Draw{Row: row, Plan: p})
		}
		if err := c.Begin(wide); err != nil {
			return errors.Join(err, second(c.Largest()))
		}
		if err := errors.Join(second(c.Largest()), second(c.Largest())); err != nil {
			return err
		}
	}
	return nil
}

func second[T any](_ T, err error) error { return err }

// call is one of a session's calls: the n-th of its name, from 1.
type call struct {
	name string
	n    int
	full string // with the kernel's name
}

// calls are those of a session in which nothing fails.
func (s *session) calls(t *testing.T) []call {
	t.Helper()
	g := newFakeGPU()
	if err := s.run(g); err != nil {
		t.Fatal(err)
	}
	if err := g.Check(); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	var all []call
	for _, full := range g.TakeCalls() {
		name, _, _ := strings.Cut(full, " ")
		count[name]++
		all = append(all, call{name, count[name], full})
	}
	return all
}

// sampled leaves out most of what only repeats: of calls that there are many of, as
// those that look up kernels and those that bind the context, the first few and some
// of the others; with -short the first. With KIGO_TEST_LONG all are in.
func sampled(all []call) []call {
	if os.Getenv("KIGO_TEST_LONG") != "" {
		return all
	}
	var some []call
	for _, c := range all {
		if c.n == 1 || !testing.Short() && (c.n == 2 || c.n%5 == 0) {
			some = append(some, c)
		}
	}
	return some
}

// returns are the calls that give something back: one that fails leaves that, and
// nothing else, behind.
var returns = map[string]string{
	"Free": "device allocations", "HostFree": "pinned host memories", "HostUnregister": "pinned host memories",
	"DestroyStream": "streams", "DestroyEvent": "events", "UnloadModule": "modules",
	"DestroyGraph": "graphs", "DestroyGraphExec": "executable graphs", "ReleaseChunk": "chunks",
}

// Whichever call fails, the error says so with the interface's own sentinel,
// and nothing is left when everything has been closed.
func TestNothingIsLeft(t *testing.T) {
	for _, checks := range []bool{false, true} {
		s := newSession(t, cuda.Config{Checks: checks})
		for _, c := range sampled(s.calls(t)) {
			switch c.name {
			case "EndCapture", "SyncStream", "SyncEvent":
				// One that fails has ended the capture, or waited, all the same (or
				// the context is dead); the fake's would not have.
				continue
			}
			what := fmt.Sprintf("%s, call %d (checks %t)", c.full, c.n, checks)
			g := newFakeGPU()
			g.FailAt(c.name, c.n, driver.CodeOutOfMemory)
			err := s.run(g)
			switch c.name {
			case "MemInfo": // a figure in Info
				if err != nil {
					t.Errorf("%s: %v", what, err)
				}
			default:
				if !errors.Is(err, device.ErrOutOfMemory) {
					t.Errorf("%s: error %v, want ErrOutOfMemory", what, err)
				}
			}
			left := g.Check()
			if kind := returns[c.name]; kind != "" {
				if !onlyOne(left, kind) {
					t.Errorf("%s: left are %v, want one of %s", what, left, kind)
				}
			} else if left != nil {
				t.Errorf("%s: %v", what, left)
			}
		}
	}
}

// onlyOne says whether nothing is left but one thing of a kind.
func onlyOne(left error, kind string) bool {
	if left == nil {
		return false
	}
	for _, problem := range strings.Split(left.Error(), "; ") {
		if problem != "1 "+kind+" left" && !((kind == "device allocations" || kind == "chunks") && strings.HasSuffix(problem, "bytes of device memory in use")) {
			return false
		}
	}
	return true
}

// A fatal error latches: the session ends with ErrLost, and CUDA is not called
// any more.
func TestFatalErrorsLatch(t *testing.T) {
	s := newSession(t, cuda.Config{})
	for _, c := range sampled(s.calls(t)) {
		if c.name == "MemInfo" {
			continue
		}
		g := newFakeGPU()
		g.FailAt(c.name, c.n, driver.CodeIllegalAddress)
		err := s.run(g)
		if !errors.Is(err, device.ErrLost) || errors.Is(err, device.ErrOutOfMemory) {
			t.Errorf("%s, call %d: error %v, want ErrLost", c.full, c.n, err)
		}
		calls := g.TakeCalls()
		if last := calls[len(calls)-1]; last != c.full && last != c.name {
			t.Errorf("%s, call %d: %s was called after it", c.full, c.n, last)
		}
	}
}

// Work that fails is found out by whoever waits for it, as an ErrLost; with
// checks, the very next wait names the kernel.
func TestFaultsOfWork(t *testing.T) {
	for _, checks := range []bool{false, true} {
		s := newSession(t, cuda.Config{Checks: checks})
		all := s.calls(t)
		capturing := false
		for _, c := range all {
			switch c.name {
			case "BeginCapture", "EndCapture":
				capturing = c.name == "BeginCapture"
			}
			if c.n > 2 && c.n%3 != 0 && os.Getenv("KIGO_TEST_LONG") == "" {
				continue
			}
			if capturing || !slices.Contains([]string{"Launch", "CopyToDevice", "CopyToHost", "Fill8", "LaunchGraph"}, c.name) || testing.Short() && c.n%30 != 0 {
				continue
			}
			g := newFakeGPU()
			g.FaultAt(c.name, c.n, driver.CodeIllegalAddress)
			err := s.run(g)
			if !errors.Is(err, device.ErrLost) {
				t.Errorf("%s, call %d (checks %t): error %v, want ErrLost", c.full, c.n, checks, err)
			}
			if kernel, ok := strings.CutPrefix(c.full, "Launch "); ok && checks && !contains(err, "kernel "+kernel+",") {
				t.Errorf("%s, call %d, with checks: %v, which does not name it", c.full, c.n, err)
			}
		}
	}
}

// Errors say what was being done, and with which tensor or kernel.
func TestErrorsNameWhatFailed(t *testing.T) {
	s := newSession(t, cuda.Config{})
	first := map[string]int{} // launch by kernel
	launches, allocs := 0, 0
	for _, c := range s.calls(t) {
		if c.name == "Launch" {
			launches++
			if first[c.full] == 0 {
				first[c.full] = launches
			}
		}
		if c.name == "Alloc" {
			allocs++
		}
	}
	for full, n := range first {
		kernel := strings.TrimPrefix(full, "Launch ")
		g := newFakeGPU()
		g.FailAt("Launch", n, driver.CodeLaunchOutOfResources)
		err := s.run(g)
		words := []string{"kernel " + kernel, "grid"}
		switch kernel {
		case "repack":
			words = append(words, `upload of tensor "tensor 0"`)
		case "hash_tensor":
			words = append(words, `hash of tensor "tensor 3"`)
		}
		if !contains(err, words...) {
			t.Errorf("%s: %v, want %q in it", kernel, err, words)
		}
	}
	for n, words := range map[int][]string{
		1: {"weights of", "bytes of device memory", "are free"},
		2: {"upload"},
	} {
		g := newFakeGPU()
		g.FailAt("Alloc", n, driver.CodeOutOfMemory)
		if err := s.run(g); !contains(err, words...) {
			t.Errorf("allocation %d: %v, want %q in it", n, err, words)
		}
	}
	if allocs < 5 {
		t.Errorf("%d allocations", allocs)
	}
}

// With --device-checks, a NaN is told with the stage in which it appears: also one
// that nobody wrote, because fresh memory is full of them.
func TestChecksFindNaNs(t *testing.T) {
	s := newSession(t, cuda.WithWide(cuda.Config{Checks: true}, 32, 1, false, 0, false))
	for kernel, stage := range map[string]string{
		"embed": "embed", "prepare": "attn_norm", "append": "q_rope", "wide32_q8_0": "q", "attend_one_32": "attn",
	} {
		g := newFakeGPU()
		g.nan = kernel
		if err := s.run(g); !contains(err, "stage "+stage+":", "NaN in row 0, column 0") || errors.Is(err, device.ErrLost) {
			t.Errorf("NaNs of %s: %v, want stage %s", kernel, err, stage)
		}
		if err := g.Check(); err != nil {
			t.Errorf("NaNs of %s: %v", kernel, err)
		}
	}
}

// What is closed says so, and gives everything back, in whatever order.
func TestClosedInAnyOrder(t *testing.T) {
	s := newSession(t, cuda.Config{})
	g := newFakeGPU()
	d, err := g.open(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	w, err := d.NewWeights(s.prog.Tensors)
	if err != nil {
		t.Fatal(err)
	}
	up, err := w.NewUploader()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // the first two are under way when the weights go
		buf, err := up.Buffer(0, 0, 64)
		if err != nil {
			t.Fatal(err)
		}
		copy(buf, s.s.bytes(0))
		if err := up.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	if err := up.Commit(); err == nil {
		t.Error("a Commit without a Buffer was taken")
	}
	if _, err := up.Buffer(0, 0, 64); err != nil {
		t.Fatal(err)
	}
	shape := s.prog.Cache
	shape.BlockSize = 16
	c, err := device.WholeCache(d, shape, 8)
	if err != nil {
		t.Fatal(err)
	}
	x, err := d.Compile(s.prog, w, c, device.CompileOptions{MaxRows: 32})
	if err != nil {
		t.Fatal(err)
	}
	step := &device.Step{Tokens: []int32{3}, Seqs: []device.SeqRows{{Rows: 1, Blocks: []int32{1}}}, Logits: []int{0}}
	choose := x.(device.Chooser)

	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	wantClosed(t, "Commit", up.Commit())
	_, err = up.Buffer(0, 0, 64)
	wantClosed(t, "Buffer", err)
	_, err = w.NewUploader()
	wantClosed(t, "NewUploader", err)
	_, err = w.Hash(0)
	wantClosed(t, "Hash", err)
	_, err = d.Compile(s.prog, w, c, device.CompileOptions{MaxRows: 32})
	wantClosed(t, "Compile", err)
	_, err = x.Run(step)
	wantClosed(t, "Run", err)
	wantClosed(t, "Begin", choose.Begin(step))
	_, err = choose.Largest()
	wantClosed(t, "Largest", err)
	_, err = choose.Draw(nil)
	wantClosed(t, "Draw", err)
	_, err = choose.Fetch(nil)
	wantClosed(t, "Fetch", err)
	if err := errors.Join(up.Close(), up.Close(), x.Close(), x.Close(), c.Close(), c.Close(), w.Close(), d.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
	_, err = up.Buffer(0, 0, 64)
	wantClosed(t, "Buffer after the uploader's Close", err)
	_, err = x.Run(step)
	wantClosed(t, "Run after Close", err)
	_, err = d.NewCache(shape, 8)
	wantClosed(t, "NewCache", err)
	_, err = d.NewWeights(s.prog.Tensors)
	wantClosed(t, "NewWeights", err)
	if err := g.Check(); err != nil {
		t.Error(err)
	}
}

// GPUs that are too old, or not there, are told from those that fail.
func TestUnusable(t *testing.T) {
	for name, tc := range map[string]struct {
		fake     fakedriver.Config
		cfg      cuda.Config
		fails    string
		unusable bool
		words    []string
	}{
		"too old":   {fake: fakedriver.Config{Properties: driver.Properties{Name: "V100", Major: 7}}, unusable: true, words: []string{"V100", "7.0", "8.0"}},
		"not there": {cfg: cuda.Config{Ordinal: 1}, unusable: true, words: []string{"GPU 1", "there are 1"}},
		"negative":  {cfg: cuda.Config{Ordinal: -1}, unusable: true},
		"failing":   {fails: "RetainContext", words: []string{"start the context", "Fake H100"}},
	} {
		g := fakedriver.New(tc.fake)
		if tc.fails != "" {
			g.FailAt(tc.fails, 1, driver.CodeOutOfMemory)
		}
		_, err := cuda.OpenOn(tc.cfg, g)
		if err == nil || cuda.Unusable(err) != tc.unusable || !contains(err, tc.words...) {
			t.Errorf("%s: %v, unusable %t", name, err, cuda.Unusable(err))
		}
		if err := errors.Join(g.Close(), g.Check()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func contains(err error, words ...string) bool {
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			return false
		}
	}
	return true
}
