package cli

import (
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"kigo/engine"
	"kigo/engine/gguf"
	"kigo/engine/verify"
)

func (a *app) verifyCommand() *cobra.Command {
	var (
		o         verify.Options
		reference string
		asJSON    bool
	)
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Compare a model's forward pass stage by stage",
		Long: `Runs a short text through the model, and compares what each stage of the forward
pass makes of it on a device: the path that serves against the slow and exact
reference path, which runs on the CPU; or, with --reference, against a file that
another engine wrote, in which case the CPU's own part is the reference path. Stages
come in order of computation, layer by layer, each with its worst element. The exit
code is 1 if a stage is off by more than rounding explains.`,
		Example: `  kigo verify model.gguf
  kigo verify model.gguf --device cuda
  kigo verify model.gguf --reference stages.gguf`,
		Args: exactArgs("the model file to verify"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			f, header, err := parseModel(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			o.Model, o.ModelData = header, f
			if reference != "" {
				var f *os.File
				var header *gguf.File
				if f, header, err = parseModel(reference); err != nil {
					return err
				}
				defer f.Close()
				o.Reference, o.ReferenceData = header, f
			}
			report, err := verify.Run(ctx, o)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], engine.Fatal(err))
			}
			if asJSON {
				err = a.printVerificationJSON(report)
			} else {
				err = a.printVerification(report)
			}
			if err == nil && !report.OK {
				return &silentError{exitFailure}
			}
			return err
		},
	}
	cmd.Flags().StringVar(&reference, "reference", "", "GGUF `file` of stages that another engine wrote")
	cmd.Flags().StringVar(&o.Device, "device", "auto", "what to verify: auto (a GPU if there is one), cpu, cuda or cuda:N")
	cmd.Flags().BoolVar(&o.Checks, "device-checks", false, "on a GPU: wait after every kernel, name the one that fails, look for NaNs")
	cmd.Flags().IntVar(&o.Threads, "threads", 0, "CPU threads; 0 means all cores")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) printVerification(r *verify.Report) error {
	fmt.Fprintf(a.stdout, "%s against %s, %d tokens\n\n",
		escapeControls(r.Subject), escapeControls(r.Against), len(r.Tokens))
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "STAGE\tROWS x WIDTH\tRMS ERROR\tRELATIVE\tWORST\tAT\tGOT\tWANT\t")
	failed := 0
	for _, s := range r.Stages {
		verdict := "ok"
		if !s.OK {
			verdict = "DIFFERS"
			failed++
		}
		relative := 0.0
		if s.RMS > 0 {
			relative = s.RMS / s.RefRMS
		}
		fmt.Fprintf(w, "%s\t%d x %d\t%.3g\t%.2g\t%.3g\t%d, %d\t%.6g\t%.6g\t%s\n", quoteBare(s.Name), s.Rows, s.Width,
			s.RMS, relative, s.MaxAbs, s.WorstRow, s.WorstCol, s.Got, s.Want, verdict)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if r.OK {
		fmt.Fprintf(a.stdout, "\nAll %d stages agree (relative error at most %g).\n", len(r.Stages), r.Bound)
		return nil
	}
	fmt.Fprintf(a.stdout, "\n%d of %d stages differ (relative error above %g).\n", failed, len(r.Stages), r.Bound)
	return nil
}

// printVerificationJSON prints the report; numbers that JSON lacks are text.
func (a *app) printVerificationJSON(r *verify.Report) error {
	type stage struct {
		Name   string `json:"name"`
		Rows   int    `json:"rows"`
		Width  int    `json:"width"`
		RMS    any    `json:"rms"`
		RefRMS any    `json:"reference_rms"`
		MaxAbs any    `json:"max_abs"`
		Row    int    `json:"worst_row"`
		Column int    `json:"worst_column"`
		Got    any    `json:"got"`
		Want   any    `json:"want"`
		OK     bool   `json:"ok"`
	}
	out := struct {
		Subject string  `json:"subject"`
		Against string  `json:"against"`
		Tokens  []int32 `json:"tokens"`
		Bound   float64 `json:"bound"`
		OK      bool    `json:"ok"`
		Stages  []stage `json:"stages"`
	}{r.Subject, r.Against, r.Tokens, r.Bound, r.OK, make([]stage, 0, len(r.Stages))}
	for _, s := range r.Stages {
		out.Stages = append(out.Stages, stage{
			s.Name, s.Rows, s.Width, jsonNumber(s.RMS), jsonNumber(s.RefRMS), jsonNumber(s.MaxAbs),
			s.WorstRow, s.WorstCol, jsonNumber(float64(s.Got)), jsonNumber(float64(s.Want)), s.OK,
		})
	}
	return a.printJSON(out)
}
