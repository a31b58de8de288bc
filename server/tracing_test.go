package server_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"

	"kigo/server"
)

// A call is a span of the caller's trace, over gRPC and over HTTP, with what
// the engine did as its children.
func TestTraces(t *testing.T) {
	t.Parallel()
	const traceparent, traceID = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01", "0123456789abcdef0123456789abcdef"
	for _, c := range []struct {
		name string
		call func(t *testing.T, f *fixture)
	}{
		{"kigo.v1.InferenceService/Execute", func(t *testing.T, f *fixture) {
			ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", traceparent)
			stream, err := f.inference.Execute(ctx, textRequest("secret words", 1))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := receive(t, stream); err != nil {
				t.Fatal(err)
			}
		}},
		{"POST /execute", func(t *testing.T, f *fixture) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.http+"/execute", strings.NewReader(`{"text": "secret words"}`))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("traceparent", traceparent)
			res, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			spans := tracetest.NewSpanRecorder()
			provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
			f := start(t, submits(newFake(), func() server.TokenStream { return scripted("x") }), nil,
				func(c *server.Config) { c.TracerProvider = provider })
			c.call(t, f)
			eventually(t, "the spans", func() bool { return len(spans.Ended()) == 4 })
			children := map[string]bool{}
			var call sdktrace.ReadOnlySpan
			for _, s := range spans.Ended() {
				if s.SpanContext().TraceID().String() != traceID {
					t.Errorf("span %q is in trace %v", s.Name(), s.SpanContext().TraceID())
				}
				if s.Name() == c.name && s.SpanKind() == trace.SpanKindServer {
					call = s
				} else {
					children[s.Name()] = true
				}
				for _, a := range s.Attributes() {
					if strings.Contains(a.Value.String(), "secret") {
						t.Errorf("span %q has the prompt in %s", s.Name(), a.Key)
					}
				}
			}
			if call == nil || !children["queue"] || !children["prefill"] || !children["decode"] {
				t.Fatalf("call %v, children %v", call, children)
			}
			attributes := map[string]string{}
			for _, a := range call.Attributes() {
				attributes[string(a.Key)] = a.Value.String()
			}
			for name, want := range map[string]string{
				"gen_ai.operation.name": "text_completion", "gen_ai.request.model": "fake", "gen_ai.usage.input_tokens": "1",
				"gen_ai.usage.output_tokens": "1", "gen_ai.response.finish_reasons": `["end"]`,
			} {
				if attributes[name] != want {
					t.Errorf("%s is %q, want %q", name, attributes[name], want)
				}
			}
		})
	}
}

// The phases of a real request follow one another within its call and last as
// long as the stream's own end says; a request that fails has its reason and no
// phases.
func TestTracePhases(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewInMemoryExporter()
	e := newEngine(t)
	loadFile(t, e, smallModel(t))
	f := start(t, nil, e, func(c *server.Config) {
		c.TracerProvider = sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	})
	r := textRequest("The sea is wide", 5)
	r.Sampling.IgnoreEnd = ptr(true)
	timings := f.mustExecute(t, r).end.GetTimings()
	eventually(t, "four spans", func() bool { return len(spans.GetSpans()) == 4 })

	byName := map[string]tracetest.SpanStub{}
	for _, s := range spans.GetSpans() {
		byName[s.Name] = s
	}
	call := byName["kigo.v1.InferenceService/Execute"]
	at := byName["queue"].StartTime
	if at.Before(call.StartTime) {
		t.Errorf("the queue begins %v before the call", call.StartTime.Sub(at))
	}
	for _, phase := range []struct {
		name string
		took time.Duration
	}{
		{"queue", timings.GetQueued().AsDuration()},
		{"prefill", timings.GetPrefill().AsDuration()},
		{"decode", timings.GetDecode().AsDuration()},
	} {
		s := byName[phase.name]
		if s.Parent.SpanID() != call.SpanContext.SpanID() || !s.StartTime.Equal(at) || s.EndTime.Sub(s.StartTime) != phase.took {
			t.Errorf("%s: from %v to %v, want %v from %v on; its parent is %v, the call %v",
				phase.name, s.StartTime, s.EndTime, phase.took, at, s.Parent.SpanID(), call.SpanContext.SpanID())
		}
		at = s.EndTime
	}
	if at.After(call.EndTime) {
		t.Errorf("decode ends %v after the call", at.Sub(call.EndTime))
	}

	spans.Reset()
	if _, err := f.execute(t, textRequest("a", 1<<30)); err == nil {
		t.Fatal("a request beyond the context was served")
	}
	eventually(t, "one span", func() bool { return len(spans.GetSpans()) == 1 })
	reason := ""
	for _, a := range spans.GetSpans()[0].Attributes {
		if a.Key == "error.type" {
			reason = a.Value.AsString()
		}
	}
	if reason != "INVALID_REQUEST" {
		t.Errorf("error.type is %q", reason)
	}
}
