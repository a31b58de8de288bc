package cli

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"kigo/engine/convert"
	"kigo/engine/quant"
)

func (a *app) convertCommand() *cobra.Command {
	var (
		format string
		force  bool
	)
	cmd := &cobra.Command{
		Use:   "convert IN OUT --format FORMAT",
		Short: "Rewrite a GGUF file with its weights in another format",
		Long: `Rewrites a GGUF file with its matrices in another format: f32, f16, bf16, q8_0 or
q4_0. Vectors, such as norms and biases, stay as they are. OUT appears when it is
complete, or not at all.`,
		Example: `  kigo convert model.Q4_K_M.gguf model.F16.gguf --format f16
  kigo convert model.F16.gguf model.Q8_0.gguf --format q8_0`,
		Args: exactArgs("the input file", "the output file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format == "" {
				return usagef("--format is missing: one of %s", strings.Join(writtenFormats(), ", "))
			}
			f, err := quant.ByName(format)
			if err != nil || f.Quantize == nil {
				return usagef("--format %q is not one of %s", format, strings.Join(writtenFormats(), ", "))
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return a.convert(ctx, args[0], args[1], f, force)
		},
	}
	cmd.Flags().StringVar(&format, "format", "", "format of the matrices in the output")
	cmd.Flags().BoolVar(&force, "force", false, "write over OUT if it exists")
	return cmd
}

func writtenFormats() []string {
	var names []string
	for _, f := range quant.All() {
		if f.Quantize != nil {
			names = append(names, strings.ToLower(f.Name))
		}
	}
	return names
}

func (a *app) convert(ctx context.Context, from, to string, format *quant.Format, force bool) error {
	in, err := openModel(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	var result convert.Result
	err = writeWhole(to, force, info.Mode().Perm(), func(out *os.File) error {
		bar := a.newProgress()
		defer bar.Close()
		result, err = convert.Convert(ctx, in, info.Size(), out, format, func(done, total int64) {
			bar.Set("converting", uint64(done), uint64(total))
		})
		if err != nil {
			return fmt.Errorf("%s: %w", from, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "%s: %s, was %s; %d tensors converted, %d kept\n", to,
		formatBytes(uint64(result.BytesOut)), formatBytes(uint64(result.BytesIn)), result.Converted, result.Kept)
	if n := len(result.Fallbacks); n > 0 {
		fmt.Fprintf(a.stderr, "%d of them are F16, because their rows do not divide into blocks of %s\n", n, format.Name)
	}
	return nil
}
