package server_test

import (
	"encoding/json"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	"kigo/engine"
	kigov1 "kigo/proto/kigo/v1"
	"kigo/server"
)

// The model that bad requests are sent to.
const (
	badVocabulary = 1024
	badContext    = 128
)

// badRequest is one way in which a request can be wrong.
type badRequest struct {
	name   string
	set    func(*kigov1.ExecuteRequest)
	fields []string
}

func sampled(set func(*kigov1.Sampling)) func(*kigov1.ExecuteRequest) {
	return func(r *kigov1.ExecuteRequest) { set(r.GetSampling()) }
}

func promptOfIDs(ids ...int32) func(*kigov1.ExecuteRequest) {
	return func(r *kigov1.ExecuteRequest) {
		r.Prompt = &kigov1.ExecuteRequest_Tokens{Tokens: &kigov1.TokenIds{Ids: ids}}
	}
}

func promptOfChat(messages ...*kigov1.ChatMessage) func(*kigov1.ExecuteRequest) {
	return func(r *kigov1.ExecuteRequest) {
		r.Prompt = &kigov1.ExecuteRequest_Chat{Chat: &kigov1.Chat{Messages: messages}}
	}
}

// eachFloat is one row for each value of a sampling parameter.
func eachFloat(field string, set func(*kigov1.Sampling, *float32), values ...float64) []badRequest {
	var rows []badRequest
	for _, v := range values {
		rows = append(rows, badRequest{
			name:   field + " " + formatFloat(v),
			set:    sampled(func(s *kigov1.Sampling) { set(s, ptr(float32(v))) }),
			fields: []string{"sampling." + field},
		})
	}
	return rows
}

func formatFloat(v float64) string {
	return strconv.FormatFloat(v, 'g', -1, 64)
}

var nan, inf = math.NaN(), math.Inf(1)

// badRequests is every request that is the caller's fault: INVALID_ARGUMENT,
// INVALID_REQUEST, with these fields.
func badRequests() []badRequest {
	text := func(s string) func(*kigov1.ExecuteRequest) {
		return func(r *kigov1.ExecuteRequest) { r.Prompt = &kigov1.ExecuteRequest_Text{Text: s} }
	}
	biases := func(n int, b func(i int) *kigov1.LogitBias) func(*kigov1.ExecuteRequest) {
		return sampled(func(s *kigov1.Sampling) {
			for i := range n {
				s.LogitBias = append(s.LogitBias, b(i))
			}
		})
	}
	correlation := func(id string) func(*kigov1.ExecuteRequest) {
		return func(r *kigov1.ExecuteRequest) { r.CorrelationId = &id }
	}
	rows := []badRequest{
		{"no prompt", func(r *kigov1.ExecuteRequest) { r.Prompt = nil }, []string{"prompt"}},
		{"empty text", text(""), []string{"text"}},
		{"text beyond the context", text(strings.Repeat("1", badContext+1)), []string{"max_tokens"}},
		{"no messages", promptOfChat(), []string{"chat.messages"}},
		{"no role", promptOfChat(&kigov1.ChatMessage{Content: "x"}), []string{"chat.messages[0].role"}},
		{"long role", promptOfChat(&kigov1.ChatMessage{Role: strings.Repeat("r", 65)}), []string{"chat.messages[0].role"}},
		{"conversation beyond the context", promptOfChat(&kigov1.ChatMessage{Role: "user", Content: strings.Repeat("1", badContext)}), []string{"max_tokens"}},
		{"no ids", promptOfIDs(), []string{"tokens.ids"}},
		{"id -1", promptOfIDs(1, -1), []string{"tokens.ids[1]"}},
		{"id of the vocabulary's size", promptOfIDs(badVocabulary, 1, math.MaxInt32), []string{"tokens.ids[0]", "tokens.ids[2]"}},
		{"ids beyond the context", promptOfIDs(make([]int32, badContext)...), []string{"max_tokens"}},
		{"add_special beside ids", func(r *kigov1.ExecuteRequest) { promptOfIDs(1)(r); r.AddSpecial = ptr(true) }, []string{"add_special"}},
		{"parse_special beside a chat", func(r *kigov1.ExecuteRequest) {
			promptOfChat(&kigov1.ChatMessage{Role: "user"})(r)
			r.ParseSpecial = ptr(false)
		}, []string{"parse_special"}},
		{"long name of a model", func(r *kigov1.ExecuteRequest) { r.Model = ptr(strings.Repeat("m", 257)) }, []string{"model"}},
		{"max_tokens 0", func(r *kigov1.ExecuteRequest) { r.MaxTokens = ptr[int32](0) }, []string{"max_tokens"}},
		{"max_tokens -1", func(r *kigov1.ExecuteRequest) { r.MaxTokens = ptr[int32](-1) }, []string{"max_tokens"}},
		{"max_tokens -2^31", func(r *kigov1.ExecuteRequest) { r.MaxTokens = ptr[int32](math.MinInt32) }, []string{"max_tokens"}},
		{"max_tokens 2^31-1", func(r *kigov1.ExecuteRequest) { r.MaxTokens = ptr[int32](math.MaxInt32) }, []string{"max_tokens"}},
		{"max_tokens beyond the context", func(r *kigov1.ExecuteRequest) { promptOfIDs(1, 2)(r); r.MaxTokens = ptr[int32](badContext - 1) }, []string{"max_tokens"}},
		{"17 stop strings", func(r *kigov1.ExecuteRequest) { r.Stop = slices.Repeat([]string{"x"}, 17) }, []string{"stop"}},
		{"2,000 stop strings", func(r *kigov1.ExecuteRequest) { r.Stop = slices.Repeat([]string{"x"}, 2000) }, []string{"stop"}},
		{"empty stop string", func(r *kigov1.ExecuteRequest) { r.Stop = []string{"x", ""} }, []string{"stop[1]"}},
		{"stop string of 257 bytes", func(r *kigov1.ExecuteRequest) { r.Stop = []string{strings.Repeat("x", 257)} }, []string{"stop[0]"}},
		{"stop string of 100,000 bytes", func(r *kigov1.ExecuteRequest) { r.Stop = []string{strings.Repeat("x", 100_000)} }, []string{"stop[0]"}},
		{"17 stop ids", func(r *kigov1.ExecuteRequest) { r.StopIds = make([]int32, 17) }, []string{"stop_ids"}},
		{"stop id -1", func(r *kigov1.ExecuteRequest) { r.StopIds = []int32{-1} }, []string{"stop_ids[0]"}},
		{"stop id outside", func(r *kigov1.ExecuteRequest) { r.StopIds = []int32{1, badVocabulary} }, []string{"stop_ids[1]"}},
		{"logprobs -1", func(r *kigov1.ExecuteRequest) { r.Logprobs = ptr[int32](-1) }, []string{"logprobs"}},
		{"logprobs 21", func(r *kigov1.ExecuteRequest) { r.Logprobs = ptr[int32](21) }, []string{"logprobs"}},
		{"prompt_logprobs -1", func(r *kigov1.ExecuteRequest) { r.PromptLogprobs = ptr[int32](-1) }, []string{"prompt_logprobs"}},
		{"prompt_logprobs 21", func(r *kigov1.ExecuteRequest) { r.PromptLogprobs = ptr[int32](21) }, []string{"prompt_logprobs"}},
		{"n 0", func(r *kigov1.ExecuteRequest) { r.N = ptr[int32](0) }, []string{"n"}},
		{"n 129", func(r *kigov1.ExecuteRequest) { r.N = ptr[int32](129) }, []string{"n"}},
		{"priority 101", func(r *kigov1.ExecuteRequest) { r.Priority = ptr[int32](101) }, []string{"priority"}},
		{"resume_grace -1 s", func(r *kigov1.ExecuteRequest) { r.ResumeGrace = durationpb.New(-time.Second) }, []string{"resume_grace"}},
		{"resume_grace 601 s", func(r *kigov1.ExecuteRequest) { r.ResumeGrace = durationpb.New(601 * time.Second) }, []string{"resume_grace"}},
		{"metrics_interval -1 s", func(r *kigov1.ExecuteRequest) { r.MetricsInterval = durationpb.New(-time.Second) }, []string{"metrics_interval"}},
		{"metrics_interval 25 h", func(r *kigov1.ExecuteRequest) { r.MetricsInterval = durationpb.New(25 * time.Hour) }, []string{"metrics_interval"}},
		{"correlation id with a space", correlation("a b"), []string{"correlation_id"}},
		{"correlation id with a line end", correlation("a\n"), []string{"correlation_id"}},
		{"empty correlation id", correlation(""), []string{"correlation_id"}},
		{"long correlation id", correlation(strings.Repeat("a", 65)), []string{"correlation_id"}},
		{"no response format", func(r *kigov1.ExecuteRequest) { r.ResponseFormat = &kigov1.ResponseFormat{} }, []string{"response_format.format", "response_format"}},
		{"a large schema", func(r *kigov1.ExecuteRequest) {
			r.ResponseFormat = &kigov1.ResponseFormat{Format: &kigov1.ResponseFormat_JsonSchema{JsonSchema: strings.Repeat("[", 262145)}}
		}, []string{"response_format.json_schema", "response_format"}},
		{"129 tools", func(r *kigov1.ExecuteRequest) { r.Tools = slices.Repeat([]*kigov1.Tool{{Name: "f"}}, 129) }, []string{"tools"}},
		{"a tool without a name", func(r *kigov1.ExecuteRequest) { r.Tools = []*kigov1.Tool{{}} }, []string{"tools[0].name", "tools"}},
		{"unknown tool choice", func(r *kigov1.ExecuteRequest) {
			r.ToolChoice = &kigov1.ToolChoice{Mode: ptr(kigov1.ToolChoice_Mode(9))}
		}, []string{"tool_choice.mode", "tool_choice"}},
		{"top_k -1", sampled(func(s *kigov1.Sampling) { s.TopK = ptr[int32](-1) }), []string{"sampling.top_k"}},
		{"penalty_last_n -2", sampled(func(s *kigov1.Sampling) { s.PenaltyLastN = ptr[int32](-2) }), []string{"sampling.penalty_last_n"}},
		{"1,025 biases", biases(1025, func(i int) *kigov1.LogitBias { return &kigov1.LogitBias{Token: int32(i) % badVocabulary} }),
			[]string{"sampling.logit_bias", "sampling.logit_bias[1024].token"}},
		{"5,000 biases", biases(5000, func(i int) *kigov1.LogitBias { return &kigov1.LogitBias{Token: int32(i)} }), []string{"sampling.logit_bias"}},
		{"bias of token -1 by 101", biases(1, func(int) *kigov1.LogitBias { return &kigov1.LogitBias{Token: -1, Value: 101} }),
			[]string{"sampling.logit_bias[0].token", "sampling.logit_bias[0].value"}},
		{"bias of a token outside", biases(1, func(int) *kigov1.LogitBias { return &kigov1.LogitBias{Token: badVocabulary} }), []string{"sampling.logit_bias[0].token"}},
		{"bias that is no number", biases(1, func(int) *kigov1.LogitBias { return &kigov1.LogitBias{Value: float32(nan)} }), []string{"sampling.logit_bias[0].value"}},
		{"bias twice", biases(2, func(int) *kigov1.LogitBias { return &kigov1.LogitBias{Token: 1} }), []string{"sampling.logit_bias", "sampling.logit_bias[1].token"}},
		{"min_tokens -1", sampled(func(s *kigov1.Sampling) { s.MinTokens = ptr[int32](-1) }), []string{"sampling.min_tokens"}},
		{"min_tokens above max_tokens", sampled(func(s *kigov1.Sampling) { s.MinTokens = ptr[int32](2) }), []string{"sampling.min_tokens"}},
		{"min_tokens beyond the context", func(r *kigov1.ExecuteRequest) {
			r.MaxTokens, r.Sampling.MinTokens = nil, ptr[int32](badContext)
		}, []string{"sampling.min_tokens"}},
	}
	return slices.Concat(rows,
		eachFloat("temperature", func(s *kigov1.Sampling, v *float32) { s.Temperature = v }, nan, inf, -inf, -0.1, 100.5),
		eachFloat("typical_p", func(s *kigov1.Sampling, v *float32) { s.TypicalP = v }, nan, inf, -1, 0, 1.1),
		eachFloat("top_p", func(s *kigov1.Sampling, v *float32) { s.TopP = v }, nan, inf, -1, 0, 1.1),
		eachFloat("min_p", func(s *kigov1.Sampling, v *float32) { s.MinP = v }, nan, inf, -0.1, 1.1),
		eachFloat("repetition_penalty", func(s *kigov1.Sampling, v *float32) { s.RepetitionPenalty = v }, nan, inf, -1, 0, 101),
		eachFloat("presence_penalty", func(s *kigov1.Sampling, v *float32) { s.PresencePenalty = v }, nan, inf, -inf, -2.1, 2.1),
		eachFloat("frequency_penalty", func(s *kigov1.Sampling, v *float32) { s.FrequencyPenalty = v }, nan, inf, -inf, -2.1, 2.1),
	)
}

func startBad(t *testing.T) *fixture {
	t.Helper()
	e := newEngine(t, func(c *engine.Config) { c.MaxContext = badContext })
	loadFile(t, e, smallModel(t))
	return start(t, nil, e)
}

// Every bad request is refused with its fields, over gRPC and HTTP alike, costs
// no step, and leaves the server as it was.
func TestEveryBadRequest(t *testing.T) {
	t.Parallel()
	f := startBad(t)
	good := textRequest("a", 5)
	good.Sampling.IgnoreEnd = ptr(true)
	want := f.mustExecute(t, good)
	steps := f.engine.Status().Steps
	for _, c := range badRequests() {
		r := textRequest("a", 1)
		c.set(r)
		_, err := f.execute(t, r)
		got := refusalOf(t, err)
		fields := sorted(slices.Collect(maps.Keys(got.fields)))
		if got.code != codes.InvalidArgument || got.reason != "INVALID_REQUEST" || !slices.Equal(fields, sorted(c.fields)) {
			t.Errorf("%s: %v %s %v, want violations of %v", c.name, got.code, got.reason, got.fields, c.fields)
		}
		for field, description := range got.fields {
			if description == "" {
				t.Errorf("%s: %s has no description", c.name, field)
			}
		}
		code, reason, overHTTP := f.refusedOverHTTP(t, r)
		if code != http.StatusBadRequest || reason != got.reason || !slices.Equal(overHTTP, fields) {
			t.Errorf("%s over HTTP: %d %s %v", c.name, code, reason, overHTTP)
		}
	}
	if after := f.engine.Status().Steps; after != steps {
		t.Errorf("bad requests cost %d steps", after-steps)
	}
	if a := f.mustExecute(t, good); !slices.Equal(a.ids, want.ids) {
		t.Errorf("afterwards %v, before %v", a.ids, want.ids)
	}
}

// refusedOverHTTP sends r to POST /execute.
func (f *fixture) refusedOverHTTP(t *testing.T, r *kigov1.ExecuteRequest) (code int, reason string, fields []string) {
	t.Helper()
	body, err := protojson.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	res := f.post(t, string(body))
	defer res.Body.Close()
	var failure struct {
		Error struct {
			Reason     string
			Violations []struct{ Field string }
		}
	}
	if err := json.NewDecoder(res.Body).Decode(&failure); err != nil {
		t.Fatalf("%v: %v", r, err)
	}
	for _, v := range failure.Error.Violations {
		fields = append(fields, v.Field)
	}
	return res.StatusCode, failure.Error.Reason, sorted(fields)
}

// All that is wrong with a request is said at once, whoever finds it: the
// message's own rules, what contradicts itself, what is not served, the model.
func TestEverythingWrongAtOnce(t *testing.T) {
	t.Parallel()
	f := startBad(t)
	r := textRequest("a", 1)
	var want []string
	for _, name := range []string{
		"id of the vocabulary's size", "add_special beside ids", "max_tokens 2^31-1", "empty stop string", "stop id outside",
		"logprobs 21", "correlation id with a space", "top_k -1", "bias of a token outside", "top_p 0", "129 tools",
	} {
		rows := badRequests()
		i := slices.IndexFunc(rows, func(c badRequest) bool { return c.name == name })
		if i < 0 {
			t.Fatalf("no row %q", name)
		}
		before := r.GetPrompt()
		rows[i].set(r)
		if name == "add_special beside ids" {
			r.Prompt = before
		}
		want = append(want, rows[i].fields...)
	}
	r.ResumeGrace, r.Priority = durationpb.New(time.Second), ptr[int32](1)
	want = append(want, "resume_grace")
	// Ids that do not exist have no length to speak of.
	want = slices.DeleteFunc(want, func(field string) bool { return field == "max_tokens" })
	_, err := f.execute(t, r)
	got := refusalOf(t, err)
	if fields := sorted(slices.Collect(maps.Keys(got.fields))); got.code != codes.InvalidArgument || !slices.Equal(fields, sorted(want)) {
		t.Errorf("%v %v\nwant %v", got.code, fields, sorted(want))
	}
}

// A limit that the server sets holds in the place of the default.
func TestLimitsOfARequestAreSettings(t *testing.T) {
	t.Parallel()
	e := newEngine(t, func(c *engine.Config) { c.MaxContext, c.MaxStops, c.MaxStopBytes, c.MaxBiases = badContext, 20, 300, 1 })
	loadFile(t, e, smallModel(t))
	f := start(t, nil, e)
	r := textRequest("a", 1)
	r.Stop = slices.Repeat([]string{strings.Repeat("x", 300)}, 20)
	r.Sampling.LogitBias = []*kigov1.LogitBias{{Token: 1, Value: 1}}
	f.mustExecute(t, r)
	r.Stop = append(r.Stop, strings.Repeat("x", 301))
	r.Sampling.LogitBias = append(r.Sampling.LogitBias, &kigov1.LogitBias{Token: 2})
	_, err := f.execute(t, r)
	if got := refusalOf(t, err); got.fields["stop"] == "" || got.fields["sampling.logit_bias"] == "" {
		t.Errorf("%+v", got)
	}
	r.Stop = []string{strings.Repeat("x", 301)}
	_, err = f.execute(t, r)
	if got := refusalOf(t, err); got.fields["stop[0]"] == "" {
		t.Errorf("%+v", got)
	}
}

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error { return nil }

// What is no message, or holds text that is none, is the caller's fault. What is
// too large gRPC refuses itself, without a reason beside the code.
func TestMessagesThatAreNone(t *testing.T) {
	t.Parallel()
	const most = 64 << 10
	b := newFake()
	f := start(t, b, nil, func(c *server.Config) { c.MaxMessageBytes = most })
	field := func(number byte, content string) []byte {
		return append([]byte{number<<3 | 2, byte(len(content))}, content...)
	}
	for _, method := range []struct {
		name string
		text []byte // a text field that is not UTF-8
	}{
		{"/kigo.v1.InferenceService/Execute", field(2, "\xff\xfe")},
		{"/kigo.v1.InferenceService/Tokenize", field(2, "a\xc3")},
		{"/kigo.v1.InferenceService/Cancel", field(1, "\x80")},
		{"/kigo.v1.ModelService/Load", field(1, "\xc0\x80")},
		{"/kigo.v1.ModelService/Unload", field(1, "\xed\xa0\x80")},
		{"/grpc.health.v1.Health/Check", field(1, "\xff")},
		{"/grpc.health.v1.Health/Watch", field(1, "\xff")},
	} {
		for _, c := range []struct {
			name   string
			raw    []byte
			code   codes.Code
			reason string
		}{
			{"text that is not UTF-8", method.text, codes.InvalidArgument, "MALFORMED_MESSAGE"},
			{"a field cut off", []byte{2<<3 | 2, 100, 'a'}, codes.InvalidArgument, "MALFORMED_MESSAGE"},
			{"field number 0", []byte{0, 0}, codes.InvalidArgument, "MALFORMED_MESSAGE"},
			{"an endless varint", slices.Repeat([]byte{0xff}, 20), codes.InvalidArgument, "MALFORMED_MESSAGE"},
			{"too large", make([]byte, most+1), codes.ResourceExhausted, ""},
		} {
			unary := !strings.HasSuffix(method.name, "Execute") && !strings.HasSuffix(method.name, "Load") && !strings.HasSuffix(method.name, "Watch")
			var err error
			if unary {
				err = f.conn.Invoke(t.Context(), method.name, c.raw, &struct{}{}, grpc.ForceCodecV2(rawCodec{}))
			} else {
				var stream grpc.ClientStream
				if stream, err = f.conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, method.name, grpc.ForceCodecV2(rawCodec{})); err != nil {
					t.Fatal(err)
				}
				_ = stream.SendMsg(c.raw)
				_ = stream.CloseSend()
				err = stream.RecvMsg(&struct{}{})
			}
			got := refusalOf(t, err)
			if got.code != c.code || got.reason != c.reason {
				t.Errorf("%s, %s: %v %s: %s", method.name, c.name, got.code, got.reason, got.text)
			}
		}
	}
}
