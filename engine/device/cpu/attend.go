package cpu

import (
	"math"
	"unsafe"

	"kigo/engine/device"
)

// attention is what one call of a path's scores or weigh works on: a tile of
// queries of one KV head and up to 16 positions of its cache. Kernels in
// assembly read it.
type attention struct {
	q      *float32 // tile x dim
	kv     *float32 // scores: keys, dim x 16; weigh: values, n x dim
	p      *float32 // scores or weights of the first query
	pRow   int      // bytes from one query's to the next
	out    *float32 // weigh: tile x dim, added to
	dim    int
	n      int // weigh: positions
	tile   int // queries: one of tileSizes
	factor float32
}

// A tile of queries reads keys and values once. Queries that miss to one of
// these sizes are computed and dropped.
const largestTile = 8

func tileSize(queries int) int {
	switch {
	case queries == 1:
		return 1
	case queries <= 4:
		return 4
	}
	return largestTile
}

// tiledAttention makes a function for all tiles of functions for 1, 4 and 8
// queries; without the last the second serves twice.
func tiledAttention(one, four, eight func(*attention)) func(*attention) {
	return func(a *attention) {
		switch {
		case a.tile == 1:
			one(a)
		case a.tile == 4:
			four(a)
		case eight != nil:
			eight(a)
		default:
			q, p, out := a.q, a.p, a.out
			four(a)
			a.q = (*float32)(unsafe.Add(unsafe.Pointer(q), 4*4*a.dim))
			a.p = (*float32)(unsafe.Add(unsafe.Pointer(p), 4*a.pRow))
			a.out = (*float32)(unsafe.Add(unsafe.Pointer(out), 4*4*a.dim))
			four(a)
			a.q, a.p, a.out = q, p, out
		}
	}
}

// scalarScores is the definition of scores: p = (q·k) * factor, the products
// added in the order of the elements.
func scalarScores(a *attention) {
	q, k := unsafe.Slice(a.q, a.tile*a.dim), unsafe.Slice(a.kv, a.dim*slots)
	for r := range a.tile {
		p := (*[slots]float32)(unsafe.Add(unsafe.Pointer(a.p), r*a.pRow))
		var sums [slots]float32
		for d, e := range q[r*a.dim : (r+1)*a.dim] {
			row := (*[slots]float32)(k[d*slots:])
			for i := range sums {
				sums[i] += float32(e * row[i])
			}
		}
		for i, s := range sums {
			p[i] = s * a.factor
		}
	}
}

// scalarWeigh is the definition of weigh: out = out + p*v, position by position.
func scalarWeigh(a *attention) {
	v := unsafe.Slice(a.kv, a.n*a.dim)
	for r := range a.tile {
		p := unsafe.Slice((*float32)(unsafe.Add(unsafe.Pointer(a.p), r*a.pRow)), a.n)
		out := unsafe.Slice((*float32)(unsafe.Add(unsafe.Pointer(a.out), r*4*a.dim)), a.dim)
		for i, w := range p {
			for d, e := range v[i*a.dim : (i+1)*a.dim] {
				out[d] += float32(w * e)
			}
		}
	}
}

// scalarSoftmax is the definition of softmax.
func scalarSoftmax(v *float32, n int) float32 {
	all := unsafe.Slice(v, slots*n)
	most := all[0]
	for _, a := range all {
		most = max(most, a)
	}
	var sums [slots]float32
	for i, a := range all {
		all[i] = exp(a - most)
		sums[i%slots] += all[i]
	}
	for half := slots / 2; half > 0; half /= 2 {
		for i := range half {
			sums[i] += sums[i+half]
		}
	}
	return sums[0]
}

// tile is one piece of attention work: queries [first, first+count) of one
// sequence, counted row by row, the heads of a group within a row.
type tile struct {
	seq, row     int // the sequence, and its first row in the step
	first, count int
}

// shareTiles shares the queries of a step out, for query heads that share a KV
// head in groups of that size.
func (x *executable) shareTiles(group int) {
	x.tiles = x.tiles[:0]
	row := 0
	for s, seq := range x.step.Seqs {
		for first := 0; first < seq.Rows*group; first += largestTile {
			x.tiles = append(x.tiles, tile{s, row, first, min(largestTile, seq.Rows*group-first)})
		}
		row += seq.Rows
	}
}

// attend computes softmax(q·K^T * Scale)·V for each head of each row over the
// positions up to the row's own, with the largest score subtracted before the
// exponential. A result depends on nothing but its own query, keys and values,
// each read in the order of the positions, whatever tile it is in.
func (x *executable) attend(op *device.Attend) {
	if x.dev.cfg.Reference {
		x.dev.workers.run(len(x.rowPos)*op.Heads, 1, attendingReference{x, op})
	} else {
		x.shareTiles(op.Heads / op.KVHeads)
		x.attending.op = op
		x.dev.workers.run(len(x.tiles)*op.KVHeads, 1, &x.attending)
	}
	x.tap(op.Out)
}

// attending is the work of one Attend: item i is tile i/KVHeads for KV head
// i%KVHeads.
type attending struct {
	x  *executable
	op *device.Attend
}

func (t *attending) do(w *worker, lo, hi int) {
	for i := lo; i < hi; i++ {
		t.x.attendTile(w, t.op, t.x.tiles[i/t.op.KVHeads], i%t.op.KVHeads)
	}
}

func (x *executable) attendTile(w *worker, op *device.Attend, t tile, kvHead int) {
	p, c := x.dev.path, x.cache
	group, dim, seq := op.Heads/op.KVHeads, op.HeadDim, &x.step.Seqs[t.seq]
	q, out := x.value(op.Q), x.value(op.Out)
	at := func(i int) int { // of query i in q and out
		i += t.first
		return ((t.row+i/group)*op.Heads + kvHead*group + i%group) * dim
	}
	length := func(i int) int { return seq.Start + (t.first+i)/group + 1 }

	size := tileSize(t.count)
	w.queries, w.mixed = sized(w.queries, size*dim), sized(w.mixed, size*dim)
	clear(w.mixed)
	for i := range t.count {
		copy(w.queries[i*dim:(i+1)*dim], q[at(i):])
	}
	shortest, longest := length(0), length(t.count-1)
	row := (longest + slots - 1) / slots * slots
	if need := size * row; cap(w.scores) < need {
		w.scores = make([]float32, 2*need) // a sequence grows step by step
	}
	scores := w.scores[:size*row]

	a := &w.attention
	*a = attention{q: &w.queries[0], pRow: 4 * row, out: &w.mixed[0], dim: dim, tile: size, factor: op.Scale}
	for pos := 0; pos < longest; pos += slots {
		a.kv, a.p = &c.k[c.keys(op.Layer, seq.Blocks, kvHead, pos)], &scores[pos]
		p.scores(a)
	}
	for i := range t.count {
		n := length(i)
		v := scores[i*row : (i+1)*row]
		for j := n; j < len(v); j++ {
			v[j] = float32(math.Inf(-1))
		}
		w.sums[i] = p.softmax(&v[0], (n+slots-1)/slots)
	}
	weigh := p.weigh
	if dim%slots != 0 {
		weigh = scalarWeigh
	}
	for pos := 0; pos < shortest; pos += slots {
		a.kv, a.p, a.n = &c.v[c.value(op.Layer, seq.Blocks, kvHead, pos)], &scores[pos], min(slots, shortest-pos)
		weigh(a)
	}
	a.tile = 1
	for i := range t.count { // what later rows see and the first does not
		for pos := shortest; pos < length(i); pos += a.n {
			a.n = min(slots-pos%slots, length(i)-pos)
			a.kv, a.p, a.out = &c.v[c.value(op.Layer, seq.Blocks, kvHead, pos)], &scores[i*row+pos], &w.mixed[i*dim]
			weigh(a)
		}
	}
	for i := range t.count {
		o := out[at(i):][:dim]
		copy(o, w.mixed[i*dim:])
		p.scale(o, 1/w.sums[i])
	}
}
