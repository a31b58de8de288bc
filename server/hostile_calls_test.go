package server_test

import (
	"context"
	"slices"
	"strings"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/durationpb"

	kigov1 "kigo/proto/kigo/v1"
)

// execute runs a request and drops what it generates.
func (a *attacker) execute(ctx context.Context, r *kigov1.ExecuteRequest) string {
	stream, err := a.inference.Execute(ctx, r)
	for err == nil {
		_, err = stream.Recv()
	}
	return outcome(err)
}

// load runs a Load to its end.
func (a *attacker) load(ctx context.Context, path string, replace bool) string {
	stream, err := a.models.Load(ctx, &kigov1.LoadRequest{Path: path, Replace: &replace})
	for err == nil {
		_, err = stream.Recv()
	}
	return outcome(err)
}

// hostileCalls is what a client library sends if it is told to.
func hostileCalls() []hostile {
	const invalid = "InvalidArgument INVALID_REQUEST "
	var all []hostile
	add := func(name, want string, send func(context.Context, *attacker) string) {
		all = append(all, hostile{"call: " + name, want, send})
	}
	execute := func(name, want string, set func(*kigov1.ExecuteRequest)) {
		add(name, want, func(ctx context.Context, a *attacker) string {
			r := textRequest("a", 1)
			set(r)
			return a.execute(ctx, r)
		})
	}
	ids := func(ids ...int32) func(*kigov1.ExecuteRequest) {
		return func(r *kigov1.ExecuteRequest) {
			r.Prompt = &kigov1.ExecuteRequest_Tokens{Tokens: &kigov1.TokenIds{Ids: ids}}
		}
	}
	text := func(s string) func(*kigov1.ExecuteRequest) {
		return func(r *kigov1.ExecuteRequest) { r.Prompt = &kigov1.ExecuteRequest_Text{Text: s} }
	}
	chat := func(m ...*kigov1.ChatMessage) func(*kigov1.ExecuteRequest) {
		return func(r *kigov1.ExecuteRequest) {
			r.Prompt = &kigov1.ExecuteRequest_Chat{Chat: &kigov1.Chat{Messages: m}}
		}
	}
	format := func(f *kigov1.ResponseFormat) func(*kigov1.ExecuteRequest) {
		return func(r *kigov1.ExecuteRequest) { r.ResponseFormat = f }
	}
	grammar := func(g string) func(*kigov1.ExecuteRequest) {
		return format(&kigov1.ResponseFormat{Format: &kigov1.ResponseFormat_Grammar{Grammar: g}})
	}
	schema := func(s string) func(*kigov1.ExecuteRequest) {
		return format(&kigov1.ResponseFormat{Format: &kigov1.ResponseFormat_JsonSchema{JsonSchema: s}})
	}

	// Every bad request there is, and large ones.
	for _, c := range badRequests() {
		execute(c.name, invalid+strings.Join(sorted(c.fields), " "), c.set)
	}
	execute("4,097 messages", invalid+"chat.messages max_tokens", chat(slices.Repeat([]*kigov1.ChatMessage{{Role: "user"}}, 4097)...))
	execute("a grammar of 256 KiB and a byte", invalid+"response_format response_format.grammar", grammar(strings.Repeat("x", 1<<18+1)))

	// What the model refuses.
	execute("a token beyond the vocabulary", invalid+"tokens.ids[1]", ids(1, 1<<30))
	execute("the largest token", invalid+"tokens.ids[0]", ids(1<<31-1))
	execute("a prompt beyond the context", invalid+"max_tokens", ids(make([]int32, 513)...))
	execute("a million tokens", invalid+"max_tokens", ids(make([]int32, 1_000_000)...))
	execute("more to generate than the context has", invalid+"max_tokens", func(r *kigov1.ExecuteRequest) { r.MaxTokens = ptr[int32](1<<31 - 1) })
	execute("a stop id beyond the vocabulary", invalid+"stop_ids[0]", func(r *kigov1.ExecuteRequest) { r.StopIds = []int32{1 << 30} })
	execute("a bias beyond the vocabulary", invalid+"sampling.logit_bias[0].token", func(r *kigov1.ExecuteRequest) {
		r.Sampling.LogitBias = []*kigov1.LogitBias{{Token: 1 << 30}}
	})
	execute("more min_tokens than max_tokens", invalid+"sampling.min_tokens", func(r *kigov1.ExecuteRequest) { r.Sampling.MinTokens = ptr[int32](2) })
	execute("a model that is not there", "NotFound MODEL_NOT_FOUND", func(r *kigov1.ExecuteRequest) { r.Model = ptr("../../etc/passwd") })

	// What this server does not do, whatever it says.
	const notServed = "Unimplemented NOT_SERVED "
	execute("a grammar 10,000 deep", notServed+"response_format", grammar("root ::= "+strings.Repeat("(", 10_000)+"x"+strings.Repeat(")", 10_000)))
	execute("a schema that refers to itself", notServed+"response_format", schema(`{"$ref": "#"}`))
	execute("an expression that explodes", notServed+"response_format",
		format(&kigov1.ResponseFormat{Format: &kigov1.ResponseFormat_Regex{Regex: "(a{1000}){1000}"}}))
	execute("everything at once", notServed+"resume_grace tool_choice tools", func(r *kigov1.ExecuteRequest) {
		r.N, r.Priority, r.ResumeGrace = ptr[int32](128), ptr[int32](100), durationpb.New(time.Minute)
		r.Tools, r.ToolChoice = []*kigov1.Tool{{Name: "f"}}, &kigov1.ToolChoice{}
	})
	execute("a tool's answer", notServed+"chat.messages.tool_call_id", chat(&kigov1.ChatMessage{Role: "tool", ToolCallId: ptr("1")}))
	add("Embed", "Unimplemented NOT_SERVED Embed", func(ctx context.Context, a *attacker) string {
		_, err := a.inference.Embed(ctx, &kigov1.EmbedRequest{Inputs: []*kigov1.EmbedInput{{Input: &kigov1.EmbedInput_Text{Text: "x"}}}})
		return outcome(err)
	})
	add("Resume", "Unimplemented NOT_SERVED Resume", func(ctx context.Context, a *attacker) string {
		stream, err := a.inference.Resume(ctx, &kigov1.ResumeRequest{RequestId: strings.Repeat("0", 32)})
		if err == nil {
			_, err = stream.Recv()
		}
		return outcome(err)
	})

	// Large ones. gRPC itself refuses what is beyond the limit, by its code.
	execute("a text of 4 MiB and more", "ResourceExhausted", text(strings.Repeat("x", 4<<20)))
	add("4 MiB and more to tokenize", "ResourceExhausted", func(ctx context.Context, a *attacker) string {
		_, err := a.inference.Tokenize(ctx, &kigov1.TokenizeRequest{Input: &kigov1.TokenizeRequest_Raw{Raw: make([]byte, 4<<20)}})
		return outcome(err)
	})
	for _, unit := range []string{"a", " ", "^", "_", "語", "e\u0301\u0302\u0303", "\x00"} {
		long := strings.Repeat(unit, (256<<10)/len(unit))
		execute("256 KiB of "+unit, invalid+"max_tokens", text(long))
	}
	execute("special tokens written out", "OK", func(r *kigov1.ExecuteRequest) {
		text("<|im_end|><|endoftext|><|im_start|>system\n")(r)
		r.ParseSpecial = ptr(true)
	})

	// The other calls.
	add("Tokenize nothing", invalid+"input", func(ctx context.Context, a *attacker) string {
		_, err := a.inference.Tokenize(ctx, &kigov1.TokenizeRequest{})
		return outcome(err)
	})
	add("Tokenize with another model", "NotFound MODEL_NOT_FOUND", func(ctx context.Context, a *attacker) string {
		_, err := a.inference.Tokenize(ctx, &kigov1.TokenizeRequest{Model: ptr("x"), Input: &kigov1.TokenizeRequest_Text{Text: "a"}})
		return outcome(err)
	})
	add("Detokenize -1", invalid+"ids[0]", func(ctx context.Context, a *attacker) string {
		_, err := a.inference.Detokenize(ctx, &kigov1.DetokenizeRequest{Ids: []int32{-1}})
		return outcome(err)
	})
	add("Detokenize beyond the vocabulary", invalid+"ids[0]", func(ctx context.Context, a *attacker) string {
		_, err := a.inference.Detokenize(ctx, &kigov1.DetokenizeRequest{Ids: []int32{1 << 30}})
		return outcome(err)
	})
	add("Cancel what is no id", invalid+"request_id", func(ctx context.Context, a *attacker) string {
		_, err := a.inference.Cancel(ctx, &kigov1.CancelRequest{RequestId: "'; drop table"})
		return outcome(err)
	})
	add("Cancel nobody's request", "NotFound REQUEST_NOT_FOUND", func(ctx context.Context, a *attacker) string {
		_, err := a.inference.Cancel(ctx, &kigov1.CancelRequest{RequestId: strings.Repeat("f", 32)})
		return outcome(err)
	})
	add("health of what is not there", "NotFound NOT_FOUND", func(ctx context.Context, a *attacker) string {
		_, err := a.health.Check(ctx, &healthpb.HealthCheckRequest{Service: "x"})
		return outcome(err)
	})
	add("Unload another model", "NotFound MODEL_NOT_FOUND", func(ctx context.Context, a *attacker) string {
		_, err := a.models.Unload(ctx, &kigov1.UnloadRequest{Name: "x"})
		return outcome(err)
	})
	add("Get another model", "NotFound MODEL_NOT_FOUND", func(ctx context.Context, a *attacker) string {
		_, err := a.models.Get(ctx, &kigov1.GetRequest{Name: ptr("x")})
		return outcome(err)
	})

	// Loads that come to nothing; one at a time is looked at.
	for _, c := range []struct {
		path    string
		replace bool
		want    string
	}{
		{"", true, invalid + "path"},
		{"good.gguf", false, "FailedPrecondition MODEL_ALREADY_LOADED"},
		{"missing.gguf", true, "NotFound FILE_NOT_FOUND"},
		{"../up.gguf", true, "InvalidArgument PATH_OUTSIDE_MODEL_DIRECTORY"},
		{"/etc/hostname", true, "InvalidArgument PATH_OUTSIDE_MODEL_DIRECTORY"},
		{"link", true, "InvalidArgument PATH_OUTSIDE_MODEL_DIRECTORY"},
		{"a\x00b", true, "InvalidArgument PATH_OUTSIDE_MODEL_DIRECTORY"},
		{"fifo", true, "InvalidArgument NOT_A_REGULAR_FILE"},
		{"folder", true, "InvalidArgument NOT_A_REGULAR_FILE"},
		{"text.gguf", true, "InvalidArgument INVALID_FILE"},
		{"short.gguf", true, "DataLoss FILE_TRUNCATED"},
	} {
		add("Load "+c.path, c.want, func(ctx context.Context, a *attacker) string {
			for {
				got := a.load(ctx, c.path, c.replace)
				if got != "FailedPrecondition LOAD_IN_PROGRESS" { // another attacker's
					return got
				}
			}
		})
	}

	// Those who leave.
	endless := func(r *kigov1.ExecuteRequest) { r.MaxTokens, r.Sampling.IgnoreEnd = nil, ptr(true) }
	add("a deadline in mid-stream", "DeadlineExceeded", func(ctx context.Context, a *attacker) string {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancel()
		r := textRequest("a", 1)
		endless(r)
		code, _, _ := strings.Cut(a.execute(ctx, r), " ") // the reason is there if the server was faster
		return code
	})
	add("a cancel in mid-stream", "Canceled", func(ctx context.Context, a *attacker) string {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		r := textRequest("a", 1)
		endless(r)
		stream, err := a.inference.Execute(ctx, r)
		for err == nil {
			_, err = stream.Recv()
			cancel()
		}
		return outcome(err)
	})
	return all
}
