package main

import (
	"path/filepath"
	"testing"
)

// budget are bytes of code, 16 an instruction, of the kernels that one token after
// another waits for, on sm_90a: 1 or 2 % more than they have. Each runs for a few
// microseconds, and mostly once through its code, which comes from memory like
// anything else; ten instructions too many in a loop, for an index that the compiler does
// not know, took a tenth of a token's time once, and nothing else had changed.
var budget = map[string]int{
	"one_f16":           24000,
	"one_bf16":          23900,
	"one_q4_0":          25700,
	"one_q4_1":          26000,
	"one_q5_0":          28000,
	"one_q5_1":          28200,
	"one_q8_0":          31000,
	"one_q4_k":          27500,
	"one_q5_k":          30000,
	"one_q6_k":          30000,
	"one_q5_0_q8_0":     57600,
	"one_q5_1_q8_0":     57700,
	"one_q4_k_q6_k":     56600,
	"one_q5_k_q6_k":     58300,
	"attend_append_64":  35000,
	"attend_append_128": 36500,
}

func TestBudget(t *testing.T) {
	m, err := readManifest(filepath.Join("..", "SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, family := range []string{"project", "attention"} {
		e := m.find(family + ".sm_90a.cubin")
		if e == nil {
			t.Fatalf("SUMS has no %s for sm_90a", family)
		}
		for _, k := range e.kernels {
			most, ok := budget[k.name]
			if !ok {
				continue
			}
			found++
			if k.code > most || k.spills > 0 {
				t.Errorf("%s has %d bytes of code and spills %d, want at most %d and none", k.name, k.code, k.spills, most)
			}
		}
	}
	if found != len(budget) {
		t.Errorf("%d of %d kernels are there", found, len(budget))
	}
}
