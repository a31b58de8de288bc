package cuda_test

import (
	"slices"
	"testing"

	"kigo/engine/device/cuda"
	"kigo/engine/quant"
)

// Where 128 outputs to a block would leave multiprocessors idle, warpgroups share
// segments, and nowhere else.
func TestShapesOfWide(t *testing.T) {
	clusters, none := map[int]int{1: 132, 2: 66, 4: 31, 8: 14}, map[int]int{1: 132}
	for _, c := range []struct {
		rows, outputs, width int
		gated                bool
		wide, splits         int
		clusters             map[int]int
	}{
		{64, 4096, 4096, false, 64, 2, clusters},
		{64, 4096, 14336, false, 64, 2, clusters},
		{256, 4096, 14336, false, 128, 2, clusters},
		{64, 896, 4864, false, 64, 4, clusters}, // so few outputs want more blocks than two for each tile
		{2048, 4096, 4096, false, 128, 1, clusters},
		{64, 128256, 4096, false, 128, 1, clusters},
		{64, 4096, 4096, false, 64, 2, none},       // through memory
		{256, 14336, 4096, true, 128, 1, clusters}, // two tiles a warp, and half as many rounds
		{32, 14336, 4096, true, 128, 1, clusters},
	} {
		wide, splits, shared := cuda.Wide(c.rows, c.outputs, c.width, c.gated, c.clusters)
		if wide != c.wide || splits != c.splits || shared > 227<<10 {
			t.Errorf("%d rows of %d x %d, gated %v: %d outputs, %d splits, %d bytes of shared memory, want %d and %d",
				c.rows, c.outputs, c.width, c.gated, wide, splits, shared, c.wide, c.splits)
		}
	}
}

// Blocks of a single row's product are shared out by what there is to read: no more than
// there are tiles, and of two formats at least one for each.
func TestBlocksOfOne(t *testing.T) {
	one, two := []quant.Type{quant.Q4_K}, []quant.Type{quant.Q4_K, quant.Q6_K}
	for _, c := range []struct {
		blocks, width int
		formats       []quant.Type
		outputs, want []int
		beside        []int // with 16 multiprocessors that should be left to attention
	}{
		{132, 4096, one, []int{896}, []int{56}, []int{56}},
		{132, 4096, one, []int{2048}, []int{128}, []int{116}}, // 12 blocks with two tiles, for which they have warps
		{132, 4096, one, []int{3072}, []int{132}, []int{96}},  // two tiles are the most
		{132, 4096, one, []int{4096}, []int{132}, []int{128}}, // a third would be another turn
		{132, 4096, one, []int{128256}, []int{132}, []int{132}},
		{132, 1024, two, []int{1024, 128}, []int{64, 8}, []int{64, 8}},
		{132, 4096, two, []int{2560, 512}, []int{100, 32}, []int{80, 32}},
		{132, 4096, two, []int{5120, 1024}, []int{80, 52}, []int{80, 32}}, // 4 tiles of 36,864 bytes, 2 of 53,760; 3 and 3 would take longer
		{2, 4096, two, []int{5120, 1024}, []int{1, 1}, []int{1, 1}},
		{1, 4096, two, []int{16, 16}, []int{1, 1}, []int{1, 1}}, // one turn after the other
	} {
		if got := cuda.ShareOut(t, c.blocks, 0, c.width, c.formats, c.outputs); !slices.Equal(got, c.want) {
			t.Errorf("%d blocks for %v outputs: %v, want %v", c.blocks, c.outputs, got, c.want)
		}
		if got := cuda.ShareOut(t, c.blocks, 16, c.width, c.formats, c.outputs); !slices.Equal(got, c.beside) {
			t.Errorf("%d blocks for %v outputs, 16 of them left if possible: %v, want %v", c.blocks, c.outputs, got, c.beside)
		}
	}
}
