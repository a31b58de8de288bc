// Package server is Kigo's edge: the gRPC services, the HTTP routes, health,
// metrics, access logs and the orderly end. It knows requests and answers; it
// knows no tensors.
package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"kigo/engine"
	kigov1 "kigo/proto/kigo/v1"
)

// failFlush is how long the streams of a failed device have to carry their last
// status to the clients, and each thing after them to end.
const failFlush = 500 * time.Millisecond

// Server serves one engine. Make it with [New], run it once with
// [Server.Serve].
type Server struct {
	cfg       Config
	backend   backend
	probe     *probe
	metrics   *metrics
	validator protovalidate.Validator
	models    *modelDir
	tracing   *tracing
	calls     atomic.Int64   // in flight, gRPC and HTTP
	work      sync.WaitGroup // goroutines of calls that may outlive their handler

	listeners []net.Listener // gRPC, HTTP, health, admin; nil where not served

	// draining ends when no new work is taken any more, stopping when calls
	// that never end by themselves must.
	draining context.Context
	refuse   context.CancelFunc
	stopping context.Context
	stop     context.CancelFunc

	shutdown chan struct{} // closed by the first Shutdown
	askOnce  sync.Once
	served   chan struct{} // closed when Serve or Close has ended everything
	used     atomic.Bool   // Serve or Close was called
}

// The places in Server.listeners.
const (
	grpcListener = iota
	httpListener
	healthListener
	adminListener
	listenerCount
)

// New checks cfg, opens the model directory and the listeners, and is ready to
// Serve; until then connections wait. The engine stays the caller's: close it
// after Serve has returned. An address beyond loopback without cfg.Insecure is
// [ErrNotLoopback].
func New(cfg Config, e *engine.Engine) (*Server, error) {
	return newServer(cfg, engineBackend{e})
}

func newServer(cfg Config, b backend) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("server configuration: %w", err)
	}
	s := &Server{
		cfg:       cfg,
		backend:   b,
		probe:     newProbe(b),
		listeners: make([]net.Listener, listenerCount),
		shutdown:  make(chan struct{}),
		served:    make(chan struct{}),
	}
	s.metrics = newMetrics(b, s.probe)
	s.draining, s.refuse = context.WithCancel(context.Background())
	s.stopping, s.stop = context.WithCancel(context.Background())
	var err error
	if s.validator, err = protovalidate.New(); err != nil {
		return nil, fmt.Errorf("validator: %w", err)
	}
	if s.models, err = openModelDir(cfg.ModelDir); err != nil {
		return nil, err
	}
	for i, l := range []struct {
		what, addr string
		anywhere   bool
	}{
		grpcListener: {"gRPC", cfg.GRPCAddress, cfg.Insecure},
		httpListener: {"HTTP", cfg.HTTPAddress, cfg.Insecure},
		// Health says nothing secret, and the kubelet has no credentials.
		healthListener: {"health", cfg.HealthAddress, true},
		adminListener:  {"admin", cfg.AdminAddress, cfg.Insecure},
	} {
		if l.addr == "" {
			continue
		}
		if s.listeners[i], err = listen(l.what, l.addr, l.anywhere, cfg.MaxConnections); err != nil {
			s.release(cfg.StopTimeout)
			return nil, err
		}
	}
	if s.tracing, err = newTracing(context.Background(), cfg.TracerProvider, cfg.Version); err != nil {
		s.release(cfg.StopTimeout)
		return nil, err
	}
	return s, nil
}

// GRPCAddr is where the gRPC services listen.
func (s *Server) GRPCAddr() net.Addr { return s.addr(grpcListener) }

// HTTPAddr is where the HTTP routes listen; nil if they are not served.
func (s *Server) HTTPAddr() net.Addr { return s.addr(httpListener) }

// HealthAddr is where the health services alone listen; nil if they do not.
func (s *Server) HealthAddr() net.Addr { return s.addr(healthListener) }

// AdminAddr is where ModelService listens if that is not GRPCAddr; nil if it
// is.
func (s *Server) AdminAddr() net.Addr { return s.addr(adminListener) }

func (s *Server) addr(i int) net.Addr {
	if s.listeners[i] == nil {
		return nil
	}
	return s.listeners[i].Addr()
}

// Serve serves until ctx ends, Shutdown is called, a listener fails or the
// device fails; then it says not ready, drains and stops, and waits for every
// goroutine of the server. The error is nil after an orderly end, wraps
// [engine.ErrFatal] where the process should be replaced, or
// [context.DeadlineExceeded] where streams had to be cut off. After a failure of
// the device Serve returns within two seconds, and what is stuck in the device is
// left behind. It may be called once.
func (s *Server) Serve(ctx context.Context) error {
	if s.used.Swap(true) {
		return errors.New("server: Serve may be called once, and not after Close")
	}
	defer close(s.served)
	return s.serve(ctx)
}

// Shutdown ends Serve as the end of its context does, and waits for it, at
// most until ctx ends.
func (s *Server) Shutdown(ctx context.Context) error {
	s.askOnce.Do(func() { close(s.shutdown) })
	select {
	case <-s.served:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close frees what New has opened where Serve is never called. Once it has
// been, Close does nothing.
func (s *Server) Close() {
	if s.used.Swap(true) {
		return
	}
	defer close(s.served)
	s.release(s.cfg.StopTimeout)
}

// release closes what New has opened, and sends the last traces within patience.
// It may be called again.
func (s *Server) release(patience time.Duration) {
	s.refuse()
	s.stop()
	for _, l := range s.listeners {
		if l != nil {
			_ = l.Close()
		}
	}
	s.models.close()
	if s.tracing != nil {
		flush, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.tracing.shutdown(flush); err != nil {
			s.cfg.Log.Warn().Err(err).Msg("the last traces were not sent")
		}
	}
}

func (s *Server) serve(ctx context.Context) error {
	grpcServer, adminServer, healthServer, httpServer := s.grpcServer(), s.adminServer(), s.healthServer(), s.httpServer()

	// One goroutine for each listener and one for the probe; each reports once.
	var running sync.WaitGroup
	ended := make(chan error, listenerCount+1)
	run := func(what string, f func() error) {
		running.Go(func() {
			if err := f(); err != nil {
				ended <- fmt.Errorf("%s: %w", what, err)
			}
		})
	}
	watching, stopWatching := context.WithCancel(context.Background())
	defer stopWatching()
	run("engine", func() error { return s.probe.run(watching) })
	for i, serve := range []func(net.Listener) error{
		grpcListener:   grpcServer.Serve,
		httpListener:   func(l net.Listener) error { return ignore(httpServer.Serve(l), http.ErrServerClosed) },
		healthListener: healthServer.Serve,
		adminListener:  adminServer.Serve,
	} {
		if l := s.listeners[i]; l != nil {
			run("listener "+l.Addr().String(), func() error { return ignore(serve(l), grpc.ErrServerStopped) })
		}
	}

	var err error
	select {
	case <-ctx.Done():
	case <-s.shutdown:
	case err = <-ended:
	}
	if !errors.Is(err, engine.ErrFatal) {
		err = errors.Join(err, s.drain(ended, httpServer, grpcServer, adminServer))
	}
	// The device may fail at any time, also while it is drained.
	patience := s.cfg.StopTimeout
	if failure := failureIn(s.backend.Status()); failure != nil {
		err, patience = failure, failFlush
		s.abandon(httpServer, grpcServer, adminServer)
	}
	// The probes last: until here they say why.
	healthServer.Stop()
	stopWatching()
	if !within(patience, func() { running.Wait(); s.work.Wait() }) {
		s.cfg.Log.Error().Msg("a call is stuck: it is left behind")
		err = errors.Join(err, errStuck)
	}
	s.release(patience)
	return err
}

// errStuck is a call that ends neither by itself nor with its context.
var errStuck = errors.New("a call did not end")

// within waits for f, at most so long; false if that was not enough.
func within(patience time.Duration, f func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// drain ends the service in order: the probes say not ready, those who route
// requests here get time to notice, the streams get time to end, then the
// connections. It ends early where something of ended makes all that pointless.
func (s *Server) drain(ended <-chan error, h *http.Server, gs ...*grpc.Server) error {
	s.probe.drain()
	s.cfg.Log.Info().Dur("delay", s.cfg.DrainDelay).Msg("draining: not ready any more")
	notice := time.NewTimer(s.cfg.DrainDelay)
	defer notice.Stop()
	select {
	case <-notice.C:
	case err := <-ended:
		if errors.Is(err, engine.ErrFatal) {
			return err
		}
		<-notice.C
	}
	s.refuse()
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.DrainTimeout)
	defer cancel()
	drainErr := s.backend.Drain(ctx)
	if drainErr != nil {
		drainErr = fmt.Errorf("drain: %w", drainErr)
	}
	if failureIn(s.backend.Status()) == nil {
		s.stopServers(s.cfg.StopTimeout, h, gs...)
	}
	return drainErr
}

// abandon ends the service of a device that has failed: the engine has ended
// its streams, and what is left is to carry that to the clients.
func (s *Server) abandon(h *http.Server, gs ...*grpc.Server) {
	s.cfg.Log.Error().Str("reason", s.backend.Status().Reason).Msg("the device has failed: stopping")
	s.probe.drain()
	s.refuse()
	s.stopServers(failFlush, h, gs...)
}

// stopServers lets calls end for some time, and then ends them. A handler that
// does not return even so is left behind.
func (s *Server) stopServers(patience time.Duration, h *http.Server, gs ...*grpc.Server) {
	s.stop()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var stopping sync.WaitGroup
	for _, g := range gs {
		stopping.Go(func() {
			// GracefulStop waits without a limit; Stop makes it return.
			defer context.AfterFunc(ctx, g.Stop)()
			g.GracefulStop()
		})
	}
	stopping.Go(func() {
		if h.Shutdown(ctx) != nil {
			_ = h.Close() // only the listeners' own errors, and they are gone
		}
	})
	if !within(2*patience, stopping.Wait) {
		s.cfg.Log.Error().Msg("a handler is stuck: it is left behind")
	}
}

// grpcServer serves everything, but for what has a listener of its own.
func (s *Server) grpcServer() *grpc.Server {
	g := grpc.NewServer(s.grpcOptions()...)
	kigov1.RegisterInferenceServiceServer(receiving{g, s}, &inferenceService{server: s})
	if s.listeners[adminListener] == nil {
		kigov1.RegisterModelServiceServer(receiving{g, s}, &modelService{server: s})
	}
	s.registerHealth(g)
	s.metrics.grpc.initialize(g)
	return g
}

// adminServer serves ModelService, to those who may load and unload.
func (s *Server) adminServer() *grpc.Server {
	g := grpc.NewServer(s.grpcOptions()...)
	if s.listeners[adminListener] != nil {
		kigov1.RegisterModelServiceServer(receiving{g, s}, &modelService{server: s})
		s.registerHealth(g)
		s.metrics.grpc.initialize(g)
	}
	return g
}

// healthServer serves the health services alone.
func (s *Server) healthServer() *grpc.Server {
	g := grpc.NewServer(s.grpcOptions()...)
	s.registerHealth(g)
	return g
}

func (s *Server) registerHealth(g *grpc.Server) {
	kigov1.RegisterHealthServiceServer(receiving{g, s}, &healthService{server: s})
	healthpb.RegisterHealthServer(receiving{g, s}, &grpcHealth{probe: s.probe, stopping: s.stopping.Done()})
	if s.cfg.Reflection {
		reflection.Register(g)
	}
}

// ignore is err unless it is the one that says that all is well.
func ignore(err, fine error) error {
	if errors.Is(err, fine) {
		return nil
	}
	return err
}
