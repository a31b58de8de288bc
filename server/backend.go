package server

import (
	"context"

	"kigo/engine"
	"kigo/engine/chat"
	"kigo/engine/tokenizer"
)

// backend is what the edge asks of an engine. Only [engine.Engine] implements
// it in the program; tests put conditions behind it that no healthy engine
// reaches, such as a lost device.
type backend interface {
	Load(ctx context.Context, r engine.LoadRequest, progress func(engine.LoadProgress)) (*engine.ModelInfo, error)
	Unload(ctx context.Context, name string) error
	Models() []engine.ModelInfo
	Tokenizer(name string) (*tokenizer.Tokenizer, *chat.Template, error)
	Check(r engine.Request) error
	Submit(ctx context.Context, r engine.Request) (tokenStream, error)
	Cancel(id string) error
	Status() engine.Status
	Stats() *engine.Stats
	Changed() <-chan struct{}
	Drain(ctx context.Context) error
}

// tokenStream is the part of [engine.Stream] that the edge uses.
type tokenStream interface {
	Started() engine.Started
	Next(ctx context.Context) (engine.Event, error)
}

// engineBackend narrows Submit's result; everything else is the engine's own.
type engineBackend struct{ *engine.Engine }

func (b engineBackend) Submit(ctx context.Context, r engine.Request) (tokenStream, error) {
	s, err := b.Engine.Submit(ctx, r)
	if err != nil {
		return nil, err
	}
	return s, nil
}
