package server_test

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"kigo/engine"
	kigov1 "kigo/proto/kigo/v1"
	"kigo/server"
)

// The sizes of the model that requests are validated for.
const (
	fuzzVocabulary = 1024
	fuzzContext    = 512
)

// Whatever message arrives, it is taken or refused as the caller's fault, with
// the fields named and without the prompt; and what is taken is within every
// bound of the API, written down here a second time.
func FuzzValidate(f *testing.F) {
	e := newEngine(f, func(c *engine.Config) { c.MaxContext = fuzzContext })
	if info := loadFile(f, e, smallModel(f)); info.Vocabulary != fuzzVocabulary || info.ContextLength != fuzzContext {
		f.Fatalf("%+v", info)
	}
	s, err := server.New(testConfig(), e)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(s.Close)
	for _, r := range []*kigov1.ExecuteRequest{
		textRequest("Hello", 4),
		{Prompt: &kigov1.ExecuteRequest_Tokens{Tokens: &kigov1.TokenIds{Ids: []int32{1, 1023, 1024, -1}}}},
		{Prompt: &kigov1.ExecuteRequest_Chat{Chat: &kigov1.Chat{Messages: []*kigov1.ChatMessage{
			{Role: "user", Content: "hi", ToolCallId: ptr("1")}, {Role: "tool", ToolCalls: []*kigov1.ToolCall{{Id: "1", Name: "f"}}},
		}}}, AddSpecial: ptr(true)},
		{Prompt: &kigov1.ExecuteRequest_Text{Text: strings.Repeat("a long secret prompt ", 100)}, MaxTokens: ptr[int32](math.MaxInt32),
			Stop: []string{"", strings.Repeat("x", 257)}, StopIds: []int32{1024}, Logprobs: ptr[int32](21), PromptLogprobs: ptr[int32](-1),
			N: ptr[int32](3), Priority: ptr[int32](101), ResumeGrace: durationpb.New(time.Hour), CorrelationId: ptr("a b"),
			MetricsInterval: durationpb.New(-1), Tools: []*kigov1.Tool{{Name: "f"}}, ToolChoice: &kigov1.ToolChoice{}},
		{Sampling: &kigov1.Sampling{
			Temperature: ptr(float32(math.NaN())), TopK: ptr[int32](-1), TypicalP: ptr[float32](0), TopP: ptr[float32](1.5), MinP: ptr[float32](-1),
			RepetitionPenalty: ptr[float32](0), PresencePenalty: ptr[float32](3), FrequencyPenalty: ptr(float32(math.Inf(-1))),
			PenaltyLastN: ptr[int32](-2), MinTokens: ptr[int32](9), IgnoreEnd: ptr(true), Seed: ptr[uint64](7),
			LogitBias: []*kigov1.LogitBias{{Token: 1024, Value: 101}, {Token: 3}, {Token: 3}},
		}},
	} {
		raw, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := &kigov1.ExecuteRequest{}
		if proto.Unmarshal(raw, r) != nil {
			t.Skip() // gRPC refuses it
		}
		code, reason, fields, text := s.Validate(r)
		switch {
		case code == codes.OK:
			checkAllowed(t, r)
			return
		case reason == "INVALID_REQUEST" && code == codes.InvalidArgument, reason == "NOT_SERVED" && code == codes.Unimplemented:
			if len(fields) == 0 || slices.Contains(fields, "") {
				t.Errorf("%s names the fields %q", reason, fields)
			}
			sorted := slices.Sorted(slices.Values(fields))
			if len(slices.Compact(sorted)) != len(fields) {
				t.Errorf("a field comes twice: %q", fields)
			}
		case reason == "CHAT_TEMPLATE_FAILED" && code == codes.InvalidArgument:
		case reason == "MODEL_NOT_FOUND" && code == codes.NotFound && r.GetModel() != "":
		default:
			t.Errorf("refused with %v %s", code, reason)
		}
		if len(text) > 3*8<<10 { // escaped
			t.Errorf("the refusal has %d bytes", len(text))
		}
		if p := strings.TrimSpace(r.GetText()); len(p) > 40 && strings.Contains(text, p) {
			t.Errorf("the refusal has the prompt: %s", text)
		}
	})
}

// checkAllowed states what a request may say.
func checkAllowed(t *testing.T, r *kigov1.ExecuteRequest) {
	t.Helper()
	must := func(ok bool, what string) {
		t.Helper()
		if !ok {
			t.Errorf("taken: %s: %v", what, r)
		}
	}
	known := func(id int32) bool { return id >= 0 && id < fuzzVocabulary }
	within := func(v *float32, low, high float32) bool { return v == nil || *v >= low && *v <= high }
	share := func(v *float32) bool { return within(v, math.SmallestNonzeroFloat32, 1) }
	in := func(v *int32, low, high int32) bool { return v == nil || *v >= low && *v <= high }

	switch p := r.GetPrompt().(type) {
	case *kigov1.ExecuteRequest_Text:
		must(p.Text != "", "an empty text")
	case *kigov1.ExecuteRequest_Tokens:
		ids := p.Tokens.GetIds()
		must(len(ids) > 0 && len(ids)+int(max(r.GetMaxTokens(), 1)) <= fuzzContext, "ids beyond the context")
		must(!slices.ContainsFunc(ids, func(id int32) bool { return !known(id) }), "an id outside the vocabulary")
	case *kigov1.ExecuteRequest_Chat:
		must(len(p.Chat.GetMessages()) > 0, "no messages")
		for _, m := range p.Chat.GetMessages() {
			must(m.GetRole() != "" && len(m.GetRole()) <= 64, "a role")
			must(len(m.GetToolCalls()) == 0 && m.ToolCallId == nil, "tool calls")
		}
	default:
		must(false, "no prompt")
	}
	if _, isText := r.GetPrompt().(*kigov1.ExecuteRequest_Text); !isText {
		must(r.AddSpecial == nil && r.ParseSpecial == nil, "a text's options without a text")
	}
	must(in(r.MaxTokens, 1, fuzzContext-1), "max_tokens")
	must(len(r.GetStop()) <= 16 && len(r.GetStopIds()) <= 16, "many stops")
	for _, stop := range r.GetStop() {
		must(len(stop) >= 1 && len(stop) <= 256, "a stop string")
	}
	for _, id := range r.GetStopIds() {
		must(known(id), "a stop id")
	}
	must(in(r.Logprobs, 0, 20) && in(r.PromptLogprobs, 0, 20), "logprobs")
	must(in(r.N, 1, 1) && in(r.Priority, 0, 0) && r.GetResumeGrace().AsDuration() == 0, "what is not served")
	must(r.GetResponseFormat() == nil && len(r.GetTools()) == 0 && r.GetToolChoice() == nil, "what is not served")
	must(r.GetMetricsInterval().AsDuration() >= 0 && r.GetMetricsInterval().AsDuration() <= 24*time.Hour, "metrics_interval")
	if id := r.CorrelationId; id != nil {
		must(len(*id) >= 1 && len(*id) <= 64 && strings.Trim(*id, "-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == "", "correlation_id")
	}
	p := r.GetSampling()
	if p == nil {
		return
	}
	must(within(p.Temperature, 0, 100) && in(p.TopK, 0, math.MaxInt32), "temperature or top_k")
	must(share(p.TypicalP) && share(p.TopP) && within(p.MinP, 0, 1), "typical_p, top_p or min_p")
	must(within(p.RepetitionPenalty, math.SmallestNonzeroFloat32, 100), "repetition_penalty")
	must(within(p.PresencePenalty, -2, 2) && within(p.FrequencyPenalty, -2, 2) && in(p.PenaltyLastN, -1, math.MaxInt32), "penalties")
	must(in(p.MinTokens, 0, fuzzContext-1) && (r.MaxTokens == nil || p.GetMinTokens() <= r.GetMaxTokens()), "min_tokens")
	must(len(p.GetLogitBias()) <= 1024, "many biases")
	seen := map[int32]bool{}
	for _, b := range p.GetLogitBias() {
		must(known(b.GetToken()) && !seen[b.GetToken()] && within(&b.Value, -100, 100), "a bias")
		seen[b.GetToken()] = true
	}
}
