package server_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

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
			if attributes["gen_ai.operation.name"] != "text_completion" || attributes["gen_ai.usage.output_tokens"] == "" {
				t.Errorf("attributes %v", attributes)
			}
		})
	}
}
