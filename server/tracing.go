package server

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
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
// where the standard variables ask for it. Everything else about the exporter, the sampling and the resource is said by the standard variables,
// too.
func newTracing(ctx context.Context, given trace.TracerProvider, version string) (*tracing, error) {
	t := &tracing{
		provider:   given,
		propagator: propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}),
		shutdown:   func(context.Context) error { return nil },
	}
	if given != nil {
		return t, nil
	}
	exporter, err := newExporter(ctx)
	if err != nil {
		return nil, fmt.Errorf("trace exporter: %w", err)
	}
	if exporter == nil {
		return t, nil
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

// newExporter makes the exporter that the standard variables ask for; nil where
// they ask for none. An exporter or a protocol that is not here is an error:
// traces that go nowhere are found out too late.
func newExporter(ctx context.Context) (sdktrace.SpanExporter, error) {
	const endpoint, tracesEndpoint = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	which := os.Getenv("OTEL_TRACES_EXPORTER")
	switch {
	case os.Getenv("OTEL_SDK_DISABLED") == "true", which == "none":
		return nil, nil
	case which != "" && which != "otlp":
		return nil, fmt.Errorf("OTEL_TRACES_EXPORTER is %.32q: this server has otlp and none", which)
	case which == "" && os.Getenv(endpoint) == "" && os.Getenv(tracesEndpoint) == "":
		return nil, nil
	}
	variable := "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
	if os.Getenv(variable) == "" {
		variable = "OTEL_EXPORTER_OTLP_PROTOCOL"
	}
	switch protocol := os.Getenv(variable); protocol {
	case "", "grpc":
		return otlptracegrpc.New(ctx)
	case "http/protobuf":
		return otlptracehttp.New(ctx)
	default:
		return nil, fmt.Errorf("%s is %.32q: this server speaks grpc and http/protobuf", variable, protocol)
	}
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
func (t *tracing) begin(r *http.Request) (context.Context, trace.Span) {
	ctx := t.propagator.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	_, route, _ := strings.Cut(r.Pattern, " ")
	return t.tracer().Start(ctx, r.Pattern, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		attribute.String("http.request.method", r.Method),
		attribute.String("http.route", route),
	))
}

// finish ends the span of an HTTP request that was answered with a code.
func finish(span trace.Span, code int) {
	span.SetAttributes(attribute.Int("http.response.status_code", code))
	if code >= http.StatusInternalServerError {
		span.SetStatus(codes.Error, "")
	}
	span.End()
}

// providerName is what OpenTelemetry's conventions call the maker of an answer.
const providerName = "kigo"

// operationName is what r asks for in the words of OpenTelemetry's conventions
// for generative models.
func operationName(r *kigov1.ExecuteRequest) string {
	if r.GetChat() != nil {
		return "chat"
	}
	return "text_completion"
}

// describe says, once an Execute has ended, what became of it: attributes of
// the call's span by OpenTelemetry's conventions for generative models, and
// children for queue, prefill and decode where it came to its end. No text is
// in them.
func (t *tracing) describe(ctx context.Context, arrived time.Time, c *call, err error) {
	if t.provider == nil {
		return
	}
	attributes := []attribute.KeyValue{
		attribute.String("gen_ai.operation.name", c.operation),
		attribute.String("gen_ai.provider.name", providerName),
	}
	if c.request != "" {
		attributes = append(attributes,
			attribute.String("gen_ai.request.model", publicText(c.model)),
			attribute.String("gen_ai.response.id", c.request),
			attribute.Int("gen_ai.usage.input_tokens", c.prompt),
			attribute.Int("gen_ai.usage.output_tokens", c.generated),
		)
	}
	if err != nil {
		attributes = append(attributes, attribute.String("error.type", failureOf(err).reason))
	}
	if c.end != nil {
		var reasons []string
		for _, e := range c.end.Answers() {
			reasons = append(reasons, stopName(e.Reason))
		}
		attributes = append(attributes, attribute.StringSlice("gen_ai.response.finish_reasons", reasons))
	}
	trace.SpanFromContext(ctx).SetAttributes(attributes...)
	if c.end == nil {
		return
	}
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
