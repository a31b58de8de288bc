package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/pflag"

	"kigo/engine"
	"kigo/server"
)

// serveOptions is what the flags of serve say.
type serveOptions struct {
	model, name string
	server      server.Config
	engine      engine.Config

	noReflection        bool
	terminationLog      string
	logLevel, logFormat string
}

// serveFlags defines the flags of serve, one for each thing that can be set.
func serveFlags(f *pflag.FlagSet) *serveOptions {
	f.SortFlags = false // the order below is the order of the help
	o := &serveOptions{server: server.DefaultConfig()}
	s, e := &o.server, &o.engine

	f.StringVar(&o.model, "model", "", "GGUF `file` to serve from the start")
	f.StringVar(&o.name, "model-name", "", "what requests call it (default: the file's name without its extension)")
	f.StringVar(&s.ModelDir, "model-dir", "", "`folder` whose models may be loaded over the API (default: none may)")

	f.StringVar(&s.GRPCAddress, "listen", s.GRPCAddress, "`address` of the gRPC services")
	f.StringVar(&s.HTTPAddress, "http-listen", s.HTTPAddress, "`address` of the HTTP routes; off serves none")
	f.StringVar(&s.HealthAddress, "health-listen", s.HealthAddress, "`address` of the health services alone, for probes (default: none)")
	f.StringVar(&s.AdminAddress, "admin-listen", s.AdminAddress, "`address` of loading and unloading, which --listen then does not serve (default: it does)")
	f.BoolVar(&s.Insecure, "insecure", false, "listen beyond loopback although nobody is asked who they are")
	f.BoolVar(&o.noReflection, "no-reflection", false, "turn gRPC reflection off, which tells clients such as grpcurl what there is to call")

	f.StringVar(&e.Device, "device", "auto", "what to run on: auto, cpu, cuda or cuda:N")
	f.BoolVar(&e.DeviceChecks, "device-checks", false, "wait after every kernel, name the one that fails, look for NaNs; slow")
	f.IntVar(&e.Threads, "threads", 0, "CPU threads; 0 means all cores")
	f.BoolVar(&e.Reference, "reference", false, "run the slow and exact reference path")
	f.BoolVar(&e.SkipVerify, "skip-verify", false, "load without proving that the device holds the file's bytes")
	f.IntVar(&e.MaxContext, "max-context", 0, "tokens of one sequence at most; 0 means what the model was trained for")
	f.IntVar(&e.MaxConcurrent, "max-concurrent", 0, "requests that generate at one time; 0 means 256 on a GPU, 32 on a processor")
	f.IntVar(&e.MaxQueue, "max-queue", 64, "requests that wait beyond those; 0 lets none wait")
	f.IntVar(&e.ChunkRows, "chunk-rows", 0, "tokens of prompts in a step beside those that are generated; 0 means what keeps the device busy")
	f.IntVar(&e.CacheTokens, "cache-tokens", 0, "tokens in the KV cache, of all requests; 0 means as many as --max-concurrent full contexts have (on a processor 8), within half of the free memory")
	f.BoolVar(&e.NoPrefixCache, "no-prefix-cache", false, "compute every prompt, though its beginning is in the KV cache")
	f.IntVar(&e.MaxStops, "max-stops", 16, "stop strings of one request, and stop ids")
	f.IntVar(&e.MaxStopBytes, "max-stop-bytes", 256, "size of a stop string")
	f.IntVar(&e.MaxBiases, "max-biases", 1024, "logit biases of one request")
	f.IntVar(&e.StreamBuffer, "stream-buffer", 64, "tokens held for a client that lags before its request pauses")
	f.DurationVar(&e.SlowReader, "slow-reader", 2*time.Second, "how long a paused request keeps its place")

	f.IntVar(&s.MaxConnections, "max-connections", s.MaxConnections, "open connections of each listener")
	f.IntVar(&s.MaxStreams, "max-streams", s.MaxStreams, "calls in flight, gRPC and HTTP together")
	f.Uint32Var(&s.MaxConnStreams, "max-connection-streams", s.MaxConnStreams, "calls in flight of one gRPC connection")
	f.IntVar(&s.MaxMessageBytes, "max-message-bytes", s.MaxMessageBytes, "size of a gRPC message or an HTTP body")
	f.Uint32Var(&s.MaxHeaderBytes, "max-header-bytes", s.MaxHeaderBytes, "size of a request's headers")
	f.DurationVar(&s.ConnectionTimeout, "connection-timeout", s.ConnectionTimeout, "until a new connection has shaken hands, and until a request has arrived")
	f.DurationVar(&s.SendTimeout, "send-timeout", s.SendTimeout, "until a call whose client does not read is ended")
	f.DurationVar(&s.KeepaliveTime, "keepalive-time", s.KeepaliveTime, "silence before the server pings a client")
	f.DurationVar(&s.KeepaliveTimeout, "keepalive-timeout", s.KeepaliveTimeout, "until a ping that nobody answers closes the connection")
	f.DurationVar(&s.KeepaliveMin, "keepalive-min", s.KeepaliveMin, "clients that ping more often are disconnected")
	f.DurationVar(&s.DrainDelay, "drain-delay", s.DrainDelay, "from SIGTERM to refusing work, for load balancers to notice")
	f.DurationVar(&s.DrainTimeout, "drain-timeout", s.DrainTimeout, "for the requests under way to end")
	f.DurationVar(&s.StopTimeout, "stop-timeout", s.StopTimeout, "for the connections to close after that")
	f.DurationVar(&e.StepLimit, "step-limit", time.Minute, "a device step that takes longer counts as hung, whatever earlier ones took")
	f.StringVar(&o.terminationLog, "termination-log", "", "`file` that is told, in a sentence, why the server ended badly (default: none)")

	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn, error or off")
	f.StringVar(&o.logFormat, "log-format", "auto", "json, text, or auto: text at a terminal")
	return o
}

// finish turns the flags into what the server and the engine take.
func (o *serveOptions) finish(stderr io.Writer) error {
	log, err := newLogger(stderr, o.logLevel, o.logFormat)
	if err != nil {
		return &usageError{err}
	}
	o.server.Log, o.engine.Log = log, log
	o.server.Version = Version()
	if o.server.HTTPAddress == "off" {
		o.server.HTTPAddress = ""
	}
	o.server.Reflection = !o.noReflection
	if o.engine.MaxQueue == 0 {
		o.engine.MaxQueue = -1 // none may wait; the engine's 0 is its default
	}
	return nil
}

// newLogger writes the log to w, which is never where a command's output goes.
func newLogger(w io.Writer, level, format string) (zerolog.Logger, error) {
	levels := map[string]zerolog.Level{
		"debug": zerolog.DebugLevel, "info": zerolog.InfoLevel, "warn": zerolog.WarnLevel,
		"error": zerolog.ErrorLevel, "off": zerolog.Disabled,
	}
	l, ok := levels[level]
	if !ok {
		return zerolog.Logger{}, fmt.Errorf("--log-level %q is not one of debug, info, warn, error, off", level)
	}
	switch format {
	case "auto":
		if !isTerminal(w) {
			break
		}
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: "15:04:05.000"}
	case "text":
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: "15:04:05.000", NoColor: !isTerminal(w)}
	case "json":
	default:
		return zerolog.Logger{}, fmt.Errorf("--log-format %q is not one of auto, text, json", format)
	}
	return zerolog.New(w).Level(l).With().Timestamp().Logger(), nil
}
