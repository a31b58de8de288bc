package server_test

import (
	"context"
	"io"
	"sync"

	"kigo/engine"
	"kigo/engine/chat"
	"kigo/engine/tokenizer"
	"kigo/server"
)

// fakeEngine stands for conditions that no healthy engine reaches: it does
// what its fields say. Everything else about it is ready and empty.
type fakeEngine struct {
	mu      sync.Mutex
	status  engine.Status
	stats   engine.Stats
	changed chan struct{}

	submit func(context.Context, engine.Request) (server.TokenStream, error)
	load   func(context.Context, engine.LoadRequest, func(engine.LoadProgress)) (*engine.ModelInfo, error)
	drain  func(context.Context) error
	check  func(engine.Request) error
}

func newFake() *fakeEngine {
	return &fakeEngine{
		status:  engine.Status{State: engine.StateReady, Model: &engine.ModelInfo{Name: "fake"}},
		changed: make(chan struct{}),
	}
}

// set changes the status, and tells about it as the engine does.
func (f *fakeEngine) set(change func(*engine.Status)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.status.State
	change(&f.status)
	if f.status.State != before {
		close(f.changed)
		f.changed = make(chan struct{})
	}
}

func (f *fakeEngine) Status() engine.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

func (f *fakeEngine) Stats() *engine.Stats { return &f.stats }

func (f *fakeEngine) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (f *fakeEngine) Models() []engine.ModelInfo { return []engine.ModelInfo{{Name: "fake"}} }

func (f *fakeEngine) Tokenizer(string) (*tokenizer.Tokenizer, *chat.Template, error) {
	return nil, nil, engine.ErrNoModel
}

func (f *fakeEngine) Unload(context.Context, string) error { return engine.ErrNoModel }

func (f *fakeEngine) Cancel(string) error { return engine.ErrUnknownRequest }

func (f *fakeEngine) Load(ctx context.Context, r engine.LoadRequest, p func(engine.LoadProgress)) (*engine.ModelInfo, error) {
	return f.load(ctx, r, p)
}

func (f *fakeEngine) Check(r engine.Request) error {
	if f.check == nil {
		return nil
	}
	return f.check(r)
}

func (f *fakeEngine) Submit(ctx context.Context, r engine.Request) (server.TokenStream, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return f.submit(ctx, r)
}

func (f *fakeEngine) Drain(ctx context.Context) error {
	f.set(func(s *engine.Status) { s.State = engine.StateDraining })
	if f.drain == nil {
		return nil
	}
	return f.drain(ctx)
}

// fakeStream is a stream whose events come from a function.
type fakeStream struct {
	next func(ctx context.Context, n int) (engine.Event, error)
	n    int
}

func (s *fakeStream) Started() engine.Started {
	return engine.Started{ID: "0123456789abcdef0123456789abcdef", Model: "fake", PromptTokens: 1}
}

func (s *fakeStream) Next(ctx context.Context) (engine.Event, error) {
	s.n++
	return s.next(ctx, s.n-1)
}

// tokenEvent is the n-th token, from 0.
func tokenEvent(n int, text string) engine.Event {
	return engine.Event{Tokens: &engine.Tokens{Index: n, IDs: []int32{int32(n)}, Text: text}}
}

// scripted is a stream of tokens with the given texts, then its end.
func scripted(texts ...string) *fakeStream {
	return &fakeStream{next: func(_ context.Context, n int) (engine.Event, error) {
		switch {
		case n < len(texts):
			return tokenEvent(n, texts[n]), nil
		case n == len(texts):
			return engine.Event{End: &engine.End{
				Reason: engine.StopEnd, StopID: -1, PromptTokens: 1, GeneratedTokens: len(texts),
			}}, nil
		}
		return engine.Event{}, io.EOF
	}}
}

// failing is a stream of n tokens that then fails.
func failing(n int, err error) *fakeStream {
	return &fakeStream{next: func(_ context.Context, i int) (engine.Event, error) {
		if i < n {
			return tokenEvent(i, "x"), nil
		}
		return engine.Event{}, err
	}}
}

// submits answers every request with the same kind of stream.
func submits(f *fakeEngine, stream func() server.TokenStream) *fakeEngine {
	f.submit = func(context.Context, engine.Request) (server.TokenStream, error) { return stream(), nil }
	return f
}
