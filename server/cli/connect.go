package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// defaultServer is where a server listens unless told otherwise.
const defaultServer = "127.0.0.1:50051"

// serverFlag adds --server, which can be given as KIGO_SERVER, to a command.
func (a *app) serverFlag(cmd *cobra.Command, address *string) {
	cmd.Flags().StringVar(address, "server", defaultServer, "`address` of the server")
	a.bindEnvironment(cmd, "server")
}

// connect prepares a connection; nothing is sent before the first call. The
// caller closes it.
func connect(address string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, usagef("--server %s: %w", address, err)
	}
	return conn, nil
}

// call runs f with a connection to the server, and says in an error which
// server it was.
func call(ctx context.Context, address string, f func(context.Context, *grpc.ClientConn) error) error {
	conn, err := connect(address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := f(ctx, conn); err != nil {
		return &serverError{address, err}
	}
	return nil
}

// wrongAnswer is an answer that breaks the API's contract.
func wrongAnswer(what string) error {
	return fmt.Errorf("the server broke the protocol: %s", what)
}
