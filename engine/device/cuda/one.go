package cuda

import (
	"math"
	"math/bits"
	"slices"

	"kigo/engine/device"
	"kigo/engine/quant"
	"kigo/kernels"
)

// The shapes of kernels/one.cuh and ring.cuh.
const (
	oneWarps    = 16 // as many as a tile has sides, at most
	fewRuns     = 8  // whose squares a row has room for at least
	ringBytes   = int(kernels.RingBytes)
	ringColumns = int(kernels.RingColumns)
)

// onePairs are formats for which there is a kernel with the code of both: llama.cpp's
// mixtures have them side by side.
var onePairs = [...][2]quant.Type{{quant.Q5_0, quant.Q8_0}, {quant.Q5_1, quant.Q8_0}, {quant.Q4_K, quant.Q6_K}, {quant.Q5_K, quant.Q6_K}}

// onePart is what a launch of one has of matrices of one format.
type onePart struct {
	like     *placement
	tiles    int
	segments int
}

// ringBytes is what the slots of a warp take that multiplies so many segments of as many
// tiles; see kernels/ring.cuh. Weights of 16 bits and large steps need none.
func (p *placement) ringBytes(segments, tiles int) int {
	if p.scheme.stepCols == 16 || p.scheme.stepCols > ringColumns {
		return 0
	}
	units := ceilDiv(ceilDiv(ceilDiv(p.tensor.Cols, wideColumns), segments)*wideColumns, ringColumns)
	slot := p.stepBytes() * ringColumns / p.scheme.stepCols
	return slot * min(units*tiles, max(2, ringBytes/slot))
}

// oneShared is the dynamic shared memory of kernels/one.cuh for rows of matrices like p,
// so many tiles of a block with so many sides each (segments, of both matrices with a
// gate), and rings of so many bytes for its warps.
func (p *placement) oneShared(tiles, sides, ring int) int {
	width := stride(p.tensor.Cols)
	runs := max(fewRuns, int(align(uint64(ceilDiv(width, runValues)), 4)))
	return 2*width + 4*(runs+oneWarps) + 4*tiles*(sides+1)*tileRows + oneWarps*ring
}

// newOne prepares the launch for a single row of matrices of one format or of two, in
// the order of params.Matrix; nil where there is no such kernel, or rows are not of
// whole octets, or it would want too much shared memory. free is how many multiprocessors
// should be left to others; see beside.
func (x *executable) newOne(params kernels.ProjectParams, free int, parts ...onePart) (*launch[kernels.ProjectParams], error) {
	if params.Width%8 != 0 {
		return nil, nil
	}
	name, first := x.oneKernel(parts)
	if x.dev.code.kernels[name] == nil {
		return nil, nil
	}
	// More blocks have fewer tiles each, whose sums need less room.
	for perSM := 1; perSM <= 4; perSM *= 2 {
		blocks := shareOut(perSM*x.dev.props.SMs, parts)
		if free > 0 {
			blocks = leave(blocks, perSM*x.dev.props.SMs-free, parts)
		}
		all, tile, shared := 0, 0, 0
		params.Share = [2]kernels.Share{}
		for i, n := range blocks {
			pt := &parts[i]
			sides, tiles := pt.segments<<params.Gated, ceilDiv(pt.tiles, n)
			ring := pt.like.ringBytes(pt.segments, ceilDiv(tiles*sides, oneWarps))
			params.Share[first+i] = kernels.Share{
				Block: uint32(all), Tile: uint32(tile),
				Each: uint32(pt.tiles / n), More: uint32(pt.tiles % n),
				Steps:       uint32(pt.like.steps()),
				SegmentsLog: uint32(bits.TrailingZeros(uint(pt.segments))),
				Ring:        uint32(ring),
			}
			all += n
			tile += pt.tiles
			shared = max(shared, pt.like.oneShared(tiles, sides, ring))
		}
		if first+len(parts) == 1 {
			params.Share[1].Block = uint32(all) // of the second format there is nothing
		}
		if shared > x.dev.props.SharedPerBlockOptin {
			continue
		}
		l, err := newLaunch(x.dev, name, 32*oneWarps, params)
		if err != nil {
			return nil, err
		}
		l.how.Shared = uint32(shared)
		l.grid(all, 1, 1)
		return l, x.dev.allowShared(l.kernel, shared)
	}
	return nil, nil
}

// oneKernel is the kernel for the parts' formats, and the number of the first one in it.
// A model that has both formats of a pair takes the pair's kernel for either: whatever
// runs before has fetched its code already.
func (x *executable) oneKernel(parts []onePart) (name string, first int) {
	name = parts[0].like.scheme.kernel
	if len(parts) == 2 {
		return "one_" + name + "_" + parts[1].like.scheme.kernel, 0
	}
	for _, pair := range onePairs {
		i := slices.Index(pair[:], parts[0].like.scheme.typ)
		if i >= 0 && x.formats[pair[0]] && x.formats[pair[1]] {
			return "one_" + schemeOf(pair[0]).kernel + "_" + schemeOf(pair[1]).kernel, i
		}
	}
	return "one_" + name, 0
}

// leave takes blocks away from parts, to have so many in all or fewer, where nothing takes
// longer by it: none gets more tiles than the most that one has already; but where they
// have one tile, two if there are warps for both.
func leave(blocks []int, want int, parts []onePart) []int {
	sum, most := 0, 0
	for i := range parts {
		each := ceilDiv(parts[i].tiles, blocks[i])
		blocks[i] = ceilDiv(parts[i].tiles, each)
		sum, most = sum+blocks[i], max(most, each*parts[i].segments)
	}
	if p := &parts[0]; len(parts) == 1 && sum > want && 2*want >= p.tiles && most == p.segments && 2*most <= oneWarps {
		blocks[0] = want
	}
	return blocks
}

// beside is how many multiprocessors a projection should leave to attention, which is next
// to it in a layer: twice as many as attention's blocks for a single row of up to two units. A
// block of one takes all registers of a multiprocessor, so that of two kernels whose blocks
// do not fit side by side the second begins when the first has ended: it asks for its keys
// and values, or for its weights, that much later. Up to an eighth of the GPU.
func (x *executable) beside(op *device.Project) int {
	for _, other := range x.prog.Ops {
		near, heads, kvHeads := false, 0, 0
		switch a := other.(type) {
		case *device.Attend:
			near, heads, kvHeads = a.Out == op.In, a.Heads, a.KVHeads
		case *device.Rope:
			for _, m := range op.Mats {
				near = near || m.Out == a.Q
			}
			heads, kvHeads = a.Heads, a.KVHeads
		}
		if near {
			return min(2*kvHeads*ceilDiv(heads/kvHeads, oneHeads), x.dev.props.SMs/8)
		}
	}
	return 0
}

// shareOut is how many of the blocks each part should have so that all are done at
// the same time, or nearly: a block has whole tiles. Each has at least one, and none
// more than it has tiles.
func shareOut(blocks int, parts []onePart) []int {
	if len(parts) == 1 {
		return []int{min(parts[0].tiles, blocks)}
	}
	a, b := &parts[0], &parts[1]
	blocks = max(blocks, 2)
	if a.tiles+b.tiles <= blocks {
		return []int{a.tiles, b.tiles}
	}
	cost := func(p *onePart, n int) int {
		return ceilDiv(p.tiles, n) * p.like.steps() * p.like.stepBytes()
	}
	best, least := 1, math.MaxInt
	for n := max(1, blocks-b.tiles); n <= min(a.tiles, blocks-1); n++ {
		if c := max(cost(a, n), cost(b, blocks-n)); c < least {
			best, least = n, c
		}
	}
	return []int{best, blocks - best}
}
