package cuda

import (
	"math/bits"
	"slices"

	"kigo/engine/device"
	"kigo/kernels"
)

// The shapes of kernels/few.cuh and many.cuh.
const (
	fewRows        = 8
	manyRows       = 64
	manyWarps      = 8
	manyHalfStride = 256*2 + 32
	manyShared     = 2 * manyRows * manyHalfStride
	fewSharedLimit = 96 << 10 // beyond it, many does as well
	runValues      = 256      // whose squares are summed together

	fewWarps      = 8
	segmentGroups = 4 // of the segments of a row of weights
)

// product is one launch of a projection: matrices of one format and width, by
// the kernel that fits the number of rows.
type product struct {
	tiles    int                   // of all matrices; of one with a gate
	packed   int                   // 1: weights have fewer than 16 bits
	like     *placement            // of the first matrix
	params   kernels.ProjectParams // what all its launches begin with
	clusters map[int]int           // of wide's blocks that fit on the GPU at one time, by their size
	shapes   []wideShape           // that wide can have
	plain    wideShape             // one of them that always fits
	wish     int                   // rows of a block, for tests; or 0
	chosen   struct {              // by cheapest
		rows  int
		shape wideShape
	}
	one, few, many *launch[kernels.ProjectParams]
	wide           [len(wideKernels)]*launch[kernels.ProjectParams] // those of the format are there, or many is
}

// all are the launches that there are.
func (pr *product) all() (there []*launch[kernels.ProjectParams]) {
	for _, l := range append([]*launch[kernels.ProjectParams]{pr.one, pr.few, pr.many}, pr.wide[:]...) {
		if l != nil {
			there = append(there, l)
		}
	}
	return there
}

// matrix describes a weight matrix to the kernels; out is where its result goes.
func (x *executable) matrix(weight, bias device.TensorID, out uint64) kernels.Matrix {
	p := &x.ws.places[weight]
	m := kernels.Matrix{
		Bias:  x.vector(bias),
		Out:   out,
		Outs:  uint32(p.tensor.Rows),
		Tiles: uint32(ceilDiv(p.tensor.Rows, tileRows)),
		Up:    1, Down: 1,
	}
	if p.scheme.scales != nil {
		m.Up = x.ups[weight]
		m.Down = subnormal / m.Up
	}
	for i := range m.Plane {
		m.Plane[i] = uint64(x.ws.mem.ptr) + p.offset + p.plane[i].Offset
	}
	return m
}

// projectParams describes the product of up to three matrices of the width of p, or of a
// gated pair, with rows at in and an optional norm.
func (x *executable) projectParams(p *placement, matrices []kernels.Matrix, gated bool, in, residual uint64, norm *device.Norm) kernels.ProjectParams {
	params := kernels.ProjectParams{
		In:   in,
		Half: x.half, Scale: x.scales,
		Residual:     residual,
		Matrices:     uint32(len(matrices)),
		Width:        uint32(p.tensor.Cols),
		Stride:       uint32(stride(p.tensor.Cols)),
		InverseWidth: 1 / float32(p.tensor.Cols),
	}
	if norm != nil {
		params.Gain, params.Eps = x.vector(norm.Weight), norm.Eps
	}
	copy(params.Matrix[:], matrices)
	if gated {
		params.Gated = 1
		params.Tiles = matrices[0].Tiles
	} else {
		for _, m := range matrices {
			params.Tiles += m.Tiles
		}
	}
	return params
}

// newProduct prepares the launches of matrices of the format of like, but for a single
// row; see projectParams.
func (x *executable) newProduct(like device.TensorID, matrices []kernels.Matrix, gated bool, in, residual uint64, norm *device.Norm) (*product, error) {
	p := &x.ws.places[like]
	params := x.projectParams(p, matrices, gated, in, residual, norm)
	params.Partial, params.Count = x.partial, x.counts
	params.Steps = uint32(p.steps())
	params.Segments = uint32(x.segments(p, gated, int(params.Tiles)))
	params.SegmentsLog = uint32(bits.TrailingZeros32(params.Segments))
	warps := int(params.Segments) // of all blocks that share a tile
	if gated {
		warps *= 2
	}
	pr := &product{tiles: int(params.Tiles), like: p, params: params, clusters: x.clusters}
	if p.scheme.stepCols > 16 {
		pr.packed = 1
	}
	exists := func(kernel int) bool { return x.dev.code.kernels[wideKernels[kernel].name+p.scheme.kernel] != nil }
	pr.setShapes(wideShapes(int(params.Segments), gated, x.dev.props.SharedPerBlockOptin, exists), x.dev.cfg.wide)
	prepare := func(name string, threads, shared int) (*launch[kernels.ProjectParams], error) {
		l, err := newLaunch(x.dev, name, threads, params)
		if err != nil {
			return nil, err
		}
		l.how.Shared = uint32(shared)
		return l, x.dev.allowShared(l.kernel, shared)
	}
	if shared := fewShared(int(params.Stride), warps); shared <= fewSharedLimit && params.Width%8 == 0 {
		l, err := prepare("few_"+p.scheme.kernel, 32*fewWarps, shared)
		if err != nil {
			return nil, err
		}
		blocks, err := x.dev.resident(l, pr.tiles)
		if err != nil {
			return nil, err
		}
		// All walk through equally many tiles.
		blocks = ceilDiv(pr.tiles, ceilDiv(pr.tiles, blocks))
		l.grid(blocks, 1, 1)
		if warps > fewWarps {
			l.how.Cluster = uint32(warps / fewWarps)
			l.how.Grid[0] *= l.how.Cluster
		}
		pr.few = l
	}
	for i, k := range wideKernels {
		if !exists(i) {
			continue // in the machine code for this GPU, or for this format
		}
		most := 0
		for _, s := range append(slices.Clone(pr.shapes), pr.plain) {
			if s.kernel == i {
				most = max(most, s.shared(int(params.Segments)))
			}
		}
		l, err := prepare(k.name+p.scheme.kernel, wideThreads, most)
		if err != nil {
			return nil, err
		}
		pr.wide[i] = l
		if err := x.countClusters(l); err != nil {
			return nil, err
		}
	}
	if pr.wide[0] == nil {
		l, err := prepare("many_"+p.scheme.kernel, 32*manyWarps, manyShared)
		if err != nil {
			return nil, err
		}
		pr.many = l
	}
	return pr, nil
}

// part is what a launch of one has of the product.
func (pr *product) part() onePart { return onePart{pr.like, pr.tiles, int(pr.params.Segments)} }

// takeOne prepares the launch for a single row; free is newOne's.
func (x *executable) takeOne(pr *product, free int) (err error) {
	pr.one, err = x.newOne(pr.params, free, pr.part())
	return err
}

// rank makes the kernels note the largest output of each row.
func (pr *product) rank(best uint64) {
	for _, l := range pr.all() {
		l.params.Best = best
	}
}

// segments is into how many parts, summed apart, a row of weights is cut. It
// decides the order of the sum, so it depends on the matrices and the GPU's kind
// alone and is the same for all rows of activations. Where a tile to a block keeps
// less than half of an H100's multiprocessors busy, two blocks share it, if clusters
// exist and there is enough to share.
func (x *executable) segments(p *placement, gated bool, tiles int) int {
	switch {
	case gated:
		return fewWarps / 2
	case x.dev.props.Clusters && tiles <= 66 && p.steps()*p.scheme.stepCols >= 2048:
		return 2 * fewWarps
	}
	return fewWarps
}

// fewShared is the dynamic shared memory of kernels/few.cuh, for so many warps of all
// blocks that share a tile.
func fewShared(stride, warps int) int {
	row := 2*stride + 32 + 4*ceilDiv(stride, runValues) // see kernels/rows.cuh
	return fewRows*row + 4*fewWarps + 2*4*warps*tileRows*fewRows
}

// takes says which kernel multiplies so many rows. Only many and wide need what
// prepare makes, each in an order of its own; which of them there is, is the same for
// all formats.
func (pr *product) takes(rows int) *launch[kernels.ProjectParams] {
	switch {
	case rows == 1 && pr.one != nil:
		return pr.one
	case rows <= fewRows && pr.few != nil:
		return pr.few
	case pr.wide[0] != nil:
		return pr.wide[pr.cheapest(rows).kernel]
	}
	return pr.many
}

// isWide says whether a launch is one of wide's.
func (pr *product) isWide(l *launch[kernels.ProjectParams]) bool {
	return slices.Contains(pr.wide[:], l)
}

// tilesOf is how many tiles of one matrix a block of many or wide has, with so many
// warps: each has one, of either matrix with a gate; two have one where they are joint.
func tilesOf(warps int, p *kernels.ProjectParams, joint bool) int {
	if p.Gated != 0 || joint {
		return warps / 2
	}
	return warps
}

// run multiplies rows; pick is the address of their numbers, or 0.
func (pr *product) run(x *executable, rows int, pick uint64) error {
	l := pr.takes(rows)
	switch {
	case pr.isWide(l):
		pr.spread(x, rows)
	case l == pr.many:
		l.grid(ceilDiv(rows, manyRows), ceilDiv(pr.tiles, tilesOf(manyWarps, &l.params, false)), 1)
	}
	l.params.Rows, l.params.Pick = uint32(rows), pick
	return start(x.dev, l, x.dev.stream)
}

// newPrepare makes what enters a product of the values at in.
func (x *executable) newPrepare(in uint64, width int, norm *device.Norm, wide bool) (*launch[kernels.PrepareParams], error) {
	p := kernels.PrepareParams{
		In: in, Half: x.half, Scale: x.scales,
		Width: uint32(width), Stride: uint32(stride(width)), InverseWidth: 1 / float32(width),
	}
	if norm != nil {
		p.Gain, p.Eps = x.vector(norm.Weight), norm.Eps
	}
	if wide || x.watched() {
		p.Wide = x.wide
	}
	l, err := newLaunch(x.dev, "prepare", min(1024, int(align(uint64(ceilDiv(width, 8)), 32))), p)
	if err == nil {
		l.how.Shared = uint32(4 * ceilDiv(width, runValues))
	}
	return l, err
}

// prepareFor rounds rows for products that do not do it themselves, or where
// somebody wants to see them.
func (x *executable) prepareFor(l *launch[kernels.PrepareParams], rows int, wanted bool, products ...*product) error {
	wanted = wanted || x.watched()
	l.params.StageRows = 0
	for _, pr := range products {
		k := pr.takes(rows)
		if pr.isWide(k) {
			wanted, l.params.StageRows = true, uint32(x.stageRows(rows))
		}
		wanted = wanted || k == pr.many
	}
	if !wanted {
		return nil
	}
	l.params.Rows = uint32(rows)
	return start(x.dev, l.grid(rows, 1, 1), x.dev.stream)
}
