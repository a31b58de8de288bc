package server

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	kigov1 "kigo/proto/kigo/v1"
)

// tracing is where spans go. Without a provider nothing is traced.
type tracing struct {
	provider   trace.TracerProvider
	propagator propagation.TextMapPropagator
	shutdown   func(context.Context) error // sends what is left; safe without a provider
}

// newTracing takes the given provider, or makes one that exports over OTLP
// where the standard variables name an endpoint. Everything else about the
// exporter, the sampling and the resource is said by the standard variables,
// too.
func newTracing(ctx context.Context, given trace.TracerProvider, version string) (*tracing, error) {
	t := &tracing{
		provider:   given,
		propagator: propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}),
		shutdown:   func(context.Context) error { return nil },
	}
	if given != nil || !otlpConfigured() {
		return t, nil
	}
	exporter, err := otlptracegrpc.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("trace exporter: %w", err)
	}
	res, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(attribute.String("service.name", "kigo"), attribute.String("service.version", version)),
		resource.WithFromEnv(), // last, so that OTEL_SERVICE_NAME wins
	)
	if err != nil {
		return nil, fmt.Errorf("trace resource: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(res))
	t.provider, t.shutdown = provider, provider.Shutdown
	return t, nil
}

// otlpConfigured says whether the standard variables ask for an export.
func otlpConfigured() bool {
	if os.Getenv("OTEL_SDK_DISABLED") == "true" || os.Getenv("OTEL_TRACES_EXPORTER") == "none" {
		return false
	}
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
}

// tracer makes the spans that otelgrpc does not; without a provider they go
// nowhere.
func (t *tracing) tracer() trace.Tracer {
	if t.provider == nil {
		return noop.NewTracerProvider().Tracer("kigo")
	}
	return t.provider.Tracer("kigo/server")
}

// begin starts the span of an HTTP request, in the trace that its headers name.
func (t *tracing) begin(r *http.Request, name string) (context.Context, trace.Span) {
	ctx := t.propagator.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	return t.tracer().Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer))
}

// phases says, once a stream has ended, what became of its request: children
// of the call's span for queue, prefill and decode, and attributes of the call
// by OpenTelemetry's conventions for generative models. No text is in them.
func (t *tracing) phases(ctx context.Context, arrived time.Time, r *kigov1.ExecuteRequest, c *call) {
	if t.provider == nil {
		return
	}
	operation := "text_completion"
	if r.GetChat() != nil {
		operation = "chat"
	}
	trace.SpanFromContext(ctx).SetAttributes(
		attribute.String("gen_ai.operation.name", operation),
		attribute.String("gen_ai.provider.name", "kigo"),
		attribute.String("gen_ai.request.model", publicText(c.model)),
		attribute.Int("gen_ai.usage.input_tokens", c.prompt),
		attribute.Int("gen_ai.usage.output_tokens", c.generated),
		attribute.StringSlice("gen_ai.response.finish_reasons", []string{stopName(c.stop)}),
	)
	at := arrived
	for _, phase := range []struct {
		name string
		took time.Duration
	}{{"queue", c.end.Queued}, {"prefill", c.end.Prefill}, {"decode", c.end.Decode}} {
		_, span := t.tracer().Start(ctx, phase.name, trace.WithTimestamp(at))
		at = at.Add(phase.took)
		span.End(trace.WithTimestamp(at))
	}
}
