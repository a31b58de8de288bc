package perplexity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"kigo/engine/convert"
	"kigo/engine/device"
	"kigo/engine/device/devices"
	"kigo/engine/device/scripted"
	"kigo/engine/gguf"
	"kigo/engine/load"
	"kigo/engine/model"
	"kigo/engine/quant"
	"kigo/engine/sample"
	"kigo/engine/synth"
	"kigo/engine/testenv"
	"kigo/engine/tokenizer"
)

// synthetic writes a tiny model in memory.
func synthetic(t *testing.T, shape, format string, seed uint64) []byte {
	t.Helper()
	s, err := synth.ShapeByName(shape)
	if err != nil {
		t.Fatal(err)
	}
	return ofShape(t, s, format, seed)
}

func ofShape(t *testing.T, s synth.Shape, format string, seed uint64) []byte {
	t.Helper()
	formats, err := synth.FormatsByName(format)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := synth.Write(t.Context(), &b, s, formats, seed); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// patched has other bytes from a place after a text on.
func patched(t *testing.T, raw []byte, after string, skip int, bytes ...byte) []byte {
	t.Helper()
	at := strings.Index(string(raw), after)
	if at < 0 {
		t.Fatalf("%q is not in the file", after)
	}
	raw = slices.Clone(raw)
	copy(raw[at+len(after)+skip:], bytes)
	return raw
}

// converted is the file in another format.
func converted(t *testing.T, raw []byte, format string) []byte {
	t.Helper()
	f, err := quant.ByName(format)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := convert.Convert(t.Context(), bytes.NewReader(raw), int64(len(raw)), &out, f, nil); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// startingWithBOS makes the file say that texts begin with BOS.
func startingWithBOS(t *testing.T, raw []byte) []byte {
	return patched(t, raw, "tokenizer.ggml.add_bos_token", 4, 1)
}

// inFile opens a model that is written to a file first.
func inFile(t *testing.T, raw []byte) Model {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.gguf")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return openModel(t, path)
}

func openModel(t *testing.T, path string) Model {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	header, err := gguf.Parse(f, info.Size(), gguf.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return Model{File: header, Data: f, Device: testenv.Device(t)}
}

// text is 300 tokens or so of the synthetic vocabulary.
var text = []byte(strings.Repeat("the other one reads on; 42 rings, naïve\x00\xff\n", 8))

// oracle predicts every token of each chunk in the plainest way: a whole chunk in
// one step, and probabilities, not logarithms. It gives the counted tokens'
// probabilities and the whole distributions that they are from.
func oracle(t *testing.T, m Model, context, chunks int, bos bool) (probability []float64, all [][]float64) {
	t.Helper()
	spec, err := model.NewSpec(m.File)
	if err != nil {
		t.Fatal(err)
	}
	b, err := model.Bind(spec, m.File)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.FromGGUF(m.File)
	if err != nil {
		t.Fatal(err)
	}
	var tokens []int32
	first, _ := tok.BOS()
	if bos {
		tokens = []int32{first}
	}
	tokens = append(tokens, tok.Encode(text, tokenizer.EncodeOptions{})...)
	dev := testenv.Open(t)
	w, err := load.Weights(t.Context(), dev, b, m.Data, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	p := model.Record(spec, b)
	shape := p.Cache
	shape.BlockSize = blockTokens
	blocks := make([]int32, (context+blockTokens-1)/blockTokens)
	for i := range blocks {
		blocks[i] = int32(len(blocks) - 1 - i)
	}
	cache, err := device.WholeCache(dev, shape, len(blocks))
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	x, err := dev.Compile(p, w, cache, device.CompileOptions{MaxRows: context})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	for c := range chunks {
		chunk := tokens[c*context : (c+1)*context]
		step := device.Step{Tokens: slices.Clone(chunk), Seqs: []device.SeqRows{{Rows: context, Blocks: blocks}}}
		if bos {
			step.Tokens[0] = first
		}
		for i := range context {
			step.Logits = append(step.Logits, i)
		}
		logits, err := x.Run(&step)
		if err != nil {
			t.Fatal(err)
		}
		for i := context / 2; i < context-1; i++ {
			row := make([]float64, p.Vocab)
			sum := 0.0
			for j := range row {
				row[j] = math.Exp(float64(logits[i*p.Vocab+j]))
				sum += row[j]
			}
			for j := range row {
				row[j] /= sum
			}
			probability = append(probability, row[chunk[i+1]])
			all = append(all, row)
		}
	}
	return probability, all
}

func TestAgainstThePlainestWay(t *testing.T) {
	const context, chunks = 48, 5
	a := synthetic(t, "tiny", "f16", 1)
	b := converted(t, a, "q4_0")
	for _, bos := range []bool{false, true} {
		t.Run(fmt.Sprintf("bos=%v", bos), func(t *testing.T) {
			if bos {
				a, b = startingWithBOS(t, a), startingWithBOS(t, b)
			}
			own, base := inFile(t, a), inFile(t, b)
			r, err := Run(t.Context(), Options{Model: own, Base: &base, Text: text, Context: context, Chunks: chunks})
			if err != nil {
				t.Fatal(err)
			}
			p, all := oracle(t, own, context, chunks, bos)
			q, allBase := oracle(t, base, context, chunks, bos)
			var nll, nllBase, kl, squares, running, same float64
			var kls []float64
			for i := range p {
				nll -= math.Log(p[i])
				nllBase -= math.Log(q[i])
				squares += (p[i] - q[i]) * (p[i] - q[i])
				one, best, bestBase := 0.0, 0, 0
				for j := range all[i] {
					one += allBase[i][j] * math.Log(allBase[i][j]/all[i][j])
					if all[i][j] > all[i][best] {
						best = j
					}
					if allBase[i][j] > allBase[i][bestBase] {
						bestBase = j
					}
				}
				kl += one
				kls = append(kls, one)
				if best == bestBase {
					same++
				}
				if i+1 == len(p)/chunks {
					running = math.Exp(nll / float64(i+1))
				}
			}
			n := float64(len(p))
			d := r.Divergence
			if r.Counted != len(p) || r.Chunks != chunks || len(r.Running) != chunks || r.Running[chunks-1] != r.Perplexity.Value {
				t.Errorf("%+v", r)
			}
			for name, c := range map[string]struct{ got, want float64 }{
				"perplexity":    {r.Perplexity.Value, math.Exp(nll / n)},
				"first chunk":   {r.Running[0], running},
				"base":          {d.BasePerplexity.Value, math.Exp(nllBase / n)},
				"ratio":         {d.Ratio.Value, math.Exp((nll - nllBase) / n)},
				"KL divergence": {d.KL.Value, kl / n},
				"largest":       {d.Max, slices.Max(kls)},
				"RMS":           {d.ProbabilityRMS.Value, math.Sqrt(squares / n)},
				"same top":      {d.SameTop.Value, same / n},
			} {
				if math.Abs(c.got-c.want) > 1e-6*math.Abs(c.want) {
					t.Errorf("%s: %.9g, want %.9g", name, c.got, c.want)
				}
			}
			if d.KL.Value == 0 || d.SameTop.Value == 1 || d.SameTop.Value == 0 {
				t.Errorf("the two models do not differ as they should: %+v", d)
			}
		})
	}
}

// How a chunk is cut into steps changes nothing, to the bit.
func TestStepsDoNotMatter(t *testing.T) {
	own, base := inFile(t, synthetic(t, "tiny-qwen2", "q4_k_m", 1)), inFile(t, synthetic(t, "tiny-qwen2", "f16", 2))
	o := Options{Model: own, Base: &base, Text: text, Context: 50, openDevice: devices.Open}
	want, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var plans []*plan
	for _, m := range []Model{own, base} {
		p, err := newPlan(m, o.Context)
		if err != nil {
			t.Fatal(err)
		}
		plans = append(plans, p)
	}
	for _, rows := range [][2]int{{1, 1}, {7, 3}, {16, 2}} {
		x, err := open(t.Context(), plans, o)
		if err != nil {
			t.Fatal(err)
		}
		x.stepRows, x.logitRows = min(rows[0], x.stepRows), rows[1]
		tokens, chunks, err := cut(plans, o)
		if err != nil {
			t.Fatal(err)
		}
		got, err := x.measure(t.Context(), tokens, chunks, o)
		if err = errors.Join(err, x.close()); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("in steps of %v: %+v, want %+v", rows, got, want)
		}
	}
}

// A model against itself: one device is opened and closed, no difference is found,
// and the estimates that are told on the way end with the report's.
func TestAgainstItself(t *testing.T) {
	m := inFile(t, synthetic(t, "tiny", "f32", 1))
	opened := 0
	var last Progress
	var loaded, total uint64
	o := Options{Model: m, Base: &m, Text: text, Context: 32, Chunks: 3,
		openDevice: func(o devices.Options) (device.Device, error, error) { opened++; return devices.Open(o) },
		Loading:    func(d, all uint64) { loaded, total = d, all },
		Progress: func(p Progress) {
			if p.Tokens <= last.Tokens || p.Total != 3*31 || p.Chunks != 3 || p.Chunk != (p.Tokens-1)/31 {
				t.Errorf("%+v after %+v", p, last)
			}
			last = p
		},
	}
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	d := r.Divergence
	if d.KL.Value != 0 || d.Max != 0 || d.LogRatio != (Estimate{}) || d.SameTop != (Estimate{1, 0}) || d.BasePerplexity != r.Perplexity {
		t.Errorf("%+v", d)
	}
	if opened != 1 || last.Tokens != last.Total || last.Perplexity != r.Perplexity || last.KL != d.KL || loaded != total || total == 0 {
		t.Errorf("%d devices; %+v at the end; %d of %d bytes loaded", opened, last, loaded, total)
	}
	if r.Device.Name == "" || d.Device != r.Device {
		t.Errorf("devices %v and %v", r.Device, d.Device)
	}
}

func TestRefusals(t *testing.T) {
	raw := synthetic(t, "tiny", "q8_0", 1)
	m := inFile(t, raw)
	ok := Options{Model: m, Text: text, Context: 32}
	larger, err := synth.ShapeByName("tiny")
	if err != nil {
		t.Fatal(err)
	}
	larger.Vocab++
	against := func(raw []byte) func(*Options) {
		return func(o *Options) { base := inFile(t, raw); o.Base = &base }
	}
	for name, c := range map[string]struct {
		change func(*Options)
		want   error
		words  string
	}{
		"no text":            {func(o *Options) { o.Text = nil }, ErrText, "0 tokens"},
		"short text":         {func(o *Options) { o.Text = text[:20] }, ErrText, "chunk of 32"},
		"huge text":          {func(o *Options) { o.Text = make([]byte, MaxText+1) }, ErrText, "at most"},
		"too many chunks":    {func(o *Options) { o.Chunks = 1000 }, ErrText, "not 1000"},
		"negative chunks":    {func(o *Options) { o.Chunks = -1 }, ErrText, "-1"},
		"tiny context":       {func(o *Options) { o.Context = 3 }, ErrContext, "want 4"},
		"negative context":   {func(o *Options) { o.Context = -1 }, ErrContext, "want 4"},
		"endless context":    {func(o *Options) { o.Context = maxContext + 1 }, ErrContext, "want 4"},
		"beyond the model's": {func(o *Options) { o.Context = 513 }, ErrContext, "made for 512"},
		"other size":         {against(ofShape(t, larger, "q8_0", 1)), ErrVocabulary, "321"},
		"other token":        {against(patched(t, raw, "w300", -2, 'x')), ErrVocabulary, "token 300"},
		"other beginning":    {against(startingWithBOS(t, raw)), ErrVocabulary, "begin"},
		"other merges":       {against(patched(t, raw, "t h", -3, []byte("h e\x03\x00\x00\x00\x00\x00\x00\x00t h")...)), ErrVocabulary, "other tokens"},
		"no such device":     {func(o *Options) { o.Model.Device = "abacus" }, nil, "abacus"},
	} {
		t.Run(name, func(t *testing.T) {
			o := ok
			c.change(&o)
			_, err := Run(t.Context(), o)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v, want %v with %q", err, c.want, c.words)
			}
		})
	}
}

// What a model's arithmetic makes of broken weights is an error with a place.
func TestBrokenWeights(t *testing.T) {
	raw := synthetic(t, "tiny", "f32", 1)
	good := inFile(t, raw)
	x, ok := good.File.Tensor("output_norm.weight")
	if !ok {
		t.Fatal("no such tensor")
	}
	copy(raw[x.Offset:], []byte{0, 0, 0xc0, 0x7f}) // NaN
	bad := inFile(t, raw)
	for name, o := range map[string]Options{
		"the model": {Model: bad},
		"the base":  {Model: good, Base: &bad},
	} {
		o.Text, o.Context = text, 32
		_, err := Run(t.Context(), o)
		if !errors.Is(err, sample.ErrNaN) || !strings.Contains(err.Error(), "chunk 1: position 16") || strings.Contains(err.Error(), "the base") != (name == "the base") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Cancelling ends the measurement before the next step, and nothing is told any
// more.
func TestCancel(t *testing.T) {
	m := inFile(t, synthetic(t, "tiny", "q8_0", 1))
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	_, err := Run(ctx, Options{Model: m, Text: text, Context: 32, Progress: func(Progress) {
		if calls++; calls == 3 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || calls != 3 {
		t.Errorf("%v after %d steps", err, calls)
	}
}

// onCPU opens the CPU with a script before it.
func onCPU(t *testing.T, script func(call string, n int) error) (open func(devices.Options) (device.Device, error, error), calls func() map[string]int) {
	cpu, _, err := devices.Open(devices.Options{Name: "cpu", Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cpu.Close() })
	d := scripted.New(cpu, script)
	return func(devices.Options) (device.Device, error, error) { return d, nil, nil }, d.Calls
}

// Wherever a device fails, the error is its own. On one that still works everything
// is given back; on one that does not, nothing is called any more.
func TestFailingDevices(t *testing.T) {
	m := inFile(t, synthetic(t, "tiny", "q8_0", 1))
	base := inFile(t, synthetic(t, "tiny", "q4_0", 1))
	for _, failing := range []struct {
		call string
		n    int
	}{{"NewWeights", 0}, {"NewWeights", 1}, {"Buffer", 3}, {"Hash", 2}, {"NewCache", 1}, {"Compile", 1}, {"Run", 0}, {"Run", 7}} {
		for _, failure := range []error{device.ErrOutOfMemory, device.ErrLost} {
			t.Run(fmt.Sprintf("%s %d %v", failing.call, failing.n, failure), func(t *testing.T) {
				open, calls := onCPU(t, func(call string, n int) error {
					if call == failing.call && n == failing.n {
						return failure
					}
					return nil
				})
				_, err := Run(t.Context(), Options{Model: m, Base: &base, Text: text, Context: 32, openDevice: open})
				if !errors.Is(err, failure) {
					t.Fatal(err)
				}
				if closed := calls()["Close"]; (closed == 0) != (failure == device.ErrLost) {
					t.Errorf("closed %d objects", closed)
				}
			})
		}
	}
}

// full is a device with next to no memory left.
type full struct{ device.Device }

func (f full) Info() device.Info {
	info := f.Device.Info()
	info.MemoryFree = 100_000
	return info
}

func TestWhatDoesNotFitIsRefusedFirst(t *testing.T) {
	m := inFile(t, synthetic(t, "tiny", "f32", 1))
	open, calls := onCPU(t, func(string, int) error { return nil })
	_, err := Run(t.Context(), Options{Model: m, Text: text, openDevice: func(o devices.Options) (device.Device, error, error) {
		d, _, err := open(o)
		return full{d}, nil, err
	}, Context: 32})
	if !errors.Is(err, device.ErrOutOfMemory) || !strings.Contains(err.Error(), "100000 are free") || calls()["NewWeights"] != 0 {
		t.Errorf("%v, calls %v", err, calls())
	}
}

// The memory for logits is bounded, whatever the vocabulary: 64 MiB for all models
// together.
func TestLogitsAreBounded(t *testing.T) {
	s, err := synth.ShapeByName("tiny")
	if err != nil {
		t.Fatal(err)
	}
	s.Vocab = 1 << 18
	m := inFile(t, ofShape(t, s, "q4_0", 1))
	p, err := newPlan(m, 512)
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 2; n++ {
		x, err := open(t.Context(), []*plan{p, p}[:n], Options{Context: 512, openDevice: devices.Open})
		if err != nil {
			t.Fatal(err)
		}
		if x.logitRows != 64/n {
			t.Errorf("%d models: logits of %d rows at a time, want %d", n, x.logitRows, 64/n)
		}
		if err := x.close(); err != nil {
			t.Fatal(err)
		}
	}
}
