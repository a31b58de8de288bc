package server_test

import (
	"context"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"

	kigov1 "kigo/proto/kigo/v1"
)

// The forms of a prompt lead to the same tokens.
func TestExecutePrompts(t *testing.T) {
	t.Parallel()
	f := startDemo(t)
	const text = "The sea is"
	ids, err := f.inference.Tokenize(t.Context(), &kigov1.TokenizeRequest{
		Input: &kigov1.TokenizeRequest_Text{Text: text}, AddSpecial: ptr(true), Pieces: ptr(true),
	})
	if err != nil {
		t.Fatal(err)
	}
	var joined []byte
	for _, p := range ids.GetPieces() {
		joined = append(joined, p...)
	}
	if string(joined) != text || ids.GetModel() != "demo" || len(ids.GetIds()) == 0 {
		t.Errorf("tokenized as %v", ids)
	}
	byText := f.mustExecute(t, textRequest(text, 3))
	byIDs := textRequest("", 3)
	byIDs.Prompt = &kigov1.ExecuteRequest_Tokens{Tokens: &kigov1.TokenIds{Ids: ids.GetIds()}}
	if a := f.mustExecute(t, byIDs); !slices.Equal(a.ids, byText.ids) || a.started.GetPromptTokens() != byText.started.GetPromptTokens() {
		t.Errorf("as ids %v, as text %v", a.ids, byText.ids)
	}

	chat := &kigov1.Chat{Messages: []*kigov1.ChatMessage{{Role: "user", Content: "Hi"}}}
	rendered, err := f.inference.Tokenize(t.Context(), &kigov1.TokenizeRequest{Input: &kigov1.TokenizeRequest_Chat{Chat: chat}})
	if err != nil {
		t.Fatal(err)
	}
	byChat := textRequest("", 3)
	byChat.Prompt = &kigov1.ExecuteRequest_Chat{Chat: chat}
	a := f.mustExecute(t, byChat)
	if int(a.started.GetPromptTokens()) != len(rendered.GetIds()) || len(rendered.GetIds()) <= len("Hi") {
		t.Errorf("a chat of %d tokens, tokenized as %v", a.started.GetPromptTokens(), rendered.GetIds())
	}
	byIDs.Prompt = &kigov1.ExecuteRequest_Tokens{Tokens: &kigov1.TokenIds{Ids: rendered.GetIds()}}
	if b := f.mustExecute(t, byIDs); !slices.Equal(a.ids, b.ids) {
		t.Errorf("a chat's ids say %v, the chat itself %v", b.ids, a.ids)
	}
}

func TestExecuteReports(t *testing.T) {
	t.Parallel()
	f := startDemo(t)
	r := textRequest("The sea is", 4)
	r.Sampling.IgnoreEnd = ptr(true)
	r.Logprobs = ptr[int32](3)
	r.MetricsInterval = durationpbZero()
	a := f.mustExecute(t, r)
	if len(a.started.GetRequestId()) != 32 || a.started.GetModel() != "demo" {
		t.Errorf("started: %v", a.started)
	}
	if a.end.GetStopReason() != kigov1.StopReason_STOP_REASON_MAX_TOKENS || a.end.StopId != nil || len(a.ids) != 4 ||
		a.end.GetPromptTokens() != a.started.GetPromptTokens() || a.end.GetTimings().GetPrefill().AsDuration() <= 0 {
		t.Errorf("end: %v", a.end)
	}
	reported := 0
	for _, tokens := range a.tokens {
		if len(tokens.GetLogprobs()) != len(tokens.GetIds()) {
			t.Errorf("%d logprobs for %d tokens", len(tokens.GetLogprobs()), len(tokens.GetIds()))
		}
		for i, l := range tokens.GetLogprobs() {
			reported++
			top := l.GetTop()
			if l.GetId() != tokens.GetIds()[i] || len(top) != 3 || top[0].GetId() != l.GetId() || len(l.GetPiece()) == 0 {
				t.Errorf("logprob of a greedy token: %v", l)
			}
			sum := 0.0
			for _, alt := range top {
				sum += math.Exp(float64(alt.GetLogprob()))
			}
			if sum > 1.0001 || !slices.IsSortedFunc(top, func(a, b *kigov1.TopLogprob) int {
				return int(math.Copysign(1, float64(b.GetLogprob()-a.GetLogprob())))
			}) {
				t.Errorf("alternatives of %v in all: %v", sum, top)
			}
		}
	}
	if reported != 4 || len(a.metrics) == 0 || a.metrics[len(a.metrics)-1].GetGeneratedTokens() != 4 {
		t.Errorf("%d logprobs, metrics %v", reported, a.metrics)
	}
}

// Requests of several clients are answered as if each were alone, and none
// gets another's tokens.
func TestExecuteSeveralAtOnce(t *testing.T) {
	t.Parallel()
	f := startDemo(t)
	prompts := []string{"The sea is", "Once upon", "def main", "1 2 3 4"}
	alone := make([]*answer, len(prompts))
	for i, p := range prompts {
		alone[i] = f.mustExecute(t, textRequest(p, 4))
	}
	var all sync.WaitGroup
	for i, p := range prompts {
		all.Go(func() {
			a, err := f.execute(t, textRequest(p, 4))
			if err != nil || a.text != alone[i].text || !slices.Equal(a.ids, alone[i].ids) {
				t.Errorf("%q: %+v, %v; alone %+v", p, a, err, alone[i])
			}
		})
	}
	all.Wait()
}

// What the model decides about a request is told with the field's name.
func TestExecuteRefusedByTheModel(t *testing.T) {
	t.Parallel()
	f := startDemo(t)
	tokens := func(ids ...int32) *kigov1.ExecuteRequest {
		r := textRequest("", 1)
		r.Prompt = &kigov1.ExecuteRequest_Tokens{Tokens: &kigov1.TokenIds{Ids: ids}}
		return r
	}
	for field, r := range map[string]*kigov1.ExecuteRequest{
		"tokens.ids[1]": tokens(1, 1<<30),
		"max_tokens":    textRequest("a", 1<<30),
		"stop_ids[0]":   func() *kigov1.ExecuteRequest { r := textRequest("a", 1); r.StopIds = []int32{1 << 30}; return r }(),
		"sampling.logit_bias[0].token": func() *kigov1.ExecuteRequest {
			r := textRequest("a", 1)
			r.Sampling.LogitBias = []*kigov1.LogitBias{{Token: 1 << 30, Value: 1}}
			return r
		}(),
	} {
		_, err := f.execute(t, r)
		got := refusalOf(t, err)
		if _, named := got.fields[field]; got.code != codes.InvalidArgument || !named {
			t.Errorf("%s: %+v", field, got)
		}
	}
	r := textRequest("a", 1)
	r.Model = ptr("another")
	if _, err := f.execute(t, r); refusalOf(t, err).reason != "MODEL_NOT_FOUND" {
		t.Errorf("a model that is not loaded: %v", err)
	}
}

func TestTokenizeRoundTrip(t *testing.T) {
	t.Parallel()
	f := startDemo(t)
	for _, text := range []string{"", "a", "Grüße, 世界! 🙂\n\t  end", "<|im_start|>user\x00", "\x80 broken \xc3"} {
		ids, err := f.inference.Tokenize(t.Context(), &kigov1.TokenizeRequest{Input: &kigov1.TokenizeRequest_Raw{Raw: []byte(text)}})
		if err != nil {
			t.Fatal(err)
		}
		back, err := f.inference.Detokenize(t.Context(), &kigov1.DetokenizeRequest{Ids: ids.GetIds()})
		if err != nil || string(back.GetRaw()) != text || back.GetText() != strings.ToValidUTF8(text, "�") {
			t.Errorf("%q became %v and %q, %v", text, ids.GetIds(), back.GetRaw(), err)
		}
	}
	special, err := f.inference.Tokenize(t.Context(), &kigov1.TokenizeRequest{
		Input: &kigov1.TokenizeRequest_Text{Text: "<|im_start|>"}, ParseSpecial: ptr(true),
	})
	if err != nil || len(special.GetIds()) != 1 {
		t.Fatalf("a special token: %v, %v", special, err)
	}
	hidden, err := f.inference.Detokenize(t.Context(), &kigov1.DetokenizeRequest{Ids: special.GetIds(), Special: ptr(false)})
	if err != nil || hidden.GetText() != "" {
		t.Errorf("a special token left away: %v, %v", hidden, err)
	}
	_, err = f.inference.Detokenize(t.Context(), &kigov1.DetokenizeRequest{Ids: []int32{1 << 30}})
	if r := refusalOf(t, err); r.code != codes.InvalidArgument || r.fields["ids[0]"] == "" {
		t.Errorf("an id beyond the vocabulary: %+v", r)
	}
}

// A shutdown under load finishes or fails every stream, each exactly once.
func TestDrainUnderLoad(t *testing.T) {
	t.Parallel()
	f := startDemo(t)
	var all sync.WaitGroup
	started := make(chan struct{}, 6)
	for range 6 {
		all.Go(func() {
			r := textRequest("Once upon a time", 4)
			r.Sampling.IgnoreEnd = ptr(true)
			stream, err := f.inference.Execute(context.Background(), r)
			if err != nil {
				t.Error(err)
				started <- struct{}{}
				return
			}
			a := &answer{}
			for first := true; ; first = false {
				res, err := stream.Recv()
				if first {
					started <- struct{}{}
				}
				if errors.Is(err, io.EOF) {
					if a.end == nil {
						t.Error("a stream without a status")
					}
					return
				}
				if err != nil {
					if r := refusalOf(t, err); a.end != nil || r.code != codes.Unavailable || r.reason != "SHUTTING_DOWN" {
						t.Errorf("a stream ended with %v %s after %v", r.code, r.reason, a.end)
					}
					return
				}
				a.add(t, res)
			}
		})
	}
	<-started // one has begun, the others are anywhere
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := f.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-f.served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	all.Wait()
	if st := f.engine.Status(); st.Running != 0 || st.Waiting != 0 {
		t.Errorf("left behind: %d running, %d waiting", st.Running, st.Waiting)
	}
}
