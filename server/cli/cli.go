// Package cli is the kigo command: one file a subcommand.
//
// Exit codes: 0 success, 1 failure (one sentence on standard error says why),
// 2 a command line that makes no sense, 130 interrupted, and those of a device
// that cannot be used any more (exit.go).
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"kigo/engine"
)

// app is what a command may touch of the world; tests put in their own.
type app struct {
	stdin     io.Reader
	stdout    io.Writer
	stderr    io.Writer
	lookupEnv func(string) (string, bool)
	// notify delivers interrupts (Ctrl-C) until the returned stop is called.
	notify func() (interrupts <-chan os.Signal, stop func())
	// newEngine opens what serve runs on; engine.New if nil.
	newEngine func(engine.Config) (*engine.Engine, error)
	// exit ends a process that cannot end by itself; nil leaves it as it is.
	exit func(code int)
}

// Main runs the command line of the process and returns its exit code.
func Main() int {
	a := &app{
		stdin:     os.Stdin,
		stdout:    os.Stdout,
		stderr:    os.Stderr,
		lookupEnv: os.LookupEnv,
		notify:    notifyInterrupt,
		exit:      os.Exit,
	}
	return a.run(context.Background(), os.Args[1:])
}

func notifyInterrupt() (<-chan os.Signal, func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, os.Interrupt)
	return c, func() { signal.Stop(c) }
}

// run executes one command line.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	var silent *silentError
	if errors.As(err, &silent) {
		return silent.code
	}
	fmt.Fprintf(a.stderr, "kigo: %s\n", sentence(err))
	var usage *usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(a.stderr, "See '%s --help'.\n", cmd.CommandPath())
		return exitUsage
	}
	return exitCode(err)
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "kigo",
		Short: "Serve language models over gRPC, from one binary",
		Long: `Kigo loads a language model from a GGUF file and streams generated tokens over
gRPC. The same binary talks to a running server, or to a model file directly.`,
		Example: `  kigo serve --model model.gguf        start a server
  kigo run "Why is the sky blue?"      ask it
  kigo run --model model.gguf          talk to a model without a server`,
		SilenceErrors: true, // run prints them, once
		SilenceUsage:  true,
		Args:          noSubcommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.AddCommand(
		a.serveCommand(),
		a.runCommand(),
		a.healthCommand(),
		a.modelsCommand(),
		a.loadCommand(),
		a.unloadCommand(),
		a.tokenizeCommand(),
		a.inspectCommand(),
		a.convertCommand(),
		a.verifyCommand(),
		a.perplexityCommand(),
		a.benchCommand(),
		a.loadTestCommand(),
		a.synthCommand(),
		a.versionCommand(),
	)
	return root
}

// noSubcommand refuses words that are no command, with what may have been meant.
func noSubcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("there is no command %q", args[0])
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		err = fmt.Errorf("%w; did you mean %q?", err, near[0])
	}
	return &usageError{err}
}

// exactArgs wants exactly the arguments that are named.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return &usageError{fmt.Errorf("%s is missing", names[len(args)])}
		}
		if len(args) > len(names) {
			return &usageError{fmt.Errorf("unexpected argument %q", args[len(names)])}
		}
		return nil
	}
}

// signalError is why a context ended that a signal ended.
type signalError struct{ os.Signal }

func (e signalError) Error() string { return e.String() + " signal" }

// Is lets it count as the cancel that it is.
func (e signalError) Is(target error) bool { return target == context.Canceled }

// interruptible returns a context that Ctrl-C and SIGTERM end; its cause names
// the signal. A second signal kills the process as usual.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() { // ends with ctx
		var cause error
		select {
		case s := <-signals:
			cause = signalError{s}
		case <-ctx.Done():
		}
		// Before anybody sees the context's end, so that the next signal is
		// not lost between the two.
		signal.Stop(signals)
		cancel(cause)
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
	}
}
