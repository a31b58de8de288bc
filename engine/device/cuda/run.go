package cuda

import (
	"errors"
	"fmt"
	"math"
	"unsafe"

	"kigo/engine/device"
	"kigo/engine/device/cuda/driver"
)

// Run performs a step and fetches the logits.
func (x *executable) Run(step *device.Step) ([]float32, error) {
	unbind, err := x.perform(step, true)
	if err != nil {
		return nil, err
	}
	defer unbind()
	if err := x.last.fetch(x); err != nil {
		return nil, err
	}
	return x.result, nil
}

// perform sends the step's inputs and launches every operation. It leaves the
// context bound, and the work under way. Alone, the step waits for those that are, about
// which nobody will ask.
func (x *executable) perform(step *device.Step, alone bool) (unbind func(), err error) {
	if err := x.open("run"); err != nil {
		return nil, err
	}
	named := x.named
	if alone {
		named = 0
	}
	blockSize := x.cache.shape.BlockSize
	if err := step.Check(x.prog.Vocab, x.opt.MaxRows, blockSize, x.cache.mapped, named); err != nil {
		return nil, err
	}
	bound, err := x.dev.bind()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, x.wait()) // nothing of it is under way when the next one comes
			bound()
		}
	}()
	if alone || x.under == 0 {
		if err := x.wait(); err != nil {
			return nil, err
		}
		x.under = 0
	}
	x.named = 0
	if need, ok := x.in.fits(step, blockSize); !ok {
		// Graphs know the old addresses.
		if err := errors.Join(x.wait(), x.dropGraphs(), x.in.grow(x.dev, 2*need)); err != nil {
			return nil, err
		}
	}
	x.turn = 1 - x.turn
	x.in.take(x.turn)
	x.drawing.in, x.drawing.out = x.now().drawIn, x.now().drawOut
	x.shape, x.held = x.shapeOf(step), 0
	x.now().rows, x.now().logits = x.shape.rows, x.shape.logits
	launched := x.shape
	recorded := x.recorded(&launched)
	if recorded {
		x.fill(&launched)
	}
	if err := x.in.write(x.dev, step, &launched, x.cache); err != nil {
		return nil, x.dev.wrap(err, "send the step")
	}
	x.busy = true
	if recorded {
		return bound, x.replay(&launched)
	}
	return bound, x.launch(&launched)
}

func (x *executable) shapeOf(step *device.Step) stepShape {
	s := stepShape{rows: len(step.Tokens), logits: len(step.Logits), single: true}
	for i := range step.Seqs {
		q := &step.Seqs[i]
		s.single = s.single && q.Rows == 1
	}
	s.tile(step, x.heads, x.group, x.dev.props.SMs)
	return s
}

// launch starts every operation of a step.
func (x *executable) launch(s *stepShape) error {
	for _, a := range x.angles {
		if err := a.turn(x, s); err != nil {
			return err
		}
	}
	for _, op := range x.ops {
		if err := op.run(x, s); err != nil {
			return err
		}
	}
	return nil
}

// fetch copies values from the device and waits for them. It is for taps and
// checks, and not fast.
func (x *executable) fetch(at uint64, count int) ([]float32, error) {
	v := make([]float32, count)
	d := x.dev
	for done := 0; done < count; {
		n := min(count-done, len(x.host)/4)
		if err := d.drv.CopyToHost(x.host[:4*n], driver.Ptr(at)+driver.Ptr(4*done), d.stream); err != nil {
			return nil, d.wrap(err, "fetch results")
		}
		if err := d.drv.SyncStream(d.stream); err != nil {
			return nil, d.wrap(err, "fetch results")
		}
		copy(v[done:], floats(x.host[:4*n]))
		done += n
	}
	return v, nil
}

// tap shows a stage to the one who asked for it, and with checks looks for NaNs.
func (x *executable) tap(stage string, at uint64, rows, width int) error {
	if x.opt.Tap == nil && !x.dev.cfg.Checks || rows == 0 {
		return nil
	}
	v, err := x.fetch(at, rows*width)
	if err != nil {
		return err
	}
	return x.see(stage, rows, width, v)
}

// see is tap of what is on the host already.
func (x *executable) see(stage string, rows, width int, v []float32) error {
	if x.dev.cfg.Checks {
		for i, f := range v {
			if math.IsNaN(float64(f)) {
				return fmt.Errorf("stage %s: NaN in row %d, column %d", stage, i/width, i%width)
			}
		}
	}
	if x.opt.Tap != nil {
		x.opt.Tap(stage, rows, width, v)
	}
	return nil
}

// tapValue is tap of a value of the program.
func (x *executable) tapValue(v device.Value, s *stepShape) error {
	info := x.prog.Values[v]
	return x.tap(info.Stage, x.values[v], s.rows, info.Width)
}

// watched says that somebody looks at every stage.
func (x *executable) watched() bool { return x.opt.Tap != nil || x.dev.cfg.Checks }

// floats and int32s see pinned memory, which is aligned to pages, as numbers.
func floats(b []byte) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}

func int32s(b []byte) []int32 {
	return unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}

func doubles(b []byte) []float64 {
	return unsafe.Slice((*float64)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/8)
}
