package tokenizer

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
)

// noRank is the rank of a pair that has no merge: later than every merge.
const noRank = math.MaxUint32

// merges maps a pair of token ids to the merge that joins them. Like index it
// is open addressing with linear probing; the multiplier is random, so that a
// file cannot be made of collisions.
type merges struct {
	multiplier uint64
	shift      uint
	mask       uint64
	slots      []mergeSlot
}

type mergeSlot struct {
	pair uint64 // left id, right id, plus 1; 0 is free
	rank uint32 // place in the file: the lower, the more urgent
	id   int32  // token that the two become
}

type resolvedMerge struct{ left, right, id int32 }

func pairKey(left, right int32) uint64 {
	return (uint64(uint32(left))<<32 | uint64(uint32(right))) + 1
}

// find gives the rank and the result of joining two tokens; noRank if they do
// not join.
func (m *merges) find(left, right int32) (rank uint32, id int32) {
	key := pairKey(left, right)
	for at := key * m.multiplier >> m.shift; ; at = (at + 1) & m.mask {
		switch s := &m.slots[at]; s.pair {
		case key:
			return s.rank, s.id
		case 0:
			return noRank, -1
		}
	}
}

// newMerges resolves the merges' texts to ids, on all cores, and fills the
// table. Every merge must name tokens of the vocabulary and join them into
// one.
func newMerges(texts []string, x *index) (*merges, error) {
	resolved, err := resolveMerges(texts, x)
	if err != nil {
		return nil, err
	}
	width := uint(bits.Len(uint(2 * len(texts)))) // at most half full
	m := &merges{
		multiplier: rand.Uint64() | 1,
		shift:      64 - width,
		mask:       1<<width - 1,
		slots:      make([]mergeSlot, 1<<width),
	}
	for rank, r := range resolved {
		key := pairKey(r.left, r.right)
		at := key * m.multiplier >> m.shift
		for ; m.slots[at].pair != 0; at = (at + 1) & m.mask {
			if m.slots[at].pair == key {
				return nil, fmt.Errorf("%w: merges %d and %d are both %s", ErrVocabulary, m.slots[at].rank, rank, quote(texts[rank]))
			}
		}
		m.slots[at] = mergeSlot{pair: key, rank: uint32(rank), id: r.id}
	}
	return m, nil
}

func resolveMerges(texts []string, x *index) ([]resolvedMerge, error) {
	resolved := make([]resolvedMerge, len(texts))
	parts := min(runtime.GOMAXPROCS(0), 8, len(texts)/4096+1)
	errs := make([]error, parts)
	var wg sync.WaitGroup
	for p := range parts {
		from, to := p*len(texts)/parts, (p+1)*len(texts)/parts
		wg.Go(func() { errs[p] = resolveRange(resolved, texts, from, to, x) })
	}
	wg.Wait()
	for _, err := range errs { // the first part's error names the first bad merge
		if err != nil {
			return nil, err
		}
	}
	return resolved, nil
}

func resolveRange(resolved []resolvedMerge, texts []string, from, to int, x *index) error {
	var joined []byte
	guess := int32(-1)
	for i := from; i < to; i++ {
		text := texts[i]
		// The left part has at least one byte; it ends at the first space
		// after that, as llama.cpp has it.
		cut := -1
		if len(text) > 1 {
			cut = strings.IndexByte(text[1:], ' ') + 1
		}
		if cut <= 0 || cut == len(text)-1 {
			return fmt.Errorf("%w: merge %d (%s) is not two texts with a space between", ErrVocabulary, i, quote(text))
		}
		left, right := text[:cut], text[cut+1:]
		r := &resolved[i]
		var ok bool
		if r.left, ok = x.find(left); !ok {
			return fmt.Errorf("%w: merge %d (%s) names %s, which is not a token", ErrVocabulary, i, quote(text), quote(left))
		}
		if r.right, ok = x.find(right); !ok {
			return fmt.Errorf("%w: merge %d (%s) names %s, which is not a token", ErrVocabulary, i, quote(text), quote(right))
		}
		// Vocabularies are nearly always written in the order of the merges,
		// so the next id is tried before the table is searched.
		guess++
		if int(guess) < len(x.texts) && isConcat(x.texts[guess], left, right) {
			r.id = guess
			continue
		}
		joined = append(append(joined[:0], left...), right...)
		if r.id, ok = x.findBytes(joined); !ok {
			return fmt.Errorf("%w: merge %d (%s) makes %s, which is not a token", ErrVocabulary, i, quote(text), quote(string(joined)))
		}
		guess = r.id
	}
	return nil
}

func isConcat(s, left, right string) bool {
	return len(s) == len(left)+len(right) && s[:len(left)] == left && s[len(left):] == right
}
