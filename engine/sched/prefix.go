package sched

import (
	"strconv"

	"kigo/engine/kv"
)

// Keys are the keys of a prompt's full blocks, for Request.Keys; none where
// nothing is reused. It may be called at any time by anybody.
func (s *Scheduler) Keys(tenant string, tokens []int32) []kv.Key {
	if !s.cfg.Reuse {
		return nil
	}
	return chain(kv.Root(s.cfg.Salt, tenant), tokens, s.pool.BlockSize())
}

// keysFor are the keys of a request's prompt. Where nothing is reused, samples of
// one prompt have keys that no other request will ever have.
func (s *Scheduler) keysFor(r *Request, samples int) []kv.Key {
	switch {
	case !s.cfg.Reuse && samples == 1:
		return nil
	case !s.cfg.Reuse:
		s.groups++
		root := kv.Root(s.cfg.Salt, r.Tenant, strconv.FormatUint(s.groups, 10))
		return chain(root, r.Tokens, s.pool.BlockSize())
	case r.Keys != nil:
		return r.Keys
	}
	return s.Keys(r.Tenant, r.Tokens)
}

func chain(key kv.Key, tokens []int32, blockSize int) []kv.Key {
	keys := make([]kv.Key, 0, len(tokens)/blockSize)
	for len(tokens) >= blockSize {
		key = key.Next(tokens[:blockSize])
		keys = append(keys, key)
		tokens = tokens[blockSize:]
	}
	return keys
}

// hash takes a generated token into a sequence's keys.
func (s *Scheduler) hash(q *sequence, token int32) {
	if !q.hashed {
		return
	}
	if q.tail = append(q.tail, token); len(q.tail) < s.pool.BlockSize() {
		return
	}
	key := q.tenant.root
	if n := len(q.keys); n > 0 {
		key = q.keys[n-1]
	}
	q.keys = append(q.keys, key.Next(q.tail))
	q.tail = q.tail[:0]
}

// limit is how many of a sequence's blocks may come from others. Its last row is
// always computed, because its logits are wanted; and when those of the whole
// prompt are, every row that has not been computed for it yet.
func (s *Scheduler) limit(q *sequence) int {
	n := reusable(q.keys, q.known, s.pool.BlockSize())
	if q.allRows && q.high < q.prompt {
		n = min(n, q.high/s.pool.BlockSize())
	}
	return n
}

func reusable(keys []kv.Key, tokens, blockSize int) int {
	return min(len(keys), (tokens-1)/blockSize)
}

// publish lets others find the blocks that a sequence has filled. Nothing writes
// to them any more: rows are only ever computed from done on.
func (s *Scheduler) publish(q *sequence) {
	full := min(q.done/s.pool.BlockSize(), len(q.keys))
	for ; q.published < full; q.published++ {
		if _, err := s.pool.Publish(q.blocks[q.published], q.keys[q.published]); err != nil {
			panic(err) // q holds the block
		}
	}
}
