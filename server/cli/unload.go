package cli

import (
	"context"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	kigov1 "kigo/proto/kigo/v1"
)

func (a *app) unloadCommand() *cobra.Command {
	var address string
	cmd := &cobra.Command{
		Use:     "unload NAME",
		Short:   "End a model's streams on a server and free its memory",
		Example: "  kigo unload smollm2",
		Args:    exactArgs("the model's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return call(ctx, address, func(ctx context.Context, conn *grpc.ClientConn) error {
				_, err := kigov1.NewModelServiceClient(conn).Unload(ctx, &kigov1.UnloadRequest{Name: args[0]})
				return err
			})
		},
	}
	a.serverFlag(cmd, &address)
	return cmd
}
