package cli

import (
	"context"
	"fmt"
	"io"
	"math"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"kigo/engine"
	"kigo/engine/perplexity"
)

// perplexityOptions are the flags of kigo perplexity.
type perplexityOptions struct {
	perplexity.Options
	model, text            string
	against, againstDevice string
	asJSON                 bool
}

func (a *app) perplexityCommand() *cobra.Command {
	var o perplexityOptions
	cmd := &cobra.Command{
		Use:   "perplexity FILE --text TEXT",
		Short: "Measure how well a model predicts a text, and how far it is from another file",
		Long: `Measures the perplexity of a model on a text, the way llama.cpp does it: in chunks of
--context tokens, of which the second half counts. Lower is better; figures can be
compared between files of one vocabulary, on the same text and with the same --context.

With --against, a second file predicts the same tokens beside it, and the differences
are what a quantization costs: the Kullback-Leibler divergence from that file's
predictions, the ratio of the two perplexities, and how often both find the same token
most likely. With the same file on two devices, they are what a device costs.

What stands behind ± is the standard error that follows from the spread over the tokens
of this text; a longer text has a smaller one.`,
		Example: `  kigo perplexity model.Q4_K_M.gguf --text wiki.txt
  kigo perplexity model.Q4_K_M.gguf --text wiki.txt --against model.F16.gguf
  kigo perplexity model.gguf --text wiki.txt --device cuda --against model.gguf --against-device cpu`,
		Args: exactArgs("the model file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case o.text == "":
				return usagef("--text is missing: the file whose text to predict")
			case cmd.Flags().Changed("chunks") && o.Chunks < 1:
				return usagef("--chunks is %d, want at least 1", o.Chunks)
			case o.againstDevice != "" && o.against == "":
				return usagef("--against-device has no meaning without --against")
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			o.model = args[0]
			report, err := a.perplexity(ctx, &o)
			if err != nil {
				return fmt.Errorf("%s: %w", o.model, engine.Fatal(err))
			}
			if o.asJSON {
				return a.printPerplexityJSON(report)
			}
			return a.printPerplexity(report, &o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.text, "text", "", "`file` whose text to predict")
	flags.IntVar(&o.Context, "context", 512, "tokens of a chunk")
	flags.IntVar(&o.Chunks, "chunks", 0, "use this many chunks, not all")
	flags.StringVar(&o.against, "against", "", "GGUF `file` of the same vocabulary to compare with")
	flags.StringVar(&o.Model.Device, "device", "auto", "what to run on: auto, cpu, cuda or cuda:N")
	flags.StringVar(&o.againstDevice, "against-device", "", "what to run the other file on; default --device")
	flags.BoolVar(&o.Checks, "device-checks", false, "on a GPU: wait after every kernel, name the one that fails, look for NaNs")
	flags.IntVar(&o.Threads, "threads", 0, "CPU threads; 0 means all cores")
	flags.BoolVar(&o.asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) perplexity(ctx context.Context, o *perplexityOptions) (*perplexity.Report, error) {
	var err error
	if o.Text, err = readText(o.text); err != nil {
		return nil, err
	}
	f, header, err := parseModel(o.model)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	o.Model.File, o.Model.Data = header, f
	if o.against != "" {
		f, header, err := parseModel(o.against)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		o.Base = &perplexity.Model{File: header, Data: f, Device: o.againstDevice}
		if o.Base.Device == "" {
			o.Base.Device = o.Model.Device
		}
	}
	loading := a.newProgress()
	defer loading.Close()
	o.Loading = func(done, total uint64) {
		loading.Set("loading", done, total)
		if done == total {
			loading.Close()
		}
	}
	bar := a.newCounter()
	defer bar.Close()
	o.Progress = func(p perplexity.Progress) {
		bar.Set(runningEstimate(p, o.Base != nil), uint64(p.Tokens), uint64(p.Total))
	}
	return perplexity.Run(ctx, o.Options)
}

// readText reads a regular file, up to a byte more than is taken, so that a larger one
// is refused.
func readText(path string) ([]byte, error) {
	f, err := openModel(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, perplexity.MaxText+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return text, nil
}

// runningEstimate is what the progress bar says.
func runningEstimate(p perplexity.Progress, compared bool) string {
	if math.IsNaN(p.Perplexity.Value) { // nothing has been counted yet
		return "predicting"
	}
	text := "perplexity " + plusMinus(p.Perplexity, 3)
	if compared {
		text += fmt.Sprintf(", KL %.4f", p.KL.Value)
	}
	return text
}

// plusMinus writes an estimate with so many decimals.
func plusMinus(e perplexity.Estimate, decimals int) string {
	if math.IsNaN(e.Error) {
		return fmt.Sprintf("%.*f", decimals, e.Value)
	}
	return fmt.Sprintf("%.*f ± %.*f", decimals, e.Value, decimals, e.Error)
}

// inPercent is an estimate times a hundred.
func inPercent(e perplexity.Estimate) perplexity.Estimate {
	return perplexity.Estimate{Value: 100 * e.Value, Error: 100 * e.Error}
}

func (a *app) printPerplexity(r *perplexity.Report, o *perplexityOptions) error {
	fmt.Fprintf(a.stdout, "%s on %s (%s): %d chunks of %d tokens, %d of them counted\n\n", escapeControls(o.model),
		escapeControls(r.Device.Name), r.Device.Kind, r.Chunks, r.Context, r.Counted)
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	row := func(name, value string) { fmt.Fprintf(w, "%s\t%s\n", name, value) }
	row("perplexity", plusMinus(r.Perplexity, 4))
	d := r.Divergence
	if d == nil {
		return w.Flush()
	}
	row("  of the other file", plusMinus(d.BasePerplexity, 4))
	row("  ratio", plusMinus(d.Ratio, 6))
	row("  ln of the ratio", plusMinus(d.LogRatio, 6))
	row("  correlation", fmt.Sprintf("%.2f %%", 100*d.Correlation))
	row("KL divergence", plusMinus(d.KL, 6))
	row("  median", fmt.Sprintf("%.6f", d.Median))
	for _, q := range d.Quantiles {
		row(fmt.Sprintf("  %g %% at most", 100*q.Share), fmt.Sprintf("%.6f", q.KL))
	}
	row("  largest", fmt.Sprintf("%.6f", d.Max))
	row("same most likely token", plusMinus(inPercent(d.SameTop), 3)+" %")
	row("probability of the text's token, difference", plusMinus(inPercent(d.ProbabilityMean), 3)+" %")
	row("  root mean square", plusMinus(inPercent(d.ProbabilityRMS), 3)+" %")
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "\nThe other file is %s on %s (%s).\n", escapeControls(o.against),
		escapeControls(d.Device.Name), d.Device.Kind)
	return nil
}

// printPerplexityJSON prints the report; numbers that JSON lacks are text.
func (a *app) printPerplexityJSON(r *perplexity.Report) error {
	type estimate struct {
		Value any `json:"value"`
		Error any `json:"error"`
	}
	of := func(e perplexity.Estimate) estimate { return estimate{jsonNumber(e.Value), jsonNumber(e.Error)} }
	type quantile struct {
		Share float64 `json:"share"`
		KL    any     `json:"kl"`
	}
	type against struct {
		Device          string     `json:"device"`
		Perplexity      estimate   `json:"perplexity"`
		LogRatio        estimate   `json:"log_ratio"`
		Ratio           estimate   `json:"ratio"`
		Correlation     any        `json:"correlation"`
		KL              estimate   `json:"kl"`
		Median          any        `json:"kl_median"`
		Quantiles       []quantile `json:"kl_quantiles"`
		Max             any        `json:"kl_max"`
		SameTop         estimate   `json:"same_top"`
		ProbabilityMean estimate   `json:"probability_mean"`
		ProbabilityRMS  estimate   `json:"probability_rms"`
	}
	out := struct {
		Device     string   `json:"device"`
		Tokens     int      `json:"tokens"`
		Context    int      `json:"context"`
		Chunks     int      `json:"chunks"`
		Counted    int      `json:"counted"`
		Perplexity estimate `json:"perplexity"`
		Running    []any    `json:"running"`
		Against    *against `json:"against,omitempty"`
	}{Device: r.Device.Name, Tokens: r.Tokens, Context: r.Context, Chunks: r.Chunks, Counted: r.Counted, Perplexity: of(r.Perplexity)}
	for _, v := range r.Running {
		out.Running = append(out.Running, jsonNumber(v))
	}
	if d := r.Divergence; d != nil {
		out.Against = &against{
			Device: d.Device.Name, Perplexity: of(d.BasePerplexity), LogRatio: of(d.LogRatio), Ratio: of(d.Ratio),
			Correlation: jsonNumber(d.Correlation), KL: of(d.KL), Median: jsonNumber(d.Median), Max: jsonNumber(d.Max),
			SameTop: of(d.SameTop), ProbabilityMean: of(d.ProbabilityMean), ProbabilityRMS: of(d.ProbabilityRMS),
		}
		for _, q := range d.Quantiles {
			out.Against.Quantiles = append(out.Against.Quantiles, quantile{q.Share, jsonNumber(q.KL)})
		}
	}
	return a.printJSON(out)
}
