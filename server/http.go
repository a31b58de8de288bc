package server

import (
	"encoding/json"
	"errors"
	"log"
	"math"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"

	kigov1 "kigo/proto/kigo/v1"
)

// httpServer is the routes over HTTP: health, metrics, and the generation for
// clients without gRPC.
func (s *Server) httpServer() *http.Server {
	mux := http.NewServeMux()
	route := func(pattern string, h httpHandler) { mux.Handle(pattern, s.httpCall(pattern, h)) }
	metrics := s.metrics.handler()
	route("GET /health", s.httpHealth)
	route("GET /healthz", s.httpProbe(func(v verdict) bool { return v.live }))
	route("GET /readyz", s.httpProbe(func(v verdict) bool { return v.ready }))
	route("GET /metrics", func(w *recordingWriter, r *http.Request) { metrics.ServeHTTP(w, r) })
	route("POST /execute", s.httpExecute)
	return &http.Server{
		Handler: mux,
		// A client gets no more time for its headers than a gRPC one for its
		// handshake; what it may take for reading a stream is limited write by
		// write.
		ReadHeaderTimeout: s.cfg.ConnectionTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    int(s.cfg.MaxHeaderBytes),
		ErrorLog:          log.New(errorLogWriter{s.cfg.Log}, "", 0),
	}
}

// httpCall wraps a handler with what gRPC's interceptors do: metrics, access
// log, and a panic that hurts nobody else.
func (s *Server) httpCall(pattern string, h httpHandler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		rec := &recordingWriter{ResponseWriter: w, code: http.StatusOK}
		defer func() {
			if p := recover(); p != nil {
				err := s.recovered(p, debug.Stack())
				if !rec.wrote {
					s.httpError(rec, err)
				}
			}
			s.metrics.observeHTTP(pattern, rec.code)
			s.cfg.Log.Info().Str("http.route", pattern).Int("http.code", rec.code).Str("peer.address", r.RemoteAddr).
				Float64("duration_ms", float64(time.Since(begun).Microseconds())/1000).
				Fields(rec.fields).Msg("finished request")
		}()
		h(rec, r)
	})
}

// httpHealth answers as HealthService.Health does. Its code says whether
// requests are served, for clients that look no further.
func (s *Server) httpHealth(w *recordingWriter, _ *http.Request) {
	res := s.health()
	body, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(res)
	if err != nil {
		s.httpError(w, err)
		return
	}
	code := http.StatusOK
	if !res.GetReady() {
		code = http.StatusServiceUnavailable
	}
	writeJSON(w, code, body)
}

// httpProbe is a verdict as a status code.
func (s *Server) httpProbe(ok func(verdict) bool) httpHandler {
	return func(w *recordingWriter, _ *http.Request) {
		code, text := http.StatusOK, "ok\n"
		if !ok(s.probe.verdict()) {
			code, text = http.StatusServiceUnavailable, "not ok\n"
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(code)
		_, _ = w.Write([]byte(text)) // the prober has gone: nobody is left to tell
	}
}

// httpFailure is an error's JSON: the same code, reason and fields as over
// gRPC.
type httpFailure struct {
	Error httpFailureBody `json:"error"`
}

type httpFailureBody struct {
	Code       string          `json:"code"`   // INVALID_ARGUMENT
	Reason     string          `json:"reason"` // INVALID_REQUEST
	Message    string          `json:"message"`
	Violations []httpViolation `json:"violations,omitempty"`
	// Tokens that a stream had when it failed; nil where none had begun.
	GeneratedTokens   *int    `json:"generated_tokens,omitempty"`
	RetryAfterSeconds float64 `json:"retry_after_seconds,omitempty"`
}

type httpViolation struct {
	Field       string `json:"field"`
	Description string `json:"description"`
}

func (f failure) json() []byte {
	out := httpFailure{Error: httpFailureBody{
		Code: reasonOfCode(f.code), Reason: f.reason, Message: f.message, RetryAfterSeconds: f.retry.Seconds(),
	}}
	for _, v := range f.violations {
		out.Error.Violations = append(out.Error.Violations, httpViolation{v.Field, v.Reason})
	}
	if n, err := strconv.Atoi(f.metadata[generatedTokens]); err == nil {
		out.Error.GeneratedTokens = &n
	}
	body, err := json.Marshal(out)
	if err != nil { // strings and a finite number always marshal
		return []byte(`{"error":{"code":"INTERNAL","reason":"INTERNAL","message":"internal error"}}`)
	}
	return body
}

// httpError answers with err as JSON.
func (s *Server) httpError(w http.ResponseWriter, err error) {
	f := s.failure(err)
	if f.retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(f.retry.Seconds()))))
	}
	writeJSON(w, httpCode(err, f.code), f.json())
}

// httpCode is the status code for a gRPC code, as the field maps them.
func httpCode(err error, c codes.Code) int {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, errWrongType):
		return http.StatusUnsupportedMediaType
	}
	switch c {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange:
		return http.StatusBadRequest
	case codes.NotFound:
		return http.StatusNotFound
	case codes.AlreadyExists, codes.Aborted:
		return http.StatusConflict
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.Unimplemented:
		return http.StatusNotImplemented
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout
	case codes.Canceled:
		return 499 // the client closed the request
	}
	return http.StatusInternalServerError
}

func writeJSON(w http.ResponseWriter, code int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n')) // the client has gone: nobody is left to tell
}

// health is what Health answers, over gRPC and HTTP.
func (s *Server) health() *kigov1.HealthResponse {
	return healthMessage(s.backend.Status(), s.probe.verdict(), s.probe.isDraining(), s.cfg.Version, time.Now())
}

// httpHandler answers one request.
type httpHandler func(*recordingWriter, *http.Request)

// recordingWriter remembers what the access log says.
type recordingWriter struct {
	http.ResponseWriter
	code   int
	wrote  bool
	fields []any // names and values beyond every request's own
}

func (w *recordingWriter) WriteHeader(code int) {
	if !w.wrote {
		w.code, w.wrote = code, true
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *recordingWriter) Write(b []byte) (int, error) {
	w.wrote = true
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recordingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
