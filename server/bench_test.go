package server

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"buf.build/go/protovalidate"

	kigov1 "kigo/proto/kigo/v1"
)

// BenchmarkRefuse is what a message of 4 MiB costs of which every part is wrong.
func BenchmarkRefuse(b *testing.B) {
	v, err := protovalidate.New()
	if err != nil {
		b.Fatal(err)
	}
	for name, one := range map[string]func(r *kigov1.ExecuteRequest){
		"messages": func(r *kigov1.ExecuteRequest) {
			chat := r.GetChat()
			if chat == nil {
				chat = &kigov1.Chat{}
				r.Prompt = &kigov1.ExecuteRequest_Chat{Chat: chat}
			}
			chat.Messages = append(chat.Messages, &kigov1.ChatMessage{})
		},
		"stop": func(r *kigov1.ExecuteRequest) { r.Stop = append(r.Stop, "") },
		"biases": func(r *kigov1.ExecuteRequest) {
			r.Sampling.LogitBias = append(r.Sampling.LogitBias, &kigov1.LogitBias{})
		},
		"tools": func(r *kigov1.ExecuteRequest) { r.Tools = append(r.Tools, &kigov1.Tool{}) },
	} {
		r := &kigov1.ExecuteRequest{
			Prompt:   &kigov1.ExecuteRequest_Tokens{Tokens: &kigov1.TokenIds{}},
			Sampling: &kigov1.Sampling{},
		}
		for n := 1; proto.Size(r) < 4<<20; n *= 2 {
			for range n {
				one(r)
			}
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := validateMessage(v, r); err == nil || failureOf(err).reason != "INVALID_REQUEST" {
					b.Fatal(err)
				}
			}
		})
	}
}
