package cuda

import (
	"math"

	"kigo/engine/device/cuda/driver"
	"kigo/kernels"
)

// How kernels/wide.cuh is launched.
const (
	wideWarps   = 8 // that multiply
	wideThreads = 32*wideWarps + 128
	wideOutputs = 128 // by one tile of each warp
	wideColumns = 64
)

// wideKernels are the kernels wide that there may be: rows of a block, tiles of a
// warp. Only for weights of 16 bits has a warp two.
var wideKernels = [...]struct {
	name        string
	rows, tiles int
}{{"wide32_", 32, 1}, {"wide64_", 64, 1}, {"wide128_", 128, 1}, {"wide64_pairs_", 64, 2}, {"wide128_pairs_", 128, 2}}

// maxCluster is how many blocks may form a cluster on every GPU that has them.
const maxCluster = 8

// wideShape is a way to launch wide; see kernels/wide.cuh.
type wideShape struct {
	kernel int  // by wideKernels
	splits int  // blocks that share the segments of the same outputs
	far    bool // through memory, and not as a cluster
	joint  bool // and so do the warpgroups of each
}

// sharers is how many share the segments of the same outputs, in equal parts.
func (s wideShape) sharers() int {
	if s.joint {
		return 2 * s.splits
	}
	return s.splits
}

// places is for how many sums a sharer has shared memory, where a row of weights has so
// many segments: see WideSums in kernels/wide.cuh.
func (s wideShape) places(segments int) int {
	group, each := segments/segmentGroups, segments/s.sharers()
	switch {
	case s.sharers() == 1:
		return min(group, 2)
	case each >= group:
		return each / group
	}
	return each
}

// shared is the dynamic shared memory of a block.
func (s wideShape) shared(segments int) int {
	k, stages := wideKernels[s.kernel], 8
	if k.rows > 64 {
		stages = 5
	}
	return stages*(k.rows*wideColumns*2+16) + s.places(segments)*4*k.rows*(k.tiles*wideOutputs+4)
}

// wideShapes are the shapes for which there is a kernel and shared memory.
func wideShapes(segments int, gated bool, sharedLimit int, exists func(kernel int) bool) (shapes []wideShape) {
	for i, k := range wideKernels {
		for n := range 16 {
			s := wideShape{kernel: i, splits: 1 << (n / 4), far: n&2 != 0, joint: n&1 != 0}
			switch {
			case !exists(i), s.sharers() > segments, s.shared(segments) > sharedLimit:
			case s.joint && gated, s.far && s.splits == 1:
			case k.tiles > 1 && (s.joint || s.places(segments) > 1):
			default:
				shapes = append(shapes, s)
			}
		}
	}
	return shapes
}

// tiles is how many tiles of one matrix a block has.
func (s wideShape) tiles(p *kernels.ProjectParams) int {
	return wideKernels[s.kernel].tiles * tilesOf(wideWarps, p, s.joint)
}

// blocks is how many there are with so many rows, but for those that share outputs.
func (s wideShape) blocks(rows, tiles int, p *kernels.ProjectParams) int {
	return ceilDiv(rows, wideKernels[s.kernel].rows) * ceilDiv(tiles, s.tiles(p))
}

// partial is how many floats the blocks leave in memory.
func (s wideShape) partial(blocks, segments int) int {
	if !s.far {
		return 0
	}
	k := wideKernels[s.kernel]
	return blocks * s.splits * s.places(segments) * k.rows * k.tiles * wideOutputs
}

// A wideWish is for tests, which want every shape of wide.
type wideWish struct {
	rows, tiles, splits int
	joint, far          bool
}

// among are the shapes that fulfil the wish, or as much of it as any does.
func (w wideWish) among(shapes []wideShape) []wideShape {
	if w.rows == 0 {
		return shapes
	}
	for _, fits := range []func(s wideShape) bool{
		func(s wideShape) bool { return wideKernels[s.kernel].rows == w.rows },
		func(s wideShape) bool { return wideKernels[s.kernel].tiles == w.tiles },
		func(s wideShape) bool { return s.joint == w.joint },
		func(s wideShape) bool { return s.splits == w.splits || w.splits == 0 },
		func(s wideShape) bool { return s.far == w.far },
	} {
		var some []wideShape
		for _, s := range shapes {
			if fits(s) {
				some = append(some, s)
			}
		}
		if len(some) > 0 {
			shapes = some
		}
	}
	return shapes
}

// What a block of wide takes, in hundredths of a microsecond of an H200: before and
// after the stages, and for a stage, of weights of 16 bits and of others, by wideKernels.
// Of joint warpgroups each has a stage in that time. Fitted to what choosing by them
// costs: kernels/lab has how.
var wideCosts = [len(wideKernels)]struct {
	fixed        int
	stage, joint [2]int
}{
	{528, [2]int{37, 28}, [2]int{32, 28}},
	{500, [2]int{45, 38}, [2]int{42, 35}},
	{896, [2]int{47, 46}, [2]int{61, 55}},
	{644, [2]int{65}, [2]int{}},
	{774, [2]int{94}, [2]int{}},
}

// What sharing takes besides: a cluster of two blocks, and of more; and through memory, for
// each tile of 128 rows that a warp has.
const (
	widePair    = 84
	wideCluster = 159
	wideFar     = 150
	wideFarTile = 322
)

// sharing is what a block takes to meet those that share its outputs.
func (s wideShape) sharing() int {
	switch k := wideKernels[s.kernel]; {
	case s.far:
		return wideFar + wideFarTile*k.rows*k.tiles/128
	case s.splits > 2:
		return wideCluster
	case s.splits == 2:
		return widePair
	}
	return 0
}

// cheapest is the shape of wide that should be done first with so many rows. All have
// the same result. A product is asked several times a step, so it remembers the last answer.
func (pr *product) cheapest(rows int) wideShape {
	if pr.chosen.rows != rows {
		pr.chosen.rows, pr.chosen.shape = rows, pr.choose(rows)
	}
	return pr.chosen.shape
}

func (pr *product) choose(rows int) wideShape {
	best, least := pr.plain, math.MaxInt
	for _, s := range pr.shapes {
		p := &pr.wide[s.kernel].params
		blocks, fit := s.blocks(rows, pr.tiles, p), pr.clusters[s.splits]
		if s.far {
			if blocks > maxCounts || s.partial(blocks, int(p.Segments)) > partialBytes/4 {
				continue
			}
			blocks, fit = blocks*s.splits, pr.clusters[1]
		}
		if fit == 0 || wideKernels[s.kernel].rows > stageRows(rows, pr.wish) {
			continue
		}
		c := &wideCosts[s.kernel]
		stage := c.stage[pr.packed]
		if s.joint {
			stage = c.joint[pr.packed]
		}
		stages := ceilDiv(int(p.Stride)/wideColumns, s.sharers())
		if cost := ceilDiv(blocks, fit) * (c.fixed + s.sharing() + stages*stage); cost < least {
			best, least = s, cost
		}
	}
	return best
}

// setShapes sets the shapes that wide can have: those that a test wishes for, or all. Of
// the ones with the rows wished for the first shares nothing.
func (pr *product) setShapes(all []wideShape, wish wideWish) {
	pr.shapes, pr.wish = wish.among(all), wish.rows
	for _, s := range all {
		if rows := wideKernels[s.kernel].rows; rows == wish.rows || wish.rows == 0 {
			pr.plain = s
			return
		}
	}
}

// spread sets the grid of the cheapest wide.
func (pr *product) spread(x *executable, rows int) {
	s := pr.cheapest(rows)
	l := pr.wide[s.kernel]
	l.params.StageRows, l.params.Joint = uint32(x.stageRows(rows)), 0
	if s.joint {
		l.params.Joint = 1
	}
	l.params.Splits = uint32(s.splits)
	l.grid(ceilDiv(rows, wideKernels[s.kernel].rows)*s.splits, ceilDiv(pr.tiles, s.tiles(&l.params)), 1)
	l.how.Cluster, l.how.Shared = 0, uint32(s.shared(int(l.params.Segments)))
	if s.splits > 1 && !s.far {
		l.how.Cluster = uint32(s.splits)
	}
}

// countClusters finds out how many clusters of a kernel wide fit on the GPU, once: a
// block fills a multiprocessor's registers, whichever kernel it is of.
func (x *executable) countClusters(l *launch[kernels.ProjectParams]) error {
	if len(x.clusters) > 0 {
		return nil
	}
	x.clusters[1] = x.dev.props.SMs
	for size := 2; x.dev.props.Clusters && size <= maxCluster; size *= 2 {
		how := driver.Launch{Grid: [3]uint32{uint32(size), 1, 1}, Block: l.how.Block, Cluster: uint32(size)}
		n, err := x.dev.drv.ActiveClusters(l.kernel.fn, &how)
		if err != nil {
			return x.dev.wrap(err, "kernel %s", l.kernel.name)
		}
		x.clusters[size] = n
	}
	return nil
}

// stageRows is how many rows a stage of wide has (PrepareParams.stage_rows), where a test
// wishes for kernels of so many rows, or 0: as many as any kernel that may be chosen has.
func stageRows(rows, wish int) int {
	if least := max(64, wish); rows <= least {
		return least
	}
	return ceilDiv(rows, 128) * 128
}

// stageRows is the same for this executable's steps.
func (x *executable) stageRows(rows int) int { return stageRows(rows, x.dev.cfg.wide.rows) }
