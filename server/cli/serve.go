package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"kigo/engine"
	"kigo/server"
)

func (a *app) serveCommand() *cobra.Command {
	var o *serveOptions
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve a model over gRPC and HTTP",
		Long: `Serves a model over gRPC and HTTP until SIGTERM or Ctrl-C; then it says that it is
not ready any more, lets the requests under way end, and stops. A second signal
stops it at once. The log goes to standard error. Each flag can be given as the
environment variable in brackets, too, or in a YAML file (--config); the command line
wins, then the environment.

It is ready (kigo health, grpc.health.v1, GET /readyz) when the model has generated
a first token. It listens on this machine alone unless told otherwise.`,
		Example: `  kigo serve --model model.gguf
  kigo serve --model-dir /models --listen 127.0.0.1:9000
  KIGO_MODEL=model.gguf KIGO_MAX_CONCURRENT=4 kigo serve`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.finish(a.stderr); err != nil {
				return err
			}
			if o.model == "" && o.server.ModelDir == "" {
				return usagef("there is nothing to serve: give --model, or --model-dir to load models over the API")
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			err := a.serve(ctx, o)
			o.terminationMessage(err)
			return err
		},
	}
	o = serveFlags(cmd.Flags())
	bindConfig(cmd)
	a.bindEnvironment(cmd)
	return cmd
}

// serve runs a server until ctx ends.
func (a *app) serve(ctx context.Context, o *serveOptions) (err error) {
	if o.model != "" {
		// A path that is wrong should not cost a start.
		if err := mustBeRegular(o.model); err != nil {
			return err
		}
	}
	open := engine.New
	if a.newEngine != nil {
		open = a.newEngine
	}
	e, err := open(o.engine)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeWithin(e, 2*o.server.StopTimeout)) }()
	defer a.whenFailed(e, o)()
	d := e.Status().Device
	o.server.Log.Info().Str("kind", d.Kind).Str("name", d.Name).Int("threads", d.Threads).Msg("device")
	s, err := server.New(o.server, e)
	if err != nil {
		return err
	}
	o.logAddresses(s)

	// The model is loaded beside the server, so that its health tells how far
	// that is. A first load that fails ends the server.
	ctx, cancel := context.WithCancelCause(ctx)
	var loading sync.WaitGroup
	if o.model != "" {
		loading.Go(func() {
			if err := loadFirst(ctx, e, o); err != nil && ctx.Err() == nil {
				cancel(err)
			}
		})
	}
	err = s.Serve(ctx)
	failed := context.Cause(ctx)
	cancel(nil)
	if errors.Is(err, engine.ErrFatal) {
		return err // a load may be stuck in the device
	}
	loading.Wait()
	o.server.Log.Info().AnErr("cause", failed).Msg("stopped")
	if failed != nil && !errors.Is(failed, context.Canceled) {
		return failed
	}
	return err
}

func (o *serveOptions) logAddresses(s *server.Server) {
	e := o.server.Log.Info().Str("version", o.server.Version).Stringer("grpc", s.GRPCAddr())
	if addr := s.HTTPAddr(); addr != nil {
		e = e.Stringer("http", addr)
	}
	if addr := s.HealthAddr(); addr != nil {
		e = e.Stringer("health", addr)
	}
	if addr := s.AdminAddr(); addr != nil {
		e = e.Stringer("admin", addr)
	}
	e.Msg("listening")
}

func loadFirst(ctx context.Context, e *engine.Engine, o *serveOptions) error {
	f, err := openModel(o.model)
	if err != nil {
		return err
	}
	defer f.Close()
	name := o.name
	if name == "" {
		name = modelName(o.model)
	}
	info, err := e.Load(ctx, engine.LoadRequest{Name: name, File: f}, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", o.model, err)
	}
	logModel(o.server.Log, info)
	return nil
}

func logModel(log zerolog.Logger, m *engine.ModelInfo) {
	log.Info().Str("model", m.Name).Str("architecture", m.Architecture).Uint64("parameters", m.Parameters).
		Str("quantization", m.Quantization).Int("context", m.ContextLength).Bool("verified", m.Verified).
		Dur("took_ms", m.Load.Total).Strs("warnings", m.Warnings).Msg("ready")
}

// modelName is what a model is called unless a name is given: its file's name
// without the extension.
func modelName(path string) string {
	return strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
}
