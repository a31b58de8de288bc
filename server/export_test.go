package server

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"

	"kigo/engine"
	kigov1 "kigo/proto/kigo/v1"
)

// What the external tests need of the inside.

type (
	Backend     = backend
	TokenStream = tokenStream
)

// NewWithBackend is New over something else than an engine.
func NewWithBackend(cfg Config, b Backend) (*Server, error) { return newServer(cfg, b) }

// NewCodec is how messages are encoded.
func NewCodec() encoding.CodecV2 { return newCodec() }

// TokensEvent is what is sent of the engine's tokens.
func TokensEvent(t *engine.Tokens) *kigov1.ExecuteResponse { return tokensEvent(t) }

// CallsInFlight is how many places of MaxStreams are taken.
func (s *Server) CallsInFlight() int64 { return s.calls.Load() }

// Validate is all that Execute checks before a request is queued: the code and
// the reason of the refusal, its fields and its whole text; codes.OK if there is
// none.
func (s *Server) Validate(r *kigov1.ExecuteRequest) (code codes.Code, reason string, fields []string, text string) {
	err := s.check(r)
	if err == nil {
		q := engineRequest(r, 1)
		err = templateError(apiFields(s.backend.Check(q)), q.Messages)
	}
	if err == nil {
		return codes.OK, "", nil, ""
	}
	f := failureOf(err)
	for _, v := range f.violations {
		fields = append(fields, v.Field)
	}
	return f.code, f.reason, fields, f.status().Proto().String()
}
