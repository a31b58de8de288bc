package server_test

import (
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"

	"kigo/server"
)

// A call is a span of the caller's trace.
func TestTraces(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	f := start(t, submits(newFake(), func() server.TokenStream { return scripted("x") }), nil,
		func(c *server.Config) { c.TracerProvider = provider })
	ctx := metadata.AppendToOutgoingContext(t.Context(),
		"traceparent", "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01")
	stream, err := f.inference.Execute(ctx, textRequest("a", 1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := receive(t, stream); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the span", func() bool { return len(spans.Ended()) == 1 })
	span := spans.Ended()[0]
	if span.Name() != "kigo.v1.InferenceService/Execute" || span.SpanKind() != trace.SpanKindServer ||
		span.Parent().TraceID().String() != "0123456789abcdef0123456789abcdef" {
		t.Errorf("span %q of kind %v in trace %v", span.Name(), span.SpanKind(), span.Parent().TraceID())
	}
}
