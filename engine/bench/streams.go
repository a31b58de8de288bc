package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"kigo/engine"
)

// streamPrompt is the length of the prompts that many streams begin with.
const streamPrompt = 128

// streams measures how many tokens a second many streams get together: all of them
// while all generate, and from the first request on until each has its tokens. The
// first is what llama-batched-bench calls S_TG.
func (b *bencher) streams(ctx context.Context) error {
	for _, n := range unique(b.Streams) {
		name := fmt.Sprintf("streams %d", n)
		// Those whose prompts are processed first generate while others' are; how
		// many tokens depends on the chunks.
		most := streamPrompt + b.Generate + n*streamPrompt/16 + 16
		if most > b.info.TrainContext {
			if most = b.info.TrainContext; streamPrompt+2*b.Generate > most {
				b.note("%s is left out: the context is %d", name, most)
				continue
			}
		}
		if err := b.reopen(ctx, func(cfg *engine.Config) {
			cfg.MaxConcurrent, cfg.MaxContext, cfg.CacheTokens = n, most, n*most
		}); err != nil {
			return err
		}
		var whole []float64
		alone, err := b.repeat(ctx, name, func() (float64, error) {
			generated, all, err := b.together(ctx, n, most-streamPrompt)
			whole = append(whole, all)
			return generated, err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		b.add(row(name+": generating", "tokens/s", alone))
		b.add(row(name+": in all", "tokens/s", whole))
	}
	return nil
}

// reopen loads the model again, into an engine with other limits.
func (b *bencher) reopen(ctx context.Context, set func(*engine.Config)) error {
	b.Progress("load")
	if e := b.engine; e != nil {
		b.engine = nil
		if err := e.Close(); err != nil {
			return err
		}
	}
	var err error
	if b.engine, err = b.open(set); err != nil {
		return err
	}
	_, err = b.engine.Load(ctx, engine.LoadRequest{Name: "bench", File: b.File}, nil)
	return err
}

// gathering is what the readers of many streams have seen together.
type gathering struct {
	mu       sync.Mutex
	n, each  int
	begun    time.Time
	started  int       // streams with a first token
	done     int       // streams with the tokens that were asked for
	tokens   int       // of all
	all      time.Time // when the last one started
	at       int       // tokens then
	alone    float64   // tokens a second while all generate
	whole    float64   // tokens a second from the beginning on
	finished func()
}

// take notes tokens of a stream that had had so many.
func (g *gathering) take(had, more int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.tokens += more
	if had == 0 {
		if g.started++; g.started == g.n {
			g.all, g.at = now, g.tokens
		}
	}
	if had < g.each && had+more >= g.each {
		if g.done++; g.done == g.n {
			g.whole = float64(g.n*g.each) / now.Sub(g.begun).Seconds()
		}
	}
	if g.alone == 0 && !g.all.IsZero() && g.tokens-g.at >= g.n*g.each {
		g.alone = float64(g.tokens-g.at) / now.Sub(g.all).Seconds()
	}
	if g.alone > 0 && g.whole > 0 {
		g.finished()
	}
}

// together runs n streams of at most so many tokens until enough have come.
func (b *bencher) together(ctx context.Context, n, most int) (alone, whole float64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g := &gathering{n: n, each: b.Generate, begun: time.Now(), finished: cancel}
	errs := make([]error, n)
	var readers sync.WaitGroup
	for i := range n {
		ids := b.prompt(streamPrompt)
		ids[0] = b.ids[i%len(b.ids)]
		s, err := b.submit(ctx, ids, most)
		if err != nil {
			errs[i] = err
			cancel()
			break
		}
		readers.Go(func() {
			for had := 0; ; {
				ev, err := s.Next(ctx)
				if err != nil || ev.End != nil {
					errs[i] = err
					return
				}
				if ev.Tokens != nil {
					g.take(had, len(ev.Tokens.IDs))
					had += len(ev.Tokens.IDs)
				}
			}
		})
	}
	readers.Wait()
	if g.alone > 0 && g.whole > 0 {
		return g.alone, g.whole, b.settle()
	}
	return 0, 0, errors.Join(append(errs, errors.New("the streams ended before they had all begun"))...)
}

// settle waits until the engine has let go of streams that were cancelled.
func (b *bencher) settle() error {
	for {
		s := b.engine.Status()
		if s.Failure != nil {
			return s.Failure
		}
		if s.Running+s.Waiting == 0 {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
}
