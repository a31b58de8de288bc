package cuda_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"kigo/engine/device"
	"kigo/engine/device/cuda"
	"kigo/engine/device/cuda/driver"
	"kigo/engine/quant"
	"kigo/engine/sample"
	"kigo/kernels"
)

// A kernelCase is a program whose steps reach some of the kernels.
type kernelCase struct {
	name string
	rows []int // of its steps
	past int   // rows of the step before them; 0: longPast
	on   int   // by everyDevice
	make func(t *testing.T) (*device.Program, *tensors)
}

// longPast is more than attention takes at a time.
const longPast = 300

// kernelCases are small programs that together reach every kernel: each format's
// products and attention for every size of head, with numbers of rows for which kernels
// of their own are there. They are the part of the tests that is short enough for
// compute-sanitizer; what the results are is the business of the others, beyond being
// numbers. Their names are words, by which gpu-test.sh runs each in a process of its own.
func kernelCases(t *testing.T) (cases []kernelCase) {
	t.Helper()
	add := func(name string, rows []int, typ quant.Type, width, heads, kvHeads, dim, hidden int) {
		cases = append(cases, kernelCase{name: name, rows: rows, make: func(t *testing.T) (*device.Program, *tensors) {
			return layerOf(t, typ, 40, width, heads, kvHeads, dim, hidden)
		}})
	}
	for _, f := range quant.All() {
		add(f.Name, []int{1, 3, 20, 40, 70}, f.Type, 256, 8, 2, 32, 256)
	}
	for _, dim := range []int{32, 64, 96, 128, 256} {
		add(fmt.Sprint("heads_of_", dim), []int{1, 10}, quant.Q8_0, 64, 4, 1, dim, 64)
	}
	// Of wide those that rows so few would not get. After a long past, racecheck had not
	// come to the end of one in 97 s.
	addWide := func(name string, typ quant.Type, on int) {
		add(mustLookup(t, typ).Name+name, []int{20}, typ, 256, 4, 2, 64, 256)
		cases[len(cases)-1].past, cases[len(cases)-1].on = 40, on
	}
	for _, f := range quant.All() {
		if f.Type != quant.F32 {
			addWide("_wide128", f.Type, 1)
			addWide("_wide64", f.Type, 3)
			addWide("_wide32", f.Type, 7)
		}
	}
	for _, typ := range []quant.Type{quant.F16, quant.Q8_0, quant.Q4_K} {
		addWide("_joint", typ, 2)
	}
	addWide("_wide128_pairs", quant.F16, 4)
	addWide("_wide64_pairs", quant.F16, 5)
	for _, typ := range []quant.Type{quant.F16, quant.Q8_0, quant.Q4_K} {
		addWide("_far", typ, 6)
	}
	add("heads_alone", []int{1, 10}, quant.F16, 64, 2, 2, 64, 64) // that share nothing
	add("shared_tiles", []int{3}, quant.F16, 64, 2, 1, 32, 2048)  // two blocks of few for each
	// Values in another format than queries and keys, as in llama.cpp's mixtures.
	for _, both := range [][2]quant.Type{{quant.Q5_0, quant.Q8_0}, {quant.Q5_1, quant.Q8_0}, {quant.Q4_K, quant.Q6_K}, {quant.Q5_K, quant.Q6_K}} {
		name := mustLookup(t, both[0]).Name + "_and_" + mustLookup(t, both[1]).Name
		cases = append(cases, kernelCase{name: name, rows: []int{1, 3}, make: func(t *testing.T) (*device.Program, *tensors) {
			p, s := layerOf(t, both[0], 40, 256, 8, 2, 32, 256)
			return p, another(t, p, s, both[1], device.ActNone, 2)
		}})
	}
	cases = append(cases, kernelCase{name: "two_rotations", rows: []int{1, 3}, make: func(t *testing.T) (*device.Program, *tensors) {
		p, s := layerOf(t, quant.F16, 40, 64, 2, 1, 32, 64)
		return p, turnedTwice(t, p, s)
	}})
	return append(cases, kernelCase{name: "two_formats", rows: []int{1, 20}, make: func(t *testing.T) (*device.Program, *tensors) {
		p, s := layerOf(t, quant.F16, 40, 64, 2, 1, 32, 64)
		return p, another(t, p, s, quant.Q8_0, device.ActSiLU, 1)
	}})
}

// everyDevice are what the cases run on: one that takes what should be done first, two
// that take wide128 for all of more than a few rows, one with joint warpgroups, one
// that takes wide64, two that take either with two tiles for a warp, one whose blocks
// share outputs through memory, and one that takes wide32.
var everyDevice = []func(cuda.Config) cuda.Config{
	func(cfg cuda.Config) cuda.Config { return cfg },
	func(cfg cuda.Config) cuda.Config { return cuda.WithWide(cfg, 128, 1, false, 0, false) },
	func(cfg cuda.Config) cuda.Config { return cuda.WithWide(cfg, 128, 1, true, 0, false) },
	func(cfg cuda.Config) cuda.Config { return cuda.WithWide(cfg, 64, 1, false, 0, false) },
	func(cfg cuda.Config) cuda.Config { return cuda.WithWide(cfg, 128, 2, false, 0, false) },
	func(cfg cuda.Config) cuda.Config { return cuda.WithWide(cfg, 64, 2, false, 0, false) },
	func(cfg cuda.Config) cuda.Config { return cuda.WithWide(cfg, 128, 1, false, 4, true) },
	func(cfg cuda.Config) cuda.Config { return cuda.WithWide(cfg, 32, 1, false, 0, false) },
}

// everyKernel runs the cases for the device, one of everyDevice, and says how many were
// asked for by -run.
func everyKernel(t *testing.T, dev device.Device, on int, then func(t *testing.T)) (ran int) {
	t.Helper()
	for _, c := range kernelCases(t) {
		if c.on != on {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			ran++
			p, s := c.make(t)
			everyStep(t, dev, c.name, p, s, c.rows, cmp.Or(c.past, longPast))
			then(t)
		})
	}
	return ran
}

// everyStep runs the program with so many rows, as rows of one sequence, and as one
// row of as many sequences: at the beginning, again to be recorded and replayed,
// and after a past that attention walks over in parts. Once with somebody watching.
func everyStep(t *testing.T, dev device.Device, what string, p *device.Program, s *tensors, rows []int, past int) {
	t.Helper()
	w, err := dev.NewWeights(p.Tensors)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.uploadAll(w); err != nil {
		t.Fatal(err)
	}
	shape := p.Cache
	shape.BlockSize = 16
	const pastBlocks = 20
	most := slices.Max(rows)
	c, err := device.WholeCache(dev, shape, pastBlocks+most)
	if err != nil {
		t.Fatal(err)
	}
	closers := []interface{ Close() error }{c, w}
	for _, watched := range []bool{false, true} {
		opt := device.CompileOptions{MaxRows: max(most, past)}
		if watched {
			opt.Tap = func(string, int, int, []float32) {}
		}
		x, err := dev.Compile(p, w, c, opt)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		closers = append([]interface{ Close() error }{x}, closers...)
		run := func(step *device.Step) {
			t.Helper()
			logits, err := x.Run(step)
			if err != nil {
				t.Fatalf("%s, %d rows: %v", what, len(step.Tokens), err)
			}
			for i, v := range logits {
				if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
					t.Fatalf("%s, %d rows: logit %d is %v", what, len(step.Tokens), i, v)
				}
			}
		}
		long := make([]int32, pastBlocks) // the one that has a past
		for i := range long {
			long[i] = int32(pastBlocks - 1 - i)
		}
		tokens := func(n int) []int32 {
			t := make([]int32, n)
			for i := range t {
				t[i] = int32(i % 40)
			}
			return t
		}
		run(&device.Step{Tokens: tokens(past), Seqs: []device.SeqRows{{Rows: past, Blocks: long}}, Logits: []int{past - 1}})
		for _, n := range rows {
			if watched && n > 20 {
				continue
			}
			last := []int{n - 1}
			run(&device.Step{Tokens: tokens(n), Seqs: []device.SeqRows{{Rows: n, Start: 2, Blocks: long}}, Logits: last})
			each := &device.Step{Tokens: tokens(n), Logits: last}
			for i := range n {
				q := device.SeqRows{Rows: 1, Blocks: []int32{int32(pastBlocks + i)}} // nothing before it is in the cache
				if i == 0 {
					q = device.SeqRows{Rows: 1, Start: past, Blocks: long}
				}
				each.Seqs = append(each.Seqs, q)
			}
			for range 3 {
				run(each)
			}
			if c, ok := x.(device.Chooser); ok && n <= 3 {
				each.Logits = []int{0}
				if err := c.Begin(each); err != nil {
					t.Fatal(err)
				}
				if _, err := c.Largest(); err != nil {
					t.Fatal(err)
				}
				for _, plan := range plans(p.Vocab) {
					if _, err := c.Draw([]device.Draw{{Row: 0, Plan: plan}}); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	for _, c := range closers {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// plans are two ways to draw a token that need every kernel that draws.
func plans(vocab int) []*sample.Plan {
	edits := []sample.Edit{{ID: 0, Bias: 1}, {ID: int32(vocab - 1), Times: 3}}
	return []*sample.Plan{
		{Scale: 1.5, Random: 1 << 63, TopK: 5, TopP: 1 << 63, Least: 1 << 20, Vocab: vocab, Edits: edits, Repetition: 1.5},
		{Scale: 1.5, Random: 1 << 62, TopP: 1 << 63, Least: 1, Vocab: vocab, Allowed: []uint64{1<<64 - 2}},
	}
}

func mustLookup(t *testing.T, typ quant.Type) *quant.Format {
	t.Helper()
	f, err := quant.Lookup(typ)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// uploadAll is load.Read in one goroutine, with the proof.
func (s *tensors) uploadAll(w device.Weights) error {
	return (&session{s: s}).upload(w)
}

// another gives matrix n of the first product with that activation another format.
func another(t *testing.T, p *device.Program, s *tensors, typ quant.Type, act device.Activation, n int) *tensors {
	t.Helper()
	f := mustLookup(t, typ)
	for _, op := range p.Ops {
		op, ok := op.(*device.Project)
		if !ok || op.Act != act {
			continue
		}
		was := p.Tensors[op.Mats[n].Weight]
		raw := make([]byte, was.Rows*was.Cols/f.BlockSize*f.BlockBytes)
		f.Random(raw, 0.1, rand.New(rand.NewPCG(26, 27)))
		s.add("another format", f, was.Rows, was.Cols/f.BlockSize, raw)
		p.Tensors = s.declared
		op.Mats[n].Weight = device.TensorID(len(p.Tensors) - 1)
		return s
	}
	t.Fatal("there is no such product")
	return nil
}

// turnedTwice rotates the program's queries and keys for a second layer, in another way.
func turnedTwice(t *testing.T, p *device.Program, s *tensors) *tensors {
	t.Helper()
	for i, op := range p.Ops {
		if op, ok := op.(*device.Rope); ok {
			other := *op
			other.Layer, other.Base = p.Cache.Layers, 500
			other.QOut, other.KOut = device.Value(len(p.Values)), device.Value(len(p.Values)+1)
			p.Values = append(p.Values, device.ValueInfo{Stage: "q_rope2", Width: p.Values[op.QOut].Width}, device.ValueInfo{Stage: "k_rope2", Width: p.Values[op.KOut].Width})
			p.Ops = slices.Insert(p.Ops, i, device.Op(&other))
			p.Cache.Layers++
			return s
		}
	}
	t.Fatal("there is no rotation")
	return nil
}

// unserved are the families that serving does not need: the self-test of a GPU, and
// what measures it.
var unserved = []string{"probe", "rate"}

// reached fails for kernels that are there for the GPU and were not launched.
func reached(t *testing.T, launched map[string]bool, major, minor int) {
	t.Helper()
	for _, family := range kernels.Families() {
		_, target, err := kernels.Image(family, major, minor)
		if err != nil {
			continue // none for this GPU
		}
		for _, k := range kernels.Kernels(family) {
			if (k.Targets == nil || slices.Contains(k.Targets, target)) && !launched[k.Name] && !slices.Contains(unserved, family) {
				t.Errorf("kernel %s was not reached", k.Name)
			}
		}
	}
	if t.Failed() {
		t.Logf("reached: %s", strings.Join(slices.Sorted(maps.Keys(launched)), " "))
	}
}

// The steps of the cases reach them all: found on the scripted driver, so that a
// kernel which nothing reaches shows where there is no GPU.
func TestEveryKernelIsReached(t *testing.T) {
	if testing.Short() {
		t.Skip("not with -short: arithmetic only")
	}
	testEveryKernel(t, func() driver.Driver {
		g := newFakeGPU()
		t.Cleanup(func() {
			if err := g.Check(); err != nil {
				t.Error(err)
			}
		})
		return g
	})
}

// On other GPUs the cases reach every kernel that is there for them, within what shared
// memory they have.
func TestEveryKernelOfOtherGPUs(t *testing.T) {
	if testing.Short() {
		t.Skip("not with -short: arithmetic only")
	}
	const kib = 1 << 10
	for _, props := range []driver.Properties{
		{Name: "A100", Major: 8, SMs: 108, SharedPerBlockOptin: 163 * kib, SharedPerSM: 164 * kib},
		{Name: "RTX 3090", Major: 8, Minor: 6, SMs: 82, SharedPerBlockOptin: 99 * kib, SharedPerSM: 100 * kib},
		{Name: "L4", Major: 8, Minor: 9, SMs: 58, SharedPerBlockOptin: 99 * kib, SharedPerSM: 100 * kib},
		{Name: "B200", Major: 10, SMs: 148},
		{Name: "RTX 5090", Major: 12, SMs: 170, SharedPerBlockOptin: 99 * kib, SharedPerSM: 100 * kib},
	} {
		t.Run(props.Name, func(t *testing.T) {
			g := newFakeGPUOf(props)
			r := &recorder{Driver: g, names: map[driver.Function]string{}, launched: map[string]bool{}}
			d, err := cuda.OpenOn(cuda.Config{}, r)
			if err != nil {
				t.Fatal(err)
			}
			everyKernel(t, d, 0, func(*testing.T) {})
			reached(t, r.launched, props.Major, props.Minor)
			if props.Name == "L4" { // has the least of both
				p, s := layerOf(t, quant.Q4_K, 40, 4096, 32, 8, 128, 14336)
				everyStep(t, d, "a layer of 8B", p, s, []int{1, 3, 20, 70}, longPast)
			}
			if err := errors.Join(d.Close(), g.Check()); err != nil {
				t.Error(err)
			}
		})
	}
}

// Code for every GPU has nothing that waits for clusters or predecessors: on a GPU that has
// both, steps must do without.
func TestCodeForEveryGPU(t *testing.T) {
	if testing.Short() {
		t.Skip("not with -short: arithmetic only")
	}
	g := newFakeGPU()
	r := &recorder{Driver: g, names: map[driver.Function]string{}, launched: map[string]bool{}, refuse: true}
	props, err := g.Properties(0)
	if err != nil || !props.Clusters || props.Major < 9 {
		t.Fatalf("the scripted GPU: %+v, %v", props, err)
	}
	d, err := cuda.OpenOn(cuda.WithCodeForEveryGPU(cuda.Config{}), r)
	if err != nil {
		t.Fatal(err)
	}
	everyKernel(t, d, 0, func(*testing.T) {})
	if !r.launched["many_q4_k"] || r.launched["wide128_q4_k"] {
		t.Errorf("launched: %s", strings.Join(slices.Sorted(maps.Keys(r.launched)), " "))
	}
	if err := errors.Join(d.Close(), g.Check()); err != nil {
		t.Error(err)
	}
}

// The same on a GPU, under compute-sanitizer if somebody asks for it.
func TestEveryKernel(t *testing.T) {
	testEveryKernel(t, func() driver.Driver {
		drv, err := driver.Open()
		needGPU(t, err)
		return drv
	})
}

func testEveryKernel(t *testing.T, open func() driver.Driver) {
	t.Helper()
	all, ran := map[string]bool{}, 0
	var props driver.Properties
	for on, with := range everyDevice {
		r := &recorder{Driver: open(), names: map[driver.Function]string{}, launched: map[string]bool{}}
		d, err := cuda.OpenOn(with(r.configure(t)), r)
		needGPU(t, err)
		if props, err = r.Driver.Properties(0); err != nil {
			t.Fatal(err)
		}
		ran += everyKernel(t, d, on, func(t *testing.T) {
			t.Logf("kernels: %s", strings.Join(slices.Sorted(maps.Keys(r.launched)), " "))
			maps.Copy(all, r.launched)
			clear(r.launched)
		})
		if t.Failed() {
			return // the GPU may be lost, and what is open holds its memory
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if ran == len(kernelCases(t)) {
		reached(t, all, props.Major, props.Minor)
	}
}

// configure takes in what the device is to do without.
func (r *recorder) configure(t *testing.T) (cfg cuda.Config) {
	t.Helper()
	for word := range strings.SplitSeq(os.Getenv(plainVariable), ",") {
		switch word {
		case "":
		case "memory":
			r.memory = true
		case "launch":
			r.launch = true
		case "graphs":
			cfg = cuda.Unrecorded(cfg)
		case "cluster":
			r.cluster = true
		case "sync":
			r.sync, cfg = true, cuda.Unrecorded(cfg) // a capture cannot wait
		default:
			t.Fatalf("%s: there is no %q", plainVariable, word)
		}
	}
	return cfg
}

// plainVariable lists what the device is to do without in these tests, so that a tool
// which stumbles over one thing can look at the rest: memory (that is mapped behind
// reserved addresses), launch (of a kernel before its predecessor's end), graphs,
// cluster. With sync it waits after every launch, and an error names the kernel.
const plainVariable = "KIGO_TEST_PLAIN"

// recorder notes which kernels are launched, from one goroutine, and takes away what
// the tests are to do without.
type recorder struct {
	driver.Driver
	names                         map[driver.Function]string
	launched                      map[string]bool
	memory, launch, cluster, sync bool
	refuse                        bool // clusters, and launches before the predecessor's end
}

func (r *recorder) Properties(ordinal int) (driver.Properties, error) {
	p, err := r.Driver.Properties(ordinal)
	p.VirtualMemory = p.VirtualMemory && !r.memory
	if r.cluster {
		// Only where multiprocessors are idle do blocks of wide form clusters.
		p.Clusters, p.SMs = false, 1
	}
	return p, err
}

func (r *recorder) Function(m driver.Module, name string) (driver.Function, error) {
	f, err := r.Driver.Function(m, name)
	r.names[f] = name
	return f, err
}

func (r *recorder) Launch(f driver.Function, l *driver.Launch, params unsafe.Pointer) error {
	r.launched[r.names[f]] = true
	how := *l
	how.Dependent = l.Dependent && !r.launch
	if r.refuse && l.Dependent {
		return fmt.Errorf("kernel %s: launched before its predecessor's end", r.names[f])
	}
	if (r.cluster || r.refuse) && l.Cluster != 0 {
		return fmt.Errorf("kernel %s: a cluster of %d", r.names[f], l.Cluster)
	}
	err := r.Driver.Launch(f, &how, params)
	if err == nil && r.sync {
		err = r.SyncStream(l.Stream)
	}
	if err != nil {
		return fmt.Errorf("kernel %s: %w", r.names[f], err)
	}
	return nil
}
