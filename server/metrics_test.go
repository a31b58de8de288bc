package server_test

import (
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	kigov1 "kigo/proto/kigo/v1"
	"kigo/server"
)

// scrape reads /metrics: each series with its labels to its value.
func (f *fixture) scrape(t testing.TB) map[string]float64 {
	t.Helper()
	_, body := f.get(t, "/metrics")
	series := map[string]float64{}
	for line := range strings.Lines(body) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		series[line[:at]] = value
	}
	return series
}

// startSmall serves the small model, also where there is no race detector.
func startSmall(t *testing.T) *fixture {
	t.Helper()
	e := newEngine(t)
	loadFile(t, e, smallModel(t))
	return start(t, nil, e)
}

// After requests of known shape to the real engine the histograms hold what
// the streams themselves reported.
func TestMetricsOfRealRequests(t *testing.T) {
	t.Parallel()
	f := startSmall(t)
	long := textRequest("The sea is wide and deep", 9)
	long.Sampling.IgnoreEnd = ptr(true)
	chat := textRequest("", 3)
	chat.Prompt = &kigov1.ExecuteRequest_Chat{Chat: &kigov1.Chat{Messages: []*kigov1.ChatMessage{{Role: "user", Content: "Hi"}}}}
	chat.Sampling.IgnoreEnd = ptr(true)

	var queue, prefill, decode time.Duration
	var prompt, generated float64
	for _, r := range []*kigov1.ExecuteRequest{long, long, chat} {
		a := f.mustExecute(t, r)
		timings := a.end.GetTimings()
		queue += timings.GetQueued().AsDuration()
		prefill += timings.GetPrefill().AsDuration()
		decode += timings.GetDecode().AsDuration()
		prompt += float64(a.end.GetPromptTokens())
		generated += float64(a.end.GetGeneratedTokens())
	}
	if _, err := f.execute(t, textRequest("a", 1<<30)); err == nil {
		t.Error("a request beyond the context was served")
	}
	// A call is counted when its handler returns, which a client may outrun.
	var m map[string]float64
	eventually(t, "the metrics of four calls", func() bool {
		m = f.scrape(t)
		return m["kigo_request_duration_seconds_count"] == 4
	})

	const (
		completion = `{gen_ai_operation_name="text_completion",gen_ai_provider_name="kigo"}`
		chatting   = `{gen_ai_operation_name="chat",gen_ai_provider_name="kigo"}`
		completed  = `{error_type="",gen_ai_operation_name="text_completion",gen_ai_provider_name="kigo"}`
		refused    = `{error_type="INVALID_REQUEST",gen_ai_operation_name="text_completion",gen_ai_provider_name="kigo"}`
	)
	for name, want := range map[string]float64{
		`kigo_requests_total{end="max_tokens"}`:      3,
		`kigo_requests_total{end="INVALID_REQUEST"}`: 1,
		"kigo_prompt_tokens_total":                   prompt,
		"kigo_generated_tokens_total":                generated,
		"kigo_request_prompt_tokens_count":           3,
		"kigo_request_prompt_tokens_sum":             prompt,
		"kigo_request_generated_tokens_count":        3,
		"kigo_request_generated_tokens_sum":          generated,
		"kigo_time_to_first_token_seconds_count":     3,
		"kigo_time_between_tokens_seconds_count":     generated - 3,
		"kigo_queue_seconds_count":                   3,
		"kigo_queue_seconds_sum":                     queue.Seconds(),
		"kigo_prefill_seconds_count":                 3,
		"kigo_prefill_seconds_sum":                   prefill.Seconds(),
		"kigo_decode_seconds_count":                  3,
		"kigo_decode_seconds_sum":                    decode.Seconds(),

		"gen_ai_server_request_duration_seconds_count" + completed:       2,
		"gen_ai_server_request_duration_seconds_count" + refused:         1,
		"gen_ai_server_time_to_first_token_seconds_count" + completion:   2,
		"gen_ai_server_time_to_first_token_seconds_count" + chatting:     1,
		"gen_ai_server_time_per_output_token_seconds_count" + completion: 2,
	} {
		if got, ok := m[name]; !ok || math.Abs(got-want) > 1e-9 {
			t.Errorf("%s is %v (there: %v), want %v", name, got, ok, want)
		}
	}
	// What has no exact answer is at least in order: the phases are part of a
	// request, the first token and the gaps are no longer than all of it.
	whole := m["kigo_request_duration_seconds_sum"]
	for _, part := range []string{
		"kigo_time_to_first_token_seconds_sum", "kigo_time_between_tokens_seconds_sum", "kigo_queue_seconds_sum",
		"kigo_prefill_seconds_sum", "kigo_decode_seconds_sum",
	} {
		if m[part] <= 0 || m[part] > whole {
			t.Errorf("%s is %v, all requests together took %v", part, m[part], whole)
		}
	}
}

// Calls are counted with their messages, and what has not happened yet is there as zero.
func TestMetricsOfCalls(t *testing.T) {
	t.Parallel()
	f := start(t, submits(newFake(), func() server.TokenStream { return scripted("a", "b") }), nil)
	a := f.mustExecute(t, textRequest("a", 2))
	if _, err := f.inference.Embed(t.Context(), &kigov1.EmbedRequest{}); err == nil {
		t.Error("an empty request was served")
	}
	f.check(t, "")
	const (
		execute = `{grpc_method="Execute",grpc_service="kigo.v1.InferenceService",grpc_type="server_stream"}`
		embed   = `{grpc_method="Embed",grpc_service="kigo.v1.InferenceService",grpc_type="unary"}`
		check   = `{grpc_method="Check",grpc_service="grpc.health.v1.Health",grpc_type="unary"}`
		handled = `grpc_server_handled_total{grpc_code="`
	)
	code := func(code, method string) string { return handled + code + `",` + method[1:] }
	var m map[string]float64
	eventually(t, "the metrics of a stream", func() bool { // which counts when its handler returns
		m = f.scrape(t)
		return m[code("OK", execute)] == 1
	})
	for name, want := range map[string]float64{
		"grpc_server_started_total" + execute:          1,
		"grpc_server_msg_received_total" + execute:     1,
		"grpc_server_msg_sent_total" + execute:         float64(len(a.tokens) + 2), // started and end
		"grpc_server_handling_seconds_count" + execute: 1,
		code("Internal", execute):                      0,
		"grpc_server_started_total" + embed:            1,
		"grpc_server_msg_received_total" + embed:       1,
		"grpc_server_msg_sent_total" + embed:           0,
		code("InvalidArgument", embed):                 1,
		code("OK", embed):                              0,
		"grpc_server_msg_sent_total" + check:           1,
		code("OK", check):                              1,
		"grpc_server_handling_seconds_count" + check:   1,
		`grpc_server_msg_sent_total{grpc_method="Watch",grpc_service="grpc.health.v1.Health",grpc_type="server_stream"}`: 0,
	} {
		if got, ok := m[name]; !ok || got != want {
			t.Errorf("%s is %v (there: %v), want %v", name, got, ok, want)
		}
	}
}
