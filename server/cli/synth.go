package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"kigo/engine/synth"
)

func (a *app) synthCommand() *cobra.Command {
	var (
		shape, format string
		seed          uint64
		force         bool
	)
	var names []string
	for _, s := range synth.Shapes() {
		names = append(names, s.Name)
	}
	cmd := &cobra.Command{
		Use:   "synth OUT --shape SHAPE --format FORMAT",
		Short: "Write a model of random weights with a real one's shape",
		Long: `Writes a GGUF file of random weights, normal ones or random valid quantized blocks,
and a small built-in vocabulary. It says nothing worth reading and takes the time of
the real model, so that speed can be measured without a download.

Shapes: ` + strings.Join(names, ", ") + `.
Formats: every format that Kigo reads, and q4_k_m, the usual mixture. Rows that a K
format does not divide take Q5_0, Q5_1 or Q8_0, as other quantizers do it.`,
		Example: `  kigo synth 0.5b.gguf --shape qwen2.5-0.5b --format f16
  kigo synth 8b.gguf --shape llama-3.1-8b --format q4_k_m`,
		Args: exactArgs("the output file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := synth.ShapeByName(shape)
			if err != nil {
				return usagef("--shape: %v", err)
			}
			formats, err := synth.FormatsByName(format)
			if err != nil {
				return usagef("--format: %v", err)
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return a.synth(ctx, args[0], s, formats, seed, force)
		},
	}
	cmd.Flags().StringVar(&shape, "shape", "", "which model's sizes")
	cmd.Flags().StringVar(&format, "format", "f16", "format of the matrices")
	cmd.Flags().Uint64Var(&seed, "seed", 1, "the same seed gives the same file")
	cmd.Flags().BoolVar(&force, "force", false, "write over OUT if it exists")
	return cmd
}

func (a *app) synth(ctx context.Context, path string, s synth.Shape, formats synth.Formats, seed uint64, force bool) error {
	tensors, size := synth.Size(s, formats)
	err := writeWhole(path, force, 0o644, func(out *os.File) error {
		bar := a.newProgress()
		defer bar.Close()
		return synth.Write(ctx, &countingWriter{out: out, tell: func(n uint64) {
			bar.Set("writing", min(n, uint64(size)), uint64(size))
		}}, s, formats, seed)
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "%s: %d tensors, %s\n", path, tensors, formatBytes(uint64(size)))
	return nil
}

// countingWriter tells how much has been written.
type countingWriter struct {
	out  io.Writer
	done uint64
	tell func(n uint64)
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.out.Write(p)
	w.done += uint64(n)
	w.tell(w.done)
	return n, err
}
