package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"kigo/engine/bench"
)

// benchOptions are the command's flags.
type benchOptions struct {
	bench.Options
	asJSON    bool
	compare   string // file of an older report
	failBelow float64
}

func (a *app) benchCommand() *cobra.Command {
	var o benchOptions
	cmd := &cobra.Command{
		Use:   "bench FILE",
		Short: "Measure load, tokenizer, prefill and decode of a model",
		Long: `Measures, in this process, how long a model file takes to load (read, proven and
ready for the first token), how fast its tokenizer is, and how many tokens a second
it processes of a prompt and generates after one, one request at a time, and with
--streams of many at one time: in all, from the first request on until each has its
tokens, and generating, while all of them do, from the same length on. Each figure is the
median of several runs, with the extremes beside it.

Beside a figure stands the most that the device could do, and the share of it. A token
cannot be generated faster than the weights and the context's keys and values are
read, nor a prompt processed faster than its products are computed; how fast the device
moves bytes and multiplies matrices is measured first, on the device itself.

What does not fit the model's context is left out, with a note; so are further runs of
what has taken a minute.`,
		Example: `  kigo bench model.gguf
  kigo bench model.gguf --prompt 128 --context 0 --generate 32 --json
  kigo bench model.gguf --compare old.json --fail-below 0.95`,
		Args: exactArgs("the model file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.Check(); err != nil {
				return usagef("--%w", err)
			}
			failing := cmd.Flags().Changed("fail-below")
			switch {
			case failing && o.compare == "":
				return usagef("--fail-below goes with --compare")
			case failing && !(o.failBelow > 0 && o.failBelow <= 100):
				return usagef("--fail-below: %v, want a ratio above 0 up to 100", o.failBelow)
			}
			return a.bench(cmd, args[0], &o, failing)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Device, "device", "auto", "what to run on: auto, cpu, cuda or cuda:N")
	f.IntVar(&o.Threads, "threads", 0, "CPU threads; 0 means all cores")
	f.IntVar(&o.Runs, "runs", 3, "runs of each measurement")
	f.IntSliceVar(&o.Prompts, "prompt", []int{512, 2048}, "`tokens` of a prompt; may be given several times")
	f.IntSliceVar(&o.Contexts, "context", []int{0, 4096}, "`tokens` before those that are generated; may be given several times")
	f.IntVar(&o.Generate, "generate", 128, "tokens to generate")
	f.IntSliceVar(&o.Streams, "streams", nil, "`requests` at one time, each with --generate tokens after 128; may be given several times")
	f.BoolVar(&o.Profile, "profile", false, "measure each kind of operator of a step, on a GPU")
	f.BoolVar(&o.asJSON, "json", false, "print JSON")
	f.StringVar(&o.compare, "compare", "", "`file` that --json wrote earlier, to be compared with")
	f.Float64Var(&o.failBelow, "fail-below", 0, "with --compare: exit code 1 if a rate is less than this `ratio` of what it was")
	return cmd
}

// benchOutput is the report as JSON.
type benchOutput struct {
	*bench.Report
	Comparison *bench.Comparison `json:"comparison,omitempty"`
}

func (a *app) bench(cmd *cobra.Command, path string, o *benchOptions, failing bool) error {
	ctx, stop := interruptible(cmd.Context())
	defer stop()
	var old *bench.Report
	if o.compare != "" { // before anything takes time
		var err error
		if old, err = readReport(o.compare); err != nil {
			return fmt.Errorf("%s: %w", o.compare, err)
		}
	}
	file, err := openModel(path)
	if err != nil {
		return err
	}
	defer file.Close()
	activity := a.newActivity()
	o.File, o.Version, o.Progress = file, Version(), activity.Say
	report, err := bench.Run(ctx, o.Options)
	activity.Close()
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	out := benchOutput{Report: report}
	if old != nil {
		out.Comparison = report.Compare(old)
	}
	if o.asJSON {
		err = a.printJSON(out)
	} else {
		err = a.printBench(&out)
	}
	if err != nil || !failing {
		return err
	}
	return a.judge(out.Comparison, o)
}

// judge fails the command if a rate has fallen too far.
func (a *app) judge(c *bench.Comparison, o *benchOptions) error {
	if c.Rates() == 0 {
		return fmt.Errorf("%s has no rate that was measured now: nothing can be compared", o.compare)
	}
	below := c.Below(o.failBelow)
	if len(below) == 0 {
		return nil
	}
	var errs []error
	for _, r := range below {
		errs = append(errs, fmt.Errorf("%s is %.3g of what it was, less than %v", r.Name, r.Ratio, o.failBelow))
	}
	return errors.Join(errs...)
}

// readReport reads a report of an earlier run.
func readReport(path string) (*bench.Report, error) {
	f, err := openModel(path) // which only opens regular files
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return bench.Read(f)
}
