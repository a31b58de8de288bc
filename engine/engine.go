// Package engine turns prompts into tokens. It owns one device and the models
// on it: Load brings a model into service, Submit queues a request and gives
// the stream of its tokens, Close ends everything.
//
// One goroutine, the owner, runs all steps on the device; everybody else sends
// it messages. It never waits for a client: what a stream's reader has not
// taken yet waits in a bounded queue, and a sequence whose queue is full
// pauses, then ends.
package engine

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"kigo/engine/chat"
	"kigo/engine/device"
	"kigo/engine/device/cpu"
	"kigo/engine/load"
	"kigo/engine/tokenizer"
)

// Config is fixed for an engine's life. Zero values stand for the defaults.
type Config struct {
	Device        string        // "auto" (the default) or "cpu"
	Threads       int           // CPU worker threads; default: all cores
	Reference     bool          // float32 weights and float64 sums on the CPU: slow, the oracle
	MaxContext    int           // cap on the tokens of one sequence; default: the model's own
	MaxConcurrent int           // sequences that take part in steps at one time; default 8
	MaxQueue      int           // requests that wait beyond those; default 64, negative: none
	StreamBuffer  int           // events held for a reader that lags before its sequence pauses; default 64
	SlowReader    time.Duration // how long a paused sequence keeps its place; default 2 s
	SkipVerify    bool          // load without proving that the device holds the file's bytes
	Log           zerolog.Logger
}

// maxConcurrent and its kind bound what a configuration may ask for.
const (
	maxConcurrent = 1024
	maxQueue      = 1 << 16
	maxBuffer     = 1 << 16
)

func (c Config) withDefaults() (Config, error) {
	for _, f := range []struct {
		name       string
		value      *int
		fill, most int
	}{
		{"max concurrent", &c.MaxConcurrent, 8, maxConcurrent},
		{"max queue", &c.MaxQueue, 64, maxQueue},
		{"stream buffer", &c.StreamBuffer, 64, maxBuffer},
		{"max context", &c.MaxContext, 0, 1 << 28},
	} {
		if *f.value == 0 {
			*f.value = f.fill
		}
		if *f.value > f.most {
			return c, fmt.Errorf("%s: %d, at most %d", f.name, *f.value, f.most)
		}
	}
	c.MaxQueue = max(c.MaxQueue, 0)
	if c.MaxConcurrent < 0 || c.StreamBuffer < 0 || c.MaxContext < 0 || c.SlowReader < 0 {
		return c, fmt.Errorf("negative limit: max concurrent %d, stream buffer %d, max context %d, slow reader %v",
			c.MaxConcurrent, c.StreamBuffer, c.MaxContext, c.SlowReader)
	}
	if c.SlowReader == 0 {
		c.SlowReader = 2 * time.Second
	}
	return c, nil
}

// File is what a model is loaded from; *os.File is one. The caller keeps
// ownership and may close it when Load has returned.
type File = load.File

// Engine owns one device and the models on it. All methods may be called from
// any goroutine.
type Engine struct {
	cfg   Config
	dev   device.Device
	born  time.Time
	owner *owner
	ctx   context.Context // ends with Close
	stop  context.CancelFunc

	mu       sync.Mutex
	serving  *served            // what new requests go to
	flight   *flight            // the load in progress
	streams  map[string]*Stream // all that have not ended, by request id
	idle     chan struct{}      // closed when streams becomes empty; nil unless awaited
	draining bool
	lost     error // why the device is gone
	state    State
	changed  chan struct{}

	steps, tokens       atomic.Uint64
	lastStep, busySince atomic.Int64 // Unix nanoseconds; 0: none
	gauges              atomic.Pointer[gauges]
}

// gauges are the owner's counts after its latest step.
type gauges struct {
	running, waiting, kvUsed, kvTotal int
}

// New makes an engine and opens its device.
func New(cfg Config) (*Engine, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	switch cfg.Device {
	case "", "auto", "cpu":
	default:
		return nil, fmt.Errorf("engine: device %.32q: this build has cpu", cfg.Device)
	}
	dev, err := cpu.New(cpu.Config{Threads: cfg.Threads, Reference: cfg.Reference})
	if err != nil {
		return nil, fmt.Errorf("engine: cpu: %w", err)
	}
	e := &Engine{
		cfg:     cfg,
		dev:     dev,
		born:    time.Now(),
		streams: map[string]*Stream{},
		changed: make(chan struct{}),
	}
	e.gauges.Store(&gauges{})
	e.ctx, e.stop = context.WithCancel(context.Background())
	e.owner = newOwner(e)
	return e, nil
}

// MemoryRead measures how many GB/s so many threads read of memory that does not
// fit the caches, in so many runs: the limit of generating on a CPU.
func MemoryRead(threads, runs int) ([]float64, error) { return cpu.MemoryRead(threads, runs) }

// Models lists the loaded models.
func (e *Engine) Models() []ModelInfo {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.serving == nil {
		return nil
	}
	return []ModelInfo{e.serving.info}
}

// model finds a loaded model; an empty name means whichever there is.
func (e *Engine) model(name string) (*served, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.serving == nil {
		return nil, ErrNoModel
	}
	if name != "" && name != e.serving.info.Name {
		return nil, fmt.Errorf("%w: %.64q", ErrNoModel, name)
	}
	return e.serving, nil
}

// Tokenizer gives a loaded model's tokenizer and chat template (nil if the
// file has none); name may be empty.
func (e *Engine) Tokenizer(name string) (*tokenizer.Tokenizer, *chat.Template, error) {
	m, err := e.model(name)
	if err != nil {
		return nil, nil, err
	}
	return m.tokens, m.chat, nil
}

// Cancel ends a running or queued request as if its stream's Cancel had been
// called. ErrUnknownRequest if there is none of that id.
func (e *Engine) Cancel(id string) error {
	e.mu.Lock()
	s := e.streams[id]
	e.mu.Unlock()
	if s == nil {
		return fmt.Errorf("%w: %.64q", ErrUnknownRequest, id)
	}
	s.Cancel()
	return nil
}

// Status is cheap and never waits for the device.
func (e *Engine) Status() Status {
	g := e.gauges.Load()
	info := e.dev.Info()
	s := Status{
		Device: DeviceInfo{
			Kind: info.Kind, Name: info.Name, Threads: info.Threads,
			MemoryFree: info.MemoryFree, MemoryTotal: info.MemoryTotal,
		},
		Started:   e.born,
		KVUsed:    g.kvUsed,
		KVTotal:   g.kvTotal,
		Steps:     e.steps.Load(),
		Tokens:    e.tokens.Load(),
		LastStep:  fromUnixNano(e.lastStep.Load()),
		BusySince: fromUnixNano(e.busySince.Load()),
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s.State = e.state
	switch s.State {
	case StateEmpty:
		s.Reason = "no model is loaded"
	case StateLoading:
		s.Reason = "a model is being loaded"
	case StateDraining:
		s.Reason = ErrDraining.Error()
	case StateFailed:
		s.Reason = ErrDeviceLost.Error()
	case StateReady:
	}
	// A request counts as waiting from Submit on, also before the owner has
	// seen it.
	s.Running = min(g.running, len(e.streams))
	s.Waiting = len(e.streams) - s.Running
	if e.serving != nil {
		m := e.serving.info
		s.Model = &m
		s.Device.MemoryUsed = m.Memory.Weights + m.Memory.KV + m.Memory.Scratch
	}
	return s
}

func fromUnixNano(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}

// Changed is closed at the next change of Status().State; ask again afterwards.
func (e *Engine) Changed() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed
}

// update works the state out anew. The caller holds e.mu.
func (e *Engine) update() {
	state := StateEmpty
	switch {
	case e.lost != nil:
		state = StateFailed
	case e.draining:
		state = StateDraining
	case e.serving != nil:
		state = StateReady
	case e.flight != nil:
		state = StateLoading
	}
	if state != e.state {
		e.state = state
		close(e.changed)
		e.changed = make(chan struct{})
	}
}

// Drain refuses new work and waits until every stream has ended, or until ctx
// ends, when it ends the rest with ErrDraining.
func (e *Engine) Drain(ctx context.Context) error {
	e.mu.Lock()
	e.draining = true
	e.update()
	if len(e.streams) == 0 {
		e.mu.Unlock()
		return nil
	}
	if e.idle == nil {
		e.idle = make(chan struct{})
	}
	idle := e.idle
	e.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
	}
	e.owner.post(func() { e.owner.endAll(ErrDraining) })
	select {
	case <-idle:
	case <-e.owner.done:
	}
	return ctx.Err()
}

// Close ends every stream with ErrDraining, waits for the engine's goroutines
// and for a load in progress, and closes the device.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.draining = true
	e.update()
	flight := e.flight
	e.mu.Unlock()
	e.stop()
	if flight != nil {
		<-flight.done
	}
	e.owner.close()
	return e.dev.Close()
}

// forget takes an ended stream off the books.
func (e *Engine) forget(s *Stream) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.streams, s.started.ID)
	if len(e.streams) == 0 && e.idle != nil {
		close(e.idle)
		e.idle = nil
	}
}
