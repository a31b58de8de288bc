package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"kigo/engine"
	"kigo/engine/device"
	"kigo/engine/device/cpu"
	"kigo/engine/synth"
	"kigo/engine/testenv"
)

// tinyModel is a file of random weights with a context of 512.
func tinyModel(t *testing.T) *os.File {
	t.Helper()
	s, err := synth.ShapeByName("tiny")
	if err != nil {
		t.Fatal(err)
	}
	formats, err := synth.FormatsByName("q8_0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "tiny.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := synth.Write(t.Context(), f, s, formats, 1); err != nil {
		t.Fatal(err)
	}
	return f
}

// measured is a device whose capabilities and times are made up; all else is the
// processor's.
type measured struct {
	*cpu.Device
	rate func(what string) (device.Rate, error)
}

func (d *measured) CopyRate(context.Context) (device.Rate, error)   { return d.rate("copy") }
func (d *measured) UploadRate(context.Context) (device.Rate, error) { return d.rate("upload") }
func (d *measured) MatrixRate(context.Context) (device.Rate, error) { return d.rate("matrix") }

func (d *measured) Compile(p *device.Program, w device.Weights, c device.Cache, o device.CompileOptions) (device.Executable, error) {
	x, err := d.Device.Compile(p, w, c, o)
	return &profiled{x, p}, err
}

// profiled takes each operator for one that takes a millisecond.
type profiled struct {
	device.Executable
	p *device.Program
}

func (x *profiled) Profile(step *device.Step, times int) ([]device.PartTime, error) {
	if _, err := x.Run(step); err != nil {
		return nil, err
	}
	var parts []device.PartTime
	for i, op := range x.p.Ops {
		name := strings.TrimPrefix(fmt.Sprintf("%T", op), "*device.")
		at := slices.IndexFunc(parts, func(p device.PartTime) bool { return p.Name == name })
		if at < 0 {
			at = len(parts)
			parts = append(parts, device.PartTime{Name: name})
		}
		parts[at].Ops = append(parts[at].Ops, i)
		parts[at].Time += time.Millisecond
	}
	return parts, nil
}

func on(rate func(what string) (device.Rate, error)) func() (device.Device, error) {
	return func() (device.Device, error) {
		d, err := cpu.New(cpu.Config{Threads: 1})
		return &measured{d, rate}, err
	}
}

func names(rows []Row) string {
	var all []string
	for _, r := range rows {
		all = append(all, r.Name+" "+r.Unit)
	}
	return strings.Join(all, ", ")
}

// Streams generate from the same length on: the second time all but the last block of each
// prompt is in the cache, the first time nothing is.
func TestStreamsFindTheirPrompts(t *testing.T) {
	b := &bencher{report: &Report{}, Options: Options{
		File: tinyModel(t), Device: testenv.Device(t), Threads: 1, Runs: 2, Generate: 20, Streams: []int{5},
		Progress: func(string) {},
	}}
	if err := b.readHeader(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.engine.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, measure := range []func(context.Context) error{b.loads, b.tokenizer, b.streams} {
		if err := measure(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	const block, first = 16, 5 * 2 // prompts of both runs
	queries, hits := b.engine.Stats().PrefixQueries.Load()/streamPrompt, b.engine.Stats().PrefixHits.Load()
	if queries < 2*first || hits != (queries-first)*(streamPrompt-block) {
		t.Errorf("%d tokens of %d prompts were found", hits, queries)
	}
}

// Many streams at one time: two rates of each number, of which the one while all
// generate is counted from the last one's first token on.
func TestStreams(t *testing.T) {
	r, err := Run(t.Context(), Options{
		File: tinyModel(t), Device: testenv.Device(t), Threads: 1, Runs: 2, Generate: 20, Streams: []int{5, 1, 5},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := names(r.Rows)
	want := "streams 1: generating tokens/s, streams 1: in all tokens/s, streams 5: generating tokens/s, streams 5: in all tokens/s"
	if !strings.Contains(got, want) {
		t.Errorf("rows %s", got)
	}
	for _, row := range r.Rows {
		if strings.HasPrefix(row.Name, "streams") && (!(row.Min > 0) || row.Runs != 2) {
			t.Errorf("row %+v", row)
		}
	}
	o := Options{Runs: 1, Generate: 1, Streams: []int{1, 1025}}
	if err := o.Check(); err == nil || !strings.Contains(err.Error(), "streams") {
		t.Errorf("1,025 streams: %v", err)
	}

	// The arithmetic, with times that are known.
	done := 0
	g := &gathering{n: 2, each: 3, begun: time.Now(), only: true, finished: func() { done++ }}
	for _, take := range [][2]int{{0, 1}, {1, 1}, {2, 1}, {0, 1}} { // one has its tokens before the other starts
		g.take(take[0], take[1])
	}
	if g.at != 4 || g.all.IsZero() || g.alone != 0 || done != 0 {
		t.Errorf("after the start: %+v", g)
	}
	for had := 1; had < 7; had++ {
		g.take(had, 1)
	}
	if !(g.alone > 0) || !(g.whole > 0) || done != 1 || g.tokens-g.at != 6 {
		t.Errorf("at the end: %+v", g)
	}
}

// On the tests' real device: every row there, with a limit where it has one.
func TestRun(t *testing.T) {
	var said []string
	r, err := Run(t.Context(), Options{
		File: tinyModel(t), Device: testenv.Device(t), Threads: 2, Version: "v1",
		Runs: 2, Prompts: []int{40, 20, 40, 600}, Contexts: []int{30, 0, 502}, Generate: 10, Profile: !testenv.OnGPU(),
		Progress: func(what string) { said = append(said, what) },
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "open the device ms, load to first token ms, load: parse ms, load: read ms, load: prove ms, load: compile ms, load: first token ms, " +
		"load: read GB/s, load: read and prove GB/s, tokenize MB/s, prefill 20 tokens/s, prefill 40 tokens/s, " +
		"decode 10 at context 0 tokens/s, decode 10 at context 30 tokens/s"
	if got := names(r.Rows); got != want {
		t.Errorf("rows %s", got)
	}
	for _, row := range r.Rows {
		if !(row.Min > 0 && row.Min <= row.Median && row.Median <= row.Max) || row.Runs != 2 {
			t.Errorf("%+v", row)
		}
		limited := row.IsRate() && row.Unit != "MB/s"
		if (row.Limit > 0) != limited || (row.Work != nil) != limited || (row.By != "") != limited {
			t.Errorf("%+v: limited: %t", row, limited)
		}
		if limited && math.Abs(row.Share*row.Limit/row.Median-1) > 1e-9 {
			t.Errorf("%+v: the share is not of the limit", row)
		}
	}
	notes := []string{
		"prefill 600 is left out: it takes 601 tokens, and the context is 512",
		"decode 10 at context 502 is left out: it takes 513 tokens",
	}
	if !testenv.OnGPU() {
		notes = append(notes, "no profile: not on this device")
	}
	for _, n := range notes {
		if !slices.ContainsFunc(r.Notes, func(s string) bool { return strings.HasPrefix(s, n) }) {
			t.Errorf("notes %q lack %q", r.Notes, n)
		}
	}
	if r.Model.Name != "synthetic tiny" || r.Model.Formats != "Q8_0" || r.Model.Context != 512 || r.Model.Bytes == 0 || r.Device.Name == "" {
		t.Errorf("%+v, %+v", r.Model, r.Device)
	}
	if r.Rates == nil || r.Rates.Copy.PerSecond <= 0 || r.Rates.Matrix.Method == "" {
		t.Errorf("rates %+v", r.Rates)
	}
	if len(said) < 10 || said[0] != "load, 1 of 2" {
		t.Errorf("progress %q", said)
	}
	roundTrip(t, r)
}

// roundTrip writes and reads a report, and finds it equal.
func roundTrip(t *testing.T, r *Report) {
	t.Helper()
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	back, err := Read(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back, r) {
		t.Errorf("read back:\n%+v\nwant\n%+v", back, r)
	}
}

// The limits and the profile of a device that is known: 1 GB/s and 1 GFLOP/s.
func TestRunOnKnownDevice(t *testing.T) {
	r, err := Run(t.Context(), Options{
		File: tinyModel(t), on: on(func(string) (device.Rate, error) { return device.Rate{PerSecond: 1e9, Method: "said"}, nil }),
		Runs: 1, Prompts: []int{40}, Contexts: []int{100}, Generate: 4, Profile: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	// Two layers: q 64x64, k and v 32x64, o 64x64, gate and up 96x64, down 64x96.
	// The table is the output matrix, 320x64. F32 norms: five of 64.
	const (
		layers = 2 * (64*64 + 2*32*64 + 64*64 + 3*96*64)
		output = 320 * 64
		token  = 2 * 2 * 2 * 16 * 4 // K and V, layers, heads, elements, float32
	)
	decode := 0.0
	for i := range 4 {
		flops := 2.0*(layers+output) + 4*2*4*16*(100+float64(i)+1)
		bytes := (layers+output+64)*34/32.0 + 5*64*4 + token*(100+float64(i)+1)
		if flops < bytes {
			t.Fatalf("%v FLOPs, %v bytes: the test expects the former to be more", flops, bytes)
		}
		decode += flops
	}
	for _, row := range r.Rows {
		switch row.Name {
		case "decode 4 at context 100":
			if row.Limit != 4/(decode/1e9) || row.By != "FLOPs" {
				t.Errorf("%+v, want a limit of %v", row, 4/(decode/1e9))
			}
		case "prefill 40":
			flops := 2.0*layers*40 + 2*output + 4*2*4*16*(40*41/2)
			if row.Limit != 40/(flops/1e9) || row.By != "FLOPs" {
				t.Errorf("%+v, want a limit of %v", row, 40/(flops/1e9))
			}
		case "load: read":
			if row.Unit == "GB/s" && (row.Limit != 1 || row.By != "link") {
				t.Errorf("%+v", row)
			}
		}
	}
	if len(r.Profiles) != 2 {
		t.Fatalf("%d profiles", len(r.Profiles))
	}
	// The processor's steps have 16 rows at most: the prompt's last ones.
	p := r.Profiles[0]
	if p.Step != "prefill 40" || p.Rows < 1 || p.Start+p.Rows != 40 || len(p.Parts) != 5 {
		t.Errorf("%+v", p)
	}
	p = r.Profiles[1]
	if p.Step != "decode at context 100" || p.Rows != 1 || p.Start != 102 {
		t.Errorf("%+v", p)
	}
	sum := Work{}
	for _, part := range p.Parts {
		sum = sum.plus(part.Work)
		want := map[string]int{"Embed": 1, "Project": 8, "Rope": 2, "Attend": 2, "Logits": 1}[part.Name]
		if part.Count != want || math.Abs(part.Each-1000) > 1e-6 || math.Abs(part.All-1000*float64(want)) > 1e-6 {
			t.Errorf("%+v", part)
		}
		if least := max(part.Work.Bytes, part.Work.FLOPs) / 1e9 * 1e6; math.Abs(part.Limit-least) > 1e-6 || math.Abs(part.Share-least/part.All) > 1e-9 {
			t.Errorf("%+v: want a limit of %v", part, least)
		}
	}
	if want := 2.0*(layers+output) + 4*2*4*16*103; sum.FLOPs != want {
		t.Errorf("the parts have %v operations, want %v", sum.FLOPs, want)
	}
	roundTrip(t, r)
}

// Without rates everything else is measured; a device that fails ends it.
func TestRatesThatCannotBeMeasured(t *testing.T) {
	o := Options{File: tinyModel(t), Runs: 1, Contexts: []int{0}, Generate: 1}
	for name, rate := range map[string]func(string) (device.Rate, error){
		"no memory": func(string) (device.Rate, error) { return device.Rate{}, device.ErrOutOfMemory },
		"nothing":   func(string) (device.Rate, error) { return device.Rate{Method: "said"}, nil },
		"infinite":  func(string) (device.Rate, error) { return device.Rate{PerSecond: math.Inf(1)}, nil },
	} {
		o.on = on(rate)
		r, err := Run(t.Context(), o)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if r.Rates != nil || len(r.Notes) != 1 || !strings.HasPrefix(r.Notes[0], "no limits: ") {
			t.Errorf("%s: rates %v, notes %q", name, r.Rates, r.Notes)
		}
		for _, row := range r.Rows {
			if row.Limit != 0 || row.Share != 0 || row.Work != nil {
				t.Errorf("%s: %+v", name, row)
			}
		}
		roundTrip(t, r)
	}
	o.on = on(func(string) (device.Rate, error) { return device.Rate{}, fmt.Errorf("copy: %w", device.ErrLost) })
	if _, err := Run(t.Context(), o); !errors.Is(err, engine.ErrDeviceFault) {
		t.Errorf("a lost device: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	o.on = on(func(string) (device.Rate, error) {
		cancel()
		return device.Rate{PerSecond: 1, Method: "said"}, nil
	})
	if _, err := Run(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := Options{Runs: 1, Prompts: []int{1}, Contexts: []int{0}, Generate: 1}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(o *Options){
		"runs: 0":      func(o *Options) { o.Runs = 0 },
		"runs: 1001":   func(o *Options) { o.Runs = 1001 },
		"prompt: 0":    func(o *Options) { o.Prompts = []int{5, 0} },
		"context: -1":  func(o *Options) { o.Contexts = []int{-1} },
		"generate: 0":  func(o *Options) { o.Generate = 0 },
		"at most 32":   func(o *Options) { o.Prompts = slices.Repeat([]int{1}, 33) },
		"generate: 16": func(o *Options) { o.Generate = 1<<24 + 1 },
	} {
		o := good
		change(&o)
		if err := o.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if _, err := Run(t.Context(), o); err == nil {
			t.Errorf("%s was run", want)
		}
	}
}

// Of an even number of runs neither the better nor the worse half is reported.
func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3},
		{[]float64{4, 2}, 3},
		{[]float64{9, 1, 2}, 2},
		{[]float64{8, 1, 2, 4}, 3},
	} {
		if got := row("speed", "tokens/s", c.values).Median; got != c.want {
			t.Errorf("of %v: %v, want %v", c.values, got, c.want)
		}
	}
}
