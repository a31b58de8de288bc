package cuda

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"kigo/engine/device"
	"kigo/engine/device/cuda/driver"
	"kigo/engine/device/cuda/driver/fakedriver"
	"kigo/engine/quant"
	"kigo/kernels"
)

// fakeMemory is the device memory of the fake, in bytes; a measurement takes a
// quarter of it.
const fakeMemory = 64 << 20

// onFake opens a device on a fake driver, whose kernels do nothing but those that
// are given.
func onFake(t *testing.T, cfg Config, real ...fakedriver.Kernel) (*Device, *fakedriver.Driver) {
	t.Helper()
	return onFakeWith(t, cfg, fakeMemory, real...)
}

// onFakeWith is onFake with so many bytes of memory.
func onFakeWith(t *testing.T, cfg Config, memory uint64, real ...fakedriver.Kernel) (*Device, *fakedriver.Driver) {
	t.Helper()
	f := fakedriver.New(fakedriver.Config{Properties: driver.Properties{TotalMem: memory}})
	for _, family := range kernels.Families() {
		for _, k := range kernels.Kernels(family) {
			f.Register(fakedriver.Kernel{Name: k.Name, ParamBytes: k.Size, Run: func(driver.Launch, unsafe.Pointer, fakedriver.Memory) error { return nil }})
		}
	}
	f.Register(real...)
	d, err := open(cfg, f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if err := f.Check(); err != nil {
			t.Error(err)
		}
	})
	return d, f
}

// On the fake each piece of work takes a microsecond.
func TestMeter(t *testing.T) {
	launched := map[string]int{}
	count := func(i instruction) fakedriver.Kernel {
		return fakedriver.Typed(i.kernel, func(l driver.Launch, p *kernels.RateParams, mem fakedriver.Memory) error {
			launched[i.kernel]++
			threads := l.Grid[0] * l.Block[0]
			_, err := fakedriver.Slice[float32](mem, driver.Ptr(p.Out), int(threads))
			if p.Rounds != i.rounds || err != nil {
				t.Errorf("%d rounds, %v", p.Rounds, err)
			}
			return err
		})
	}
	d, f := onFake(t, Config{}, count(instructions[0]), count(instructions[1]))
	if d.code.kernels["rate_mma"] != nil {
		t.Error("a start loads the kernels that measure")
	}
	// Blocks of 8 warps, or two groups of 4; 8 blocks on each of 132
	// multiprocessors, as 32 registers allow.
	mma, wgmma := 132*8*8*32768*8*4096.0, 132*8*2*4096*8*262144.0
	for _, test := range []struct {
		name    string
		measure func(context.Context) (device.Rate, error)
		want    float64
	}{
		{"copy", d.CopyRate, 2 * (fakeMemory / 4) / 1e-6},
		{"upload", d.UploadRate, (fakeMemory / 4) / 1e-6},
		{"matrix", d.MatrixRate, max(mma, wgmma) / 1e-6},
	} {
		r, err := test.measure(t.Context())
		if err != nil || r.PerSecond < test.want*0.999 || r.PerSecond > test.want*1.001 || r.Method == "" {
			t.Errorf("%s: %+v, %v; want %g a second", test.name, r, err, test.want)
		}
		if f.Used() != 0 {
			t.Errorf("%s leaves %d bytes", test.name, f.Used())
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := test.measure(ended); !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a cancelled context: %v", test.name, err)
		}
	}
	if launched["rate_mma"] != meterPasses+1 || launched["rate_wgmma"] != meterPasses+1 {
		t.Errorf("launches: %v", launched)
	}
}

// An A100 has no wgmma, and its machine code no such kernel.
func TestMeterOnOlderGPU(t *testing.T) {
	d, f := onFake(t, Config{})
	d.props.Major = 8
	f.TakeCalls()
	r, err := d.MatrixRate(t.Context())
	if err != nil || !strings.Contains(r.Method, "mma.sync") {
		t.Errorf("%+v, %v", r, err)
	}
	if slices.Contains(f.TakeCalls(), "Launch rate_wgmma") {
		t.Error("rate_wgmma was launched")
	}
}

func TestMeterWithoutRoom(t *testing.T) {
	d, _ := onFake(t, Config{})
	b := takeAllBut(t, d, 1<<20)
	defer giveBack(t, d, b)
	for name, measure := range map[string]func(context.Context) (device.Rate, error){"copy": d.CopyRate, "upload": d.UploadRate} {
		if _, err := measure(t.Context()); !errors.Is(err, device.ErrOutOfMemory) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func takeAllBut(t *testing.T, d *Device, left uint64) buffer {
	t.Helper()
	unbind, err := d.bind()
	if err != nil {
		t.Fatal(err)
	}
	defer unbind()
	b, err := d.allocate(fakeMemory-left, "all")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func giveBack(t *testing.T, d *Device, b buffer) {
	t.Helper()
	unbind, err := d.bind()
	if err != nil {
		t.Fatal(err)
	}
	defer unbind()
	if err := d.release(&b); err != nil {
		t.Error(err)
	}
}

// Whatever fails, nothing is left behind (onFake looks), and the error says what.
func TestMeterFails(t *testing.T) {
	d, f := onFake(t, Config{})
	b := takeAllBut(t, d, 8<<20) // small copies: there are many
	defer giveBack(t, d, b)
	for _, call := range []string{"MemInfo", "Alloc", "HostAlloc", "CopyToDevice", "CopyOnDevice", "LoadModule", "Function", "Occupancy", "Launch", "NewStream", "NewEvent", "Record", "SyncStream", "Elapsed"} {
		f.FailAt(call, 1, driver.CodeOutOfMemory)
		failed := 0
		for _, measure := range []func(context.Context) (device.Rate, error){d.CopyRate, d.UploadRate, d.MatrixRate} {
			if _, err := measure(t.Context()); err != nil {
				failed++
				if !errors.Is(err, device.ErrOutOfMemory) {
					t.Errorf("%s: %v", call, err)
				}
			}
		}
		if failed != 1 {
			t.Errorf("%s: %d measurements failed", call, failed)
		}
	}
}

// smallModel is one layer with everything that a step has.
func smallModel(t *testing.T, d *Device) (*executable, func()) {
	t.Helper()
	format := func(typ quant.Type) *quant.Format {
		f, err := quant.Lookup(typ)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	p := &device.Program{
		Tensors: []device.Tensor{
			{Name: "table", Format: format(quant.F16), Rows: 32, Cols: 64},
			{Name: "qkv", Format: format(quant.Q8_0), Rows: 64, Cols: 64},
		},
		Cache: device.CacheShape{Layers: 2, KVHeads: 2, HeadDim: 32},
		Vocab: 32,
	}
	value := func(stage string) device.Value {
		p.Values = append(p.Values, device.ValueInfo{Stage: stage, Width: 64})
		return device.Value(len(p.Values) - 1)
	}
	x := value("embed")
	p.Ops = append(p.Ops, &device.Embed{Table: 0, Out: x})
	for layer := range 2 {
		name := []string{"blk.0.", "blk.1."}[layer]
		q, k, v := value(name+"q"), value(name+"k"), value(name+"v")
		qr, kr, out := value(name+"q_rope"), value(name+"k_rope"), value(name+"attn")
		project := &device.Project{In: x, Residual: device.NoValue}
		for _, o := range []device.Value{q, k, v} {
			project.Mats = append(project.Mats, device.Matrix{Weight: 1, Bias: device.NoTensor, Out: o})
		}
		p.Ops = append(p.Ops, project,
			&device.Rope{Layer: layer, Q: q, K: k, V: v, QOut: qr, KOut: kr, Heads: 2, KVHeads: 2, HeadDim: 32, Dims: 32, Base: 1e4, Scale: 1, Factors: device.NoTensor},
			&device.Attend{Layer: layer, Q: qr, Out: out, Heads: 2, KVHeads: 2, HeadDim: 32, Scale: 1})
		x = out
	}
	p.Ops = append(p.Ops, &device.Logits{In: x, Weight: 0, Stage: "logits"})
	w, err := d.NewWeights(p.Tensors)
	if err != nil {
		t.Fatal(err)
	}
	shape := p.Cache
	shape.BlockSize = 16
	c, err := device.WholeCache(d, shape, 4)
	if err != nil {
		t.Fatal(err)
	}
	e, err := d.Compile(p, w, c, device.CompileOptions{MaxRows: 32})
	if err != nil {
		t.Fatal(err)
	}
	return e.(*executable), func() {
		if err := errors.Join(e.Close(), c.Close(), w.Close()); err != nil {
			t.Error(err)
		}
	}
}

func TestProfile(t *testing.T) {
	d, f := onFake(t, Config{})
	x, closeAll := smallModel(t, d)
	defer closeAll()
	var profiler device.Profiler = x
	for _, test := range []struct {
		name string
		step device.Step
	}{
		{"decode", device.Step{Tokens: []int32{1}, Seqs: []device.SeqRows{{Rows: 1, Start: 40, Blocks: []int32{0, 1, 2}}}, Logits: []int{0}}},
		{"prefill", device.Step{Tokens: make([]int32, 20), Seqs: []device.SeqRows{{Rows: 20, Start: 10, Blocks: []int32{0, 1}}}, Logits: []int{19}}},
	} {
		f.TakeCalls()
		parts, err := profiler.Profile(&test.step, 5)
		if err != nil {
			t.Fatal(err)
		}
		graphs := captured(f.TakeCalls())
		if len(graphs) != len(parts) || graphs[0] != "embed " {
			t.Errorf("%s: %d parts, captured %q", test.name, len(parts), graphs)
		}
		// One row is rotated by its attention.
		if i := slices.Index(graphs, ""); i >= 0 && !(test.name == "decode" && parts[i].Name == "q_rope") {
			t.Errorf("%s: nothing captured of %s", test.name, parts[i].Name)
		}
		var got []string
		seen := make([]bool, len(x.prog.Ops))
		for _, p := range parts {
			got = append(got, p.Name)
			for _, i := range p.Ops {
				if seen[i] {
					t.Errorf("%s: operator %d counts twice", test.name, i)
				}
				seen[i] = true
			}
			if p.Time != time.Microsecond { // a graph is one piece of work
				t.Errorf("%s: %s takes %v", test.name, p.Name, p.Time)
			}
		}
		if s := strings.Join(got, ", "); s != "embed, q, q_rope, attn, logits" {
			t.Errorf("%s: parts %s", test.name, s)
		}
		if slices.Contains(seen, false) {
			t.Errorf("%s: not all operators are in it: %v", test.name, seen)
		}
		// Afterwards steps run as before.
		if _, err := x.Run(&test.step); err != nil {
			t.Error(err)
		}
	}
	bad := &device.Step{Tokens: []int32{99}, Seqs: []device.SeqRows{{Rows: 1, Blocks: []int32{0}}}, Logits: []int{0}}
	if _, err := profiler.Profile(bad, 5); !errors.Is(err, device.ErrBadStep) {
		t.Errorf("a bad step: %v", err)
	}
	if _, err := profiler.Profile(bad, 0); err == nil {
		t.Error("0 times were taken")
	}
}

// captured lists the kernels of each capture.
func captured(calls []string) (graphs []string) {
	in := false
	for _, c := range calls {
		switch {
		case c == "BeginCapture":
			in = true
			graphs = append(graphs, "")
		case c == "EndCapture":
			in = false
		case in && strings.HasPrefix(c, "Launch "):
			graphs[len(graphs)-1] += strings.TrimPrefix(c, "Launch ") + " "
		}
	}
	return graphs
}

func TestProfileWithChecks(t *testing.T) {
	d, _ := onFake(t, Config{Checks: true})
	x, closeAll := smallModel(t, d)
	defer closeAll()
	step := &device.Step{Tokens: []int32{1}, Seqs: []device.SeqRows{{Rows: 1, Blocks: []int32{0}}}, Logits: []int{0}}
	if _, err := x.Profile(step, 5); !errors.Is(err, device.ErrNotSupported) {
		t.Error(err)
	}
}

func TestDriverVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "version")
	for _, test := range []struct{ text, want string }{
		{"580.95.05\n", "580.95.05"},
		{"", ""},
		{"no version\x1b[2J", ""},
		{strings.Repeat("1", 1000), strings.Repeat("1", 64)},
	} {
		if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := moduleVersion(path); got != test.want {
			t.Errorf("%.20q: %q, want %q", test.text, got, test.want)
		}
	}
	if got := moduleVersion(path + "none"); got != "" {
		t.Errorf("no file: %q", got)
	}
	if got := driverVersion(13000); !strings.HasSuffix(got, "CUDA 13.0") {
		t.Error(got)
	}
}
