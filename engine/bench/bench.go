// Package bench measures a model on a device, and compares each figure with the
// most that the device could do: the bytes that a token cannot do without over the
// rate at which the device moves bytes, or the operations over the rate of its
// products, both measured on the device itself.
package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"kigo/engine"
	"kigo/engine/device"
	"kigo/engine/gguf"
	"kigo/engine/model"
)

// Options say what to measure.
type Options struct {
	File    engine.File // the model; read once for each run
	Device  string      // as for engine.Config
	Threads int

	Runs     int   // of each measurement
	Prompts  []int // lengths whose prefill is measured, in tokens
	Contexts []int // after how many tokens decoding is measured
	Generate int   // tokens that it generates
	Streams  []int // how many at one time generate as many
	Profile  bool  // measure the kinds of operators, too

	Version  string            // of the program, for the report
	Progress func(what string) // is told what comes next; may be nil

	on func() (device.Device, error) // what tests measure on
}

// The bounds of Options.
const (
	maxRuns    = 1000
	maxTokens  = 1 << 24
	maxLists   = 32
	maxStreams = 1024
)

// Check reports the first option that makes no sense, by the name of its flag.
func (o *Options) Check() error {
	in := func(name string, v, least, most int) error {
		if v < least || v > most {
			return fmt.Errorf("%s: %d, want %d to %d", name, v, least, most)
		}
		return nil
	}
	errs := []error{
		in("runs", o.Runs, 1, maxRuns),
		in("generate", o.Generate, 1, maxTokens),
	}
	for _, n := range o.Prompts {
		errs = append(errs, in("prompt", n, 1, maxTokens))
	}
	for _, n := range o.Contexts {
		errs = append(errs, in("context", n, 0, maxTokens))
	}
	for _, n := range o.Streams {
		errs = append(errs, in("streams", n, 1, maxStreams))
	}
	if len(o.Prompts) > maxLists || len(o.Contexts) > maxLists || len(o.Streams) > maxLists {
		errs = append(errs, fmt.Errorf("prompt, context, streams: at most %d of each", maxLists))
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Run measures. What does not fit the model's context, or cannot be measured on
// this device, is left out with a note. It takes the device for itself.
func Run(ctx context.Context, o Options) (_ *Report, err error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	b := &bencher{Options: o, report: &Report{Format: reportFormat, Version: o.Version, Date: time.Now().UTC().Truncate(time.Second), Runs: o.Runs}}
	if err := b.readHeader(); err != nil {
		return nil, err
	}
	defer func() {
		if b.engine != nil {
			err = errors.Join(err, b.engine.Close())
		}
	}()
	for _, measure := range []func(context.Context) error{b.loads, b.tokenizer, b.prefills, b.decodes, b.profiles, b.streams} {
		if err := measure(ctx); err != nil {
			return nil, err
		}
	}
	return b.report, nil
}

// bencher is a Run under way.
type bencher struct {
	Options
	report *Report
	cost   cost
	bytes  uint64         // of the model's tensors
	engine *engine.Engine // with the model loaded, after loads
	info   *engine.ModelInfo
	ids    []int32 // tokens to make prompts of

	prompts int // different ones that were made
}

// readHeader learns what the model's passes take.
func (b *bencher) readHeader() error {
	info, err := b.File.Stat()
	if err != nil {
		return fmt.Errorf("model file: %w", err)
	}
	f, err := gguf.Parse(b.File, info.Size(), gguf.Limits{})
	if err != nil {
		return err
	}
	spec, err := model.NewSpec(f)
	if err != nil {
		return err
	}
	binding, err := model.Bind(spec, f)
	if err != nil {
		return err
	}
	b.cost.prog, b.bytes = model.Record(spec, binding), binding.Bytes()
	return nil
}

func (b *bencher) note(format string, args ...any) {
	b.report.Notes = append(b.report.Notes, fmt.Sprintf(format, args...))
}

func (b *bencher) add(r Row) { b.report.Rows = append(b.report.Rows, r) }

// patience is how long one row may take until it is not run again: what is slow
// needs fewer runs, and whoever waits has other things to do.
const patience = time.Minute

// repeat makes a measurement as often as asked for.
func (b *bencher) repeat(ctx context.Context, name string, once func() (float64, error)) ([]float64, error) {
	var values []float64
	for begun := time.Now(); len(values) < b.Runs && (len(values) == 0 || time.Since(begun) < patience); {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		b.Progress(fmt.Sprintf("%s, %d of %d", name, len(values)+1, b.Runs))
		v, err := once()
		if err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	return values, nil
}

// rates measures the device of a fresh engine, while all of its memory is free.
func (b *bencher) rates(ctx context.Context, e *engine.Engine) error {
	b.Progress("what the device is capable of")
	r, err := e.Rates(ctx)
	switch {
	case errors.Is(err, engine.ErrFatal):
		return err
	case errors.Is(err, engine.ErrNotSupported), errors.Is(err, engine.ErrDoesNotFit):
		b.note("no limits: %v", err)
		return nil
	case err != nil:
		return err
	}
	for _, rate := range []engine.Rate{r.Copy, r.Upload, r.Matrix} {
		if !(rate.PerSecond > 0) || math.IsInf(rate.PerSecond, 1) {
			b.note("no limits: a rate of %v a second was measured (%s)", rate.PerSecond, rate.Method)
			return nil
		}
	}
	b.report.Rates = ratesOf(r)
	return nil
}

// open makes an engine without a model.
func (b *bencher) open(set func(*engine.Config)) (*engine.Engine, error) {
	cfg := engine.Config{
		Device: b.Device, Threads: b.Threads,
		MaxConcurrent: 1,
		StreamBuffer:  1 << 12, // a reader that comes late holds nothing up
		SlowReader:    time.Hour,
		NoPrefixCache: true, // the same prompts come again
		Log:           zerolog.Nop(),
	}
	set(&cfg)
	if b.on == nil {
		return engine.New(cfg)
	}
	dev, err := b.on()
	if err != nil {
		return nil, err
	}
	return engine.NewOn(cfg, dev)
}

// unique sorts a list and drops what is in it twice.
func unique[T cmp.Ordered](list []T) []T { return slices.Compact(slices.Sorted(slices.Values(list))) }
