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
