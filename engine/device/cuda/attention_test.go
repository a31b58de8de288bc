package cuda_test

import (
	"fmt"
	"testing"

	"kigo/engine/device"
	"kigo/engine/device/cuda"
)

// Attention takes every row of a step once, with its position and its sequence's blocks.
func TestTilesHaveEveryRow(t *testing.T) {
	for _, c := range []struct{ heads, group, multiprocessors int }{{14, 7, 132}, {32, 4, 132}, {32, 4, 8}, {71, 71, 132}, {200, 200, 132}, {1, 1, 1}} {
		for _, seqs := range [][]int{{1}, {1, 1, 1}, {8}, {9}, {64}, {512}, {1, 9, 8, 130, 1, 33}} {
			t.Run(fmt.Sprint(c, seqs), func(t *testing.T) {
				step := &device.Step{}
				type place struct{ position, table int32 }
				var want []place
				tables := 1 // behind that of the rows that fill up a step
				for i, rows := range seqs {
					q := device.SeqRows{Rows: rows, Start: 5 * i, Blocks: make([]int32, (5*i+rows+15)/16+i)} // more than it needs yet
					for r := range rows {
						want = append(want, place{int32(q.Start + r), int32(tables)})
					}
					step.Tokens = append(step.Tokens, make([]int32, rows)...)
					step.Seqs = append(step.Seqs, q)
					tables += (5*i + rows + 15) / 16
				}
				alone, tiles := cuda.Tiles(step, c.heads, c.group, c.multiprocessors, 16)
				if len(tiles) > len(step.Tokens) {
					t.Errorf("%d tiles of %d rows: there is no room for them", len(tiles), len(step.Tokens))
				}
				seen := make([]bool, len(want))
				for i, tile := range tiles {
					row, rows := tile[0], tile[1]
					if rows < 1 || i < alone && rows != 1 {
						t.Errorf("tile %d of %d alone has %d rows", i, alone, rows)
					}
					for r := range rows {
						if got := (place{tile[2] + r, tile[3]}); got != want[row+r] {
							t.Errorf("tile %d has row %d at %+v, want %+v", i, row+r, got, want[row+r])
						}
						if seen[row+r] {
							t.Errorf("row %d is there twice", row+r)
						}
						seen[row+r] = true
					}
				}
				for row, ok := range seen {
					if !ok {
						t.Errorf("row %d is missing", row)
					}
				}
				if len(seqs) == 1 && seqs[0] == 1 && alone != 1 {
					t.Error("a single row is in a tile of many")
				}
			})
		}
	}
}

// Blocks walk over the units of rows that are many and alike; a row that is alone, or
// much longer than the others, is spread. 32 heads, of which 4 share a KV head each,
// on 132 multiprocessors: what was measured is in kernels/lab/README.md.
func TestWalks(t *testing.T) {
	for _, c := range []struct {
		what          string
		rows, context int
		longest       int // context of one of them, if not 0
		splits        int
	}{
		{"one row of a unit", 1, 100, 0, 1},
		{"one row", 1, 193, 0, 2},
		{"one long row", 1, 4000, 0, 32},
		{"a few rows", 16, 193, 0, 2},
		{"enough rows", 32, 193, 0, 0},
		{"many rows", 256, 193, 0, 0},
		{"many long rows", 64, 4000, 0, 0},
		{"a long one among them", 64, 193, 12800, 128},
		{"a long one among more than can be spread in the time", 256, 193, 12800, 0},
	} {
		step := &device.Step{}
		for i := range c.rows {
			context := c.context
			if i == 0 && c.longest > 0 {
				context = c.longest
			}
			step.Tokens = append(step.Tokens, 0)
			step.Seqs = append(step.Seqs, device.SeqRows{Rows: 1, Start: context - 1})
		}
		if got := cuda.Splits(step, 32, 4, 132); got != c.splits {
			t.Errorf("%s: %d splits, want %d", c.what, got, c.splits)
		}
	}
}

// Every unit has a team; two share a block only where no other block folds, or a cluster's
// first one does; and its results fit where keys were.
func TestSpreadOfUnits(t *testing.T) {
	for _, c := range []struct {
		splits, mostTeams, sums int
		clusters                bool
		teams, cluster          int
	}{
		{1, 2, 100, true, 1, 0},
		{2, 2, 100, true, 2, 0}, {4, 2, 100, true, 1, 4}, {8, 2, 100, true, 1, 8}, {16, 2, 100, true, 2, 8}, {32, 2, 100, true, 1, 0},
		{2, 2, 100, false, 2, 0}, {4, 2, 100, false, 1, 0}, {16, 2, 100, false, 1, 0},
		{1, 1, 100, true, 1, 0}, {2, 1, 100, true, 1, 2}, {8, 1, 100, true, 1, 8}, {16, 1, 100, true, 1, 0}, {2, 1, 100, false, 1, 0},
		{2, 2, 300, true, 2, 0}, {4, 2, 300, true, 1, 0}, {8, 2, 300, true, 1, 0}, {16, 2, 300, true, 1, 0}, // too much for a cluster
	} {
		if teams, cluster := cuda.Spread(c.splits, c.mostTeams, 1000, c.sums, c.clusters); teams != c.teams || cluster != c.cluster {
			t.Errorf("%+v: %d teams, clusters of %d", c, teams, cluster)
		}
	}
}
