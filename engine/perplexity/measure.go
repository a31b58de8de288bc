package perplexity

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"kigo/engine/sample"
)

// span is a step's part of a chunk: rows from position start on. The logits of all
// of them are wanted, or of none.
type span struct {
	start, rows int
	counted     bool
}

// spans cuts a chunk's positions into steps. The last position predicts a token
// beyond the chunk and is left out; the first one that counts is that of half the
// context, and predicts the token after it.
func spans(context, stepRows, logitRows int) []span {
	var all []span
	add := func(from, to, most int, counted bool) {
		for at := from; at < to; at += most {
			all = append(all, span{at, min(most, to-at), counted})
		}
	}
	add(0, context/2, stepRows, false)
	add(context/2, context-1, min(stepRows, logitRows), true)
	return all
}

// measure runs the chunks. The tokens are not changed.
func (t *target) measure(ctx context.Context, tokens []int32, chunks int, o Options) (*Report, error) {
	steps := spans(o.Context, t.stepRows, t.logitRows)
	compared := len(t.runners) > 1
	s := sums{}
	report := &Report{Tokens: len(tokens), Context: o.Context, Chunks: chunks}
	p := Progress{Chunks: chunks, Total: chunks * (o.Context - 1)}
	for c := range chunks {
		chunk := tokens[c*o.Context : (c+1)*o.Context]
		input := slices.Clone(chunk)
		if bos, ok := t.bos(); ok {
			input[0] = bos
		}
		for _, step := range steps {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			for _, r := range t.runners {
				if err := r.run(input, step); err != nil {
					return nil, fmt.Errorf("chunk %d, position %d: %w", c+1, step.start, err)
				}
			}
			if step.counted {
				rows, err := t.predict(chunk, step, o.Threads)
				if err != nil {
					return nil, fmt.Errorf("chunk %d: %w", c+1, err)
				}
				for _, row := range rows {
					s.add(row, compared)
				}
			}
			p.Tokens += step.rows
			if o.Progress != nil {
				p.Perplexity, p.KL = s.perplexity(), s.kl.mean(s.n)
				o.Progress(p)
			}
		}
		p.Chunk++
		report.Running = append(report.Running, s.perplexity().Value)
	}
	report.Device = t.runners[0].describe()
	report.Counted, report.Perplexity = s.n, s.perplexity()
	if compared {
		report.Divergence = s.divergence()
		report.Divergence.Device = t.runners[1].describe()
	}
	return report, nil
}

// predict looks at the logits of a step, several rows at a time.
func (t *target) predict(chunk []int32, step span, threads int) ([]predicted, error) {
	rows, errs := make([]predicted, step.rows), make([]error, step.rows)
	if threads == 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	var group errgroup.Group
	group.SetLimit(threads)
	for i := range rows {
		group.Go(func() error {
			next := chunk[step.start+i+1]
			if len(t.runners) == 1 {
				rows[i], errs[i] = alone(t.runners[0].row(i), next)
			} else {
				rows[i], errs[i] = compare(t.runners[0].row(i), t.runners[1].row(i), next)
			}
			return errs[i]
		})
	}
	if group.Wait() == nil {
		return rows, nil
	}
	first := slices.IndexFunc(errs, func(err error) bool { return err != nil })
	return nil, fmt.Errorf("position %d: %w", step.start+first, errs[first])
}

// alone takes the logits of a place and the token that comes next.
func alone(logits []float32, next int32) (predicted, error) {
	sum, _, err := sample.LogSum(logits)
	if err != nil {
		return predicted{}, err
	}
	return predicted{nll: sum - float64(logits[next])}, nil
}

// compare takes the logits of both models for a place and the token that comes
// next.
func compare(own, base []float32, next int32) (predicted, error) {
	ownSum, ownTop, err := sample.LogSum(own)
	if err != nil {
		return predicted{}, err
	}
	baseSum, baseTop, err := sample.LogSum(base)
	if err != nil {
		return predicted{}, fmt.Errorf("the base: %w", err)
	}
	p := predicted{
		nll:     ownSum - float64(own[next]),
		baseNLL: baseSum - float64(base[next]),
		sameTop: ownTop == baseTop,
	}
	for i, logit := range base {
		logP := float64(logit) - baseSum
		if share := math.Exp(logP); share > 0 { // 0 times an infinite logarithm counts as 0
			p.kl += share * (logP - (float64(own[i]) - ownSum))
		}
	}
	return p, nil
}
