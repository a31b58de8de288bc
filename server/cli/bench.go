package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"kigo/engine"
	"kigo/engine/sample"
	"kigo/engine/tokenizer"
)

// benchReport is what bench measures. Rates are medians of the runs.
type benchReport struct {
	Version string       `json:"version"`
	Model   string       `json:"model"`
	Formats string       `json:"formats"`
	Device  string       `json:"device"`
	Threads int          `json:"threads"`
	Runs    int          `json:"runs"`
	Rows    []benchEntry `json:"results"`
}

// benchEntry is one measurement: Median, Min and Max are of the runs, in Unit.
type benchEntry struct {
	Name   string  `json:"name"`
	Unit   string  `json:"unit"`
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func (a *app) benchCommand() *cobra.Command {
	var (
		threads, runs, prompt, generate int
		asJSON                          bool
	)
	cmd := &cobra.Command{
		Use:   "bench FILE",
		Short: "Measure load, tokenizer, prefill and decode of a model",
		Long: `Measures, in this process, how long a model file takes to load (read, proven and
ready for the first token), how fast its tokenizer is, and how many tokens a second
it processes of a prompt and generates after it, one request at a time; how fast this
machine reads memory, which bounds generation on a CPU, and the share of that which
it reaches. Each figure is the median of several runs, with the extremes beside it.`,
		Example: `  kigo bench model.gguf
  kigo bench model.gguf --prompt 128 --generate 32 --json`,
		Args: exactArgs("the model file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if runs < 1 || runs > 1000 || prompt < 1 || generate < 2 {
				return usagef("want --runs from 1 to 1000, --prompt of at least 1 and --generate of at least 2 tokens")
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			b := &bencher{app: a, path: args[0], threads: threads, runs: runs, prompt: prompt, generate: generate}
			report, err := b.run(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if asJSON {
				return a.printJSON(report)
			}
			return report.print(a)
		},
	}
	cmd.Flags().IntVar(&threads, "threads", 0, "CPU threads; 0 means all cores")
	cmd.Flags().IntVar(&runs, "runs", 3, "runs of each measurement")
	cmd.Flags().IntVar(&prompt, "prompt", 512, "tokens of the prompt")
	cmd.Flags().IntVar(&generate, "generate", 128, "tokens to generate")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// bencher runs the measurements on one engine after another.
type bencher struct {
	app                             *app
	path                            string
	threads, runs, prompt, generate int
}

func (b *bencher) run(ctx context.Context) (*benchReport, error) {
	report := &benchReport{Version: Version(), Runs: b.runs}
	var load, rate []float64
	var e *engine.Engine
	defer func() {
		if e != nil {
			e.Close() //nolint:errcheck // nothing of it is needed any more
		}
	}()
	for range b.runs {
		if e != nil {
			if err := e.Close(); err != nil {
				return nil, err
			}
		}
		var info *engine.ModelInfo
		var err error
		if e, info, err = b.load(ctx); err != nil {
			return nil, err
		}
		load = append(load, info.Load.Total.Seconds()*1e3)
		rate = append(rate, float64(info.Memory.Weights)/info.Load.Read.Seconds()/1e9)
	}
	info := e.Models()[0]
	report.Model, report.Formats = info.Description, info.Quantization
	report.Device, report.Threads = e.Status().Device.Name, e.Status().Device.Threads
	if b.prompt+b.generate > info.ContextLength {
		return nil, fmt.Errorf("%d and %d tokens do not fit the context of %d", b.prompt, b.generate, info.ContextLength)
	}
	report.add("load to first token", "ms", load)
	report.add("load, reading alone", "GB/s", rate)
	tok, _, err := e.Tokenizer("")
	if err != nil {
		return nil, err
	}
	report.add("tokenize", "MB/s", b.tokenize(tok))
	prefill, decode, err := b.generation(ctx, e, tok)
	if err != nil {
		return nil, err
	}
	report.add(fmt.Sprintf("prefill %d", b.prompt), "tokens/s", prefill)
	report.add(fmt.Sprintf("decode %d", b.generate), "tokens/s", decode)
	limit, err := engine.MemoryRead(report.Threads, b.runs)
	if err != nil {
		return nil, err
	}
	report.add("memory read", "GB/s", limit)
	size, err := decodeBytes(b.path)
	if err != nil {
		return nil, err
	}
	share := make([]float64, b.runs)
	for i, rate := range decode { // both are sorted
		share[i] = 100 * rate * size / 1e9 / limit[len(limit)/2]
	}
	report.add("decode, of memory read", "%", share)
	return report, nil
}

// decodeBytes is what is read of a model's weights for one token: all of them but
// a table of embeddings that is not the output matrix as well.
func decodeBytes(path string) (float64, error) {
	f, header, err := parseModel(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	sum, table, tied := 0.0, 0.0, true
	for i := range header.Tensors {
		t := &header.Tensors[i]
		sum += float64(t.Size)
		switch t.Name {
		case "token_embd.weight":
			table = float64(t.Size)
		case "output.weight":
			tied = false
		}
	}
	if !tied {
		sum -= table
	}
	return sum, nil
}

func (b *bencher) load(ctx context.Context) (*engine.Engine, *engine.ModelInfo, error) {
	f, err := openModel(b.path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	e, err := engine.New(engine.Config{Threads: b.threads, MaxConcurrent: 1, Log: zerolog.Nop()})
	if err != nil {
		return nil, nil, err
	}
	info, err := e.Load(ctx, engine.LoadRequest{Name: "bench", File: f}, nil)
	if err != nil {
		e.Close() //nolint:errcheck // the load's error is the one to report
		return nil, nil, err
	}
	return e, info, nil
}

// benchText is prose with numbers, code and other scripts.
const benchText = `The old pond, a frog jumps in: 42 rings of water spread. for i := range 10 { fmt.Println(i) }
Die Straße führt über den Fluss; 古池や蛙飛びこむ水の音。 Москва — столица России. naïve café, 3.14159!
`

func (b *bencher) tokenize(tok *tokenizer.Tokenizer) []float64 {
	text := []byte(strings.Repeat(benchText, 4000))
	var rates []float64
	for range b.runs {
		start := time.Now()
		tok.Encode(text, tokenizer.EncodeOptions{})
		rates = append(rates, float64(len(text))/time.Since(start).Seconds()/1e6)
	}
	return rates
}

// generation runs one request at a time, after one that is not counted.
func (b *bencher) generation(ctx context.Context, e *engine.Engine, tok *tokenizer.Tokenizer) (prefill, decode []float64, err error) {
	var ids []int32
	for len(ids) < b.prompt {
		ids = append(ids, tok.Encode([]byte(benchText), tokenizer.EncodeOptions{})...)
	}
	if _, err := b.request(ctx, e, ids[:1], 2); err != nil {
		return nil, nil, err
	}
	for range b.runs {
		end, err := b.request(ctx, e, ids[:b.prompt], 1)
		if err != nil {
			return nil, nil, err
		}
		prefill = append(prefill, float64(b.prompt)/end.Prefill.Seconds())
		if end, err = b.request(ctx, e, ids[:1], b.generate); err != nil {
			return nil, nil, err
		}
		decode = append(decode, float64(b.generate-1)/end.Decode.Seconds())
	}
	return prefill, decode, nil
}

func (b *bencher) request(ctx context.Context, e *engine.Engine, prompt []int32, generate int) (*engine.End, error) {
	params := sample.Defaults()
	params.Temperature, params.IgnoreEnd = 0, true
	stream, err := e.Submit(ctx, engine.Request{
		Tokens: prompt, Sampling: params, MaxTokens: generate, Logprobs: -1, PromptLogprobs: -1,
	})
	if err != nil {
		return nil, err
	}
	for {
		ev, err := stream.Next(ctx)
		if err != nil {
			return nil, err
		}
		if ev.End != nil {
			return ev.End, nil
		}
	}
}

func (r *benchReport) add(name, unit string, values []float64) {
	slices.Sort(values)
	r.Rows = append(r.Rows, benchEntry{
		Name: name, Unit: unit,
		Median: values[len(values)/2], Min: values[0], Max: values[len(values)-1],
	})
}

func (r *benchReport) print(a *app) error {
	fmt.Fprintf(a.stdout, "%s (%s) on %s, %d threads, median of %d\n\n",
		escapeControls(r.Model), r.Formats, escapeControls(r.Device), r.Threads, r.Runs)
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "measurement\tmedian\tfrom\tto\t unit\t")
	for _, e := range r.Rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t %s\t\n", e.Name, formatRate(e.Median), formatRate(e.Min), formatRate(e.Max), e.Unit)
	}
	return w.Flush()
}

// formatRate rounds to three digits.
func formatRate(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
