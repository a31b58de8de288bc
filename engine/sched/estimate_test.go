package sched_test

import (
	"testing"

	"kigo/engine/sched"
)

func TestStepTime(t *testing.T) {
	many := func(n int, steps ...[2]int64) (all [][2]int64) {
		for range n {
			all = append(all, steps...)
		}
		return all
	}
	for _, tc := range []struct {
		name  string
		steps [][2]int64
		rows  int
		want  int64
	}{
		{"nothing measured", nil, 8, 0},
		{"one step", many(1, [2]int64{4, 100}), 4, 100},
		{"always the same rows: no slope is known", many(50, [2]int64{4, 100}), 64, 100},
		{"a line", many(1, [2]int64{1, 110}, [2]int64{11, 210}), 21, 310},
		{"a line, between", many(40, [2]int64{1, 110}, [2]int64{11, 210}), 6, 160},
		{"no fixed part", many(9, [2]int64{2, 20}, [2]int64{8, 80}), 100, 1000},
		// Of two steps in turn, the weights are as 63 to 64.
		{"more rows took less: the mean", many(500, [2]int64{1, 200}, [2]int64{10, 100}), 5, (200*63 + 100*64 + 63) / 127},
		{"a fixed part below zero: all by the rows", many(500, [2]int64{1, 1}, [2]int64{9, 99}), 50, 50 * (1*63 + 99*64) / (1*63 + 9*64)},
		{"the latest steps count", append(many(1000, [2]int64{1, 1000}, [2]int64{11, 2000}), many(1000, [2]int64{1, 10}, [2]int64{11, 20})...), 21, 30},
		{"a clock that goes back", many(3, [2]int64{4, -100}), 4, 0},
		{"hours and a million rows", many(9, [2]int64{1, 1e12}, [2]int64{1e6, 1e16}), 1e6, 1e16},
	} {
		got := sched.StepTime(tc.steps, tc.rows)
		if diff := got - tc.want; diff < -1-tc.want/1e6 || diff > 1+tc.want/1e6 {
			t.Errorf("%s: %d rows take %d, want %d", tc.name, tc.rows, got, tc.want)
		}
	}
}
