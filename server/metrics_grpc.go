package server

import (
	"context"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// grpcMetrics counts calls and their messages, by method and code, under the names that
// go-grpc-middleware has given them. Its own interceptors look a counter up by its labels
// for each message, of which there is one for each token.
type grpcMetrics struct {
	started, handled, received, sent *prometheus.CounterVec
	seconds                          *prometheus.HistogramVec
}

func newGRPCMetrics() *grpcMetrics {
	labels := []string{"grpc_type", "grpc_service", "grpc_method"}
	counter := func(name, help string, more ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append(more, labels...))
	}
	return &grpcMetrics{
		started:  counter("grpc_server_started_total", "Calls that have begun."),
		handled:  counter("grpc_server_handled_total", "Calls that have ended, however they did.", "grpc_code"),
		received: counter("grpc_server_msg_received_total", "Messages that were received."),
		sent:     counter("grpc_server_msg_sent_total", "Messages that were sent."),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "grpc_server_handling_seconds", Help: "From a call's beginning to its end.", Buckets: prometheus.DefBuckets,
		}, labels),
	}
}

func (m *grpcMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.started, m.handled, m.received, m.sent, m.seconds}
}

// initialize has every method of g there with zeros, before its first call.
func (m *grpcMetrics) initialize(g *grpc.Server) {
	for service, info := range g.GetServiceInfo() {
		for _, method := range info.Methods {
			c := m.method("/"+service+"/"+method.Name, method.IsClientStream, method.IsServerStream)
			for code := codes.OK; code <= codes.Unauthenticated; code++ {
				c.handled(code)
			}
		}
	}
}

// methodMetrics are those of one method.
type methodMetrics struct {
	started, received, sent prometheus.Counter
	handled                 func(codes.Code) prometheus.Counter
	seconds                 prometheus.Observer
}

func (m *grpcMetrics) method(full string, clientStream, serverStream bool) methodMetrics {
	kind := "unary"
	switch {
	case clientStream && serverStream:
		kind = "bidi_stream"
	case clientStream:
		kind = "client_stream"
	case serverStream:
		kind = "server_stream"
	}
	service, name, _ := strings.Cut(strings.TrimPrefix(full, "/"), "/")
	return methodMetrics{
		started:  m.started.WithLabelValues(kind, service, name),
		received: m.received.WithLabelValues(kind, service, name),
		sent:     m.sent.WithLabelValues(kind, service, name),
		handled: func(c codes.Code) prometheus.Counter {
			return m.handled.WithLabelValues(c.String(), kind, service, name)
		},
		seconds: m.seconds.WithLabelValues(kind, service, name),
	}
}

// ended counts a call that has begun at some time.
func (c *methodMetrics) ended(begun time.Time, err error) {
	c.handled(status.Code(err)).Inc()
	c.seconds.Observe(time.Since(begun).Seconds())
}

// unary counts a call without streams.
func (m *grpcMetrics) unary(ctx context.Context, r any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	c, begun := m.method(info.FullMethod, false, false), time.Now()
	c.started.Inc()
	c.received.Inc()
	res, err := h(ctx, r)
	if err == nil {
		c.sent.Inc()
	}
	c.ended(begun, err)
	return res, err
}

// stream counts a call with streams, whose messages its callStream counts.
func (m *grpcMetrics) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	c, begun := m.method(info.FullMethod, info.IsClientStream, info.IsServerStream), time.Now()
	c.started.Inc()
	err := h(srv, stream)
	c.ended(begun, err)
	return err
}
