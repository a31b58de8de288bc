package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"kigo/engine/load"
)

// LoadRequest names a model and the open file that holds it.
type LoadRequest struct {
	Name    string
	File    File
	Replace bool // swap it for the model that is loaded, if one is
}

// flight is a load in progress, which a second load of the same file under the
// same name joins.
type flight struct {
	name string
	file fs.FileInfo
	done chan struct{}
	info *ModelInfo // valid when done is closed, like err
	err  error
}

// Load brings a model onto the device, proves it, generates one token with
// it, and only then puts it in service. A load that fails or is cancelled
// leaves things as they were; the model that a new one replaces goes on with
// the streams it has and is freed after the last. progress may be nil; it is
// called from one goroutine at a time, never after Load has returned.
//
// Errors: ErrAlreadyLoaded without Replace, ErrLoadInProgress, ErrDoesNotFit,
// ErrFileChanged, ErrDraining, ErrFatal, the context's, and those of the packages gguf,
// model, tokenizer, chat, load and device.
func (e *Engine) Load(ctx context.Context, r LoadRequest, progress func(LoadProgress)) (*ModelInfo, error) {
	for {
		file, err := r.File.Stat()
		if err != nil {
			return nil, fmt.Errorf("model file: %w", err)
		}
		f, own, err := e.takeOff(r, file)
		if err != nil {
			return nil, err
		}
		if own {
			f.info, f.err = e.load(ctx, r, file, progress)
			e.land(f)
			return f.info, f.err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		// A load that ended because its caller went away is no answer to us.
		if !errors.Is(f.err, context.Canceled) && !errors.Is(f.err, context.DeadlineExceeded) {
			return f.info, f.err
		}
	}
}

// takeOff begins a load, or finds the one to join.
func (e *Engine) takeOff(r LoadRequest, file fs.FileInfo) (f *flight, own bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.failure != nil:
		return nil, false, e.failure
	case e.draining:
		return nil, false, ErrDraining
	case e.flight != nil && e.flight.name == r.Name && os.SameFile(e.flight.file, file):
		return e.flight, false, nil
	case e.flight != nil:
		return nil, false, fmt.Errorf("%w: %.64q", ErrLoadInProgress, e.flight.name)
	case e.serving != nil && !r.Replace:
		return nil, false, fmt.Errorf("%w: %.64q", ErrAlreadyLoaded, e.serving.info.Name)
	}
	e.flight = &flight{name: r.Name, file: file, done: make(chan struct{})}
	e.update()
	return e.flight, true, nil
}

func (e *Engine) land(f *flight) {
	e.mu.Lock()
	e.flight = nil
	e.update()
	e.mu.Unlock()
	close(f.done)
}

// load does the work of Load for the one who took off.
func (e *Engine) load(ctx context.Context, r LoadRequest, before fs.FileInfo, progress func(LoadProgress)) (*ModelInfo, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	detach := context.AfterFunc(e.ctx, func() { cancel(context.Cause(e.ctx)) })
	defer detach()

	c := newClock(progress)
	p, err := e.newPlan(r.File)
	if err != nil {
		return nil, err
	}
	c.expect(p.binding.Bytes(), len(p.binding.Tensors))
	m, err := e.build(ctx, p, r, c)
	if err != nil {
		if errors.Is(err, context.Canceled) {
			err = context.Cause(ctx) // the caller's own end, or the engine's
		}
		return nil, e.failBy(err)
	}
	after, err := r.File.Stat()
	switch {
	case err != nil:
		err = fmt.Errorf("model file: %w", err)
	case after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()):
		err = ErrFileChanged
	default:
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, e.discard(m))
	}
	c.enter(StageDone)
	m.info.Load, m.info.LoadedAt = c.times, time.Now()
	m.info.Load.Total = time.Since(c.start)
	if err := e.putInService(m); err != nil {
		return nil, errors.Join(err, e.discard(m))
	}
	info := m.info
	return &info, nil
}

// putInService swaps the model that new requests go to.
func (e *Engine) putInService(m *served) error {
	old := e.servingNow()
	return e.owner.call(func() error {
		e.owner.serve(m)
		if old != nil {
			e.owner.retire(old)
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		e.serving = m
		e.update()
		return nil
	})
}

func (e *Engine) servingNow() *served {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.serving
}

// Unload ends the model's streams with ErrUnloaded and frees its memory.
// ErrNoModel if there is none of that name, ErrLoadInProgress while one is
// being loaded.
func (e *Engine) Unload(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e.mu.Lock()
	if f := e.flight; f != nil {
		e.mu.Unlock()
		return fmt.Errorf("%w: %.64q", ErrLoadInProgress, f.name)
	}
	m := e.serving
	if m == nil || m.info.Name != name {
		e.mu.Unlock()
		return fmt.Errorf("%w: %.64q", ErrNoModel, name)
	}
	e.serving = nil
	e.update()
	e.mu.Unlock()
	return e.owner.call(func() error {
		e.owner.unload(m)
		return nil
	})
}

// clock takes the times of a load's stages and reports its progress.
type clock struct {
	start  time.Time
	report func(LoadProgress)
	times  LoadTimes

	mu      sync.Mutex
	now     LoadProgress
	entered time.Time // the present stage
	told    time.Time // when progress was reported last
}

func newClock(report func(LoadProgress)) *clock {
	now := time.Now()
	c := &clock{start: now, entered: now, report: report}
	if c.report == nil {
		c.report = func(LoadProgress) {}
	}
	c.report(c.now)
	return c
}

func (c *clock) expect(bytes uint64, tensors int) {
	c.now.BytesTotal, c.now.TensorsTotal = bytes, tensors
}

// enter ends the present stage and begins the next.
func (c *clock) enter(s LoadStage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	took := now.Sub(c.entered)
	switch c.now.Stage {
	case StageParse:
		c.times.Parse = took
	case StageRead:
		c.times.Read = took
	case StageVerify:
		c.times.Verify = took
	case StageCompile:
		c.times.Compile = took
	case StageWarmUp:
		c.times.FirstToken = took
	case StageDone:
	}
	c.entered, c.now.Stage = now, s
	c.tell(now)
}

// alongside times something that runs beside the stages.
func (c *clock) alongside(into *time.Duration) (done func()) {
	start := time.Now()
	return func() { *into = time.Since(start) }
}

// reportEvery keeps a fast load from drowning its listener.
const reportEvery = 50 * time.Millisecond

func (c *clock) read(p load.Progress) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.now.BytesDone, c.now.TensorsDone = p.Bytes, p.Tensors
	if s := now.Sub(c.entered).Seconds(); s > 0 {
		c.now.BytesPerSec = float64(p.Bytes) / s
	}
	if now.Sub(c.told) >= reportEvery || p.Bytes == c.now.BytesTotal {
		c.tell(now)
	}
}

func (c *clock) tell(now time.Time) {
	c.told = now
	c.now.Elapsed = now.Sub(c.start)
	c.report(c.now)
}
