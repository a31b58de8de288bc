package server

import "github.com/prometheus/client_golang/prometheus"

// genAIMetrics are the server metrics of OpenTelemetry's conventions for
// generative models, under the names that Prometheus gives them:
// gen_ai.server.request.duration and its kind, with the boundaries that the
// conventions advise. There is no label for the model, whose name anybody with
// the right to load one can choose: kigo_model_info has it.
type genAIMetrics struct {
	duration, firstToken, perToken *prometheus.HistogramVec
}

func newGenAIMetrics() *genAIMetrics {
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: name, Help: help, Buckets: buckets, ConstLabels: prometheus.Labels{"gen_ai_provider_name": providerName},
		}, append([]string{"gen_ai_operation_name"}, labels...))
	}
	return &genAIMetrics{
		duration: histogram("gen_ai_server_request_duration_seconds", "From a request's arrival to its end.",
			[]float64{0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92}, "error_type"),
		firstToken: histogram("gen_ai_server_time_to_first_token_seconds", "From a request's arrival to its first token.",
			[]float64{0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}),
		perToken: histogram("gen_ai_server_time_per_output_token_seconds", "Time per token after the first of a request that came to its end.",
			[]float64{0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5}),
	}
}

// observe counts a request that has ended.
func (m *genAIMetrics) observe(c *call, err error) {
	failed := ""
	if err != nil {
		failed = failureOf(err).reason
	}
	m.duration.WithLabelValues(c.operation, failed).Observe(c.took.Seconds())
	if c.firstToken > 0 {
		m.firstToken.WithLabelValues(c.operation).Observe(c.firstToken.Seconds())
	}
	if c.end == nil {
		return
	}
	for _, e := range c.end.Answers() {
		if e.GeneratedTokens > 1 {
			m.perToken.WithLabelValues(c.operation).Observe(e.Decode.Seconds() / float64(e.GeneratedTokens-1))
		}
	}
}
