package server

import (
	"context"

	kigov1 "kigo/proto/kigo/v1"
)

// healthService is kigo.v1.HealthService: the same truth as grpc.health.v1,
// with everything around it.
type healthService struct {
	kigov1.UnimplementedHealthServiceServer
	server *Server
}

func (s *healthService) Health(context.Context, *kigov1.HealthRequest) (*kigov1.HealthResponse, error) {
	return s.server.health(), nil
}
