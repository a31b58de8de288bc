package cli

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	kigov1 "kigo/proto/kigo/v1"
)

func (a *app) loadCommand() *cobra.Command {
	var (
		address string
		name    string
		replace bool
		asJSON  bool
	)
	cmd := &cobra.Command{
		Use:   "load FILE",
		Short: "Load a model on a server",
		Long: `Loads a model file on a server. The file is named relative to the server's model
directory (kigo serve --model-dir), and stays there.`,
		Example: `  kigo load smollm2.gguf
  kigo load qwen/q4.gguf --name qwen --replace`,
		Args: exactArgs("the file to load"),
		RunE: func(cmd *cobra.Command, args []string) error {
			request := &kigov1.LoadRequest{Path: args[0]}
			if name != "" {
				request.Name = &name
			}
			if replace {
				request.Replace = &replace
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return call(ctx, address, func(ctx context.Context, conn *grpc.ClientConn) error {
				model, err := a.load(ctx, kigov1.NewModelServiceClient(conn), request)
				if err != nil {
					return err
				}
				if asJSON {
					return a.printProto(model)
				}
				return a.printModels(model)
			})
		},
	}
	a.serverFlag(cmd, &address)
	cmd.Flags().StringVar(&name, "name", "", "what to call the model (default: the file's name without its extension)")
	cmd.Flags().BoolVar(&replace, "replace", false, "put it in the place of the model that is loaded")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the model as JSON")
	return cmd
}

func (a *app) load(ctx context.Context, client kigov1.ModelServiceClient, r *kigov1.LoadRequest) (*kigov1.Model, error) {
	stream, err := client.Load(ctx, r)
	if err != nil {
		return nil, err
	}
	bar := a.newProgress()
	defer bar.Close()
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, wrongAnswer("the load ended without a model")
		}
		if err != nil {
			return nil, err
		}
		if model := event.GetModel(); model != nil {
			return model, nil
		}
		p := event.GetProgress()
		bar.Set(enumName(p.GetStage().String(), "LOAD_STAGE_"), p.GetBytesDone(), p.GetBytesTotal())
	}
}
