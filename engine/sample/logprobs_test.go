package sample

import (
	"math"
	"slices"
	"testing"
)

func TestLogprobs(t *testing.T) {
	logits := testLogits()
	var sum float64
	for _, l := range logits {
		sum += math.Exp(float64(l))
	}
	chosen, top, err := Logprobs(logits, 17, 5)
	if err != nil {
		t.Fatal(err)
	}
	if want := float64(logits[17]) - math.Log(sum); chosen.ID != 17 || math.Abs(float64(chosen.Value)-want) > 1e-5 {
		t.Errorf("token %d has %v, want %v", chosen.ID, chosen.Value, want)
	}
	order := make([]int32, len(logits))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return int(math.Copysign(1, float64(logits[b]-logits[a]))) })
	if len(top) != 5 {
		t.Fatalf("%d alternatives, want 5", len(top))
	}
	for i, l := range top {
		if want := float64(logits[order[i]]) - math.Log(sum); l.ID != order[i] || math.Abs(float64(l.Value)-want) > 1e-5 {
			t.Errorf("alternative %d is %v, want token %d with %v", i, l, order[i], want)
		}
	}
	if _, top, err := Logprobs([]float32{1, 1, 1}, 2, 2); err != nil || top[0].ID != 0 || top[1].ID != 1 {
		t.Errorf("of equal tokens %v are the first two (%v)", top, err)
	}
	for _, n := range []int{0, -1} {
		if _, top, err := Logprobs(logits, 0, n); err != nil || len(top) != 0 {
			t.Errorf("%d alternatives wanted, got %d (%v)", n, len(top), err)
		}
	}
	if _, top, err := Logprobs([]float32{1, 2}, 0, 10); err != nil || len(top) != 2 {
		t.Errorf("more alternatives than tokens: %v, %v", top, err)
	}
	for _, id := range []int32{-1, 200} {
		if _, _, err := Logprobs(logits, id, 1); err == nil {
			t.Errorf("token %d is taken", id)
		}
	}
}
