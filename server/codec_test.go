package server_test

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"

	kigov1 "kigo/proto/kigo/v1"
	"kigo/server"
)

// The events of a stream have the bytes that protobuf's own code gives them.
func TestEventsAreEncodedAsProtobuf(t *testing.T) {
	t.Parallel()
	long := make([]int32, 1000)
	for i := range long {
		long[i] = int32(i * i)
	}
	codec := server.NewCodec()
	for _, m := range []*kigov1.Tokens{
		{},
		{Index: 7, Ids: []int32{1, 300, 1 << 30}, Text: "ö\n", Sample: 3},
		{Text: "held back"},
		{Ids: long, Logprobs: []*kigov1.TokenLogprob{{Id: 1, Piece: []byte{0xff}, Logprob: -0.5, Top: []*kigov1.TopLogprob{{Id: 2}}}}},
	} {
		for _, r := range []*kigov1.ExecuteResponse{
			{Event: &kigov1.ExecuteResponse_Tokens{Tokens: m}},
			{Event: &kigov1.ExecuteResponse_End{End: &kigov1.End{StopText: m.GetText(), GeneratedTokens: m.GetIndex()}}},
			{},
		} {
			want, err := proto.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			got, err := codec.Marshal(r)
			if err != nil || !bytes.Equal(got.Materialize(), want) {
				t.Errorf("%v: %x, want %x (%v)", r, got.Materialize(), want, err)
			}
		}
	}
	bad := &kigov1.ExecuteResponse{Event: &kigov1.ExecuteResponse_Tokens{Tokens: &kigov1.Tokens{Text: "\xff"}}}
	if _, err := codec.Marshal(bad); err == nil {
		t.Error("text that is not UTF-8 was encoded")
	}
}
