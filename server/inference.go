package server

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"google.golang.org/grpc"

	"kigo/engine"
	"kigo/engine/chat"
	"kigo/engine/tokenizer"
	kigov1 "kigo/proto/kigo/v1"
)

// inferenceService is kigo.v1.InferenceService.
type inferenceService struct {
	kigov1.UnimplementedInferenceServiceServer
	server *Server
}

// Execute streams the generation.
//
// A send blocks while the client does not read, and nothing but the handler's
// return ends such a send. So the work runs in a goroutine of its own, and the
// handler waits for it or for a send that takes too long.
func (s *inferenceService) Execute(r *kigov1.ExecuteRequest, stream grpc.ServerStreamingServer[kigov1.ExecuteResponse]) error {
	srv, begun := s.server, time.Now()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()

	events := &watchedEvents{stream: stream}
	events.sends.start(srv.cfg.SendTimeout)
	defer events.sends.stop()

	type result struct {
		call call
		err  error
	}
	done := make(chan result, 1)
	srv.work.Go(func() {
		var res result
		res.err = srv.execute(ctx, r, events, &res.call)
		done <- res
	})
	select {
	case res := <-done:
		logging.AddFields(stream.Context(), res.call.fields())
		srv.metrics.observe(&res.call, res.err)
		return res.err
	case <-events.sends.stalled:
		srv.metrics.observe(&call{operation: operationName(r), took: time.Since(begun)}, errStalledClient)
		return errStalledClient
	}
}

// watchedEvents sends over gRPC.
type watchedEvents struct {
	stream grpc.ServerStream
	sends  sendWatch
}

func (e *watchedEvents) send(res *kigov1.ExecuteResponse) error {
	return e.sendMessage(res, time.Now())
}

// sendTokens leaves it to the codec to make a message of the tokens.
func (e *watchedEvents) sendTokens(t *engine.Tokens, now time.Time) error {
	return e.sendMessage(t, now)
}

func (e *watchedEvents) sendMessage(m any, now time.Time) error {
	e.sends.begin(now)
	defer e.sends.end()
	return e.stream.SendMsg(m)
}

// Tokenize turns text into ids.
func (s *inferenceService) Tokenize(_ context.Context, r *kigov1.TokenizeRequest) (*kigov1.TokenizeResponse, error) {
	if fields := chatNotServed(r.GetChat(), "chat"); len(fields) > 0 {
		return nil, &notServedError{fields: fields}
	}
	if wrong := meaningless(r.GetChat() == nil, r.AddSpecial, r.ParseSpecial); wrong != nil {
		return nil, &engine.InvalidError{Violations: wrong}
	}
	name, tok, template, err := s.vocabulary(r.GetModel())
	if err != nil {
		return nil, err
	}
	opt := tokenizer.EncodeOptions{AddSpecial: r.GetAddSpecial(), ParseSpecial: r.GetParseSpecial()}
	var text []byte
	switch in := r.GetInput().(type) {
	case *kigov1.TokenizeRequest_Text:
		text = []byte(in.Text)
	case *kigov1.TokenizeRequest_Raw:
		text = in.Raw
	case *kigov1.TokenizeRequest_Chat:
		messages := chatMessages(in.Chat)
		rendered, err := renderChat(tok, template, messages)
		if err != nil {
			return nil, templateError(err, messages)
		}
		text = []byte(rendered)
		opt = tokenizer.EncodeOptions{ParseSpecial: true}
	}
	res := &kigov1.TokenizeResponse{Model: name, Ids: tok.Encode(text, opt)}
	if r.GetPieces() {
		for _, id := range res.GetIds() {
			res.Pieces = append(res.Pieces, tok.AppendPiece(nil, id, true))
		}
	}
	return res, nil
}

// Detokenize turns ids into text.
func (s *inferenceService) Detokenize(_ context.Context, r *kigov1.DetokenizeRequest) (*kigov1.DetokenizeResponse, error) {
	name, tok, _, err := s.vocabulary(r.GetModel())
	if err != nil {
		return nil, err
	}
	if wrong := outside(r.GetIds(), tok.VocabSize()); wrong != nil {
		return nil, &engine.InvalidError{Violations: wrong}
	}
	raw, err := tok.Decode(r.GetIds(), orDefault(r.Special, true))
	if err != nil {
		return nil, err
	}
	return &kigov1.DetokenizeResponse{Model: name, Text: strings.ToValidUTF8(string(raw), "�"), Raw: raw}, nil
}

// outside names the ids that are not in a vocabulary, the first hundred of them.
func outside(ids []int32, vocabulary int) []engine.Violation {
	var wrong []engine.Violation
	for i, id := range ids {
		if id >= 0 && int(id) < vocabulary {
			continue
		}
		wrong = append(wrong, engine.Violation{
			Field: fmt.Sprintf("ids[%d]", i), Reason: fmt.Sprintf("%d is not in the vocabulary of %d", id, vocabulary),
		})
		if len(wrong) == 100 {
			break
		}
	}
	return wrong
}

// Cancel ends a request of Execute.
func (s *inferenceService) Cancel(_ context.Context, r *kigov1.CancelRequest) (*kigov1.CancelResponse, error) {
	if err := s.server.backend.Cancel(r.GetRequestId()); err != nil {
		return nil, err
	}
	return &kigov1.CancelResponse{}, nil
}

// Resume is not served: no request survives its stream.
func (s *inferenceService) Resume(*kigov1.ResumeRequest, grpc.ServerStreamingServer[kigov1.ResumeResponse]) error {
	return &notServedError{fields: []string{"Resume"}}
}

// Embed is not served: no model here makes embeddings.
func (s *inferenceService) Embed(context.Context, *kigov1.EmbedRequest) (*kigov1.EmbedResponse, error) {
	return nil, &notServedError{fields: []string{"Embed"}}
}

// vocabulary finds a model's tokenizer and the model's own name.
func (s *inferenceService) vocabulary(model string) (string, *tokenizer.Tokenizer, *chat.Template, error) {
	tok, template, err := s.server.backend.Tokenizer(model)
	if err != nil {
		return "", nil, nil, s.server.whyNot(err, model)
	}
	if model == "" {
		if st := s.server.backend.Status(); st.Model != nil {
			model = st.Model.Name
		}
	}
	return model, tok, template, nil
}

// renderChat renders a conversation as Execute does it.
func renderChat(tok *tokenizer.Tokenizer, template *chat.Template, messages []chat.Message) (string, error) {
	if template == nil {
		return "", &engine.InvalidError{Violations: []engine.Violation{
			{Field: "chat", Reason: "the model's file has no chat template"},
		}}
	}
	special := func(id int32, ok bool) string {
		if !ok {
			return ""
		}
		return string(tok.AppendPiece(nil, id, true))
	}
	return template.Render(chat.Input{
		Messages:            messages,
		AddGenerationPrompt: true,
		BOS:                 special(tok.BOS()),
		EOS:                 special(tok.EOS()),
	})
}
