package server

import (
	"context"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	kigov1 "kigo/proto/kigo/v1"
)

// healthServices are the names that grpc.health.v1 answers for. The empty one
// stands for the server as a whole: it is ready.
var healthServices = map[string]func(verdict) bool{
	"": func(v verdict) bool { return v.ready },
	kigov1.InferenceService_ServiceDesc.ServiceName: func(v verdict) bool { return v.ready },
	"readiness": func(v verdict) bool { return v.ready },
	"liveness":  func(v verdict) bool { return v.live },
}

// grpcHealth is grpc.health.v1 over a probe. Check answers from the engine's
// own snapshot, so that a client which saw a load succeed is never told that
// the server is not ready.
type grpcHealth struct {
	healthpb.UnimplementedHealthServer
	probe    *probe
	stopping <-chan struct{} // closed when long-lived calls must end
}

func servingStatus(ok bool) healthpb.HealthCheckResponse_ServingStatus {
	if ok {
		return healthpb.HealthCheckResponse_SERVING
	}
	return healthpb.HealthCheckResponse_NOT_SERVING
}

func (h *grpcHealth) Check(_ context.Context, r *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	serves, ok := healthServices[r.GetService()]
	if !ok {
		return nil, status.Error(codes.NotFound, "unknown service")
	}
	return &healthpb.HealthCheckResponse{Status: servingStatus(serves(h.probe.verdict()))}, nil
}

func (h *grpcHealth) List(context.Context, *healthpb.HealthListRequest) (*healthpb.HealthListResponse, error) {
	v := h.probe.verdict()
	res := &healthpb.HealthListResponse{Statuses: make(map[string]*healthpb.HealthCheckResponse, len(healthServices))}
	for name, serves := range healthServices {
		res.Statuses[name] = &healthpb.HealthCheckResponse{Status: servingStatus(serves(v))}
	}
	return res, nil
}

// Watch sends the status at once and at every change, the last one also when the
// server stops. A change back that happens before the client has read the first
// is not sent.
func (h *grpcHealth) Watch(r *healthpb.HealthCheckRequest, stream healthpb.Health_WatchServer) error {
	serves, known := healthServices[r.GetService()]
	last := healthpb.HealthCheckResponse_UNKNOWN
	stopping := false
	for {
		v, changed := h.probe.watch()
		now := healthpb.HealthCheckResponse_SERVICE_UNKNOWN
		if known {
			now = servingStatus(serves(v))
		}
		if now != last {
			if err := stream.Send(&healthpb.HealthCheckResponse{Status: now}); err != nil {
				return err
			}
			last = now
		}
		if stopping {
			return errStopping
		}
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-h.stopping:
			stopping = true
		case <-changed:
		}
	}
}
