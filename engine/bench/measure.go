package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"kigo/engine"
	"kigo/engine/sample"
	"kigo/engine/tokenizer"
)

// loads opens the device and loads the model, again and again; the last engine
// stays for what follows.
func (b *bencher) loads(ctx context.Context) error {
	stages := []struct {
		name string
		of   func(t *engine.LoadTimes) time.Duration
	}{
		{"load: parse", func(t *engine.LoadTimes) time.Duration { return t.Parse }},
		{"load: read", func(t *engine.LoadTimes) time.Duration { return t.Read }},
		{"load: prove", func(t *engine.LoadTimes) time.Duration { return t.Verify }},
		{"load: compile", func(t *engine.LoadTimes) time.Duration { return t.Compile }},
		{"load: first token", func(t *engine.LoadTimes) time.Duration { return t.FirstToken }},
	}
	var opened, total, read, proven []float64
	took := make([][]float64, len(stages))
	_, err := b.repeat(ctx, "load", func() (float64, error) {
		if b.engine != nil {
			e := b.engine
			b.engine = nil
			if err := e.Close(); err != nil {
				return 0, err
			}
		}
		begun := time.Now()
		var err error
		if b.engine, err = b.open(func(*engine.Config) {}); err != nil {
			return 0, err
		}
		opened = append(opened, milliseconds(time.Since(begun)))
		if len(total) == 0 {
			if err := b.rates(ctx, b.engine); err != nil {
				return 0, err
			}
		}
		if b.info, err = b.engine.Load(ctx, engine.LoadRequest{Name: "bench", File: b.File}, nil); err != nil {
			return 0, err
		}
		t := &b.info.Load
		total = append(total, milliseconds(t.Total))
		for i, s := range stages {
			took[i] = append(took[i], milliseconds(s.of(t)))
		}
		read = append(read, float64(b.bytes)/t.Read.Seconds()/1e9)
		proven = append(proven, float64(b.bytes)/(t.Read+t.Verify).Seconds()/1e9)
		return 0, nil
	})
	if err != nil {
		return err
	}
	b.cost.token = float64(b.info.TokenBytes)
	status := b.engine.Status()
	b.report.Model = Model{
		Name: b.info.Description, Formats: b.info.Quantization, Parameters: b.info.Parameters,
		Bytes: b.bytes, Context: b.info.ContextLength,
	}
	b.report.Device = Device{Kind: status.Device.Kind, Name: status.Device.Name, Driver: status.Device.Driver, Threads: status.Device.Threads}

	b.add(row("open the device", "ms", opened))
	b.add(row("load to first token", "ms", total))
	for i, s := range stages {
		b.add(row(s.name, "ms", took[i]))
	}
	link, work := 0.0, &Work{Bytes: float64(b.bytes)}
	if r := b.report.Rates; r != nil {
		link = r.Upload.PerSecond / 1e9
	}
	b.add(row("load: read", "GB/s", read).limited(link, "link", work))
	b.add(row("load: read and prove", "GB/s", proven).limited(link, "link", work))
	return nil
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1e3 }

// text is prose with numbers, code and other scripts.
const text = `The old pond, a frog jumps in: 42 rings of water spread. for i := range 10 { fmt.Println(i) }
Die Straße führt über den Fluss; 古池や蛙飛びこむ水の音。 Москва — столица России. naïve café, 3.14159!
`

// tokenizer measures it, and makes the tokens of the prompts.
func (b *bencher) tokenizer(ctx context.Context) error {
	tok, _, err := b.engine.Tokenizer("")
	if err != nil {
		return err
	}
	long := []byte(strings.Repeat(text, 4000))
	values, err := b.repeat(ctx, "tokenize", func() (float64, error) {
		begun := time.Now()
		tok.Encode(long, tokenizer.EncodeOptions{})
		return float64(len(long)) / time.Since(begun).Seconds() / 1e6, nil
	})
	if err != nil {
		return err
	}
	b.add(row("tokenize", "MB/s", values))
	b.ids = tok.Encode([]byte(text), tokenizer.EncodeOptions{})
	return nil
}

// prompt is n tokens.
func (b *bencher) prompt(n int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = b.ids[i%len(b.ids)]
	}
	return ids
}

// fits says whether so many tokens are within the model's context, and notes it
// if not.
func (b *bencher) fits(name string, tokens int) bool {
	if tokens <= b.info.ContextLength {
		return true
	}
	b.note("%s is left out: it takes %d tokens, and the context is %d", name, tokens, b.info.ContextLength)
	return false
}

// prefills processes prompts, up to the first token that follows.
func (b *bencher) prefills(ctx context.Context) error {
	// One that is not counted: whatever is done once is done.
	if _, err := b.request(ctx, b.prompt(1), 2); err != nil {
		return err
	}
	for _, n := range unique(b.Prompts) {
		name := fmt.Sprintf("prefill %d", n)
		if !b.fits(name, n+1) {
			continue
		}
		values, err := b.repeat(ctx, name, func() (float64, error) {
			end, err := b.request(ctx, b.prompt(n), 1)
			if err != nil {
				return 0, err
			}
			return float64(n) / end.Prefill.Seconds(), nil
		})
		if err != nil {
			return err
		}
		b.add(b.limit(row(name, "tokens/s", values), n, b.cost.of(pass{rows: n, logits: 1})))
	}
	return nil
}

// decodes generates tokens one after another; the prompt before them, of one token
// at least, and the token that it gives are not counted.
func (b *bencher) decodes(ctx context.Context) error {
	for _, at := range unique(b.Contexts) {
		name := fmt.Sprintf("decode %d at context %d", b.Generate, at)
		prompt := max(at, 1)
		if !b.fits(name, prompt+b.Generate+1) {
			continue
		}
		values, err := b.repeat(ctx, name, func() (float64, error) {
			end, err := b.request(ctx, b.prompt(prompt), b.Generate+1)
			if err != nil {
				return 0, err
			}
			return float64(b.Generate) / end.Decode.Seconds(), nil
		})
		if err != nil {
			return err
		}
		b.add(b.limit(row(name, "tokens/s", values), b.Generate, b.cost.generating(prompt, b.Generate)))
	}
	return nil
}

// limit adds the limit of a row of so many tokens and so much work.
func (b *bencher) limit(r Row, tokens int, w Work) Row {
	seconds, by := w.seconds(b.report.Rates)
	if seconds <= 0 {
		return r
	}
	return r.limited(float64(tokens)/seconds, by, &w)
}

// request generates greedily and waits for the end.
func (b *bencher) request(ctx context.Context, prompt []int32, generate int) (*engine.End, error) {
	stream, err := b.submit(ctx, prompt, generate)
	if err != nil {
		return nil, err
	}
	for {
		ev, err := stream.Next(ctx)
		if err != nil {
			return nil, err
		}
		if ev.End == nil {
			continue
		}
		if ev.End.GeneratedTokens != generate {
			return nil, fmt.Errorf("%d tokens were generated, %d asked for", ev.End.GeneratedTokens, generate)
		}
		return ev.End, nil
	}
}

func (b *bencher) submit(ctx context.Context, prompt []int32, generate int) (*engine.Stream, error) {
	params := sample.Defaults()
	params.Temperature, params.IgnoreEnd = 0, true
	return b.engine.Submit(ctx, engine.Request{
		Tokens: prompt, Sampling: params, MaxTokens: generate, Logprobs: -1, PromptLogprobs: -1,
	})
}

// profileTimes is how often each kind of operator runs for its figure.
const profileTimes = 20

// profiles measures steps in the middle of what decodes does, and the last steps
// of prompts.
func (b *bencher) profiles(ctx context.Context) error {
	if !b.Profile {
		return nil
	}
	type step struct {
		name         string
		tokens, rows int
	}
	var steps []step
	for _, n := range unique(b.Prompts) {
		steps = append(steps, step{fmt.Sprintf("prefill %d", n), n, n})
	}
	for _, at := range unique(b.Contexts) {
		steps = append(steps, step{fmt.Sprintf("decode at context %d", at), max(at, 1) + b.Generate/2 + 1, 1})
	}
	for _, s := range steps {
		if !b.fits("the profile of "+s.name, s.tokens) {
			continue
		}
		b.Progress("profile of " + s.name)
		p, err := b.engine.Profile(ctx, "", s.tokens, s.rows, profileTimes)
		switch {
		case errors.Is(err, engine.ErrFatal):
			return err
		case errors.Is(err, engine.ErrNotSupported):
			b.note("no profile: not on this device (%s)", b.report.Device.Kind)
			return nil
		case err != nil:
			return fmt.Errorf("profile of %s: %w", s.name, err)
		}
		b.report.Profiles = append(b.report.Profiles, b.profile(s.name, p))
	}
	return nil
}

// profile adds to the times of a step what its operators take at least.
func (b *bencher) profile(name string, p *engine.StepProfile) Profile {
	out := Profile{Step: name, Rows: p.Rows, Start: p.Start}
	at := pass{start: p.Start, rows: p.Rows, logits: 1}
	for _, t := range p.Parts {
		part := Part{Name: t.Name, Count: len(t.Ops), All: float64(t.Time) / 1e3}
		part.Each = part.All / float64(max(part.Count, 1))
		for _, i := range t.Ops {
			part.Work = part.Work.plus(b.cost.op(b.cost.prog.Ops[i], at))
		}
		if least, by := part.Work.seconds(b.report.Rates); least > 0 {
			part.Limit, part.By = least*1e6, by
			if part.All > 0 {
				part.Share = part.Limit / part.All
			}
		}
		out.Parts = append(out.Parts, part)
	}
	return out
}
