package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// How a call's request message comes in. gRPC itself waits for one that never
// comes as long as the connection lives.

// receive waits for a call's only request message, as long as HTTP waits for a
// body. The caller ends the call when it fails, which ends recv.
func (s *Server) receive(recv func(any) error, message any) error {
	done := make(chan error, 1)
	s.work.Go(func() { done <- recv(message) })
	patience := time.NewTimer(s.cfg.ConnectionTimeout)
	defer patience.Stop()
	select {
	case err := <-done:
		return receiveError(err)
	case <-patience.C:
		return fmt.Errorf("the request has not arrived within %v: %w", s.cfg.ConnectionTimeout, context.DeadlineExceeded)
	}
}

// receiveError blames the client for what is no request. gRPC has answered it
// then, without our words; log and metrics have them.
func receiveError(err error) error {
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return err
	case status.Code(err) == codes.Internal:
		return errMalformed
	case status.Code(err) == codes.ResourceExhausted:
		return errTooLarge
	}
	return err
}

// callStream is a stream as its handler sees it. Its request is received as above, must
// be valid, and takes its place among the calls in flight only then: a request that never
// arrives keeps nobody else out. It is all that stands between a handler and gRPC, because
// there is a message for each token.
type callStream struct {
	grpc.ServerStream
	ctx     context.Context
	server  *Server
	counts  methodMetrics
	work    bool // needs a place
	several bool // the client may send any number of messages, at any time

	admitted bool
	release  func()
}

func (s *Server) newCallStream(ctx context.Context, stream grpc.ServerStream, info *grpc.StreamServerInfo) *callStream {
	return &callStream{
		ServerStream: stream, ctx: ctx, server: s,
		counts: s.metrics.grpc.method(info.FullMethod, info.IsClientStream, info.IsServerStream),
		work:   isWork(info.FullMethod), several: info.IsClientStream, release: func() {},
	}
}

func (s *callStream) Context() context.Context { return s.ctx }

func (s *callStream) SendMsg(m any) error {
	err := s.ServerStream.SendMsg(m)
	if err == nil {
		s.counts.sent.Inc()
	}
	return err
}

func (s *callStream) RecvMsg(m any) error {
	if err := s.recvRequest(m); err != nil {
		return err
	}
	return s.server.valid(m)
}

func (s *callStream) recvRequest(m any) error {
	if s.several {
		return receiveError(s.recvCounted(m))
	}
	if err := s.server.receive(s.recvCounted, m); err != nil {
		return err
	}
	if s.admitted {
		return nil
	}
	release, err := s.server.admit(s.work)
	if err != nil {
		return err
	}
	s.admitted, s.release = true, release
	return nil
}

func (s *callStream) recvCounted(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err == nil {
		s.counts.received.Inc()
	}
	return err
}

// receiving registers services whose unary calls receive like streams.
type receiving struct {
	grpc.ServiceRegistrar
	server *Server
}

func (r receiving) RegisterService(desc *grpc.ServiceDesc, service any) {
	d := *desc
	d.Methods = make([]grpc.MethodDesc, len(desc.Methods))
	for i, m := range desc.Methods {
		d.Methods[i] = grpc.MethodDesc{MethodName: m.MethodName, Handler: r.handler(m.Handler)}
	}
	r.ServiceRegistrar.RegisterService(&d, service)
}

func (r receiving) handler(next grpc.MethodHandler) grpc.MethodHandler {
	return func(srv any, ctx context.Context, recv func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		return next(srv, ctx, func(m any) error {
			if err := r.server.receive(recv, m); err != nil {
				return r.server.statusError(err)
			}
			return nil
		}, interceptor)
	}
}
