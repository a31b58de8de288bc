package verify

import (
	"context"
	"errors"
	"slices"

	"kigo/engine/device"
	"kigo/engine/device/cpu"
	"kigo/engine/load"
	"kigo/engine/model"
)

// measured is a model, to be run on one device and another.
type measured struct {
	o       Options
	binding *model.Binding
	program *device.Program
}

// taken is one stage's result.
type taken struct {
	stage       string
	rows, width int
	data        []float32
}

// onCPU runs the tokens on the CPU's paths, one after the other, with the same
// weights, which are in memory as they are in the file.
func (m *measured) onCPU(ctx context.Context, tokens []int32, references ...bool) ([][]taken, error) {
	loader, err := cpu.New(cpu.Config{Threads: 1})
	if err != nil {
		return nil, err
	}
	defer loader.Close()
	w, err := load.Weights(ctx, loader, m.binding, m.o.ModelData, nil)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	var sides [][]taken
	for _, reference := range references {
		dev, err := cpu.New(cpu.Config{Threads: m.o.Threads, Reference: reference})
		if err != nil {
			return nil, err
		}
		side, err := m.watch(dev, w, tokens)
		if err = errors.Join(err, dev.Close()); err != nil {
			return nil, err
		}
		sides = append(sides, side)
	}
	return sides, nil
}

// on runs the tokens on a device other than the CPU: once as a prompt whose
// every stage is watched, and once as the device serves.
func (m *measured) on(ctx context.Context, dev device.Device, tokens []int32) ([]taken, error) {
	w, err := load.Weights(ctx, dev, m.binding, m.o.ModelData, nil)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	all, err := m.watch(dev, w, tokens)
	if err != nil {
		return nil, err
	}
	last, err := m.serve(dev, w, tokens)
	if err != nil {
		return nil, err
	}
	return append(all, last), nil
}

// watch runs the tokens as one prompt and keeps every stage.
func (m *measured) watch(dev device.Device, w device.Weights, tokens []int32) ([]taken, error) {
	var all []taken
	err := m.compiled(dev, w, len(tokens), device.CompileOptions{
		MaxRows: len(tokens),
		Tap: func(stage string, rows, width int, data []float32) {
			all = append(all, taken{stage, rows, width, slices.Clone(data)})
		},
	}, func(x device.Executable, blocks []int32) error {
		_, err := x.Run(&device.Step{
			Tokens: tokens,
			Seqs:   []device.SeqRows{{Rows: len(tokens), Blocks: blocks}},
			Logits: []int{len(tokens) - 1},
		})
		return err
	})
	return all, err
}

// servedLogits is the stage that serve makes: logits again, this time computed
// as they are for requests.
const servedLogits = "logits.served"

// againAsServed adds what servedLogits is to be compared with.
func againAsServed(want []taken) []taken {
	for _, t := range want {
		if t.stage == "logits" {
			t.stage = servedLogits
			return append(slices.Clip(want), t)
		}
	}
	return want
}

// serve runs the tokens with nobody watching, so that a device does all that it
// does only then: fused kernels, recorded steps. Half of them are a prompt, the
// others come one by one, and the last one comes three times, because a device
// may record a step the first times and replay it later; it is the last time's
// logits that count.
func (m *measured) serve(dev device.Device, w device.Weights, tokens []int32) (taken, error) {
	t := taken{stage: servedLogits, rows: 1, width: m.program.Vocab}
	err := m.compiled(dev, w, len(tokens), device.CompileOptions{MaxRows: len(tokens)}, func(x device.Executable, blocks []int32) error {
		for at, last := 0, len(tokens)-1; at <= last; {
			n, times := 1, 1
			if at == 0 {
				n = max(1, len(tokens)/2)
			}
			if at+n > last {
				times = 3
			}
			for range times {
				logits, err := x.Run(&device.Step{
					Tokens: tokens[at : at+n],
					Seqs:   []device.SeqRows{{Rows: n, Start: at, Blocks: blocks}},
					Logits: []int{n - 1},
				})
				if err != nil {
					return err
				}
				t.data = slices.Clone(logits)
			}
			at += n
		}
		return nil
	})
	return t, err
}

// compiled calls run with the program compiled for a cache of so many tokens.
func (m *measured) compiled(dev device.Device, w device.Weights, tokens int, opt device.CompileOptions, run func(device.Executable, []int32) error) error {
	const blockTokens = 16
	shape := m.program.Cache
	shape.BlockSize = blockTokens
	blocks := make([]int32, (tokens+blockTokens-1)/blockTokens)
	for i := range blocks {
		blocks[i] = int32(i)
	}
	cache, err := device.WholeCache(dev, shape, len(blocks))
	if err != nil {
		return err
	}
	x, err := dev.Compile(m.program, w, cache, opt)
	if err != nil {
		return errors.Join(err, cache.Close())
	}
	return errors.Join(run(x, blocks), x.Close(), cache.Close())
}
