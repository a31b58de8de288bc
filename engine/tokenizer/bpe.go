package tokenizer

import "slices"

// bpe merges the bytes of a word by byte-pair encoding (Sennrich et al.,
// 2016): of all neighbours that have a merge, the pair with the lowest rank is
// joined first, the leftmost of equals, until none is left.
type bpe struct {
	byteID [256]int32 // token of each single byte, -1 if there is none
	merges *merges
}

// merger holds what merging a word needs, for reuse from word to word. The
// symbols of a word are a doubly linked list over its bytes' positions.
type merger struct {
	syms []symbol
	heap []uint64 // rank<<32 | position of the left symbol
	ops  int      // steps taken, for the test that they grow no faster than n log n
}

type symbol struct {
	id         int32 // -1: a byte without a token, or merged into its left neighbour
	prev, next int32 // positions; -1 at the ends
	rank       uint32
	joined     int32 // token that this and the next become; valid if rank is
}

// append appends the tokens of one word. Bytes that have no token are left
// out, as the reference tokenizers do.
func (b *bpe) append(dst []int32, word []byte, m *merger) []int32 {
	if len(word) == 1 {
		if id := b.byteID[word[0]]; id >= 0 {
			dst = append(dst, id)
		}
		return dst
	}
	m.syms = slices.Grow(m.syms[:0], len(word))
	for i, c := range word {
		m.syms = append(m.syms, symbol{id: b.byteID[c], prev: int32(i) - 1, next: int32(i) + 1})
	}
	m.syms[len(word)-1].next = -1
	m.heap = slices.Grow(m.heap[:0], len(word)) // at once: growing step by step costs more the longer the word
	for i := range len(word) - 1 {
		b.look(m, int32(i))
	}
	m.syms[len(word)-1].rank = noRank

	for len(m.heap) > 0 {
		top := m.pop()
		at := int32(uint32(top))
		left := &m.syms[at]
		// A heap entry is out of date if its left symbol is gone or has
		// another neighbour now. An equal rank means the same pair again, so
		// then it does not matter which of the two entries this was.
		if left.rank != uint32(top>>32) {
			continue
		}
		right := &m.syms[left.next]
		left.id = left.joined
		left.next = right.next
		right.id, right.rank = -1, noRank
		left.rank = noRank
		if left.next >= 0 {
			m.syms[left.next].prev = at
			b.look(m, at)
		}
		if left.prev >= 0 {
			b.look(m, left.prev)
		}
	}
	for at := int32(0); at >= 0; at = m.syms[at].next {
		if id := m.syms[at].id; id >= 0 {
			dst = append(dst, id)
		}
	}
	return dst
}

// look finds the merge of the symbol at a position with the next one and puts
// it on the heap.
func (b *bpe) look(m *merger, at int32) {
	m.ops++
	s := &m.syms[at]
	s.rank = noRank
	right := m.syms[s.next].id
	if s.id < 0 || right < 0 {
		return
	}
	if s.rank, s.joined = b.merges.find(s.id, right); s.rank != noRank {
		m.push(uint64(s.rank)<<32 | uint64(at))
	}
}

// push and pop keep a binary heap with the smallest entry on top.
func (m *merger) push(v uint64) {
	m.heap = append(m.heap, v)
	h := m.heap
	i := len(h) - 1
	for i > 0 {
		m.ops++
		parent := (i - 1) / 2
		if h[parent] <= v {
			break
		}
		h[i] = h[parent]
		i = parent
	}
	h[i] = v
}

func (m *merger) pop() uint64 {
	h := m.heap
	top, v := h[0], h[len(h)-1]
	h = h[:len(h)-1]
	m.heap = h
	if len(h) == 0 {
		return top
	}
	i := 0
	for {
		m.ops++
		child := 2*i + 1
		if child >= len(h) {
			break
		}
		if child+1 < len(h) && h[child+1] < h[child] {
			child++
		}
		if v <= h[child] {
			break
		}
		h[i] = h[child]
		i = child
	}
	h[i] = v
	return top
}
