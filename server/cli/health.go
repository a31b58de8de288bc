package cli

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	kigov1 "kigo/proto/kigo/v1"
)

func (a *app) healthCommand() *cobra.Command {
	var (
		address string
		asJSON  bool
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask a server how it is",
		Long:  "Asks a server how it is. The exit code is 0 if it serves requests, and 1 if not.",
		Example: `  kigo health
  kigo health --server 10.0.0.7:50051 --json`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			return call(ctx, address, func(ctx context.Context, conn *grpc.ClientConn) error {
				h, err := kigov1.NewHealthServiceClient(conn).Health(ctx, &kigov1.HealthRequest{})
				if err != nil {
					return err
				}
				if asJSON {
					err = a.printProto(h)
				} else {
					err = a.printHealth(h)
				}
				if err == nil && !h.GetReady() {
					return &silentError{exitFailure}
				}
				return err
			})
		},
	}
	a.serverFlag(cmd, &address)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "how long to wait for the answer")
	return cmd
}

func (a *app) printHealth(h *kigov1.HealthResponse) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", name, escapeControls(fmt.Sprintf(format, args...)))
	}
	state := enumName(h.GetStatus().String(), "HEALTH_STATUS_")
	if h.GetReason() != "" {
		state += ": " + h.GetReason()
	}
	row("status", "%s", state)
	row("version", "%s", h.GetVersion())
	row("uptime", "%v", h.GetUptime().AsDuration().Round(time.Second))
	if d := h.GetDevice(); d != nil {
		row("device", "%s, %s, %d threads", d.GetKind(), d.GetName(), d.GetThreads())
		row("memory", "%s used, %s free", formatBytes(d.GetMemoryUsed()), formatBytes(d.GetMemoryFree()))
	}
	if m := h.GetModel(); m != nil {
		row("model", "%s (%s, %s parameters, %s)", m.GetName(), m.GetArchitecture(),
			formatCount(m.GetParameters()), m.GetQuantization())
		row("tokenizer", "%s, %d tokens", m.GetTokenizer(), m.GetVocabulary())
		row("context", "%d tokens", m.GetContextLength())
	}
	row("requests", "%d running, %d waiting", h.GetRunning(), h.GetWaiting())
	row("KV blocks", "%d of %d used, memory for %d", h.GetKvBlocksUsed(), h.GetKvBlocksTotal(), h.GetKvBlocksMapped())
	row("generated", "%d tokens in %d steps", h.GetGeneratedTokens(), h.GetSteps())
	return w.Flush()
}
