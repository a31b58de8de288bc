package cuda_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"kigo/engine/device"
	"kigo/engine/device/cpu"
	"kigo/engine/device/cuda"
	"kigo/engine/load"
	"kigo/engine/quant"
)

// A load that copied wrongly, or memory that has lost a bit, is found, and the
// tensor named: in every format, wherever its bytes lie. (The predecessor's fast
// load was suspected of not loading at all.)
func TestLesson_FlippedBitsAndSwappedBlocksAreFound(t *testing.T) {
	dev := open(t, cuda.Config{})
	t.Cleanup(func() { dev.Close() })
	rng := rand.New(rand.NewPCG(23, 24))
	s := &tensors{}
	for _, f := range quant.All() {
		raw := make([]byte, 19*5*f.BlockBytes)
		for i := range raw {
			raw[i] = byte(rng.Uint32())
		}
		s.add(f.Name+" tensor", f, 19, 5, raw)
	}
	w, hashes := s.loadWithHashes(t, dev)

	for i, x := range s.declared {
		f := x.Format
		rowBytes := 5 * f.BlockBytes
		at := func(row, n int) int { return cuda.Located(w, i, row, n) }
		for name, spoil := range map[string]func(b []byte){
			"the first bit":     func(b []byte) { b[at(0, 0)] ^= 1 },
			"the last bit":      func(b []byte) { b[at(18, rowBytes-1)] ^= 0x80 },
			"some bit":          func(b []byte) { b[at(rng.IntN(19), rng.IntN(rowBytes))] ^= 1 << rng.IntN(8) },
			"two blocks of row": func(b []byte) { swap(b, f.BlockBytes, at, 7, 1, 7, 3) },
			"two rows' blocks":  func(b []byte) { swap(b, f.BlockBytes, at, 2, 4, 17, 4) },
			"two tiles' blocks": func(b []byte) { swap(b, f.BlockBytes, at, 1, 0, 17, 0) },
		} {
			t.Run(f.Name+"/"+name, func(t *testing.T) {
				whole, err := cuda.Memory(w, i)
				if err != nil {
					t.Fatal(err)
				}
				spoilt := bytes.Clone(whole)
				spoil(spoilt)
				if bytes.Equal(spoilt, whole) {
					t.Fatal("nothing was spoilt")
				}
				if err := cuda.SetMemory(w, i, spoilt); err != nil {
					t.Fatal(err)
				}
				err = load.Verify(t.Context(), s.sources, hashes, w)
				if !errors.Is(err, load.ErrCorrupt) || !strings.Contains(err.Error(), x.Name) || !strings.Contains(err.Error(), "1 of ") {
					t.Errorf("error %v, want ErrCorrupt that names %s alone", err, x.Name)
				}
				if err := cuda.SetMemory(w, i, whole); err != nil {
					t.Fatal(err)
				}
				if err := load.Verify(t.Context(), s.sources, hashes, w); err != nil {
					t.Errorf("mended: %v", err)
				}
			})
		}
	}
}

// swap exchanges two blocks, each given by its row and its number in it.
func swap(b []byte, blockBytes int, at func(row, n int) int, row1, block1, row2, block2 int) {
	for n := range blockBytes {
		p, q := at(row1, block1*blockBytes+n), at(row2, block2*blockBytes+n)
		b[p], b[q] = b[q], b[p]
	}
}

// layer is a program that reaches most kernels, with its weights.
func layer(t *testing.T, typ quant.Type) (*device.Program, *tensors) {
	t.Helper()
	return layerOf(t, typ, 300, 256, 4, 2, 64, 512)
}

func layerOf(t *testing.T, typ quant.Type, vocab, width, heads, kvHeads, dim, hidden int) (*device.Program, *tensors) {
	t.Helper()
	rng := rand.New(rand.NewPCG(25, uint64(typ)))
	p := &device.Program{Vocab: vocab, Cache: device.CacheShape{Layers: 1, KVHeads: kvHeads, HeadDim: dim}}
	s := &tensors{}
	tensor := func(typ quant.Type, rows, cols int) device.TensorID {
		f, err := quant.Lookup(typ)
		if err != nil {
			t.Fatal(err)
		}
		raw := make([]byte, rows*cols/f.BlockSize*f.BlockBytes)
		f.Random(raw, 0.1, rng)
		s.add(fmt.Sprintf("tensor %d", len(s.declared)), f, rows, cols/f.BlockSize, raw)
		return device.TensorID(len(s.declared) - 1)
	}
	value := func(stage string, width int) device.Value {
		p.Values = append(p.Values, device.ValueInfo{Stage: stage, Width: width})
		return device.Value(len(p.Values) - 1)
	}
	norm := func(stage string) *device.Norm {
		return &device.Norm{Weight: tensor(quant.F32, 1, width), Eps: 1e-5, Stage: stage}
	}
	in := value("embed", width)
	q, k, v := value("q", heads*dim), value("k", kvHeads*dim), value("v", kvHeads*dim)
	qRope, kRope, attn := value("q_rope", heads*dim), value("k_rope", kvHeads*dim), value("attn", heads*dim)
	attnOut, gateUp, out := value("attn_out", width), value("ffn_gate_up", hidden), value("ffn_out", width)
	matrix := func(rows, cols int, out device.Value, bias bool) device.Matrix {
		m := device.Matrix{Weight: tensor(typ, rows, cols), Bias: device.NoTensor, Out: out}
		if bias {
			m.Bias = tensor(quant.F32, 1, rows)
		}
		return m
	}
	p.Ops = []device.Op{
		&device.Embed{Table: tensor(typ, vocab, width), Out: in},
		&device.Project{In: in, Norm: norm("attn_norm"), Residual: device.NoValue, Mats: []device.Matrix{
			matrix(heads*dim, width, q, true), matrix(kvHeads*dim, width, k, true), matrix(kvHeads*dim, width, v, true)}},
		&device.Rope{Q: q, K: k, V: v, QOut: qRope, KOut: kRope, Heads: heads, KVHeads: kvHeads, HeadDim: dim, Dims: dim,
			Style: device.RopeHalves, Base: 10000, Scale: 1, Factors: device.NoTensor},
		&device.Attend{Q: qRope, Out: attn, Heads: heads, KVHeads: kvHeads, HeadDim: dim, Scale: 0.125},
		&device.Project{In: attn, Residual: in, Mats: []device.Matrix{matrix(width, heads*dim, attnOut, false)}},
		&device.Project{In: attnOut, Norm: norm("ffn_norm"), Residual: device.NoValue, Act: device.ActSiLU, Mats: []device.Matrix{
			matrix(hidden, width, gateUp, false), matrix(hidden, width, device.NoValue, false)}},
		&device.Project{In: gateUp, Residual: attnOut, Mats: []device.Matrix{matrix(width, hidden, out, false)}},
		&device.Logits{In: out, Norm: norm("output_norm"), Weight: tensor(typ, vocab, width), Stage: "logits"},
	}
	p.Tensors = s.declared
	return p, s
}

// serve loads the layer, runs a prompt and some tokens after it, and closes all.
func serve(t *testing.T, dev device.Device, p *device.Program, s *tensors) []float32 {
	t.Helper()
	w, err := dev.NewWeights(p.Tensors)
	if err != nil {
		t.Fatal(err)
	}
	hashes, err := load.Read(t.Context(), bytes.NewReader(s.file), s.sources, w, nil)
	if err == nil {
		err = load.Verify(t.Context(), s.sources, hashes, w)
	}
	if err != nil {
		t.Fatal(err)
	}
	shape := p.Cache
	shape.BlockSize = 16
	c, err := device.WholeCache(dev, shape, 64)
	if err != nil {
		t.Fatal(err)
	}
	x, err := dev.Compile(p, w, c, device.CompileOptions{MaxRows: 128})
	if err != nil {
		t.Fatal(err)
	}
	var last []float32
	blocks := []int32{3, 2, 1, 0, 7, 6, 5, 4}
	tokens := make([]int32, 100)
	for i := range tokens {
		tokens[i] = int32(i * 3)
	}
	for at := 0; at < len(tokens); {
		n := 1
		if at == 0 {
			n = 90
		}
		logits, err := x.Run(&device.Step{Tokens: tokens[at : at+n], Seqs: []device.SeqRows{{Rows: n, Start: at, Blocks: blocks}}, Logits: []int{n - 1}})
		if err != nil {
			t.Fatal(err)
		}
		last = append(last[:0], logits...)
		at += n
	}
	for _, c := range []interface{ Close() error }{x, c, w} {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return last
}

// The layer on the GPU says what it says on the CPU's reference path, in every
// format: prompt, single tokens, cache and all. Without a GPU, the CPU's part still
// proves that the layer is a program that runs.
func TestLayerAgreesWithTheCPU(t *testing.T) {
	if testing.Short() {
		t.Skip("not with -short: arithmetic only")
	}
	reference, err := cpu.New(cpu.Config{Reference: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reference.Close() })
	want := map[quant.Type][]float32{}
	for _, f := range quant.All() {
		p, s := layer(t, f.Type)
		want[f.Type] = serve(t, reference, p, s)
	}
	dev := open(t, cuda.Config{})
	t.Cleanup(func() { dev.Close() })
	for _, f := range quant.All() {
		p, s := layer(t, f.Type)
		got := serve(t, dev, p, s)
		var diff, size float64
		for i, w := range want[f.Type] {
			d := float64(got[i]) - float64(w)
			diff, size = diff+d*d, size+float64(w)*float64(w)
		}
		// Six products in a row, each rounding to 2^-12 at most: some 3e-4.
		if e := math.Sqrt(diff / size); !(e < 1e-3) {
			t.Errorf("%s: logits off by %.1e", f.Name, e)
		}
	}
}

// granule is in which pieces the driver takes memory from the GPU. What is smaller
// than one can stay behind, for a kernel's stack say; what leaks with every load
// does not stay below it, and is counted piece by piece in TestNothingIsLeft.
const granule = 2 << 20

// Loads and unloads leave free memory where it was, and the last says what the
// first did. The driver keeps some memory of its own with the first dozens; what
// leaked with every load, a few KB even, would make up granules in the later ones.
func TestLoadsLeaveNoMemoryTaken(t *testing.T) {
	dev := open(t, cuda.Config{})
	t.Cleanup(func() { dev.Close() })
	p, s := layer(t, quant.Q4_K)
	want := serve(t, dev, p, s)
	const loads = 400
	var free [2]uint64
	for part := range free {
		for i := range loads {
			if got := serve(t, dev, p, s); !equal(got, want) {
				t.Fatalf("load %d: other logits", i)
			}
		}
		free[part] = dev.Info().MemoryFree
	}
	t.Logf("%d bytes free after %d loads, %d after twice as many", free[0], loads, free[1])
	if free[0] == 0 || free[1]+granule <= free[0] {
		t.Errorf("%d bytes were free after %d loads, %d after twice as many", free[0], loads, free[1])
	}
}

func equal(a, b []float32) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// twoChunks is so many blocks of layerOf's smallest cache that they take two chunks.
const twoChunks = 1500

// comeAndGo has a cache's second chunk come, be used, go and come again.
func comeAndGo(c device.Cache, x device.Executable) error {
	last := &device.Step{Tokens: []int32{3}, Seqs: []device.SeqRows{{Rows: 1, Blocks: []int32{twoChunks - 1}}}, Logits: []int{0}}
	for range 2 {
		if _, err := x.Run(last); !errors.Is(err, device.ErrBadStep) {
			return fmt.Errorf("a step with a block that has no memory: %w", err)
		}
		if err := c.Map(twoChunks - 1); err != nil {
			return err
		}
		if _, err := x.Run(last); err != nil {
			return err
		}
		if err := c.Unmap(twoChunks - 1); err != nil {
			return err
		}
	}
	return c.Map(twoChunks - 1) // for Close to give back
}

// The GPU's free memory falls and rises with what a cache takes and gives back, again
// and again, and a cache that is closed leaves nothing taken.
func TestCacheTakesAndGivesBackMemory(t *testing.T) {
	dev := open(t, cuda.Config{})
	t.Cleanup(func() { dev.Close() })
	const blocks = 1024 // of 1 MiB
	before := dev.Info().MemoryFree
	c, err := dev.NewCache(device.CacheShape{Layers: 16, KVHeads: 8, HeadDim: 128, BlockSize: 16}, blocks)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string) {
		t.Helper()
		free, taken := dev.Info().MemoryFree, c.Bytes()
		if lost := int64(before) - int64(free) - int64(taken); lost < -2*granule || lost > 2*granule {
			t.Errorf("%s: %d bytes were free, %d are, %d are the cache's", what, before, free, taken)
		}
	}
	check("reserved")
	if c.Bytes() > c.Reserved()/4 {
		t.Errorf("a new cache takes %d bytes of %d", c.Bytes(), c.Reserved())
	}
	for round := range 3 {
		begun := time.Now()
		for b := 0; b < blocks; _, b = c.Chunk(b) {
			if err := c.Map(b); err != nil {
				t.Fatal(err)
			}
		}
		grown := time.Now()
		check("mapped")
		if c.Bytes() < blocks<<20 || c.Bytes() != c.Reserved() {
			t.Errorf("%d blocks of 1 MiB take %d bytes, at most %d", blocks, c.Bytes(), c.Reserved())
		}
		for b, n := 0, 0; b < blocks; _, b = c.Chunk(b) {
			if n++; n%2 == 0 {
				if err := c.Unmap(b); err != nil {
					t.Fatal(err)
				}
			}
		}
		check("unmapped every other chunk")
		if c.Bytes() > 3*c.Reserved()/4 {
			t.Errorf("%d bytes are left of %d", c.Bytes(), c.Reserved())
		}
		for b := 0; b < blocks; _, b = c.Chunk(b) {
			if err := c.Unmap(b); err != nil {
				t.Fatal(err)
			}
		}
		check("unmapped")
		t.Logf("round %d: %d bytes taken in %v, given back in %v", round, c.Reserved()-c.Bytes(), grown.Sub(begun), time.Since(grown))
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if free := dev.Info().MemoryFree; free+2*granule < before {
		t.Errorf("%d bytes were free, %d are", before, free)
	}
}

// What does not fit is refused, at whichever point of a load, and the next load
// works.
func TestOutOfMemoryFailsOneLoad(t *testing.T) {
	dev := open(t, cuda.Config{})
	t.Cleanup(func() { dev.Close() })
	p, s := layer(t, quant.Q8_0)
	want := serve(t, dev, p, s)
	free := dev.Info().MemoryFree
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, device.ErrOutOfMemory) || errors.Is(err, device.ErrLost) {
			t.Errorf("%s: error %v, want ErrOutOfMemory", what, err)
		}
		if got := serve(t, dev, p, s); !equal(got, want) {
			t.Errorf("after %s: other logits", what)
		}
	}

	f16, err := quant.Lookup(quant.F16)
	if err != nil {
		t.Fatal(err)
	}
	const cols = 1 << 20
	_, err = dev.NewWeights([]device.Tensor{{Name: "huge", Format: f16, Rows: int(free/2/cols) + cols, Cols: cols}})
	refused("weights", err)
	for what, blocks := range map[string]int{"the cache": int(free / (1 << 16)), "a cache beyond any number": 1 << 40} {
		_, err = device.WholeCache(dev, device.CacheShape{Layers: 64, KVHeads: 8, HeadDim: 128, BlockSize: 16}, blocks)
		refused(what, err)
	}

	// Weights and cache fit, the memory for activations does not: here because
	// everything else is taken. What was given out before is still good.
	w, err := dev.NewWeights(p.Tensors)
	if err != nil {
		t.Fatal(err)
	}
	shape := p.Cache
	shape.BlockSize = 16
	c, err := device.WholeCache(dev, shape, 4)
	if err != nil {
		t.Fatal(err)
	}
	var hogs []device.Weights
	for size := dev.Info().MemoryFree; size > 1<<20; size /= 2 {
		for {
			hog, err := dev.NewWeights([]device.Tensor{{Name: "hog", Format: f16, Rows: int(size >> 11), Cols: 1 << 10}})
			if err != nil {
				break
			}
			hogs = append(hogs, hog)
		}
	}
	_, err = dev.Compile(p, w, c, device.CompileOptions{MaxRows: 1 << 15})
	for _, hog := range hogs {
		if err := hog.Close(); err != nil {
			t.Fatal(err)
		}
	}
	refused("scratch memory", err)
	x, err := dev.Compile(p, w, c, device.CompileOptions{MaxRows: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []interface{ Close() error }{x, c, w} {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// The driver may have taken a granule of its own; what was refused is far larger.
	if left := dev.Info().MemoryFree; left+2*granule <= free {
		t.Errorf("%d bytes were free, %d are", free, left)
	}
}

// After the device's own Close, everything says so.
func TestUseAfterTheDeviceIsClosed(t *testing.T) {
	dev := open(t, cuda.Config{})
	p, _ := layer(t, quant.F16)
	w, err := dev.NewWeights(p.Tensors)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(dev.Close(), dev.Close()); err != nil {
		t.Fatal(err)
	}
	_, err = dev.NewWeights(p.Tensors)
	wantClosed(t, "NewWeights", err)
	_, err = dev.NewCache(device.CacheShape{Layers: 1, KVHeads: 1, HeadDim: 16, BlockSize: 16}, 1)
	wantClosed(t, "NewCache", err)
	if i := dev.Info(); i.Kind != "cuda" || i.Name == "" {
		t.Errorf("info %+v", i)
	}
}

func wantClosed(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, device.ErrClosed) {
		t.Errorf("%s: %v, want ErrClosed", what, err)
	}
}
