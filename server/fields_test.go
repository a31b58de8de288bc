package server_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"kigo/engine/gguf"
	"kigo/engine/tokenizer"
	kigov1 "kigo/proto/kigo/v1"
	"kigo/server"
)

// Each field of each message changes what is answered: none is accepted and
// ignored. Those of ExecuteRequest have tests of their own, on their way to the
// engine and in it; Resume and Embed are not served, whatever they ask for.
func TestLesson_EveryFieldOfEveryCallMatters(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeFile(t, dir, "a.gguf", string(changedModel(t, map[string]gguf.Value{"tokenizer.ggml.add_bos_token": gguf.ValueOf(true)}, nil, nil)))
	writeFile(t, dir, "b.gguf", string(changedModel(t, nil, nil, nil)))
	f := start(t, nil, newEngine(t), func(c *server.Config) { c.ModelDir = dir })

	say := func(m proto.Message, err error) string {
		if err != nil {
			r := refusalOf(t, err)
			return fmt.Sprint(r.code, r.reason, r.fields)
		}
		return protojson.Format(m)
	}
	tokenize := func(r *kigov1.TokenizeRequest) string {
		m, err := f.inference.Tokenize(t.Context(), r)
		return say(m, err)
	}
	detokenize := func(r *kigov1.DetokenizeRequest) string {
		m, err := f.inference.Detokenize(t.Context(), r)
		return say(m, err)
	}
	// What a load leads to, without the times; before each the server is empty.
	load := func(r *kigov1.LoadRequest) string {
		for _, m := range f.engine.Models() {
			if _, err := f.models.Unload(t.Context(), &kigov1.UnloadRequest{Name: m.Name}); err != nil {
				t.Fatal(err)
			}
		}
		said := ""
		for range 2 { // the second one finds the first
			_, m, err := f.load(t, r)
			if m != nil {
				m.Load, m.LoadedAt = nil, nil
			}
			said += say(m, err)
		}
		tok, _, err := f.engine.Tokenizer("")
		if err != nil {
			return said
		}
		return said + fmt.Sprint(tok.Encode([]byte("a"), tokenizerAll))
	}

	known := map[string]bool{}
	differ := func(field, with, without string) {
		t.Helper()
		known[field] = true
		if with == without {
			t.Errorf("%s is ignored: %s", field, with)
		}
	}
	plainLoad := load(&kigov1.LoadRequest{Path: "a.gguf"})
	differ("LoadRequest.path", load(&kigov1.LoadRequest{Path: "b.gguf", Name: ptr("a")}), plainLoad)
	differ("LoadRequest.name", load(&kigov1.LoadRequest{Path: "a.gguf", Name: ptr("x")}), plainLoad)
	differ("LoadRequest.replace", load(&kigov1.LoadRequest{Path: "a.gguf", Replace: ptr(true)}), plainLoad)

	load(&kigov1.LoadRequest{Path: "a.gguf"})
	text := func(s string) *kigov1.TokenizeRequest {
		return &kigov1.TokenizeRequest{Input: &kigov1.TokenizeRequest_Text{Text: s}}
	}
	chat := func(role, content string) *kigov1.TokenizeRequest {
		return &kigov1.TokenizeRequest{Input: &kigov1.TokenizeRequest_Chat{Chat: &kigov1.Chat{Messages: []*kigov1.ChatMessage{{Role: role, Content: content}}}}}
	}
	raw := func(s string) *kigov1.TokenizeRequest {
		return &kigov1.TokenizeRequest{Input: &kigov1.TokenizeRequest_Raw{Raw: []byte(s)}}
	}
	const words = "a<|im_end|>"
	plain := tokenize(text(words))
	with := func(set func(*kigov1.TokenizeRequest)) string { r := text(words); set(r); return tokenize(r) }
	differ("TokenizeRequest.model", with(func(r *kigov1.TokenizeRequest) { r.Model = ptr("other") }), plain)
	differ("TokenizeRequest.text", tokenize(text("b")), plain)
	differ("TokenizeRequest.raw", tokenize(raw("\xff")), tokenize(raw("\xfe")))
	differ("TokenizeRequest.chat", tokenize(chat("user", words)), plain)
	differ("ChatMessage.role", tokenize(chat("system", words)), tokenize(chat("user", words)))
	differ("ChatMessage.content", tokenize(chat("user", "b")), tokenize(chat("user", words)))
	differ("TokenizeRequest.add_special", with(func(r *kigov1.TokenizeRequest) { r.AddSpecial = ptr(true) }), plain)
	differ("TokenizeRequest.parse_special", with(func(r *kigov1.TokenizeRequest) { r.ParseSpecial = ptr(true) }), plain)
	differ("TokenizeRequest.pieces", with(func(r *kigov1.TokenizeRequest) { r.Pieces = ptr(true) }), plain)
	for _, set := range []func(*kigov1.TokenizeRequest){
		func(r *kigov1.TokenizeRequest) { r.AddSpecial = ptr(true) },
		func(r *kigov1.TokenizeRequest) { r.ParseSpecial = ptr(true) },
	} {
		r := chat("user", words)
		set(r)
		differ("TokenizeRequest.chat", tokenize(r), tokenize(chat("user", words)))
	}

	ids := &kigov1.DetokenizeRequest{Ids: []int32{2, 100}}
	differ("DetokenizeRequest.ids", detokenize(&kigov1.DetokenizeRequest{Ids: []int32{2, 101}}), detokenize(ids))
	differ("DetokenizeRequest.special", detokenize(&kigov1.DetokenizeRequest{Ids: ids.GetIds(), Special: ptr(false)}), detokenize(ids))
	differ("DetokenizeRequest.model", detokenize(&kigov1.DetokenizeRequest{Ids: ids.GetIds(), Model: ptr("other")}), detokenize(ids))

	get := func(name *string) string {
		m, err := f.models.Get(t.Context(), &kigov1.GetRequest{Name: name})
		return say(m, err)
	}
	differ("GetRequest.name", get(ptr("other")), get(nil))
	unload := func(name string) string {
		m, err := f.models.Unload(t.Context(), &kigov1.UnloadRequest{Name: name})
		return say(m, err)
	}
	differ("UnloadRequest.name", unload("other"), unload("a"))

	load(&kigov1.LoadRequest{Path: "a.gguf"})
	executeFields(t, f, differ)
	cancelFields(t, startSmall(t), differ, say)
	checkAllFieldsKnown(t, known)
}

// executeFields looks at what the edge itself does with an ExecuteRequest.
func executeFields(t *testing.T, f *fixture, differ func(field, with, without string)) {
	t.Helper()
	reported := func(set func(*kigov1.ExecuteRequest)) string {
		r := textRequest("a", 3)
		r.Sampling.IgnoreEnd = ptr(true)
		set(r)
		a := f.mustExecute(t, r)
		return fmt.Sprint(len(a.metrics), a.started.GetCorrelationId() == "corr")
	}
	every := func(r *kigov1.ExecuteRequest) { r.MetricsInterval = durationpb.New(0) }
	differ("ExecuteRequest.metrics_interval", reported(every), reported(func(*kigov1.ExecuteRequest) {}))
	differ("ExecuteRequest.metrics_interval", reported(func(r *kigov1.ExecuteRequest) { r.MetricsInterval = durationpb.New(time.Hour) }), reported(every))
	differ("ExecuteRequest.correlation_id", reported(func(r *kigov1.ExecuteRequest) { r.CorrelationId = ptr("corr") }), reported(func(*kigov1.ExecuteRequest) {}))
}

// cancelFields cancels a request that is too long to end before.
func cancelFields(t *testing.T, f *fixture, differ func(field, with, without string), say func(proto.Message, error) string) {
	t.Helper()
	endless := textRequest("a", 1900) // of a context of 2,048, or of more; no client holds so much unread
	endless.Logprobs = ptr[int32](20)
	endless.Sampling.IgnoreEnd = ptr(true)
	stream, err := f.inference.Execute(t.Context(), endless)
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	cancel := func(id string) string {
		m, err := f.inference.Cancel(t.Context(), &kigov1.CancelRequest{RequestId: id})
		return say(m, err)
	}
	differ("CancelRequest.request_id", cancel("0123456789abcdef0123456789abcdef"), cancel(first.GetStarted().GetRequestId()))
}

// checkAllFieldsKnown finds the fields of requests that have no test.
func checkAllFieldsKnown(t *testing.T, known map[string]bool) {
	t.Helper()
	elsewhere := map[string]bool{
		"ExecuteRequest": true,                       // TestLesson_EveryFieldReachesTheEngine, TestNotServedIsNamed
		"ResumeRequest":  true, "EmbedRequest": true, // not served
	}
	for _, file := range []protoreflect.FileDescriptor{kigov1.File_kigo_v1_inference_proto, kigov1.File_kigo_v1_model_proto, kigov1.File_kigo_v1_health_proto} {
		for s := range file.Services().Len() {
			methods := file.Services().Get(s).Methods()
			for i := range methods.Len() {
				input := methods.Get(i).Input()
				for n := range input.Fields().Len() {
					field := string(input.Name()) + "." + string(input.Fields().Get(n).Name())
					if !known[field] && !elsewhere[string(input.Name())] {
						t.Errorf("%s has no test", field)
					}
				}
			}
		}
	}
}

// Embed and Resume are refused by name, whatever they ask for.
func TestCallsThatAreNotServed(t *testing.T) {
	t.Parallel()
	f := start(t, newFake(), nil)
	for name, call := range map[string]func(context.Context) error{
		"Embed": func(ctx context.Context) error {
			_, err := f.inference.Embed(ctx, &kigov1.EmbedRequest{Inputs: []*kigov1.EmbedInput{{Input: &kigov1.EmbedInput_Text{Text: "a"}}}})
			return err
		},
		"Resume": func(ctx context.Context) error {
			stream, err := f.inference.Resume(ctx, &kigov1.ResumeRequest{RequestId: "0123456789abcdef0123456789abcdef"})
			return firstError[kigov1.ResumeResponse](stream, err)
		},
	} {
		got := refusalOf(t, call(t.Context()))
		if _, named := got.fields[name]; got.reason != "NOT_SERVED" || !named {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func firstError[T any](stream grpc.ServerStreamingClient[T], err error) error {
	if err == nil {
		_, err = stream.Recv()
	}
	return err
}

// tokenizerAll adds and recognises special tokens.
var tokenizerAll = tokenizer.EncodeOptions{AddSpecial: true, ParseSpecial: true}
