package server_test

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"kigo/engine"
	"kigo/engine/sample"
	kigov1 "kigo/proto/kigo/v1"
	"kigo/server"
)

// captured runs requests against a fake and returns what the engine was given.
func captured(t *testing.T) (*fixture, func(*kigov1.ExecuteRequest) engine.Request) {
	t.Helper()
	var got engine.Request
	b := newFake()
	b.submit = func(_ context.Context, r engine.Request) (server.TokenStream, error) {
		got = r
		return scripted("x"), nil
	}
	f := start(t, b, nil)
	return f, func(r *kigov1.ExecuteRequest) engine.Request {
		f.mustExecute(t, r)
		return got
	}
}

// The defaults of the API: the engine is never given a zero in their place.
func TestDefaults(t *testing.T) {
	t.Parallel()
	_, run := captured(t)
	got := run(&kigov1.ExecuteRequest{Prompt: &kigov1.ExecuteRequest_Text{Text: "a"}})
	want := engine.Request{Text: "a", AddSpecial: true, Logprobs: -1, PromptLogprobs: -1, Sampling: sample.Defaults()}
	want.Sampling.Seed = got.Sampling.Seed
	if !reflect.DeepEqual(got, want) {
		t.Errorf("defaults:\n%+v, want\n%+v", got, want)
	}
	if again := run(&kigov1.ExecuteRequest{Prompt: &kigov1.ExecuteRequest_Text{Text: "a"}}); again.Sampling.Seed == got.Sampling.Seed {
		t.Error("two requests without a seed were given the same one")
	}
}

// A parameter that is accepted is passed on: each field, set to something else
// than its default, changes what the engine is given. min-p, the repetition
// penalty and the stop strings were once accepted and dropped.
func TestLesson_EveryFieldReachesTheEngine(t *testing.T) {
	t.Parallel()
	_, run := captured(t)
	base := func() *kigov1.ExecuteRequest {
		return &kigov1.ExecuteRequest{
			Prompt:   &kigov1.ExecuteRequest_Text{Text: "a"},
			Sampling: &kigov1.Sampling{Seed: ptr[uint64](1)},
		}
	}
	plain := run(base())

	sampling := map[string]func(*kigov1.Sampling){
		"temperature":        func(s *kigov1.Sampling) { s.Temperature = ptr[float32](0) },
		"top_k":              func(s *kigov1.Sampling) { s.TopK = ptr[int32](0) },
		"typical_p":          func(s *kigov1.Sampling) { s.TypicalP = ptr[float32](0.5) },
		"top_p":              func(s *kigov1.Sampling) { s.TopP = ptr[float32](0.5) },
		"min_p":              func(s *kigov1.Sampling) { s.MinP = ptr[float32](0) },
		"repetition_penalty": func(s *kigov1.Sampling) { s.RepetitionPenalty = ptr[float32](1.5) },
		"presence_penalty":   func(s *kigov1.Sampling) { s.PresencePenalty = ptr[float32](-1) },
		"frequency_penalty":  func(s *kigov1.Sampling) { s.FrequencyPenalty = ptr[float32](2) },
		"penalty_last_n":     func(s *kigov1.Sampling) { s.PenaltyLastN = ptr[int32](-1) },
		"logit_bias":         func(s *kigov1.Sampling) { s.LogitBias = []*kigov1.LogitBias{{Token: 3, Value: -100}} },
		"seed":               func(s *kigov1.Sampling) { s.Seed = ptr[uint64](0) },
		"min_tokens":         func(s *kigov1.Sampling) { s.MinTokens = ptr[int32](2) },
		"ignore_end":         func(s *kigov1.Sampling) { s.IgnoreEnd = ptr(true) },
	}
	requests := map[string]func(*kigov1.ExecuteRequest){
		"model":         func(r *kigov1.ExecuteRequest) { r.Model = ptr("fake") },
		"text":          func(r *kigov1.ExecuteRequest) { r.Prompt = &kigov1.ExecuteRequest_Text{Text: "b"} },
		"add_special":   func(r *kigov1.ExecuteRequest) { r.AddSpecial = ptr(false) },
		"parse_special": func(r *kigov1.ExecuteRequest) { r.ParseSpecial = ptr(true) },
		"max_tokens":    func(r *kigov1.ExecuteRequest) { r.MaxTokens = ptr[int32](9) },
		"stop":          func(r *kigov1.ExecuteRequest) { r.Stop = []string{"\n"} },
		"stop_ids":      func(r *kigov1.ExecuteRequest) { r.StopIds = []int32{0} },
		"logprobs":      func(r *kigov1.ExecuteRequest) { r.Logprobs = ptr[int32](0) },
		"chat": func(r *kigov1.ExecuteRequest) {
			r.Prompt = &kigov1.ExecuteRequest_Chat{Chat: &kigov1.Chat{Messages: []*kigov1.ChatMessage{{Role: "user", Content: "c"}}}}
		},
		"tokens": func(r *kigov1.ExecuteRequest) {
			r.Prompt = &kigov1.ExecuteRequest_Tokens{Tokens: &kigov1.TokenIds{Ids: []int32{5}}}
		},
		"prompt_logprobs": func(r *kigov1.ExecuteRequest) { r.PromptLogprobs = ptr[int32](2) },
		"priority":        func(r *kigov1.ExecuteRequest) { r.Priority = ptr[int32](1) },
		"n":               func(r *kigov1.ExecuteRequest) { r.N = ptr[int32](2) },
		"sampling":        func(r *kigov1.ExecuteRequest) { r.Sampling.TopK = ptr[int32](1) },
	}
	// Not for the engine: the edge itself serves or refuses them.
	edge := []string{
		"resume_grace", "response_format", "tools", "tool_choice",
		"metrics_interval", "correlation_id",
	}

	for name, set := range sampling {
		requests["sampling."+name] = func(r *kigov1.ExecuteRequest) { set(r.GetSampling()) }
	}
	for name, set := range requests {
		r := base()
		set(r)
		if reflect.DeepEqual(run(r), plain) {
			t.Errorf("%s was accepted and not passed on", name)
		}
	}
	// A field that is added to the proto must be added above.
	for _, m := range []struct {
		message proto.Message
		known   []string
	}{
		{&kigov1.Sampling{}, slices.Collect(maps.Keys(sampling))},
		{&kigov1.ExecuteRequest{}, append(slices.Collect(maps.Keys(requests)), edge...)},
	} {
		fields := m.message.ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			if name := string(fields.Get(i).Name()); !slices.Contains(m.known, name) {
				t.Errorf("%s.%s has no test", m.message.ProtoReflect().Descriptor().Name(), name)
			}
		}
	}
	if len(sampling) != reflect.TypeFor[sample.Params]().NumField() {
		t.Errorf("the engine has %d sampling parameters, the API %d", reflect.TypeFor[sample.Params]().NumField(), len(sampling))
	}
}

// The engine's own violations carry the API's names.
func TestValidationByTheEngine(t *testing.T) {
	t.Parallel()
	b := newFake()
	b.submit = func(context.Context, engine.Request) (server.TokenStream, error) {
		return nil, fmt.Errorf("demo: %w", &engine.InvalidError{Violations: []engine.Violation{
			{Field: "prompt.tokens[3]", Reason: "x"}, {Field: "prompt.messages", Reason: "x"}, {Field: "prompt.text", Reason: "x"},
			{Field: "sampling.logit_bias[2]", Reason: "x"}, {Field: "max_tokens", Reason: "x"},
		}})
	}
	f := start(t, b, nil)
	_, err := f.execute(t, textRequest("a", 1))
	want := []string{"chat.messages", "max_tokens", "sampling.logit_bias[2]", "text", "tokens.ids[3]"}
	if got := refusalOf(t, err); !slices.Equal(sorted(slices.Collect(maps.Keys(got.fields))), want) {
		t.Errorf("%v, want %v", got.fields, want)
	}
}

// Priorities of the API are those of the engine in equal parts; 0 is everybody's.
func TestPriorityClasses(t *testing.T) {
	t.Parallel()
	_, run := captured(t)
	for priority, want := range map[int32]int{
		-100: engine.MinPriority, -76: -4, -75: -3, -51: -3, -50: -2, -26: -2, -25: -1, -1: -1,
		0: 0, 1: 1, 34: 1, 35: 2, 67: 2, 68: 3, 100: engine.MaxPriority,
	} {
		r := textRequest("a", 1)
		r.Priority = ptr(priority)
		if got := run(r).Priority; got != want {
			t.Errorf("%d is %d for the engine, want %d", priority, got, want)
		}
	}
}

func TestNotServedIsNamed(t *testing.T) {
	t.Parallel()
	f, _ := captured(t)
	chat := func(m *kigov1.ChatMessage) func(*kigov1.ExecuteRequest) {
		return func(r *kigov1.ExecuteRequest) {
			m.Role = "assistant"
			r.Prompt = &kigov1.ExecuteRequest_Chat{Chat: &kigov1.Chat{Messages: []*kigov1.ChatMessage{m}}}
		}
	}
	for field, set := range map[string]func(*kigov1.ExecuteRequest){
		"resume_grace": func(r *kigov1.ExecuteRequest) { r.ResumeGrace = durationpb.New(time.Second) },
		"response_format": func(r *kigov1.ExecuteRequest) {
			r.ResponseFormat = &kigov1.ResponseFormat{Format: &kigov1.ResponseFormat_Grammar{Grammar: "root ::= x"}}
		},
		"tools":                      func(r *kigov1.ExecuteRequest) { r.Tools = []*kigov1.Tool{{Name: "f"}} },
		"tool_choice":                func(r *kigov1.ExecuteRequest) { r.ToolChoice = &kigov1.ToolChoice{} },
		"chat.messages.tool_calls":   chat(&kigov1.ChatMessage{ToolCalls: []*kigov1.ToolCall{{Id: "1", Name: "f"}}}),
		"chat.messages.tool_call_id": chat(&kigov1.ChatMessage{ToolCallId: ptr("1")}),
	} {
		r := textRequest("a", 1)
		set(r)
		_, err := f.execute(t, r)
		got := refusalOf(t, err)
		if _, named := got.fields[field]; got.code != codes.Unimplemented || got.reason != "NOT_SERVED" || !named || len(got.fields) != 1 {
			t.Errorf("%s: %+v", field, got)
		}
	}
	// Asking for what is the default anyway is served.
	r := textRequest("a", 1)
	r.ResumeGrace = durationpb.New(0)
	f.mustExecute(t, r)
}

// The other messages are validated, too, by the interceptor.
func TestValidationOfOtherCalls(t *testing.T) {
	t.Parallel()
	f := start(t, newFake(), nil)
	for field, call := range map[string]func(context.Context) error{
		"request_id": func(ctx context.Context) error {
			_, err := f.inference.Cancel(ctx, &kigov1.CancelRequest{RequestId: "../x"})
			return err
		},
		"input": func(ctx context.Context) error {
			_, err := f.inference.Tokenize(ctx, &kigov1.TokenizeRequest{})
			return err
		},
		"name": func(ctx context.Context) error {
			_, err := f.models.Unload(ctx, &kigov1.UnloadRequest{})
			return err
		},
		"path": func(ctx context.Context) error {
			stream, err := f.models.Load(ctx, &kigov1.LoadRequest{})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		},
	} {
		got := refusalOf(t, call(t.Context()))
		if _, named := got.fields[field]; got.code != codes.InvalidArgument || got.reason != "INVALID_REQUEST" || !named {
			t.Errorf("%s: %+v", field, got)
		}
	}
}

// Every field with a default can be told apart from its zero.
func TestProtoDefaultsAreOptional(t *testing.T) {
	t.Parallel()
	for _, m := range []proto.Message{&kigov1.ExecuteRequest{}, &kigov1.Sampling{}, &kigov1.TokenizeRequest{}, &kigov1.DetokenizeRequest{}} {
		fields := m.ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			fd := fields.Get(i)
			if !fd.IsList() && fd.Kind() != protoreflect.MessageKind && !fd.HasPresence() {
				t.Errorf("%s cannot be left unset", fd.FullName())
			}
		}
	}
}

func TestCorrelationID(t *testing.T) {
	t.Parallel()
	f, _ := captured(t)
	r := textRequest("a", 1)
	r.CorrelationId = ptr("My-Request-1")
	if got := f.mustExecute(t, r).started.GetCorrelationId(); got != "My-Request-1" {
		t.Errorf("echoed as %q", got)
	}
	r.CorrelationId = nil
	a, b := f.mustExecute(t, r).started.GetCorrelationId(), f.mustExecute(t, r).started.GetCorrelationId()
	if a == "" || a == b {
		t.Errorf("made %q and %q", a, b)
	}
}

// The access log says how a call ended, and never what was said in it.
func TestAccessLogHasNoPrompt(t *testing.T) {
	t.Parallel()
	const secret = "TOP-SECRET-PROMPT"
	f := start(t, submits(newFake(), func() server.TokenStream { return scripted("SECRET-ANSWER") }), nil)
	ok := textRequest(secret, 4)
	ok.CorrelationId = ptr("corr-7")
	f.mustExecute(t, ok)
	chat := textRequest("", 0)
	chat.Prompt = &kigov1.ExecuteRequest_Chat{Chat: &kigov1.Chat{Messages: []*kigov1.ChatMessage{{Role: secret + secret + secret + secret, Content: secret}}}}
	if _, err := f.execute(t, chat); err == nil {
		t.Error("an invalid request was served")
	}
	if _, err := f.inference.Tokenize(t.Context(), &kigov1.TokenizeRequest{Input: &kigov1.TokenizeRequest_Text{Text: secret}}); err == nil {
		t.Error("a fake has tokenized")
	}
	for _, body := range []string{`{"prompt": "` + secret + `"}`, `{"prompt": "` + secret, `{"prompt": "a", "seed": "` + secret + `"}`} {
		f.post(t, body).Body.Close()
	}
	eventually(t, "the log", func() bool { return strings.Count(f.log.String(), "finished") >= 6 })
	log := f.log.String()
	for _, never := range []string{secret, "SECRET-ANSWER"} {
		if strings.Contains(log, never) {
			t.Errorf("the log has %q", never)
		}
	}
	for _, want := range []string{
		`"grpc.method":"Execute"`, `"grpc.code":"OK"`, `"grpc.code":"InvalidArgument"`, `"correlation_id":"corr-7"`,
		`"generated_tokens":1`, `"stop":"end"`, `"request_id":"0123456789abcdef0123456789abcdef"`,
		`"http.route":"POST /execute"`, `"http.code":400`,
	} {
		if !strings.Contains(log, want) {
			t.Errorf("the log has no %s:\n%s", want, log)
		}
	}
}
