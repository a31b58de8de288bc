package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"kigo/engine"
	kigov1 "kigo/proto/kigo/v1"
)

// runOptions is what the flags of run say.
type runOptions struct {
	address     string
	file        string
	device      string
	threads     int
	system      string
	raw         bool
	interactive bool
	quiet       bool
	answers     int32
}

func (a *app) runCommand() *cobra.Command {
	var opt runOptions
	var request func() *kigov1.ExecuteRequest
	cmd := &cobra.Command{
		Use:   "run [PROMPT]",
		Short: "Ask a model, or talk with it",
		Long: `Sends a prompt and prints the answer as it comes. Without a prompt on the command
line it is read from standard input; at a terminal a conversation begins, in which
Ctrl-C ends the answer and Ctrl-D the conversation.

It asks the server at --server, or, with --model, runs a model file in this process.
The prompt is a turn of a conversation, put into the form that the model's file says;
--raw sends it as it is. At the end the speed is printed on standard error.

With -n there are several answers, printed one after another: the first as it comes,
the others when all are there. Each has a seed of its own, --seed and those after it.`,
		Example: `  kigo run "Why is the sky blue?"
  kigo run --server 10.0.0.7:50051 --temperature 0 "Count to ten."
  kigo run -n 3 --temperature 1 "Name a cat."
  kigo run --model model.gguf                   (a conversation, without a server)
  git diff | kigo run --system "Review this change."`,
		Args: func(*cobra.Command, []string) error { return nil },
		RunE: func(cmd *cobra.Command, args []string) error {
			if opt.file != "" && cmd.Flags().Lookup("server").Changed {
				return usagef("--server and --model exclude each other")
			}
			if opt.raw && (opt.system != "" || opt.interactive) {
				return usagef("--raw sends one text as it is: --system and --interactive have no meaning with it")
			}
			if opt.answers < 1 || opt.answers > engine.MaxSamples {
				return usagef("-n %d: there can be 1 to %d answers", opt.answers, engine.MaxSamples)
			}
			if opt.answers > 1 && opt.interactive {
				return usagef("-n has no meaning in a conversation")
			}
			return a.ask(cmd.Context(), opt, request(), strings.Join(args, " "), len(args) > 0)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	a.serverFlag(cmd, &opt.address)
	flags.StringVar(&opt.file, "model", "", "GGUF `file` to run in this process")
	flags.StringVar(&opt.device, "device", "auto", "what to run on with --model: auto, cpu, cuda or cuda:N")
	flags.IntVar(&opt.threads, "threads", 0, "CPU threads with --model; 0 means all cores")
	flags.StringVar(&opt.system, "system", "", "what the model is told before the conversation")
	flags.BoolVar(&opt.raw, "raw", false, "send the prompt as plain text, without the chat template")
	flags.Int32VarP(&opt.answers, "answers", "n", 1, "`number` of answers to generate")
	flags.BoolVarP(&opt.interactive, "interactive", "i", false, "hold a conversation, also if standard input is not a terminal")
	flags.BoolVarP(&opt.quiet, "quiet", "q", false, "do not print the speed at the end")
	request = requestFlags(flags)
	return cmd
}

// requestFlags adds the flags that shape a request. The function it returns
// makes the request once the flags are parsed; what was not given stays unset,
// so that the server's defaults hold.
func requestFlags(flags *pflag.FlagSet) func() *kigov1.ExecuteRequest {
	temperature := flags.Float32("temperature", 0.7, "0 picks the most likely token")
	topK := flags.Int32("top-k", 40, "keep the k most likely tokens; 0 keeps all")
	topP := flags.Float32("top-p", 0.95, "keep the most likely tokens up to this mass")
	minP := flags.Float32("min-p", 0.05, "drop tokens below this share of the most likely one")
	penalty := flags.Float32("repetition-penalty", 1, "make tokens that were seen less likely; 1 is off")
	seed := flags.Uint64("seed", 0, "same seed, same text (default: a random one)")
	maxTokens := flags.Int32("max-tokens", 0, "tokens to generate at most (default: as many as the context holds)")
	stop := flags.StringArray("stop", nil, "end before this `text`; may be given several times")
	return func() *kigov1.ExecuteRequest {
		s := &kigov1.Sampling{}
		r := &kigov1.ExecuteRequest{Sampling: s, Stop: *stop}
		set(flags, "temperature", &s.Temperature, temperature)
		set(flags, "top-k", &s.TopK, topK)
		set(flags, "top-p", &s.TopP, topP)
		set(flags, "min-p", &s.MinP, minP)
		set(flags, "repetition-penalty", &s.RepetitionPenalty, penalty)
		set(flags, "seed", &s.Seed, seed)
		set(flags, "max-tokens", &r.MaxTokens, maxTokens)
		return r
	}
}

// set copies a flag's value if the flag was given.
func set[T any](flags *pflag.FlagSet, name string, field **T, value *T) {
	if flags.Changed(name) {
		*field = value
	}
}

// ask runs the command once its flags are checked.
func (a *app) ask(ctx context.Context, opt runOptions, request *kigov1.ExecuteRequest, prompt string, given bool) error {
	talk := opt.interactive || !given && !opt.raw && opt.answers == 1 && isTerminal(a.stdin)
	if !given && !talk {
		input, err := readAll(a.stdin, maxInput)
		if err != nil {
			return err
		}
		prompt = string(input)
	}
	if prompt == "" && !talk {
		return usagef("the prompt is empty")
	}

	loading, stop := interruptible(ctx)
	model, err := a.open(loading, opt)
	stop()
	if err != nil {
		return err
	}
	defer model.Close()

	if talk {
		first := prompt
		return a.converse(ctx, model, opt, request, first)
	}
	if opt.raw {
		request.Prompt = &kigov1.ExecuteRequest_Text{Text: prompt}
	} else {
		request.Prompt = chatPrompt(opening(opt.system), prompt)
	}
	ctx, stop = interruptible(ctx)
	defer stop()
	if opt.answers > 1 {
		request.N = &opt.answers
	}
	out := newAnswerWriter(newTextWriter(a.stdout), opt.answers)
	answer, err := model.Generate(ctx, request, out.text)
	if answer.printed {
		if unwritten := out.finish(); err == nil {
			err = unwritten
		}
	}
	if err != nil {
		return err
	}
	if !opt.quiet {
		fmt.Fprintln(a.stderr, answer.summary())
	}
	return nil
}

// open connects to the server or loads the model file.
func (a *app) open(ctx context.Context, opt runOptions) (generator, error) {
	if opt.file != "" {
		return a.openLocal(ctx, opt)
	}
	conn, err := connect(opt.address)
	if err != nil {
		return nil, err
	}
	return &remote{address: opt.address, conn: conn}, nil
}

// opening is the turns before the first question.
func opening(system string) []*kigov1.ChatMessage {
	if system == "" {
		return nil
	}
	return []*kigov1.ChatMessage{{Role: "system", Content: system}}
}

// chatPrompt is a conversation that ends with the user's words.
func chatPrompt(before []*kigov1.ChatMessage, user string) *kigov1.ExecuteRequest_Chat {
	messages := append(before[:len(before):len(before)], &kigov1.ChatMessage{Role: "user", Content: user})
	return &kigov1.ExecuteRequest_Chat{Chat: &kigov1.Chat{Messages: messages}}
}
