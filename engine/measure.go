package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kigo/engine/device"
)

// Rate is what the device reached in a measurement.
type Rate = device.Rate

// Rates are what the device is capable of, whatever it computes.
type Rates struct {
	Copy   Rate // bytes of its memory a second
	Upload Rate // bytes a second from the host's memory into its own
	Matrix Rate // floating-point operations of matrix products a second
}

// Rates measures the device, for a second or so in which no step runs.
// ErrNotSupported: the device cannot measure itself; ErrDoesNotFit: there is no
// memory to measure with.
func (e *Engine) Rates(ctx context.Context) (Rates, error) {
	meter, ok := e.dev.(device.Meter)
	if !ok {
		return Rates{}, fmt.Errorf("%w: measuring its rates", ErrNotSupported)
	}
	var r Rates
	for _, m := range []struct {
		what    string
		to      *Rate
		measure func(context.Context) (device.Rate, error)
	}{
		{"copy rate", &r.Copy, meter.CopyRate},
		{"upload rate", &r.Upload, meter.UploadRate},
		{"matrix rate", &r.Matrix, meter.MatrixRate},
	} {
		if err := e.betweenSteps(ctx, func() error {
			return e.owner.inDevice(time.Now(), 0, func() (err error) {
				*m.to, err = m.measure(ctx)
				return err
			})
		}); err != nil {
			return Rates{}, fmt.Errorf("%s: %w", m.what, err)
		}
	}
	return r, nil
}

// betweenSteps has the owner call f. With an error, what f writes is not to be
// read: the owner may have been given up while it was in there.
func (e *Engine) betweenSteps(ctx context.Context, f func() error) error {
	return e.failBy(e.owner.callAlone(func() error {
		if err := e.failureNow(); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return f()
	}))
}

// StepProfile is what the kinds of operators cost in a step of one sequence: Rows
// tokens, with Start others of it in the KV cache.
type StepProfile struct {
	Start, Rows int
	Parts       []device.PartTime // Ops are those of the model's program
}

// Profile measures the operators of the last step that processes a sequence of
// tokens tokens, of which it takes rows or as many as a step of the device has; each
// kind of operator is run so many times. Other requests wait meanwhile.
//
// ErrNotSupported: the device cannot tell; ErrDoesNotFit: fewer KV blocks are
// free; ErrNoModel.
func (e *Engine) Profile(ctx context.Context, model string, tokens, rows, times int) (*StepProfile, error) {
	m, err := e.model(model)
	if err != nil {
		return nil, err
	}
	profiler, ok := m.exec.(device.Profiler)
	if !ok {
		return nil, fmt.Errorf("%w: a profile of a step", ErrNotSupported)
	}
	if rows < 1 || rows > tokens || tokens > m.maxContext {
		return nil, fmt.Errorf("a step of %d rows of %d tokens in a context of %d", rows, tokens, m.maxContext)
	}
	if most := e.deviceInfo().StepRows; most > 0 {
		rows = min(rows, most)
	}
	p := &StepProfile{Start: tokens - rows, Rows: rows}
	step := device.Step{Tokens: make([]int32, rows), Logits: []int{rows - 1}}
	for i := range step.Tokens {
		step.Tokens[i] = int32(i % m.vocab)
	}
	err = e.betweenSteps(ctx, func() error {
		if m.retired {
			return ErrUnloaded
		}
		pool := m.sched.Pool()
		if lack := pool.BlocksFor(tokens) - pool.Free(); lack > 0 {
			if err := e.owner.grow(m, lack); fatalError(err) != nil || e.owner.givenUp {
				return err
			}
		}
		blocks, ok := pool.Take(pool.BlocksFor(tokens))
		if !ok {
			return fmt.Errorf("%w: %d KV blocks are wanted, %d are free", ErrDoesNotFit, pool.BlocksFor(tokens), pool.Free())
		}
		step.Seqs = []device.SeqRows{{Rows: rows, Start: p.Start, Blocks: blocks}}
		err := e.owner.inDevice(time.Now(), 0, func() (err error) {
			p.Parts, err = profiler.Profile(&step, times)
			return err
		})
		if e.owner.givenUp {
			return err
		}
		return errors.Join(err, pool.Give(blocks))
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}
