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
	"kigo/engine/device/devices"
	"kigo/engine/load"
	"kigo/engine/sample"
	"kigo/engine/tokenizer"
)

// Config is fixed for an engine's life. Zero values stand for the defaults.
type Config struct {
	Device        string        // "auto" (the default), "cpu", "cuda" or "cuda:N"
	DeviceChecks  bool          // on a GPU: wait after every kernel and look for NaNs
	Threads       int           // CPU worker threads; default: all cores
	Reference     bool          // float32 weights and float64 sums on the CPU: slow, the oracle
	MaxContext    int           // cap on the tokens of one sequence; default: the model's own
	MaxConcurrent int           // sequences that take part in steps at one time; default 256 on a GPU, 32 on a processor
	MaxQueue      int           // requests that wait beyond those; default 64, negative: none
	ChunkRows     int           // tokens of prompts in a step beside those of others; default: what keeps the device busy
	CacheTokens   int           // tokens in the KV cache, of all sequences; default: full contexts of MaxConcurrent on a GPU, of 8 on a processor
	NoPrefixCache bool          // compute every prompt, though blocks with its beginning are there
	MaxStops      int           // stop strings of a request, and stop ids; default 16
	MaxStopBytes  int           // bytes of a stop string; default 256
	MaxBiases     int           // logit biases of a request; default 1,024
	StreamBuffer  int           // tokens of each answer held for a reader that lags before its sequences pause; default 64
	SlowReader    time.Duration // how long a paused sequence keeps its place; default 2 s
	StepLimit     time.Duration // a step that takes longer is hung, whatever came before; default 1 min
	SkipVerify    bool          // load without proving that the device holds the file's bytes
	Log           zerolog.Logger
}

// maxConcurrent and its kind bound what a configuration may ask for.
const (
	maxConcurrent = 1024
	maxQueue      = 1 << 16
	maxBuffer     = 1 << 16
	maxChunk      = 1 << 14
)

func (c Config) withDefaults() (Config, error) {
	for _, f := range []struct {
		name       string
		value      *int
		fill, most int
	}{
		{"max concurrent", &c.MaxConcurrent, 0, maxConcurrent},
		{"max queue", &c.MaxQueue, 64, maxQueue},
		{"stream buffer", &c.StreamBuffer, 64, maxBuffer},
		{"max context", &c.MaxContext, 0, 1 << 28},
		{"chunk rows", &c.ChunkRows, 0, maxChunk},
		{"cache tokens", &c.CacheTokens, 0, 1 << 30},
		{"max stops", &c.MaxStops, 16, 1024},
		{"max stop bytes", &c.MaxStopBytes, 256, 1 << 16},
		{"max biases", &c.MaxBiases, 1024, sample.MaxBiases},
	} {
		if *f.value == 0 {
			*f.value = f.fill
		}
		if *f.value > f.most {
			return c, fmt.Errorf("%s: %d, at most %d", f.name, *f.value, f.most)
		}
		if *f.value < 0 && f.value != &c.MaxQueue {
			return c, fmt.Errorf("%s: %d is negative", f.name, *f.value)
		}
	}
	c.MaxQueue = max(c.MaxQueue, 0)
	if c.SlowReader < 0 || c.StepLimit < 0 {
		return c, fmt.Errorf("negative limit: slow reader %v, step limit %v", c.SlowReader, c.StepLimit)
	}
	if c.SlowReader == 0 {
		c.SlowReader = 2 * time.Second
	}
	if c.StepLimit == 0 {
		c.StepLimit = time.Minute
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
	ctx   context.Context // ends with Close, and with the device
	stop  context.CancelCauseFunc

	mu      sync.Mutex
	serving *served            // what new requests go to
	flight  *flight            // the load in progress
	streams map[string]*Stream // all that have not ended, by request id
	// Of the streams' sequences, those that have not ended: a stream has one for
	// each answer.
	sequences int
	idle      chan struct{} // closed when streams becomes empty; nil unless awaited
	draining  bool
	failure   error // why the device cannot be used any more
	state     State
	changed   chan struct{}

	failed chan struct{} // closed when failure is set

	stats         Stats
	steps, tokens atomic.Uint64
	lastStep      atomic.Int64 // Unix nanoseconds; 0: none
	gauges        atomic.Pointer[gauges]
	info          atomic.Pointer[device.Info] // the device's latest answer
}

// gauges are the owner's counts after its latest step, and how long it will be until
// there is room in a full queue.
type gauges struct {
	running, waiting          int
	kvUsed, kvMapped, kvTotal int
	kvShort                   bool
	retry                     time.Duration
}

// New makes an engine and opens its device.
func New(cfg Config) (*Engine, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	dev, why, err := devices.Open(devices.Options{Name: cfg.Device, Threads: cfg.Threads, Reference: cfg.Reference, Checks: cfg.DeviceChecks})
	if err != nil {
		if failure := fatalError(err); failure != nil {
			err = &startError{err: err, kind: failure}
		}
		return nil, err
	}
	if why != nil {
		cfg.Log.Info().AnErr("gpu", why).Msg("no GPU: computing on the CPU")
	}
	return newEngine(cfg, dev), nil
}

// startError is a device that cannot be used from the start. Its kind, one of those
// of ErrFatal, is for errors.Is; what is wrong stands in err.
type startError struct{ err, kind error }

func (e *startError) Error() string   { return e.err.Error() }
func (e *startError) Unwrap() []error { return []error{e.err, e.kind} }

// NewOn is New on a device that is open already. The engine closes it, unless
// the device fails.
func NewOn(cfg Config, dev device.Device) (*Engine, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	return newEngine(cfg, dev), nil
}

func newEngine(cfg Config, dev device.Device) *Engine {
	if cfg.MaxConcurrent == 0 {
		cfg.MaxConcurrent = 32
		if dev.Info().Kind == "cuda" {
			cfg.MaxConcurrent = 256
		}
	}
	e := &Engine{
		cfg:     cfg,
		dev:     dev,
		born:    time.Now(),
		streams: map[string]*Stream{},
		changed: make(chan struct{}),
		failed:  make(chan struct{}),
	}
	e.gauges.Store(&gauges{})
	e.ctx, e.stop = context.WithCancelCause(context.Background())
	e.owner = newOwner(e)
	return e
}

// Models lists the loaded models.
func (e *Engine) Models() []ModelInfo {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.serving == nil {
		return nil
	}
	return []ModelInfo{e.serving.describe()}
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
	info := e.deviceInfo()
	s := Status{
		Device: DeviceInfo{
			Kind: info.Kind, Name: info.Name, Driver: info.Driver, Threads: info.Threads,
			MemoryFree: info.MemoryFree, MemoryTotal: info.MemoryTotal,
		},
		Started:   e.born,
		KVUsed:    g.kvUsed,
		KVMapped:  g.kvMapped,
		KVTotal:   g.kvTotal,
		KVShort:   g.kvShort,
		KVTokens:  blockTokens,
		Steps:     e.steps.Load(),
		Tokens:    e.tokens.Load(),
		LastStep:  fromUnixNano(e.lastStep.Load()),
		BusySince: e.owner.busySince(),
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
		s.Reason, s.Failure = fatalKind(e.failure).Error(), e.failure
	case StateReady:
	}
	// A request counts as waiting from Submit on, also before the owner has
	// seen it.
	s.Running = min(g.running, e.sequences)
	s.Waiting = e.sequences - s.Running
	if e.serving != nil {
		m := e.serving.describe()
		s.Model = &m
		s.Device.MemoryUsed = m.Memory.Weights + m.Memory.KV + m.Memory.Scratch
	}
	return s
}

// deviceInfo asks the device, and once it has failed remembers what it said
// last.
func (e *Engine) deviceInfo() device.Info {
	if last := e.info.Load(); last != nil && e.failureNow() != nil {
		return *last
	}
	info := e.dev.Info()
	e.info.Store(&info)
	return info
}

// nanos is a time as the scheduler takes it, by a clock that does not jump.
func (e *Engine) nanos(t time.Time) int64 { return int64(t.Sub(e.born)) }

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
	case e.failure != nil:
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

// drainPatience is how long Drain waits, beyond its deadline, for the step in
// flight.
const drainPatience = time.Second

// Drain refuses new work and waits until every stream has ended, or until ctx
// ends, when it ends the rest with ErrDraining: a step that is in flight then
// gets a second more, and is left to itself. Close does not wait for it.
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
	patience := time.NewTimer(drainPatience)
	defer patience.Stop()
	for {
		select {
		case <-idle:
			return ctx.Err()
		case <-e.owner.done:
			return ctx.Err()
		case <-patience.C:
			e.owner.takeOver(e.owner.current.Load(), ErrDraining)
			patience.Reset(watchEvery) // the next call, if it was between two
		}
	}
}

// Close ends every stream with ErrDraining, waits for the engine's goroutines
// and for a load in progress, and closes the device. It waits for nothing that
// is stuck in a device that has failed, and leaves such a device alone.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.draining = true
	e.update()
	flight := e.flight
	e.mu.Unlock()
	e.stop(ErrDraining)
	if flight != nil {
		select {
		case <-flight.done:
		case <-e.owner.dead:
		case <-e.failed:
		}
	}
	if e.owner.close() && e.usable() {
		return e.dev.Close()
	}
	return nil // nothing may be called on the device any more
}

// streamsOf is a model's streams, or with nil all there are, also those that have
// been admitted and that the owner has not seen yet.
func (e *Engine) streamsOf(m *served) []*Stream {
	e.mu.Lock()
	defer e.mu.Unlock()
	var streams []*Stream
	for _, s := range e.streams {
		if m == nil || s.model == m {
			streams = append(streams, s)
		}
	}
	return streams
}

// forget takes so many ended sequences of a stream off the books, and the stream when
// it has none left.
func (e *Engine) forget(s *Stream, sequences int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	sequences = min(sequences, s.booked)
	e.sequences -= sequences
	if s.booked -= sequences; s.booked > 0 {
		return
	}
	delete(e.streams, s.started.ID)
	if len(e.streams) == 0 && e.idle != nil {
		close(e.idle)
		e.idle = nil
	}
}
