package verify_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"kigo/engine/device"
)

// BenchmarkStep runs single steps of the test models: one row after so many
// positions (decoding), and many rows at once (prompts, or many sequences).
// "best" is the fastest of the runs, which other work disturbs least.
func BenchmarkStep(b *testing.B) {
	for _, name := range []string{"smollm2", "qwen2"} {
		f := newForcer(b, filepath.Join("..", "..", "models", models[name]), "")
		for _, c := range []struct{ seqs, rows, start int }{
			{1, 1, 0}, {1, 1, 128}, {1, 1, 512}, {8, 1, 128}, {1, 16, 256}, {1, 32, 256}, {1, 64, 256}, {1, 128, 256},
		} {
			b.Run(fmt.Sprintf("%s/%dx%d/after%d", name, c.seqs, c.rows, c.start), func(b *testing.B) {
				step := &device.Step{}
				for s := range c.seqs {
					table := make([]int32, 4*forcedRows/forcedBlock)
					for i := range table {
						table[i] = int32(s*len(table) + i)
					}
					step.Seqs = append(step.Seqs, device.SeqRows{Rows: c.rows, Start: c.start, Blocks: table})
					for r := range c.rows {
						step.Tokens = append(step.Tokens, int32(1000+s*131+r))
					}
					step.Logits = append(step.Logits, len(step.Tokens)-1)
				}
				best := time.Hour
				for b.Loop() {
					start := time.Now()
					if _, err := f.exec.Run(step); err != nil {
						b.Fatal(err)
					}
					best = min(best, time.Since(start))
				}
				b.ReportMetric(float64(best.Microseconds())/1e3, "best-ms")
				b.ReportMetric(float64(len(step.Tokens))/best.Seconds(), "best-rows/s")
			})
		}
	}
}
