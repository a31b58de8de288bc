// Package engine turns prompts into tokens.
package engine

import (
	"context"
	"io"
	"io/fs"
	"kigo/engine/chat"
	"kigo/engine/tokenizer"
	"time"

	"github.com/rs/zerolog"
)

// Config is fixed for an engine's life.
type Config struct {
	Device        string        // "cpu", or "auto"
	Threads       int           // CPU worker threads; 0 means all
	Reference     bool          // float32 weights and float64 sums on the CPU: slow, the oracle
	MaxContext    int           // cap on the tokens of one sequence; 0 means the model's own
	MaxConcurrent int           // sequences that take part in steps at one time
	MaxQueue      int           // requests that wait beyond those
	StreamBuffer  int           // events held for a reader that lags before its sequence pauses
	SlowReader    time.Duration // how long a paused sequence keeps its place
	SkipVerify    bool          // load without proving that the device holds the file's bytes
	Log           zerolog.Logger
}

// File is what a model is loaded from; *os.File is one. The caller keeps
// ownership and may close it when Load has returned.
type File interface {
	io.ReaderAt
	Stat() (fs.FileInfo, error)
}

// LoadRequest names a model and the open file that holds it.
type LoadRequest struct {
	Name    string
	File    File
	Replace bool // swap it for the model that is loaded, if one is
}

// Engine owns one device and the models on it. All methods may be called from
// any goroutine.
type Engine struct{}

// New makes an engine and opens its device.
func New(cfg Config) (*Engine, error) { panic("under construction") }

// Load brings a model onto the device, proves it, generates one token with
// it, and only then puts it in service. A load that fails or is cancelled
// leaves things as they were. progress may be nil; it is called from Load's
// own goroutine.
func (e *Engine) Load(ctx context.Context, r LoadRequest, progress func(LoadProgress)) (*ModelInfo, error) {
	panic("under construction")
}

// Unload ends the model's streams and frees its memory. ErrNoModel if there is none of that name.
func (e *Engine) Unload(ctx context.Context, name string) error { panic("under construction") }

// Models lists the loaded models.
func (e *Engine) Models() []ModelInfo { panic("under construction") }

// Tokenizer gives the loaded model's tokenizer and chat template (nil if the file has none); name may be empty.
func (e *Engine) Tokenizer(name string) (*tokenizer.Tokenizer, *chat.Template, error) {
	panic("under construction")
}

// Submit validates the request and queues it. The stream ends with ctx: when
// ctx is cancelled or expires, the sequence leaves the device by the end of
// the step after the one in flight.
func (e *Engine) Submit(ctx context.Context, r Request) (*Stream, error) { panic("under construction") }

// Cancel ends a running or queued request as if its stream's Cancel had been called. ErrUnknownRequest if there is none.
func (e *Engine) Cancel(id string) error { panic("under construction") }

// Status is cheap and never waits for the device.
func (e *Engine) Status() Status { panic("under construction") }

// Changed is closed at the next change of Status().State; ask again afterwards.
func (e *Engine) Changed() <-chan struct{} { panic("under construction") }

// Drain refuses new work and waits until every stream has ended, or until ctx
// ends, when it ends the rest with ErrDraining.
func (e *Engine) Drain(ctx context.Context) error { panic("under construction") }

// Close ends every stream, waits for the engine's goroutines and closes the device.
func (e *Engine) Close() error { panic("under construction") }

// Stream is one request's output: Started once, then events in order, ended
// by exactly one End event or one error.
type Stream struct{}

// Started describes the admitted request.
func (s *Stream) Started() Started { panic("under construction") }

// Next waits for the next event. After End it returns io.EOF. Any other error
// is the stream's one terminal status: ErrSlowReader, ErrDeviceLost, ErrDraining,
// or the context's own error. Not for concurrent use.
func (s *Stream) Next(ctx context.Context) (Event, error) { panic("under construction") }

// Cancel ends the stream with StopCancelled; tokens generated so far are delivered. Safe to call at any time, from anywhere.
func (s *Stream) Cancel() { panic("under construction") }
