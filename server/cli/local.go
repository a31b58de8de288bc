package cli

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"kigo/engine"
	"kigo/engine/chat"
	"kigo/engine/sample"
	kigov1 "kigo/proto/kigo/v1"
)

// local generates in this process.
type local struct{ engine *engine.Engine }

// openLocal loads a model file into an engine of its own.
func (a *app) openLocal(ctx context.Context, opt runOptions) (generator, error) {
	path := opt.file
	f, err := openModel(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the engine has read it when Load returns
	e, err := engine.New(engine.Config{
		Device:        opt.device,
		Threads:       opt.threads,
		MaxConcurrent: int(opt.answers),
		SlowReader:    time.Hour, // whoever reads standard output may take the time
		Log:           zerolog.Nop(),
	})
	if err != nil {
		return nil, err
	}
	bar := a.newProgress()
	_, err = e.Load(ctx, engine.LoadRequest{Name: modelName(path), File: f}, func(p engine.LoadProgress) {
		bar.Set("loading", p.BytesDone, p.BytesTotal)
	})
	bar.Close()
	if err != nil {
		e.Close() //nolint:errcheck // the load's error is the one to report
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &local{e}, nil
}

func (m *local) Close() error { return m.engine.Close() }

func (m *local) Generate(ctx context.Context, r *kigov1.ExecuteRequest, emit func(int, string) error) (answer, error) {
	// What ends this function ends the stream.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var a answer
	stream, err := m.engine.Submit(ctx, engineRequest(r))
	if err != nil {
		return a, err
	}
	for {
		event, err := stream.Next(ctx)
		if err != nil {
			return a, err
		}
		if end := event.End; end != nil {
			a.prompt, a.prefill = end.PromptTokens, end.Prefill
			for _, one := range end.Answers() {
				a.add(stopReason(one.Reason), one.GeneratedTokens, one.Decode)
			}
			return a, nil
		}
		if text := event.Tokens.Text; text != "" {
			a.printed = true
			if err := emit(event.Tokens.Sample, text); err != nil {
				return a, err
			}
		}
	}
}

// engineRequest turns what the command's flags can say into the engine's terms.
func engineRequest(r *kigov1.ExecuteRequest) engine.Request {
	s := sample.Defaults()
	p := r.GetSampling()
	override(&s.Temperature, p.Temperature)
	override(&s.TopP, p.TopP)
	override(&s.MinP, p.MinP)
	override(&s.RepetitionPenalty, p.RepetitionPenalty)
	if p.TopK != nil {
		s.TopK = int(*p.TopK)
	}
	s.Seed = randomSeed()
	override(&s.Seed, p.Seed)
	request := engine.Request{
		Text:       r.GetText(),
		AddSpecial: true,
		Sampling:   s,
		MaxTokens:  int(r.GetMaxTokens()),
		Samples:    int(r.GetN()),
		Stop:       r.GetStop(),
		Logprobs:   -1,

		PromptLogprobs: -1,
	}
	for _, m := range r.GetChat().GetMessages() {
		request.Messages = append(request.Messages, chat.Message{Role: m.GetRole(), Content: m.GetContent()})
	}
	return request
}

func override[T any](field *T, value *T) {
	if value != nil {
		*field = *value
	}
}

func randomSeed() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the process instead
	return binary.LittleEndian.Uint64(b[:])
}

func stopReason(r engine.StopReason) string {
	switch r {
	case engine.StopMaxTokens:
		return "max tokens"
	case engine.StopEnd:
		return "end"
	case engine.StopSequence:
		return "sequence"
	case engine.StopCancelled:
		return "cancelled"
	}
	return "unspecified"
}
