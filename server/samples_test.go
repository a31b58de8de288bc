package server_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"kigo/engine"
	kigov1 "kigo/proto/kigo/v1"
)

// several are the answers of one stream: of each the tokens as one event.
type several struct {
	started *kigov1.Started
	each    []*kigov1.Tokens
	counted int32 // by the latest metrics event
	end     *kigov1.End
}

// receiveSeveral reads a stream of n answers to its end.
func receiveSeveral(t *testing.T, stream grpc.ServerStreamingClient[kigov1.ExecuteResponse], n int) (*several, error) {
	t.Helper()
	s := &several{each: make([]*kigov1.Tokens, n)}
	for i := range s.each {
		s.each[i] = &kigov1.Tokens{Sample: int32(i)}
	}
	for {
		res, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return s, nil
		case err != nil:
			return s, err
		case res.GetTokens() != nil:
			s.add(t, res.GetTokens())
		case res.GetStarted() != nil:
			s.started = res.GetStarted()
		case res.GetMetrics() != nil:
			s.counted = res.GetMetrics().GetGeneratedTokens()
		default:
			s.end = res.GetEnd()
		}
	}
}

func (s *several) add(t *testing.T, e *kigov1.Tokens) {
	t.Helper()
	one := s.each[e.GetSample()]
	if s.end != nil || len(e.GetIds()) > 0 && int(e.GetIndex()) != len(one.GetIds()) {
		t.Errorf("after the end, or a gap: %v after %v", e, one)
	}
	one.Ids = append(one.Ids, e.GetIds()...)
	one.Text += e.GetText()
	one.Logprobs = append(one.Logprobs, e.GetLogprobs()...)
}

// n answers come in one stream, each with its number and its own end; they are those
// of single requests with the seeds that follow, over gRPC and HTTP alike.
func TestSeveralAnswers(t *testing.T) {
	t.Parallel()
	f := startDemo(t)
	const n = 4
	request := func() *kigov1.ExecuteRequest {
		r := textRequest("The capital of France is", 6)
		r.Sampling = &kigov1.Sampling{Temperature: ptr[float32](2), Seed: ptr[uint64](40)}
		r.Logprobs = ptr[int32](1)
		return r
	}
	r := request()
	r.N, r.PromptLogprobs, r.MetricsInterval = ptr[int32](n), ptr[int32](1), durationpb.New(0)
	stream, err := f.inference.Execute(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := receiveSeveral(t, stream, n)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.started.GetPromptLogprobs()) != int(got.started.GetPromptTokens())-1 || got.started.GetSeed() != 40 || len(got.end.GetSamples()) != n {
		t.Fatalf("%v %v", got.started, got.end)
	}
	total := int32(0)
	for i, end := range got.end.GetSamples() {
		total += end.GetGeneratedTokens()
		one := request()
		one.Sampling.Seed = ptr(40 + uint64(i))
		want := f.mustExecute(t, one)
		have := got.each[i]
		if !slices.Equal(have.GetIds(), want.ids) || have.GetText() != want.text || len(have.GetLogprobs()) != len(want.ids) {
			t.Errorf("answer %d: %v, alone %v", i, have, want.ids)
		}
		if end.GetStopReason() != want.end.GetStopReason() || end.GetGeneratedTokens() != want.end.GetGeneratedTokens() || end.GetTimings() == nil {
			t.Errorf("answer %d ends %v, alone %v", i, end, want.end)
		}
	}
	if got.counted != total || got.end.GetGeneratedTokens() != got.end.GetSamples()[0].GetGeneratedTokens() || len(f.mustExecute(t, request()).end.GetSamples()) != 0 {
		t.Errorf("%d tokens, metrics count %d: %v", total, got.counted, got.end)
	}

	res, err := http.Post(f.http+"/execute", "application/json",
		strings.NewReader(`{"prompt": "The capital of France is", "max_tokens": 6, "temperature": 2, "seed": 40, "n": 4}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	texts := make([]string, n)
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		var e struct {
			Sample int
			Text   string
		}
		if ok {
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				t.Fatal(err)
			}
			texts[e.Sample] += e.Text
		}
	}
	for i, text := range texts {
		if text != got.each[i].GetText() {
			t.Errorf("answer %d over HTTP: %q, over gRPC %q", i, text, got.each[i].GetText())
		}
	}
}

// Cancel ends all answers of a request, and an error counts the tokens of all.
func TestSeveralAnswersEndTogether(t *testing.T) {
	t.Parallel()
	f := startDemo(t)
	r := textRequest("a", 1900)
	r.Sampling.IgnoreEnd, r.N, r.Logprobs = ptr(true), ptr[int32](3), ptr[int32](20)
	begin := func() (grpc.ServerStreamingClient[kigov1.ExecuteResponse], string) {
		stream, err := f.inference.Execute(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		first, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return stream, first.GetStarted().GetRequestId()
	}
	stream, id := begin()
	if _, err := f.inference.Cancel(t.Context(), &kigov1.CancelRequest{RequestId: id}); err != nil {
		t.Fatal(err)
	}
	got, err := receiveSeveral(t, stream, 3)
	if err != nil {
		t.Fatal(err)
	}
	for i, end := range got.end.GetSamples() {
		if end.GetStopReason() != kigov1.StopReason_STOP_REASON_CANCELLED || int(end.GetGeneratedTokens()) != len(got.each[i].GetIds()) {
			t.Errorf("answer %d of %d tokens: %v", i, len(got.each[i].GetIds()), end)
		}
	}
	stream, _ = begin()
	if _, err := f.models.Unload(t.Context(), &kigov1.UnloadRequest{Name: "demo"}); err != nil {
		t.Fatal(err)
	}
	got, err = receiveSeveral(t, stream, 3)
	tokens := 0
	for _, one := range got.each {
		tokens += len(one.GetIds())
	}
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetMetadata()["generated_tokens"] != strconv.Itoa(tokens) {
			t.Errorf("%d tokens, the error counts %v", tokens, info.GetMetadata())
		}
	}
	if refusalOf(t, err).reason == "" {
		t.Errorf("%v has no reason", err)
	}
}

// More answers than the server has places for are wrong, not busy.
func TestMoreAnswersThanPlaces(t *testing.T) {
	t.Parallel()
	e := newEngine(t, func(c *engine.Config) { c.MaxConcurrent, c.MaxQueue = 2, 1 })
	loadFile(t, e, smallModel(t))
	f := start(t, nil, e)
	r := textRequest("a", 2)
	r.N = ptr[int32](4)
	_, err := f.execute(t, r)
	if got := refusalOf(t, err); got.code != codes.InvalidArgument || got.fields["n"] != "must be from 1 to 3, is 4" {
		t.Errorf("%+v", got)
	}
}
