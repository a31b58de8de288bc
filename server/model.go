package server

import (
	"context"
	"runtime/debug"

	"google.golang.org/grpc"

	"kigo/engine"
	kigov1 "kigo/proto/kigo/v1"
)

// modelService is kigo.v1.ModelService.
type modelService struct {
	kigov1.UnimplementedModelServiceServer
	server *Server
}

// Load brings a file of the model directory onto the device. The client's
// reading never holds the load up: progress that it does not take in time is
// replaced by later progress.
func (s *modelService) Load(r *kigov1.LoadRequest, stream grpc.ServerStreamingServer[kigov1.LoadResponse]) error {
	file, err := s.server.models.open(r.GetPath())
	if err != nil {
		return err
	}
	name := orDefault(r.Name, modelName(r.GetPath()))

	// The load ends with the call, and with the server.
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.server.draining, func() { cancel(engine.ErrDraining) })()

	type result struct {
		model *engine.ModelInfo
		err   error
	}
	latest := make(chan engine.LoadProgress, 1)
	done := make(chan result, 1)
	s.server.work.Go(func() {
		var res result
		defer func() {
			if p := recover(); p != nil {
				res.err = s.server.recovered(p, debug.Stack())
			}
			_ = file.Close()
			done <- res
		}()
		res.model, res.err = s.server.backend.Load(ctx, engine.LoadRequest{Name: name, File: file, Replace: r.GetReplace()},
			func(p engine.LoadProgress) {
				select {
				case <-latest: // nobody took it: p is newer
				default:
				}
				latest <- p
			})
	})

	var sendErr error
	for {
		select {
		case p := <-latest:
			if sendErr == nil {
				// A client that cannot be reached any more has cancelled ctx.
				sendErr = stream.Send(loadProgress(p))
			}
		case <-s.server.stopping.Done():
			// The load has been told to end long ago: it is stuck.
			if failure := failureIn(s.server.backend.Status()); failure != nil {
				return failure
			}
			return errStopping
		case res := <-done:
			if res.err != nil {
				if cause := context.Cause(ctx); cause != nil {
					return cause
				}
				return res.err
			}
			select {
			case p := <-latest:
				if sendErr == nil {
					sendErr = stream.Send(loadProgress(p))
				}
			default:
			}
			if sendErr != nil {
				return sendErr
			}
			return stream.Send(&kigov1.LoadResponse{Event: &kigov1.LoadResponse_Model{Model: modelMessage(res.model)}})
		}
	}
}

// Unload ends a model's streams and frees its memory.
func (s *modelService) Unload(ctx context.Context, r *kigov1.UnloadRequest) (*kigov1.UnloadResponse, error) {
	if err := s.server.backend.Unload(ctx, r.GetName()); err != nil {
		return nil, err
	}
	return &kigov1.UnloadResponse{}, nil
}

// List names the loaded models.
func (s *modelService) List(context.Context, *kigov1.ListRequest) (*kigov1.ListResponse, error) {
	res := &kigov1.ListResponse{}
	for _, m := range s.server.backend.Models() {
		res.Models = append(res.Models, modelMessage(&m))
	}
	return res, nil
}

// Get describes one loaded model.
func (s *modelService) Get(_ context.Context, r *kigov1.GetRequest) (*kigov1.GetResponse, error) {
	for _, m := range s.server.backend.Models() {
		if r.GetName() == "" || r.GetName() == m.Name {
			return &kigov1.GetResponse{Model: modelMessage(&m)}, nil
		}
	}
	return nil, s.server.whyNot(engine.ErrNoModel, r.GetName())
}
