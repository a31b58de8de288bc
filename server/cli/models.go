package cli

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	kigov1 "kigo/proto/kigo/v1"
)

func (a *app) modelsCommand() *cobra.Command {
	var (
		address string
		asJSON  bool
	)
	cmd := &cobra.Command{
		Use:     "models",
		Short:   "List the models that a server has loaded",
		Example: "  kigo models\n  kigo models --json",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return call(ctx, address, func(ctx context.Context, conn *grpc.ClientConn) error {
				list, err := kigov1.NewModelServiceClient(conn).List(ctx, &kigov1.ListRequest{})
				if err != nil {
					return err
				}
				if asJSON {
					return a.printProto(list)
				}
				if len(list.GetModels()) == 0 {
					fmt.Fprintln(a.stderr, "No model is loaded.")
					return nil
				}
				return a.printModels(list.GetModels()...)
			})
		},
	}
	a.serverFlag(cmd, &address)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) printModels(models ...*kigov1.Model) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tARCHITECTURE\tPARAMETERS\tFORMATS\tCONTEXT\tMEMORY\tLOADED IN")
	for _, m := range models {
		memory := m.GetMemory().GetWeights() + m.GetMemory().GetKv() + m.GetMemory().GetScratch()
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", escapeControls(m.GetName()), escapeControls(m.GetArchitecture()),
			formatCount(m.GetParameters()), escapeControls(m.GetQuantization()), m.GetContextLength(),
			formatBytes(memory), formatDuration(m.GetLoad().GetTotal().AsDuration()))
	}
	return w.Flush()
}

// enumName writes an enum's value in words: "max tokens" for
// STOP_REASON_MAX_TOKENS.
func enumName(value, prefix string) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(value, prefix), "_", " "))
}
