package verify_test

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"kigo/engine/convert"
	"kigo/engine/device"
	"kigo/engine/device/cpu"
	"kigo/engine/load"
	"kigo/engine/model"
	"kigo/engine/quant"
	"kigo/engine/testenv"
)

// teacherForced is a golden file: what llama.cpp continued prompts with, and
// the logits that it and torch had; testdata/golden/README.md has the details.
type teacherForced struct {
	LlamaError struct{ RMS, Max float64 } `json:"llama_error"`
	Prompts    []struct {
		Name        string       `json:"name"`
		Prompt      []int32      `json:"prompt"`
		Generated   []int32      `json:"generated"`
		Best        [][2]float64 `json:"best"` // llama.cpp's two best logits
		TorchArgmax []int32      `json:"torch_argmax"`
		TorchMargin []float64    `json:"torch_margin"` // between torch's two best
		Detail      []struct {
			At    int       `json:"at"`
			IDs   []int32   `json:"ids"`
			Torch []float64 `json:"torch"` // of IDs, then of the file's FixedIDs
		} `json:"detail"`
	} `json:"prompts"`
	FixedIDs []int32 `json:"fixed_ids"`
}

// llama.cpp's tokens are fed and every position is compared, so that one
// near-tie does not spoil what follows. The full sizes are 20 prompts of 64
// tokens for each model.
func TestTeacherForced(t *testing.T) {
	for _, tc := range []struct {
		golden    string
		model     func(t *testing.T) string
		prompts   []int // of the golden file's 20, in make test
		positions int   // of each prompt's 64, in make test
	}{
		{"smollm2", func(t *testing.T) string { return testenv.Model(t, models["smollm2"]) }, []int{0, 9, 10, 17}, 64},
		{"qwen2", func(t *testing.T) string { return testenv.Model(t, models["qwen2"]) }, []int{10}, 32},
		{"qwen2-f16", convertedQwen2, []int{10}, 8},
	} {
		t.Run(tc.golden, func(t *testing.T) {
			raw, err := os.ReadFile(filepath.Join("..", "testdata", "golden", "teacher-forced-"+tc.golden+".json"))
			if err != nil {
				t.Fatal(err)
			}
			var g teacherForced
			if err := json.Unmarshal(raw, &g); err != nil {
				t.Fatal(err)
			}
			f := newForcer(t, tc.model(t), "")
			if testenv.Long() || testenv.OnGPU() { // where they take seconds
				f.compare(t, &g, nil, 64)
			} else {
				f.compare(t, &g, tc.prompts, tc.positions)
			}
		})
	}
}

// convertedQwen2 is the predecessor's case: the Qwen2 model as F16.
func convertedQwen2(t *testing.T) string {
	t.Helper()
	in, err := os.Open(testenv.Model(t, models["qwen2"]))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "qwen2-f16.gguf")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	f16, err := quant.ByName("F16")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := convert.Convert(t.Context(), in, info.Size(), out, f16, nil); err != nil {
		t.Fatal(err)
	}
	return path
}

// forcer runs whole sequences on the served path.
type forcer struct {
	exec  device.Executable
	vocab int
}

const (
	forcedRows  = 160 // of a step
	forcedBlock = 16  // tokens in a KV block
	forcedSeqs  = 8   // sequences that there is room for, of four times forcedRows each
)

// blocks is the sequence's table of KV blocks, in no order that could come about by
// chance.
func blocks() []int32 {
	table := make([]int32, forcedRows/forcedBlock)
	for i := range table {
		table[i] = int32(len(table) - 1 - i)
	}
	return table
}

// newForcer loads a model on the CPU path of that name; empty: on the tests' device.
func newForcer(t testing.TB, path, cpuPath string) *forcer {
	t.Helper()
	g, file := openPath(t, path)
	spec, err := model.NewSpec(g)
	if err != nil {
		t.Fatal(err)
	}
	b, err := model.Bind(spec, g)
	if err != nil {
		t.Fatal(err)
	}
	var dev device.Device
	if cpuPath == "" {
		dev = testenv.Open(t)
	} else {
		if dev, err = cpu.New(cpu.Config{Path: cpuPath}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { dev.Close() })
	}
	w, err := dev.NewWeights(b.Tensors)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	if _, err := load.Read(t.Context(), file, load.Sources(b), w, nil); err != nil {
		t.Fatal(err)
	}
	p := model.Record(spec, b)
	shape := p.Cache
	shape.BlockSize = forcedBlock
	c, err := device.WholeCache(dev, shape, forcedSeqs*4*forcedRows/forcedBlock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	x, err := dev.Compile(p, w, c, device.CompileOptions{MaxRows: forcedRows})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	return &forcer{exec: x, vocab: spec.Vocab}
}

// All paths of the CPU give the same bits: what holds of one holds of all.
func TestPathsGiveTheSameLogits(t *testing.T) {
	paths := cpu.Paths()
	for _, name := range []string{"smollm2", "qwen2"} {
		t.Run(name, func(t *testing.T) {
			step := &device.Step{Seqs: []device.SeqRows{{Rows: 11, Blocks: []int32{0}}}, Logits: []int{0, 5, 10}}
			for i := range 11 {
				step.Tokens = append(step.Tokens, int32(i*i*31+7))
			}
			var want []float32
			for _, path := range paths {
				f := newForcer(t, testenv.Model(t, models[name]), path)
				got, err := f.exec.Run(step)
				if err != nil {
					t.Fatal(err)
				}
				if want == nil {
					want = slices.Clone(got)
				} else if !slices.Equal(got, want) {
					t.Errorf("%s gives other logits than %s", path, paths[0])
				}
			}
		})
	}
}

// noise is the margin between the two best logits below which either may win.
// llama.cpp quantizes activations to 8 bits, and is off from torch by more than
// that itself; so a position counts as decided when both engines choose the
// same token, each by a margin above the noise. At most one in twenty may be
// undecided.
//
// The CPU's logits are off from torch's by 0.005 at most; four times that is a safe
// distance. On a GPU, whose activations are float16, they are off by 0.007 (root
// mean square; SmolLM2, the worst of the three), so the difference of two by 0.01;
// the distance is five times that.
const (
	cpuNoise      = 0.02
	gpuNoise      = 0.05
	mostUndecided = 0.05
)

func noise() float64 {
	if testenv.OnGPU() {
		return gpuNoise
	}
	return cpuNoise
}

// compare feeds prompts (nil: all) with their continuation, up to so many
// positions of it.
func (f *forcer) compare(t *testing.T, g *teacherForced, prompts []int, length int) {
	var positions, undecided, details int
	var sum2, most float64
	for i := range g.Prompts {
		p := &g.Prompts[i]
		if prompts != nil && !slices.Contains(prompts, i) {
			continue
		}
		tokens := append(slices.Clone(p.Prompt), p.Generated[:length-1]...)
		step := device.Step{Tokens: tokens, Seqs: []device.SeqRows{{Rows: len(tokens), Blocks: blocks()}}}
		for r := len(p.Prompt) - 1; r < len(tokens); r++ {
			step.Logits = append(step.Logits, r)
		}
		logits, err := f.exec.Run(&step)
		if err != nil {
			t.Fatal(err)
		}
		row := func(i int) []float32 { return logits[i*f.vocab : (i+1)*f.vocab] }
		if testenv.OnGPU() {
			logits = slices.Clone(logits)
			f.again(t, p.Name, &step, row)
		}
		for at, want := range p.Generated[:length] {
			positions++
			margin := min(p.Best[at][0]-p.Best[at][1], p.TorchMargin[at])
			if p.TorchArgmax[at] != want || margin < noise() {
				undecided++
			} else if got := argmax(row(at)); got != want {
				t.Errorf("%s, position %d: token %d, want %d (margin %.3f)", p.Name, at, got, want, margin)
			}
		}
		for _, d := range p.Detail {
			if d.At >= length {
				continue
			}
			ids := append(slices.Clone(d.IDs), g.FixedIDs...)
			for j, want := range d.Torch {
				e := math.Abs(float64(row(d.At)[ids[j]]) - want)
				sum2, most, details = sum2+e*e, max(most, e), details+1
			}
		}
	}
	rms, share := math.Sqrt(sum2/float64(details)), float64(undecided)/float64(positions)
	if share > mostUndecided {
		t.Errorf("%.1f %% of the positions are undecided, at most %.0f %%", 100*share, 100*mostUndecided)
	}
	if rms > 1.25*g.LlamaError.RMS || most > 1.25*g.LlamaError.Max {
		t.Errorf("error against torch: RMS %.4f, largest %.4f, more than 1.25 times llama.cpp's", rms, most)
	}
	t.Logf("%d positions, %.1f %% undecided; against torch: RMS error %.4f (llama.cpp %.4f), largest %.3f (%.3f)",
		positions, 100*share, rms, g.LlamaError.RMS, most, g.LlamaError.Max)
}

// again feeds the tokens from the first compared one on, one by one, as they are
// when they are generated: with other kernels and as recorded steps. Every logit
// must have the same bits.
func (f *forcer) again(t *testing.T, name string, whole *device.Step, row func(int) []float32) {
	t.Helper()
	for i, at := range whole.Logits {
		one := device.Step{Tokens: whole.Tokens[at : at+1], Seqs: []device.SeqRows{{Rows: 1, Start: at, Blocks: blocks()}}, Logits: []int{0}}
		got, err := f.exec.Run(&one)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, row(i)) {
			t.Errorf("%s, position %d: other logits token by token than as one prompt", name, i)
			return
		}
	}
}

func argmax(v []float32) int32 {
	best := 0
	for i, x := range v {
		if x > v[best] {
			best = i
		}
	}
	return int32(best)
}
