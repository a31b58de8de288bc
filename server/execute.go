package server

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"kigo/engine"
	kigov1 "kigo/proto/kigo/v1"
)

// errNoEnd is an engine that ended a stream without saying how.
var errNoEnd = errors.New("the engine closed a stream without an end")

// call collects what the access log and the metrics say about one Execute.
type call struct {
	operation   string // by OpenTelemetry's conventions
	correlation string
	request     string // empty where it was never admitted
	model       string
	prompt      int
	generated   int // of all answers
	stop        engine.StopReason
	firstToken  time.Duration // from the call's arrival; 0 without a token
	took        time.Duration // from the call's arrival to its end
	end         *engine.End   // nil where the stream ended with an error
}

// eventSender brings the events of one Execute to its client.
type eventSender interface {
	send(*kigov1.ExecuteResponse) error

	// sendTokens is send of a tokensEvent, of which there is one for each token.
	sendTokens(t *engine.Tokens, now time.Time) error
}

// execute serves r: it sends started, tokens, metrics and exactly one end, or
// returns the error that takes the end's place. It is all that gRPC and HTTP
// share: to is the only difference. The request leaves the engine when
// execute returns, however it does; a panic on the way is an error like any
// other. c is filled in on the way.
func (s *Server) execute(ctx context.Context, r *kigov1.ExecuteRequest, to eventSender, c *call) (err error) {
	arrived := time.Now()
	c.operation = operationName(r)
	defer func() {
		if p := recover(); p != nil {
			err = s.recovered(p, debug.Stack())
		}
		if err != nil && c.request != "" {
			err = &streamError{err, c.generated}
		}
		c.took = time.Since(arrived)
		s.tracing.describe(ctx, arrived, c, err)
	}()
	if err := s.check(r); err != nil {
		return err
	}
	if c.correlation = r.GetCorrelationId(); c.correlation == "" {
		c.correlation = newCorrelationID()
	}

	// However this function ends, the engine learns of it.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	request := engineRequest(r, randomSeed())
	stream, err := s.backend.Submit(ctx, request)
	if err != nil {
		return s.whyNot(templateError(apiFields(err), request.Messages), r.GetModel())
	}
	started := stream.Started()
	c.request, c.model, c.prompt = started.ID, started.Model, started.PromptTokens
	// With the prompt's probabilities, started waits for them; they may never
	// come to a request that is cancelled.
	first := startedEvent(started, c.correlation)
	begin := func() error {
		if first == nil {
			return nil
		}
		event := first
		first = nil
		return to.send(event)
	}
	if r.PromptLogprobs == nil {
		if err := begin(); err != nil {
			return err
		}
	}

	meter := newMeter(r, arrived)
	latest := make([]time.Time, max(request.Samples, 1)) // when the latest token of each answer came
	for {
		ev, err := stream.Next(ctx)
		if errors.Is(err, io.EOF) {
			return errNoEnd
		}
		if err != nil {
			return err
		}
		if ev.Prompt != nil {
			first.GetStarted().PromptLogprobs = logprobs(ev.Prompt)
		}
		if err := begin(); err != nil {
			return err
		}
		if ev.Prompt != nil {
			continue
		}
		if ev.End != nil {
			c.stop, c.generated, c.end = ev.End.Reason, 0, ev.End
			for _, one := range ev.End.Answers() {
				c.generated += one.GeneratedTokens
			}
			return to.send(endEvent(ev.End))
		}
		if ev.Tokens == nil {
			return fmt.Errorf("%w: an event of neither kind", errNoEnd)
		}
		now := time.Now()
		if c.generated == 0 {
			c.firstToken = now.Sub(arrived)
		}
		before := &latest[ev.Tokens.Sample]
		if !before.IsZero() {
			s.metrics.betweenTokens.Observe(now.Sub(*before).Seconds())
		}
		*before = now
		c.generated += len(ev.Tokens.IDs)
		if err := to.sendTokens(ev.Tokens, now); err != nil {
			return err
		}
		if m := meter.event(c.generated, s.backend); m != nil {
			if err := to.send(m); err != nil {
				return err
			}
		}
	}
}

// whyNot says more than "no such model" where no model at all is loaded.
func (s *Server) whyNot(err error, model string) error {
	if !errors.Is(err, engine.ErrNoModel) {
		return err
	}
	switch st := s.backend.Status(); {
	case st.State == engine.StateDraining:
		return engine.ErrDraining
	case st.State == engine.StateLoading:
		return errLoading
	case model == "": // also where one has been loaded since
		return errNothingLoaded
	}
	return err
}

// meter makes the metrics events of one request.
type meter struct {
	wanted   bool
	interval time.Duration
	arrived  time.Time
	first    time.Time // of the first token; zero before it
	last     time.Time // of the latest event
	base     int       // tokens that came with the first event
}

func newMeter(r *kigov1.ExecuteRequest, arrived time.Time) *meter {
	return &meter{
		wanted:   r.GetMetricsInterval() != nil,
		interval: r.GetMetricsInterval().AsDuration(),
		arrived:  arrived,
		last:     arrived,
	}
}

// event is due after a tokens event, when the interval has passed; nil before.
func (m *meter) event(generated int, b backend) *kigov1.ExecuteResponse {
	if !m.wanted {
		return nil
	}
	now := time.Now()
	if m.first.IsZero() {
		m.first, m.base = now, generated
	}
	if now.Sub(m.last) < m.interval {
		return nil
	}
	m.last = now
	st := b.Status()
	out := &kigov1.Metrics{
		GeneratedTokens:  int32(generated),
		TimeToFirstToken: durationpb.New(m.first.Sub(m.arrived)),
		Running:          int32(st.Running),
		Waiting:          int32(st.Waiting),
		KvUsed:           kvShare(st),
	}
	if d := now.Sub(m.first).Seconds(); d > 0 {
		out.TokensPerSecond = float64(generated-m.base) / d
	}
	return &kigov1.ExecuteResponse{Event: &kigov1.ExecuteResponse_Metrics{Metrics: out}}
}

// newCorrelationID is 64 random bits in hexadecimal: enough to find one call
// in a log.
func newCorrelationID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the process instead
	return hex.EncodeToString(b[:])
}

// randomSeed is the seed of a request that brings none.
func randomSeed() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:])
}
