package server

// What the external tests need of the inside.

type (
	Backend     = backend
	TokenStream = tokenStream
)

// NewWithBackend is New over something else than an engine.
func NewWithBackend(cfg Config, b Backend) (*Server, error) { return newServer(cfg, b) }

// CallsInFlight is how many places of MaxStreams are taken.
func (s *Server) CallsInFlight() int64 { return s.calls.Load() }
