package server

import (
	"bytes"
	"context"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/rs/zerolog"
	"google.golang.org/grpc/codes"

	"kigo/engine"
)

// The access log has one line for each call, when it ends. It says who called
// what, how it ended and how much was generated; never what was said.

// accessLogger hands the middleware's lines to zerolog.
func accessLogger(log zerolog.Logger) logging.Logger {
	return logging.LoggerFunc(func(_ context.Context, level logging.Level, msg string, fields ...any) {
		var e *zerolog.Event
		switch level {
		case logging.LevelDebug:
			e = log.Debug()
		case logging.LevelInfo:
			e = log.Info()
		case logging.LevelWarn:
			e = log.Warn()
		default:
			e = log.Error()
		}
		e.Fields(fields).Msg(msg)
	})
}

func accessLogOptions() []logging.Option {
	return []logging.Option{
		logging.WithLogOnEvents(logging.FinishCall),
		logging.WithDisableLoggingFields(logging.SystemTag[0], logging.ComponentFieldKey, logging.MethodTypeFieldKey),
		logging.WithLevels(accessLevel),
		logging.WithDurationField(func(d time.Duration) logging.Fields {
			return logging.Fields{"duration_ms", float64(d.Microseconds()) / 1000}
		}),
	}
}

// accessLevel keeps the callers' own mistakes apart from the server's faults.
func accessLevel(c codes.Code) logging.Level {
	switch c {
	case codes.Internal, codes.Unknown, codes.DataLoss:
		return logging.LevelError
	case codes.Unavailable, codes.ResourceExhausted:
		return logging.LevelWarn
	}
	return logging.LevelInfo
}

// fields is what the access log says about one Execute.
func (c *call) fields() logging.Fields {
	return logging.Fields{
		"correlation_id", c.correlation,
		"request_id", c.request,
		"model", c.model,
		"prompt_tokens", c.prompt,
		"generated_tokens", c.generated,
		"stop", stopName(c.stop),
	}
}

// stopName is a stop reason as logs and metrics call it; empty without one.
func stopName(r engine.StopReason) string {
	switch r {
	case engine.StopMaxTokens:
		return "max_tokens"
	case engine.StopEnd:
		return "end"
	case engine.StopSequence:
		return "sequence"
	case engine.StopCancelled:
		return "cancelled"
	}
	return ""
}

// errorLogWriter takes net/http's own complaints about connections.
type errorLogWriter struct{ log zerolog.Logger }

func (w errorLogWriter) Write(p []byte) (int, error) {
	w.log.Debug().Str("component", "http").Msg(string(bytes.TrimSpace(p)))
	return len(p), nil
}
