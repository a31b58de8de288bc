package server

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"

	kigov1 "kigo/proto/kigo/v1"
)

// grpcOptions is a gRPC server's limits and interceptors, outermost first:
// metrics and the access log see the status that the client sees, so they
// stand outside of what makes it; a panic anywhere below becomes a status.
func (s *Server) grpcOptions() []grpc.ServerOption {
	cfg := &s.cfg
	logger := accessLogger(cfg.Log)
	recover := recovery.WithRecoveryHandlerContext(func(_ context.Context, p any) error {
		return failureOf(s.recovered(p, debug.Stack())).status().Err()
	})
	options := []grpc.ServerOption{
		grpc.MaxConcurrentStreams(cfg.MaxConnStreams),
		grpc.MaxRecvMsgSize(cfg.MaxMessageBytes),
		grpc.MaxHeaderListSize(cfg.MaxHeaderBytes),
		grpc.ConnectionTimeout(cfg.ConnectionTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: cfg.KeepaliveTime, Timeout: cfg.KeepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: cfg.KeepaliveMin, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return s.statusError(errUnknownMethod) }),
		grpc.ChainUnaryInterceptor(
			s.metrics.grpc.unary,
			logging.UnaryServerInterceptor(logger, accessLogOptions()...),
			s.unaryStatus,
			recovery.UnaryServerInterceptor(recover),
			s.unaryValid,
		),
		grpc.ChainStreamInterceptor(
			s.knownMethod,
			s.metrics.grpc.stream,
			s.callStreams(logging.StreamServerInterceptor(logger, accessLogOptions()...)),
			recovery.StreamServerInterceptor(recover),
		),
	}
	if s.tracing.provider != nil {
		options = append(options, grpc.StatsHandler(otelgrpc.NewServerHandler(
			otelgrpc.WithTracerProvider(s.tracing.provider),
			otelgrpc.WithPropagators(s.tracing.propagator),
		)))
	}
	return options
}

// knownMethod lets calls of methods that there are pass. The others have no
// place in metrics and log, where a caller could make up names without end.
func (s *Server) knownMethod(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	if srv == nil {
		return s.statusError(errUnknownMethod)
	}
	return h(srv, stream)
}

// unaryStatus counts the call and turns the handler's error into a status.
func (s *Server) unaryStatus(ctx context.Context, r any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	release, err := s.admit(isWork(info.FullMethod))
	if err != nil {
		return nil, s.statusError(err)
	}
	defer release()
	res, err := h(ctx, r)
	if err != nil {
		return nil, s.statusError(err)
	}
	return res, nil
}

// callStreams has handlers see a callStream, and turns their errors into statuses, as
// unaryStatus does. The log sees how calls begin and end: around each message, of which
// there is one for each token, it would have nothing to say.
func (s *Server) callStreams(log grpc.StreamServerInterceptor) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
		return log(srv, stream, info, func(srv any, logged grpc.ServerStream) error {
			c := s.newCallStream(logged.Context(), stream, info)
			defer func() { c.release() }()
			if err := h(srv, c); err != nil {
				return s.statusError(err)
			}
			return nil
		})
	}
}

// unaryValid refuses messages that are none or break their own rules.
func (s *Server) unaryValid(ctx context.Context, r any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	if err := s.valid(r); err != nil {
		return nil, err
	}
	return h(ctx, r)
}

func (s *Server) valid(m any) error {
	message, ok := m.(proto.Message)
	switch {
	case !ok:
		return nil
	case isUndecodable(message):
		return errMalformed
	}
	if _, execute := m.(*kigov1.ExecuteRequest); execute {
		return nil // Execute validates for itself, the same way for gRPC and HTTP
	}
	return validateMessage(s.validator, message)
}

// isWork says that a gRPC method counts against the limit of calls. Health and
// reflection do not: a busy server is not an unhealthy one.
func isWork(method string) bool {
	for _, service := range []string{
		kigov1.InferenceService_ServiceDesc.ServiceName,
		kigov1.ModelService_ServiceDesc.ServiceName,
	} {
		if strings.HasPrefix(method, "/"+service+"/") {
			return true
		}
	}
	return false
}

// admit takes one of the server's places for a call in flight; release gives
// it back. What is not work needs no place.
func (s *Server) admit(work bool) (release func(), err error) {
	if !work {
		return func() {}, nil
	}
	if s.calls.Add(1) > int64(s.cfg.MaxStreams) {
		s.calls.Add(-1)
		return nil, errTooManyCalls
	}
	return func() { s.calls.Add(-1) }, nil
}

// statusError is err as the client gets it. What only the operator may see is
// logged here.
func (s *Server) statusError(err error) error {
	return s.failure(err).status().Err()
}

// failure is failureOf for an error that has come out of a handler.
func (s *Server) failure(err error) failure {
	f := failureOf(err)
	if f.isServerFault() && !errors.As(err, new(panicError)) {
		s.cfg.Log.Error().Err(err).Str("reason", f.reason).Msg("a call failed on the server's side")
	}
	return f
}

// recovered logs a panic and makes an error of it. The log has the stack; the
// caller learns nothing.
func (s *Server) recovered(p any, stack []byte) error {
	s.metrics.panics.Inc()
	s.cfg.Log.Error().Str("panic", fmt.Sprint(p)).Bytes("stack", stack).Msg("panic in a handler")
	return panicError{}
}
