package cuda

import (
	"fmt"

	"kigo/engine/device"
	"kigo/kernels"
)

// attention over the cache. Rows of prompts go in tiles to attend_many; a row that
// its sequence has alone in a step goes to attend_one, or, with the rotation before it
// done on the way, to attend_append. The result is the same: see
// kernels/attention.cuh.
type attention struct {
	op               *device.Attend
	unit             int // positions
	shared           int // bytes of a unit's keys and values in shared memory
	team             int // bytes of shared memory that a team of attend_one has
	mostTeams        int // of a block of it
	unitSums         int // bytes of the sums that it makes of a unit
	mostQueries      int // of a block of attend_many
	one, fused, many *launch[kernels.AttendParams]
}

// Sizes of kernels/attention.cuh, attend_one.cuh and attend_many.cuh.
const (
	unitTokens  = 128     // positions of a unit
	longUnits   = 128     // elements of a head beyond which units are half as long
	oneThreads  = 256     // of a team of attend_one
	oneTeams    = 2       // that a block has at most
	oneHeads    = 8       // that a block of it takes
	mostCluster = 8       // blocks of a cluster
	manyQueries = 16      // that every 64 threads of attend_many have
	manyStatic  = 4 << 10 // no less than its static shared memory
	oneStatic   = 3 << 10 // the same of attend_one
)

// attendDims are the sizes of heads for which there are kernels; others take the next.
var attendDims = [...]int{32, 64, 96, 128, 256}

func (x *executable) newAttend(op *device.Attend) (operation, error) {
	dim := 0
	for i := len(attendDims) - 1; i >= 0; i-- {
		if op.HeadDim <= attendDims[i] {
			dim = attendDims[i]
		}
	}
	if op.HeadDim%8 != 0 || dim == 0 {
		return nil, fmt.Errorf("%w: attention with heads of %d elements; the kernels take multiples of 8 up to 256", device.ErrNotSupported, op.HeadDim)
	}
	o := &attention{op: op, unit: unitTokens}
	if dim > longUnits {
		o.unit /= 2
	}
	row := 2*dim + 16
	o.shared = 2 * o.unit * row
	o.team = o.shared + 10*row + 32*o.unit + 256
	o.mostTeams = 1
	if oneTeams*o.team+oneStatic <= x.dev.props.SharedPerBlockOptin {
		o.mostTeams = oneTeams
	}
	o.unitSums = 4 * dim * min(op.Heads/op.KVHeads, oneHeads)
	p := kernels.AttendParams{
		Cache: x.cache.layer(op.Layer),
		Q:     x.values[op.Q], Out: x.values[op.Out],
		Partial: x.partial, PartialMl: x.partial + align(4*uint64(x.partMax*op.HeadDim/(op.HeadDim+2)), 8),
		Count: x.counts,
		Heads: uint32(op.Heads),
		Scale: op.Scale,
	}
	prepare := func(name string, p kernels.AttendParams, shared int) (*launch[kernels.AttendParams], error) {
		l, err := newLaunch(x.dev, fmt.Sprintf("%s_%d", name, dim), oneThreads, p)
		if err != nil {
			return nil, err
		}
		return l, x.dev.allowShared(l.kernel, shared)
	}
	var err error
	if o.one, err = prepare("attend_one", p, o.mostTeams*o.team+oneStatic); err != nil {
		return nil, err
	}
	o.mostQueries = 64
	if dim <= longUnits && o.manyShared(128)+manyStatic <= x.dev.props.SharedPerBlockOptin {
		o.mostQueries = 128
	}
	if o.many, err = prepare("attend_many", p, o.manyShared(o.mostQueries)); err != nil {
		return nil, err
	}
	r := x.ropes[op.Layer]
	if r == nil || r.op.QOut != op.Q || r.l.params.Dims%8 != 0 {
		return o, nil
	}
	p.Q, p.K, p.V = r.l.params.Q, r.l.params.K, r.l.params.V
	p.Angles, p.Dims, p.Halves = r.l.params.Angles, r.l.params.Dims, r.l.params.Halves
	o.fused, err = prepare("attend_append", p, o.mostTeams*o.team+oneStatic)
	r.fused = err == nil
	return o, err
}

func (o *attention) run(x *executable, s *stepShape) error {
	if s.alone > 0 {
		if err := o.runOne(x, s); err != nil {
			return err
		}
	}
	if s.tiles > 0 {
		if err := o.runMany(x, s); err != nil {
			return err
		}
	}
	return x.tapValue(o.op.Out, s)
}

// runOne has blocks walk over the units of a row, or spreads them over blocks; see tile.
// It does not change the result.
func (o *attention) runOne(x *executable, s *stepShape) error {
	l := o.one
	if o.fused != nil && s.single && !x.watched() {
		l = o.fused
	}
	blocks := o.op.KVHeads * ceilDiv(o.op.Heads/o.op.KVHeads, oneHeads) // of a row and a unit
	splits := max(1, s.splits*(unitTokens/o.unit))
	if s.alone*blocks > maxCounts || s.alone*o.op.Heads*splits*(o.op.HeadDim+2) > x.partMax {
		splits = 1
	}
	teams, cluster := o.spread(splits, x.dev.props.Clusters)
	l.how.Block[0], l.how.Shared, l.how.Cluster = uint32(teams*oneThreads), uint32(teams*o.team), uint32(cluster)
	p := &l.params
	p.Tiles, p.Tables, p.Splits = x.in.tiles(0), x.in.tables(), uint32(splits)
	p.Cluster = uint32(min(cluster, 1))
	return start(x.dev, l.grid(splits/teams, blocks, s.alone), x.dev.stream)
}

// spread says how many teams a block has and how many blocks are a cluster, 0 for none,
// where a row's units are spread over as many teams as splits. Two teams where a block, or
// a cluster, has all units by it. Else units have more multiprocessors with one, and the
// block that is done last, which folds, needs its first team: the first of two might have
// no unit.
func (o *attention) spread(splits int, clusters bool) (teams, cluster int) {
	fit := func(n int) bool { return clusters && n <= mostCluster && n*o.unitSums <= o.shared/2 }
	switch {
	case splits > 1 && splits == o.mostTeams:
		return splits, 0
	case splits > 1 && fit(splits):
		return 1, splits
	case splits == mostCluster*o.mostTeams && fit(mostCluster):
		return o.mostTeams, mostCluster
	}
	return 1, 0
}

// manyShared is the dynamic shared memory of a block with so many queries: keys, values
// and weights.
func (o *attention) manyShared(queries int) int { return o.shared + queries*(2*o.unit+16) }

// runMany takes blocks of 64 queries, or of 128 where tiles have so many.
func (o *attention) runMany(x *executable, s *stepShape) error {
	queries := s.tileRows * (o.op.Heads / o.op.KVHeads) // of a tile
	here := 64
	if queries > 64 {
		here = o.mostQueries
	}
	l := o.many
	l.how.Block[0], l.how.Shared = uint32(64*here/manyQueries), uint32(o.manyShared(here))
	p := &l.params
	p.Tiles, p.Tables, p.Splits = x.in.tiles(s.alone), x.in.tables(), 1
	return start(x.dev, l.grid(s.tiles, o.op.KVHeads*ceilDiv(queries, here), 1), x.dev.stream)
}

// aloneRows is up to how many rows of a sequence go to attend_one, each for itself: so
// few would leave most of attend_many's tile empty, and walk over a long past one
// unit after another.
const aloneRows = 8

// groups says how the program's queries share keys: the most heads that an Attend has,
// and the most that share a KV head.
func groups(p *device.Program) (heads, group int) {
	group = 1
	for _, op := range p.Ops {
		if op, ok := op.(*device.Attend); ok {
			heads, group = max(heads, op.Heads), max(group, op.Heads/op.KVHeads)
		}
	}
	return heads, group
}

// tile adds to a shape how attention takes the step's rows. A tile has 64 queries, or
// 128 where these are enough for most multiprocessors: then keys and values are
// read half as often.
func (s *stepShape) tile(step *device.Step, heads, group, multiprocessors int) {
	many, units, longest := 0, 0, 0
	for i := range step.Seqs {
		q := &step.Seqs[i]
		if q.Rows > aloneRows {
			many += q.Rows
			continue
		}
		s.alone += q.Rows
		last := ceilDiv(q.Start+q.Rows, unitTokens)
		units += q.Rows * last
		longest = max(longest, last)
	}
	// A power of two, so that few different graphs serve a growing sequence.
	for s.splits = 1; s.splits < longest; {
		s.splits *= 2
	}
	if blocks := heads / group * ceilDiv(group, oneHeads); walks(s.alone*blocks, units*blocks, longest, s.splits, 2*multiprocessors) {
		s.splits = 0
	}
	queries := 64
	if 4*many*heads >= 3*128*multiprocessors {
		queries = 128
	}
	s.tileRows = max(1, queries/group)
	for i := range step.Seqs {
		if q := &step.Seqs[i]; q.Rows > aloneRows {
			s.tiles += ceilDiv(q.Rows, s.tileRows)
		}
	}
}

// What a unit takes in a block that walks over a row's, in one that has it alone and
// whose result is folded with others, and what a block takes that has none, in tenths of
// a microsecond of an H200.
const (
	walkUnit  = 47
	splitUnit = 66
	splitNone = 10
)

// walks says whether a block for each of so many rows and KV heads should walk over all
// units rather than one for each of splits: with enough rows it takes less time, unless
// a few are much longer than the others. units are those of all, longest of a row and
// head; so many blocks run at the same time.
func walks(rows, units, longest, splits, slots int) bool {
	return max(longest*slots, units)*walkUnit <= units*splitUnit+(rows*splits-units)*splitNone
}

// tileInts is how many numbers the kernels want of a tile: first row, rows, position
// of the first, where in the tables its sequence begins.
const tileInts = 4

// writeTiles lists what attend_one takes, then what attend_many takes: the end
// of a prompt first, because it takes longest. Rows that fill a step up are alone at
// position 0 of the first table.
func writeTiles(to []int32, step *device.Step, s *stepShape, blockSize int) {
	alone, many := to[:0:tileInts*s.alone], to[tileInts*s.alone:][:0]
	row, table := 0, 1
	for i := range step.Seqs {
		q := &step.Seqs[i]
		size := s.tileRows
		if q.Rows <= aloneRows {
			size = 1
		}
		for at := (q.Rows - 1) / size * size; at >= 0; at -= size {
			t := [tileInts]int32{int32(row + at), int32(min(size, q.Rows-at)), int32(q.Start + at), int32(table)}
			if q.Rows <= aloneRows {
				alone = append(alone, t[:]...)
			} else {
				many = append(many, t[:]...)
			}
		}
		row += q.Rows
		table += ceilDiv(q.Start+q.Rows, blockSize)
	}
	for ; row < s.rows; row++ {
		alone = append(alone, int32(row), 1, 0, 0)
	}
}
