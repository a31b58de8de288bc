package cuda_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"kigo/engine/device"
	"kigo/engine/device/cuda"
	"kigo/engine/gguf"
	"kigo/engine/load"
	"kigo/engine/model"
	"kigo/engine/sample"
	"kigo/engine/synth"
)

// loaded is a model of random weights on a GPU.
type loaded struct {
	dev  *cuda.Device
	w    device.Weights
	c    device.Cache
	x    device.Executable
	spec *model.Spec
}

// synthetic loads a model with the shape and format, written to a file once.
func synthetic(tb testing.TB, shape, format string, tokens int) *loaded {
	tb.Helper()
	path := filepath.Join(os.TempDir(), fmt.Sprintf("kigo-%s-%s.gguf", shape, format))
	if _, err := os.Stat(path); err != nil {
		if err := writeSynthetic(path, shape, format); err != nil {
			tb.Fatal(err)
		}
	}
	f, err := os.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		tb.Fatal(err)
	}
	l := &loaded{}
	g, err := gguf.Parse(f, info.Size(), gguf.Limits{})
	if err != nil {
		tb.Fatal(err)
	}
	if l.spec, err = model.NewSpec(g); err != nil {
		tb.Fatal(err)
	}
	b, err := model.Bind(l.spec, g)
	if err != nil {
		tb.Fatal(err)
	}
	if l.dev, err = cuda.New(cuda.Config{}); err != nil {
		tb.Skip(err)
	}
	tb.Cleanup(func() { l.dev.Close() })
	if l.w, err = l.dev.NewWeights(b.Tensors); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.w.Close() })
	if _, err := load.Read(tb.Context(), f, load.Sources(b), l.w, nil); err != nil {
		tb.Fatal(err)
	}
	p := model.Record(l.spec, b)
	shapeOfCache := p.Cache
	shapeOfCache.BlockSize = 16
	if l.c, err = device.WholeCache(l.dev, shapeOfCache, (tokens+15)/16); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.c.Close() })
	if l.x, err = l.dev.Compile(p, l.w, l.c, device.CompileOptions{MaxRows: 512}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.x.Close() })
	return l
}

func writeSynthetic(path, shape, format string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	s, err := synth.ShapeByName(shape)
	if err != nil {
		return err
	}
	formats, err := synth.FormatsByName(format)
	if err != nil {
		return err
	}
	return errors.Join(synth.Write(context.Background(), f, s, formats, 1), f.Close())
}

// BenchmarkDecode generates tokens one after another. us/token is the whole step as
// the engine sees it, with the largest logit alone brought to the host; ahead, the next
// step has begun before that.
func BenchmarkDecode(b *testing.B) {
	for _, m := range []string{"qwen2.5-0.5b/f16", "qwen2.5-0.5b/q8_0", "qwen2.5-0.5b/q4_k_m", "llama-3.2-1b/f16", "llama-3.2-1b/q4_k_m", "llama-3.1-8b/f16", "llama-3.1-8b/q8_0", "llama-3.1-8b/q4_k_m"} {
		shape, format := filepath.Dir(m), filepath.Base(m)
		b.Run(m, func(b *testing.B) {
			const tokens = 8192
			l := synthetic(b, shape, format, tokens)
			blocks := make([]int32, tokens/16)
			for i := range blocks {
				blocks[i] = int32(i)
			}
			c := l.x.(device.Chooser)
			begin := func(b *testing.B, token int32, at int) {
				if err := c.Begin(&device.Step{
					Tokens: []int32{token},
					Seqs:   []device.SeqRows{{Rows: 1, Start: at, Blocks: blocks}},
					Logits: []int{0},
				}); err != nil {
					b.Fatal(err)
				}
			}
			largest := func(b *testing.B) {
				if _, err := c.Largest(); err != nil {
					b.Fatal(err)
				}
			}
			for _, from := range []int{128, 4096} {
				b.Run(fmt.Sprint("context", from), func(b *testing.B) {
					n := 0
					for b.Loop() {
						begin(b, int32(n%1000), from+n%128)
						largest(b)
						n++
					}
					b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "tokens/s")
				})
				b.Run(fmt.Sprint("context", from, "/ahead"), func(b *testing.B) {
					n := 0
					begin(b, 1, from)
					for b.Loop() {
						n++
						begin(b, -1, from+n%128)
						largest(b)
					}
					b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "tokens/s")
					largest(b)
				})
			}
			b.Run("parts", func(b *testing.B) {
				step := &device.Step{Tokens: []int32{1}, Seqs: []device.SeqRows{{Rows: 1, Start: 128, Blocks: blocks}}, Logits: []int{0}}
				parts, err := l.x.(device.Profiler).Profile(step, 20)
				if err != nil {
					b.Fatal(err)
				}
				for _, t := range parts {
					us := float64(t.Time.Nanoseconds()) / 1e3
					b.Logf("%-12s %6.2f us each, %4d a step: %8.1f us", t.Name, us/float64(len(t.Ops)), len(t.Ops), us)
				}
			})
		})
	}
}

// BenchmarkBatch generates a token each for many sequences at a time, and chooses them:
// by the largest logit, and as parameters that a request leaves unset say.
func BenchmarkBatch(b *testing.B) {
	for _, m := range []string{"qwen2.5-0.5b/f16", "qwen2.5-0.5b/q4_k_m", "llama-3.1-8b/f16", "llama-3.1-8b/q4_k_m"} {
		shape, format := filepath.Dir(m), filepath.Base(m)
		b.Run(m, func(b *testing.B) {
			const most, context = 256, 192
			l := synthetic(b, shape, format, most*(context+128))
			chooser := l.x.(device.Chooser)
			stepOf := func(rows, at int) *device.Step {
				step := &device.Step{}
				for i := range rows {
					q := device.SeqRows{Rows: 1, Start: context + at%128}
					for j := range (context + 128) / 16 {
						q.Blocks = append(q.Blocks, int32(i*(context+128)/16+j))
					}
					step.Tokens, step.Seqs, step.Logits = append(step.Tokens, int32(at%1000)), append(step.Seqs, q), append(step.Logits, i)
				}
				return step
			}
			for _, rows := range []int{1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256} {
				wants := drawsOf(b, rows, l.spec.Vocab, func(*sample.Params) {})
				for _, drawn := range []bool{false, true} {
					name := fmt.Sprintf("rows%d/largest", rows)
					if drawn {
						name = fmt.Sprintf("rows%d/drawn", rows)
					}
					b.Run(name, func(b *testing.B) {
						steps := make([]*device.Step, 128)
						for i := range steps {
							steps[i] = stepOf(rows, i)
						}
						n := 0
						for b.Loop() {
							if err := chooser.Begin(steps[n%len(steps)]); err != nil {
								b.Fatal(err)
							}
							if _, err := chooser.Largest(); err != nil {
								b.Fatal(err)
							}
							if drawn {
								if _, err := chooser.Draw(wants); err != nil {
									b.Fatal(err)
								}
							}
							n++
						}
						b.ReportMetric(float64(n*rows)/b.Elapsed().Seconds(), "tokens/s")
					})
				}
				if rows != 8 && rows != 32 && rows != 64 && rows != 128 && rows != 256 {
					continue
				}
				b.Run(fmt.Sprintf("rows%d/parts", rows), func(b *testing.B) {
					parts, err := l.x.(device.Profiler).Profile(stepOf(rows, 0), 5)
					if err != nil {
						b.Fatal(err)
					}
					for _, t := range parts {
						us := float64(t.Time.Nanoseconds()) / 1e3
						b.Logf("%-12s %6.2f us each, %4d a step: %8.1f us", t.Name, us/float64(len(t.Ops)), len(t.Ops), us)
					}
				})
			}
		})
	}
}

// drawsOf asks for a token of each row, with a seed of its own.
func drawsOf(tb testing.TB, rows, vocab int, change func(*sample.Params)) []device.Draw {
	tb.Helper()
	var wants []device.Draw
	history := make([]int32, 64)
	for i := range history {
		history[i] = int32(i * i % vocab)
	}
	for i := range rows {
		p := sample.Defaults()
		p.Seed = uint64(i)
		change(&p)
		s, err := sample.New(p, vocab, nil)
		if err != nil {
			tb.Fatal(err)
		}
		plan, ok := s.Plan(history, 0)
		if !ok {
			tb.Fatalf("%+v: no plan", p)
		}
		wants = append(wants, device.Draw{Row: i, Plan: plan})
	}
	return wants
}

// BenchmarkDraw draws tokens of logits that are there, of a vocabulary of 152,000: as
// parameters that a request leaves unset say, without top-k, without any filter, and
// with penalties; and, to compare, fetches the logits. fetched is the share of rows of
// which the host has to do that after all.
func BenchmarkDraw(b *testing.B) {
	l := synthetic(b, "qwen2.5-0.5b", "q8_0", 256*16)
	chooser := l.x.(device.Chooser)
	for _, rows := range []int{1, 64, 256} {
		step := &device.Step{}
		all := make([]int, rows)
		for i := range rows {
			all[i] = i
			step.Tokens, step.Logits = append(step.Tokens, int32(100*i)), append(step.Logits, i)
			step.Seqs = append(step.Seqs, device.SeqRows{Rows: 1, Blocks: []int32{int32(i)}})
		}
		begin := func(b *testing.B) {
			if err := chooser.Begin(step); err != nil {
				b.Fatal(err)
			}
			if _, err := chooser.Largest(); err != nil {
				b.Fatal(err)
			}
		}
		for _, c := range []struct {
			name   string
			change func(*sample.Params)
		}{
			{"defaults", func(*sample.Params) {}},
			{"top_p", func(p *sample.Params) { p.TopK, p.MinP = 0, 0 }},
			{"unbounded", func(p *sample.Params) { p.TopK, p.TopP, p.MinP = 0, 1, 0 }},
			{"penalties", func(p *sample.Params) { p.TopK, p.RepetitionPenalty = 0, 1.1 }},
		} {
			b.Run(fmt.Sprintf("rows%d/%s", rows, c.name), func(b *testing.B) {
				wants := drawsOf(b, rows, l.spec.Vocab, c.change)
				begin(b)
				n, fetched := 0, 0
				for b.Loop() {
					ids, err := chooser.Draw(wants)
					if err != nil {
						b.Fatal(err)
					}
					for _, id := range ids {
						if id < 0 {
							fetched++
						}
					}
					n++
				}
				b.ReportMetric(float64(fetched)/float64(n*rows), "fetched/row")
			})
		}
		b.Run(fmt.Sprintf("rows%d/fetch", rows), func(b *testing.B) {
			begin(b)
			for b.Loop() {
				if _, err := chooser.Fetch(all); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
