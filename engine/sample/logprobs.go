package sample

import (
	"fmt"
	"math"
	"slices"
)

// Logprob is the natural logarithm of a token's probability.
type Logprob struct {
	ID    int32
	Value float32
}

// Logprobs gives the log-probability of a token, and the n most likely tokens
// with theirs in falling order, of equal ones the lowest id first. It takes
// the logits as the model made them: bias, penalties, temperature and filters
// play no part. ErrNaN as for [Sampler.Sample].
func Logprobs(logits []float32, id int32, n int) (chosen Logprob, top []Logprob, err error) {
	if id < 0 || int(id) >= len(logits) {
		return Logprob{}, nil, fmt.Errorf("token %d is outside the vocabulary of %d", id, len(logits))
	}
	norm, largest, err := LogSum(logits)
	if err != nil {
		return Logprob{}, nil, err
	}
	of := func(i int32) Logprob { return Logprob{i, float32(float64(logits[i]) - norm)} }

	n = min(max(n, 0), len(logits))
	if n == 0 {
		return of(id), nil, nil
	}
	s := Sampler{params: Params{Temperature: 1, TopK: n}, vocab: len(logits)}
	list := s.topK(logits, logits[largest], n)
	for _, c := range list.cands {
		top = append(top, of(c.id))
	}
	return of(id), slices.Clip(top), nil
}

// LogSum gives the logarithm of the sum of the logits' exponentials, in float64:
// a token's logit less that is its log-probability. largest is the token with the
// largest logit, of equal ones the one with the lowest id. ErrNaN as for
// [Sampler.Sample].
func LogSum(logits []float32) (sum float64, largest int32, err error) {
	best, at := negInf, -1
	for i, logit := range logits {
		if logit <= best {
			continue
		}
		if logit != logit || logit > math.MaxFloat32 {
			return 0, -1, fmt.Errorf("%w: %v for token %d", ErrNaN, logit, i)
		}
		best, at = logit, i
	}
	if at < 0 {
		return 0, -1, ErrNoToken
	}
	for _, logit := range logits {
		sum += math.Exp(float64(logit) - float64(best))
	}
	return float64(best) + math.Log(sum), int32(at), nil
}
