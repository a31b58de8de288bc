package server

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// collecting is a collector of traces, over gRPC and over HTTP.
type collecting struct {
	collector.UnimplementedTraceServiceServer
	got chan *collector.ExportTraceServiceRequest
}

func (c *collecting) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	c.got <- r
	return &collector.ExportTraceServiceResponse{}, nil
}

func (c *collecting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	request := &collector.ExportTraceServiceRequest{}
	if err == nil {
		err = proto.Unmarshal(body, request)
	}
	if err != nil || r.URL.Path != "/v1/traces" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.got <- request
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// The standard variables decide where traces go: over gRPC or HTTP, with their
// resource, or nowhere.
func TestExporterByTheStandardVariables(t *testing.T) {
	all := &collecting{got: make(chan *collector.ExportTraceServiceRequest, 8)}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	collector.RegisterTraceServiceServer(g, all)
	go g.Serve(lis)
	defer g.Stop()
	h := httptest.NewServer(all)
	defer h.Close()
	overGRPC := "http://" + lis.Addr().String()

	for _, c := range []struct {
		name   string
		env    map[string]string
		traced bool
		fails  string // words of the error
	}{
		{"nothing said", nil, false, ""},
		{"endpoint", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": overGRPC}, true, ""},
		{"endpoint of the traces", map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": overGRPC}, true, ""},
		{"gRPC", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": overGRPC, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, true, ""},
		{"HTTP", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": h.URL, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, true, ""},
		{"HTTP for the traces alone", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": h.URL, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
			"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}, true, ""},
		{"exporter named", map[string]string{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": overGRPC}, true, ""},
		{"none", map[string]string{"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": overGRPC}, false, ""},
		{"disabled", map[string]string{"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": overGRPC}, false, ""},
		{"never sampled", map[string]string{"OTEL_TRACES_SAMPLER": "always_off", "OTEL_EXPORTER_OTLP_ENDPOINT": overGRPC}, false, ""},
		{"another exporter", map[string]string{"OTEL_TRACES_EXPORTER": "zipkin"}, false, "OTEL_TRACES_EXPORTER"},
		{"another protocol", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": h.URL, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, false, "http/json"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for name, value := range c.env {
				t.Setenv(name, value)
			}
			t.Setenv("OTEL_SERVICE_NAME", "named")
			tracing, err := newTracing(t.Context(), nil, "1.2.3")
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("%v, want an error with %s", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			_, span := tracing.tracer().Start(t.Context(), "work")
			span.End()
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := tracing.shutdown(ctx); err != nil {
				t.Errorf("shutdown: %v", err)
			}
			select {
			case r := <-all.got:
				text := r.String()
				if !c.traced || !strings.Contains(text, `"work"`) || !strings.Contains(text, `"named"`) || !strings.Contains(text, `"1.2.3"`) {
					t.Errorf("exported %s", text)
				}
			default: // shutdown has sent all
				if c.traced {
					t.Error("nothing was exported")
				}
			}
		})
	}
}
