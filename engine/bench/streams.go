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

// errApart says that some streams were done before the others had begun: on a busy
// machine a small model is faster than whoever submits the requests.
var errApart = errors.New("the streams ended before they had all begun")

// tries is how often streams may be apart.
const tries = 10

// streams measures how many tokens a second many streams get together: from the first
// request on until each has its tokens; and then once more, all of them while all
// generate. That is what llama-batched-bench calls S_TG, which has every sequence at the
// same length: so here prompts are found in the cache the second time, or those that are
// processed first would be far ahead when the last one begins.
func (b *bencher) streams(ctx context.Context) error {
	for _, n := range unique(b.Streams) {
		name := fmt.Sprintf("streams %d", n)
		// Those of whose prompts the last block is processed first generate meanwhile; how
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
			cfg.NoPrefixCache = false
		}); err != nil {
			return err
		}
		var whole []float64
		alone, err := b.repeat(ctx, name, func() (float64, error) {
			prompts := b.different(n)
			g, err := b.together(ctx, prompts, b.Generate, false)
			if err != nil {
				return 0, err
			}
			whole = append(whole, g.whole)
			for range tries {
				if g, err = b.together(ctx, prompts, most-streamPrompt, true); !errors.Is(err, errApart) {
					break
				}
			}
			if err != nil {
				return 0, err
			}
			return g.alone, nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		b.add(row(name+": generating", "tokens/s", alone))
		b.add(row(name+": in all", "tokens/s", whole))
	}
	return nil
}

// different are n prompts whose beginnings have not been asked for before.
func (b *bencher) different(n int) [][]int32 {
	prompts := make([][]int32, n)
	ids := unique(b.ids)
	for i := range prompts {
		prompts[i] = b.prompt(streamPrompt)
		prompts[i][0], prompts[i][1] = ids[b.prompts%len(ids)], ids[b.prompts/len(ids)%len(ids)]
		b.prompts++
	}
	return prompts
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
	only     bool      // alone is asked for, else whole
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
	if g.only && g.alone > 0 {
		g.finished()
	}
}

// together runs streams of at most so many tokens: to their end, or until the rate
// while all generate is known.
func (b *bencher) together(ctx context.Context, prompts [][]int32, most int, alone bool) (*gathering, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g := &gathering{n: len(prompts), each: b.Generate, begun: time.Now(), only: alone, finished: cancel}
	errs := make([]error, g.n)
	var readers sync.WaitGroup
	for i, prompt := range prompts {
		s, err := b.submit(ctx, prompt, most)
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
	if alone && g.alone > 0 || !alone && g.whole > 0 {
		return g, b.settle()
	}
	return nil, errors.Join(append(errs, errApart)...)
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
