package cli

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"kigo/server/loadtest"
)

// loadTestOptions are the command's flags.
type loadTestOptions struct {
	loadtest.Options
	asJSON      bool
	plot        string // file of the picture
	force       bool
	allowErrors bool
}

func (a *app) loadTestCommand() *cobra.Command {
	var o loadTestOptions
	for text, lengths := range map[string]*loadtest.Lengths{"128": &o.Prompt, "64": &o.MaxTokens} {
		_ = lengths.Set(text) // which is right
	}
	cmd := &cobra.Command{
		Use:   "load-test",
		Short: "Put load on a server and measure what its clients see",
		Long: `Sends requests to a server and measures how long its clients wait for the first token
and between tokens, and how many tokens and requests a second they get together.

With --concurrency, so many streams are kept busy: each sends its next request when the
last one has ended. With --rate, requests are sent at random times (a Poisson process)
whatever has become of those before; their latencies count from the time at which they
were to be sent. Several numbers are several runs, one after another, and --plot draws
them.

Lengths are a number, a range (64-512) or several with weights (100:0.9,2000:0.1).
Prompts are random token ids, other ones in each request and each time, so that nothing
comes from a prefix cache but what --shared-prefix asks for.

Decode tokens/s is what all streams got while all of them were generating: the figure
that engines' own benchmarks report. With many streams, --waves has them begin together,
so that there is such a time.

A request is good if it has come to its end, its first token within --slo-ttft and no gap
between its tokens above --slo-gap. Percentiles are exact to 0.4 %.

The exit code is 1 if a stream broke the protocol, or if there were errors other than
those of requests that were to be cancelled or to read slowly; --allow-errors allows
errors. Ctrl-C ends it with the report of what was measured.`,
		Example: `  kigo load-test --concurrency 1,8,32 --prompt 128 --max-tokens 128 --waves
  kigo load-test --rate 1,2,4,8 --duration 1m --prompt 64-512 --slo-ttft 500ms --slo-gap 50ms --plot load.svg
  kigo load-test --concurrency 64 --cancel 0.05 --slow 0.02 --allow-errors --json`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			changed := cmd.Flags().Changed
			if len(o.Concurrency) == 0 && len(o.Rates) == 0 {
				o.Concurrency = []int{8}
			}
			if changed("requests") && !changed("duration") {
				o.Duration = 0
			}
			if err := o.Check(); err != nil {
				return usagef("--%w", err)
			}
			if o.force && o.plot == "" {
				return usagef("--force goes with --plot")
			}
			return a.loadTest(cmd.Context(), &o)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	a.serverFlag(cmd, &o.Address)
	f.StringVar(&o.Model, "model", "", "`name` of the model to ask (default: the one that is loaded)")
	f.IntSliceVar(&o.Concurrency, "concurrency", nil, "closed loop: `streams` at a time; several numbers are several runs (default 8)")
	f.Float64SliceVar(&o.Rates, "rate", nil, "open loop: `requests` a second; several numbers are several runs")
	f.BoolVar(&o.Waves, "waves", false, "closed loop: let all streams begin together, and again when all have ended")
	f.DurationVar(&o.WarmUp, "warm-up", 2*time.Second, "load before the measurement of each run")
	f.DurationVar(&o.Duration, "duration", 10*time.Second, "how long to measure; not with --requests, unless given")
	f.IntVar(&o.Requests, "requests", 0, "how many requests to measure (default: as many as come up)")
	f.DurationVar(&o.Drain, "drain", 30*time.Second, "for requests to end afterwards, before they are cut off")
	f.Var(&o.Prompt, "prompt", "length of the prompts, a distribution")
	f.IntVar(&o.SharedPrefix, "shared-prefix", 0, "`tokens` that all prompts begin with")
	f.BoolVar(&o.Text, "text", false, "make prompts of words, about a token each, instead of token ids")
	f.Var(&o.MaxTokens, "max-tokens", "tokens to generate, a distribution")
	f.BoolVar(&o.IgnoreEnd, "ignore-end", true, "generate that many in any case; false lets the model end an answer")
	f.Float32Var(&o.Temperature, "temperature", 0, "0 picks the most likely token")
	f.Float64Var(&o.Cancel, "cancel", 0, "`share` of requests that are cancelled at a random point, 0 to 1")
	f.Float64Var(&o.Slow, "slow", 0, fmt.Sprintf("`share` of requests that read a message each %v only, 0 to 1", loadtest.SlowDelay))
	f.Uint64Var(&o.Seed, "seed", 1, "the same seed gives the same lengths, arrivals and cancels")
	f.DurationVar(&o.FirstTokenWithin, "slo-ttft", 0, "longest time to first token of a good request")
	f.DurationVar(&o.GapWithin, "slo-gap", 0, "longest gap between tokens of a good request")
	f.BoolVar(&o.allowErrors, "allow-errors", false, "exit with 0 also if requests failed")
	f.BoolVar(&o.asJSON, "json", false, "print JSON")
	f.StringVar(&o.plot, "plot", "", "SVG `file` to draw throughput against latency into")
	f.BoolVar(&o.force, "force", false, "write over the file of --plot if it exists")
	return cmd
}

func (a *app) loadTest(ctx context.Context, o *loadTestOptions) error {
	ctx, stop := interruptible(ctx)
	defer stop()
	if o.plot != "" { // before anything takes time
		if err := mayWrite(o.plot, o.force); err != nil {
			return err
		}
	}
	activity := a.newActivity()
	o.Version, o.Progress = Version(), activity.Say
	report, err := loadtest.Run(ctx, o.Options)
	activity.Close()
	if err != nil {
		return &serverError{o.Address, err}
	}
	if o.plot != "" {
		if err := writeWhole(o.plot, o.force, 0o644, func(out *os.File) error { return report.Plot(out) }); err != nil {
			return err
		}
	}
	if o.asJSON {
		err = a.printJSON(report)
	} else {
		err = a.printLoadTest(report)
	}
	if err != nil {
		return err
	}
	return judgeLoadTest(report, o.allowErrors)
}

// judgeLoadTest is the command's end, once all has been printed.
func judgeLoadTest(r *loadtest.Report, allowErrors bool) error {
	var violations, errors uint64
	example := ""
	for i := range r.Results {
		run := &r.Results[i]
		violations += run.Violated()
		errors += run.Errored()
		if example == "" {
			example = run.Example
		}
	}
	switch {
	case violations > 0:
		return fmt.Errorf("the server broke the protocol in %s; the first time: %s", plural(int(violations), "stream"), example)
	case r.Interrupted:
		return &silentError{exitInterrupted}
	case errors > 0 && !allowErrors:
		return fmt.Errorf("errors ended %s; --allow-errors allows that", plural(int(errors), "request"))
	}
	return nil
}
