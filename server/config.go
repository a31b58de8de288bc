package server

import (
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel/trace"
)

// Config is fixed for a server's life. Start from [DefaultConfig]: a limit of
// zero is refused, not taken for "none".
type Config struct {
	Version string // reported by Health
	Log     zerolog.Logger

	GRPCAddress   string // host:port of the gRPC services
	HTTPAddress   string // host:port of the HTTP routes; empty serves none
	HealthAddress string // host:port of the health services alone, for probes; empty serves none
	AdminAddress  string // host:port of ModelService, which then is not served on GRPCAddress; empty serves it there
	// Insecure allows GRPCAddress, HTTPAddress and AdminAddress beyond loopback
	// although nobody is asked who they are.
	Insecure bool

	ModelDir   string // where Load finds files; empty refuses remote loads
	Reflection bool   // gRPC reflection v1 and v1alpha, for grpcurl

	// Limits of what one client, and all of them together, may take.
	MaxConnections    int           // open connections of each listener; more wait to be accepted
	MaxStreams        int           // calls in flight, gRPC and HTTP together
	MaxConnStreams    uint32        // calls in flight of one gRPC connection
	MaxMessageBytes   int           // a gRPC message or an HTTP body
	MaxHeaderBytes    uint32        // a request's headers
	ConnectionTimeout time.Duration // until a new gRPC connection has shaken hands, and for a request to arrive
	// SendTimeout is how long one event waits for a client that does not read
	// before its call is ended. The engine takes the slot away earlier.
	SendTimeout time.Duration

	// Keepalive of gRPC connections.
	KeepaliveTime    time.Duration // of silence before the server pings
	KeepaliveTimeout time.Duration // for the answer, before the connection is closed
	KeepaliveMin     time.Duration // pings that come faster close the connection

	// Shutdown: not ready, DrainDelay for the load balancers to notice,
	// DrainTimeout for the streams to end, StopTimeout for the connections.
	DrainDelay   time.Duration // may be 0
	DrainTimeout time.Duration
	StopTimeout  time.Duration

	// TracerProvider receives the spans. nil exports over OTLP where the
	// standard variables ask for it (OTEL_EXPORTER_OTLP_ENDPOINT is enough), and
	// traces nothing otherwise.
	TracerProvider trace.TracerProvider
}

// DefaultConfig is a server for this machine alone.
func DefaultConfig() Config {
	return Config{
		Version:     "unknown",
		Log:         zerolog.Nop(),
		GRPCAddress: "127.0.0.1:50051",
		HTTPAddress: "127.0.0.1:8080",
		Reflection:  true,

		MaxConnections:    16384,
		MaxStreams:        4096,
		MaxConnStreams:    128,
		MaxMessageBytes:   4 << 20,
		MaxHeaderBytes:    16 << 10,
		ConnectionTimeout: 10 * time.Second,
		SendTimeout:       10 * time.Second,

		KeepaliveTime:    20 * time.Second,
		KeepaliveTimeout: 10 * time.Second,
		KeepaliveMin:     10 * time.Second,

		DrainDelay:   5 * time.Second,
		DrainTimeout: 30 * time.Second,
		StopTimeout:  5 * time.Second,
	}
}

// check reports everything that is wrong at once.
func (c *Config) check() error {
	var errs []error
	positive := func(name string, ok bool) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s must be positive", name))
		}
	}
	if c.GRPCAddress == "" {
		errs = append(errs, errors.New("GRPCAddress must be set"))
	}
	positive("MaxConnections", c.MaxConnections > 0)
	positive("MaxStreams", c.MaxStreams > 0)
	positive("MaxConnStreams", c.MaxConnStreams > 0)
	positive("MaxMessageBytes", c.MaxMessageBytes > 0)
	positive("MaxHeaderBytes", c.MaxHeaderBytes > 0)
	positive("ConnectionTimeout", c.ConnectionTimeout > 0)
	positive("SendTimeout", c.SendTimeout > 0)
	positive("KeepaliveTime", c.KeepaliveTime > 0)
	positive("KeepaliveTimeout", c.KeepaliveTimeout > 0)
	positive("KeepaliveMin", c.KeepaliveMin > 0)
	positive("DrainTimeout", c.DrainTimeout > 0)
	positive("StopTimeout", c.StopTimeout > 0)
	if c.DrainDelay < 0 {
		errs = append(errs, errors.New("DrainDelay must not be negative"))
	}
	return errors.Join(errs...)
}
